//! Keys and values of all sequences, in pages of 32 tokens and half precision.
//!
//! A sequence owns pages by a table, so that memory is given out as answers grow, and a beginning that several share is
//! stored once. Keys stand with the tokens side by side, so that the scores of a page are sums of whole registers; values
//! stand with the features side by side, for the same reason. Pages that were never written cost no memory.
//!
//! ```text
//!   page    [layers][keys │ values]     keys [kv heads][head_dim][32]     values [kv heads][32][head_dim]     f16
//! ```

use std::cell::UnsafeCell;

/// Tokens of a page.
pub const PAGE_TOKENS: usize = 32;
/// Most memory of a pool.
pub const MAX_POOL_BYTES: usize = 64 << 30;

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
    memory: UnsafeCell<Vec<u16>>,
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
        pages: usize,
        layers: usize,
        kv_heads: usize,
        head_dim: usize,
    ) -> Result<Pool, PoolError> {
        let elements = [layers, 2 * PAGE_TOKENS, kv_heads, head_dim]
            .into_iter()
            .try_fold(pages, |product, size| product.checked_mul(size))
            .filter(|elements| *elements > 0 && *elements <= MAX_POOL_BYTES / 2)
            .ok_or(PoolError {
                pages,
                layers,
                kv_heads,
                head_dim,
            })?;
        Ok(Pool {
            memory: UnsafeCell::new(vec![0; elements]),
            pages,
            layers,
            kv_heads,
            head_dim,
        })
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
        self.page_elements() * 2
    }

    fn page_elements(&self) -> usize {
        self.layers * 2 * self.part_elements()
    }

    /// Keys, or values, of one layer in one page.
    fn part_elements(&self) -> usize {
        self.kv_heads * self.head_dim * PAGE_TOKENS
    }

    /// Keys `[head_dim][32]` and values `[32][head_dim]` of one head in one page.
    ///
    /// # Safety
    /// `page`, `layer` and `head` are in range.
    #[inline(always)]
    pub(crate) unsafe fn head(
        &self,
        page: usize,
        layer: usize,
        head: usize,
    ) -> (*mut u16, *mut u16) {
        let at = page * self.page_elements()
            + layer * 2 * self.part_elements()
            + head * self.head_dim * PAGE_TOKENS;
        // SAFETY: in range by the caller's promise.
        unsafe {
            let keys = (*self.memory.get()).as_mut_ptr().add(at);
            (keys, keys.add(self.part_elements()))
        }
    }

    /// Copies the first `tokens` tokens of page `from` to page `to`, in all layers.
    ///
    /// # Panics
    /// When a page or the number of tokens is out of range.
    pub fn copy(&mut self, from: usize, to: usize, tokens: usize) {
        assert!(from < self.pages && to < self.pages && tokens <= PAGE_TOKENS);
        let (page, part, width) = (self.page_elements(), self.part_elements(), self.head_dim);
        let memory = self.memory.get_mut();
        for layer in 0..self.layers {
            for head in 0..self.kv_heads {
                let at = layer * 2 * part + head * width * PAGE_TOKENS;
                for feature in 0..width {
                    let keys = at + feature * PAGE_TOKENS;
                    let source = from * page + keys..from * page + keys + tokens;
                    memory.copy_within(source, to * page + keys);
                }
                let values = at + part;
                let source = from * page + values..from * page + values + tokens * width;
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
            let error = Pool::new(pages, layers, kv_heads, head_dim).err();
            assert!(error.is_some(), "{pages} {layers} {kv_heads} {head_dim}");
        }
        assert_eq!(
            Pool::new(3, 30, 3, 64).unwrap().page_bytes(),
            30 * 2 * 3 * 64 * 32 * 2
        );
    }

    #[test]
    fn a_copied_page_has_the_first_tokens_only() {
        let mut pool = Pool::new(2, 2, 1, 16).unwrap();
        for layer in 0..2 {
            let (keys, values) = unsafe { pool.head(0, layer, 0) };
            for i in 0..16 * PAGE_TOKENS {
                unsafe {
                    keys.add(i)
                        .write((100 * layer + i % PAGE_TOKENS) as u16 + 1);
                    values.add(i).write((100 * layer + i / 16) as u16 + 1);
                }
            }
        }
        pool.copy(0, 1, 5);
        for layer in 0..2 {
            let (keys, values) = unsafe { pool.head(1, layer, 0) };
            for i in 0..16 * PAGE_TOKENS {
                let expect = |token: usize| {
                    if token < 5 {
                        (100 * layer + token) as u16 + 1
                    } else {
                        0
                    }
                };
                unsafe {
                    assert_eq!(*keys.add(i), expect(i % PAGE_TOKENS));
                    assert_eq!(*values.add(i), expect(i / 16));
                }
            }
        }
    }
}
