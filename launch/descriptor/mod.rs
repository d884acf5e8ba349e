//! The launch descriptor: strict YAML in, a checked [`Graph`] or a list of findings out.
//!
//! Raw → checked, in steps that each collect all they find and keep the place of every value, so that a message about a port can
//! name line and column of a file that was included by another under a profile:
//!
//! ```text
//! file ─ yaml ─► tree ─ include ─► one tree ─ arguments ─► no expressions ─ shape ─► right keys, kinds, units
//!                                                                  │ (flat: what `expand` prints)
//!                                                                  └─ build ─► Graph ─ check, wiring ─► findings
//! ```
//!
//! The format is data ([`tables`], [`kinds`]); the reader, the checks and the JSON Schema for editors are made from it.

pub mod arguments;
mod build;
pub mod check;
pub mod condition;
pub mod draw;
pub mod emit;
pub mod expect;
pub mod findings;
mod gate;
pub mod gate_table;
pub mod graph;
pub mod include;
pub mod kinds;
mod node;
pub mod ros2;
pub mod schema;
pub mod shape;
mod source;
pub mod tables;
pub mod units;
pub mod wire;
mod wiring;
pub mod yaml;

#[cfg(test)]
mod fault_tests;
#[cfg(test)]
mod tests;

use std::path::Path;

use arguments::{Environment, Overrides};
use check::Facts;
use findings::{Files, Findings, Rejected};
use graph::Graph;
use shape::{Shape, validate};
use tables::{ARGUMENTS, FORMAT, PROFILES, ROOT};
use yaml::Node;

/// A descriptor that may be started, with the warnings and notes about it.
#[derive(Debug)]
pub struct Loaded {
    /// The graph.
    pub graph: Graph,
    /// Warnings and notes; no errors.
    pub findings: Findings,
}

/// Reads and checks a descriptor.
///
/// # Errors
/// [`Rejected`] with every finding, errors, warnings and notes, when there is an error.
pub fn load(
    path: &Path,
    overrides: &Overrides,
    environment: Environment<'_>,
    facts: &Facts<'_>,
) -> Result<Loaded, Rejected> {
    let Flat {
        root,
        files,
        mut findings,
    } = flatten(path, overrides, environment)?;
    let Some(graph) = build::build(&root, files.clone(), environment, &mut findings) else {
        return Err(Rejected { findings, files });
    };
    check::check(&graph, facts, &mut findings);
    findings.sort();
    if findings.has_errors() {
        Err(Rejected { findings, files })
    } else {
        Ok(Loaded { graph, findings })
    }
}

/// A descriptor as one tree: includes, profiles, arguments and conditions are resolved, keys, kinds and units are right.
#[derive(Debug)]
pub struct Flat {
    /// The tree.
    pub root: Node,
    /// The files it comes from.
    pub files: Files,
    /// Warnings and notes so far.
    pub findings: Findings,
}

/// Reads a descriptor as far as it can be read without meaning.
///
/// # Errors
/// [`Rejected`] with every finding when there is an error.
pub fn flatten(
    path: &Path,
    overrides: &Overrides,
    environment: Environment<'_>,
) -> Result<Flat, Rejected> {
    let (mut files, mut findings) = (Files::default(), Findings::default());
    let root = include::read_file(path, &mut files, &mut findings).and_then(|mut root| {
        // A file of another version may differ in anything: its other faults would only confuse.
        let version = root.get("llmasos").filter(|v| v.text() != Some(FORMAT));
        if let Some(version) = version {
            let message = format!(
                "this reader reads {FORMAT}, the descriptor is {}",
                version.describe()
            );
            findings.error(version.at, message);
            return None;
        }
        let mut raw = Findings::default();
        if let Some(profiles) = root.get("profiles") {
            validate(profiles, &PROFILES, &mut raw);
        }
        include::choose_profiles(&mut root, &overrides.profiles, &mut raw);
        if let Some(args) = root.get("args") {
            validate(args, &ARGUMENTS, &mut raw);
        }
        arguments::resolve(&mut root, overrides, environment, &mut raw);
        validate(&root, &Shape::Fields(&ROOT), &mut raw);
        findings.extend(raw);
        Some(root)
    });
    findings.sort();
    match root {
        Some(root) if !findings.has_errors() => Ok(Flat {
            root,
            files,
            findings,
        }),
        _ => Err(Rejected { findings, files }),
    }
}
