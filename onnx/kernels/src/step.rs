//! The rows of one step: tokens of several sequences side by side, and the work they make for attention.
//!
//! ```text
//!   rows       a0 a1 a2 │ b7 │ c31        positions 0 1 2 │ 7 │ 31        sequences 0 0 0 │ 1 │ 2
//!   segments   ────────   ──   ───        neighbouring rows of one sequence
//!   tasks      segment × key head × 8 queries, or, for a single row with a long past, × range of the past
//! ```

use crate::attention::QUERIES;
use crate::pool::PAGE_TOKENS;

/// Tokens of the past that one task takes, when a single row looks back further.
const RANGE_TOKENS: usize = 256;
/// Most ranges of one past.
pub(crate) const MAX_RANGES: usize = 16;

/// The rows of a step. The same for all blocks of a model.
#[derive(Debug, Clone, Copy)]
pub struct Step<'a> {
    /// Position of each row in its sequence.
    pub positions: &'a [i32],
    /// Sequence of each row; rows of one sequence stand together, in order.
    pub sequences: &'a [i32],
    /// Page tables, `[sequences][table]`: the page of position p of sequence s is `pages[s·table + p/32]`.
    pub pages: &'a [i32],
    /// Entries of a page table.
    pub table: usize,
}

/// Rows that cannot be computed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("row {row}: {what}: expected {expected}, found {found}")]
pub struct StepError {
    /// Which row.
    pub row: usize,
    /// What is wrong about it.
    pub what: &'static str,
    /// What is possible.
    pub expected: String,
    /// What there is.
    pub found: i64,
}

/// Neighbouring rows of one sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) row: usize,
    pub(crate) rows: usize,
    /// Position of the first row.
    pub(crate) position: usize,
    pub(crate) sequence: usize,
}

/// Some queries of one key head over some of the past.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Task {
    pub(crate) segment: usize,
    pub(crate) head: usize,
    /// Queries of the segment, counted row by row, within a row head by head.
    pub(crate) first: usize,
    pub(crate) count: usize,
    pub(crate) begin: usize,
    pub(crate) end: usize,
    /// Which range of how many, and where its result goes if there are several.
    pub(crate) range: usize,
    pub(crate) ranges: usize,
    pub(crate) slot: usize,
    /// Counts the finished ranges of these queries.
    pub(crate) counter: usize,
}

/// How a model divides its heads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shape {
    pub(crate) kv_heads: usize,
    /// Query heads of a key head.
    pub(crate) group: usize,
    /// 0: all of the past.
    pub(crate) window: usize,
}

/// Segments and tasks, kept to be filled again.
#[derive(Default)]
pub(crate) struct Plan {
    pub(crate) segments: Vec<Segment>,
    pub(crate) tasks: Vec<Task>,
    pub(crate) slots: usize,
    pub(crate) counters: usize,
    /// Largest number of scores of a query.
    pub(crate) span: usize,
}

impl Plan {
    /// Finds the segments and checks every row against `pages` pages.
    pub(crate) fn segments(&mut self, step: &Step<'_>, pages: usize) -> Result<(), StepError> {
        let count = step.pages.len().checked_div(step.table).unwrap_or(0);
        self.segments.clear();
        for (row, (&position, &sequence)) in step.positions.iter().zip(step.sequences).enumerate() {
            let wrong = |what, expected: String, found: i32| StepError {
                row,
                what,
                expected,
                found: found.into(),
            };
            if sequence < 0 || sequence as usize >= count {
                return Err(wrong("sequence", format!("0..{count}"), sequence));
            }
            let limit = step.table * PAGE_TOKENS;
            if position < 0 || position as usize >= limit {
                return Err(wrong("position", format!("0..{limit}"), position));
            }
            let (position, sequence) = (position as usize, sequence as usize);
            match self.segments.last_mut() {
                Some(last) if last.sequence == sequence => {
                    if last.position + last.rows != position {
                        let expected =
                            format!("{}, one after the row before", last.position + last.rows);
                        return Err(wrong("position", expected, position as i32));
                    }
                    last.rows += 1;
                }
                _ => {
                    if self
                        .segments
                        .iter()
                        .any(|segment| segment.sequence == sequence)
                    {
                        let expected = "rows of one sequence together".to_owned();
                        return Err(wrong("sequence", expected, sequence as i32));
                    }
                    self.segments.push(Segment {
                        row,
                        rows: 1,
                        position,
                        sequence,
                    });
                }
            }
        }
        self.check_pages(step, pages)
    }

    fn check_pages(&self, step: &Step<'_>, pages: usize) -> Result<(), StepError> {
        for segment in &self.segments {
            let last = (segment.position + segment.rows - 1) / PAGE_TOKENS;
            let table = &step.pages[segment.sequence * step.table..][..=last];
            if let Some(page) = table
                .iter()
                .find(|page| **page < 0 || **page as usize >= pages)
            {
                return Err(StepError {
                    row: segment.row,
                    what: "page",
                    expected: format!("0..{pages}"),
                    found: (*page).into(),
                });
            }
            // Two rows of a step must not write the same page.
            let written = &table[segment.position / PAGE_TOKENS..];
            let others = self
                .segments
                .iter()
                .filter(|other| other.sequence != segment.sequence);
            for other in others {
                let last = (other.position + other.rows - 1) / PAGE_TOKENS;
                let theirs = &step.pages[other.sequence * step.table..][..=last];
                if let Some(page) = written.iter().find(|page| theirs.contains(page)) {
                    let expected = format!("a page that only sequence {} has", segment.sequence);
                    return Err(StepError {
                        row: segment.row,
                        what: "page",
                        expected,
                        found: (*page).into(),
                    });
                }
            }
        }
        Ok(())
    }

    /// Divides the attention of the segments found before.
    pub(crate) fn attention(&mut self, shape: &Shape) {
        (self.slots, self.counters, self.span) = (0, 0, 0);
        self.tasks.clear();
        for (index, segment) in self.segments.iter().enumerate() {
            for head in 0..shape.kv_heads {
                let queries = segment.rows * shape.group;
                for first in (0..queries).step_by(QUERIES) {
                    let count = QUERIES.min(queries - first);
                    let oldest = segment.position + first / shape.group;
                    let end = segment.position + (first + count - 1) / shape.group + 1;
                    let begin = sight_from(shape.window, oldest);
                    let ranges = if segment.rows == 1 {
                        (end - begin).div_ceil(RANGE_TOKENS).min(MAX_RANGES)
                    } else {
                        1
                    };
                    // Whole pages, so that no page is read twice.
                    let size = ((end - begin).div_ceil(ranges)).next_multiple_of(PAGE_TOKENS);
                    for range in 0..ranges {
                        // The first range ends on a page, the later ones begin there.
                        let cut = |i: usize| {
                            if i == 0 {
                                begin
                            } else {
                                (begin / PAGE_TOKENS * PAGE_TOKENS + i * size).clamp(begin, end)
                            }
                        };
                        let (begin, end) = (
                            cut(range),
                            if range + 1 == ranges {
                                end
                            } else {
                                cut(range + 1)
                            },
                        );
                        self.span = self
                            .span
                            .max((end.max(begin + 1) - 1) / PAGE_TOKENS + 1 - begin / PAGE_TOKENS);
                        self.tasks.push(Task {
                            segment: index,
                            head,
                            first,
                            count,
                            begin,
                            end,
                            range,
                            ranges,
                            slot: self.slots,
                            counter: self.counters,
                        });
                        self.slots += if ranges > 1 { count } else { 0 };
                    }
                    self.counters += usize::from(ranges > 1);
                }
            }
        }
        self.span *= PAGE_TOKENS;
    }
}

/// The oldest token a query at `position` sees.
#[inline(always)]
pub(crate) fn sight_from(window: usize, position: usize) -> usize {
    if window == 0 {
        0
    } else {
        (position + 1).saturating_sub(window)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(
        positions: &[i32],
        sequences: &[i32],
        pages: &[i32],
        table: usize,
    ) -> Result<Plan, String> {
        let mut plan = Plan::default();
        plan.segments(
            &Step {
                positions,
                sequences,
                pages,
                table,
            },
            8,
        )
        .map_err(|error| error.to_string())?;
        Ok(plan)
    }

    /// Positions, sequences, pages, entries of a page table, and what the error must say.
    type Case<'a> = (&'a [i32], &'a [i32], &'a [i32], usize, &'a str);

    #[test]
    fn what_cannot_be_computed_is_named() {
        let cases: [Case<'_>; 8] = [
            (
                &[0],
                &[1],
                &[0],
                1,
                "row 0: sequence: expected 0..1, found 1",
            ),
            (
                &[-1],
                &[0],
                &[0],
                1,
                "row 0: position: expected 0..32, found -1",
            ),
            (
                &[32],
                &[0],
                &[0],
                1,
                "row 0: position: expected 0..32, found 32",
            ),
            (&[0, 2], &[0, 0], &[0], 1, "row 1: position: expected 1"),
            (
                &[0, 0, 1],
                &[0, 1, 0],
                &[0, 1],
                1,
                "row 2: sequence: expected rows of one sequence together",
            ),
            (&[0], &[0], &[8], 1, "row 0: page: expected 0..8, found 8"),
            (
                &[40],
                &[0],
                &[-1, 0],
                2,
                "row 0: page: expected 0..8, found -1",
            ),
            (
                &[3, 4],
                &[0, 1],
                &[5, 5],
                1,
                "row 0: page: expected a page that only sequence 0 has, found 5",
            ),
        ];
        for (positions, sequences, pages, table, expected) in cases {
            let error = plan(positions, sequences, pages, table)
                .map(|_| ())
                .unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn a_shared_beginning_may_be_read_by_several() {
        let found = plan(&[32, 33, 40], &[0, 0, 1], &[7, 1, 7, 2], 2).unwrap();
        assert_eq!(found.segments.len(), 2);
        assert_eq!(
            found.segments[0],
            Segment {
                row: 0,
                rows: 2,
                position: 32,
                sequence: 0
            }
        );
    }

    /// Every query of every segment meets every token it sees exactly once.
    #[test]
    fn tasks_cover_the_past_once() {
        for window in [0, 40] {
            for positions in [
                vec![0],
                vec![900],
                vec![31],
                (5..70).collect::<Vec<i32>>(),
                vec![288],
            ] {
                let pages: Vec<i32> = vec![0; 32];
                let mut plan = plan(&positions, &vec![0; positions.len()], &pages, 32).unwrap();
                let shape = Shape {
                    kv_heads: 2,
                    group: 3,
                    window,
                };
                plan.attention(&shape);
                for (row, &position) in positions.iter().enumerate() {
                    for query in row * 3..row * 3 + 3 {
                        let mine = plan.tasks.iter().filter(|task| {
                            task.head == 1 && (task.first..task.first + task.count).contains(&query)
                        });
                        let mut seen = vec![0; 1024];
                        for task in mine {
                            assert!(task.begin <= task.end && task.end - task.begin <= plan.span);
                            seen[task.begin..task.end]
                                .iter_mut()
                                .for_each(|count| *count += 1);
                        }
                        let position = position as usize;
                        let from = sight_from(window, position);
                        assert!(
                            seen[from..=position].iter().all(|count| *count == 1),
                            "{window} {position}"
                        );
                    }
                }
            }
        }
    }
}
