//! Frequencies of rotary embeddings, and the ways in which families stretch them to longer contexts.
//!
//! ```text
//!   f[i] = base^(−2i/d)                                              Su et al. 2021, section 3.4.2
//!   linear   f[i] / factor                                           Chen et al. 2023
//!   llama3   long waves / factor, short ones as they are, and a slope between   Llama 3.1
//!   factors  f[i] / factors[i], computed by whoever wrote the GGUF file
//! ```

use std::f64::consts::TAU;

use super::keys::{Key, Keys};
use super::{File, MAX_STATED_CONTEXT};
use crate::decoder::Rotary;
use crate::error::ForgeError;
use crate::matrix::Vector;

/// Tensor of a GGUF file that divides the frequencies.
pub(super) const FACTORS: &str = "rope_freqs.weight";

const SCALING: Key = ("rope.scaling.type", "rope_type");

/// Base and frequencies of the rotary embedding of a whole model.
///
/// # Errors
/// [`ForgeError::Architecture`] if the base is none, or the scaling unknown.
pub(super) fn of_model(
    file: &File<'_>,
    head_dim: usize,
    default_base: f64,
) -> Result<(f64, Rotary), ForgeError> {
    let keys = &file.keys;
    let inner = ["rope_parameters", "rope_scaling"]
        .iter()
        .find_map(|name| keys.object(name));
    of_object(file, inner.as_ref(), head_dim, default_base)
}

/// The same, with the scaling of this object of `config.json`.
pub(super) fn of_object(
    file: &File<'_>,
    inner: Option<&Keys<'_>>,
    head_dim: usize,
    default_base: f64,
) -> Result<(f64, Rotary), ForgeError> {
    let keys = &file.keys;
    let key = ("rope.freq_base", "rope_theta");
    let own = match inner {
        Some(inner) => inner.optional_positive(("", "rope_theta"))?,
        None => None,
    };
    let base = match own {
        Some(base) => base,
        None => keys.optional_positive(key)?.unwrap_or(default_base),
    };
    keys.rule(base > 1.0, key, "a finite number above 1", base)?;
    let mut rotary = plain(base, head_dim);
    match (keys, inner) {
        (Keys::Gguf(..), _) => scale_gguf(file, &mut rotary)?,
        (Keys::Json(..), Some(inner)) => scale_json(inner, &mut rotary)?,
        (Keys::Json(..), None) => (),
    }
    Ok((base, rotary))
}

/// The frequencies of a base.
pub(super) fn plain(base: f64, head_dim: usize) -> Rotary {
    let frequency = |i| base.powf(-2.0 * i as f64 / head_dim as f64);
    Rotary {
        inverse_frequencies: (0..head_dim / 2).map(frequency).collect(),
    }
}

fn scale_gguf(file: &File<'_>, rotary: &mut Rotary) -> Result<(), ForgeError> {
    let keys = &file.keys;
    if keys.choice(SCALING, &[("none", false), ("linear", true)])? {
        let factor = keys.positive(("rope.scaling.factor", ""))?;
        divide(rotary, |_, _| factor);
    }
    if file.weights.has(FACTORS) {
        let vector = Vector::stored(FACTORS, rotary.inverse_frequencies.len());
        vector.check(file.weights)?;
        let factors = vector.floats(file.weights)?;
        let is_positive = factors.iter().all(|factor| *factor > 0.0);
        let key = (FACTORS, "");
        keys.rule(is_positive, key, "positive factors", "one that is not")?;
        divide(rotary, |index, _| factors[index].into());
    }
    Ok(())
}

fn scale_json(inner: &Keys<'_>, rotary: &mut Rotary) -> Result<(), ForgeError> {
    #[derive(Clone, Copy)]
    enum Kind {
        Default,
        Linear,
        Llama3,
    }
    let kinds = [
        ("default", Kind::Default),
        ("linear", Kind::Linear),
        ("llama3", Kind::Llama3),
    ];
    let key = match inner.text(SCALING)? {
        Some(_) => SCALING,
        None => ("", "type"),
    };
    match inner.choice(key, &kinds)? {
        Kind::Default => (),
        Kind::Linear => {
            let factor = inner.positive(("", "factor"))?;
            divide(rotary, |_, _| factor);
        }
        Kind::Llama3 => {
            let factor = inner.positive(("", "factor"))?;
            let low = inner.positive(("", "low_freq_factor"))?;
            let high = inner.positive(("", "high_freq_factor"))?;
            inner.rule(
                high > low,
                ("", "high_freq_factor"),
                "above low_freq_factor",
                high,
            )?;
            let key = ("", "original_max_position_embeddings");
            let length = inner.size(key, MAX_STATED_CONTEXT)? as f64;
            divide(rotary, |_, frequency| {
                // Waves of the original context: 1 where it holds `high` of them or more, `factor` at `low` or fewer.
                let waves = length * frequency / TAU;
                let slope = ((waves - low) / (high - low)).clamp(0.0, 1.0);
                1.0 / ((1.0 - slope) / factor + slope)
            });
        }
    }
    Ok(())
}

fn divide(rotary: &mut Rotary, by: impl Fn(usize, f64) -> f64) {
    for (index, frequency) in rotary.inverse_frequencies.iter_mut().enumerate() {
        *frequency /= by(index, *frequency);
    }
}
