//! The graphs of tiny models of each family: operators in order, attributes, shapes, and weights in the order of the kernels.

use std::collections::BTreeMap;

use super::*;
use crate::architecture::toys::{self, Checkpoint, counted};
use crate::architecture::{Model, from_checkpoint, from_gguf};
use crate::error::ForgeError;
use crate::gguf::Gguf;
use crate::graph::Graph;
use crate::matrix::{Vector, transpose};
use crate::proto::onnx::NodeProto;
use crate::quantize::CodeFormat;

const INT8: Options = Options {
    layers: Storage::Blocks(CodeFormat::Int8),
    head: Storage::Blocks(CodeFormat::Int8),
    accuracy_level: 4,
};
const INT4: Options = Options {
    layers: Storage::Blocks(CodeFormat::Int4),
    head: Storage::Blocks(CodeFormat::Int4Symmetric),
    accuracy_level: 4,
};
const MINIMA: Options = Options {
    layers: Storage::Blocks(CodeFormat::Int4Minima),
    head: Storage::Blocks(CodeFormat::Int4Minima),
    accuracy_level: 4,
};
const FP32: Options = Options {
    layers: Storage::Fp32,
    head: Storage::Fp32,
    accuracy_level: 0,
};

/// A graph with all weights made.
struct Made {
    nodes: Vec<NodeProto>,
    /// Shape and bytes by name.
    constants: BTreeMap<String, (Vec<i64>, Vec<u8>)>,
}

impl Made {
    fn of(graph: Graph<'_>) -> Result<Made, ForgeError> {
        let mut constants = BTreeMap::new();
        for payload in graph.payloads {
            for (spec, bytes) in payload.tensors.into_iter().zip((payload.make)()?) {
                assert_eq!(spec.bytes()?, bytes.len() as u64, "{}", spec.name);
                constants.insert(spec.name, (spec.dims, bytes));
            }
        }
        Ok(Made {
            nodes: graph.nodes,
            constants,
        })
    }

    fn operators(&self) -> Vec<&str> {
        self.nodes
            .iter()
            .map(|node| node.op_type.as_str())
            .collect()
    }

    fn all(&self, operator: &str) -> Vec<&NodeProto> {
        let nodes = self.nodes.iter();
        nodes.filter(|node| node.op_type == operator).collect()
    }

    fn floats(&self, name: &str) -> Vec<f32> {
        let bytes = self.constants[name].1.as_chunks::<4>().0;
        bytes
            .iter()
            .map(|bytes| f32::from_le_bytes(*bytes))
            .collect()
    }
}

fn int(node: &NodeProto, name: &str) -> Option<i64> {
    let found = node
        .attribute
        .iter()
        .find(|attribute| attribute.name == name)?;
    found.i
}

fn float(node: &NodeProto, name: &str) -> f32 {
    let found = node
        .attribute
        .iter()
        .find(|attribute| attribute.name == name);
    found.and_then(|attribute| attribute.f).unwrap()
}

fn text<'n>(node: &'n NodeProto, name: &str) -> &'n str {
    let found = node
        .attribute
        .iter()
        .find(|attribute| attribute.name == name);
    std::str::from_utf8(found.unwrap().s.as_deref().unwrap()).unwrap()
}

fn spec((config, toy): &Checkpoint) -> DecoderSpec {
    match from_checkpoint(config, toy).unwrap() {
        Model::Decoder(spec) => *spec,
        Model::Encoder(_) => panic!("a decoder"),
    }
}

fn made_portable(checkpoint: &Checkpoint, options: Options) -> Result<Made, ForgeError> {
    Made::of(portable(&checkpoint.1, &spec(checkpoint), &options)?)
}

fn made_fused(checkpoint: &Checkpoint, options: Options) -> Option<Made> {
    let graph = fused(&checkpoint.1, &spec(checkpoint), &options).unwrap();
    graph.map(|graph| Made::of(graph).unwrap())
}

const ATTENTION: [&str; 3] = ["MatMulNBits", "GroupQueryAttention", "MatMulNBits"];

#[test]
fn a_llama_has_the_shape_of_the_picture() {
    let made = made_portable(&toys::gated("llama", 1), INT8).unwrap();
    let begin = ["GatherBlockQuantized", "SimplifiedLayerNormalization"];
    let gated = ["MatMulNBits", "Split", "QuickGelu", "Mul", "MatMulNBits"];
    let norm = ["SkipSimplifiedLayerNormalization"];
    let head = ["Gather", "Reshape", "MatMulNBits"];
    let all = [&begin[..], &ATTENTION, &norm, &gated, &norm, &head].concat();
    assert_eq!(made.operators(), all);
    let attention = made.all("GroupQueryAttention")[0];
    assert_eq!(
        (int(attention, "do_rotary"), int(attention, "kv_num_heads")),
        (Some(1), Some(1))
    );
    assert_eq!(
        (
            int(attention, "local_window_size"),
            float(attention, "scale")
        ),
        (None, 0.25)
    );
}

#[test]
fn head_norms_stand_between_product_and_attention() {
    let made = made_portable(&toys::gated("qwen3", 1), INT8).unwrap();
    let norm = ["Reshape", "SimplifiedLayerNormalization", "Reshape"];
    let expected = [
        &["MatMulNBits", "Split"][..],
        &norm,
        &norm,
        &["GroupQueryAttention"],
    ]
    .concat();
    assert_eq!(made.operators()[2..11], expected);
    let attention = made.all("GroupQueryAttention")[0];
    let value = "layers.0.attention.value";
    assert_eq!(attention.input[2], value, "query, key and value come apart");
}

#[test]
fn biases_are_the_sixth_input_of_a_block_product() {
    let made = made_portable(&toys::gated("qwen2", 1), INT8).unwrap();
    let product = made.all("MatMulNBits")[0];
    assert_eq!(product.input[3..], ["", "", "layers.0.attention.qkv.bias"]);
    assert_eq!(made.constants["layers.0.attention.qkv.bias"].0, [64]);
    let made = made_portable(&toys::gated("qwen2", 1), INT4).unwrap();
    let product = made.all("MatMulNBits")[0];
    assert_eq!(product.input[3], "layers.0.attention.qkv.zero_points");
    let made = made_portable(&toys::gated("qwen2", 1), FP32).unwrap();
    assert_eq!(
        made.operators()[2..5],
        ["MatMul", "Add", "GroupQueryAttention"]
    );
}

#[test]
fn minima_are_a_second_product_of_the_same_weights() {
    let checkpoint = toys::gated("qwen2", 1);
    let made = made_portable(&checkpoint, MINIMA).unwrap();
    let product = ["MatMulNBits", "AveragePool", "MatMul", "Add"];
    assert_eq!(made.operators()[2..6], product);
    let name = "layers.0.attention.qkv";
    let codes = made.all("MatMulNBits")[0];
    let bias = format!("{name}.bias");
    assert_eq!(codes.input[3..], ["", "", bias.as_str()], "no zero points");
    assert_eq!(made.all("MatMul")[0].input[1], format!("{name}.minima"));
    assert_eq!(
        made.all("Add")[0].output[0],
        made.all("GroupQueryAttention")[0].input[0]
    );

    // Codes count from 8, and the mean of 32 inputs is multiplied with 32 times what is missing.
    let qkv = &spec(&checkpoint).layers[0].qkv.matrix;
    let expected = qkv.codes(&checkpoint.1, CodeFormat::Int4Minima).unwrap();
    let weights = expected.weights(32, CodeFormat::Int4Minima);
    let (scales, minima) = (
        made.floats(&format!("{name}.scales")),
        made.floats(&format!("{name}.minima")),
    );
    assert_eq!(
        made.constants[&format!("{name}.minima")].0,
        [1, 64],
        "blocks, rows"
    );
    for (row, codes) in made.constants[name].1.chunks_exact(16).enumerate() {
        let nibbles = codes.iter().flat_map(|byte| [byte & 15, byte >> 4]);
        for (column, code) in nibbles.enumerate() {
            let found = scales[row] * (f32::from(code) - 8.0) + minima[row] / 32.0;
            let expected = weights[row * 32 + column];
            assert!(
                (found - expected).abs() <= 1e-6 * expected.abs().max(1.0),
                "{found} {expected}"
            );
        }
    }
}

#[test]
fn a_table_of_minima_is_stored_as_int8_by_stock_operators() {
    let checkpoint = toys::gated("llama", 1);
    let made = made_portable(&checkpoint, MINIMA).unwrap();
    let lookup = made.all("GatherBlockQuantized")[0];
    assert_eq!((int(lookup, "bits"), lookup.input.len()), (Some(8), 3));
    assert_eq!(made.constants["embedding.weight"].0, [5, 32]);
    let head = made.all("MatMulNBits").into_iter().last().unwrap();
    assert_eq!(
        (int(head, "bits"), head.output[0].as_str()),
        (Some(8), "logits")
    );
    // The fused graph has the minima: one group of one tile.
    let made = made_fused(&checkpoint, MINIMA).unwrap();
    assert_eq!(made.constants["embedding.weight"].0, [1, 704]);
}

#[test]
fn gemma3_norms_what_it_adds_and_has_two_tables() {
    let made = made_portable(&toys::gated("gemma3_text", 6), INT8).unwrap();
    assert_eq!(made.operators()[..2], ["GatherBlockQuantized", "Mul"]);
    let norms = made.all("SimplifiedLayerNormalization").len();
    assert_eq!(
        norms,
        1 + 6 * 4,
        "the first, and per layer two of heads and two of what is added"
    );
    let attention = made.all("GroupQueryAttention");
    assert_eq!(int(attention[0], "local_window_size"), Some(4));
    assert_eq!(attention[0].input[7..], ["rope.1.cos", "rope.1.sin"]);
    assert_eq!(int(attention[5], "local_window_size"), None);
    assert_eq!(attention[5].input[7..], ["rope.0.cos", "rope.0.sin"]);
    let weight = made.floats("layers.0.attention.norm.weight");
    assert_eq!(weight[0], counted(1)[0] + 1.0, "one is added");
    assert_eq!(text(made.all("Gelu")[0], "approximate"), "tanh");
}

#[test]
fn learned_positions_are_counted_from_the_end() {
    for checkpoint in [toys::gpt2(""), toys::gpt_neo()] {
        let made = made_portable(&checkpoint, INT8).unwrap();
        let begin = [
            "GatherBlockQuantized",
            "Shape",
            "Gather",
            "Cast",
            "Sub",
            "Range",
            "Gather",
            "Add",
            "LayerNormalization",
        ];
        assert_eq!(made.operators()[..9], begin);
        let attention = made.all("GroupQueryAttention");
        assert_eq!(
            (int(attention[0], "do_rotary"), attention[0].input.len()),
            (Some(0), 7)
        );
        assert_eq!(
            made.all("SkipLayerNormalization").len(),
            2 * attention.len()
        );
        assert_eq!(made.constants["positions.weight"].0, [8, 32]);
    }
    // [inputs, outputs] in the file: a product's row is a column there.
    let made = made_portable(&toys::gpt2(""), FP32).unwrap();
    assert_eq!(made.floats("layers.0.attention.qkv"), counted(32 * 96));
}

#[test]
fn query_and_key_rows_of_a_gguf_are_put_back() {
    let bytes = toys::llama_tensors(toys::llama_metadata()).bytes(0);
    let gguf = Gguf::parse(&bytes).unwrap();
    let Model::Decoder(spec) = from_gguf(&gguf).unwrap() else {
        panic!("a decoder")
    };
    let made = Made::of(portable(&gguf, &spec, &FP32).unwrap()).unwrap();
    let packed = transpose(&made.floats("layers.0.attention.qkv"), 64);
    let row = |index: usize| packed[index * 32..(index + 1) * 32].to_vec();
    let source = |index: usize| counted(32 * 32)[index * 32..(index + 1) * 32].to_vec();
    let found = (row(0), row(1), row(8), row(16));
    assert_eq!(
        found,
        (source(0), source(2), source(1), source(16)),
        "heads of 16 rows"
    );
    assert_eq!(
        (row(33), row(49)),
        (source(2), source(1)),
        "keys are put back, values never moved"
    );
    // Position 1, frequencies 1 and 10000^(−2/16).
    let (cos, sin) = (made.floats("rope.0.cos"), made.floats("rope.0.sin"));
    assert_eq!((cos.len(), cos[0], sin[0]), (8 * 8, 1.0, 0.0));
    assert!((cos[8] - 1_f32.cos()).abs() < 1e-6 && (sin[9] - 0.316_227_77_f32.sin()).abs() < 1e-6);
}

#[test]
fn float_activations_change_the_computation_and_no_code() {
    let checkpoint = toys::gated("llama", 2);
    let (_, toy) = &checkpoint;
    let spec = spec(&checkpoint);
    let made = |coding: &dyn Coding| Made::of(portable(toy, &spec, coding).unwrap()).unwrap();
    let (rounded, exact) = (made(&INT4), made(&FloatActivations(&INT4)));
    assert_eq!(rounded.constants, exact.constants);
    let levels = |made: &Made| {
        let products = made.all("MatMulNBits");
        let levels = products.iter().map(|node| int(node, "accuracy_level"));
        levels.collect::<Vec<_>>()
    };
    let (rounded, exact) = (levels(&rounded), levels(&exact));
    assert!(rounded.len() > 2 && rounded.iter().all(|level| *level == Some(4)));
    assert!(exact.len() == rounded.len() && exact.iter().all(|level| *level == Some(1)));
}

#[test]
fn a_fused_block_has_every_input_in_its_place() {
    let made = made_fused(&toys::gated("gemma3_text", 6), INT4).unwrap();
    let blocks = ["DecoderBlock"; 6];
    let operators = [
        &["Embedding", "RotaryAngles", "RotaryAngles"][..],
        &blocks,
        &["Head"],
    ]
    .concat();
    assert_eq!(made.operators(), operators);
    assert!(made.nodes.iter().all(|node| node.domain == "llmasos"));
    let block = made.all("DecoderBlock")[0];
    let expected = [
        "embedding",
        "positions",
        "sequences",
        "pages",
        "rope.1.angles",
        "layers.0.attention.norm.weight",
        "",
        "layers.0.attention.qkv",
        "",
        "layers.0.attention.query.norm",
        "layers.0.attention.key.norm",
        "layers.0.attention.output",
        "",
        "layers.0.attention.post_norm",
        "layers.0.feed_forward.norm.weight",
        "",
        "layers.0.feed_forward.up",
        "",
        "layers.0.feed_forward.down",
        "",
        "layers.0.feed_forward.post_norm",
    ];
    assert_eq!(block.input, expected);
    let ints = [
        "layer", "heads", "kv_heads", "head_dim", "ffn", "gated", "window",
    ]
    .map(|name| int(block, name));
    assert_eq!(ints, [0, 2, 1, 16, 64, 1, 4].map(Some));
    assert_eq!(
        (text(block, "norm"), text(block, "activation")),
        ("rms", "gelu_tanh")
    );
    assert_eq!(float(block, "scale"), 0.125);
    // 32 columns are one tile of 64 with padding: 576 bytes, and 64 of zero points where there are any.
    assert_eq!(made.constants["layers.0.attention.qkv"].0, [4, 640]);
    assert_eq!(made.constants["layers.0.feed_forward.up"].0, [8, 640]);
    assert_eq!(made.constants["embedding.weight"].0, [1, 576]);
    let head = made.all("Head")[0];
    assert_eq!(head.input[4], "embedding.weight", "tied");
    assert_eq!(int(head, "rows"), Some(5));
}

#[test]
fn scales_of_keys_and_values_are_the_last_input() {
    let (config, toy) = toys::gated("llama", 2);
    // One key head of 16: a row for keys, a row for values.
    let checkpoint = (config, toy.with("kv.0", &[32]).with("kv.1", &[32]));
    let mut spec = spec(&checkpoint);
    assert!(!spec.has_kv_scales());
    spec.layers[0].kv_scales = Some(Vector::stored("kv.0", 32));
    assert!(!spec.has_kv_scales(), "one layer of two has none");
    spec.layers[1].kv_scales = Some(Vector::stored("kv.1", 32));
    assert!(spec.has_kv_scales());
    let made = Made::of(fused(&checkpoint.1, &spec, &INT8).unwrap().unwrap()).unwrap();
    let block = made.all("DecoderBlock")[1];
    assert_eq!(block.input[20..], ["", "layers.1.kv.scales"]);
    assert_eq!(made.constants["layers.1.kv.scales"].0, [2, 16]);
    assert_eq!(made.floats("layers.1.kv.scales"), counted(32));
    spec.check_sizes().unwrap();
    spec.layers[1].kv_scales = Some(Vector::stored("kv.1", 31));
    let message = spec.check_sizes().unwrap_err().to_string();
    assert!(
        message.contains("layer 1 scales of keys and values: expected 32, found 31"),
        "{message}"
    );
    spec.layers[1].kv_scales = Some(Vector::stored("kv.2", 32));
    let message = fused(&checkpoint.1, &spec, &INT8)
        .err()
        .unwrap()
        .to_string();
    assert!(message.contains("tensor kv.2 is missing"), "{message}");
}

#[test]
fn a_fused_gpt2_has_biases_and_positions_and_no_angles() {
    let made = made_fused(&toys::gpt2(""), INT8).unwrap();
    assert_eq!(made.operators(), ["Embedding", "DecoderBlock", "Head"]);
    assert_eq!(
        made.all("Embedding")[0].input[2..],
        ["positions", "positions.weight"]
    );
    let block = made.all("DecoderBlock")[0];
    let absent: Vec<usize> = (0..block.input.len())
        .filter(|at| block.input[*at].is_empty())
        .collect();
    assert_eq!(
        absent,
        [4, 9, 10, 13],
        "angles, head norms and the norm of what is added"
    );
    assert_eq!(
        (
            text(block, "norm"),
            int(block, "gated"),
            int(block, "window")
        ),
        ("layer", Some(0), Some(0))
    );
    assert_eq!(made.floats("layers.0.feed_forward.up.bias"), counted(128));
    let made = made_fused(&toys::gpt_neo(), INT8).unwrap();
    let windows: Vec<_> = made
        .all("DecoderBlock")
        .iter()
        .map(|block| int(block, "window"))
        .collect();
    assert_eq!(windows, [Some(0), Some(4)]);
}

#[test]
fn floats_and_odd_sizes_have_no_fused_graph() {
    assert!(made_fused(&toys::gated("llama", 1), FP32).is_none());
    let mixed = Options {
        head: Storage::Fp32,
        ..INT8
    };
    assert!(made_fused(&toys::gated("llama", 1), mixed).is_none());
    let (mut config, toy) = toys::gated("llama", 1);
    config.insert("num_attention_heads".into(), 4.into());
    config.insert("num_key_value_heads".into(), 2.into());
    assert!(
        made_fused(&(config, toy), INT8).is_none(),
        "heads of 8 do not fill groups"
    );
}

#[test]
fn files_that_do_not_fit_the_description() {
    let (mut config, toy) = toys::gated("llama", 1);
    let extra = toy
        .clone()
        .with("model.layers.1.input_layernorm.weight", &[32]);
    let message = made_portable(&(config.clone(), extra), INT8)
        .err()
        .unwrap()
        .to_string();
    assert!(
        message.contains("model.layers.1.input_layernorm.weight has no place in the llama graph"),
        "{message}"
    );
    let narrow = toy
        .clone()
        .with("model.layers.0.self_attn.o_proj.weight", &[32, 16]);
    let message = made_portable(&(config.clone(), narrow), INT8)
        .err()
        .unwrap()
        .to_string();
    assert!(
        message.contains("expected shape [32, 32], found [32, 16]"),
        "{message}"
    );
    let harmless = toy
        .clone()
        .with("model.layers.0.self_attn.rotary_emb.inv_freq", &[8]);
    made_portable(&(config.clone(), harmless), INT8).unwrap();
    config.insert("intermediate_size".into(), 48.into());
    let odd = toy
        .with("model.layers.0.mlp.gate_proj.weight", &[48, 32])
        .with("model.layers.0.mlp.up_proj.weight", &[48, 32])
        .with("model.layers.0.mlp.down_proj.weight", &[32, 48]);
    let odd = (config, odd);
    let message = made_portable(&odd, INT8).err().unwrap().to_string();
    assert!(
        message.contains("tensor model.layers.0.mlp.down_proj.weight: block formats need columns"),
        "{message}"
    );
    made_portable(&odd, FP32).unwrap();
}
