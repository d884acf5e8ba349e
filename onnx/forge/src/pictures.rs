//! Pictures for calibration and test: files, each of which has been seen to be one, and the rule that no picture serves two purposes.
//!
//! What a corpus is for language models, this is for detectors. A picture is known by its pixels, so that a copy under another name, or
//! saved again without loss, is found. Files are decoded again whenever somebody needs them: a folder of photographs would not fit into
//! memory.
//!
//! ```text
//!   folder ─► *.jpg *.jpeg *.png, by name ─► decoded once: size, sha256 of the pixels ─► Pictures ── open(3) ─► Picture
//! ```

use std::collections::HashMap;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use llmasos_engine::vision::{Picture, VisionError};
use sha2::{Digest, Sha256};

use crate::error::ForgeError;
use crate::folder::{Progress, Step, Watch, report};

/// Endings of files that are looked at.
const ENDINGS: [&str; 3] = ["jpg", "jpeg", "png"];
/// Most pictures of a collection: ranges do not change any more long before.
pub const MAX_PICTURES: usize = 4096;
/// Most files of a folder that are looked at.
const MAX_FILES: usize = 1 << 16;
/// Largest file read.
const MAX_FILE_BYTES: u64 = 64 << 20;

/// What is wrong with pictures.
#[derive(Debug, thiserror::Error)]
pub enum PicturesError {
    /// A file operation failed.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// There are none.
    #[error("{}: no pictures were found, expected files that end in .jpg, .jpeg or .png. Next: give a folder that has some.", path.display())]
    Empty {
        /// The folder.
        path: PathBuf,
    },
    /// A file is no picture, whatever its name says.
    #[error("{}: it is no picture that can be read: {source}. Next: take it out of the folder, or save it anew.", path.display())]
    NotOne {
        /// The file.
        path: PathBuf,
        /// What the decoder met.
        source: Box<VisionError>,
    },
    /// Something is larger than what is read.
    #[error("{}: expected at most {limit} {what}, found {found}", path.display())]
    TooLarge {
        /// The file or folder.
        path: PathBuf,
        /// What is counted.
        what: &'static str,
        /// The limit.
        limit: u64,
        /// What there is.
        found: u64,
    },
    /// A picture has been changed or removed while it was in use.
    #[error("{}: it is not the picture that it was when the work began", path.display())]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// A picture serves two purposes.
    #[error(
        "the picture {first_name} of the {first} pictures is {second_name} of the {second} pictures: a model must not be judged on what it \
         was made with. Next: give other pictures, or --same-data if that is what you want."
    )]
    Overlap {
        /// Its name in one collection.
        first_name: String,
        /// Its name in the other.
        second_name: String,
        /// One purpose.
        first: String,
        /// The other.
        second: String,
    },
}

/// A picture that was seen to be one.
#[derive(Debug, Clone, PartialEq, Eq)]
struct File {
    path: PathBuf,
    name: String,
    /// Of width, height and pixels.
    sha256: [u8; 32],
}

/// A collection of pictures, by name.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Pictures {
    files: Vec<File>,
}

impl Pictures {
    /// Reads a picture, or all pictures of a folder (not of folders in it). Files with other endings are left alone.
    ///
    /// # Errors
    /// [`PicturesError`] names the file; [`ForgeError::Cancelled`] by the callback.
    pub fn read(path: &Path, watch: &mut Watch<'_>) -> Result<Pictures, ForgeError> {
        let about = fs::metadata(path).map_err(io_error("open", path))?;
        let paths = match about.is_dir() {
            true => list(path)?,
            false => vec![path.to_path_buf()],
        };
        let total = paths.len() as u64;
        let mut files = Vec::with_capacity(paths.len());
        for (done, path) in paths.into_iter().enumerate() {
            let name = path
                .file_name()
                .map(|name| name.to_string_lossy().into_owned())
                .unwrap_or_default();
            let progress = Progress {
                step: Step::Look,
                item: &name,
                done: done as u64,
                total,
            };
            report(watch, progress)?;
            let sha256 = pixels_sha256(&decode(&path)?);
            files.push(File { path, name, sha256 });
        }
        Ok(Pictures { files })
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.files.len()
    }

    /// Their file names, in order.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.files.iter().map(|file| file.name.clone()).collect()
    }

    /// Picture `index`, below [`Pictures::count`].
    ///
    /// # Errors
    /// [`PicturesError`] for a file that is gone or has changed since it was first read.
    pub fn open(&self, index: usize) -> Result<Picture<'static>, PicturesError> {
        let gone = || PicturesError::Changed {
            path: PathBuf::from(format!("picture {index} of {}", self.files.len())),
        };
        let file = self.files.get(index).ok_or_else(gone)?;
        let picture = decode(&file.path)?;
        if pixels_sha256(&picture) != file.sha256 {
            let path = file.path.clone();
            return Err(PicturesError::Changed { path });
        }
        Ok(picture)
    }

    /// Refuses two collections that share a picture.
    ///
    /// # Errors
    /// [`PicturesError::Overlap`] with its names.
    pub fn expect_apart(
        &self,
        other: &Pictures,
        first: &str,
        second: &str,
    ) -> Result<(), PicturesError> {
        let theirs: HashMap<[u8; 32], &str> = other
            .files
            .iter()
            .map(|file| (file.sha256, file.name.as_str()))
            .collect();
        for file in &self.files {
            if let Some(name) = theirs.get(&file.sha256) {
                return Err(PicturesError::Overlap {
                    first_name: file.name.clone(),
                    second_name: (*name).to_owned(),
                    first: first.to_owned(),
                    second: second.to_owned(),
                });
            }
        }
        Ok(())
    }

    /// sha256 over all pixels in the order of the files, 64 hexadecimal digits: what a report names the pictures by.
    #[must_use]
    pub fn sha256(&self) -> String {
        let mut hash = Sha256::new();
        self.files.iter().for_each(|file| hash.update(file.sha256));
        let digest = hash.finalize();
        digest.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> PicturesError + use<> {
    let path = path.to_path_buf();
    move |source| PicturesError::Io {
        action,
        path,
        source,
    }
}

/// The pictures of a folder, by name.
fn list(dir: &Path) -> Result<Vec<PathBuf>, PicturesError> {
    let too_many = |what, limit: usize, found: usize| PicturesError::TooLarge {
        path: dir.to_path_buf(),
        what,
        limit: limit as u64,
        found: found as u64,
    };
    let mut paths = Vec::new();
    for (at, item) in fs::read_dir(dir)
        .map_err(io_error("list", dir))?
        .enumerate()
    {
        if at >= MAX_FILES {
            return Err(too_many("files", MAX_FILES, at + 1));
        }
        let path = item.map_err(io_error("list", dir))?.path();
        let is_picture = path.extension().is_some_and(|end| {
            let end = end.to_string_lossy();
            ENDINGS.iter().any(|one| end.eq_ignore_ascii_case(one))
        });
        if is_picture && path.is_file() {
            paths.push(path);
        }
    }
    if paths.is_empty() {
        let path = dir.to_path_buf();
        return Err(PicturesError::Empty { path });
    }
    if paths.len() > MAX_PICTURES {
        return Err(too_many("pictures", MAX_PICTURES, paths.len()));
    }
    paths.sort();
    Ok(paths)
}

fn decode(path: &Path) -> Result<Picture<'static>, PicturesError> {
    let file = fs::File::open(path).map_err(io_error("open", path))?;
    let mut bytes = Vec::new();
    file.take(MAX_FILE_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(io_error("read", path))?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(PicturesError::TooLarge {
            path: path.to_path_buf(),
            what: "bytes",
            limit: MAX_FILE_BYTES,
            found: bytes.len() as u64,
        });
    }
    Picture::from_compressed(&bytes).map_err(|source| PicturesError::NotOne {
        path: path.to_path_buf(),
        source: Box::new(source),
    })
}

fn pixels_sha256(picture: &Picture<'_>) -> [u8; 32] {
    let mut hash = Sha256::new();
    for size in [picture.width(), picture.height()] {
        hash.update(size.to_le_bytes());
    }
    // Decoders give packed pixels; grey and colour are told apart by their number.
    hash.update(picture.pixels());
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;

    use super::*;

    /// A grey square of 2 x 2 pixels; `make.py` beside it made both.
    const GREY: &[u8] = include_bytes!("../tests/data/pictures/grey.png");
    /// The same with one pixel lighter.
    const LIGHTER: &[u8] = include_bytes!("../tests/data/pictures/lighter.png");

    fn read(path: &Path) -> Result<Pictures, ForgeError> {
        Pictures::read(path, &mut |_| ControlFlow::Continue(()))
    }

    fn folder(files: &[(&str, &[u8])]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, bytes) in files {
            fs::write(dir.path().join(name), bytes).unwrap();
        }
        dir
    }

    #[test]
    fn pictures_stand_by_name_and_other_files_are_left_alone() {
        let dir = folder(&[
            ("b.PNG", LIGHTER),
            ("a.png", GREY),
            ("notes.txt", b"no picture"),
        ]);
        let pictures = read(dir.path()).unwrap();
        assert_eq!(pictures.names(), ["a.png", "b.PNG"]);
        let picture = pictures.open(1).unwrap();
        assert_eq!((picture.width(), picture.height()), (2, 2));
        assert!(pictures.open(2).is_err());
        let alone = read(&dir.path().join("a.png")).unwrap();
        assert_eq!(alone.count(), 1);
        assert_ne!(alone.sha256(), pictures.sha256());
        fs::write(dir.path().join("b.PNG"), GREY).unwrap();
        let error = pictures.open(1).unwrap_err().to_string();
        assert!(error.contains("b.PNG: it is not the picture"), "{error}");
    }

    #[test]
    fn a_copy_under_another_name_is_found() {
        let (one, other) = (folder(&[("a.png", GREY)]), folder(&[("z.png", GREY)]));
        let (one, other) = (read(one.path()).unwrap(), read(other.path()).unwrap());
        let error = one
            .expect_apart(&other, "calibration", "test")
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("a.png of the calibration pictures is z.png of the test pictures"),
            "{error}"
        );
        let third = folder(&[("a.png", LIGHTER)]);
        let third = read(third.path()).unwrap();
        one.expect_apart(&third, "calibration", "test").unwrap();
    }

    #[test]
    fn what_is_no_picture_is_named() {
        type Files<'f> = &'f [(&'f str, &'f [u8])];
        let cases: [(Files<'_>, &str); 3] = [
            (&[("notes.txt", b"x")], "no pictures were found"),
            (
                &[("a.png", GREY), ("b.png", b"GIF89a")],
                "b.png: it is no picture",
            ),
            (&[("a.png", &GREY[..40])], "a.png: it is no picture"),
        ];
        for (files, expected) in cases {
            let dir = folder(files);
            let error = read(dir.path()).unwrap_err().to_string();
            assert!(error.contains(expected), "{expected}: {error}");
        }
        let error = read(Path::new("/no/such/folder")).unwrap_err().to_string();
        assert!(error.contains("/no/such/folder"), "{error}");
    }
}
