//! How Rust types stand on the wire: the trait behind the generated structs, for scalars, strings, lists and arrays.
//!
//! Reading and writing are our own: the bytes that arrive are somebody else's ([`crate::reader`]), and serde would write a
//! list of numbers one by one. Lists of numbers are one copy, in and out; who wants none reads in place
//! ([`crate::view`]). The structs implement serde's `Serialize` as well, for other formats and for the tests, which
//! compare with the crate `cdr`.

use serde::Serializer;
use serde::ser::SerializeTuple;

use crate::message::Excess;
use crate::reader::{Fault, Reader};
use crate::writer::Writer;

/// A type that can stand in a message.
pub trait Wire: Sized {
    /// The least bytes a value takes; a length is checked against it before anything is allocated.
    const MIN_BYTES: usize;
    /// True if a value can be longer than its definition allows.
    const BOUNDED: bool = false;

    /// The value of a field that nobody set.
    fn initial() -> Self;

    /// Reads a value into its place; `bound` is the bound of the field for strings and sequences. What stands there after
    /// an error is undetermined.
    ///
    /// A message of messages is large (a predicted object has a kilobyte): a value that is returned through every level is
    /// moved at every level, one that is read where it belongs is not.
    ///
    /// # Errors
    /// A [`crate::DecodeError`] that says where.
    fn read_into(&mut self, reader: &mut Reader<'_>, bound: Option<usize>) -> Result<(), Fault>;

    /// Reads a value.
    ///
    /// # Errors
    /// As [`Wire::read_into`].
    fn read(reader: &mut Reader<'_>, bound: Option<usize>) -> Result<Self, Fault> {
        let mut value = Self::initial();
        value.read_into(reader, bound)?;
        Ok(value)
    }

    /// Reads `count` values; `count` has been checked against the bytes that are left.
    ///
    /// # Errors
    /// A [`crate::DecodeError`] that says where.
    fn read_many(reader: &mut Reader<'_>, count: usize) -> Result<Vec<Self>, Fault> {
        let mut list = Vec::with_capacity(count);
        for index in 0..count {
            list.push(Self::initial());
            list[index]
                .read_into(reader, None)
                .map_err(|fault| fault.element(index))?;
        }
        Ok(list)
    }

    /// Reads as many values as there are places.
    ///
    /// # Errors
    /// A [`crate::DecodeError`] that says where.
    fn fill(reader: &mut Reader<'_>, places: &mut [Self]) -> Result<(), Fault> {
        for (index, place) in places.iter_mut().enumerate() {
            place
                .read_into(reader, None)
                .map_err(|fault| fault.element(index))?;
        }
        Ok(())
    }

    /// Where the value ends if it is written at byte `at` of the body.
    fn end(&self, at: usize) -> usize;

    /// Where a list of values ends, its length not included.
    fn end_of_many(list: &[Self], at: usize) -> usize {
        list.iter().fold(at, |at, value| value.end(at))
    }

    /// Writes the value.
    fn write(&self, writer: &mut Writer);

    /// Writes a list of values, its length not included.
    fn write_many(list: &[Self], writer: &mut Writer) {
        for value in list {
            value.write(writer);
        }
    }

    /// Checks what is about to be written against the bounds of the definition.
    ///
    /// # Errors
    /// An [`Excess`] that says which field, its bound and its length.
    fn check(&self, _bound: Option<usize>) -> Result<(), Excess> {
        Ok(())
    }
}

/// True where numbers in memory are as numbers on the wire that we write.
const NATIVE: bool = cfg!(target_endian = "little");

/// A number whose lists can be copied as bytes.
pub trait Number: Wire + bytemuck::Pod {
    /// The number with its bytes in reverse order.
    #[must_use]
    fn swapped(self) -> Self;
}

/// True if numbers in this reader's bytes are as in memory.
pub(crate) fn is_native(reader: &Reader<'_>) -> bool {
    reader.is_big_endian() != NATIVE
}

/// Appends numbers given as their bytes on the wire: one copy, without filling in zeros first.
fn append<T: Number>(list: &mut Vec<T>, bytes: &[u8], native: bool) {
    let start = list.len();
    match bytemuck::try_cast_slice::<u8, T>(bytes) {
        Ok(numbers) => list.extend_from_slice(numbers),
        Err(_) => list.extend(
            bytes
                .chunks_exact(size_of::<T>())
                .map(bytemuck::pod_read_unaligned::<T>),
        ),
    }
    if !native {
        for number in &mut list[start..] {
            *number = number.swapped();
        }
    }
}

/// Numbers: one, or many in one copy, in either byte order.
macro_rules! numbers {
    ($($rust:ty),*) => {$(
        impl Number for $rust {
            fn swapped(self) -> Self {
                let mut bytes = self.to_ne_bytes();
                bytes.reverse();
                Self::from_ne_bytes(bytes)
            }
        }

        impl Wire for $rust {
            const MIN_BYTES: usize = size_of::<$rust>();

            fn initial() -> Self {
                Self::default()
            }

            #[inline]
            fn read_into(&mut self, reader: &mut Reader<'_>, _bound: Option<usize>) -> Result<(), Fault> {
                let bytes = reader.scalar()?;
                *self = if reader.is_big_endian() { Self::from_be_bytes(bytes) } else { Self::from_le_bytes(bytes) };
                Ok(())
            }

            fn read_many(reader: &mut Reader<'_>, count: usize) -> Result<Vec<Self>, Fault> {
                let bytes = reader.run(size_of::<$rust>(), count)?;
                let mut list = Vec::with_capacity(count);
                append(&mut list, bytes, is_native(reader));
                while list.len() < count {
                    // The next one begins in one part of the payload and may end in another.
                    list.push(Self::read(reader, None)?);
                    let bytes = reader.run(size_of::<$rust>(), count - list.len())?;
                    append(&mut list, bytes, is_native(reader));
                }
                Ok(list)
            }

            fn fill(reader: &mut Reader<'_>, places: &mut [Self]) -> Result<(), Fault> {
                let bytes = reader.run(size_of::<$rust>(), places.len())?;
                let (whole, split) = places.split_at_mut(bytes.len() / size_of::<$rust>());
                bytemuck::cast_slice_mut::<Self, u8>(whole).copy_from_slice(bytes);
                if !is_native(reader) {
                    for place in whole {
                        *place = place.swapped();
                    }
                }
                for place in split {
                    place.read_into(reader, None)?;
                }
                Ok(())
            }

            #[inline]
            fn end(&self, at: usize) -> usize {
                at.next_multiple_of(size_of::<$rust>()) + size_of::<$rust>()
            }

            fn end_of_many(list: &[Self], at: usize) -> usize {
                if list.is_empty() {
                    return at;
                }
                at.next_multiple_of(size_of::<$rust>()) + size_of_val(list)
            }

            #[inline]
            fn write(&self, writer: &mut Writer) {
                writer.scalar(self.to_le_bytes());
            }

            fn write_many(list: &[Self], writer: &mut Writer) {
                if NATIVE {
                    writer.scalars(size_of::<$rust>(), bytemuck::cast_slice(list));
                } else {
                    for number in list {
                        number.write(writer);
                    }
                }
            }
        }
    )*};
}

numbers!(u8, i8, i16, u16, i32, u32, i64, u64, f32, f64);

/// The one byte of a message without fields: written as 0, and whatever is read is ignored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NoFields;

impl serde::Serialize for NoFields {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u8(0)
    }
}

impl Wire for NoFields {
    const MIN_BYTES: usize = 1;

    fn initial() -> Self {
        Self
    }

    /// ROS 2 writes one byte; hiroz writes a struct without fields as no byte at all, and nothing is lost by reading that too.
    fn read_into(&mut self, reader: &mut Reader<'_>, _bound: Option<usize>) -> Result<(), Fault> {
        match reader.left() {
            0 => Ok(()),
            _ => u8::read(reader, None).map(drop),
        }
    }

    fn end(&self, at: usize) -> usize {
        at + 1
    }

    fn write(&self, writer: &mut Writer) {
        writer.scalar([0]);
    }
}

impl Wire for bool {
    const MIN_BYTES: usize = 1;

    fn initial() -> Self {
        false
    }

    #[inline]
    fn read_into(&mut self, reader: &mut Reader<'_>, _bound: Option<usize>) -> Result<(), Fault> {
        *self = reader.scalar().map(|[byte]| byte != 0)?;
        Ok(())
    }

    #[inline]
    fn end(&self, at: usize) -> usize {
        at + 1
    }

    #[inline]
    fn write(&self, writer: &mut Writer) {
        writer.scalar([u8::from(*self)]);
    }
}

/// Any length, for the room that one takes.
const LENGTH: u32 = 0;

impl Wire for String {
    /// The length alone: real writers send strings of length 0.
    const MIN_BYTES: usize = 4;

    fn initial() -> Self {
        Self::new()
    }

    fn read_into(&mut self, reader: &mut Reader<'_>, bound: Option<usize>) -> Result<(), Fault> {
        *self = reader.string(bound)?;
        Ok(())
    }

    #[inline]
    fn end(&self, at: usize) -> usize {
        LENGTH.end(at) + self.len() + 1
    }

    fn write(&self, writer: &mut Writer) {
        writer.text(self);
    }

    fn check(&self, bound: Option<usize>) -> Result<(), Excess> {
        Excess::check(self.len(), bound)
    }
}

impl<T: Wire> Wire for Vec<T> {
    const MIN_BYTES: usize = 4;
    const BOUNDED: bool = T::BOUNDED;

    fn initial() -> Self {
        Self::new()
    }

    fn read_into(&mut self, reader: &mut Reader<'_>, bound: Option<usize>) -> Result<(), Fault> {
        let count = reader.length(T::MIN_BYTES, bound)?;
        *self = T::read_many(reader, count)?;
        Ok(())
    }

    fn end(&self, at: usize) -> usize {
        T::end_of_many(self, LENGTH.end(at))
    }

    fn write(&self, writer: &mut Writer) {
        writer.length(self.len());
        T::write_many(self, writer);
    }

    fn check(&self, bound: Option<usize>) -> Result<(), Excess> {
        Excess::check(self.len(), bound)?;
        if T::BOUNDED {
            for (index, element) in self.iter().enumerate() {
                element
                    .check(None)
                    .map_err(|excess| excess.element(index))?;
            }
        }
        Ok(())
    }
}

impl<T: Wire, const N: usize> Wire for [T; N] {
    const MIN_BYTES: usize = N * T::MIN_BYTES;
    const BOUNDED: bool = T::BOUNDED;

    fn initial() -> Self {
        std::array::from_fn(|_| T::initial())
    }

    fn read_into(&mut self, reader: &mut Reader<'_>, _bound: Option<usize>) -> Result<(), Fault> {
        T::fill(reader, self)
    }

    fn end(&self, at: usize) -> usize {
        T::end_of_many(self, at)
    }

    fn write(&self, writer: &mut Writer) {
        T::write_many(self, writer);
    }

    fn check(&self, _bound: Option<usize>) -> Result<(), Excess> {
        if T::BOUNDED {
            for (index, element) in self.iter().enumerate() {
                element
                    .check(None)
                    .map_err(|excess| excess.element(index))?;
            }
        }
        Ok(())
    }
}

/// Writes an array of any length; serde itself knows arrays up to 32.
///
/// # Errors
/// What the serializer returns.
pub(crate) fn array<T, S, const N: usize>(array: &[T; N], serializer: S) -> Result<S::Ok, S::Error>
where
    T: serde::Serialize,
    S: Serializer,
{
    let mut tuple = serializer.serialize_tuple(N)?;
    for element in array {
        tuple.serialize_element(element)?;
    }
    tuple.end()
}
