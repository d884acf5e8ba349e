//! Downloads against a server that misbehaves in every way a real one does.

use std::sync::LazyLock;

use super::super::report::Cancel;
use super::super::test_server::{Answer, Request, Server, answer, file};
use super::*;

const PATH: &str = "/f/w.whl";

/// Bytes that differ from their neighbours, so that an offset by one is noticed.
fn content() -> Vec<u8> {
    static CONTENT: LazyLock<Vec<u8>> = LazyLock::new(|| {
        (0..3_000_000u32)
            .map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8)
            .collect()
    });
    CONTENT.clone()
}

fn pin_of(content: &[u8]) -> Pin {
    Pin {
        bytes: content.len() as u64,
        sha256: hex(&Sha256::digest(content)),
    }
}

/// Remembers what was said.
#[derive(Default)]
struct Listener {
    lines: Vec<String>,
    cancel: Cancel,
    cancel_at_progress: bool,
}

impl Reporter for Listener {
    fn event(&mut self, event: Event<'_>) {
        if self.cancel_at_progress && matches!(event, Event::Progress { .. }) {
            self.cancel.raise();
        }
        self.lines.push(format!("{event:?}"));
    }
    fn is_cancelled(&self) -> bool {
        self.cancel.is_raised()
    }
}

struct Outcome {
    result: Result<(u64, Duration), ModelError>,
    requests: Vec<Request>,
    folder: tempfile::TempDir,
    lines: Vec<String>,
}

impl Outcome {
    fn file(&self) -> Option<Vec<u8>> {
        std::fs::read(self.folder.path().join("w.whl")).ok()
    }
    fn part(&self) -> Option<Vec<u8>> {
        std::fs::read(self.folder.path().join("w.whl.part")).ok()
    }
}

/// One fetch with `part` already there.
fn run(
    part: Option<&[u8]>,
    mut listener: Listener,
    script: impl Fn(&Request, usize) -> Answer + Send + 'static,
) -> Outcome {
    let folder = tempfile::tempdir().unwrap();
    let pin = pin_of(&content());
    let part_path = folder.path().join("w.whl.part");
    if let Some(part) = part {
        std::fs::write(&part_path, part).unwrap();
    }
    let server = Server::start(script);
    let download = Download {
        file: "w.whl",
        address: &Address::new(&server.url(PATH)),
        pin: &pin,
        part: part_path,
        target: folder.path().join("w.whl"),
        first_pause: Duration::from_millis(1),
    };
    let result = fetch(&http::agent(), &download, &mut listener);
    Outcome {
        result,
        requests: server.requests(),
        folder,
        lines: listener.lines,
    }
}

#[test]
fn fetches_whole_file_and_leaves_no_part() {
    let outcome = run(None, Listener::default(), |request, _| {
        file(request, &content())
    });
    assert_eq!(outcome.result.as_ref().unwrap().0, 3_000_000);
    assert_eq!(outcome.file().unwrap(), content());
    assert_eq!(outcome.part(), None);
    assert_eq!(outcome.requests.len(), 1);
    assert_eq!(outcome.requests[0].from, None);
}

#[test]
fn goes_on_where_a_part_ends() {
    let outcome = run(
        Some(&content()[..1_000_001]),
        Listener::default(),
        |request, _| file(request, &content()),
    );
    assert_eq!(
        outcome.result.as_ref().unwrap().0,
        1_999_999,
        "only the rest is transferred"
    );
    assert_eq!(outcome.requests[0].from, Some(1_000_001));
    assert_eq!(outcome.file().unwrap(), content());
}

#[test]
fn a_whole_part_needs_no_request() {
    let outcome = run(Some(&content()), Listener::default(), |_, _| unreachable!());
    outcome.result.as_ref().unwrap();
    assert_eq!(outcome.file().unwrap(), content());
    assert!(outcome.requests.is_empty());
}

#[test]
fn survives_a_connection_cut_in_the_middle() {
    let outcome = run(None, Listener::default(), |request, earlier| {
        let mut bytes = file(request, &content());
        if earlier == 0 {
            bytes.truncate(1_500_000);
        }
        bytes
    });
    outcome.result.as_ref().unwrap();
    assert_eq!(outcome.file().unwrap(), content());
    assert_eq!(outcome.requests.len(), 2);
    let from = outcome.requests[1].from.unwrap();
    assert!((1_000_000..1_500_000).contains(&from), "resumed at {from}");
    assert!(
        outcome
            .lines
            .iter()
            .any(|line| line.starts_with("Retrying")),
        "{:?}",
        outcome.lines
    );
}

#[test]
fn a_link_that_always_breaks_after_a_megabyte_still_finishes() {
    let outcome = run(None, Listener::default(), |request, _| {
        let mut bytes = file(request, &content());
        bytes.truncate(1_300_000);
        bytes
    });
    outcome.result.as_ref().unwrap();
    assert_eq!(outcome.file().unwrap(), content());
}

#[test]
fn a_server_without_ranges_starts_over() {
    let outcome = run(Some(&content()[..10]), Listener::default(), |_, _| {
        answer(200, "", &content())
    });
    outcome.result.as_ref().unwrap();
    assert_eq!(outcome.file().unwrap(), content());
    assert!(
        outcome
            .lines
            .iter()
            .any(|line| line.contains("starting over"))
    );
}

#[test]
fn a_server_that_answers_another_range_is_not_believed() {
    let outcome = run(
        Some(&content()[..10]),
        Listener::default(),
        |request, earlier| {
            if earlier > 0 {
                return file(request, &content());
            }
            answer(
                206,
                &format!("Content-Range: bytes 0-2999999/{}\r\n", content().len()),
                &content(),
            )
        },
    );
    outcome.result.as_ref().unwrap();
    assert_eq!(outcome.file().unwrap(), content());
}

#[test]
fn a_bad_part_is_dropped_and_fetched_anew_once() {
    let mut bad = content()[..1000].to_vec();
    bad[7] ^= 1;
    let outcome = run(Some(&bad), Listener::default(), |request, _| {
        file(request, &content())
    });
    outcome.result.as_ref().unwrap();
    assert_eq!(outcome.file().unwrap(), content());
    assert_eq!(
        outcome
            .requests
            .iter()
            .map(|request| request.from)
            .collect::<Vec<_>>(),
        [Some(1000), None]
    );
}

#[test]
fn errors_name_the_file_both_numbers_and_the_next_step() {
    type Script = fn(&Request, usize) -> Answer;
    struct Case {
        why: &'static str,
        script: Script,
        requests: usize,
        says: &'static [&'static str],
        keeps_part: bool,
    }
    let cases = [
        Case {
            why: "other bytes of the same size",
            script: |_, _| answer(200, "", &vec![7; 3_000_000]),
            requests: 1,
            says: &["w.whl", "expected sha256", "found", "do not use it"],
            keeps_part: false,
        },
        Case {
            why: "another size is announced",
            script: |_, _| answer(200, "", b"short"),
            requests: 1,
            says: &["w.whl", "expected 3000000", "found 5"],
            keeps_part: false,
        },
        Case {
            why: "no size is announced and too much comes",
            script: |_, _| {
                let mut bytes = b"HTTP/1.1 200 X\r\nConnection: close\r\n\r\n".to_vec();
                bytes.extend(vec![0; 3_000_001]);
                bytes
            },
            requests: 1,
            says: &["expected 3000000 bytes"],
            keeps_part: false,
        },
        Case {
            why: "gone",
            script: |_, _| answer(404, "", b""),
            requests: 1,
            says: &["404", "by hand"],
            keeps_part: false,
        },
        Case {
            why: "forbidden",
            script: |_, _| answer(403, "", b""),
            requests: 1,
            says: &["403", "credentials"],
            keeps_part: false,
        },
        Case {
            why: "always busy",
            script: |_, _| answer(503, "", b""),
            requests: 4,
            says: &["w.whl", "4 attempts", "0 of 3000000", "503", "by hand"],
            keeps_part: false,
        },
        Case {
            why: "always cut early",
            script: |request, _| {
                let mut bytes = file(request, &content());
                bytes.truncate(200_000);
                bytes
            },
            requests: 4,
            says: &["4 attempts", "of 3000000", "goes on where it stopped"],
            keeps_part: true,
        },
        Case {
            why: "redirects without end",
            script: |_, _| answer(302, "Location: /f/w.whl\r\n", b""),
            requests: 44,
            says: &["4 attempts", "redirect"],
            keeps_part: false,
        },
    ];
    for case in cases {
        let outcome = run(None, Listener::default(), case.script);
        let message = outcome.result.as_ref().unwrap_err().to_string();
        for word in case.says {
            assert!(
                message.contains(word),
                "{}: '{word}' is not in: {message}",
                case.why
            );
        }
        assert_eq!(outcome.requests.len(), case.requests, "{}", case.why);
        assert_eq!(
            outcome.part().is_some_and(|part| !part.is_empty()),
            case.keeps_part,
            "{}",
            case.why
        );
        assert_eq!(outcome.file(), None, "{}", case.why);
    }
}

#[test]
fn ctrl_c_leaves_a_part_that_goes_on() {
    let listener = Listener {
        cancel_at_progress: true,
        ..Listener::default()
    };
    let outcome = run(Some(&content()[..1000]), listener, |request, _| {
        let mut bytes = file(request, &content());
        // Ends early, so that the chunk that makes progress is not the last.
        bytes.truncate(2_000_000);
        std::thread::sleep(PROGRESS_EVERY);
        bytes
    });
    assert!(
        matches!(outcome.result, Err(ModelError::Cancelled)),
        "{:?}",
        outcome.result
    );
    let part = outcome.part().unwrap();
    assert!(part.len() >= 1000 && content().starts_with(&part));
}

#[test]
fn nobody_listening_is_a_network_error() {
    let folder = tempfile::tempdir().unwrap();
    let pin = pin_of(b"x");
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let address = Address::new(&format!("http://user:secret@127.0.0.1:{port}/w.whl"));
    let (part, target) = (
        folder.path().join("w.whl.part"),
        folder.path().join("w.whl"),
    );
    let download = Download {
        file: "w.whl",
        address: &address,
        pin: &pin,
        part,
        target,
        first_pause: Duration::from_millis(1),
    };
    let message = fetch(&http::agent(), &download, &mut Listener::default())
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("4 attempts") && message.contains("HTTPS_PROXY"),
        "{message}"
    );
    assert!(!message.contains("secret"), "{message}");
}

#[test]
fn time_left_waits_for_a_rate() {
    let seconds = Duration::from_secs;
    assert_eq!(time_left(Duration::from_millis(1900), 100, 100), None);
    assert_eq!(time_left(seconds(2), 0, 100), None, "nothing came: no rate");
    assert_eq!(time_left(seconds(4), 100, 300), Some(seconds(12)));
    assert_eq!(
        time_left(seconds(u64::MAX / 2), 1, u64::MAX),
        None,
        "beyond what a duration holds"
    );
}
