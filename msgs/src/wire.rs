//! How Rust types stand on the wire: the trait behind the generated structs, for scalars, strings, lists and arrays.
//!
//! Reading is our own, because the bytes are somebody else's ([`crate::reader`]). Writing goes through serde and the
//! crate `cdr`; what serde cannot say (arrays of more than 32, bounds) is here. Lists of numbers are read in one pass
//! over the borrowed bytes, so a picture costs one copy.

use serde::Serializer;
use serde::ser::SerializeTuple;

use crate::message::Excess;
use crate::reader::{Fault, Reader};

/// A type that can stand in a message.
pub trait Wire: Sized {
    /// The least bytes a value takes; a length is checked against it before anything is allocated.
    const MIN_BYTES: usize;
    /// True if a value can be longer than its definition allows.
    const BOUNDED: bool = false;

    /// The value of a field that nobody set.
    fn initial() -> Self;

    /// Reads a value; `bound` is the bound of the field for strings and sequences.
    ///
    /// # Errors
    /// A [`crate::DecodeError`] that says where.
    fn read(reader: &mut Reader<'_>, bound: Option<usize>) -> Result<Self, Fault>;

    /// Reads `count` values; `count` has been checked against the bytes that are left.
    ///
    /// # Errors
    /// A [`crate::DecodeError`] that says where.
    fn read_many(reader: &mut Reader<'_>, count: usize) -> Result<Vec<Self>, Fault> {
        let mut list = Vec::with_capacity(count);
        for index in 0..count {
            list.push(Self::read(reader, None).map_err(|fault| fault.element(index))?);
        }
        Ok(list)
    }

    /// Checks what is about to be written against the bounds of the definition.
    ///
    /// # Errors
    /// An [`Excess`] that says which field, its bound and its length.
    fn check(&self, _bound: Option<usize>) -> Result<(), Excess> {
        Ok(())
    }
}

/// Scalars: read one or read many, in either byte order.
macro_rules! scalars {
    ($($rust:ty),*) => {$(
        impl Wire for $rust {
            const MIN_BYTES: usize = size_of::<$rust>();

            fn initial() -> Self {
                Self::default()
            }

            #[inline]
            fn read(reader: &mut Reader<'_>, _bound: Option<usize>) -> Result<Self, Fault> {
                let bytes = reader.scalar()?;
                Ok(if reader.is_big_endian() { Self::from_be_bytes(bytes) } else { Self::from_le_bytes(bytes) })
            }

            fn read_many(reader: &mut Reader<'_>, count: usize) -> Result<Vec<Self>, Fault> {
                let bytes = reader.scalars(size_of::<$rust>(), count)?;
                let (chunks, _) = bytes.as_chunks::<{ size_of::<$rust>() }>();
                Ok(if reader.is_big_endian() {
                    chunks.iter().map(|&b| Self::from_be_bytes(b)).collect()
                } else {
                    chunks.iter().map(|&b| Self::from_le_bytes(b)).collect()
                })
            }
        }
    )*};
}

scalars!(i8, i16, u16, i32, u32, i64, u64, f32, f64);

impl Wire for u8 {
    const MIN_BYTES: usize = 1;

    fn initial() -> Self {
        0
    }

    #[inline]
    fn read(reader: &mut Reader<'_>, _bound: Option<usize>) -> Result<Self, Fault> {
        reader.scalar().map(|[byte]| byte)
    }

    fn read_many(reader: &mut Reader<'_>, count: usize) -> Result<Vec<Self>, Fault> {
        reader.take(count).map(<[u8]>::to_vec)
    }
}

/// The one byte of a message without fields: written as 0, and whatever is read is ignored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NoFields;

impl serde::Serialize for NoFields {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u8(0)
    }
}

impl Wire for NoFields {
    const MIN_BYTES: usize = 1;

    fn initial() -> Self {
        Self
    }

    fn read(reader: &mut Reader<'_>, _bound: Option<usize>) -> Result<Self, Fault> {
        u8::read(reader, None).map(|_| Self)
    }
}

impl Wire for bool {
    const MIN_BYTES: usize = 1;

    fn initial() -> Self {
        false
    }

    #[inline]
    fn read(reader: &mut Reader<'_>, _bound: Option<usize>) -> Result<Self, Fault> {
        reader.scalar().map(|[byte]| byte != 0)
    }
}

impl Wire for String {
    /// The length alone: real writers send strings of length 0.
    const MIN_BYTES: usize = 4;

    fn initial() -> Self {
        Self::new()
    }

    fn read(reader: &mut Reader<'_>, bound: Option<usize>) -> Result<Self, Fault> {
        reader.text(bound).map(str::to_owned)
    }

    fn check(&self, bound: Option<usize>) -> Result<(), Excess> {
        Excess::check(self.len(), bound)
    }
}

impl<T: Wire> Wire for Vec<T> {
    const MIN_BYTES: usize = 4;
    const BOUNDED: bool = T::BOUNDED;

    fn initial() -> Self {
        Self::new()
    }

    fn read(reader: &mut Reader<'_>, bound: Option<usize>) -> Result<Self, Fault> {
        let count = reader.length(T::MIN_BYTES, bound)?;
        T::read_many(reader, count)
    }

    fn check(&self, bound: Option<usize>) -> Result<(), Excess> {
        Excess::check(self.len(), bound)?;
        if T::BOUNDED {
            for (index, element) in self.iter().enumerate() {
                element
                    .check(None)
                    .map_err(|excess| excess.element(index))?;
            }
        }
        Ok(())
    }
}

impl<T: Wire, const N: usize> Wire for [T; N] {
    const MIN_BYTES: usize = N * T::MIN_BYTES;
    const BOUNDED: bool = T::BOUNDED;

    fn initial() -> Self {
        std::array::from_fn(|_| T::initial())
    }

    fn read(reader: &mut Reader<'_>, _bound: Option<usize>) -> Result<Self, Fault> {
        let mut array = Self::initial();
        for (index, place) in array.iter_mut().enumerate() {
            *place = T::read(reader, None).map_err(|fault| fault.element(index))?;
        }
        Ok(array)
    }

    fn check(&self, _bound: Option<usize>) -> Result<(), Excess> {
        if T::BOUNDED {
            for (index, element) in self.iter().enumerate() {
                element
                    .check(None)
                    .map_err(|excess| excess.element(index))?;
            }
        }
        Ok(())
    }
}

/// Writes an array of any length; serde itself knows arrays up to 32.
///
/// # Errors
/// What the serializer returns.
pub(crate) fn array<T, S, const N: usize>(array: &[T; N], serializer: S) -> Result<S::Ok, S::Error>
where
    T: serde::Serialize,
    S: Serializer,
{
    let mut tuple = serializer.serialize_tuple(N)?;
    for element in array {
        tuple.serialize_element(element)?;
    }
    tuple.end()
}
