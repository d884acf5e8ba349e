//! Observation: what people, expectations and reports see comes from the bus, like everybody else's view of the system.
//!
//! ```text
//! play (recorded sources) ─▶ bus ─▶ watch ─▶ Seen ─┬▶ expectations (passed, missed)
//!                                                   ├▶ report (counts, latencies)
//!                                                   └▶ view (live), plain lines, or JSON lines
//! ```

pub mod beats;
pub mod faults;
pub mod memory;
pub mod pace;
pub mod play;
pub mod report;
pub mod story;
pub mod view;
pub mod watch;
