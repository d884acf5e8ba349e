//! What a person writes after `--in PORT=`: a file, JSON or text, turned into the message a port takes.
//!
//! Files are told apart by their extension, so that a mistake reads "port image takes a picture" rather than a decoder's complaint.
//!
//! ```text
//! PORT=street.jpg ─▶ picture      PORT=clip.wav ─▶ sound      PORT=o.json, o.jsonl, {...} ─▶ JSON      anything else ─▶ text
//! ```

use std::path::{Path, PathBuf};

use anyhow::{Context, Error, Result, anyhow};
use llmasos_msgs::{
    Message,
    audio_common_msgs::AudioStamped,
    builtin_interfaces::Time,
    registry::Registry,
    sensor_msgs::{CompressedImage, Image},
    std_msgs::Header,
};
use llmasos_nodes::{clock, frame::Frame, port::FromBus, speech::sound::Sound};
use serde_json::Value;

use super::super::{topic::value::stamp_if_missing, usage::wrong};
use crate::observe::play;

/// Largest JSON file, in bytes.
const JSON_BYTES_MAX: u64 = 16 << 20;
/// Largest picture file, in bytes.
const PICTURE_BYTES_MAX: u64 = 32 << 20;
/// Sound in one chunk, as a microphone sends it: a fiftieth of a second.
const CHUNKS_PER_S: usize = 50;

/// What a value turned out to be.
#[derive(Debug)]
pub(super) enum Given {
    /// 16-bit samples of one channel.
    Sound { rate_hz: u32, samples: Vec<i16> },
    /// A picture file, JPEG or PNG.
    Picture {
        format: &'static str,
        bytes: Vec<u8>,
    },
    /// A message in its JSON form.
    Json(Value),
    /// Words.
    Text(String),
}

/// One `--in`.
#[derive(Debug)]
pub(super) struct Input {
    /// The port.
    pub port: String,
    /// What it gets.
    pub given: Given,
    /// The file it came from.
    file: Option<PathBuf>,
}

impl Input {
    /// Reads `PORT=FILE_OR_VALUE`.
    ///
    /// # Errors
    /// Wrong usage when it has no such form or the inline JSON is wrong; else a failure that names port and file.
    pub(super) fn read(text: &str) -> Result<Input> {
        let (port, value) = match text.split_once('=') {
            Some((port, value)) if !port.trim().is_empty() => (port.trim().to_owned(), value),
            _ => {
                return Err(wrong(format!(
                    "--in: expected PORT=FILE_OR_VALUE, found {text}"
                )));
            }
        };
        let path = path_of(value);
        if path.is_file() {
            let given = file(&path).with_context(|| format!("port {port}, {}", path.display()))?;
            return Ok(Input {
                port,
                given,
                file: Some(path),
            });
        }
        if value.trim_start().starts_with('{') {
            let json = serde_json::from_str(value)
                .map_err(|error| wrong(format!("port {port}: not JSON: {error}")))?;
            return Ok(Input {
                port,
                given: Given::Json(recorded(json)),
                file: None,
            });
        }
        if kind_of(&path).is_some() && !value.contains(char::is_whitespace) {
            return Err(anyhow!("port {port}, {}: no such file", path.display()));
        }
        Ok(Input {
            port,
            given: Given::Text(value.to_owned()),
            file: None,
        })
    }

    /// The message of a port that takes one type as JSON, with its stamp in ns; a stamp that is missing is now.
    ///
    /// # Errors
    /// Wrong usage when the port takes something else; else what is wrong with the content.
    pub(super) fn message<M: FromBus>(&self, type_name: &str) -> Result<(M, i64)> {
        let Given::Json(value) = &self.given else {
            return Err(self.mismatch(&format!("{type_name} as JSON")));
        };
        let mut value = value.clone();
        let now_ns = clock::now_ns();
        if let Some(found) = Registry::builtin().find(type_name) {
            stamp_if_missing(&found.definition, &mut value, now_ns);
        }
        let message = M::from_json(type_name, &value).map_err(|reason| self.refused(&reason))?;
        let stamp_ns = message.stamp_ns().unwrap_or(now_ns);
        if stamp_ns <= 0 {
            return Err(self
                .refused("expected a stamp, found zero or a negative time; leave it out for now"));
        }
        Ok((message, stamp_ns))
    }

    /// The picture of a camera port.
    ///
    /// # Errors
    /// As [`Input::message`]; also a picture that cannot be decoded.
    pub(super) fn frame(&self, type_name: &str) -> Result<(Frame, i64)> {
        let (frame, stamp_ns) = match &self.given {
            Given::Picture { format, bytes } => {
                let stamp_ns = clock::now_ns();
                let header = Header {
                    stamp: Time::from_nanos(stamp_ns),
                    frame_id: "camera".to_owned(),
                };
                (
                    Frame::Compressed(CompressedImage {
                        header,
                        format: (*format).to_owned(),
                        data: bytes.clone(),
                    }),
                    stamp_ns,
                )
            }
            Given::Json(_) => self.message(type_name)?,
            Given::Sound { .. } | Given::Text(_) => {
                return Err(self.mismatch(&format!(
                    "a .jpg or .png file, or {} or {} as JSON",
                    Image::TYPE,
                    CompressedImage::TYPE
                )));
            }
        };
        frame.picture().map_err(|reason| self.refused(&reason))?;
        Ok((frame, stamp_ns))
    }

    /// The sound of a microphone port in chunks as a driver sends them; the last one ends now.
    ///
    /// # Errors
    /// As [`Input::message`].
    pub(super) fn sounds(&self, type_name: &str) -> Result<Vec<Sound>> {
        let (rate_hz, samples) = match &self.given {
            Given::Sound { rate_hz, samples } => (*rate_hz, samples),
            Given::Json(_) => return Ok(vec![self.message::<Sound>(type_name)?.0]),
            Given::Picture { .. } | Given::Text(_) => {
                return Err(self.mismatch(&format!("a .wav file, or {type_name} as JSON")));
            }
        };
        if rate_hz == 0 || samples.is_empty() {
            return Err(self.refused(&format!(
                "expected sound, found {} samples at {rate_hz} Hz",
                samples.len()
            )));
        }
        let length_ns =
            |samples: usize| (samples as i64).saturating_mul(1_000_000_000) / i64::from(rate_hz);
        let begin_ns = clock::now_ns().saturating_sub(length_ns(samples.len()));
        let mut end = 0;
        let mut sounds = Vec::new();
        for chunk in samples.chunks((rate_hz as usize / CHUNKS_PER_S).max(1)) {
            end += chunk.len();
            let message = play::audio(chunk, rate_hz, begin_ns.saturating_add(length_ns(end)));
            // The way over the wire: what the node would get, and its checks.
            sounds.push(
                Sound::from_cdr(AudioStamped::TYPE, &message.encode()?)
                    .map_err(|reason| self.refused(&reason))?,
            );
        }
        Ok(sounds)
    }

    /// The words of a text port.
    ///
    /// # Errors
    /// As [`Input::message`].
    pub(super) fn text(&self, type_name: &str) -> Result<String> {
        match &self.given {
            Given::Text(text) => Ok(text.clone()),
            Given::Json(_) => Ok(self
                .message::<llmasos_msgs::std_msgs::String>(type_name)?
                .0
                .data),
            Given::Sound { .. } | Given::Picture { .. } => Err(self.mismatch("text")),
        }
    }

    fn mismatch(&self, expected: &str) -> Error {
        let found = match &self.given {
            Given::Sound { .. } => "sound".to_owned(),
            Given::Picture { .. } => "a picture".to_owned(),
            Given::Json(_) => "JSON".to_owned(),
            Given::Text(text) => format!("the text {text:?}, which is no file"),
        };
        match &self.file {
            Some(file) => wrong(format!(
                "port {} takes {expected}, found {found}: {}",
                self.port,
                file.display()
            )),
            None => wrong(format!(
                "port {} takes {expected}, found {found}",
                self.port
            )),
        }
    }

    /// Content that cannot be used: a file's fault is a failure, that of the command line wrong usage.
    fn refused(&self, reason: &str) -> Error {
        match &self.file {
            Some(file) => anyhow!("port {}, {}: {reason}", self.port, file.display()),
            None => wrong(format!("port {}: {reason}", self.port)),
        }
    }
}

/// A path as a shell means it; `~` stays as it is behind `PORT=` in some of them.
fn path_of(value: &str) -> PathBuf {
    match (value.strip_prefix("~/"), std::env::var_os("HOME")) {
        (Some(rest), Some(home)) => Path::new(&home).join(rest),
        _ => PathBuf::from(value),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Sound,
    Picture,
    Json,
    JsonLines,
    Text,
}

fn kind_of(path: &Path) -> Option<Kind> {
    let extension = path.extension()?.to_str()?.to_ascii_lowercase();
    Some(match extension.as_str() {
        "wav" => Kind::Sound,
        "jpg" | "jpeg" | "png" => Kind::Picture,
        "json" => Kind::Json,
        "jsonl" => Kind::JsonLines,
        "txt" => Kind::Text,
        _ => return None,
    })
}

fn file(path: &Path) -> Result<Given> {
    let kind = kind_of(path)
        .context("expected a file that ends in .wav, .jpg, .png, .json, .jsonl or .txt")?;
    Ok(match kind {
        Kind::Sound => {
            let (rate_hz, samples) = play::read_wav(path)?;
            Given::Sound { rate_hz, samples }
        }
        Kind::Picture => {
            let bytes = bytes(path, PICTURE_BYTES_MAX)?;
            let format = match bytes.as_slice() {
                [0x89, b'P', b'N', b'G', ..] => "png",
                [0xff, 0xd8, ..] => "jpeg",
                _ => {
                    return Err(anyhow!(
                        "expected a JPEG or PNG picture, found something else"
                    ));
                }
            };
            Given::Picture { format, bytes }
        }
        Kind::Json => Given::Json(recorded(
            serde_json::from_slice(&bytes(path, JSON_BYTES_MAX)?).context("not JSON")?,
        )),
        Kind::JsonLines => {
            let bytes = bytes(path, JSON_BYTES_MAX)?;
            let text = std::str::from_utf8(&bytes).context("not UTF-8")?;
            let line = text
                .lines()
                .find(|line| !line.trim().is_empty())
                .context("expected a line, found none")?;
            Given::Json(recorded(
                serde_json::from_str(line).context("line 1 is not JSON")?,
            ))
        }
        Kind::Text => {
            Given::Text(String::from_utf8(bytes(path, JSON_BYTES_MAX)?).context("not UTF-8")?)
        }
    })
}

fn bytes(path: &Path, limit: u64) -> Result<Vec<u8>> {
    let found = std::fs::metadata(path)?.len();
    if found > limit {
        return Err(anyhow!("expected at most {limit} bytes, found {found}"));
    }
    Ok(std::fs::read(path)?)
}

/// The message inside a line of a recording (`t_s`, `data`) or of `launch --json` (`topic`, ..., `data`); anything else is one already.
fn recorded(mut value: Value) -> Value {
    let is_line = value.get("t_s").is_some() || value.get("topic").is_some();
    match value.get_mut("data") {
        Some(data) if is_line => data.take(),
        _ => value,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use llmasos_msgs::nav_msgs::Odometry;

    fn written(folder: &Path, name: &str, content: &[u8]) -> String {
        let path = folder.join(name);
        std::fs::write(&path, content).unwrap();
        path.display().to_string()
    }

    #[test]
    fn a_value_is_a_file_then_json_then_text() {
        let folder = tempfile::tempdir().unwrap();
        let json = written(
            folder.path(),
            "e.json",
            br#"{"child_frame_id":"base_link"}"#,
        );
        let lines = written(
            folder.path(),
            "e.jsonl",
            b"\n{\"t_s\":0.0,\"data\":{\"child_frame_id\":\"first\"}}\n{\"t_s\":1.0,\"data\":{}}\n",
        );
        for (text, found, why) in [
            (
                format!("ego={json}"),
                r#"Json(Object {"child_frame_id": String("base_link")})"#,
                "a file",
            ),
            (
                format!("ego={lines}"),
                r#"Json(Object {"child_frame_id": String("first")})"#,
                "the first line of a recording",
            ),
            (
                r#"ego={"a":1}"#.into(),
                r#"Json(Object {"a": Number(1)})"#,
                "inline",
            ),
            (
                r#"ego={"topic":"odometry","data":{"a":1}}"#.into(),
                r#"Json(Object {"a": Number(1)})"#,
                "a line of launch --json",
            ),
            (
                r#"text={"data":"stop"}"#.into(),
                r#"Json(Object {"data": String("stop")})"#,
                "a std_msgs/String is no line",
            ),
            ("text=pull over".into(), r#"Text("pull over")"#, "words"),
            (
                "text=a=b".into(),
                r#"Text("a=b")"#,
                "only the first = parts",
            ),
            ("text=".into(), r#"Text("")"#, "nothing said"),
        ] {
            assert_eq!(
                format!("{:?}", Input::read(&text).unwrap().given),
                found,
                "{why}"
            );
        }
    }

    #[test]
    fn what_cannot_be_read_is_said_with_port_and_file() {
        let folder = tempfile::tempdir().unwrap();
        let odd = written(folder.path(), "x.bin", b"x");
        let broken = written(folder.path(), "broken.json", b"{\"a\":");
        let no_picture = written(folder.path(), "p.png", b"GIF89a");
        for (text, parts) in [
            ("nothing".to_owned(), ["PORT=FILE_OR_VALUE", "nothing"]),
            ("=x".to_owned(), ["PORT=FILE_OR_VALUE", "=x"]),
            (
                "audio=missing.wav".to_owned(),
                ["port audio", "missing.wav: no such file"],
            ),
            ("ego={\"a\":".to_owned(), ["port ego", "not JSON"]),
            (format!("image={odd}"), ["port image", ".jpg"]),
            (format!("ego={broken}"), ["port ego", "not JSON"]),
            (format!("image={no_picture}"), ["port image", "JPEG or PNG"]),
        ] {
            let error = format!("{:#}", Input::read(&text).unwrap_err());
            assert!(
                parts.iter().all(|part| error.contains(part)),
                "{text}: {error}"
            );
        }
    }

    #[test]
    fn missing_stamps_are_now_and_others_stay() {
        let input = |text: &str| Input::read(text).unwrap();
        let before = clock::now_ns();
        let (message, stamp_ns) = input("ego={}").message::<Odometry>(Odometry::TYPE).unwrap();
        assert!(stamp_ns >= before && message.header.stamp.to_nanos() == stamp_ns);
        let kept = input(r#"ego={"header":{"stamp":{"sec":5,"nanosec":1}}}"#)
            .message::<Odometry>(Odometry::TYPE)
            .unwrap();
        assert_eq!(kept.1, 5_000_000_001);
        let zero = input(r#"ego={"header":{"stamp":{"sec":0,"nanosec":0}}}"#)
            .message::<Odometry>(Odometry::TYPE);
        assert!(
            zero.unwrap_err().to_string().contains("stamp"),
            "a node would refuse it too"
        );
        let unknown = input(r#"ego={"speed":5}"#).message::<Odometry>(Odometry::TYPE);
        assert!(
            unknown.unwrap_err().to_string().contains("speed"),
            "unknown fields are errors"
        );
    }

    #[test]
    fn a_port_says_what_it_takes() {
        let text = Input::read("image=hello there").unwrap();
        let error = text.frame(Image::TYPE).unwrap_err().to_string();
        assert!(
            error.contains("port image takes a .jpg or .png file") && error.contains("hello there"),
            "{error}"
        );
        let json = Input::read("audio={\"rate\":1}").unwrap();
        assert!(
            json.sounds(AudioStamped::TYPE)
                .unwrap_err()
                .to_string()
                .contains("rate")
        );
    }

    #[test]
    fn sound_comes_in_chunks_that_end_now() {
        let input = Input {
            port: "audio".into(),
            given: Given::Sound {
                rate_hz: 16_000,
                samples: vec![0; 700],
            },
            file: None,
        };
        let sounds = input.sounds(AudioStamped::TYPE).unwrap();
        assert_eq!(
            sounds
                .iter()
                .map(|sound| sound.samples.len())
                .collect::<Vec<_>>(),
            [320, 320, 60]
        );
        assert_eq!(sounds[1].stamp_ns - sounds[0].stamp_ns, 20_000_000);
        assert!(clock::now_ns() - sounds[2].stamp_ns < 1_000_000_000);
    }
}
