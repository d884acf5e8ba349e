//! Every reason for which a message is not believed, and the ones for which it is.

use super::fact::{
    Action, AdviceFact, CommandFact, EgoFact, Intent, MAX_OBJECTS, ModeFact, ModeReport, NO_ID,
    NS_PER_S, ObjectFact, SceneFact,
};
use super::policy::Policy;
use super::refusal::{Input, Refusal};
use super::scenario::{MS, PUBLISHER, World, settings};

#[test]
fn advice_is_believed_only_if_it_can_be_true() {
    type Change = fn(&mut AdviceFact);
    let cases: [(Change, Result<(), Refusal>, &str); 19] = [
        (|_| (), Ok(()), "an ordinary advice"),
        (|a| a.max_speed_mps = f32::NAN, Ok(()), "NaN means no limit"),
        (|a| a.stamp_ns += 80 * MS, Ok(()), "40 ms ahead: two clocks"),
        (
            |a| a.id = NO_ID,
            Err(Refusal::IdMissing),
            "cannot be answered",
        ),
        (
            |a| a.command_id = NO_ID,
            Err(Refusal::Untraceable),
            "built on nothing",
        ),
        (|a| a.stamp_ns = 0, Err(Refusal::StampZero), "no stamp"),
        (
            |a| a.generated_ns = 0,
            Err(Refusal::StampZero),
            "no time of writing",
        ),
        (
            |a| (a.stamp_ns, a.generated_ns) = (a.stamp_ns + NS_PER_S, a.generated_ns + NS_PER_S),
            Err(Refusal::StampInFuture),
            "a second ahead",
        ),
        (
            |a| a.generated_ns += 60 * MS,
            Err(Refusal::StampInFuture),
            "written in the future",
        ),
        (
            |a| a.stamp_ns -= 4 * NS_PER_S,
            Err(Refusal::TooOld),
            "built on old input",
        ),
        (
            |a| a.stamp_ns = i64::MIN,
            Err(Refusal::TooOld),
            "no overflow",
        ),
        (
            |a| a.stamp_ns = i64::MAX,
            Err(Refusal::Inconsistent),
            "no overflow",
        ),
        (
            |a| a.valid_until_ns = a.generated_ns,
            Err(Refusal::LifespanOver),
            "over before it came",
        ),
        (
            |a| a.valid_until_ns = a.generated_ns - 1,
            Err(Refusal::Inconsistent),
            "ends before it was written",
        ),
        (
            |a| a.generated_ns = a.stamp_ns - 60 * MS,
            Err(Refusal::Inconsistent),
            "written before its inputs",
        ),
        (
            |a| a.max_speed_mps = -1.0,
            Err(Refusal::OutOfRange),
            "negative limit",
        ),
        (
            |a| a.max_speed_mps = f32::INFINITY,
            Err(Refusal::OutOfRange),
            "no limit is NaN, not infinity",
        ),
        (
            |a| a.confidence = 1.1,
            Err(Refusal::OutOfRange),
            "not a probability",
        ),
        (|a| a.confidence = f32::NAN, Ok(()), "unknown confidence"),
    ];
    for (change, expected, why) in cases {
        let mut world = World::new();
        let command = world.say(Intent::SlowDown);
        let mut advice = world.answer(&command, Action::SlowDown, 8.0);
        change(&mut advice);
        assert_eq!(world.receive(advice), expected, "{why}");
        assert_eq!(
            world.inputs.advice().is_some(),
            expected.is_ok(),
            "{why}: what is refused leaves no trace"
        );
        if let Err(reason) = expected {
            assert_eq!(
                world.inputs.counters().refused(Input::Advice, reason),
                1,
                "{why}"
            );
        }
    }
}

#[test]
fn commands_are_believed_only_if_they_can_be_true() {
    type Change = fn(&mut CommandFact);
    let cases: [(Change, Result<(), Refusal>, &str); 9] = [
        (|_| (), Ok(()), "an ordinary command"),
        (
            |c| c.lifespan_ns = 0,
            Ok(()),
            "no lifespan of its own: the policy's counts",
        ),
        (
            |c| c.id = NO_ID,
            Err(Refusal::IdMissing),
            "cannot be answered",
        ),
        (|c| c.stamp_ns = 0, Err(Refusal::StampZero), "no stamp"),
        (
            |c| c.stamp_ns += NS_PER_S,
            Err(Refusal::StampInFuture),
            "not said yet",
        ),
        (
            |c| c.stamp_ns -= 2 * NS_PER_S,
            Err(Refusal::TooOld),
            "said long ago",
        ),
        (
            |c| c.lifespan_ns = 10 * MS,
            Err(Refusal::LifespanOver),
            "its own lifespan is shorter",
        ),
        (
            |c| c.lifespan_ns = -1,
            Err(Refusal::OutOfRange),
            "a negative time",
        ),
        (
            |c| c.target_speed_mps = f32::INFINITY,
            Err(Refusal::OutOfRange),
            "no such speed",
        ),
    ];
    for (change, expected, why) in cases {
        let mut world = World::new();
        let mut command = world.spoken(Intent::Stop);
        change(&mut command);
        assert_eq!(world.hear(command), expected, "{why}");
        assert_eq!(
            world.inputs.direct().is_some(),
            expected.is_ok(),
            "{why}: only a believed stop stops"
        );
    }
}

#[test]
fn scenes_are_believed_only_if_they_can_be_true() {
    type Change = fn(&mut SceneFact);
    let cases: [(Change, Result<(), Refusal>, &str); 11] = [
        (|_| (), Ok(()), "an ordinary scene"),
        (
            |s| s.objects[0].time_to_contact_s = f32::INFINITY,
            Ok(()),
            "never",
        ),
        (
            |s| s.id = NO_ID,
            Err(Refusal::IdMissing),
            "cannot be referred to",
        ),
        (|s| s.stamp_ns = 0, Err(Refusal::StampZero), "no source"),
        (
            |s| s.stamp_ns -= 3 * NS_PER_S,
            Err(Refusal::TooOld),
            "a frozen camera",
        ),
        (
            |s| s.generated_ns += 100 * MS,
            Err(Refusal::StampInFuture),
            "written in the future",
        ),
        (
            |s| s.generated_ns = s.stamp_ns - 60 * MS,
            Err(Refusal::Inconsistent),
            "written before it was seen",
        ),
        (
            |s| s.object_count = MAX_OBJECTS + 1,
            Err(Refusal::OutOfRange),
            "a count beyond the list",
        ),
        (
            |s| s.objects[0].distance_m = -1.0,
            Err(Refusal::OutOfRange),
            "a negative distance",
        ),
        (
            |s| s.objects[0].relative_speed_mps = f32::INFINITY,
            Err(Refusal::OutOfRange),
            "no such speed",
        ),
        (
            |s| s.objects[0].existence_probability = 2.0,
            Err(Refusal::OutOfRange),
            "not a probability",
        ),
    ];
    for (change, expected, why) in cases {
        let mut world = World::new();
        let known = world.inputs.scene().map(|scene| scene.fact.id);
        let mut scene = world.clear_road();
        (scene.objects[0], scene.object_count) = (ObjectFact::default(), 1);
        change(&mut scene);
        assert_eq!(world.see(scene), expected, "{why}");
        let now_known = world.inputs.scene().map(|scene| scene.fact.id);
        assert_eq!(
            now_known == known,
            expected.is_err(),
            "{why}: a refused scene does not replace the last one"
        );
    }
}

#[test]
fn odometry_is_believed_only_if_it_can_be_true() {
    let cases = [
        (50, 10.0, Ok(()), "the next one"),
        (
            0,
            10.0,
            Err(Refusal::StampStandingStill),
            "the same stamp again: frozen",
        ),
        (-10, 10.0, Err(Refusal::StampBackwards), "an older one"),
        (200, 10.0, Err(Refusal::StampInFuture), "in the future"),
        (-400, 10.0, Err(Refusal::TooOld), "too old to matter"),
        (50, f32::NAN, Err(Refusal::NotFinite), "speed unknown"),
        (50, f32::INFINITY, Err(Refusal::NotFinite), "no such speed"),
        (
            50,
            151.0,
            Err(Refusal::OutOfRange),
            "faster than any vehicle",
        ),
        (
            50,
            -1.0,
            Err(Refusal::OutOfRange),
            "speed over ground is not negative",
        ),
    ];
    for (later_ms, speed_mps, expected, why) in cases {
        let mut world = World::new();
        let last_ns = world.inputs.ego().map_or(0, |ego| ego.stamp_ns);
        let ego = EgoFact {
            stamp_ns: last_ns + later_ms * MS,
            speed_mps,
        };
        assert_eq!(
            world
                .inputs
                .ingest_ego(&world.policy, ego, PUBLISHER, world.now),
            expected,
            "{why}"
        );
    }
    let mut world = World::new();
    let ego = EgoFact {
        stamp_ns: 0,
        speed_mps: 10.0,
    };
    assert_eq!(
        world
            .inputs
            .ingest_ego(&world.policy, ego, PUBLISHER, world.now),
        Err(Refusal::StampZero)
    );
}

#[test]
fn repetitions_are_refused() {
    let mut world = World::new();
    let command = world.say(Intent::SlowDown);
    assert_eq!(
        world.hear(command),
        Err(Refusal::Duplicate),
        "a command acts once"
    );
    let advice = world.advise(Intent::SlowDown, Action::SlowDown, 8.0);
    assert_eq!(
        world.receive(advice),
        Err(Refusal::Duplicate),
        "an advice is judged once"
    );
    let older = AdviceFact {
        id: world.fresh_id(),
        generated_ns: advice.generated_ns - 1,
        ..advice
    };
    assert_eq!(
        world.receive(older),
        Err(Refusal::StampBackwards),
        "a late advice does not replace a newer one"
    );
    let scene = world.clear_road();
    assert_eq!(world.see(scene), Ok(()));
    assert_eq!(
        world.see(scene),
        Err(Refusal::Duplicate),
        "a replayed summary is not fresh"
    );
}

#[test]
fn an_input_has_one_publisher_at_a_time() {
    let ego = |world: &World| EgoFact {
        stamp_ns: world.now.wall_ns,
        speed_mps: 1.0,
    };
    let mut world = World::new();
    world.advance(100);
    let replay = world
        .inputs
        .ingest_ego(&world.policy, ego(&world), Some(8), world.now);
    assert_eq!(
        replay,
        Err(Refusal::WrongPublisher),
        "a replay onto a live graph"
    );
    let anonymous = world
        .inputs
        .ingest_ego(&world.policy, ego(&world), None, world.now);
    assert_eq!(
        anonymous,
        Err(Refusal::PublisherUnknown),
        "the known publisher says who it is"
    );
    assert_eq!(
        world
            .inputs
            .ingest_ego(&world.policy, ego(&world), PUBLISHER, world.now),
        Ok(())
    );
    assert_eq!(world.inputs.epoch(Input::Ego), 1);

    world.advance(2_000);
    let successor = world
        .inputs
        .ingest_ego(&world.policy, ego(&world), Some(8), world.now);
    assert_eq!(
        (successor, world.inputs.epoch(Input::Ego)),
        (Ok(()), 2),
        "a restarted publisher takes over after a silence"
    );
    assert_eq!(
        world
            .inputs
            .ingest_ego(&world.policy, ego(&world), PUBLISHER, world.now),
        Err(Refusal::WrongPublisher)
    );

    let mut strict = World::empty(settings(|s| s.identity.required = true));
    let unnamed = ego(&strict);
    assert_eq!(
        strict
            .inputs
            .ingest_ego(&strict.policy, unnamed, None, strict.now),
        Err(Refusal::PublisherUnknown)
    );
    let mut garbage = World::empty(settings(|_| ()));
    let nonsense = EgoFact {
        speed_mps: f32::NAN,
        ..ego(&garbage)
    };
    assert!(
        garbage
            .inputs
            .ingest_ego(&garbage.policy, nonsense, Some(8), garbage.now)
            .is_err()
    );
    assert_eq!(garbage.drive(5.0), Ok(()), "garbage cannot occupy an input");
}

#[test]
fn a_clock_set_back_makes_nothing_younger() {
    let mut world = World::new();
    world.say(Intent::Stop);
    world.advance(100);
    world.now.wall_ns -= 40 * MS;
    world.inputs.observe_clock(world.now);
    assert!(world.inputs.ego().is_some(), "within the tolerance");
    let age_ns = world.inputs.ego().map_or(0, |ego| ego.age_ns(world.now));
    assert!(
        age_ns >= 100 * MS,
        "the monotonic clock keeps counting: {age_ns}"
    );

    world.now.wall_ns -= 3_600 * NS_PER_S;
    world.inputs.observe_clock(world.now);
    assert!(
        world.inputs.ego().is_none() && world.inputs.scene().is_none(),
        "stamps of two epochs cannot be compared"
    );
    assert_eq!(world.inputs.counters().clock_steps(), 1);
    assert!(
        world.inputs.direct().is_some(),
        "a spoken stop outlives a clock step"
    );
    assert_eq!(
        world.drive(10.0),
        Ok(()),
        "the new epoch is believed from its first message"
    );
}

#[test]
fn modes_may_be_old_but_not_undated() {
    let mut world = World::new();
    let report = ModeReport::Mrm { active: false };
    let mut ingest = |stamp_ns| {
        world.inputs.ingest_mode(
            &world.policy,
            ModeFact { stamp_ns, report },
            PUBLISHER,
            world.now,
        )
    };
    let hour_ago = world.now.wall_ns - 3_600 * NS_PER_S;
    assert_eq!(
        ingest(hour_ago),
        Ok(()),
        "published once and kept by its publisher"
    );
    assert_eq!(ingest(hour_ago), Ok(()), "sent again to a late joiner");
    assert_eq!(
        ingest(hour_ago - 1),
        Err(Refusal::StampBackwards),
        "an earlier one"
    );
    assert_eq!(ingest(0), Err(Refusal::StampZero), "no stamp");
    assert_eq!(
        ingest(world.now.wall_ns + NS_PER_S),
        Err(Refusal::StampInFuture),
        "not yet true"
    );
}

#[test]
fn the_state_is_small_enough_to_lock_in_memory() {
    assert!(std::mem::size_of::<super::state::Inputs>() < 16 << 10);
    assert!(
        !std::mem::needs_drop::<super::state::Inputs>(),
        "no heap behind it"
    );
    assert!(
        std::mem::needs_drop::<Policy>(),
        "the comparison works: a policy owns its rule names"
    );
}
