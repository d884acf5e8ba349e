//! Byte pair encoding (Sennrich, Haddow, Birch 2016), small in memory: what the `tokenizers` crate's `BPE` does, in flat
//! tables.
//!
//! The crate keeps two maps of strings and one of pairs, and reads them by way of a tree of JSON values
//! that is several times as large and leaves the heap full of holes. Here the file is read once from front to back into flat
//! tables. Everything else of the pipeline (normalizing, splitting into words, special tokens) stays the crate's: this is a
//! model for it.
//!
//! ```text
//!   word ─► characters ─► tokens ─► while any two neighbours have a merge: the one of the lowest rank, leftmost first ─► tokens
//! ```

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::fmt;
use std::path::{Path, PathBuf};

use serde::de::{DeserializeSeed, Error, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use tokenizers::models::bpe::BpeTrainer;
use tokenizers::{Model, Token};

use super::MAX_VOCAB;
use super::pool::{Index, Pool};

/// No token, in the table of single bytes.
const NO_TOKEN: u32 = u32::MAX;

/// See the module. Without dropout, prefixes and suffixes of words: [`Bpe::reads`].
#[derive(Clone, Debug)]
pub(crate) struct Bpe {
    words: Pool,
    by_text: Index,
    merges: Vec<Merge>,
    by_pair: Index,
    /// Tokens `<0x00>` to `<0xFF>` where characters without a token are written in bytes.
    bytes: Option<Box<[u32; 256]>>,
    unknown: Option<Unknown>,
    /// Whether unknown characters next to each other are one token.
    fuse_unknown: bool,
    /// Whether a word that is a token is that token, whatever the merges say.
    whole_words: bool,
}

/// Two tokens that become one; its rank is its place in the list.
#[derive(Clone, Copy, Debug)]
struct Merge {
    pair: (u32, u32),
    joined: u32,
}

/// What stands for a character that has no token.
#[derive(Clone, Debug)]
enum Unknown {
    Token(u32),
    /// Named by the file and not in its vocabulary: an error if it is ever needed.
    Missing(String),
}

/// What tells whether this file's model can be read here.
#[derive(Deserialize)]
pub(crate) struct Kind {
    #[serde(default, rename = "type")]
    name: Option<String>,
    #[serde(default)]
    dropout: Option<f64>,
    #[serde(default)]
    continuing_subword_prefix: Option<String>,
    #[serde(default)]
    end_of_word_suffix: Option<String>,
}

impl Bpe {
    /// Whether a model is one that this file can do.
    pub(crate) fn reads(kind: &Kind) -> bool {
        kind.name.as_deref() == Some("BPE")
            && kind.dropout.is_none_or(|dropout| dropout == 0.0)
            && kind
                .continuing_subword_prefix
                .as_deref()
                .unwrap_or("")
                .is_empty()
            && kind.end_of_word_suffix.as_deref().unwrap_or("").is_empty()
    }

    /// Texts by token, empty for gaps.
    pub(crate) fn words(&self) -> &Pool {
        &self.words
    }

    fn find(&self, text: &[u8]) -> Option<u32> {
        find(&self.words, &self.by_text, text)
    }

    fn rank(&self, pair: (u32, u32)) -> Option<u32> {
        self.by_pair
            .find(pair, |rank| self.merges[rank as usize].pair == pair)
    }

    /// One token a character, or what stands for it.
    fn characters(&self, word: &str) -> tokenizers::Result<Vec<Symbol>> {
        let mut symbols: Vec<Symbol> = Vec::with_capacity(word.len());
        // One that waits for its neighbours, as it may become one with them.
        let mut unknown: Option<u32> = None;
        for (at, character) in word.char_indices() {
            let text = &word.as_bytes()[at..at + character.len_utf8()];
            if let Some(token) = self.find(text) {
                unknown
                    .take()
                    .into_iter()
                    .chain([token])
                    .for_each(|token| push(&mut symbols, token));
            } else if let Some(tokens) = self.in_bytes(text) {
                tokens
                    .into_iter()
                    .for_each(|token| push(&mut symbols, token));
            } else {
                let token = match &self.unknown {
                    None => continue,
                    Some(Unknown::Token(token)) => *token,
                    Some(Unknown::Missing(name)) => {
                        return Err(format!(
                            "the token {name:?} for unknown characters is not in the vocabulary"
                        )
                        .into());
                    }
                };
                if let Some(before) = unknown.replace(token)
                    && !self.fuse_unknown
                {
                    push(&mut symbols, before);
                }
            }
        }
        if let Some(token) = unknown {
            push(&mut symbols, token);
        }
        Ok(symbols)
    }

    fn in_bytes(&self, text: &[u8]) -> Option<Vec<u32>> {
        let table = self.bytes.as_ref()?;
        let tokens: Vec<u32> = text.iter().map(|byte| table[usize::from(*byte)]).collect();
        (!tokens.contains(&NO_TOKEN)).then_some(tokens)
    }

    /// Joins neighbours until none has a merge.
    fn join(&self, symbols: &mut [Symbol]) {
        // The lowest rank first, of equals the leftmost.
        let mut queue = BinaryHeap::with_capacity(symbols.len());
        for at in 1..symbols.len() {
            if let Some(rank) = self.rank((symbols[at - 1].token, symbols[at].token)) {
                queue.push(Reverse((rank, at - 1)));
            }
        }
        while let Some(Reverse((rank, at))) = queue.pop() {
            let left = symbols[at];
            let Some(next) = left.next.filter(|_| !left.gone) else {
                continue;
            };
            let right = symbols[next];
            let Merge { joined, .. } = self.merges[rank as usize];
            // Since it was queued, either of the two may have become another token.
            let is_current = self
                .rank((left.token, right.token))
                .is_some_and(|rank| self.merges[rank as usize].joined == joined);
            if !is_current {
                continue;
            }
            symbols[next].gone = true;
            (symbols[at].token, symbols[at].next) = (joined, right.next);
            if let Some(before) = left.previous
                && let Some(rank) = self.rank((symbols[before].token, joined))
            {
                queue.push(Reverse((rank, before)));
            }
            if let Some(after) = right.next {
                symbols[after].previous = Some(at);
                if let Some(rank) = self.rank((joined, symbols[after].token)) {
                    queue.push(Reverse((rank, at)));
                }
            }
        }
    }
}

fn find(words: &Pool, by_text: &Index, text: &[u8]) -> Option<u32> {
    by_text.find(text, |id| words.get(id as usize) == text)
}

/// A token of a word on its way, with its neighbours.
#[derive(Clone, Copy)]
struct Symbol {
    token: u32,
    previous: Option<usize>,
    next: Option<usize>,
    /// Whether it has become a part of the one before.
    gone: bool,
}

fn push(symbols: &mut Vec<Symbol>, token: u32) {
    let at = symbols.len();
    if let Some(last) = symbols.last_mut() {
        last.next = Some(at);
    }
    symbols.push(Symbol {
        token,
        previous: at.checked_sub(1),
        next: None,
        gone: false,
    });
}

impl Model for Bpe {
    /// Never used: models are not trained here. The trait wants one.
    type Trainer = BpeTrainer;

    /// Tokens of a word. Their texts and places are left out: nobody here asks for them, and they cost an allocation each.
    fn tokenize(&self, word: &str) -> tokenizers::Result<Vec<Token>> {
        let token = |id| Token::new(id, String::new(), (0, 0));
        if self.whole_words
            && let Some(id) = self.find(word.as_bytes())
        {
            return Ok(vec![token(id)]);
        }
        let mut symbols = self.characters(word)?;
        self.join(&mut symbols);
        Ok(symbols
            .iter()
            .filter(|symbol| !symbol.gone)
            .map(|symbol| token(symbol.token))
            .collect())
    }

    fn token_to_id(&self, token: &str) -> Option<u32> {
        self.find(token.as_bytes())
    }

    fn id_to_token(&self, id: u32) -> Option<String> {
        let text = self.words.get(id as usize);
        (!text.is_empty()).then(|| String::from_utf8_lossy(text).into_owned())
    }

    fn get_vocab(&self) -> HashMap<String, u32> {
        (0..self.words.len() as u32)
            .filter_map(|id| Some((self.id_to_token(id)?, id)))
            .collect()
    }

    fn get_vocab_size(&self) -> usize {
        self.words.iter().filter(|text| !text.is_empty()).count()
    }

    fn save(&self, _: &Path, _: Option<&str>) -> tokenizers::Result<Vec<PathBuf>> {
        Err("a vocabulary is read here, never written".into())
    }

    fn get_trainer(&self) -> BpeTrainer {
        BpeTrainer::default()
    }
}

/// The model as it stands in the file.
#[derive(Deserialize)]
struct File {
    #[serde(default)]
    unk_token: Option<String>,
    #[serde(default)]
    fuse_unk: Option<bool>,
    #[serde(default)]
    byte_fallback: Option<bool>,
    #[serde(default)]
    ignore_merges: Option<bool>,
    vocab: Entries,
    merges: Pairs,
}

impl<'de> Deserialize<'de> for Bpe {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Bpe, D::Error> {
        Bpe::build(File::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

impl Bpe {
    fn build(file: File) -> Result<Bpe, String> {
        let (words, by_text) = file.vocab.sorted()?;
        let count = file.merges.0.len() / 2;
        let (mut merges, mut by_pair) = (Vec::with_capacity(count), Index::new(count));
        let mut whole = Vec::new();
        for rank in 0..count {
            let [left, right] = [2 * rank, 2 * rank + 1].map(|at| file.merges.0.get(at));
            whole.clear();
            whole.extend_from_slice(left);
            whole.extend_from_slice(right);
            let id = |text: &[u8]| {
                find(&words, &by_text, text).ok_or_else(|| {
                    let text = String::from_utf8_lossy(text);
                    format!("merge {rank}: expected tokens of the vocabulary, found {text:?}")
                })
            };
            let merge = Merge {
                pair: (id(left)?, id(right)?),
                joined: id(&whole)?,
            };
            merges.push(merge);
            // Of the same pair twice the last one counts, as in the crate.
            let same = |rank: u32| {
                let known: &Merge = &merges[rank as usize];
                known.pair == merge.pair
            };
            by_pair.put(merge.pair, rank as u32, same);
        }
        let bytes = file.byte_fallback.unwrap_or(false).then(|| {
            let byte = |byte: usize| {
                let name = format!("<0x{byte:02X}>");
                find(&words, &by_text, name.as_bytes()).unwrap_or(NO_TOKEN)
            };
            Box::new(std::array::from_fn(byte))
        });
        let unknown = file
            .unk_token
            .map(|name| match find(&words, &by_text, name.as_bytes()) {
                Some(id) => Unknown::Token(id),
                None => Unknown::Missing(name),
            });
        Ok(Bpe {
            words,
            by_text,
            merges,
            by_pair,
            bytes,
            unknown,
            fuse_unknown: file.fuse_unk.unwrap_or(false),
            whole_words: file.ignore_merges.unwrap_or(false),
        })
    }
}

/// Texts and their numbers, in the order of the file.
#[derive(Default)]
struct Entries {
    texts: Pool,
    ids: Vec<u32>,
}

impl Entries {
    /// By number, and the way back.
    fn sorted(self) -> Result<(Pool, Index), String> {
        let size = self.ids.iter().max().map_or(0, |most| *most as usize + 1);
        if size > MAX_VOCAB {
            return Err(format!(
                "expected ids below {MAX_VOCAB}, found {}",
                size - 1
            ));
        }
        let mut place = vec![u32::MAX; size];
        for (at, id) in self.ids.iter().enumerate() {
            if std::mem::replace(&mut place[*id as usize], at as u32) != u32::MAX {
                return Err(format!("token {id} has two texts"));
            }
            if self.texts.get(at).is_empty() {
                return Err(format!("token {id}: expected a text, found none"));
            }
        }
        let (mut words, mut by_text) = (Pool::default(), Index::new(self.ids.len()));
        for (id, at) in place.into_iter().enumerate() {
            words.push(self.texts.get(at as usize));
            let text = words.get(id);
            if text.is_empty() {
                continue;
            }
            if let Some(other) = find(&words, &by_text, text) {
                return Err(format!("tokens {other} and {id} have the same text"));
            }
            by_text.put(text, id as u32, |_| false);
        }
        words.shrink();
        Ok((words, by_text))
    }
}

/// Left and right parts of all merges by turns.
#[derive(Default)]
struct Pairs(Pool);

/// A text, straight into a pool.
struct Push<'p>(&'p mut Pool);

impl<'de> DeserializeSeed<'de> for Push<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Push<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<(), E> {
        self.0.push(text.as_bytes());
        Ok(())
    }
}

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Entries, D::Error> {
        struct All;
        impl<'de> Visitor<'de> for All {
            type Value = Entries;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map of texts to token ids")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries, A::Error> {
                let mut entries = Entries::default();
                while map.next_key_seed(Push(&mut entries.texts))?.is_some() {
                    entries.ids.push(map.next_value()?);
                }
                Ok(entries)
            }
        }
        deserializer.deserialize_map(All)
    }
}

/// A merge, written as a list of two texts or, in older files, as one with a space between.
struct Pair<'p>(&'p mut Pool);

impl<'de> DeserializeSeed<'de> for Pair<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Pair<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a merge: two texts, or one with a space between")
    }

    fn visit_str<E: Error>(self, line: &str) -> Result<(), E> {
        // The first line of a `merges.txt` may have come along.
        if line.starts_with("#version") {
            return Ok(());
        }
        let parts = line
            .split_once(' ')
            .filter(|(_, right)| !right.contains(' '));
        let (left, right) =
            parts.ok_or_else(|| E::custom(format!("merge: expected two texts, found {line:?}")))?;
        self.0.push(left.as_bytes());
        self.0.push(right.as_bytes());
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut parts: A) -> Result<(), A::Error> {
        let before = self.0.len();
        while parts.next_element_seed(Push(self.0))?.is_some() {}
        match self.0.len() - before {
            2 => Ok(()),
            found => Err(A::Error::custom(format!(
                "merge: expected two texts, found {found}"
            ))),
        }
    }
}

impl<'de> Deserialize<'de> for Pairs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Pairs, D::Error> {
        struct All;
        impl<'de> Visitor<'de> for All {
            type Value = Pairs;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of merges")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut merges: A) -> Result<Pairs, A::Error> {
                let mut pairs = Pairs::default();
                while merges.next_element_seed(Pair(&mut pairs.0))?.is_some() {}
                Ok(pairs)
            }
        }
        deserializer.deserialize_seq(All)
    }
}

#[cfg(test)]
#[path = "bpe_tests.rs"]
mod tests;
