//! The generated files are what the generator writes from `msg/`, and every definition is in the program.

#![allow(clippy::unwrap_used)] // Checks that all tests share are no test functions to clippy.

use std::fs;
use std::path::Path;

use llmasos_msgs::codegen::{generate, type_list};
use llmasos_msgs::definition::parse;
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
fn the_program_carries_every_definition() {
    let built_in: Vec<&str> = Registry::builtin().types().map(|t| t.id.as_str()).collect();
    let registry = from_folder();
    let on_disk: Vec<&str> = registry.types().map(|t| t.id.as_str()).collect();
    assert_eq!(built_in, on_disk);
    assert!(built_in.len() > 200);
    for found in Registry::builtin().types() {
        let definition = &found.definition;
        assert_eq!(
            parse(&definition.folder(), &definition.name, &definition.text).as_ref(),
            Ok(&**definition)
        );
        assert_eq!(canonical_type(&found.name), Some(found.name.as_str()));
    }
}
