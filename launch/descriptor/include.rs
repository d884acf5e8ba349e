//! From files to one tree: `include:` and `profiles:`.
//!
//! One rule merges both: mappings are merged key by key, `null` removes a key, anything else (a list too) replaces what was there.
//! An including file wins over what it includes, a later include over an earlier one, a profile over the file. Which files are
//! read is written in the files alone: no expression may stand in an `include:`, so neither the environment nor the command line
//! decides what is opened.
//!
//! ```text
//! include[0] ◄─ include[1] ◄─ the file ◄─ --profile a ◄─ --profile b        (◄─ = is overlaid by)
//! ```

use std::io::Read;
use std::path::{Path, PathBuf};

use super::findings::{At, Files, Findings};
use super::yaml::{self, MAX_FILE_BYTES, MAX_NODES, Node, Value};

/// Deepest chain of includes.
pub const MAX_INCLUDE_DEPTH: usize = 8;
/// Most files of one descriptor.
pub const MAX_FILES: usize = 64;

/// Reads a file with everything it includes. `None` when the file itself cannot be used.
pub fn read_file(path: &Path, files: &mut Files, findings: &mut Findings) -> Option<Node> {
    let mut reader = Reader {
        files,
        findings,
        count: 0,
    };
    reader.file(path, At::default(), &mut Vec::new())
}

/// Lays the chosen profiles over the tree and takes `profiles:` out of it.
pub fn choose_profiles(root: &mut Node, chosen: &[String], findings: &mut Findings) {
    let Some(profiles) = root.take("profiles") else {
        for name in chosen {
            findings.error(
                root.at,
                format!("profile \"{name}\" was asked for, the descriptor has no profiles"),
            );
        }
        return;
    };
    for name in chosen {
        match profiles.node.get(name) {
            Some(profile) => overlay(root, profile.clone()),
            None => {
                let known = profiles.node.entries().iter().map(|e| e.key.as_str());
                findings.unknown(profiles.key_at, "profile", name, known);
            }
        }
    }
}

/// Lays `over` onto `under`: the merge rule of this module.
pub fn overlay(under: &mut Node, over: Node) {
    let over_at = over.at;
    match (&mut under.value, over.value) {
        (Value::Map(below), Value::Map(above)) => {
            for entry in above {
                match below.iter_mut().position(|e| e.key == entry.key) {
                    Some(index) if entry.node.value == Value::Null => {
                        below.remove(index);
                    }
                    Some(index) => {
                        below[index].key_at = entry.key_at;
                        overlay(&mut below[index].node, entry.node);
                    }
                    None if entry.node.value == Value::Null => {}
                    None => below.push(entry),
                }
            }
        }
        (_, value) => under.value = value,
    }
    under.at = over_at;
}

struct Reader<'a> {
    files: &'a mut Files,
    findings: &'a mut Findings,
    count: usize,
}

impl Reader<'_> {
    /// Reads one file; `from` is where it is asked for, `chain` the files on the way to it.
    fn file(&mut self, path: &Path, from: At, chain: &mut Vec<PathBuf>) -> Option<Node> {
        let real = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
        self.count = self.count.saturating_add(1);
        if chain.contains(&real) {
            self.findings
                .error(from, format!("{} includes itself", path.display()));
            return None;
        }
        if chain.len() >= MAX_INCLUDE_DEPTH || self.count > MAX_FILES {
            let message = format!(
                "too many includes, at most {MAX_INCLUDE_DEPTH} deep and {MAX_FILES} in all"
            );
            self.findings.error(from, message);
            return None;
        }
        let text = match read_text(path) {
            Ok(text) => text,
            Err(message) => {
                let from = if chain.is_empty() {
                    self.add(path)?
                } else {
                    from
                };
                self.findings
                    .error(from, format!("{}: {message}", path.display()));
                return None;
            }
        };
        let at = self.add(path)?;
        let mut root = yaml::read(&text, at.file, self.findings)?;
        if !matches!(root.value, Value::Map(_)) {
            self.findings.error(
                root.at,
                format!("expected a mapping, found {}", root.describe()),
            );
            return None;
        }
        let Some(include) = root.take("include") else {
            return Some(root);
        };
        chain.push(real);
        let base = self.includes(path, &include.node, chain);
        chain.pop();
        let Some(mut base) = base else {
            return Some(root);
        };
        overlay(&mut base, root);
        if base.size() > MAX_NODES {
            let message = format!("more than {MAX_NODES} values with what is included");
            self.findings.error(include.key_at, message);
            return None;
        }
        Some(base)
    }

    /// Reads what `include:` of the file at `path` names, each laid over the ones before.
    fn includes(&mut self, path: &Path, include: &Node, chain: &mut Vec<PathBuf>) -> Option<Node> {
        let mut base: Option<Node> = None;
        for item in include.items() {
            match item.text() {
                Some(name) if !name.contains("${") && !name.is_empty() => {
                    let path = path.parent().unwrap_or(Path::new("")).join(name);
                    let Some(tree) = self.file(&path, item.at, chain) else {
                        continue;
                    };
                    match &mut base {
                        Some(base) => overlay(base, tree),
                        None => base = Some(tree),
                    }
                }
                Some(_) => self
                    .findings
                    .error(item.at, "an include is a plain path, without expressions"),
                None => self.findings.error(
                    item.at,
                    format!("expected a path, found {}", item.describe()),
                ),
            }
        }
        base
    }

    /// Registers a file; its place is line 0 of it.
    fn add(&mut self, path: &Path) -> Option<At> {
        let file = self.files.add(path)?;
        Some(At {
            file,
            line: 0,
            column: 0,
        })
    }
}

/// Reads a text file, not more than the limit of the reader and one byte.
fn read_text(path: &Path) -> Result<String, String> {
    let file = std::fs::File::open(path).map_err(|e| e.to_string())?;
    if file.metadata().is_ok_and(|m| m.is_dir()) {
        return Err("is a folder, a file was expected".into());
    }
    let mut bytes = Vec::new();
    file.take(MAX_FILE_BYTES as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(|e| e.to_string())?;
    String::from_utf8(bytes)
        .map_err(|e| format!("is not UTF-8 from byte {}", e.utf8_error().valid_up_to()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_all(files: &[(&str, &str)], profiles: &[&str]) -> (Option<Node>, Vec<String>) {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let (mut seen, mut findings) = (Files::default(), Findings::default());
        let mut root = read_file(&folder.path().join(files[0].0), &mut seen, &mut findings);
        let chosen: Vec<String> = profiles.iter().map(|p| (*p).to_owned()).collect();
        if let Some(root) = &mut root {
            choose_profiles(root, &chosen, &mut findings);
        }
        let prefix = format!("{}/", folder.path().display());
        (
            root,
            findings
                .lines(&seen)
                .iter()
                .map(|l| l.replace(&prefix, ""))
                .collect(),
        )
    }

    #[test]
    fn the_including_file_wins_and_null_removes() {
        let files = [
            (
                "a.yaml",
                "include: [sub/b.yaml, c.yaml]\nx: { p: 1 }\nl: [9]\ngone: ~\n",
            ),
            (
                "sub/b.yaml",
                "x: { p: 0, q: 2 }\nl: [1, 2]\ngone: 3\ny: b\n",
            ),
            ("c.yaml", "y: c\n"),
        ];
        let (root, lines) = read_all(&files, &[]);
        let root = root.unwrap();
        assert_eq!(lines, Vec::<String>::new());
        let number = |key: &str| {
            root.get("x")
                .and_then(|x| x.get(key))
                .and_then(Node::number)
        };
        assert_eq!((number("p"), number("q")), (Some(1.0), Some(2.0)));
        assert_eq!(root.get("l").unwrap().items().len(), 1);
        assert_eq!(
            (root.get("y").and_then(Node::text), root.get("gone")),
            (Some("c"), None)
        );
        let q = root.get("x").unwrap().get("q").unwrap().at;
        assert_eq!(
            (q.file, q.line),
            (1, 1),
            "a value keeps the place it comes from"
        );
    }

    #[test]
    fn profiles_are_laid_over() {
        let file = [(
            "a.yaml",
            "x: 1\nprofiles:\n  fast: { x: 2 }\n  slow: { x: 3, y: 4 }\n",
        )];
        let (root, _) = read_all(&file, &["slow", "fast"]);
        let root = root.unwrap();
        assert_eq!(
            (
                root.get("x").and_then(Node::number),
                root.get("y").and_then(Node::number)
            ),
            (Some(2.0), Some(4.0))
        );
        let (_, lines) = read_all(&file, &["fats"]);
        assert_eq!(
            lines,
            ["a.yaml:2:1: error: unknown profile \"fats\" (did you mean \"fast\"?)"]
        );
    }

    #[test]
    fn circles_missing_files_and_expressions_are_refused() {
        let (_, lines) = read_all(
            &[
                ("a.yaml", "include: b.yaml\n"),
                ("b.yaml", "x: 1\ninclude: a.yaml\n"),
            ],
            &[],
        );
        assert_eq!(lines, ["b.yaml:2:10: error: a.yaml includes itself"]);
        let (_, lines) = read_all(&[("a.yaml", "include: [none.yaml, '${arg.x}']\n")], &[]);
        assert!(
            lines[0].starts_with("a.yaml:1:11: error: none.yaml: "),
            "{lines:?}"
        );
        assert_eq!(
            lines[1],
            "a.yaml:1:22: error: an include is a plain path, without expressions"
        );
    }

    #[test]
    fn a_long_chain_ends() {
        let names: Vec<(String, String)> = (0..20)
            .map(|i| (format!("f{i}.yaml"), format!("include: f{}.yaml\n", i + 1)))
            .collect();
        let files: Vec<(&str, &str)> = names
            .iter()
            .map(|(a, b)| (a.as_str(), b.as_str()))
            .collect();
        let (_, lines) = read_all(&files, &[]);
        assert!(lines[0].contains("too many includes"), "{lines:?}");
    }

    #[test]
    fn what_is_no_text_is_refused() {
        let mut files = Files::default();
        let mut findings = Findings::default();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.yaml");
        std::fs::write(&path, b"a: \xff").unwrap();
        assert!(read_file(&path, &mut files, &mut findings).is_none());
        assert!(read_file(folder.path(), &mut files, &mut findings).is_none());
        let lines = findings.lines(&files);
        assert!(
            lines[0].contains("is not UTF-8 from byte 3") && lines[1].contains("is a folder"),
            "{lines:?}"
        );
    }
}
