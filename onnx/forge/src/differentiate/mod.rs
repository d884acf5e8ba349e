//! Reverse-mode differentiation of ONNX graphs: the nodes that compute gradients are appended to the graph that computes a value.
//!
//! The training packages of ONNX Runtime ended; its inference library runs any graph, so a training step is one more graph. What
//! comes out consists of stock operators only and runs wherever the forward graph runs. The method is reverse accumulation
//! (Griewank and Walther, Evaluating Derivatives, 2008, chapter 3): nodes are visited in reverse order, and each one turns the
//! gradient of its outputs into gradients of its inputs by the rule of its operator. A value that is read more than once gets
//! the sum. Rules are one short function per operator, in files by kind:
//!
//! ```text
//!                      forward nodes            rules                        gradient nodes
//!   x ─┬─► MatMul ─► Softmax ─► … ─► loss   products · elementwise ·   d.loss ─► … ─► d.x
//!   W ─┘                                    reductions · layout                 └──► d.W
//!
//!   stored: values that a first graph kept for a second; see [`second_part`]
//! ```
//!
//! Two habits keep the graphs small. A gradient may stay narrower than its value as long as it broadcasts to it (the gradient
//! of a mean is one number per row), and it is widened only by a rule that needs it wide. Shapes are inferred while nodes are
//! added, so that sizes known now become constants.
//!
//! Sizes of equal names are equal ([`Dim::Named`]); a size with a name is never taken for a 1 that broadcasts.
//!
//! [`Dim::Named`]: crate::graph::Dim::Named

mod elementwise;
mod layout;
mod parts;
mod products;
mod reductions;
mod shape;
mod tape;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use crate::graph::GraphBuilder;
use crate::proto::onnx::NodeProto;

pub use parts::{needed_between, second_part};
use tape::{Call, Tape};

/// Most nodes of a graph that is differentiated: a model of a hundred layers has about ten thousand.
pub const MAX_NODES: usize = 1 << 17;

/// Why a graph cannot be differentiated.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DifferentiateError {
    /// An operator on the way from a parameter to the loss whose derivative is not known here.
    #[error(
        "node {node}: operator {operator} has no derivative rule; keep it off the way between the parameters and the loss, or express it by operators that have one"
    )]
    NoRule {
        /// The node.
        node: String,
        /// Its operator, with the domain in front if it is not the standard one.
        operator: String,
    },
    /// A rule that does not cover this use of its operator.
    #[error("node {node}: {operator}: expected {expected}, found {found}")]
    Unsupported {
        /// The node.
        node: String,
        /// Its operator.
        operator: String,
        /// What the rule covers.
        expected: String,
        /// What the node has.
        found: String,
    },
    /// A value whose rank and sizes could not be inferred and are needed.
    #[error("node {node}: the shape of {value} is not known")]
    UnknownShape {
        /// The node that needs it.
        node: String,
        /// The value.
        value: String,
    },
    /// Shapes that do not go together, or whose broadcasting cannot be decided.
    #[error("node {node}: shapes {left} and {right} do not go together")]
    Shapes {
        /// The node.
        node: String,
        /// One of them.
        left: String,
        /// The other.
        right: String,
    },
    /// A value that the graph does not define.
    #[error("the graph has no value {value}")]
    Undefined {
        /// The value.
        value: String,
    },
    /// A parameter without influence: its gradient would be zero for ever, which is never what was meant.
    #[error("nothing that is differentiated depends on {value}")]
    Independent {
        /// The parameter.
        value: String,
    },
    /// More nodes than [`MAX_NODES`].
    #[error("expected a graph of at most {limit} nodes, found {found}")]
    TooLarge {
        /// The limit.
        limit: usize,
        /// Nodes.
        found: usize,
    },
}

/// Appends the gradients of the scalar `loss` with respect to `parameters` (inputs, constants, or values in between).
///
/// Returns the name of each gradient, in order; each has the shape of its parameter. They are ordinary values: announce them as
/// outputs where they are wanted.
///
/// # Errors
/// [`DifferentiateError`] names the node, operator or value. The builder is unusable afterwards.
pub fn differentiate(
    graph: &mut GraphBuilder<'_>,
    loss: &str,
    parameters: &[&str],
) -> Result<Vec<String>, DifferentiateError> {
    let one = format!("d.{loss}.one");
    graph.floats(&one, &[], &[1.0]);
    pull_back(graph, &[(loss, &one)], parameters)
}

/// The same from gradients that are given: `seeds` are pairs of a value and the gradient of something with respect to it, which
/// must broadcast to the value. For graphs that are one part of a longer chain.
///
/// # Errors
/// As [`differentiate`].
pub fn pull_back(
    graph: &mut GraphBuilder<'_>,
    seeds: &[(&str, &str)],
    parameters: &[&str],
) -> Result<Vec<String>, DifferentiateError> {
    let nodes = graph.so_far().nodes.clone();
    if nodes.len() > MAX_NODES {
        return Err(DifferentiateError::TooLarge {
            limit: MAX_NODES,
            found: nodes.len(),
        });
    }
    let named = seeds.iter().flat_map(|(value, seed)| [*value, *seed]);
    for value in named.chain(parameters.iter().copied()) {
        if !graph.is_defined(value) {
            return Err(DifferentiateError::Undefined {
                value: value.to_string(),
            });
        }
    }
    let dependent = dependents(&nodes, parameters);
    check_rules(&nodes, &dependent, seeds)?;
    let mut tape = Tape::new(graph)?;
    let mut gradients: BTreeMap<String, String> = BTreeMap::new();
    for (value, seed) in seeds {
        accumulate(&mut tape, &mut gradients, value, seed.to_string())?;
    }
    for node in nodes.iter().rev() {
        visit(&mut tape, node, &dependent, &mut gradients)?;
    }
    parameters
        .iter()
        .map(|parameter| {
            let gradient = gradients.get(*parameter).cloned();
            let gradient = gradient.ok_or_else(|| DifferentiateError::Independent {
                value: parameter.to_string(),
            })?;
            tape.finished(&gradient, parameter)
        })
        .collect()
}

/// Values that change with the parameters, the parameters among them.
fn dependents(nodes: &[NodeProto], parameters: &[&str]) -> BTreeSet<String> {
    let mut found: BTreeSet<String> = parameters.iter().map(ToString::to_string).collect();
    for node in nodes {
        let smooth = node
            .input
            .iter()
            .enumerate()
            .any(|(index, input)| found.contains(input) && !is_discrete(node, index));
        if smooth {
            let outputs = node.output.iter().filter(|output| !output.is_empty());
            found.extend(outputs.cloned());
        }
    }
    found
}

/// Whether an input has no gradient by its nature: indices, shapes, conditions, and everything that operators only measure.
fn is_discrete(node: &NodeProto, input: usize) -> bool {
    if !node.domain.is_empty() {
        return false;
    }
    match node.op_type.as_str() {
        "Shape" | "Size" | "Equal" | "Less" | "Greater" | "LessOrEqual" | "GreaterOrEqual"
        | "Not" | "And" | "Or" | "ArgMax" | "ArgMin" | "IsNaN" | "IsInf" | "Sign" | "OneHot"
        | "ConstantOfShape" | "Range" => true,
        "Where" => input == 0,
        "Gather" | "Reshape" | "Expand" | "Unsqueeze" | "Squeeze" | "Split" | "ReduceSum"
        | "ReduceMean" | "Slice" => input > 0,
        "Cast" => !layout::casts_to_float(node),
        _ => false,
    }
}

/// Names an operator without a rule before anything else that may be wrong because of it.
fn check_rules(
    nodes: &[NodeProto],
    dependent: &BTreeSet<String>,
    seeds: &[(&str, &str)],
) -> Result<(), DifferentiateError> {
    let mut reached: BTreeSet<&str> = seeds.iter().map(|(value, _)| *value).collect();
    for node in nodes.iter().rev() {
        let is_reached = node
            .output
            .iter()
            .any(|name| reached.contains(name.as_str()));
        let wanted = wanted(node, dependent);
        if !is_reached || !wanted.contains(&true) {
            continue;
        }
        if rule_of(node).is_none() && !is_split(node) {
            return Err(no_rule(node));
        }
        let inputs = node.input.iter().zip(wanted);
        reached.extend(
            inputs
                .filter(|(_, is_wanted)| *is_wanted)
                .map(|(name, _)| name.as_str()),
        );
    }
    Ok(())
}

/// Whether a gradient is wanted for each input.
fn wanted(node: &NodeProto, dependent: &BTreeSet<String>) -> Vec<bool> {
    let inputs = node.input.iter().enumerate();
    inputs
        .map(|(index, input)| dependent.contains(input) && !is_discrete(node, index))
        .collect()
}

/// The rule of a node's operator, if it has one.
fn rule_of(node: &NodeProto) -> Option<tape::Rule> {
    if !node.domain.is_empty() {
        return None;
    }
    elementwise::rule(&node.op_type)
        .or_else(|| products::rule(&node.op_type))
        .or_else(|| reductions::rule(&node.op_type))
        .or_else(|| layout::rule(&node.op_type))
}

/// Split alone has several outputs, so its rule has a form of its own.
fn is_split(node: &NodeProto) -> bool {
    node.domain.is_empty() && node.op_type == "Split"
}

fn no_rule(node: &NodeProto) -> DifferentiateError {
    let operator = match node.domain.as_str() {
        "" => node.op_type.clone(),
        domain => format!("{domain}.{}", node.op_type),
    };
    DifferentiateError::NoRule {
        node: node.name.clone(),
        operator,
    }
}

/// Applies the rule of one node, if a gradient arrives at it and somebody wants it further.
fn visit(
    tape: &mut Tape<'_, '_>,
    node: &NodeProto,
    dependent: &BTreeSet<String>,
    gradients: &mut BTreeMap<String, String>,
) -> Result<(), DifferentiateError> {
    let arriving: Vec<Option<String>> = node
        .output
        .iter()
        .map(|output| gradients.get(output).cloned())
        .collect();
    let wanted = wanted(node, dependent);
    if arriving.iter().all(Option::is_none) || !wanted.contains(&true) {
        return Ok(());
    }
    tape.at(node);
    let call = Call {
        node,
        wanted: &wanted,
    };
    let leaving = apply(tape, &call, &arriving)?;
    for (input, gradient) in node.input.iter().zip(leaving) {
        if let Some(gradient) = gradient {
            accumulate(tape, gradients, input, gradient)?;
        }
    }
    Ok(())
}

/// Gradients of the inputs; `None` where none is wanted.
fn apply(
    tape: &mut Tape<'_, '_>,
    call: &Call<'_>,
    arriving: &[Option<String>],
) -> Result<Vec<Option<String>>, DifferentiateError> {
    if is_split(call.node) {
        return layout::split(tape, call, arriving);
    }
    // All other operators with a rule have one output.
    let Some(Some(gradient)) = arriving.first() else {
        return Ok(vec![None; call.wanted.len()]);
    };
    let rule = rule_of(call.node).ok_or_else(|| no_rule(call.node))?;
    rule(tape, call, gradient)
}

/// Adds a gradient to what has arrived at a value so far.
fn accumulate(
    tape: &mut Tape<'_, '_>,
    gradients: &mut BTreeMap<String, String>,
    value: &str,
    gradient: String,
) -> Result<(), DifferentiateError> {
    let sum = match gradients.get(value) {
        Some(earlier) => tape.op("Add", &[earlier, &gradient])?,
        None => gradient,
    };
    gradients.insert(value.to_string(), sum);
    Ok(())
}
