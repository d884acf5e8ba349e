//! What a zip of a graph would have: all that a mask saves.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use anyhow::{Context, Result};
use flate2::{Compression, write::DeflateEncoder};

/// Bytes of the files in `dir` whose names begin with `graph`, each deflated at the usual level.
///
/// # Errors
/// When the folder or a file cannot be read.
pub(super) fn zipped_bytes(dir: &Path, graph: &str) -> Result<u64> {
    let mut bytes = 0;
    for item in fs::read_dir(dir).with_context(|| format!("listing {}", dir.display()))? {
        let path = item
            .with_context(|| format!("listing {}", dir.display()))?
            .path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if !name.starts_with(graph) || !path.is_file() {
            continue;
        }
        let reading = || format!("reading {}", path.display());
        let mut file = File::open(&path).with_context(reading)?;
        let mut zip = DeflateEncoder::new(Counted(0), Compression::default());
        io::copy(&mut file, &mut zip).with_context(reading)?;
        bytes += zip.finish().with_context(reading)?.0;
    }
    Ok(bytes)
}

/// Counts what is written, and forgets it.
struct Counted(u64);

impl Write for Counted {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeros_are_what_a_zip_saves() {
        let dir = tempfile::tempdir().unwrap();
        let mut state = 1_u32;
        let noise: Vec<u8> = (0..100_000)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 24) as u8
            })
            .collect();
        fs::write(dir.path().join("a.onnx.data"), &noise).unwrap();
        fs::write(dir.path().join("a.onnx"), vec![0; 100_000]).unwrap();
        fs::write(dir.path().join("other"), &noise).unwrap();
        let found = zipped_bytes(dir.path(), "a.onnx").unwrap();
        assert!((95_000..102_000).contains(&found), "{found}");
        assert!(zipped_bytes(&dir.path().join("none"), "a").is_err());
    }
}
