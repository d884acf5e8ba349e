//! A node of hiroz, an implementation of ROS 2 on Zenoh in Rust that is not ours: tells what it hears, says and asks what it is told to.
//!
//! `hiroz ENDPOINT DOMAIN SPEAK LISTEN SERVICE`: publishes and hears `std_msgs/String` on two topics and is a client of a `std_srvs/Trigger`.
//! Orders come on standard input, one a line: `say TEXT`, `call`, `graph`. Answers go out as one JSON object a line: `heard`, `answered`,
//! `graph` (what it makes of the liveliness tokens), `failed`.

use std::{fmt::Debug, time::Duration};

use hiroz::{Builder, context::ZContextBuilder};
use hiroz_msgs::{
    std_msgs::String as RosString,
    std_srvs::{TriggerRequest, srv::Trigger},
};
use hiroz_protocol::KeyExprFormat;
use serde_json::json;
use tokio::io::{AsyncBufReadExt, BufReader};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(20);

fn failed(error: impl Debug) {
    println!("{}", json!({ "failed": format!("{error:?}") }));
}

#[tokio::main]
async fn main() -> hiroz::Result<()> {
    zenoh::init_log_from_env_or("error");
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [endpoint, domain, speak, listen, service] = &arguments[..] else {
        panic!("usage: hiroz ENDPOINT DOMAIN SPEAK LISTEN SERVICE");
    };
    let domain: usize = domain.parse().expect("a domain");
    let context = ZContextBuilder::default()
        .with_mode("client")
        .with_connect_endpoints([endpoint.clone()])
        .with_domain_id(domain)
        .keyexpr_format(KeyExprFormat::RmwZenoh)
        .build()?;
    let node = context.create_node("hiroz").build()?;
    let publisher = node.create_pub::<RosString>(speak).build()?;
    let client = node.create_client::<Trigger>(service).build()?;
    let subscription = node.create_sub::<RosString>(listen).build()?;
    tokio::spawn(async move {
        loop {
            match subscription.async_recv().await {
                Ok(message) => println!("{}", json!({ "heard": message.data })),
                Err(error) => failed(error),
            }
        }
    });
    println!("{}", json!({ "ready": "hiroz" }));
    let mut orders = BufReader::new(tokio::io::stdin()).lines();
    while let Some(order) = orders.next_line().await? {
        match order.split_once(' ').unwrap_or((&order, "")) {
            ("say", text) => {
                if let Err(error) = publisher.async_publish(&RosString { data: text.to_owned() }).await {
                    failed(error);
                }
            }
            ("call", _) => match client.call_with_timeout(&TriggerRequest::default(), PATIENCE).await {
                Ok(answer) => println!("{}", json!({ "answered": { "success": answer.success, "message": answer.message } })),
                Err(error) => failed(error),
            },
            ("graph", _) => println!("{}", json!({ "graph": node.graph().snapshot(domain) })),
            (other, _) => failed(other),
        }
    }
    Ok(())
}
