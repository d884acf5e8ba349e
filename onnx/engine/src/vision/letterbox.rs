//! A picture of any size onto the square that a detector takes, and boxes back to the picture's pixels.
//!
//! Two ways: stretch both sides to the square (what SSD MobileNet was trained on), or keep the aspect ratio and fill the rest
//! with grey (what most later detectors were trained on). [`Placement`] remembers which, so that the way back is exact: the
//! scale is that of the integer area really filled, each axis on its own, not the rounded-away ideal.
//!
//! ```text
//!   source 640x480          Stretch            Letterbox
//!  ┌────────────┐          ┌───────┐           ┌───────┐ ─ grey
//!  │            │    ─►    │       │     or    │░░░░░░░│
//!  │            │          │       │           │       │ 300x225 at (0, 37)
//!  └────────────┘          └───────┘           └───────┘
//! ```

use fast_image_resize::images::{Image, ImageRef};
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer};

use super::VisionError;
use super::picture::{Layout, Picture};

/// Grey of the bars, the value detectors with letterboxing are trained with.
const BAR: f32 = 114.0;

/// How a picture is brought onto the square.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Fit {
    /// Both sides to the square, aspect ratio lost.
    #[default]
    Stretch,
    /// Aspect ratio kept, centred, bars of grey.
    Letterbox,
}

/// Where a picture stands on the square.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Placement {
    /// Picture, pixels.
    source: [u32; 2],
    /// Side of the square, pixels.
    side: u32,
    /// First filled column and row.
    offset: [u32; 2],
    /// Filled columns and rows.
    filled: [u32; 2],
}

impl Placement {
    /// Places a picture of `width` x `height` (not zero) on a square.
    #[must_use]
    pub fn new(fit: Fit, width: u32, height: u32, side: u32) -> Placement {
        let filled = match fit {
            Fit::Stretch => [side, side],
            Fit::Letterbox => {
                let scale = f64::from(side) / f64::from(width.max(height).max(1));
                [width, height].map(|length| {
                    ((f64::from(length) * scale).round() as u32).clamp(1, side.max(1))
                })
            }
        };
        let offset = filled.map(|length| side.saturating_sub(length) / 2);
        Placement {
            source: [width, height],
            side,
            offset,
            filled,
        }
    }

    /// A box given as fractions of the square (x0, y0, x1, y1) in pixels of the picture, clamped to it.
    #[must_use]
    pub fn to_source(&self, fractions: [f32; 4]) -> [f32; 4] {
        std::array::from_fn(|corner| {
            let axis = corner % 2;
            let on_square = f64::from(fractions[corner]) * f64::from(self.side);
            let on_filled =
                (on_square - f64::from(self.offset[axis])) / f64::from(self.filled[axis].max(1));
            let source = f64::from(self.source[axis]);
            (on_filled * source).clamp(0.0, source) as f32
        })
    }

    /// A box in pixels of the picture as fractions of the square: the inverse of [`Placement::to_source`].
    #[must_use]
    pub fn to_square(&self, pixels: [f32; 4]) -> [f32; 4] {
        std::array::from_fn(|corner| {
            let axis = corner % 2;
            let on_filled = f64::from(pixels[corner]) / f64::from(self.source[axis].max(1));
            let on_square = on_filled * f64::from(self.filled[axis]) + f64::from(self.offset[axis]);
            (on_square / f64::from(self.side.max(1))) as f32
        })
    }
}

/// Resizes pictures into a detector's input tensor; its buffers are kept from frame to frame.
pub struct InputWriter {
    side: u32,
    resizer: Resizer,
    options: ResizeOptions,
    /// The picture at its final size, still in its own layout.
    small: Vec<u8>,
    /// `[1, side, side, 3]`, RGB, 0..=255.
    tensor: Vec<f32>,
}

impl std::fmt::Debug for InputWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("InputWriter")
            .field("side", &self.side)
            .finish_non_exhaustive()
    }
}

impl InputWriter {
    /// For squares of `side` pixels.
    #[must_use]
    pub fn new(side: u32) -> InputWriter {
        // Convolution: a triangle as wide as the reduction, as in the reference pre-processing. Plain bilinear interpolation
        // would look at 4 of the 36 pixels that become one.
        let options = ResizeOptions::new()
            .resize_alg(ResizeAlg::Convolution(FilterType::Bilinear))
            .use_alpha(false);
        let tensor = vec![BAR; side as usize * side as usize * 3];
        InputWriter {
            side,
            resizer: Resizer::new(),
            options,
            small: Vec::new(),
            tensor,
        }
    }

    /// Writes a picture; returns the tensor's elements and where the picture stands in them.
    ///
    /// # Errors
    /// [`VisionError::Resize`].
    pub fn write(
        &mut self,
        picture: &Picture<'_>,
        fit: Fit,
    ) -> Result<(&[f32], Placement), VisionError> {
        let (width, height) = (picture.width(), picture.height());
        let placement = Placement::new(fit, width, height, self.side);
        let [filled_width, filled_height] = placement.filled;
        let layout = picture.layout();
        let failed = |reason: String| VisionError::Resize {
            width,
            height,
            reason,
        };
        let pixel = match layout {
            Layout::Mono8 => PixelType::U8,
            Layout::Rgb8 | Layout::Bgr8 => PixelType::U8x3,
            Layout::Rgba8 | Layout::Bgra8 => PixelType::U8x4,
        };
        let source = ImageRef::new(width, height, picture.pixels(), pixel)
            .map_err(|error| failed(error.to_string()))?;
        self.small.resize(
            filled_width as usize * filled_height as usize * layout.bytes(),
            0,
        );
        let mut small = Image::from_slice_u8(filled_width, filled_height, &mut self.small, pixel)
            .map_err(|error| failed(error.to_string()))?;
        self.resizer
            .resize(&source, &mut small, &self.options)
            .map_err(|error| failed(error.to_string()))?;
        if placement.filled != [self.side; 2] {
            self.tensor.fill(BAR);
        }
        self.fill_tensor(layout, &placement);
        Ok((&self.tensor, placement))
    }

    fn fill_tensor(&mut self, layout: Layout, placement: &Placement) {
        let [red, green, blue] = layout.rgb_offsets();
        let row_bytes = placement.filled[0] as usize * layout.bytes();
        let row_floats = self.side as usize * 3;
        let (left, top) = (
            placement.offset[0] as usize * 3,
            placement.offset[1] as usize,
        );
        let rows = self.tensor.chunks_exact_mut(row_floats).skip(top);
        for (floats, bytes) in rows.zip(self.small.chunks_exact(row_bytes)) {
            let floats = floats[left..].as_chunks_mut::<3>().0;
            for (out, pixel) in floats.iter_mut().zip(bytes.chunks_exact(layout.bytes())) {
                *out = [
                    f32::from(pixel[red]),
                    f32::from(pixel[green]),
                    f32::from(pixel[blue]),
                ];
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::borrow::Cow;

    #[test]
    fn placements() {
        // (fit, width, height, offset, filled) on a square of 300
        let cases = [
            (Fit::Stretch, 1_920, 1_080, [0, 0], [300, 300]),
            (Fit::Letterbox, 1_920, 1_080, [0, 65], [300, 169]),
            (Fit::Letterbox, 640, 480, [0, 37], [300, 225]),
            (Fit::Letterbox, 480, 640, [37, 0], [225, 300]),
            (Fit::Letterbox, 100, 100, [0, 0], [300, 300]),
            (Fit::Letterbox, 8_192, 1, [0, 149], [300, 1]),
        ];
        for (fit, width, height, offset, filled) in cases {
            let placement = Placement::new(fit, width, height, 300);
            assert_eq!(
                (placement.offset, placement.filled),
                (offset, filled),
                "{fit:?} {width}x{height}"
            );
        }
    }

    #[test]
    fn corners_come_back_and_bars_are_clamped() {
        let placement = Placement::new(Fit::Letterbox, 640, 480, 300);
        let top = 37.0 / 300.0;
        let bottom = (37.0 + 225.0) / 300.0;
        let corners = placement.to_source([0.0, top, 1.0, bottom]);
        let expected = [0.0, 0.0, 640.0, 480.0];
        assert!(
            corners
                .iter()
                .zip(expected)
                .all(|(a, b)| (a - b).abs() < 1e-3),
            "{corners:?}"
        );
        assert_eq!(
            placement.to_source([-0.5, 0.0, 1.5, 1.0]),
            [0.0, 0.0, 640.0, 480.0],
            "a box over the bars"
        );
        assert_eq!(
            Placement::new(Fit::Stretch, 810, 1_080, 300).to_source([0.5, 0.25, 1.0, 1.0]),
            [405.0, 270.0, 810.0, 1_080.0]
        );
    }

    proptest::proptest! {
        #[test]
        fn there_and_back_is_the_same_box(width in 1u32..8_192, height in 1u32..8_192, letterbox in proptest::bool::ANY,
            corners in proptest::array::uniform4(0.0f32..1.0)) {
            let fit = if letterbox { Fit::Letterbox } else { Fit::Stretch };
            let placement = Placement::new(fit, width, height, 300);
            let pixels = std::array::from_fn(|i| corners[i] * [width, height][i % 2] as f32);
            let back = placement.to_source(placement.to_square(pixels));
            for (axis, (a, b)) in pixels.iter().zip(back).enumerate() {
                // f32 fractions of the square: 2^-24 of the side; a one-pixel strip magnifies them.
                let side = f64::from([width, height][axis % 2]);
                let tolerance = side * 300.0 / f64::from(placement.filled[axis % 2]) * 2e-7 + 1e-3;
                proptest::prop_assert!(f64::from((a - b).abs()) <= tolerance, "{pixels:?} {back:?}");
            }
        }
    }

    /// The left half red, the right half blue.
    fn halves(width: u32, height: u32, layout: Layout) -> Picture<'static> {
        let [red, _, blue] = layout.rgb_offsets();
        let mut pixels = vec![0; (width * height) as usize * layout.bytes()];
        for (index, pixel) in pixels.chunks_exact_mut(layout.bytes()).enumerate() {
            let left = (index as u32 % width) < width / 2;
            pixel[if left { red } else { blue }] = 255;
        }
        Picture::packed(width, height, layout, Cow::Owned(pixels)).unwrap()
    }

    #[test]
    fn colours_and_sides_survive_in_every_layout() {
        let mut writer = InputWriter::new(300);
        for layout in [Layout::Rgb8, Layout::Bgr8, Layout::Rgba8, Layout::Bgra8] {
            let (tensor, _) = writer
                .write(&halves(640, 480, layout), Fit::Stretch)
                .unwrap();
            let at = |x: usize, y: usize| tensor[(y * 300 + x) * 3..][..3].to_vec();
            assert_eq!(at(10, 150), [255.0, 0.0, 0.0], "{layout:?}");
            assert_eq!(at(290, 150), [0.0, 0.0, 255.0], "{layout:?}");
        }
    }

    #[test]
    fn bars_are_grey_also_after_a_stretched_picture() {
        let mut writer = InputWriter::new(300);
        writer
            .write(&halves(300, 300, Layout::Rgb8), Fit::Stretch)
            .unwrap();
        let (tensor, placement) = writer
            .write(&halves(640, 480, Layout::Rgb8), Fit::Letterbox)
            .unwrap();
        let row = |y: usize| &tensor[y * 900..][..3];
        assert_eq!(
            (row(0), row(36), row(299)),
            (&[BAR; 3][..], &[BAR; 3][..], &[BAR; 3][..])
        );
        assert_eq!(
            (row(37), row(261)),
            (&[255.0, 0.0, 0.0][..], &[255.0, 0.0, 0.0][..])
        );
        assert_eq!(placement.filled, [300, 225]);
    }

    #[test]
    fn grey_becomes_three_equal_channels_and_one_pixel_fills_the_square() {
        let mut writer = InputWriter::new(300);
        let picture = Picture::packed(1, 1, Layout::Mono8, Cow::Borrowed(&[77])).unwrap();
        let (tensor, _) = writer.write(&picture, Fit::Stretch).unwrap();
        assert!(tensor.iter().all(|value| *value == 77.0));
        assert_eq!(tensor.len(), 270_000);
    }
}
