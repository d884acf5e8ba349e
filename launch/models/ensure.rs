//! From a name to a folder: the one call that launch makes before it starts a node with a model.
//!
//! The order of work makes every interruption harmless. Nothing is locked or written when the folder is good. Otherwise the model's lock
//! is taken, the state looked at again (another process may have finished meanwhile), room on the disk checked for all steps together,
//! each distribution fetched under its own lock (two models may share one), its members unpacked into scratch, and the forge writes the
//! folder and renames it into place.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Duration;

use llmasos_forge::{ForgeError, Provenance, SourceRecord};

use super::catalogue::{Catalogue, Distribution, Entry, Source};
use super::error::ModelError;
use super::fetch::{Download, fetch};
use super::http;
use super::join::{Joint, unpack_pieces};
use super::report::{Event, Reporter, duration_words, size_words};
use super::resolve::Resolver;
use super::store::{State, Store, check_pin, create_dir, remove_file};
use super::unpack::unpack;

/// Rate assumed before any download was measured here.
const ASSUMED_BYTES_PER_S: u64 = 4_000_000;
/// Rate at which sources are unpacked, converted and hashed, for estimates: 2 small cores without hash instructions.
const BUILD_BYTES_PER_S: u64 = 40_000_000;
/// A transfer shorter than this says nothing about the next one's rate.
const RATE_SAMPLE_BYTES: u64 = 1 << 20;
/// Pause before the second attempt of a download.
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// Whether the network may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FetchPolicy {
    /// Fetch what is missing.
    Auto,
    /// Use what is here: folders, and distributions already downloaded or placed by hand.
    Never,
}

/// The catalogue, the cache, and the way to the network.
#[derive(Debug)]
pub struct Models {
    catalogue: Catalogue,
    store: Store,
    resolver: Resolver,
    agent: Option<ureq::Agent>,
    first_pause: Duration,
}

/// What has to be done before these models are there.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// Names whose folders are missing or damaged.
    pub names: Vec<String>,
    /// Bytes to download; a distribution that several models share counts once.
    pub download_bytes: u64,
    /// Distributions to download.
    pub files: Vec<String>,
    /// Estimate for downloading and building.
    pub estimate: Duration,
    /// Whether the estimate rests on a rate measured here, or on an assumed one.
    pub is_measured: bool,
}

impl Plan {
    /// One line for people, or `None` when nothing has to be done.
    pub fn announcement(&self) -> Option<String> {
        if self.names.is_empty() {
            return None;
        }
        let names = self.names.join(", ");
        let time = duration_words(Duration::from_secs(self.estimate.as_secs().max(1)));
        if self.download_bytes == 0 {
            return Some(format!(
                "building {names} from files already downloaded, about {time}"
            ));
        }
        let basis = if self.is_measured {
            "at the rate of the last download"
        } else {
            "if the network brings 4 MB/s"
        };
        Some(format!(
            "fetching {} for {names}: about {time} {basis}; once, then never again",
            size_words(self.download_bytes)
        ))
    }
}

/// The folder of a model of the built-in catalogue in the user's cache; see [`Models::ensure`].
///
/// # Errors
/// See [`Models::ensure`].
pub fn ensure(
    name: &str,
    policy: FetchPolicy,
    reporter: &mut dyn Reporter,
) -> Result<PathBuf, ModelError> {
    Models::from_environment(&[])?.ensure(name, policy, reporter)
}

/// What `ensure` would have to do for these models of the built-in catalogue; see [`Models::plan`].
///
/// # Errors
/// See [`Models::plan`].
pub fn plan<S: AsRef<str>>(names: &[S]) -> Result<Plan, ModelError> {
    Models::from_environment(&[])?.plan(names)
}

impl Models {
    /// The built-in catalogue with `extra` over it, and the user's cache.
    ///
    /// # Errors
    /// A catalogue with a mistake, or no place for the cache.
    pub fn from_environment(extra: &[PathBuf]) -> Result<Models, ModelError> {
        Ok(Models::new(
            Catalogue::load(extra)?,
            Store::from_environment()?,
        ))
    }

    /// This catalogue in this cache.
    pub fn new(catalogue: Catalogue, store: Store) -> Models {
        Models {
            catalogue,
            store,
            resolver: Resolver::new(),
            agent: None,
            first_pause: FIRST_PAUSE,
        }
    }

    /// The catalogue.
    pub fn catalogue(&self) -> &Catalogue {
        &self.catalogue
    }

    /// The cache.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// What would have to be done for these models.
    ///
    /// # Errors
    /// [`ModelError::Unknown`].
    pub fn plan<S: AsRef<str>>(&self, names: &[S]) -> Result<Plan, ModelError> {
        let mut missing = Vec::new();
        let mut distributions: BTreeMap<&str, u64> = BTreeMap::new();
        let mut build_bytes = 0;
        for name in names {
            let entry = self.catalogue.get(name.as_ref())?;
            if matches!(self.store.state(entry), State::Ready { .. })
                || missing.contains(&entry.name)
            {
                continue;
            }
            missing.push(entry.name.clone());
            build_bytes += entry.bytes_on_disk + source_bytes(entry);
            for distribution in entry.distributions() {
                let rest = distribution.pin.bytes - self.store.present_bytes(distribution);
                if rest > 0 {
                    distributions.insert(&distribution.file, rest);
                }
            }
        }
        let download_bytes = distributions.values().sum();
        let measured = self.last_rate();
        let seconds = download_bytes / measured.unwrap_or(ASSUMED_BYTES_PER_S).max(1)
            + build_bytes / BUILD_BYTES_PER_S;
        Ok(Plan {
            names: missing,
            download_bytes,
            files: distributions
                .keys()
                .map(|file| (*file).to_owned())
                .collect(),
            estimate: Duration::from_secs(seconds),
            is_measured: measured.is_some(),
        })
    }

    /// The folder of a model, fetched and built if it is missing or damaged. Blocks: call it from a thread that may wait.
    ///
    /// # Errors
    /// Any [`ModelError`]; the cache is as good as before, and what was downloaded stays.
    pub fn ensure(
        &mut self,
        name: &str,
        policy: FetchPolicy,
        reporter: &mut dyn Reporter,
    ) -> Result<PathBuf, ModelError> {
        let entry = self.catalogue.get(name)?.clone();
        let folder = self.store.folder(&entry);
        if matches!(self.store.state(&entry), State::Ready { .. }) {
            reporter.event(Event::Ready {
                name,
                dir: &folder,
                is_new: false,
            });
            return Ok(folder);
        }
        let _held = self
            .store
            .lock(&format!("{name}-{}", entry.build_id()), reporter)?;
        match self.store.state(&entry) {
            State::Ready { .. } => {
                reporter.event(Event::Ready {
                    name,
                    dir: &folder,
                    is_new: false,
                });
                return Ok(folder);
            }
            State::Damaged { problem } => reporter.event(Event::Note {
                text: &format!("{name}: {problem}; building it again"),
            }),
            State::Absent | State::Partial { .. } => {}
        }
        self.build(&entry, policy, reporter)?;
        reporter.event(Event::Ready {
            name,
            dir: &folder,
            is_new: true,
        });
        Ok(folder)
    }

    /// Like [`Models::ensure`], but builds the folder again even if it is good: after a change of the forge itself.
    ///
    /// # Errors
    /// As [`Models::ensure`]; the old folder stays until the new one is whole.
    pub fn rebuild(
        &mut self,
        name: &str,
        policy: FetchPolicy,
        reporter: &mut dyn Reporter,
    ) -> Result<PathBuf, ModelError> {
        let entry = self.catalogue.get(name)?.clone();
        let folder = self.store.folder(&entry);
        let _held = self
            .store
            .lock(&format!("{name}-{}", entry.build_id()), reporter)?;
        self.build(&entry, policy, reporter)?;
        reporter.event(Event::Ready {
            name,
            dir: &folder,
            is_new: true,
        });
        Ok(folder)
    }

    /// The checked archive of a distribution that belongs to no model, fetched into the cache if need be.
    ///
    /// # Errors
    /// As [`Models::ensure`].
    pub fn distribution(
        &mut self,
        distribution: &Distribution,
        policy: FetchPolicy,
        reporter: &mut dyn Reporter,
    ) -> Result<PathBuf, ModelError> {
        let missing = distribution.pin.bytes - self.store.present_bytes(distribution);
        self.store.require_room(missing)?;
        self.obtain(distribution, policy, reporter)
    }

    /// The checked source files of a model, unpacked into `dir` (those on this computer stay where they are): for what works on the
    /// published weights themselves.
    ///
    /// # Errors
    /// As [`Models::ensure`].
    pub fn unpack_sources(
        &mut self,
        name: &str,
        policy: FetchPolicy,
        dir: &Path,
        reporter: &mut dyn Reporter,
    ) -> Result<Vec<PathBuf>, ModelError> {
        let entry = self.catalogue.get(name)?.clone();
        self.store.require_room(source_bytes(&entry))?;
        let sources = self.collect_sources(&entry, policy, dir, reporter)?;
        Ok(sources.into_values().collect())
    }

    fn build(
        &mut self,
        entry: &Entry,
        policy: FetchPolicy,
        reporter: &mut dyn Reporter,
    ) -> Result<(), ModelError> {
        self.store.sweep(entry);
        let missing: Vec<&Distribution> = entry
            .distributions()
            .filter(|d| self.store.present_bytes(d) < d.pin.bytes)
            .collect();
        let download_bytes: u64 = missing
            .iter()
            .map(|d| d.pin.bytes - self.store.present_bytes(d))
            .sum();
        if policy == FetchPolicy::Never && !missing.is_empty() {
            let files: Vec<String> = missing
                .iter()
                .map(|d| format!("{} (sha256 {})", d.file, d.pin.sha256))
                .collect();
            return Err(ModelError::NotCached {
                name: entry.name.clone(),
                bytes: download_bytes,
                files: files.join(" and "),
                dir: self.store.downloads(),
            });
        }
        self.store
            .require_room(download_bytes + source_bytes(entry) + entry.bytes_on_disk)?;
        let scratch = self.store.scratch(entry);
        create_dir(&scratch)?;
        let result = self
            .collect_sources(entry, policy, &scratch, reporter)
            .and_then(|sources| self.forge(entry, &sources, reporter));
        // Scratch is only space; the next build sweeps what cannot be removed now.
        let _ = std::fs::remove_dir_all(&scratch);
        result?;
        self.relink(entry);
        Ok(())
    }

    /// Every source file of the entry, checked, by the name the recipe knows.
    fn collect_sources(
        &mut self,
        entry: &Entry,
        policy: FetchPolicy,
        scratch: &Path,
        reporter: &mut dyn Reporter,
    ) -> Result<BTreeMap<String, PathBuf>, ModelError> {
        let mut files = BTreeMap::new();
        for source in &entry.sources {
            match source {
                Source::Local { path, member } => {
                    check_pin(
                        path,
                        &member.pin,
                        "put the pinned file there, or pin this one in the catalogue",
                        reporter,
                    )?;
                    files.insert(member.name.clone(), path.clone());
                }
                Source::Registry(distribution) => {
                    let archive = self.obtain(distribution, policy, reporter)?;
                    reporter.event(Event::Unpacking {
                        file: &distribution.file,
                    });
                    files.extend(unpack(&archive, &distribution.members, scratch, reporter)?);
                }
                Source::Joined { member, parts } => {
                    let mut joint = Joint::create(scratch, member)?;
                    for part in parts {
                        let archive = self.obtain(part, policy, reporter)?;
                        reporter.event(Event::Unpacking { file: &part.file });
                        for piece in unpack_pieces(&archive, part, scratch, reporter)? {
                            joint.append(&piece, reporter)?;
                        }
                    }
                    files.insert(member.name.clone(), joint.finish()?);
                }
            }
        }
        Ok(files)
    }

    /// The checked distribution in `downloads/`, fetched if need be.
    fn obtain(
        &mut self,
        distribution: &Distribution,
        policy: FetchPolicy,
        reporter: &mut dyn Reporter,
    ) -> Result<PathBuf, ModelError> {
        create_dir(&self.store.downloads())?;
        let _held = self.store.lock(&distribution.file, reporter)?;
        let target = self.store.download(distribution);
        if target.is_file() {
            match check_pin(
                &target,
                &distribution.pin,
                "remove it and fetch it again, or place the right file there",
                reporter,
            ) {
                Ok(()) => return Ok(target),
                Err(error @ (ModelError::Size { .. } | ModelError::Hash { .. }))
                    if policy == FetchPolicy::Auto =>
                {
                    reporter.event(Event::Note {
                        text: &format!("{error}; fetching it again"),
                    });
                    remove_file(&target)?;
                }
                Err(error) => return Err(error),
            }
        }
        if policy == FetchPolicy::Never {
            let files = format!("{} (sha256 {})", distribution.file, distribution.pin.sha256);
            let bytes = distribution.pin.bytes;
            return Err(ModelError::NotCached {
                name: distribution.package.clone(),
                bytes,
                files,
                dir: self.store.downloads(),
            });
        }
        self.fetch_or_ask_pip(distribution, &target, reporter)?;
        Ok(target)
    }

    fn fetch_or_ask_pip(
        &mut self,
        distribution: &Distribution,
        target: &Path,
        reporter: &mut dyn Reporter,
    ) -> Result<(), ModelError> {
        let agent = self.agent.get_or_insert_with(http::agent).clone();
        let reason = match self.resolver.locate(&agent, distribution, reporter) {
            Ok(address) => {
                let download = Download {
                    file: &distribution.file,
                    address: &address,
                    pin: &distribution.pin,
                    part: self.store.part(distribution),
                    target: target.to_owned(),
                    first_pause: self.first_pause,
                };
                match fetch(&agent, &download, reporter) {
                    Ok((bytes, elapsed)) => {
                        self.remember_rate(bytes, elapsed);
                        return Ok(());
                    }
                    Err(ModelError::Status { status, url, .. }) => {
                        format!("{url} answered {status}")
                    }
                    Err(error) => return Err(error),
                }
            }
            Err(reason) => reason,
        };
        if reporter.is_cancelled() {
            return Err(ModelError::Cancelled);
        }
        let dir = self
            .store
            .downloads()
            .join(format!(".pip-{}", distribution.file));
        let result = self
            .resolver
            .download(distribution, &dir, &reason, reporter)
            .and_then(|file| {
                check_pin(
                    &file,
                    &distribution.pin,
                    "the index serves another file than the one pinned: check its configuration",
                    reporter,
                )?;
                std::fs::rename(&file, target).map_err(|e| ModelError::io("renaming", &file, e))
            });
        // What pip left is only space.
        let _ = std::fs::remove_dir_all(&dir);
        result?;
        remove_file(&self.store.part(distribution))
    }

    fn forge(
        &self,
        entry: &Entry,
        sources: &BTreeMap<String, PathBuf>,
        reporter: &mut dyn Reporter,
    ) -> Result<(), ModelError> {
        let about = Provenance {
            name: entry.name.clone(),
            license: entry.license.clone(),
            sources: records(entry),
        };
        let mut watch = |progress: llmasos_forge::Progress<'_>| {
            reporter.event(Event::Building {
                name: &entry.name,
                step: progress.step.word(),
                done: progress.done,
                total: progress.total,
            });
            if reporter.is_cancelled() {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        };
        let folder = self.store.folder(entry);
        llmasos_forge::build(&entry.recipe, sources, &folder, &about, &mut watch).map_err(
            |error| match error {
                ForgeError::Cancelled => ModelError::Cancelled,
                ForgeError::Io {
                    action,
                    path,
                    source,
                } => ModelError::io(action, &path, source),
                other => ModelError::Recipe {
                    name: entry.name.clone(),
                    recipe: entry.recipe.kind().to_owned(),
                    reason: other.to_string(),
                },
            },
        )?;
        Ok(())
    }

    /// Points `models/<name>` at the folder just built. For people only, so a file system without links loses nothing.
    fn relink(&self, entry: &Entry) {
        let (link, folder) = (self.store.link(entry), self.store.folder(entry));
        let Some(target) = folder.file_name() else {
            return;
        };
        let fresh = link.with_file_name(format!(".{}.link", entry.name));
        let _ = std::fs::remove_file(&fresh);
        if std::os::unix::fs::symlink(target, &fresh).is_ok() {
            let _ = std::fs::rename(&fresh, &link);
        }
    }

    /// Bytes per second of the last download that was long enough to tell.
    fn last_rate(&self) -> Option<u64> {
        let text = std::fs::read_to_string(self.rate_file()).ok()?;
        text.trim().parse().ok().filter(|rate| *rate > 0)
    }

    fn remember_rate(&self, bytes: u64, elapsed: Duration) {
        if bytes >= RATE_SAMPLE_BYTES {
            let rate = bytes as f64 / elapsed.as_secs_f64().max(0.001);
            // Only an estimate: without it the next announcement says that it assumes a rate.
            let _ = std::fs::write(self.rate_file(), format!("{}\n", rate as u64));
        }
    }

    fn rate_file(&self) -> PathBuf {
        self.store.downloads().join(".bytes-per-second")
    }
}

/// Bytes of the unpacked sources that lie on the disk while the recipe runs, and of the pieces of one that is being joined.
fn source_bytes(entry: &Entry) -> u64 {
    let members = entry
        .distributions()
        .flat_map(|distribution| &distribution.members);
    let joined: u64 = entry
        .sources
        .iter()
        .map(|source| match source {
            Source::Joined { member, .. } => member.pin.bytes,
            Source::Registry(_) | Source::Local { .. } => 0,
        })
        .sum();
    let unpacked: u64 = members
        .map(|member| {
            member.pin.bytes
                + member
                    .inner
                    .iter()
                    .map(|inner| inner.pin.bytes)
                    .sum::<u64>()
        })
        .sum();
    unpacked + joined
}

/// The sources as the manifest states them, one per file that the recipe saw; before a joined one stand its pieces.
pub(crate) fn records(entry: &Entry) -> Vec<SourceRecord> {
    let mut records = Vec::new();
    let mut seen = BTreeSet::new();
    for source in &entry.sources {
        let (package, version) = match source {
            Source::Registry(distribution) => {
                (distribution.package.as_str(), distribution.version.as_str())
            }
            Source::Joined { parts, .. } => {
                for part in parts {
                    records.extend(part.members.iter().map(|piece| SourceRecord {
                        package: part.package.clone(),
                        version: part.version.clone(),
                        path: piece.path.clone(),
                        sha256: piece.pin.sha256.clone(),
                    }));
                }
                ("joined", "")
            }
            Source::Local { .. } => ("local", ""),
        };
        for leaf in source.leaves() {
            if seen.insert(&leaf.name) {
                records.push(SourceRecord {
                    package: package.to_owned(),
                    version: version.to_owned(),
                    path: leaf.path.clone(),
                    sha256: leaf.pin.sha256.clone(),
                });
            }
        }
    }
    records
}

#[cfg(test)]
#[path = "ensure_tests.rs"]
mod tests;
