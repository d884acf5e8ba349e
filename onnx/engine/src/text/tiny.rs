//! A model and a vocabulary of a few lines, for tests: every byte is a token, and a function says which token comes next.
//!
//! Its keys and values are the tokens themselves, page by page. It knows of a sequence only what its page table leads to,
//! so an answer comes out right only if every page was written, shared and copied right.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use super::answer::Language;
use super::generation::Generation;
use super::request::{Finished, Request};
use super::server::TextServer;
use super::step::{Memory, Rows, StepModel};
use super::tokenizer::Tokenizer;
use crate::error::Result;

/// Ends an answer.
pub(crate) const END: u32 = 256;
/// Begins a message; special, but ends nothing.
pub(crate) const BEGIN: u32 = 257;
/// Two letters, so that a text has more than one way to be written.
pub(crate) const TH: u32 = 258;
pub(crate) const VOCAB: usize = 260;

/// `tokenizer.json` with 256 bytes, one merge and two special tokens; one id is a gap.
pub(crate) fn tokenizer_json() -> String {
    let printable = |byte: u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let mut next = 0x100;
    let mut vocab = serde_json::Map::new();
    for byte in 0..=u8::MAX {
        let character = if printable(byte) {
            char::from(byte)
        } else {
            next += 1;
            char::from_u32(next - 1).unwrap()
        };
        vocab.insert(character.to_string(), byte.into());
    }
    vocab.insert("th".to_owned(), TH.into());
    vocab.insert("<|end|>".to_owned(), END.into());
    vocab.insert("<|begin|>".to_owned(), BEGIN.into());
    let special = |id: u32, content: &str| serde_json::json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true});
    serde_json::json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "post_processor": null,
        "added_tokens": [special(END, "<|end|>"), special(BEGIN, "<|begin|>")],
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false},
        "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false},
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": vocab, "merges": [["t", "h"]]},
    })
    .to_string()
}

pub(crate) fn tokenizer() -> Tokenizer {
    Tokenizer::new("tiny", tokenizer_json().as_bytes(), VOCAB).unwrap()
}

type Answer = Box<dyn FnMut(&[u32], &mut [f32]) -> Result<()>>;

/// What a model has room for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) context: usize,
    pub(crate) page_tokens: usize,
    pub(crate) pages: usize,
    pub(crate) rows: usize,
    pub(crate) sequences: usize,
    /// Most scored tokens of a sequence in a step.
    pub(crate) scored: usize,
}

impl Shape {
    /// As the stock graph: one sequence, one page.
    pub(crate) const fn alone(context: usize) -> Self {
        Self {
            context,
            page_tokens: context,
            pages: 1,
            rows: 128,
            sequences: 1,
            scored: 1,
        }
    }
}

/// The model: `answer` sees all tokens of a sequence so far and raises the scores it likes.
struct TinyModel {
    shape: Shape,
    /// Tokens written to each page.
    memory: Vec<Vec<u32>>,
    scores: Vec<Vec<f32>>,
    runs: Rc<RefCell<Vec<Vec<usize>>>>,
    answer: Answer,
}

/// A server on such a model.
pub(crate) struct Bench {
    pub(crate) server: TextServer,
    runs: Rc<RefCell<Vec<Vec<usize>>>>,
}

impl Bench {
    /// One sequence at a time, as the stock graph.
    pub(crate) fn new(
        context: usize,
        answer: impl FnMut(&[u32], &mut [f32]) -> Result<()> + 'static,
    ) -> Self {
        Self::shaped(Shape::alone(context), answer)
    }

    pub(crate) fn shaped(
        shape: Shape,
        answer: impl FnMut(&[u32], &mut [f32]) -> Result<()> + 'static,
    ) -> Self {
        let runs = Rc::default();
        let model = TinyModel {
            shape,
            memory: vec![Vec::new(); shape.pages],
            scores: Vec::new(),
            runs: Rc::clone(&runs),
            answer: Box::new(answer),
        };
        let language = Language {
            name: "tiny".to_owned(),
            tokenizer: Arc::new(tokenizer()),
            eos: vec![END],
        };
        Self {
            server: TextServer::new(language, Box::new(model), usize::MAX),
            runs,
        }
    }

    /// Answers with this text after a prompt that ends with `>`, then ends.
    pub(crate) fn saying(context: usize, text: &str) -> Self {
        Self::new(context, says(text))
    }

    /// Tokens of each sequence in each run, in order, and forgets them.
    pub(crate) fn batches(&self) -> Vec<Vec<usize>> {
        self.runs.take()
    }

    /// Tokens of each run, in order, and forgets them.
    pub(crate) fn runs(&self) -> Vec<usize> {
        self.batches()
            .iter()
            .map(|batch| batch.iter().sum())
            .collect()
    }

    pub(crate) fn generate(&mut self, request: &Request) -> Result<Generation<'_>> {
        let id = self
            .server
            .submit_anyway(request, std::time::Instant::now())?;
        Ok(Generation::new(&mut self.server, id))
    }

    pub(crate) fn answer(&mut self, request: &Request) -> Result<Finished> {
        self.generate(request)?.finish()
    }
}

/// Answers with this text after the last `>`, then ends.
pub(crate) fn says(text: &str) -> impl FnMut(&[u32], &mut [f32]) -> Result<()> + 'static {
    let text = text.as_bytes().to_vec();
    move |seen, scores| {
        let begun = seen
            .iter()
            .rposition(|token| *token == u32::from(b'>'))
            .map_or(seen.len(), |at| at + 1);
        let next = text
            .get(seen.len() - begun)
            .map_or(END, |byte| u32::from(*byte));
        scores[next as usize] = 1.0;
        Ok(())
    }
}

impl TinyModel {
    fn write(&mut self, rows: &Rows<'_>) {
        let size = self.shape.page_tokens;
        for (at, token) in (rows.start..).zip(rows.tokens) {
            let page = &mut self.memory[rows.pages[at / size] as usize];
            assert!(
                at % size <= page.len(),
                "position {at} follows what is there"
            );
            page.truncate(at % size);
            page.push(*token);
        }
    }

    fn read(&self, rows: &Rows<'_>) -> Vec<u32> {
        let (size, end) = (self.shape.page_tokens, rows.start + rows.tokens.len());
        (0..end)
            .map(|at| self.memory[rows.pages[at / size] as usize][at % size])
            .collect()
    }
}

impl StepModel for TinyModel {
    fn context(&self) -> usize {
        self.shape.context
    }

    fn memory(&self) -> Memory {
        Memory {
            page_tokens: self.shape.page_tokens,
            pages: self.shape.pages,
            page_bytes: 1,
        }
    }

    fn rows_max(&self) -> usize {
        self.shape.rows
    }

    fn sequences_max(&self) -> usize {
        self.shape.sequences
    }

    fn scored_max(&self) -> usize {
        self.shape.scored
    }

    fn step(&mut self, batch: &[Rows<'_>]) -> Result<()> {
        let counts: Vec<usize> = batch.iter().map(|rows| rows.tokens.len()).collect();
        assert!(
            !counts.contains(&0)
                && counts.len() <= self.shape.sequences
                && counts.iter().sum::<usize>() <= self.shape.rows,
            "the server keeps to the limits: {counts:?}"
        );
        self.runs.borrow_mut().push(counts);
        self.scores.clear();
        batch.iter().for_each(|rows| self.write(rows));
        for rows in batch {
            let seen = self.read(rows);
            assert!(seen.len() <= self.shape.context && seen.ends_with(rows.tokens));
            assert!(
                rows.scored <= rows.tokens.len() && rows.scored <= self.shape.scored,
                "the server keeps to the limits: {rows:?}"
            );
            // A model that fails does so whether or not its scores are wanted.
            for hidden in (0..rows.scored.max(1)).rev() {
                let mut scores = vec![0.0; VOCAB];
                (self.answer)(&seen[..seen.len() - hidden], &mut scores)?;
                if rows.scored > 0 {
                    self.scores.push(scores);
                }
            }
        }
        Ok(())
    }

    fn scores(&self, index: usize) -> &[f32] {
        &self.scores[index]
    }

    fn copy_page(&mut self, from: u32, to: u32, tokens: usize) -> Result<()> {
        self.memory[to as usize] = self.memory[from as usize][..tokens].to_vec();
        Ok(())
    }
}
