//! Inputs that a graph is run with: whoever calibrates brings them, by name.
//!
//! Samples are asked for by number, more than once: first for ranges, then for errors. So a set of pictures can be decoded when it is
//! needed and never lies in memory as a whole.

use std::borrow::Cow;

use llmasos_engine::session::Feed;
use llmasos_engine::text::Encoder;
use llmasos_engine::vision::{Fit, InputWriter, Layout, Picture};

use super::StaticError;
use crate::error::ForgeError;

/// A sentence is cut to this many tokens for calibration: long ones add time and no new values.
const MAX_TOKENS: usize = 128;

/// Elements of an input.
#[derive(Debug, Clone, PartialEq)]
pub enum Elements {
    /// 32-bit floats.
    F32(Vec<f32>),
    /// 64-bit integers.
    I64(Vec<i64>),
    /// 32-bit integers.
    I32(Vec<i32>),
    /// Bytes.
    U8(Vec<u8>),
    /// Truth values.
    Bool(Vec<bool>),
}

/// One input of one run.
#[derive(Debug, Clone, PartialEq)]
pub struct NamedTensor {
    /// Name of the graph's input.
    pub name: String,
    /// Axes, outermost first.
    pub dims: Vec<usize>,
    /// Elements, row by row.
    pub elements: Elements,
}

impl NamedTensor {
    pub(crate) fn feed(&self) -> Feed<'_> {
        let (name, dims) = (self.name.as_str(), self.dims.as_slice());
        match &self.elements {
            Elements::F32(data) => Feed::f32(name, dims, data),
            Elements::I64(data) => Feed::i64(name, dims, data),
            Elements::I32(data) => Feed::i32(name, dims, data),
            Elements::U8(data) => Feed::u8(name, dims, data),
            Elements::Bool(data) => Feed::bool(name, dims, data),
        }
    }
}

/// Inputs for a number of runs.
pub trait Samples {
    /// How many there are.
    fn count(&self) -> usize;

    /// The inputs of run `index`, below [`Samples::count`]; the same ones every time.
    ///
    /// # Errors
    /// Whatever keeps them from being made.
    fn sample(&mut self, index: usize) -> Result<Vec<NamedTensor>, ForgeError>;
}

/// Samples that lie in memory.
impl Samples for Vec<Vec<NamedTensor>> {
    fn count(&self) -> usize {
        self.len()
    }

    fn sample(&mut self, index: usize) -> Result<Vec<NamedTensor>, ForgeError> {
        let found = self.len();
        self.get(index).cloned().ok_or_else(|| {
            StaticError::Samples {
                expected: index + 1,
                found,
            }
            .into()
        })
    }
}

/// Pictures as a detector sees them, and parts of them: whole, four overlapping quarters, and all of these mirrored. A handful of
/// pictures then covers more sizes and places of objects than it has.
pub struct DetectorSamples<'a> {
    pictures: Views<'a>,
    side: u32,
    writer: InputWriter,
}

/// Views of one picture.
pub const VIEWS: usize = 10;

/// Samples for a detector with the input `image` f32 `[1, side, side, 3]`, RGB 0 to 255.
pub fn detector_samples(pictures: Views<'_>, side: u32) -> DetectorSamples<'_> {
    DetectorSamples {
        pictures,
        side,
        writer: InputWriter::new(side),
    }
}

/// Opens a picture by its number.
type Open<'a> = Box<dyn FnMut(usize) -> Result<Picture<'static>, ForgeError> + 'a>;

/// Pictures as [`VIEWS`] views of each. One picture is in memory at a time.
pub struct Views<'a> {
    pictures: usize,
    open: Open<'a>,
    /// The picture that was opened last.
    last: Option<(usize, Picture<'static>)>,
}

impl<'a> Views<'a> {
    /// Views of so many pictures, which `open` gives by number.
    pub fn new(
        pictures: usize,
        open: impl FnMut(usize) -> Result<Picture<'static>, ForgeError> + 'a,
    ) -> Views<'a> {
        Views {
            pictures,
            open: Box::new(open),
            last: None,
        }
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.pictures * VIEWS
    }

    /// View `index`. They stand view by view over all pictures, so that the first ones are all different pictures.
    ///
    /// # Errors
    /// [`StaticError::Samples`] for one that is not there, and those of opening it.
    pub fn view(&mut self, index: usize) -> Result<Cow<'_, Picture<'static>>, ForgeError> {
        let found = self.count();
        if index >= found {
            return Err(StaticError::Samples {
                expected: index + 1,
                found,
            }
            .into());
        }
        let number = index % self.pictures;
        let picture = match self.last.take() {
            Some((at, picture)) if at == number => picture,
            _ => (self.open)(number)?,
        };
        let (_, picture) = self.last.insert((number, picture));
        Ok(part(picture, index / self.pictures))
    }
}

impl Samples for DetectorSamples<'_> {
    fn count(&self) -> usize {
        self.pictures.count()
    }

    fn sample(&mut self, index: usize) -> Result<Vec<NamedTensor>, ForgeError> {
        let seen = self.pictures.view(index)?;
        let (tensor, _) = self
            .writer
            .write(&seen, Fit::Stretch)
            .map_err(|error| unusable("image", &error))?;
        let side = self.side as usize;
        Ok(vec![NamedTensor {
            name: "image".into(),
            dims: vec![1, side, side, 3],
            elements: Elements::F32(tensor.to_vec()),
        }])
    }
}

/// View 0 is the picture, 1 to 4 its quarters, each of two thirds of both sides; 5 to 9 are those mirrored.
fn part<'p>(picture: &'p Picture<'static>, number: usize) -> Cow<'p, Picture<'static>> {
    let (quarter, is_mirrored) = (number % (VIEWS / 2), number >= VIEWS / 2);
    if quarter == 0 && !is_mirrored {
        return Cow::Borrowed(picture);
    }
    let (width, height) = (picture.width(), picture.height());
    let (mut size, mut first) = ([width, height], [0, 0]);
    if quarter > 0 {
        size = [width, height].map(|side| (side * 2 / 3).max(1));
        let corner = [(quarter - 1) % 2, (quarter - 1) / 2];
        for axis in 0..2 {
            first[axis] = corner[axis] as u32 * ([width, height][axis] - size[axis]);
        }
    }
    let mut pixels = Vec::with_capacity(size[0] as usize * size[1] as usize * 3);
    for y in 0..size[1] {
        for x in 0..size[0] {
            let x = if is_mirrored { size[0] - 1 - x } else { x };
            let rgb = picture.rgb(first[0] + x, first[1] + y);
            pixels.extend_from_slice(&rgb.unwrap_or_default());
        }
    }
    match Picture::packed(size[0], size[1], Layout::Rgb8, pixels.into()) {
        Ok(view) => Cow::Owned(view),
        // A part of a picture that was accepted is smaller than it.
        Err(_) => Cow::Borrowed(picture),
    }
}

/// Samples for an encoder with the inputs `input_ids`, `attention_mask` and `token_type_ids` i64 `[1, tokens]`: one text each.
///
/// # Errors
/// [`StaticError::Input`] for a text that the encoder's tokenizer refuses.
pub fn encoder_samples(
    encoder: &Encoder,
    sentences: &[&str],
) -> Result<Vec<Vec<NamedTensor>>, ForgeError> {
    let limit = MAX_TOKENS.min(encoder.config().context);
    let sample = |sentence: &&str| {
        let mut ids = encoder
            .tokenize(sentence)
            .map_err(|error| unusable("input_ids", &error))?;
        ids.truncate(limit);
        Ok(token_sample(&ids))
    };
    sentences.iter().map(sample).collect()
}

/// The three inputs of a text.
pub(crate) fn token_sample(ids: &[u32]) -> Vec<NamedTensor> {
    let tensor = |name: &str, elements: Vec<i64>| NamedTensor {
        name: name.into(),
        dims: vec![1, ids.len()],
        elements: Elements::I64(elements),
    };
    vec![
        tensor("input_ids", ids.iter().map(|id| i64::from(*id)).collect()),
        tensor("attention_mask", vec![1; ids.len()]),
        tensor("token_type_ids", vec![0; ids.len()]),
    ]
}

fn unusable(input: &str, error: &dyn std::fmt::Display) -> ForgeError {
    StaticError::Input {
        input: input.into(),
        reason: error.to_string(),
    }
    .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 6 x 3 pixels whose red is the column and whose green is the row.
    fn picture() -> Picture<'static> {
        let pixels = (0..18_u8)
            .flat_map(|at| [at % 6, at / 6, 0])
            .collect::<Vec<u8>>();
        Picture::packed(6, 3, Layout::Rgb8, pixels.into()).unwrap()
    }

    #[test]
    fn views_are_parts_of_the_picture() {
        let picture = picture();
        // View, size, first pixel, why.
        let cases = [
            (0, [6, 3], [0, 0], "the whole"),
            (1, [4, 2], [0, 0], "the upper left"),
            (2, [4, 2], [2, 0], "the upper right begins a third further"),
            (3, [4, 2], [0, 1], "the lower left"),
            (4, [4, 2], [2, 1], "the lower right"),
            (5, [6, 3], [5, 0], "mirrored: the last column comes first"),
            (9, [4, 2], [5, 1], "the lower right, mirrored"),
        ];
        for (number, size, first, why) in cases {
            let view = part(&picture, number);
            assert_eq!([view.width(), view.height()], size, "{why}");
            assert_eq!(view.rgb(0, 0), Some([first[0], first[1], 0]), "{why}");
        }
    }

    #[test]
    fn the_first_samples_are_different_pictures() {
        let mut opened = Vec::new();
        let open = |number: usize| {
            opened.push(number);
            let pixel = vec![if number == 0 { 0 } else { 255 }];
            Ok(Picture::packed(1, 1, Layout::Mono8, pixel.into()).unwrap())
        };
        let mut samples = detector_samples(Views::new(2, open), 2);
        assert_eq!(samples.count(), 20);
        for (index, expected) in [(0, 0.0), (1, 255.0), (18, 0.0), (19, 255.0)] {
            let tensors = samples.sample(index).unwrap();
            assert_eq!(tensors[0].dims, [1, 2, 2, 3]);
            assert_eq!(tensors[0].elements, Elements::F32(vec![expected; 12]));
        }
        assert!(samples.sample(20).is_err());
        drop(samples);
        assert_eq!(
            opened,
            [0, 1, 0, 1],
            "one at a time, and none twice in a row"
        );
        let none = Views::new(0, |_| unreachable!("there is none"));
        assert!(detector_samples(none, 2).sample(0).is_err());
    }
}
