//! Pages of a MediaWiki export: bzip2, then XML, then one article a page.
//!
//! The export format has a dozen elements, no attributes that matter, and writes every `<` of a page as `&lt;`, so a scanner from one
//! tag to the next is all it takes; memory is bounded by the longest page. Redirects and pages outside the main namespace are left out,
//! and so are pages that are mostly tables and lists: what remains of them is too short.
//!
//! ```text
//!   <page> <title>…</title> <ns>0</ns> [<redirect …/>] … <text …>markup with &lt;entities&gt;</text> … </page>
//! ```

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use bzip2::bufread::MultiBzDecoder;

use super::{CorpusError, Reader, markup};
use crate::ForgeError;
use crate::folder::{Progress, Step, Watch, report};

/// Longest text between two tags: MediaWiki's own limit of a page is 2 MiB, before `<` became `&lt;`.
const MAX_PAGE_BYTES: u64 = 16 << 20;
/// Longest tag.
const MAX_TAG_BYTES: u64 = 64 << 10;
/// Most unpacked bytes read: a small archive must not become an endless text.
const MAX_UNPACKED_BYTES: u64 = 64 << 30;
/// Shortest article kept, in bytes of plain text.
const MIN_ARTICLE_BYTES: usize = 2000;

/// Reads one dump.
pub(super) fn read(
    path: &Path,
    is_packed: bool,
    reader: &mut Reader,
    watch: &mut Watch<'_>,
) -> Result<(), ForgeError> {
    let file = File::open(path).map_err(CorpusError::io("open", path))?;
    let file = BufReader::new(file);
    let unpacked: Box<dyn Read> = match is_packed {
        true => Box::new(MultiBzDecoder::new(file)),
        false => Box::new(file),
    };
    let mut input = BufReader::with_capacity(1 << 20, unpacked.take(MAX_UNPACKED_BYTES));
    let item = path.file_name().map(|name| name.to_string_lossy());
    let item = item.unwrap_or_default();
    let mut page = Page::default();
    let mut is_dump = false;
    let mut read = 0;
    loop {
        let text = until(&mut input, b'<', MAX_PAGE_BYTES, reader)?;
        let tag = until(&mut input, b'>', MAX_TAG_BYTES, reader)?;
        read += (text.len() + tag.len()) as u64;
        if tag.is_empty() {
            break;
        }
        let name: &[u8] = tag
            .split(|byte| byte.is_ascii_whitespace() || *byte == b'>')
            .next()
            .unwrap_or_default();
        if !is_dump && !name.starts_with(b"?") && !name.starts_with(b"!") {
            if name != b"mediawiki" {
                let problem = "expected the export of a MediaWiki, <mediawiki>, found <";
                let name = String::from_utf8_lossy(name).into_owned();
                return Err(reader.wrong(format!("{problem}{name}>")).into());
            }
            is_dump = true;
        }
        if name == b"/page" {
            if let Some(text) = page.article() {
                reader.add(&page.title, text)?;
            }
            page = Page::default();
            // How long the unpacked file is, nobody knows: bytes read so far are both.
            let progress = Progress {
                step: Step::Read,
                item: &item,
                done: read,
                total: read,
            };
            report(watch, progress)?;
        } else {
            page.saw(name, &text);
        }
    }
    match is_dump {
        true => Ok(()),
        false => Err(reader
            .wrong("expected the export of a MediaWiki, found no tag")
            .into()),
    }
}

/// The bytes before the next `stop`, which is consumed; all that is left at the end of the file.
fn until(
    input: &mut impl BufRead,
    stop: u8,
    limit: u64,
    reader: &Reader,
) -> Result<Vec<u8>, CorpusError> {
    let mut bytes = Vec::new();
    // One more, so that a run as long as the limit is told from one that is longer.
    let count = input
        .by_ref()
        .take(limit + 1)
        .read_until(stop, &mut bytes)
        .map_err(CorpusError::io("unpack", &reader.path))?;
    if bytes.last() == Some(&stop) {
        bytes.pop();
    } else if count as u64 > limit {
        return Err(reader.too_large("bytes between two tags", limit));
    }
    Ok(bytes)
}

/// What is known of a page so far.
#[derive(Default)]
struct Page {
    title: String,
    is_elsewhere: bool,
    is_redirect: bool,
    text: Vec<u8>,
}

impl Page {
    /// A tag, and the text before it.
    fn saw(&mut self, tag: &[u8], text: &[u8]) {
        match tag {
            b"/title" => self.title = unescaped(text),
            b"/ns" => self.is_elsewhere = text != b"0",
            b"redirect" => self.is_redirect = true,
            b"/text" => self.text = text.to_vec(),
            _ => {}
        }
    }

    fn article(&self) -> Option<String> {
        if self.is_elsewhere || self.is_redirect {
            return None;
        }
        let text = markup::plain_text(&unescaped(&self.text));
        (text.len() >= MIN_ARTICLE_BYTES).then_some(text)
    }
}

/// Text of an XML element: the five entities of XML and numbers; others stay as they are.
fn unescaped(bytes: &[u8]) -> String {
    markup::with_entities(&String::from_utf8_lossy(bytes), markup::Entities::Xml)
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::ops::ControlFlow;

    use super::super::tests::read;
    use super::*;

    fn page(title: &str, more: &str, text: &str) -> String {
        format!(
            "  <page>\n    <title>{title}</title>\n    {more}\n    <revision><text xml:space=\"preserve\">{text}</text></revision>\n  </page>\n"
        )
    }

    fn dump() -> String {
        let long = "A ''cat'' &amp;amp; a [[dog]] &lt;ref&gt;x&lt;/ref&gt;sat here. ".repeat(120);
        [
            "<mediawiki version=\"0.10\">\n".to_owned(),
            page("Cat &amp; Dog", "<ns>0</ns>", &long),
            page("Talk:Cat", "<ns>1</ns>", &long),
            page("Old", "<ns>0</ns><redirect title=\"Cat\" />", &long),
            page("Short", "<ns>0</ns>", "too short"),
            page("Empty", "<ns>0</ns>", ""),
            "</mediawiki>".to_owned(),
        ]
        .concat()
    }

    #[test]
    fn articles_of_the_main_namespace_are_read_packed_or_not() {
        let dir = tempfile::tempdir().unwrap();
        let plain = dir.path().join("dump.xml");
        std::fs::write(&plain, dump()).unwrap();
        let packed = dir.path().join("dump.xml.bz2");
        let file = File::create(&packed).unwrap();
        let mut writer = bzip2::write::BzEncoder::new(file, bzip2::Compression::fast());
        writer.write_all(dump().as_bytes()).unwrap();
        writer.finish().unwrap();
        let found = read(&plain).unwrap();
        assert_eq!(found.articles.len(), 1);
        assert_eq!(found.articles[0].title, "Cat & Dog");
        let text = &found.articles[0].text;
        assert!(text.starts_with("A cat & a dog sat here. A cat"), "{text}");
        assert_eq!(read(&packed).unwrap(), found);
    }

    #[test]
    fn damaged_dumps_are_refused_or_end_early_and_never_panic() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("dump.xml");
        let said = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            read(&path)
                .map(|found| found.articles.len())
                .map_err(|error| error.to_string())
        };
        assert!(said(b"<html><body>").unwrap_err().contains("found <html>"));
        assert!(said(b"just words").unwrap_err().contains("found no tag"));
        let endless = [
            b"<mediawiki>".to_vec(),
            vec![b'x'; (MAX_PAGE_BYTES + 2) as usize],
        ]
        .concat();
        assert!(
            said(&endless)
                .unwrap_err()
                .contains("more than 16777216 bytes between two tags")
        );
        let whole = dump();
        for cut in (0..whole.len()).step_by(397) {
            let _ = said(&whole.as_bytes()[..cut]);
        }
    }

    #[test]
    fn ctrl_c_ends_the_reading() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("dump.xml");
        std::fs::write(&path, dump()).unwrap();
        let result = super::super::Corpus::read(&path, &mut |_| ControlFlow::Break(()));
        assert!(matches!(result, Err(ForgeError::Cancelled)));
    }
}
