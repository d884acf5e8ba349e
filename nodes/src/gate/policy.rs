//! The policy: what the gate lets through, as checked data with a fingerprint that every verdict carries.
//!
//! The descriptor maps into [`PolicySettings`]; [`Policy`] is the only form the gate accepts and cannot be built from settings that
//! contradict themselves. Its SHA-256 is taken over a canonical byte form (fixed field order, little-endian, lengths before names), not over
//! the descriptor's text: two files that mean the same have the same fingerprint, and a recorded verdict says which rules judged it.

use std::time::Duration;

use sha2::{Digest, Sha256};

use super::fact::{Action, ActionSet, Light, Zone};

/// Most refuse rules of one policy; bounds the time of a decision and the rule numbers 30..=37.
pub const MAX_REFUSE_RULES: usize = 8;
/// Longest rule name in bytes: `GateVerdict.rule` is `string<=48`.
pub const MAX_RULE_NAME_BYTES: usize = 48;
/// Highest speed a policy may name, m/s; beyond any road vehicle, so a unit was mistaken.
pub const MAX_POLICY_SPEED_MPS: f32 = 100.0;
/// Highest acceleration or deceleration a policy may name, m/s²; beyond what tyres can do.
pub const MAX_POLICY_SLEW_MPS2: f32 = 12.0;
/// Longest time a policy may name.
pub const MAX_POLICY_TIME: Duration = Duration::from_secs(60);
/// How far ahead of the clock a stamp may be: the error of two synchronized clocks, not a licence to predict.
pub const FUTURE_TOLERANCE: Duration = Duration::from_millis(50);

/// Who has to say yes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Confirmer {
    /// The driver.
    Driver,
    /// Anybody whose command reaches the gate.
    Any,
}

/// When a refuse rule applies.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Condition {
    /// The light that applies has this colour.
    Light(Light),
    /// A vulnerable object is near. Unknown values count as near: what is not known is not safe.
    Vulnerable {
        /// Only in this zone; `None` = anywhere. An object whose zone is unknown is in every zone.
        zone: Option<Zone>,
        /// Nearer than this in seconds.
        time_to_contact_below_s: Option<f32>,
        /// Nearer than this in metres.
        distance_below_m: Option<f32>,
    },
}

/// Refuses some actions in some scene.
#[derive(Clone, Debug, PartialEq)]
pub struct RefuseRule {
    /// The descriptor's key, as it appears in the verdict; 1..=48 bytes.
    pub name: String,
    /// When it applies.
    pub condition: Condition,
    /// What it refuses.
    pub actions: ActionSet,
}

/// Oldest acceptable age of each input when a decision is made, counted from the sensor stamp.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Freshness {
    /// Of what the advice is built on.
    pub advice: Duration,
    /// Of a command; its own lifespan may be shorter.
    pub command: Duration,
    /// Of the oldest source of the summary.
    pub summary: Duration,
    /// Of the odometry.
    pub ego: Duration,
}

/// Whether and how a report about who is in charge is wired.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ModeInput {
    /// No such topic: nothing is concluded from its absence.
    #[default]
    Absent,
    /// Published on change and kept by the publisher (`/api/operation_mode/state`): required, of any age.
    Latched,
    /// Published all the time: required, and not older than this.
    Periodic(Duration),
}

/// How an input's publisher is identified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Refuse samples that do not say who published them.
    pub required: bool,
    /// How long the known publisher must be silent before another may take its place.
    pub takeover_after: Duration,
}

/// Everything the gate is told about what it may let through. Plain data; [`Policy::new`] checks it.
#[derive(Clone, Debug, PartialEq)]
pub struct PolicySettings {
    /// Actions that may pass at all.
    pub allow: ActionSet,
    /// Narrower sets by operation mode, at the index of its wire value (UNKNOWN, STOP, AUTONOMOUS, LOCAL, REMOTE).
    pub allow_in_mode: Option<[ActionSet; 5]>,
    /// Highest speed limit that passes unclipped, m/s.
    pub max_speed_mps: f32,
    /// How fast a limit in force may rise, m/s².
    pub accelerate_mps2: f32,
    /// How fast a limit may fall, m/s².
    pub decelerate_mps2: f32,
    /// A limit may be as far away as the slew reaches in this time: a verdict acts for a while, not for an instant.
    pub slew_horizon: Duration,
    /// Refuse rules, judged in this order.
    pub refuse_when: Vec<RefuseRule>,
    /// Who has to confirm an action, at the index of its wire value.
    pub confirm: [Option<Confirmer>; 7],
    /// How long the gate waits for a confirmation.
    pub confirm_timeout: Duration,
    /// Age limits.
    pub fresh: Freshness,
    /// Longest life of an advice after it was written, whatever it says itself.
    pub advice_max_validity: Duration,
    /// Lowest confidence at which a command acts, \[0, 1\].
    pub min_command_confidence: f32,
    /// How long a spoken STOP or PULL_OVER holds unless cancelled.
    pub direct_hold: Duration,
    /// How long a verdict holds when the gate falls silent.
    pub verdict_validity: Duration,
    /// `autoware_adapi_v1_msgs/OperationModeState`.
    pub operation_mode: ModeInput,
    /// `autoware_vehicle_msgs/ControlModeReport`.
    pub control_mode: ModeInput,
    /// `autoware_adapi_v1_msgs/MrmState`.
    pub mrm: ModeInput,
    /// One publisher per input.
    pub identity: Identity,
}

impl Default for PolicySettings {
    /// Stopping and slowing only, at city speed: what is safe to run when nothing else was said.
    fn default() -> PolicySettings {
        PolicySettings {
            allow: ActionSet::of(&[Action::SlowDown, Action::Stop, Action::PullOver]),
            allow_in_mode: None,
            max_speed_mps: 13.9,
            accelerate_mps2: 1.5,
            decelerate_mps2: 3.0,
            slew_horizon: Duration::from_secs(1),
            refuse_when: Vec::new(),
            confirm: [None; 7],
            confirm_timeout: Duration::from_secs(4),
            fresh: Freshness {
                advice: Duration::from_secs(3),
                command: Duration::from_secs(1),
                summary: Duration::from_secs(2),
                ego: Duration::from_millis(300),
            },
            advice_max_validity: Duration::from_secs(5),
            min_command_confidence: 0.5,
            direct_hold: Duration::from_secs(10),
            verdict_validity: Duration::from_millis(300),
            operation_mode: ModeInput::Absent,
            control_mode: ModeInput::Absent,
            mrm: ModeInput::Absent,
            identity: Identity {
                required: false,
                takeover_after: Duration::from_secs(2),
            },
        }
    }
}

/// Why settings cannot be a policy.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum PolicyError {
    /// A number outside what makes sense.
    #[error("gate: {field}: expected {low} to {high}, found {found}")]
    Number {
        /// Which setting.
        field: &'static str,
        /// Lowest value.
        low: f32,
        /// Highest value.
        high: f32,
        /// What stands there.
        found: f32,
    },
    /// A time outside what makes sense.
    #[error("gate: {field}: expected more than 0 s and at most {high:?}, found {found:?}")]
    Time {
        /// Which setting.
        field: &'static str,
        /// Longest value.
        high: Duration,
        /// What stands there.
        found: Duration,
    },
    /// Nothing may pass.
    #[error("gate: allow names no action: the gate would only ever say no")]
    AllowsNothing,
    /// Too many refuse rules.
    #[error("gate: refuse_when: expected at most {MAX_REFUSE_RULES} rules, found {found}")]
    TooManyRules {
        /// How many there are.
        found: usize,
    },
    /// A rule name that does not fit the verdict or stands twice.
    #[error(
        "gate: refuse_when: `{name}`: a name is 1 to {MAX_RULE_NAME_BYTES} bytes and stands once"
    )]
    RuleName {
        /// The name.
        name: String,
    },
    /// A rule that cannot refuse anything.
    #[error("gate: refuse_when: `{name}` names no action")]
    RuleWithoutAction {
        /// The rule.
        name: String,
    },
    /// A confirmation that could only arrive too late.
    #[error("gate: confirm timeout {timeout:?} is longer than an advice may live ({validity:?})")]
    ConfirmOutlivesAdvice {
        /// The timeout.
        timeout: Duration,
        /// The longest life of an advice.
        validity: Duration,
    },
}

/// A checked policy with its fingerprint.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    settings: PolicySettings,
    sha256: [u8; 32],
}

impl Policy {
    /// Checks the settings.
    ///
    /// # Errors
    /// [`PolicyError`] names the first setting that makes no sense.
    pub fn new(settings: PolicySettings) -> Result<Policy, PolicyError> {
        check_numbers(&settings)?;
        check_times(&settings)?;
        check_rules(&settings)?;
        if settings.allow.is_empty() {
            return Err(PolicyError::AllowsNothing);
        }
        let confirms = settings.confirm.iter().any(Option::is_some);
        if confirms && settings.confirm_timeout > settings.advice_max_validity {
            return Err(PolicyError::ConfirmOutlivesAdvice {
                timeout: settings.confirm_timeout,
                validity: settings.advice_max_validity,
            });
        }
        let sha256 = Sha256::digest(canonical_bytes(&settings)).into();
        Ok(Policy { settings, sha256 })
    }

    /// The settings in force.
    #[must_use]
    pub fn settings(&self) -> &PolicySettings {
        &self.settings
    }

    /// SHA-256 over the canonical form; `GateVerdict.policy_sha256`.
    #[must_use]
    pub fn policy_sha256(&self) -> [u8; 32] {
        self.sha256
    }
}

fn check_numbers(settings: &PolicySettings) -> Result<(), PolicyError> {
    let numbers = [
        (
            "max_speed.max",
            0.0,
            MAX_POLICY_SPEED_MPS,
            settings.max_speed_mps,
        ),
        (
            "max_speed.accelerate",
            0.01,
            MAX_POLICY_SLEW_MPS2,
            settings.accelerate_mps2,
        ),
        (
            "max_speed.decelerate",
            0.01,
            MAX_POLICY_SLEW_MPS2,
            settings.decelerate_mps2,
        ),
        ("min_confidence", 0.0, 1.0, settings.min_command_confidence),
    ];
    for (field, low, high, found) in numbers {
        check_number(field, low, high, found)?;
    }
    for rule in &settings.refuse_when {
        if let Condition::Vulnerable {
            time_to_contact_below_s,
            distance_below_m,
            ..
        } = rule.condition
        {
            if let Some(found) = time_to_contact_below_s {
                check_number("refuse_when.time_to_contact.below", 0.0, 60.0, found)?;
            }
            if let Some(found) = distance_below_m {
                check_number("refuse_when.distance.below", 0.0, 500.0, found)?;
            }
        }
    }
    Ok(())
}

fn check_number(field: &'static str, low: f32, high: f32, found: f32) -> Result<(), PolicyError> {
    // `contains` is false for NaN, which is what is wanted here.
    if (low..=high).contains(&found) {
        Ok(())
    } else {
        Err(PolicyError::Number {
            field,
            low,
            high,
            found,
        })
    }
}

fn check_times(settings: &PolicySettings) -> Result<(), PolicyError> {
    let periodic = |input: ModeInput| match input {
        ModeInput::Periodic(limit) => limit,
        ModeInput::Absent | ModeInput::Latched => FUTURE_TOLERANCE,
    };
    let times = [
        ("max_speed.horizon", settings.slew_horizon),
        ("confirm.timeout", settings.confirm_timeout),
        ("fresh.advice", settings.fresh.advice),
        ("fresh.command", settings.fresh.command),
        ("fresh.summary", settings.fresh.summary),
        ("fresh.ego", settings.fresh.ego),
        ("advice_max_validity", settings.advice_max_validity),
        ("direct_hold", settings.direct_hold),
        ("verdict_validity", settings.verdict_validity),
        ("operation_mode.max_age", periodic(settings.operation_mode)),
        ("control_mode.max_age", periodic(settings.control_mode)),
        ("mrm.max_age", periodic(settings.mrm)),
        ("identity.takeover_after", settings.identity.takeover_after),
    ];
    for (field, found) in times {
        if found.is_zero() || found > MAX_POLICY_TIME {
            return Err(PolicyError::Time {
                field,
                high: MAX_POLICY_TIME,
                found,
            });
        }
    }
    Ok(())
}

fn check_rules(settings: &PolicySettings) -> Result<(), PolicyError> {
    let rules = &settings.refuse_when;
    if rules.len() > MAX_REFUSE_RULES {
        return Err(PolicyError::TooManyRules { found: rules.len() });
    }
    for (index, rule) in rules.iter().enumerate() {
        let twice = rules[..index]
            .iter()
            .any(|earlier| earlier.name == rule.name);
        if rule.name.is_empty() || rule.name.len() > MAX_RULE_NAME_BYTES || twice {
            return Err(PolicyError::RuleName {
                name: rule.name.clone(),
            });
        }
        if rule.actions.is_empty() {
            return Err(PolicyError::RuleWithoutAction {
                name: rule.name.clone(),
            });
        }
    }
    Ok(())
}

/// Little-endian writer of the canonical form.
struct Canonical(Vec<u8>);

impl Canonical {
    fn byte(&mut self, value: u8) {
        self.0.push(value);
    }

    fn number(&mut self, value: f32) {
        self.0.extend_from_slice(&value.to_bits().to_le_bytes());
    }

    fn optional_number(&mut self, value: Option<f32>) {
        self.byte(u8::from(value.is_some()));
        self.number(value.unwrap_or(0.0));
    }

    fn time(&mut self, value: Duration) {
        self.0.extend_from_slice(&value.as_secs().to_le_bytes());
        self.0
            .extend_from_slice(&value.subsec_nanos().to_le_bytes());
    }

    fn text(&mut self, value: &str) {
        self.0
            .extend_from_slice(&(value.len() as u64).to_le_bytes());
        self.0.extend_from_slice(value.as_bytes());
    }

    fn mode(&mut self, input: ModeInput) {
        match input {
            ModeInput::Absent => self.byte(0),
            ModeInput::Latched => self.byte(1),
            ModeInput::Periodic(limit) => {
                self.byte(2);
                self.time(limit);
            }
        }
    }

    fn rule(&mut self, rule: &RefuseRule) {
        self.text(&rule.name);
        self.byte(rule.actions.bits());
        match rule.condition {
            Condition::Light(light) => {
                self.byte(0);
                self.byte(light as u8);
            }
            Condition::Vulnerable {
                zone,
                time_to_contact_below_s,
                distance_below_m,
            } => {
                self.byte(1);
                self.byte(zone.map_or(u8::MAX, |zone| zone as u8));
                self.optional_number(time_to_contact_below_s);
                self.optional_number(distance_below_m);
            }
        }
    }
}

/// The byte form that is hashed; a new field goes at the end and changes the version in the first line.
fn canonical_bytes(settings: &PolicySettings) -> Vec<u8> {
    let mut out = Canonical(Vec::with_capacity(512));
    out.text("llmasos-gate-policy/v1");
    out.byte(settings.allow.bits());
    out.byte(u8::from(settings.allow_in_mode.is_some()));
    for set in settings.allow_in_mode.unwrap_or_default() {
        out.byte(set.bits());
    }
    for value in [
        settings.max_speed_mps,
        settings.accelerate_mps2,
        settings.decelerate_mps2,
        settings.min_command_confidence,
    ] {
        out.number(value);
    }
    out.byte(settings.refuse_when.len() as u8);
    for rule in &settings.refuse_when {
        out.rule(rule);
    }
    for confirmer in settings.confirm {
        out.byte(match confirmer {
            None => 0,
            Some(Confirmer::Driver) => 1,
            Some(Confirmer::Any) => 2,
        });
    }
    let fresh = settings.fresh;
    for time in [
        settings.slew_horizon,
        settings.confirm_timeout,
        fresh.advice,
        fresh.command,
        fresh.summary,
        fresh.ego,
        settings.advice_max_validity,
        settings.direct_hold,
        settings.verdict_validity,
        settings.identity.takeover_after,
    ] {
        out.time(time);
    }
    for input in [settings.operation_mode, settings.control_mode, settings.mrm] {
        out.mode(input);
    }
    out.byte(u8::from(settings.identity.required));
    out.0
}
