//! The llama architecture (Touvron et al. 2023; SmolLM2 is one) from GGUF to an ONNX graph for generation.
//!
//! One token in, one row of logits out, and the keys and values of the past as inputs and outputs that may share one buffer.
//! Matrices that read the same input are one: query|key|value and gate|up, because on few cores a kernel costs as much to start
//! as to run. RMS norms are fused with the residual sum before them. Only the last position meets the output head, which is the
//! embedding itself when both are tied.
//!
//! ```text
//!   x₀ = Embedding[ids]                                   GatherBlockQuantized (8-bit) | Gather (fp32)
//!   for each layer:
//!     n  = RMSNorm(x)                                     SimplifiedLayerNormalization; later SkipSimplified… with the sum before
//!     q|k|v = n·Wqkv                                      MatMulNBits | MatMul
//!     a  = softmax(rope(q)·rope(k)ᵀ/√d) · v               GroupQueryAttention   past_key_values.{l} → present.{l}
//!     x  = x + a·Wo                                       MatMulNBits
//!     n  = RMSNorm(x)                                     SkipSimplifiedLayerNormalization
//!     g|u = n·Wgu                                         MatMulNBits, Split
//!     x  = x + (SiLU(g) ⊙ u)·Wdown                        QuickGelu(α=1), Mul, MatMulNBits
//!   logits = RMSNorm(x)[last]·Eᵀ                          SkipSimplified…, Gather, MatMulNBits | Gemm
//! ```
//!
//! GGUF stores the rows of query and key for rotary embeddings of neighbouring pairs; the kernel rotates halves. So these rows
//! are put back into the order of the original checkpoint: (head, i, half) → (head, half, i).

use std::collections::BTreeSet;

use crate::error::ForgeError;
use crate::gguf::{Gguf, GgufError};
use crate::graph::{Dim, Graph, GraphBuilder, Node, TensorSpec, float_bytes};
use crate::proto::onnx::DataType;
use crate::quantize::{BLOCK, CodeFormat, Codes, quantize, repack};

/// Value of `general.architecture`.
pub const ARCHITECTURE: &str = "llama";

/// Upper bound of every size in the configuration; what is larger does not run on a vehicle.
pub const MAX_SIZE: u64 = 1 << 20;
/// Longest context for which rotary tables are written (16 MiB of tables at a head size of 64).
pub const MAX_CONTEXT: u64 = 65_536;
/// Most layers.
pub const MAX_LAYERS: u64 = 1024;

/// A GGUF file that is not a llama this module can build.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum LlamaError {
    /// Another architecture.
    #[error("expected architecture \"llama\", found {found:?}")]
    Architecture {
        /// The architecture.
        found: String,
    },
    /// A size of the configuration out of range or inconsistent with another.
    #[error("metadata {key}: expected {expected}, found {found}")]
    Config {
        /// The key.
        key: &'static str,
        /// What is possible.
        expected: String,
        /// What there is.
        found: String,
    },
    /// A tensor with another shape than the configuration says.
    #[error("tensor {tensor}: expected shape {expected:?}, found {found:?}")]
    Shape {
        /// The tensor.
        tensor: String,
        /// Sizes, fastest first.
        expected: Vec<u64>,
        /// Sizes, fastest first.
        found: Vec<u64>,
    },
    /// A tensor that this graph has no place for; leaving it out would silently change the model.
    #[error("tensor {tensor} has no place in the llama graph")]
    UnexpectedTensor {
        /// The tensor.
        tensor: String,
    },
}

/// How matrices are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Storage {
    /// Blocks of codes, multiplied by MatMulNBits.
    Blocks(CodeFormat),
    /// 32-bit floats.
    Fp32,
}

/// What can be chosen about the graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// The matrices of the layers.
    pub layers: Storage,
    /// Embedding and head.
    pub head: Storage,
    /// `accuracy_level` of MatMulNBits: 0, 1 or 4.
    pub accuracy_level: u8,
}

/// Sizes of a llama.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Config {
    /// Layers.
    pub layers: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Width inside the feed-forward part.
    pub feed_forward: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Width of a head; even.
    pub head_dim: usize,
    /// Tokens of the vocabulary.
    pub vocab: usize,
    /// Longest context in tokens.
    pub context: usize,
    /// Base of the rotary embedding.
    pub rope_base: f64,
    /// ε of the RMS norms.
    pub epsilon: f32,
}

impl Config {
    /// Reads and checks the configuration.
    ///
    /// # Errors
    /// [`ForgeError::Llama`] or [`ForgeError::Gguf`] if it is not a llama, incomplete, or inconsistent.
    pub fn read(gguf: &Gguf<'_>) -> Result<Config, ForgeError> {
        let architecture = gguf.string("general.architecture")?;
        if architecture != ARCHITECTURE {
            return Err(LlamaError::Architecture {
                found: architecture.to_string(),
            }
            .into());
        }
        let heads = size(gguf, "llama.attention.head_count", MAX_SIZE)?;
        let hidden = size(gguf, "llama.embedding_length", MAX_SIZE)?;
        let kv_heads = if gguf.metadata().contains_key(KV_HEADS) {
            size(gguf, KV_HEADS, MAX_SIZE)?
        } else {
            heads
        };
        let config = Config {
            layers: size(gguf, "llama.block_count", MAX_LAYERS)?,
            hidden,
            feed_forward: size(gguf, "llama.feed_forward_length", MAX_SIZE)?,
            heads,
            kv_heads,
            head_dim: if gguf.metadata().contains_key(KEY_LENGTH) {
                size(gguf, KEY_LENGTH, MAX_SIZE)?
            } else {
                hidden / heads
            },
            vocab: gguf.tensor(EMBEDDING)?.rows(),
            context: size(gguf, "llama.context_length", MAX_CONTEXT)?,
            rope_base: if gguf.metadata().contains_key(ROPE_BASE) {
                gguf.float(ROPE_BASE)?
            } else {
                10_000.0
            },
            epsilon: gguf.float(EPSILON)? as f32,
        };
        config.check(gguf)?;
        Ok(config)
    }

    fn check(&self, gguf: &Gguf<'_>) -> Result<(), ForgeError> {
        let rotary = if gguf.metadata().contains_key(ROTARY) {
            gguf.unsigned(ROTARY)?
        } else {
            self.head_dim as u64
        };
        let scaling = if gguf.metadata().contains_key(ROPE_SCALING) {
            gguf.string(ROPE_SCALING)?
        } else {
            "none"
        };
        let rules: [(bool, &'static str, &str, String); 7] = [
            (
                self.heads.is_multiple_of(self.kv_heads),
                KV_HEADS,
                "a divisor of the number of heads",
                self.kv_heads.to_string(),
            ),
            (
                self.head_dim.is_multiple_of(2) && self.head_dim > 0,
                KEY_LENGTH,
                "an even, positive width",
                self.head_dim.to_string(),
            ),
            (
                rotary == self.head_dim as u64,
                ROTARY,
                "the width of a head",
                rotary.to_string(),
            ),
            (scaling == "none", ROPE_SCALING, "none", scaling.to_string()),
            (
                self.rope_base.is_finite() && self.rope_base > 1.0,
                ROPE_BASE,
                "a finite number above 1",
                self.rope_base.to_string(),
            ),
            (
                self.epsilon.is_finite() && self.epsilon > 0.0,
                EPSILON,
                "a finite positive number",
                self.epsilon.to_string(),
            ),
            (
                self.vocab as u64 <= MAX_SIZE,
                "tokenizer.ggml.tokens",
                "at most 1048576 tokens",
                self.vocab.to_string(),
            ),
        ];
        for (holds, key, expected, found) in rules {
            if !holds {
                return Err(LlamaError::Config {
                    key,
                    expected: expected.to_string(),
                    found,
                }
                .into());
            }
        }
        // MatMulNBits reads whole blocks along these widths.
        let widths = [
            ("llama.embedding_length", self.hidden),
            ("llama.feed_forward_length", self.feed_forward),
            (KEY_LENGTH, self.heads * self.head_dim),
        ];
        for (key, width) in widths {
            if !width.is_multiple_of(BLOCK) {
                return Err(LlamaError::Config {
                    key,
                    expected: format!("a multiple of {BLOCK}"),
                    found: width.to_string(),
                }
                .into());
            }
        }
        Ok(())
    }

    fn q_width(&self) -> usize {
        self.heads * self.head_dim
    }

    fn kv_width(&self) -> usize {
        self.kv_heads * self.head_dim
    }
}

const KV_HEADS: &str = "llama.attention.head_count_kv";
const KEY_LENGTH: &str = "llama.attention.key_length";
const ROPE_BASE: &str = "llama.rope.freq_base";
const ROPE_SCALING: &str = "llama.rope.scaling.type";
const ROTARY: &str = "llama.rope.dimension_count";
const EPSILON: &str = "llama.attention.layer_norm_rms_epsilon";
const EMBEDDING: &str = "token_embd.weight";
const HEAD: &str = "output.weight";

/// A positive size of at most `limit`.
fn size(gguf: &Gguf<'_>, key: &'static str, limit: u64) -> Result<usize, ForgeError> {
    let found = gguf.unsigned(key)?;
    if found == 0 || found > limit {
        return Err(LlamaError::Config {
            key,
            expected: format!("1 to {limit}"),
            found: found.to_string(),
        }
        .into());
    }
    Ok(found as usize)
}

/// Rows of a GGUF matrix, and what to do with them on the way.
#[derive(Debug, Clone)]
struct Part {
    tensor: String,
    rows: usize,
    /// Heads whose rows are to be un-permuted; `None` leaves them.
    rotary_heads: Option<usize>,
}

impl Part {
    fn plain(tensor: String, rows: usize) -> Part {
        Part {
            tensor,
            rows,
            rotary_heads: None,
        }
    }

    fn rotary(tensor: String, heads: usize, head_dim: usize) -> Part {
        Part {
            tensor,
            rows: heads * head_dim,
            rotary_heads: Some(heads),
        }
    }
}

/// A matrix of the graph: the rows of one or more GGUF matrices over the same input.
#[derive(Debug, Clone)]
struct Matrix {
    name: String,
    columns: usize,
    parts: Vec<Part>,
}

impl Matrix {
    fn rows(&self) -> usize {
        self.parts.iter().map(|part| part.rows).sum()
    }
}

/// Builds the graph. Weights are read from `gguf` when the graph is written.
///
/// # Errors
/// [`ForgeError::Gguf`] or [`ForgeError::Llama`] if a tensor is missing, superfluous or of the wrong shape.
pub fn graph<'a>(
    gguf: &'a Gguf<'a>,
    config: &Config,
    options: Options,
) -> Result<Graph<'a>, ForgeError> {
    let mut builder = Builder {
        gguf,
        config: *config,
        options,
        graph: GraphBuilder::new("llama"),
        used: BTreeSet::new(),
    };
    builder.build()?;
    Ok(builder.graph.finish()?)
}

struct Builder<'a> {
    gguf: &'a Gguf<'a>,
    config: Config,
    options: Options,
    graph: GraphBuilder<'a>,
    used: BTreeSet<String>,
}

impl<'a> Builder<'a> {
    fn build(&mut self) -> Result<(), ForgeError> {
        self.inputs();
        self.rotary_tables();
        let head = self.embedding()?;
        let mut residual = "embedding".to_string();
        let mut normed = self.first_norm(&residual)?;
        for layer in 0..self.config.layers {
            let attention = self.attention(layer, &normed)?;
            let name = format!("layers.{layer}.attention.residual");
            let norm = self.skip_norm(
                &residual,
                &attention,
                &format!("blk.{layer}.ffn_norm.weight"),
                Some(&name),
            )?;
            let delta = self.feed_forward(layer, &norm)?;
            let is_last = layer + 1 == self.config.layers;
            let next = if is_last {
                "output_norm.weight".to_string()
            } else {
                format!("blk.{}.attn_norm.weight", layer + 1)
            };
            let sum = format!("layers.{layer}.residual");
            normed = self.skip_norm(&name, &delta, &next, (!is_last).then_some(sum.as_str()))?;
            residual = sum;
        }
        self.head(&normed, &head)?;
        match self
            .gguf
            .tensors()
            .keys()
            .find(|name| !self.used.contains(*name))
        {
            None => Ok(()),
            Some(tensor) => Err(LlamaError::UnexpectedTensor {
                tensor: tensor.clone(),
            }
            .into()),
        }
    }

    fn inputs(&mut self) {
        let Config {
            layers,
            kv_heads,
            head_dim,
            vocab,
            ..
        } = self.config;
        let graph = &mut self.graph;
        graph.input(
            "input_ids",
            DataType::Int64,
            &[Dim::Fixed(1), Dim::Named("sequence")],
        );
        graph.input("seqlens_k", DataType::Int32, &[Dim::Fixed(1)]);
        graph.input("total_sequence_length", DataType::Int32, &[]);
        graph.output(
            "logits",
            DataType::Float,
            &[Dim::Fixed(1), Dim::Fixed(1), Dim::Fixed(vocab as i64)],
        );
        for layer in 0..layers {
            for kind in ["key", "value"] {
                let shape = |length| {
                    [
                        Dim::Fixed(1),
                        Dim::Fixed(kv_heads as i64),
                        Dim::Named(length),
                        Dim::Fixed(head_dim as i64),
                    ]
                };
                graph.input(
                    &format!("past_key_values.{layer}.{kind}"),
                    DataType::Float,
                    &shape("past"),
                );
                graph.output(
                    &format!("present.{layer}.{kind}"),
                    DataType::Float,
                    &shape("present"),
                );
            }
        }
    }

    /// cos and sin of position·base^(−2i/d): f32 [context, head_dim/2] each (Su et al. 2021, section 3.4.2).
    fn rotary_tables(&mut self) {
        let Config {
            context,
            head_dim,
            rope_base,
            ..
        } = self.config;
        let dims = [context as i64, head_dim as i64 / 2];
        for (name, function) in [
            ("rope.cos", f64::cos as fn(f64) -> f64),
            ("rope.sin", f64::sin),
        ] {
            self.graph.payload(
                vec![TensorSpec::new(name, DataType::Float, &dims)],
                move || {
                    let frequencies: Vec<f64> = (0..head_dim / 2)
                        .map(|i| rope_base.powf(-2.0 * i as f64 / head_dim as f64))
                        .collect();
                    let values = (0..context).flat_map(|position| {
                        frequencies
                            .iter()
                            .map(move |frequency| function(position as f64 * frequency) as f32)
                    });
                    Ok(vec![values.flat_map(f32::to_le_bytes).collect()])
                },
            );
        }
    }

    /// The embedding lookup; returns the matrix that the head multiplies with, which is the embedding if both are tied.
    fn embedding(&mut self) -> Result<Matrix, ForgeError> {
        let Config { hidden, vocab, .. } = self.config;
        let part = |tensor: &str| vec![Part::plain(tensor.to_string(), vocab)];
        let embedding = Matrix {
            name: "embedding.weight".into(),
            columns: hidden,
            parts: part(EMBEDDING),
        };
        self.weights(&embedding, self.options.head)?;
        match self.options.head {
            Storage::Fp32 => self.graph.node(Node::new(
                "Gather",
                &["embedding.weight", "input_ids"],
                &["embedding"],
            )),
            Storage::Blocks(format) => {
                let row_bytes = hidden / BLOCK * format.block_bytes();
                self.graph
                    .integers("embedding.rows", &[2], &[vocab as i64, row_bytes as i64]);
                self.graph.node(Node::new(
                    "Reshape",
                    &["embedding.weight", "embedding.rows"],
                    &["embedding.codes"],
                ));
                let mut inputs = vec!["embedding.codes", "input_ids", "embedding.weight.scales"];
                if format.has_zero_points() {
                    inputs.push("embedding.weight.zero_points");
                }
                let node = Node::microsoft("GatherBlockQuantized", &inputs, &["embedding"])
                    .int("bits", format.bits());
                self.graph.node(
                    node.int("block_size", BLOCK as i64)
                        .int("gather_axis", 0)
                        .int("quantize_axis", 1),
                );
            }
        }
        if !self.gguf.tensors().contains_key(HEAD) {
            return Ok(embedding);
        }
        let head = Matrix {
            name: "head.weight".into(),
            columns: hidden,
            parts: part(HEAD),
        };
        self.weights(&head, self.options.head)?;
        Ok(head)
    }

    fn first_norm(&mut self, input: &str) -> Result<String, ForgeError> {
        let weight = self.norm_weight("blk.0.attn_norm.weight")?;
        let output = "layers.0.attention.norm";
        let node =
            Node::new("SimplifiedLayerNormalization", &[input, &weight], &[output]).int("axis", -1);
        self.graph.node(
            node.float("epsilon", self.config.epsilon)
                .int("stash_type", 1),
        );
        Ok(output.to_string())
    }

    /// RMSNorm(residual + delta); the sum goes on as `sum`, if anybody needs it.
    fn skip_norm(
        &mut self,
        residual: &str,
        delta: &str,
        tensor: &str,
        sum: Option<&str>,
    ) -> Result<String, ForgeError> {
        let weight = self.norm_weight(tensor)?;
        let output = format!("{tensor}.out");
        let all = [output.as_str(), "", "", sum.unwrap_or_default()];
        let outputs = if sum.is_some() { &all[..] } else { &all[..1] };
        let node = Node::microsoft(
            "SkipSimplifiedLayerNormalization",
            &[residual, delta, &weight],
            outputs,
        );
        self.graph.node(node.float("epsilon", self.config.epsilon));
        Ok(output)
    }

    fn norm_weight(&mut self, tensor: &str) -> Result<String, ForgeError> {
        self.claim(tensor, &[self.config.hidden as u64])?;
        let weights = self.gguf.dequantize(tensor)?;
        self.graph
            .floats(tensor, &[self.config.hidden as i64], &weights);
        Ok(tensor.to_string())
    }

    fn attention(&mut self, layer: usize, input: &str) -> Result<String, ForgeError> {
        let Config {
            hidden,
            heads,
            kv_heads,
            head_dim,
            ..
        } = self.config;
        let tensor = |name: &str| format!("blk.{layer}.{name}.weight");
        let parts = vec![
            Part::rotary(tensor("attn_q"), heads, head_dim),
            Part::rotary(tensor("attn_k"), kv_heads, head_dim),
            Part::plain(tensor("attn_v"), self.config.kv_width()),
        ];
        let qkv = self.multiply(
            input,
            &Matrix {
                name: format!("layers.{layer}.attention.qkv"),
                columns: hidden,
                parts,
            },
        )?;
        let output = format!("layers.{layer}.attention.heads");
        let past = ["key", "value"].map(|kind| format!("past_key_values.{layer}.{kind}"));
        let present = ["key", "value"].map(|kind| format!("present.{layer}.{kind}"));
        let inputs = [
            &qkv,
            "",
            "",
            &past[0],
            &past[1],
            "seqlens_k",
            "total_sequence_length",
            "rope.cos",
            "rope.sin",
        ];
        let node = Node::microsoft(
            "GroupQueryAttention",
            &inputs,
            &[&output, &present[0], &present[1]],
        );
        let node = node
            .int("num_heads", heads as i64)
            .int("kv_num_heads", kv_heads as i64);
        self.graph
            .node(node.int("do_rotary", 1).int("rotary_interleaved", 0));
        let parts = vec![Part::plain(tensor("attn_output"), hidden)];
        self.multiply(
            &output,
            &Matrix {
                name: format!("layers.{layer}.attention.output"),
                columns: self.config.q_width(),
                parts,
            },
        )
    }

    fn feed_forward(&mut self, layer: usize, input: &str) -> Result<String, ForgeError> {
        let Config {
            hidden,
            feed_forward,
            ..
        } = self.config;
        let tensor = |name: &str| format!("blk.{layer}.{name}.weight");
        let value = |name: &str| format!("layers.{layer}.feed_forward.{name}");
        let parts = ["ffn_gate", "ffn_up"]
            .map(|name| Part::plain(tensor(name), feed_forward))
            .to_vec();
        let both = self.multiply(
            input,
            &Matrix {
                name: value("gate_up"),
                columns: hidden,
                parts,
            },
        )?;
        if layer == 0 {
            self.graph
                .integers("feed_forward.split", &[2], &[feed_forward as i64; 2]);
        }
        let (gate, up, active, product) = (
            value("gate"),
            value("up"),
            value("active"),
            value("product"),
        );
        self.graph.node(
            Node::new("Split", &[&both, "feed_forward.split"], &[&gate, &up]).int("axis", -1),
        );
        self.graph
            .node(Node::microsoft("QuickGelu", &[&gate], &[&active]).float("alpha", 1.0));
        self.graph
            .node(Node::new("Mul", &[&active, &up], &[&product]));
        let parts = vec![Part::plain(tensor("ffn_down"), hidden)];
        self.multiply(
            &product,
            &Matrix {
                name: value("down"),
                columns: feed_forward,
                parts,
            },
        )
    }

    /// Logits of the last position.
    fn head(&mut self, input: &str, matrix: &Matrix) -> Result<(), ForgeError> {
        match self.options.head {
            Storage::Blocks(format) => {
                self.graph.integers("head.last", &[1], &[-1]);
                self.graph.node(
                    Node::new("Gather", &[input, "head.last"], &["head.input"]).int("axis", 1),
                );
                self.multiply_blocks("head.input", matrix, format, "logits");
            }
            Storage::Fp32 => {
                // A scalar index drops the axis, so that Gemm can read the embedding transposed instead of storing it twice.
                self.graph.integers("head.last", &[], &[-1]);
                self.graph.integers("head.axis", &[1], &[1]);
                self.graph.node(
                    Node::new("Gather", &[input, "head.last"], &["head.input"]).int("axis", 1),
                );
                self.graph.node(
                    Node::new("Gemm", &["head.input", &matrix.name], &["head.row"])
                        .int("transB", 1),
                );
                self.graph.node(Node::new(
                    "Unsqueeze",
                    &["head.row", "head.axis"],
                    &["logits"],
                ));
            }
        }
        Ok(())
    }

    /// input · matrixᵀ; returns the name of the product.
    fn multiply(&mut self, input: &str, matrix: &Matrix) -> Result<String, ForgeError> {
        self.weights(matrix, self.options.layers)?;
        let output = format!("{}.out", matrix.name);
        match self.options.layers {
            Storage::Fp32 => {
                self.graph
                    .node(Node::new("MatMul", &[input, &matrix.name], &[&output]))
            }
            Storage::Blocks(format) => self.multiply_blocks(input, matrix, format, &output),
        }
        Ok(output)
    }

    fn multiply_blocks(&mut self, input: &str, matrix: &Matrix, format: CodeFormat, output: &str) {
        let (scales, zeros) = (
            format!("{}.scales", matrix.name),
            format!("{}.zero_points", matrix.name),
        );
        let mut inputs = vec![input, &matrix.name, &scales];
        if format.has_zero_points() {
            inputs.push(&zeros);
        }
        let node = Node::microsoft("MatMulNBits", &inputs, &[output])
            .int("K", matrix.columns as i64)
            .int("N", matrix.rows() as i64);
        let node = node
            .int("bits", format.bits())
            .int("block_size", BLOCK as i64);
        self.graph
            .node(node.int("accuracy_level", self.options.accuracy_level.into()));
    }

    /// Registers a matrix's constants. Blocks: `name`, `name.scales` and, if there are any, `name.zero_points`. Floats: `name`,
    /// stored as MatMul wants it, [columns, rows]; the embedding stays [rows, columns].
    fn weights(&mut self, matrix: &Matrix, storage: Storage) -> Result<(), ForgeError> {
        for part in &matrix.parts {
            self.claim(&part.tensor, &[matrix.columns as u64, part.rows as u64])?;
        }
        let (rows, columns, gguf, owned) = (
            matrix.rows() as i64,
            matrix.columns as i64,
            self.gguf,
            matrix.clone(),
        );
        let blocks = columns / BLOCK as i64;
        match storage {
            Storage::Blocks(format) => {
                let mut tensors = vec![
                    TensorSpec::new(
                        &matrix.name,
                        DataType::Uint8,
                        &[rows, blocks, format.block_bytes() as i64],
                    ),
                    TensorSpec::new(
                        format!("{}.scales", matrix.name),
                        DataType::Float,
                        &[rows, blocks],
                    ),
                ];
                if format.has_zero_points() {
                    tensors.push(TensorSpec::new(
                        format!("{}.zero_points", matrix.name),
                        DataType::Uint8,
                        &[rows, (blocks + 1) / 2],
                    ));
                }
                self.graph.payload(tensors, move || {
                    let codes = block_weights(gguf, &owned, format)?;
                    let mut contents = vec![codes.codes, float_bytes(&codes.scales)];
                    if format.has_zero_points() {
                        contents.push(codes.zero_points);
                    }
                    Ok(contents)
                });
            }
            Storage::Fp32 => {
                let is_embedding = matches!(matrix.parts.first(), Some(part) if part.tensor == EMBEDDING || part.tensor == HEAD);
                let dims = if is_embedding {
                    [rows, columns]
                } else {
                    [columns, rows]
                };
                self.graph.payload(
                    vec![TensorSpec::new(&matrix.name, DataType::Float, &dims)],
                    move || {
                        let weights = float_weights(gguf, &owned)?;
                        let weights = if is_embedding {
                            weights
                        } else {
                            transpose(&weights, owned.columns)
                        };
                        Ok(vec![float_bytes(&weights)])
                    },
                );
            }
        }
        Ok(())
    }

    /// Checks a tensor's shape and remembers that it has its place.
    fn claim(&mut self, tensor: &str, expected: &[u64]) -> Result<(), ForgeError> {
        let found = &self.gguf.tensor(tensor)?.dims;
        if found != expected {
            return Err(LlamaError::Shape {
                tensor: tensor.to_string(),
                expected: expected.to_vec(),
                found: found.clone(),
            }
            .into());
        }
        self.used.insert(tensor.to_string());
        Ok(())
    }
}

/// Codes of all parts, one below the other.
fn block_weights(gguf: &Gguf<'_>, matrix: &Matrix, format: CodeFormat) -> Result<Codes, GgufError> {
    let mut all = Codes::default();
    for part in &matrix.parts {
        let info = gguf.tensor(&part.tensor)?;
        let raw = gguf.raw(&part.tensor)?;
        let ordered = part
            .rotary_heads
            .map(|heads| unpermute(raw, raw.len() / info.rows(), heads));
        all.append(
            match repack(ordered.as_deref().unwrap_or(raw), info.format, format) {
                Some(codes) => codes,
                None => quantize(&rows(gguf, part, matrix.columns)?, matrix.columns, format),
            },
        );
    }
    Ok(all)
}

/// Weights of all parts, one below the other: f32 [rows, columns].
fn float_weights(gguf: &Gguf<'_>, matrix: &Matrix) -> Result<Vec<f32>, GgufError> {
    let mut all = Vec::new();
    for part in &matrix.parts {
        all.append(&mut rows(gguf, part, matrix.columns)?);
    }
    Ok(all)
}

/// A part's weights in the order of the original checkpoint.
fn rows(gguf: &Gguf<'_>, part: &Part, columns: usize) -> Result<Vec<f32>, GgufError> {
    let weights = gguf.dequantize(&part.tensor)?;
    Ok(match part.rotary_heads {
        None => weights,
        Some(heads) => unpermute(&weights, columns, heads),
    })
}

/// Rows (head, i, half) → (head, half, i); see the module.
fn unpermute<T: Copy>(rows: &[T], columns: usize, heads: usize) -> Vec<T> {
    let head_dim = rows.len() / columns / heads;
    let mut out = Vec::with_capacity(rows.len());
    for head in 0..heads {
        for half in 0..2 {
            for i in 0..head_dim / 2 {
                let row = head * head_dim + 2 * i + half;
                out.extend_from_slice(&rows[row * columns..(row + 1) * columns]);
            }
        }
    }
    out
}

/// [rows, columns] → [columns, rows].
fn transpose(weights: &[f32], columns: usize) -> Vec<f32> {
    let mut out = Vec::with_capacity(weights.len());
    for column in 0..columns {
        out.extend(weights.iter().skip(column).step_by(columns));
    }
    out
}
