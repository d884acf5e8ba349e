//! Answers that cannot be anything else: a grammar says which tokens may come next, and often leaves no choice.
//!
//! The work is llguidance's. Here the model's vocabulary is described to it in bytes, grammars are compiled once (the same
//! few are asked for again and again), and everything it may spend is limited.

mod slices;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use llguidance::api::{ParserLimits, TopLevelGrammar};
use llguidance::{Matcher, ParserFactory};
use toktrie::{InferenceCapabilities, SimpleVob, TokEnv, TokRxInfo, TokTrie, TokenizerEnv};

use self::slices::{Remembering, Slices};
use super::tokenizer::Tokenizer;
use crate::error::{EngineError, Result};
use crate::runtime::clip;

/// Largest grammar, as text.
pub const MAX_GRAMMAR_BYTES: usize = 256 << 10;
/// Most strings of a choice.
pub const MAX_CHOICES: usize = 4_096;
/// Compiled grammars kept for the next request.
const MAX_COMPILED: usize = 8;
const MAX_REASON_BYTES: usize = 512;
/// A mask that took longer is worth avoiding: about the time to find the highest of 50,000 scores.
const SLOW_MASK: Duration = Duration::from_micros(40);

/// What an answer must look like.
#[derive(Debug, Clone, PartialEq)]
pub enum Grammar {
    /// A JSON value that fits this JSON Schema. Keys come in the schema's order; unless the schema says otherwise
    /// (`x-guidance`), there is one space after `:` and `,` and no other white space, so that a model cannot fill its
    /// answer with blanks.
    JsonSchema(serde_json::Value),
    /// A text that matches this regular expression as a whole.
    Regex(String),
    /// One of these strings.
    Choice(Vec<String>),
    /// A text of this grammar, in llguidance's form of Lark.
    Lark(String),
}

impl Grammar {
    fn compile(&self) -> Result<TopLevelGrammar> {
        let size = match self {
            Self::JsonSchema(schema) => schema.to_string().len(),
            Self::Regex(text) | Self::Lark(text) => text.len(),
            Self::Choice(choices) => choices.iter().map(String::len).sum(),
        };
        if size > MAX_GRAMMAR_BYTES {
            return Err(wrong(format!(
                "expected at most {MAX_GRAMMAR_BYTES} bytes, found {size}"
            )));
        }
        match self {
            Self::JsonSchema(schema) => Ok(TopLevelGrammar::from_json_schema(compact(schema)?)),
            Self::Regex(expression) => Ok(TopLevelGrammar::from_regex(expression)),
            Self::Choice(choices) => Ok(TopLevelGrammar::from_lark(one_of(choices)?)),
            Self::Lark(source) => Ok(TopLevelGrammar::from_lark(source.clone())),
        }
    }
}

fn wrong(reason: impl Into<String>) -> EngineError {
    EngineError::Grammar {
        reason: clip(&reason.into(), MAX_REASON_BYTES).to_owned(),
    }
}

/// The schema with white space pinned down, if it does not say itself.
fn compact(schema: &serde_json::Value) -> Result<serde_json::Value> {
    let serde_json::Value::Object(fields) = schema else {
        return Err(wrong("expected a JSON Schema object"));
    };
    let mut fields = fields.clone();
    fields.entry("x-guidance").or_insert_with(|| {
        serde_json::json!({ "whitespace_flexible": false, "item_separator": ", ", "key_separator": ": " })
    });
    Ok(fields.into())
}

fn one_of(choices: &[String]) -> Result<String> {
    if choices.is_empty() || choices.len() > MAX_CHOICES || choices.iter().any(String::is_empty) {
        return Err(wrong(format!(
            "choice: expected 1..={MAX_CHOICES} strings, none of them empty, found {}",
            choices.len()
        )));
    }
    // A Lark string is written as a JSON string.
    let quoted: Vec<_> = choices
        .iter()
        .map(|choice| serde_json::Value::from(choice.as_str()).to_string())
        .collect();
    Ok(format!("start: {}", quoted.join(" | ")))
}

/// Compiles grammars for one vocabulary.
pub(crate) struct GrammarCompiler {
    factory: ParserFactory,
    slices: Arc<Slices>,
    /// Newest last.
    compiled: Vec<(Grammar, Matcher)>,
}

impl GrammarCompiler {
    /// Describes the vocabulary; takes some hundredths of a second for 50,000 tokens. `eos` are the tokens that end an answer,
    /// at least one, all below the size of the vocabulary.
    pub(crate) fn new(tokenizer: Arc<Tokenizer>, eos: &[u32]) -> Result<Self> {
        let build = || -> Result<(ParserFactory, Arc<Slices>)> {
            let vocabulary = Arc::new(Vocabulary::new(tokenizer));
            let environment: TokEnv = Arc::clone(&vocabulary) as TokEnv;
            let capabilities = InferenceCapabilities {
                ff_tokens: true,
                ..InferenceCapabilities::default()
            };
            // The factory divides what it finds by itself: it finds one token, and the others come after it.
            let mut factory =
                ParserFactory::new(&environment, capabilities, &slices::expressions())
                    .map_err(|error| wrong(error.to_string()))?;
            factory.quiet();
            *factory.limits_mut() = ParserLimits {
                verbose_errors: false,
                ..ParserLimits::default()
            };
            vocabulary.describe(eos);
            Ok((factory, Arc::new(Slices::new(vocabulary))))
        };
        let (factory, slices) = catch_unwind(AssertUnwindSafe(build))
            .map_err(|_| wrong("the vocabulary cannot be described"))??;
        Ok(Self {
            factory,
            slices,
            compiled: Vec::new(),
        })
    }

    /// A grammar at its beginning.
    pub(crate) fn start(&mut self, grammar: &Grammar) -> Result<GrammarRun> {
        if let Some(at) = self.compiled.iter().position(|(known, _)| known == grammar) {
            let known = self.compiled.remove(at);
            let matcher = known.1.clone();
            self.compiled.push(known);
            return Ok(GrammarRun::new(matcher));
        }
        let mut parser = self.factory.create_parser(grammar.compile()?);
        if let Ok(parser) = &mut parser {
            parser.bias_computer = match grammar {
                Grammar::Regex(_) | Grammar::Choice(_) => {
                    Arc::new(Remembering::new(Arc::clone(&self.slices)))
                }
                Grammar::JsonSchema(_) | Grammar::Lark(_) => Arc::clone(&self.slices) as _,
            };
        }
        let matcher = Matcher::new(parser);
        if let Some(reason) = matcher.get_error() {
            return Err(wrong(reason));
        }
        if self.compiled.len() == MAX_COMPILED {
            self.compiled.remove(0);
        }
        self.compiled.push((grammar.clone(), matcher.clone()));
        Ok(GrammarRun::new(matcher))
    }
}

/// A grammar on its way through one answer.
pub(crate) struct GrammarRun {
    matcher: Matcher,
    /// Time of the last mask.
    mask: Duration,
}

impl GrammarRun {
    fn new(matcher: Matcher) -> Self {
        Self {
            matcher,
            mask: Duration::ZERO,
        }
    }

    /// Tokens that must come next; often none. They are not consumed yet.
    pub(crate) fn forced(&mut self) -> Result<Vec<u32>> {
        let tokens = self.matcher.compute_ff_tokens();
        match self.matcher.get_error() {
            Some(reason) => Err(wrong(reason)),
            None => Ok(tokens),
        }
    }

    /// Whether to ask for the likeliest token alone before asking for all that may come. Most masks are found faster than the
    /// likeliest token; those of counted repetitions take longer than everything else in a step but the model.
    pub(crate) fn is_slow(&self) -> bool {
        self.mask > SLOW_MASK
    }

    /// Whether this token may come next; `false` also when that cannot be told without the mask. (Of bytes that are forced
    /// the mask allows one division into tokens, a single question any.)
    pub(crate) fn surely_allows(&mut self, token: u32) -> Result<bool> {
        if !self.matcher.compute_ff_bytes().is_empty() {
            return Ok(false);
        }
        self.matcher
            .validate_tokens(&[token])
            .map(|valid| valid == 1)
            .map_err(|error| wrong(error.to_string()))
    }

    /// Tokens that may come next, with those that end the answer where it may end.
    pub(crate) fn allowed(&mut self) -> Result<SimpleVob> {
        let begun = Instant::now();
        let allowed = self.matcher.compute_mask_or_eos();
        self.mask = begun.elapsed();
        allowed.map_err(|error| wrong(error.to_string()))
    }

    /// Goes on by tokens that were allowed.
    pub(crate) fn consume(&mut self, tokens: &[u32]) -> Result<()> {
        self.matcher
            .consume_tokens(tokens)
            .map_err(|error| wrong(error.to_string()))
    }

    /// Whether nothing more can come.
    pub(crate) fn is_over(&self) -> bool {
        self.matcher.is_stopped()
    }

    /// Whether what came so far is a whole sentence of the grammar.
    pub(crate) fn is_complete(&mut self) -> bool {
        if self.matcher.is_stopped() {
            return self.matcher.stop_reason().is_ok();
        }
        self.matcher.is_accepting().unwrap_or(false)
    }
}

/// The vocabulary as llguidance sees it: a single token until it is described.
struct Vocabulary {
    tokenizer: Arc<Tokenizer>,
    single: TokTrie,
    whole: OnceLock<TokTrie>,
}

impl Vocabulary {
    fn new(tokenizer: Arc<Tokenizer>) -> Self {
        Self {
            tokenizer,
            single: TokTrie::from(&TokRxInfo::new(1, 0), &[b"a".to_vec()]),
            whole: OnceLock::new(),
        }
    }

    fn describe(&self, eos: &[u32]) {
        let vocab = self.tokenizer.vocab() as u32;
        let words: Vec<Vec<u8>> = (0..vocab)
            .map(|token| {
                let bytes = self.tokenizer.raw_bytes(token);
                if bytes.is_empty() {
                    // A gap: a name that no grammar asks for.
                    marked(format!("<[{token}]>").as_bytes())
                } else if self.tokenizer.is_special(token) {
                    marked(bytes)
                } else {
                    bytes.to_vec()
                }
            })
            .collect();
        let trie = TokTrie::from(&TokRxInfo::new(vocab, eos[0]), &words);
        self.whole.get_or_init(|| match eos {
            [_] => trie,
            _ => trie.with_eos_tokens(eos),
        });
    }
}

fn marked(name: &[u8]) -> Vec<u8> {
    [&[TokTrie::SPECIAL_TOKEN_MARKER], name].concat()
}

impl TokenizerEnv for Vocabulary {
    fn tok_trie(&self) -> &TokTrie {
        self.whole.get().unwrap_or(&self.single)
    }

    fn tokenize_bytes(&self, bytes: &[u8]) -> Vec<u32> {
        let trie = self.tok_trie();
        trie.tokenize_with_greedy_fallback(bytes, |text| {
            self.tokenizer
                .encode(text)
                .unwrap_or_else(|_| trie.greedy_tokenize(text.as_bytes()))
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::tiny::{END, VOCAB, tokenizer};
    use super::*;

    /// Grammars of every kind, and a text of each.
    fn cases() -> Vec<(Grammar, &'static str)> {
        let schema = serde_json::json!({"type": "object", "properties": {"name": {"type": "string", "maxLength": 9}, "n": {"type": "integer"}},
            "required": ["name", "n"], "additionalProperties": false});
        vec![
            (
                Grammar::JsonSchema(schema),
                r#"{"name": "the one", "n": 12}"#,
            ),
            (
                Grammar::Regex("[a-z ]{1,20}\\.".to_owned()),
                "the thing itself.",
            ),
            (
                Grammar::Choice(vec!["this".to_owned(), "that".to_owned(), "the".to_owned()]),
                "that",
            ),
            (
                Grammar::Lark("start: \"x\" digit+\ndigit: /[5-9]/".to_owned()),
                "x567",
            ),
        ]
    }

    /// Longer grammars, in which slices apply and masks come again.
    fn longer_cases() -> Vec<(Grammar, &'static str)> {
        let text = r#"the thing "quoted", ünd 猫s, and a long rest of it all"#;
        let schema = serde_json::json!({"type": "object", "properties": {"any": {"type": "string"}, "n": {"type": "number"}},
            "required": ["any", "n"], "additionalProperties": false});
        let mut cases = cases();
        cases.extend([
            (Grammar::Regex("[^x]{1,90}".to_owned()), text),
            (
                Grammar::Regex("(the|that)( [a-z]+)*\\.".to_owned()),
                "the thing that thinks.",
            ),
            (
                Grammar::JsonSchema(schema),
                r#"{"any": "the \\ thing\" 猫", "n": -1.5e3}"#,
            ),
        ]);
        cases
    }

    /// Masks of our slices are those of llguidance's, in every state and also when they come from memory.
    #[test]
    fn masks_are_those_of_llguidance() {
        let tokenizer = Arc::new(tokenizer());
        let mut compiler = GrammarCompiler::new(Arc::clone(&tokenizer), &[END]).unwrap();
        let vocabulary = Arc::new(Vocabulary::new(Arc::clone(&tokenizer)));
        vocabulary.describe(&[END]);
        let environment: TokEnv = vocabulary;
        let slices = llguidance::earley::SlicedBiasComputer::general_slices();
        let capabilities = InferenceCapabilities {
            ff_tokens: true,
            ..InferenceCapabilities::default()
        };
        let theirs = ParserFactory::new(&environment, capabilities, &slices).unwrap();
        for (grammar, text) in longer_cases() {
            for round in ["fresh", "again"] {
                let mut run = compiler.start(&grammar).unwrap();
                let mut reference = Matcher::new(theirs.create_parser(grammar.compile().unwrap()));
                for token in tokenizer.encode(text).unwrap() {
                    let expected = reference.compute_mask_or_eos().unwrap();
                    let found = run.allowed().unwrap();
                    assert_eq!(
                        found.to_list(),
                        expected.to_list(),
                        "{grammar:?}, {round}, before {token}"
                    );
                    run.consume(&[token]).unwrap();
                    reference.consume_tokens(&[token]).unwrap();
                }
                assert!(run.is_complete(), "{grammar:?}");
            }
        }
    }

    #[test]
    fn what_is_surely_allowed_is_in_the_mask() {
        let tokenizer = Arc::new(tokenizer());
        let mut compiler = GrammarCompiler::new(Arc::clone(&tokenizer), &[END]).unwrap();
        for (grammar, text) in cases() {
            let mut run = compiler.start(&grammar).unwrap();
            let (mut sure, mut in_masks) = (0, 0);
            for token in tokenizer.encode(text).unwrap() {
                let allowed = run.allowed().unwrap();
                for token in 0..VOCAB as u32 {
                    let surely = run.surely_allows(token).unwrap();
                    assert!(
                        !surely || allowed.is_allowed(token),
                        "{grammar:?}, before {token}"
                    );
                    sure += usize::from(surely);
                    in_masks += usize::from(allowed.is_allowed(token));
                }
                run.consume(&[token]).unwrap();
            }
            assert!(run.is_complete(), "{grammar:?}");
            let free = matches!(grammar, Grammar::Regex(_));
            assert!(
                !free || sure == in_masks,
                "nothing is forced: {sure} of {in_masks}"
            );
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]

        /// Whether or not the favourite is asked for first, the same token is chosen.
        #[test]
        fn the_favourite_first_changes_nothing(scores in prop::collection::vec(-9.0_f32..9.0, VOCAB)) {
            let tokenizer = Arc::new(tokenizer());
            let mut compiler = GrammarCompiler::new(Arc::clone(&tokenizer), &[END]).unwrap();
            let sampler = crate::text::sampler::Sampler::new(crate::text::Sampling::Greedy);
            for (grammar, text) in cases() {
                let mut run = compiler.start(&grammar).unwrap();
                for token in tokenizer.encode(text).unwrap() {
                    let allowed = run.allowed().unwrap();
                    let favourite = sampler.favourite(&scores).unwrap();
                    let best = (0..VOCAB as u32)
                        .filter(|token| allowed.is_allowed(*token))
                        .max_by(|a, b| scores[*a as usize].total_cmp(&scores[*b as usize]).then(b.cmp(a)));
                    if run.surely_allows(favourite).unwrap() {
                        prop_assert_eq!(Some(favourite), best);
                    }
                    run.consume(&[token]).unwrap();
                }
            }
        }
    }
}
