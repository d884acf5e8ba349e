//! Type hashes: ours against ROS 2's own generator, run here on our definitions, and against what the distributions ship.
//!
//! A hash stands in every rmw_zenoh key, so a wrong one is silence. The vectors in msgs/tests/data are what msgs is tested with every day;
//! here the script that wrote them runs again, in Jazzy and in Kilted, and has to write the same.

use std::{collections::BTreeMap, fs, path::Path, process::Command};

use llmasos_msgs::Registry;
use serde_json::Value;

use crate::{finish, peer};

const GENERATOR: &str = "msgs/tests/data/hashes.py";
const VECTORS: &str = "msgs/tests/data/rihs01.json";

/// By type: `std_msgs/msg/String`, `audio_common_msgs@ros-drivers/msg/AudioData`, `std_srvs/srv/Trigger`.
type Hashes = BTreeMap<String, String>;

fn read(path: &Path) -> Hashes {
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &target),
            false => drop(fs::copy(entry.path(), target).unwrap()),
        }
    }
}

#[test]
fn the_real_generator_of_each_distribution_prints_our_hashes() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let known = read(&root.join(VECTORS));
    for distro in ["jazzy", "kilted"] {
        // The script writes beside itself and reads ../../msg: a copy of both.
        let folder = tempfile::tempdir().unwrap();
        let script = folder.path().join("tests/data/hashes.py");
        fs::create_dir_all(script.parent().unwrap()).unwrap();
        fs::copy(root.join(GENERATOR), &script).unwrap();
        copy(&root.join("msgs/msg"), &folder.path().join("msg"));
        let mut python = Command::new(peer(&format!("venv-{distro}/bin/python")));
        finish(python.arg(&script).env("ROS_DISTRO", distro)).expect_code(0);
        assert_eq!(
            read(&script.with_file_name("rihs01.json")),
            known,
            "{distro}"
        );
    }
    let registry = Registry::builtin();
    for service in registry.services() {
        assert_eq!(
            registry.service_hash(&service.id).as_ref(),
            known.get(&service.id),
            "{}",
            service.id
        );
    }
    for one in registry.types() {
        assert_eq!(
            Some(&registry.hash_of(one)),
            known.get(&one.id),
            "{}",
            one.id
        );
    }
}

/// Types that a distribution ships itself: its file, not ours, was hashed by whoever built it.
#[test]
fn types_that_the_distributions_ship_have_their_hashes() {
    for distro in ["jazzy", "kilted"] {
        let share = peer(&format!("venv-{distro}")).join("share");
        let registry = Registry::builtin();
        let mut compared = 0;
        let all = registry
            .types()
            .map(|one| (one.name.clone(), registry.hash_of(one)));
        let services = registry
            .services()
            .filter_map(|one| Some((one.name.clone(), registry.service_hash(&one.id)?)));
        for (name, hash) in all.chain(services) {
            let Ok(text) = fs::read_to_string(share.join(format!("{name}.json"))) else {
                continue;
            };
            let described: Value = serde_json::from_str(&text).unwrap();
            let hashes = described["type_hashes"].as_array().unwrap();
            let own = hashes.iter().find(|one| one["type_name"] == name.as_str());
            assert_eq!(own.unwrap()["hash_string"], hash, "{distro}: {name}");
            compared += 1;
        }
        assert!(compared >= 100, "{distro}: compared only {compared} types");
    }
}
