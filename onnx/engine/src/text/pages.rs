//! Pages of keys and values: who holds which, and how many are left.
//!
//! A page may be held several times (by sequences with the same beginning, and by the prefix cache); it is written only
//! while it is held once. What is shared is full and stays as it is, so there is nothing to lock: a sequence that begins
//! like another shares its full pages and gets a copy of the page where they part.
//!
//! ```text
//! free ──take──► held once ──share──► held n times ──release──► … ──► free
//!                written              read only
//! ```

use crate::error::{EngineError, Result};

/// The pages of one model.
#[derive(Debug)]
pub(crate) struct Pages {
    page_tokens: usize,
    /// How often each page is held.
    holders: Vec<u32>,
    /// Last freed first, so that warm memory is used again.
    free: Vec<u32>,
}

/// The pages of one sequence, in order, and how many of its tokens are in them.
#[derive(Debug, Default)]
pub(crate) struct PageTable {
    pages: Vec<u32>,
    tokens: usize,
}

/// A copy that the model has to make before it writes: the beginning of a page that others go on reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PageCopy {
    pub(crate) from: u32,
    pub(crate) to: u32,
    pub(crate) tokens: usize,
}

impl PageTable {
    /// Its pages, in order.
    pub(crate) fn pages(&self) -> &[u32] {
        &self.pages
    }

    /// Tokens whose keys and values are in the pages.
    pub(crate) fn tokens(&self) -> usize {
        self.tokens
    }

    /// Counts tokens that the model has written.
    pub(crate) fn wrote(&mut self, tokens: usize) {
        self.tokens += tokens;
    }
}

impl Pages {
    /// All of them free. `page_tokens` and `count` are at least 1.
    pub(crate) fn new(page_tokens: usize, count: usize) -> Self {
        Self {
            page_tokens,
            holders: vec![0; count],
            free: (0..count as u32).rev().collect(),
        }
    }

    /// Tokens of a page.
    pub(crate) fn page_tokens(&self) -> usize {
        self.page_tokens
    }

    /// Pages in all.
    pub(crate) fn total(&self) -> usize {
        self.holders.len()
    }

    /// Pages nobody holds.
    pub(crate) fn free(&self) -> usize {
        self.free.len()
    }

    /// How often a page is held.
    pub(crate) fn holders(&self, page: u32) -> u32 {
        self.holders[page as usize]
    }

    /// Pages that `table` lacks for a length of `tokens`.
    pub(crate) fn lacking(&self, table: &PageTable, tokens: usize) -> usize {
        tokens
            .div_ceil(self.page_tokens)
            .saturating_sub(table.pages.len())
    }

    /// Extends a table to hold `tokens` tokens in all, or changes nothing.
    ///
    /// # Errors
    /// [`EngineError::PagesFull`].
    pub(crate) fn grow(&mut self, table: &mut PageTable, tokens: usize) -> Result<()> {
        let needed = self.lacking(table, tokens);
        if needed > self.free.len() {
            return Err(self.full(needed));
        }
        for _ in 0..needed {
            table.pages.push(self.take()?);
        }
        Ok(())
    }

    /// A table that begins with `full` pages of somebody else and, if the beginnings part inside a page, with a copy of
    /// that page's first tokens. Changes nothing when there is no page for the copy.
    ///
    /// # Errors
    /// [`EngineError::PagesFull`].
    pub(crate) fn fork(
        &mut self,
        full: &[u32],
        partial: Option<(u32, usize)>,
    ) -> Result<(PageTable, Option<PageCopy>)> {
        let copy = match partial {
            Some((from, tokens)) => Some(PageCopy {
                from,
                to: self.take()?,
                tokens,
            }),
            None => None,
        };
        for page in full {
            self.share(*page);
        }
        let mut pages = full.to_vec();
        pages.extend(copy.map(|copy| copy.to));
        let tokens = full.len() * self.page_tokens + copy.map_or(0, |copy| copy.tokens);
        Ok((PageTable { pages, tokens }, copy))
    }

    /// A table that begins with `full` pages of somebody else, and with `last`, which its holder gives away.
    pub(crate) fn adopt(&mut self, full: &[u32], last: u32, tokens: usize) -> PageTable {
        for page in full {
            self.share(*page);
        }
        let mut pages = full.to_vec();
        pages.push(last);
        PageTable {
            pages,
            tokens: full.len() * self.page_tokens + tokens,
        }
    }

    /// Gives up a whole table.
    pub(crate) fn release_all(&mut self, table: PageTable) {
        for page in table.pages {
            self.release(page);
        }
    }

    /// Takes a table apart: its pages, still held, and how many tokens are in them.
    pub(crate) fn into_parts(table: PageTable) -> (Vec<u32>, usize) {
        (table.pages, table.tokens)
    }

    /// One more holder of a page.
    pub(crate) fn share(&mut self, page: u32) {
        debug_assert!(self.holders(page) > 0, "a free page cannot be shared");
        self.holders[page as usize] += 1;
    }

    /// One holder less; the last one makes it free.
    pub(crate) fn release(&mut self, page: u32) {
        let holders = &mut self.holders[page as usize];
        debug_assert!(*holders > 0, "a free page cannot be released");
        *holders = holders.saturating_sub(1);
        if *holders == 0 {
            self.free.push(page);
        }
    }

    fn take(&mut self) -> Result<u32> {
        let page = self.free.pop().ok_or_else(|| self.full(1))?;
        self.holders[page as usize] = 1;
        Ok(page)
    }

    fn full(&self, needed: usize) -> EngineError {
        EngineError::PagesFull {
            needed,
            free: self.free.len(),
            total: self.total(),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PAGE_TOKENS: usize = 4;

    #[test]
    fn a_refusal_says_all_numbers_and_changes_nothing() {
        let mut pages = Pages::new(PAGE_TOKENS, 3);
        let mut table = PageTable::default();
        pages.grow(&mut table, 5).unwrap();
        let error = pages.grow(&mut table, 17).unwrap_err();
        assert!(
            matches!(
                error,
                EngineError::PagesFull {
                    needed: 3,
                    free: 1,
                    total: 3
                }
            ),
            "{error}"
        );
        assert_eq!((table.pages().len(), pages.free()), (2, 1));
        pages.grow(&mut table, 12).unwrap();
        assert!(
            pages.fork(&[0], Some((1, 2))).is_err(),
            "no page for the copy"
        );
        assert_eq!(pages.holders(0), 1, "and nothing is shared");
        pages.release_all(table);
        assert_eq!(pages.free(), 3);
    }

    #[test]
    fn a_fork_shares_full_pages_and_copies_the_one_where_they_part() {
        let mut pages = Pages::new(PAGE_TOKENS, 4);
        let mut first = PageTable::default();
        pages.grow(&mut first, 7).unwrap();
        first.wrote(7);
        let (full, last) = (&first.pages()[..1], first.pages()[1]);
        let (second, copy) = pages.fork(full, Some((last, 2))).unwrap();
        assert_eq!(second.tokens(), 6);
        assert_eq!(second.pages()[0], full[0]);
        let copy = copy.unwrap();
        assert_eq!(
            (copy.from, copy.to, copy.tokens),
            (last, second.pages()[1], 2)
        );
        assert_eq!(
            (pages.holders(full[0]), pages.holders(last), pages.free()),
            (2, 1, 1)
        );
    }

    #[derive(Debug, Clone)]
    enum Act {
        Grow(usize, usize),
        Fork(usize, usize),
        End(usize),
    }

    fn act() -> impl Strategy<Value = Act> {
        prop_oneof![
            (0..6_usize, 1..9_usize).prop_map(|(who, more)| Act::Grow(who, more)),
            (0..6_usize, 0..24_usize).prop_map(|(who, keep)| Act::Fork(who, keep)),
            (0..6_usize).prop_map(Act::End),
        ]
    }

    proptest! {
        /// Whatever sequences do, every page is free or held as often as tables list it, and what is written is held once.
        #[test]
        fn no_page_is_lost_or_shared_while_written(acts in prop::collection::vec(act(), 1..120)) {
            let mut pages = Pages::new(PAGE_TOKENS, 12);
            let mut tables: Vec<PageTable> = Vec::new();
            for act in acts {
                match act {
                    Act::Grow(who, more) => {
                        if tables.len() <= who {
                            tables.push(PageTable::default());
                        }
                        let at = who.min(tables.len() - 1);
                        let table = &mut tables[at];
                        let begin = table.tokens();
                        if pages.grow(table, begin + more).is_ok() {
                            for page in &table.pages()[begin / PAGE_TOKENS..(begin + more).div_ceil(PAGE_TOKENS)] {
                                prop_assert_eq!(pages.holders(*page), 1, "page {} is written", page);
                            }
                            table.wrote(more);
                        }
                    }
                    Act::Fork(who, keep) if who < tables.len() => {
                        let source = &tables[who];
                        let keep = keep.min(source.tokens());
                        let full = source.pages()[..keep / PAGE_TOKENS].to_vec();
                        let rest = keep % PAGE_TOKENS;
                        let partial = (rest > 0).then(|| (source.pages()[full.len()], rest));
                        if let Ok((table, _)) = pages.fork(&full, partial) {
                            prop_assert_eq!(table.tokens(), keep);
                            tables.push(table);
                        }
                    }
                    Act::End(who) if who < tables.len() => {
                        let table = tables.swap_remove(who);
                        pages.release_all(table);
                    }
                    Act::Fork(..) | Act::End(_) => {}
                }
                for page in 0..pages.total() as u32 {
                    let listed = tables.iter().flat_map(PageTable::pages).filter(|other| **other == page).count();
                    prop_assert_eq!(pages.holders(page) as usize, listed);
                    prop_assert_eq!(pages.free.contains(&page), listed == 0);
                }
            }
            tables.into_iter().for_each(|table| pages.release_all(table));
            prop_assert_eq!(pages.free(), pages.total());
        }
    }
}
