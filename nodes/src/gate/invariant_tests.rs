//! What holds whatever arrives, in whatever order, at whatever time: thousands of random lives of a gate.

use proptest::prelude::*;

use super::decide::{Decision, Verdict};
use super::fact::{
    Action, ActionSet, AdviceFact, CommandFact, EgoFact, Id, Intent, Light, MAX_OBJECTS, ModeFact,
    ModeReport, NO_ID, ObjectFact, OperationMode, SceneFact, Sensors, Speaker, Zone,
};
use super::policy::{ModeInput, PolicySettings};
use super::scenario::{MS, World, settings};

/// One thing that happens to a gate.
#[derive(Clone, Debug)]
enum Event {
    Advice(AdviceFact),
    Command(CommandFact),
    Scene(Box<SceneFact>),
    Ego(EgoFact),
    Mode(ModeFact),
    /// Wall and monotonic clock move by these, ns; the wall may go back.
    Time(i64, i64),
}

/// Offsets from now that are mostly sensible and sometimes absurd, ns.
fn offset() -> impl Strategy<Value = i64> {
    prop_oneof![8 => -2_000 * MS..40 * MS, 1 => any::<i64>(), 1 => Just(0)]
}

fn number() -> impl Strategy<Value = f32> {
    prop_oneof![6 => 0.0f32..20.0, 1 => any::<f32>(), 1 => Just(f32::NAN), 1 => Just(f32::INFINITY)]
}

fn share() -> impl Strategy<Value = f32> {
    prop_oneof![6 => 0.0f32..=1.0, 1 => any::<f32>()]
}

/// Few ids, so that messages refer to each other.
fn id() -> impl Strategy<Value = Id> {
    (0u8..6).prop_map(|n| if n == 0 { NO_ID } else { [n; 16] })
}

fn advice() -> impl Strategy<Value = AdviceFact> {
    let times = (
        offset(),
        offset(),
        prop_oneof![4 => 0i64..5_000 * MS, 1 => any::<i64>()],
    );
    (times, (any::<Id>(), id(), id()), 0u8..7, number(), share()).prop_map(
        |(times, ids, action, max_speed_mps, confidence)| AdviceFact {
            stamp_ns: times.0,
            generated_ns: times.1,
            valid_until_ns: times.2,
            id: ids.0,
            command_id: ids.1,
            summary_id: ids.2,
            action: Action::from_wire(action).unwrap(),
            max_speed_mps,
            confidence,
        },
    )
}

fn command() -> impl Strategy<Value = CommandFact> {
    (
        offset(),
        any::<i64>(),
        id(),
        id(),
        0u8..12,
        any::<bool>(),
        0u8..4,
        (share(), number()),
    )
        .prop_map(
            |(
                stamp_ns,
                lifespan_ns,
                id,
                reply_to,
                intent,
                negated,
                speaker,
                (confidence, target_speed_mps),
            )| CommandFact {
                stamp_ns,
                lifespan_ns: lifespan_ns.saturating_abs(),
                id,
                reply_to,
                intent: Intent::from_wire(intent).unwrap(),
                negated,
                speaker: Speaker::from_wire(speaker).unwrap(),
                confidence,
                target_speed_mps,
            },
        )
}

fn scene() -> impl Strategy<Value = SceneFact> {
    let object = (0u8..6, any::<bool>(), share(), number(), number(), number());
    (offset(), offset(), id(), 0u8..4, 0u8..4, object, 0usize..3).prop_map(
        |(stamp_ns, generated_ns, id, sensors, light, object, object_count)| SceneFact {
            stamp_ns,
            generated_ns,
            id,
            sensors: Sensors::from_wire(sensors).unwrap(),
            light: Light::from_wire(light).unwrap(),
            objects: [ObjectFact {
                zone: Zone::from_wire(object.0).unwrap(),
                vulnerable: object.1,
                existence_probability: object.2,
                distance_m: object.3,
                relative_speed_mps: object.4,
                time_to_contact_s: object.5,
            }; MAX_OBJECTS],
            object_count,
        },
    )
}

fn event() -> impl Strategy<Value = Event> {
    let report = prop_oneof![
        any::<bool>().prop_map(|autonomous| ModeReport::Control { autonomous }),
        any::<bool>().prop_map(|active| ModeReport::Mrm { active }),
        (0u8..5, any::<bool>()).prop_map(|(mode, control_enabled)| ModeReport::Operation {
            mode: OperationMode::from_wire(mode).unwrap(),
            control_enabled
        }),
    ];
    prop_oneof![
        3 => advice().prop_map(Event::Advice),
        4 => command().prop_map(Event::Command),
        2 => scene().prop_map(|scene| Event::Scene(Box::new(scene))),
        3 => (offset(), number()).prop_map(|(stamp_ns, speed_mps)| Event::Ego(EgoFact { stamp_ns, speed_mps })),
        1 => (offset(), report).prop_map(|(stamp_ns, report)| Event::Mode(ModeFact { stamp_ns, report })),
        3 => prop_oneof![9 => (0i64..300 * MS).prop_map(|step| Event::Time(step, step)), 1 => (any::<i64>(), 0i64..10_000 * MS).prop_map(|(wall, mono)| Event::Time(wall, mono))],
    ]
}

/// Applies one event; stamps are relative to the gate's present.
fn happen(world: &mut World, event: Event, publisher: Option<u128>) {
    let at = |offset: i64| world.now.wall_ns.saturating_add(offset);
    let (policy, now) = (&world.policy, world.now);
    // Refusals are the point of other tests; here only what follows from the state counts.
    let _ = match event {
        Event::Advice(fact) => {
            let fact = AdviceFact {
                stamp_ns: at(fact.stamp_ns),
                generated_ns: at(fact.generated_ns),
                valid_until_ns: at(fact.valid_until_ns),
                ..fact
            };
            world.inputs.ingest_advice(policy, fact, publisher, now)
        }
        Event::Command(fact) => {
            let fact = CommandFact {
                stamp_ns: at(fact.stamp_ns),
                ..fact
            };
            world.inputs.ingest_command(policy, fact, publisher, now)
        }
        Event::Scene(fact) => {
            let fact = SceneFact {
                stamp_ns: at(fact.stamp_ns),
                generated_ns: at(fact.generated_ns),
                ..*fact
            };
            world.inputs.ingest_scene(policy, fact, publisher, now)
        }
        Event::Ego(fact) => {
            let fact = EgoFact {
                stamp_ns: at(fact.stamp_ns),
                ..fact
            };
            world.inputs.ingest_ego(policy, fact, publisher, now)
        }
        Event::Mode(fact) => {
            let fact = ModeFact {
                stamp_ns: at(fact.stamp_ns),
                ..fact
            };
            world.inputs.ingest_mode(policy, fact, publisher, now)
        }
        Event::Time(wall, mono) => {
            world.now.wall_ns = world.now.wall_ns.saturating_add(wall);
            world.now.mono_ns = world.now.mono_ns.saturating_add(mono);
            Ok(())
        }
    };
}

fn holds(world: &World, decision: &Decision) -> Result<(), TestCaseError> {
    let settings = world.policy.settings();
    let speed = decision.max_speed_mps;
    prop_assert!(
        speed.is_nan() || (speed.is_finite() && (0.0..=settings.max_speed_mps).contains(&speed)),
        "limit {speed}"
    );
    prop_assert!(decision.advice_age_ns >= 0 && decision.state_age_ns >= 0);
    prop_assert!(decision.rule.name(settings).len() <= 48);
    let from_speech = decision.advice_id == NO_ID && decision.command_id != NO_ID;
    if decision.verdict.in_force() {
        prop_assert!(
            settings.allow.contains(decision.action),
            "{:?} is not allowed",
            decision.action
        );
        prop_assert!(decision.valid_until_ns >= decision.now.wall_ns);
        prop_assert!(
            from_speech || world.inputs.ego().is_some(),
            "an advice passed without odometry"
        );
        if from_speech {
            prop_assert!(
                matches!(decision.action, Action::Stop | Action::PullOver),
                "speech passed {:?}",
                decision.action
            );
        } else if !decision.action.only_slows() {
            let scene = world.inputs.scene();
            prop_assert!(
                scene.is_some_and(
                    |scene| scene.fact.sensors == Sensors::Ok && scene.fact.light != Light::Red
                ),
                "passed unseen"
            );
        }
    } else {
        prop_assert!(
            decision.action == Action::None && speed.is_nan(),
            "something is in force without a verdict"
        );
    }
    if world.inputs.ego().is_none() && !from_speech {
        prop_assert_eq!(decision.verdict, Verdict::NoAdvice);
    }
    Ok(())
}

fn policies() -> impl Strategy<Value = PolicySettings> {
    (1u8..128, any::<bool>(), any::<bool>()).prop_map(|(bits, modes, confirm)| {
        let allow: ActionSet = Action::ALL
            .into_iter()
            .filter(|action| bits & (1 << *action as u8) != 0)
            .collect();
        settings(|s| {
            s.allow = if allow.is_empty() {
                ActionSet::of(&[Action::Stop])
            } else {
                allow
            };
            (s.control_mode, s.mrm) = if modes {
                (
                    ModeInput::Latched,
                    ModeInput::Periodic(super::scenario::ms(500)),
                )
            } else {
                (ModeInput::Absent, ModeInput::Absent)
            };
            if !confirm {
                s.confirm = [None; 7];
            }
        })
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_life_of_a_gate_breaks_its_promises(settings in policies(), ordinary in any::<bool>(), events in prop::collection::vec(event(), 1..60)) {
        let mut world = if ordinary { World::driving(settings) } else { World::empty(settings) };
        for (index, event) in events.into_iter().enumerate() {
            // Mostly one publisher; now and then another one tries.
            happen(&mut world, event, if index % 17 == 16 { Some(8) } else { super::scenario::PUBLISHER });
            let decision = world.decide();
            holds(&world, &decision)?;
        }
    }

    #[test]
    fn deciding_twice_says_the_same(events in prop::collection::vec(event(), 1..40)) {
        let mut world = World::new();
        for event in events {
            happen(&mut world, event, super::scenario::PUBLISHER);
            let (first, second) = (world.decide(), world.decide());
            prop_assert!(!second.differs(&first) || first.rule == super::rule::Rule::ActionNotAllowedInMode, "{first:?} then {second:?}");
        }
    }
}
