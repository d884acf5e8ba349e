//! The rules every file of the tree keeps: its place, its length, its first line, the words it may not hold.
//!
//! Each rule is a table or a limit with its reason; a message names the file, the line and the rule.

use std::path::Path;

use crate::sources::{code_only, files, has_extension, is_test, read, root, without_tests};

/// The longest a source file may be: beyond this it has more than one subject.
const MAX_LINES: usize = 800;
/// README is read in one go or not at all.
const MAX_README_LINES: usize = 200;
/// Nothing bigger belongs into a history that everybody clones; models come from the catalogue.
const MAX_FILE_BYTES: u64 = 2_000_000;

const TOP_LEVEL: &[&str] = &[
    "Cargo.toml",
    "Cargo.lock",
    "LICENSE",
    "README.md",
    "nodes",
    "msgs",
    "launch",
    "onnx",
    "tests",
];

/// Code that says it is not finished, split so that this file does not break its own rule when read as text.
const UNFINISHED: &[&str] = &[
    concat!("to", "do!"),
    concat!("unimple", "mented!"),
    concat!("d", "bg!"),
];
/// What stands in for the real thing has no place in the product.
const STAND_INS: &[&str] = &["stub", "mock", "fake", "dummy", "placeholder"];

fn report(rule: &str, broken: &[String]) {
    assert!(broken.is_empty(), "{rule}:\n  {}", broken.join("\n  "));
}

#[test]
fn top_level_entries_are_the_agreed_ones() {
    let broken: Vec<_> = files()
        .iter()
        .filter_map(|path| {
            path.components()
                .next()?
                .as_os_str()
                .to_str()
                .map(str::to_owned)
        })
        .filter(|entry| !entry.starts_with('.') && !TOP_LEVEL.contains(&entry.as_str()))
        .collect();
    report(
        &format!("entries besides dot-files and {TOP_LEVEL:?}"),
        &broken,
    );
}

#[test]
fn source_files_have_one_subject() {
    let broken: Vec<_> = files()
        .iter()
        .filter(|path| has_extension(path, "rs") || has_extension(path, "py"))
        .map(|path| (path, read(path).lines().count()))
        .filter(|(_, lines)| *lines > MAX_LINES)
        .map(|(path, lines)| format!("{}: {lines} lines", path.display()))
        .collect();
    report(
        &format!("files of more than {MAX_LINES} lines: divide them by subject"),
        &broken,
    );
}

#[test]
fn rust_files_open_with_their_purpose() {
    let broken: Vec<_> = files()
        .iter()
        .filter(|path| has_extension(path, "rs") && !read(path).starts_with("//! "))
        .map(|path| path.display().to_string())
        .collect();
    report(
        "Rust files that do not open with `//! ` and a sentence",
        &broken,
    );
}

#[test]
fn readme_is_short() {
    let readme = Path::new("README.md");
    if files().iter().any(|path| path == readme) {
        let lines = read(readme).lines().count();
        assert!(
            lines <= MAX_README_LINES,
            "README.md has {lines} lines, at most {MAX_README_LINES} are read"
        );
    }
}

#[test]
fn no_file_is_big() {
    let broken: Vec<_> = files()
        .iter()
        .map(|path| (path, root().join(path).metadata().unwrap().len()))
        .filter(|(_, bytes)| *bytes > MAX_FILE_BYTES)
        .map(|(path, bytes)| format!("{}: {bytes} bytes", path.display()))
        .collect();
    report(
        &format!("files over {MAX_FILE_BYTES} bytes: fetch them by name and hash instead"),
        &broken,
    );
}

#[test]
fn code_is_finished_and_tests_run() {
    let mut broken = Vec::new();
    for path in files().iter().filter(|path| has_extension(path, "rs")) {
        let code = code_only(&read(path));
        for (number, line) in code.lines().enumerate() {
            let words = UNFINISHED
                .iter()
                .chain(&["#[ignore"])
                .filter(|word| has_macro(line, word));
            broken.extend(words.map(|word| format!("{}:{}: `{word}`", path.display(), number + 1)));
        }
    }
    report("unfinished code, or a test that does not run", &broken);
}

#[test]
fn the_product_holds_no_stand_ins() {
    let mut broken = Vec::new();
    for path in files()
        .iter()
        .filter(|path| has_extension(path, "rs") && !is_test(path))
    {
        let source = read(path);
        for (number, line) in without_tests(&source).lines().enumerate() {
            let lower = line.to_lowercase();
            let mut words = lower.split(|c: char| !c.is_ascii_alphabetic());
            if let Some(word) = words.find(|word| STAND_INS.contains(word)) {
                broken.push(format!("{}:{}: `{word}`", path.display(), number + 1));
            }
        }
    }
    report("words of stand-ins in product code", &broken);
}

#[test]
fn every_test_file_is_part_of_a_test_binary() {
    let declared = |main: &str| -> Vec<String> {
        code_only(&read(Path::new(main)))
            .lines()
            .filter_map(|line| {
                line.trim()
                    .strip_prefix("mod ")?
                    .strip_suffix(';')
                    .map(str::to_owned)
            })
            .collect()
    };
    let modules = declared("tests/main.rs");
    let broken: Vec<_> = files()
        .iter()
        .filter(|path| path.parent() == Some(Path::new("tests")) && has_extension(path, "rs"))
        .map(|path| path.file_stem().unwrap().to_string_lossy().into_owned())
        .filter(|stem| stem != "main" && !modules.contains(stem))
        .collect();
    report(
        "files of tests/ that tests/main.rs does not declare, so nothing runs them",
        &broken,
    );
}

/// Whether `line` holds `word` as a whole macro or attribute, not as the tail of a longer name.
fn has_macro(line: &str, word: &str) -> bool {
    line.match_indices(word)
        .any(|(at, _)| !line[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_'))
}
