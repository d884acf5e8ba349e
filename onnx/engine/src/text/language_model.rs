//! A loaded language model: folder in, answers out.

use std::sync::Arc;
use std::time::Instant;

use super::answer::Language;
use super::chat::{ChatMessage, ChatTemplate, MAX_TEMPLATE_BYTES};
use super::decoder::{Decoder, LlamaConfig};
use super::generation::Generation;
use super::grammar::Grammar;
use super::rate::Rate;
use super::request::{MAX_PROMPT_BYTES, Request};
use super::server::TextServer;
use super::step::StepModel;
use super::tokenizer::{MAX_TOKENIZER_BYTES, Tokenizer};
use crate::error::{EngineError, Result};
use crate::folder::{MANIFEST, ModelFolder};
use crate::fused::{FusedDecoder, Limits};
use crate::runtime::Runtime;
use crate::session::Terminator;

const FAMILY: &str = "llama";
const GRAPH: &str = "model.onnx";
const FUSED_GRAPH: &str = "fused.onnx";
const TOKENIZER: &str = "tokenizer.json";
const TEMPLATE: &str = "chat_template.jinja";

/// How a model is loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoadOptions {
    /// Tokens of a prompt and its answer together. At most the model's own context.
    pub context: usize,
    /// Most answers that run at once. The portable graph runs one, whatever is asked for.
    pub sequences: usize,
    /// Memory for keys and values of all answers and of earlier prompts, in bytes. `None` for as much as one answer of the
    /// whole context needs, which several share.
    pub cache_bytes: Option<usize>,
    /// Which of the folder's graphs runs.
    pub graph: GraphChoice,
}

/// Which of a folder's two graphs of the same weights runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum GraphChoice {
    /// The fused one if the folder has it, else the portable one.
    #[default]
    Best,
    /// The one of our own operators: many answers at once.
    Fused,
    /// The one of ONNX Runtime's operators: one answer at a time; what the other is compared with.
    Portable,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self {
            context: 1024,
            sequences: 8,
            cache_bytes: None,
            graph: GraphChoice::Best,
        }
    }
}

/// What a language model is made of. Opened from a folder by [`LanguageModel::load`]; put together by hand for a model
/// that runs in another way, such as a test's.
pub struct LanguageParts {
    /// Name in messages.
    pub name: String,
    /// What runs.
    pub model: Box<dyn StepModel>,
    /// Text of `tokenizer.json`.
    pub tokenizer: Vec<u8>,
    /// Tokens the model has scores for.
    pub vocab: usize,
    /// Chat template (Jinja), if there is one.
    pub chat: Option<String>,
    /// Token that begins a sequence, if there is one.
    pub bos: Option<u32>,
    /// Whether every prompt begins with `bos`, also where nobody wrote it.
    pub add_bos: bool,
    /// Tokens that end an answer, at least one.
    pub eos: Vec<u32>,
    /// Most memory, of that of the model, for beginnings of earlier prompts. They give way when it is needed, so there is
    /// no reason to set it below `usize::MAX` but to measure.
    pub prefix_bytes: usize,
}

/// A language model that is ready to answer.
pub struct LanguageModel {
    server: TextServer,
    chat: Option<ChatTemplate>,
    bos: Option<u32>,
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
        let tokenizer = folder.read(TOKENIZER, MAX_TOKENIZER_BYTES)?;
        let chat = if folder.manifest.files.contains_key(TEMPLATE) {
            let source = folder.read(TEMPLATE, MAX_TEMPLATE_BYTES)?;
            let text = String::from_utf8(source).map_err(|error| EngineError::ChatTemplate {
                model: name.to_owned(),
                reason: error.to_string(),
            })?;
            Some(text)
        } else {
            None
        };
        let mut loaded = Self::from_parts(LanguageParts {
            name: name.to_owned(),
            model: open_model(runtime, folder, &config, options)?,
            tokenizer,
            vocab: config.vocab,
            chat,
            bos: config.bos,
            add_bos: config.add_bos,
            eos: config.eos,
            prefix_bytes: usize::MAX,
        })?;
        loaded.weight_bytes = folder.manifest.files.values().map(|file| file.bytes).sum();
        Ok(loaded)
    }

    /// Puts a language model together.
    ///
    /// # Errors
    /// [`EngineError::Tokenizer`], [`EngineError::ChatTemplate`], and [`EngineError::Option`] for special tokens or a model
    /// out of range.
    pub fn from_parts(parts: LanguageParts) -> Result<Self> {
        let name = parts.name.as_str();
        let special = parts.eos.iter().chain(&parts.bos);
        if parts.eos.is_empty() || special.clone().any(|token| *token as usize >= parts.vocab) {
            return Err(EngineError::Option {
                option: "eos and bos",
                expected: format!("tokens below {}, at least one of them eos", parts.vocab),
                found: format!("{:?}", special.collect::<Vec<_>>()),
            });
        }
        check_model(parts.model.as_ref())?;
        let tokenizer = Tokenizer::new(name, &parts.tokenizer, parts.vocab)?
            .beginning_with(parts.bos.filter(|_| parts.add_bos));
        let word = |token: Option<u32>| {
            let bytes = token.map_or(&[][..], |token| tokenizer.raw_bytes(token));
            String::from_utf8_lossy(bytes).into_owned()
        };
        let chat = match &parts.chat {
            Some(source) => Some(ChatTemplate::new(
                name,
                source,
                &word(parts.bos),
                &word(parts.eos.first().copied()),
            )?),
            None => None,
        };
        let language = Language {
            name: parts.name,
            tokenizer: Arc::new(tokenizer),
            eos: parts.eos,
        };
        Ok(Self {
            server: TextServer::new(language, parts.model, parts.prefix_bytes),
            chat,
            bos: parts.bos,
            weight_bytes: 0,
        })
    }

    /// Its name in the catalogue.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.server.language().name
    }

    /// Tokens of prompt and answer together.
    #[must_use]
    pub fn context(&self) -> usize {
        self.server.context()
    }

    /// Size of its files and of its keys and values: what to count before start.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        self.weight_bytes
            .saturating_add(self.server.cache_bytes() as u64)
    }

    /// Size of its keys and values when all their pages are written.
    #[must_use]
    pub fn cache_bytes(&self) -> usize {
        self.server.cache_bytes()
    }

    /// Token ids of a prompt, with the token in front that prompts of this model begin with, if there is one.
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
        self.server.language().tokenizer.encode_prompt(text)
    }

    /// The token that prompts of this model begin with, if there is one.
    #[must_use]
    pub fn begin(&self) -> Option<u32> {
        self.server.language().tokenizer.begin()
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
                model: self.name().to_owned(),
                reason: format!("{TEMPLATE} is missing; write the prompt yourself"),
            })?;
        let tokenizer = &self.server.language().tokenizer;
        let clean: Vec<_> = messages
            .iter()
            .map(|message| {
                ChatMessage::new(message.role, tokenizer.without_special(&message.content))
            })
            .collect();
        template.render(&clean)
    }

    /// Runs the model once in all the ways it will be run, so that the first answer is not slower than the others, and
    /// measures what steps cost. Forgets the beginnings of earlier prompts. Does nothing while somebody waits for an
    /// answer.
    ///
    /// # Errors
    /// Those of a run.
    pub fn warm_up(&mut self) -> Result<()> {
        self.server.warm_up(self.bos)
    }

    /// How fast it has been lately, on this computer and under its load.
    #[must_use]
    pub fn measured_rate(&self) -> Rate {
        self.server.measured_rate()
    }

    /// A handle that ends the running step from another thread, also in the middle of it; an answer alone then returns
    /// [`EngineError::Terminated`], or ends with its own reason if it was cancelled or too late. `None` when the model has
    /// none.
    #[must_use]
    pub fn terminator(&self) -> Option<Terminator> {
        self.server.model().terminator()
    }

    /// Forgets the beginnings of earlier prompts.
    pub fn forget(&mut self) {
        self.server.forget();
    }

    /// Compiles a grammar now instead of at the first request that uses it.
    ///
    /// # Errors
    /// [`EngineError::Grammar`].
    pub fn prepare_grammar(&mut self, grammar: &Grammar) -> Result<()> {
        self.server.prepare_grammar(grammar)
    }

    /// Begins one answer, whether or not its deadline can be kept. What is known of the prompt is not computed again.
    ///
    /// # Errors
    /// [`EngineError::Request`], [`EngineError::PromptEmpty`], [`EngineError::PromptTooLong`],
    /// [`EngineError::PromptTooLarge`], [`EngineError::Grammar`]; [`EngineError::QueueFull`] when others have been asking
    /// [`LanguageModel::server`].
    pub fn generate(&mut self, request: &Request) -> Result<Generation<'_>> {
        let id = self.server.submit_anyway(request, Instant::now())?;
        Ok(Generation::new(&mut self.server, id))
    }

    /// Lets the model read `tokens` and calls `hear` with the scores after each position from `from` on: what a comparison
    /// with another engine needs. The fused graph scores many positions in a step, the portable one a position a step.
    ///
    /// # Errors
    /// [`EngineError::PromptEmpty`] for no tokens, [`EngineError::PromptTooLong`], [`EngineError::QueueFull`] while somebody
    /// waits for an answer, [`EngineError::Request`] for a token the model does not have, and those of a run.
    pub fn score(
        &mut self,
        tokens: &[u32],
        from: usize,
        hear: &mut dyn FnMut(usize, &[f32]),
    ) -> Result<()> {
        self.server.score(tokens, from, hear)
    }

    /// For many answers at once.
    #[must_use]
    pub fn server(&mut self) -> &mut TextServer {
        &mut self.server
    }
}

impl std::fmt::Debug for LanguageModel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LanguageModel")
            .field("server", &self.server)
            .finish_non_exhaustive()
    }
}

/// What runs the folder's model.
fn open_model(
    runtime: &Runtime,
    folder: &ModelFolder,
    config: &LlamaConfig,
    options: &LoadOptions,
) -> Result<Box<dyn StepModel>> {
    let name = &folder.manifest.name;
    let fused = match options.graph {
        GraphChoice::Best => config.fused,
        GraphChoice::Fused => true,
        GraphChoice::Portable => false,
    };
    if !fused {
        let graph = folder.path(GRAPH)?;
        let decoder = Decoder::open(runtime, name, &graph, config, options.context)?;
        return Ok(Box::new(decoder));
    }
    let limits = Limits {
        context: options.context,
        sequences: options.sequences,
        cache_bytes: options.cache_bytes,
    };
    let graph = folder.path(FUSED_GRAPH)?;
    let decoder = FusedDecoder::open(runtime, name, &graph, config, limits)?;
    Ok(Box::new(decoder))
}

fn check_model(model: &dyn StepModel) -> Result<()> {
    let memory = model.memory();
    let ranges = [
        ("context", model.context(), 2),
        ("page_tokens", memory.page_tokens, 1),
        ("pages", memory.pages, 1),
        ("sequences_max", model.sequences_max(), 1),
        ("rows_max", model.rows_max(), model.sequences_max()),
    ];
    match ranges.iter().find(|(_, found, least)| found < least) {
        Some((option, found, least)) => Err(EngineError::Option {
            option,
            expected: format!("at least {least}"),
            found: found.to_string(),
        }),
        None => Ok(()),
    }
}
