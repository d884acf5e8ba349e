//! pub: what goes out is whole, on every route where somebody is.

use std::sync::{Arc, Mutex};

use zenoh::Wait;

use super::peer::{DDS, HASH, Heard, LIMIT, Peer};
use crate::harness::{Process, wait_until};

#[test]
fn what_is_published_reaches_rmw_zenoh_whole() {
    let mut peer = Peer::open();
    peer.rmw("MS", "listener", "/demo/heard", DDS, HASH).rmw(
        "MS",
        "humble",
        "/demo/heard",
        DDS,
        "TypeHashNotSupported",
    );
    let (session, tokens) = (peer.session.clone(), Arc::new(Mutex::new(Vec::new())));
    let seen = Arc::clone(&tokens);
    let _watch = session
        .liveliness()
        .declare_subscriber("@ros2_lv/0/**")
        .callback(move |sample| {
            seen.lock()
                .unwrap()
                .push(sample.key_expr().as_str().to_owned())
        })
        .wait()
        .unwrap();
    let heard = Heard::on(&peer, &format!("0/demo/heard/{DDS}/*"), |sample| {
        let attached = sample
            .attachment()
            .map(|bytes| bytes.to_bytes().into_owned());
        let payload = sample.payload().to_bytes().into_owned();
        (
            sample.key_expr().as_str().to_owned(),
            payload,
            attached.unwrap_or_default(),
        )
    });
    peer.run(&[
        "topic",
        "pub",
        "/demo/heard",
        "std_msgs/String",
        "data: hi",
        "-t",
        "2",
        "-r",
        "50",
    ])
    .expect_code(0);
    let heard = heard.all(4);
    let mut keys: Vec<&str> = heard
        .iter()
        .map(|(key, ..)| key.rsplit('/').next().unwrap())
        .collect();
    keys.sort_unstable();
    assert_eq!(
        keys,
        [HASH, HASH, "TypeHashNotSupported", "TypeHashNotSupported"],
        "each under the hash it waits for"
    );
    for (_, payload, attached) in &heard {
        assert_eq!(payload, b"\0\x01\0\0\x03\0\0\0hi\0");
        assert_eq!(
            (attached.len(), attached[16]),
            (33, 16),
            "a shorter one would abort a ROS node"
        );
        assert!(matches!(attached[0], 1 | 2), "numbered from one");
    }
    let tokens = tokens.lock().unwrap();
    assert!(
        tokens
            .iter()
            .any(|token| token.contains("/NN/") && token.ends_with("publisher_std_msgs_String")),
        "{tokens:?}"
    );
    assert!(
        tokens.iter().any(|token| token.contains("/MP/")
            && token.contains("%demo%heard")
            && token.contains(HASH)),
        "{tokens:?}"
    );
}

#[test]
fn two_verbs_meet_at_a_third_process() {
    let peer = Peer::open();
    let echo = Process::start(&mut peer.command(&[
        "topic",
        "echo",
        "/demo/chatter",
        "--type",
        "std_msgs/String",
        "--once",
        "--timeout",
        "30",
    ]));
    let met = wait_until(LIMIT, || {
        let publisher = peer
            .session
            .declare_publisher("demo/chatter")
            .wait()
            .unwrap();
        publisher
            .matching_status()
            .wait()
            .unwrap()
            .matching()
            .then_some(())
    });
    assert!(met.is_some(), "the echo listens");
    peer.run(&[
        "topic",
        "pub",
        "/demo/chatter",
        "std_msgs/String",
        "pull over",
        "--once",
    ])
    .expect_code(0);
    assert_eq!(
        echo.finish(LIMIT).expect_code(0).stdout,
        "data: pull over\n---"
    );
}
