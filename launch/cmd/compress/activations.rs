//! What can be said about codes of activations: in flags, and in the `quantize` step of a recipe file. They mean the same.
//!
//! ```yaml
//! - quantize: { weights: int8-static, calibrate: { percentile: 99.99 }, max_error: 3%, keep_float: [c1/Conv], unknown: refuse }
//! ```

use llmasos_forge::static_int8::{DEFAULT_PERCENT, OnUnknown, RangeMethod, StaticOptions};

use super::quantity;
use crate::models::{
    ModelError,
    yaml::{Fields, Node},
};

/// Most names of nodes.
const MAX_NAMES: usize = 4096;

const WORDS: &[(&str, RangeMethod)] = &[
    ("minmax", RangeMethod::MinMax),
    ("percentile", RangeMethod::Percentile(DEFAULT_PERCENT)),
    ("entropy", RangeMethod::Entropy),
];
const UNKNOWN: &[(&str, OnUnknown)] = &[("keep", OnUnknown::Keep), ("refuse", OnUnknown::Refuse)];

/// Names of the fields, which `quantize` has beside its own.
pub(super) const FIELDS: [&str; 5] = [
    "calibrate",
    "max_error",
    "keep_float",
    "unknown",
    "pairs_fit",
];

/// The same as flags.
#[derive(Debug, Default, clap::Args)]
pub(super) struct ActivationFlags {
    /// How ranges of activations are chosen, with --quantize int8-static: minmax, percentile, percentile=99.9 or entropy [default: percentile=99.99]
    #[arg(long, value_name = "HOW", requires = "quantize", value_parser = ranges)]
    calibrate: Option<RangeMethod>,
    /// Keep nodes in float, the most sensitive first, until no output is further off than this, with --quantize int8-static
    #[arg(long, value_name = "SHARE", requires = "quantize", value_parser = quantity::fraction)]
    max_error: Option<f64>,
    /// Keep the node of this name in float; may be given several times
    #[arg(long, value_name = "NODE", requires = "quantize")]
    keep_float: Vec<String>,
}

impl ActivationFlags {
    /// The options, if anything was said.
    pub(super) fn options(&self) -> Option<StaticOptions> {
        let is_silent =
            self.calibrate.is_none() && self.max_error.is_none() && self.keep_float.is_empty();
        if is_silent {
            return None;
        }
        let default = StaticOptions::default();
        Some(StaticOptions {
            ranges: self.calibrate.unwrap_or(default.ranges),
            max_error: self.max_error.map(|share| share as f32),
            keep_float: self.keep_float.clone(),
            ..default
        })
    }
}

/// The options that a step of a recipe file has, if it has any.
///
/// # Errors
/// [`ModelError`] with line and column.
pub(super) fn read(
    step: Node<'_>,
    fields: &Fields<'_>,
) -> Result<Option<StaticOptions>, ModelError> {
    if FIELDS.iter().all(|name| fields.optional(name).is_none()) {
        return Ok(None);
    }
    let mut options = StaticOptions::default();
    if let Some(node) = fields.optional("calibrate") {
        options.ranges = range_node(node)?;
    }
    if let Some(node) = fields.optional("max_error") {
        options.max_error = Some(super::recipe_file::share(node)? as f32);
    }
    if let Some(node) = fields.optional("keep_float") {
        let names = node.items()?;
        if names.len() > MAX_NAMES {
            let found = names.len();
            return Err(node.error(format!("expected at most {MAX_NAMES} names, found {found}")));
        }
        for name in names {
            options.keep_float.push(name.text()?.to_owned());
        }
    }
    if let Some(node) = fields.optional("unknown") {
        options.on_unknown = node.word(UNKNOWN)?;
    }
    if let Some(node) = fields.optional("pairs_fit") {
        options.pairs_fit = super::recipe_file::boolean(node)?;
    }
    match options.check() {
        Ok(()) => Ok(Some(options)),
        Err(error) => Err(step.error(error.to_string())),
    }
}

/// A word, or `{ percentile: 99.9 }`.
fn range_node(node: Node<'_>) -> Result<RangeMethod, ModelError> {
    if node.text().is_ok() {
        return node.word(WORDS);
    }
    let fields = node.fields(&["percentile"])?;
    let number = fields.required("percentile")?;
    match number.json()?.as_f64() {
        Some(percent) => Ok(RangeMethod::Percentile(percent)),
        None => Err(number.error("expected a number, such as 99.9")),
    }
}

/// `minmax`, `entropy`, `percentile`, `percentile=99.9`.
fn ranges(text: &str) -> Result<RangeMethod, String> {
    if let Some((_, found)) = WORDS.iter().find(|(word, _)| *word == text) {
        return Ok(*found);
    }
    let number = text.strip_prefix("percentile=").map(str::parse);
    match number {
        Some(Ok(percent)) => Ok(RangeMethod::Percentile(percent)),
        _ => Err(format!(
            "expected minmax, percentile, percentile=99.9 or entropy, found '{text}'"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::yaml::read_document;

    fn of(text: &str) -> Result<Option<StaticOptions>, String> {
        let found = read_document("r.yaml", text, |root| read(root, &root.fields(&FIELDS)?));
        found.map_err(|error| error.to_string())
    }

    #[test]
    fn flags_and_files_mean_the_same() {
        let cases = [
            ("minmax", "calibrate: minmax", RangeMethod::MinMax),
            (
                "percentile",
                "calibrate: percentile",
                RangeMethod::Percentile(99.99),
            ),
            (
                "percentile=99.9",
                "calibrate: { percentile: 99.9 }",
                RangeMethod::Percentile(99.9),
            ),
            ("entropy", "calibrate: entropy", RangeMethod::Entropy),
        ];
        for (flag, file, expected) in cases {
            assert_eq!(ranges(flag), Ok(expected));
            assert_eq!(of(file).unwrap().unwrap().ranges, expected);
        }
        let whole = "max_error: 3%\nkeep_float: [a, b]\nunknown: refuse\npairs_fit: false";
        let found = of(whole).unwrap().unwrap();
        assert_eq!(found.max_error, Some(0.03));
        assert_eq!(found.keep_float, ["a", "b"]);
        assert_eq!(
            (found.on_unknown, found.pairs_fit),
            (OnUnknown::Refuse, false)
        );
        assert!(ActivationFlags::default().options().is_none());
    }

    #[test]
    fn mistakes_say_what_is_possible() {
        assert!(ranges("max").unwrap_err().contains("percentile=99.9"));
        assert!(ranges("percentile=x").unwrap_err().contains("found"));
        let cases = [
            ("calibrate: minmix", "did you mean 'minmax'?"),
            ("calibrate: { percentile: high }", "expected a number"),
            (
                "calibrate: { percentile: 50 }",
                "expected 90 to 100, found 50",
            ),
            ("keep_float: c1", "a list with at least one item"),
            ("max_error: 0%", "a number above 0"),
            ("unknown: drop", "'drop' is not one of keep, refuse"),
        ];
        for (text, expected) in cases {
            let error = of(text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
