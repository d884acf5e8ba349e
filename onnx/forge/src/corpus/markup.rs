//! Wiki markup to the prose in it: what a language model would be asked to read.
//!
//! One pass, one stack. What opens something (`{{`, `{|`, `[[`, `[http`) begins a frame; what closes it ends the frame and decides what
//! becomes of its text. Whatever is never closed was no markup, and its text stays. So the time is linear in the text and a page of a
//! million opening brackets is only a page of a million brackets.
//!
//! ```text
//!   text ─► frame ─► frame ─► …        {{template}}, {|table|}      dropped, but for a few
//!            ▲ text of a closed frame   [[target|words]]             words; pictures, categories, other languages dropped
//!            └──────────────────────    [http://address words]       words
//!   <ref>…</ref>, <math>…</math>, <!--…-->   skipped            other tags: only the tag is dropped
//!   then line by line: headings, lists and rests of tables are dropped, spaces and empty brackets tidied
//! ```

/// Deepest nesting followed; what opens below is taken for text.
const MAX_DEPTH: usize = 64;
/// Longest tag or entity looked at.
const MAX_TAG_BYTES: usize = 2048;
/// Shortest paragraph kept, in bytes: shorter ones are captions and rests.
const MIN_PARAGRAPH_BYTES: usize = 40;
/// Elements whose content is no prose.
const SKIPPED: &[&str] = &[
    "ref",
    "math",
    "gallery",
    "timeline",
    "source",
    "syntaxhighlight",
    "pre",
    "score",
    "imagemap",
    "references",
    "hiero",
    "chem",
    "code",
];
/// What a link's target begins with when the link is no prose.
const NO_PROSE: &[&str] = &["file:", "image:", "category:", "media:"];
/// Entities of HTML that pages use, beside numbers.
const NAMED: &[(&str, &str)] = &[
    ("nbsp", " "),
    ("thinsp", " "),
    ("ensp", " "),
    ("emsp", " "),
    ("ndash", "–"),
    ("mdash", "—"),
    ("minus", "−"),
    ("times", "×"),
    ("hellip", "…"),
    ("middot", "·"),
    ("bull", "•"),
    ("prime", "′"),
    ("Prime", "″"),
    ("deg", "°"),
    ("plusmn", "±"),
    ("lsquo", "‘"),
    ("rsquo", "’"),
    ("ldquo", "“"),
    ("rdquo", "”"),
    ("laquo", "«"),
    ("raquo", "»"),
    ("eacute", "é"),
    ("alpha", "α"),
    ("beta", "β"),
    ("gamma", "γ"),
    ("delta", "δ"),
    ("pi", "π"),
    ("mu", "μ"),
    ("le", "≤"),
    ("ge", "≥"),
    ("ne", "≠"),
    ("rarr", "→"),
    ("larr", "←"),
    ("frac12", "½"),
    ("sup2", "²"),
    ("shy", ""),
    ("zwnj", ""),
];

/// The paragraphs of a page, with an empty line between two.
#[must_use]
pub fn plain_text(markup: &str) -> String {
    let mut scan = Scan::new(markup);
    scan.run();
    prose(&with_entities(&scan.finish(), Entities::Html))
}

/// Which named entities are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Entities {
    /// The five of XML.
    Xml,
    /// Those, and the ones of [`NAMED`].
    Html,
}

/// Replaces entities by their characters; unknown ones stay.
pub(super) fn with_entities(text: &str, known: Entities) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('&') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let name = rest[1..]
            .bytes()
            .take(12)
            .position(|byte| byte == b';')
            .map(|end| &rest[1..=end]);
        match name.and_then(|name| Some((name, entity(name, known)?))) {
            Some((name, character)) => {
                out.push_str(&character);
                rest = &rest[name.len() + 2..];
            }
            None => {
                out.push('&');
                rest = &rest[1..];
            }
        }
    }
    out.push_str(rest);
    out
}

fn entity(name: &str, known: Entities) -> Option<String> {
    let xml = [
        ("lt", "<"),
        ("gt", ">"),
        ("amp", "&"),
        ("quot", "\""),
        ("apos", "'"),
    ];
    if let Some(number) = name.strip_prefix('#') {
        let code = match number.strip_prefix(['x', 'X']) {
            Some(digits) => u32::from_str_radix(digits, 16).ok()?,
            None => number.parse().ok()?,
        };
        let character = char::from_u32(code).filter(|c| !c.is_control() || c.is_whitespace())?;
        return Some(character.to_string());
    }
    let more = match known {
        Entities::Xml => &[][..],
        Entities::Html => NAMED,
    };
    let found = xml.iter().chain(more).find(|(word, _)| *word == name)?;
    Some(found.1.to_owned())
}

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Opened {
    Template,
    Table,
    Link,
    Address,
}

/// What was opened and not yet closed, with its text so far.
struct Frame {
    opened: Opened,
    text: String,
}

/// The pass over a page.
struct Scan<'t> {
    rest: &'t str,
    text: String,
    frames: Vec<Frame>,
    /// Elements that are not closed any more from here on, so that nobody looks for their end again and again.
    unclosed: Vec<&'static str>,
}

impl<'t> Scan<'t> {
    fn new(markup: &'t str) -> Scan<'t> {
        Scan {
            rest: markup,
            text: String::with_capacity(markup.len() / 2),
            frames: Vec::new(),
            unclosed: Vec::new(),
        }
    }

    fn run(&mut self) {
        while let Some(at) = self.rest.find(['{', '}', '[', ']', '<', '\n', '\'', '|']) {
            let (before, rest) = self.rest.split_at(at);
            self.rest = rest;
            self.out().push_str(before);
            self.mark();
        }
        let rest = std::mem::take(&mut self.rest);
        self.out().push_str(rest);
    }

    fn finish(mut self) -> String {
        while !self.frames.is_empty() {
            self.flatten();
        }
        self.text
    }

    fn out(&mut self) -> &mut String {
        match self.frames.last_mut() {
            Some(frame) => &mut frame.text,
            None => &mut self.text,
        }
    }

    /// One mark at the beginning of the rest; consumes at least a character.
    fn mark(&mut self) {
        let rest = self.rest;
        if rest.starts_with("{{") {
            self.open(Opened::Template, 2);
        } else if rest.starts_with("{|") {
            self.open(Opened::Table, 2);
        } else if rest.starts_with("[[") {
            self.open(Opened::Link, 2);
        } else if rest.starts_with("[http") || rest.starts_with("[//") || rest.starts_with("[ftp") {
            self.open(Opened::Address, 1);
        } else if rest.starts_with("}}") {
            self.close(Opened::Template, 2);
        } else if rest.starts_with("|}") && !rest.starts_with("|}}") {
            self.close(Opened::Table, 2);
        } else if rest.starts_with("]]") && self.is_open(Opened::Link) {
            self.close(Opened::Link, 2);
        } else if rest.starts_with(']') && self.is_open(Opened::Address) {
            self.close(Opened::Address, 1);
        } else if rest.starts_with('<') {
            self.tag();
        } else if rest.starts_with("''") {
            let quotes = rest.len() - rest.trim_start_matches('\'').len();
            self.rest = &rest[quotes..];
        } else if rest.starts_with('\n') {
            self.line_ends();
        } else {
            self.keep();
        }
    }

    fn keep(&mut self) {
        let (first, rest) = self.rest.split_at(1);
        self.rest = rest;
        self.out().push_str(first);
    }

    /// An address ends with its line, a link with its paragraph.
    fn line_ends(&mut self) {
        let is_paragraph = self.rest.starts_with("\n\n");
        while let Some(frame) = self.frames.last() {
            match frame.opened {
                Opened::Address => self.flatten(),
                Opened::Link if is_paragraph => self.flatten(),
                _ => break,
            }
        }
        self.keep();
    }

    fn open(&mut self, opened: Opened, bytes: usize) {
        self.rest = &self.rest[bytes..];
        if self.frames.len() < MAX_DEPTH {
            let text = String::new();
            self.frames.push(Frame { opened, text });
        }
    }

    fn is_open(&self, opened: Opened) -> bool {
        self.frames.iter().any(|frame| frame.opened == opened)
    }

    /// Ends the innermost frame of this kind; frames inside it that are still open were no markup.
    fn close(&mut self, opened: Opened, bytes: usize) {
        self.rest = &self.rest[bytes..];
        if !self.is_open(opened) {
            return;
        }
        while self
            .frames
            .last()
            .is_some_and(|frame| frame.opened != opened)
        {
            self.flatten();
        }
        let Some(frame) = self.frames.pop() else {
            return;
        };
        let text = match opened {
            Opened::Template => words_of_template(&frame.text),
            Opened::Table => String::new(),
            Opened::Link => words_of_link(&frame.text).to_owned(),
            Opened::Address => words_of_address(&frame.text).to_owned(),
        };
        self.out().push_str(&text);
    }

    /// The innermost frame was none: its text belongs to the one around it.
    fn flatten(&mut self) {
        if let Some(frame) = self.frames.pop() {
            self.out().push_str(&frame.text);
        }
    }

    fn tag(&mut self) {
        if self.rest.starts_with("<!--") {
            // As in a wiki, a comment without an end hides all that follows.
            self.skip_to("-->");
            return;
        }
        let Some((name, end)) = tag(self.rest) else {
            self.keep();
            return;
        };
        let is_empty = self.rest[..end].ends_with("/>");
        let skipped = SKIPPED.iter().find(|word| name.eq_ignore_ascii_case(word));
        if name.eq_ignore_ascii_case("br") {
            self.out().push(' ');
        }
        self.rest = &self.rest[end..];
        if let Some(word) = skipped
            && !is_empty
        {
            self.skip_element(word);
        }
    }

    /// Skips to the end of an element; one without an end was none, and its text stays.
    fn skip_element(&mut self, word: &'static str) {
        if self.unclosed.contains(&word) {
            return;
        }
        let mut from = 0;
        while let Some(at) = self.rest[from..].find("</") {
            let start = from + at;
            match tag(&self.rest[start..]) {
                Some((name, end)) if name[1..].eq_ignore_ascii_case(word) => {
                    self.rest = &self.rest[start + end..];
                    return;
                }
                _ => from = start + 2,
            }
        }
        self.unclosed.push(word);
    }

    fn skip_to(&mut self, end: &str) {
        self.rest = match self.rest.find(end) {
            Some(at) => &self.rest[at + end.len()..],
            None => "",
        };
    }
}

/// Name of the tag at the beginning of the text (`/name` of one that closes), and where it ends. No tag: `a < b`.
fn tag(text: &str) -> Option<(&str, usize)> {
    let body = text.strip_prefix('<')?;
    let slash = usize::from(body.starts_with('/'));
    let letters = body[slash..]
        .bytes()
        .take_while(u8::is_ascii_alphanumeric)
        .count();
    if letters == 0 || !body.as_bytes()[slash].is_ascii_alphabetic() {
        return None;
    }
    let end = text
        .bytes()
        .take(MAX_TAG_BYTES)
        .position(|byte| byte == b'>')?;
    Some((&body[..slash + letters], end + 1))
}

/// `convert|5|km` → 5 km; `lang|fr|mot` → mot; nothing for all others, which are boxes and notes.
fn words_of_template(text: &str) -> String {
    let mut parts = text.split('|').map(str::trim);
    let name = parts.next().unwrap_or_default().to_ascii_lowercase();
    let words: Vec<&str> = parts.filter(|part| !part.contains('=')).collect();
    match (name.as_str(), words.as_slice()) {
        ("convert" | "cvt", [number, unit, ..]) => format!("{number} {unit}"),
        ("lang" | "transl", [_, .., words]) | ("nowrap" | "nobr" | "small", [words]) => {
            (*words).to_owned()
        }
        _ => String::new(),
    }
}

/// `target|words` → words; nothing for pictures, categories and pages in other languages.
fn words_of_link(text: &str) -> &str {
    let (target, words) = match text.split_once('|') {
        Some((target, _)) => (target, &text[text.rfind('|').unwrap_or(0) + 1..]),
        None => (text, text),
    };
    let target = target.trim_start();
    let is_plain = target.strip_prefix(':').is_some();
    let begins = |word: &&&str| {
        target
            .get(..word.len())
            .is_some_and(|begin| begin.eq_ignore_ascii_case(word))
    };
    let is_language = target.split_once(':').is_some_and(|(code, _)| {
        (2..=3).contains(&code.len()) && code.bytes().all(|byte| byte.is_ascii_lowercase())
    });
    if !is_plain && (is_language || NO_PROSE.iter().find(begins).is_some()) {
        return "";
    }
    words.strip_prefix(':').unwrap_or(words)
}

/// `http://address words` → words.
fn words_of_address(text: &str) -> &str {
    text.split_once(' ').map_or("", |(_, words)| words)
}

/// Lines of prose as paragraphs.
fn prose(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for line in text.lines() {
        let line = tidied(line);
        let is_prose = !line.starts_with(['*', '#', ':', ';', '=', '|', '!', '-', '}', '{', '<']);
        if !is_prose || line.len() < MIN_PARAGRAPH_BYTES || line.starts_with("__") {
            continue;
        }
        if !out.is_empty() {
            out.push_str("\n\n");
        }
        out.push_str(&line);
    }
    out
}

/// One space between words, none before punctuation, and no brackets around what is gone.
fn tidied(line: &str) -> String {
    let mut out = String::with_capacity(line.len());
    for word in line.split_whitespace() {
        let closes = word.starts_with([',', '.', ';', ':', ')', '!', '?']) && word != "...";
        if !out.is_empty() && !closes && !out.ends_with('(') {
            out.push(' ');
        }
        out.push_str(word);
    }
    // What stood in the brackets and before the commas were templates.
    for (from, to) in [
        ("(, ", "("),
        ("(; ", "("),
        ("(,", "("),
        ("(;", "("),
        (" ()", ""),
        ("()", ""),
        (",,", ","),
    ] {
        if out.contains(from) {
            out = out.replace(from, to);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What is in `inside` a sentence that is long enough to stay.
    fn within(inside: &str) -> String {
        let text = plain_text(&format!(
            "The old house stood at the end {inside} of the long road."
        ));
        text.strip_prefix("The old house stood at the end")
            .and_then(|text| text.strip_suffix(" of the long road."))
            .unwrap_or(&text)
            .to_owned()
    }

    #[test]
    fn markup_inside_a_sentence() {
        const CASES: &[(&str, &str, &str)] = &[
            ("''a'' '''b''' '''''c'''''", " a b c", "emphasis"),
            ("it's", " it's", "an apostrophe is none"),
            ("[[a]] [[b c|d]]", " a d", "links"),
            (
                "[[File:x.jpg|thumb|a [[b]] c]]",
                "",
                "a picture with a link in its caption",
            ),
            ("[[:Category:x|y]]", " y", "a link to a category"),
            ("[[Category:x]] [[de:Haus]]", "", "categories and languages"),
            ("[http://a.b/c d e] [http://f.g]", " d e", "addresses"),
            ("[sic]", " [sic]", "a bracket is no link"),
            ("{{a|{{b|c}}|d=[[e]]}}", "", "templates in templates"),
            ("({{IPA|x}}; 9)", " (9)", "what is left of brackets"),
            (
                "{{convert|5|km|mi|abbr=on}} {{lang|fr|mot}} {{nowrap|a b}}",
                " 5 km mot a b",
                "templates that are words",
            ),
            ("({{IPA|x}})", "", "brackets around nothing"),
            ("{| class=x\n|-\n| {{a}} || b\n|}", "", "a table"),
            (
                "<ref>a {{b}}</ref><ref name=\"c\" /><ref name=d>e</ref>",
                "",
                "footnotes",
            ),
            ("<!-- {{ [[ -->", "", "a comment"),
            ("<math>a < b</math><br/>x<sub>2</sub>", " x2", "elements"),
            ("1 < 2 & 3 > 1", " 1 < 2 & 3 > 1", "no tag and no entity"),
            (
                "a&nbsp;b &ndash; c&#8212;d &unknown;",
                " a b – c—d &unknown;",
                "entities",
            ),
            ("{{a", " a", "never closed"),
        ];
        for (markup, expected, why) in CASES {
            let found = within(markup);
            assert_eq!(found.trim(), expected.trim(), "{why}: {markup}");
        }
    }

    #[test]
    fn only_paragraphs_stay() {
        let long = "This paragraph is long enough to be kept as it is.";
        let text = format!(
            "{{{{Infobox\n| a = b\n}}}}\n{long}\n\n== Heading of a section that is long enough ==\n* an item of a list that is long enough to stay\n\
             __NOTOC__ and many more words that follow the magic word\nshort\n{long}\n:indented text that is long enough to be a paragraph\n"
        );
        assert_eq!(plain_text(&text), format!("{long}\n\n{long}"));
    }

    #[test]
    fn hostile_pages_take_no_longer_than_others() {
        let begun = std::time::Instant::now();
        for piece in [
            "{{", "[[", "<ref>", "{|", "[http://", "<!--", "''", "}}", "&", "<a", "<ref></a",
            "[[\n\n",
        ] {
            let text = piece.repeat((1 << 20) / piece.len());
            let _ = plain_text(&text);
        }
        // Quadratic time would be hours; a slow computer is allowed a lot.
        assert!(begun.elapsed().as_secs() < 60, "{:?}", begun.elapsed());
    }

    proptest! {
        #[test]
        fn any_text_has_a_plain_one(text in "([a-zé \n'{}|<>&;#/!-]|\\{\\{|\\}\\}|\\[\\[|\\]\\]|<ref>|</ref>|&lt;){0,60}") {
            let _ = plain_text(&text);
        }
    }
}
