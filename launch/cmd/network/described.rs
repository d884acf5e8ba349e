//! Nodes as JSON describes them: the answer of a launch at `@llmasos/<namespace>/graph`, and that of a bridge's admin space.
//!
//! Both list endpoints as `{"name": "/chatter", "type": "std_msgs/msg/String"}` under `publishers`, `subscribers`, `service_servers`,
//! `service_clients`, `action_servers` and `action_clients`. Whatever else is in there is left out.

use llmasos_msgs::limits::MAX_TOPIC_CHARS;
use llmasos_nodes::bus::look::Answer;
use serde_json::Value;

use super::Role;

/// Most nodes, topics or endpoints of one description.
const ENTRIES_MAX: usize = 4096;

/// A node that somebody describes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Node {
    /// Full name with its slash.
    pub(super) name: String,
    /// What it is doing, such as `ready`.
    pub(super) state: Option<String>,
    /// Role, full name, type.
    pub(super) endpoints: Vec<(Role, String, String)>,
}

/// A launch that describes itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Launch {
    /// Its nodes.
    pub(super) nodes: Vec<Node>,
    /// Full names of its topics with their types.
    pub(super) contracts: Vec<(String, String)>,
}

const LISTS: [(&str, Role); 6] = [
    ("publishers", Role::Publisher),
    ("subscribers", Role::Subscription),
    ("service_servers", Role::Service),
    ("service_clients", Role::Client),
    ("action_servers", Role::ActionServer),
    ("action_clients", Role::ActionClient),
];

/// Reads the answer of a launch; `None` for an answer about something else.
pub(super) fn launch(answer: &Answer) -> Option<Launch> {
    let value: Value = serde_json::from_slice(&answer.payload).ok()?;
    let nodes = value.get("nodes")?.as_array()?.iter().take(ENTRIES_MAX);
    Some(Launch {
        nodes: nodes.filter_map(node).collect(),
        contracts: named(value.get("topics")),
    })
}

fn node(value: &Value) -> Option<Node> {
    Some(Node {
        name: name(value.get("name")?)?,
        state: value.get("state").and_then(short),
        endpoints: endpoints(value),
    })
}

/// Reads a node of a bridge, `@/<session>/ros2/node/<participant>/<namespace>/<name>`.
pub(super) fn bridged_node(answer: &Answer) -> Option<Node> {
    let (_, rest) = answer.key.split_once("/ros2/node/")?;
    let (_participant, name) = rest.split_once('/')?;
    let value: Value = serde_json::from_slice(&answer.payload).ok()?;
    Some(Node {
        name: format!("/{}", name.trim_matches('/')),
        state: None,
        endpoints: endpoints(&value),
    })
}

fn endpoints(value: &Value) -> Vec<(Role, String, String)> {
    let of_list = |(list, role): (&str, Role)| {
        let found = named(value.get(list)).into_iter();
        found.map(move |(name, type_name)| (role, name, type_name))
    };
    LISTS.into_iter().flat_map(of_list).collect()
}

/// Names and types of a list.
fn named(list: Option<&Value>) -> Vec<(String, String)> {
    let items = list.and_then(Value::as_array).into_iter().flatten();
    items
        .take(ENTRIES_MAX)
        .filter_map(|item| Some((name(item.get("name")?)?, short(item.get("type")?)?)))
        .collect()
}

/// A full name, with its slash.
fn name(value: &Value) -> Option<String> {
    short(value).map(|name| format!("/{}", name.trim_matches('/')))
}

/// Text of a sane length without control characters: it ends in a terminal.
fn short(value: &Value) -> Option<String> {
    let text = value.as_str()?;
    let sound =
        !text.is_empty() && text.len() <= MAX_TOPIC_CHARS && !text.chars().any(char::is_control);
    sound.then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn answer(key: &str, text: &str) -> Answer {
        Answer {
            key: key.to_owned(),
            encoding: String::new(),
            payload: text.as_bytes().to_vec(),
        }
    }

    #[test]
    fn what_cannot_be_read_is_left_out() {
        for (text, why) in [
            ("", "nothing"),
            ("{", "no JSON"),
            ("[]", "no object"),
            (r#"{"nodes": 3}"#, "no list"),
        ] {
            assert_eq!(launch(&answer("@llmasos/x", text)), None, "{why}");
        }
        let odd = json!({ "nodes": [1, {}, { "name": "a\u{1b}[2J" }, { "name": "/good", "publishers": [{ "name": "/x" }, 7] }] });
        let read = launch(&answer("@llmasos/x", &odd.to_string())).unwrap();
        assert_eq!(
            read.nodes.len(),
            1,
            "a name that would clear the screen is none"
        );
        assert!(
            read.nodes[0].endpoints.is_empty(),
            "an endpoint without a type"
        );
        assert_eq!(bridged_node(&answer("@/a/ros2/config", "{}")), None);
        let node = bridged_node(&answer("@/a/ros2/node/0110/demo/talker", "{}")).unwrap();
        assert_eq!(node.name, "/demo/talker");
    }
}
