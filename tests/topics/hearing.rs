//! Listening verbs: list, info, type, find, echo, hz, bw, delay, and the nodes.

use llmasos_nodes::bus::{Bus, BusOptions, Qos};

use super::peer::{DDS, HASH, HI, Heard, LIMIT, Peer, data_key, only};
use crate::harness::{Process, llmasos};

#[test]
fn a_plain_key_is_heard_counted_and_decoded_by_the_type_that_is_given() {
    let mut peer = Peer::open();
    peer.talk(&["ego/chatter".to_owned()], HI, false);
    for topic in ["/ego/chatter", "ego/chatter"] {
        let echo = peer
            .run(&[
                "topic",
                "echo",
                topic,
                "std_msgs/String",
                "--once",
                "--json",
            ])
            .expect_code(0);
        let message = only(&echo);
        assert_eq!(message["data"]["data"], "hi");
        assert_eq!(
            (&message["topic"], &message["key"]),
            (&"/ego/chatter".into(), &"ego/chatter".into())
        );
        assert_eq!(message["type"], "std_msgs/msg/String");
    }
    let in_namespace = [
        "topic",
        "echo",
        "chatter",
        "--namespace",
        "ego",
        "--type",
        "std_msgs/String",
        "--once",
        "--field",
        "data",
    ];
    assert_eq!(peer.run(&in_namespace).expect_code(0).stdout, "hi");

    let unknown = peer
        .run(&["topic", "echo", "/ego/chatter", "--once"])
        .expect_code(1);
    assert!(
        unknown.stdout.contains("00 01 00 00 03 00 00 00 68 69"),
        "the bytes: {}",
        unknown.stdout
    );
    assert!(
        unknown.stderr.contains("--type") && unknown.stderr.contains("--msg-path"),
        "{}",
        unknown.stderr
    );
    let typeless = peer.run(&["topic", "type", "/ego/chatter"]).expect_code(1);
    assert!(
        typeless.stderr.contains("CDR of a type that nobody tells"),
        "{}",
        typeless.stderr
    );

    let hz = peer
        .run(&[
            "topic",
            "hz",
            "ego/chatter",
            "--assert",
            "1..40",
            "--duration",
            "2.5",
            "--json",
        ])
        .expect_code(0);
    let lines = hz.json_lines();
    let summary = &lines.last().unwrap()["summary"];
    assert!(
        lines.len() >= 2 && lines[0]["rate_hz"].as_f64().unwrap() > 1.0,
        "a line a second: {}",
        hz.stdout
    );
    assert_eq!(
        (&summary["met"], &summary["expected"]),
        (&true.into(), &"1..40".into())
    );
    let missed = peer
        .run(&[
            "topic",
            "hz",
            "ego/chatter",
            "--assert",
            "1000..",
            "--duration",
            "1",
        ])
        .expect_code(3);
    assert!(
        missed.stderr.contains("missed") && missed.stderr.contains("1000.."),
        "{}",
        missed.stderr
    );

    let bw = peer
        .run(&["topic", "bw", "ego/chatter", "--duration", "1.5", "--json"])
        .expect_code(0);
    let summary = bw.json_lines().last().unwrap()["summary"].clone();
    assert_eq!(summary["mean_bytes"], HI.len() as f64);
    assert_eq!(
        summary["bytes"],
        summary["count"].as_u64().unwrap() * HI.len() as u64
    );

    let list = peer.run(&["topic", "list", "--json"]).expect_code(0);
    let row = list
        .json_lines()
        .into_iter()
        .find(|row| row["topic"] == "/ego/chatter")
        .unwrap();
    assert_eq!(
        (&row["type"], &row["routes"]),
        (&"CDR".into(), &serde_json::json!(["plain"]))
    );
    assert!(row["count"].as_u64().unwrap() > 0);
}

#[test]
fn rmw_zenoh_tells_its_nodes_types_and_messages() {
    let mut peer = Peer::open();
    peer.rmw("MP", "talker", "/demo/chatter", DDS, HASH)
        .rmw("MS", "listener", "/demo/chatter", DDS, HASH)
        .rmw(
            "SS",
            "server",
            "/demo/rearm",
            "std_srvs::srv::dds_::Trigger_",
            HASH,
        )
        .talk(&[data_key("/demo/chatter")], HI, true);
    let nodes = peer.run(&["node", "list"]).expect_code(0);
    assert_eq!(nodes.stdout, "/demo/listener\n/demo/server\n/demo/talker");
    let talker = only(
        &peer
            .run(&["node", "info", "/demo/talker", "--json"])
            .expect_code(0),
    );
    assert_eq!(talker["publishers"][0]["name"], "/demo/chatter");
    assert_eq!(talker["subscribers"], serde_json::json!([]));
    let server = peer.run(&["node", "info", "/demo/server"]).expect_code(0);
    assert!(
        server
            .stdout
            .contains("Service Servers:\n    /demo/rearm: std_srvs/srv/Trigger"),
        "{}",
        server.stdout
    );
    let missing = peer.run(&["node", "info", "/demo/taker"]).expect_code(1);
    assert!(
        missing.stderr.contains("did you mean /demo/talker?"),
        "{}",
        missing.stderr
    );

    let types = peer.run(&["topic", "type", "/demo/chatter"]).expect_code(0);
    assert_eq!(types.stdout, "std_msgs/msg/String");
    let listed = peer
        .run(&["topic", "list", "-t", "--seconds", "0"])
        .expect_code(0);
    assert_eq!(
        listed.stdout, "/demo/chatter [std_msgs/msg/String]",
        "a service is no topic"
    );
    let found = peer
        .run(&["topic", "find", "std_msgs/String", "--seconds", "0"])
        .expect_code(0);
    assert_eq!(found.stdout, "/demo/chatter");
    let info = peer
        .run(&["topic", "info", "-v", "/demo/chatter"])
        .expect_code(0)
        .stdout;
    for part in [
        "Type: std_msgs/msg/String",
        "Publisher count: 1",
        "Subscription count: 1",
        "Node name: talker",
        "Node namespace: /demo",
        HASH,
        "Reliability: RELIABLE",
        "History (Depth): KEEP_LAST (10)",
        "Route: rmw_zenoh",
    ] {
        assert!(info.contains(part), "{part} is missing:\n{info}");
    }

    let echo = only(
        &peer
            .run(&[
                "topic",
                "echo",
                "/demo/chatter",
                "--once",
                "--json",
                "--include-message-info",
            ])
            .expect_code(0),
    );
    assert_eq!(echo["data"]["data"], "hi", "the type comes with the key");
    assert_eq!(echo["message_info"]["publisher_gid"], "ab".repeat(16));
    let hz = peer
        .run(&[
            "topic",
            "hz",
            "/demo/chatter",
            "--duration",
            "1.5",
            "--json",
        ])
        .expect_code(0);
    assert!(
        hz.json_lines().last().unwrap()["summary"]["count"]
            .as_u64()
            .unwrap()
            > 2
    );

    let elsewhere = peer
        .run(&["topic", "list", "--domain", "5", "--seconds", "0.3"])
        .expect_code(0);
    assert_eq!(elsewhere.stdout, "", "domain 5 is empty");
    let silent = peer
        .run(&[
            "topic",
            "echo",
            "/demo/chatter",
            "--domain",
            "5",
            "--timeout",
            "0.5",
        ])
        .expect_code(1);
    assert!(
        silent.stderr.contains("another domain than 5"),
        "{}",
        silent.stderr
    );
}

#[test]
fn what_a_bridge_announces_has_type_and_key() {
    let mut peer = Peer::open();
    peer.bridged("MP", "/demo/chatter", "std_msgs/msg/String")
        .bridged("MS", "/demo/heard", "std_msgs/msg/String")
        .talk(&["demo/chatter".to_owned()], HI, false);
    let echo = peer
        .run(&["topic", "echo", "/demo/chatter", "--once"])
        .expect_code(0);
    assert_eq!(echo.stdout, "data: hi\n---");
    let info = only(
        &peer
            .run(&["topic", "info", "/demo/heard", "--json"])
            .expect_code(0),
    );
    assert_eq!(
        info["subscriptions"][0]["routes"],
        serde_json::json!(["bridge"])
    );

    let heard = Heard::on(&peer, "demo/heard", |sample| {
        let payload = sample.payload().to_bytes().into_owned();
        (payload, sample.attachment().is_some())
    });
    peer.run(&[
        "topic",
        "pub",
        "/demo/heard",
        "std_msgs/String",
        "pull over",
        "--once",
    ])
    .expect_code(0);
    assert_eq!(
        heard.all(1),
        [(b"\0\x01\0\0\x0a\0\0\0pull over\0".to_vec(), false)],
        "CDR, nothing beside it"
    );

    let wrong = peer
        .run(&[
            "topic",
            "pub",
            "/demo/heard",
            "std_msgs/Bool",
            "data: true",
            "--once",
        ])
        .expect_code(2);
    assert!(
        wrong.stderr.contains("is announced as std_msgs/msg/String"),
        "{}",
        wrong.stderr
    );
    assert_eq!(heard.all(1).len(), 1, "nothing of another type reached it");
}

#[test]
fn a_message_on_both_keys_is_shown_once() {
    let mut peer = Peer::open();
    peer.talk(
        &["demo/chatter".to_owned(), data_key("/demo/chatter")],
        HI,
        true,
    );
    let echo = peer.run(&[
        "topic",
        "echo",
        "/demo/chatter",
        "--type",
        "std_msgs/String",
        "--duration",
        "1.5",
        "--json",
        "--include-message-info",
    ]);
    let numbers: Vec<i64> = echo
        .expect_code(0)
        .json_lines()
        .iter()
        .map(|line| {
            line["message_info"]["publication_sequence_number"]
                .as_i64()
                .unwrap()
        })
        .collect();
    assert!(numbers.len() > 3, "{numbers:?}");
    assert!(
        numbers.windows(2).all(|pair| pair[0] < pair[1]),
        "each once, in order: {numbers:?}"
    );
}

#[test]
fn a_type_that_comes_in_a_folder_is_shown_and_published() {
    const PIN: &str = "my_msgs::msg::dds_::Pin_";
    let folder = tempfile::tempdir().unwrap();
    let package = folder.path().join("my_msgs/msg");
    std::fs::create_dir_all(&package).unwrap();
    std::fs::write(
        package.join("Pin.msg"),
        "builtin_interfaces/Time stamp\nuint16 number\n",
    )
    .unwrap();
    let path = folder.path().display().to_string();
    let mut peer = Peer::open();
    peer.rmw("MP", "talker", "/demo/pin", PIN, "RIHS01_00")
        .talk(
            &[format!("0/demo/pin/{PIN}/RIHS01_00")],
            b"\0\x01\0\0\x01\0\0\0\x02\0\0\0\x07\0",
            true,
        );
    let without = peer
        .run(&["topic", "echo", "/demo/pin", "--once"])
        .expect_code(1);
    assert!(
        without.stderr.contains("no definition of my_msgs/msg/Pin"),
        "{}",
        without.stderr
    );
    assert!(without.stdout.contains("# 14 bytes"), "{}", without.stdout);
    let with = peer
        .run(&[
            "topic",
            "echo",
            "/demo/pin",
            "--once",
            "--json",
            "--msg-path",
            &path,
        ])
        .expect_code(0);
    assert_eq!(only(&with)["data"]["number"], 7);
    assert!(
        with.stderr.contains("another version"),
        "the hash differs: {}",
        with.stderr
    );
    let delay = peer
        .run(&[
            "topic",
            "delay",
            "/demo/pin",
            "--msg-path",
            &path,
            "--duration",
            "1.2",
            "--json",
        ])
        .expect_code(0);
    let summary = delay.json_lines().last().unwrap()["summary"].clone();
    assert!(
        summary["delay_s"].as_f64().unwrap() > 1e9,
        "a stamp of 1970: {summary}"
    );
    let stampless = peer
        .run(&[
            "topic",
            "delay",
            "/demo/pin",
            "--type",
            "std_msgs/String",
            "--duration",
            "5",
        ])
        .expect_code(1);
    assert!(
        stampless
            .stderr
            .contains("expected a type with header.stamp"),
        "{}",
        stampless.stderr
    );

    let heard = Heard::on(&peer, "demo/mine", |sample| {
        sample.payload().to_bytes().into_owned()
    });
    peer.run(&[
        "topic",
        "pub",
        "/demo/mine",
        "my_msgs/Pin",
        "{stamp: {sec: 1, nanosec: 2}, number: 7}",
        "--once",
        "--msg-path",
        &path,
    ])
    .expect_code(0);
    assert_eq!(
        heard.all(1),
        [b"\0\x01\0\0\x01\0\0\0\x02\0\0\0\x07\0".to_vec()]
    );
}

#[test]
fn what_was_published_before_is_asked_for_where_publishers_keep_it() {
    // The same session holds the cache: an advanced publisher, as rmw_zenoh declares one for TRANSIENT_LOCAL.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let options = BusOptions {
        listen: vec!["tcp/127.0.0.1:0".to_owned()],
        ..Default::default()
    };
    let bus = runtime.block_on(Bus::open(&options)).unwrap();
    let _held = runtime.block_on(async {
        let publisher = bus
            .raw_publisher(&format!("/{}", data_key("/demo/latched")), Qos::LATCHED)
            .await
            .unwrap();
        let key = format!(
            "@ros2_lv/0/{}/0/1/MP/%/%demo/talker/%demo%latched/{DDS}/{HASH}/:1:,1:,:,:,,",
            bus.session_id()
        );
        let token = bus.declare_token(&key).await.unwrap();
        publisher.put(HI.to_vec()).await.unwrap();
        (publisher, token)
    });
    let run = |extra: &[&str]| {
        let mut command = llmasos();
        command
            .args(["topic", "echo", "/demo/latched", "--once", "--timeout"])
            .args(extra)
            .args(["--connect", &bus.listening()[0]])
            .env_remove("ROS_DOMAIN_ID");
        Process::start(&mut command).finish(LIMIT)
    };
    assert_eq!(run(&["20"]).expect_code(0).stdout, "data: hi\n---");
    let volatile = run(&["1", "--qos-durability", "volatile"]).expect_code(1);
    assert!(
        volatile.stderr.contains("though it is announced"),
        "who asks for nothing earlier gets nothing: {}",
        volatile.stderr
    );
    runtime.block_on(bus.close(LIMIT));
}
