//! The portable graph of a decoder, run by itself: tokens in, scores of the next one out. What the engine adds to it (sampling,
//! templates, the server) is not here, so that a difference is the graph's.

use llmasos_engine::ModelFolder;
use llmasos_engine::session::{Dim, Feed, Held, Kind, Session, SessionSpec, TensorSpec, Threads};

use crate::models::runtime;

/// A graph with the keys and values of what it has read.
pub(crate) struct Portable {
    session: Session,
    names: Vec<(String, String)>,
    shape: [usize; 4],
    past: Vec<Held>,
    length: usize,
}

impl Portable {
    /// Opens the graph of a folder with room for `context` tokens.
    pub(crate) fn open(folder: &ModelFolder, context: usize) -> Portable {
        let size = |field: &str| {
            let size = folder.manifest.settings[field].as_u64();
            usize::try_from(size.unwrap_or_else(|| panic!("config has no {field}"))).unwrap()
        };
        let names: Vec<_> = (0..size("layers"))
            .flat_map(|layer| ["key", "value"].map(|kind| (layer, kind)))
            .map(|(layer, kind)| {
                (
                    format!("past_key_values.{layer}.{kind}"),
                    format!("present.{layer}.{kind}"),
                )
            })
            .collect();
        let cache = [
            Dim::Is(1),
            Dim::Is(size("kv_heads")),
            Dim::Any,
            Dim::Is(size("head_dim")),
        ];
        let mut inputs = vec![
            TensorSpec::new("input_ids", Kind::I64, &[Dim::Is(1), Dim::Any]),
            TensorSpec::new("seqlens_k", Kind::I32, &[Dim::Is(1)]),
            TensorSpec::new("total_sequence_length", Kind::I32, &[]),
        ];
        inputs.extend(
            names
                .iter()
                .map(|(past, _)| TensorSpec::new(past, Kind::F32, &cache)),
        );
        let logits = [Dim::Is(1), Dim::Is(1), Dim::Is(size("vocab"))];
        let outputs = [TensorSpec::new("logits", Kind::F32, &logits)];
        let spec = SessionSpec {
            inputs: &inputs,
            outputs: &outputs,
        };
        let graph = folder.path("model.onnx").unwrap();
        let name = &folder.manifest.name;
        Portable {
            session: Session::open(&runtime(), name, &graph, &spec, Threads::Shared).unwrap(),
            names,
            shape: [1, size("kv_heads"), context, size("head_dim")],
            past: Vec::new(),
            length: 0,
        }
    }

    /// Forgets what it has read.
    pub(crate) fn restart(&mut self) {
        self.past.clear();
        self.length = 0;
    }

    /// Reads more tokens in one run; returns the scores of the one after them, by id.
    pub(crate) fn read(&mut self, tokens: &[u32]) -> Vec<f32> {
        self.length += tokens.len();
        assert!(self.length <= self.shape[2], "the cache is full");
        let total = i32::try_from(self.length).unwrap();
        let ids: Vec<i64> = tokens.iter().map(|id| i64::from(*id)).collect();
        let shape = [1, ids.len()];
        let (last, all) = ([total - 1], [total]);
        let mut feeds = vec![
            Feed::i64("input_ids", &shape, &ids),
            Feed::i32("seqlens_k", &[1], &last),
            Feed::i32("total_sequence_length", &[], &all),
        ];
        let empty = vec![0.0; self.shape.iter().product()];
        feeds.extend(self.names.iter().enumerate().map(|(index, (past, _))| {
            match self.past.get(index) {
                Some(held) => Feed::held(past, held),
                None => Feed::f32(past, &self.shape, &empty),
            }
        }));
        let mut outputs = self.session.run(&feeds).unwrap();
        let scores = outputs.f32("logits").unwrap().data.to_vec();
        let present: Vec<Held> = self
            .names
            .iter()
            .map(|(_, name)| outputs.take(name).unwrap())
            .collect();
        drop(outputs);
        self.past = present;
        scores
    }
}
