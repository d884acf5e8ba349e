//! The policy on a simulated computer: a step of `n` rows takes 3 ms and 1 ms a row, and the clock moves by that.
//!
//! The simulation knows slots and rows but no pages; pages are the store's, and the server's tests have them.

use std::collections::BTreeMap;

use super::*;

const BASE_MS: u64 = 3;
const ROW_MS: u64 = 1;

fn measured() -> StepCost {
    let mut cost = StepCost::default();
    for power in 0..10 {
        let rows = 1 << power;
        cost.record(rows, step_time(rows));
    }
    cost
}

fn step_time(rows: usize) -> Duration {
    Duration::from_millis(BASE_MS + ROW_MS * rows as u64)
}

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// A request of a scenario: arrives at `at_ms`, wants to be done `within_ms`, says `says` tokens.
#[derive(Clone, Copy)]
struct Ask {
    at_ms: u64,
    priority: u8,
    within_ms: Option<u64>,
    prompt: usize,
    says: usize,
}

const fn ask(at_ms: u64, priority: u8, prompt: usize, says: usize) -> Ask {
    Ask {
        at_ms,
        priority,
        within_ms: None,
        prompt,
        says,
    }
}

const fn within(ask: Ask, within_ms: u64) -> Ask {
    Ask {
        within_ms: Some(within_ms),
        ..ask
    }
}

/// What became of the requests, by their place in the scenario.
#[derive(Debug, Default)]
struct Told {
    first_ms: BTreeMap<Id, u64>,
    done_ms: BTreeMap<Id, u64>,
    /// In the order they got their first slot.
    began: Vec<Id>,
    paused: Vec<Id>,
    longest_step: Duration,
    /// Longest time between two tokens of the same request.
    longest_gap: Duration,
}

fn simulate(asks: &[Ask], room: Room) -> Told {
    let (begin, cost) = (Instant::now(), measured());
    let (mut now, mut told) = (begin, Told::default());
    let mut seats: Vec<Seat> = Vec::new();
    let mut last_token: BTreeMap<Id, Instant> = BTreeMap::new();
    let mut to_come: Vec<(Id, Ask)> = (0..).zip(asks.iter().copied()).collect();
    for _ in 0..100_000 {
        to_come.retain(|(id, ask)| {
            let arrived = begin + ms(ask.at_ms);
            let here = arrived <= now;
            if here {
                seats.push(Seat {
                    id: *id,
                    priority: ask.priority,
                    deadline: ask.within_ms.map(|within| arrived + ms(within)),
                    arrived,
                    running: false,
                    unseen: ask.prompt,
                    remaining: ask.says,
                });
            }
            !here
        });
        while let Some(change) = seating(&seats, &room) {
            let id = match change {
                Seating::Start(id) => id,
                Seating::Swap(out, id) => {
                    told.paused.push(out);
                    let seat = seats.iter_mut().find(|seat| seat.id == out).unwrap();
                    seat.running = false;
                    // What it has computed is still in the cache: one token runs again.
                    seat.unseen = seat.unseen.max(1);
                    id
                }
            };
            if !told.began.contains(&id) {
                told.began.push(id);
            }
            seats.iter_mut().find(|seat| seat.id == id).unwrap().running = true;
        }
        let plan = rows(&seats, &room, &cost, now);
        let count: usize = plan.iter().map(|(_, count)| count).sum();
        assert!(count <= room.rows && plan.len() <= room.slots);
        if plan.is_empty() {
            match to_come.iter().map(|(_, ask)| ask.at_ms).min() {
                Some(at_ms) => now = begin + ms(at_ms),
                None => return told,
            }
            assert!(seats.is_empty(), "somebody waits and nobody runs");
            continue;
        }
        now += step_time(count);
        if plan.len() > 1 {
            told.longest_step = told.longest_step.max(step_time(count));
        }
        let time = (now - begin).as_millis() as u64;
        for (id, count) in plan {
            let seat = seats.iter_mut().find(|seat| seat.id == id).unwrap();
            seat.unseen -= count;
            if seat.unseen > 0 {
                continue;
            }
            seat.unseen = 1;
            seat.remaining -= 1;
            told.first_ms.entry(id).or_insert(time);
            if let Some(before) = last_token.insert(id, now) {
                told.longest_gap = told.longest_gap.max(now - before);
            }
            if seat.remaining == 0 {
                told.done_ms.insert(id, time);
                seats.retain(|seat| seat.id != id);
            }
        }
    }
    panic!("it never ends: {seats:?}");
}

const ONE: Room = Room {
    slots: 1,
    rows: 128,
};
const FOUR: Room = Room {
    slots: 4,
    rows: 128,
};

#[test]
fn everybody_gets_its_turn_in_the_right_order() {
    let cases: [(&str, &[Ask], Room, &[Id]); 6] = [
        (
            "first come, first served",
            &[ask(0, 5, 9, 9), ask(1, 5, 9, 9), ask(2, 5, 9, 9)],
            ONE,
            &[0, 1, 2],
        ),
        (
            "what matters more goes first",
            &[ask(0, 1, 9, 90), ask(1, 1, 9, 9), ask(1, 9, 9, 9)],
            ONE,
            &[0, 2, 1],
        ),
        (
            "the earlier deadline goes first",
            &[
                ask(0, 5, 9, 9),
                within(ask(1, 5, 9, 9), 900),
                within(ask(2, 5, 9, 9), 500),
            ],
            ONE,
            &[0, 2, 1],
        ),
        (
            "but not before a higher priority",
            &[
                ask(0, 5, 9, 9),
                within(ask(1, 5, 9, 9), 100),
                ask(2, 6, 9, 9),
            ],
            ONE,
            &[0, 2, 1],
        ),
        (
            "a deadline goes before none",
            &[
                ask(0, 5, 9, 9),
                ask(1, 5, 9, 9),
                within(ask(2, 5, 9, 9), 900),
            ],
            ONE,
            &[0, 2, 1],
        ),
        (
            "four at once",
            &[
                ask(0, 1, 9, 9),
                ask(0, 1, 9, 9),
                ask(0, 1, 9, 9),
                ask(0, 1, 9, 9),
            ],
            FOUR,
            &[0, 1, 2, 3],
        ),
    ];
    for (why, asks, room, expected) in cases {
        let told = simulate(asks, room);
        assert_eq!(told.began, expected, "{why}");
        assert_eq!(told.done_ms.len(), asks.len(), "{why}: all are done");
    }
}

#[test]
fn a_higher_priority_takes_the_place_of_the_lowest_which_goes_on_afterwards() {
    let low = [ask(0, 1, 20, 100), ask(0, 2, 20, 100)];
    let room = Room {
        slots: 2,
        rows: 128,
    };
    let told = simulate(&[low[0], low[1], ask(100, 9, 20, 5)], room);
    assert_eq!(told.paused, [0], "the lowest of two");
    assert!(told.done_ms[&2] < 250, "{:?}", told.done_ms);
    assert_eq!(told.done_ms.len(), 3);
    let equal = simulate(&[ask(0, 5, 20, 100), ask(10, 5, 20, 5)], ONE);
    assert_eq!(
        equal.paused,
        [] as [Id; 0],
        "equals do not push each other out"
    );
}

#[test]
fn nobody_waits_longer_than_a_step_for_a_long_prompt() {
    let told = simulate(
        &[ask(0, 5, 10, 200), ask(50, 5, 900, 5), ask(60, 5, 700, 5)],
        FOUR,
    );
    assert!(told.longest_step <= COMPANY_STEP, "{:?}", told.longest_step);
    assert!(told.longest_gap <= COMPANY_STEP, "{:?}", told.longest_gap);
    let alone = simulate(&[ask(0, 5, 1_000, 1)], FOUR);
    let parts = 1_000_usize.div_ceil(128) as u64;
    assert_eq!(
        alone.done_ms[&0],
        1_000 * ROW_MS + parts * BASE_MS,
        "alone it runs in the largest parts"
    );
}

#[test]
fn a_slow_model_gets_through_its_prompts_all_the_same() {
    let mut cost = StepCost::default();
    cost.record(1, ms(100));
    cost.record(64, ms(400));
    let now = Instant::now();
    let seat = |id, unseen| Seat {
        id,
        priority: 1,
        deadline: None,
        arrived: now,
        running: true,
        unseen,
        remaining: 10,
    };
    assert_eq!(
        rows(&[seat(1, 1), seat(2, 500)], &FOUR, &cost, now),
        [(1, 1), (2, SHORT_ROWS)]
    );
    assert_eq!(
        rows(&[seat(2, 500)], &FOUR, &cost, now)[0].1,
        22,
        "200 ms of it"
    );
}

/// Streams of urgent requests, each of which would go first if only deadlines counted.
#[test]
fn inside_a_priority_nobody_starves() {
    let patient = ask(5, 5, 20, 20);
    let mut asks = vec![patient, within(patient, 60_000)];
    // Each takes about 100 ms of a step of its own, and a new one comes every 90 ms, for 30 s.
    asks.extend((0..330).map(|i| within(ask(i * 90, 5, 20, 20), 1_000)));
    let told = simulate(&asks, ONE);
    for id in [0, 1] {
        let patience = PATIENCE.as_millis() as u64 + 1_000;
        assert!(told.done_ms[&id] <= patience, "{id}: {}", told.done_ms[&id]);
    }
}

#[test]
fn lower_priorities_pause_for_a_deadline_that_needs_it() {
    // Three others make a step 7 ms instead of 4: 100 tokens take 700 ms in company and 400 alone.
    let others = [ask(0, 1, 8, 300), ask(0, 1, 8, 300), ask(0, 1, 8, 300)];
    let urgent = |within_ms| within(ask(100, 9, 8, 100), within_ms);
    let hurried = simulate(&[others[0], others[1], others[2], urgent(500)], FOUR);
    assert!(hurried.done_ms[&3] <= 600, "{}", hurried.done_ms[&3]);
    let relaxed = simulate(&[others[0], others[1], others[2], urgent(2_000)], FOUR);
    assert!(
        relaxed.done_ms[&3] > 700,
        "they ran beside it: {}",
        relaxed.done_ms[&3]
    );
    assert!(relaxed.longest_gap <= COMPANY_STEP);
    assert_eq!(hurried.done_ms.len(), 4, "and all are done in the end");
}

#[test]
fn what_cannot_be_in_time_is_refused_with_both_numbers() {
    let now = Instant::now();
    let seat = |id, priority, running, unseen, remaining, within_ms| Seat {
        id,
        priority,
        deadline: Some(now + ms(within_ms)),
        arrived: now,
        running,
        unseen,
        remaining,
    };
    let new = |within_ms| seat(99, 5, false, 270, 50, within_ms);
    let running = seat(1, 5, true, 1, 100, 5_000);
    // Alone: parts of 128 rows and 50 steps of one row: 276 + 200 ms. In company parts of 27 rows: 301 ms.
    let cases: [(&str, Seat, Vec<Seat>, Room, bool); 8] = [
        ("alone, in time", new(490), vec![], ONE, true),
        ("alone, late", new(460), vec![], ONE, false),
        (
            "behind one of 100 tokens",
            new(860),
            vec![running.clone()],
            ONE,
            false,
        ),
        (
            "behind it with more time",
            new(960),
            vec![running.clone()],
            ONE,
            true,
        ),
        (
            "beside it, steps of two rows",
            new(540),
            vec![running.clone()],
            FOUR,
            false,
        ),
        (
            "beside it with more time",
            new(580),
            vec![running.clone()],
            FOUR,
            true,
        ),
        (
            "lower priorities do not count",
            new(520),
            vec![seat(1, 4, true, 900, 900, 5_000)],
            ONE,
            true,
        ),
        (
            "nor do equals with a later deadline",
            new(520),
            vec![seat(1, 5, false, 900, 900, 5_000)],
            ONE,
            true,
        ),
    ];
    for (why, newcomer, seats, room, expected) in cases {
        let found = admit(&newcomer, &seats, &room, &measured(), 1.0, now);
        assert_eq!(found.is_ok(), expected, "{why}: {found:?}");
        if let Err(late) = found {
            assert!(late.need > late.left, "{why}: {late:?}");
        }
        assert!(
            admit(&newcomer, &seats, &room, &StepCost::default(), 1.0, now).is_ok(),
            "{why}: nothing measured"
        );
    }
    let late = admit(&new(460), &[], &ONE, &measured(), 1.0, now).unwrap_err();
    assert_eq!(late.left, ms(460));
    assert!((ms(465)..ms(485)).contains(&late.need), "{late:?}");
    assert!(
        admit(&new(460), &[], &ONE, &measured(), 0.8, now).is_ok(),
        "after a refusal it may try"
    );
}

#[test]
fn a_full_queue_makes_room_only_for_what_matters_more() {
    let now = Instant::now();
    let seat = |id, priority, running| Seat {
        id,
        priority,
        deadline: None,
        arrived: now,
        running,
        unseen: 1,
        remaining: 1,
    };
    let seats = [
        seat(1, 1, true),
        seat(2, 3, false),
        seat(3, 2, false),
        seat(4, 2, false),
    ];
    assert_eq!(
        displaced(&seats, 9),
        Some(4),
        "the last of the lowest; who runs stays"
    );
    assert_eq!(displaced(&seats, 2), None);
    assert_eq!(gives_way(&seats[1..]), None);
    assert_eq!(lower(&seats, 2), Some(1));
}
