//! The canonical names of a model's tensors: one for each matrix and vector of its graph.
//!
//! Files name tensors as their authors did and split them as they liked. Steps that change a model meet one form only: a matrix
//! is one tensor `[outputs, inputs]` in the order of the kernels, a norm's 1 + w is written out.
//!
//! ```text
//!   embedding.weight  positions.weight  head.weight  head.bias  final_norm.weight|bias
//!   layers.3.{input_norm|ffn_norm}.weight|bias
//!   layers.3.{query_norm|key_norm|post_attention_norm|post_ffn_norm}.weight
//!   layers.3.{qkv|output|gate|up|down}.weight|bias
//!   layers.3.kv_scales
//! ```

use crate::decoder::{DecoderSpec, LayerPart, LayerSpec, Linear, Norm};
use crate::matrix::{Matrix, Part, Vector};

/// A constant of a described model.
#[derive(Debug, Clone, PartialEq)]
pub enum Constant {
    /// `[rows, columns]`.
    Matrix(Matrix),
    /// `[elements]`.
    Vector(Vector),
}

impl Constant {
    /// Sizes, slowest first.
    pub fn shape(&self) -> Vec<u64> {
        match self {
            Constant::Matrix(matrix) => vec![matrix.rows() as u64, matrix.columns as u64],
            Constant::Vector(vector) => vec![vector.length() as u64],
        }
    }

    /// Elements.
    pub fn elements(&self) -> usize {
        match self {
            Constant::Matrix(matrix) => matrix.rows() * matrix.columns,
            Constant::Vector(vector) => vector.length(),
        }
    }
}

/// Canonical name of a layer's matrix.
pub fn layer_weight(index: usize, part: LayerPart) -> String {
    let part = match part {
        LayerPart::Qkv => "qkv",
        LayerPart::Output => "output",
        LayerPart::Gate => "gate",
        LayerPart::Up => "up",
        LayerPart::Down => "down",
    };
    format!("layers.{index}.{part}.weight")
}

/// All constants of a model by canonical name, in the order of computation.
pub fn constants(spec: &DecoderSpec) -> Vec<(String, Constant)> {
    let mut all = Vec::new();
    let mut copy = spec.clone();
    visit(&mut copy, &mut |name, slot| {
        all.push((
            name,
            match slot {
                Slot::Matrix(matrix) => Constant::Matrix(matrix.clone()),
                Slot::Vector(vector) => Constant::Vector(vector.clone()),
                Slot::Table(part, columns) => Constant::Matrix(Matrix::one(columns, part.clone())),
            },
        ));
    });
    all
}

/// The same model with every constant one tensor of its canonical name.
pub fn canonical(spec: &DecoderSpec) -> DecoderSpec {
    let mut spec = spec.clone();
    spec.ignored.clear();
    visit(&mut spec, &mut |name, slot| match slot {
        Slot::Matrix(matrix) => {
            *matrix = Matrix::one(matrix.columns, Part::stored(name, matrix.rows()));
        }
        Slot::Vector(vector) => *vector = Vector::stored(name, vector.length()),
        Slot::Table(part, _) => *part = Part::stored(name, part.rows),
    });
    spec
}

enum Slot<'a> {
    Matrix(&'a mut Matrix),
    Vector(&'a mut Vector),
    /// A table of so many columns.
    Table(&'a mut Part, usize),
}

type Hear<'h> = &'h mut dyn FnMut(String, Slot<'_>);

fn visit(spec: &mut DecoderSpec, hear: Hear<'_>) {
    hear("embedding.weight".into(), Slot::Matrix(&mut spec.embedding));
    if let Some(part) = &mut spec.positions {
        hear("positions.weight".into(), Slot::Table(part, spec.hidden));
    }
    for (index, layer) in spec.layers.iter_mut().enumerate() {
        visit_layer(index, layer, hear);
    }
    visit_norm("final_norm", &mut spec.final_norm, hear);
    if let Some(head) = &mut spec.head {
        hear("head.weight".into(), Slot::Matrix(head));
    }
    if let Some(bias) = &mut spec.head_bias {
        hear("head.bias".into(), Slot::Vector(bias));
    }
}

fn visit_layer(index: usize, layer: &mut LayerSpec, hear: Hear<'_>) {
    let name = |part: &str| format!("layers.{index}.{part}");
    visit_norm(&name("input_norm"), &mut layer.input_norm, hear);
    visit_linear(&name("qkv"), &mut layer.qkv, hear);
    for (part, vector) in [
        ("query_norm", &mut layer.query_norm),
        ("key_norm", &mut layer.key_norm),
    ] {
        visit_optional(&name(part), vector, hear);
    }
    if let Some(scales) = &mut layer.kv_scales {
        hear(name("kv_scales"), Slot::Vector(scales));
    }
    visit_linear(&name("output"), &mut layer.output, hear);
    let post = &mut layer.post_attention_norm;
    visit_optional(&name("post_attention_norm"), post, hear);
    visit_norm(&name("ffn_norm"), &mut layer.ffn_norm, hear);
    if let Some(gate) = &mut layer.gate {
        visit_linear(&name("gate"), gate, hear);
    }
    visit_linear(&name("up"), &mut layer.up, hear);
    visit_linear(&name("down"), &mut layer.down, hear);
    visit_optional(&name("post_ffn_norm"), &mut layer.post_ffn_norm, hear);
}

fn visit_norm(name: &str, norm: &mut Norm, hear: Hear<'_>) {
    hear(format!("{name}.weight"), Slot::Vector(&mut norm.weight));
    if let Some(bias) = &mut norm.bias {
        hear(format!("{name}.bias"), Slot::Vector(bias));
    }
}

fn visit_linear(name: &str, linear: &mut Linear, hear: Hear<'_>) {
    hear(format!("{name}.weight"), Slot::Matrix(&mut linear.matrix));
    if let Some(bias) = &mut linear.bias {
        hear(format!("{name}.bias"), Slot::Vector(bias));
    }
}

fn visit_optional(name: &str, vector: &mut Option<Vector>, hear: Hear<'_>) {
    if let Some(vector) = vector {
        hear(format!("{name}.weight"), Slot::Vector(vector));
    }
}
