//! The last word for a gate that died: Autoware's selector never forgets a speed limit, so somebody who lives has to clear it.
//!
//! A gate that ends in order clears its own limit, and a new one clears what its predecessor left. In between, and when there is no new
//! one, the launcher does: however the watcher of the gate's process ends (the process died, a fault killed it, the launcher stops), the
//! guard in its state says so once.
//!
//! ```text
//! gate ──limit──▶ Autoware          gate ✝          launcher ──clear──▶ Autoware          new gate ──clear──▶ Autoware
//! ```

use std::sync::Arc;

use llmasos_msgs::autoware_internal_planning_msgs::VelocityLimitClearCommand;
use llmasos_nodes::{
    bus::{Bus, BusError, Qos},
    clock::Clock,
    gate::{autoware::CLEAR_VELOCITY_LIMIT_TOPIC, convert},
    health::Health,
    output::Output,
    ros2::PROCESS_NODE,
};
use tracing::{info, warn};

/// Clears what a gate may have said to Autoware. Clones share the publisher.
#[derive(Clone)]
pub struct LastWord {
    output: Arc<Output<VelocityLimitClearCommand>>,
    clock: Clock,
}

impl LastWord {
    /// Declares the publisher now, so that it is known to everybody when it is needed.
    ///
    /// # Errors
    /// [`BusError`] when it cannot be declared.
    pub async fn open(bus: &Bus) -> Result<LastWord, BusError> {
        // In the ROS graph it belongs to the process, not to a node of its own.
        let record = Health::default().node(PROCESS_NODE);
        // Not kept for late comers: beside the limit of a gate that is back they could not tell which came last.
        let output = Output::open(bus, &record, CLEAR_VELOCITY_LIMIT_TOPIC, Qos::EVENT).await?;
        Ok(LastWord {
            output: Arc::new(output),
            clock: bus.clock().clone(),
        })
    }

    /// Clears the limit.
    pub async fn say(&self) {
        let message = convert::clear_velocity_limit(self.clock.now_ns());
        match self.output.put(&message).await {
            Ok(()) => info!("a speed limit the gate may have left is cleared"),
            Err(error) => {
                warn!(%error, "a speed limit the gate may have left could not be cleared")
            }
        }
    }

    /// Says it when the returned value is dropped.
    #[must_use]
    pub fn armed(&self) -> Armed {
        Armed(Some(self.clone()))
    }
}

/// A last word that is still to be said.
pub struct Armed(Option<LastWord>);

impl Armed {
    /// Says it now, and waits until it has left.
    pub async fn say(mut self) {
        if let Some(word) = self.0.take() {
            word.say().await;
        }
    }
}

impl Drop for Armed {
    fn drop(&mut self) {
        // An actor that is killed drops its state on the runtime that ran it.
        if let (Some(word), Ok(runtime)) = (self.0.take(), tokio::runtime::Handle::try_current()) {
            runtime.spawn(async move { word.say().await });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use llmasos_msgs::Message;
    use llmasos_nodes::{
        bus::{Arrival, BusOptions},
        gate::autoware::SENDER,
    };
    use tokio::sync::mpsc;

    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn it_is_said_once_however_it_ends() {
        let bus = Bus::open(&BusOptions::default()).await.unwrap();
        let (into, mut heard) = mpsc::channel(8);
        let _subscription = bus
            .subscribe(CLEAR_VELOCITY_LIMIT_TOPIC, move |arrival: Arrival| {
                let _ = into.try_send(VelocityLimitClearCommand::decode(
                    &arrival.payload.to_bytes(),
                ));
            })
            .await
            .unwrap();
        let word = LastWord::open(&bus).await.unwrap();
        let mut clear = async |why: &str| {
            let message = tokio::time::timeout(Duration::from_secs(10), heard.recv());
            let message = message.await.unwrap_or_else(|_| panic!("never: {why}"));
            message.expect("the bus lives").expect("a clear command")
        };
        drop(word.armed());
        let message = clear("the watcher was killed").await;
        assert_eq!((message.command, message.sender.as_str()), (true, SENDER));
        word.armed().say().await;
        clear("the watcher ended in order").await;
        let running = tokio::spawn({
            let armed = word.armed();
            async move {
                let _armed = armed;
                std::future::pending::<()>().await;
            }
        });
        running.abort();
        clear("its task was aborted").await;
        assert!(heard.try_recv().is_err(), "each of them once");
    }
}
