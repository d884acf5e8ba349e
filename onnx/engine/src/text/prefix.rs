//! The prefix cache: pages of finished prompts and answers, found again by the tokens in them.
//!
//! A node asks with the same rules and examples every time, so most of a prompt has been computed before. The cache is a
//! tree over pages: a full page may have children, a page that was not filled is a leaf. A new prompt walks down as far as
//! its tokens agree; inside the page where they part, the common beginning still counts (it is copied, or the page is taken
//! over if nobody else needs it: so a model with a single page keeps its own beginning).
//!
//! ```text
//! root ── [You advise the planner…] ── [ … one action.\nUser: ] ─┬─ [slow down]         leaf, not full
//!                                                                └─ [stop at the …] ── [ … ]
//! ```
//!
//! Pages are given up one by one, least recently used leaf first, when a sequence needs them or the cache is over its
//! limit. A leaf that a running sequence also holds would free nothing and is passed over.

use std::collections::BTreeMap;

use super::pages::{PageTable, Pages};

/// Whose keys and values they are: the same tokens give others under other weights.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Identity {
    pub(crate) model: String,
    pub(crate) adapter: Option<String>,
}

/// What is kept. It does not own the pages' memory, only holds them (see [`Pages`]).
#[derive(Debug)]
pub(crate) struct PrefixCache {
    nodes: Vec<Option<Node>>,
    vacant: Vec<usize>,
    roots: BTreeMap<Identity, Vec<usize>>,
    /// Most pages kept.
    limit: usize,
    held: usize,
    /// Counts uses; what was used last has the highest number.
    clock: u64,
    /// Counts additions: whoever looked before one may find more now.
    generation: u64,
}

#[derive(Debug)]
struct Node {
    tokens: Box<[u32]>,
    page: u32,
    parent: Option<usize>,
    identity: Identity,
    children: Vec<usize>,
    used: u64,
}

/// The longest known beginning of a sequence.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Found {
    /// Pages that agree as a whole.
    pub(crate) full: Vec<u32>,
    /// The page where the beginnings part.
    pub(crate) partial: Option<Partial>,
}

/// A page of which only the beginning agrees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Partial {
    node: usize,
    pub(crate) page: u32,
    /// How many tokens agree.
    pub(crate) tokens: usize,
    /// Whether these are all that the page holds.
    pub(crate) whole: bool,
}

impl Found {
    /// All its pages.
    pub(crate) fn pages(&self) -> impl Iterator<Item = u32> + '_ {
        let partial = self.partial.map(|partial| partial.page);
        self.full.iter().copied().chain(partial)
    }
}

impl PrefixCache {
    /// An empty cache of at most `limit` pages.
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            nodes: Vec::new(),
            vacant: Vec::new(),
            roots: BTreeMap::new(),
            limit,
            held: 0,
            clock: 0,
            generation: 0,
        }
    }

    /// Pages it holds.
    pub(crate) fn pages(&self) -> usize {
        self.held
    }

    /// Changes whenever something is added.
    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    /// Length of the longest known beginning of `tokens`; does not count as a use.
    pub(crate) fn longest(&self, pages: &Pages, identity: &Identity, tokens: &[u32]) -> usize {
        let (path, partial) = self.walk(pages, identity, tokens);
        path.len() * pages.page_tokens() + partial.map_or(0, |(_, common)| common)
    }

    /// The longest known beginning of `tokens`, whose pages count as used now.
    pub(crate) fn find(&mut self, pages: &Pages, identity: &Identity, tokens: &[u32]) -> Found {
        let (path, partial) = self.walk(pages, identity, tokens);
        self.clock += 1;
        let mut found = Found::default();
        for index in path {
            found.full.extend(self.touch(index));
        }
        found.partial = partial.and_then(|(index, common)| {
            let page = self.touch(index)?;
            let whole = self.nodes[index].as_ref()?.tokens.len() == common;
            Some(Partial {
                node: index,
                page,
                tokens: common,
                whole,
            })
        });
        found
    }

    /// Gives a found page to the caller if that takes nothing from anybody: no page depends on it, and besides the cache it
    /// is held `others` times (by the caller, so that it is not evicted).
    pub(crate) fn take_over(&mut self, pages: &Pages, partial: Partial, others: u32) -> bool {
        let leaf = self.nodes[partial.node]
            .as_ref()
            .is_some_and(|node| node.children.is_empty() && node.page == partial.page);
        let free = leaf && pages.holders(partial.page) == 1 + others;
        if free {
            self.remove(partial.node);
        }
        free
    }

    /// Keeps the pages of a sequence that has ended or pauses; `tokens` are all that the table has been written with.
    pub(crate) fn keep(
        &mut self,
        pages: &mut Pages,
        identity: &Identity,
        tokens: &[u32],
        table: PageTable,
    ) {
        let (list, written) = Pages::into_parts(table);
        self.clock += 1;
        let mut chunks = tokens[..written].chunks(pages.page_tokens());
        let mut parent = None;
        for page in list {
            // Pages beyond the last token were reserved and never written.
            let node = chunks
                .next()
                .map(|chunk| self.insert(pages, identity, parent, chunk, page));
            match node {
                Some((index, true)) => parent = Some(index),
                Some((index, false)) => {
                    pages.release(page);
                    parent = Some(index);
                }
                None => pages.release(page),
            }
        }
        self.shrink(pages);
    }

    /// Lets others use the full pages of a running sequence among its first `tokens`: it will not write them again.
    pub(crate) fn share(
        &mut self,
        pages: &mut Pages,
        identity: &Identity,
        tokens: &[u32],
        table: &PageTable,
    ) {
        self.clock += 1;
        let mut parent = None;
        for (chunk, page) in tokens
            .chunks_exact(pages.page_tokens())
            .zip(table.pages().iter().copied())
        {
            let (index, taken) = self.insert(pages, identity, parent, chunk, page);
            if taken {
                pages.share(page);
            }
            parent = Some(index);
        }
        self.shrink(pages);
    }

    /// Gives up the least recently used page that nobody else holds. `false` when there is none.
    pub(crate) fn evict(&mut self, pages: &mut Pages) -> bool {
        self.evict_leaf(pages, |pages, page| pages.holders(page) == 1)
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self, pages: &mut Pages) {
        while self.evict_leaf(pages, |_, _| true) {}
    }

    fn shrink(&mut self, pages: &mut Pages) {
        while self.held > self.limit && (self.evict(pages) || self.evict_leaf(pages, |_, _| true)) {
        }
    }

    fn evict_leaf(&mut self, pages: &mut Pages, may: impl Fn(&Pages, u32) -> bool) -> bool {
        let oldest = self
            .nodes
            .iter()
            .enumerate()
            .filter_map(|(index, node)| Some((index, node.as_ref()?)))
            .filter(|(_, node)| node.children.is_empty() && may(pages, node.page))
            .min_by_key(|(_, node)| node.used)
            .map(|(index, _)| index);
        let page = oldest.and_then(|index| self.remove(index));
        page.map(|page| pages.release(page)).is_some()
    }

    /// The nodes that agree as a whole, and the one of which a beginning does.
    fn walk(
        &self,
        pages: &Pages,
        identity: &Identity,
        tokens: &[u32],
    ) -> (Vec<usize>, Option<(usize, usize)>) {
        let mut path = Vec::new();
        let mut rest = tokens;
        while let Some((index, common)) = self
            .children(identity, path.last().copied())
            .iter()
            .filter_map(|index| Some((*index, common(&self.nodes[*index].as_ref()?.tokens, rest))))
            .max_by_key(|(_, common)| *common)
            .filter(|(_, common)| *common > 0)
        {
            if common < pages.page_tokens() {
                return (path, Some((index, common)));
            }
            path.push(index);
            rest = &rest[common..];
        }
        (path, None)
    }

    fn children(&self, identity: &Identity, parent: Option<usize>) -> &[usize] {
        match parent {
            None => self.roots.get(identity).map_or(&[], Vec::as_slice),
            Some(index) => self.nodes[index]
                .as_ref()
                .map_or(&[], |node| &node.children),
        }
    }

    /// Adds a page below `parent`. Returns its node, and whether the page was taken: not if these tokens are known.
    fn insert(
        &mut self,
        pages: &mut Pages,
        identity: &Identity,
        parent: Option<usize>,
        chunk: &[u32],
        page: u32,
    ) -> (usize, bool) {
        let related = self
            .children(identity, parent)
            .iter()
            .copied()
            .find(|index| {
                self.nodes[*index].as_ref().is_some_and(|node| {
                    node.tokens.starts_with(chunk) || chunk.starts_with(&node.tokens)
                })
            });
        let used = self.clock;
        if let Some(index) = related
            && let Some(node) = &mut self.nodes[index]
        {
            node.used = used;
            if node.tokens.len() >= chunk.len() {
                return (index, false);
            }
            // It was a shorter beginning of the same, so it has no children.
            pages.release(std::mem::replace(&mut node.page, page));
            node.tokens = chunk.into();
            self.generation += 1;
            return (index, true);
        }
        let node = Node {
            tokens: chunk.into(),
            page,
            parent,
            identity: identity.clone(),
            children: Vec::new(),
            used,
        };
        let index = match self.vacant.pop() {
            Some(index) => {
                self.nodes[index] = Some(node);
                index
            }
            None => {
                self.nodes.push(Some(node));
                self.nodes.len() - 1
            }
        };
        self.siblings(identity, parent).push(index);
        self.held += 1;
        self.generation += 1;
        (index, true)
    }

    fn siblings(&mut self, identity: &Identity, parent: Option<usize>) -> &mut Vec<usize> {
        match parent.and_then(|index| self.nodes[index].as_mut()) {
            Some(node) => &mut node.children,
            None => self.roots.entry(identity.clone()).or_default(),
        }
    }

    fn remove(&mut self, index: usize) -> Option<u32> {
        let node = self.nodes[index].take()?;
        self.siblings(&node.identity, node.parent)
            .retain(|child| *child != index);
        if self.roots.get(&node.identity).is_some_and(Vec::is_empty) {
            self.roots.remove(&node.identity);
        }
        self.vacant.push(index);
        self.held -= 1;
        Some(node.page)
    }

    fn touch(&mut self, index: usize) -> Option<u32> {
        let used = self.clock;
        let node = self.nodes[index].as_mut()?;
        node.used = used;
        Some(node.page)
    }
}

fn common(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PAGE_TOKENS: usize = 4;

    fn who(adapter: Option<&str>) -> Identity {
        Identity {
            model: "m".to_owned(),
            adapter: adapter.map(str::to_owned),
        }
    }

    fn tokens(text: &str) -> Vec<u32> {
        text.bytes().map(u32::from).collect()
    }

    /// Keeps a text as a sequence that has ended.
    fn keep(cache: &mut PrefixCache, pages: &mut Pages, text: &str) {
        let tokens = tokens(text);
        let mut table = PageTable::default();
        while pages.grow(&mut table, tokens.len()).is_err() {
            assert!(cache.evict(pages), "nothing to evict");
        }
        table.wrote(tokens.len());
        cache.keep(pages, &who(None), &tokens, table);
    }

    fn longest(cache: &PrefixCache, pages: &Pages, text: &str) -> usize {
        cache.longest(pages, &who(None), &tokens(text))
    }

    #[test]
    fn the_longest_beginning_is_found_and_only_under_its_own_name() {
        let (mut cache, mut pages) = (PrefixCache::new(100), Pages::new(PAGE_TOKENS, 20));
        keep(&mut cache, &mut pages, "system: ask one");
        keep(&mut cache, &mut pages, "system: ask two!");
        assert_eq!(
            cache.pages(),
            5,
            "two pages are common, the third and the fourth are not all"
        );
        for (why, text, expected) in [
            ("a page and a half", "system", 6),
            ("to the middle of a page", "system: ask t??", 13),
            ("all of it", "system: ask two!", 16),
            ("longer than what is known", "system: ask one more", 15),
            ("nothing", "System", 0),
            ("no tokens", "", 0),
        ] {
            assert_eq!(longest(&cache, &pages, text), expected, "{why}");
        }
        assert_eq!(cache.longest(&pages, &who(Some("a")), &tokens("system")), 0);
        cache.clear(&mut pages);
        assert_eq!((cache.pages(), pages.free()), (0, 20));
        assert!(cache.roots.is_empty(), "no name is kept for nothing");
    }

    #[test]
    fn a_longer_sequence_replaces_its_own_beginning() {
        let (mut cache, mut pages) = (PrefixCache::new(100), Pages::new(PAGE_TOKENS, 20));
        for text in ["abcdef", "abcdefg", "abcdefghij", "abcde"] {
            keep(&mut cache, &mut pages, text);
        }
        assert_eq!((cache.pages(), pages.free()), (3, 17));
        assert_eq!(longest(&cache, &pages, "abcdefghijk"), 10);
    }

    #[test]
    fn the_least_recently_used_leaf_goes_first_and_shared_ones_stay() {
        let (mut cache, mut pages) = (PrefixCache::new(100), Pages::new(PAGE_TOKENS, 6));
        keep(&mut cache, &mut pages, "aaaabbbb");
        keep(&mut cache, &mut pages, "aaaacccc");
        keep(&mut cache, &mut pages, "dddd");
        cache.find(&pages, &who(None), &tokens("aaaabbbb"));
        assert!(cache.evict(&mut pages));
        assert_eq!(
            longest(&cache, &pages, "aaaacccc"),
            4,
            "cccc was used longest ago"
        );
        let found = cache.find(&pages, &who(None), &tokens("dddd"));
        let (running, _) = pages.fork(&found.full, None).unwrap();
        assert!(cache.evict(&mut pages) && cache.evict(&mut pages));
        assert_eq!(
            longest(&cache, &pages, "aaaa"),
            0,
            "leaf, then what it hung on"
        );
        assert!(!cache.evict(&mut pages), "dddd is in use");
        pages.release_all(running);
        assert!(cache.evict(&mut pages));
        assert_eq!(pages.free(), 6);
    }

    #[test]
    fn the_limit_holds_whatever_is_kept() {
        let (mut cache, mut pages) = (PrefixCache::new(3), Pages::new(PAGE_TOKENS, 50));
        for text in ["one is longer than the limit", "two", "three", "four"] {
            keep(&mut cache, &mut pages, text);
            assert!(cache.pages() <= 3, "{text}");
            assert_eq!(pages.total() - pages.free(), cache.pages());
        }
        assert_eq!(longest(&cache, &pages, "four"), 4);
    }

    #[test]
    fn a_page_is_taken_over_only_if_nobody_misses_it() {
        let (mut cache, mut pages) = (PrefixCache::new(100), Pages::new(PAGE_TOKENS, 9));
        keep(&mut cache, &mut pages, "aaaabb");
        let partial = |cache: &mut PrefixCache, pages: &Pages, text: &str| {
            cache
                .find(pages, &who(None), &tokens(text))
                .partial
                .unwrap()
        };
        let parent = partial(&mut cache, &pages, "aax");
        assert!(!cache.take_over(&pages, parent, 0), "a page hangs on it");
        let leaf = partial(&mut cache, &pages, "aaaabx");
        assert_eq!((leaf.tokens, leaf.whole), (1, false));
        assert!(
            !cache.take_over(&pages, leaf, 1),
            "the caller does not hold it"
        );
        assert!(cache.take_over(&pages, leaf, 0));
        assert_eq!(
            (longest(&cache, &pages, "aaaabb"), pages.holders(leaf.page)),
            (4, 1)
        );
    }

    proptest! {
        /// With room for everything, what is found is the longest beginning of anything that was kept.
        #[test]
        fn nothing_longer_was_known(kept in prop::collection::vec("[ab]{1,14}", 1..12), asked in "[ab]{0,14}") {
            let (mut cache, mut pages) = (PrefixCache::new(1_000), Pages::new(PAGE_TOKENS, 200));
            for text in &kept {
                keep(&mut cache, &mut pages, text);
            }
            let expected = kept.iter().map(|text| common(&tokens(text), &tokens(&asked))).max();
            prop_assert_eq!(Some(longest(&cache, &pages, &asked)), expected);
            prop_assert_eq!(pages.total() - pages.free(), cache.pages());
            cache.clear(&mut pages);
            prop_assert_eq!(pages.free(), pages.total());
        }
    }
}
