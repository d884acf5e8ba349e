//! Services: one question, one answer, for people, for ROS 2 nodes behind a bridge and for those on rmw_zenoh.
//!
//! ```text
//! zenoh get ego/llmasos/say -v "slow down"            text or JSON in ─▶ JSON out
//! zenoh-bridge-ros2dds, same key                      CDR in ─▶ CDR out
//! rmw_zenoh  0/ego/llmasos/say/…srv::dds_::Say_/…     CDR + attachment in ─▶ CDR + attachment with the same number and GID out
//! ```
//!
//! Zenoh's thread only hands over. The node answers in its own time, within a limit, and only so many at once: a flood of questions is
//! refused, not queued. What cannot be read gets an error as its answer, so that nobody waits for nothing. A ROS 2 client without an
//! attachment could not take the answer and gets that said too.

use std::{future::Future, pin::Pin, sync::Arc, time::Duration, time::SystemTime};

use llmasos_msgs::{
    Message, Service, hash,
    rmw_zenoh::{Attachment, EntityKind, QosProfile},
    sniff,
};
use serde_json::{Value, json};
use tokio::{runtime::Handle, sync::Semaphore};
use tracing::warn;
use zenoh::{
    bytes::{Encoding, ZBytes},
    query::Query,
};

use crate::{
    bus::{Answering, Bus, BusError},
    clock,
    health::NodeHealth,
    ros2::Presence,
};

/// Questions a service works on at once.
const PENDING_MAX: usize = 8;
/// Longest question, in bytes.
const REQUEST_BYTES_MAX: usize = 64 << 10;
/// How long an answer may take; below the time the Zenoh command line waits (10 s).
const ANSWER_LIMIT: Duration = Duration::from_secs(8);

/// An answer to come.
pub type Answer<S> = Pin<Box<dyn Future<Output = <S as Service>::Response> + Send>>;

/// A service that is offered; gone when dropped.
pub struct Server {
    _answering: Vec<Answering>,
    _presence: Option<Presence>,
}

/// How a question arrived, and with it how its answer leaves.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Form {
    Cdr,
    Json,
    Ros(Attachment),
}

struct Desk<S: Service> {
    health: NodeHealth,
    topic: String,
    text_field: Option<&'static str>,
    answer: Box<dyn Fn(S::Request) -> Answer<S> + Send + Sync>,
    free: Arc<Semaphore>,
    runtime: Handle,
}

/// Offers a service. `text_field` is the field that plain text fills, for requests that people type.
///
/// # Errors
/// [`BusError::Topic`] when the name is no valid key.
pub async fn serve<S: Service>(
    bus: &Bus,
    health: &NodeHealth,
    name: &str,
    text_field: Option<&'static str>,
    answer: impl Fn(S::Request) -> Answer<S> + Send + Sync + 'static,
) -> Result<Server, BusError> {
    let desk = Arc::new(Desk::<S> {
        health: health.clone(),
        topic: name.to_owned(),
        text_field,
        answer: Box::new(answer),
        free: Arc::new(Semaphore::new(PENDING_MAX)),
        runtime: Handle::current(),
    });
    let (plain, plain_key, mut presence) = (Arc::clone(&desk), bus.key(name), None);
    let mut answering = vec![
        bus.questions(name, move |query| plain.take(query, &plain_key, false))
            .await?,
    ];
    if let Some(ros2) = bus.ros2() {
        let subject = ros2.service(&bus.key(name), S::TYPE, || hash::of_service::<S>());
        if let Some(key) = ros2.data_topic(&subject, &subject.hash) {
            let own_key = bus.key(&key);
            answering.push(
                bus.questions(&key, move |query| desk.take(query, &own_key, true))
                    .await?,
            );
            let qos = QosProfile::default();
            presence = Some(
                ros2.show(health, EntityKind::Service, &subject, qos, name)
                    .await?,
            );
        }
    }
    Ok(Server {
        _answering: answering,
        _presence: presence,
    })
}

impl<S: Service> Desk<S> {
    /// Runs on Zenoh's thread. Somebody who looks at everything (`ego/**`) asks this service nothing: a question names it.
    fn take(self: &Arc<Self>, query: Query, key: &str, ros: bool) {
        if query.key_expr().as_str() != key {
            return;
        }
        let desk = Arc::clone(self);
        let Ok(permit) = Arc::clone(&self.free).try_acquire_owned() else {
            let reason = format!("expected at most {PENDING_MAX} questions at once");
            self.runtime
                .spawn(async move { desk.refuse(&query, &reason).await });
            return;
        };
        self.runtime.spawn(async move {
            desk.serve(&query, ros).await;
            drop(permit);
        });
    }

    async fn serve(&self, query: &Query, ros: bool) {
        let (request, form) = match self.read(query, ros) {
            Ok(read) => read,
            Err(reason) => return self.refuse(query, &reason).await,
        };
        match tokio::time::timeout(ANSWER_LIMIT, (self.answer)(request)).await {
            Ok(response) => self.reply(query, &response, form).await,
            Err(_) => {
                let reason = format!("no answer within {} s", ANSWER_LIMIT.as_secs());
                self.refuse(query, &reason).await;
            }
        }
    }

    fn read(&self, query: &Query, ros: bool) -> Result<(S::Request, Form), String> {
        let payload = query.payload().map(ZBytes::to_bytes).unwrap_or_default();
        if payload.len() > REQUEST_BYTES_MAX {
            return Err(format!(
                "expected at most {REQUEST_BYTES_MAX} bytes, found {}",
                payload.len()
            ));
        }
        if ros {
            let attachment = query
                .attachment()
                .ok_or("expected rmw_zenoh's attachment beside the request, found none")?;
            let attachment =
                Attachment::decode(&attachment.to_bytes()).map_err(|error| error.to_string())?;
            let request = S::Request::decode(&payload).map_err(|error| error.to_string())?;
            return Ok((request, Form::Ros(attachment)));
        }
        let encoding = query
            .encoding()
            .map(ToString::to_string)
            .unwrap_or_default();
        read_plain::<S::Request>(&encoding, &payload, self.text_field)
    }

    async fn reply(&self, query: &Query, response: &S::Response, form: Form) {
        let (payload, encoding, attachment) = match form {
            Form::Json => (
                response.to_json().to_string().into_bytes(),
                Encoding::APPLICATION_JSON,
                None,
            ),
            Form::Cdr | Form::Ros(_) => match response.encode() {
                Ok(bytes) => (bytes, Encoding::ZENOH_BYTES, beside(form)),
                Err(error) => return self.refuse(query, &error.to_string()).await,
            },
        };
        let replied = query
            .reply(query.key_expr().clone(), payload)
            .encoding(encoding)
            .attachment(attachment.map(|attachment| ZBytes::from(attachment.encode())))
            .await;
        if let Err(error) = replied {
            warn!(service = %self.topic, %error, "an answer could not be sent");
        }
    }

    async fn refuse(&self, query: &Query, reason: &str) {
        self.health.refuse(&self.topic, reason);
        if let Err(error) = query.reply_err(reason).await {
            warn!(service = %self.topic, %error, "an answer could not be sent");
        }
    }
}

/// What stands beside the answer to a ROS 2 client: its number and its GID, by which it knows the answer for its own.
fn beside(form: Form) -> Option<Attachment> {
    match form {
        Form::Ros(asked) => Some(Attachment {
            stamp_ns: clock::wall_ns(SystemTime::now()),
            ..asked
        }),
        Form::Cdr | Form::Json => None,
    }
}

/// Reads a question of the plain key. An empty one is a request with all fields left out.
fn read_plain<Q: Message>(
    encoding: &str,
    payload: &[u8],
    text_field: Option<&'static str>,
) -> Result<(Q, Form), String> {
    let json = |value: &Value| {
        Q::from_json(value)
            .map(|request| (request, Form::Json))
            .map_err(|error| error.to_string())
    };
    if payload.is_empty() {
        return match text_field {
            None => json(&json!({})),
            Some(field) => Err(format!(
                "expected text, JSON such as {{\"{field}\": \"...\"}} or CDR, found nothing"
            )),
        };
    }
    match sniff::classify(encoding, payload).map_err(|error| error.to_string())? {
        sniff::Form::Cdr => Q::decode(payload)
            .map(|request| (request, Form::Cdr))
            .map_err(|error| error.to_string()),
        sniff::Form::Json(value) => json(&value),
        sniff::Form::Text(text) => match text_field {
            Some(field) => json(&json!({ field: text.trim() })),
            None => Err("expected JSON or CDR, found text".to_owned()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use llmasos_msgs::{llmasos_msgs::SayRequest, std_srvs::TriggerRequest};

    #[test]
    fn questions_come_in_every_form() {
        let cdr = SayRequest {
            text: "stop".into(),
        }
        .encode()
        .unwrap();
        let say = |encoding: &str, payload: &[u8]| {
            read_plain::<SayRequest>(encoding, payload, Some("text"))
                .map(|(request, form)| (request.text, form))
        };
        for (encoding, payload, form, why) in [
            ("zenoh/bytes", "stop".as_bytes(), Form::Json, "typed"),
            ("text/plain", " stop \n".as_bytes(), Form::Json, "z_get"),
            ("zenoh/bytes", br#"{"text":"stop"}"#, Form::Json, "JSON"),
            ("zenoh/bytes", cdr.as_slice(), Form::Cdr, "a bridge"),
            ("application/cdr", cdr.as_slice(), Form::Cdr, "CDR by name"),
        ] {
            assert_eq!(
                say(encoding, payload),
                Ok(("stop".to_owned(), form)),
                "{why}"
            );
        }
        for (payload, expected) in [
            (b"".as_slice(), "found nothing"),
            (br#"{"txt":"stop"}"#, "txt"),
            (&cdr[..6], "expected"),
            (&[0xff, 0xfe, 1], "expected"),
        ] {
            let error = say("zenoh/bytes", payload).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
        let trigger =
            |payload: &[u8]| read_plain::<TriggerRequest>("", payload, None).map(|(_, form)| form);
        assert_eq!(trigger(b""), Ok(Form::Json), "a question without content");
        assert_eq!(trigger(b"{}"), Ok(Form::Json));
        assert_eq!(trigger(&[0, 1, 0, 0, 0]), Ok(Form::Cdr));
        assert!(trigger(b"now").is_err());
    }
}
