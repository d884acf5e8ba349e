//! The files of the tree as the rules see them: which there are, and their Rust code without comments and literals.
//!
//! `tidy` and `layers` read the tree as text. A word in a comment or a string is not code, so both kinds are blanked
//! out first, character for character, which keeps line numbers right.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The folder of the root `Cargo.toml`.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every file of the tree, as paths relative to [`root`], sorted: what git tracks, or a walk where there is no git.
pub(crate) fn files() -> Vec<PathBuf> {
    let mut found = tracked().unwrap_or_else(|| {
        let mut all = Vec::new();
        walk(root(), &mut all);
        all
    });
    found.retain(|path| root().join(path).is_file()); // removed but not yet committed
    found.sort();
    assert!(
        found.len() > 20,
        "only {} files found under {}",
        found.len(),
        root().display()
    );
    found
}

/// The Rust files below `folder` that are part of the product: no test files, no test modules inside them.
pub(crate) fn product(folder: &str) -> Vec<(PathBuf, String)> {
    let found: Vec<_> = files()
        .into_iter()
        .filter(|path| path.starts_with(folder) && has_extension(path, "rs") && !is_test(path))
        .map(|path| {
            let code = code_only(&read(&path));
            (path, without_tests(&code).to_owned())
        })
        .collect();
    assert!(
        !found.is_empty(),
        "no Rust file under {folder}: the layout changed, change the rule with it"
    );
    found
}

/// The text of a file of the tree; the path is relative to [`root`].
pub(crate) fn read(path: &Path) -> String {
    std::fs::read_to_string(root().join(path))
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Whether the file's name ends in `.extension`.
pub(crate) fn has_extension(path: &Path, extension: &str) -> bool {
    path.extension().is_some_and(|found| found == extension)
}

/// Whether the whole file is test code.
pub(crate) fn is_test(path: &Path) -> bool {
    let in_folder = path
        .components()
        .any(|part| matches!(part.as_os_str().to_str(), Some("tests" | "benches")));
    in_folder || path.to_string_lossy().ends_with("tests.rs")
}

/// The code before the test module at the end of a file, if there is one.
pub(crate) fn without_tests(code: &str) -> &str {
    let test_module = code.match_indices("#[cfg(test)]").find(|(at, attribute)| {
        let after = code[at + attribute.len()..].trim_start();
        let (brace, semicolon) = (after.find('{'), after.find(';'));
        let is_inline =
            brace.is_some_and(|brace| semicolon.is_none_or(|semicolon| brace < semicolon));
        after.starts_with("mod ") && is_inline
    });
    test_module.map_or(code, |(at, _)| &code[..at])
}

/// Rust code with comments and the insides of string and character literals turned into spaces; lines stay lines.
pub(crate) fn code_only(source: &str) -> String {
    let chars: Vec<char> = source.chars().collect();
    let mut out = String::with_capacity(source.len());
    let mut at = 0;
    while at < chars.len() {
        let end = literal_end(&chars, at);
        if end > at {
            out.extend(
                chars[at..end]
                    .iter()
                    .map(|&c| if c == '\n' { '\n' } else { ' ' }),
            );
            at = end;
        } else {
            out.push(chars[at]);
            at += 1;
        }
    }
    out
}

/// Where the comment or literal that starts at `at` ends; `at` itself when none starts there.
fn literal_end(chars: &[char], at: usize) -> usize {
    let next = chars.get(at + 1).copied();
    let starts_word = at == 0 || !(chars[at - 1].is_alphanumeric() || chars[at - 1] == '_');
    match chars[at] {
        '/' if next == Some('/') => find(chars, at, |c, _| c == '\n'),
        '/' if next == Some('*') => block_comment_end(chars, at),
        '"' => quoted_end(chars, at),
        'r' if starts_word && matches!(next, Some('"' | '#')) => {
            raw_string_end(chars, at + 1).unwrap_or(at)
        }
        'b' if starts_word && next == Some('r') => raw_string_end(chars, at + 2).unwrap_or(at),
        '\'' if next == Some('\\') => find(chars, at + 3, |c, _| c == '\'') + 1,
        '\'' if chars.get(at + 2) == Some(&'\'') => at + 3,
        _ => at, // a quote that is left is a lifetime
    }
}

fn find(chars: &[char], from: usize, stop: impl Fn(char, usize) -> bool) -> usize {
    (from..chars.len())
        .find(|&i| stop(chars[i], i))
        .unwrap_or(chars.len())
}

fn quoted_end(chars: &[char], at: usize) -> usize {
    let mut i = at + 1;
    while i < chars.len() && chars[i] != '"' {
        i += if chars[i] == '\\' { 2 } else { 1 };
    }
    (i + 1).min(chars.len())
}

fn raw_string_end(chars: &[char], hashes_at: usize) -> Option<usize> {
    let hashes = chars[hashes_at..].iter().take_while(|&&c| c == '#').count();
    let open = hashes_at + hashes;
    (chars.get(open) == Some(&'"')).then(|| {
        let closes = |c: char, i: usize| {
            c == '"' && chars[i + 1..].iter().take_while(|&&c| c == '#').count() >= hashes
        };
        (find(chars, open + 1, closes) + 1 + hashes).min(chars.len())
    })
}

fn block_comment_end(chars: &[char], at: usize) -> usize {
    let mut depth = 0usize;
    let mut i = at;
    while i + 1 < chars.len() {
        match (chars[i], chars[i + 1]) {
            ('/', '*') => (depth, i) = (depth + 1, i + 2),
            ('*', '/') if depth == 1 => return i + 2,
            ('*', '/') => (depth, i) = (depth - 1, i + 2),
            _ => i += 1,
        }
    }
    chars.len()
}

fn tracked() -> Option<Vec<PathBuf>> {
    let output = Command::new("git")
        .current_dir(root())
        .args(["ls-files", "-z"])
        .output()
        .ok()?;
    let names = String::from_utf8(output.stdout).ok()?;
    let found: Vec<_> = names.split_terminator('\0').map(PathBuf::from).collect();
    (output.status.success() && !found.is_empty()).then_some(found)
}

fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let relative = path.strip_prefix(root()).unwrap().to_path_buf();
        let built = relative == Path::new("target") || relative == Path::new(".git");
        if path.is_dir() && !built {
            walk(&path, found);
        } else if path.is_file() {
            found.push(relative);
        }
    }
}

#[test]
fn comments_and_literals_are_not_code() {
    const CASES: &[(&str, &str)] = &[
        ("a // b\nc", "a     \nc"),
        ("a /* b /* c */ d */ e", "a                   e"),
        ("f(\"x // y\") // z", "f(        )     "),
        ("f(r#\"x\" y\"#, b)", "f(         , b)"),
        ("f('\"', '\\'', b)", "f(   ,     , b)"),
        ("fn f<'a>(x: &'a str) {}", "fn f<'a>(x: &'a str) {}"),
        ("\"a\\\"b\" c", "       c"),
    ];
    for (source, expected) in CASES {
        assert_eq!(code_only(source), *expected, "of {source:?}");
    }
}

#[test]
fn only_an_inline_test_module_ends_the_product_code() {
    assert_eq!(without_tests("a\n#[cfg(test)]\nmod tests { b }"), "a\n");
    assert_eq!(
        without_tests("#[cfg(test)]\nmod tests;\na"),
        "#[cfg(test)]\nmod tests;\na"
    );
    assert_eq!(
        without_tests("#[cfg(test)]\nuse b;\na"),
        "#[cfg(test)]\nuse b;\na"
    );
}

#[test]
fn the_walk_without_git_finds_what_git_tracks() {
    let mut walked = Vec::new();
    walk(root(), &mut walked);
    let missing: Vec<_> = files()
        .into_iter()
        .filter(|path| !walked.contains(path))
        .collect();
    assert!(missing.is_empty(), "the walk misses {missing:?}");
}
