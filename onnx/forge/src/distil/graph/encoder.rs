//! A layer of an encoder in operators that have derivatives: every token sees every other one of its text, norms come after sums.

use crate::decoder::{Activation, NormKind};
use crate::encoder::{EncoderLayer, EncoderSpec};

use super::attention::{Heads, attend, by_head};
use super::part::{Kept, Layer};
use super::{Shape, Slot, Values};

/// Everything about a layer that its graph depends on.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::distil) struct EncoderKind {
    hidden: usize,
    heads: Heads,
    activation: Activation,
    epsilon: f32,
    slots: Vec<Slot>,
}

impl EncoderKind {
    pub(in crate::distil) fn of(spec: &EncoderSpec, layer: &EncoderLayer) -> EncoderKind {
        let head_dim = spec.hidden / spec.heads.max(1);
        EncoderKind {
            hidden: spec.hidden,
            heads: Heads {
                heads: spec.heads,
                kv_heads: spec.heads,
                head_dim,
                scale: 1.0 / (head_dim as f32).sqrt(),
            },
            activation: spec.activation,
            epsilon: spec.epsilon,
            slots: slots(spec.hidden, layer),
        }
    }

    fn linear(&self, v: &mut Values<'_>, x: &str, name: &str, output: &str) -> String {
        let (weight, bias) = (format!("{name}.weight"), format!("{name}.bias"));
        let has_bias = self.slots.iter().any(|slot| slot.role == bias);
        v.linear(x, &weight, has_bias.then_some(bias.as_str()), output)
    }

    fn norm(&self, v: &mut Values<'_>, x: &str, name: &str) -> String {
        let (weight, bias) = (format!("{name}.weight"), format!("{name}.bias"));
        let has_bias = self.slots.iter().any(|slot| slot.role == bias);
        let bias = has_bias.then_some(bias.as_str());
        v.norm(NormKind::Layer, x, &weight, bias, self.epsilon)
    }
}

fn slots(hidden: usize, layer: &EncoderLayer) -> Vec<Slot> {
    let width = Some(hidden);
    let vector = |is_there: bool, role, length| is_there.then(|| Slot::vector(role, length));
    let matrix = |role, rows, columns| Some(Slot::matrix(role, rows, columns));
    [
        matrix("qkv.weight", Some(3 * hidden), width),
        vector(layer.qkv.bias.is_some(), "qkv.bias", Some(3 * hidden)),
        matrix("output.weight", width, width),
        vector(layer.output.bias.is_some(), "output.bias", width),
        vector(true, "attention_norm.weight", width),
        vector(
            layer.attention_norm.bias.is_some(),
            "attention_norm.bias",
            width,
        ),
        matrix("up.weight", None, width),
        vector(layer.up.bias.is_some(), "up.bias", None),
        matrix("down.weight", width, None),
        vector(layer.down.bias.is_some(), "down.bias", width),
        vector(true, "ffn_norm.weight", width),
        vector(layer.ffn_norm.bias.is_some(), "ffn_norm.bias", width),
    ]
    .into_iter()
    .flatten()
    .collect()
}

impl Layer for EncoderKind {
    fn hidden(&self) -> usize {
        self.hidden
    }

    fn slots(&self) -> &[Slot] {
        &self.slots
    }

    /// 0 for a token of the text, −∞ for filling.
    fn mask(&self, shape: Shape) -> Option<Vec<usize>> {
        Some(vec![shape.batch, 1, 1, 1, shape.length])
    }

    fn kept(&self, shape: Shape) -> Vec<Kept> {
        let (tokens, hidden) = (Some(shape.tokens()), Some(self.hidden));
        vec![
            ("kept.qkv", vec![tokens, Some(3 * self.hidden)]),
            ("kept.heads", vec![tokens, hidden]),
            ("kept.attention", vec![tokens, hidden]),
            ("kept.up", vec![tokens, None]),
            ("kept.down", vec![tokens, hidden]),
        ]
    }

    fn write(&self, v: &mut Values<'_>, shape: Shape) {
        v.input("x", &[shape.tokens(), self.hidden]);
        v.input("mask", &self.mask(shape).unwrap_or_default());
        for slot in &self.slots {
            v.parameter(slot);
        }
        let Heads {
            heads, head_dim, ..
        } = self.heads;
        let qkv = self.linear(v, "x", "qkv", "kept.qkv");
        let parts = v.split(&qkv, &[self.hidden; 3]);
        let turned: Vec<String> = parts
            .iter()
            .map(|part| {
                let part = by_head(v, part, heads, head_dim, shape);
                v.transposed(&part, &[0, 2, 1, 3])
            })
            .collect();
        let parts = [turned[0].as_str(), &turned[1], &turned[2]];
        let mixed = attend(v, parts, "mask", self.heads, shape);
        let mixed = v.named("Identity", &[&mixed], "kept.heads");
        let delta = self.linear(v, &mixed, "output", "kept.attention");
        let sum = v.op("Add", &["x", &delta]);
        let middle = self.norm(v, &sum, "attention_norm");
        let up = self.linear(v, &middle, "up", "kept.up");
        let active = v.activation(self.activation, &up);
        let delta = self.linear(v, &active, "down", "kept.down");
        let sum = v.op("Add", &[&middle, &delta]);
        let normed = self.norm(v, &sum, "ffn_norm");
        v.named("Identity", &[&normed], "y");
    }
}
