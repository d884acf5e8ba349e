//! Every way to get a catalogue wrong, with the place it is reported at.

use super::*;

const HASH: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

const GOOD: &str = "\
llmasos: models/v1
models:
  tiny:
    about: a model for tests
    role: encoder
    family: bert
    license: MIT
    sources:
      - registry: pypi
        package: tiny
        version: \"1.0\"
        file: tiny-1.0-py3-none-any.whl
        bytes: 10
        sha256: \"HASH\"
        members:
          - { path: tiny/model.onnx, bytes: 5, sha256: \"HASH\" }
    recipe: { kind: copy, files: { model.onnx: model.onnx } }
    bytes_on_disk: 6
";

fn good() -> String {
    GOOD.replace("HASH", HASH)
}

fn parsed(text: &str) -> Result<Vec<Entry>, ModelError> {
    parse("c.yaml", text, Path::new("/models"))
}

#[test]
fn the_built_in_catalogue_has_what_the_launch_files_name() {
    let catalogue = Catalogue::load(&[]).unwrap();
    for (name, role, family) in [
        ("smollm2", Role::Language, "llama"),
        ("moonshine-tiny-en", Role::SpeechRecognition, "moonshine"),
        ("silero-vad", Role::VoiceActivity, "silero-vad"),
        ("ssd-mobilenet-v2-coco", Role::Detector, "ssd"),
        ("qwen2.5-coder-0.5b", Role::Language, "llama"),
        ("gemma3-270m", Role::Language, "llama"),
        ("minilm-l6-v2", Role::Encoder, "bert"),
        ("minilm-l6-v2-fp32", Role::Encoder, "bert"),
        ("street-images", Role::Data, "images"),
        ("calibration-images", Role::Data, "images"),
        ("human-speech", Role::Data, "audio"),
        ("wikipedia-sample", Role::Data, "text"),
    ] {
        let entry = catalogue.get(name).unwrap();
        assert_eq!(
            (entry.role, entry.family.as_str()),
            (role, family),
            "{name}"
        );
    }
}

#[test]
fn mistakes_are_found_at_their_place() {
    // (line to replace, with what, line:column, words of the message, why)
    let cases: &[(&str, &str, &str, &str, &str)] = &[
        (
            "llmasos: models/v1",
            "llmasos: models/v2",
            "1:10",
            "expected 'models/v1', found 'models/v2'",
            "a newer format",
        ),
        (
            "llmasos: models/v1\n",
            "",
            "1:1",
            "'llmasos' is missing",
            "another YAML file",
        ),
        (
            "models:",
            "model:",
            "2:1",
            "unknown field 'model'; did you mean 'models'?",
            "typing mistake at the top",
        ),
        (
            "    role: encoder",
            "    rôle: encoder",
            "5:5",
            "unknown field 'rôle'; did you mean 'role'?",
            "typing mistake in a field",
        ),
        (
            "role: encoder",
            "role: encode",
            "5:11",
            "did you mean 'encoder'?",
            "typing mistake in a word",
        ),
        (
            "family: bert",
            "family: gpt",
            "6:13",
            "'gpt' is not one of",
            "a family no code runs",
        ),
        (
            "    license: MIT\n",
            "",
            "4:5",
            "'license' is missing",
            "no licence",
        ),
        (
            "version: \"1.0\"",
            "version: 1.0",
            "11:18",
            "put it in quotes",
            "YAML would read 1.0 and 1.00 alike",
        ),
        (
            "registry: pypi",
            "registry: npm",
            "9:19",
            "'npm' is not one of pypi",
            "a registry we cannot ask",
        ),
        (
            "package: tiny",
            "package: --index-url=x",
            "10:18",
            "package names",
            "an option instead of a name",
        ),
        (
            "package: tiny",
            "package: ../tiny",
            "10:18",
            "package names",
            "a path instead of a name",
        ),
        (
            "tiny-1.0-py3-none-any.whl",
            "tiny-1.0.tar.gz",
            "12:15",
            "runs code",
            "a source archive",
        ),
        ("bytes: 10", "bytes: 0", "13:16", "at least 1", "no size"),
        (
            "bytes: 10",
            "bytes: -1",
            "13:16",
            "at least 1",
            "a negative size",
        ),
        (
            "bytes: 10",
            "bytes: 10 MB",
            "13:16",
            "expected a whole number, found the text '10 MB'",
            "a size with a unit",
        ),
        (
            "bytes: 10",
            "bytes: 99999999999999",
            "13:16",
            "at most 68719476736",
            "a size no disk has",
        ),
        (
            HASH,
            "aa",
            "14:17",
            "64 lower-case hex digits, found 2",
            "a shortened hash",
        ),
        (
            "tiny/model.onnx, bytes",
            "../model.onnx, bytes",
            "16:21",
            "without '.' and '..'",
            "zip slip",
        ),
        (
            "tiny/model.onnx, bytes",
            "/model.onnx, bytes",
            "16:21",
            "without '.' and '..'",
            "an absolute path",
        ),
        (
            "tiny/model.onnx, bytes",
            "tiny\\model.onnx, bytes",
            "16:21",
            "without",
            "a backslash",
        ),
        (
            "bytes: 5,",
            "bytes: 5, as: ../x,",
            "16:52",
            "a file's name",
            "a name that leaves the folder",
        ),
        (
            "bytes: 5,",
            "bytes: 5, as: a/.x,",
            "16:52",
            "a file's name",
            "a hidden name in a folder",
        ),
        (
            "bytes: 5,",
            "bytes: 5, as: /x,",
            "16:52",
            "a file's name",
            "an absolute name",
        ),
        (
            "{ kind: copy, files: { model.onnx: model.onnx } }",
            "{ kind: huggingface, weights: fp32, head: fp32, accuracy_level: 0 }",
            "17:13",
            "reads 'config.json', which no source provides",
            "a folder without its configuration",
        ),
        (
            "bytes: 5,",
            "bytes: 5, as: .x,",
            "16:52",
            "a file's name",
            "a hidden name",
        ),
        (
            "    sources:\n",
            "    sources: []\n    x:\n",
            "9:5",
            "unknown field 'x'",
            "moved list",
        ),
        (
            "kind: copy",
            "kind: cpoy",
            "17:13",
            "recipe: unknown variant",
            "a recipe the forge does not know",
        ),
        (
            "kind: copy",
            "kind: copy, role: detector",
            "17:13",
            "must be the entry's, 'encoder'",
            "two roles",
        ),
        (
            "{ model.onnx: model",
            "{ modl.onnx: model",
            "17:13",
            "copies 'modl.onnx', which no source provides; did you mean 'model.onnx'?",
            "no such source",
        ),
        (
            "bytes_on_disk: 6",
            "bytes_on_disk: many",
            "18:20",
            "expected a whole number",
            "a word for a size",
        ),
        (
            "  tiny:",
            "  Tiny_1:",
            "3:3",
            "lower-case letters",
            "a name that is no folder name",
        ),
        (
            "about: a model",
            "about: [a",
            "5:",
            "not valid YAML",
            "broken YAML",
        ),
        (
            "    role: encoder",
            "    role: encoder\n    role: detector",
            "6:",
            "not valid YAML",
            "a field twice",
        ),
    ];
    for (old, new, place, says, why) in cases {
        let text = good();
        assert!(text.contains(old), "{why}");
        let message = parsed(&text.replacen(old, new, 1)).unwrap_err().to_string();
        assert!(
            message.starts_with(&format!("c.yaml:{place}")),
            "{why}: {message}"
        );
        assert!(message.contains(says), "{why}: {message}");
    }
}

#[test]
fn hostile_files_are_refused_quickly() {
    let brackets = format!("a: {}", "[".repeat(200_000));
    let indents: String = (0..5_000)
        .map(|depth| format!("{}a:\n", " ".repeat(depth)))
        .collect();
    let dashes = "- ".repeat(100_000);
    let laughs: String = (1..12).fold("a0: &a0 [x]\n".into(), |text, i| {
        let items = vec![format!("*a{}", i - 1); 9].join(",");
        format!("{text}a{i}: &a{i} [{items}]\n")
    });
    for (name, text) in [
        ("brackets", brackets),
        ("indents", indents),
        ("dashes", dashes),
        ("laughs", laughs),
    ] {
        let message = parsed(&text).unwrap_err().to_string();
        assert!(message.starts_with("c.yaml:"), "{name}: {message}");
    }
    assert!(parsed("").is_err());
    assert!(parsed("a: 1\n---\nb: 2").is_err());
}

#[test]
fn two_files_of_one_name_need_an_as() {
    let line = format!("          - {{ path: tiny/model.onnx, bytes: 5, sha256: \"{HASH}\" }}\n");
    let text = good().replace(
        &line,
        &format!("{line}          - {{ path: other/model.onnx, bytes: 5, sha256: \"{HASH}\" }}\n"),
    );
    assert!(
        parsed(&text)
            .unwrap_err()
            .to_string()
            .contains("two files of this entry are called 'model.onnx'")
    );
    let text = text.replace("other/model.onnx, ", "other/model.onnx, as: second.onnx, ");
    assert_eq!(
        parsed(&text).unwrap()[0].sources[0].leaves()[1].name,
        "second.onnx"
    );
}

#[test]
fn local_sources_are_relative_to_the_file() {
    let text = good();
    let (head, tail) = (
        text.split_once("      - registry").unwrap().0,
        text.split_once("    recipe").unwrap().1,
    );
    let text = format!(
        "{head}      - {{ path: weights/model.onnx, bytes: 5, sha256: \"{HASH}\" }}\n    recipe{tail}"
    );
    let entries = parsed(&text).unwrap();
    assert!(
        matches!(&entries[0].sources[0], Source::Local { path, .. } if path == Path::new("/models/weights/model.onnx"))
    );
}

#[test]
fn a_later_file_replaces_entries_and_unknown_names_get_a_hint() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mine.yaml");
    std::fs::write(&path, good().replace("  tiny:", "  smollm2:")).unwrap();
    let catalogue = Catalogue::load(std::slice::from_ref(&path)).unwrap();
    assert_eq!(catalogue.get("smollm2").unwrap().role, Role::Encoder);
    let message = catalogue.get("smolm2").unwrap_err().to_string();
    assert!(message.contains("did you mean 'smollm2'?"), "{message}");
    assert!(
        !catalogue
            .get("zzz")
            .unwrap_err()
            .to_string()
            .contains("did you mean")
    );
    assert!(matches!(
        Catalogue::load(&[folder.path().join("no.yaml")]),
        Err(ModelError::Io { .. })
    ));
}

#[test]
fn the_build_id_follows_the_content_only() {
    let id = |text: &str| parsed(text).unwrap()[0].build_id();
    let text = good();
    assert_eq!(
        id(&text),
        id(&text.replace("a model for tests", "other words"))
    );
    assert_ne!(
        id(&text),
        id(&text.replace(
            "files: { model.onnx: model.onnx }",
            "files: { model.onnx: m.onnx }"
        ))
    );
    assert_ne!(id(&text), id(&text.replacen("bytes: 5", "bytes: 4", 1)));
    assert_eq!(id(&text).len(), 12);
}
