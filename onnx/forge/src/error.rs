//! What can go wrong between a source file and a finished model folder.
//!
//! One enum for the crate: the readers have their own named errors ([`crate::gguf::GgufError`],
//! [`crate::tensorflow::GraphDefError`]), which are wrapped here together with the path of the file they speak about, so that a message reads
//! from the outside in: file, place in it, what was expected, what was found.

use std::io;
use std::path::{Path, PathBuf};

use crate::architecture::ArchitectureError;
use crate::checkpoint::CheckpointError;
use crate::compress::prune::PruneError;
use crate::compress::quantize::QuantizeError;
use crate::corpus::CorpusError;
use crate::decoder::DecoderError;
use crate::differentiate::DifferentiateError;
use crate::distil::DistilError;
use crate::evaluate::EvaluateError;
use crate::gguf::GgufError;
use crate::graph::GraphError;
use crate::matrix::MatrixError;
use crate::onnx_file::OnnxFileError;
use crate::pictures::PicturesError;
use crate::safetensors::SafetensorsError;
use crate::ssd::SsdError;
use crate::static_int8::StaticError;
use crate::tensorflow::GraphDefError;
use crate::tokenizer::TokenizerError;

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
    /// Something is wrong with one of the sources.
    #[error("{}: {source}", path.display())]
    In {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: Box<ForgeError>,
    },
    /// A GGUF file is malformed, or lacks what the model needs.
    #[error("GGUF: {0}")]
    Gguf(#[from] GgufError),
    /// A safetensors file is malformed, or lacks what the model needs.
    #[error("safetensors: {0}")]
    Safetensors(#[from] SafetensorsError),
    /// The configuration is of no known architecture, or of one that cannot be built so.
    #[error("architecture: {0}")]
    Architecture(#[from] ArchitectureError),
    /// The file and the graph do not fit together.
    #[error("weights: {0}")]
    Decoder(#[from] DecoderError),
    /// A tensor is missing, has the wrong shape, or does not fit its storage.
    #[error("weights: {0}")]
    Matrix(#[from] MatrixError),
    /// A matrix that cannot be packed for the fused operators.
    #[error("pack: {0}")]
    Pack(#[from] llmasos_kernels::pack::PackError),
    /// A TensorFlow graph is malformed.
    #[error("GraphDef: {0}")]
    GraphDef(#[from] GraphDefError),
    /// A TensorFlow graph is not a detector that can be built.
    #[error("detector: {0}")]
    Ssd(#[from] SsdError),
    /// A vocabulary that cannot be written as a tokenizer.
    #[error("tokenizer: {0}")]
    Tokenizer(#[from] TokenizerError),
    /// The graph being built is not well formed, or a tensor does not fit its shape.
    #[error("ONNX graph: {0}")]
    Graph(#[from] GraphError),
    /// A folder that is no checkpoint, or a change that does not fit one.
    #[error("checkpoint: {0}")]
    Checkpoint(#[from] CheckpointError),
    /// Something that a model cannot be walked through with.
    #[error("{what}: expected {expected}, found {found}")]
    Walk {
        /// What it is.
        what: &'static str,
        /// What is possible.
        expected: String,
        /// What there is.
        found: String,
    },
    /// An ONNX file is malformed, too large, or contradicts itself.
    #[error("ONNX file: {0}")]
    OnnxFile(#[from] OnnxFileError),
    /// A graph that cannot be quantized so.
    #[error("int8: {0}")]
    Static(#[from] StaticError),
    /// A text cannot be read, or is too short.
    #[error(transparent)]
    Corpus(#[from] CorpusError),
    /// Pictures cannot be read, or serve two purposes.
    #[error(transparent)]
    Pictures(#[from] PicturesError),
    /// Two models cannot be compared.
    #[error("evaluation: {0}")]
    Evaluate(#[from] EvaluateError),
    /// Something that cannot be taken from a model.
    #[error("prune: {0}")]
    Prune(#[from] PruneError),
    /// The engine could not run a graph of the model.
    #[error("{0}")]
    Engine(#[from] llmasos_engine::EngineError),
    /// A matrix that cannot be quantized.
    #[error("{place}: {source}")]
    Quantize {
        /// The tensor.
        place: String,
        /// What is wrong with it.
        source: QuantizeError,
    },
    /// A distillation that cannot be done, or went wrong.
    #[error("distillation: {0}")]
    Distil(#[from] DistilError),
    /// A graph that cannot be differentiated.
    #[error("derivative: {0}")]
    Differentiate(#[from] DifferentiateError),
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
    /// Names the source file an error is about; made for `map_err`. I/O errors and cancellation already say enough.
    pub(crate) fn in_file(path: &Path) -> impl FnOnce(ForgeError) -> ForgeError + use<> {
        let path = path.to_path_buf();
        move |source| match source {
            ForgeError::Io { .. } | ForgeError::Cancelled => source,
            other => ForgeError::In {
                path,
                source: Box::new(other),
            },
        }
    }

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
