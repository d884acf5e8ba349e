//! The generated files are what the generator writes from `msg/`, and every definition is in the program.

#![allow(clippy::unwrap_used)] // Checks that all tests share are no test functions to clippy.

use std::fs;
use std::path::Path;

use llmasos_msgs::codegen::{generate, type_list};
use llmasos_msgs::definition::{Interface, parse, parse_service};
use llmasos_msgs::{Registry, canonical_type};

/// Lines that a file of the project may have.
const MAX_LINES: usize = 800;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn from_folder() -> Registry {
    let mut registry = Registry::default();
    registry.load_folder(&root().join("msg")).unwrap();
    registry
}

#[test]
fn committed_files_are_what_the_generator_writes() {
    let registry = from_folder();
    let mut files = generate(&registry).unwrap();
    let folder = root().join("src/generated");
    for entry in fs::read_dir(&folder).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let text = fs::read_to_string(folder.join(&name)).unwrap();
        let expected = files.remove(&name);
        assert_eq!(
            Some(&text),
            expected.as_ref(),
            "{name}: run `cargo run -p llmasos-msgs --example msgs-generate`"
        );
        assert!(text.lines().count() <= MAX_LINES, "{name}");
        assert!(text.starts_with("//!"), "{name}");
    }
    assert!(files.is_empty(), "missing: {:?}", files.keys());
    let list = fs::read_to_string(root().join("tests/types/mod.rs")).unwrap();
    assert_eq!(list, type_list(&registry));
}

#[test]
fn the_own_package_builds_every_file_it_has() {
    let package = root().join("msg/llmasos_msgs");
    let cmake = fs::read_to_string(package.join("CMakeLists.txt")).unwrap();
    let mut listed: Vec<&str> = cmake
        .lines()
        .filter_map(|line| line.trim().strip_prefix('"')?.strip_suffix('"'))
        .collect();
    listed.sort_unstable();
    let mut found = Vec::new();
    for kind in ["msg", "srv"] {
        for entry in fs::read_dir(package.join(kind)).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            found.push(format!("{kind}/{name}"));
        }
    }
    found.sort_unstable();
    assert_eq!(listed, found);
}

#[test]
fn the_program_carries_every_definition() {
    let built_in: Vec<&str> = Registry::builtin().types().map(|t| t.id.as_str()).collect();
    let registry = from_folder();
    let on_disk: Vec<&str> = registry.types().map(|t| t.id.as_str()).collect();
    assert_eq!(built_in, on_disk);
    assert!(built_in.len() > 200);
    for found in Registry::builtin().types() {
        let definition = &found.definition;
        if definition.interface == Interface::Service {
            continue; // Below, with their file.
        }
        assert_eq!(
            parse(&definition.folder(), &definition.name, &definition.text).as_ref(),
            Ok(&**definition)
        );
        assert_eq!(canonical_type(&found.name), Some(found.name.as_str()));
    }
    let services: Vec<&str> = Registry::builtin()
        .services()
        .map(|s| s.id.as_str())
        .collect();
    let on_disk: Vec<&str> = registry.services().map(|s| s.id.as_str()).collect();
    assert_eq!(services, on_disk);
    for found in Registry::builtin().services() {
        let definition = &found.definition;
        let folder = definition.request.folder();
        assert_eq!(
            parse_service(&folder, &definition.name, &definition.text).as_ref(),
            Ok(&**definition)
        );
    }
}
