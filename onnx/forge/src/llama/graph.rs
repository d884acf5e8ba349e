//! The graph of a llama, operator by operator, in the order of the picture in [`super`].

use std::collections::BTreeSet;

use super::matrix::{Matrix, Part};
use super::{Config, EMBEDDING, HEAD, LlamaError, Options, Storage};
use crate::error::ForgeError;
use crate::gguf::Gguf;
use crate::graph::{Dim, Graph, GraphBuilder, Node, TensorSpec};
use crate::proto::onnx::DataType;
use crate::quantize::{BLOCK, CodeFormat};

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
                let mut inputs = vec!["embedding.weight", "input_ids", "embedding.weight.scales"];
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

    /// RMSNorm(x) = x / √(mean(x²) + ε) · w (Zhang and Sennrich 2019, equation 4), spelled out in standard operators: there is no
    /// sum to fuse it with here, and the standard operator set 21 has no name for it. The runtime fuses the six on loading.
    fn first_norm(&mut self, input: &str) -> Result<String, ForgeError> {
        let weight = self.norm_weight("blk.0.attn_norm.weight")?;
        let epsilon = self.config.epsilon;
        let graph = &mut self.graph;
        graph.floats("norm.exponent", &[], &[2.0]);
        graph.floats("norm.epsilon", &[], &[epsilon]);
        graph.integers("norm.axis", &[1], &[-1]);
        graph.node(Node::new(
            "Pow",
            &[input, "norm.exponent"],
            &["norm.squares"],
        ));
        graph.node(
            Node::new("ReduceMean", &["norm.squares", "norm.axis"], &["norm.mean"])
                .int("keepdims", 1),
        );
        graph.node(Node::new(
            "Add",
            &["norm.mean", "norm.epsilon"],
            &["norm.biased"],
        ));
        graph.node(Node::new("Sqrt", &["norm.biased"], &["norm.root"]));
        graph.node(Node::new("Div", &[input, "norm.root"], &["norm.direction"]));
        let output = format!("{weight}.out");
        graph.node(Node::new("Mul", &["norm.direction", &weight], &[&output]));
        Ok(output)
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
        let blocks = self.as_blocks(matrix, format);
        let mut inputs = vec![input, &blocks, &scales];
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

    /// The codes as MatMulNBits wants them, [rows, blocks, bytes]. A table is stored flat for the lookup, which reads it in place
    /// from the mapped file; the view of the head is packed anew by the runtime anyway, so that only one copy stays in memory.
    fn as_blocks(&mut self, matrix: &Matrix, format: CodeFormat) -> String {
        if !matrix.is_table() {
            return matrix.name.clone();
        }
        let (shape, view) = (
            format!("{}.shape", matrix.name),
            format!("{}.blocks", matrix.name),
        );
        let dims = matrix.block_dims(format);
        self.graph.integers(&shape, &[3], &dims);
        self.graph
            .node(Node::new("Reshape", &[&matrix.name, &shape], &[&view]));
        view
    }

    /// Registers a matrix's constants.
    fn weights(&mut self, matrix: &Matrix, storage: Storage) -> Result<(), ForgeError> {
        for part in &matrix.parts {
            self.claim(&part.tensor, &[matrix.columns as u64, part.rows as u64])?;
        }
        matrix.register(self.gguf, storage, &mut self.graph);
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
