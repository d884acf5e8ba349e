//! The other process of the bus benchmark: sends every message back the way it came, and says when a picture was seen.

use std::{hint::black_box, sync::Arc};

use anyhow::{Context, Result};
use llmasos_msgs::{Message, sensor_msgs::Image, std_msgs::UInt8MultiArray};
use llmasos_nodes::{
    bus::{Bus, BusOptions, Qos},
    health::{Health, NodeHealth},
    output::Output,
    port::Port,
};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use zenoh::pubsub::Publisher;

use super::{Inbox, Waited, contract, raw_publisher, raw_subscriber, topic, zenoh_error};

/// What says that a picture was seen.
const SEEN: [u8; 8] = *b"seen it.";

/// Echoes until the process is killed or a session breaks.
///
/// # Errors
/// When the other process is not there or Zenoh fails.
pub async fn echo(connect: &str) -> Result<()> {
    let bus = Bus::open(&BusOptions {
        namespace: "bench".to_owned(),
        connect: vec![connect.to_owned()],
        connect_required: true,
        ..BusOptions::default()
    })
    .await?;
    let health = Health::default().node("echo");
    let (pong, seen) = (
        Output::open(&bus, &health, topic::PONG, Qos::EVENT).await?,
        Arc::new(raw_publisher(&bus, topic::SEEN).await?),
    );
    let viewer = Viewer {
        bus: bus.clone(),
        health: health.clone(),
        seen: Arc::clone(&seen),
    };
    let (_viewer, viewing) = Actor::spawn(None, viewer, ()).await?;
    let ping = Waited::open(&bus, &health, topic::PING, UInt8MultiArray::TYPE).await?;
    let raw_pong = raw_publisher(&bus, topic::RAW_PONG).await?;
    // These last: who sees them knows that everything else is there.
    let raw_picture = raw_subscriber(&bus, topic::RAW_PICTURE).await?;
    let raw_ping = raw_subscriber(&bus, topic::RAW_PING).await?;
    let plain = tokio::spawn(plain_echo(raw_ping, raw_pong));
    let pictures = tokio::spawn(plain_pictures(raw_picture, seen));
    let node = tokio::spawn(node_echo(ping, pong));
    tokio::select! {
        ended = plain => ended?,
        ended = pictures => ended?,
        ended = node => ended?,
        ended = viewing => ended.context("the viewing actor"),
    }
}

async fn plain_echo(inbox: Inbox, back: Publisher<'static>) -> Result<()> {
    loop {
        let sample = inbox.recv_async().await.map_err(zenoh_error)?;
        let bytes = sample.payload().to_bytes().into_owned();
        back.put(bytes).await.map_err(zenoh_error)?;
    }
}

async fn plain_pictures(inbox: Inbox, seen: Arc<Publisher<'static>>) -> Result<()> {
    loop {
        let sample = inbox.recv_async().await.map_err(zenoh_error)?;
        black_box(sample.payload().to_bytes());
        seen.put(SEEN).await.map_err(zenoh_error)?;
    }
}

async fn node_echo(mut from: Waited<UInt8MultiArray>, back: Output<UInt8MultiArray>) -> Result<()> {
    loop {
        match from.next().await {
            Ok(message) => back.put(&message).await?,
            // Silence while other things are measured.
            Err(_) => continue,
        }
    }
}

/// A node that looks at pictures.
struct Viewer {
    bus: Bus,
    health: NodeHealth,
    seen: Arc<Publisher<'static>>,
}

/// What it is told.
enum ViewerMessage {
    /// A picture waits.
    Arrived,
}

impl Actor for Viewer {
    type Msg = ViewerMessage;
    type State = Port<Image>;
    type Arguments = ();

    async fn pre_start(
        &self,
        myself: ActorRef<Self::Msg>,
        _arguments: (),
    ) -> Result<Self::State, ActorProcessingErr> {
        let contract = contract(topic::PICTURE, Image::TYPE);
        let wake = move || {
            let _ = myself.cast(ViewerMessage::Arrived);
        };
        Ok(Port::open(&self.bus, &contract, topic::PICTURE, &self.health, wake).await?)
    }

    async fn handle(
        &self,
        _myself: ActorRef<Self::Msg>,
        message: Self::Msg,
        port: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            ViewerMessage::Arrived => {
                while let Some(taken) = port.take() {
                    black_box(&taken.message.data);
                    self.seen.put(SEEN).await.map_err(zenoh_error)?;
                }
            }
        }
        Ok(())
    }
}
