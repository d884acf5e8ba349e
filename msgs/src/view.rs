//! Reading in place: messages whose lists of numbers stay where they arrived.
//!
//! Every generated message with a list of numbers (pictures, sound, scans, point clouds) has a second struct beside it,
//! `ImageView<'a>` beside `Image`, in which `uint8[]` is a `&'a [u8]`, `string` a `&'a str` and any other list of numbers a
//! [`Cow`]. What is checked is the same; what is not done is the copy.
//!
//! ```text
//! payload   00 01 00 00 | header, height, ... | length | 6 220 800 bytes of picture
//!                                                        ▲
//! ImageView { header, height, ..., data: &[u8] ──────────┘ }
//! ```
//!
//! A `Cow<[f32]>` is borrowed if the numbers are in this computer's byte order and stand at an address that is a multiple
//! of their size; else they are copied, once. Alignment on the wire counts from after the four bytes of header, so in a
//! buffer of its own (an allocation starts at a multiple of 16) `float32[]` and `int16[]` are in place, and `float64[]`
//! never is. Zenoh puts messages that came in several fragments into such a buffer; a small one may stand anywhere.

use std::borrow::Cow;

use crate::message::Message;
use crate::reader::{DecodeError, Fault, Reader};
use crate::wire::{Number, Wire, is_native};

/// A message that can be read in place.
pub trait InPlace: Message {
    /// The message with its lists of numbers and its texts borrowed.
    type View<'a>: View<'a> + Into<Self>;

    /// Reads CDR, header included, without copying what a view borrows. Accepts and refuses exactly what
    /// [`Message::decode`] does.
    ///
    /// # Errors
    /// A [`DecodeError`] that says which field, at which byte, what was expected and what was found.
    fn view(cdr: &[u8]) -> Result<Self::View<'_>, DecodeError> {
        Reader::open(cdr)
            .and_then(|mut reader| Self::View::view(&mut reader, None))
            .map_err(|fault| fault.of(Self::TYPE))
    }
}

/// A value that may borrow from the bytes it is read from.
pub trait View<'a>: Sized {
    /// Reads a value; `bound` is the bound of the field for strings and sequences.
    ///
    /// # Errors
    /// A [`DecodeError`] that says where.
    fn view(reader: &mut Reader<'a>, bound: Option<usize>) -> Result<Self, Fault>;
}

impl<'a, T: Wire> View<'a> for T {
    fn view(reader: &mut Reader<'a>, bound: Option<usize>) -> Result<Self, Fault> {
        T::read(reader, bound)
    }
}

impl<'a> View<'a> for &'a str {
    fn view(reader: &mut Reader<'a>, bound: Option<usize>) -> Result<Self, Fault> {
        reader.text(bound)
    }
}

impl<'a> View<'a> for &'a [u8] {
    fn view(reader: &mut Reader<'a>, bound: Option<usize>) -> Result<Self, Fault> {
        let count = reader.length(1, bound)?;
        reader.take(count)
    }
}

impl<'a, T: Number> View<'a> for Cow<'a, [T]> {
    fn view(reader: &mut Reader<'a>, bound: Option<usize>) -> Result<Self, Fault> {
        let count = reader.length(size_of::<T>(), bound)?;
        let mut ahead = reader.clone();
        let bytes = ahead.scalars(size_of::<T>(), count)?;
        if is_native(reader)
            && let Ok(numbers) = bytemuck::try_cast_slice(bytes)
        {
            *reader = ahead;
            return Ok(Cow::Borrowed(numbers));
        }
        T::read_many(reader, count).map(Cow::Owned)
    }
}

/// Views of one ROS package: see the generated files for what it reads.
macro_rules! views {
    ($(
        $view:ident: $name:ident {
            $($ros:literal $field:ident: $rust:ty $(, at most $bound:literal)?;)*
        }
    )*) => {$(
        #[doc = concat!("[`", stringify!($name), "`] read in place.")]
        #[derive(Clone, Debug, PartialEq)]
        pub struct $view<'a> {
            $(
                #[doc = $ros]
                pub $field: $rust,
            )*
        }

        impl<'a> $crate::view::View<'a> for $view<'a> {
            fn view(
                reader: &mut $crate::reader::Reader<'a>,
                _bound: Option<usize>,
            ) -> Result<Self, $crate::reader::Fault> {
                Ok(Self {
                    $($field: {
                        let bound = None $(.or(Some($bound)))?;
                        reader.field(stringify!($field), |reader| {
                            $crate::view::View::view(reader, bound)
                        })?
                    },)*
                })
            }
        }

        impl From<$view<'_>> for $name {
            fn from(view: $view<'_>) -> Self {
                Self {
                    $($field: view.$field.into(),)*
                }
            }
        }

        impl $crate::view::InPlace for $name {
            type View<'a> = $view<'a>;
        }
    )*};
}

pub(crate) use views;
