//! All definitions that are known, with every reference between them resolved.
//!
//! The definitions that come with the crate are parsed once from the `.msg` texts in the program, so there is one
//! description of a type and not two; a user's folder of `.msg` files is added on top at run time. Two packages share
//! the name `audio_common_msgs`: the second lives under `audio_common_msgs@ros-drivers`, and by plain name the first
//! is found first (see [`Registry::variants`]).
//!
//! ```text
//! msg/<package>[@variant]/msg/<Name>.msg ── parse ──► Definition ──────── link ──► Type { fields → types, least bytes, names of values }
//! msg/<package>[@variant]/srv/<Name>.srv ── parse ──► three Definitions ─ link ──► three Types and a Service
//! ```

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use thiserror::Error;

use crate::definition::{
    Base, Constant, Count, Definition, DefinitionError, Field, Interface, Literal, Place,
    ServiceDefinition, Values, parse, parse_service, text_of,
};
use crate::generated::definitions::{DEFINITIONS, SERVICES};
use crate::limits::{MAX_DEFINITION_BYTES, MAX_DEFINITIONS, MAX_DEPTH, MAX_MESSAGE_BYTES};
use crate::names;

mod service;

pub use service::Service;

/// Known definitions.
#[derive(Clone, Debug, Default)]
pub struct Registry {
    definitions: BTreeMap<String, Arc<Definition>>,
    service_definitions: BTreeMap<String, Arc<ServiceDefinition>>,
    services: Vec<Service>,
    types: Vec<Type>,
    by_id: BTreeMap<String, usize>,
    by_name: BTreeMap<String, Vec<usize>>,
}

/// A definition with its references resolved.
#[derive(Clone, Debug)]
pub struct Type {
    /// What the file says.
    pub definition: Arc<Definition>,
    /// Name in the registry, with `@variant` where there is one.
    pub id: String,
    /// Name on the wire.
    pub name: String,
    /// The least bytes a value takes.
    pub(crate) min_bytes: usize,
    /// For each field: index of its message type, names of its values.
    pub(crate) links: Vec<Link>,
}

/// What a field refers to.
#[derive(Clone, Debug, Default)]
pub(crate) struct Link {
    /// Index of the message type, for message fields.
    pub(crate) message: Option<usize>,
    /// Names of the values, for enum fields.
    pub(crate) names: Option<Arc<Vec<(String, i64)>>>,
}

/// Definitions that do not fit together.
#[derive(Debug, Error)]
pub enum RegistryError {
    /// A file that cannot be read as a definition.
    #[error(transparent)]
    Definition(#[from] DefinitionError),
    /// A field of a type that nobody defined.
    #[error("{file}:{place}: no definition of `{wanted}`, the type of `{field}`{hint}")]
    Missing {
        /// Which file.
        file: String,
        /// Where in it.
        place: Place,
        /// Which field.
        field: String,
        /// The type it names.
        wanted: String,
        /// Empty, or `: did you mean ...?`.
        hint: String,
    },
    /// `@enum` names a field without named values.
    #[error("{file}:{place}: `@enum` of `{field}` refers to `{wanted}`, which has no named values")]
    NoNames {
        /// Which file.
        file: String,
        /// Where in it.
        place: Place,
        /// Which field.
        field: String,
        /// What the annotation says.
        wanted: String,
    },
    /// A message that contains itself.
    #[error("{file}:{place}: `{field}` makes a message contain itself: {through}")]
    Recursive {
        /// Which file.
        file: String,
        /// Where in it.
        place: Place,
        /// Which field closes the circle.
        field: String,
        /// The way round.
        through: String,
    },
    /// Too deep or too big.
    #[error("{file}:{place}: `{field}` makes {found} {what}, expected at most {expected}")]
    TooMuch {
        /// Which file.
        file: String,
        /// Where in it.
        place: Place,
        /// Which field.
        field: String,
        /// Levels or bytes.
        what: &'static str,
        /// The limit.
        expected: usize,
        /// The number there.
        found: usize,
    },
    /// More definitions than [`MAX_DEFINITIONS`].
    #[error("{folder}: {found} definitions, expected at most {MAX_DEFINITIONS}")]
    TooMany {
        /// Which folder.
        folder: String,
        /// The number there.
        found: usize,
    },
    /// A file or folder that the system does not give.
    #[error("{path}: {source}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// A folder without definitions.
    #[error("{path}: no .msg or .srv files; expected {path}/<package>/msg/<Name>.msg or {path}/<package>/srv/<Name>.srv", path = path.display())]
    NothingThere {
        /// Which folder.
        path: PathBuf,
    },
}

impl Registry {
    /// The definitions that come with the crate.
    pub fn builtin() -> &'static Self {
        static BUILTIN: LazyLock<Registry> = LazyLock::new(|| {
            let mut registry = Registry::default();
            for &(folder, name, text) in DEFINITIONS {
                // A test parses and links every built-in definition; a file that fails cannot reach a release.
                if let Ok(definition) = parse(folder, name, text) {
                    registry.insert(definition);
                }
            }
            for &(folder, name, text) in SERVICES {
                if let Ok(service) = parse_service(folder, name, text) {
                    registry.insert_service(service);
                }
            }
            let linked = registry.link();
            debug_assert!(linked.is_ok(), "{linked:?}");
            registry
        });
        &BUILTIN
    }

    /// Adds the definitions of a folder that holds `<package>/msg/<Name>.msg` and `<package>/srv/<Name>.srv`; says how
    /// many files. A definition that is already known is replaced. Nothing changes if there is an error.
    ///
    /// # Errors
    /// A [`RegistryError`]: with line and column for a mistake in a file.
    pub fn load_folder(&mut self, folder: &Path) -> Result<usize, RegistryError> {
        let mut next = self.clone();
        let mut count = 0;
        for package in list(folder)? {
            for interface in [Interface::Message, Interface::Service] {
                let files = folder.join(&package).join(interface.folder());
                if files.is_dir() {
                    count += next.load_files(&package, interface, &files)?;
                }
            }
            limit(&folder.display(), count)?;
        }
        if count == 0 {
            let path = folder.to_owned();
            return Err(RegistryError::NothingThere { path });
        }
        next.link()?;
        *self = next;
        Ok(count)
    }

    fn load_files(
        &mut self,
        package: &str,
        interface: Interface,
        files: &Path,
    ) -> Result<usize, RegistryError> {
        let extension = format!(".{}", interface.folder());
        let mut count = 0;
        for file in list(files)? {
            let Some(name) = file.strip_suffix(&extension) else {
                continue;
            };
            count += 1;
            limit(&files.display(), count)?;
            let bytes = read(&files.join(&file))?;
            let text = text_of(package, interface, name, &bytes)?;
            match interface {
                Interface::Message => self.insert(parse(package, name, text)?),
                Interface::Service => self.insert_service(parse_service(package, name, text)?),
            }
        }
        Ok(count)
    }

    /// Adds definitions that were parsed elsewhere. Nothing changes if there is an error.
    ///
    /// # Errors
    /// A [`RegistryError`] if they do not fit together.
    pub fn add(
        &mut self,
        definitions: impl IntoIterator<Item = Definition>,
    ) -> Result<(), RegistryError> {
        let mut next = self.clone();
        for definition in definitions {
            next.insert(definition);
        }
        next.link()?;
        *self = next;
        Ok(())
    }

    fn insert(&mut self, definition: Definition) {
        self.definitions
            .insert(definition.id(), Arc::new(definition));
    }

    /// All types, each after those it contains.
    pub fn types(&self) -> impl Iterator<Item = &Type> {
        self.types.iter()
    }

    /// The type of that name, in any spelling that [`names::ros_type`] knows.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<&Type> {
        self.variants(name).next()
    }

    /// All types of that name: more than one only where packages share a name and the name has no `@variant`.
    pub fn variants(&self, name: &str) -> impl Iterator<Item = &Type> {
        let canonical = names::ros_type(name);
        let exact = canonical
            .as_deref()
            .filter(|id| id.contains('@'))
            .and_then(|id| self.by_id.get(id));
        let shared = canonical.as_deref().and_then(|name| self.by_name.get(name));
        exact
            .into_iter()
            .chain(shared.into_iter().flatten())
            .filter_map(|&index| self.types.get(index))
    }

    /// `: did you mean ...?` for a type that is not known.
    pub(crate) fn suggestion(&self, name: &str) -> String {
        let name = names::ros_type(name).unwrap_or_else(|| name.to_owned());
        match names::closest(&name, self.by_id.keys().map(String::as_str)) {
            Some(known) => format!(": did you mean `{known}`?"),
            None => String::new(),
        }
    }

    /// The type at an index of [`Link::message`].
    pub(crate) fn at(&self, index: usize) -> &Type {
        &self.types[index]
    }

    /// The text of a definition followed by those of all messages in it, each under a line of 80 `=` and `MSG: name`:
    /// the schema that rosbag2 and MCAP (`ros2msg`) store.
    #[must_use]
    pub fn schema(&self, name: &str) -> Option<String> {
        let first = self.find(name)?;
        let mut text = first.definition.text.clone();
        for referenced in self.referenced(first) {
            text.push_str(&"=".repeat(80));
            let short = referenced.name.replacen("/msg/", "/", 1);
            text.push_str(&format!("\nMSG: {short}\n{}", referenced.definition.text));
        }
        Some(text)
    }

    /// All messages within a message, each once, sorted by name.
    pub(crate) fn referenced(&self, first: &Type) -> Vec<&Type> {
        let mut found: BTreeMap<&str, &Type> = BTreeMap::new();
        let mut open = vec![first];
        while let Some(next) = open.pop() {
            for index in next.links.iter().filter_map(|link| link.message) {
                let inner = self.at(index);
                if found.insert(&inner.name, inner).is_none() {
                    open.push(inner);
                }
            }
        }
        found.into_values().collect()
    }

    /// Resolves all references, types before those that contain them.
    fn link(&mut self) -> Result<(), RegistryError> {
        let ids: Vec<String> = self.definitions.keys().cloned().collect();
        limit(&"registry", ids.len())?;
        self.types.clear();
        self.by_id.clear();
        self.by_name.clear();
        for id in &ids {
            self.link_one(id, &mut Vec::new())?;
        }
        for id in &ids {
            let index = self.by_id[id];
            self.link_values(index)?;
            let name = self.types[index].name.clone();
            self.by_name.entry(name).or_default().push(index);
        }
        for sharing in self.by_name.values_mut() {
            sharing.sort_by(|&a, &b| self.types[a].id.len().cmp(&self.types[b].id.len()));
        }
        self.link_services();
        Ok(())
    }

    /// Links one definition and those it refers to; `way` is how it was reached.
    fn link_one(&mut self, id: &str, way: &mut Vec<String>) -> Result<usize, RegistryError> {
        if let Some(&index) = self.by_id.get(id) {
            return Ok(index);
        }
        way.push(id.to_owned());
        let definition = Arc::clone(&self.definitions[id]);
        let mut links = Vec::with_capacity(definition.fields.len());
        let mut min_bytes = 0_usize;
        for field in &definition.fields {
            let mut link = Link::default();
            let element = match &field.kind.base {
                Base::Scalar(scalar) => scalar.bytes(),
                Base::Text(_) => 4,
                Base::Message(wanted) => {
                    let inner = self.resolve(&definition, field, wanted)?;
                    check_way(&definition, field, &inner, way)?;
                    let index = self.link_one(&inner, way)?;
                    link.message = Some(index);
                    self.types[index].min_bytes
                }
            };
            min_bytes = min_bytes.saturating_add(match field.kind.count {
                Count::One => element,
                Count::Array(count) => element.saturating_mul(count),
                Count::Bounded(_) | Count::Unbounded => 4,
            });
            if min_bytes > MAX_MESSAGE_BYTES {
                return Err(RegistryError::TooMuch {
                    file: definition.file(),
                    place: field.place,
                    field: field.name.clone(),
                    what: "bytes at least",
                    expected: MAX_MESSAGE_BYTES,
                    found: min_bytes,
                });
            }
            links.push(link);
        }
        way.pop();
        let index = self.types.len();
        self.types.push(Type {
            id: id.to_owned(),
            name: definition.type_name(),
            definition,
            min_bytes,
            links,
        });
        self.by_id.insert(id.to_owned(), index);
        Ok(index)
    }

    /// The id of the message that a field names: in its own package variant first, then the usual package.
    fn resolve(
        &self,
        from: &Definition,
        field: &Field,
        wanted: &str,
    ) -> Result<String, RegistryError> {
        if let (Some(variant), Some((package, rest))) = (&from.variant, wanted.split_once('/')) {
            let own = format!("{package}@{variant}/{rest}");
            if package == from.package && self.definitions.contains_key(&own) {
                return Ok(own);
            }
        }
        if self.definitions.contains_key(wanted) {
            return Ok(wanted.to_owned());
        }
        let known = self.definitions.keys().map(String::as_str);
        Err(RegistryError::Missing {
            file: from.file(),
            place: field.place,
            field: field.name.clone(),
            wanted: wanted.to_owned(),
            hint: names::closest(wanted, known)
                .map(|name| format!(": did you mean `{name}`?"))
                .unwrap_or_default(),
        })
    }

    /// Finds the names of the values of every enum field.
    fn link_values(&mut self, index: usize) -> Result<(), RegistryError> {
        let definition = Arc::clone(&self.types[index].definition);
        for (position, field) in definition.fields.iter().enumerate() {
            let names = match &field.values {
                Values::Unnamed => continue,
                Values::Here(range) => value_names(&definition.constants[range.clone()]),
                Values::Of {
                    type_name,
                    field: of,
                } => {
                    let wanted = format!("{type_name}.{of}");
                    self.values_of(type_name, of)
                        .ok_or_else(|| RegistryError::NoNames {
                            file: definition.file(),
                            place: field.place,
                            field: field.name.clone(),
                            wanted,
                        })?
                }
            };
            self.types[index].links[position].names = Some(Arc::new(names));
        }
        Ok(())
    }

    fn values_of(&self, type_name: &str, field: &str) -> Option<Vec<(String, i64)>> {
        let definition = self.definitions.get(type_name)?;
        let field = definition.fields.iter().find(|f| f.name == field)?;
        match &field.values {
            Values::Here(range) => Some(value_names(&definition.constants[range.clone()])),
            Values::Unnamed | Values::Of { .. } => None,
        }
    }
}

/// Names and values of integer constants. Zero is always named: in every enumeration it means unknown or none.
fn value_names(constants: &[Constant]) -> Vec<(String, i64)> {
    let mut names: Vec<(String, i64)> = constants
        .iter()
        .filter_map(|constant| match constant.value {
            Literal::Integer(value) => Some((constant.name.clone(), i64::try_from(value).ok()?)),
            _ => None,
        })
        .collect();
    if names
        .iter()
        .all(|(name, value)| *value != 0 && name != "UNKNOWN")
    {
        names.insert(0, ("UNKNOWN".to_owned(), 0));
    }
    names
}

/// Checks a step from a message to one of its fields; `way` is how the message was reached, itself included.
fn check_way(
    from: &Definition,
    field: &Field,
    inner: &str,
    way: &[String],
) -> Result<(), RegistryError> {
    let (file, place, field) = (from.file(), field.place, field.name.clone());
    if let Some(start) = way.iter().position(|passed| passed == inner) {
        return Err(RegistryError::Recursive {
            file,
            place,
            field,
            through: format!("{} > {inner}", way[start..].join(" > ")),
        });
    }
    if way.len() >= MAX_DEPTH {
        return Err(RegistryError::TooMuch {
            file,
            place,
            field,
            what: "levels of messages",
            expected: MAX_DEPTH,
            found: way.len() + 1,
        });
    }
    Ok(())
}

/// Checks a number of definitions.
fn limit(folder: &dyn std::fmt::Display, found: usize) -> Result<(), RegistryError> {
    if found > MAX_DEFINITIONS {
        let folder = folder.to_string();
        return Err(RegistryError::TooMany { folder, found });
    }
    Ok(())
}

/// Names of a folder's entries, sorted; entries that are not UTF-8 cannot be ROS names.
fn list(folder: &Path) -> Result<Vec<String>, RegistryError> {
    let io = |source| RegistryError::Io {
        path: folder.to_owned(),
        source,
    };
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(io)? {
        if let Ok(name) = entry.map_err(io)?.file_name().into_string() {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// Reads a definition file, not more than its limit.
fn read(path: &Path) -> Result<Vec<u8>, RegistryError> {
    use std::io::Read as _;
    let io = |source| RegistryError::Io {
        path: path.to_owned(),
        source,
    };
    let file = std::fs::File::open(path).map_err(io)?;
    let mut bytes = Vec::new();
    // One byte more than allowed, so that the parser sees that it is too long and says so.
    file.take(MAX_DEFINITION_BYTES as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(io)?;
    Ok(bytes)
}
