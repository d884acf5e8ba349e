//! Telling people what happens while they wait: bars on a terminal, plain lines elsewhere, nothing for a program that reads JSON.
//!
//! Fetching and building know only [`Reporter`]: they say what is going on and ask whether to stop. Standard output stays free for
//! results; everything here goes to standard error.

use std::io::{IsTerminal, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// How often a plain line about a running download is printed.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// Something that happens on the way to a model folder.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// Another process holds the lock; this one waits.
    Waiting {
        /// The file or model.
        what: &'a str,
    },
    /// The address of a distribution is being found out.
    Resolving {
        /// Distribution file name.
        file: &'a str,
    },
    /// A download begins.
    Fetching {
        /// Distribution file name.
        file: &'a str,
        /// Size.
        bytes: u64,
        /// Bytes already here.
        resumed_at: u64,
    },
    /// A download goes on.
    Progress {
        /// Distribution file name.
        file: &'a str,
        /// Bytes here.
        done: u64,
        /// Size.
        total: u64,
        /// Time left at the rate since the beginning; `None` in the first seconds.
        left: Option<Duration>,
    },
    /// An attempt failed and another follows.
    Retrying {
        /// Distribution file name.
        file: &'a str,
        /// The attempt that follows, from 2.
        attempt: u32,
        /// Pause before it.
        pause: Duration,
        /// What failed.
        reason: &'a str,
    },
    /// A download is whole and has the pinned content.
    Fetched {
        /// Distribution file name.
        file: &'a str,
        /// Bytes transferred now, without what was here before.
        bytes: u64,
        /// Time it took.
        elapsed: Duration,
    },
    /// Members are unpacked.
    Unpacking {
        /// Archive file name.
        file: &'a str,
    },
    /// A recipe runs.
    Building {
        /// Catalogue name.
        name: &'a str,
        /// What the forge does: `reading`, `converting`, `copying`, `hashing`.
        step: &'a str,
        /// Units done.
        done: u64,
        /// Units in all.
        total: u64,
    },
    /// Something is done whose units are no bytes.
    Counting {
        /// What it is done to.
        name: &'a str,
        /// What is done.
        step: &'a str,
        /// Units done.
        done: u64,
        /// Units in all.
        total: u64,
    },
    /// The model folder is there.
    Ready {
        /// Catalogue name.
        name: &'a str,
        /// Its folder.
        dir: &'a Path,
        /// Whether it had to be built now.
        is_new: bool,
    },
    /// Anything else worth a line.
    Note {
        /// The line.
        text: &'a str,
    },
}

/// Hears what happens, and says whether to stop.
pub trait Reporter {
    /// Something happened.
    fn event(&mut self, event: Event<'_>);
    /// Whether to stop as soon as possible.
    fn is_cancelled(&self) -> bool {
        false
    }
}

/// A flag that one thread raises and another looks at between two chunks of work.
#[derive(Clone, Debug, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// Raises the flag.
    pub fn raise(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
    /// Whether it is raised.
    pub fn is_raised(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Says nothing, and stops when told.
#[derive(Debug, Default)]
pub struct Silent {
    /// Raised to stop.
    pub cancel: Cancel,
}

impl Reporter for Silent {
    fn event(&mut self, _: Event<'_>) {}
    fn is_cancelled(&self) -> bool {
        self.cancel.is_raised()
    }
}

/// Bars on a terminal, lines elsewhere; both on standard error.
#[derive(Debug)]
pub struct Console {
    cancel: Cancel,
    /// The bar shown and what it is about; another subject gets a new bar, so that its rate starts anew.
    bar: Option<(String, ProgressBar)>,
    is_terminal: bool,
    last_line: Instant,
}

impl Console {
    /// Looks whether standard error is a terminal.
    pub fn new(cancel: Cancel) -> Console {
        Console {
            cancel,
            bar: None,
            is_terminal: std::io::stderr().is_terminal(),
            last_line: Instant::now(),
        }
    }

    fn line(&mut self, text: &str) {
        self.finish_bar();
        self.last_line = Instant::now();
        // Nobody is left to tell when standard error is closed.
        let _ = writeln!(std::io::stderr(), "{text}");
    }

    fn finish_bar(&mut self) {
        if let Some((_, bar)) = self.bar.take() {
            bar.finish_and_clear();
        }
    }

    fn counted(&mut self, what: &str, done: u64, total: u64) {
        if self.is_terminal {
            self.show(what, done, total, COUNTED);
        } else if self.last_line.elapsed() >= LINE_EVERY {
            self.line(&format!("{what}: {done} of {total}"));
        }
    }

    fn show(&mut self, what: &str, done: u64, total: u64, template: &str) {
        if self
            .bar
            .as_ref()
            .is_some_and(|(subject, _)| subject != what)
        {
            self.finish_bar();
        }
        let (_, bar) = self
            .bar
            .get_or_insert_with(|| (what.to_owned(), new_bar(what, total, template)));
        bar.set_length(total);
        bar.set_position(done);
    }

    fn moved(&mut self, what: &str, done: u64, total: u64, left: Option<Duration>) {
        if self.is_terminal {
            self.show(what, done, total, BYTES);
        } else if self.last_line.elapsed() >= LINE_EVERY {
            let percent = (done as f64 * 100.0 / total.max(1) as f64).floor();
            let left = left.map_or_else(String::new, |left| {
                format!(", about {} left", duration_words(left))
            });
            self.line(&format!(
                "{what}: {percent} % ({} of {}{left})",
                size_words(done),
                size_words(total)
            ));
        }
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        self.finish_bar();
    }
}

impl Reporter for Console {
    fn event(&mut self, event: Event<'_>) {
        match event {
            Event::Waiting { what } => self.line(&format!(
                "another process is working on {what}; waiting for it"
            )),
            Event::Resolving { file } => self.line(&format!("looking up {file}")),
            Event::Fetching {
                file,
                bytes,
                resumed_at: 0,
            } => self.line(&format!("fetching {file} ({})", size_words(bytes))),
            Event::Fetching {
                file,
                bytes,
                resumed_at,
            } => {
                self.line(&format!(
                    "fetching {file} ({}), going on at {}",
                    size_words(bytes),
                    size_words(resumed_at)
                ));
            }
            Event::Progress {
                file,
                done,
                total,
                left,
            } => self.moved(file, done, total, left),
            Event::Retrying {
                file,
                attempt,
                pause,
                reason,
            } => {
                self.line(&format!(
                    "{file}: {reason}; attempt {attempt} in {}",
                    duration_words(pause)
                ));
            }
            Event::Fetched {
                file,
                bytes,
                elapsed,
            } => {
                let rate = bytes as f64 / elapsed.as_secs_f64().max(0.001);
                self.line(&format!(
                    "fetched {file} in {} ({}/s), sha256 as pinned",
                    duration_words(elapsed),
                    size_words(rate as u64)
                ));
            }
            Event::Unpacking { file } => self.line(&format!("unpacking {file}")),
            Event::Building {
                name,
                step,
                done,
                total,
            } => self.moved(&format!("{name}: {step}"), done, total, None),
            Event::Counting {
                name,
                step,
                done,
                total,
            } => self.counted(&format!("{name}: {step}"), done, total),
            Event::Ready {
                name,
                dir,
                is_new: true,
            } => self.line(&format!("{name} is ready in {}", dir.display())),
            Event::Ready { .. } => self.finish_bar(),
            Event::Note { text } => self.line(text),
        }
    }

    fn is_cancelled(&self) -> bool {
        self.cancel.is_raised()
    }
}

/// A bar of bytes.
const BYTES: &str = "{msg:32!} [{wide_bar}] {decimal_bytes:>10}/{decimal_total_bytes:10} {decimal_bytes_per_sec:>12} {eta:>4}";
/// A bar of anything else.
const COUNTED: &str = "{msg:48!} [{wide_bar}] {pos:>7}/{len:7} {eta:>4}";

fn new_bar(what: &str, total: u64, template: &str) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr_with_hz(10));
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars("=> "));
    }
    bar.with_message(what.to_owned())
}

/// `92.9 MB`: decimal units, as disks and networks are sold.
pub fn size_words(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["kB", "MB", "GB", "TB"];
    let mut value = bytes as f64;
    let mut unit = "B";
    for next in UNITS {
        if value < 1000.0 {
            break;
        }
        value /= 1000.0;
        unit = next;
    }
    if unit == "B" {
        format!("{bytes} B")
    } else {
        format!("{value:.1} {unit}")
    }
}

/// `1.2 s`, `45 s`, `3 min 20 s`.
pub fn duration_words(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    if seconds < 10.0 {
        format!("{seconds:.1} s")
    } else if seconds < 120.0 {
        format!("{seconds:.0} s")
    } else {
        let whole = duration.as_secs();
        format!("{} min {} s", whole / 60, whole % 60)
    }
}
