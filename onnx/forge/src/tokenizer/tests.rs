//! Vocabularies of a few tokens, worked out by hand, through the tokenizers library that the engine reads them with.

use tokenizers::Tokenizer;

use super::*;
use crate::gguf::sample::Sample;

/// A GGUF file of a vocabulary.
fn sample(model: &str, tokens: &[&str], types: &[i32]) -> Sample {
    Sample::default()
        .string(MODEL, model)
        .strings(TOKENS, tokens)
        .integers(TYPES, types)
        .unsigned(EOS, 0)
}

/// What a sample says, and its tokenizer.json.
fn read(sample: &Sample, vocab: usize) -> Result<(Vec<u64>, u64, bool, Vec<u8>), ForgeError> {
    let bytes = sample.bytes(0);
    let gguf = Gguf::parse(&bytes)?;
    let read = Vocabulary::read(&gguf, vocab)?;
    Ok((read.eos.clone(), read.bos, read.add_bos, read.to_json()))
}

/// The texts of the tokens of a text.
fn tokens(sample: &Sample, vocab: usize, text: &str) -> Vec<String> {
    let (.., json) = read(sample, vocab).unwrap();
    let tokenizer = Tokenizer::from_bytes(&json).unwrap();
    let encoding = tokenizer.encode(text, false).unwrap();
    for (id, token) in encoding.get_ids().iter().zip(encoding.get_tokens()) {
        assert_eq!(tokenizer.token_to_id(token), Some(*id));
    }
    encoding.get_tokens().to_vec()
}

const BYTES: [&str; 12] = [
    "<|endoftext|>",
    "1",
    "2",
    "3",
    "4",
    "12",
    "123",
    "1234",
    "a",
    "Ġ",
    "'",
    "<tool>",
];
const BYTE_TYPES: [i32; 12] = [3, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 4];

fn byte_level(rule: &str) -> Sample {
    sample("gpt2", &BYTES, &BYTE_TYPES)
        .string("tokenizer.ggml.pre", rule)
        .strings(MERGES, &["1 2", "12 3", "123 4"])
}

#[test]
fn rules_split_numbers_in_their_own_way() {
    const CASES: [(&str, &str, &[&str]); 8] = [
        ("gpt-2", "1234a", &["1234", "a"]),
        ("smollm", "1234a", &["1", "2", "3", "4", "a"]),
        ("llama-bpe", "1234a", &["123", "4", "a"]),
        ("qwen2", "1234a", &["1", "2", "3", "4", "a"]),
        ("gpt-2", " 12 a", &["Ġ", "12", "Ġ", "a"]),
        ("llama3", " 12 a", &["Ġ", "12", "Ġ", "a"]),
        ("gpt-2", "a<tool>12", &["a", "<tool>", "12"]),
        ("qwen2", "<|endoftext|>a", &["<|endoftext|>", "a"]),
    ];
    for (rule, text, expected) in CASES {
        assert_eq!(
            tokens(&byte_level(rule), 12, text),
            expected,
            "{rule} {text:?}"
        );
    }
}

#[test]
fn control_tokens_vanish_in_text_and_added_ones_do_not() {
    let (eos, bos, add_bos, json) = read(&byte_level("llama-bpe"), 12).unwrap();
    assert_eq!((eos, bos, add_bos), (vec![0], 0, true));
    let json: Value = serde_json::from_slice(&json).unwrap();
    let added = json["added_tokens"].as_array().unwrap();
    let specials: Vec<_> = added
        .iter()
        .map(|token| (&token["content"], &token["special"]))
        .collect();
    assert_eq!(
        specials,
        [
            (&json!("<|endoftext|>"), &json!(true)),
            (&json!("<tool>"), &json!(false))
        ]
    );
    assert_eq!(json["model"]["ignore_merges"], true);
    assert!(!read(&byte_level("qwen2"), 12).unwrap().2);
}

/// Gemma's kind: scores are negative ranks, a run of spaces is a token that users have added.
fn pieces(prefix: bool) -> Sample {
    let tokens = [
        "<unk>",
        "<bos>",
        "<eos>",
        "<end_of_turn>",
        "<0xC3>",
        "<0xA9>",
        "  ",
        "bc",
        "ab",
        "▁a",
        "▁",
        "a",
        "b",
        "c",
        "abc",
    ];
    let types = [2, 3, 3, 3, 6, 6, 4, 1, 1, 1, 1, 1, 1, 1, 1];
    let scores: Vec<f32> = (0..15_u8).map(|rank| -f32::from(rank)).collect();
    sample("llama", &tokens, &types)
        .numbers(SCORES, &scores)
        .unsigned(BOS, 1)
        .flag("tokenizer.ggml.add_space_prefix", prefix)
}

#[test]
fn best_scores_merge_first() {
    const CASES: [(bool, &str, &[&str], &str); 8] = [
        (false, "ab", &["ab"], "a merge"),
        (false, "abb", &["ab", "b"], "no token of all"),
        (false, "abc", &["abc"], "bc first, then a with bc"),
        (
            false,
            "aabc bc",
            &["a", "abc", "▁", "bc"],
            "a space is a letter",
        ),
        (
            false,
            "a  a",
            &["a", "  ", "a"],
            "added tokens come before spaces are letters",
        ),
        (
            false,
            "é",
            &["<0xC3>", "<0xA9>"],
            "bytes of what no token covers",
        ),
        (
            true,
            "ab",
            &["▁", "ab"],
            "a space in front, which ab leaves alone",
        ),
        (true, "a", &["▁a"], "a space in front"),
    ];
    for (prefix, text, expected, why) in CASES {
        assert_eq!(tokens(&pieces(prefix), 15, text), expected, "{why}");
    }
    let (eos, bos, add_bos, json) = read(&pieces(false), 15).unwrap();
    assert_eq!((eos, bos, add_bos), (vec![0, 3], 1, true));
    let tokenizer = Tokenizer::from_bytes(&json).unwrap();
    assert_eq!(tokenizer.decode(&[9, 4, 5, 13], true).unwrap(), " aéc");
}

#[test]
fn words_and_their_continuations() {
    let tokens_of = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "▁play",
        "ing",
        "▁!",
        "▁e",
        "[unused1]",
    ];
    let types = [3, 3, 3, 3, 1, 1, 1, 1, 1];
    let sample = sample("bert", &tokens_of, &types);
    assert_eq!(
        tokens(&sample, 9, "Playing é!"),
        ["play", "##ing", "e", "!"]
    );
    assert_eq!(tokens(&sample, 9, "played"), ["[UNK]"]);
    let (eos, bos, _, json) = read(&sample, 9).unwrap();
    assert_eq!((eos, bos), (vec![3], 2));
    let tokenizer = Tokenizer::from_bytes(&json).unwrap();
    let encoding = tokenizer.encode(("play", "play"), true).unwrap();
    assert_eq!(encoding.get_ids(), [2, 4, 3, 4, 3]);
    assert_eq!(encoding.get_type_ids(), [0, 0, 0, 1, 1]);
}

#[test]
fn vocabularies_that_do_not_fit_together() {
    let merge = |merge: &str| {
        sample("gpt2", &BYTES, &BYTE_TYPES)
            .string("tokenizer.ggml.pre", "gpt-2")
            .strings(MERGES, &["1 2", merge])
    };
    let short = sample("llama", &["a", "b"], &[6, 1]).numbers(SCORES, &[1.0]);
    let cases: [(&str, Sample, usize, &str); 11] = [
        (
            "an algorithm",
            sample("t5", &["a"], &[1]),
            1,
            "found \"t5\"",
        ),
        (
            "a rule",
            byte_level("gpt-4o"),
            12,
            "or \"qwen2\", found \"gpt-4o\"",
        ),
        (
            "too few tokens",
            byte_level("gpt-2"),
            13,
            "tokens: expected 13 entries, found 12",
        ),
        (
            "too few types",
            sample("bert", &["a", "b"], &[1]),
            2,
            "token_type: expected 2 entries, found 1",
        ),
        (
            "a token twice",
            sample("bert", &["a", "a"], &[1, 1]),
            2,
            "token 1 (\"a\") occurs twice",
        ),
        ("half a merge", merge("12"), 12, "merge 1 (\"12\")"),
        ("a merge to nothing", merge("2 1"), 12, "merge 1 (\"2 1\")"),
        (
            "a score too few",
            short,
            2,
            "scores: expected 2 entries, found 1",
        ),
        (
            "no bytes",
            sample("llama", &["a"], &[1]).numbers(SCORES, &[1.0]),
            1,
            "<0x00> (a 6 in",
        ),
        (
            "no number",
            sample("llama", &["a"], &[6]).numbers(SCORES, &[f32::NAN]),
            1,
            "score of token 0 is NaN",
        ),
        (
            "no [SEP]",
            sample("bert", &["[CLS]"], &[3]),
            1,
            "token \"[SEP]\" is missing",
        ),
    ];
    for (why, sample, vocab, expected) in cases {
        let message = read(&sample, vocab).expect_err(why).to_string();
        assert!(message.contains(expected), "{why}: {message}");
    }
    let far = byte_level("gpt-2").unsigned(END_OF_TURN, 12);
    let message = read(&far, 12).unwrap_err().to_string();
    assert!(
        message.contains("eot_token_id: expected an id below 12, found 12"),
        "{message}"
    );
}
