//! What kind of payload arrived: CDR, JSON or text.
//!
//! An explicit Zenoh encoding decides. But the bridge, rmw_zenoh and simulators send CDR as `zenoh/bytes`, and so does
//! a person who types `zenoh put`; `curl` sends text as a web form. For those the payload itself is looked at:
//!
//! ```text
//! byte 0 is NUL and byte 1 a representation id (0, 1, 6..=11)  ->  CDR      (text never starts with NUL)
//! UTF-8 that parses as a JSON object                           ->  JSON
//! other UTF-8                                                  ->  text
//! anything else                                                ->  refused, with the reason
//! ```

use serde_json::Value;
use thiserror::Error;

use crate::limits::{MAX_JSON_BYTES, MAX_MESSAGE_BYTES, MAX_TEXT_BYTES};
use crate::reader::HEADER_BYTES;

/// What a payload is.
#[derive(Clone, Debug, PartialEq)]
pub enum Form {
    /// CDR; not looked at further than its header.
    Cdr,
    /// JSON, parsed: an object if nobody said that it is JSON, any value otherwise.
    Json(Value),
    /// Text.
    Text(String),
}

/// A payload that is nothing we read.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SniffError {
    /// No bytes at all.
    #[error("expected a payload, found 0 bytes")]
    Empty,
    /// Larger than its kind may be.
    #[error("{what} of {found} bytes, expected at most {expected}")]
    TooLarge {
        /// CDR, JSON or text.
        what: &'static str,
        /// The limit.
        expected: usize,
        /// Bytes of the payload.
        found: usize,
    },
    /// An encoding for something else.
    #[error("expected an encoding of CDR, JSON or text, found `{found}`")]
    Encoding {
        /// The encoding.
        found: String,
    },
    /// The encoding says JSON, the payload does not.
    #[error("expected JSON: {message}")]
    NotJson {
        /// What the parser says, with line and column.
        message: String,
    },
    /// Neither CDR nor UTF-8.
    #[error("expected CDR, JSON or text, found the byte {byte:02x} at {at}")]
    Binary {
        /// Where.
        at: usize,
        /// The first byte that does not fit.
        byte: u8,
    },
}

/// Characters of an unknown encoding that an error repeats.
const SHOWN_CHARS: usize = 60;

/// Decides what a payload is. `encoding` is Zenoh's text form, such as `zenoh/bytes` or
/// `application/cdr;std_msgs/msg/String`; the empty string is the default encoding.
///
/// # Errors
/// A [`SniffError`] that says why the payload is refused.
pub fn classify(encoding: &str, payload: &[u8]) -> Result<Form, SniffError> {
    let kind = encoding
        .split(';')
        .next()
        .unwrap_or("")
        .trim()
        .to_ascii_lowercase();
    match kind.as_str() {
        "application/cdr" => {
            limit("CDR", payload, MAX_MESSAGE_BYTES)?;
            if payload.is_empty() {
                Err(SniffError::Empty)
            } else {
                Ok(Form::Cdr)
            }
        }
        "application/json" | "text/json" => json(payload),
        "text/plain" | "zenoh/string" => text(payload),
        "" | "zenoh/bytes" | "application/octet-stream" | "application/x-www-form-urlencoded" => {
            sniff(payload)
        }
        _ => Err(SniffError::Encoding {
            found: encoding.chars().take(SHOWN_CHARS).collect(),
        }),
    }
}

fn sniff(payload: &[u8]) -> Result<Form, SniffError> {
    match payload {
        [] => return Err(SniffError::Empty),
        [0, 0 | 1 | 6..=11, ..] if payload.len() >= HEADER_BYTES => {
            limit("CDR", payload, MAX_MESSAGE_BYTES)?;
            return Ok(Form::Cdr);
        }
        [0, ..] => return Err(SniffError::Binary { at: 0, byte: 0 }),
        _ => {}
    }
    limit("JSON or text", payload, MAX_JSON_BYTES)?;
    let looks_like_object = payload.trim_ascii_start().starts_with(b"{");
    if looks_like_object && let Ok(value @ Value::Object(_)) = serde_json::from_slice(payload) {
        return Ok(Form::Json(value));
    }
    text(payload)
}

fn json(payload: &[u8]) -> Result<Form, SniffError> {
    limit("JSON", payload, MAX_JSON_BYTES)?;
    serde_json::from_slice(payload)
        .map(Form::Json)
        .map_err(|error| SniffError::NotJson {
            message: error.to_string(),
        })
}

fn text(payload: &[u8]) -> Result<Form, SniffError> {
    if payload.is_empty() {
        return Err(SniffError::Empty);
    }
    limit("text", payload, MAX_TEXT_BYTES)?;
    match std::str::from_utf8(payload) {
        Ok(text) => Ok(Form::Text(text.to_owned())),
        Err(error) => {
            let at = error.valid_up_to();
            let byte = payload.get(at).copied().unwrap_or(0);
            Err(SniffError::Binary { at, byte })
        }
    }
}

fn limit(what: &'static str, payload: &[u8], expected: usize) -> Result<(), SniffError> {
    let found = payload.len();
    if found > expected {
        return Err(SniffError::TooLarge {
            what,
            expected,
            found,
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HELLO_CDR: &[u8] = b"\0\x01\0\0\x06\0\0\0hello\0";

    /// Who sends it, its encoding, its payload, what it is.
    type Case = (
        &'static str,
        &'static str,
        &'static [u8],
        Result<Form, SniffError>,
    );

    fn text(text: &str) -> Result<Form, SniffError> {
        Ok(Form::Text(text.to_owned()))
    }

    fn json(text: &str) -> Result<Form, SniffError> {
        Ok(Form::Json(serde_json::from_str(text).unwrap()))
    }

    #[test]
    fn table_of_clients() {
        let cases: Vec<Case> = vec![
            (
                "python put, z_put, zenoh-cli text",
                "zenoh/bytes",
                b"pull over",
                text("pull over"),
            ),
            (
                "zenoh-cli json",
                "zenoh/bytes",
                br#" {"data": "go"}"#,
                json(r#"{"data": "go"}"#),
            ),
            (
                "zenoh-cli base64 of CDR",
                "zenoh/bytes",
                HELLO_CDR,
                Ok(Form::Cdr),
            ),
            ("z_pub", "text/plain", b"pull over", text("pull over")),
            ("z_pub with an object", "text/plain", b"{}", text("{}")),
            (
                "curl -X PUT -d",
                "application/x-www-form-urlencoded",
                b"turn left",
                text("turn left"),
            ),
            ("REST json", "application/json", b"\"go\"", json("\"go\"")),
            (
                "REST json with charset",
                "application/json; charset=utf-8",
                b"{}",
                json("{}"),
            ),
            (
                "rmw_zenoh, bridge, CARLA",
                "zenoh/bytes",
                HELLO_CDR,
                Ok(Form::Cdr),
            ),
            (
                "big-endian peer",
                "zenoh/bytes",
                b"\0\0\0\0\0\0\0\x01\0",
                Ok(Form::Cdr),
            ),
            ("pyzeros", "application/cdr", HELLO_CDR, Ok(Form::Cdr)),
            (
                "schema suffix",
                "application/cdr;std_msgs/msg/String",
                HELLO_CDR,
                Ok(Form::Cdr),
            ),
            (
                "hiroz",
                "application/octet-stream",
                HELLO_CDR,
                Ok(Form::Cdr),
            ),
            ("no encoding", "", HELLO_CDR, Ok(Form::Cdr)),
            (
                "XCDR2: recognised here, refused by the decoder",
                "",
                b"\0\x07\0\0",
                Ok(Form::Cdr),
            ),
            (
                "a list is not an object",
                "zenoh/bytes",
                b"[1]",
                text("[1]"),
            ),
            (
                "broken JSON is text",
                "zenoh/bytes",
                b"{\"a\":",
                text("{\"a\":"),
            ),
            ("UTF-8", "zenoh/bytes", "←".as_bytes(), text("←")),
        ];
        for (who, encoding, payload, expected) in cases {
            assert_eq!(classify(encoding, payload), expected, "{who}");
        }
    }

    #[test]
    fn refused_with_the_reason() {
        let cases: Vec<(&str, &[u8], &str)> = vec![
            ("zenoh/bytes", b"", "expected a payload, found 0 bytes"),
            ("text/plain", b"", "expected a payload, found 0 bytes"),
            ("application/cdr", b"", "expected a payload, found 0 bytes"),
            (
                "zenoh/bytes",
                b"\0\x01\0",
                "expected CDR, JSON or text, found the byte 00 at 0",
            ),
            (
                "zenoh/bytes",
                b"\0\x02\0\0",
                "expected CDR, JSON or text, found the byte 00 at 0",
            ),
            (
                "zenoh/bytes",
                b"ab\xff",
                "expected CDR, JSON or text, found the byte ff at 2",
            ),
            (
                "image/png",
                b"x",
                "expected an encoding of CDR, JSON or text, found `image/png`",
            ),
            (
                "application/json",
                b"{",
                "expected JSON: EOF while parsing an object at line 1 column 1",
            ),
        ];
        for (encoding, payload, expected) in cases {
            let error = classify(encoding, payload).unwrap_err().to_string();
            assert_eq!(error, expected);
        }
        let long = vec![b'a'; MAX_TEXT_BYTES + 1];
        assert!(matches!(
            classify("", &long),
            Err(SniffError::TooLarge { .. })
        ));
    }
}
