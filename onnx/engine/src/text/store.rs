//! Keys and values of all sequences: the pages, and the cache of beginnings that uses what nobody runs in.
//!
//! A sequence gets its pages here and leaves them here. The cache gives up pages whenever a sequence needs them, so it may
//! use all the memory there is and costs nobody anything.

use super::pages::{PageTable, Pages};
use super::prefix::{Found, Identity, Partial, PrefixCache};
use super::step::StepModel;
use crate::error::Result;

/// Pages and prefix cache of one model.
pub(crate) struct Store {
    pages: Pages,
    prefix: PrefixCache,
    identity: Identity,
    page_bytes: usize,
}

impl Store {
    /// For a model of this name; the cache keeps at most `prefix_bytes`.
    pub(crate) fn new(name: &str, model: &dyn StepModel, prefix_bytes: usize) -> Self {
        let memory = model.memory();
        Self {
            pages: Pages::new(memory.page_tokens, memory.pages),
            prefix: PrefixCache::new(prefix_bytes / memory.page_bytes.max(1)),
            identity: Identity {
                model: name.to_owned(),
                adapter: None,
            },
            page_bytes: memory.page_bytes,
        }
    }

    /// Most tokens of one sequence that the pages have room for.
    pub(crate) fn tokens_max(&self) -> usize {
        self.pages.total().saturating_mul(self.pages.page_tokens())
    }

    /// Size of all pages.
    pub(crate) fn bytes(&self) -> usize {
        self.pages.total().saturating_mul(self.page_bytes)
    }

    /// Pages: in all, free, and kept by the cache.
    pub(crate) fn counts(&self) -> (usize, usize, usize) {
        (self.pages.total(), self.pages.free(), self.prefix.pages())
    }

    /// Changes whenever the cache knows more.
    pub(crate) fn generation(&self) -> u64 {
        self.prefix.generation()
    }

    /// How much of a prompt needs no run at this moment. The last token always runs: its scores are what comes out.
    pub(crate) fn known(&self, tokens: &[u32]) -> usize {
        let but_last = &tokens[..tokens.len().saturating_sub(1)];
        self.prefix.longest(&self.pages, &self.identity, but_last)
    }

    /// Pages for a sequence of these tokens, with the beginning that is known already in them; `None` when there is no
    /// room now.
    ///
    /// # Errors
    /// What the model says about copying a page.
    pub(crate) fn begin(
        &mut self,
        model: &mut dyn StepModel,
        tokens: &[u32],
    ) -> Result<Option<PageTable>> {
        let but_last = &tokens[..tokens.len().saturating_sub(1)];
        let found = self.prefix.find(&self.pages, &self.identity, but_last);
        // Held meanwhile, so that making room does not evict them.
        found.pages().for_each(|page| self.pages.share(page));
        let begun = self.fork(model, &found);
        found.pages().for_each(|page| self.pages.release(page));
        let mut table = begun?;
        if self.reserve(&mut table, tokens.len()) {
            return Ok(Some(table));
        }
        self.keep(tokens, table);
        Ok(None)
    }

    /// Extends a table to hold `tokens` tokens, at the cost of the cache. `false` when even that is not enough.
    pub(crate) fn reserve(&mut self, table: &mut PageTable, tokens: usize) -> bool {
        while self.pages.lacking(table, tokens) > self.pages.free() {
            if !self.prefix.evict(&mut self.pages) {
                return false;
            }
        }
        self.pages.grow(table, tokens).is_ok()
    }

    /// Lets others use the full pages of the first `tokens` of a running sequence.
    pub(crate) fn share(&mut self, tokens: &[u32], table: &PageTable) {
        self.prefix
            .share(&mut self.pages, &self.identity, tokens, table);
    }

    /// Keeps what a sequence has computed; `tokens` are all of its tokens.
    pub(crate) fn keep(&mut self, tokens: &[u32], table: PageTable) {
        self.prefix
            .keep(&mut self.pages, &self.identity, tokens, table);
    }

    /// Throws away what a sequence has computed.
    pub(crate) fn discard(&mut self, table: PageTable) {
        self.pages.release_all(table);
    }

    /// Forgets all beginnings.
    pub(crate) fn forget(&mut self) {
        self.prefix.clear(&mut self.pages);
    }

    fn fork(&mut self, model: &mut dyn StepModel, found: &Found) -> Result<PageTable> {
        let Some(partial) = found.partial else {
            return self.pages.fork(&found.full, None).map(|(table, _)| table);
        };
        // A page that the sequence goes on from as it is will come back longer: nothing is lost.
        if partial.whole
            && let Some(table) = self.adopt(found, partial)
        {
            return Ok(table);
        }
        while self.pages.free() == 0 && self.prefix.evict(&mut self.pages) {}
        match self
            .pages
            .fork(&found.full, Some((partial.page, partial.tokens)))
        {
            Ok((table, copy)) => {
                let copied = copy.map_or(Ok(()), |copy| {
                    model.copy_page(copy.from, copy.to, copy.tokens)
                });
                match copied {
                    Ok(()) => Ok(table),
                    Err(error) => {
                        self.pages.release_all(table);
                        Err(error)
                    }
                }
            }
            Err(_) => match self.adopt(found, partial) {
                Some(table) => Ok(table),
                None => self.pages.fork(&found.full, None).map(|(table, _)| table),
            },
        }
    }

    fn adopt(&mut self, found: &Found, partial: Partial) -> Option<PageTable> {
        self.prefix
            .take_over(&self.pages, partial, 1)
            .then(|| self.pages.adopt(&found.full, partial.page, partial.tokens))
    }
}
