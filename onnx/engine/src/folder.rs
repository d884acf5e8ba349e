//! A model folder: the files of one model and `llmasos.json`, which says what they are.
//!
//! The folder is written by the catalogue and read here. It is not trusted: names stay inside the folder, sizes must be
//! the ones in the manifest (that catches a truncated copy at no cost), and [`ModelFolder::verify`] reads everything once
//! more when somebody wants to know.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

use crate::error::{EngineError, Result};

/// The manifest's name.
pub const MANIFEST: &str = "llmasos.json";
/// The only format there is.
pub const FORMAT: &str = "llmasos-model/v1";
/// Largest manifest read.
pub const MAX_MANIFEST_BYTES: u64 = 1 << 20;
/// Most files in a folder.
pub const MAX_FILES: usize = 256;
/// Largest file of a model: weights of what fits on an edge computer.
pub const MAX_FILE_BYTES: u64 = 64 << 30;
/// Longest name of a file.
pub const MAX_NAME_BYTES: usize = 128;

/// An opened model folder: the manifest is valid and every file in it exists with the size it should have.
#[derive(Debug, Clone)]
pub struct ModelFolder {
    /// The folder.
    pub dir: PathBuf,
    /// What it contains.
    pub manifest: Manifest,
}

/// What `llmasos.json` says.
#[derive(Debug, Clone)]
pub struct Manifest {
    /// Name in the catalogue, such as `smollm2`.
    pub name: String,
    /// What it is for, such as `language`.
    pub role: String,
    /// How it is built, which decides who can load it, such as `llama`.
    pub family: String,
    /// Licence of the weights as their source states it.
    pub license: String,
    /// Settings of the family; see [`Manifest::config`].
    pub settings: serde_json::Value,
    /// The files by name.
    pub files: BTreeMap<String, FileEntry>,
}

/// One file of a model.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct FileEntry {
    /// Hash of the content: 64 lower-case hexadecimal digits.
    pub sha256: String,
    /// Size.
    pub bytes: u64,
}

/// The manifest as it stands in the file. Fields that are for people (sources, recipe) are not read.
#[derive(Deserialize)]
struct RawManifest {
    format: String,
    name: String,
    role: String,
    family: String,
    #[serde(default)]
    license: String,
    #[serde(default)]
    config: serde_json::Value,
    files: BTreeMap<String, FileEntry>,
}

impl TryFrom<RawManifest> for Manifest {
    type Error = String;

    fn try_from(raw: RawManifest) -> Result<Self, String> {
        if raw.format != FORMAT {
            return Err(format!(
                "format: expected {FORMAT:?}, found {:?}",
                raw.format
            ));
        }
        for (field, value) in [
            ("name", &raw.name),
            ("role", &raw.role),
            ("family", &raw.family),
        ] {
            if value.is_empty() || value.len() > MAX_NAME_BYTES {
                return Err(format!(
                    "{field}: expected 1..={MAX_NAME_BYTES} bytes, found {}",
                    value.len()
                ));
            }
        }
        if raw.files.is_empty() || raw.files.len() > MAX_FILES {
            return Err(format!(
                "files: expected 1..={MAX_FILES}, found {}",
                raw.files.len()
            ));
        }
        for (name, entry) in &raw.files {
            if !is_plain_name(name) {
                return Err(format!(
                    "files: {name:?} is not a plain file name of at most {MAX_NAME_BYTES} bytes"
                ));
            }
            if entry.bytes > MAX_FILE_BYTES {
                return Err(format!(
                    "files: {name}: expected at most {MAX_FILE_BYTES} bytes, found {}",
                    entry.bytes
                ));
            }
            if entry.sha256.len() != 64
                || !entry
                    .sha256
                    .bytes()
                    .all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
            {
                return Err(format!(
                    "files: {name}: sha256 is not 64 lower-case hexadecimal digits"
                ));
            }
        }
        Ok(Self {
            name: raw.name,
            role: raw.role,
            family: raw.family,
            license: raw.license,
            settings: raw.config,
            files: raw.files,
        })
    }
}

/// A name that cannot lead out of the folder: no separators, nothing hidden, no parent.
fn is_plain_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= MAX_NAME_BYTES
        && !name.starts_with('.')
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

impl Manifest {
    /// The settings of the family.
    ///
    /// # Errors
    /// A sentence with the first field that is missing or of another type.
    pub fn config<T: DeserializeOwned>(&self) -> Result<T, String> {
        T::deserialize(&self.settings).map_err(|error| format!("config: {error}"))
    }
}

impl ModelFolder {
    /// Reads the manifest and checks that every file is there with its size.
    ///
    /// # Errors
    /// [`EngineError::File`], [`EngineError::FileTooLarge`], [`EngineError::Manifest`], [`EngineError::FileSize`].
    pub fn open(dir: &Path) -> Result<Self> {
        let path = dir.join(MANIFEST);
        let text = read_limited(&path, MAX_MANIFEST_BYTES)?;
        let invalid = |reason| EngineError::Manifest {
            path: path.clone(),
            reason,
        };
        let raw: RawManifest =
            serde_json::from_slice(&text).map_err(|error| invalid(error.to_string()))?;
        let folder = Self {
            dir: dir.to_path_buf(),
            manifest: raw.try_into().map_err(invalid)?,
        };
        for (name, entry) in &folder.manifest.files {
            let path = dir.join(name);
            let meta = std::fs::metadata(&path).map_err(|error| EngineError::File {
                path: path.clone(),
                reason: error.to_string(),
            })?;
            if !meta.is_file() || meta.len() != entry.bytes {
                return Err(EngineError::FileSize {
                    path,
                    expected_bytes: entry.bytes,
                    found_bytes: meta.len(),
                });
            }
        }
        Ok(folder)
    }

    /// Path of a file that the manifest lists.
    ///
    /// # Errors
    /// [`EngineError::Manifest`] when it does not.
    pub fn path(&self, name: &str) -> Result<PathBuf> {
        if self.manifest.files.contains_key(name) {
            return Ok(self.dir.join(name));
        }
        Err(EngineError::Manifest {
            path: self.dir.join(MANIFEST),
            reason: format!("files: {name} is missing"),
        })
    }

    /// Content of a listed file.
    ///
    /// # Errors
    /// As [`ModelFolder::path`], and [`EngineError::FileTooLarge`] above `limit_bytes`.
    pub fn read(&self, name: &str, limit_bytes: u64) -> Result<Vec<u8>> {
        read_limited(&self.path(name)?, limit_bytes)
    }

    /// Refuses a model of another family.
    ///
    /// # Errors
    /// [`EngineError::Family`].
    pub fn expect_family(&self, expected: &'static str) -> Result<()> {
        if self.manifest.family == expected {
            return Ok(());
        }
        Err(EngineError::Family {
            model: self.manifest.name.clone(),
            expected,
            found: self.manifest.family.clone(),
        })
    }

    /// Settings of the family, with errors that name the manifest.
    ///
    /// # Errors
    /// [`EngineError::Manifest`].
    pub fn config<T: DeserializeOwned>(&self) -> Result<T> {
        self.manifest
            .config()
            .map_err(|reason| EngineError::Manifest {
                path: self.dir.join(MANIFEST),
                reason,
            })
    }

    /// Reads every file and compares its hash. Takes about a second per gigabyte.
    ///
    /// # Errors
    /// [`EngineError::FileHash`] with the first file that differs, [`EngineError::File`] for one that cannot be read.
    pub fn verify(&self) -> Result<()> {
        for (name, entry) in &self.manifest.files {
            let path = self.dir.join(name);
            let found = hash(&path)?;
            if found != entry.sha256 {
                return Err(EngineError::FileHash {
                    path,
                    expected: entry.sha256.clone(),
                    found,
                });
            }
        }
        Ok(())
    }
}

/// The sha256 of a file in lower-case hexadecimal.
fn hash(path: &Path) -> Result<String> {
    let wrong = |error: std::io::Error| EngineError::File {
        path: path.to_path_buf(),
        reason: error.to_string(),
    };
    let mut file = File::open(path).map_err(wrong)?;
    let mut digest = Sha256::new();
    std::io::copy(&mut file, &mut digest).map_err(wrong)?;
    Ok(format!("{:x}", digest.finalize()))
}

/// A whole file, if it is no larger than the limit; the limit holds even for a file that grows while it is read.
pub(crate) fn read_limited(path: &Path, limit_bytes: u64) -> Result<Vec<u8>> {
    let wrong = |error: std::io::Error| EngineError::File {
        path: path.to_path_buf(),
        reason: error.to_string(),
    };
    let file = File::open(path).map_err(wrong)?;
    let found_bytes = file.metadata().map_err(wrong)?.len();
    let too_large = |found_bytes| EngineError::FileTooLarge {
        path: path.to_path_buf(),
        found_bytes,
        limit_bytes,
    };
    if found_bytes > limit_bytes {
        return Err(too_large(found_bytes));
    }
    let mut content = Vec::with_capacity(usize::try_from(found_bytes).unwrap_or(0));
    file.take(limit_bytes.saturating_add(1))
        .read_to_end(&mut content)
        .map_err(wrong)?;
    if content.len() as u64 > limit_bytes {
        return Err(too_large(content.len() as u64));
    }
    Ok(content)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// sha256 of "weights".
    const WEIGHTS_SHA256: &str = "9a129038d9a00aed0cf6a7ea059ca50a813449061ab87848cf1a13eafdf33b2c";

    fn manifest() -> Value {
        json!({
            "format": FORMAT, "name": "m", "role": "language", "family": "llama", "license": "Apache-2.0",
            "config": { "layers": 2 }, "sources": [], "recipe": {},
            "files": { "model.onnx": { "sha256": WEIGHTS_SHA256, "bytes": 7 } },
        })
    }

    fn folder(manifest: &str) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(MANIFEST), manifest).unwrap();
        std::fs::write(dir.path().join("model.onnx"), "weights").unwrap();
        dir
    }

    fn open(manifest: &Value) -> Result<ModelFolder> {
        ModelFolder::open(folder(&manifest.to_string()).path())
    }

    #[derive(Deserialize, Debug, PartialEq)]
    struct Config {
        layers: usize,
    }

    #[test]
    fn a_valid_folder_opens() {
        let folder = open(&manifest()).unwrap();
        assert_eq!(folder.manifest.name, "m");
        assert_eq!(folder.config::<Config>().unwrap(), Config { layers: 2 });
        folder.expect_family("llama").unwrap();
        assert!(matches!(
            folder.expect_family("ssd"),
            Err(EngineError::Family { .. })
        ));
        assert!(folder.path("model.onnx").unwrap().ends_with("model.onnx"));
        assert!(
            folder
                .path("other.onnx")
                .unwrap_err()
                .to_string()
                .contains("other.onnx is missing")
        );
    }

    #[test]
    fn every_bad_value_has_its_message() {
        let cases: [(&str, Value, &str); 9] = [
            ("/format", json!("llmasos-model/v9"), "llmasos-model/v9"),
            ("/name", json!(""), "name"),
            ("/family", json!("x".repeat(500)), "family"),
            ("/files", json!({}), "files"),
            (
                "/files",
                json!({ "../secret": { "sha256": WEIGHTS_SHA256, "bytes": 7 } }),
                "plain file name",
            ),
            (
                "/files",
                json!({ "a/b": { "sha256": WEIGHTS_SHA256, "bytes": 7 } }),
                "plain file name",
            ),
            ("/files/model.onnx/sha256", json!("9E42"), "hexadecimal"),
            ("/files/model.onnx/bytes", json!(u64::MAX), "at most"),
            ("/files/model.onnx/bytes", json!(8), "expected 8 bytes"),
        ];
        for (pointer, value, word) in cases {
            let mut manifest = manifest();
            *manifest.pointer_mut(pointer).unwrap() = value;
            let error = open(&manifest).unwrap_err().to_string();
            assert!(error.contains(word), "{pointer}: {error}");
        }
    }

    #[test]
    fn a_manifest_that_is_none_is_refused() {
        for text in ["", "{", "[]", "{\"format\": 1}"] {
            let error = ModelFolder::open(folder(text).path()).unwrap_err();
            assert!(
                matches!(error, EngineError::Manifest { .. }),
                "{text}: {error}"
            );
        }
        let large = " ".repeat(MAX_MANIFEST_BYTES as usize + 1);
        assert!(matches!(
            ModelFolder::open(folder(&large).path()),
            Err(EngineError::FileTooLarge { .. })
        ));
        assert!(matches!(
            ModelFolder::open(Path::new("/nowhere")),
            Err(EngineError::File { .. })
        ));
    }

    #[test]
    fn changed_content_of_the_same_size_is_found_by_verify() {
        let dir = folder(&manifest().to_string());
        let folder = ModelFolder::open(dir.path()).unwrap();
        folder.verify().unwrap();
        std::fs::write(dir.path().join("model.onnx"), "weightz").unwrap();
        let folder = ModelFolder::open(dir.path()).unwrap();
        let error = folder.verify().unwrap_err();
        assert!(
            matches!(&error, EngineError::FileHash { expected, .. } if expected == WEIGHTS_SHA256),
            "{error}"
        );
    }
}
