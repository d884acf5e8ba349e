//! Reads CDR bytes that somebody else wrote.
//!
//! Plain CDR (XCDR1) as ROS 2 sends it, hardened: every length is compared with the bytes that are left, divided by
//! the least an element can take, before anything is allocated; every error says which field, at which byte, what was
//! expected and what was found. What real writers do is accepted: garbage in the padding, bytes after the end, strings
//! of length 0 and strings without NUL, a `bool` of 2, big-endian.
//!
//! ```text
//! payload   00 01 00 00 | 05 00 00 00  68 65 6c 6c  6f ...
//!           header        alignment counts from here
//!           00 00 big-endian, 00 01 little-endian; everything else (XCDR2, parameter lists) is refused
//! ```

use thiserror::Error;

use crate::limits::MAX_MESSAGE_BYTES;

/// Bytes before the body.
pub const HEADER_BYTES: usize = 4;
/// What our own messages start with: plain CDR, little-endian, no options.
pub const HEADER: [u8; HEADER_BYTES] = [0, 1, 0, 0];

/// CDR bytes that are not a message of the expected type.
#[derive(Clone, Debug, PartialEq, Error)]
#[error("{type_name}{dot}{path} at byte {offset}: {problem}", dot = if path.is_empty() { "" } else { "." })]
pub struct DecodeError {
    /// Type that was expected.
    pub type_name: String,
    /// Field, such as `objects[3].pose.position.x`; empty for the message itself.
    pub path: String,
    /// Byte of the payload, header included.
    pub offset: usize,
    /// What is wrong there.
    pub problem: Problem,
}

/// What is wrong with the bytes.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Problem {
    /// Nobody knows this type.
    #[error("unknown type{hint}")]
    UnknownType {
        /// Empty, or `: did you mean ...?`.
        hint: String,
    },
    /// Larger than [`MAX_MESSAGE_BYTES`].
    #[error("message of {found} bytes, expected at most {MAX_MESSAGE_BYTES}")]
    TooLarge {
        /// Bytes of the payload.
        found: usize,
    },
    /// Fewer than four bytes.
    #[error("expected a CDR header of {HEADER_BYTES} bytes, found {found}")]
    NoHeader {
        /// Bytes of the payload.
        found: usize,
    },
    /// Not plain CDR.
    #[error("expected the CDR header 00 00 or 00 01, found {:02x} {:02x}", found[0], found[1])]
    Representation {
        /// The first two bytes.
        found: [u8; 2],
    },
    /// The payload ends within a value.
    #[error("expected {expected} more bytes, found {found}")]
    Truncated {
        /// Bytes that the value needs.
        expected: usize,
        /// Bytes that are left.
        found: usize,
    },
    /// A length that the rest of the payload cannot hold.
    #[error("length {found}, expected at most {expected} in the {left} bytes that are left")]
    Length {
        /// The most elements that fit.
        expected: usize,
        /// The length that was read.
        found: usize,
        /// Bytes that are left.
        left: usize,
    },
    /// A length over the bound of the definition.
    #[error("length {found}, expected at most {expected} by the definition")]
    Bound {
        /// Bound of the definition.
        expected: usize,
        /// The length that was read.
        found: usize,
    },
    /// A string that is not UTF-8.
    #[error("expected UTF-8, found the byte {found:02x}")]
    Utf8 {
        /// The first wrong byte.
        found: u8,
    },
    /// More values than a JSON form may have.
    #[error("more than {expected} values, too many for JSON")]
    TooManyValues {
        /// [`crate::limits::MAX_JSON_VALUES`].
        expected: usize,
    },
}

/// A [`DecodeError`] on its way up; boxed so that the way that succeeds stays small.
pub type Fault = Box<DecodeError>;

impl DecodeError {
    #[cold]
    pub(crate) fn new(offset: usize, problem: Problem) -> Fault {
        Box::new(Self {
            type_name: String::new(),
            path: String::new(),
            offset,
            problem,
        })
    }

    /// Puts a field name before the path; `r#type` is called `type` on the wire.
    #[must_use]
    #[cold]
    pub(crate) fn within(mut self: Box<Self>, field: &str) -> Fault {
        let field = field.trim_start_matches("r#");
        let dot = if self.path.is_empty() || self.path.starts_with('[') {
            ""
        } else {
            "."
        };
        self.path = format!("{field}{dot}{}", self.path);
        self
    }

    /// Puts an index before the path.
    #[must_use]
    pub(crate) fn element(self: Box<Self>, index: usize) -> Fault {
        self.within(&format!("[{index}]"))
    }

    /// Says which type was being read.
    #[must_use]
    pub(crate) fn of(mut self, type_name: &str) -> Self {
        type_name.clone_into(&mut self.type_name);
        self
    }
}

/// Whether the bounds of a definition (`string<=16`, `T[<=8]`) are enforced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bounds {
    /// For bytes from outside.
    Enforced,
    /// For our own messages on the way to a log.
    Ignored,
}

/// A position in the body of a CDR payload, which may stand in several parts: Zenoh keeps what came in fragments as it came, and a
/// picture is copied once if it is read from there, twice if it is joined first.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    /// The part that is read now.
    body: &'a [u8],
    /// Byte of that part.
    at: usize,
    /// Bytes of the body before that part.
    before: usize,
    /// Parts after it, and their bytes.
    rest: &'a [&'a [u8]],
    rest_bytes: usize,
    big_endian: bool,
    bounds: Bounds,
}

impl<'a> Reader<'a> {
    /// Checks size and header.
    ///
    /// # Errors
    /// [`Problem::TooLarge`], [`Problem::NoHeader`] or [`Problem::Representation`].
    pub fn open(cdr: &'a [u8]) -> Result<Self, Fault> {
        if cdr.len() > MAX_MESSAGE_BYTES {
            let found = cdr.len();
            return Err(DecodeError::new(0, Problem::TooLarge { found }));
        }
        let Some((header, body)) = cdr.split_first_chunk::<HEADER_BYTES>() else {
            let found = cdr.len();
            return Err(DecodeError::new(0, Problem::NoHeader { found }));
        };
        let big_endian = match header {
            [0, 0, ..] => true,
            [0, 1, ..] => false,
            &[a, b, ..] => {
                let problem = Problem::Representation { found: [a, b] };
                return Err(DecodeError::new(0, problem));
            }
        };
        Ok(Self {
            body,
            at: 0,
            before: 0,
            rest: &[],
            rest_bytes: 0,
            big_endian,
            bounds: Bounds::Enforced,
        })
    }

    /// Checks size and header of a payload in parts, the first of which holds the whole header.
    ///
    /// # Errors
    /// As [`Reader::open`].
    pub(crate) fn open_parts(parts: &'a [&'a [u8]]) -> Result<Self, Fault> {
        let found: usize = parts.iter().map(|part| part.len()).sum();
        if found > MAX_MESSAGE_BYTES {
            return Err(DecodeError::new(0, Problem::TooLarge { found }));
        }
        let Some((first, rest)) = parts.split_first() else {
            return Self::open(&[]);
        };
        let mut reader = Self::open(first)?;
        reader.rest = rest;
        reader.rest_bytes = found - first.len();
        Ok(reader)
    }

    pub(crate) fn with_bounds(mut self, bounds: Bounds) -> Self {
        self.bounds = bounds;
        self
    }

    /// Byte of the payload, header included.
    #[must_use]
    pub fn offset(&self) -> usize {
        HEADER_BYTES + self.before + self.at
    }

    /// Bytes that are left.
    #[must_use]
    pub fn left(&self) -> usize {
        self.body.len() - self.at + self.rest_bytes
    }

    #[inline]
    pub(crate) fn is_big_endian(&self) -> bool {
        self.big_endian
    }

    fn fault(&self, problem: Problem) -> Fault {
        DecodeError::new(self.offset(), problem)
    }

    /// Skips padding; what it contains is nobody's business.
    #[inline]
    fn align(&mut self, alignment: usize) {
        let aligned = (self.before + self.at).next_multiple_of(alignment) - self.before;
        if aligned <= self.body.len() {
            self.at = aligned;
        } else {
            self.go_to(aligned);
        }
    }

    /// Goes to a byte counted from the start of this part, which may lie in a later one; not beyond the end.
    #[cold]
    fn go_to(&mut self, mut at: usize) {
        while at >= self.body.len()
            && let Some((next, rest)) = self.rest.split_first()
        {
            at -= self.body.len();
            self.before += self.body.len();
            self.rest_bytes -= next.len();
            (self.body, self.rest) = (next, rest);
        }
        self.at = at.min(self.body.len());
    }

    /// True if the next `count` bytes stand in one part. Leaves a part that is read to its end.
    fn is_whole(&mut self, count: usize) -> bool {
        if self.at == self.body.len() && !self.rest.is_empty() {
            self.go_to(self.at);
        }
        count <= self.body.len() - self.at || count > self.left()
    }

    /// Copies the next bytes from as many parts as they take.
    ///
    /// # Errors
    /// [`Problem::Truncated`].
    #[cold]
    fn copy(&mut self, to: &mut [u8]) -> Result<(), Fault> {
        if to.len() > self.left() {
            let (expected, found) = (to.len(), self.left());
            return Err(self.fault(Problem::Truncated { expected, found }));
        }
        let mut done = 0;
        while done < to.len() {
            let here = &self.body[self.at..];
            let count = here.len().min(to.len() - done);
            to[done..done + count].copy_from_slice(&here[..count]);
            done += count;
            self.at += count;
            if done < to.len() {
                self.go_to(self.at);
            }
        }
        Ok(())
    }

    /// The next `count` bytes, borrowed: they must stand in one part, which is so unless the payload was opened in parts.
    ///
    /// # Errors
    /// [`Problem::Truncated`].
    pub fn take(&mut self, count: usize) -> Result<&'a [u8], Fault> {
        let taken = self.body[self.at..].get(..count);
        let taken = taken.ok_or_else(|| {
            let (expected, found) = (count, self.left());
            self.fault(Problem::Truncated { expected, found })
        })?;
        self.at += count;
        Ok(taken)
    }

    /// The next value of `N` bytes, aligned, in wire order.
    ///
    /// # Errors
    /// [`Problem::Truncated`].
    #[inline]
    pub fn scalar<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        self.align(N);
        match self.body[self.at..].first_chunk::<N>() {
            Some(bytes) => {
                self.at += N;
                Ok(*bytes)
            }
            None => {
                let mut bytes = [0; N];
                self.copy(&mut bytes)?;
                Ok(bytes)
            }
        }
    }

    /// As many of the next `count` values of `size` bytes as stand whole in this part, aligned, borrowed as bytes in wire
    /// order. Fewer than `count` only in a payload in parts: the next one is then read as a scalar.
    ///
    /// # Errors
    /// [`Problem::Truncated`] if not all of them are there.
    pub(crate) fn run(&mut self, size: usize, count: usize) -> Result<&'a [u8], Fault> {
        if count == 0 {
            return Ok(&[]);
        }
        self.align(size);
        let bytes = count.saturating_mul(size);
        if self.is_whole(bytes) {
            return self.take(bytes);
        }
        let here = self.body.len() - self.at;
        self.take(here - here % size)
    }

    /// `count` values of `size` bytes each, aligned, borrowed as bytes in wire order.
    ///
    /// # Errors
    /// [`Problem::Truncated`].
    pub fn scalars(&mut self, size: usize, count: usize) -> Result<&'a [u8], Fault> {
        if count == 0 {
            return Ok(&[]);
        }
        self.align(size);
        match count.checked_mul(size) {
            Some(bytes) => self.take(bytes),
            None => {
                let (expected, found) = (usize::MAX, self.left());
                Err(self.fault(Problem::Truncated { expected, found }))
            }
        }
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Fault> {
        let bytes = self.scalar()?;
        Ok(if self.big_endian {
            u32::from_be_bytes(bytes)
        } else {
            u32::from_le_bytes(bytes)
        })
    }

    /// The length of a sequence whose elements take at least `element_bytes` each.
    ///
    /// # Errors
    /// [`Problem::Truncated`], [`Problem::Bound`] or [`Problem::Length`].
    pub fn length(&mut self, element_bytes: usize, bound: Option<usize>) -> Result<usize, Fault> {
        self.align(4);
        let start = self.clone();
        let found = self.u32()? as usize;
        if let Some(expected) = bound.filter(|&b| found > b && self.bounds == Bounds::Enforced) {
            return Err(start.fault(Problem::Bound { expected, found }));
        }
        let left = self.left();
        let expected = left / element_bytes.max(1);
        if found > expected {
            let problem = Problem::Length {
                expected,
                found,
                left,
            };
            return Err(start.fault(problem));
        }
        Ok(found)
    }

    /// A string of at most `bound` bytes, borrowed, without its NUL.
    ///
    /// # Errors
    /// As [`Reader::length`], and [`Problem::Utf8`].
    pub fn text(&mut self, bound: Option<usize>) -> Result<&'a str, Fault> {
        let length = self.length(1, None)?;
        self.text_of(length, bound)
    }

    fn text_of(&mut self, length: usize, bound: Option<usize>) -> Result<&'a str, Fault> {
        let start = self.clone();
        let bytes = self.take(length)?;
        start.checked(bytes, bound)
    }

    /// The text of a string that begins here, without its NUL.
    fn checked<'b>(&self, bytes: &'b [u8], bound: Option<usize>) -> Result<&'b str, Fault> {
        let bytes = bytes.strip_suffix(&[0]).unwrap_or(bytes);
        // The NUL counts in the length on the wire but not in the bound.
        let found = bytes.len();
        if let Some(expected) = bound.filter(|&b| found > b && self.bounds == Bounds::Enforced) {
            return Err(self.fault(Problem::Bound { expected, found }));
        }
        std::str::from_utf8(bytes).map_err(|error| {
            let wrong = error.valid_up_to();
            let found = bytes.get(wrong).copied().unwrap_or(0);
            DecodeError::new(self.offset() + wrong, Problem::Utf8 { found })
        })
    }

    /// As [`Reader::text`], copied, and also across parts.
    ///
    /// # Errors
    /// As [`Reader::text`].
    pub(crate) fn string(&mut self, bound: Option<usize>) -> Result<String, Fault> {
        let length = self.length(1, None)?;
        if self.is_whole(length) {
            return self.text_of(length, bound).map(str::to_owned);
        }
        let start = self.clone();
        let mut bytes = vec![0; length];
        self.copy(&mut bytes)?;
        start.checked(&bytes, bound).map(str::to_owned)
    }

    /// Reads a field, and puts its name into an error.
    #[inline]
    pub(crate) fn field<T>(
        &mut self,
        name: &str,
        read: impl FnOnce(&mut Self) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        read(self).map_err(|fault| fault.within(name))
    }
}
