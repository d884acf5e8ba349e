//! The recognizer's `tokenizer.bin`: a list of byte strings, one for each token id.
//!
//! The file has no header and no count: entries follow each other, each a length and that many bytes. A length below 128 is
//! one byte; otherwise two bytes `a b` stand for (a - 128) + 128 * b. A file that ends inside an entry is broken, so reading
//! to the end exactly is the check. The bytes are SentencePiece's: U+2581 stands for a space, and a token of one raw byte is
//! part of a character, which is why text is assembled as bytes first and decoded last.

use super::AudioError;
use crate::folder::ModelFolder;

/// Name in the model folder.
const FILE: &str = "tokenizer.bin";

/// Largest file read: the 32 768 entries of the English model are 250 kB.
const MAX_FILE_BYTES: u64 = 16 << 20;
/// Most entries.
const MAX_ENTRIES: usize = 1 << 20;
/// Longest entry, bytes; the longest of the English model has 48.
const MAX_ENTRY_BYTES: usize = 1_024;
/// SentencePiece writes a space as U+2581.
const SPACE: &str = "\u{2581}";

/// Token id -> bytes.
#[derive(Debug, Clone)]
pub struct Vocabulary {
    bytes: Vec<u8>,
    /// Start of every entry in `bytes`, and one more: the end.
    starts: Vec<usize>,
}

impl Vocabulary {
    /// Reads and checks the `tokenizer.bin` of a model folder.
    ///
    /// # Errors
    /// [`AudioError::Engine`] when the file cannot be read or is too large; as [`Vocabulary::parse`].
    pub fn load(folder: &ModelFolder) -> Result<Vocabulary, AudioError> {
        Vocabulary::parse(&folder.read(FILE, MAX_FILE_BYTES)?)
    }

    /// Reads entries until the end of the file's content.
    ///
    /// # Errors
    /// [`AudioError::Vocabulary`] with the offset of the broken entry.
    pub fn parse(file: &[u8]) -> Result<Vocabulary, AudioError> {
        let mut vocabulary = Vocabulary {
            bytes: Vec::with_capacity(file.len()),
            starts: vec![0],
        };
        let mut rest = file;
        while !rest.is_empty() {
            let offset = file.len() - rest.len();
            let broken = |reason: String| AudioError::Vocabulary { offset, reason };
            let (length, tail) = match *rest {
                [short @ 0..128, ref tail @ ..] => (usize::from(short), tail),
                [long, high, ref tail @ ..] => {
                    (usize::from(long) - 128 + 128 * usize::from(high), tail)
                }
                _ => return Err(broken("ends inside a length".to_owned())),
            };
            if length > MAX_ENTRY_BYTES {
                return Err(broken(format!(
                    "an entry of {length} bytes: at most {MAX_ENTRY_BYTES}"
                )));
            }
            let Some((entry, tail)) = tail.split_at_checked(length) else {
                return Err(broken(format!(
                    "an entry of {length} bytes, but {} are left",
                    tail.len()
                )));
            };
            if vocabulary.len() == MAX_ENTRIES {
                return Err(broken(format!("more than {MAX_ENTRIES} entries")));
            }
            vocabulary.bytes.extend_from_slice(entry);
            vocabulary.starts.push(vocabulary.bytes.len());
            rest = tail;
        }
        if vocabulary.len() == 0 {
            return Err(AudioError::Vocabulary {
                offset: 0,
                reason: "no entries".to_owned(),
            });
        }
        Ok(vocabulary)
    }

    /// Number of tokens.
    #[must_use]
    #[allow(
        clippy::len_without_is_empty,
        reason = "an empty vocabulary cannot be built"
    )]
    pub fn len(&self) -> usize {
        self.starts.len() - 1
    }

    /// The bytes of one token; `None` for an id that the file does not have.
    #[must_use]
    pub fn token(&self, id: u32) -> Option<&[u8]> {
        let index = id as usize;
        let (start, end) = (*self.starts.get(index)?, *self.starts.get(index + 1)?);
        self.bytes.get(start..end)
    }

    /// Text of a token sequence: ids without an entry and control tokens (`<s>`, `<<ST_..>>`) say nothing, broken UTF-8 becomes
    /// U+FFFD, spaces at both ends go.
    #[must_use]
    pub fn text(&self, ids: &[u32]) -> String {
        let mut bytes = Vec::new();
        for token in ids.iter().filter_map(|id| self.token(*id)) {
            // Real text contains single angle brackets as tokens of one byte; control tokens are longer.
            if !(token.len() > 2 && token.starts_with(b"<") && token.ends_with(b">")) {
                bytes.extend_from_slice(token);
            }
        }
        String::from_utf8_lossy(&bytes)
            .replace(SPACE, " ")
            .trim()
            .to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(entries: &[&[u8]]) -> Vec<u8> {
        let mut out = Vec::new();
        for entry in entries {
            match u8::try_from(entry.len()) {
                Ok(short @ 0..128) => out.push(short),
                _ => out.extend([(entry.len() % 128 + 128) as u8, (entry.len() / 128) as u8]),
            }
            out.extend_from_slice(entry);
        }
        out
    }

    #[test]
    fn entries_and_text() {
        let long = vec![b'x'; 300];
        let vocabulary = Vocabulary::parse(&file(&[
            b"",
            b"<s>",
            b"</s>",
            "\u{2581}Go".as_bytes(),
            "\u{2581}fast".as_bytes(),
            b"er",
            b"\xc3",
            b"\xa9",
            &long,
            b"<",
        ]))
        .unwrap();
        assert_eq!(vocabulary.len(), 10);
        assert_eq!(vocabulary.token(8), Some(long.as_slice()));
        assert_eq!(vocabulary.token(10), None);
        assert_eq!(vocabulary.token(u32::MAX), None);
        assert_eq!(vocabulary.text(&[1, 3, 4, 5, 2]), "Go faster");
        assert_eq!(
            vocabulary.text(&[6, 7]),
            "\u{e9}",
            "two byte tokens are one character"
        );
        assert_eq!(
            vocabulary.text(&[6, 3]),
            "\u{fffd} Go",
            "half a character is replaced"
        );
        assert_eq!(vocabulary.text(&[3, 9, 999]), "Go<");
        assert_eq!(vocabulary.text(&[]), "");
    }

    #[test]
    fn broken_files_are_named() {
        let cases: [(&[u8], usize, &str); 5] = [
            (&[], 0, "no entries"),
            (
                &[1, b'a', 5, b'b'],
                2,
                "an entry of 5 bytes, but 1 are left",
            ),
            (&[1, b'a', 200], 2, "ends inside a length"),
            (&[0xff, 0xff, 0], 0, "an entry of 32767 bytes: at most 1024"),
            (&[3], 0, "an entry of 3 bytes, but 0 are left"),
        ];
        for (bytes, offset, reason) in cases {
            match Vocabulary::parse(bytes) {
                Err(AudioError::Vocabulary {
                    offset: at,
                    reason: why,
                }) => assert_eq!((at, why.as_str()), (offset, reason)),
                other => panic!("{bytes:?}: {other:?}"),
            }
        }
    }

    proptest::proptest! {
        #[test]
        fn no_file_panics(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..256)) {
            if let Ok(vocabulary) = Vocabulary::parse(&bytes) {
                let all: Vec<u32> = (0..vocabulary.len() as u32 + 2).collect();
                let _ = vocabulary.text(&all);
            }
        }
    }
}
