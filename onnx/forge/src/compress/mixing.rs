//! Mixed precision: what the mixes of a model are made of, and which of them are offered.
//!
//! ```text
//!   int4 everywhere ─► measured loss of each group of matrices ─► the group that saves most for its bytes first
//!        mix 0 = int4   mix 1 = its first group in int8   mix 2 = the first two   …     bytes grow, loss falls
//! ```
//!
//! All mixes share the codes of one quantization ([`mix`]). Its blocks have minima, a twelfth more bytes for a fifth less error; only under a
//! budget that these do not fit they have zero points.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::coding::{Chosen, detail, options};
use super::job::Tools;
use super::quantize::{
    Budget, QuantizeOptions, QuantizeReport, Quantized, Sensitivity, mix, quantize, raise,
    sensitivities, stored_bytes,
};
use super::recipe::{Method, QuantizeStep, word};
use crate::checkpoint::{Checkpoint, Constant, constants};
use crate::decoder::LayerPart;
use crate::error::ForgeError;
use crate::folder::Watch;
use crate::quantize::CodeFormat;

/// Sequences on which the cost of each matrix is measured: it is the order that counts, not the digits, and a measurement takes as many walks
/// through a layer as there are matrices before it.
const SENSITIVITY_SEQUENCES: usize = 1;
/// What a graph has beside matrices and vectors, in bytes, with room to spare.
const GRAPH_BYTES: u64 = 1 << 20;
/// Without a budget, 8 bits may take so much more, as a share of what 4 bits take.
const MORE: f64 = 0.1;

/// A model in 4 bits, and the order in which groups of its matrices are raised to 8.
pub struct Mixes {
    base: Quantized,
    report: QuantizeReport,
    found: Vec<Sensitivity>,
    /// Numbers of groups, the first to be raised first.
    order: Vec<usize>,
    least_bytes: u64,
}

impl Mixes {
    /// Quantizes to 4 bits and measures what each group costs; both may take long. If the step has a budget, only mixes within it are
    /// offered.
    ///
    /// # Errors
    /// Those of the quantizers and of walks.
    pub fn prepare(
        step: &QuantizeStep,
        input: &Checkpoint,
        tools: &Tools<'_>,
        watch: &mut Watch<'_>,
    ) -> Result<Mixes, ForgeError> {
        let with = |layers| QuantizeOptions {
            layers,
            ..options(step.method)
        };
        let least = |options: &_| stored_bytes(input.spec(), options) + other_bytes(input);
        let (runtime, texts) = (tools.runtime, tools.calibration);
        let mut options = with(match step.method {
            Method::Best | Method::Gptq => CodeFormat::Int4Minima,
            // These may stand behind a mask, and with minima its zeros have no code.
            Method::Rtn | Method::Importance | Method::Awq => CodeFormat::Int4,
        });
        if step
            .budget_bytes
            .is_some_and(|budget| budget < least(&options))
        {
            options = with(CodeFormat::Int4);
        }
        let place = tools.kept.join("base");
        let (base, report) = quantize(runtime, input, texts, &options, &place, watch)?;
        let judged = &texts[..SENSITIVITY_SEQUENCES.min(texts.len())];
        let found = sensitivities(runtime, input, &base, judged, watch)?;
        let mut mixes = Mixes {
            base,
            report,
            found,
            order: Vec::new(),
            least_bytes: least(&options),
        };
        mixes.within(match step.budget_bytes {
            Some(budget) => budget.saturating_sub(mixes.least_bytes),
            None => u64::MAX,
        });
        Ok(mixes)
    }

    /// Groups that can be raised.
    #[must_use]
    pub fn groups(&self) -> usize {
        self.order.len()
    }

    /// Loss that is left with 0, 1, … of them raised, the sum of what each group costs alone, `[groups + 1]`: nats per position.
    #[must_use]
    pub fn losses(&self) -> Vec<f64> {
        let mut left: f64 = self.found.iter().map(|group| group.loss.max(0.0)).sum();
        let mut losses = vec![left];
        for &at in &self.order {
            left -= self.found[at].loss;
            losses.push(left.max(0.0));
        }
        losses
    }

    /// Offers what takes no more than so many bytes beyond 4 bits.
    fn within(&mut self, more: u64) {
        let (_, allocation) = raise(&self.found, Budget::Bytes(more));
        self.order = allocation.taken;
    }

    /// The mix with the first `count` groups raised; what it needs besides is put into the folder `kept` of `tools`.
    ///
    /// # Errors
    /// Those of the work folders and of writing checkpoints.
    pub fn chosen(
        &self,
        count: usize,
        step: &QuantizeStep,
        input: &Checkpoint,
        tools: &Tools<'_>,
        watch: &mut Watch<'_>,
    ) -> Result<Chosen, ForgeError> {
        let groups = self.order.iter().take(count).map(|&at| &self.found[at]);
        let raised: BTreeSet<(usize, LayerPart)> = (groups.clone())
            .flat_map(|group| group.parts.iter().map(|part| (group.layer, *part)))
            .collect();
        let place = tools.kept.join("mixed");
        let (quantized, matrices) = mix(input, &self.base, &raised, &place, watch)?;
        let names: BTreeMap<String, f64> = (self.found.iter())
            .map(|group| {
                let name = format!("layers.{} {:?}", group.layer, group.parts);
                (name, group.loss)
            })
            .collect();
        let about = json!({
            "weights": "mixed",
            "method": word(step.method),
            "base": self.base.options().layers,
            "raised": raised.len(),
            "raised_bytes": groups.map(|group| group.bytes).sum::<u64>(),
            "loss_of_int4": names,
        });
        let report = QuantizeReport {
            matrices,
            ..self.report.clone()
        };
        let said: Value = detail(&report, &self.base.layer_seconds()?, &about);
        Chosen::searched(quantized, said).with_kv(step, input, tools, watch)
    }
}

/// The largest mix within the budget, or within a tenth more than 4 bits take.
pub(super) fn mixed(
    step: &QuantizeStep,
    input: &Checkpoint,
    tools: &Tools<'_>,
    watch: &mut Watch<'_>,
) -> Result<Chosen, ForgeError> {
    let mut mixes = Mixes::prepare(step, input, tools, watch)?;
    if step.budget_bytes.is_none() {
        mixes.within((mixes.least_bytes as f64 * MORE) as u64);
    }
    mixes.chosen(mixes.groups(), step, input, tools, watch)
}

/// Bytes of a graph that are no matrices.
fn other_bytes(checkpoint: &Checkpoint) -> u64 {
    let vectors = constants(checkpoint.spec());
    let elements = vectors.iter().map(|(_, constant)| match constant {
        Constant::Vector(vector) => vector.length() as u64,
        Constant::Matrix(_) => 0,
    });
    4 * elements.sum::<u64>() + GRAPH_BYTES
}
