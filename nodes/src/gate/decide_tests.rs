//! The rules of an advice, each case with the reason why it is so; what people say is in `command_tests`.

use super::decide::Verdict;
use super::fact::{
    Action, ActionSet, Intent, Light, ModeReport, ObjectFact, OperationMode, Sensors, Zone,
};
use super::policy::ModeInput;
use super::scenario::{
    Case, MS, World, advised, aged, check, demo_settings, keep_while, ms, pedestrian, settings,
};

const FULL: fn(&mut World) = World::refresh;

#[test]
fn an_advice_passes_while_it_lives() {
    check(&[
        Case {
            why: "ordinary",
            arrange: || advised(Intent::SlowDown, Action::SlowDown, 8.0),
            verdict: Verdict::Accepted,
            rule: 0,
        },
        Case {
            why: "no limit",
            arrange: || advised(Intent::Keep, Action::Keep, f32::NAN),
            verdict: Verdict::Accepted,
            rule: 0,
        },
        Case {
            why: "nobody advises",
            arrange: World::new,
            verdict: Verdict::NoAdvice,
            rule: 23,
        },
        Case {
            why: "the advisor says none",
            arrange: || advised(Intent::Keep, Action::None, f32::NAN),
            verdict: Verdict::NoAdvice,
            rule: 24,
        },
        Case {
            why: "a little later",
            arrange: || aged(2_000, FULL),
            verdict: Verdict::Accepted,
            rule: 0,
        },
        Case {
            why: "built on input older than the limit",
            arrange: || aged(3_500, FULL),
            verdict: Verdict::NoAdvice,
            rule: 21,
        },
        Case {
            why: "past its own end",
            arrange: || aged(4_001, FULL),
            verdict: Verdict::NoAdvice,
            rule: 20,
        },
        Case {
            why: "the policy's longest validity counts, whatever the advice says",
            arrange: || {
                let mut world = World::driving(settings(|s| {
                    s.advice_max_validity = ms(1_000);
                    s.confirm = [None; 7];
                }));
                world.advise(Intent::SlowDown, Action::SlowDown, 8.0);
                world.advance(1_100);
                world.refresh();
                world
            },
            verdict: Verdict::NoAdvice,
            rule: 20,
        },
        Case {
            why: "a clock that stands still does not keep an advice alive",
            arrange: || {
                let mut world = advised(Intent::SlowDown, Action::SlowDown, 8.0);
                world.now.mono_ns += 4_100 * MS;
                world.now.wall_ns += 1_000 * MS;
                world.refresh();
                world
            },
            verdict: Verdict::NoAdvice,
            rule: 20,
        },
        Case {
            why: "answers a command nobody heard",
            arrange: || {
                let mut world = World::new();
                let unheard = world.spoken(Intent::SlowDown);
                let advice = world.answer(&unheard, Action::SlowDown, 8.0);
                world.receive(advice).unwrap();
                world
            },
            verdict: Verdict::NoAdvice,
            rule: 25,
        },
        Case {
            why: "the command arrives after the advice: they travel on different topics",
            arrange: || {
                let mut world = World::new();
                let late = world.spoken(Intent::SlowDown);
                let advice = world.answer(&late, Action::SlowDown, 8.0);
                world.receive(advice).unwrap();
                world.hear(late).unwrap();
                world
            },
            verdict: Verdict::Accepted,
            rule: 0,
        },
        Case {
            why: "built on a summary nobody saw",
            arrange: || {
                let mut world = World::new();
                let command = world.say(Intent::SlowDown);
                let mut advice = world.answer(&command, Action::SlowDown, 8.0);
                advice.summary_id = [9; 16];
                world.receive(advice).unwrap();
                world
            },
            verdict: Verdict::NoAdvice,
            rule: 26,
        },
    ]);
}

#[test]
fn the_vehicle_must_know_itself() {
    check(&[
        Case {
            why: "no odometry ever",
            arrange: || World::empty(demo_settings()),
            verdict: Verdict::NoAdvice,
            rule: 50,
        },
        Case {
            why: "odometry fell silent",
            arrange: || {
                aged(400, |world| {
                    let scene = world.clear_road();
                    world.see(scene).unwrap();
                })
            },
            verdict: Verdict::NoAdvice,
            rule: 51,
        },
        Case {
            why: "it comes back and so does the advice, which nobody refused",
            arrange: || {
                let mut world = advised(Intent::SlowDown, Action::SlowDown, 8.0);
                world.advance(400);
                assert_eq!(world.decide().rule.id(), 51);
                world.refresh();
                world
            },
            verdict: Verdict::Accepted,
            rule: 0,
        },
    ]);
}

#[test]
fn the_road_must_be_seen_for_anything_but_slowing() {
    let slow_while: fn(Sensors) -> World = |sensors| {
        let mut world = advised(Intent::SlowDown, Action::SlowDown, 8.0);
        world.see_sensors(sensors);
        world
    };
    assert_eq!(
        slow_while(Sensors::Blind).decide().verdict,
        Verdict::Accepted,
        "slowing needs no view"
    );
    check(&[
        Case {
            why: "all is well",
            arrange: || keep_while(|_| ()),
            verdict: Verdict::Accepted,
            rule: 0,
        },
        Case {
            why: "blind",
            arrange: || keep_while(|w| w.see_sensors(Sensors::Blind)),
            verdict: Verdict::Refused,
            rule: 40,
        },
        Case {
            why: "sight not stated",
            arrange: || keep_while(|w| w.see_sensors(Sensors::Unknown)),
            verdict: Verdict::Refused,
            rule: 40,
        },
        Case {
            why: "some sensors missing",
            arrange: || keep_while(|w| w.see_sensors(Sensors::Degraded)),
            verdict: Verdict::Refused,
            rule: 43,
        },
        Case {
            why: "the summary is old",
            arrange: || {
                let mut world = advised(Intent::Keep, Action::Keep, 12.0);
                world.advance(2_000);
                world.drive(10.0).unwrap();
                world
            },
            verdict: Verdict::Refused,
            rule: 41,
        },
        Case {
            why: "the summary is old and showed a red light: refused for what is known",
            arrange: || {
                let mut world = advised(Intent::Keep, Action::Keep, 12.0);
                world.see_light(Light::Red);
                world.advance(2_000);
                world.drive(10.0).unwrap();
                world
            },
            verdict: Verdict::Refused,
            rule: 30,
        },
        Case {
            why: "no summary ever",
            arrange: || {
                let mut world = World::empty(demo_settings());
                world.drive(10.0).unwrap();
                world.advise(Intent::Keep, Action::Keep, 12.0);
                world
            },
            verdict: Verdict::Refused,
            rule: 42,
        },
        Case {
            why: "no summary ever, but only slower",
            arrange: || {
                let mut world = World::empty(demo_settings());
                world.drive(10.0).unwrap();
                world.advise(Intent::SlowDown, Action::SlowDown, 8.0);
                world
            },
            verdict: Verdict::Accepted,
            rule: 0,
        },
    ]);
}

#[test]
fn the_policy_refuses_what_the_road_forbids() {
    check(&[
        Case {
            why: "faster at a red light",
            arrange: || keep_while(|w| w.see_light(Light::Red)),
            verdict: Verdict::Refused,
            rule: 30,
        },
        Case {
            why: "amber is not in the rule",
            arrange: || keep_while(|w| w.see_light(Light::Amber)),
            verdict: Verdict::Accepted,
            rule: 0,
        },
        Case {
            why: "a pedestrian ahead",
            arrange: || keep_while(|w| w.see_object(pedestrian())),
            verdict: Verdict::Refused,
            rule: 31,
        },
        Case {
            why: "far enough away",
            arrange: || {
                keep_while(|w| {
                    w.see_object(ObjectFact {
                        time_to_contact_s: 4.0,
                        ..pedestrian()
                    })
                })
            },
            verdict: Verdict::Accepted,
            rule: 0,
        },
        Case {
            why: "not in the way",
            arrange: || {
                keep_while(|w| {
                    w.see_object(ObjectFact {
                        zone: Zone::Behind,
                        ..pedestrian()
                    })
                })
            },
            verdict: Verdict::Accepted,
            rule: 0,
        },
        Case {
            why: "an unknown place is every place",
            arrange: || {
                keep_while(|w| {
                    w.see_object(ObjectFact {
                        zone: Zone::Unknown,
                        ..pedestrian()
                    })
                })
            },
            verdict: Verdict::Refused,
            rule: 31,
        },
        Case {
            why: "a car is not vulnerable",
            arrange: || {
                keep_while(|w| {
                    w.see_object(ObjectFact {
                        vulnerable: false,
                        ..pedestrian()
                    })
                })
            },
            verdict: Verdict::Accepted,
            rule: 0,
        },
        Case {
            why: "nothing known of its motion is near",
            arrange: || {
                let unknown = ObjectFact {
                    time_to_contact_s: f32::NAN,
                    relative_speed_mps: f32::NAN,
                    distance_m: f32::NAN,
                    ..pedestrian()
                };
                let mut world = advised(Intent::SpeedUp, Action::Keep, 12.0);
                world.see_object(unknown);
                world
            },
            verdict: Verdict::Refused,
            rule: 31,
        },
        Case {
            why: "walking away: no contact",
            arrange: || {
                keep_while(|w| {
                    w.see_object(ObjectFact {
                        time_to_contact_s: f32::NAN,
                        relative_speed_mps: -1.0,
                        ..pedestrian()
                    })
                })
            },
            verdict: Verdict::Accepted,
            rule: 0,
        },
        Case {
            why: "approached slowly from far: the time follows from distance and speed",
            arrange: || {
                keep_while(|w| {
                    w.see_object(ObjectFact {
                        time_to_contact_s: f32::NAN,
                        relative_speed_mps: 0.1,
                        ..pedestrian()
                    })
                })
            },
            verdict: Verdict::Accepted,
            rule: 0,
        },
        Case {
            why: "slower is always possible",
            arrange: || {
                let mut world = advised(Intent::SlowDown, Action::SlowDown, 8.0);
                world.see_light(Light::Red);
                world
            },
            verdict: Verdict::Accepted,
            rule: 0,
        },
        Case {
            why: "a slow-down above the present speed slows nothing",
            arrange: || {
                let mut world = advised(Intent::SlowDown, Action::SlowDown, 12.0);
                world.see_light(Light::Red);
                world
            },
            verdict: Verdict::Refused,
            rule: 30,
        },
        Case {
            why: "refused stays refused when the light turns green",
            arrange: || {
                let mut world = keep_while(|w| w.see_light(Light::Red));
                assert_eq!(world.decide().rule.id(), 30);
                world.advance(100);
                world.refresh();
                world
            },
            verdict: Verdict::Refused,
            rule: 30,
        },
        Case {
            why: "a new advice is judged anew",
            arrange: || {
                let mut world = keep_while(|w| w.see_light(Light::Red));
                assert_eq!(world.decide().rule.id(), 30);
                world.advance(100);
                world.refresh();
                world.advise(Intent::SpeedUp, Action::Keep, 12.0);
                world
            },
            verdict: Verdict::Accepted,
            rule: 0,
        },
    ]);
}

#[test]
fn only_allowed_actions_pass() {
    let city: fn() -> World = || {
        World::driving(settings(|s| {
            s.allow = ActionSet::of(&[Action::SlowDown, Action::Stop]);
            s.operation_mode = ModeInput::Latched;
            s.allow_in_mode = Some([
                ActionSet::EMPTY,
                ActionSet::EMPTY,
                ActionSet::of(&[Action::SlowDown]),
                ActionSet::EMPTY,
                ActionSet::EMPTY,
            ]);
        }))
    };
    let autonomous = ModeReport::Operation {
        mode: OperationMode::Autonomous,
        control_enabled: true,
    };
    for (intent, action, rule, why) in [
        (Intent::LaneLeft, Action::LaneLeft, 10, "not allowed at all"),
        (
            Intent::SlowDown,
            Action::Stop,
            11,
            "allowed, but not in this mode",
        ),
        (
            Intent::SlowDown,
            Action::SlowDown,
            0,
            "allowed in this mode",
        ),
    ] {
        let mut world = city();
        world.report(autonomous);
        world.advise(intent, action, 8.0);
        assert_eq!(world.decide().rule.id(), rule, "{why}");
    }
}

#[test]
fn somebody_else_may_be_in_charge() {
    let wired: fn(ModeReport) -> World = |report| {
        let mut world = World::driving(settings(|s| {
            s.control_mode = ModeInput::Periodic(ms(500));
            s.operation_mode = ModeInput::Latched;
            s.mrm = ModeInput::Periodic(ms(500));
        }));
        for ordinary in [
            ModeReport::Control { autonomous: true },
            ModeReport::Operation {
                mode: OperationMode::Autonomous,
                control_enabled: true,
            },
            ModeReport::Mrm { active: false },
        ] {
            world.report(ordinary);
        }
        world.advise(Intent::SlowDown, Action::SlowDown, 8.0);
        world.report(report);
        world
    };
    for (report, rule, why) in [
        (
            ModeReport::Control { autonomous: true },
            0,
            "the computer drives",
        ),
        (
            ModeReport::Control { autonomous: false },
            80,
            "a hand on the wheel",
        ),
        (
            ModeReport::Operation {
                mode: OperationMode::Local,
                control_enabled: true,
            },
            80,
            "driven from the seat",
        ),
        (
            ModeReport::Operation {
                mode: OperationMode::Remote,
                control_enabled: true,
            },
            80,
            "driven from elsewhere",
        ),
        (
            ModeReport::Operation {
                mode: OperationMode::Autonomous,
                control_enabled: false,
            },
            80,
            "the computer's commands go nowhere",
        ),
        (
            ModeReport::Operation {
                mode: OperationMode::Unknown,
                control_enabled: true,
            },
            82,
            "nobody knows",
        ),
        (
            ModeReport::Mrm { active: true },
            81,
            "a minimum-risk manoeuvre",
        ),
    ] {
        assert_eq!(wired(report).decide().rule.id(), rule, "{why}");
    }
    let mut silent = wired(ModeReport::Mrm { active: false });
    silent.advance(600);
    silent.refresh();
    assert_eq!(
        silent.decide().rule.id(),
        83,
        "a periodic report fell silent"
    );
    silent.say(Intent::Stop);
    assert_eq!(
        silent.decide().action,
        Action::Stop,
        "a spoken stop passes while nobody knows who drives"
    );

    let mut unreported = World::driving(settings(|s| s.mrm = ModeInput::Latched));
    unreported.advise(Intent::SlowDown, Action::SlowDown, 8.0);
    assert_eq!(unreported.decide().rule.id(), 82, "wired but never heard");
}
