//! What pip says, and what we make of it.

use super::super::report::{Cancel, Silent};
use super::*;

#[test]
fn settings_are_ranked_as_pip_ranks_them() {
    let settings = |text: &str| Settings::from_list(text);
    assert_eq!(settings(""), Settings::default());
    let all = "global.index-url='https://global/simple'\ndownload.index-url='https://verb/simple'\n:env:.index-url='https://env/simple'\ninstall.index-url='https://no/simple'\n";
    assert_eq!(settings(all).index.as_deref(), Some("https://env/simple"));
    let without_environment: String = all
        .lines()
        .filter(|line| !line.starts_with(":env:"))
        .map(|line| format!("{line}\n"))
        .collect();
    assert_eq!(
        settings(&without_environment).index.as_deref(),
        Some("https://verb/simple")
    );
    // Form of pip 23.2: the value is a Python literal, several addresses are on lines of their own.
    let extra = r"global.extra-index-url='\nhttps://a/simple\nhttps://b/simple'";
    assert_eq!(
        settings(extra).extra_indexes,
        ["https://a/simple", "https://b/simple"]
    );
    assert!(settings(":env:.no-index='1'").has_no_index);
    assert!(!settings("global.no-index='true'\n:env:.no-index='0'").has_no_index);
}

#[test]
fn the_default_index_stands_in_the_help() {
    let help = "  -i, --index-url <url>       Base URL of the Python Package Index (default\n    https://host/simple). This should point to a repository\n  --extra-index-url <url>";
    assert_eq!(default_index(help).as_deref(), Some("https://host/simple"));
    assert_eq!(
        default_index("--index-url <url> Base (default https://u:****@host/simple)."),
        None,
        "hidden password"
    );
    assert_eq!(default_index("--index-url <url> Base."), None);
    assert_eq!(default_index(""), None);
}

#[test]
fn the_wheel_says_which_tags_pip_must_accept() {
    let tags = |wheel: &str| tag_arguments(wheel).join(" ");
    assert_eq!(
        tags("a-1-py3-none-any.whl"),
        "--python-version 3.11 --implementation py --abi none --platform any"
    );
    assert_eq!(
        tags("a-1-cp311-abi3-manylinux_2_17_x86_64.manylinux2014_x86_64.whl"),
        "--python-version 3.11 --implementation cp --abi abi3 --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64"
    );
}

#[test]
fn complaints_become_next_steps() {
    let cases = [
        (
            "WARNING: Retrying after NewConnectionError: Network is unreachable",
            "connect this computer",
        ),
        (
            "ERROR: No matching distribution found for a==1",
            "carries this version",
        ),
        (
            "SSLError(SSLCertVerificationError(1, '[SSL: CERTIFICATE_VERIFY_FAILED]",
            "SSL_CERT_FILE",
        ),
        ("Segmentation fault", "look at what pip says"),
    ];
    for (stderr, expected) in cases {
        assert!(
            next_step(stderr).contains(expected),
            "{stderr}: {}",
            next_step(stderr)
        );
    }
    assert_eq!(last_words("ERROR: one\nnoise\n\n"), "ERROR: one");
    assert_eq!(last_words("only line"), "only line");
    assert_eq!(last_words(""), "it failed without a word");
}

fn wanted() -> Distribution {
    let pin = super::super::catalogue::Pin {
        bytes: 1,
        sha256: "ab".repeat(32),
    };
    Distribution {
        package: "tiny".into(),
        version: "1".into(),
        file: "tiny-1-py3-none-any.whl".into(),
        pin,
        members: Vec::new(),
    }
}

#[test]
fn a_computer_without_python_is_told_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let mut resolver = Resolver::with_python("/nonexistent/python3");
    let reason = resolver
        .locate(&http::agent(), &wanted(), &mut Silent::default())
        .unwrap_err();
    assert!(reason.contains("not installed"), "{reason}");
    let dir = folder.path().join("downloads").join("x");
    let message = resolver
        .download(&wanted(), &dir, &reason, &mut Silent::default())
        .unwrap_err()
        .to_string();
    for word in [
        "tiny-1-py3-none-any.whl",
        "apt install python3-pip",
        "by hand",
        &"ab".repeat(32),
        "downloads",
    ] {
        assert!(message.contains(word), "'{word}' is not in: {message}");
    }
}

/// A program in the place of python3.
fn script(folder: &Path, body: &str) -> PathBuf {
    use std::os::unix::fs::PermissionsExt;
    let path = folder.join("python3");
    std::fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path
}

#[test]
fn python_without_pip_is_told_so() {
    let folder = tempfile::tempdir().unwrap();
    let python = script(
        folder.path(),
        "echo '/usr/bin/python3: No module named pip' >&2; exit 1",
    );
    let message = Resolver::with_python(python)
        .download(
            &wanted(),
            &folder.path().join("d"),
            "first",
            &mut Silent::default(),
        )
        .unwrap_err();
    assert!(
        message.to_string().contains("python3 has no pip"),
        "{message}"
    );
}

#[test]
fn much_output_does_not_block_and_ctrl_c_ends_pip() {
    let folder = tempfile::tempdir().unwrap();
    let python = script(
        folder.path(),
        "head -c 4000000 /dev/zero; head -c 4000000 /dev/zero >&2",
    );
    let run_it = |python: &Path, cancel: Cancel| {
        let mut command = Command::new(python);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        run(command, Duration::from_secs(30), &mut Silent { cancel })
    };
    let Ok(finished) = run_it(&python, Cancel::default()) else {
        panic!("it ends by itself")
    };
    assert!(finished.is_success);
    assert_eq!(finished.stdout.len() as u64, MAX_OUTPUT_BYTES);
    let python = script(folder.path(), "exec sleep 30");
    let cancel = Cancel::default();
    cancel.raise();
    let begun = Instant::now();
    assert!(matches!(
        run_it(&python, cancel),
        Err(PipFailure::Cancelled)
    ));
    assert!(begun.elapsed() < Duration::from_secs(5));
}
