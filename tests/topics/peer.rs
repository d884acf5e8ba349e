//! The other process: a session with tokens, keys and attachments written by hand, as rmw_zenoh and zenoh-bridge-ros2dds put them on the
//! wire.

use std::{
    process::Command,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use serde_json::Value;
use zenoh::{Session, Wait, liveliness::LivelinessToken, pubsub::Subscriber, sample::Sample};

use crate::harness::{Finished, Process, free_port, llmasos, wait_until};

/// For a verb that ends by itself.
pub(super) const LIMIT: Duration = Duration::from_secs(60);
/// `std_msgs/String` of "hi", padded as DDS pads it.
pub(super) const HI: &[u8] = b"\0\x01\0\0\x03\0\0\0hi\0\0";
/// RIHS01 of `std_msgs/String`, from the real generator.
pub(super) const HASH: &str =
    "RIHS01_df668c740482bbd48fb39d76a70dfd4bd59db1288021743503259e948f6b1a18";
pub(super) const DDS: &str = "std_msgs::msg::dds_::String_";

/// The other process: a session that listens.
pub(super) struct Peer {
    // Before the session: they publish on it.
    talkers: Vec<Talker>,
    tokens: Vec<LivelinessToken>,
    pub(super) session: Session,
    pub(super) address: String,
}

/// Publishes every 50 ms until it is dropped.
struct Talker {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Talker {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ended = thread.join();
        }
    }
}

/// Sequence, time, GID: what rmw_zenoh puts beside a sample.
fn attachment(sequence: i64) -> Vec<u8> {
    let mut bytes = sequence.to_le_bytes().to_vec();
    bytes.extend(1_700_000_000_000_000_000_i64.to_le_bytes());
    bytes.push(16);
    bytes.extend([0xAB; 16]);
    bytes
}

impl Peer {
    pub(super) fn open() -> Peer {
        let address = format!("tcp/127.0.0.1:{}", free_port());
        let mut config = zenoh::Config::default();
        for (key, value) in [
            ("mode", "\"peer\"".to_owned()),
            ("listen/endpoints", format!("[\"{address}\"]")),
            ("scouting/multicast/enabled", "false".to_owned()),
            ("timestamping/enabled", "true".to_owned()),
        ] {
            config.insert_json5(key, &value).unwrap();
        }
        Peer {
            session: zenoh::open(config).wait().unwrap(),
            address,
            tokens: Vec::new(),
            talkers: Vec::new(),
        }
    }

    pub(super) fn token(&mut self, key: &str) -> &mut Self {
        let token = self
            .session
            .liveliness()
            .declare_token(key.to_owned())
            .wait()
            .unwrap();
        self.tokens.push(token);
        self
    }

    /// An rmw_zenoh node with one endpoint.
    pub(super) fn rmw(
        &mut self,
        kind: &str,
        node: &str,
        topic: &str,
        dds: &str,
        hash: &str,
    ) -> &mut Self {
        let zid = self.session.zid();
        let (number, mangled) = (self.tokens.len(), topic.replace('/', "%"));
        self.token(&format!(
            "@ros2_lv/0/{zid}/{number}/{number}/NN/%/%demo/{node}"
        ));
        self.token(&format!(
            "@ros2_lv/0/{zid}/{number}/{}/{kind}/%/%demo/{node}/{mangled}/{dds}/{hash}/::,10:,:,:,,",
            number + 1
        ))
    }

    /// What a bridge announces.
    pub(super) fn bridged(&mut self, kind: &str, topic: &str, type_name: &str) -> &mut Self {
        let zid = self.session.zid();
        let (topic, type_name) = (
            topic.trim_start_matches('/').replace('/', "§"),
            type_name.replace('/', "§"),
        );
        self.token(&format!("@/{zid}/@ros2_lv"));
        self.token(&format!(
            "@/{zid}/@ros2_lv/{kind}/{topic}/{type_name}/:1:::"
        ))
    }

    /// Publishes on all keys, the same sequence number on each.
    pub(super) fn talk(
        &mut self,
        keys: &[String],
        payload: &'static [u8],
        attached: bool,
    ) -> &mut Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (session, keys, stopped) = (self.session.clone(), keys.to_vec(), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            for sequence in 1.. {
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                for key in &keys {
                    let put = session.put(key.as_str(), payload);
                    match attached {
                        true => put.attachment(attachment(sequence)).wait().unwrap(),
                        false => put.wait().unwrap(),
                    }
                }
                std::thread::sleep(Duration::from_millis(50));
            }
        });
        self.talkers.push(Talker {
            stop,
            thread: Some(thread),
        });
        self
    }

    pub(super) fn command(&self, args: &[&str]) -> Command {
        let mut command = llmasos();
        command
            .args(args)
            .args(["--connect", &self.address])
            .env_remove("ROS_DOMAIN_ID")
            .env_remove("ZENOH_CONFIG_OVERRIDE")
            .env_remove("ZENOH_SESSION_CONFIG_URI");
        command
    }

    pub(super) fn run(&self, args: &[&str]) -> Finished {
        Process::start(&mut self.command(args)).finish(LIMIT)
    }
}

/// What a subscription heard, in the order it came.
pub(super) struct Heard<T> {
    heard: Arc<Mutex<Vec<T>>>,
    _subscriber: Subscriber<()>,
}

impl<T: Send + Clone + 'static> Heard<T> {
    /// Listens; `read` says what of a sample is kept.
    pub(super) fn on(
        peer: &Peer,
        key: &str,
        read: impl Fn(&Sample) -> T + Send + Sync + 'static,
    ) -> Self {
        let heard: Arc<Mutex<Vec<T>>> = Arc::default();
        let into = Arc::clone(&heard);
        let subscriber = peer.session.declare_subscriber(key.to_owned());
        Self {
            _subscriber: subscriber
                .callback(move |sample| into.lock().unwrap().push(read(&sample)))
                .wait()
                .unwrap(),
            heard,
        }
    }

    /// What came, once it is so many.
    pub(super) fn all(&self, count: usize) -> Vec<T> {
        let got = wait_until(LIMIT, || {
            (self.heard.lock().unwrap().len() >= count).then_some(())
        });
        let heard = self.heard.lock().unwrap().clone();
        assert!(
            got.is_some(),
            "expected {count} messages, heard {}",
            heard.len()
        );
        heard
    }
}

pub(super) fn data_key(topic: &str) -> String {
    format!("0{topic}/{DDS}/{HASH}")
}

pub(super) fn only(finished: &Finished) -> Value {
    let lines = finished.json_lines();
    assert_eq!(lines.len(), 1, "{}", finished.stdout);
    lines[0].clone()
}
