//! Histograms of values, from running the float graph with these values as outputs.

use std::collections::BTreeMap;

use llmasos_engine::runtime::Runtime;

use super::StaticError;
use super::codes::Affine;
use super::entropy;
use super::histogram::Histogram;
use super::options::RangeMethod;
use super::samples::{NamedTensor, Samples};
use super::scratch::Scratch;
use crate::error::ForgeError;
use crate::folder::{Progress, Step, Watch, report};
use crate::proto::onnx::{NodeProto, ValueInfoProto};

/// Most values that one run gives back: an activation of a detector has up to a few megabytes.
const MAX_TAPS: usize = 64;

/// Runs all samples and counts every value of `values`. Graph inputs are counted too.
///
/// # Errors
/// [`ForgeError::Engine`] if a run fails or a value is not of 32-bit floats, [`StaticError::NotFinite`],
/// [`ForgeError::Cancelled`], those of the samples.
pub(super) fn histograms(
    values: &[String],
    (scratch, nodes): (&mut Scratch, &[NodeProto]),
    samples: &mut dyn Samples,
    runtime: &Runtime,
    watch: &mut Watch<'_>,
) -> Result<BTreeMap<String, Histogram>, ForgeError> {
    let given: Vec<String> = scratch.inputs().iter().map(|it| it.name.clone()).collect();
    let (fed, made): (Vec<&String>, Vec<&String>) =
        values.iter().partition(|value| given.contains(value));
    let groups: Vec<&[&String]> = made.chunks(MAX_TAPS).collect();
    let total = (groups.len().max(1) * samples.count()) as u64;
    let mut histograms = BTreeMap::new();
    for (turn, group) in groups.iter().enumerate() {
        let outputs: Vec<ValueInfoProto> = group.iter().map(|value| tap(value)).collect();
        let mut session = scratch.open(runtime, nodes, &outputs)?;
        for index in 0..samples.count() {
            let tensors = samples.sample(index)?;
            let feeds: Vec<_> = tensors.iter().map(NamedTensor::feed).collect();
            let found = session.run(&feeds)?;
            for value in *group {
                let view = found.f32(value)?;
                count(&mut histograms, value, view.data)?;
            }
            let done = (turn * samples.count() + index + 1) as u64;
            progress(watch, "calibration", done, total)?;
        }
    }
    for index in 0..if fed.is_empty() { 0 } else { samples.count() } {
        for tensor in samples.sample(index)? {
            if let (true, super::Elements::F32(data)) =
                (fed.contains(&&tensor.name), &tensor.elements)
            {
                count(&mut histograms, &tensor.name, data)?;
            }
        }
    }
    Ok(histograms)
}

fn count(
    histograms: &mut BTreeMap<String, Histogram>,
    value: &str,
    data: &[f32],
) -> Result<(), StaticError> {
    histograms
        .entry(value.to_string())
        .or_default()
        .add(value, data)
}

/// Reports a number of runs.
pub(super) fn progress(
    watch: &mut Watch<'_>,
    item: &str,
    done: u64,
    total: u64,
) -> Result<(), ForgeError> {
    let step = Step::Convert;
    report(
        watch,
        Progress {
            step,
            item,
            done,
            total,
        },
    )
}

/// An output without a type: the runtime infers it.
fn tap(value: &str) -> ValueInfoProto {
    ValueInfoProto {
        name: value.to_string(),
        r#type: None,
    }
}

/// The range that `method` chooses.
pub(super) fn range(histogram: &Histogram, method: RangeMethod) -> [f32; 2] {
    match method {
        RangeMethod::MinMax => histogram.extremes(),
        RangeMethod::Percentile(percent) => histogram.percentile(percent),
        RangeMethod::Entropy => entropy::range(histogram),
    }
}

/// Steps for the range that `method` chooses.
pub(super) fn affine(histogram: &Histogram, method: RangeMethod) -> Affine {
    Affine::new(range(histogram, method))
}
