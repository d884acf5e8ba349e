//! Who drives, as far as the reports that are wired say.
//!
//! A person or a minimum-risk manoeuvre in charge ends every advice. A report that is wired but missing or too old ends it too, because the
//! planner must not be advised while nobody knows who listens; a spoken stop still passes then.

use super::fact::{ModeReport, Now, OperationMode};
use super::policy::{ModeInput, Policy};
use super::refusal::Input;
use super::rule::Rule;
use super::state::{Inputs, ns};

/// Who drives.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Charge {
    /// The computer, in this mode if modes are reported.
    Computer(Option<OperationMode>),
    /// Somebody or something else.
    Other(Rule),
    /// Not known, though it should be.
    Unknown(Rule),
}

pub(super) fn in_charge(policy: &Policy, inputs: &Inputs, now: Now) -> Charge {
    let settings = policy.settings();
    let wired = [
        (Input::ControlMode, settings.control_mode),
        (Input::OperationMode, settings.operation_mode),
        (Input::Mrm, settings.mrm),
    ];
    let mut charge = Charge::Computer(None);
    for (input, wiring) in wired {
        let limit_ns = match wiring {
            ModeInput::Absent => continue,
            ModeInput::Latched => i64::MAX,
            ModeInput::Periodic(limit) => ns(limit),
        };
        let said = match inputs.mode(input) {
            None => Charge::Unknown(Rule::ModeMissing),
            Some(report) if report.age_ns(now) > limit_ns => Charge::Unknown(Rule::ModeStale),
            Some(report) => charge_of(report.fact.report),
        };
        // Somebody else's hand on the wheel outweighs a missing report, and a missing report outweighs a good one.
        charge = match (charge, said) {
            (Charge::Other(rule), _) | (_, Charge::Other(rule)) => Charge::Other(rule),
            (Charge::Unknown(rule), _) | (_, Charge::Unknown(rule)) => Charge::Unknown(rule),
            (Charge::Computer(mode), Charge::Computer(other)) => Charge::Computer(mode.or(other)),
        };
    }
    charge
}

fn charge_of(report: ModeReport) -> Charge {
    match report {
        ModeReport::Control { autonomous: false } => Charge::Other(Rule::ManualControl),
        ModeReport::Mrm { active: true } => Charge::Other(Rule::MrmActive),
        ModeReport::Control { autonomous: true } | ModeReport::Mrm { active: false } => {
            Charge::Computer(None)
        }
        ModeReport::Operation {
            control_enabled: false,
            ..
        } => Charge::Other(Rule::ManualControl),
        ModeReport::Operation {
            mode,
            control_enabled: true,
        } => match mode {
            OperationMode::Local | OperationMode::Remote => Charge::Other(Rule::ManualControl),
            OperationMode::Unknown => Charge::Unknown(Rule::ModeMissing),
            OperationMode::Stop | OperationMode::Autonomous => Charge::Computer(Some(mode)),
        },
    }
}
