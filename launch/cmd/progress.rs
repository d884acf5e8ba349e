//! What the forge does, on the console: one line or bar for each subject.

use std::ops::ControlFlow;

use llmasos_forge::Progress;

use crate::models::{Event, Reporter};

/// A callback that shows the forge's progress under a name and hands Ctrl-C on.
pub(crate) fn watch<'r>(
    reporter: &'r mut dyn Reporter,
    name: &'r str,
) -> impl FnMut(Progress<'_>) -> ControlFlow<()> + 'r {
    move |progress| {
        let (step, done, total) = (progress.step.word(), progress.done, progress.total);
        reporter.event(match progress.step.counts_bytes() {
            true => Event::Building {
                name,
                step,
                done,
                total,
            },
            false => Event::Counting {
                name,
                step,
                done,
                total,
            },
        });
        match reporter.is_cancelled() {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    }
}
