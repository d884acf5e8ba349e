//! How the verbs end: on Ctrl-C, on what is wrong, and what they take from the environment.

use nix::sys::signal::Signal;

use super::peer::{LIMIT, Peer};
use crate::harness::{Process, free_port, llmasos};

#[test]
fn ctrl_c_ends_with_a_summary() {
    let mut peer = Peer::open();
    peer.talk(&["ego/chatter".to_owned()], b"pull over", false);
    let echo = Process::start(&mut peer.command(&["topic", "echo", "ego/*"]));
    echo.wait_for_line("the text", LIMIT, |line| line == "pull over");
    echo.signal(Signal::SIGINT);
    let ended = echo.finish(LIMIT).expect_code(0);
    assert!(ended.stderr.contains("messages in"), "{}", ended.stderr);

    let hz = Process::start(&mut peer.command(&["topic", "hz", "ego/chatter", "--json"]));
    hz.wait_for_json("a rate", LIMIT, |line| line["rate_hz"].is_number());
    hz.signal(Signal::SIGTERM);
    let ended = hz.finish(LIMIT).expect_code(0);
    assert!(
        ended.json_lines().last().unwrap()["summary"]["count"]
            .as_u64()
            .unwrap()
            > 1
    );

    let publishing = Process::start(&mut peer.command(&[
        "topic",
        "pub",
        "ego/x",
        "std_msgs/String",
        "hi",
        "-w",
        "0",
    ]));
    publishing.wait_for_line("a publication", LIMIT, |line| {
        line.starts_with("published 1 on ego/x")
    });
    publishing.signal(Signal::SIGINT);
    assert!(
        publishing
            .finish(LIMIT)
            .expect_code(0)
            .stderr
            .contains("messages published")
    );
}

#[test]
fn what_is_wrong_is_said_with_the_next_step() {
    let peer = Peer::open();
    for (args, code, part, why) in [
        (
            &["topic", "echo", "/nothing", "--timeout", "0.5"][..],
            1,
            "llmasos topic list",
            "nothing there",
        ),
        (
            &["topic", "hz", "/nothing", "--timeout", "0.5"],
            1,
            "nobody announces /nothing",
            "nothing to count",
        ),
        (
            &["topic", "info", "/nothing", "--timeout", "0.5"],
            1,
            "nobody announces",
            "nothing to tell",
        ),
        (
            &[
                "topic",
                "hz",
                "/nothing",
                "--assert",
                "9..11",
                "--duration",
                "0.5",
            ],
            3,
            "found 0.000 Hz",
            "an expectation of silence",
        ),
        (&["topic", "echo", "a//b"], 2, "a//b", "no key"),
        (
            &["topic", "echo", "/x", "std_msgs/Strng"],
            2,
            "did you mean std_msgs/msg/String?",
            "no type",
        ),
        (
            &["topic", "echo", "/x", "--duration", "0"],
            2,
            "duration",
            "no time",
        ),
        (
            &["topic", "hz", "/x", "--assert", "fast"],
            2,
            "9..11",
            "no range",
        ),
        (
            &["topic", "hz", "/x", "--window", "1"],
            2,
            "--window",
            "no window",
        ),
        (
            &["topic", "pub", "/x", "std_msgs/UInt8", "{data: 256}"],
            2,
            "data",
            "no value",
        ),
        (
            &["topic", "pub", "/x/*", "std_msgs/String", "hi"],
            2,
            "expected one topic",
            "a pattern",
        ),
        (
            &[
                "topic",
                "pub",
                "/x",
                "std_msgs/String",
                "hi",
                "--once",
                "-w",
                "1",
                "--max-wait-time-secs",
                "0.3",
            ],
            1,
            "expected 1 subscriptions",
            "nobody listens",
        ),
        (
            &["topic", "list", "--domain", "233"],
            2,
            "0 to 232",
            "no domain",
        ),
        (
            &["topic", "list", "--msg-path", "no/such/folder"],
            2,
            "no/such/folder",
            "no folder",
        ),
        (
            &["node", "info", "/nobody"],
            1,
            "llmasos node list",
            "no node",
        ),
    ] {
        let finished = peer.run(args).expect_code(code);
        assert!(finished.stderr.contains(part), "{why}: {}", finished.stderr);
    }
    let nobody = format!("tcp/127.0.0.1:{}", free_port());
    let finished =
        crate::harness::run(&["topic", "list", "--connect", &nobody], LIMIT).expect_code(1);
    assert!(
        finished.stderr.contains("nobody answers at"),
        "{}",
        finished.stderr
    );
}

#[test]
fn the_environment_of_a_ros_shell_is_honoured() {
    let mut peer = Peer::open();
    let zid = peer.session.zid();
    peer.token(&format!("@ros2_lv/7/{zid}/0/0/NN/%/%/talker"));
    let run = |set: &[(&str, &str)]| {
        let mut command = llmasos();
        command
            .args(["node", "list"])
            .env_remove("ZENOH_SESSION_CONFIG_URI")
            .envs(set.iter().copied());
        Process::start(&mut command).finish(LIMIT)
    };
    let endpoints = format!("connect/endpoints=[\"{}\"]", peer.address);
    let found = run(&[
        ("ZENOH_CONFIG_OVERRIDE", &endpoints),
        ("ROS_DOMAIN_ID", "7"),
    ])
    .expect_code(0);
    assert_eq!(found.stdout, "/talker");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("session.json5");
    std::fs::write(
        &file,
        format!(
            "{{ mode: \"client\", connect: {{ endpoints: [\"{}\"] }} }}",
            peer.address
        ),
    )
    .unwrap();
    let uri = format!("file://{}", file.display());
    let found = run(&[
        ("ZENOH_SESSION_CONFIG_URI", &uri),
        ("ROS_DOMAIN_ID", "7"),
        ("ZENOH_CONFIG_OVERRIDE", ""),
    ])
    .expect_code(0);
    assert_eq!(found.stdout, "/talker");
    for (name, value) in [
        ("ROS_DOMAIN_ID", "1000"),
        ("ZENOH_CONFIG_OVERRIDE", "mode"),
        ("ZENOH_CONFIG_OVERRIDE", "mode=nonsense"),
    ] {
        let finished = run(&[(name, value)]).expect_code(2);
        assert!(
            finished.stderr.contains(value),
            "{name}: {}",
            finished.stderr
        );
    }
}
