//! From the checked descriptor to what each part is started with. Pure: nothing is opened here.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context, Result, bail};
use llmasos_engine::{Isa, RuntimeOptions, Spin, audio::EndpointOptions};
use llmasos_nodes::{
    advisor::{AdvisorOptions, node::Context as AdvisorContext, question::Bounds},
    bus::{BusMode, BusOptions},
    clock::ClockSource,
    contract::{Ros2Options, TopicContract},
    gate::{
        fact::{Action, ActionSet, Light, Zone},
        node::GateTopics,
        policy::{Condition, Confirmer, Freshness, ModeInput, Policy, PolicySettings, RefuseRule},
    },
    speech::{SpeechOptions, intent::FastWords},
    summary::{SummaryOptions, camera::CameraModel, scene::Limits},
    supervise::{Restart, RestartPolicy},
};

use super::environment::RosEnvironment;
use crate::descriptor::graph::{self, GateSpec, Graph, InputSpec, NodeSpec, Params, RefuseWhen};

/// Language the recogniser understands; the model's own (moonshine-tiny-en).
const LANGUAGE: &str = "en";
/// How long an advice lives when its topic has no lifespan.
const ADVICE_VALIDITY: Duration = Duration::from_secs(3);

/// How the bus is opened. `parent` is where the launcher listens, for its child processes. The variables of rmw_zenoh win over the
/// descriptor.
pub fn bus(graph: &Graph, parent: Option<&str>, environment: &RosEnvironment) -> BusOptions {
    let zenoh = &graph.zenoh;
    let mut connect = zenoh.connect.clone();
    connect.extend(
        parent
            .filter(|address| !address.is_empty())
            .map(str::to_owned),
    );
    let mut options = BusOptions {
        namespace: graph.namespace.clone(),
        mode: if zenoh.client {
            BusMode::Client
        } else {
            BusMode::Peer
        },
        // A child listens too: peers pass nothing on to each other, so whoever meets the launcher must be able to meet the gate.
        listen: if parent.is_some() {
            vec!["tcp/127.0.0.1:0".to_owned()]
        } else {
            zenoh.listen.clone()
        },
        connect,
        connect_required: !zenoh.connect_optional && parent.is_none(),
        multicast: zenoh.multicast,
        config_file: zenoh.config.clone(),
        config_overrides: Vec::new(),
        clock: match &graph.clock {
            graph::Clock::Topic(topic) => ClockSource::Topic(topic.clone()),
            // Sources stamp what they play when they send it, so a recording's time is the wall's.
            graph::Clock::Wall | graph::Clock::Recording => ClockSource::Wall,
        },
        ros2: graph.ros2.map(|ros2| Ros2Options {
            domain: ros2.domain,
            distro: ros2.distro,
        }),
    };
    environment.apply(&mut options);
    options
}

/// How ONNX Runtime is started.
///
/// # Errors
/// When no library is there.
pub fn runtime(graph: &Graph) -> Result<RuntimeOptions> {
    Ok(RuntimeOptions {
        library: onnx_runtime_library()?,
        threads: graph.compute.threads,
        spin: match graph.compute.spin {
            graph::Spin::Off => Spin::Off,
            graph::Spin::Short => Spin::Short,
            graph::Spin::On => Spin::On,
        },
        isa: isa()?,
        profile: None,
    })
}

/// The instruction set for our own operators: `LLMASOS_ISA`, else the best of this processor.
///
/// # Errors
/// When the variable names none, or one that this processor does not have.
pub fn isa() -> Result<Isa> {
    match std::env::var("LLMASOS_ISA") {
        Ok(name) if !name.is_empty() => name.parse().context("LLMASOS_ISA"),
        _ => Ok(Isa::detect()),
    }
}

/// The ONNX Runtime to load: `ORT_DYLIB_PATH`, else one beside the executable, else the one the build fetched.
///
/// # Errors
/// When none of them exists; says what to do.
pub fn onnx_runtime_library() -> Result<PathBuf> {
    const FILE: &str = "libonnxruntime.so";
    if let Some(path) = std::env::var_os("ORT_DYLIB_PATH").filter(|path| !path.is_empty()) {
        return Ok(path.into());
    }
    let beside = std::env::current_exe()
        .ok()
        .and_then(|exe| exe.parent().map(|folder| folder.join(FILE)))
        .filter(|path| path.exists());
    let built = llmasos_engine::BUILT_LIBRARY
        .map(PathBuf::from)
        .filter(|path| path.exists());
    beside.or(built).context(
        "no ONNX Runtime: the build could not fetch it, or it was removed since. Build again with network access, or set ORT_DYLIB_PATH to a libonnxruntime.so of version 1.17 or later",
    )
}

/// The contract of an input: its topic's, with the input's own queue where it has one.
pub fn contract(graph: &Graph, input: &InputSpec) -> Result<TopicContract> {
    let mut contract = topic(graph, &input.topic)?;
    contract.queue = graph.queue(input);
    Ok(contract)
}

fn topic(graph: &Graph, name: &str) -> Result<TopicContract> {
    graph
        .topic(name)
        .cloned()
        .with_context(|| format!("topic {name} has no contract"))
}

/// The contract of a port, if the node has it.
pub fn port(graph: &Graph, node: &NodeSpec, name: &str) -> Result<Option<TopicContract>> {
    node.inputs
        .get(name)
        .map(|input| contract(graph, input))
        .transpose()
}

/// Options of a speech-command node.
pub fn speech(node: &NodeSpec) -> Result<SpeechOptions> {
    let Params::Speech(params) = &node.params else {
        bail!("node {} is no speech-command", node.name)
    };
    let usual = FastWords::default();
    Ok(SpeechOptions {
        min_confidence: params.min_confidence,
        fast: FastWords {
            stop: params.stop_words.clone().unwrap_or(usual.stop),
            pull_over: params.pull_over_words.clone().unwrap_or(usual.pull_over),
        },
        endpoint: EndpointOptions {
            speech_threshold: params.vad_threshold,
            silence_threshold: (params.vad_threshold - 0.15).max(0.05),
            hang_over_ms: millis(params.hangover),
            tail_ms: millis(params.hangover).min(EndpointOptions::default().tail_ms),
            max_utterance_ms: millis(params.max_utterance),
            ..EndpointOptions::default()
        },
        budget: node.budget,
        priority: node.priority,
        speaker: params.speaker,
        language: LANGUAGE.to_owned(),
    })
}

fn millis(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}

/// Options of a perception-summary node.
pub fn summary(node: &NodeSpec) -> Result<SummaryOptions> {
    let Params::Summary(params) = &node.params else {
        bail!("node {} is no perception-summary", node.name)
    };
    Ok(SummaryOptions {
        budget: node.budget,
        priority: node.priority,
        period: Duration::from_secs_f64(1.0 / params.rate_hz.max(0.01)),
        camera: CameraModel::default(),
        limits: Limits {
            objects: params.max_objects,
            range_m: params.range_m,
        },
    })
}

/// Options of a planner-advisor node. The gate's own bound is the bound of what is asked for: advice beyond it would only be clipped.
pub fn advisor(graph: &Graph, node: &NodeSpec, model_sha256: [u8; 32]) -> Result<AdvisorOptions> {
    let validity = node
        .output("advice")
        .and_then(|name| graph.topic(name))
        .and_then(|topic| topic.lifespan);
    Ok(AdvisorOptions {
        budget: node.budget,
        priority: node.priority,
        bounds: Bounds {
            max_speed_mps: graph.gate.as_ref().map_or(0.0, |gate| gate.max_speed_mps),
        },
        validity: validity.unwrap_or(ADVICE_VALIDITY),
        model_sha256,
    })
}

/// An input of the advisor that it may have to run without.
pub fn advisor_context(
    graph: &Graph,
    node: &NodeSpec,
    name: &str,
) -> Result<Option<AdvisorContext>> {
    let Some(input) = node.inputs.get(name) else {
        return Ok(None);
    };
    Ok(Some(AdvisorContext {
        contract: contract(graph, input)?,
        on_stale: input.on_stale,
    }))
}

/// Restart rules of a child.
pub fn restart(graph: &Graph, name: &str) -> RestartPolicy {
    let spec = graph.restart(name);
    RestartPolicy {
        restart: match spec.restart {
            graph::Restart::Always => Restart::Always,
            graph::Restart::OnFailure => Restart::OnFailure,
            graph::Restart::Never => Restart::Never,
        },
        count: spec.max_count.unwrap_or(u32::MAX),
        within: spec.within,
        backoff_min: spec.backoff_min,
        backoff_max: spec.backoff_max,
        silent: spec.silent,
    }
}

/// The gate's topics.
pub fn gate_topics(graph: &Graph, gate: &GateSpec) -> Result<GateTopics> {
    let input = |port: &str| -> Result<Option<TopicContract>> {
        gate.inputs
            .get(port)
            .map(|input| topic(graph, &input.topic))
            .transpose()
    };
    let needed = |port: &str| -> Result<TopicContract> {
        input(port)?.with_context(|| format!("the gate has no input {port}"))
    };
    let verdict = gate
        .outputs
        .get("verdict")
        .context("the gate has no output verdict")?;
    Ok(GateTopics {
        advice: needed("advice")?,
        command: needed("command")?,
        summary: input("summary")?,
        ego: needed("ego")?,
        operation_mode: input("operation_mode")?,
        control_mode: input("control_mode")?,
        mrm: input("mrm")?,
        verdict: verdict.topic.clone(),
        autoware_velocity_limit: gate.velocity_limit,
    })
}

/// What the gate may let through.
///
/// # Errors
/// What the policy itself says is wrong.
pub fn policy(graph: &Graph, gate: &GateSpec) -> Result<Policy> {
    let usual = PolicySettings::default();
    let age = |port: &str, usual: Duration| {
        gate.inputs
            .get(port)
            .and_then(|input| input.max_age)
            .unwrap_or(usual)
    };
    let mode = |port: &str| match gate.inputs.get(port) {
        None => ModeInput::Absent,
        Some(input) => match (
            graph.topic(&input.topic).is_some_and(|topic| topic.event),
            input.max_age,
        ) {
            (false, Some(limit)) => ModeInput::Periodic(limit),
            _ => ModeInput::Latched,
        },
    };
    let mut confirm = usual.confirm;
    for (name, who) in &gate.confirm {
        confirm[action(name)? as usize] = Some(match who {
            graph::Confirmer::Driver => Confirmer::Driver,
            graph::Confirmer::Anyone => Confirmer::Any,
        });
    }
    let allow_in_mode = if gate.allow_in_mode.is_empty() {
        None
    } else {
        let otherwise = actions(&gate.allow)?;
        let mut sets = [otherwise; 5];
        for (name, allowed) in &gate.allow_in_mode {
            sets[mode_index(name)?] = actions(allowed)?;
        }
        Some(sets)
    };
    let allow = match &allow_in_mode {
        // The outer set is what may pass in any mode at all.
        Some(sets) => ActionSet::of(
            &ALL_ACTIONS
                .into_iter()
                .filter(|action| sets.iter().any(|set| set.contains(*action)))
                .collect::<Vec<_>>(),
        ),
        None => actions(&gate.allow)?,
    };
    let settings = PolicySettings {
        allow,
        allow_in_mode,
        max_speed_mps: gate.max_speed_mps,
        accelerate_mps2: gate.accelerate_mps2,
        decelerate_mps2: gate.decelerate_mps2,
        refuse_when: gate
            .refuse_when
            .iter()
            .map(refuse_rule)
            .collect::<Result<_>>()?,
        confirm,
        confirm_timeout: gate.confirm_timeout.unwrap_or(usual.confirm_timeout),
        fresh: Freshness {
            advice: age("advice", usual.fresh.advice),
            command: age("command", usual.fresh.command),
            summary: age("summary", usual.fresh.summary),
            ego: age("ego", usual.fresh.ego),
        },
        advice_max_validity: gate.advice_validity.unwrap_or(usual.advice_max_validity),
        min_command_confidence: gate.min_confidence.unwrap_or(usual.min_command_confidence),
        direct_hold: gate.hold.unwrap_or(usual.direct_hold),
        operation_mode: mode("operation_mode"),
        control_mode: mode("control_mode"),
        mrm: mode("mrm"),
        ..usual
    };
    Ok(Policy::new(settings)?)
}

fn refuse_rule(rule: &graph::RefuseRule) -> Result<RefuseRule> {
    let condition = match &rule.when {
        RefuseWhen::TrafficLight(colour) => Condition::Light(match colour.as_str() {
            "RED" => Light::Red,
            "AMBER" => Light::Amber,
            "GREEN" => Light::Green,
            other => bail!(
                "rule {}: expected RED, AMBER or GREEN, found {other}",
                rule.name
            ),
        }),
        RefuseWhen::Vulnerable {
            zone,
            time_to_contact_below_s,
            distance_below_m,
        } => Condition::Vulnerable {
            zone: zone.as_deref().map(zone_of).transpose()?,
            time_to_contact_below_s: *time_to_contact_below_s,
            distance_below_m: *distance_below_m,
        },
    };
    Ok(RefuseRule {
        name: rule.name.clone(),
        condition,
        actions: actions(&rule.actions)?,
    })
}

fn zone_of(name: &str) -> Result<Zone> {
    Ok(match name {
        "AHEAD" => Zone::Ahead,
        "LEFT" => Zone::Left,
        "RIGHT" => Zone::Right,
        "BEHIND" => Zone::Behind,
        "CROSSING" => Zone::Crossing,
        other => bail!("expected a zone, found {other}"),
    })
}

const ALL_ACTIONS: [Action; 6] = [
    Action::Keep,
    Action::SlowDown,
    Action::Stop,
    Action::PullOver,
    Action::LaneLeft,
    Action::LaneRight,
];

fn action(name: &str) -> Result<Action> {
    Ok(match name {
        "KEEP" => Action::Keep,
        "SLOW_DOWN" => Action::SlowDown,
        "STOP" => Action::Stop,
        "PULL_OVER" => Action::PullOver,
        "LANE_LEFT" => Action::LaneLeft,
        "LANE_RIGHT" => Action::LaneRight,
        other => bail!("expected an action, found {other}"),
    })
}

fn actions(names: &[String]) -> Result<ActionSet> {
    Ok(ActionSet::of(
        &names
            .iter()
            .map(|name| action(name))
            .collect::<Result<Vec<_>>>()?,
    ))
}

/// Index of an operation mode in the policy: the wire value of `OperationModeState`.
fn mode_index(name: &str) -> Result<usize> {
    Ok(match name {
        "UNKNOWN" => 0,
        "STOP" => 1,
        "AUTONOMOUS" => 2,
        "LOCAL" => 3,
        "REMOTE" => 4,
        other => bail!("expected an operation mode, found {other}"),
    })
}
