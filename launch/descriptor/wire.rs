//! What the descriptor knows about message types: whether there is one of that name, and what a field of it is.
//!
//! A thin view of the definitions in `llmasos_msgs`, so that a condition on a field that does not exist, or a word that names no
//! value of an enum, is found before anything starts.

use llmasos_msgs::definition::{Base, Literal, Scalar, Values};
use llmasos_msgs::registry::{Registry, Type};

/// The canonical name of a known type, `package/msg/Name`, from any spelling of it.
pub fn canonical(name: &str) -> Option<String> {
    Registry::builtin().find(name).map(|t| t.name.clone())
}

/// All known types as people write them, `package/Name`.
pub fn known() -> Vec<String> {
    let mut names: Vec<String> = Registry::builtin()
        .types()
        .map(|t| t.name.replacen("/msg/", "/", 1))
        .collect();
    names.sort();
    names.dedup();
    names
}

/// What a field holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Leaf {
    /// A number without named values.
    Number,
    /// A number whose values have names.
    Enum(Vec<(String, i64)>),
    /// A truth value.
    Bool,
    /// Text.
    Text,
    /// A time or a duration; compared in seconds.
    Time,
    /// A UUID; text in the JSON form.
    Uuid,
    /// Another message: only its own fields can be compared.
    Message,
}

/// A path that leads nowhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoField {
    /// The part of the path that is not there.
    pub name: String,
    /// The type that does not have it.
    pub of: String,
    /// The fields it has.
    pub known: Vec<String>,
}

/// What stands at a dotted path in a message of a known type. A path goes through lists: it then means any element.
///
/// # Errors
/// [`NoField`] with the first part that is not there.
pub fn leaf(type_name: &str, path: &str) -> Result<Leaf, NoField> {
    let mut current = Registry::builtin().find(type_name);
    let mut found = Leaf::Message;
    for part in path.split('.') {
        let none = || NoField {
            name: part.to_owned(),
            of: current.map_or(type_name, |t| &t.name).to_owned(),
            known: current
                .iter()
                .flat_map(|t| &t.definition.fields)
                .map(|f| f.name.clone())
                .collect(),
        };
        let Some(owner) = current else {
            return Err(none());
        };
        let field = owner
            .definition
            .fields
            .iter()
            .find(|f| f.name == part)
            .ok_or_else(none)?;
        current = None;
        found = match &field.kind.base {
            Base::Text(_) => Leaf::Text,
            Base::Scalar(Scalar::Bool) => Leaf::Bool,
            Base::Scalar(_) => match names(owner, &field.values) {
                names if names.is_empty() => Leaf::Number,
                names => Leaf::Enum(names),
            },
            Base::Message(name) => match name.as_str() {
                "builtin_interfaces/msg/Time" | "builtin_interfaces/msg/Duration" => Leaf::Time,
                "unique_identifier_msgs/msg/UUID" => Leaf::Uuid,
                _ => {
                    current = Registry::builtin().find(name);
                    Leaf::Message
                }
            },
        };
    }
    Ok(found)
}

/// The named values of a field of a type; zero is UNKNOWN where nothing else is.
fn names(owner: &Type, values: &Values) -> Vec<(String, i64)> {
    let constants = match values {
        Values::Unnamed => return Vec::new(),
        Values::Here(range) => owner
            .definition
            .constants
            .get(range.clone())
            .unwrap_or_default(),
        Values::Of { type_name, field } => {
            let Some(other) = Registry::builtin().find(type_name) else {
                return Vec::new();
            };
            return match other
                .definition
                .fields
                .iter()
                .find(|f| f.name == *field)
                .map(|f| &f.values)
            {
                Some(values @ Values::Here(_)) => names(other, values),
                _ => Vec::new(),
            };
        }
    };
    let mut names: Vec<(String, i64)> = constants
        .iter()
        .filter_map(|c| match c.value {
            Literal::Integer(value) => Some((c.name.clone(), i64::try_from(value).ok()?)),
            _ => None,
        })
        .collect();
    if names.iter().all(|(_, value)| *value != 0) {
        names.insert(0, ("UNKNOWN".to_owned(), 0));
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_of_a_type_mean_the_same() {
        for name in [
            "std_msgs/String",
            "std_msgs/msg/String",
            "std_msgs::msg::dds_::String_",
        ] {
            assert_eq!(canonical(name).as_deref(), Some("std_msgs/msg/String"));
        }
        assert_eq!(canonical("std_msgs/Strin"), None);
    }

    #[test]
    fn paths_lead_to_leaves() {
        let leaf = |path| leaf("llmasos_msgs/PerceptionSummary", path);
        assert_eq!(leaf("objects.vulnerable"), Ok(Leaf::Bool));
        assert_eq!(leaf("objects.object_id"), Ok(Leaf::Uuid));
        assert_eq!(leaf("header.stamp"), Ok(Leaf::Time));
        assert_eq!(leaf("sentence"), Ok(Leaf::Text));
        assert_eq!(leaf("objects_total"), Ok(Leaf::Number));
        assert!(
            matches!(leaf("traffic_light"), Ok(Leaf::Enum(names)) if names.contains(&("RED".into(), 1)))
        );
        let wrong = leaf("objects.vulnerabel").unwrap_err();
        assert_eq!(
            (wrong.name.as_str(), wrong.of.as_str()),
            ("vulnerabel", "llmasos_msgs/msg/SceneObject")
        );
        assert!(wrong.known.contains(&"vulnerable".to_owned()));
        assert!(leaf("sentence.x").is_err() && leaf("").is_err());
    }
}
