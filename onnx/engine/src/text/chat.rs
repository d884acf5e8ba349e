//! Messages to a prompt, by the model's own chat template (Jinja).
//!
//! The template is part of the model's files, so it is a program from outside: its steps, its depth and its output are
//! limited, and what it says with `raise_exception` becomes the error.

use minijinja::syntax::SyntaxConfig;
use minijinja::{AutoEscape, Environment, Error, ErrorKind, Value, context};

use super::request::MAX_PROMPT_BYTES;
use crate::error::{EngineError, Result};

/// Largest template.
pub(crate) const MAX_TEMPLATE_BYTES: u64 = 64 << 10;
/// Most messages of a conversation.
pub const MAX_MESSAGES: usize = 256;
/// Steps a template may take; each also stands for 64 bytes of text it makes, so this bounds memory too (32 MB).
const FUEL: u64 = 500_000;
/// Depth of nested blocks and macros.
const MAX_DEPTH: usize = 64;
const NAME: &str = "chat";

/// Who says something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The task and its rules.
    System,
    /// Who asks.
    User,
    /// The model's earlier answers.
    Assistant,
}

impl Role {
    const fn word(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
        }
    }
}

/// One message of a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChatMessage {
    /// Who says it.
    pub role: Role,
    /// What is said.
    pub content: String,
}

impl ChatMessage {
    /// A message.
    #[must_use]
    pub fn new(role: Role, content: impl Into<String>) -> Self {
        Self {
            role,
            content: content.into(),
        }
    }
}

/// A compiled template.
pub(crate) struct ChatTemplate {
    model: String,
    environment: Environment<'static>,
    bos: String,
    eos: String,
}

impl ChatTemplate {
    /// Compiles a template; `bos` and `eos` are the texts of the tokens that begin and end a sequence.
    pub(crate) fn new(model: &str, source: &str, bos: &str, eos: &str) -> Result<Self> {
        let mut environment = Environment::new();
        environment.set_fuel(Some(FUEL));
        environment.set_recursion_limit(MAX_DEPTH);
        environment.set_auto_escape_callback(|_| AutoEscape::None);
        environment
            .set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        // As the Python implementation sets them; templates rely on it.
        let syntax = SyntaxConfig::builder()
            .trim_blocks(true)
            .lstrip_blocks(true)
            .build();
        let failed = |error: Error| EngineError::ChatTemplate {
            model: model.to_owned(),
            reason: error.to_string(),
        };
        environment.set_syntax(syntax.map_err(failed)?);
        environment.add_function(
            "raise_exception",
            |message: String| -> Result<Value, Error> {
                Err(Error::new(ErrorKind::InvalidOperation, message))
            },
        );
        environment
            .add_template_owned(NAME, source.to_owned())
            .map_err(failed)?;
        Ok(Self {
            model: model.to_owned(),
            environment,
            bos: bos.to_owned(),
            eos: eos.to_owned(),
        })
    }

    /// The prompt that ends where the assistant's answer begins.
    pub(crate) fn render(&self, messages: &[ChatMessage]) -> Result<String> {
        let failed = |reason: String| EngineError::ChatTemplate {
            model: self.model.clone(),
            reason,
        };
        if messages.is_empty() || messages.len() > MAX_MESSAGES {
            return Err(failed(format!(
                "expected 1..={MAX_MESSAGES} messages, found {}",
                messages.len()
            )));
        }
        let bytes: usize = messages.iter().map(|message| message.content.len()).sum();
        if bytes > MAX_PROMPT_BYTES {
            return Err(EngineError::PromptTooLarge {
                found_bytes: bytes,
                limit_bytes: MAX_PROMPT_BYTES,
            });
        }
        let messages: Value = messages
            .iter()
            .map(|message| {
                Value::from_pairs([
                    ("role", message.role.word()),
                    ("content", message.content.as_str()),
                ])
            })
            .collect();
        let prompt = self
            .environment
            .get_template(NAME)
            .and_then(|template| {
                template.render(context! {
                    messages,
                    add_generation_prompt => true,
                    bos_token => self.bos.as_str(),
                    eos_token => self.eos.as_str(),
                })
            })
            .map_err(|error| failed(error.to_string()))?;
        if prompt.len() > MAX_PROMPT_BYTES {
            return Err(EngineError::PromptTooLarge {
                found_bytes: prompt.len(),
                limit_bytes: MAX_PROMPT_BYTES,
            });
        }
        Ok(prompt)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// ChatML as SmolLM2 and Qwen write it, with the trimming Jinja does between blocks.
    const CHATML: &str = "{% for message in messages %}\n{% if loop.first and messages[0]['role'] != 'system' %}<|im_start|>system\nHelp.<|im_end|>\n{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

    fn render(source: &str, messages: &[ChatMessage]) -> Result<String> {
        ChatTemplate::new("m", source, "<s>", "</s>").and_then(|template| template.render(messages))
    }

    fn hello() -> Vec<ChatMessage> {
        vec![ChatMessage::new(Role::User, "Hello & <b>")]
    }

    #[test]
    fn chatml_comes_out_as_the_model_was_trained() {
        let expected = "<|im_start|>system\nHelp.<|im_end|>\n<|im_start|>user\nHello & <b><|im_end|>\n<|im_start|>assistant\n";
        assert_eq!(render(CHATML, &hello()).unwrap(), expected);
    }

    #[test]
    fn python_methods_and_special_tokens_work() {
        let source = "{{ bos_token }}{{ messages[0].content.upper().strip() }}{{ messages[0].get('x', '!') }}{{ eos_token }}";
        assert_eq!(render(source, &hello()).unwrap(), "<s>HELLO & <B>!</s>");
    }

    #[test]
    fn a_template_that_refuses_or_runs_away_is_an_error() {
        let cases = [
            ("syntax", "{% for %}", "chat template"),
            (
                "refuses",
                "{{ raise_exception('roles must alternate') }}",
                "roles must alternate",
            ),
            (
                "endless",
                "{% for i in range(90000) %}{% for j in range(90000) %}x{% endfor %}{% endfor %}",
                "fuel",
            ),
            (
                "doubling",
                "{% set ns = namespace(x='x') %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
                "fuel",
            ),
            (
                "unknown function",
                "{{ open('/etc/passwd') }}",
                "unknown function",
            ),
        ];
        for (why, source, word) in cases {
            let error = render(source, &hello()).unwrap_err().to_string();
            assert!(error.contains(word), "{why}: {error}");
        }
    }

    #[test]
    fn a_conversation_has_limits() {
        assert!(render(CHATML, &[]).is_err());
        assert!(
            render(
                CHATML,
                &vec![ChatMessage::new(Role::User, "x"); MAX_MESSAGES + 1]
            )
            .is_err()
        );
        let long = [ChatMessage::new(
            Role::User,
            "x".repeat(MAX_PROMPT_BYTES + 1),
        )];
        assert!(matches!(
            render(CHATML, &long),
            Err(EngineError::PromptTooLarge { .. })
        ));
    }
}
