//! JPEG and PNG from a `sensor_msgs/CompressedImage` or a file.
//!
//! The bytes decide what they are, not the label: publishers write "jpg", "jpeg", "rgb8; jpeg compressed bgr8" or nothing at all
//! for the same thing. The label is only asked for what the bytes cannot say (a depth image in a PNG is not a photograph).
//! The header's size is checked before the decoder allocates. A JPEG decoder fills what is missing with grey, and a road that
//! is half grey is worse than no picture, so a JPEG without its end marker is refused.

use std::borrow::Cow;
use std::io::Cursor;

use image::codecs::jpeg::JpegDecoder;
use image::codecs::png::PngDecoder;
use image::{DynamicImage, ImageDecoder, Limits};

use super::VisionError;
use super::picture::{Layout, MAX_PIXELS, MAX_SIDE, Picture, check_size};

/// Largest compressed picture, bytes.
pub const MAX_COMPRESSED_BYTES: usize = 32 << 20;
/// Most bytes a decoder may hold at once: 16-bit RGBA of the largest picture, twice.
const MAX_DECODER_BYTES: u64 = MAX_PIXELS * 8 * 2;
/// The end marker of a JPEG stands in the last bytes; cameras pad after it.
const END_MARKER_WINDOW: usize = 4_096;
const EXPECTED: &str = "JPEG or PNG";

/// Checks the `format` field of a `CompressedImage`: `jpeg`, `jpg`, `png`, `rgb8; jpeg compressed bgr8`, .., or empty.
///
/// # Errors
/// [`VisionError::Encoding`] for depth images, video codecs and anything else.
pub fn check_format(format: &str) -> Result<(), VisionError> {
    let shortened = || VisionError::Encoding {
        found: format.chars().take(48).collect(),
        expected: EXPECTED,
    };
    // image_transport: "<encoding>; <codec> compressed <encoding of the pixels>"; depth: "16UC1; compressedDepth png".
    let codec = format.split_once(';').map_or(format, |(_, codec)| codec);
    let codec = codec.split_whitespace().next().unwrap_or("");
    let known = ["", "jpeg", "jpg", "png"]
        .iter()
        .any(|name| name.eq_ignore_ascii_case(codec));
    if known { Ok(()) } else { Err(shortened()) }
}

impl Picture<'static> {
    /// Decodes JPEG or PNG, recognised by its first bytes. Orientation tags are ignored: a camera on a vehicle does not turn.
    ///
    /// # Errors
    /// [`VisionError::TooManyBytes`], [`VisionError::Encoding`], [`VisionError::Decode`], [`VisionError::Empty`],
    /// [`VisionError::TooLarge`].
    pub fn from_compressed(bytes: &[u8]) -> Result<Picture<'static>, VisionError> {
        if bytes.len() > MAX_COMPRESSED_BYTES {
            return Err(VisionError::TooManyBytes {
                found: bytes.len(),
                max: MAX_COMPRESSED_BYTES,
            });
        }
        if bytes.starts_with(b"\xff\xd8\xff") {
            let failed = |reason: String| VisionError::Decode {
                format: "JPEG",
                reason,
            };
            let tail = &bytes[bytes.len().saturating_sub(END_MARKER_WINDOW)..];
            if !tail.windows(2).any(|pair| pair == b"\xff\xd9") {
                return Err(failed("no end marker: the data is truncated".to_owned()));
            }
            decode(
                JpegDecoder::new(Cursor::new(bytes)).map_err(|error| failed(error.to_string()))?,
                failed,
            )
        } else if bytes.starts_with(b"\x89PNG\r\n\x1a\n") {
            let failed = |reason: String| VisionError::Decode {
                format: "PNG",
                reason,
            };
            let decoder = PngDecoder::with_limits(Cursor::new(bytes), limits());
            decode(decoder.map_err(|error| failed(error.to_string()))?, failed)
        } else {
            let found = bytes
                .iter()
                .take(8)
                .map(|b| format!("{b:02x}"))
                .collect::<Vec<_>>()
                .join(" ");
            Err(VisionError::Encoding {
                found: format!("first bytes {found}"),
                expected: EXPECTED,
            })
        }
    }
}

fn decode(
    mut decoder: impl ImageDecoder,
    failed: impl Fn(String) -> VisionError,
) -> Result<Picture<'static>, VisionError> {
    let (width, height) = decoder.dimensions();
    check_size(width, height)?;
    decoder
        .set_limits(limits())
        .map_err(|error| failed(error.to_string()))?;
    let image = DynamicImage::from_decoder(decoder).map_err(|error| failed(error.to_string()))?;
    let (layout, pixels) = match image {
        DynamicImage::ImageLuma8(grey) => (Layout::Mono8, grey.into_raw()),
        DynamicImage::ImageRgb8(rgb) => (Layout::Rgb8, rgb.into_raw()),
        DynamicImage::ImageRgba8(rgba) => (Layout::Rgba8, rgba.into_raw()),
        deep => (Layout::Rgb8, deep.into_rgb8().into_raw()),
    };
    Picture::packed(width, height, layout, Cow::Owned(pixels))
}

fn limits() -> Limits {
    let mut limits = Limits::default();
    limits.max_image_width = Some(MAX_SIDE);
    limits.max_image_height = Some(MAX_SIDE);
    limits.max_alloc = Some(MAX_DECODER_BYTES);
    limits
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::{ImageEncoder, codecs::jpeg::JpegEncoder, codecs::png::PngEncoder};

    fn gradient(width: u32, height: u32) -> Vec<u8> {
        (0..height)
            .flat_map(|y| (0..width).flat_map(move |x| [(x * 4) as u8, (y * 4) as u8, 128]))
            .collect()
    }

    fn jpeg(width: u32, height: u32) -> Vec<u8> {
        let mut out = Vec::new();
        JpegEncoder::new_with_quality(&mut out, 95)
            .write_image(
                &gradient(width, height),
                width,
                height,
                image::ExtendedColorType::Rgb8,
            )
            .unwrap();
        out
    }

    fn png(width: u32, height: u32, pixels: &[u8], color: image::ExtendedColorType) -> Vec<u8> {
        let mut out = Vec::new();
        PngEncoder::new(&mut out)
            .write_image(pixels, width, height, color)
            .unwrap();
        out
    }

    #[test]
    fn png_is_exact_and_jpeg_is_close() {
        let exact = Picture::from_compressed(&png(
            48,
            32,
            &gradient(48, 32),
            image::ExtendedColorType::Rgb8,
        ))
        .unwrap();
        assert_eq!(
            (exact.width(), exact.height(), exact.layout()),
            (48, 32, Layout::Rgb8)
        );
        assert_eq!(exact.pixels(), gradient(48, 32));
        let close = Picture::from_compressed(&jpeg(48, 32)).unwrap();
        let worst = close
            .pixels()
            .iter()
            .zip(exact.pixels())
            .map(|(a, b)| a.abs_diff(*b))
            .max()
            .unwrap();
        assert!(worst <= 12, "JPEG of quality 95 differs by {worst}");
    }

    #[test]
    fn grey_alpha_and_16_bit_pngs() {
        use image::ExtendedColorType as C;
        let cases = [
            (C::L8, 1, Layout::Mono8),
            (C::Rgba8, 4, Layout::Rgba8),
            (C::Rgb16, 6, Layout::Rgb8),
        ];
        for (color, bytes, layout) in cases {
            let picture =
                Picture::from_compressed(&png(4, 2, &vec![200; 8 * bytes], color)).unwrap();
            assert_eq!(
                (picture.layout(), picture.rgb(3, 1)),
                (layout, Some([200; 3])),
                "{color:?}"
            );
        }
    }

    #[test]
    fn labels() {
        for good in [
            "",
            "jpeg",
            "JPEG",
            "jpg",
            "png",
            "rgb8; jpeg compressed bgr8",
            "bgr8; png compressed bgr8",
            "rgb8;jpeg",
        ] {
            check_format(good).unwrap();
        }
        for bad in [
            "16UC1; compressedDepth png",
            "h264",
            "tiff",
            "bgr8; tiff compressed",
            "jpegxl",
        ] {
            assert!(
                matches!(check_format(bad), Err(VisionError::Encoding { .. })),
                "{bad}"
            );
        }
        assert!(
            check_format(&"x".repeat(100_000))
                .unwrap_err()
                .to_string()
                .len()
                < 200
        );
    }

    #[test]
    fn truncated_files_are_refused_wherever_they_end() {
        for file in [
            jpeg(64, 64),
            png(64, 64, &gradient(64, 64), image::ExtendedColorType::Rgb8),
        ] {
            Picture::from_compressed(&file).unwrap();
            for length in (0..file.len() - 2).step_by(37) {
                assert!(
                    Picture::from_compressed(&file[..length]).is_err(),
                    "{length} of {} bytes",
                    file.len()
                );
            }
        }
    }

    #[test]
    fn hostile_sizes_are_refused_before_the_pixels() {
        // A JPEG whose frame header claims 65535x65535, and a PNG of the same.
        let mut large = jpeg(16, 16);
        let header = large
            .windows(2)
            .position(|pair| pair == b"\xff\xc0")
            .unwrap();
        large[header + 5..header + 9].copy_from_slice(&[0xff; 4]);
        assert!(matches!(
            Picture::from_compressed(&large),
            Err(VisionError::TooLarge { width: 65_535, .. })
        ));
        let mut large = png(16, 16, &gradient(16, 16), image::ExtendedColorType::Rgb8);
        large[16..24].copy_from_slice(&[0, 0, 0xff, 0xff, 0, 0, 0xff, 0xff]);
        assert!(
            Picture::from_compressed(&large).is_err(),
            "checksum or size"
        );
        let error = Picture::from_compressed(&vec![0xff; MAX_COMPRESSED_BYTES + 1]).unwrap_err();
        assert!(matches!(error, VisionError::TooManyBytes { .. }), "{error}");
        for nothing in [&b""[..], b"GIF89a", b"BM", &[0xff, 0xd8]] {
            assert!(matches!(
                Picture::from_compressed(nothing),
                Err(VisionError::Encoding { .. })
            ));
        }
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig::with_cases(64))]
        #[test]
        fn flipped_bytes_never_panic(position in 0.0f64..1.0, value in proptest::num::u8::ANY, as_png in proptest::bool::ANY) {
            let mut file = if as_png { png(24, 16, &gradient(24, 16), image::ExtendedColorType::Rgb8) } else { jpeg(24, 16) };
            let at = (position * file.len() as f64) as usize;
            file[at] = value;
            if let Ok(picture) = Picture::from_compressed(&file) {
                proptest::prop_assert!(picture.width() <= MAX_SIDE && picture.height() <= MAX_SIDE);
            }
        }
    }
}
