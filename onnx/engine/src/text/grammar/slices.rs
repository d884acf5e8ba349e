//! Which tokens a grammar allows now, without trying each of the vocabulary.
//!
//! Inside a string or a long text almost every token without quotes and control characters may come. Whether all of them may is
//! one question to the lexer ("is this language within that one?"); if so, their mask is known and only the rest is tried: the
//! slices of llguidance (its `SlicedBiasComputer`). That one keeps fourteen tries, each with
//! tables over the whole vocabulary. Here a slice is its mask and one trie, of the tokens outside it, and all else walks the one trie
//! that llguidance needs anyway.
//!
//! ```text
//!   vocabulary  ▪▪▪▪▪▪▪▪▪▪▪▪▪▪▪▪▪▪▪▪▪▪▪▪▪▪▪▪▪▪▪▪▪▪▪▪▪▪▪▪▪
//!   slice       ▪▪▪▪▪▪▪▪▪▪▪▪▪▪▪▪▪▪▪▪▪▪▪▪▪▪▪▪▪▪▪▪            one question for all of it, or it is not used
//!   rest                                        ▪▪▪▪▪▪▪▪▪  walked byte by byte, as a trie
//! ```

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use llguidance::derivre::StateID;
use llguidance::earley::{BiasComputer, ParserRecognizer};
use toktrie::{Recognizer, SimpleVob, TokTrie, TokenizerEnv};

use super::Vocabulary;

/// Slices in the order in which they are tried, the largest first: characters of a token at most. What llguidance's own slices
/// of JSON strings are, without the one of white space, whose rest is almost everything.
const CHARACTERS: [Option<usize>; 3] = [None, Some(30), Some(10)];
/// What asking for a slice may cost, in llguidance's units: as there.
const BUDGET: u64 = 1_000;
/// Memory for the masks of one grammar, in bytes.
const MASKS_BYTES: usize = 512 << 10;
/// States of one grammar whose masks are remembered.
const STATES_MAX: usize = 4_096;

/// The slices as regular expressions, for the lexer.
pub(super) fn expressions() -> Vec<String> {
    CHARACTERS
        .iter()
        .map(|most| {
            let count = most.map_or("+".to_owned(), |most| format!("{{1,{most}}}"));
            format!(r#"[^"\\\x00-\x1F\x7F]{count}"#)
        })
        .collect()
}

/// Whether a token is in a slice: the same in Rust.
fn is_in_slice(token: &[u8], most: Option<usize>) -> bool {
    let is_plain = |c: char| !matches!(c, '"' | '\\' | '\0'..='\x1f' | '\x7f');
    std::str::from_utf8(token).is_ok_and(|text| {
        !text.is_empty()
            && text.chars().all(is_plain)
            && most.is_none_or(|most| text.chars().count() <= most)
    })
}

/// See the module.
pub(super) struct Slices {
    vocabulary: Arc<Vocabulary>,
    slices: Vec<Slice>,
}

struct Slice {
    tokens: SimpleVob,
    rest: Trie,
}

impl Slices {
    /// Divides a vocabulary.
    pub(super) fn new(vocabulary: Arc<Vocabulary>) -> Slices {
        let trie = vocabulary.tok_trie();
        let mut sorted: Vec<u32> = (0..trie.vocab_size() as u32).collect();
        sorted.sort_by_key(|id| trie.token(*id));
        let slice = |most: Option<usize>| {
            let (inside, rest): (Vec<u32>, Vec<u32>) = sorted
                .iter()
                .partition(|id| is_in_slice(trie.token(**id), most));
            let mut tokens = trie.alloc_token_set();
            inside.into_iter().for_each(|id| tokens.allow_token(id));
            let rest = Trie::new(rest.into_iter().map(|id| (trie.token(id), id)));
            Slice { tokens, rest }
        };
        let slices = CHARACTERS.into_iter().map(slice).collect();
        Slices { vocabulary, slices }
    }
}

impl BiasComputer for Slices {
    fn compute_bias(&self, rec: &mut ParserRecognizer<'_>, start: &[u8]) -> SimpleVob {
        let mut set = self.trie().alloc_token_set();
        let state = rec.lexer_state();
        if start.is_empty() && rec.lexer_mut().subsume_possible(state) {
            for (index, slice) in self.slices.iter().enumerate() {
                let lexer = rec.lexer_mut();
                if lexer
                    .check_subsume(state, index, BUDGET, None)
                    .unwrap_or(false)
                {
                    set.or(&slice.tokens);
                    slice.rest.allow(rec, &mut set);
                    return set;
                }
            }
        }
        self.trie().add_bias(rec, &mut set, start);
        set
    }

    fn trie(&self) -> &TokTrie {
        self.vocabulary.tok_trie()
    }
}

/// The same for a grammar that is a single lexeme, or a choice of them: there the lexer's state decides everything, and masks
/// of states that came before, in this answer or an earlier one, are remembered. The states of counted repetitions, each new,
/// mostly have equal masks; these are kept once.
pub(super) struct Remembering {
    slices: Arc<Slices>,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    by_state: HashMap<StateID, usize>,
    masks: Vec<SimpleVob>,
}

impl Remembering {
    /// Knows nothing yet.
    pub(super) fn new(slices: Arc<Slices>) -> Remembering {
        Remembering {
            slices,
            known: Mutex::default(),
        }
    }
}

impl BiasComputer for Remembering {
    fn compute_bias(&self, rec: &mut ParserRecognizer<'_>, start: &[u8]) -> SimpleVob {
        // Nothing is left half done by a panic: an entry is added as a whole.
        let known = || self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let state = rec.lexer_state();
        if start.is_empty()
            && let known = known()
            && let Some(at) = known.by_state.get(&state)
        {
            return known.masks[*at].clone();
        }
        let mask = self.slices.compute_bias(rec, start);
        let mut known = known();
        if start.is_empty() && known.by_state.len() < STATES_MAX {
            let at = known.masks.iter().position(|other| *other == mask);
            let at = at.or_else(|| {
                let bytes = size_of_val(mask.as_slice());
                let is_room = (known.masks.len() + 1) * bytes <= MASKS_BYTES;
                is_room.then(|| {
                    known.masks.push(mask.clone());
                    known.masks.len() - 1
                })
            });
            if let Some(at) = at {
                known.by_state.insert(state, at);
            }
        }
        mask
    }

    fn trie(&self) -> &TokTrie {
        self.slices.trie()
    }
}

/// Some tokens as a tree of bytes, written in the order in which it is walked.
struct Trie(Vec<Node>);

struct Node {
    /// Token that ends here.
    token: Option<u32>,
    /// Nodes of its subtree, itself included: how far to go on when the byte is refused.
    size: u32,
    /// Bytes before this one.
    depth: u16,
    byte: u8,
}

impl Trie {
    /// Takes tokens sorted by their bytes, none without any.
    fn new<'t>(tokens: impl Iterator<Item = (&'t [u8], u32)>) -> Trie {
        let mut nodes: Vec<Node> = Vec::new();
        // The nodes on the way to the last token, and its bytes.
        let (mut path, mut last): (Vec<usize>, &[u8]) = (Vec::new(), &[]);
        for (bytes, token) in tokens {
            let same = last.iter().zip(bytes).take_while(|(a, b)| a == b).count();
            // Two tokens of the same bytes are two leaves.
            let same = same.min(bytes.len().saturating_sub(1));
            close(&mut nodes, path.drain(same..));
            for (depth, &byte) in bytes.iter().enumerate().skip(same) {
                path.push(nodes.len());
                nodes.push(Node {
                    token: None,
                    size: 0,
                    depth: depth as u16,
                    byte,
                });
            }
            if let Some(node) = nodes.last_mut() {
                node.token = Some(token);
            }
            last = bytes;
        }
        close(&mut nodes, path.into_iter());
        nodes.shrink_to_fit();
        Trie(nodes)
    }

    /// Adds the tokens that a grammar allows next.
    fn allow(&self, rec: &mut impl Recognizer, set: &mut SimpleVob) {
        rec.trie_started("rest of a slice");
        // Bytes that the grammar has taken.
        let (mut at, mut taken) = (0, 0);
        while let Some(node) = self.0.get(at) {
            let depth = usize::from(node.depth);
            rec.pop_bytes(taken - depth);
            if rec.try_push_byte(node.byte) {
                if let Some(token) = node.token {
                    set.allow_token(token);
                }
                (at, taken) = (at + 1, depth + 1);
            } else {
                (at, taken) = (at + node.size as usize, depth);
            }
        }
        rec.pop_bytes(taken);
        rec.trie_finished();
    }
}

/// Nothing more comes into these subtrees.
fn close(nodes: &mut [Node], ended: impl Iterator<Item = usize>) {
    let end = nodes.len();
    for at in ended {
        nodes[at].size = (end - at) as u32;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Takes any of some texts, and their beginnings.
    struct Texts {
        texts: Vec<&'static [u8]>,
        taken: Vec<u8>,
        finished: usize,
    }

    impl Recognizer for Texts {
        fn pop_bytes(&mut self, count: usize) {
            self.taken.truncate(self.taken.len() - count);
        }

        fn collapse(&mut self) {}

        fn trie_finished(&mut self) {
            assert!(self.taken.is_empty(), "all bytes were given back");
            self.finished += 1;
        }

        fn try_push_byte(&mut self, byte: u8) -> bool {
            self.taken.push(byte);
            let is_begun = self.texts.iter().any(|text| text.starts_with(&self.taken));
            if !is_begun {
                self.taken.pop();
            }
            is_begun
        }
    }

    #[test]
    fn a_walk_finds_the_tokens_that_are_beginnings() {
        let tokens = [
            "a", "ab", "abc", "abd", "b", "bcd", "bcd", "bce", "c", "cd", "xyz",
        ];
        let trie = Trie::new(
            tokens
                .iter()
                .zip(0..)
                .map(|(text, id)| (text.as_bytes(), id)),
        );
        let cases: [(&[&[u8]], &[u32]); 6] = [
            (&[b"abd"], &[0, 1, 3]),
            (&[b"bcdx"], &[4, 5, 6]),
            (&[b"abc", b"cd", b"xyz"], &[0, 1, 2, 8, 9, 10]),
            (&[b"a", b"bc"], &[0, 4]),
            (&[b"zz"], &[]),
            (&[b"xy", b"c"], &[8]),
        ];
        for (texts, expected) in cases {
            let mut rec = Texts {
                texts: texts.to_vec(),
                taken: vec![],
                finished: 0,
            };
            let mut set = SimpleVob::alloc(tokens.len());
            trie.allow(&mut rec, &mut set);
            let found: BTreeSet<u32> = set.iter().collect();
            assert_eq!(found, expected.iter().copied().collect(), "{texts:?}");
            assert_eq!(rec.finished, 1);
        }
        Trie::new(std::iter::empty()).allow(
            &mut Texts {
                texts: vec![],
                taken: vec![],
                finished: 0,
            },
            &mut SimpleVob::alloc(1),
        );
    }

    #[test]
    fn a_token_is_in_a_slice_when_its_expression_matches() {
        let long = "猫".repeat(31);
        let tokens: [&[u8]; 12] = [
            b"",
            b"a",
            b"0123456789",
            b"0123456789a",
            b"say \"",
            b"a\\b",
            b"\n",
            b"\x7f",
            b"\xffx",
            b"\xe7\x8c",
            "é 猫".as_bytes(),
            long.as_bytes(),
        ];
        for (most, expression) in CHARACTERS.into_iter().zip(expressions()) {
            let mut regex = llguidance::derivre::Regex::new(&expression).unwrap();
            for token in tokens {
                let expected = !token.is_empty() && regex.is_match_bytes(token);
                assert_eq!(is_in_slice(token, most), expected, "{expression} {token:?}");
            }
        }
    }
}
