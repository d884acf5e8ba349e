//! Pictures in, objects out.
//!
//! ```text
//!  sensor_msgs/Image ───────────► Picture ─► InputWriter ─► network ─► select ─► Detections
//!  CompressedImage, file ─decode─►  checked    300x300       boxes,     NMS       pixels
//!                                   bytes      floats        scores
//! ```

mod coco;
mod compressed;
mod detector;
mod error;
mod letterbox;
mod picture;
mod ssd;
mod yuv;

pub use coco::{COCO_90, coco_label};
pub use compressed::{MAX_COMPRESSED_BYTES, check_format};
pub use detector::{DetectDurations, DetectOptions, Detection, Detections, Detector};
pub use error::VisionError;
pub use letterbox::{Fit, InputWriter, Placement};
pub use picture::{Layout, MAX_PIXELS, MAX_SIDE, Picture, RawFrame};
pub use ssd::{Candidate, Selected, Selection, overlap, select};
