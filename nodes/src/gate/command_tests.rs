//! What people say: stops that need no model, commands that must not act, confirmations; and the speed an advice may ask for.

use super::decide::Verdict;
use super::fact::{Action, CommandFact, Intent, Light, ModeReport, NO_ID, Speaker};
use super::policy::ModeInput;
use super::scenario::{Case, MS, World, advised, check, demo_settings, ms, settings};

#[test]
fn a_spoken_stop_needs_nothing_else() {
    let mut world = World::empty(demo_settings());
    let stop = world.say(Intent::Stop);
    let decision = world.decide();
    assert_eq!(
        (decision.verdict, decision.action, decision.rule.id()),
        (Verdict::Accepted, Action::Stop, 0),
        "without odometry, scene or advice"
    );
    assert_eq!((decision.command_id, decision.advice_id), (stop.id, NO_ID));

    world.advance(9_900);
    assert_eq!(
        world.decide().action,
        Action::Stop,
        "it holds longer than the command's lifespan"
    );
    world.advance(200);
    assert_eq!(
        world.decide().verdict,
        Verdict::NoAdvice,
        "and ends with the policy's hold"
    );

    let mut world = World::new();
    world.say(Intent::Stop);
    let pull_over = world.say(Intent::PullOver);
    assert_eq!(
        world.decide().command_id,
        pull_over.id,
        "the last one counts"
    );
    world.advise(Intent::SpeedUp, Action::Keep, 12.0);
    assert_eq!(
        world.decide().action,
        Action::PullOver,
        "no advice outweighs it"
    );
}

#[test]
fn a_spoken_stop_is_taken_back_only_by_who_may() {
    type Answer = fn(&CommandFact, CommandFact) -> CommandFact;
    let cases: [(Answer, bool, &str); 7] = [
        (
            |stop, c| CommandFact {
                reply_to: stop.id,
                ..c
            },
            false,
            "the driver cancels it by name",
        ),
        (|_, c| c, false, "the driver cancels the last thing"),
        (
            |stop, c| CommandFact {
                reply_to: stop.id,
                speaker: Speaker::Passenger,
                ..c
            },
            false,
            "who said it takes it back",
        ),
        (
            |stop, c| CommandFact {
                reply_to: stop.id,
                speaker: Speaker::Remote,
                ..c
            },
            true,
            "a stranger does not",
        ),
        (
            |_, c| CommandFact {
                reply_to: [9; 16],
                ..c
            },
            true,
            "meant for something else",
        ),
        (
            |stop, c| CommandFact {
                reply_to: stop.id,
                confidence: 0.1,
                ..c
            },
            true,
            "hardly understood",
        ),
        (
            |_, c| CommandFact {
                intent: Intent::Stop,
                negated: true,
                ..c
            },
            true,
            "\"don't stop\" releases nothing",
        ),
    ];
    for (answer, holds, why) in cases {
        let mut world = World::new();
        let stop = CommandFact {
            speaker: Speaker::Passenger,
            ..world.spoken(Intent::Stop)
        };
        world.hear(stop).unwrap();
        world.advance(100);
        let cancel = world.spoken(Intent::Cancel);
        world.hear(answer(&stop, cancel)).unwrap();
        assert_eq!(world.decide().action == Action::Stop, holds, "{why}");
        for _ in 0..20 {
            world.say(Intent::Navigate);
        }
        assert_eq!(
            world.decide().action == Action::Stop,
            holds,
            "{why}: also when the answer is forgotten"
        );
    }
}

#[test]
fn a_person_taking_over_ends_a_spoken_stop() {
    let mut world = World::driving(settings(|s| s.control_mode = ModeInput::Latched));
    world.report(ModeReport::Control { autonomous: true });
    world.say(Intent::Stop);
    assert_eq!(world.decide().action, Action::Stop);
    world.report(ModeReport::Control { autonomous: false });
    assert_eq!(world.decide().rule.id(), 80);
    world.report(ModeReport::Control { autonomous: true });
    assert_eq!(
        world.decide().verdict,
        Verdict::NoAdvice,
        "handing back does not stop the vehicle again"
    );
}

#[test]
fn commands_that_must_not_act_say_why() {
    let hear: fn(fn(&mut World) -> CommandFact) -> World = |make| {
        let mut world = World::new();
        let command = make(&mut world);
        world.hear(command).unwrap();
        world
    };
    check(&[
        Case {
            why: "\"don't stop\"",
            arrange: || {
                let mut world = World::new();
                let command = CommandFact {
                    negated: true,
                    ..world.spoken(Intent::Stop)
                };
                world.hear(command).unwrap();
                world
            },
            verdict: Verdict::NoAdvice,
            rule: 90,
        },
        Case {
            why: "a stop hardly understood",
            arrange: || {
                let mut world = World::new();
                let command = CommandFact {
                    confidence: 0.2,
                    ..world.spoken(Intent::Stop)
                };
                world.hear(command).unwrap();
                world
            },
            verdict: Verdict::Refused,
            rule: 91,
        },
        Case {
            why: "faster at a red light, before any advice",
            arrange: || {
                let mut world = World::new();
                world.see_light(Light::Red);
                world.say(Intent::SpeedUp);
                world
            },
            verdict: Verdict::Refused,
            rule: 30,
        },
        Case {
            why: "faster at the limit",
            arrange: || {
                let mut world = World::new();
                world.advance(50);
                world.drive(13.9).unwrap();
                world.say(Intent::SpeedUp);
                world
            },
            verdict: Verdict::Refused,
            rule: 62,
        },
        Case {
            why: "faster on a clear road waits for the advice",
            arrange: || {
                let mut world = World::new();
                world.say(Intent::SpeedUp);
                world
            },
            verdict: Verdict::NoAdvice,
            rule: 23,
        },
        Case {
            why: "a refusal ends with the command's lifespan",
            arrange: || {
                let mut world = World::new();
                world.see_light(Light::Red);
                world.say(Intent::SpeedUp);
                world.advance(1_100);
                world.refresh();
                world
            },
            verdict: Verdict::NoAdvice,
            rule: 23,
        },
        Case {
            why: "an advice in force is not withdrawn by a refused command",
            arrange: || {
                let mut world = advised(Intent::SlowDown, Action::SlowDown, 8.0);
                world.see_light(Light::Red);
                world.say(Intent::SpeedUp);
                world
            },
            verdict: Verdict::Accepted,
            rule: 0,
        },
        Case {
            why: "an advice to stop after \"don't stop\" was misunderstood by the model",
            arrange: || {
                let mut world = World::new();
                let command = CommandFact {
                    negated: true,
                    ..world.spoken(Intent::Stop)
                };
                world.hear(command).unwrap();
                let advice = world.answer(&command, Action::Stop, f32::NAN);
                world.receive(advice).unwrap();
                world
            },
            verdict: Verdict::Refused,
            rule: 90,
        },
        Case {
            why: "going on because of a command hardly understood",
            arrange: || {
                let mut world = World::new();
                let command = CommandFact {
                    confidence: 0.2,
                    ..world.spoken(Intent::SpeedUp)
                };
                world.hear(command).unwrap();
                let advice = world.answer(&command, Action::Keep, 12.0);
                world.receive(advice).unwrap();
                world
            },
            verdict: Verdict::Refused,
            rule: 91,
        },
        Case {
            why: "slow down to what?",
            arrange: || advised(Intent::SlowDown, Action::SlowDown, f32::NAN),
            verdict: Verdict::Refused,
            rule: 63,
        },
    ]);
    let unknown = hear(|world| CommandFact {
        confidence: f32::NAN,
        ..world.spoken(Intent::Stop)
    })
    .decide();
    assert_eq!(
        unknown.action,
        Action::Stop,
        "an unknown confidence is not a low one"
    );
}

#[test]
fn speed_is_bounded() {
    for (wanted, verdict, rule, limit, why) in [
        (
            8.0,
            Verdict::Accepted,
            0,
            8.0,
            "reachable within the horizon",
        ),
        (30.0, Verdict::Clipped, 60, 13.9, "above the policy's bound"),
        (
            2.0,
            Verdict::Clipped,
            61,
            7.0,
            "further than one second of braking",
        ),
    ] {
        let decision = advised(Intent::SetSpeed, Action::Keep, wanted).decide();
        assert_eq!(
            (decision.verdict, decision.rule.id()),
            (verdict, rule),
            "{why}"
        );
        assert!(
            (decision.max_speed_mps - limit).abs() < 1e-4,
            "{why}: {}",
            decision.max_speed_mps
        );
    }
    let stop = advised(Intent::SlowDown, Action::Stop, 0.0).decide();
    assert_eq!(
        (stop.verdict, stop.max_speed_mps),
        (Verdict::Accepted, 0.0),
        "how a stop is driven is the planner's"
    );
    let mut world = advised(Intent::SetSpeed, Action::SlowDown, 2.0);
    world.decide();
    world.advance(100);
    world.refresh();
    let next = world.decide();
    assert!(
        (next.max_speed_mps - 6.7).abs() < 1e-4,
        "the curve falls with time: {}",
        next.max_speed_mps
    );
}

/// A lane change that waits for the driver.
fn waiting() -> (World, CommandFact) {
    let mut world = World::new();
    let command = world.say(Intent::LaneLeft);
    let advice = world.answer(&command, Action::LaneLeft, f32::NAN);
    world.receive(advice).unwrap();
    let decision = world.decide();
    assert_eq!(
        (decision.verdict, decision.rule.id()),
        (Verdict::PendingConfirm, 70),
        "a lane change waits for the driver"
    );
    world.advance(500);
    world.refresh();
    (world, command)
}

#[test]
fn lane_changes_wait_for_the_driver() {
    type Answer = fn(CommandFact) -> CommandFact;
    let cases: [(Answer, Verdict, u16, &str); 7] = [
        (|c| c, Verdict::Accepted, 0, "the driver says yes"),
        (
            |c| CommandFact {
                speaker: Speaker::Passenger,
                ..c
            },
            Verdict::PendingConfirm,
            70,
            "a passenger cannot",
        ),
        (
            |c| CommandFact {
                speaker: Speaker::Unknown,
                ..c
            },
            Verdict::PendingConfirm,
            70,
            "nor somebody unknown",
        ),
        (
            |c| CommandFact {
                reply_to: NO_ID,
                ..c
            },
            Verdict::PendingConfirm,
            70,
            "yes to what?",
        ),
        (
            |c| CommandFact {
                reply_to: [9; 16],
                ..c
            },
            Verdict::PendingConfirm,
            70,
            "yes to something else",
        ),
        (
            |c| CommandFact {
                confidence: 0.2,
                ..c
            },
            Verdict::PendingConfirm,
            70,
            "perhaps yes",
        ),
        (
            |c| CommandFact { negated: true, ..c },
            Verdict::NoAdvice,
            92,
            "no",
        ),
    ];
    for (answer, verdict, rule, why) in cases {
        let (mut world, command) = waiting();
        let yes = CommandFact {
            reply_to: command.id,
            ..world.spoken(Intent::Confirm)
        };
        world.hear(answer(yes)).unwrap();
        let decision = world.decide();
        assert_eq!(
            (decision.verdict, decision.rule.id()),
            (verdict, rule),
            "{why}"
        );
    }
    let (mut world, _) = waiting();
    world.say(Intent::Cancel);
    assert_eq!(world.decide().rule.id(), 92, "cancel withdraws it");
    for _ in 0..20 {
        world.say(Intent::Navigate);
    }
    assert_eq!(
        world.decide().rule.id(),
        92,
        "for good, also when the answer is forgotten"
    );

    let (mut world, command) = waiting();
    world.see_light(Light::Red);
    let yes = CommandFact {
        reply_to: command.id,
        ..world.spoken(Intent::Confirm)
    };
    world.hear(yes).unwrap();
    assert_eq!(
        world.decide().rule.id(),
        30,
        "the road is judged afresh: a yes does not outweigh a red light"
    );
}

#[test]
fn a_confirmation_has_its_time() {
    let mut world = World::driving(settings(|s| s.confirm_timeout = ms(2_000)));
    let command = world.say(Intent::LaneLeft);
    let early = CommandFact {
        reply_to: command.id,
        ..world.spoken(Intent::Confirm)
    };
    world.hear(early).unwrap();
    world.advance(100);
    let advice = world.answer(&command, Action::LaneLeft, f32::NAN);
    world.receive(advice).unwrap();
    assert_eq!(
        world.decide().rule.id(),
        70,
        "a yes before the question is no answer to it"
    );
    world.advance(2_100);
    world.refresh();
    assert_eq!(world.decide().rule.id(), 71, "nobody answered");
    let late = CommandFact {
        reply_to: advice.id,
        ..world.spoken(Intent::Confirm)
    };
    world.hear(late).unwrap();
    let decision = world.decide();
    assert_eq!(
        (decision.verdict, decision.rule.id()),
        (Verdict::Refused, 71),
        "a late yes is too late"
    );
    world.advance(2_000);
    world.refresh();
    assert_eq!(
        world.decide().rule.id(),
        20,
        "a refused advice expires like any other"
    );
}

#[test]
fn a_verdict_ends_by_itself() {
    let mut world = advised(Intent::SlowDown, Action::SlowDown, 8.0);
    let decision = world.decide();
    assert_eq!(
        decision.valid_until_ns,
        world.now.wall_ns + 300 * MS,
        "a gate that falls silent advises nothing"
    );
    assert_eq!(
        (decision.advice_age_ns, decision.state_age_ns),
        (40 * MS, 50 * MS)
    );
    let mut short = World::new();
    let command = short.say(Intent::SlowDown);
    let mut advice = short.answer(&command, Action::SlowDown, 8.0);
    advice.valid_until_ns = short.now.wall_ns + 100 * MS;
    short.receive(advice).unwrap();
    assert_eq!(
        short.decide().valid_until_ns,
        short.now.wall_ns + 100 * MS,
        "a verdict does not outlive its advice"
    );
}
