//! What can go wrong between a source file and a finished model folder.
//!
//! One enum for the crate: the readers have their own named errors ([`crate::gguf::GgufError`],
//! [`crate::tensorflow::GraphDefError`]), which are wrapped here with the path of the file they speak about, so that a message
//! reads from the outside in: file, place in it, what was expected, what was found.

use std::io;
use std::path::{Path, PathBuf};

use crate::gguf::GgufError;
use crate::graph::GraphError;

/// An error of a conversion. Nothing half-written stays behind when one is returned.
#[derive(Debug, thiserror::Error)]
pub enum ForgeError {
    /// A file operation failed.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried, as a verb: "open", "write", "rename".
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// A GGUF file is malformed, or lacks what the model needs.
    #[error("GGUF file {}: {source}", path.display())]
    Gguf {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: GgufError,
    },
    /// The graph being built is not well formed, or a tensor does not fit its shape.
    #[error("ONNX graph: {0}")]
    Graph(#[from] GraphError),
    /// The progress callback asked to stop.
    #[error("cancelled")]
    Cancelled,
    /// The recipe needs a source that the caller did not give.
    #[error("recipe {recipe} needs {expected}, found {found}")]
    Sources {
        /// Kind of the recipe.
        recipe: &'static str,
        /// What it needs, in words.
        expected: String,
        /// What was given, in words.
        found: String,
    },
    /// A value of the recipe is outside what the forge can build.
    #[error("recipe {recipe}: {field} is {found}, expected {expected}")]
    Recipe {
        /// Kind of the recipe.
        recipe: &'static str,
        /// The field.
        field: &'static str,
        /// What is possible.
        expected: String,
        /// What was written.
        found: String,
    },
}

impl ForgeError {
    /// Wraps an I/O error with what was tried and where; made for `map_err`.
    pub(crate) fn io(
        action: &'static str,
        path: &Path,
    ) -> impl FnOnce(io::Error) -> ForgeError + use<> {
        let path = path.to_path_buf();
        move |source| ForgeError::Io {
            action,
            path,
            source,
        }
    }
}
