//! The environment variables that ROS 2's rmw_zenoh reads, so that a shell set up for it works here unchanged.
//!
//! Reading them is pure: a function gives the text of a variable, the result is data for [`BusOptions`]. The variables
//! win over a descriptor, as they win over the defaults in rmw_zenoh; what is typed on the command line wins over both.
//!
//! ```text
//! ZENOH_SESSION_CONFIG_URI=/etc/zenoh/session.json5    or file:///etc/zenoh/session.json5; a whole configuration
//! ZENOH_CONFIG_OVERRIDE='mode="client";connect/endpoints=["tcp/10.0.0.5:7447"]'    key=value, value in JSON5
//! ROS_DOMAIN_ID=7                                      0..=232; the first part of an rmw_zenoh key
//! ```

use std::path::PathBuf;

use llmasos_nodes::bus::BusOptions;
use thiserror::Error;

/// Largest ROS domain: DDS has no ports for more, and rmw_zenoh keeps the range.
pub const DOMAIN_MAX: u32 = 232;
/// Longest value of `ZENOH_CONFIG_OVERRIDE`, in bytes.
const OVERRIDE_BYTES_MAX: usize = 64 << 10;
/// Most settings in it.
const OVERRIDES_MAX: usize = 256;
/// Characters of a wrong value that an error repeats.
const SHOWN_CHARS: usize = 60;

/// What the variables say; what is not set stays as it is elsewhere.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RosEnvironment {
    /// The Zenoh configuration file.
    pub config_file: Option<PathBuf>,
    /// Settings on top of it: key in Zenoh's configuration, value in JSON5.
    pub config_overrides: Vec<(String, String)>,
    /// The ROS domain.
    pub domain: Option<u32>,
}

/// A variable that cannot be meant.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum EnvironmentError {
    /// A part without `=`, or nothing before it.
    #[error(
        "ZENOH_CONFIG_OVERRIDE: expected key=value;key=value, found `{found}` as setting {number}"
    )]
    Setting {
        /// Which setting, from 1.
        number: usize,
        /// What stands there.
        found: String,
    },
    /// Too long, or too many settings.
    #[error("ZENOH_CONFIG_OVERRIDE: expected at most {expected} {what}, found {found}")]
    TooMuch {
        /// Bytes or settings.
        what: &'static str,
        /// The limit.
        expected: usize,
        /// How many there are.
        found: usize,
    },
    /// Not a file.
    #[error(
        "ZENOH_SESSION_CONFIG_URI: expected a path or file:///path/to/config.json5, found `{found}`"
    )]
    Uri {
        /// The value.
        found: String,
    },
    /// Not a domain.
    #[error("{name}: expected a number of 0 to {DOMAIN_MAX}, found `{found}`")]
    Domain {
        /// `ROS_DOMAIN_ID`, or the flag.
        name: &'static str,
        /// The value.
        found: String,
    },
}

impl RosEnvironment {
    /// Reads the variables; an empty one counts as not set.
    ///
    /// # Errors
    /// An [`EnvironmentError`] that names the variable.
    pub fn read(variable: impl Fn(&str) -> Option<String>) -> Result<Self, EnvironmentError> {
        let set = |name| variable(name).filter(|value| !value.trim().is_empty());
        Ok(Self {
            config_file: set("ZENOH_SESSION_CONFIG_URI")
                .map(|uri| file(uri.trim()))
                .transpose()?,
            config_overrides: set("ZENOH_CONFIG_OVERRIDE")
                .map_or_else(|| Ok(Vec::new()), |text| overrides(&text))?,
            domain: set("ROS_DOMAIN_ID")
                .map(|text| domain("ROS_DOMAIN_ID", &text))
                .transpose()?,
        })
    }

    /// Lays the Zenoh variables over the options of a session. A whole configuration takes the place of the descriptor's addresses: it has
    /// its own.
    pub fn apply(&self, options: &mut BusOptions) {
        if let Some(file) = &self.config_file {
            options.config_file = Some(file.clone());
            options.listen.clear();
            options.connect.clear();
        }
        options
            .config_overrides
            .extend(self.config_overrides.iter().cloned());
    }
}

impl RosEnvironment {
    /// One line for each variable that has a say, with what it says; the domain only where it is the graph's.
    pub fn lines(&self, domain: Option<u32>) -> Vec<String> {
        let mut lines = Vec::new();
        if let Some(file) = &self.config_file {
            let file = file.display();
            lines.push(format!(
                "ZENOH_SESSION_CONFIG_URI: the Zenoh configuration is {file}"
            ));
        }
        for (key, value) in &self.config_overrides {
            lines.push(format!("ZENOH_CONFIG_OVERRIDE: {key} is {}", shown(value)));
        }
        if self.domain.is_some() && self.domain == domain {
            let domain = domain.unwrap_or_default();
            lines.push(format!("ROS_DOMAIN_ID: the ROS domain is {domain}"));
        }
        lines
    }
}

/// A ROS domain as text; `name` is the variable or flag it comes from.
///
/// # Errors
/// [`EnvironmentError::Domain`] when it is no number or above [`DOMAIN_MAX`].
pub fn domain(name: &'static str, text: &str) -> Result<u32, EnvironmentError> {
    let text = text.trim();
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse::<u32>()
        .ok()
        .filter(|domain| digits && *domain <= DOMAIN_MAX)
        .ok_or_else(|| EnvironmentError::Domain {
            name,
            found: shown(text),
        })
}

/// rmw_zenoh calls it a URI and takes a path; both are accepted.
fn file(uri: &str) -> Result<PathBuf, EnvironmentError> {
    let path = match uri.split_once("://") {
        None => Some(uri),
        // `file:///path` and `file://localhost/path` mean this computer; another host's files cannot be read.
        Some(("file", rest)) => {
            let local = rest.strip_prefix("localhost").unwrap_or(rest);
            local.starts_with('/').then_some(local)
        }
        Some(_) => None,
    };
    path.map(PathBuf::from)
        .ok_or_else(|| EnvironmentError::Uri { found: shown(uri) })
}

/// Settings between semicolons; one within quotes belongs to the value.
fn overrides(text: &str) -> Result<Vec<(String, String)>, EnvironmentError> {
    let too_much = |what, expected, found| EnvironmentError::TooMuch {
        what,
        expected,
        found,
    };
    if text.len() > OVERRIDE_BYTES_MAX {
        return Err(too_much("bytes", OVERRIDE_BYTES_MAX, text.len()));
    }
    let mut settings = Vec::new();
    for (index, part) in split(text).into_iter().enumerate() {
        if part.trim().is_empty() {
            continue;
        }
        let setting = part
            .split_once('=')
            .map(|(key, value)| (key.trim(), value.trim()));
        match setting {
            Some((key, value)) if !key.is_empty() && !value.is_empty() => {
                settings.push((key.to_owned(), value.to_owned()));
            }
            _ => {
                return Err(EnvironmentError::Setting {
                    number: index + 1,
                    found: shown(part.trim()),
                });
            }
        }
    }
    if settings.len() > OVERRIDES_MAX {
        return Err(too_much("settings", OVERRIDES_MAX, settings.len()));
    }
    Ok(settings)
}

/// Splits at semicolons that do not stand within quotes.
fn split(text: &str) -> Vec<&str> {
    let (mut parts, mut start) = (Vec::new(), 0);
    let (mut quote, mut escaped) = (None, false);
    for (at, found) in text.char_indices() {
        match (quote, found) {
            (Some(_), _) if escaped => escaped = false,
            (Some(_), '\\') => escaped = true,
            (Some(open), _) if found == open => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'') => quote = Some(found),
            (None, ';') => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            (None, _) => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

fn shown(text: &str) -> String {
    text.chars().take(SHOWN_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<RosEnvironment, EnvironmentError> {
        RosEnvironment::read(|name| {
            let found = pairs.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn overrides_are_those_of_rmw_zenoh() {
        type Case = (
            &'static str,
            &'static [(&'static str, &'static str)],
            &'static str,
        );
        const CASES: &[Case] = &[
            (
                r#"mode="client";connect/endpoints=["tcp/10.0.0.5:7447"]"#,
                &[
                    ("mode", r#""client""#),
                    ("connect/endpoints", r#"["tcp/10.0.0.5:7447"]"#),
                ],
                "the form of its README",
            ),
            (
                " a = true ; ",
                &[("a", "true")],
                "spaces and a last semicolon",
            ),
            (
                "a={b:1};c='x;y'",
                &[("a", "{b:1}"), ("c", "'x;y'")],
                "a semicolon within quotes",
            ),
            (
                r#"a="\";";b=1"#,
                &[("a", r#""\";""#), ("b", "1")],
                "an escaped quote",
            ),
            ("a=b=c", &[("a", "b=c")], "only the first sign parts"),
            ("  ", &[], "as if not set"),
        ];
        for (text, expected, why) in CASES {
            let found = read(&[("ZENOH_CONFIG_OVERRIDE", text)])
                .unwrap()
                .config_overrides;
            let found: Vec<_> = found
                .iter()
                .map(|(key, value)| (key.as_str(), value.as_str()))
                .collect();
            assert_eq!(found, *expected, "{why}");
        }
    }

    #[test]
    fn files_and_domains_are_read() {
        for (uri, path) in [
            ("/etc/z.json5", "/etc/z.json5"),
            ("z.json5", "z.json5"),
            ("file:///etc/z.json5", "/etc/z.json5"),
            ("file://localhost/etc/z.json5", "/etc/z.json5"),
        ] {
            let found = read(&[("ZENOH_SESSION_CONFIG_URI", uri)]).unwrap();
            assert_eq!(found.config_file, Some(PathBuf::from(path)), "{uri}");
        }
        for (text, domain) in [("0", 0), ("232", 232), (" 7 ", 7)] {
            assert_eq!(
                read(&[("ROS_DOMAIN_ID", text)]).unwrap().domain,
                Some(domain)
            );
        }
        assert_eq!(
            read(&[("ROS_DOMAIN_ID", "")]).unwrap(),
            RosEnvironment::default()
        );
    }

    #[test]
    fn wrong_values_name_their_variable() {
        let long = format!("a={}", "1".repeat(OVERRIDE_BYTES_MAX));
        let many = "a=1;".repeat(OVERRIDES_MAX + 1);
        for (name, value, part) in [
            ("ZENOH_CONFIG_OVERRIDE", "mode", "found `mode` as setting 1"),
            ("ZENOH_CONFIG_OVERRIDE", "a=1;=2", "found `=2` as setting 2"),
            ("ZENOH_CONFIG_OVERRIDE", "a=1;b=", "found `b=` as setting 2"),
            ("ZENOH_CONFIG_OVERRIDE", "a='x;b=1", ""),
            (
                "ZENOH_CONFIG_OVERRIDE",
                &long,
                "expected at most 65536 bytes, found 65538",
            ),
            (
                "ZENOH_CONFIG_OVERRIDE",
                &many,
                "expected at most 256 settings, found 257",
            ),
            (
                "ZENOH_SESSION_CONFIG_URI",
                "http://a/b",
                "found `http://a/b`",
            ),
            (
                "ZENOH_SESSION_CONFIG_URI",
                "file://host/b",
                "expected a path",
            ),
            ("ROS_DOMAIN_ID", "233", "0 to 232, found `233`"),
            ("ROS_DOMAIN_ID", "+1", "found `+1`"),
            ("ROS_DOMAIN_ID", "-1", "found `-1`"),
            ("ROS_DOMAIN_ID", "one", "found `one`"),
        ] {
            let found = read(&[(name, value)]);
            if part.is_empty() {
                // An open quote runs to the end; Zenoh says what is wrong with the value.
                assert_eq!(found.unwrap().config_overrides.len(), 1);
                continue;
            }
            let error = found.unwrap_err().to_string();
            assert!(error.starts_with(name) && error.contains(part), "{error}");
        }
    }
}
