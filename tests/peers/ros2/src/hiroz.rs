//! A node of hiroz, an implementation of ROS 2 on Zenoh in Rust that is not ours: talks or listens with `std_msgs/String`.
//!
//! `hiroz pub|sub ENDPOINT TOPIC COUNT [NAMESPACE]`: prints `sent TEXT` or `got TEXT` a line, and ends after COUNT.

use std::time::Duration;

use hiroz::{Builder, context::ZContextBuilder};
use hiroz_msgs::std_msgs::String as RosString;
use hiroz_protocol::KeyExprFormat;

/// How long a listener waits for one message.
const PATIENCE: Duration = Duration::from_secs(30);

#[tokio::main]
async fn main() -> hiroz::Result<()> {
    zenoh::init_log_from_env_or("error");
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [role, endpoint, topic, count] = &arguments[..4] else {
        panic!("usage: hiroz pub|sub ENDPOINT TOPIC COUNT");
    };
    let count: usize = count.parse().expect("a count");
    let context = ZContextBuilder::default()
        .with_mode("client")
        .with_connect_endpoints([endpoint.clone()])
        .keyexpr_format(KeyExprFormat::RmwZenoh)
        .build()?;
    let node = context.create_node(format!("hiroz_{role}")).build()?;
    if role == "pub" {
        let publisher = node.create_pub::<RosString>(topic).build()?;
        for n in 0..count {
            tokio::time::sleep(Duration::from_millis(300)).await;
            let data = format!("hiroz {n}");
            publisher.async_publish(&RosString { data: data.clone() }).await?;
            println!("sent {data}");
        }
        // The last message leaves before the session closes.
        tokio::time::sleep(Duration::from_millis(300)).await;
        return Ok(());
    }
    let subscription = node.create_sub::<RosString>(topic).build()?;
    println!("ready");
    for _ in 0..count {
        match tokio::time::timeout(PATIENCE, subscription.async_recv()).await {
            Ok(Ok(message)) => println!("got {}", message.data),
            Ok(Err(error)) => println!("refused {error}"),
            Err(_) => {
                println!("nothing within {} s", PATIENCE.as_secs());
                break;
            }
        }
    }
    Ok(())
}
