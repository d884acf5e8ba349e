//! The gate's decision allocates nothing: counted by an allocator of this test's own, per thread, in a binary of its own.

// `GlobalAlloc` is an unsafe trait; there is no other way to see an allocation. The product contains none of this.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::hint::black_box;

use llmasos_nodes::gate::decide::{Memory, Verdict, decide};
use llmasos_nodes::gate::fact::{
    Action, AdviceFact, CommandFact, EgoFact, Intent, Light, MAX_OBJECTS, NO_ID, NS_PER_S, Now,
    ObjectFact, SceneFact, Sensors, Speaker, Zone,
};
use llmasos_nodes::gate::policy::{Condition, Confirmer, Policy, PolicySettings, RefuseRule};
use llmasos_nodes::gate::state::Inputs;

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

fn count() -> usize {
    ALLOCATIONS.with(Cell::get)
}

fn counted() {
    // A thread that is ending has no counter any more, and nobody asks for it.
    let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
}

/// The system's allocator with a counter in front.
struct Counting;

// SAFETY: every call goes unchanged to the system's allocator; the counter touches no memory that is handed out.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        counted();
        // SAFETY: the caller's contract is the system allocator's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: `pointer` came from `alloc` above with the same layout.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        counted();
        // SAFETY: `pointer` came from `alloc` above with the same layout.
        unsafe { System.realloc(pointer, layout, new_size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const START: Now = Now {
    wall_ns: 1_700_000_000 * NS_PER_S,
    mono_ns: NS_PER_S,
    epoch: 0,
    ahead_ns: 50_000_000,
};

fn policy() -> Policy {
    let all = Action::ALL.into_iter().collect();
    let near = Condition::Vulnerable {
        zone: Some(Zone::Ahead),
        time_to_contact_below_s: Some(4.0),
        distance_below_m: Some(5.0),
    };
    let mut confirm = [None; 7];
    confirm[Action::LaneLeft as usize] = Some(Confirmer::Driver);
    let refuse_when = vec![
        RefuseRule {
            name: "red_light".into(),
            condition: Condition::Light(Light::Red),
            actions: [Action::Keep].into_iter().collect(),
        },
        RefuseRule {
            name: "vulnerable".into(),
            condition: near,
            actions: [Action::Keep, Action::LaneRight].into_iter().collect(),
        },
    ];
    Policy::new(PolicySettings {
        allow: all,
        refuse_when,
        confirm,
        ..PolicySettings::default()
    })
    .expect("a policy that makes sense")
}

fn id(tick: i64, kind: u8) -> [u8; 16] {
    let mut id = [kind; 16];
    id[..8].copy_from_slice(&(tick + 1).to_le_bytes());
    id
}

fn scene(tick: i64, now: Now) -> SceneFact {
    let object = ObjectFact {
        zone: Zone::Ahead,
        vulnerable: tick % 40 > 30,
        time_to_contact_s: 2.0,
        distance_m: 20.0,
        ..ObjectFact::default()
    };
    SceneFact {
        stamp_ns: now.wall_ns,
        generated_ns: now.wall_ns,
        id: id(tick, 1),
        sensors: Sensors::Ok,
        light: if tick % 50 > 40 {
            Light::Red
        } else {
            Light::Green
        },
        objects: [object; MAX_OBJECTS],
        object_count: MAX_OBJECTS,
    }
}

fn command(tick: i64, now: Now, intent: Intent) -> CommandFact {
    CommandFact {
        stamp_ns: now.wall_ns,
        lifespan_ns: 0,
        id: id(tick, 2),
        reply_to: NO_ID,
        intent,
        negated: false,
        speaker: Speaker::Driver,
        confidence: 0.9,
        target_speed_mps: 5.0,
    }
}

/// Half a minute of everything at 10 Hz; returns how often each verdict was said.
fn drive(policy: &Policy, inputs: &mut Inputs, memory: &mut Memory) -> [usize; 5] {
    // A spoken stop would hold for ten seconds, so it comes last.
    const SAID: [Intent; 6] = [
        Intent::SlowDown,
        Intent::Keep,
        Intent::LaneLeft,
        Intent::SpeedUp,
        Intent::LaneRight,
        Intent::Stop,
    ];
    const ADVISED: [Action; 6] = [
        Action::SlowDown,
        Action::Keep,
        Action::LaneLeft,
        Action::Keep,
        Action::LaneRight,
        Action::None,
    ];
    let mut said = [0; 5];
    for tick in 0..300 {
        let step_ns = tick * NS_PER_S / 10;
        let now = Now {
            wall_ns: START.wall_ns + step_ns,
            mono_ns: START.mono_ns + step_ns,
            ..START
        };
        let seen = scene(tick, now);
        let _ = black_box(inputs.ingest_scene(policy, seen, Some(1), now));
        let _ = black_box(inputs.ingest_ego(
            policy,
            EgoFact {
                stamp_ns: now.wall_ns,
                speed_mps: 10.0,
            },
            Some(1),
            now,
        ));
        if tick % 40 == 0 {
            let turn = (tick / 40) as usize % SAID.len();
            let heard = command(tick, now, SAID[turn]);
            let _ = black_box(inputs.ingest_command(policy, heard, Some(1), now));
            let advice = AdviceFact {
                stamp_ns: now.wall_ns,
                generated_ns: now.wall_ns,
                valid_until_ns: now.wall_ns + 2 * NS_PER_S,
                id: id(tick, 3),
                command_id: heard.id,
                summary_id: seen.id,
                action: ADVISED[turn],
                max_speed_mps: if turn == 0 { 5.0 } else { 9.0 },
                confidence: 0.9,
            };
            let _ = black_box(inputs.ingest_advice(policy, advice, Some(1), now));
        }
        inputs.observe_clock(now);
        said[black_box(decide(policy, inputs, memory, now)).verdict as usize] += 1;
    }
    said
}

#[test]
fn deciding_allocates_nothing() {
    let (policy, mut inputs, mut memory) = (policy(), Inputs::new(), Memory::default());
    let before = count();
    let said = drive(&policy, &mut inputs, &mut memory);
    assert_eq!(count() - before, 0, "believing and deciding allocated");

    // The counter works, and the drive visited the branches it is meant to visit.
    let before = count();
    drop(black_box(Box::new(1u8)));
    assert_eq!(count() - before, 1, "the counter does not count");
    for verdict in [
        Verdict::NoAdvice,
        Verdict::Accepted,
        Verdict::Clipped,
        Verdict::Refused,
        Verdict::PendingConfirm,
    ] {
        assert!(
            said[verdict as usize] > 0,
            "the drive never said {}: {said:?}",
            verdict.name()
        );
    }
}
