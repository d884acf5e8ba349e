//! Small GGUF files for tests, laid out the way published ones are.

use super::MAGIC;

/// A file under construction.
#[derive(Default, Clone)]
pub(crate) struct Sample {
    metadata: Vec<u8>,
    metadata_count: u64,
    tensors: Vec<u8>,
    tensor_count: u64,
    data: Vec<u8>,
}

/// A length-prefixed text.
pub(crate) fn text(value: &str) -> Vec<u8> {
    [&(value.len() as u64).to_le_bytes(), value.as_bytes()].concat()
}

impl Sample {
    /// Adds metadata of ggml's type `kind`.
    pub(crate) fn entry(mut self, key: &str, kind: u32, value: &[u8]) -> Sample {
        self.metadata
            .extend([&text(key), &kind.to_le_bytes()[..], value].concat());
        self.metadata_count += 1;
        self
    }

    /// Adds a u32.
    pub(crate) fn unsigned(self, key: &str, value: u32) -> Sample {
        self.entry(key, 4, &value.to_le_bytes())
    }

    /// Adds a text.
    pub(crate) fn string(self, key: &str, value: &str) -> Sample {
        self.entry(key, 8, &text(value))
    }

    /// Adds an array of texts.
    pub(crate) fn strings(self, key: &str, values: &[&str]) -> Sample {
        let items: Vec<u8> = values.iter().flat_map(|value| text(value)).collect();
        self.array(key, 8, values.len(), &items)
    }

    /// Adds an array of i32.
    pub(crate) fn integers(self, key: &str, values: &[i32]) -> Sample {
        let items: Vec<u8> = values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect();
        self.array(key, 5, values.len(), &items)
    }

    /// Adds an array of f32.
    pub(crate) fn numbers(self, key: &str, values: &[f32]) -> Sample {
        let items: Vec<u8> = values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect();
        self.array(key, 6, values.len(), &items)
    }

    fn array(self, key: &str, kind: u32, count: usize, items: &[u8]) -> Sample {
        let count = (count as u64).to_le_bytes();
        self.entry(key, 9, &[&kind.to_le_bytes()[..], &count, items].concat())
    }

    /// Adds an f32.
    pub(crate) fn number(self, key: &str, value: f32) -> Sample {
        self.entry(key, 6, &value.to_le_bytes())
    }

    /// Adds a truth value.
    pub(crate) fn flag(self, key: &str, value: bool) -> Sample {
        self.entry(key, 7, &[value.into()])
    }

    /// Adds a row of the tensor table as it is given.
    pub(crate) fn tensor(mut self, name: &str, dims: &[u64], kind: u32, offset: u64) -> Sample {
        self.tensors
            .extend([text(name), (dims.len() as u32).to_le_bytes().to_vec()].concat());
        self.tensors
            .extend(dims.iter().flat_map(|size| size.to_le_bytes()));
        self.tensors
            .extend([&kind.to_le_bytes()[..], &offset.to_le_bytes()].concat());
        self.tensor_count += 1;
        self
    }

    /// Adds an f32 tensor with its elements.
    pub(crate) fn floats(mut self, name: &str, dims: &[u64], values: &[f32]) -> Sample {
        self.data.resize(self.data.len().next_multiple_of(32), 0);
        let offset = self.data.len() as u64;
        self.data
            .extend(values.iter().flat_map(|value| value.to_le_bytes()));
        self.tensor(name, dims, 0, offset)
    }

    /// The file; the data section is filled up with zeros to `data_bytes`.
    pub(crate) fn bytes(&self, data_bytes: usize) -> Vec<u8> {
        let counts = [
            self.tensor_count.to_le_bytes(),
            self.metadata_count.to_le_bytes(),
        ]
        .concat();
        let version = 3_u32.to_le_bytes();
        let mut bytes = [MAGIC, &version[..], &counts, &self.metadata, &self.tensors].concat();
        bytes.resize(bytes.len().next_multiple_of(32), 0);
        let data_start = bytes.len();
        bytes.extend(&self.data);
        bytes.resize(bytes.len().max(data_start + data_bytes), 0);
        bytes
    }
}
