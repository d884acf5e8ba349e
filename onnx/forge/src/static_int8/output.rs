//! A model folder with another graph: everything else of the original comes along.
//!
//! ```text
//!   minilm/    model.onnx model.onnx.data   tokenizer.json   llmasos.json
//!                 │ replaced                   │ copied         │ name, role, family, settings, licence, sources kept;
//!   minilm-8/  model.onnx model.onnx.data   tokenizer.json   llmasos.json   the recipe says what was done
//! ```

use std::path::Path;

use llmasos_engine::folder::{MANIFEST, MAX_MANIFEST_BYTES, ModelFolder};

use crate::error::ForgeError;
use crate::folder::{
    Description, Draft, ModelFolderSummary, Provenance, SourceRecord, Watch, copy_file,
};
use crate::graph::Graph;
use crate::writer::{FUSED_FILE, MODEL_FILE, write_model};

/// What is written about the new model.
#[derive(Debug, Clone)]
pub struct NewModel<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its licence, if that is not the source's.
    pub license: Option<&'a str>,
    /// What is remembered of how it was made.
    pub recipe: serde_json::Value,
}

/// Writes the model folder `out`: that of `source` with `graph` in place of its own. A fused graph is left out: it would still be the
/// old model.
///
/// # Errors
/// [`ForgeError::Engine`] for a folder that is none, [`ForgeError::Io`], those of the graph's constants,
/// [`ForgeError::Cancelled`]. `out` appears whole or not at all.
pub fn write_folder(
    source: &Path,
    graph: Graph<'_>,
    new: NewModel<'_>,
    out: &Path,
    watch: &mut Watch<'_>,
) -> Result<ModelFolderSummary, ForgeError> {
    let folder = ModelFolder::open(source)?;
    let draft = Draft::create(out)?;
    write_model(graph, draft.dir(), MODEL_FILE, watch)?;
    let is_graph = |file: &str| {
        [MODEL_FILE, FUSED_FILE]
            .iter()
            .any(|graph| file == *graph || file.strip_suffix(".data") == Some(graph))
    };
    for file in folder.manifest.files.keys().filter(|file| !is_graph(file)) {
        copy_file(&folder.path(file)?, &draft.dir().join(file), watch)?;
    }
    let about = Provenance {
        name: new.name.to_string(),
        license: new.license.unwrap_or(&folder.manifest.license).to_string(),
        sources: sources(source)?,
    };
    let what = Description {
        role: folder.manifest.role.clone(),
        family: folder.manifest.family.clone(),
        config: folder.manifest.settings.clone(),
        recipe: new.recipe,
    };
    draft.publish(&about, &what, watch)
}

/// Where the original came from, as its description says.
///
/// # Errors
/// [`ForgeError::Io`] and [`ForgeError::Recipe`] for a description that cannot be read.
pub(crate) fn sources(folder: &Path) -> Result<Vec<SourceRecord>, ForgeError> {
    #[derive(serde::Deserialize)]
    struct Sources {
        #[serde(default)]
        sources: Vec<SourceRecord>,
    }
    let path = folder.join(MANIFEST);
    let size = std::fs::metadata(&path).map_err(ForgeError::io("inspect", &path))?;
    let bytes = if size.len() <= MAX_MANIFEST_BYTES {
        std::fs::read(&path).map_err(ForgeError::io("read", &path))?
    } else {
        Vec::new() // the engine has refused it already
    };
    let read: Result<Sources, _> = serde_json::from_slice(&bytes);
    let read = read.map_err(|error| ForgeError::io("understand", &path)(error.into()))?;
    Ok(read.sources)
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;

    use super::*;
    use crate::graph::{GraphBuilder, Node};
    use crate::proto::onnx::DataType;

    fn graph<'a>(value: f32) -> Graph<'a> {
        let mut graph = GraphBuilder::new("g");
        graph.floats("c", &[], &[value]);
        graph.node(Node::new("Identity", &["c"], &["y"]));
        graph.output("y", DataType::Float, &[]);
        graph.finish().unwrap()
    }

    #[test]
    fn everything_but_the_graphs_comes_along() {
        let root = tempfile::tempdir().unwrap();
        let mut watch = |_: crate::folder::Progress<'_>| ControlFlow::Continue(());
        let (old, new) = (root.path().join("old"), root.path().join("new"));
        let draft = Draft::create(&old).unwrap();
        write_model(graph(1.0), draft.dir(), MODEL_FILE, &mut watch).unwrap();
        std::fs::write(draft.dir().join("fused.onnx.data"), b"old").unwrap();
        std::fs::write(draft.dir().join("tokenizer.json"), b"{}").unwrap();
        let source = SourceRecord {
            package: "p".into(),
            version: "1".into(),
            path: "a".into(),
            sha256: "00".repeat(32),
        };
        let about = Provenance {
            name: "old".into(),
            license: "MIT".into(),
            sources: vec![source.clone()],
        };
        let what = Description {
            role: "encoder".into(),
            family: "bert".into(),
            config: serde_json::json!({"hidden": 4}),
            recipe: serde_json::json!({"kind": "copy"}),
        };
        draft.publish(&about, &what, &mut watch).unwrap();
        let recipe = serde_json::json!({"kind": "static-int8"});
        let named = |name| NewModel {
            name,
            license: None,
            recipe: recipe.clone(),
        };
        write_folder(&old, graph(2.0), named("new"), &new, &mut watch).unwrap();
        let folder = ModelFolder::open(&new).unwrap();
        assert_eq!(folder.manifest.name, "new");
        assert_eq!(folder.manifest.settings, serde_json::json!({"hidden": 4}));
        assert_eq!(
            folder.manifest.files.keys().collect::<Vec<_>>(),
            ["model.onnx", "tokenizer.json"]
        );
        assert_eq!(sources(&new).unwrap(), [source]);
        let bytes = [&old, &new].map(|dir| std::fs::read(dir.join(MODEL_FILE)).unwrap());
        assert!(bytes[0] != bytes[1], "another graph");
        assert!(
            write_folder(
                &root.path().join("none"),
                graph(1.0),
                named("x"),
                &new,
                &mut watch
            )
            .is_err()
        );
        assert!(
            ModelFolder::open(&new).is_ok(),
            "a failure leaves what was there"
        );
    }
}
