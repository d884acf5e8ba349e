//! Texts of a vocabulary by number: one block of memory instead of an allocation for each.
//!
//! A map of strings takes some 90 bytes a token beside its text, and so does the map back. A vocabulary never changes once it
//! is read, so its texts can stand one after the other, with a table of open addressing that leads from a text to its number.

use std::hash::{BuildHasher, RandomState};

/// An empty place of a table.
const NONE: u32 = u32::MAX;

/// Byte strings by number; an empty one is a gap in the numbering.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pool {
    bytes: Vec<u8>,
    /// Where each ends.
    ends: Vec<u32>,
}

impl Pool {
    /// Takes the next one.
    ///
    /// # Panics
    /// When all together have more than 4 GiB: files are limited to far less.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        let end = u32::try_from(self.bytes.len()).expect("a vocabulary is smaller than 4 GiB");
        self.ends.push(end);
    }

    /// The one of a number, empty where there is none.
    pub(crate) fn get(&self, id: usize) -> &[u8] {
        match self.ends.get(id) {
            Some(end) => {
                let begin = id.checked_sub(1).map_or(0, |before| self.ends[before]);
                &self.bytes[begin as usize..*end as usize]
            }
            None => &[],
        }
    }

    /// How many there are, gaps included.
    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    /// All of them, in order of their numbers.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &[u8]> {
        (0..self.len()).map(|id| self.get(id))
    }

    /// Gives back memory that was kept for more.
    pub(crate) fn shrink(&mut self) {
        self.bytes.shrink_to_fit();
        self.ends.shrink_to_fit();
    }
}

/// Numbers by what they stand for, where that can be looked up by the number: 4 bytes a place, four of five places taken at
/// most. Hashes are keyed anew in every process, so that no file can make them collide.
#[derive(Clone, Debug)]
pub(crate) struct Index {
    places: Vec<u32>,
    hash: RandomState,
}

impl Index {
    /// Room for so many.
    pub(crate) fn new(count: usize) -> Index {
        let places = (count + count / 4 + 1).next_power_of_two();
        Index {
            places: vec![NONE; places],
            hash: RandomState::new(),
        }
    }

    /// The number for which `is_it` says so, among those that were put in under this key.
    pub(crate) fn find(
        &self,
        key: impl std::hash::Hash,
        is_it: impl Fn(u32) -> bool,
    ) -> Option<u32> {
        let at = self.place(key, is_it);
        Some(self.places[at]).filter(|number| *number != NONE)
    }

    /// Puts a number in under a key, in the place of the one for which `is_it` says so. There must be room.
    pub(crate) fn put(
        &mut self,
        key: impl std::hash::Hash,
        number: u32,
        is_it: impl Fn(u32) -> bool,
    ) {
        let at = self.place(key, is_it);
        self.places[at] = number;
    }

    /// The place of a key, or the free one where it belongs.
    fn place(&self, key: impl std::hash::Hash, is_it: impl Fn(u32) -> bool) -> usize {
        let mask = self.places.len() - 1;
        let mut at = self.hash.hash_one(key) as usize & mask;
        while self.places[at] != NONE && !is_it(self.places[at]) {
            at = (at + 1) & mask;
        }
        at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_come_back_by_number_and_numbers_by_text() {
        let words: Vec<String> = (0..1_000).map(|i| format!("w{}", i * 37)).collect();
        let (mut pool, mut index) = (Pool::default(), Index::new(words.len()));
        pool.push(b"");
        for (at, word) in words.iter().enumerate() {
            pool.push(word.as_bytes());
            index.put(word.as_bytes(), at as u32 + 1, |_| false);
        }
        pool.shrink();
        assert_eq!(
            (pool.len(), pool.get(0), pool.get(2_000)),
            (1_001, &b""[..], &b""[..])
        );
        let find = |text: &[u8]| index.find(text, |id| pool.get(id as usize) == text);
        for (at, word) in words.iter().enumerate() {
            assert_eq!(pool.get(at + 1), word.as_bytes());
            assert_eq!(find(word.as_bytes()), Some(at as u32 + 1));
        }
        assert_eq!((find(b"w1"), find(b"")), (None, None));
    }

    #[test]
    fn a_number_replaces_the_one_of_the_same_key() {
        let mut index = Index::new(2);
        index.put("a", 7, |_| false);
        index.put("a", 8, |number| number == 7);
        assert_eq!(index.find("a", |number| number == 7), None);
        assert_eq!(index.find("a", |number| number == 8), Some(8));
        assert_eq!(Index::new(0).find("a", |_| true), None);
    }
}
