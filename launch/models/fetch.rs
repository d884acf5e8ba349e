//! Downloads that end whole and checked, or go on later where they stopped.
//!
//! Bytes go into `<file>.part` as they come; a cut connection, Ctrl-C or a lost supply leaves a prefix that the next attempt continues
//! with a byte range. Only when size and sha256 are the pinned ones does the file get its name. A prefix that turns out wrong is removed,
//! so a bad byte cannot poison later runs.
//!
//! ```text
//!           ┌────────── cut, 5xx, 429: pause 1 s, 2 s, 4 s ◄────────┐
//!           ▼                                                       │
//!  .part (n bytes) ── GET, Range: bytes=n- ──► 206 append ─┐        │
//!                                          └─► 200 restart ┴─► read ┴─► sha256 ─► rename
//! ```

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

use super::catalogue::Pin;
use super::error::ModelError;
use super::http::{self, Address};
use super::report::{Event, Reporter};
use super::store::{hex, remove_file};

/// Attempts in a row that bring nothing before giving up.
const MAX_ATTEMPTS: u32 = 4;
/// An attempt that brought this much does not count as a failure: a bad link finishes in the end.
const PROGRESS_BYTES: u64 = 1 << 20;
/// Bytes read at once.
const CHUNK_BYTES: usize = 128 << 10;
/// Time between two progress events.
const PROGRESS_EVERY: Duration = Duration::from_millis(100);
/// Time before a rate is believed.
const RATE_AFTER: Duration = Duration::from_secs(2);

/// One file to fetch.
#[derive(Debug)]
pub(crate) struct Download<'a> {
    /// Name for people.
    pub(crate) file: &'a str,
    /// Where from.
    pub(crate) address: &'a Address,
    /// What it must be.
    pub(crate) pin: &'a Pin,
    /// Where bytes gather.
    pub(crate) part: PathBuf,
    /// Its name when whole.
    pub(crate) target: PathBuf,
    /// Pause before the second attempt; doubles each time.
    pub(crate) first_pause: Duration,
}

/// What ended an attempt.
enum Failure {
    /// Try again.
    Again(String),
    /// No use.
    Final(ModelError),
}

impl From<ModelError> for Failure {
    fn from(error: ModelError) -> Failure {
        Failure::Final(error)
    }
}

/// The prefix in the `.part` file and its running hash.
struct Part {
    file: File,
    hash: Sha256,
    bytes: u64,
}

/// Fetches, checks and renames. Returns bytes transferred and the time spent, from which a rate can be learnt.
///
/// # Errors
/// See [`ModelError`]: `Status`, `Network`, `Size`, `Hash`, `DiskFull`, `Io`, `Cancelled`.
pub(crate) fn fetch(
    agent: &ureq::Agent,
    download: &Download<'_>,
    reporter: &mut dyn Reporter,
) -> Result<(u64, Duration), ModelError> {
    let started = Instant::now();
    let first = part_bytes(&download.part);
    reporter.event(Event::Fetching {
        file: download.file,
        bytes: download.pin.bytes,
        resumed_at: first,
    });
    let mut was_resumed = first > 0;
    let mut failures = 0;
    loop {
        let before = part_bytes(&download.part);
        match attempt(agent, download, reporter) {
            Ok(found) if found == download.pin.sha256 => break,
            Ok(found) => {
                remove_file(&download.part)?;
                if !was_resumed {
                    return Err(wrong_content(download, found));
                }
                was_resumed = false;
                reporter.event(Event::Note {
                    text: &format!(
                        "{}: the part left by an earlier run was bad; starting over",
                        download.file
                    ),
                });
            }
            Err(Failure::Final(error)) => return Err(error),
            Err(Failure::Again(reason)) => {
                let now = part_bytes(&download.part);
                failures = if now >= before.saturating_add(PROGRESS_BYTES) {
                    1
                } else {
                    failures + 1
                };
                if failures >= MAX_ATTEMPTS {
                    return Err(given_up(download, now, reason));
                }
                was_resumed |= now > 0;
                pause(download, failures, &reason, reporter)?;
            }
        }
    }
    std::fs::rename(&download.part, &download.target)
        .map_err(|e| ModelError::io("renaming", &download.part, e))?;
    let (bytes, elapsed) = (download.pin.bytes.saturating_sub(first), started.elapsed());
    reporter.event(Event::Fetched {
        file: download.file,
        bytes,
        elapsed,
    });
    Ok((bytes, elapsed))
}

fn wrong_content(download: &Download<'_>, found: String) -> ModelError {
    ModelError::Hash {
        file: download.file.to_owned(),
        expected: download.pin.sha256.clone(),
        found,
        next: "run the same command again; if it comes back, the index serves another file than the one pinned: do not use it".into(),
    }
}

fn given_up(download: &Download<'_>, done: u64, reason: String) -> ModelError {
    let dir = download
        .target
        .parent()
        .map(Path::to_owned)
        .unwrap_or_default();
    ModelError::Network {
        file: download.file.to_owned(),
        attempts: MAX_ATTEMPTS,
        done,
        total: download.pin.bytes,
        reason,
        dir,
    }
}

/// Waits before the next attempt, in slices, so that Ctrl-C is heard.
fn pause(
    download: &Download<'_>,
    failures: u32,
    reason: &str,
    reporter: &mut dyn Reporter,
) -> Result<(), ModelError> {
    let pause = download.first_pause * 2u32.saturating_pow(failures.saturating_sub(1));
    reporter.event(Event::Retrying {
        file: download.file,
        attempt: failures + 1,
        pause,
        reason,
    });
    let until = Instant::now() + pause;
    while Instant::now() < until {
        if reporter.is_cancelled() {
            return Err(ModelError::Cancelled);
        }
        std::thread::sleep(Duration::from_millis(50).min(pause));
    }
    Ok(())
}

fn part_bytes(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |meta| meta.len())
}

/// One request. On success the part file has the pinned size, is on the disk, and its sha256 is returned.
fn attempt(
    agent: &ureq::Agent,
    download: &Download<'_>,
    reporter: &mut dyn Reporter,
) -> Result<String, Failure> {
    if part_bytes(&download.part) > download.pin.bytes {
        remove_file(&download.part)?;
    }
    let mut part = Part::open(&download.part)?;
    if part.bytes < download.pin.bytes {
        let mut body = request(agent, download, &mut part, reporter)?;
        receive(&mut body, download, &mut part, reporter)?;
    }
    part.file
        .sync_all()
        .map_err(|e| ModelError::io("writing", &download.part, e))?;
    Ok(hex(&part.hash.finalize()))
}

/// Asks for what is missing and checks what the server says about it. A server without ranges restarts the part.
fn request(
    agent: &ureq::Agent,
    download: &Download<'_>,
    part: &mut Part,
    reporter: &mut dyn Reporter,
) -> Result<impl Read + use<>, Failure> {
    let range = format!("bytes={}-", part.bytes);
    let headers: &[(&str, &str)] = if part.bytes > 0 {
        &[("Range", &range)]
    } else {
        &[]
    };
    let response = http::get(agent, download.address, headers)
        .map_err(|e| Failure::Again(format!("no connection: {e}")))?;
    let status = response.status().as_u16();
    let header = |name: &str| {
        response
            .headers()
            .get(name)
            .and_then(|value| value.to_str().ok())
            .map(str::to_owned)
    };
    match status {
        200 => {
            if part.bytes > 0 {
                reporter.event(Event::Note {
                    text: &format!(
                        "{}: the server cannot go on in the middle; starting over",
                        download.file
                    ),
                });
                part.restart(&download.part)?;
            }
            require_size(
                download,
                header("content-length").and_then(|text| text.parse().ok()),
            )?;
        }
        206 => {
            let (start, total) = header("content-range")
                .as_deref()
                .and_then(content_range)
                .unwrap_or((u64::MAX, None));
            if start != part.bytes {
                part.restart(&download.part)?;
                return Err(Failure::Again(
                    "the server answered with another range than was asked for".into(),
                ));
            }
            require_size(download, total)?;
        }
        416 => {
            part.restart(&download.part)?;
            return Err(Failure::Again(
                "the server has no bytes after the ones already here".into(),
            ));
        }
        408 | 425 | 429 | 500..=599 => {
            return Err(Failure::Again(format!("the server answered {status}")));
        }
        _ => return Err(Failure::Final(refused(download, status))),
    }
    Ok(response.into_body().into_reader())
}

fn refused(download: &Download<'_>, status: u16) -> ModelError {
    let next = match status {
        401 | 403 | 407 => "check the credentials of your package index or proxy",
        404 | 410 => {
            "the file is gone there: update llmasos, or place the file by hand as `llmasos model info` tells"
        }
        _ => "run the same command again later",
    };
    ModelError::Status {
        file: download.file.to_owned(),
        url: download.address.url.clone(),
        status,
        next,
    }
}

/// `bytes 5-9/10` → `(5, Some(10))`.
fn content_range(text: &str) -> Option<(u64, Option<u64>)> {
    let (range, total) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (start, _) = range.split_once('-')?;
    Some((start.parse().ok()?, total.parse().ok()))
}

fn require_size(download: &Download<'_>, announced: Option<u64>) -> Result<(), Failure> {
    match announced {
        Some(found) if found != download.pin.bytes => {
            Err(Failure::Final(wrong_size(download, found)))
        }
        _ => Ok(()),
    }
}

fn wrong_size(download: &Download<'_>, found: u64) -> ModelError {
    ModelError::Size {
        file: download.file.to_owned(),
        expected: download.pin.bytes,
        found,
        next: "the server has another file than the one pinned: check your package index, or update llmasos".into(),
    }
}

/// Reads the body to the pinned size, never beyond.
fn receive(
    body: &mut impl Read,
    download: &Download<'_>,
    part: &mut Part,
    reporter: &mut dyn Reporter,
) -> Result<(), Failure> {
    let total = download.pin.bytes;
    let (begun, offset) = (Instant::now(), part.bytes);
    let mut told = begun;
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        if reporter.is_cancelled() {
            return Err(Failure::Final(ModelError::Cancelled));
        }
        let count = body
            .read(&mut chunk)
            .map_err(|e| Failure::Again(format!("the connection broke: {e}")))?;
        if count == 0 {
            break;
        }
        if part.bytes + count as u64 > total {
            remove_file(&download.part)?;
            return Err(Failure::Final(wrong_size(
                download,
                part.bytes + count as u64,
            )));
        }
        part.append(&chunk[..count], &download.part)?;
        if told.elapsed() >= PROGRESS_EVERY || part.bytes == total {
            told = Instant::now();
            let left = time_left(begun.elapsed(), part.bytes - offset, total - part.bytes);
            reporter.event(Event::Progress {
                file: download.file,
                done: part.bytes,
                total,
                left,
            });
        }
    }
    if part.bytes < total {
        return Err(Failure::Again(format!(
            "the connection ended after {} of {total} bytes",
            part.bytes
        )));
    }
    Ok(())
}

/// Time for `rest` bytes at the rate of the first `done`; `None` while the rate says nothing yet.
fn time_left(elapsed: Duration, done: u64, rest: u64) -> Option<Duration> {
    if elapsed < RATE_AFTER || done == 0 {
        return None;
    }
    Duration::try_from_secs_f64(elapsed.as_secs_f64() * rest as f64 / done as f64).ok()
}

impl Part {
    /// Opens the part for appending and hashes what is there.
    fn open(path: &Path) -> Result<Part, ModelError> {
        let error = |e| ModelError::io("opening", path, e);
        let mut file = OpenOptions::new()
            .create(true)
            .append(true)
            .read(true)
            .open(path)
            .map_err(error)?;
        let mut part = Part {
            hash: Sha256::new(),
            bytes: 0,
            file: file.try_clone().map_err(error)?,
        };
        let mut chunk = vec![0; CHUNK_BYTES];
        loop {
            match file
                .read(&mut chunk)
                .map_err(|e| ModelError::io("reading", path, e))?
            {
                0 => return Ok(part),
                count => {
                    part.hash.update(&chunk[..count]);
                    part.bytes += count as u64;
                }
            }
        }
    }

    fn append(&mut self, bytes: &[u8], path: &Path) -> Result<(), ModelError> {
        self.file
            .write_all(bytes)
            .map_err(|e| ModelError::io("writing", path, e))?;
        self.hash.update(bytes);
        self.bytes += bytes.len() as u64;
        Ok(())
    }

    fn restart(&mut self, path: &Path) -> Result<(), ModelError> {
        self.file
            .set_len(0)
            .map_err(|e| ModelError::io("truncating", path, e))?;
        (self.hash, self.bytes) = (Sha256::new(), 0);
        Ok(())
    }
}

#[cfg(test)]
#[path = "fetch_tests.rs"]
mod tests;
