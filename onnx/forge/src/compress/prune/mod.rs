//! Takes parts of a model away: neurons, heads, layers, single weights.
//!
//! Only whole parts make a model faster on a CPU: matrices get smaller. Which parts go is decided by what they do on a calibration text,
//! because sizes of weights say little: without the
//! neurons of the smallest weights gated models fall apart. What is left is fitted
//! to what the whole did, layer by layer, each with the states that the layers before it, already pruned, give it.
//!
//! ```text
//!   original  ─ x₀ ─ layer 0 ─ y₁ ─ layer 1 ─ y₂ ─ …                      targets (Refit::stream)
//!                       │         │
//!   pruned    ─ x₀ ─ look ─ choose ─ cut ─ fit ─ x₁ ─ look ─ …            written as soon as a layer is done
//!
//!   neurons   rows of gate and up, columns of down       heads   rows of qkv, columns of output
//!   layers    all of a layer                             weights zeros in all matrices; saves nothing on a CPU
//! ```
//!
//! Memory: hidden states of the text twice (`2 × tokens × hidden × 4` bytes), one layer, and its Gram matrix in double precision; where
//! neurons go, while a layer is corrected, the states of the text at four places of it and the Gram matrices of all its inputs as well.

mod correct;
mod heads;
mod layers;
mod masks;
mod neurons;
mod normal;
mod overlay;
mod refit;
mod side;
mod spread;
mod surgeon;
#[cfg(test)]
mod tests;

use std::path::Path;

use llmasos_engine::Runtime;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::checkpoint::{Checkpoint, constants};
use crate::decoder::DecoderSpec;
use crate::error::ForgeError;
use crate::folder::Watch;

pub use heads::{HeadScore, HeadUnit};
pub use layers::LayerScore;
pub use masks::Pattern;
pub use neurons::{Amount, NeuronScore, Spread};
pub use refit::{FitError, Refit};
use side::Ground;

/// Tokens that any statistics need at least.
pub const MIN_TOKENS: usize = 64;
/// Tokens for each unknown of a fit: with fewer it describes the text, not the model.
pub const MIN_TOKENS_PER_UNKNOWN: usize = 2;

/// What cannot be done to a model.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum PruneError {
    /// An option outside of what is possible with this model.
    #[error("{option}: expected {expected}, found {found}")]
    Option {
        /// Which option.
        option: &'static str,
        /// What is possible.
        expected: String,
        /// What was asked for.
        found: String,
    },
    /// Too little calibration text.
    #[error(
        "the calibration text is too short: {needed} tokens are needed for {purpose}, found {found}"
    )]
    TooFewTokens {
        /// What for.
        purpose: &'static str,
        /// Tokens needed.
        needed: usize,
        /// Tokens there.
        found: usize,
    },
    /// A Gram matrix that no damping makes positive definite.
    #[error(
        "{place}: the products of its inputs are not positive definite, with damping up to {damping}"
    )]
    NotPositiveDefinite {
        /// Which matrix.
        place: String,
        /// Largest damping tried.
        damping: f64,
    },
    /// Activations or scores that are infinite or not a number.
    #[error("{place}: {what} is not a finite number")]
    NotFinite {
        /// Where.
        place: String,
        /// What it is.
        what: &'static str,
    },
}

/// What is to be taken away, and how.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PruneOptions {
    /// Which parts.
    pub what: Pruned,
    /// How the rest is fitted; not at all if absent.
    pub refit: Option<Refit>,
}

/// Parts of a model.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Pruned {
    /// Neurons of the feed-forward parts; what is left of each is a multiple of 32.
    Neurons {
        /// How many.
        amount: Amount,
        /// Which.
        score: NeuronScore,
        /// How many in which layer.
        spread: Spread,
    },
    /// Attention heads, as many in every layer.
    Heads {
        /// What goes together.
        unit: HeadUnit,
        /// How many.
        count: usize,
        /// Which.
        score: HeadScore,
    },
    /// Whole layers.
    Layers {
        /// How many.
        count: usize,
        /// Which.
        score: LayerScore,
    },
    /// Single weights, which become 0.
    Weights {
        /// Which.
        pattern: Pattern,
    },
}

impl Pruned {
    /// Neurons as a fraction of all, by the best method.
    pub fn neurons(fraction: f64) -> Pruned {
        Pruned::Neurons {
            amount: Amount::Fraction(fraction),
            score: NeuronScore::Surgeon,
            spread: Spread::Global,
        }
    }

    /// Key and value heads with their query heads, by the best method.
    pub fn groups(count: usize) -> Pruned {
        Pruned::Heads {
            unit: HeadUnit::Group,
            count,
            score: HeadScore::Surgeon,
        }
    }

    /// Layers, by the best method.
    pub fn layers(count: usize) -> Pruned {
        Pruned::Layers {
            count,
            score: LayerScore::Divergence,
        }
    }
}

/// What was taken away.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PruneReport {
    /// What was asked for.
    pub options: PruneOptions,
    /// Tokens of the calibration text.
    pub tokens: usize,
    /// Weights before.
    pub weights_before: u64,
    /// Weights after; zeros count.
    pub weights_after: u64,
    /// How many of those are 0 because a mask says so.
    pub zeros: u64,
    /// Numbers of the layers that are gone, in the original.
    pub removed_layers: Vec<usize>,
    /// The layers that are left.
    pub layers: Vec<LayerReport>,
    /// Whether a CPU needs less time for the new model.
    pub is_faster: bool,
    /// What a user has to know.
    pub notes: Vec<String>,
}

/// What was done to one layer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LayerReport {
    /// Its number in the original.
    pub layer: usize,
    /// Neurons left.
    pub neurons: usize,
    /// Query heads left.
    pub heads: usize,
    /// Error behind attention, if it was cut.
    pub output: Option<FitError>,
    /// Error behind the layer, if its last matrix was cut or fitted.
    pub down: Option<FitError>,
    /// Weights that became 0.
    pub zeros: u64,
}

/// What pruning works with, besides the checkpoint.
#[derive(Clone, Copy)]
pub struct Tools<'a> {
    /// Runs graphs.
    pub runtime: &'a Runtime,
    /// An existing folder that nothing else writes to.
    pub scratch: &'a Path,
}

/// Writes the pruned model as the checkpoint `dir`. `texts` are the calibration text as lists of tokens; they may be empty if neither
/// score nor fit reads any.
///
/// # Errors
/// [`PruneError`] for options that do not fit the model and for too little text, [`ForgeError::Checkpoint`] for weights that are no numbers,
/// [`ForgeError::Cancelled`], and those of running and writing. The folder appears whole or not at all.
pub fn prune(
    model: &Checkpoint,
    options: &PruneOptions,
    texts: &[Vec<u32>],
    tools: Tools<'_>,
    dir: &Path,
    watch: &mut Watch<'_>,
) -> Result<(Checkpoint, PruneReport), ForgeError> {
    check_refit(options.refit)?;
    let ground = Ground {
        model,
        texts,
        tools,
        refit: options.refit,
    };
    let done = match options.what {
        Pruned::Neurons {
            amount,
            score,
            spread,
        } => neurons::prune(&ground, (amount, score, spread), options, dir, watch),
        Pruned::Heads { unit, count, score } => {
            heads::prune(&ground, (unit, count, score), options, dir, watch)
        }
        Pruned::Layers { count, score } => {
            layers::prune(&ground, (count, score), options, dir, watch)
        }
        Pruned::Weights { pattern } => masks::prune(&ground, pattern, options, dir, watch),
    };
    let (made, layers) = done?;
    let report = report(&ground, options, &made, layers);
    Ok((made, report))
}

/// What a checkpoint says about the step that made it.
fn step(options: &PruneOptions) -> serde_json::Value {
    json!({"step": "prune", "options": options})
}

fn report(
    ground: &Ground<'_>,
    options: &PruneOptions,
    made: &Checkpoint,
    layers: Vec<LayerReport>,
) -> PruneReport {
    let count = |spec: &DecoderSpec| -> u64 {
        let all = constants(spec);
        all.iter()
            .map(|(_, constant)| constant.elements() as u64)
            .sum()
    };
    let is_left = |index: &usize| layers.iter().any(|layer| layer.layer == *index);
    let before = ground.model.spec();
    let is_mask = matches!(options.what, Pruned::Weights { .. });
    let mut notes = Vec::new();
    if is_mask {
        notes.push(
            "a mask saves no CPU time and no memory: products on a CPU compute zeros like any other weight; only a zip of the weights gets smaller".to_string(),
        );
    }
    let misses_stream = options.refit.is_some()
        && before
            .layers
            .iter()
            .any(|layer| layer.post_ffn_norm.is_some());
    if misses_stream {
        notes.push(
            "matrices with a norm behind them were fitted to their own outputs only: errors of earlier layers are not made good".to_string(),
        );
    }
    PruneReport {
        options: *options,
        tokens: ground.tokens(),
        weights_before: count(before),
        weights_after: count(made.spec()),
        zeros: layers.iter().map(|layer| layer.zeros).sum(),
        removed_layers: (0..before.layers.len())
            .filter(|index| !is_left(index))
            .collect(),
        layers,
        is_faster: !is_mask,
        notes,
    }
}

fn check_refit(refit: Option<Refit>) -> Result<(), PruneError> {
    let Some(refit) = refit else { return Ok(()) };
    let within = |option, value: f64, most: f64| {
        if (0.0..=most).contains(&value) {
            return Ok(());
        }
        Err(wrong(option, format!("0 ..= {most}"), value))
    };
    within("refit.damping", refit.damping, 100.0)?;
    within("refit.stream", refit.stream, 1.0)
}

fn wrong(option: &'static str, expected: String, found: impl ToString) -> PruneError {
    PruneError::Option {
        option,
        expected,
        found: found.to_string(),
    }
}
