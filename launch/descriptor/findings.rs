//! What a reader of descriptors says to its user: findings, each with a file, a line, a column and, where there is one, a suggestion.
//!
//! Several are collected before anything is said, because a person who edits a file wants to see all its faults at once. The line
//! form is the one compilers use, so that editors jump to it:
//!
//! ```text
//! launch/demo.yaml:42:9: error: unknown field "queu" (did you mean "queue"?)
//! ```

use std::fmt;
use std::path::{Path, PathBuf};

use serde_json::json;

/// Findings kept; a hostile file must not fill the memory with complaints.
pub const MAX_FINDINGS: usize = 200;

/// Similarity (Jaro-Winkler, 0 to 1) from which another name counts as what was meant.
const SIMILAR: f64 = 0.8;

/// A place in a file that was read: where a value stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct At {
    /// Index into [`Files`].
    pub file: u16,
    /// Line, from 1; 0 when the value came from no file (command line, environment).
    pub line: u32,
    /// Column in characters, from 1.
    pub column: u32,
}

/// The files a descriptor was read from: the one named on the command line first, then what it includes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Files {
    paths: Vec<PathBuf>,
}

impl Files {
    /// Adds a file and returns its index, or `None` when there are more files than an index can name.
    pub fn add(&mut self, path: &Path) -> Option<u16> {
        let index = u16::try_from(self.paths.len()).ok()?;
        self.paths.push(path.to_path_buf());
        Some(index)
    }

    /// The path of a file, as it was opened.
    pub fn path(&self, at: At) -> &Path {
        self.paths
            .get(usize::from(at.file))
            .map_or(Path::new(""), PathBuf::as_path)
    }

    /// The folder a relative path written at `at` starts from.
    pub fn folder(&self, at: At) -> &Path {
        self.path(at).parent().unwrap_or(Path::new(""))
    }

    /// `file:line:column`, the form editors understand.
    pub fn place(&self, at: At) -> String {
        let file = self.path(at).display();
        if at.line == 0 {
            format!("{file}")
        } else {
            format!("{file}:{}:{}", at.line, at.column)
        }
    }
}

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The graph may not be started.
    Error,
    /// It may be started, and probably not as its author thinks.
    Warning,
    /// Worth knowing.
    Note,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Severity::Error => "error",
            Severity::Warning => "warning",
            Severity::Note => "note",
        })
    }
}

/// One thing said about a descriptor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// How much it matters.
    pub severity: Severity,
    /// Where.
    pub at: At,
    /// What is wrong, with what was expected and what was found.
    pub message: String,
    /// What to write instead, if that is known.
    pub suggestion: Option<String>,
}

/// Findings in the order they were made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    list: Vec<Finding>,
    dropped: usize,
}

impl Findings {
    /// Adds an error.
    pub fn error(&mut self, at: At, message: impl Into<String>) {
        self.push(Severity::Error, at, message.into(), None);
    }

    /// Adds an error with what to write instead.
    pub fn error_with(
        &mut self,
        at: At,
        message: impl Into<String>,
        suggestion: impl Into<String>,
    ) {
        self.push(Severity::Error, at, message.into(), Some(suggestion.into()));
    }

    /// Adds a warning.
    pub fn warning(&mut self, at: At, message: impl Into<String>) {
        self.push(Severity::Warning, at, message.into(), None);
    }

    /// Adds a note.
    pub fn note(&mut self, at: At, message: impl Into<String>) {
        self.push(Severity::Note, at, message.into(), None);
    }

    /// Adds an error about a name that is not known, with the nearest of the known ones, or all of them when none is near.
    pub fn unknown<'a>(
        &mut self,
        at: At,
        noun: &str,
        name: &str,
        known: impl IntoIterator<Item = &'a str>,
    ) {
        let known: Vec<&str> = known.into_iter().collect();
        let suggestion = match nearest(name, known.iter().copied()) {
            Some(near) => Some(format!("did you mean \"{near}\"?")),
            None if known.is_empty() => None,
            None => Some(format!("known: {}", known.join(", "))),
        };
        self.push(
            Severity::Error,
            at,
            format!("unknown {noun} \"{}\"", shorten(name)),
            suggestion,
        );
    }

    fn push(&mut self, severity: Severity, at: At, message: String, suggestion: Option<String>) {
        if self.list.len() >= MAX_FINDINGS {
            self.dropped = self.dropped.saturating_add(1);
            return;
        }
        let finding = Finding {
            severity,
            at,
            message,
            suggestion,
        };
        if !self.list.contains(&finding) {
            self.list.push(finding); // an alias or a merged value is looked at twice and wrong once
        }
    }

    /// Appends another list.
    pub fn extend(&mut self, other: Findings) {
        for f in other.list {
            self.push(f.severity, f.at, f.message, f.suggestion);
        }
        self.dropped = self.dropped.saturating_add(other.dropped);
    }

    /// All findings, in the order they were made.
    pub fn iter(&self) -> impl Iterator<Item = &Finding> {
        self.list.iter()
    }

    /// How many there are of one severity.
    pub fn count(&self, severity: Severity) -> usize {
        self.list.iter().filter(|f| f.severity == severity).count()
    }

    /// Whether one of them forbids starting the graph.
    pub fn has_errors(&self) -> bool {
        self.count(Severity::Error) > 0
    }

    /// Whether nothing was found.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Orders them by file and line: what a person reading from the top expects.
    pub fn sort(&mut self) {
        self.list.sort_by_key(|f| f.at);
    }

    /// One line a finding: `file:line:column: severity: message (suggestion)`.
    pub fn lines(&self, files: &Files) -> Vec<String> {
        let mut lines: Vec<String> = self.list.iter().map(|f| f.line(files)).collect();
        if self.dropped > 0 {
            lines.push(format!("and {} more findings", self.dropped));
        }
        lines
    }
}

impl Finding {
    /// `file:line:column: severity: message (suggestion)`.
    pub fn line(&self, files: &Files) -> String {
        let head = format!(
            "{}: {}: {}",
            files.place(self.at),
            self.severity,
            self.message
        );
        match &self.suggestion {
            Some(s) => format!("{head} ({s})"),
            None => head,
        }
    }

    /// The same as one JSON object, for `--json`.
    pub fn json(&self, files: &Files) -> serde_json::Value {
        json!({
            "severity": self.severity.to_string(),
            "file": files.path(self.at).display().to_string(),
            "line": self.at.line,
            "column": self.at.column,
            "message": self.message,
            "suggestion": self.suggestion,
        })
    }
}

/// A descriptor that cannot be used, with all its findings.
#[derive(Debug, thiserror::Error)]
#[error("{}", self.findings.lines(&self.files).join("\n"))]
pub struct Rejected {
    /// What is wrong.
    pub findings: Findings,
    /// Where the findings point.
    pub files: Files,
}

/// The name most like `name`, if one is like it at all.
pub fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let wanted = shorten(name).to_lowercase();
    known
        .into_iter()
        .map(|k| (strsim::jaro_winkler(&wanted, &k.to_lowercase()), k))
        .filter(|(likeness, _)| *likeness >= SIMILAR)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, k)| k)
}

/// Cuts what a file says to a length that fits a line of a terminal, and takes control characters out of it.
pub fn shorten(text: &str) -> String {
    const MOST: usize = 60;
    let clean = text.chars().map(|c| if c.is_control() { '·' } else { c });
    let mut out: String = clean.clone().take(MOST).collect();
    if clean.count() > MOST {
        out.push('…');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_names_are_suggested_and_far_ones_are_listed() {
        let mut files = Files::default();
        files.add(Path::new("a.yaml")).unwrap();
        let mut findings = Findings::default();
        let at = At {
            file: 0,
            line: 42,
            column: 9,
        };
        findings.unknown(at, "field", "queu", ["queue", "topic"]);
        findings.unknown(at, "kind", "zzz", ["wav", "text"]);
        assert_eq!(
            findings.lines(&files),
            [
                "a.yaml:42:9: error: unknown field \"queu\" (did you mean \"queue\"?)",
                "a.yaml:42:9: error: unknown kind \"zzz\" (known: wav, text)",
            ]
        );
    }

    #[test]
    fn the_list_of_findings_has_an_end() {
        let mut findings = Findings::default();
        for line in 0..10_000 {
            findings.error(
                At {
                    file: 0,
                    line,
                    column: 1,
                },
                "x",
            );
        }
        assert_eq!(findings.iter().count(), MAX_FINDINGS);
        assert_eq!(
            findings.lines(&Files::default()).last().unwrap(),
            "and 9800 more findings"
        );
    }

    #[test]
    fn hostile_text_does_not_reach_the_terminal() {
        assert_eq!(shorten("a\u{1b}[2Jb"), "a·[2Jb");
        assert_eq!(shorten(&"x".repeat(100)).chars().count(), 61);
    }
}
