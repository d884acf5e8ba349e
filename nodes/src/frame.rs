//! A camera frame as it comes from the bus, compressed or raw, not yet decoded: decoding is work for the detector's thread.

use llmasos_engine::vision::{Picture, RawFrame};
use llmasos_msgs::{
    Message,
    sensor_msgs::{CompressedImage, Image},
};
use serde_json::Value;

use crate::port::FromBus;

/// One frame.
#[derive(Clone, Debug)]
pub enum Frame {
    /// `sensor_msgs/Image`.
    Raw(Image),
    /// `sensor_msgs/CompressedImage`.
    Compressed(CompressedImage),
}

impl Frame {
    /// Decodes it.
    ///
    /// # Errors
    /// A sentence that says what was expected and what was found: size, step, encoding, JPEG or PNG data.
    pub fn picture(&self) -> Result<Picture<'_>, String> {
        match self {
            Frame::Raw(image) => Picture::from_raw(&RawFrame {
                encoding: &image.encoding,
                width: image.width,
                height: image.height,
                step: image.step,
                is_bigendian: image.is_bigendian != 0,
                data: &image.data,
            }),
            Frame::Compressed(image) => llmasos_engine::vision::check_format(&image.format)
                .and_then(|()| Picture::from_compressed(&image.data)),
        }
        .map_err(|error| error.to_string())
    }
}

impl FromBus for Frame {
    fn from_cdr(type_name: &str, cdr: &[u8]) -> Result<Self, String> {
        Self::from_cdr_parts(type_name, &[cdr])
    }

    fn from_cdr_parts(type_name: &str, parts: &[&[u8]]) -> Result<Self, String> {
        match type_name {
            Image::TYPE => Image::decode_parts(parts)
                .map(Frame::Raw)
                .map_err(|error| error.to_string()),
            CompressedImage::TYPE => CompressedImage::decode_parts(parts)
                .map(Frame::Compressed)
                .map_err(|error| error.to_string()),
            other => Err(format!("expected an image, found {other}")),
        }
    }

    fn from_json(type_name: &str, value: &Value) -> Result<Self, String> {
        match type_name {
            Image::TYPE => <Image as Message>::from_json(value)
                .map(Frame::Raw)
                .map_err(|error| error.to_string()),
            CompressedImage::TYPE => <CompressedImage as Message>::from_json(value)
                .map(Frame::Compressed)
                .map_err(|error| error.to_string()),
            other => Err(format!("expected an image, found {other}")),
        }
    }

    fn stamp_ns(&self) -> Option<i64> {
        Some(match self {
            Frame::Raw(image) => image.header.stamp.to_nanos(),
            Frame::Compressed(image) => image.header.stamp.to_nanos(),
        })
    }
}
