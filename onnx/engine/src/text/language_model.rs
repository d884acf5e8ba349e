//! A loaded language model: folder in, answers out.

use std::sync::Arc;

use super::chat::{ChatMessage, ChatTemplate, MAX_TEMPLATE_BYTES};
use super::decoder::{Decoder, LlamaConfig};
use super::generate::{Generation, PREFILL_CHUNK, Parts, TokenModel};
use super::grammar::{Grammar, GrammarCompiler};
use super::rate::Rate;
use super::request::{MAX_PROMPT_BYTES, Request};
use super::tokenizer::{MAX_TOKENIZER_BYTES, Tokenizer};
use crate::error::{EngineError, Result};
use crate::folder::{MANIFEST, ModelFolder};
use crate::runtime::Runtime;
use crate::session::Terminator;

const FAMILY: &str = "llama";
const GRAPH: &str = "model.onnx";
const TOKENIZER: &str = "tokenizer.json";
const TEMPLATE: &str = "chat_template.jinja";
/// Single tokens that a warm-up measures.
const WARM_UP_STEPS: usize = 6;

/// How a model is loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoadOptions {
    /// Tokens of prompt and answer together; decides the memory of the cache. At most the model's own context.
    pub context: usize,
}

/// A language model that is ready to answer. It answers one request at a time.
pub struct LanguageModel {
    name: String,
    config: LlamaConfig,
    decoder: Decoder,
    tokenizer: Arc<Tokenizer>,
    chat: Option<ChatTemplate>,
    /// Made when the first grammar is asked for, or by the warm-up.
    grammars: Option<GrammarCompiler>,
    rate: Rate,
    weight_bytes: u64,
}

impl LanguageModel {
    /// Opens a model folder of family `llama`.
    ///
    /// # Errors
    /// Those of [`ModelFolder`] and [`Session`](crate::session::Session) for its files, [`EngineError::Tokenizer`],
    /// [`EngineError::ChatTemplate`], and [`EngineError::Option`] for a context out of range.
    pub fn load(runtime: &Runtime, folder: &ModelFolder, options: &LoadOptions) -> Result<Self> {
        folder.expect_family(FAMILY)?;
        let name = folder.manifest.name.as_str();
        let config: LlamaConfig = folder.config()?;
        config.check().map_err(|reason| EngineError::Manifest {
            path: folder.dir.join(MANIFEST),
            reason,
        })?;
        if !(2..=config.context).contains(&options.context) {
            return Err(EngineError::Option {
                option: "context",
                expected: format!("2..={} as model {name} allows", config.context),
                found: options.context.to_string(),
            });
        }
        let tokenizer = Tokenizer::new(
            name,
            &folder.read(TOKENIZER, MAX_TOKENIZER_BYTES)?,
            config.vocab,
        )?;
        let chat =
            if folder.manifest.files.contains_key(TEMPLATE) {
                let source = String::from_utf8(folder.read(TEMPLATE, MAX_TEMPLATE_BYTES)?)
                    .map_err(|error| EngineError::ChatTemplate {
                        model: name.to_owned(),
                        reason: error.to_string(),
                    })?;
                let word =
                    |token: Option<u32>| token.map_or(&[][..], |token| tokenizer.raw_bytes(token));
                let (bos, eos) = (word(config.bos), word(config.eos.first().copied()));
                Some(ChatTemplate::new(
                    name,
                    &source,
                    &String::from_utf8_lossy(bos),
                    &String::from_utf8_lossy(eos),
                )?)
            } else {
                None
            };
        let decoder = Decoder::open(
            runtime,
            name,
            &folder.path(GRAPH)?,
            &config,
            options.context,
        )?;
        Ok(Self {
            name: name.to_owned(),
            config,
            decoder,
            tokenizer: Arc::new(tokenizer),
            chat,
            grammars: None,
            rate: Rate::default(),
            weight_bytes: folder.manifest.files.values().map(|file| file.bytes).sum(),
        })
    }

    /// Its name in the catalogue.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its settings.
    #[must_use]
    pub fn config(&self) -> &LlamaConfig {
        &self.config
    }

    /// Tokens of prompt and answer together.
    #[must_use]
    pub fn context(&self) -> usize {
        self.decoder.context()
    }

    /// Size of its files and of a full cache: what to count before start.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        self.weight_bytes
            .saturating_add(self.decoder.cache_bytes() as u64)
    }

    /// Token ids of a text.
    ///
    /// # Errors
    /// [`EngineError::PromptTooLarge`], [`EngineError::Tokenizer`].
    pub fn tokenize(&self, text: &str) -> Result<Vec<u32>> {
        if text.len() > MAX_PROMPT_BYTES {
            return Err(EngineError::PromptTooLarge {
                found_bytes: text.len(),
                limit_bytes: MAX_PROMPT_BYTES,
            });
        }
        self.tokenizer.encode(text)
    }

    /// The prompt for a conversation, by the model's own template. Special tokens written in the messages are removed: what
    /// people say cannot end their message and begin another one.
    ///
    /// # Errors
    /// [`EngineError::ChatTemplate`] when the model has none or it refuses, [`EngineError::PromptTooLarge`].
    pub fn chat(&self, messages: &[ChatMessage]) -> Result<String> {
        let template = self
            .chat
            .as_ref()
            .ok_or_else(|| EngineError::ChatTemplate {
                model: self.name.clone(),
                reason: format!("{TEMPLATE} is missing; write the prompt yourself"),
            })?;
        let clean: Vec<_> = messages
            .iter()
            .map(|message| {
                ChatMessage::new(
                    message.role,
                    self.tokenizer.without_special(&message.content),
                )
            })
            .collect();
        template.render(&clean)
    }

    /// Runs the model once in all the ways it will be run, so that the first answer is not slower than the others, and
    /// measures its rates. Forgets the cache.
    ///
    /// # Errors
    /// Those of a run.
    pub fn warm_up(&mut self) -> Result<()> {
        self.grammars()?;
        self.decoder.forget_termination()?;
        let token = self.config.bos.unwrap_or(self.config.eos[0]);
        let prompt = vec![token; PREFILL_CHUNK.min(self.decoder.context() - 1)];
        // The first run of each kind pays for memory that the later ones find: it is not measured.
        self.decoder.rewind(0);
        self.decoder.append(&prompt[..prompt.len().min(2)])?;
        self.decoder.append(&[token])?;
        self.decoder.rewind(0);
        self.timed(&prompt)?;
        let room = self.decoder.context() - prompt.len();
        for _ in 0..WARM_UP_STEPS.min(room) {
            self.timed(&[token])?;
        }
        self.decoder.rewind(0);
        if self.decoder.scores().iter().any(|score| score.is_finite()) {
            return Ok(());
        }
        Err(EngineError::NotFinite {
            model: self.name.clone(),
        })
    }

    /// How fast it has been lately, on this computer and under its load.
    #[must_use]
    pub fn measured_rate(&self) -> Rate {
        self.rate
    }

    /// Scores after each token of a text, from an empty cache: `each` hears the position of the token and the scores for the one after
    /// it. For measuring the quality of weights; one token a run.
    ///
    /// # Errors
    /// [`EngineError::PromptTooLong`], [`EngineError::Request`] for a token that does not exist, and those of a run.
    pub fn score_each(
        &mut self,
        tokens: &[u32],
        each: &mut dyn FnMut(usize, &[f32]),
    ) -> Result<()> {
        self.decoder.forget_termination()?;
        self.decoder.rewind(0);
        for (position, token) in tokens.iter().enumerate() {
            self.decoder.append(&[*token])?;
            each(position, self.decoder.scores());
        }
        Ok(())
    }

    /// A handle that ends the running generation from another thread, also in the middle of a run; the generation then
    /// returns [`EngineError::Terminated`], or ends with its own reason if it was cancelled or too late.
    #[must_use]
    pub fn terminator(&self) -> Terminator {
        self.decoder.terminator()
    }

    /// Forgets the cached beginning of the last prompt.
    pub fn forget(&mut self) {
        self.decoder.rewind(0);
    }

    /// Compiles a grammar now instead of at the first request that uses it.
    ///
    /// # Errors
    /// [`EngineError::Grammar`].
    pub fn prepare_grammar(&mut self, grammar: &Grammar) -> Result<()> {
        self.grammars()?.start(grammar).map(|_| ())
    }

    /// Begins an answer. The beginning of the prompt that equals the last one is not computed again.
    ///
    /// # Errors
    /// [`EngineError::Request`], [`EngineError::PromptEmpty`], [`EngineError::PromptTooLong`],
    /// [`EngineError::PromptTooLarge`], [`EngineError::Grammar`].
    pub fn generate(&mut self, request: &Request) -> Result<Generation<'_>> {
        let grammar = match &request.grammar {
            Some(grammar) => Some(self.grammars()?.start(grammar)?),
            None => None,
        };
        self.decoder.forget_termination()?;
        let parts = Parts {
            name: &self.name,
            model: &mut self.decoder,
            tokenizer: &self.tokenizer,
            rate: &mut self.rate,
            eos: &self.config.eos,
        };
        Generation::start(parts, request, grammar)
    }

    fn grammars(&mut self) -> Result<&mut GrammarCompiler> {
        let grammars = match self.grammars.take() {
            Some(grammars) => grammars,
            None => GrammarCompiler::new(Arc::clone(&self.tokenizer), &self.config.eos)?,
        };
        Ok(self.grammars.insert(grammars))
    }

    fn timed(&mut self, tokens: &[u32]) -> Result<()> {
        let begun = std::time::Instant::now();
        self.decoder.append(tokens)?;
        self.rate.record(tokens.len(), begun.elapsed());
        Ok(())
    }
}

impl std::fmt::Debug for LanguageModel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LanguageModel")
            .field("name", &self.name)
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}
