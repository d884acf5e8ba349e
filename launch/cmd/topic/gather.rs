//! Topics as a whole: what is announced, and what is heard while listening to everything for a moment.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::Result;
use llmasos_nodes::bus::Arrival;

use super::{
    super::{
        connect::{Reached, Stop, declared},
        network::{Network, Role, Route},
        types::form,
    },
    name::Keyed,
    typing::Types,
};

/// Most topics that are told apart while listening.
const TOPICS_MAX: usize = 10_000;

/// A topic.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Topic {
    /// Types that are told of it; more than one when people disagree.
    pub(super) types: Vec<String>,
    /// What payloads of an unknown type are.
    pub(super) form: Option<&'static str>,
    /// The ways it is reached.
    pub(super) routes: Vec<Route>,
    /// Publishers that are announced.
    pub(super) publishers: usize,
    /// Subscriptions that are announced.
    pub(super) subscriptions: usize,
    /// Messages heard.
    pub(super) count: u64,
    /// Their bytes.
    pub(super) bytes: u64,
    /// Times of the first and the last.
    pub(super) heard: Option<(Instant, Instant)>,
}

/// All topics by full name.
#[derive(Debug, Default)]
pub(super) struct Topics {
    /// Topics by full name.
    pub(super) by_name: BTreeMap<String, Topic>,
    /// Messages of topics beyond the most that are told apart.
    pub(super) left_out: u64,
}

impl Topic {
    fn add_type(&mut self, type_name: &str) {
        if !self.types.iter().any(|known| known == type_name) {
            self.types.push(type_name.to_owned());
        }
    }

    fn add_route(&mut self, route: Route) {
        if !self.routes.contains(&route) {
            self.routes.push(route);
            self.routes.sort();
        }
    }

    /// Rate between the first and the last message; unknown from fewer than two.
    pub(super) fn rate_hz(&self) -> Option<f64> {
        let (first, last) = self.heard?;
        let seconds = last.duration_since(first).as_secs_f64();
        (self.count > 1 && seconds > 0.0)
            .then(|| ((self.count - 1) as f64 / seconds * 10.0).round() / 10.0)
    }

    /// Its types, or what its payloads are.
    pub(super) fn type_text(&self) -> String {
        match self.types.is_empty() {
            true => self.form.unwrap_or("?").to_owned(),
            false => self.types.join(", "),
        }
    }
}

impl Topics {
    /// What is announced.
    pub(super) fn announced(network: &Network) -> Topics {
        let mut topics = Topics::default();
        for endpoint in network
            .endpoints
            .iter()
            .filter(|endpoint| endpoint.role.is_topic())
        {
            let topic = topics.by_name.entry(endpoint.name.clone()).or_default();
            topic.add_type(&endpoint.type_name);
            for &route in &endpoint.routes {
                topic.add_route(route);
            }
            match endpoint.role {
                Role::Publisher => topic.publishers += 1,
                Role::Subscription => topic.subscriptions += 1,
                Role::Service | Role::Client | Role::ActionServer | Role::ActionClient => {}
            }
        }
        for (name, type_name) in &network.contracts {
            let topic = topics.by_name.entry(name.clone()).or_default();
            topic.add_type(type_name);
            topic.add_route(Route::Plain);
        }
        topics
    }

    /// Counts a message.
    fn see(&mut self, types: &Types, domain: u32, arrival: &Arrival, now: Instant) {
        let Some((name, route)) = placed(&arrival.key, domain) else {
            return;
        };
        if self.by_name.len() >= TOPICS_MAX && !self.by_name.contains_key(&name) {
            self.left_out += 1;
            return;
        }
        let topic = self.by_name.entry(name).or_default();
        // What comes on a bridge's key is the bridge's.
        if !(route == Route::Plain && topic.routes.contains(&Route::Bridge)) {
            topic.add_route(route);
        }
        if topic.types.is_empty() {
            match types.of(&arrival.key, &arrival.encoding) {
                Some(told) => topic.add_type(&told.name),
                None => topic.form = Some(form(&arrival.encoding, &arrival.payload.to_bytes())),
            }
        }
        topic.count += 1;
        topic.bytes = topic.bytes.saturating_add(arrival.payload.len() as u64);
        topic.heard = Some((topic.heard.map_or(now, |(first, _)| first), now));
    }
}

/// Full name and route of a key; `None` for rmw_zenoh in another domain.
fn placed(key: &str, domain: u32) -> Option<(String, Route)> {
    let keyed = Keyed::of(key);
    match keyed.rmw {
        None => Some((keyed.shown, Route::Plain)),
        Some(_) => {
            let first = key.split('/').next()?;
            (first == "*" || first == domain.to_string()).then_some((keyed.shown, Route::RmwZenoh))
        }
    }
}

/// What is announced, and what is heard while listening to everything for `listening`.
///
/// # Errors
/// When the session cannot look or listen.
pub(super) async fn gather(
    reached: &Reached,
    mut types: Types,
    listening: Option<Duration>,
) -> Result<Topics> {
    let network = Network::look(reached).await?;
    let topics = Topics::announced(&network);
    let Some(listening) = listening else {
        return Ok(topics);
    };
    types.learn(&network);
    let topics = Arc::new(Mutex::new(topics));
    let (into, domain) = (Arc::clone(&topics), reached.domain);
    let on = move |arrival: Arrival| {
        let mut topics = into.lock().unwrap_or_else(PoisonError::into_inner);
        topics.see(&types, domain, &arrival, Instant::now());
    };
    let mut stop = Stop::listen()?;
    let subscription = declared(reached.bus.subscribe("/**", on).await)?;
    tokio::select! {
        () = tokio::time::sleep(listening) => {}
        () = stop.asked() => {}
    }
    drop(subscription);
    let mut topics = topics.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(std::mem::take(&mut *topics))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cmd::topic::typing::TypeSources;
    use std::time::SystemTime;

    fn arrival(key: &str) -> Arrival {
        Arrival {
            key: key.to_owned(),
            payload: b"\0\x01\0\0\x03\0\0\0hi\0".to_vec().into(),
            encoding: String::new(),
            received: SystemTime::now(),
            sent: None,
            publisher: None,
            attachment: None,
        }
    }

    #[test]
    fn what_is_heard_is_placed_and_counted() {
        let types = TypeSources::default().load().unwrap();
        let mut topics = Topics::default();
        let start = Instant::now();
        for ms in [0, 100, 200] {
            let now = start + Duration::from_millis(ms);
            topics.see(&types, 0, &arrival("ego/x"), now);
            topics.see(
                &types,
                0,
                &arrival("0/ego/x/std_msgs::msg::dds_::String_/RIHS01_ab"),
                now,
            );
            topics.see(
                &types,
                0,
                &arrival("7/ego/y/std_msgs::msg::dds_::String_/RIHS01_ab"),
                now,
            );
        }
        let names: Vec<&String> = topics.by_name.keys().collect();
        assert_eq!(names, ["/ego/x"], "domain 7 is not ours");
        let topic = &topics.by_name["/ego/x"];
        assert_eq!(topic.routes, [Route::Plain, Route::RmwZenoh]);
        assert_eq!((topic.count, topic.bytes), (6, 6 * 11));
        assert_eq!(
            topic.type_text(),
            "std_msgs/msg/String",
            "the key of rmw_zenoh says it"
        );
        topics.see(&types, 0, &arrival("mystery"), start);
        let mystery = &topics.by_name["/mystery"];
        assert_eq!(
            (mystery.type_text().as_str(), mystery.rate_hz()),
            ("CDR", None)
        );
    }
}
