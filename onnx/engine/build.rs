//! Fetches ONNX Runtime's shared library once, so that a fresh checkout builds and runs with no manual step.
//!
//! The library comes out of the project's own Python wheel: a plain C library with a pinned hash, chosen by platform
//! tag, so the host's Python version does not matter. It is loaded at run time, never linked: a failed fetch is a
//! warning and the build goes on, because everything but running a model works without it.
//!
//! ```text
//! ORT_DYLIB_PATH set ──► that file
//! cache has it ────────► $LLMASOS_HOME/ort | $XDG_CACHE_HOME/llmasos/ort | ~/.cache/llmasos/ort /<version>/<arch>/
//! else ────────────────► pip download (pinned) ─► unpack beside ─► rename into the cache
//! ```

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const VERSION: &str = "1.32.0";
const LIBRARY: &str = "libonnxruntime.so";
/// The library has about 27 MB (aarch64) or 35 MB (x86_64); much less is a damaged file.
const LIBRARY_MIN_BYTES: u64 = 16 << 20;
const NEXT_STEP: &str = "install Python 3 with pip and build again, or set ORT_DYLIB_PATH to a libonnxruntime.so (1.17 or later)";

struct Wheel {
    arch: &'static str,
    platform: &'static str,
    sha256: &'static str,
}

const WHEELS: [Wheel; 2] = [
    Wheel {
        arch: "x86_64",
        platform: "manylinux_2_28_x86_64",
        sha256: "5a34fc4dfeb5a7b4a74c95dcba1e773d722abda720b474edf1b0c419dc6d163d",
    },
    Wheel {
        arch: "aarch64",
        platform: "manylinux_2_28_aarch64",
        sha256: "2303372a85299b6757b0e11e1cbf13e410ddf7e10c37f4b37e99d1c90e7daf7c",
    },
];

/// Unpacks the library and its licence files from a wheel into a folder: argv = wheel, folder, version, library name.
/// The library goes last, is flushed to disk, and appears under its name only when it is whole.
const UNPACK: &str = r#"
import os, sys, zipfile
wheel, folder, version, library = sys.argv[1:5]
archive = zipfile.ZipFile(wheel)
def put(member, name):
    part = os.path.join(folder, ".%s.%d.part" % (name, os.getpid()))
    try:
        with open(part, "wb") as out:
            out.write(archive.read(member))
            out.flush()
            os.fsync(out.fileno())
        os.replace(part, os.path.join(folder, name))
    finally:
        if os.path.exists(part):
            os.remove(part)
os.makedirs(folder, exist_ok=True)
put("onnxruntime/LICENSE", "LICENSE")
put("onnxruntime/ThirdPartyNotices.txt", "ThirdPartyNotices.txt")
put("onnxruntime/capi/" + library + "." + version, library)
"#;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    for name in ["ORT_DYLIB_PATH", "LLMASOS_HOME", "XDG_CACHE_HOME", "HOME"] {
        println!("cargo::rerun-if-env-changed={name}");
    }
    let baked = match locate() {
        Ok(path) => path.display().to_string(),
        Err(reason) => {
            println!(
                "cargo::warning=ONNX Runtime {VERSION} was not fetched, so models cannot run: {reason}. Next step: {NEXT_STEP}."
            );
            String::new()
        }
    };
    println!("cargo::rustc-env=LLMASOS_BUILT_LIBRARY={baked}");
}

/// The library's path: the user's own, the cached one, or a freshly fetched one.
fn locate() -> Result<PathBuf, String> {
    if let Some(own) = variable("ORT_DYLIB_PATH") {
        let own = PathBuf::from(own);
        println!("cargo::rerun-if-changed={}", own.display());
        return if own.is_file() {
            Ok(own)
        } else {
            Err(format!(
                "ORT_DYLIB_PATH names {}, which is not a file",
                own.display()
            ))
        };
    }
    let (os, arch) = (target("OS")?, target("ARCH")?);
    let wheel = WHEELS
        .iter()
        .find(|wheel| os == "linux" && wheel.arch == arch)
        .ok_or_else(|| format!("no wheel is pinned for {os} on {arch}"))?;
    let folder = cache_folder()?.join(VERSION).join(wheel.arch);
    let library = folder.join(LIBRARY);
    // Cargo runs this script again as long as a file named here is absent.
    println!("cargo::rerun-if-changed={}", library.display());
    if !is_whole(&library) {
        fetch(wheel, &folder)?;
    }
    if is_whole(&library) {
        Ok(library)
    } else {
        Err(format!(
            "{} has fewer than {LIBRARY_MIN_BYTES} bytes after unpacking",
            library.display()
        ))
    }
}

fn is_whole(library: &Path) -> bool {
    fs::metadata(library).is_ok_and(|meta| meta.is_file() && meta.len() >= LIBRARY_MIN_BYTES)
}

/// Downloads the wheel into a folder of this build and unpacks it; two builds at once each do so and the last rename wins.
fn fetch(wheel: &Wheel, folder: &Path) -> Result<(), String> {
    let scratch = PathBuf::from(required("OUT_DIR")?).join(format!("wheel-{}", std::process::id()));
    let result = fetch_through(wheel, folder, &scratch);
    // Leftovers are only disk space in the target folder: not worth failing over.
    let _ = fs::remove_dir_all(&scratch);
    result
}

fn fetch_through(wheel: &Wheel, folder: &Path, scratch: &Path) -> Result<(), String> {
    fs::create_dir_all(scratch)
        .map_err(|error| format!("cannot create {}: {error}", scratch.display()))?;
    let pins = scratch.join("pins.txt");
    let pin = format!("onnxruntime=={VERSION} --hash=sha256:{}\n", wheel.sha256);
    fs::write(&pins, pin).map_err(|error| format!("cannot write {}: {error}", pins.display()))?;
    run(
        Command::new("python3")
            .args([
                "-m",
                "pip",
                "download",
                "--quiet",
                "--no-input",
                "--disable-pip-version-check",
            ])
            .args(["--timeout", "30", "--retries", "3"])
            .args(["--no-deps", "--only-binary=:all:", "--require-hashes"])
            .args([
                "--python-version",
                "3.11",
                "--implementation",
                "cp",
                "--abi",
                "cp311",
            ])
            .args(["--platform", wheel.platform, "--requirement"])
            .arg(&pins)
            .arg("--dest")
            .arg(scratch),
        "pip download",
    )?;
    let file = fs::read_dir(scratch)
        .map_err(|error| format!("cannot list {}: {error}", scratch.display()))?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|extension| extension == "whl"))
        .ok_or("pip download left no wheel")?;
    run(
        Command::new("python3")
            .args(["-c", UNPACK])
            .arg(file)
            .arg(folder)
            .args([VERSION, LIBRARY]),
        "unpacking the wheel",
    )
}

/// `$LLMASOS_HOME/ort`, else `$XDG_CACHE_HOME/llmasos/ort`, else `~/.cache/llmasos/ort`.
fn cache_folder() -> Result<PathBuf, String> {
    if let Some(home) = variable("LLMASOS_HOME") {
        return Ok(PathBuf::from(home).join("ort"));
    }
    if let Some(cache) = variable("XDG_CACHE_HOME") {
        return Ok(PathBuf::from(cache).join("llmasos").join("ort"));
    }
    variable("HOME")
        .map(|home| {
            PathBuf::from(home)
                .join(".cache")
                .join("llmasos")
                .join("ort")
        })
        .ok_or_else(|| "none of LLMASOS_HOME, XDG_CACHE_HOME and HOME is set".to_owned())
}

/// An environment variable that is set and not empty.
fn variable(name: &str) -> Option<std::ffi::OsString> {
    env::var_os(name).filter(|value| !value.is_empty())
}

fn required(name: &str) -> Result<String, String> {
    env::var(name).map_err(|error| format!("{name}: {error}"))
}

fn target(what: &str) -> Result<String, String> {
    required(&format!("CARGO_CFG_TARGET_{what}"))
}

/// Runs a program; the error is the last line it wrote, which is where pip says what was wrong.
fn run(command: &mut Command, step: &str) -> Result<(), String> {
    let output = command
        .output()
        .map_err(|error| format!("{step}: python3 did not start: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    let last = stderr
        .lines()
        .rev()
        .find(|line| !line.trim().is_empty())
        .unwrap_or("no message");
    Err(format!(
        "{step} failed ({}): {}",
        output.status,
        last.trim()
    ))
}
