//! What can be wrong with an ONNX file.

/// A file that is malformed, too large, or says something that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OnnxFileError {
    /// Bytes that are no protobuf, or no message of this kind.
    #[error("{reason}")]
    Wire {
        /// What the decoder says.
        reason: String,
    },
    /// More of something than is read.
    #[error("{what}: expected at most {limit}, found {found}")]
    Limit {
        /// Of what.
        what: String,
        /// How much is read.
        limit: u64,
        /// How much there is; counting stops at the first too many.
        found: u64,
    },
    /// A model without a graph, such as a training checkpoint or an empty file.
    #[error("it holds no graph")]
    NoGraph,
    /// A version that nobody has defined, or one too new.
    #[error("{what}: expected version {expected}, found {found}")]
    Version {
        /// Of the file format, or of which operator set.
        what: String,
        /// What is read.
        expected: String,
        /// What it is.
        found: i64,
    },
    /// Two origins of one value, or two versions of one operator set.
    #[error("{value} is defined twice")]
    Duplicate {
        /// The value.
        value: String,
    },
    /// A node reads what no input, constant or node makes.
    #[error("node {node} ({op}) reads {value}, which nothing defines")]
    Undefined {
        /// The node.
        node: String,
        /// Its operator.
        op: String,
        /// The value.
        value: String,
    },
    /// A node reads what only it or a later node makes: a circle, or nodes that are out of order.
    #[error(
        "node {node} ({op}) reads {value}, which is made only later: the nodes are in a circle or out of order"
    )]
    Circle {
        /// The node.
        node: String,
        /// Its operator.
        op: String,
        /// The value.
        value: String,
    },
    /// An output that nothing makes.
    #[error("output {value} is made by no node")]
    MissingOutput {
        /// The output.
        value: String,
    },
    /// A name that is empty where it must not be.
    #[error("{what} has no name")]
    NoName {
        /// What has none.
        what: String,
    },
    /// A constant with an impossible shape, type, place or number of elements.
    #[error("constant {tensor}: {field}: expected {expected}, found {found}")]
    Constant {
        /// The constant.
        tensor: String,
        /// What about it.
        field: &'static str,
        /// What is possible.
        expected: String,
        /// What it says.
        found: String,
    },
    /// Something that exists in the format and is not read.
    #[error("{what} is not supported")]
    Unsupported {
        /// What.
        what: String,
    },
}
