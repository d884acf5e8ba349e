//! What can be wrong with a picture or with a detector, one variant per failed check.
//!
//! A camera message is untrusted: sizes are checked against limits before anything is allocated, and every refusal carries the
//! number found and the number expected, because the caller turns it into a diagnostic of a topic.

use crate::error::EngineError;

/// A refusal of the vision half. `Display` is one line without the topic: the caller knows it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VisionError {
    /// A picture without area.
    #[error("a picture of {width}x{height} has no pixels")]
    Empty {
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
    },
    /// A side above [`super::MAX_SIDE`] or an area above [`super::MAX_PIXELS`].
    #[error(
        "a picture of {width}x{height} is too large: at most {max_side} a side and {max_pixels} pixels"
    )]
    TooLarge {
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
        /// [`super::MAX_SIDE`].
        max_side: u32,
        /// [`super::MAX_PIXELS`].
        max_pixels: u64,
    },
    /// A compressed picture above [`super::MAX_COMPRESSED_BYTES`].
    #[error("{found} compressed bytes: at most {max}")]
    TooManyBytes {
        /// Payload length.
        found: usize,
        /// The limit.
        max: usize,
    },
    /// The encoding or compression is none of the supported ones.
    #[error("encoding {found:?} is not supported: expected {expected}")]
    Encoding {
        /// As it arrived, shortened.
        found: String,
        /// The supported ones.
        expected: &'static str,
    },
    /// `step` is shorter than a row or absurdly long.
    #[error("step {found} is outside {min}..={max} for {width} pixels of {encoding}")]
    Step {
        /// Bytes from row to row in the message.
        found: u32,
        /// Bytes of one row's pixels.
        min: u64,
        /// Longest accepted.
        max: u64,
        /// Width in pixels.
        width: u32,
        /// Name of the encoding.
        encoding: &'static str,
    },
    /// The payload is shorter than width, height and step say.
    #[error("{found} bytes of pixels: expected {expected} ({width}x{height}, step {step})")]
    TooFewBytes {
        /// Payload length.
        found: usize,
        /// Bytes needed.
        expected: u64,
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
        /// Bytes from row to row.
        step: u32,
    },
    /// The encoding shares colour between pixels and needs even sides.
    #[error("{encoding} needs an even {side}, found {found}")]
    OddSide {
        /// Name of the encoding.
        encoding: &'static str,
        /// `width` or `height`.
        side: &'static str,
        /// Its value.
        found: u32,
    },
    /// JPEG or PNG data that is broken.
    #[error("broken {format} data: {reason}")]
    Decode {
        /// JPEG or PNG.
        format: &'static str,
        /// The decoder's own words.
        reason: String,
    },
    /// The resizer refused.
    #[error("resizing {width}x{height}: {reason}")]
    Resize {
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
        /// The library's own words.
        reason: String,
    },
    /// A setting outside its range.
    #[error("detector: {field} = {found} is outside {min}..={max}")]
    Setting {
        /// Field of [`super::DetectOptions`].
        field: &'static str,
        /// Its value.
        found: f64,
        /// Lowest allowed.
        min: f64,
        /// Highest allowed.
        max: f64,
    },
    /// The model folder, a session or a run failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The settings or the output of the model are not what the family promises.
    #[error("{part}: {reason}")]
    Model {
        /// Tensor or manifest field.
        part: &'static str,
        /// Found and expected.
        reason: String,
    },
}
