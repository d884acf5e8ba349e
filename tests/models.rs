//! The models as the tests use them: fetched and built once into the user's cache, on one ONNX Runtime.

use std::path::{Path, PathBuf};

use llmasos::{
    models::{FetchPolicy, Models, Silent},
    run::configure::onnx_runtime_library,
};
use llmasos_engine::{Isa, ModelFolder, Runtime, RuntimeOptions, Spin};

/// Entries that only tests need.
const TEST_CATALOGUE: &str = "tests/data/models.yaml";

/// The runtime every test of this binary shares.
pub(crate) fn runtime() -> Runtime {
    let options = RuntimeOptions {
        library: onnx_runtime_library().unwrap(),
        threads: 2,
        spin: Spin::Off,
        isa: Isa::detect(),
        profile: None,
    };
    Runtime::start(&options).unwrap()
}

/// The folder of a catalogue entry.
pub(crate) fn folder(name: &str) -> PathBuf {
    let mut models =
        Models::from_environment(&[Path::new(env!("CARGO_MANIFEST_DIR")).join(TEST_CATALOGUE)])
            .unwrap();
    models
        .ensure(name, FetchPolicy::Auto, &mut Silent::default())
        .unwrap()
}

/// A model, opened.
pub(crate) fn model(name: &str) -> ModelFolder {
    ModelFolder::open(&folder(name)).unwrap()
}
