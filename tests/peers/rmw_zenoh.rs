//! rmw_zenoh: nodes of two other implementations and a session that is told every byte, in one ROS 2 graph with ours.
//!
//! pyzeros (Python) and hiroz (Rust) are written by others from rmw_zenoh's own description. Both are more lenient than rmw_zenoh_cpp: that they
//! understand us proves keys, tokens, CDR and services; that the attachments are exact is read from the bytes (`zenoh_peer.py`).
//!
//! ```text
//! pyzeros ── Odometry, text, rearm? ──┐                ┌── speech, summary, advisor, gate: each message once, though it may come by two keys
//! hiroz ──── text, rearm?, graph ─────┼── router ──────┤
//! by hand ── bytes, tokens, queries ──┘                └── tokens, attachments, latched limits
//! ```

use std::process::Command;

use llmasos_msgs::{Message, json_to_cdr};
use llmasos_nodes::clock;
use serde_json::{Value, json};

use crate::{
    STEP_LIMIT, alone,
    commands::Shell,
    edge,
    harness::Process,
    peer,
    stage::{Router, Stage, refused},
    until_ready,
};

const VEHICLE: &str = "tests/data/launch/vehicle.yaml";
const OPEN: &str = "tests/data/launch/open.yaml";
const DOMAIN: &str = "7";
const TEXT: &str = "llmasos/speech/text";
const STRING: &str = "std_msgs::msg::dds_::String_";
/// What the real rosidl generator prints for `std_msgs/String`.
const STRING_HASH: &str = "RIHS01_df668c740482bbd48fb39d76a70dfd4bd59db1288021743503259e948f6b1a18";
const ANOTHER_HASH: &str =
    "RIHS01_0000000000000000000000000000000000000000000000000000000000000000";
const NO_HASH: &str = "TypeHashNotSupported";

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn octets(value: &Value) -> Vec<u8> {
    let text = value.as_str().unwrap_or_default();
    (0..text.len() / 2)
        .map(|at| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).unwrap())
        .collect()
}

/// `std_msgs/String` as Fast-CDR writes it.
fn text_cdr(text: &str) -> String {
    let length = u32::try_from(text.len() + 1).unwrap().to_le_bytes();
    hex(&[&[0, 1, 0, 0], &length[..], text.as_bytes(), &[0]].concat())
}

/// Sequence number, a time, length of the GID, GID: the constant that CARLA sends beside every sample when the number is 1.
fn attachment(sequence: i64) -> String {
    hex(&[
        &sequence.to_le_bytes()[..],
        &0i64.to_le_bytes(),
        &[16],
        &[0xab; 16],
    ]
    .concat())
}

/// The session that does as it is told.
struct Hand {
    process: Process,
}

impl Hand {
    fn of(router: &Router) -> Hand {
        Hand {
            process: router.python("zenoh_peer.py", &[]),
        }
    }

    /// Gives an order and waits until it is done; the mark is that before the order.
    fn order(&self, order: Value) -> usize {
        let mark = self.process.mark();
        self.process.order(&order.to_string());
        self.process
            .wait_for_json_after(mark, &order.to_string(), STEP_LIMIT, |line| {
                line["done"] == order
            });
        mark
    }

    fn sees(&self, mark: usize, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        self.process
            .wait_for_json_after(mark, what, STEP_LIMIT, wanted)
            .0
    }
}

fn hiroz(router: &Router) -> Process {
    let mut command = Command::new(peer("ros2/debug/hiroz"));
    command.args([
        &router.endpoint,
        DOMAIN,
        "/ego/llmasos/speech/text",
        "/ego/llmasos/speech/command/json",
        "/ego/llmasos/gate/rearm",
    ]);
    let process = Process::start_to_be_ordered(&mut command);
    process.wait_for_json("hiroz", STEP_LIMIT, |line| line["ready"] == "hiroz");
    process
}

/// The command that a sentence became, as the launcher sees it on the bus.
fn understood(stage: &Stage, mark: usize, text: &str) {
    stage.launch.wait_for_json_after(
        mark,
        &format!("a command from {text:?}"),
        STEP_LIMIT,
        |line| line["topic"] == "llmasos/speech/command" && line["data"]["transcript"] == text,
    );
}

#[test]
fn pyzeros_and_hiroz_are_in_one_graph_with_us() {
    let _alone = alone();
    let router = Router::start();
    let hiroz = hiroz(&router);
    let pyzeros = router.python("pyzeros_peer.py", &[DOMAIN, "/ego"]);
    pyzeros.wait_for_json("pyzeros", STEP_LIMIT, |line| line["ready"] == "pyzeros");
    let stage = Stage::set(router, VEHICLE, &[], "ego");
    until_ready(&stage.launch, &["speech", "summary", "advisor", "gate"]);
    stage
        .launch
        .wait_for_json("odometry of pyzeros at the advisor", STEP_LIMIT, |line| {
            edge(line, "advisor", "ego: odometry")
                .is_some_and(|count| count.handled > 0 && count.refused == 0)
        });
    they_see_us(&hiroz);
    each_sentence_is_one_command(&stage, &hiroz, &pyzeros);
    for (name, process, order) in [
        (
            "pyzeros",
            &pyzeros,
            json!({ "call": "/ego/llmasos/gate/rearm" }).to_string(),
        ),
        ("hiroz", &hiroz, "call".to_owned()),
    ] {
        process.order(&order);
        process.wait_for_json(
            &format!("{name}: the gate is armed anew"),
            STEP_LIMIT,
            |line| line["answered"]["success"] == true,
        );
    }
    Shell {
        endpoint: &stage.router.endpoint,
        domain: DOMAIN,
        network: None,
    }
    .looks_around(
        &["/pyzeros", "/hiroz", "/ego/gate", "/ego/speech"],
        "pyzeros",
    );
    let hand = Hand::of(&stage.router);
    our_attachments_are_exact(&hand);
    a_late_subscriber_gets_what_is_latched(&hand);
    questions_need_an_attachment(&hand);
    drop((hiroz, pyzeros));
    hand_made_samples_are_taken_or_told(&stage, &hand);
    let ended = end(stage);
    assert!(
        ended.values().all(|count| count == 0),
        "nobody had to be restarted: {ended:?}"
    );
}

fn end(stage: Stage) -> serde_json::Map<String, Value> {
    stage.launch.signal(nix::sys::signal::Signal::SIGINT);
    let finished = stage.launch.finish(STEP_LIMIT).expect_code(0);
    finished.json_lines().last().unwrap()["summary"]["restarts"]
        .as_object()
        .unwrap()
        .clone()
}

/// What hiroz makes of our tokens: every node, topics with their types, services.
fn they_see_us(hiroz: &Process) {
    let mut mark = hiroz.mark();
    hiroz.order("graph");
    let seen = |line: &Value| {
        let graph = &line["graph"];
        let has = |list: &str, name: &str, field: &str, value: &str| {
            let all = graph[list].as_array();
            all.is_some_and(|all| {
                all.iter().any(|one| {
                    one["name"] == name
                        && one[field]
                            .as_str()
                            .is_some_and(|found| found.contains(value))
                })
            })
        };
        let nodes = ["speech", "summary", "advisor", "gate"]
            .iter()
            .all(|node| has("nodes", node, "namespace", "ego"));
        nodes
            && has("nodes", "pyzeros", "namespace", "")
            && has("topics", "/ego/llmasos/gate/verdict", "type", "GateVerdict")
            && has(
                "topics",
                "/planning/scenario_planning/clear_velocity_limit",
                "type",
                "VelocityLimitClearCommand",
            )
            && has("topics", "/diagnostics", "type", "DiagnosticArray")
            && has("services", "/ego/llmasos/say", "type", "Say")
            && has("services", "/ego/llmasos/gate/rearm", "type", "Trigger")
    };
    // Tokens of a process that has just started arrive one by one.
    let complete = crate::harness::wait_until(STEP_LIMIT, || {
        let (line, behind) = hiroz.wait_for_json_after(mark, "hiroz's graph", STEP_LIMIT, |line| {
            line.get("graph").is_some()
        });
        mark = behind;
        if seen(&line) {
            return Some(());
        }
        eprintln!("not complete yet: {line}");
        hiroz.order("graph");
        None
    });
    assert!(
        complete.is_some(),
        "hiroz sees nodes, topics and services of ours"
    );
}

/// Said on rmw_zenoh's key, heard by the other on the mirror, and once: the copy by the plain key is known for one.
fn each_sentence_is_one_command(stage: &Stage, hiroz: &Process, pyzeros: &Process) {
    let heard =
        |line: &Value| -> Option<Value> { serde_json::from_str(line["heard"].as_str()?).ok() };
    hiroz.order("say please slow down, hiroz");
    pyzeros.wait_for_json("pyzeros hears what hiroz said", STEP_LIMIT, |line| {
        line["topic"] == "llmasos/speech/command"
            && line["data"]["transcript"] == "please slow down, hiroz"
    });
    pyzeros.order(&json!({ "say": "pull over, pyzeros" }).to_string());
    hiroz.wait_for_json("hiroz hears what pyzeros said", STEP_LIMIT, |line| {
        heard(line).is_some_and(|data| {
            data["transcript"] == "pull over, pyzeros" && data["intent_name"] == "PULL_OVER"
        })
    });
    pyzeros.wait_for_json("pyzeros hears the verdict", STEP_LIMIT, |line| {
        line["topic"] == "llmasos/gate/verdict" && line["data"]["sequence"].as_u64() > Some(0)
    });
    for text in ["please slow down, hiroz", "pull over, pyzeros"] {
        let again = |line: &Value| {
            line["topic"] == "llmasos/speech/command" && line["data"]["transcript"] == text
        };
        let (_, behind) = stage.launch.wait_for_json_after(0, text, STEP_LIMIT, again);
        // Whatever follows the next verdict would have followed a second command, too.
        let (_, until) =
            stage
                .launch
                .wait_for_json_after(behind, "verdicts after it", STEP_LIMIT, |line| {
                    line["topic"] == "llmasos/gate/verdict"
                });
        assert!(
            !stage.launch.has_json_between(behind, until, again),
            "{text:?} became two commands"
        );
    }
}

/// Beside every sample: 33 bytes, numbers that grow by one, and the GID that rmw_zenoh derives from our token.
fn our_attachments_are_exact(hand: &Hand) {
    hand.order(json!({ "tokens": "@ros2_lv/7/**" }));
    let token = hand.sees(0, "the verdict's token", |line| {
        line["token"].as_str().is_some_and(|token| {
            token.contains("/MP/") && token.contains("%ego%llmasos%gate%verdict/")
        })
    });
    let chunks: Vec<&str> = token["token"].as_str().unwrap().split('/').collect();
    assert_eq!(chunks.len(), 13, "{token}");
    assert_eq!(&chunks[7..9], ["%ego", "gate"], "{token}");
    let mark =
        hand.order(json!({ "listen": format!("7/ego/llmasos/gate/verdict/{}/*", chunks[10]) }));
    let (first, behind) = hand
        .process
        .wait_for_json_after(mark, "a verdict", STEP_LIMIT, |line| {
            line.get("key").is_some()
        });
    let second = hand.sees(behind, "the next", |line| line.get("key").is_some());
    assert_eq!(
        first["key"],
        format!("7/ego/llmasos/gate/verdict/{}/{}", chunks[10], chunks[11]),
        "type and hash of the token stand in the key"
    );
    assert_eq!(first["encoding"], "zenoh/bytes");
    let (one, two) = (octets(&first["attachment"]), octets(&second["attachment"]));
    assert_eq!((one.len(), one[16]), (33, 16), "{first}");
    let number = |bytes: &[u8]| i64::from_le_bytes(bytes[..8].try_into().unwrap());
    assert_eq!(number(&two), number(&one) + 1, "{first}, {second}");
    let age_ns = clock::now_ns() - i64::from_le_bytes(one[8..16].try_into().unwrap());
    assert!(
        (0..60_000_000_000).contains(&age_ns),
        "a time of publication, {age_ns} ns ago"
    );
    assert_eq!(hex(&one[17..]), token["gid"].as_str().unwrap(), "{token}");
}

/// What Autoware must know when it comes late is kept for it, on both keys.
fn a_late_subscriber_gets_what_is_latched(hand: &Hand) {
    for key in [
        "7/planning/scenario_planning/clear_velocity_limit/**",
        "planning/scenario_planning/clear_velocity_limit",
    ] {
        let mark = hand.order(json!({ "catch_up": key }));
        let kept = hand.sees(
            mark,
            &format!("the clear of the gate's start on {key}"),
            |line| {
                line["key"]
                    .as_str()
                    .is_some_and(|found| found.contains("clear_velocity_limit"))
            },
        );
        let bytes = octets(&kept["payload"]);
        let clear =
            llmasos_msgs::autoware_internal_planning_msgs::VelocityLimitClearCommand::decode(
                &bytes,
            )
            .unwrap();
        assert!(clear.command && clear.sender == "llmasos", "{clear:?}");
    }
}

/// A ROS 2 client's question is answered with its own number and GID; one without them gets an error that says so.
fn questions_need_an_attachment(hand: &Hand) {
    let token = hand.sees(0, "the service's token", |line| {
        line["token"]
            .as_str()
            .is_some_and(|token| token.contains("/SS/") && token.contains("%ego%llmasos%say/"))
    });
    let hash = token["token"]
        .as_str()
        .unwrap()
        .split('/')
        .nth(11)
        .unwrap()
        .to_owned();
    let key = format!("7/ego/llmasos/say/llmasos_msgs::srv::dds_::Say_/{hash}");
    let mark = hand.order(
        json!({ "ask": key, "payload": text_cdr("slow down"), "attachment": attachment(41) }),
    );
    let answer = hand.sees(mark, "an answer", |line| line.get("answer").is_some());
    let beside = octets(&answer["answer"]["attachment"]);
    assert_eq!(beside.len(), 33, "{answer}");
    assert_eq!(
        (&beside[..8], &beside[16..]),
        (
            &41i64.to_le_bytes()[..],
            &[&[16], &[0xab; 16][..]].concat()[..]
        ),
        "{answer}"
    );
    let said = octets(&answer["answer"]["payload"]);
    assert_eq!(said[4], 1, "success: {answer}");
    for (order, why) in [
        (
            json!({ "ask": key, "payload": text_cdr("slow down") }),
            "no attachment",
        ),
        (
            json!({ "ask": key, "payload": text_cdr("slow down"), "attachment": "01" }),
            "an attachment of one byte",
        ),
        (
            json!({ "ask": key, "payload": hex(b"slow down"), "attachment": attachment(42) }),
            "no CDR",
        ),
    ] {
        let mark = hand.order(order);
        hand.sees(mark, &format!("{why} gets an error"), |line| {
            line.get("error").is_some()
        });
    }
}

/// Every sample that a good node sends and every one it does not: taken, or told in the diagnostics of the node concerned.
fn hand_made_samples_are_taken_or_told(stage: &Stage, hand: &Hand) {
    let key = |hash: &str| format!("7/ego/{TEXT}/{STRING}/{hash}");
    for (key, beside, why) in [
        (
            key(STRING_HASH),
            Some(attachment(1)),
            "as rmw_zenoh_cpp sends it",
        ),
        (key(STRING_HASH), None, "without an attachment"),
        (
            key("*"),
            Some(attachment(1)),
            "CARLA: any hash, the same attachment again",
        ),
        (key(NO_HASH), Some(attachment(1)), "Humble"),
        (
            format!("*/ego/{TEXT}/*/*"),
            Some(attachment(1)),
            "every domain, type and hash",
        ),
    ] {
        let (mark, text) = (stage.launch.mark(), format!("slow down, {why}"));
        let mut order = json!({ "put": key, "payload": text_cdr(&text) });
        if let Some(beside) = beside {
            order["attachment"] = beside.into();
        }
        hand.order(order);
        understood(stage, mark, &text);
    }
    let good = text_cdr("pull over");
    for (key, payload, beside, says) in [
        (
            key(ANOTHER_HASH),
            good.clone(),
            attachment(2),
            "another version of the message",
        ),
        (
            key(STRING_HASH),
            good.clone(),
            "01".to_owned(),
            "attachment of 1 bytes",
        ),
        (
            key(STRING_HASH),
            good.clone(),
            format!("{}0000", attachment(2)),
            "attachment of 35 bytes",
        ),
        (
            key(STRING_HASH),
            hex(b"pull over"),
            attachment(3),
            "found text",
        ),
        (
            key(STRING_HASH),
            hex(br#"{"data":"pull over"}"#),
            attachment(4),
            "found JSON",
        ),
        (
            key(STRING_HASH),
            "00010000ffffffff".to_owned(),
            attachment(5),
            "",
        ),
    ] {
        let mark = stage.launch.mark();
        hand.order(json!({ "put": key, "payload": payload, "attachment": beside }));
        refused(stage, mark, TEXT, &["speech"], says);
    }
    let mark = stage.launch.mark();
    for token in [
        format!(
            "@ros2_lv/7/abc/0/1/MP/%/%/old/%ego%odometry/nav_msgs::msg::dds_::Odometry_/{ANOTHER_HASH}/::,10:,:,:,,"
        ),
        "@ros2_lv/7/abc/0/2/MP/%/%".to_owned(),
        "@ros2_lv/7/abc/x/y/ZZ/%/%/odd/%/%/%/%".to_owned(),
    ] {
        hand.order(json!({ "declare": token }));
    }
    refused(
        stage,
        mark,
        "odometry",
        &["advisor", "summary"],
        "another version",
    );
    let mark = stage.launch.mark();
    hand.order(json!({ "put": key(STRING_HASH), "payload": text_cdr("slow down after all that"), "attachment": attachment(6) }));
    understood(stage, mark, "slow down after all that");
}

/// Humble's keys have no hash; and what its node latched before we came is there when we come.
#[test]
fn humble_is_understood_and_a_latched_input_waits_for_us() {
    let _alone = alone();
    let router = Router::start();
    let hand = Hand::of(&router);
    let now = llmasos_msgs::builtin_interfaces::Time::from_nanos(clock::now_ns());
    let stamp = json!({ "sec": now.sec, "nanosec": now.nanosec });
    let mode = json_to_cdr(
        "autoware_adapi_v1_msgs/msg/OperationModeState",
        &json!({ "stamp": stamp, "mode": 2 }),
    )
    .unwrap();
    hand.order(json!({
        "keep": format!("7/open/operation_mode/autoware_adapi_v1_msgs::msg::dds_::OperationModeState_/{NO_HASH}"),
        "payload": hex(&mode),
        "attachment": attachment(1),
    }));
    let stage = Stage::set(router, OPEN, &[], "open");
    until_ready(&stage.launch, &["speech", "summary", "gate"]);
    stage
        .launch
        .wait_for_json("the latched mode at the gate", STEP_LIMIT, |line| {
            edge(line, "gate", "operation_mode: operation_mode")
                .is_some_and(|count| count.handled == 1)
        });
    let mark = stage.launch.mark();
    hand.order(json!({ "put": format!("7/open/{TEXT}/{STRING}/{NO_HASH}"), "payload": text_cdr("slow down, humble"), "attachment": attachment(1) }));
    understood(&stage, mark, "slow down, humble");
    let mark = hand.order(json!({ "listen": format!("7/open/llmasos/gate/verdict/llmasos_msgs::msg::dds_::GateVerdict_/{NO_HASH}") }));
    hand.sees(mark, "a verdict without a hash in its key", |line| {
        line["payload"]
            .as_str()
            .is_some_and(|payload| payload.starts_with("00010000"))
    });
    hand.order(json!({ "tokens": "@ros2_lv/7/**" }));
    hand.sees(0, "our tokens without hashes", |line| {
        line["token"].as_str().is_some_and(|token| {
            token.contains("%open%llmasos%gate%verdict") && token.contains(NO_HASH)
        })
    });
    // A node of a later distribution wants what we publish: the two would exchange nothing, and that is said.
    let mark = stage.launch.mark();
    let verdict = "%open%llmasos%gate%verdict/llmasos_msgs::msg::dds_::GateVerdict_";
    hand.order(json!({ "declare": format!("@ros2_lv/7/abc/0/1/MS/%/%/late/{verdict}/{ANOTHER_HASH}/::,10:,:,:,,") }));
    refused(&stage, mark, "llmasos/gate/verdict", &["gate"], "Humble");
    end(stage);
}
