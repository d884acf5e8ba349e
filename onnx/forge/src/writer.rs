//! Writes a [`Graph`] as `model.onnx` and `model.onnx.data`, or under another name.
//!
//! Tensors of more than 1 KiB go to the external file, each at an offset that is a multiple of 4096: the runtime maps the file
//! and every tensor begins on a page of its own, so that weights are shared between processes and never copied. Payloads are
//! made, written and dropped one after the other; the peak is about one of them. Both files get their names only when complete.
//!
//! ```text
//!   model.onnx        IR 10 · opset 21 + com.microsoft 1 · nodes · small constants · {location, offset, length} of the others
//!   model.onnx.data   ┌ tensor ┐ 0…0 ┌ tensor      ┐ 0…0 ┌ ...
//!                     0              4096·i              4096·j
//! ```

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use prost::Message;

use crate::error::ForgeError;
use crate::folder::{Progress, Step, Watch, report, write_file};
use crate::graph::{Graph, GraphError, Header, LLMASOS, MICROSOFT, TensorSpec};
use crate::proto::onnx::{
    DataLocation, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, StringStringEntryProto,
    TensorProto,
};

/// File format version written (ONNX 1.16).
pub const IR_VERSION: i64 = 10;
/// Version of the standard operator set.
pub const OPSET: i64 = 21;
/// Version of ONNX Runtime's operator set.
pub const MICROSOFT_OPSET: i64 = 1;
/// Tensors up to this size stay in `model.onnx`.
pub const INLINE_BYTES: u64 = 1024;
/// Alignment of tensors in the external file: the page size of the targets.
pub const ALIGNMENT_BYTES: u64 = 4096;
/// Version of the project's own operator set.
pub const LLMASOS_OPSET: i64 = 1;
/// Name of the portable graph's file. That of its weights has `.data` behind it.
pub const MODEL_FILE: &str = "model.onnx";
/// Name of the fused graph's file. That of its weights has `.data` behind it.
pub const FUSED_FILE: &str = "fused.onnx";

/// Sizes of what was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// Bytes of the graph's file.
    pub model_bytes: u64,
    /// Bytes of its weights' file; 0 if no tensor was large enough to need it.
    pub data_bytes: u64,
}

/// Writes `graph` into `dir` as `file` and, if a tensor is large enough to need it, `file.data`.
///
/// # Errors
/// [`ForgeError::Io`], [`ForgeError::Graph`] if a payload does not fit its shape, any error of a payload, or
/// [`ForgeError::Cancelled`]. Nothing under the final names is touched unless everything was written.
pub fn write_model(
    graph: Graph<'_>,
    dir: &Path,
    file: &str,
    watch: &mut Watch<'_>,
) -> Result<Written, ForgeError> {
    let total = external_bytes(&graph)?;
    let opset_import = operator_sets(&graph.header, &graph.nodes);
    let mut data = DataFile::create(dir, format!("{file}.data"))?;
    let mut initializer = Vec::new();
    for payload in graph.payloads {
        let first = payload
            .tensors
            .first()
            .map(|tensor| tensor.name.clone())
            .unwrap_or_default();
        let contents = (payload.make)()?;
        if contents.len() != payload.tensors.len() {
            return Err(GraphError::Count {
                tensor: first,
                expected: payload.tensors.len(),
                found: contents.len(),
            }
            .into());
        }
        for (spec, bytes) in payload.tensors.into_iter().zip(contents) {
            initializer.push(tensor(spec, bytes, &mut data)?);
        }
        report(
            watch,
            Progress {
                step: Step::Convert,
                item: &first,
                done: data.length,
                total,
            },
        )?;
    }
    let model = ModelProto {
        ir_version: graph.header.ir_version,
        producer_name: env!("CARGO_PKG_NAME").to_string(),
        producer_version: env!("CARGO_PKG_VERSION").to_string(),
        graph: Some(GraphProto {
            node: graph.nodes,
            name: graph.name,
            initializer,
            input: graph.inputs,
            output: graph.outputs,
            value_info: graph.header.value_info,
            sparse_initializer: Vec::new(),
        }),
        opset_import,
        metadata_props: graph.header.metadata,
        functions: graph.header.functions,
    };
    let bytes = model.encode_to_vec();
    let model_file = Partial::new(dir.join(file));
    write_file(&model_file.path, &bytes)?;
    let data_bytes = data.publish()?;
    model_file.publish()?;
    Ok(Written {
        model_bytes: bytes.len() as u64,
        data_bytes,
    })
}

/// The operator sets of the graph's header, and the project's own ones where they are used.
pub(crate) fn operator_sets(header: &Header, nodes: &[NodeProto]) -> Vec<OperatorSetIdProto> {
    let mut sets = header.operator_sets.clone();
    let own = [(MICROSOFT, MICROSOFT_OPSET), (LLMASOS, LLMASOS_OPSET)];
    for (domain, version) in own {
        if nodes.iter().any(|node| node.domain == domain) {
            sets.entry(domain.to_string()).or_insert(version);
        }
    }
    let set = |(domain, version): (String, i64)| OperatorSetIdProto { domain, version };
    sets.into_iter().map(set).collect()
}

/// Length of the external file that `graph` will have.
fn external_bytes(graph: &Graph<'_>) -> Result<u64, ForgeError> {
    let mut length: u64 = 0;
    for tensor in graph.payloads.iter().flat_map(|payload| &payload.tensors) {
        let bytes = tensor.bytes()?;
        if bytes > INLINE_BYTES {
            length = length.next_multiple_of(ALIGNMENT_BYTES) + bytes;
        }
    }
    Ok(length)
}

/// Checks a tensor's bytes and puts them inline or into the external file.
fn tensor(
    spec: TensorSpec,
    bytes: Vec<u8>,
    data: &mut DataFile,
) -> Result<TensorProto, ForgeError> {
    let expected = spec.bytes()?;
    let found = bytes.len() as u64;
    if expected != found {
        return Err(GraphError::Length {
            tensor: spec.name,
            expected,
            found,
        }
        .into());
    }
    let mut proto = TensorProto {
        dims: spec.dims,
        data_type: spec.data_type.into(),
        name: spec.name,
        ..TensorProto::default()
    };
    if expected <= INLINE_BYTES {
        proto.raw_data = Some(bytes);
        return Ok(proto);
    }
    let offset = data.append(&bytes)?;
    let entry = |key: &str, value: String| StringStringEntryProto {
        key: key.to_string(),
        value,
    };
    proto.external_data = vec![
        entry("location", data.name.clone()),
        entry("offset", offset.to_string()),
        entry("length", expected.to_string()),
    ];
    proto.data_location = Some(DataLocation::External.into());
    Ok(proto)
}

/// The external file while it grows.
struct DataFile {
    name: String,
    partial: Partial,
    file: BufWriter<File>,
    length: u64,
}

impl DataFile {
    fn create(dir: &Path, name: String) -> Result<DataFile, ForgeError> {
        let partial = Partial::new(dir.join(&name));
        let file = File::create(&partial.path).map_err(ForgeError::io("create", &partial.path))?;
        Ok(DataFile {
            name,
            partial,
            file: BufWriter::new(file),
            length: 0,
        })
    }

    /// Appends at the next aligned offset, which is returned.
    fn append(&mut self, bytes: &[u8]) -> Result<u64, ForgeError> {
        let offset = self.length.next_multiple_of(ALIGNMENT_BYTES);
        let padding = vec![0; (offset - self.length) as usize];
        self.file
            .write_all(&padding)
            .and_then(|()| self.file.write_all(bytes))
            .map_err(ForgeError::io("write", &self.partial.path))?;
        self.length = offset + bytes.len() as u64;
        Ok(offset)
    }

    /// Flushes and gives the file its name; an empty file is dropped instead.
    fn publish(self) -> Result<u64, ForgeError> {
        let DataFile {
            partial,
            mut file,
            length,
            ..
        } = self;
        file.flush()
            .and_then(|()| file.get_ref().sync_all())
            .map_err(ForgeError::io("flush", &partial.path))?;
        if length > 0 {
            partial.publish()?;
        }
        Ok(length)
    }
}

/// A file under a temporary name; removed when dropped unless it was published.
struct Partial {
    path: PathBuf,
    target: PathBuf,
}

impl Partial {
    fn new(target: PathBuf) -> Partial {
        let mut name = target
            .file_name()
            .map(ToOwned::to_owned)
            .unwrap_or_default();
        name.push(".partial");
        Partial {
            path: target.with_file_name(name),
            target,
        }
    }

    fn publish(self) -> Result<(), ForgeError> {
        fs::rename(&self.path, &self.target).map_err(ForgeError::io("rename", &self.path))
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        // After a successful rename there is nothing left to remove, and that is fine.
        let _ = fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;

    use super::*;
    use crate::graph::{Dim, GraphBuilder, Node};
    use crate::proto::onnx::DataType;

    fn go_on(_: Progress<'_>) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }

    fn graph<'a>(weights: Vec<f32>, rows: i64) -> Graph<'a> {
        let mut graph = GraphBuilder::new("g");
        graph.input("x", DataType::Float, &[Dim::Fixed(1), Dim::Named("n")]);
        graph.floats("small", &[2], &[1.0, 2.0]);
        graph.floats("first", &[rows, 300], &weights);
        graph.floats("second", &[rows, 300], &weights);
        graph.node(Node::new("MatMul", &["x", "first"], &["y"]));
        graph.node(Node::new("Add", &["y", "second"], &["z"]));
        graph.output("z", DataType::Float, &[Dim::Fixed(1), Dim::Fixed(300)]);
        graph.finish().unwrap()
    }

    fn external(tensor: &TensorProto, key: &str) -> String {
        tensor
            .external_data
            .iter()
            .find(|entry| entry.key == key)
            .unwrap()
            .value
            .clone()
    }

    #[test]
    fn round_trip_with_aligned_external_data() {
        let dir = tempfile::tempdir().unwrap();
        let weights: Vec<f32> = (0..600).map(|value| value as f32).collect();
        let written = write_model(
            graph(weights.clone(), 2),
            dir.path(),
            MODEL_FILE,
            &mut go_on,
        )
        .unwrap();
        let model =
            ModelProto::decode(fs::read(dir.path().join(MODEL_FILE)).unwrap().as_slice()).unwrap();
        assert_eq!(
            (
                model.ir_version,
                model.opset_import[0].version,
                model.opset_import[1].domain.as_str()
            ),
            (10, 21, MICROSOFT)
        );
        let graph = model.graph.unwrap();
        assert_eq!(
            graph
                .node
                .iter()
                .map(|node| node.op_type.as_str())
                .collect::<Vec<_>>(),
            ["MatMul", "Add"]
        );
        let [small, first, second] = &graph.initializer[..] else {
            panic!("three constants")
        };
        assert_eq!(
            small.raw_data.as_deref(),
            Some(&[0, 0, 128, 63, 0, 0, 0, 64][..])
        );
        assert_eq!(
            (external(first, "offset"), external(second, "offset")),
            ("0".into(), "4096".into())
        );
        let data = fs::read(dir.path().join("model.onnx.data")).unwrap();
        assert_eq!(data.len() as u64, written.data_bytes);
        assert_eq!(data[..2400], crate::graph::float_bytes(&weights));
        assert!(data[2400..4096].iter().all(|&byte| byte == 0));
        assert_eq!(data[4096..], crate::graph::float_bytes(&weights));
    }

    #[test]
    fn wrong_length_leaves_no_file() {
        let dir = tempfile::tempdir().unwrap();
        let error =
            write_model(graph(vec![0.0; 599], 2), dir.path(), MODEL_FILE, &mut go_on).unwrap_err();
        assert_eq!(
            error.to_string(),
            "ONNX graph: tensor first: expected 2400 bytes, found 2396"
        );
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn cancelling_leaves_no_file() {
        let dir = tempfile::tempdir().unwrap();
        let mut stop = |progress: Progress<'_>| {
            if progress.done > 0 {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        };
        let error =
            write_model(graph(vec![0.0; 600], 2), dir.path(), MODEL_FILE, &mut stop).unwrap_err();
        assert!(matches!(error, ForgeError::Cancelled));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn small_graphs_need_no_second_file() {
        let dir = tempfile::tempdir().unwrap();
        let mut graph = GraphBuilder::new("g");
        graph.floats("c", &[], &[1.0]);
        graph.node(Node::new("Identity", &["c"], &["y"]));
        graph.output("y", DataType::Float, &[]);
        let written =
            write_model(graph.finish().unwrap(), dir.path(), MODEL_FILE, &mut go_on).unwrap();
        assert_eq!(written.data_bytes, 0);
        assert!(!dir.path().join("model.onnx.data").exists());
    }
}
