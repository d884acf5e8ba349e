//! Text files: one article, or several with two empty lines between them.
//!
//! ```text
//!   first article            Its title is the name of the file, with a number from the second on, so that the parts of a
//!                            collection do not depend on what the articles say.
//!   goes on
//!
//!
//!   second article
//! ```

use std::fs;
use std::path::Path;

use super::{CorpusError, Reader};
use crate::ForgeError;

/// Reads one file.
pub(super) fn read(path: &Path, reader: &mut Reader) -> Result<(), ForgeError> {
    let bytes = fs::read(path).map_err(CorpusError::io("read", path))?;
    let text = String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        reader.wrong(format!("byte {at} is not UTF-8 text"))
    })?;
    let name = path.file_stem().map(|name| name.to_string_lossy());
    let name = name.unwrap_or_default();
    for (index, article) in articles(&text).into_iter().enumerate() {
        let title = match index {
            0 => name.to_string(),
            _ => format!("{name} {}", index + 1),
        };
        reader.add(&title, article)?;
    }
    Ok(())
}

/// The articles of a text: runs of lines without two empty ones in a row.
fn articles(text: &str) -> Vec<String> {
    let mut articles = Vec::new();
    let (mut article, mut empty) = (String::new(), 0);
    for line in text.lines() {
        let line = line.trim_end();
        if line.is_empty() {
            empty += 1;
            continue;
        }
        if empty >= 2 && !article.is_empty() {
            articles.push(std::mem::take(&mut article));
        }
        if !article.is_empty() {
            article.push('\n');
            if empty == 1 {
                article.push('\n');
            }
        }
        article.push_str(line);
        empty = 0;
    }
    if !article.is_empty() {
        articles.push(article);
    }
    articles
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_empty_lines_divide() {
        const CASES: &[(&str, &[&str], &str)] = &[
            ("", &[], "nothing"),
            ("\n \n\n", &[], "only empty lines"),
            ("a\nb", &["a\nb"], "one paragraph"),
            (
                "\n\n\na\n\nb\n",
                &["a\n\nb"],
                "one empty line divides paragraphs",
            ),
            (
                "a\n\n\nb\n\n\n\n\nc",
                &["a", "b", "c"],
                "two and more divide articles",
            ),
            ("a \r\n\r\n\r\nb", &["a", "b"], "lines of Windows"),
        ];
        for (text, expected, why) in CASES {
            assert_eq!(&articles(text), expected, "{why}");
        }
    }

    #[test]
    fn articles_of_a_folder_have_names() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("b.txt"), "one\n\n\ntwo").unwrap();
        fs::write(dir.path().join("a.md"), "zero").unwrap();
        fs::write(dir.path().join("c.bin"), [0xff]).unwrap();
        let corpus = super::super::tests::read(dir.path()).unwrap();
        let titles: Vec<&str> = corpus.articles.iter().map(|a| a.title.as_str()).collect();
        assert_eq!(titles, ["a", "b", "b 2"]);
    }
}
