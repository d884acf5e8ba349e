//! Keys and values of all sequences, in pages of 32 tokens, as half-precision numbers or as bytes.
//!
//! A sequence owns pages by a table, so that memory is given out as answers grow, and a beginning that several share is
//! stored once. Keys stand with the tokens side by side, so that the scores of a page are sums of whole registers; values
//! stand with the features side by side, for the same reason. Pages that were never written cost no memory.
//!
//! Bytes have a scale for each feature of each key head and layer, measured before (a feature of a key keeps its range over
//! all texts, its neighbour can have ten times of it). Attention multiplies the scales of keys into the query and those of
//! values into the result, so that what it reads per token needs no arithmetic of its own.
//!
//! ```text
//!   page    [layers][keys │ values]     keys [kv heads][head_dim][32]     values [kv heads][32][head_dim]     f16 or i8
//! ```

use std::cell::UnsafeCell;

use crate::simd::{LANES, Simd};

/// Tokens of a page.
pub const PAGE_TOKENS: usize = 32;
/// Most memory of a pool.
pub const MAX_POOL_BYTES: usize = 64 << 30;

/// How a key or a value is stored.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Element {
    /// Half precision, 2 bytes.
    #[default]
    F16,
    /// A whole number of scales from −127 to 127, 1 byte; what is beyond is stored as the nearest of them. Blocks need
    /// [`KvScales`].
    Int8,
}

impl Element {
    /// Bytes of one.
    #[must_use]
    pub const fn bytes(self) -> usize {
        match self {
            Element::F16 => 2,
            Element::Int8 => 1,
        }
    }

    /// Bytes of a page of a model, all layers together; `None` if they cannot be counted.
    #[must_use]
    pub fn page_bytes(self, layers: usize, kv_heads: usize, head_dim: usize) -> Option<usize> {
        [layers, 2 * PAGE_TOKENS, kv_heads, head_dim]
            .into_iter()
            .try_fold(self.bytes(), |product, size| product.checked_mul(size))
    }
}

/// What a byte of a layer's keys and values is worth, `[kv_heads · head_dim]` each; finite and above 0.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct KvScales<'a> {
    /// Of keys, after their norm and rotation.
    pub keys: &'a [f32],
    /// Of values.
    pub values: &'a [f32],
}

/// How elements are read and written; one type for each [`Element`], so that loops know it.
pub(crate) trait Stored: Copy {
    /// One of them.
    type Bits: Copy + Default;

    /// Sixteen numbers, in scales.
    unsafe fn load<S: Simd>(from: *const Self::Bits) -> S::F;

    /// Sixteen numbers; `scales` are as many, where elements have them.
    unsafe fn store<S: Simd>(x: S::F, scales: *const f32, to: *mut Self::Bits);
}

/// [`Element::F16`].
#[derive(Clone, Copy)]
pub(crate) struct Halves;

impl Stored for Halves {
    type Bits = u16;

    #[inline(always)]
    unsafe fn load<S: Simd>(from: *const u16) -> S::F {
        // SAFETY: as the caller promises.
        unsafe { S::load_f16(from) }
    }

    #[inline(always)]
    unsafe fn store<S: Simd>(x: S::F, _: *const f32, to: *mut u16) {
        // SAFETY: as the caller promises.
        unsafe { S::store_f16(x, to) }
    }
}

/// [`Element::Int8`].
#[derive(Clone, Copy)]
pub(crate) struct Bytes;

impl Stored for Bytes {
    type Bits = i8;

    #[inline(always)]
    unsafe fn load<S: Simd>(from: *const i8) -> S::F {
        // SAFETY: as the caller promises.
        unsafe { S::load_i8(from) }
    }

    #[inline(always)]
    unsafe fn store<S: Simd>(x: S::F, scales: *const f32, to: *mut i8) {
        // SAFETY: as the caller promises.
        unsafe { S::store_i8(S::div(x, S::load(scales)), to) }
    }
}

/// Sixteen numbers that stand `stride` elements apart.
///
/// # Safety
/// As [`Stored::store`], and all sixteen places are inside.
#[inline(always)]
pub(crate) unsafe fn scatter<S: Simd, E: Stored>(
    x: S::F,
    scales: *const f32,
    to: *mut E::Bits,
    stride: usize,
) {
    let mut column = [E::Bits::default(); LANES];
    // SAFETY: as the caller promises.
    unsafe {
        E::store::<S>(x, scales, column.as_mut_ptr());
        for (i, element) in column.into_iter().enumerate() {
            to.add(i * stride).write_unaligned(element);
        }
    }
}

/// A pool that would be too large, or empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "keys and values of {pages} pages, {layers} layers, {kv_heads} heads of {head_dim}: expected sizes above 0 and at most {MAX_POOL_BYTES} bytes in all"
)]
pub struct PoolError {
    /// Pages asked for.
    pub pages: usize,
    /// Layers of the model.
    pub layers: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
}

/// The pages.
pub struct Pool {
    memory: UnsafeCell<Vec<u8>>,
    element: Element,
    pages: usize,
    layers: usize,
    kv_heads: usize,
    head_dim: usize,
}

// SAFETY: within a call each position of a head is written by one task, and read in a later phase (see `block`); calls take the
// workspace mutably, and `copy` takes the pool mutably.
unsafe impl Sync for Pool {}

impl Pool {
    /// Memory for `pages` pages of a model.
    ///
    /// # Errors
    /// [`PoolError`] when a size is 0 or the product exceeds [`MAX_POOL_BYTES`].
    pub fn new(
        element: Element,
        pages: usize,
        layers: usize,
        kv_heads: usize,
        head_dim: usize,
    ) -> Result<Pool, PoolError> {
        let bytes = element
            .page_bytes(layers, kv_heads, head_dim)
            .and_then(|page| page.checked_mul(pages))
            .filter(|bytes| *bytes > 0 && *bytes <= MAX_POOL_BYTES)
            .ok_or(PoolError {
                pages,
                layers,
                kv_heads,
                head_dim,
            })?;
        Ok(Pool {
            memory: UnsafeCell::new(vec![0; bytes]),
            element,
            pages,
            layers,
            kv_heads,
            head_dim,
        })
    }

    /// How keys and values are stored.
    #[must_use]
    pub fn element(&self) -> Element {
        self.element
    }

    /// Pages.
    #[must_use]
    pub fn pages(&self) -> usize {
        self.pages
    }

    /// Layers of the model.
    #[must_use]
    pub fn layers(&self) -> usize {
        self.layers
    }

    /// Key and value heads of a layer.
    #[must_use]
    pub fn kv_heads(&self) -> usize {
        self.kv_heads
    }

    /// Width of a head.
    #[must_use]
    pub fn head_dim(&self) -> usize {
        self.head_dim
    }

    /// Bytes of a page, all layers together.
    #[must_use]
    pub fn page_bytes(&self) -> usize {
        self.layers * 2 * self.part_bytes()
    }

    /// Bytes of the keys, or values, of one head in one page.
    fn head_bytes(&self) -> usize {
        self.head_dim * PAGE_TOKENS * self.element.bytes()
    }

    /// Bytes of the keys, or values, of one layer in one page.
    fn part_bytes(&self) -> usize {
        self.kv_heads * self.head_bytes()
    }

    /// Keys `[head_dim][32]` and values `[32][head_dim]` of one head in one page.
    ///
    /// # Safety
    /// `page`, `layer` and `head` are in range, and `E` is what the pool stores.
    #[inline(always)]
    pub(crate) unsafe fn head<E: Stored>(
        &self,
        page: usize,
        layer: usize,
        head: usize,
    ) -> (*mut E::Bits, *mut E::Bits) {
        debug_assert_eq!(size_of::<E::Bits>(), self.element.bytes());
        let part = self.part_bytes();
        let at = page * self.page_bytes() + layer * 2 * part + head * self.head_bytes();
        // SAFETY: in range by the caller's promise. The memory is one of bytes, so nobody relies on alignment.
        unsafe {
            let keys = (*self.memory.get()).as_mut_ptr().add(at);
            (keys.cast(), keys.add(part).cast())
        }
    }

    /// Copies the first `tokens` tokens of page `from` to page `to`, in all layers.
    ///
    /// # Panics
    /// When a page or the number of tokens is out of range.
    pub fn copy(&mut self, from: usize, to: usize, tokens: usize) {
        assert!(from < self.pages && to < self.pages && tokens <= PAGE_TOKENS);
        let (page, part, size) = (self.page_bytes(), self.part_bytes(), self.element.bytes());
        let (width, head_bytes) = (self.head_dim, self.head_bytes());
        let memory = self.memory.get_mut();
        for layer in 0..self.layers {
            for head in 0..self.kv_heads {
                let at = layer * 2 * part + head * head_bytes;
                for feature in 0..width {
                    let keys = at + feature * PAGE_TOKENS * size;
                    let source = from * page + keys..from * page + keys + tokens * size;
                    memory.copy_within(source, to * page + keys);
                }
                let values = at + part;
                let source = from * page + values..from * page + values + tokens * width * size;
                memory.copy_within(source, to * page + values);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_limited() {
        for (pages, layers, kv_heads, head_dim) in [
            (0, 1, 1, 1),
            (1, 0, 1, 1),
            (usize::MAX, 2, 2, 2),
            (1 << 30, 30, 3, 64),
        ] {
            for element in [Element::F16, Element::Int8] {
                let error = Pool::new(element, pages, layers, kv_heads, head_dim).err();
                assert!(error.is_some(), "{pages} {layers} {kv_heads} {head_dim}");
            }
        }
        for (element, bytes) in [(Element::F16, 2), (Element::Int8, 1)] {
            let pool = Pool::new(element, 3, 30, 3, 64).unwrap();
            assert_eq!(pool.page_bytes(), 30 * 2 * 3 * 64 * 32 * bytes);
            assert_eq!(element.page_bytes(30, 3, 64), Some(pool.page_bytes()));
        }
    }

    fn check_copy<
        E: Stored<Bits: TryFrom<u8, Error: std::fmt::Debug> + PartialEq + std::fmt::Debug>,
    >(
        element: Element,
    ) {
        let mut pool = Pool::new(element, 2, 2, 1, 16).unwrap();
        let number =
            |layer: usize, token: usize| E::Bits::try_from((50 * layer + token) as u8 + 1).unwrap();
        for layer in 0..2 {
            let (keys, values) = unsafe { pool.head::<E>(0, layer, 0) };
            for i in 0..16 * PAGE_TOKENS {
                unsafe {
                    keys.add(i).write_unaligned(number(layer, i % PAGE_TOKENS));
                    values.add(i).write_unaligned(number(layer, i / 16));
                }
            }
        }
        pool.copy(0, 1, 5);
        for layer in 0..2 {
            let (keys, values) = unsafe { pool.head::<E>(1, layer, 0) };
            for i in 0..16 * PAGE_TOKENS {
                let expected = |token: usize| {
                    if token < 5 {
                        number(layer, token)
                    } else {
                        E::Bits::default()
                    }
                };
                unsafe {
                    assert_eq!(keys.add(i).read_unaligned(), expected(i % PAGE_TOKENS));
                    assert_eq!(values.add(i).read_unaligned(), expected(i / 16));
                }
            }
        }
    }

    #[test]
    fn a_copied_page_has_the_first_tokens_only() {
        check_copy::<Halves>(Element::F16);
        check_copy::<Bytes>(Element::Int8);
    }

    /// What each instruction set makes of numbers at the ends of a byte and beyond.
    fn check_bytes<S: Simd>(isa: &str) {
        let scales = [0.5_f32; LANES];
        let x: [f32; LANES] = [
            0.0,
            0.2,
            -0.26,
            63.5,
            -63.5,
            63.7,
            64.0,
            -64.0,
            1e9,
            -1e9,
            3e38,
            -3e38,
            f32::INFINITY,
            f32::NEG_INFINITY,
            31.3,
            -31.3,
        ];
        let expected = [
            0, 0, -1, 127, -127, 127, 127, -127, 127, -127, 127, -127, 127, -127, 63, -63,
        ];
        let mut bytes = [0_i8; LANES];
        let mut back = [0.0_f32; LANES];
        unsafe {
            Bytes::store::<S>(S::load(x.as_ptr()), scales.as_ptr(), bytes.as_mut_ptr());
            S::store(Bytes::load::<S>(bytes.as_ptr()), back.as_mut_ptr());
        }
        assert_eq!(bytes, expected, "{isa}");
        assert_eq!(back, expected.map(f32::from), "{isa}");
        let mut column = [0_i8; 3 * LANES];
        unsafe {
            scatter::<S, Bytes>(S::load(x.as_ptr()), scales.as_ptr(), column.as_mut_ptr(), 3);
        }
        for (i, byte) in column.into_iter().enumerate() {
            let expected = if i % 3 == 0 { expected[i / 3] } else { 0 };
            assert_eq!(byte, expected, "{isa}: {i}");
        }
    }

    #[test]
    fn bytes_saturate() {
        use crate::{Isa, simd};
        check_bytes::<simd::portable::Portable>("portable");
        #[cfg(target_arch = "x86_64")]
        if Isa::Avx2.is_available() {
            check_bytes::<simd::avx2::Avx2>("avx2");
        }
        #[cfg(target_arch = "x86_64")]
        if Isa::Avx512Vnni.is_available() {
            check_bytes::<simd::avx512::Avx512Vnni>("avx512-vnni");
        }
    }
}
