//! The head and the loss of distillation (Hinton, Vinyals and Dean 2015, "Distilling the Knowledge in a Neural Network").
//!
//! ```text
//!   L = α·CE(y, ŷ) + (1 − α)·T²·KL(p_t ‖ p_s)        p = softmax(logits / T)
//! ```
//!
//! Gradients of the second term shrink with 1/T², because the logits are divided by T once in the student's softmax and the
//! probabilities of both come closer by another factor; the T² in front keeps the balance of the two terms when T is changed. It
//! can be switched off.
//!
//! The loss is a sum over positions times `share`, an input: one over the number of positions of a whole step, however many
//! batches it is made of.

use crate::decoder::NormKind;
use crate::graph::Dim;
use crate::proto::onnx::DataType;

use super::values::dims_of;
use super::{Slot, Values};

/// The two terms and how they are mixed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(in crate::distil) struct LossTerms {
    /// α, the weight of the cross entropy with the text itself.
    pub(in crate::distil) hard: f32,
    /// T.
    pub(in crate::distil) temperature: f32,
    /// Whether T² multiplies the divergence.
    pub(in crate::distil) keeps_scale: bool,
}

/// Everything about a head that its graph depends on.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::distil) struct HeadKind {
    pub(in crate::distil) hidden: usize,
    pub(in crate::distil) vocab: usize,
    pub(in crate::distil) norm: NormKind,
    pub(in crate::distil) epsilon: f32,
    pub(in crate::distil) has_norm_bias: bool,
    pub(in crate::distil) has_bias: bool,
}

impl HeadKind {
    /// Parameters, in the order of the graph's inputs.
    pub(in crate::distil) fn slots(&self) -> Vec<Slot> {
        let (hidden, vocab) = (Some(self.hidden), Some(self.vocab));
        let mut slots = vec![Slot::vector("final_norm.weight", hidden)];
        if self.has_norm_bias {
            slots.push(Slot::vector("final_norm.bias", hidden));
        }
        slots.push(Slot::matrix("head.weight", vocab, hidden));
        if self.has_bias {
            slots.push(Slot::vector("head.bias", vocab));
        }
        slots
    }

    /// Writes norm and head: from `x` [tokens, hidden] to `logits` [tokens, vocab].
    pub(in crate::distil) fn write_logits(&self, v: &mut Values<'_>, tokens: usize) {
        v.input("x", &[tokens, self.hidden]);
        for slot in self.slots() {
            v.graph
                .input(slot.role, DataType::Float, &dims_of(&slot.dims));
        }
        let norm_bias = self.has_norm_bias.then_some("final_norm.bias");
        let (kind, epsilon) = (self.norm, self.epsilon);
        let normed = v.norm(kind, "x", "final_norm.weight", norm_bias, epsilon);
        let bias = self.has_bias.then_some("head.bias");
        v.linear(&normed, "head.weight", bias, "logits");
    }

    /// Writes the loss behind the logits: inputs `teacher` [tokens, vocab] (its logits), `targets` [tokens] (row·vocab + id of
    /// the token that follows) and `share`; values `cross_entropy` and `divergence`, which are sums over the positions, and `loss`.
    pub(in crate::distil) fn write_loss(
        &self,
        v: &mut Values<'_>,
        tokens: usize,
        terms: LossTerms,
    ) {
        v.input("teacher", &[tokens, self.vocab]);
        v.input("share", &[]);
        let targets = [Dim::Fixed(tokens as i64)];
        v.graph.input("targets", DataType::Int64, &targets);
        let own = log_softmax(v, "logits");
        let flat = v.reshaped(&own, &[tokens * self.vocab]);
        let chosen = v.op_with("Gather", &[&flat, "targets"], |node| node.int("axis", 0));
        let sum = total(v, &chosen);
        v.named("Neg", &[&sum], "cross_entropy");
        self.divergence(v, &own, terms.temperature);
        let scale = match terms.keeps_scale {
            true => terms.temperature * terms.temperature,
            false => 1.0,
        };
        let hard = terms.hard;
        let mut parts = Vec::new();
        // A term of no weight stays out of the graph of the gradients.
        if hard > 0.0 {
            parts.push(v.scaled("cross_entropy", hard));
        }
        if hard < 1.0 {
            parts.push(v.scaled("divergence", (1.0 - hard) * scale));
        }
        let sum = match &parts[..] {
            [one] => one.clone(),
            parts => v.op("Add", &[&parts[0], &parts[1]]),
        };
        v.named("Mul", &[&sum, "share"], "loss");
    }

    /// Σ p_t·(log p_t − log p_s); `own` are the student's log probabilities at temperature 1.
    fn divergence(&self, v: &mut Values<'_>, own: &str, temperature: f32) {
        let (own, teacher) = match temperature == 1.0 {
            true => (own.to_string(), log_softmax(v, "teacher")),
            false => {
                let cooled = ["logits", "teacher"].map(|name| v.scaled(name, 1.0 / temperature));
                (log_softmax(v, &cooled[0]), log_softmax(v, &cooled[1]))
            }
        };
        let probabilities = v.op("Exp", &[&teacher]);
        let gap = v.op("Sub", &[&teacher, &own]);
        let weighted = v.op("Mul", &[&probabilities, &gap]);
        let sum = total(v, &weighted);
        v.named("Identity", &[&sum], "divergence");
    }
}

fn log_softmax(v: &mut Values<'_>, logits: &str) -> String {
    v.op_with("LogSoftmax", &[logits], |node| node.int("axis", -1))
}

/// The sum of all elements.
fn total(v: &mut Values<'_>, value: &str) -> String {
    v.op_with("ReduceSum", &[value], |node| node.int("keepdims", 0))
}
