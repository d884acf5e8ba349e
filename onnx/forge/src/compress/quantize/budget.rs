//! Which matrices deserve eight bits: the greedy answer to a budget of bytes, or to a loss that must be undercut.
//!
//! Every choice has a price in bytes and a measured benefit. Choices are taken in descending order of benefit per byte; one that no
//! longer fits is passed over, smaller ones after it may still. With prices this alike, greed is as good as exact.

use super::QuantizeError;

/// Something that can be raised from four bits to eight, as a whole.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Choice {
    /// Bytes that it takes more.
    pub bytes: u64,
    /// Loss that it saves, of any unit; not negative where it helps.
    pub benefit: f64,
}

/// What to raise.
#[derive(Debug, Clone, PartialEq)]
pub struct Allocation {
    /// Numbers of the choices taken, the best first.
    pub taken: Vec<usize>,
    /// Sum of their bytes.
    pub bytes: u64,
    /// Sum of their benefits.
    pub benefit: f64,
}

/// When to stop raising.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Budget {
    /// At most so many bytes more.
    Bytes(u64),
    /// As soon as the benefits sum up to this.
    Benefit(f64),
}

/// Takes choices by benefit per byte. The allocation is the best found, whether it meets the budget or not; see [`Allocation::met`].
pub fn allocate(choices: &[Choice], budget: Budget) -> Allocation {
    let worth = |choice: &Choice| choice.benefit / choice.bytes.max(1) as f64;
    let mut order: Vec<usize> = (0..choices.len())
        .filter(|&at| choices[at].benefit > 0.0)
        .collect();
    order.sort_by(|&a, &b| {
        worth(&choices[b])
            .total_cmp(&worth(&choices[a]))
            .then(a.cmp(&b))
    });
    let mut found = Allocation {
        taken: Vec::new(),
        bytes: 0,
        benefit: 0.0,
    };
    for at in order {
        let bytes = found.bytes.saturating_add(choices[at].bytes);
        match budget {
            Budget::Bytes(limit) if bytes > limit => continue,
            Budget::Benefit(needed) if found.benefit >= needed => break,
            Budget::Bytes(_) | Budget::Benefit(_) => {}
        }
        found.taken.push(at);
        found.bytes = bytes;
        found.benefit += choices[at].benefit;
    }
    found
}

impl Allocation {
    /// Says if the allocation does what was asked.
    ///
    /// # Errors
    /// [`QuantizeError::Budget`] if all that helps was taken and the benefit is not reached.
    pub fn met(&self, budget: Budget) -> Result<(), QuantizeError> {
        match budget {
            Budget::Benefit(needed) if self.benefit < needed => Err(QuantizeError::Budget {
                what: "loss saved by raising matrices to 8 bits",
                wanted: needed,
                best: self.benefit,
            }),
            Budget::Bytes(_) | Budget::Benefit(_) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHOICES: [Choice; 5] = [
        Choice {
            bytes: 100,
            benefit: 1.0,
        },
        Choice {
            bytes: 10,
            benefit: 0.5,
        },
        Choice {
            bytes: 50,
            benefit: -0.1,
        },
        Choice {
            bytes: 40,
            benefit: 1.0,
        },
        Choice {
            bytes: 20,
            benefit: 0.1,
        },
    ];

    #[test]
    fn what_saves_most_per_byte_comes_first() {
        let cases: [(Budget, &[usize], &str); 6] = [
            (Budget::Bytes(0), &[], "nothing fits"),
            (Budget::Bytes(50), &[1, 3], "exactly full"),
            (
                Budget::Bytes(75),
                &[1, 3, 4],
                "the large one is passed over",
            ),
            (
                Budget::Bytes(1000),
                &[1, 3, 0, 4],
                "what harms is never taken",
            ),
            (Budget::Benefit(0.6), &[1, 3], "until it is enough"),
            (Budget::Benefit(0.0), &[], "nothing is needed"),
        ];
        for (budget, expected, why) in cases {
            let found = allocate(&CHOICES, budget);
            assert_eq!(found.taken, expected, "{why}");
            found.met(budget).unwrap();
        }
    }

    #[test]
    fn a_budget_that_cannot_be_met_gives_the_best_found() {
        let budget = Budget::Benefit(9.0);
        let found = allocate(&CHOICES, budget);
        assert_eq!(found.bytes, 170);
        assert_eq!(
            found.met(budget).unwrap_err().to_string(),
            "loss saved by raising matrices to 8 bits: wanted 9, best found 2.6"
        );
    }
}
