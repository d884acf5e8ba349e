//! A layer of a decoder in operators that have derivatives; the portable graph of inference computes the same.

use crate::decoder::{Activation, DecoderSpec, LayerSpec, NormKind};

use super::attention::{Heads, attend, by_head, causal_mask, rotate};
use super::part::{Kept, Layer};
use super::{Shape, Slot, Values};

/// Everything about a layer that its graph depends on. Layers of equal kind share a graph.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::distil) struct LayerKind {
    hidden: usize,
    heads: Heads,
    norm: NormKind,
    activation: Activation,
    epsilon: f32,
    window: Option<usize>,
    frequencies: Option<Vec<f64>>,
    /// Parameters, in the order of the graph's inputs.
    slots: Vec<Slot>,
}

/// The kind of a layer.
pub(in crate::distil) fn kind_of(spec: &DecoderSpec, layer: &LayerSpec) -> LayerKind {
    let rotary = layer.rotary.and_then(|index| spec.rotary.get(index));
    LayerKind {
        hidden: spec.hidden,
        heads: Heads {
            heads: spec.heads,
            kv_heads: spec.kv_heads,
            head_dim: spec.head_dim,
            scale: layer.scale,
        },
        norm: spec.norm,
        activation: spec.activation,
        epsilon: spec.epsilon,
        window: layer.window,
        frequencies: rotary.map(|rotary| rotary.inverse_frequencies.clone()),
        slots: slots(spec, layer),
    }
}

fn slots(spec: &DecoderSpec, layer: &LayerSpec) -> Vec<Slot> {
    let hidden = Some(spec.hidden);
    let (query, head) = (Some(spec.query_width()), Some(spec.head_dim));
    let rows = Some(spec.query_width() + 2 * spec.kv_width());
    let gate = layer.gate.as_ref();
    let vector = |is_there: bool, role, length| is_there.then(|| Slot::vector(role, length));
    let matrix = |role, rows, columns| Some(Slot::matrix(role, rows, columns));
    [
        vector(true, "input_norm.weight", hidden),
        vector(layer.input_norm.bias.is_some(), "input_norm.bias", hidden),
        matrix("qkv.weight", rows, hidden),
        vector(layer.qkv.bias.is_some(), "qkv.bias", rows),
        vector(layer.query_norm.is_some(), "query_norm.weight", head),
        vector(layer.key_norm.is_some(), "key_norm.weight", head),
        matrix("output.weight", hidden, query),
        vector(layer.output.bias.is_some(), "output.bias", hidden),
        vector(
            layer.post_attention_norm.is_some(),
            "post_attention_norm.weight",
            hidden,
        ),
        vector(true, "ffn_norm.weight", hidden),
        vector(layer.ffn_norm.bias.is_some(), "ffn_norm.bias", hidden),
        gate.and_then(|_| matrix("gate.weight", None, hidden)),
        vector(
            gate.is_some_and(|gate| gate.bias.is_some()),
            "gate.bias",
            None,
        ),
        matrix("up.weight", None, hidden),
        vector(layer.up.bias.is_some(), "up.bias", None),
        matrix("down.weight", hidden, None),
        vector(layer.down.bias.is_some(), "down.bias", hidden),
        vector(
            layer.post_ffn_norm.is_some(),
            "post_ffn_norm.weight",
            hidden,
        ),
    ]
    .into_iter()
    .flatten()
    .collect()
}

impl Layer for LayerKind {
    fn hidden(&self) -> usize {
        self.hidden
    }

    fn slots(&self) -> &[Slot] {
        &self.slots
    }

    /// What a token sees is the same in every text.
    fn mask(&self, _: Shape) -> Option<Vec<usize>> {
        None
    }

    fn kept(&self, shape: Shape) -> Vec<Kept> {
        let tokens = Some(shape.tokens());
        let query = self.heads.heads * self.heads.head_dim;
        let rows = query + 2 * self.heads.kv_heads * self.heads.head_dim;
        vec![
            ("kept.qkv", vec![tokens, Some(rows)]),
            ("kept.heads", vec![tokens, Some(query)]),
            ("kept.attention", vec![tokens, Some(self.hidden)]),
            ("kept.middle", vec![tokens, Some(self.hidden)]),
            ("kept.gate", vec![tokens, None]),
            ("kept.up", vec![tokens, None]),
            ("kept.down", vec![tokens, Some(self.hidden)]),
        ]
    }

    fn write(&self, v: &mut Values<'_>, shape: Shape) {
        v.input("x", &[shape.tokens(), self.hidden]);
        for slot in &self.slots {
            v.parameter(slot);
        }
        let normed = self.norm(v, "x", "input_norm");
        let delta = self.attention(v, &normed, shape);
        let middle = v.named("Add", &["x", &delta], "kept.middle");
        let normed = self.norm(v, &middle, "ffn_norm");
        let delta = self.feed_forward(v, &normed);
        v.named("Add", &[&middle, &delta], "y");
    }
}

impl LayerKind {
    fn has(&self, role: &str) -> bool {
        self.slots.iter().any(|slot| slot.role == role)
    }

    fn norm(&self, v: &mut Values<'_>, x: &str, name: &str) -> String {
        let (weight, bias) = (format!("{name}.weight"), format!("{name}.bias"));
        let bias = self.has(&bias).then_some(bias.as_str());
        v.norm(self.norm, x, &weight, bias, self.epsilon)
    }

    /// The RMS norm of heads and of deltas, where the family has one.
    fn optional_norm(&self, v: &mut Values<'_>, x: &str, weight: &str) -> String {
        match self.has(weight) {
            true => v.norm(NormKind::Rms, x, weight, None, self.epsilon),
            false => x.to_string(),
        }
    }

    fn linear(&self, v: &mut Values<'_>, x: &str, name: &str, output: &str) -> String {
        let (weight, bias) = (format!("{name}.weight"), format!("{name}.bias"));
        let bias = self.has(&bias).then_some(bias.as_str());
        v.linear(x, &weight, bias, output)
    }

    fn attention(&self, v: &mut Values<'_>, x: &str, shape: Shape) -> String {
        let Heads {
            heads,
            kv_heads,
            head_dim,
            ..
        } = self.heads;
        let qkv = self.linear(v, x, "qkv", "kept.qkv");
        let widths = [heads * head_dim, kv_heads * head_dim, kv_heads * head_dim];
        let parts = v.split(&qkv, &widths);
        let tables = self.rotary_tables(v, shape.length);
        let turned = |v: &mut Values<'_>, part: &str, count: usize, norm: &str| {
            let part = by_head(v, part, count, head_dim, shape);
            let part = self.optional_norm(v, &part, norm);
            let part = v.transposed(&part, &[0, 2, 1, 3]);
            match &tables {
                Some([cos, sin]) => rotate(v, &part, [cos, sin], head_dim),
                None => part,
            }
        };
        let query = turned(v, &parts[0], heads, "query_norm.weight");
        let key = turned(v, &parts[1], kv_heads, "key_norm.weight");
        let value = by_head(v, &parts[2], kv_heads, head_dim, shape);
        let value = v.transposed(&value, &[0, 2, 1, 3]);
        let side = shape.length as i64;
        let mask = causal_mask(shape.length, self.window);
        v.graph.floats("mask", &[side, side], &mask);
        let mixed = attend(v, [&query, &key, &value], "mask", self.heads, shape);
        let mixed = v.named("Identity", &[&mixed], "kept.heads");
        let delta = self.linear(v, &mixed, "output", "kept.attention");
        self.optional_norm(v, &delta, "post_attention_norm.weight")
    }

    /// cos and sin of position·frequency, [length, head_dim/2] each.
    fn rotary_tables(&self, v: &mut Values<'_>, length: usize) -> Option<[String; 2]> {
        let frequencies = self.frequencies.as_ref()?;
        let dims = [length as i64, frequencies.len() as i64];
        let tables = [("cos", f64::cos as fn(f64) -> f64), ("sin", f64::sin)];
        Some(tables.map(|(name, function)| {
            let values: Vec<f32> = (0..length)
                .flat_map(|position| {
                    let angle = move |frequency: &f64| position as f64 * frequency;
                    frequencies.iter().map(move |f| function(angle(f)) as f32)
                })
                .collect();
            v.graph.floats(name, &dims, &values);
            name.to_string()
        }))
    }

    fn feed_forward(&self, v: &mut Values<'_>, x: &str) -> String {
        let up = self.linear(v, x, "up", "kept.up");
        let inner = match self.has("gate.weight") {
            true => {
                let gate = self.linear(v, x, "gate", "kept.gate");
                let active = v.activation(self.activation, &gate);
                v.op("Mul", &[&active, &up])
            }
            false => v.activation(self.activation, &up),
        };
        let delta = self.linear(v, &inner, "down", "kept.down");
        self.optional_norm(v, &delta, "post_ffn_norm.weight")
    }
}
