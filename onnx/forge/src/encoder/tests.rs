//! The graph of a tiny BERT.

use super::*;
use crate::architecture::{Model, from_checkpoint, toys};
use crate::decoder::{Options, Storage};
use crate::quantize::CodeFormat;

#[test]
fn an_encoder_has_the_shape_of_the_picture() {
    let (config, toy) = toys::bert("bert.");
    let Model::Encoder(spec) = from_checkpoint(&config, &toy).unwrap() else {
        panic!("an encoder")
    };
    let begin = [
        "Shape",
        "Gather",
        "Slice",
        "Gather",
        "Add",
        "Add",
        "LayerNormalization",
    ];
    for (layers, lookup, product) in [
        (
            Storage::Blocks(CodeFormat::Int8),
            "GatherBlockQuantized",
            &["MatMulNBits"][..],
        ),
        (Storage::Fp32, "Gather", &["MatMul", "Add"]),
    ] {
        let options = Options {
            layers,
            head: layers,
            accuracy_level: 4,
        };
        let graph = portable(&toy, &spec, &options).unwrap();
        let layer = [
            product,
            &["Split", "MultiHeadAttention"],
            product,
            &["SkipLayerNormalization"],
            product,
            &["Gelu"],
            product,
            &["SkipLayerNormalization", "Identity"],
        ]
        .concat();
        let operators: Vec<&str> = graph
            .nodes
            .iter()
            .map(|node| node.op_type.as_str())
            .collect();
        assert_eq!(operators, [&["Cast", lookup][..], &begin, &layer].concat());
        let inputs: Vec<&str> = graph
            .inputs
            .iter()
            .map(|input| input.name.as_str())
            .collect();
        assert_eq!(inputs, ["input_ids", "attention_mask", "token_type_ids"]);
        for payload in graph.payloads {
            let made = (payload.make)().unwrap();
            for (spec, bytes) in payload.tensors.iter().zip(made) {
                assert_eq!(spec.bytes().unwrap(), bytes.len() as u64, "{}", spec.name);
            }
        }
    }
}
