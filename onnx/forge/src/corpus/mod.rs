//! Text for calibration, training and test: articles, divided so that no article serves two purposes.
//!
//! A compressed model that is judged on the text it was calibrated with looks better than it is. So the unit is the article: a hash of
//! its title decides which part it belongs to, whatever else is in the collection, and [`Corpus::overlap`] finds articles that two
//! collections share by their words, under whatever title.
//!
//! ```text
//!   …-pages-articles.xml.bz2 ─► wikipedia ─► markup ─┐                      ┌─ calibration  20 %
//!   notes.txt, a folder of them ──────────► plain ───┴─► articles ─► hash ──┼─ test         20 %
//!                                                                           └─ train        60 %
//!                                                        ─► sequences of tokens
//! ```

mod markup;
mod plain;
mod sentences;
mod sequences;
mod wikipedia;

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::folder::Watch;
pub use markup::plain_text;
pub use sentences::{MAX_SENTENCES, MIN_SENTENCES, SentenceNeed, Sentences};
pub use sequences::{Sequences, TextNeed};

/// Largest file read, packed.
const MAX_FILE_BYTES: u64 = 2 << 30;
/// Most text kept of a collection: far more than any step of ours reads.
const MAX_TEXT_BYTES: usize = 256 << 20;
/// Most articles of a collection.
const MAX_ARTICLES: usize = 1 << 20;
/// Most files of a folder of texts.
const MAX_FILES: usize = 1 << 16;
/// Words that two articles must have in common, in order, to be the same one.
const SAME_WORDS: usize = 64;
/// Longest beginning of a title in a message.
const MAX_TITLE_CHARS: usize = 80;

/// What is wrong with a text, or too little of.
#[derive(Debug, thiserror::Error)]
pub enum CorpusError {
    /// A file operation failed.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// A file is not what its name says.
    #[error("{}: {problem}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where.
        problem: String,
    },
    /// Something is larger than any text we read.
    #[error("{}: more than {limit} {what}", path.display())]
    TooLarge {
        /// The file or folder.
        path: PathBuf,
        /// What is counted.
        what: &'static str,
        /// The limit.
        limit: u64,
    },
    /// There is no text in it.
    #[error("{}: no text was found, expected {expected}", path.display())]
    Empty {
        /// The file or folder.
        path: PathBuf,
        /// What it should have.
        expected: &'static str,
    },
    /// Too little text for what is asked.
    #[error(
        "the {purpose} text is too short: {needed} tokens are needed ({sequences} sequences of {length}), {found} are there in {articles} \
         articles of at least {length} tokens. Next: give more text, or ask for fewer tokens."
    )]
    TooShort {
        /// What it is for.
        purpose: String,
        /// Tokens needed.
        needed: usize,
        /// Sequences needed.
        sequences: usize,
        /// Tokens of a sequence.
        length: usize,
        /// Tokens found in whole sequences.
        found: usize,
        /// Articles that are long enough.
        articles: usize,
    },
    /// Too few sentences for what is asked.
    #[error(
        "the {purpose} text is too short: {needed} tokens are needed in at least {MIN_SENTENCES} sentences, {found} are there in \
         {sentences} sentences. Next: give more text, or ask for fewer tokens."
    )]
    FewSentences {
        /// What it is for.
        purpose: String,
        /// Tokens needed.
        needed: usize,
        /// Tokens found.
        found: usize,
        /// Sentences found.
        sentences: usize,
    },
    /// An article serves two purposes.
    #[error(
        "the article '{title}' is both in the {first} text and in the {second} text: a model must not be judged on what it was made with. \
         Next: give another text, or --same-data if that is what you want."
    )]
    Overlap {
        /// Its title, or its first words.
        title: String,
        /// One purpose.
        first: String,
        /// The other.
        second: String,
    },
}

impl CorpusError {
    fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> CorpusError + use<> {
        let path = path.to_path_buf();
        move |source| CorpusError::Io {
            action,
            path,
            source,
        }
    }
}

/// One text about one thing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Article {
    /// Its title: a headline, or the name of its file.
    pub title: String,
    /// Its paragraphs, with an empty line between two of them.
    pub text: String,
}

/// What an article may be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Part {
    /// For statistics of quantizers and pruning: 20 % of the articles.
    Calibration,
    /// For distillation: 60 %.
    Train,
    /// For judging what came out: 20 %.
    Test,
}

impl Part {
    /// Its name in messages.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Part::Calibration => "calibration",
            Part::Train => "train",
            Part::Test => "test",
        }
    }

    /// The part of the article with this title, for a division of this seed. It does not depend on any other article.
    #[must_use]
    pub fn of(title: &str, seed: u64) -> Part {
        match rank(title, seed) % 10 {
            0 | 1 => Part::Calibration,
            2 | 3 => Part::Test,
            _ => Part::Train,
        }
    }
}

/// A number that depends on nothing but a title and a seed, evenly distributed.
fn rank(title: &str, seed: u64) -> u64 {
    let mut hash = Sha256::new();
    hash.update(seed.to_le_bytes());
    hash.update(title.as_bytes());
    let digest = hash.finalize();
    let mut first = [0; 8];
    first.copy_from_slice(&digest[..8]);
    u64::from_le_bytes(first)
}

/// A collection of articles.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Corpus {
    /// The articles, in file order.
    pub articles: Vec<Article>,
}

impl Corpus {
    /// Reads a collection: a dump of a MediaWiki (`.xml`, `.xml.bz2`, `.bz2`), a text file (articles are separated by two empty
    /// lines), or a folder of either.
    ///
    /// # Errors
    /// [`CorpusError`] with the file, and [`crate::ForgeError::Cancelled`] by the callback.
    pub fn read(path: &Path, watch: &mut Watch<'_>) -> Result<Corpus, crate::ForgeError> {
        let mut reader = Reader {
            corpus: Corpus::default(),
            bytes: 0,
            path: path.to_path_buf(),
        };
        let about = fs::metadata(path).map_err(CorpusError::io("open", path))?;
        if about.is_dir() {
            for file in files(path)? {
                reader.path.clone_from(&file);
                reader.file(&file, watch)?;
            }
        } else {
            reader.file(path, watch)?;
        }
        if reader.corpus.articles.is_empty() {
            let path = path.to_path_buf();
            let expected = "articles of a MediaWiki dump, or text files in UTF-8";
            return Err(CorpusError::Empty { path, expected }.into());
        }
        Ok(reader.corpus)
    }

    /// The articles of a part.
    #[must_use]
    pub fn part(&self, part: Part, seed: u64) -> Corpus {
        let articles = self.articles.iter();
        Corpus {
            articles: articles
                .filter(|article| Part::of(&article.title, seed) == part)
                .cloned()
                .collect(),
        }
    }

    /// The first article that is in the other collection too: one whose first words are the same, whatever its title.
    #[must_use]
    pub fn overlap(&self, other: &Corpus) -> Option<&str> {
        let theirs: HashMap<[u8; 32], ()> = other
            .articles
            .iter()
            .map(|article| (fingerprint(article), ()))
            .collect();
        let shared = self
            .articles
            .iter()
            .find(|article| theirs.contains_key(&fingerprint(article)))?;
        Some(&shared.title)
    }

    /// Refuses two collections that share an article.
    ///
    /// # Errors
    /// [`CorpusError::Overlap`] with its title.
    pub fn expect_apart(
        &self,
        other: &Corpus,
        first: &str,
        second: &str,
    ) -> Result<(), CorpusError> {
        match self.overlap(other) {
            None => Ok(()),
            Some(title) => Err(CorpusError::Overlap {
                title: title.chars().take(MAX_TITLE_CHARS).collect(),
                first: first.to_owned(),
                second: second.to_owned(),
            }),
        }
    }

    /// sha256 over all articles in their order, 64 hexadecimal digits: what a report names its text by.
    #[must_use]
    pub fn sha256(&self) -> String {
        let mut hash = Sha256::new();
        for article in &self.articles {
            for piece in [&article.title, &article.text] {
                hash.update((piece.len() as u64).to_le_bytes());
                hash.update(piece.as_bytes());
            }
        }
        let digest = hash.finalize();
        digest.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// Of its first words, so that another layout or a longer version of the article does not hide it.
fn fingerprint(article: &Article) -> [u8; 32] {
    let mut hash = Sha256::new();
    for word in article.text.split_whitespace().take(SAME_WORDS) {
        hash.update(word.as_bytes());
        hash.update(b" ");
    }
    hash.finalize().into()
}

/// The files of a folder that may hold text, by name.
fn files(dir: &Path) -> Result<Vec<PathBuf>, CorpusError> {
    let mut files = Vec::new();
    for item in fs::read_dir(dir).map_err(CorpusError::io("list", dir))? {
        let path = item.map_err(CorpusError::io("list", dir))?.path();
        if path.is_file() && Kind::of(&path).is_some() {
            files.push(path);
        }
        if files.len() > MAX_FILES {
            return Err(CorpusError::TooLarge {
                path: dir.to_path_buf(),
                what: "files",
                limit: MAX_FILES as u64,
            });
        }
    }
    files.sort();
    Ok(files)
}

/// What a file holds, as its name says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    PackedWiki,
    Wiki,
    Plain,
}

impl Kind {
    fn of(path: &Path) -> Option<Kind> {
        let end = path.extension()?.to_str()?.to_ascii_lowercase();
        match end.as_str() {
            "bz2" => Some(Kind::PackedWiki),
            "xml" => Some(Kind::Wiki),
            "txt" | "text" | "md" => Some(Kind::Plain),
            _ => None,
        }
    }
}

/// Collects articles until a limit is met.
struct Reader {
    corpus: Corpus,
    bytes: usize,
    path: PathBuf,
}

impl Reader {
    fn file(&mut self, path: &Path, watch: &mut Watch<'_>) -> Result<(), crate::ForgeError> {
        let about = fs::metadata(path).map_err(CorpusError::io("open", path))?;
        if about.len() > MAX_FILE_BYTES {
            return Err(self.too_large("bytes", MAX_FILE_BYTES).into());
        }
        match Kind::of(path) {
            Some(Kind::PackedWiki) => wikipedia::read(path, true, self, watch),
            Some(Kind::Wiki) => wikipedia::read(path, false, self, watch),
            Some(Kind::Plain) | None => plain::read(path, self),
        }
    }

    /// Keeps an article. Those beyond the limit on text are not read: a test of half a gigabyte would take days.
    fn add(&mut self, title: &str, text: String) -> Result<(), CorpusError> {
        if self.corpus.articles.len() >= MAX_ARTICLES {
            return Err(self.too_large("articles", MAX_ARTICLES as u64));
        }
        self.bytes = self.bytes.saturating_add(text.len());
        if self.bytes > MAX_TEXT_BYTES {
            return Err(self.too_large("bytes of text", MAX_TEXT_BYTES as u64));
        }
        self.corpus.articles.push(Article {
            title: title.to_owned(),
            text,
        });
        Ok(())
    }

    fn too_large(&self, what: &'static str, limit: u64) -> CorpusError {
        CorpusError::TooLarge {
            path: self.path.clone(),
            what,
            limit,
        }
    }

    fn wrong(&self, problem: impl Into<String>) -> CorpusError {
        CorpusError::Format {
            path: self.path.clone(),
            problem: problem.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;

    use super::*;
    use crate::ForgeError;

    pub(super) fn read(path: &Path) -> Result<Corpus, ForgeError> {
        Corpus::read(path, &mut |_| ControlFlow::Continue(()))
    }

    fn corpus(texts: &[(&str, &str)]) -> Corpus {
        let articles = texts.iter().map(|(title, text)| Article {
            title: (*title).to_owned(),
            text: (*text).to_owned(),
        });
        Corpus {
            articles: articles.collect(),
        }
    }

    #[test]
    fn an_article_has_one_part_and_another_seed_divides_anew() {
        let titles: Vec<String> = (0..2000).map(|at| format!("Article {at}")).collect();
        let count = |part, seed| {
            let of = |title: &&String| Part::of(title, seed) == part;
            titles.iter().filter(of).count()
        };
        for (part, expected) in [
            (Part::Calibration, 400),
            (Part::Test, 400),
            (Part::Train, 1200),
        ] {
            let found = count(part, 1);
            assert!(found.abs_diff(expected) < 80, "{part:?}: {found}");
        }
        let moved = titles.iter().filter(|t| Part::of(t, 1) != Part::of(t, 2));
        assert!(moved.count() > 500, "a seed that changes nothing is none");
    }

    #[test]
    fn parts_are_apart_and_copies_under_another_title_are_found() {
        let whole = corpus(&[("A", "one two three"), ("B", "four five"), ("C", "six")]);
        for seed in 0..20 {
            let parts = [Part::Calibration, Part::Train, Part::Test].map(|p| whole.part(p, seed));
            let all: usize = parts.iter().map(|part| part.articles.len()).sum();
            assert_eq!(all, 3);
            parts[0]
                .expect_apart(&parts[2], "calibration", "test")
                .unwrap();
        }
        let copy = corpus(&[("Other", "four\n\nfive ")]);
        let error = whole
            .expect_apart(&copy, "calibration", "test")
            .unwrap_err();
        assert!(
            error
                .to_string()
                .contains("'B' is both in the calibration text and in the test text"),
            "{error}"
        );
        assert_ne!(whole.sha256(), copy.sha256());
    }

    #[test]
    fn what_is_no_text_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let said = |path: &Path| read(path).unwrap_err().to_string();
        assert!(said(&dir.path().join("none.txt")).contains("cannot open"));
        assert!(said(dir.path()).contains("no text was found"));
        let path = dir.path().join("picture.txt");
        fs::write(&path, [0x66, 0xff, 0x00]).unwrap();
        assert!(
            said(&path).contains("byte 1 is not UTF-8"),
            "{}",
            said(&path)
        );
        let path = dir.path().join("dump.bz2");
        fs::write(&path, b"BZh9 no more").unwrap();
        assert!(said(&path).contains("dump.bz2"), "{}", said(&path));
    }
}
