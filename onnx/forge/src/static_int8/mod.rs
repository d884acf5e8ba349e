//! Static 8-bit quantization of any ONNX graph: detectors, encoders, whatever is made of convolutions and products.
//!
//! The step is pure: a graph, options and samples in; a graph and a report out. Ranges of activations come from running the float
//! graph over the samples, so nothing is computed at run time but integer products. Which nodes pay is decided by their form; which of
//! them hurt is measured, if a largest error is given, and the worst stay in float.
//!
//! ```text
//!   Graph ─ prepare (constants, batch norms) ─ plan ─ calibrate ─ codes ─ rewrite ─► Graph
//!             │                                  ▲       │ histograms, ranges   │
//!             └ scratch: constants on the disk   │       ▼                      ▼
//!                                                └── exclude the worst ◄─ measure: error of the outputs against the float graph
//! ```
//!
//! Beside it, without samples: [`dynamic`] measures the range of every product's input while it runs, [`half`] stores weights in half
//! precision and computes in single.

mod agreement;
mod calibrate;
pub(crate) mod codes;
pub mod dynamic;
mod entropy;
mod error;
pub mod half;
mod histogram;
mod measure;
mod options;
mod output;
mod plan;
mod prepare;
mod report;
mod rewrite;
mod samples;
mod scratch;
#[cfg(test)]
mod tests;
mod wires;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use llmasos_engine::runtime::Runtime;

use crate::error::ForgeError;
use crate::folder::Watch;
use crate::graph::Graph;
use crate::onnx_file::operator;
use crate::proto::onnx::{NodeProto, ValueInfoProto};
use codes::Affine;
use histogram::Histogram;
use measure::{Search, Truth};
use plan::{Choice, Plan};
use rewrite::{Coder, rewrite};
use scratch::Scratch;
use wires::{Wires, label};

pub use agreement::{
    ClassAgreement, DetectorAgreement, EncoderAgreement, SAME_OBJECT, detector_agreement,
    encoder_agreement,
};
pub use error::StaticError;
pub use options::{
    DEFAULT_PERCENT, MAX_ERROR_SAMPLES, MIN_PERCENT, OnUnknown, ProductForm, RangeMethod,
    StaticOptions,
};
pub(crate) use output::sources;
pub use output::{NewModel, write_folder};
pub use report::{LeftReport, NodeReport, StaticReport, ValueReport};
pub use samples::{
    DetectorSamples, Elements, NamedTensor, Samples, VIEWS, Views, detector_samples,
    encoder_samples,
};

/// First version of the standard operator set whose QuantizeLinear and DequantizeLinear have an axis.
pub(crate) const LEAST_OPSET: i64 = 13;

/// Where a graph is run, and where its constants are meanwhile.
#[derive(Debug, Clone, Copy)]
pub struct Workplace<'a> {
    /// ONNX Runtime.
    pub runtime: &'a Runtime,
    /// A folder with room for the model and half as much again. What is put there vanishes with the resulting graph.
    pub scratch: &'a Path,
}

/// Quantizes `graph` as `options` say, with ranges from `samples`.
///
/// The same graph, options and samples give the same result, whatever the number of threads, as long as ONNX Runtime computes the same
/// numbers.
///
/// # Errors
/// [`ForgeError::Static`] for options, samples or a graph that cannot be used; [`ForgeError::Engine`] if ONNX Runtime refuses the
/// graph or a sample; [`ForgeError::Io`], [`ForgeError::Cancelled`]. A budget that cannot be met is no error: the report says so.
pub fn quantize(
    graph: Graph<'_>,
    options: &StaticOptions,
    samples: &mut dyn Samples,
    place: Workplace<'_>,
    watch: &mut Watch<'_>,
) -> Result<(Graph<'static>, StaticReport), ForgeError> {
    options.check()?;
    if samples.count() == 0 {
        return Err(StaticError::Samples {
            expected: 1,
            found: 0,
        }
        .into());
    }
    check_operator_set(&graph)?;
    let graph = prepare::constants(graph)?;
    let wires = Wires::new(&graph);
    let (mut scratch, nodes, outputs) = Scratch::take(graph, place.scratch, watch)?;
    let nodes = prepare::batch_norms(nodes, &wires, &mut scratch)?;
    let wires = wires_of(&nodes, &outputs, &scratch);
    let mut work = Work {
        choice: choice(&nodes, options)?,
        nodes,
        outputs,
        wires,
        scratch,
        options,
        runtime: place.runtime,
    };
    let plan = work.plan(&BTreeSet::new());
    if options.on_unknown == OnUnknown::Refuse
        && let Some((node, op)) = plan::first_unknown(&plan, &work.nodes)
    {
        return Err(StaticError::Unknown { node, op }.into());
    }
    if plan.weighted.is_empty() {
        return Err(StaticError::NothingToDo.into());
    }
    let histograms = work.histograms(&plan, samples, watch)?;
    let coder = work.code(&plan, &histograms)?;
    let search = work.search(&plan, &coder, samples, watch)?;
    work.finish(&coder, &histograms, &search, samples.count())
}

/// A graph taken apart.
struct Work<'a> {
    nodes: Vec<NodeProto>,
    outputs: Vec<ValueInfoProto>,
    wires: Wires,
    scratch: Scratch,
    options: &'a StaticOptions,
    choice: Choice,
    runtime: &'a Runtime,
}

impl Work<'_> {
    /// The plan in which these nodes stay in float too.
    fn plan(&self, excluded: &BTreeSet<usize>) -> Plan {
        let mut choice = self.choice.clone();
        choice.excluded.extend(excluded);
        Plan::new(&self.nodes, &self.wires, &choice)
    }

    fn histograms(
        &mut self,
        plan: &Plan,
        samples: &mut dyn Samples,
        watch: &mut Watch<'_>,
    ) -> Result<BTreeMap<String, Histogram>, ForgeError> {
        let values: Vec<String> = plan.values.keys().cloned().collect();
        let graph = (&mut self.scratch, self.nodes.as_slice());
        calibrate::histograms(&values, graph, samples, self.runtime, watch)
    }

    /// Codes of all weights and steps of all values. Both are the same whichever nodes stay in float.
    fn code(
        &mut self,
        plan: &Plan,
        histograms: &BTreeMap<String, Histogram>,
    ) -> Result<Coder, ForgeError> {
        let mut coder = Coder::new(&self.nodes, &self.wires, self.scratch.inputs());
        let mut steps: BTreeMap<&str, Affine> = BTreeMap::new();
        for (value, histogram) in histograms {
            let affine = calibrate::affine(histogram, self.options.ranges);
            coder.value(value, affine, &mut self.scratch)?;
            steps.insert(value, affine);
        }
        for (index, weighted) in &plan.weighted {
            let root = plan.values.get(&weighted.input).unwrap_or(&weighted.input);
            let input = steps.get(root.as_str()).ok_or_else(|| StaticError::Input {
                input: root.clone(),
                reason: "no sample feeds it".into(),
            })?;
            let node = (*index, &self.nodes[*index]);
            coder.node(node, weighted, *input, self.options, &mut self.scratch)?;
        }
        for (index, lookup) in &plan.lookups {
            coder.lookup((*index, &self.nodes[*index]), lookup, &mut self.scratch)?;
        }
        Ok(coder)
    }

    /// The float graph's outputs, and which nodes have to stay in float for the budget.
    fn search(
        &mut self,
        plan: &Plan,
        coder: &Coder,
        samples: &mut dyn Samples,
        watch: &mut Watch<'_>,
    ) -> Result<Search, ForgeError> {
        let float = self
            .scratch
            .open(self.runtime, &self.nodes, &self.outputs)?;
        let names: Vec<String> = self.outputs.iter().map(|it| it.name.clone()).collect();
        let truth = Truth::of(float, &names, samples, self.options.error_samples)?;
        let weighted: BTreeSet<usize> = plan
            .weighted
            .keys()
            .chain(plan.lookups.keys())
            .copied()
            .collect();
        let budget = self.options.max_error.unwrap_or(f32::INFINITY);
        let mut error = |excluded: &BTreeSet<usize>| {
            let nodes = self.rewritten(&self.plan(excluded), coder)?;
            let session = self.scratch.open(self.runtime, &nodes, &self.outputs)?;
            truth.error(session)
        };
        measure::search(&weighted, budget, &mut error, watch)
    }

    fn rewritten(&self, plan: &Plan, coder: &Coder) -> Result<Vec<NodeProto>, ForgeError> {
        let form = self.options.products;
        let inputs = self.scratch.inputs();
        rewrite(&self.nodes, inputs, &self.wires, plan, coder, form)
    }

    fn finish(
        self,
        coder: &Coder,
        histograms: &BTreeMap<String, Histogram>,
        search: &Search,
        samples: usize,
    ) -> Result<(Graph<'static>, StaticReport), ForgeError> {
        let plan = self.plan(&search.excluded);
        let nodes = self.rewritten(&plan, coder)?;
        let bytes_before = self.bytes(&self.nodes);
        let budget = self.options.max_error;
        let report = StaticReport {
            samples,
            nodes: self.node_reports(&plan, coder, search),
            values: self.value_reports(&plan, histograms),
            left: self.left_reports(&plan, search),
            error: search.error,
            max_error: budget,
            is_met: budget.is_none_or(|budget| search.error <= budget),
            bytes_before,
            bytes_after: self.bytes(&nodes),
        };
        Ok((self.scratch.graph(nodes, self.outputs), report))
    }

    /// Bytes of the constants that nodes read.
    fn bytes(&self, nodes: &[NodeProto]) -> u64 {
        let names: BTreeSet<&String> = nodes.iter().flat_map(|node| &node.input).collect();
        let specs = names.iter().filter_map(|name| self.scratch.spec(name));
        specs.filter_map(|spec| spec.bytes().ok()).sum()
    }

    fn node_reports(&self, plan: &Plan, coder: &Coder, search: &Search) -> Vec<NodeReport> {
        let computes =
            |index: &usize| plan.is_quantized(*index) || plan.lookups.contains_key(index);
        let report = |index: usize| {
            let node = &self.nodes[index];
            NodeReport {
                node: label(node).to_string(),
                op: operator(node),
                signal_to_noise_db: coder.nodes.get(&index).and_then(|it| it.signal_to_noise_db),
                error_alone: alone(search, index),
            }
        };
        (0..self.nodes.len()).filter(computes).map(report).collect()
    }

    fn value_reports(
        &self,
        plan: &Plan,
        histograms: &BTreeMap<String, Histogram>,
    ) -> Vec<ValueReport> {
        let report = |(value, root): (&String, &String)| {
            let (histogram, shared) = (histograms.get(value)?, histograms.get(root)?);
            let range = calibrate::range(shared, self.options.ranges);
            Some(ValueReport {
                value: value.clone(),
                seen: histogram.extremes(),
                range,
                signal_to_noise_db: histogram.signal_to_noise_db(range, 255),
            })
        };
        plan.values.iter().filter_map(report).collect()
    }

    fn left_reports(&self, plan: &Plan, search: &Search) -> Vec<LeftReport> {
        let report = |left: &plan::Left| {
            let node = &self.nodes[left.node];
            let reason = if search.excluded.contains(&left.node) {
                "too sensitive: kept in float to meet max_error".to_string()
            } else {
                left.reason.clone()
            };
            LeftReport {
                node: label(node).to_string(),
                op: operator(node),
                reason,
                error_alone: alone(search, left.node),
            }
        };
        plan.left.iter().map(report).collect()
    }
}

fn alone(search: &Search, index: usize) -> Option<f32> {
    let found = search.alone.iter().find(|(node, _)| *node == index);
    found.map(|(_, error)| *error)
}

/// The connections after constants went to the scratch folder.
fn wires_of(nodes: &[NodeProto], outputs: &[ValueInfoProto], scratch: &Scratch) -> Wires {
    let payloads = scratch
        .specs()
        .map(|spec| crate::graph::Payload {
            tensors: vec![spec.clone()],
            make: Box::new(|| Ok(Vec::new())),
        })
        .collect();
    Wires::new(&Graph {
        header: scratch.header().clone(),
        name: String::new(),
        nodes: nodes.to_vec(),
        inputs: scratch.inputs().to_vec(),
        outputs: outputs.to_vec(),
        payloads,
    })
}

/// The nodes that options keep in float.
fn choice(nodes: &[NodeProto], options: &StaticOptions) -> Result<Choice, StaticError> {
    let mut excluded = BTreeSet::new();
    for name in &options.keep_float {
        let before = excluded.len();
        let named = nodes.iter().enumerate().filter(|it| label(it.1) == name);
        excluded.extend(named.map(|(index, _)| index));
        if excluded.len() == before {
            return Err(StaticError::NoSuchNode { node: name.clone() });
        }
    }
    Ok(Choice {
        excluded,
        lookups: options.lookups,
        merges_bias: options.products == ProductForm::IntegerToFloat,
    })
}

pub(crate) fn check_operator_set(graph: &Graph<'_>) -> Result<(), StaticError> {
    let found = graph.header.operator_sets.get("").copied().unwrap_or(0);
    if found < LEAST_OPSET {
        return Err(StaticError::OperatorSet {
            domain: String::new(),
            expected: LEAST_OPSET,
            found,
        });
    }
    Ok(())
}
