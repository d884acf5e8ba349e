//! The invariants of the layout, each an absence: who may not know whom, and who may not do what.
//!
//! Dependencies are read from `cargo metadata`, imports and calls from the sources without comments, literals and test
//! modules. A broken rule is named with the file and the reason the rule exists.
//!
//! ```text
//! msgs ───────────┐
//!                 ├─► nodes ─► launch
//! onnx/engine ────┤              ▲
//!      ▲                         │
//! onnx/kernels ──► onnx/forge ───┘
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::sources::{product, read, root};

/// What a crate may not depend on, directly, and why.
struct Forbidden {
    package: &'static str,
    dependencies: &'static [&'static str],
    why: &'static str,
}

const ASYNC: &[&str] = &[
    "tokio",
    "async-std",
    "smol",
    "futures",
    "futures-util",
    "ractor",
];

const FORBIDDEN: &[Forbidden] = &[
    Forbidden {
        package: "llmasos-msgs",
        dependencies: &[
            "llmasos-engine",
            "llmasos-forge",
            "llmasos-fleet",
            "llmasos-nodes",
            "llmasos",
        ],
        why: "messages know no model and no node",
    },
    Forbidden {
        package: "llmasos-msgs",
        dependencies: &["zenoh", "tokio", "ort", "ort-sys", "ractor"],
        why: "messages are bytes: any transport and any runtime can carry them",
    },
    Forbidden {
        package: "llmasos-engine",
        dependencies: &[
            "llmasos-msgs",
            "llmasos-forge",
            "llmasos-fleet",
            "llmasos-nodes",
            "llmasos",
            "zenoh",
        ],
        why: "a model that runs knows no message, no bus and no node",
    },
    Forbidden {
        package: "llmasos-forge",
        dependencies: &["llmasos-msgs", "llmasos-nodes", "llmasos", "zenoh"],
        why: "making models knows no message, no bus and no node",
    },
    Forbidden {
        package: "llmasos-kernels",
        dependencies: &[
            "llmasos-msgs",
            "llmasos-engine",
            "llmasos-forge",
            "llmasos-nodes",
            "llmasos",
            "zenoh",
            "serde",
            "tracing",
        ],
        why: "arithmetic knows slices and threads, nothing else: it is the crate with unsafe code",
    },
    Forbidden {
        package: "llmasos-kernels",
        dependencies: ASYNC,
        why: "nothing under onnx is async",
    },
    Forbidden {
        package: "llmasos-engine",
        dependencies: ASYNC,
        why: "nothing under onnx is async",
    },
    Forbidden {
        package: "llmasos-forge",
        dependencies: ASYNC,
        why: "nothing under onnx is async",
    },
    Forbidden {
        package: "llmasos-nodes",
        dependencies: &["llmasos-forge", "llmasos"],
        why: "a vehicle runs models, it does not make them, and it never reads descriptors",
    },
];

/// Words that may not occur in the code below a folder.
struct Absent {
    folder: &'static str,
    words: &'static [&'static str],
    why: &'static str,
}

const PRINTS: &[&str] = &[
    "println!",
    "print!",
    "eprintln!",
    "eprint!",
    "io::stdout",
    "io::stderr",
    "process::exit",
];
const ENVIRONMENT: &[&str] = &[
    "env::var",
    "env::vars",
    "env::var_os",
    "env::args",
    "env::set_var",
];
const CODE_IS_ASYNC: &[&str] = &["async fn", "async move", "async {", ".await"];

const ABSENT: &[Absent] = &[
    Absent {
        folder: "onnx/kernels/src",
        words: PRINTS,
        why: "only launch prints and chooses exit codes",
    },
    Absent {
        folder: "onnx/kernels/src",
        words: ENVIRONMENT,
        why: "only launch reads the environment",
    },
    Absent {
        folder: "onnx/kernels/src",
        words: &["std::fs", "std::net", "Instant::now", "SystemTime"],
        why: "arithmetic opens nothing and knows no time",
    },
    Absent {
        folder: "onnx/engine/src",
        words: CODE_IS_ASYNC,
        why: "nothing under onnx is async",
    },
    Absent {
        folder: "onnx/forge/src",
        words: CODE_IS_ASYNC,
        why: "nothing under onnx is async",
    },
    Absent {
        folder: "onnx/engine/src",
        words: PRINTS,
        why: "only launch prints and chooses exit codes",
    },
    Absent {
        folder: "onnx/forge/src",
        words: PRINTS,
        why: "only launch prints and chooses exit codes",
    },
    Absent {
        folder: "msgs/src",
        words: PRINTS,
        why: "only launch prints and chooses exit codes",
    },
    Absent {
        folder: "nodes/src",
        words: PRINTS,
        why: "only launch prints and chooses exit codes",
    },
    Absent {
        folder: "onnx/engine/src",
        words: ENVIRONMENT,
        why: "only launch reads the environment",
    },
    Absent {
        folder: "onnx/forge/src",
        words: ENVIRONMENT,
        why: "only launch reads the environment",
    },
    Absent {
        folder: "msgs/src",
        words: ENVIRONMENT,
        why: "only launch reads the environment",
    },
    Absent {
        folder: "nodes/src",
        words: ENVIRONMENT,
        why: "only launch reads the environment",
    },
    Absent {
        folder: "msgs/src",
        words: &["zenoh", "tokio", "ort::"],
        why: "messages are bytes",
    },
    Absent {
        folder: "launch",
        words: &["zenoh::open"],
        why: "launch reaches the bus through nodes::bus",
    },
    Absent {
        folder: "launch",
        words: &["ort::"],
        why: "only onnx/engine links ONNX Runtime",
    },
    Absent {
        folder: "nodes/src",
        words: &["ort::"],
        why: "only onnx/engine links ONNX Runtime",
    },
];

/// The nodes, by module of `llmasos_nodes`: they meet on topics only.
const NODE_MODULES: &[&str] = &["speech", "summary", "advisor", "gate"];

#[test]
fn crates_do_not_know_what_they_should_not() {
    let dependencies = dependencies();
    let mut broken = Vec::new();
    for rule in FORBIDDEN {
        let found = dependencies
            .get(rule.package)
            .unwrap_or_else(|| panic!("no package {} in the workspace", rule.package));
        let wrong = rule
            .dependencies
            .iter()
            .filter(|name| found.contains(**name));
        broken
            .extend(wrong.map(|name| format!("{} depends on {name}: {}", rule.package, rule.why)));
    }
    report(&broken);
}

#[test]
fn only_the_engine_links_onnx_runtime() {
    let broken: Vec<_> = dependencies()
        .iter()
        .filter(|(package, found)| {
            *package != "llmasos-engine" && (found.contains("ort") || found.contains("ort-sys"))
        })
        .map(|(package, _)| {
            format!("{package} depends on ort: one crate owns the runtime and its version")
        })
        .collect();
    report(&broken);
}

/// `unsafe` where it was weighed: vector instructions and rows that threads share. Elsewhere the compiler refuses it, unless a line
/// lifts that; one file may, to map files into memory.
#[test]
fn unsafe_code_stands_in_the_kernels_only() {
    let mut broken = Vec::new();
    for folder in [
        "msgs/src",
        "nodes/src",
        "launch",
        "onnx/engine/src",
        "onnx/forge/src",
    ] {
        for (path, code) in product(folder) {
            if path.ends_with("onnx/forge/src/mapped.rs") {
                continue;
            }
            broken.extend(
                occurrences(
                    &code,
                    &["unsafe {", "unsafe fn", "unsafe impl", "allow(unsafe_code)"],
                )
                .map(|(line, word)| {
                    format!(
                        "{}:{line}: `{word}`: onnx/kernels is the place for it",
                        path.display()
                    )
                }),
            );
        }
    }
    report(&broken);
}

#[test]
fn sources_do_not_do_what_they_should_not() {
    let mut broken = Vec::new();
    for rule in ABSENT {
        for (path, code) in product(rule.folder) {
            broken.extend(
                occurrences(&code, rule.words).map(|(line, word)| {
                    format!("{}:{line}: `{word}`: {}", path.display(), rule.why)
                }),
            );
        }
    }
    report(&broken);
}

#[test]
fn nodes_meet_on_topics_only() {
    let mut broken = Vec::new();
    let modules = node_modules();
    for &module in NODE_MODULES {
        assert!(
            files_of(&modules, module).next().is_some(),
            "no module {module} in nodes/src: rename it in this test too"
        );
        for (path, code) in files_of(&modules, module) {
            let others = imported(code)
                .into_iter()
                .filter(|name| name != module && NODE_MODULES.contains(&name.as_str()));
            broken.extend(others.map(|name| {
                format!("{}: uses crate::{name}: a node can be replaced or moved only if no other node calls it", path.display())
            }));
        }
    }
    report(&broken);
}

#[test]
fn the_gate_reaches_no_model() {
    let modules = node_modules();
    let mut reached = BTreeSet::from(["gate".to_owned()]);
    let mut next = vec!["gate".to_owned()];
    let mut broken = Vec::new();
    assert!(
        files_of(&modules, "gate").next().is_some(),
        "no module gate in nodes/src: rename it in this test too"
    );
    while let Some(module) = next.pop() {
        for (path, code) in files_of(&modules, &module) {
            broken.extend(occurrences(code, &["llmasos_engine"]).map(|(line, word)| {
                format!(
                    "{}:{line}: `{word}`, reached from the gate: the gate's process loads no model",
                    path.display()
                )
            }));
            next.extend(
                imported(code)
                    .into_iter()
                    .filter(|name| reached.insert(name.clone())),
            );
        }
    }
    report(&broken);
}

#[test]
fn panics_unwind() {
    for manifest in [
        "Cargo.toml",
        "msgs/Cargo.toml",
        "nodes/Cargo.toml",
        "onnx/engine/Cargo.toml",
        "onnx/forge/Cargo.toml",
    ] {
        for (number, line) in read(Path::new(manifest)).lines().enumerate() {
            let setting: String = line
                .split('#')
                .next()
                .unwrap_or("")
                .split_whitespace()
                .collect();
            assert!(
                !setting.contains("panic=\"abort\""),
                "{manifest}:{}: panic = \"abort\" would switch supervision off",
                number + 1
            );
        }
    }
}

fn report(broken: &[String]) {
    assert!(
        broken.is_empty(),
        "the layers are broken:\n  {}",
        broken.join("\n  ")
    );
}

/// Direct dependencies (not those of tests and build scripts) by package of the workspace.
fn dependencies() -> BTreeMap<String, BTreeSet<String>> {
    let output = Command::new(env!("CARGO"))
        .current_dir(root())
        .args([
            "metadata",
            "--offline",
            "--no-deps",
            "--format-version",
            "1",
        ])
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "cargo metadata: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let name = |value: &Value| value["name"].as_str().unwrap().to_owned();
    let packages = metadata["packages"].as_array().unwrap().iter();
    packages
        .map(|package| {
            let all = package["dependencies"].as_array().unwrap().iter();
            (
                name(package),
                all.filter(|dependency| dependency["kind"].is_null())
                    .map(name)
                    .collect(),
            )
        })
        .collect()
}

/// Lines (from 1) of `code` that hold one of `words` as a whole word.
fn occurrences<'a>(code: &'a str, words: &'a [&'a str]) -> impl Iterator<Item = (usize, &'a str)> {
    code.lines().enumerate().flat_map(move |(number, line)| {
        words
            .iter()
            .filter(move |word| holds(line, word))
            .map(move |word| (number + 1, *word))
    })
}

fn holds(line: &str, word: &str) -> bool {
    let in_word = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(at, _)| {
        let before =
            line[..at].chars().next_back().is_some_and(in_word) && word.starts_with(in_word);
        let after =
            line[at + word.len()..].chars().next().is_some_and(in_word) && word.ends_with(in_word);
        !before && !after
    })
}

/// The product code of `nodes` with the path inside `nodes/src`.
fn node_modules() -> Vec<(PathBuf, String)> {
    let found = product("nodes/src");
    found
        .into_iter()
        .map(|(path, code)| (path.strip_prefix("nodes/src").unwrap().to_path_buf(), code))
        .collect()
}

/// The files of one top-level module: `module.rs` and all below `module/`.
fn files_of<'a>(
    all: &'a [(PathBuf, String)],
    module: &'a str,
) -> impl Iterator<Item = (&'a Path, &'a str)> {
    all.iter()
        .filter(move |(path, _)| {
            path.starts_with(module) || path.as_path() == Path::new(&format!("{module}.rs"))
        })
        .map(|(path, code)| (path.as_path(), code.as_str()))
}

/// Top-level modules of its own crate that `code` names: `crate::x`, `crate::{x, y::z}`.
fn imported(code: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for (at, prefix) in code.match_indices("crate::") {
        let rest = &code[at + prefix.len()..];
        match rest.strip_prefix('{') {
            None => drop(names.insert(identifier(rest))),
            Some(group) => {
                let mut depth = 0;
                let mut item = String::new();
                for c in group.chars() {
                    match c {
                        '{' => depth += 1,
                        '}' if depth == 0 => break,
                        '}' => depth -= 1,
                        ',' if depth == 0 => {
                            names.insert(identifier(std::mem::take(&mut item).trim()));
                        }
                        _ if depth == 0 => item.push(c),
                        _ => {}
                    }
                }
                names.insert(identifier(item.trim()));
            }
        }
    }
    names.remove("");
    names
}

fn identifier(text: &str) -> String {
    text.chars()
        .take_while(|c| c.is_alphanumeric() || *c == '_')
        .collect()
}

#[test]
fn imports_are_read_as_rust_means_them() {
    const CASES: &[(&str, &[&str])] = &[
        ("use crate::bus::Bus;", &["bus"]),
        (
            "use crate::{bus::{Bus, Qos}, gate, speech::intent};",
            &["bus", "gate", "speech"],
        ),
        ("let x = crate::advisor::f();", &["advisor"]),
        ("use super::frame;", &[]),
    ];
    for (code, expected) in CASES {
        let expected: BTreeSet<_> = expected.iter().map(|name| (*name).to_owned()).collect();
        assert_eq!(imported(code), expected, "of {code:?}");
    }
}

#[test]
fn words_are_found_whole() {
    assert!(holds("let a = std::env::var(name)", "env::var"));
    assert!(!holds("let a = std::env::variable(name)", "env::var"));
    assert!(holds("ort::init()", "ort::"));
    assert!(!holds("transport::init()", "ort::"));
    assert!(holds("x().await?", ".await"));
}
