//! Reads an ONNX file back into a [`Graph`]: one that was written here, or one of anybody else.
//!
//! Compression steps start from what a model folder holds, and people bring models that other tools exported. So nothing is assumed
//! about operators: nodes the forge has never heard of pass through as they are, with their attributes and inner graphs. What is
//! checked is what every later step relies on: each value has one origin, stands before its readers, and each constant has the bytes
//! its shape says, inside the file it names.
//!
//! ```text
//!   model.onnx ─ scan (counts, before anything is allocated) ─ decode ─ check (names, order) ─┐
//!        └ initializers ─ inline bytes | location, offset, length ─► constants ───────────────┴─► OnnxFile ── graph() ─► Graph
//!   *.data (mapped) ◄──────────── read when the graph is written ◄──────────────────────────────────────────────┘
//! ```
//!
//! The file is read once and can give its graph as often as somebody needs it; the bytes of its constants stay mapped.

mod check;
mod constants;
mod error;
mod scan;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use prost::Message;

use crate::error::ForgeError;
use crate::graph::{Graph, Header, Payload, TensorSpec};
use crate::mapped::MappedFile;
use crate::proto::onnx::{
    AttributeProto, AttributeType, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto,
};

pub use error::OnnxFileError;

use constants::{Constant, ExternalFiles};

/// Largest graph file: protobuf cannot describe more.
pub const MAX_MODEL_BYTES: u64 = 2 << 30;
/// Most nodes, with those of inner graphs.
pub const MAX_NODES: usize = 1 << 17;
/// Most constants.
pub const MAX_CONSTANTS: usize = 1 << 17;
/// Most protobuf fields outside of tensors' elements: 16 of each node that is allowed.
pub const MAX_FIELDS: usize = 1 << 21;
/// Most bytes of elements in lists of variable-length integers, which grow up to eight-fold when they are read.
pub const MAX_LIST_BYTES: u64 = 256 << 20;
/// Longest name of a value, a node or an operator.
pub const MAX_NAME_BYTES: usize = 1024;
/// Most axes of a constant.
pub const MAX_RANK: usize = 16;
/// Deepest nesting of graphs inside graphs.
pub const MAX_DEPTH: usize = 8;
/// Most files with external constants.
pub const MAX_EXTERNAL_FILES: usize = 256;
/// Oldest and newest version of the file format that is read.
pub const IR_VERSIONS: std::ops::RangeInclusive<i64> = 3..=14;

/// First version of the file format in which constants need not stand among the inputs.
const IR_FREE_CONSTANTS: i64 = 4;

/// A file that has been read and checked.
#[derive(Debug, Clone)]
pub struct OnnxFile {
    header: Header,
    name: String,
    nodes: Vec<NodeProto>,
    inputs: Vec<ValueInfoProto>,
    outputs: Vec<ValueInfoProto>,
    constants: Vec<Constant>,
}

impl OnnxFile {
    /// Reads `path`; external constants must lie in files of the same folder.
    ///
    /// # Errors
    /// [`ForgeError::In`] names the file around an [`OnnxFileError`], which says where in it and what was expected and found;
    /// [`ForgeError::Io`] if a file cannot be opened or mapped.
    pub fn open(path: &Path) -> Result<OnnxFile, ForgeError> {
        let file = MappedFile::open(path)?;
        let folder = path.parent().unwrap_or(Path::new(""));
        OnnxFile::parse(file.bytes(), folder).map_err(ForgeError::in_file(path))
    }

    /// The same from bytes; `folder` is where external constants are looked for.
    ///
    /// # Errors
    /// As [`OnnxFile::open`].
    pub fn parse(bytes: &[u8], folder: &Path) -> Result<OnnxFile, ForgeError> {
        scan::model(bytes)?;
        let model = ModelProto::decode(bytes).map_err(|error| OnnxFileError::Wire {
            reason: error.to_string(),
        })?;
        if !IR_VERSIONS.contains(&model.ir_version) {
            return Err(OnnxFileError::Version {
                what: "file format".into(),
                expected: format!("{} to {}", IR_VERSIONS.start(), IR_VERSIONS.end()),
                found: model.ir_version,
            }
            .into());
        }
        let operator_sets = operator_sets(&model)?;
        let graph = model.graph.ok_or(OnnxFileError::NoGraph)?;
        check::graph(&graph)?;
        let mut read = OnnxFile {
            header: Header {
                ir_version: model.ir_version.max(IR_FREE_CONSTANTS),
                operator_sets,
                value_info: graph.value_info,
                functions: model.functions,
                metadata: model.metadata_props,
            },
            name: graph.name,
            nodes: graph.node,
            inputs: graph.input,
            outputs: graph.output,
            constants: Vec::new(),
        };
        read.take_constants(graph.initializer, folder)?;
        if model.ir_version < IR_FREE_CONSTANTS {
            // The old format makes every constant an input with a default; nobody means a weight to be fed.
            let constants: BTreeSet<&String> =
                read.constants.iter().map(|it| &it.spec.name).collect();
            read.inputs.retain(|input| !constants.contains(&input.name));
        }
        Ok(read)
    }

    /// The graph. Its constants are copied from the mapped files when it is written.
    pub fn graph(&self) -> Graph<'static> {
        let payload = |constant: &Constant| {
            let bytes = constant.bytes.clone();
            Payload {
                tensors: vec![constant.spec.clone()],
                make: Box::new(move || Ok(vec![bytes.get()?.to_vec()])),
            }
        };
        Graph {
            header: self.header.clone(),
            name: self.name.clone(),
            nodes: self.nodes.clone(),
            inputs: self.inputs.clone(),
            outputs: self.outputs.clone(),
            payloads: self.constants.iter().map(payload).collect(),
        }
    }

    /// What the file says beside its nodes and constants.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Names, types and shapes of the constants, in the file's order.
    pub fn constants(&self) -> impl Iterator<Item = &TensorSpec> {
        self.constants.iter().map(|constant| &constant.spec)
    }

    /// How often each operator is used, as `domain::Operator`, or `Operator` alone for ai.onnx.
    pub fn operators(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for node in &self.nodes {
            *counts.entry(operator(node)).or_default() += 1;
        }
        counts
    }

    /// Elements of every constant that has a fixed size; texts cannot be raw bytes, so each becomes a node that makes it.
    fn take_constants(
        &mut self,
        tensors: Vec<TensorProto>,
        folder: &Path,
    ) -> Result<(), ForgeError> {
        let mut files = ExternalFiles::new(folder);
        let mut texts = Vec::new();
        for tensor in tensors {
            if constants::is_text(&tensor) {
                texts.push(text_node(tensor));
            } else {
                self.constants.push(constants::read(tensor, &mut files)?);
            }
        }
        self.nodes.splice(0..0, texts);
        Ok(())
    }
}

/// The name of a node's operator, with its domain unless that is ai.onnx.
pub(crate) fn operator(node: &NodeProto) -> String {
    if node.domain.is_empty() || node.domain == "ai.onnx" {
        node.op_type.clone()
    } else {
        format!("{}::{}", node.domain, node.op_type)
    }
}

/// Shape and elements of a tensor that stands in an attribute.
///
/// # Errors
/// As [`OnnxFile::parse`] of a constant.
pub(crate) fn constant(tensor: TensorProto) -> Result<(TensorSpec, Bytes), ForgeError> {
    let constant = constants::read(tensor, &mut ExternalFiles::new(Path::new("")))?;
    Ok((constant.spec, constant.bytes))
}

/// The graphs inside a node's attributes.
pub(crate) fn inner_graphs(node: &NodeProto) -> impl Iterator<Item = &GraphProto> {
    node.attribute
        .iter()
        .flat_map(|attribute| attribute.g.iter().chain(&attribute.graphs))
}

fn operator_sets(model: &ModelProto) -> Result<BTreeMap<String, i64>, OnnxFileError> {
    let mut sets = BTreeMap::new();
    for set in &model.opset_import {
        // "ai.onnx" is a second spelling of the standard domain.
        let domain = if set.domain == "ai.onnx" {
            ""
        } else {
            &set.domain
        };
        if !(1..=1000).contains(&set.version) || domain.len() > MAX_NAME_BYTES {
            return Err(OnnxFileError::Version {
                what: format!("operator set {domain:?}"),
                expected: "1 to 1000".into(),
                found: set.version,
            });
        }
        if sets.insert(domain.to_string(), set.version).is_some() {
            return Err(OnnxFileError::Duplicate {
                value: format!("operator set {domain:?}"),
            });
        }
    }
    Ok(sets)
}

fn text_node(tensor: TensorProto) -> NodeProto {
    let name = tensor.name.clone();
    NodeProto {
        name: format!("{name}/Constant"),
        output: vec![name],
        op_type: "Constant".into(),
        attribute: vec![AttributeProto {
            name: "value".into(),
            kind: AttributeType::Tensor.into(),
            t: Some(tensor),
            ..AttributeProto::default()
        }],
        ..NodeProto::default()
    }
}

/// Shares bytes between a file's graphs: mapped ones stay mapped.
#[derive(Debug, Clone)]
pub(crate) enum Bytes {
    /// Read with the graph.
    Inline(Arc<Vec<u8>>),
    /// A part of a mapped file, which has been checked to lie inside.
    External(Arc<MappedFile>, std::ops::Range<usize>),
}

impl Bytes {
    pub(crate) fn get(&self) -> Result<&[u8], OnnxFileError> {
        match self {
            Bytes::Inline(bytes) => Ok(bytes),
            Bytes::External(file, range) => {
                file.bytes()
                    .get(range.clone())
                    .ok_or_else(|| OnnxFileError::Wire {
                        reason: "a constant lies outside of its file".into(),
                    })
            }
        }
    }
}
