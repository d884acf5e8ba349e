//! What can go wrong while a graph is quantized.

/// An option, a graph or a sample that cannot be used.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum StaticError {
    /// An option out of its range.
    #[error("option {option}: expected {expected}, found {found}")]
    Option {
        /// The option.
        option: &'static str,
        /// What is possible.
        expected: String,
        /// What was given.
        found: String,
    },
    /// A node that was to stay in float and is not there.
    #[error("keep_float names {node}, which the graph does not have")]
    NoSuchNode {
        /// The name.
        node: String,
    },
    /// Operators that were to be refused.
    #[error("node {node}: operator {op} is not known to the 8-bit pass, and on_unknown is refuse")]
    Unknown {
        /// The first such node.
        node: String,
        /// Its operator.
        op: String,
    },
    /// Nothing that could be quantized.
    #[error(
        "the graph has no Conv, Gemm or MatMul with constant float32 weights that could be quantized"
    )]
    NothingToDo,
    /// An operator set that has no quantization along an axis.
    #[error(
        "operator set {domain:?}: expected version {expected} or later, found {found}; export the model anew"
    )]
    OperatorSet {
        /// Domain of the set.
        domain: String,
        /// First version that will do.
        expected: i64,
        /// What the file says.
        found: i64,
    },
    /// Too few samples to see a range.
    #[error("expected at least {expected} samples, found {found}")]
    Samples {
        /// Least.
        expected: usize,
        /// Given.
        found: usize,
    },
    /// An input of the graph that no sample feeds, or of a type that cannot be fed.
    #[error("input {input}: {reason}")]
    Input {
        /// The input.
        input: String,
        /// What about it.
        reason: String,
    },
    /// A number that is none.
    #[error("{what} {name} holds {found} at element {at}; nothing can be scaled to that")]
    NotFinite {
        /// `tensor` or `value`.
        what: &'static str,
        /// Its name.
        name: String,
        /// NaN or an infinity.
        found: f32,
        /// Which element.
        at: usize,
    },
    /// A number that half precision does not reach.
    #[error("tensor {tensor} holds {found} at element {at}; half precision ends at 65504")]
    NotHalf {
        /// The tensor.
        tensor: String,
        /// The number.
        found: f32,
        /// Which element.
        at: usize,
    },
    /// A graph that wants more than is done for one.
    #[error("{what}: expected at most {limit}, found {found}")]
    Limit {
        /// Of what.
        what: &'static str,
        /// How much.
        limit: u64,
        /// How much there is.
        found: u64,
    },
    /// Detections or vectors that do not belong together.
    #[error("{what}: expected {expected}, found {found}")]
    Mismatch {
        /// Of what.
        what: &'static str,
        /// How many, or which.
        expected: String,
        /// What was given.
        found: String,
    },
}
