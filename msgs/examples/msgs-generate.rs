//! Writes `src/generated/` and the type list of the tests from `msg/`: run it after a definition has changed, then commit both.

use std::error::Error;
use std::path::Path;

use llmasos_msgs::Registry;
use llmasos_msgs::codegen::{generate, type_list};

fn main() -> Result<(), Box<dyn Error>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut registry = Registry::default();
    registry.load_folder(&root.join("msg"))?;
    for (name, text) in generate(&registry)? {
        std::fs::write(root.join("src/generated").join(name), text)?;
    }
    std::fs::write(root.join("tests/types/mod.rs"), type_list(&registry))?;
    Ok(())
}
