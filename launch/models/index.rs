//! Package indexes: the page of a project, and the one address on it that belongs to a pinned file.
//!
//! An index answers `GET <index>/<project>/` with a list of files, as JSON (PEP 691) or as HTML anchors (PEP 503). The list is
//! untrusted: only the file name chooses, sizes are bounded, and what is fetched from the address must have the pinned sha256, so a
//! wrong page can waste time but not change a model.

use serde::Deserialize;

use super::catalogue::Distribution;

/// Largest project page read; large projects have about 2 MB.
pub(crate) const MAX_PAGE_BYTES: u64 = 32 << 20;
/// Both forms of a project page, JSON first.
pub(crate) const ACCEPT: &str = "application/vnd.pypi.simple.v1+json, text/html;q=0.5, */*;q=0.1";

#[derive(Deserialize)]
struct Page {
    files: Vec<PageFile>,
}

#[derive(Deserialize)]
struct PageFile {
    filename: String,
    url: String,
    #[serde(default)]
    hashes: std::collections::BTreeMap<String, String>,
}

/// The address of a project's page: names are compared in lower case with runs of `-_.` as one `-` (PEP 503).
pub(crate) fn page_url(index: &str, package: &str) -> String {
    let mut name = String::new();
    for c in package.chars() {
        let c = if matches!(c, '_' | '.') {
            '-'
        } else {
            c.to_ascii_lowercase()
        };
        if !(c == '-' && name.ends_with('-')) {
            name.push(c);
        }
    }
    format!("{}/{name}/", index.trim_end_matches('/'))
}

/// Finds the pinned file on a project's page that came from `base`.
///
/// # Errors
/// A sentence without final stop: not on the page, on it with another sha256, or a page that is neither form.
pub(crate) fn find(
    page: &[u8],
    is_json: bool,
    base: &str,
    wanted: &Distribution,
) -> Result<String, String> {
    let text = std::str::from_utf8(page)
        .map_err(|_| format!("the page {} is not UTF-8", without_credentials(base)))?;
    let files = if is_json {
        from_json(text)?
    } else {
        from_html(text)
    };
    let Some(file) = files.iter().find(|file| file.filename == wanted.file) else {
        return Err(format!(
            "{} lists {} files of {}, but not this one",
            without_credentials(base),
            files.len(),
            wanted.package
        ));
    };
    if let Some(listed) = file.hashes.get("sha256")
        && *listed != wanted.pin.sha256
    {
        return Err(format!(
            "{} lists it with sha256 {listed}, pinned is {}",
            without_credentials(base),
            wanted.pin.sha256
        ));
    }
    let url = file.url.split('#').next().unwrap_or_default();
    join(base, url).ok_or_else(|| {
        format!(
            "the page {} gives an address that is not one: {url:.100}",
            without_credentials(base)
        )
    })
}

fn from_json(text: &str) -> Result<Vec<PageFile>, String> {
    serde_json::from_str::<Page>(text)
        .map(|page| page.files)
        .map_err(|e| format!("the index answered JSON that is no project page: {e}"))
}

/// Anchors of a PEP 503 page. Only `href` is looked at; its last path segment is the file name.
fn from_html(text: &str) -> Vec<PageFile> {
    let mut files = Vec::new();
    for piece in text.split("href=").skip(1) {
        let quote = piece.chars().next().filter(|c| matches!(c, '"' | '\''));
        let Some(href) = quote.and_then(|quote| piece[1..].split(quote).next()) else {
            continue;
        };
        let href = href.replace("&amp;", "&");
        let (url, fragment) = href.split_once('#').unwrap_or((&href, ""));
        let filename = url
            .split('?')
            .next()
            .unwrap_or_default()
            .rsplit('/')
            .next()
            .unwrap_or_default();
        let sha256 = fragment
            .strip_prefix("sha256=")
            .map(|hash| ("sha256".to_owned(), hash.to_owned()));
        files.push(PageFile {
            filename: percent_decoded(filename),
            url: url.to_owned(),
            hashes: sha256.into_iter().collect(),
        });
    }
    files
}

/// `%2B` → `+`: the only escapes that file names of wheels need are single ASCII bytes.
fn percent_decoded(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(position) = rest.find('%') {
        out.push_str(&rest[..position]);
        let code = rest
            .get(position + 1..position + 3)
            .and_then(|hex| u8::from_str_radix(hex, 16).ok())
            .filter(u8::is_ascii);
        match code {
            Some(byte) => {
                out.push(char::from(byte));
                rest = &rest[position + 3..];
            }
            None => {
                out.push('%');
                rest = &rest[position + 1..];
            }
        }
    }
    out + rest
}

/// Resolves `reference` against `base` (RFC 3986 section 5.2, for http, https and file addresses).
pub(crate) fn join(base: &str, reference: &str) -> Option<String> {
    if reference.chars().any(|c| c.is_control() || c == ' ') {
        return None;
    }
    if ["http://", "https://", "file://"]
        .iter()
        .any(|scheme| reference.starts_with(scheme))
    {
        return Some(reference.to_owned());
    }
    let (scheme, after) = base.split_once("://")?;
    let (authority, path) = after
        .find('/')
        .map_or((after, "/"), |at| after.split_at(at));
    if let Some(rest) = reference.strip_prefix("//") {
        return Some(format!("{scheme}://{rest}"));
    }
    if reference.contains("://") {
        return None;
    }
    let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
    let joined = if reference.starts_with('/') {
        reference.to_owned()
    } else {
        format!("{folder}/{reference}")
    };
    let mut parts: Vec<&str> = Vec::new();
    for part in joined.trim_start_matches('/').split('/') {
        match part {
            ".." => {
                parts.pop();
            }
            "." => {}
            part => parts.push(part),
        }
    }
    Some(format!("{scheme}://{authority}/{}", parts.join("/")))
}

/// Splits `https://user:password@host/` into the address without and `user:password`.
pub(crate) fn split_credentials(url: &str) -> (String, Option<String>) {
    let Some((scheme, after)) = url.split_once("://") else {
        return (url.to_owned(), None);
    };
    let authority_end = after.find(['/', '?', '#']).unwrap_or(after.len());
    match after[..authority_end].rsplit_once('@') {
        Some((user, host)) => (
            format!("{scheme}://{host}{}", &after[authority_end..]),
            Some(percent_decoded(user)),
        ),
        None => (url.to_owned(), None),
    }
}

/// An address that may be printed.
pub(crate) fn without_credentials(url: &str) -> String {
    split_credentials(url).0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::catalogue::Pin;

    fn wanted() -> Distribution {
        let pin = Pin {
            bytes: 3,
            sha256: "ab".repeat(32),
        };
        Distribution {
            package: "Some.Model".into(),
            version: "1.0+x".into(),
            file: "some_model-1.0+x-py3-none-any.whl".into(),
            pin,
            members: Vec::new(),
        }
    }

    #[test]
    fn page_addresses() {
        assert_eq!(
            page_url("http://host/simple", "Some._-Model"),
            "http://host/simple/some-model/"
        );
        assert_eq!(
            page_url("http://host/simple/", "a"),
            "http://host/simple/a/"
        );
    }

    #[test]
    fn finds_the_file_in_both_forms() {
        let hash = "ab".repeat(32);
        let json = format!(
            r#"{{"files":[{{"filename":"x","url":"x"}},{{"filename":"some_model-1.0+x-py3-none-any.whl","url":"../../f/w.whl","hashes":{{"sha256":"{hash}"}}}}]}}"#
        );
        assert_eq!(
            find(
                json.as_bytes(),
                true,
                "http://h/simple/some-model/",
                &wanted()
            )
            .unwrap(),
            "http://h/f/w.whl"
        );
        let html = format!(
            r#"<a href="other.tar.gz">o</a><a href="/f/some_model-1.0%2Bx-py3-none-any.whl?a=1&amp;b=2#sha256={hash}">w</a>"#
        );
        assert_eq!(
            find(html.as_bytes(), false, "http://h/s/p/", &wanted()).unwrap(),
            "http://h/f/some_model-1.0%2Bx-py3-none-any.whl?a=1&b=2"
        );
    }

    #[test]
    fn pages_that_do_not_help() {
        let other = "cd".repeat(32);
        let cases: &[(&str, bool, &str, &str)] = &[
            ("{}", true, "no project page", "JSON of another shape"),
            (
                r#"{"files":[]}"#,
                true,
                "lists 0 files",
                "the version is gone",
            ),
            (
                "<html>login</html>",
                false,
                "lists 0 files",
                "a captive portal",
            ),
            (
                &format!("<a href='some_model-1.0+x-py3-none-any.whl#sha256={other}'>"),
                false,
                "pinned is",
                "another file under the same name",
            ),
            (
                "<a href='gopher://h/some_model-1.0+x-py3-none-any.whl'>",
                false,
                "not one",
                "an address we do not fetch",
            ),
            ("<a href=", false, "lists 0 files", "cut in the middle"),
        ];
        for (page, is_json, expected, why) in cases {
            let error = find(
                page.as_bytes(),
                *is_json,
                "http://u:secret@h/s/p/",
                &wanted(),
            )
            .unwrap_err();
            assert!(error.contains(expected), "{why}: {error}");
            assert!(!error.contains("secret"), "{why}: {error}");
        }
    }

    #[test]
    fn joins_as_rfc_3986() {
        // Expected values: RFC 3986 section 5.4.1 with base http://a/b/c/d;p?q where the form is one that indexes use.
        for (reference, expected) in [
            ("g", "http://a/b/c/g"),
            ("./g", "http://a/b/c/g"),
            ("/g", "http://a/g"),
            ("//g/x", "http://g/x"),
            ("../g", "http://a/b/g"),
            ("../../g", "http://a/g"),
            ("../../../g", "http://a/g"),
        ] {
            assert_eq!(
                join("http://a/b/c/d;p", reference).as_deref(),
                Some(expected),
                "{reference}"
            );
        }
        assert_eq!(join("http://a/b", "ftp://x/y"), None);
        assert_eq!(join("http://a/b", "a b"), None);
    }

    #[test]
    fn credentials_are_split_off() {
        let cases = [
            ("https://u:p%40@h/x@y", "https://h/x@y", Some("u:p@")),
            ("https://h/x", "https://h/x", None),
            ("https://h?x=a@b", "https://h?x=a@b", None),
        ];
        for (url, clean, credentials) in cases {
            assert_eq!(
                split_credentials(url),
                (clean.to_owned(), credentials.map(str::to_owned))
            );
        }
    }
}
