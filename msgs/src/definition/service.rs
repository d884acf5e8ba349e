//! Reads the text of a `.srv` file: a request and a response with a line `---` between them.
//!
//! A service is three messages. The third, the event, is what service introspection publishes; no file declares it, but
//! it is part of the type hash of every service, so it is made here from the other two. Its content is fixed by
//! `rosidl_parser`: an info, and at most one request and one response.
//!
//! ```text
//! std_srvs/srv/Trigger.srv ──► Trigger_Request, Trigger_Response, Trigger_Event { info, request[<=1], response[<=1] }
//! ```

use super::parse::{Failure, Mistake, Part, located, read, whole_file};
use super::{Base, Count, Definition, DefinitionError, Field, Interface, Kind, Place, Values};

/// The line between request and response.
const DIVIDER: &str = "---";
/// What an event says about itself.
const EVENT_INFO: &str = "service_msgs/msg/ServiceEventInfo";

/// What a `.srv` file says.
#[derive(Clone, Debug, PartialEq)]
pub struct ServiceDefinition {
    /// ROS package, `std_srvs`.
    pub package: String,
    /// Which of several packages with the same name; `None` for the usual one.
    pub variant: Option<String>,
    /// Service name, `Trigger`.
    pub name: String,
    /// What a client sends: message `Trigger_Request`.
    pub request: Definition,
    /// What a server answers: message `Trigger_Response`.
    pub response: Definition,
    /// What introspection publishes: message `Trigger_Event`.
    pub event: Definition,
    /// The text it was parsed from.
    pub text: String,
}

impl ServiceDefinition {
    /// Name on the wire, `std_srvs/srv/Trigger`.
    #[must_use]
    pub fn type_name(&self) -> String {
        format!("{}/srv/{}", self.package, self.name)
    }

    /// Name in a registry: the type name, with `@variant` after the package where there is one.
    #[must_use]
    pub fn id(&self) -> String {
        format!("{}/srv/{}", self.request.folder(), self.name)
    }

    /// Request, response and event.
    pub(crate) fn parts(&self) -> [&Definition; 3] {
        [&self.request, &self.response, &self.event]
    }

    /// The service as a message of three messages, which is what its type hash describes.
    pub(crate) fn shape(&self) -> Definition {
        let fields = ["request_message", "response_message", "event_message"]
            .into_iter()
            .zip(self.parts())
            .map(|(name, part)| field(name, &part.type_name(), Count::One))
            .collect();
        let text = self.text.clone();
        self.synthetic(self.name.clone(), fields, text)
    }

    fn synthetic(&self, name: String, fields: Vec<Field>, text: String) -> Definition {
        Definition {
            package: self.package.clone(),
            variant: self.variant.clone(),
            interface: Interface::Service,
            name,
            fields,
            constants: Vec::new(),
            comment: String::new(),
            text,
        }
    }
}

/// Reads the text of `folder/srv/name.srv`, where `folder` is the package with an optional `@variant`.
///
/// # Errors
/// A [`DefinitionError`] with line and column of the first mistake.
pub fn parse_service(
    folder: &str,
    name: &str,
    text: &str,
) -> Result<ServiceDefinition, DefinitionError> {
    service(folder, name, text)
        .map_err(|failure| located(folder, Interface::Service, name, failure))
}

fn service(folder: &str, name: &str, text: &str) -> Result<ServiceDefinition, Failure> {
    whole_file(folder, Interface::Service, name, text)?;
    let (request, divider_line, response) = divide(text)?;
    let part = |suffix: &str, first_line: usize, text: &str| {
        let name = format!("{name}_{suffix}");
        let part = Part {
            folder,
            interface: Interface::Service,
            name: &name,
            first_line,
        };
        read(&part, text)
    };
    let request = part("Request", 1, request)?;
    let response = part("Response", divider_line + 1, response)?;
    let mut service = ServiceDefinition {
        package: request.package.clone(),
        variant: request.variant.clone(),
        name: name.to_owned(),
        event: request.clone(),
        request,
        response,
        text: text.to_owned(),
    };
    let fields = vec![
        field("info", EVENT_INFO, Count::One),
        field("request", &service.request.type_name(), Count::Bounded(1)),
        field("response", &service.response.type_name(), Count::Bounded(1)),
    ];
    let text = format!(
        "{EVENT_INFO} info\n{package}/{name}_Request[<=1] request\n{package}/{name}_Response[<=1] response\n",
        package = service.package
    );
    service.event = service.synthetic(format!("{name}_Event"), fields, text);
    Ok(service)
}

/// Request, line of the divider, response.
fn divide(text: &str) -> Result<(&str, usize, &str), Failure> {
    let mut found: Option<(usize, usize, usize)> = None;
    let (mut at, mut lines) = (0, 0);
    for line in text.split_inclusive('\n') {
        lines += 1;
        if line.trim_end() == DIVIDER {
            if let Some((_, _, first_line)) = found {
                return Err((lines, 1, Mistake::DividedTwice { first_line }));
            }
            found = Some((at, at + line.len(), lines));
        }
        at += line.len();
    }
    let (end, start, line) = found.ok_or((lines + 1, 1, Mistake::Undivided))?;
    Ok((&text[..end], line, &text[start..]))
}

fn field(name: &str, message: &str, count: Count) -> Field {
    Field {
        name: name.to_owned(),
        kind: Kind {
            base: Base::Message(message.to_owned()),
            count,
        },
        default: None,
        comment: String::new(),
        values: Values::Unnamed,
        place: Place::START,
    }
}
