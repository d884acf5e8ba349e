//! A vehicle on a road for the gate's tests: one place that says what is ordinary, so that a test says only what is not.
//!
//! Time is a number that moves when a test says so; nothing here waits.

use std::time::Duration;

use super::decide::{Decision, Memory, Verdict, decide};
use super::fact::{
    Action, ActionSet, AdviceFact, CommandFact, EgoFact, Id, Intent, Light, MAX_OBJECTS, ModeFact,
    ModeReport, NO_ID, NS_PER_S, Now, ObjectFact, SceneFact, Sensors, Speaker, Zone,
};
use super::policy::{Condition, Confirmer, Policy, PolicySettings, RefuseRule};
use super::refusal::Refusal;
use super::state::Inputs;

/// One millisecond in ns.
pub(super) const MS: i64 = 1_000_000;
/// Whom all ordinary messages come from.
pub(super) const PUBLISHER: Option<u128> = Some(7);
const START_NS: i64 = 1_700_000_000 * NS_PER_S;

/// The policy of the demonstration.
pub(super) fn demo_settings() -> PolicySettings {
    let risky = ActionSet::of(&[Action::Keep, Action::LaneLeft, Action::LaneRight]);
    let near = Condition::Vulnerable {
        zone: Some(Zone::Ahead),
        time_to_contact_below_s: Some(4.0),
        distance_below_m: None,
    };
    let mut confirm = [None; 7];
    confirm[Action::LaneLeft as usize] = Some(Confirmer::Driver);
    confirm[Action::LaneRight as usize] = Some(Confirmer::Any);
    PolicySettings {
        allow: Action::ALL.into_iter().collect(),
        refuse_when: vec![
            RefuseRule {
                name: "red_light".into(),
                condition: Condition::Light(Light::Red),
                actions: risky,
            },
            RefuseRule {
                name: "vulnerable".into(),
                condition: near,
                actions: risky,
            },
        ],
        confirm,
        ..PolicySettings::default()
    }
}

/// The gate's whole world.
pub(super) struct World {
    pub(super) policy: Policy,
    pub(super) inputs: Inputs,
    pub(super) memory: Memory,
    pub(super) now: Now,
    ids: u8,
}

impl World {
    /// Nothing known yet.
    pub(super) fn empty(settings: PolicySettings) -> World {
        World {
            policy: Policy::new(settings).expect("a test's policy makes sense"),
            inputs: Inputs::new(),
            memory: Memory::default(),
            now: Now {
                wall_ns: START_NS,
                mono_ns: 1_000 * NS_PER_S,
                epoch: 0,
                ahead_ns: 50 * MS,
            },
            ids: 0,
        }
    }

    /// 10 m/s on a clear road with green light.
    pub(super) fn driving(settings: PolicySettings) -> World {
        let mut world = World::empty(settings);
        world.refresh();
        world
    }

    /// Demonstration policy, 10 m/s, clear road, green light.
    pub(super) fn new() -> World {
        World::driving(demo_settings())
    }

    pub(super) fn fresh_id(&mut self) -> Id {
        self.ids += 1;
        let mut id = NO_ID;
        id[0] = self.ids;
        id
    }

    /// New odometry and a new clear scene, 50 ms old.
    pub(super) fn refresh(&mut self) {
        let scene = self.clear_road();
        self.see(scene).expect("an ordinary scene");
        self.drive(10.0).expect("ordinary odometry");
    }

    pub(super) fn advance(&mut self, ms: i64) {
        self.now.wall_ns += ms * MS;
        self.now.mono_ns += ms * MS;
    }

    pub(super) fn clear_road(&mut self) -> SceneFact {
        SceneFact {
            stamp_ns: self.now.wall_ns - 50 * MS,
            generated_ns: self.now.wall_ns - 10 * MS,
            id: self.fresh_id(),
            sensors: Sensors::Ok,
            light: Light::Green,
            objects: [ObjectFact::default(); MAX_OBJECTS],
            object_count: 0,
        }
    }

    pub(super) fn see(&mut self, scene: SceneFact) -> Result<(), Refusal> {
        self.inputs
            .ingest_scene(&self.policy, scene, PUBLISHER, self.now)
    }

    pub(super) fn see_light(&mut self, light: Light) {
        let scene = SceneFact {
            light,
            ..self.clear_road()
        };
        self.see(scene).expect("an ordinary scene");
    }

    pub(super) fn see_sensors(&mut self, sensors: Sensors) {
        let scene = SceneFact {
            sensors,
            ..self.clear_road()
        };
        self.see(scene).expect("an ordinary scene");
    }

    pub(super) fn see_object(&mut self, object: ObjectFact) {
        let mut scene = self.clear_road();
        (scene.objects[0], scene.object_count) = (object, 1);
        self.see(scene).expect("an ordinary scene");
    }

    pub(super) fn drive(&mut self, speed_mps: f32) -> Result<(), Refusal> {
        let ego = EgoFact {
            stamp_ns: self.now.wall_ns - 20 * MS,
            speed_mps,
        };
        self.inputs
            .ingest_ego(&self.policy, ego, PUBLISHER, self.now)
    }

    pub(super) fn report(&mut self, report: ModeReport) {
        let fact = ModeFact {
            stamp_ns: self.now.wall_ns - 5 * MS,
            report,
        };
        self.inputs
            .ingest_mode(&self.policy, fact, PUBLISHER, self.now)
            .expect("an ordinary report");
    }

    pub(super) fn spoken(&mut self, intent: Intent) -> CommandFact {
        CommandFact {
            stamp_ns: self.now.wall_ns - 30 * MS,
            lifespan_ns: NS_PER_S,
            id: self.fresh_id(),
            reply_to: NO_ID,
            intent,
            negated: false,
            speaker: Speaker::Driver,
            confidence: 0.9,
            target_speed_mps: f32::NAN,
        }
    }

    pub(super) fn hear(&mut self, command: CommandFact) -> Result<(), Refusal> {
        self.inputs
            .ingest_command(&self.policy, command, PUBLISHER, self.now)
    }

    pub(super) fn say(&mut self, intent: Intent) -> CommandFact {
        let command = self.spoken(intent);
        self.hear(command).expect("an ordinary command");
        command
    }

    /// An advice that answers `command`, valid for four seconds.
    pub(super) fn answer(
        &mut self,
        command: &CommandFact,
        action: Action,
        max_speed_mps: f32,
    ) -> AdviceFact {
        AdviceFact {
            stamp_ns: self.now.wall_ns - 40 * MS,
            generated_ns: self.now.wall_ns - MS,
            valid_until_ns: self.now.wall_ns + 4 * NS_PER_S,
            id: self.fresh_id(),
            command_id: command.id,
            summary_id: NO_ID,
            action,
            max_speed_mps,
            confidence: 0.8,
        }
    }

    pub(super) fn receive(&mut self, advice: AdviceFact) -> Result<(), Refusal> {
        self.inputs
            .ingest_advice(&self.policy, advice, PUBLISHER, self.now)
    }

    /// Somebody says `intent` and the advisor answers with `action`.
    pub(super) fn advise(
        &mut self,
        intent: Intent,
        action: Action,
        max_speed_mps: f32,
    ) -> AdviceFact {
        let command = self.say(intent);
        let advice = self.answer(&command, action, max_speed_mps);
        self.receive(advice).expect("an ordinary advice");
        advice
    }

    pub(super) fn decide(&mut self) -> Decision {
        self.inputs.observe_clock(self.now);
        decide(&self.policy, &self.inputs, &mut self.memory, self.now)
    }
}

/// A pedestrian ahead, two seconds away.
pub(super) fn pedestrian() -> ObjectFact {
    ObjectFact {
        zone: Zone::Ahead,
        vulnerable: true,
        existence_probability: 0.9,
        distance_m: 20.0,
        relative_speed_mps: 10.0,
        time_to_contact_s: 2.0,
    }
}

/// A policy setting changed in the demonstration's policy.
pub(super) fn settings(change: impl FnOnce(&mut PolicySettings)) -> PolicySettings {
    let mut settings = demo_settings();
    change(&mut settings);
    settings
}

/// A short name for durations in tests.
pub(super) fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// One situation and what the gate says of it.
pub(super) struct Case {
    pub(super) why: &'static str,
    pub(super) arrange: fn() -> World,
    pub(super) verdict: Verdict,
    pub(super) rule: u16,
}

pub(super) fn check(cases: &[Case]) {
    for case in cases {
        let mut world = (case.arrange)();
        let decision = world.decide();
        let found = (decision.verdict, decision.rule.id());
        assert_eq!(
            found,
            (case.verdict, case.rule),
            "{}: {decision:?}",
            case.why
        );
        if !decision.verdict.in_force() {
            assert!(
                decision.action == Action::None && decision.max_speed_mps.is_nan(),
                "{}: nothing is in force",
                case.why
            );
        }
    }
}

pub(super) fn advised(intent: Intent, action: Action, max_speed_mps: f32) -> World {
    let mut world = World::new();
    world.advise(intent, action, max_speed_mps);
    world
}

pub(super) fn keep_while(see: fn(&mut World)) -> World {
    let mut world = advised(Intent::SpeedUp, Action::Keep, 12.0);
    see(&mut world);
    world
}

pub(super) fn aged(advance_ms: i64, refresh: fn(&mut World)) -> World {
    let mut world = advised(Intent::SlowDown, Action::SlowDown, 8.0);
    world.advance(advance_ms);
    refresh(&mut world);
    world
}
