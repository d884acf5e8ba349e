//! A picture whose size, layout and bytes have been checked; the only thing the detector takes.
//!
//! Raw camera frames stay where they are: rows that touch are borrowed from the message, and channel order is sorted out after
//! the resize, on 300 x 300 pixels instead of two million. Only padded rows (`step` longer than a row), 16-bit grey and YUV are
//! copied, into something the resizer can read.

use std::borrow::Cow;

use super::VisionError;
use super::yuv;

/// Longest side, pixels: beyond 8K video.
pub const MAX_SIDE: u32 = 8_192;
/// Largest area, pixels (8K video); times three bytes it bounds every allocation made for a picture.
pub const MAX_PIXELS: u64 = 7_680 * 4_320;
/// Longest `step`, as a multiple of a row's own bytes: drivers pad to cache lines or crop, never more than this.
const MAX_STEP_ROWS: u64 = 16;
/// Longest encoding name kept in an error message.
const MAX_NAME_IN_ERROR: usize = 48;

/// Order of the bytes of a pixel, 8 bits each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// Red, green, blue.
    Rgb8,
    /// Blue, green, red.
    Bgr8,
    /// Red, green, blue, alpha; alpha is ignored.
    Rgba8,
    /// Blue, green, red, alpha; alpha is ignored.
    Bgra8,
    /// Grey.
    Mono8,
}

impl Layout {
    /// Bytes of a pixel.
    #[must_use]
    pub fn bytes(self) -> usize {
        match self {
            Layout::Mono8 => 1,
            Layout::Rgb8 | Layout::Bgr8 => 3,
            Layout::Rgba8 | Layout::Bgra8 => 4,
        }
    }

    /// Where red, green and blue stand in a pixel.
    #[must_use]
    pub fn rgb_offsets(self) -> [usize; 3] {
        match self {
            Layout::Rgb8 | Layout::Rgba8 => [0, 1, 2],
            Layout::Bgr8 | Layout::Bgra8 => [2, 1, 0],
            Layout::Mono8 => [0, 0, 0],
        }
    }
}

/// Rows without gaps, top to bottom, `width * height * layout.bytes()` bytes.
#[derive(Debug, Clone)]
pub struct Picture<'a> {
    width: u32,
    height: u32,
    layout: Layout,
    pixels: Cow<'a, [u8]>,
}

/// The fields of a `sensor_msgs/Image` that describe its bytes.
#[derive(Debug, Clone, Copy)]
pub struct RawFrame<'a> {
    /// Name from `sensor_msgs/image_encodings.hpp`: `rgb8`, `bgr8`, `rgba8`, `bgra8`, `mono8`, `8UC1`, `8UC3`, `mono16`,
    /// `yuv422` (`uyvy`), `yuv422_yuy2` (`yuyv`), `nv12`, `nv21`.
    pub encoding: &'a str,
    /// Pixels of a row.
    pub width: u32,
    /// Rows.
    pub height: u32,
    /// Bytes from one row to the next.
    pub step: u32,
    /// Whether `mono16` is big endian.
    pub is_bigendian: bool,
    /// Rows; bytes after the last row are ignored.
    pub data: &'a [u8],
}

/// How the bytes of a raw frame are to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Encoding {
    Plain(Layout),
    Mono16,
    Packed(yuv::Order),
    Planar(yuv::Chroma),
}

impl Encoding {
    fn from_name(name: &str) -> Result<Encoding, VisionError> {
        Ok(match name {
            "rgb8" => Encoding::Plain(Layout::Rgb8),
            // 8UC3 says nothing about order; OpenCV, which writes it, means BGR.
            "bgr8" | "8UC3" => Encoding::Plain(Layout::Bgr8),
            "rgba8" => Encoding::Plain(Layout::Rgba8),
            "bgra8" | "8UC4" => Encoding::Plain(Layout::Bgra8),
            "mono8" | "8UC1" => Encoding::Plain(Layout::Mono8),
            "mono16" | "16UC1" => Encoding::Mono16,
            "yuv422" | "uyvy" => Encoding::Packed(yuv::Order::Uyvy),
            "yuv422_yuy2" | "yuyv" => Encoding::Packed(yuv::Order::Yuyv),
            "nv12" => Encoding::Planar(yuv::Chroma::Uv),
            "nv21" => Encoding::Planar(yuv::Chroma::Vu),
            other => {
                return Err(VisionError::Encoding {
                    found: other.chars().take(MAX_NAME_IN_ERROR).collect(),
                    expected: "rgb8, bgr8, rgba8, bgra8, mono8, mono16, yuv422, yuv422_yuy2, nv12 or nv21",
                });
            }
        })
    }

    fn name(self) -> &'static str {
        match self {
            Encoding::Plain(Layout::Rgb8) => "rgb8",
            Encoding::Plain(Layout::Bgr8) => "bgr8",
            Encoding::Plain(Layout::Rgba8) => "rgba8",
            Encoding::Plain(Layout::Bgra8) => "bgra8",
            Encoding::Plain(Layout::Mono8) => "mono8",
            Encoding::Mono16 => "mono16",
            Encoding::Packed(yuv::Order::Uyvy) => "yuv422",
            Encoding::Packed(yuv::Order::Yuyv) => "yuv422_yuy2",
            Encoding::Planar(yuv::Chroma::Uv) => "nv12",
            Encoding::Planar(yuv::Chroma::Vu) => "nv21",
        }
    }

    /// Bytes of a row of the first plane.
    fn row_bytes(self, width: u32) -> u64 {
        let width = u64::from(width);
        match self {
            Encoding::Plain(layout) => width * layout.bytes() as u64,
            Encoding::Mono16 | Encoding::Packed(_) => width * 2,
            Encoding::Planar(_) => width,
        }
    }

    /// Rows of `step` bytes: the colour plane of NV12 follows with half as many rows.
    fn rows(self, height: u32) -> u64 {
        let height = u64::from(height);
        if matches!(self, Encoding::Planar(_)) {
            height + height / 2
        } else {
            height
        }
    }
}

impl<'a> Picture<'a> {
    /// Checks a raw frame and borrows its pixels where it can.
    ///
    /// # Errors
    /// [`VisionError::Encoding`], [`VisionError::Empty`], [`VisionError::TooLarge`], [`VisionError::Step`],
    /// [`VisionError::OddSide`], [`VisionError::TooFewBytes`], in this order.
    pub fn from_raw(frame: &RawFrame<'a>) -> Result<Picture<'a>, VisionError> {
        let encoding = Encoding::from_name(frame.encoding)?;
        check_frame(frame, encoding)?;
        // All three fit: MAX_SIDE times four bytes.
        let (step, height) = (frame.step as usize, frame.height as usize);
        let row = encoding.row_bytes(frame.width) as usize;
        let (image, colour) = frame.data.split_at((step * height).min(frame.data.len()));
        let rows = image.chunks(step).map(|padded| &padded[..row]);
        let mut rgb = Vec::new();
        let (layout, pixels) = match encoding {
            Encoding::Plain(layout) if step == row => (layout, Cow::Borrowed(image)),
            Encoding::Plain(layout) => (layout, rows.flatten().copied().collect()),
            Encoding::Mono16 => {
                // The brighter byte is enough for a detector that was trained on 8 bits.
                let high = usize::from(!frame.is_bigendian);
                let bytes = rows.flat_map(|pixels| pixels.iter().skip(high).step_by(2));
                (Layout::Mono8, bytes.copied().collect())
            }
            Encoding::Packed(order) => {
                rgb.reserve_exact(frame.width as usize * height * 3);
                rows.for_each(|pixels| yuv::packed_row(pixels, order, &mut rgb));
                (Layout::Rgb8, Cow::Owned(rgb))
            }
            Encoding::Planar(chroma) => {
                rgb.reserve_exact(frame.width as usize * height * 3);
                for (index, luma) in rows.enumerate() {
                    let shared = &colour[index / 2 * step..][..row];
                    yuv::planar_row(luma, shared, chroma, &mut rgb);
                }
                (Layout::Rgb8, Cow::Owned(rgb))
            }
        };
        Picture::packed(frame.width, frame.height, layout, pixels)
    }

    /// Rows without gaps, already in one of the layouts.
    ///
    /// # Errors
    /// [`VisionError::Empty`], [`VisionError::TooLarge`], [`VisionError::TooFewBytes`] when the length is not exact.
    pub fn packed(
        width: u32,
        height: u32,
        layout: Layout,
        pixels: Cow<'a, [u8]>,
    ) -> Result<Picture<'a>, VisionError> {
        check_size(width, height)?;
        let step = width * layout.bytes() as u32;
        let expected = u64::from(step) * u64::from(height);
        if pixels.len() as u64 != expected {
            return Err(VisionError::TooFewBytes {
                found: pixels.len(),
                expected,
                width,
                height,
                step,
            });
        }
        Ok(Picture {
            width,
            height,
            layout,
            pixels,
        })
    }

    /// Pixels of a row.
    #[must_use]
    pub fn width(&self) -> u32 {
        self.width
    }

    /// Rows.
    #[must_use]
    pub fn height(&self) -> u32 {
        self.height
    }

    /// Order of a pixel's bytes.
    #[must_use]
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// The bytes, rows without gaps.
    #[must_use]
    pub fn pixels(&self) -> &[u8] {
        &self.pixels
    }

    /// Red, green and blue at a position; `None` outside the picture.
    #[must_use]
    pub fn rgb(&self, x: u32, y: u32) -> Option<[u8; 3]> {
        if x >= self.width || y >= self.height {
            return None;
        }
        let at = (y as usize * self.width as usize + x as usize) * self.layout.bytes();
        Some(
            self.layout
                .rgb_offsets()
                .map(|offset| self.pixels[at + offset]),
        )
    }

    /// The same picture on its own memory, free of the message it came in.
    #[must_use]
    pub fn into_owned(self) -> Picture<'static> {
        Picture {
            width: self.width,
            height: self.height,
            layout: self.layout,
            pixels: Cow::Owned(self.pixels.into_owned()),
        }
    }
}

/// Refuses a frame whose numbers contradict each other, so that every slice taken from it afterwards exists.
fn check_frame(frame: &RawFrame<'_>, encoding: Encoding) -> Result<(), VisionError> {
    let (width, height, step) = (frame.width, frame.height, frame.step);
    check_size(width, height)?;
    let row = encoding.row_bytes(width);
    let max = row * MAX_STEP_ROWS;
    let name = encoding.name();
    if !(row..=max).contains(&u64::from(step)) {
        return Err(VisionError::Step {
            found: step,
            min: row,
            max,
            width,
            encoding: name,
        });
    }
    let (pairs, squares) = match encoding {
        Encoding::Plain(_) | Encoding::Mono16 => (false, false),
        Encoding::Packed(_) => (true, false),
        Encoding::Planar(_) => (true, true),
    };
    for (shared, side, found) in [(pairs, "width", width), (squares, "height", height)] {
        if shared && found % 2 != 0 {
            return Err(VisionError::OddSide {
                encoding: name,
                side,
                found,
            });
        }
    }
    // Drivers may leave out the padding of the last row.
    let expected = (encoding.rows(height) - 1) * u64::from(step) + row;
    if (frame.data.len() as u64) < expected {
        return Err(VisionError::TooFewBytes {
            found: frame.data.len(),
            expected,
            width,
            height,
            step,
        });
    }
    Ok(())
}

/// Refuses sizes before anything of that size is allocated.
pub(super) fn check_size(width: u32, height: u32) -> Result<(), VisionError> {
    if width == 0 || height == 0 {
        return Err(VisionError::Empty { width, height });
    }
    if width > MAX_SIDE || height > MAX_SIDE || u64::from(width) * u64::from(height) > MAX_PIXELS {
        return Err(VisionError::TooLarge {
            width,
            height,
            max_side: MAX_SIDE,
            max_pixels: MAX_PIXELS,
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame<'a>(
        encoding: &'a str,
        width: u32,
        height: u32,
        step: u32,
        data: &'a [u8],
    ) -> RawFrame<'a> {
        RawFrame {
            encoding,
            width,
            height,
            step,
            is_bigendian: false,
            data,
        }
    }

    fn is_borrowed(picture: &Picture<'_>) -> bool {
        matches!(picture.pixels, Cow::Borrowed(_))
    }

    #[test]
    fn plain_layouts_are_borrowed_and_read_in_rgb_order() {
        let data: Vec<u8> = (0..16).collect();
        let cases = [
            ("rgb8", 3, [3, 4, 5]),
            ("bgr8", 3, [5, 4, 3]),
            ("8UC3", 3, [5, 4, 3]),
            ("rgba8", 4, [4, 5, 6]),
            ("bgra8", 4, [6, 5, 4]),
            ("mono8", 1, [1, 1, 1]),
        ];
        for (encoding, bytes, second_pixel) in cases {
            let picture = Picture::from_raw(&frame(encoding, 2, 2, 2 * bytes, &data)).unwrap();
            assert!(is_borrowed(&picture), "{encoding}");
            assert_eq!(picture.rgb(1, 0), Some(second_pixel), "{encoding}");
            assert_eq!(picture.rgb(2, 0), None);
            assert_eq!(picture.into_owned().pixels().len(), 4 * bytes as usize);
        }
    }

    #[test]
    fn padded_rows_are_joined_and_the_last_may_lack_its_padding() {
        let data = [1, 2, 99, 3, 4, 99];
        for length in [5, 6] {
            let picture = Picture::from_raw(&frame("mono8", 2, 2, 3, &data[..length])).unwrap();
            assert_eq!(picture.pixels(), [1, 2, 3, 4]);
        }
    }

    #[test]
    fn grey_of_16_bits_keeps_its_high_byte() {
        let mut raw = frame("mono16", 2, 1, 4, &[0x34, 0x12, 0x78, 0x56]);
        assert_eq!(Picture::from_raw(&raw).unwrap().pixels(), [0x12, 0x56]);
        raw.is_bigendian = true;
        assert_eq!(Picture::from_raw(&raw).unwrap().pixels(), [0x34, 0x78]);
    }

    #[test]
    fn yuv_grey_has_no_colour() {
        // (encoding, step, bytes of a 2x2 picture of BT.601 white 235)
        let cases: [(&str, u32, &[u8]); 4] = [
            ("yuv422", 4, &[128, 235, 128, 235, 128, 235, 128, 235]),
            ("yuv422_yuy2", 4, &[235, 128, 235, 128, 235, 128, 235, 128]),
            ("nv12", 2, &[235, 235, 235, 235, 128, 128]),
            ("nv21", 3, &[235, 235, 0, 235, 235, 0, 128, 128]),
        ];
        for (encoding, step, data) in cases {
            let picture = Picture::from_raw(&frame(encoding, 2, 2, step, data)).unwrap();
            assert_eq!(picture.pixels(), [255; 12], "{encoding}");
        }
    }

    #[test]
    #[rustfmt::skip] // one case a line
    fn bad_frames_are_refused_by_name() {
        type Check = fn(&VisionError) -> bool;
        let data = [0u8; 64];
        let cases: [(RawFrame<'_>, Check, &str); 14] = [
            (frame("bayer_rggb8", 2, 2, 2, &data), |e| matches!(e, VisionError::Encoding { .. }), "unknown encoding"),
            (frame("", 2, 2, 2, &data), |e| matches!(e, VisionError::Encoding { .. }), "no encoding"),
            (frame("rgb8", 0, 0, 0, &data), |e| matches!(e, VisionError::Empty { .. }), "0x0"),
            (frame("rgb8", 0, 4, 0, &data), |e| matches!(e, VisionError::Empty { .. }), "no width"),
            (frame("rgb8", 8_193, 1, 24_579, &data), |e| matches!(e, VisionError::TooLarge { .. }), "too wide"),
            (frame("mono8", 8_192, 8_192, 8_192, &data), |e| matches!(e, VisionError::TooLarge { .. }), "too many pixels"),
            (frame("mono8", u32::MAX, u32::MAX, u32::MAX, &data), |e| matches!(e, VisionError::TooLarge { .. }), "hostile size"),
            (frame("rgb8", 4, 4, 11, &data), |e| matches!(e, VisionError::Step { found: 11, min: 12, .. }), "short step"),
            (frame("rgb8", 4, 4, 0, &data), |e| matches!(e, VisionError::Step { .. }), "no step"),
            (frame("rgb8", 4, 4, u32::MAX, &data), |e| matches!(e, VisionError::Step { max: 192, .. }), "absurd step"),
            (frame("rgb8", 4, 6, 12, &data), |e| matches!(e, VisionError::TooFewBytes { found: 64, expected: 72, .. }), "short data"),
            (frame("mono8", 4, 4, 4, &[]), |e| matches!(e, VisionError::TooFewBytes { found: 0, .. }), "no data"),
            (frame("yuyv", 3, 2, 6, &data), |e| matches!(e, VisionError::OddSide { side: "width", .. }), "odd width"),
            (frame("nv12", 2, 3, 2, &data), |e| matches!(e, VisionError::OddSide { side: "height", .. }), "odd height"),
        ];
        for (raw, check, why) in cases {
            let error = Picture::from_raw(&raw).unwrap_err();
            assert!(check(&error), "{why}: {error}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_frame_panics(
            which in 0usize..12, width in 0u32..9, height in 0u32..9, step in 0u32..40, big in proptest::bool::ANY,
            data in proptest::collection::vec(proptest::num::u8::ANY, 0..200),
        ) {
            let names = ["rgb8", "bgr8", "rgba8", "bgra8", "mono8", "mono16", "yuv422", "yuyv", "nv12", "nv21", "8UC3", "none"];
            let raw = RawFrame { encoding: names[which], width, height, step, is_bigendian: big, data: &data };
            if let Ok(picture) = Picture::from_raw(&raw) {
                proptest::prop_assert_eq!(picture.pixels().len(), (width * height) as usize * picture.layout().bytes());
                proptest::prop_assert!(picture.rgb(width - 1, height - 1).is_some());
            }
        }
    }
}
