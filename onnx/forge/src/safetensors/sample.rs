//! Small safetensors files for tests, laid out the way published ones are.

use serde_json::{Map, Value, json};

/// A file under construction.
#[derive(Default, Clone)]
pub(crate) struct Sample {
    header: Map<String, Value>,
    data: Vec<u8>,
}

impl Sample {
    /// Adds an f32 tensor with its elements.
    pub(crate) fn floats(mut self, name: &str, shape: &[u64], values: &[f32]) -> Sample {
        let begin = self.data.len();
        self.data
            .extend(values.iter().flat_map(|value| value.to_le_bytes()));
        let end = self.data.len();
        self.row(
            name,
            json!({"dtype": "F32", "shape": shape, "data_offsets": [begin, end]}),
        )
    }

    /// Adds a tensor of another type with its bytes.
    pub(crate) fn raw(mut self, name: &str, dtype: &str, shape: &[u64], bytes: &[u8]) -> Sample {
        let begin = self.data.len();
        self.data.extend(bytes);
        let end = self.data.len();
        self.row(
            name,
            json!({"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}),
        )
    }

    /// Adds a row of the header as it is given.
    pub(crate) fn row(mut self, name: &str, entry: Value) -> Sample {
        self.header.insert(name.to_string(), entry);
        self
    }

    /// The file.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        file(&Value::Object(self.header.clone()).to_string(), &self.data)
    }
}

/// A file of a header as it is given.
pub(crate) fn file(header: &str, data: &[u8]) -> Vec<u8> {
    let length = (header.len() as u64).to_le_bytes();
    [&length[..], header.as_bytes(), data].concat()
}
