//! The end of the text while it grows: characters that are not whole yet and what may become a stop string are held back.

use super::tokenizer::Detokenizer;

/// Turns bytes of tokens into text that is certain.
#[derive(Debug)]
pub(crate) struct TextTail {
    characters: Detokenizer,
    stops: Vec<String>,
    held: String,
}

impl TextTail {
    pub(crate) fn new(stops: Vec<String>) -> Self {
        Self {
            characters: Detokenizer::default(),
            stops,
            held: String::new(),
        }
    }

    /// Adds the bytes of a token. Returns the text that is certain now, and whether a stop string ended it.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> (String, bool) {
        self.held.push_str(&self.characters.push(bytes));
        self.release()
    }

    /// What is left when nothing more comes.
    pub(crate) fn finish(&mut self) -> (String, bool) {
        self.held.push_str(&self.characters.finish());
        let (mut text, stopped) = self.release();
        if !stopped {
            text.push_str(&std::mem::take(&mut self.held));
        }
        (text, stopped)
    }

    fn release(&mut self) -> (String, bool) {
        if let Some(at) = self
            .stops
            .iter()
            .filter_map(|stop| self.held.find(stop.as_str()))
            .min()
        {
            let text = self.held[..at].to_owned();
            self.held.clear();
            return (text, true);
        }
        let keep = self
            .stops
            .iter()
            .map(|stop| overlap(&self.held, stop))
            .max()
            .unwrap_or(0);
        let rest = self.held.split_off(self.held.len() - keep);
        (std::mem::replace(&mut self.held, rest), false)
    }
}

/// Length of the longest end of `text` that is a proper beginning of `stop`.
fn overlap(text: &str, stop: &str) -> usize {
    stop.char_indices()
        .map(|(at, _)| at)
        .rev()
        .find(|at| text.ends_with(&stop[..*at]))
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds text in pieces and returns all that was released, and whether it was stopped.
    fn run(stops: &[&str], pieces: &[&[u8]]) -> (Vec<String>, bool) {
        let mut tail = TextTail::new(stops.iter().map(|stop| (*stop).to_owned()).collect());
        let mut out = Vec::new();
        for piece in pieces {
            let (text, stopped) = tail.push(piece);
            out.push(text);
            if stopped {
                return (out, true);
            }
        }
        let (text, stopped) = tail.finish();
        out.push(text);
        (out, stopped)
    }

    /// Why, stops, pieces, what each piece and the end release, and whether a stop ended it.
    type Case = (
        &'static str,
        &'static [&'static str],
        &'static [&'static [u8]],
        &'static [&'static str],
        bool,
    );

    #[test]
    fn text_is_released_as_soon_as_it_is_certain() {
        let cases: [Case; 8] = [
            ("no stops", &[], &[b"ab", b"c"], &["ab", "c", ""], false),
            (
                "a character of two tokens",
                &[],
                &[b"h\xc3", b"\xa9!"],
                &["h", "é!", ""],
                false,
            ),
            (
                "a character of four tokens",
                &[],
                &[b"\xf0", b"\x9f", b"\x9a", b"\x97"],
                &["", "", "", "🚗", ""],
                false,
            ),
            (
                "a character that never ends",
                &[],
                &[b"a\xf0\x9f"],
                &["a", "\u{fffd}"],
                false,
            ),
            (
                "a byte that begins nothing",
                &[],
                &[b"a\xffb"],
                &["a\u{fffd}b", ""],
                false,
            ),
            (
                "a stop across tokens",
                &["\n\n"],
                &[b"one\n", b"\ntwo"],
                &["one", ""],
                true,
            ),
            (
                "what looks like a stop and is none",
                &["END"],
                &[b"xE", b"N", b"d"],
                &["x", "", "ENd", ""],
                false,
            ),
            (
                "the earliest of two stops",
                &["bc", "ab"],
                &[b"xabc"],
                &["x"],
                true,
            ),
        ];
        for (why, stops, pieces, expected, stopped) in cases {
            assert_eq!(
                run(stops, pieces),
                (expected.iter().map(|s| (*s).to_owned()).collect(), stopped),
                "{why}"
            );
        }
    }

    #[test]
    fn a_stop_that_begins_inside_a_false_start_is_found() {
        assert_eq!(run(&["aab"], &[b"a", b"a", b"a", b"b"]).0.concat(), "a");
    }
}
