//! The sources of llama.cpp: unpacked from the pinned archive and changed in two places.
//!
//! ```text
//!   ggml-cpu/amx/mmq.cpp   gcc 12 does not know that _tile_loadconfig reads memory and drops the stores before it, so that AMX dies
//!                          with SIGILL: a barrier keeps them
//!   ggml/src/CMakeLists    of fourteen CPU backends the three that are compared are built
//! ```
//!
//! Both changes are found by their text. A source in which they are not found is another one than the pinned one, and is refused.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use flate2::read::GzDecoder;

/// Where llama.cpp is inside the archive, after its first folder.
const INSIDE: &str = "vendor/llama.cpp";
/// Most files in the archive; it has about 4,000.
const FILES_MAX: usize = 50_000;
/// Most bytes unpacked; it has about 250 MB.
const BYTES_MAX: u64 = 2 << 30;

/// File, relative to llama.cpp, whose AMX code is changed.
const AMX: &str = "ggml/src/ggml-cpu/amx/mmq.cpp";
/// The call before which memory must be written.
const LOAD_CONFIG: &str = "_tile_loadconfig(&tc);";
/// What keeps the compiler from dropping the stores.
const BARRIER: &str = "asm volatile(\"\" :: \"r\"(&tc) : \"memory\");";

/// File, relative to llama.cpp, that lists the CPU backends.
const BACKENDS: &str = "ggml/src/CMakeLists.txt";
/// Beginning of a line that adds one.
const ADD_BACKEND: &str = "ggml_add_cpu_backend_variant(";

/// Unpacks llama.cpp from the archive into `dir` and changes it, keeping the named CPU backends.
///
/// # Errors
/// For a damaged archive, a full disk, or a place to change that is not there.
pub(super) fn unpack(archive: &Path, dir: &Path, backends: &[&str]) -> Result<()> {
    let doing = || format!("unpacking {}", archive.display());
    let file = File::open(archive).with_context(doing)?;
    let mut packed = tar::Archive::new(GzDecoder::new(BufReader::new(file)));
    let (mut files, mut bytes) = (0_usize, 0_u64);
    for entry in packed.entries().with_context(doing)? {
        let mut entry = entry.with_context(doing)?;
        let path = entry.path().with_context(doing)?.into_owned();
        let mut parts = path.components();
        parts.next();
        let Ok(inside) = parts.as_path().strip_prefix(INSIDE) else {
            continue;
        };
        files += 1;
        bytes = bytes.saturating_add(entry.size());
        ensure!(
            files <= FILES_MAX && bytes <= BYTES_MAX,
            "{}: more than {FILES_MAX} files or {BYTES_MAX} bytes",
            archive.display()
        );
        let kind = entry.header().entry_type();
        let is_plain = inside
            .components()
            .all(|part| matches!(part, std::path::Component::Normal(_)));
        if !kind.is_file() || !is_plain || inside.as_os_str().is_empty() {
            continue;
        }
        let target = dir.join(inside);
        if let Some(parent) = target.parent() {
            std::fs::create_dir_all(parent)
                .with_context(|| format!("creating {}", parent.display()))?;
        }
        entry
            .unpack(&target)
            .with_context(|| format!("writing {}", target.display()))?;
    }
    ensure!(files > 0, "{}: has no {INSIDE}", archive.display());
    change(&dir.join(AMX), with_barrier)?;
    change(&dir.join(BACKENDS), |text| with_backends(text, backends))
}

fn change(path: &Path, how: impl Fn(&str) -> Result<String>) -> Result<()> {
    let doing = || format!("changing {}", path.display());
    let text = std::fs::read_to_string(path).with_context(doing)?;
    std::fs::write(path, how(&text).with_context(doing)?).with_context(doing)
}

/// The barrier before the one call.
fn with_barrier(text: &str) -> Result<String> {
    match text.matches(LOAD_CONFIG).count() {
        1 => Ok(text.replace(LOAD_CONFIG, &format!("{BARRIER}\n    {LOAD_CONFIG}"))),
        found => bail!("expected one {LOAD_CONFIG}, found {found}: this is not the pinned source"),
    }
}

/// Without the lines that add other backends.
fn with_backends(text: &str, keep: &[&str]) -> Result<String> {
    let mut kept = 0;
    let lines = text.lines().filter(|line| {
        let Some(rest) = line.trim_start().strip_prefix(ADD_BACKEND) else {
            return true;
        };
        let name = rest.split([' ', ')']).next().unwrap_or_default();
        let is_kept = keep.contains(&name);
        kept += usize::from(is_kept);
        is_kept
    });
    let changed: String = lines.flat_map(|line| [line, "\n"]).collect();
    ensure!(
        kept == keep.len(),
        "expected one line for each of {keep:?}, found {kept}: this is not the pinned source"
    );
    Ok(changed)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    const CODE: &str = "    tc.rows[7] = 16;\n\n    _tile_loadconfig(&tc);\n    done = true;\n";
    const LIST: &str = "function(ggml_add_cpu_backend_variant tag)\n  if (X86)\n    ggml_add_cpu_backend_variant(x64)\n    \
                        ggml_add_cpu_backend_variant(haswell    AVX2)\n    ggml_add_cpu_backend_variant(icelake AVX512)\n  endif()\n";

    #[test]
    fn the_barrier_stands_before_the_call_and_a_source_without_the_call_is_refused() {
        let changed = with_barrier(CODE).unwrap();
        let (barrier, call) = (
            changed.find(BARRIER).unwrap(),
            changed.find(LOAD_CONFIG).unwrap(),
        );
        assert!(barrier < call, "{changed}");
        for other in ["", "_tile_release();", &CODE.repeat(2)] {
            let error = with_barrier(other).unwrap_err().to_string();
            assert!(error.contains("not the pinned source"), "{error}");
        }
    }

    #[test]
    fn only_the_wanted_backends_are_built() {
        let changed = with_backends(LIST, &["haswell", "icelake"]).unwrap();
        assert!(
            !changed.contains("x64") && changed.contains("haswell    AVX2"),
            "{changed}"
        );
        assert!(
            changed.starts_with("function(ggml_add_cpu_backend_variant tag)"),
            "{changed}"
        );
        let error = with_backends(LIST, &["haswell", "sapphirerapids"]).unwrap_err();
        assert!(error.to_string().contains("found 1"), "{error}");
    }

    fn archive(files: &[(&str, &str)]) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        let mut builder = tar::Builder::new(flate2::write::GzEncoder::new(
            Vec::new(),
            flate2::Compression::fast(),
        ));
        for (path, text) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(text.len() as u64);
            header.set_mode(0o644);
            builder
                .append_data(&mut header, path, text.as_bytes())
                .unwrap();
        }
        let bytes = builder.into_inner().unwrap().finish().unwrap();
        file.write_all(&bytes).unwrap();
        file
    }

    #[test]
    fn only_llama_cpp_is_unpacked_and_it_is_changed() {
        let packed = archive(&[
            ("pkg-1/setup.py", "import os"),
            ("pkg-1/vendor/llama.cpp/ggml/src/ggml-cpu/amx/mmq.cpp", CODE),
            ("pkg-1/vendor/llama.cpp/ggml/src/CMakeLists.txt", LIST),
        ]);
        let dir = tempfile::tempdir().unwrap();
        unpack(packed.path(), dir.path(), &["haswell"]).unwrap();
        let amx = std::fs::read_to_string(dir.path().join(AMX)).unwrap();
        assert!(amx.contains(BARRIER));
        let names: Vec<_> = std::fs::read_dir(dir.path())
            .unwrap()
            .map(|item| item.unwrap().file_name())
            .collect();
        assert_eq!(names, ["ggml"]);
    }

    #[test]
    fn archives_without_llama_cpp_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let packed = archive(&[("pkg-1/setup.py", "import os")]);
        let error = unpack(packed.path(), dir.path(), &[]).unwrap_err();
        assert!(
            error.to_string().contains("has no vendor/llama.cpp"),
            "{error}"
        );
        let junk = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(junk.path(), b"no archive").unwrap();
        assert!(unpack(junk.path(), dir.path(), &[]).is_err());
    }
}
