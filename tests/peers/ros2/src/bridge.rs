//! zenoh-bridge-ros2dds as its own repository builds it: a Zenoh router with the ros2dds and REST plugins linked in.
//!
//! `bridge CONFIG.json5`: the configuration names the plugins to load. Runs until it is killed.

use zenoh::{
    config::Config,
    internal::{plugins::PluginsManager, runtime::RuntimeBuilder},
};
use zenoh_config::ModeDependentValue;
use zenoh_plugin_rest::RestPlugin;
use zenoh_plugin_ros2dds::ROS2Plugin;

#[tokio::main]
async fn main() {
    zenoh::init_log_from_env_or("error");
    let path = std::env::args().nth(1).expect("usage: bridge CONFIG.json5");
    let mut config = Config::from_file(&path).expect("a readable configuration");
    // What the real bridge switches on whatever the file says: advanced publishers need timestamps, routes are shown in the admin space.
    config.timestamping.set_enabled(Some(ModeDependentValue::Unique(true))).expect("timestamps");
    config.adminspace.set_enabled(true).expect("the admin space");
    config.plugins_loading.set_enabled(true).expect("plugins");
    let mut plugins = PluginsManager::static_plugins_only();
    if config.plugin("rest").is_some() {
        plugins.declare_static_plugin::<RestPlugin, &str>("rest", true);
    }
    if config.plugin("ros2dds").is_some() {
        plugins.declare_static_plugin::<ROS2Plugin, &str>("ros2dds", true);
    }
    let mut runtime = RuntimeBuilder::new(config).plugins_manager(plugins).build().await.expect("a runtime");
    runtime.start().await.expect("a router that listens");
    println!("ready");
    std::future::pending::<()>().await;
}
