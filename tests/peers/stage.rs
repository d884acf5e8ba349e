//! A router and a graph of ours connected to it, with what a person has at hand beside them: zenoh-cli and curl.
//!
//! The router is the bridge's binary with its REST plugin and without its DDS side: rmw_zenoh's own router and zenohd are the same code.

use std::{collections::BTreeMap, process::Command};

use llmasos_nodes::health::LedgerCount;
use serde_json::{Value, json};

use crate::{
    STEP_LIMIT, finish,
    harness::{Process, free_port, llmasos, wait_until},
    peer,
};

/// A node and its edge, as the diagnostics name it.
pub(crate) type Edge = (String, String);

/// A Zenoh router with the REST plugin.
pub(crate) struct Router {
    _process: Process,
    _configuration: tempfile::TempDir,
    pub(crate) endpoint: String,
    rest: String,
}

impl Router {
    /// On ports that are free now.
    pub(crate) fn start() -> Router {
        let endpoint = format!("tcp/127.0.0.1:{}", free_port());
        let rest = format!("127.0.0.1:{}", free_port());
        let configuration = tempfile::tempdir().unwrap();
        let file = configuration.path().join("router.json5");
        let text = json!({
            "mode": "router",
            "listen": { "endpoints": [endpoint] },
            "scouting": { "multicast": { "enabled": false } },
            "plugins": { "rest": { "http_port": rest } },
        });
        std::fs::write(&file, text.to_string()).unwrap();
        let process = Process::start(Command::new(peer("ros2/debug/bridge")).arg(&file));
        process.wait_for_line("the router", STEP_LIMIT, |line| line == "ready");
        Router {
            _process: process,
            _configuration: configuration,
            endpoint,
            rest,
        }
    }

    /// A Python peer that takes orders, connected here.
    pub(crate) fn python(&self, script: &str, arguments: &[&str]) -> Process {
        let mut command = Command::new(peer("venv/bin/python"));
        command
            .arg(format!("tests/peers/{script}"))
            .arg(&self.endpoint)
            .args(arguments);
        Process::start_to_be_ordered(command.current_dir(env!("CARGO_MANIFEST_DIR")))
    }
}

/// A graph connected to a router.
pub(crate) struct Stage {
    pub(crate) launch: Process,
    pub(crate) router: Router,
    namespace: &'static str,
}

impl Stage {
    /// Starts a descriptor that has an argument `router`.
    pub(crate) fn set(
        router: Router,
        descriptor: &str,
        arguments: &[&str],
        namespace: &'static str,
    ) -> Stage {
        let mut command = llmasos();
        command
            .args(["launch", descriptor, "--json", "--duration", "600"])
            .arg(format!("router:={}", router.endpoint))
            .args(arguments);
        let launch = Process::start(&mut command);
        Stage {
            launch,
            router,
            namespace,
        }
    }

    pub(crate) fn key(&self, topic: &str) -> String {
        topic
            .strip_prefix('/')
            .map_or_else(|| format!("{}/{topic}", self.namespace), str::to_owned)
    }

    pub(crate) fn zenoh(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(peer("venv/bin/zenoh"));
        command
            .args(["--mode", "client", "--connect", &self.router.endpoint])
            .args(arguments);
        command
    }

    /// One run of zenoh-cli that puts each line, a key and a value.
    pub(crate) fn zenoh_put(&self, encoder: &str, lines: &[(String, String)]) {
        let mut command = self.zenoh(&["put", "--encoder", encoder, "--line", "{key} {value}"]);
        let process = Process::start_to_be_ordered(command.current_dir(env!("CARGO_MANIFEST_DIR")));
        for (key, value) in lines {
            process.order(&format!("{key} {value}"));
        }
        process.finish(STEP_LIMIT).expect_code(0);
    }

    /// One request of curl each.
    pub(crate) fn rest_put(&self, content_type: Option<&str>, key: &str, body: &[u8]) {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("body");
        std::fs::write(&file, body).unwrap();
        let mut curl = Command::new("curl");
        curl.args([
            "-sS",
            "--fail",
            "-X",
            "PUT",
            "--data-binary",
            &format!("@{}", file.display()),
        ]);
        if let Some(content_type) = content_type {
            curl.args(["-H", &format!("content-type: {content_type}")]);
        }
        finish(curl.arg(format!("http://{}/{key}", self.router.rest))).expect_code(0);
    }

    pub(crate) fn rest_get(&self, selector: &str) -> String {
        let mut curl = Command::new("curl");
        finish(curl.args([
            "-sS",
            "--fail",
            &format!("http://{}/{selector}", self.router.rest),
        ]))
        .expect_code(0)
        .stdout
    }

    /// What every edge has counted by now, from reports that came after this call.
    pub(crate) fn ledgers(&self) -> BTreeMap<Edge, LedgerCount> {
        let mut found = BTreeMap::new();
        let mark = self.launch.mark();
        for node in ["speech", "summary", "gate"] {
            let (report, _) = self
                .launch
                .wait_for_json_after(mark, node, STEP_LIMIT, |line| status(line, node).is_some());
            for pair in status(&report, node).unwrap()["values"].as_array().unwrap() {
                let count = pair["value"].as_str().and_then(LedgerCount::parse);
                if let (Some(edge), Some(count)) = (pair["key"].as_str(), count) {
                    found.insert((node.to_owned(), edge.to_owned()), count);
                }
            }
        }
        found
    }

    /// Runs `say` and waits until every edge has handled one more message; nothing may be refused.
    pub(crate) fn accepted(&self, what: &str, edges: &[Edge], say: impl FnOnce(&Stage)) {
        let known = |ledgers: &BTreeMap<Edge, LedgerCount>, edge: &Edge| {
            let count = ledgers.get(edge).copied();
            count.unwrap_or_else(|| panic!("{edge:?} is no edge of {ledgers:?}"))
        };
        let before = self.ledgers();
        say(self);
        let mut open = vec![];
        let done = wait_until(STEP_LIMIT, || {
            let now = self.ledgers();
            open.clear();
            for edge in edges {
                let (then, now) = (known(&before, edge), known(&now, edge));
                assert_eq!(
                    now.refused,
                    then.refused,
                    "{what}: {edge:?} refused it\n{}",
                    self.refusals()
                );
                if now.handled <= then.handled {
                    open.push((edge.clone(), now));
                }
            }
            open.is_empty().then_some(())
        });
        assert!(done.is_some(), "{what}: not handled by {open:?}");
    }

    /// The first refusal, for the message of a failure.
    fn refusals(&self) -> String {
        let refusal = |one: &Value| one["name"].as_str().is_some_and(|name| name.contains(": "));
        let line = self.launch.wait_for_json("a refusal", STEP_LIMIT, |line| {
            line["data"]["status"]
                .as_array()
                .is_some_and(|all| all.iter().any(refusal))
        });
        let all = line["data"]["status"].as_array().into_iter().flatten();
        all.filter(|one| refusal(one))
            .map(|one| format!("{}: {}\n", one["name"], one["message"]))
            .collect()
    }
}

/// The report of a node by the process it runs in, which is the one that knows its edges.
fn status<'a>(line: &'a Value, node: &str) -> Option<&'a Value> {
    let has_edges = |one: &&Value| {
        let values = one["values"].as_array();
        values.is_some_and(|all| {
            all.iter()
                .any(|pair| pair["key"].as_str().is_some_and(|key| key.contains(": ")))
        })
    };
    let all = line["data"]["status"].as_array()?;
    all.iter().filter(has_edges).find(|one| one["name"] == node)
}

/// Waits until each reader has reported that it refused something on this topic, with these words in its reason.
pub(crate) fn refused(stage: &Stage, mark: usize, topic: &str, readers: &[&str], says: &str) {
    for reader in readers {
        let name = format!("{reader}: {topic}");
        stage.launch.wait_for_json_after(
            mark,
            &format!("{name} refused because {says}"),
            STEP_LIMIT,
            |line| {
                line["data"]["status"].as_array().is_some_and(|all| {
                    all.iter().any(|one| {
                        one["name"] == name.as_str()
                            && one["message"]
                                .as_str()
                                .is_some_and(|message| message.contains(says))
                    })
                })
            },
        );
    }
}
