//! Takes attention heads away, as many in every layer: rows of query, key and value, columns of the output matrix.
//!
//! Kernels want the same number of query heads for every key and value head, in every layer. So either whole groups go (a key and value head
//! with the query heads that read it, which makes the cache smaller too), or so many query heads of each group.
//!
//! ```text
//!   qkv rows       q₀ q₁ q₂ | q₃ q₄ q₅ | k₀ k₁ | v₀ v₁        group 0 goes: q₀ q₁ q₂ k₀ v₀
//!   output columns o₀ o₁ o₂ | o₃ o₄ o₅                                      o₀ o₁ o₂, the others fitted
//!                                                             then down, to the original's stream
//! ```

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::normal::Normal;
use super::overlay::Changed;
use super::refit::{cut, fit, lost, others, rows};
use super::side::{Ground, Method, Now, Plan, Side, resize, write};
use super::surgeon::{Family, Surgeon};
use super::{LayerReport, PruneError, PruneOptions, wrong};
use crate::checkpoint::{Checkpoint, layer_weight};
use crate::decoder::{DecoderSpec, LayerPart};
use crate::error::ForgeError;
use crate::folder::Watch;

/// Damping of the surgeon where nothing is fitted afterwards.
const DAMPING: f64 = 0.01;

/// Heads that go together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HeadUnit {
    /// A key and value head with its query heads; so many of each layer.
    Group,
    /// One query head; so many of each group.
    Query,
}

/// Which go first: those with the lowest score.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HeadScore {
    /// Norm of what they add to the stream.
    Activation,
    /// Loss after the other heads' output columns have been fitted.
    Surgeon,
}

pub(super) fn prune(
    ground: &Ground<'_>,
    (unit, count, score): (HeadUnit, usize, HeadScore),
    options: &PruneOptions,
    dir: &Path,
    watch: &mut Watch<'_>,
) -> Result<(Checkpoint, Vec<LayerReport>), ForgeError> {
    let mut spec = ground.model.spec().clone();
    let per_key = spec.heads / spec.kv_heads;
    let (what, most) = match unit {
        HeadUnit::Group => ("groups of heads", spec.kv_heads - 1),
        HeadUnit::Query => ("query heads of a group", per_key - 1),
    };
    if !(1..=most).contains(&count) {
        let expected = format!("1 to {most} {what}");
        return Err(wrong("heads", expected, count).into());
    }
    match unit {
        HeadUnit::Group => {
            spec.kv_heads -= count;
            spec.heads = spec.kv_heads * per_key;
        }
        HeadUnit::Query => spec.heads = spec.kv_heads * (per_key - count),
    }
    let widths = spec.layers.iter().map(|layer| layer.feed_forward());
    let follows = ground.refit.is_some_and(|refit| refit.stream > 0.0);
    let widest = widths.max().filter(|_| follows).unwrap_or(0);
    ground.need(ground.refit.map(|_| spec.query_width().max(widest)))?;
    let (width, hidden) = (spec.query_width(), spec.hidden);
    let all = width + 2 * spec.kv_width();
    for layer in &mut spec.layers {
        resize(&mut layer.qkv, all, hidden);
        resize(&mut layer.output, hidden, width);
    }
    let plan = Plan {
        kept: (0..spec.layers.len()).collect(),
        spec,
    };
    let mut method = Heads { unit, count, score };
    write(ground, &plan, (&mut method, true), options, dir, watch)
}

struct Heads {
    unit: HeadUnit,
    count: usize,
    score: HeadScore,
}

impl Method for Heads {
    fn layer(
        &mut self,
        side: &mut Side<'_>,
        index: usize,
    ) -> Result<(Changed, LayerReport), ForgeError> {
        let ground = side.ground;
        let spec = ground.model.spec();
        side.follow(index)?;
        let normal = side.look(index, Now::Whole(&Changed::new()), LayerPart::Output, false)?;
        let output = ground.matrix(index, LayerPart::Output)?;
        let place = layer_weight(index, LayerPart::Output);
        let gone = self.choose(ground, &normal, &output, &place)?;
        let heads = kept_heads(spec, self.unit, &gone);
        let kept = expand(&heads.queries, spec.head_dim);
        let (output, error) = match ground.refit {
            Some(refit) => fit(&normal, &output, &kept, refit, &place)?,
            None => cut(&normal, &output, &kept),
        };
        let mut changed = Changed::from([("output.weight", output)]);
        let kept = heads.rows(spec);
        let qkv = ground.matrix(index, LayerPart::Qkv)?;
        changed.insert("qkv.weight", rows(&qkv, spec.hidden, &kept));
        if let Some(bias) = ground.bias(index, LayerPart::Qkv)? {
            changed.insert("qkv.bias", rows(&bias, 1, &kept));
        }
        let down = side.fit_down(index, &mut changed)?;
        side.advance(index, &changed)?;
        let report = LayerReport {
            layer: index,
            neurons: spec.layers[index].feed_forward(),
            heads: side.spec.heads,
            output: Some(error),
            down,
            zeros: 0,
        };
        Ok((changed, report))
    }
}

impl Heads {
    /// Numbers of the groups, or query heads, that go.
    fn choose(
        &self,
        ground: &Ground<'_>,
        normal: &Normal,
        output: &[f32],
        place: &str,
    ) -> Result<Vec<usize>, PruneError> {
        let spec = ground.model.spec();
        let per_key = spec.heads / spec.kv_heads;
        let heads = match self.unit {
            HeadUnit::Group => per_key,
            HeadUnit::Query => 1,
        };
        let units: Vec<Vec<usize>> = (0..spec.heads / heads)
            .map(|unit| {
                expand(
                    &(unit * heads..(unit + 1) * heads).collect::<Vec<_>>(),
                    spec.head_dim,
                )
            })
            .collect();
        // Units among which the same number goes.
        let family = |unit: usize| match self.unit {
            HeadUnit::Group => 0,
            HeadUnit::Query => unit / per_key,
        };
        let families: Vec<usize> = (0..units.len()).map(family).collect();
        if self.score == HeadScore::Surgeon {
            let damping = ground.refit.map_or(DAMPING, |refit| refit.damping);
            let surgeon = Surgeon::new(normal, output, damping, place)?;
            let family = Family {
                of: &families,
                each: self.count,
            };
            return Ok(surgeon.cheapest_groups(&units, &family, place)?.order);
        }
        let scores: Vec<f64> = units
            .iter()
            .map(|unit| lost(normal, output, unit))
            .collect();
        if scores.iter().any(|score| !score.is_finite()) {
            return Err(PruneError::NotFinite {
                place: place.to_string(),
                what: "a score",
            });
        }
        let mut order: Vec<usize> = (0..units.len()).collect();
        order.sort_by(|a, b| scores[*a].total_cmp(&scores[*b]));
        let mut gone: Vec<usize> = Vec::new();
        for unit in order {
            let same = gone
                .iter()
                .filter(|other| families[**other] == families[unit]);
            if same.count() < self.count {
                gone.push(unit);
            }
        }
        Ok(gone)
    }
}

/// Heads that stay.
struct Kept {
    queries: Vec<usize>,
    keys: Vec<usize>,
}

fn kept_heads(spec: &DecoderSpec, unit: HeadUnit, gone: &[usize]) -> Kept {
    let per_key = spec.heads / spec.kv_heads;
    let mut gone = gone.to_vec();
    gone.sort_unstable();
    match unit {
        HeadUnit::Group => {
            let keys = others(&gone, spec.kv_heads);
            let queries = keys
                .iter()
                .flat_map(|key| key * per_key..(key + 1) * per_key);
            Kept {
                queries: queries.collect(),
                keys,
            }
        }
        HeadUnit::Query => Kept {
            queries: others(&gone, spec.heads),
            keys: (0..spec.kv_heads).collect(),
        },
    }
}

impl Kept {
    /// Rows of query, key and value that stay.
    fn rows(&self, spec: &DecoderSpec) -> Vec<usize> {
        let keys = expand(&self.keys, spec.head_dim);
        let behind = |begin: usize| keys.iter().map(move |row| begin + row);
        let mut rows = expand(&self.queries, spec.head_dim);
        rows.extend(behind(spec.query_width()));
        rows.extend(behind(spec.query_width() + spec.kv_width()));
        rows
    }
}

/// Channels of heads.
fn expand(heads: &[usize], head_dim: usize) -> Vec<usize> {
    let channels = heads
        .iter()
        .flat_map(|head| head * head_dim..(head + 1) * head_dim);
    channels.collect()
}
