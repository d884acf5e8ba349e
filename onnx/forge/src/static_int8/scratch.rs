//! The constants of a graph in one file of a hidden folder, and any number of graphs over them.
//!
//! Calibration runs the float graph with more outputs; measuring runs one graph per question. All of them read the same constants, so
//! these are written once and every graph is a small file beside them. The result reads its constants from there too, when it is
//! written; the folder goes when the last one who needs it is dropped.
//!
//! ```text
//!   .forge.4711.0/   constants.data   float and 8-bit tensors, each on a page of its own
//!                    0.onnx 1.onnx …  { location: constants.data, offset, length }
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use llmasos_engine::runtime::Runtime;
use llmasos_engine::session::{Dim, Kind, Session, SessionSpec, TensorSpec as Wanted, Threads};
use prost::Message;

use super::StaticError;
use crate::error::ForgeError;
use crate::folder::{Progress, Step, Watch, report, write_file};
use crate::graph::{Graph, GraphError, Header, Payload, TensorSpec};
use crate::onnx_file::inner_graphs;
use crate::proto::onnx::{
    DataLocation, DataType, GraphProto, ModelProto, NodeProto, StringStringEntryProto, TensorProto,
    TypeValue, ValueInfoProto,
};
use crate::writer::{ALIGNMENT_BYTES, INLINE_BYTES, operator_sets};

/// Name of the file with the constants.
const DATA_FILE: &str = "constants.data";

/// Distinguishes folders of one process.
static FOLDERS: AtomicU64 = AtomicU64::new(0);

/// A folder that vanishes with its owner.
#[derive(Debug)]
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        // Whatever led here is already told; a folder that cannot be removed adds nothing to it.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Where a constant's bytes are.
#[derive(Debug, Clone)]
enum Place {
    Inline(Vec<u8>),
    At(u64),
}

#[derive(Debug)]
struct Stored {
    spec: TensorSpec,
    place: Place,
}

/// The constants, and what all graphs over them have in common.
#[derive(Debug)]
pub(crate) struct Scratch {
    tensors: BTreeMap<String, Stored>,
    file: File,
    length: u64,
    files: u64,
    header: Header,
    name: String,
    inputs: Vec<ValueInfoProto>,
    folder: Folder,
}

impl Scratch {
    /// Writes the constants of `graph` into a new folder in `parent`; gives back its nodes and outputs.
    ///
    /// # Errors
    /// [`ForgeError::Io`] for a folder that cannot be written or a full disk, those of the payloads, [`ForgeError::Cancelled`].
    pub(crate) fn take(
        graph: Graph<'_>,
        parent: &Path,
        watch: &mut Watch<'_>,
    ) -> Result<(Scratch, Vec<NodeProto>, Vec<ValueInfoProto>), ForgeError> {
        let number = FOLDERS.fetch_add(1, Ordering::Relaxed);
        let dir = parent.join(format!(".forge.{}.{number}", std::process::id()));
        fs::create_dir(&dir).map_err(ForgeError::io("create", &dir))?;
        let folder = Folder(dir);
        let path = folder.0.join(DATA_FILE);
        let file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)
            .map_err(ForgeError::io("create", &path))?;
        let mut scratch = Scratch {
            tensors: BTreeMap::new(),
            file,
            length: 0,
            files: 0,
            header: graph.header,
            name: graph.name,
            inputs: graph.inputs,
            folder,
        };
        let total = graph.payloads.len() as u64;
        for (done, payload) in graph.payloads.into_iter().enumerate() {
            let (expected, contents) = (payload.tensors.len(), (payload.make)()?);
            let first = payload.tensors.first().map(|spec| spec.name.clone());
            let first = first.unwrap_or_default();
            if contents.len() != expected {
                return Err(GraphError::Count {
                    tensor: first,
                    expected,
                    found: contents.len(),
                }
                .into());
            }
            for (spec, bytes) in payload.tensors.into_iter().zip(contents) {
                scratch.add(spec, bytes)?;
            }
            let progress = Progress {
                step: Step::Convert,
                item: &first,
                done: done as u64 + 1,
                total,
            };
            report(watch, progress)?;
        }
        Ok((scratch, graph.nodes, graph.outputs))
    }

    /// Stores one more constant, or replaces one.
    ///
    /// # Errors
    /// [`ForgeError::Graph`] if the bytes do not fit the shape, [`ForgeError::Io`].
    pub(crate) fn add(&mut self, spec: TensorSpec, bytes: Vec<u8>) -> Result<(), ForgeError> {
        let (expected, found) = (spec.bytes()?, bytes.len() as u64);
        if expected != found {
            return Err(GraphError::Length {
                tensor: spec.name,
                expected,
                found,
            }
            .into());
        }
        let place = if found <= INLINE_BYTES {
            Place::Inline(bytes)
        } else {
            let offset = self.length.next_multiple_of(ALIGNMENT_BYTES);
            self.file
                .write_all_at(&bytes, offset)
                .map_err(ForgeError::io("write", &self.folder.0.join(DATA_FILE)))?;
            self.length = offset + found;
            Place::At(offset)
        };
        self.tensors
            .insert(spec.name.clone(), Stored { spec, place });
        Ok(())
    }

    /// Name, type and shape of a constant.
    pub(crate) fn spec(&self, name: &str) -> Option<&TensorSpec> {
        self.tensors.get(name).map(|stored| &stored.spec)
    }

    /// Names, types and shapes of all constants.
    pub(crate) fn specs(&self) -> impl Iterator<Item = &TensorSpec> {
        self.tensors.values().map(|stored| &stored.spec)
    }

    /// The elements of a constant of 32-bit floats.
    ///
    /// # Errors
    /// [`ForgeError::Io`]; [`ForgeError::Graph`] for a name that is not there.
    pub(crate) fn floats(&self, name: &str) -> Result<Vec<f32>, ForgeError> {
        let bytes = self.bytes(name)?;
        let (chunks, _) = bytes.as_chunks::<4>();
        Ok(chunks.iter().map(|it| f32::from_le_bytes(*it)).collect())
    }

    fn bytes(&self, name: &str) -> Result<Vec<u8>, ForgeError> {
        let stored = self
            .tensors
            .get(name)
            .ok_or_else(|| GraphError::Undefined {
                node: "a reader of constants".into(),
                value: name.to_string(),
            })?;
        match &stored.place {
            Place::Inline(bytes) => Ok(bytes.clone()),
            Place::At(offset) => {
                let mut bytes = vec![0; stored.spec.bytes()? as usize];
                self.file
                    .read_exact_at(&mut bytes, *offset)
                    .map_err(ForgeError::io("read", &self.folder.0.join(DATA_FILE)))?;
                Ok(bytes)
            }
        }
    }

    pub(crate) fn header(&self) -> &Header {
        &self.header
    }

    pub(crate) fn inputs(&self) -> &[ValueInfoProto] {
        &self.inputs
    }

    /// Opens a graph over the constants.
    ///
    /// # Errors
    /// [`ForgeError::Io`]; [`ForgeError::Engine`] if ONNX Runtime refuses the graph; [`StaticError::Input`] for an input of a type
    /// that cannot be fed.
    pub(crate) fn open(
        &mut self,
        runtime: &Runtime,
        nodes: &[NodeProto],
        outputs: &[ValueInfoProto],
    ) -> Result<Session, ForgeError> {
        let path = self.folder.0.join(format!("{}.onnx", self.files));
        self.files += 1;
        write_file(&path, &self.model(nodes, outputs).encode_to_vec())?;
        let mut inputs = Vec::new();
        for input in &self.inputs {
            inputs.push((
                input.name.as_str(),
                kind(input)?,
                vec![Dim::Any; rank(input)],
            ));
        }
        let wanted: Vec<Wanted<'_>> = inputs
            .iter()
            .map(|(name, kind, dims)| Wanted::new(name, *kind, dims))
            .collect();
        let spec = SessionSpec {
            inputs: &wanted,
            outputs: &[],
        };
        let session = Session::open(runtime, &self.name, &path, &spec, Threads::Shared)?;
        // The runtime has read it.
        fs::remove_file(&path).map_err(ForgeError::io("remove", &path))?;
        Ok(session)
    }

    fn model(&self, nodes: &[NodeProto], outputs: &[ValueInfoProto]) -> ModelProto {
        let used = used(nodes, outputs);
        let initializer = self
            .tensors
            .values()
            .filter(|it| used.contains(&it.spec.name));
        ModelProto {
            ir_version: self.header.ir_version,
            producer_name: env!("CARGO_PKG_NAME").to_string(),
            producer_version: env!("CARGO_PKG_VERSION").to_string(),
            graph: Some(GraphProto {
                node: nodes.to_vec(),
                name: self.name.clone(),
                initializer: initializer.map(proto).collect(),
                input: self.inputs.clone(),
                output: outputs.to_vec(),
                value_info: self.header.value_info.clone(),
                sparse_initializer: Vec::new(),
            }),
            opset_import: operator_sets(&self.header, nodes),
            metadata_props: Vec::new(),
            functions: self.header.functions.clone(),
        }
    }

    /// The graph for the writer. It keeps the folder until its constants are written.
    pub(crate) fn graph(
        self,
        nodes: Vec<NodeProto>,
        outputs: Vec<ValueInfoProto>,
    ) -> Graph<'static> {
        let used = used(&nodes, &outputs);
        let scratch = Arc::new(self);
        let payload = |stored: &Stored| {
            let (scratch, spec) = (Arc::clone(&scratch), stored.spec.clone());
            let name = spec.name.clone();
            Payload {
                tensors: vec![spec],
                make: Box::new(move || Ok(vec![scratch.bytes(&name)?])),
            }
        };
        let stored = scratch.tensors.values();
        let payloads = stored
            .filter(|stored| used.contains(&stored.spec.name))
            .map(payload)
            .collect();
        Graph {
            header: scratch.header.clone(),
            name: scratch.name.clone(),
            nodes,
            inputs: scratch.inputs.clone(),
            outputs,
            payloads,
        }
    }
}

/// All names that nodes, graphs inside them, or outputs read.
fn used(nodes: &[NodeProto], outputs: &[ValueInfoProto]) -> BTreeSet<String> {
    let mut names: BTreeSet<String> = outputs.iter().map(|it| it.name.clone()).collect();
    for node in nodes {
        names.extend(node.input.iter().cloned());
        for inner in inner_graphs(node) {
            names.extend(used(&inner.node, &inner.output));
        }
    }
    names
}

fn proto(stored: &Stored) -> TensorProto {
    let mut proto = TensorProto {
        dims: stored.spec.dims.clone(),
        data_type: stored.spec.data_type.into(),
        name: stored.spec.name.clone(),
        ..TensorProto::default()
    };
    match &stored.place {
        Place::Inline(bytes) => proto.raw_data = Some(bytes.clone()),
        Place::At(offset) => {
            let entry = |key: &str, value: String| StringStringEntryProto {
                key: key.to_string(),
                value,
            };
            let length = stored.spec.bytes().unwrap_or_default();
            proto.external_data = vec![
                entry("location", DATA_FILE.to_string()),
                entry("offset", offset.to_string()),
                entry("length", length.to_string()),
            ];
            proto.data_location = Some(DataLocation::External.into());
        }
    }
    proto
}

/// The element type of an input, as the engine feeds it.
fn kind(input: &ValueInfoProto) -> Result<Kind, StaticError> {
    let wrong = |reason: String| StaticError::Input {
        input: input.name.clone(),
        reason,
    };
    let Some(TypeValue::Tensor(tensor)) = input.r#type.as_ref().and_then(|it| it.value.as_ref())
    else {
        return Err(wrong("it is no tensor".into()));
    };
    match DataType::try_from(tensor.elem_type) {
        Ok(DataType::Float) => Ok(Kind::F32),
        Ok(DataType::Int64) => Ok(Kind::I64),
        Ok(DataType::Int32) => Ok(Kind::I32),
        Ok(DataType::Uint8) => Ok(Kind::U8),
        Ok(DataType::Bool) => Ok(Kind::Bool),
        Ok(other) => Err(wrong(format!(
            "its elements are {other:?}, which are not fed"
        ))),
        Err(_) => Err(wrong(format!("element type {}", tensor.elem_type))),
    }
}

fn rank(input: &ValueInfoProto) -> usize {
    match input.r#type.as_ref().and_then(|it| it.value.as_ref()) {
        Some(TypeValue::Tensor(tensor)) => tensor.shape.as_ref().map_or(0, |it| it.dim.len()),
        _ => 0,
    }
}
