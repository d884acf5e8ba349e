//! What this process costs, as the kernel counts it: memory of its own, memory it shares with files, processor time.
//!
//! Resident memory as a single number says little about a program that maps its weights: the mapped pages belong to the page cache, are
//! shared by all processes that map the same file, and go away under pressure. So the two halves are told apart.

use std::fs::{self, File};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::{TimeVal, TimeValLike};

/// The kernel's sums over all mappings of this process.
const ROLLUP: &str = "/proc/self/smaps_rollup";

/// Resident memory in two halves.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Memory {
    /// Anonymous pages: nobody else has them, and they cannot be dropped.
    pub(crate) unique_bytes: u64,
    /// Pages of files: shared with everybody who maps them.
    pub(crate) file_bytes: u64,
}

/// Memory of this process now.
///
/// # Errors
/// Where the kernel has no such file (before Linux 4.14, or another system).
pub(crate) fn memory() -> Result<Memory> {
    let text = fs::read_to_string(ROLLUP).with_context(|| format!("reading {ROLLUP}"))?;
    from_rollup(&text).with_context(|| format!("{ROLLUP} has no lines Rss and Anonymous"))
}

fn from_rollup(text: &str) -> Option<Memory> {
    let bytes = |field: &str| -> Option<u64> {
        let line = text.lines().find(|line| line.starts_with(field))?;
        let kibibytes: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
        kibibytes.checked_mul(1024)
    };
    let (resident, anonymous) = (bytes("Rss:")?, bytes("Anonymous:")?);
    Some(Memory {
        unique_bytes: anonymous,
        file_bytes: resident.saturating_sub(anonymous),
    })
}

/// Largest memory of this process so far, pages of files included. `None` where the kernel does not say.
pub(crate) fn peak_bytes() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    let kibibytes: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    kibibytes.checked_mul(1024)
}

/// Processor time of all threads of this process so far.
///
/// # Errors
/// When the kernel refuses.
pub(crate) fn processor_time() -> Result<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_SELF).context("asking for processor time")?;
    let micros = |time: TimeVal| u64::try_from(time.num_microseconds()).unwrap_or(0);
    Ok(Duration::from_micros(
        micros(usage.user_time()) + micros(usage.system_time()),
    ))
}

/// Asks the kernel to drop the files of a folder from its page cache, so that the next reader finds them on the disk. Pages that another
/// process maps stay.
///
/// # Errors
/// When a file cannot be opened.
pub(crate) fn forget_files(dir: &Path) -> Result<()> {
    let doing = || format!("reading {}", dir.display());
    for item in fs::read_dir(dir).with_context(doing)? {
        let path = item.with_context(doing)?.path();
        if !path.is_file() {
            continue;
        }
        let file = File::open(&path).with_context(|| format!("opening {}", path.display()))?;
        posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)
            .with_context(|| format!("dropping {} from the page cache", path.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rollup_has_two_halves() {
        let text = "55d0-7ffe ---p 00000000 00:00 0  [rollup]\nRss:   300 kB\nPss: 1 kB\nAnonymous:  100 kB\n";
        let expected = Memory {
            unique_bytes: 100 << 10,
            file_bytes: 200 << 10,
        };
        assert_eq!(from_rollup(text), Some(expected));
        for broken in ["", "Rss: 300 kB", "Rss: x kB\nAnonymous: 1 kB"] {
            assert_eq!(from_rollup(broken), None, "{broken}");
        }
    }

    #[test]
    fn this_process_has_memory_and_used_the_processor() {
        let before = memory().unwrap();
        let block = vec![1_u8; 32 << 20];
        let after = memory().unwrap();
        assert!(block.iter().map(|byte| u64::from(*byte)).sum::<u64>() == 32 << 20);
        assert!(
            after.unique_bytes >= before.unique_bytes + (16 << 20),
            "{before:?} {after:?}"
        );
        assert!(after.file_bytes > 0);
        assert!(peak_bytes().unwrap() >= 32 << 20);
        assert!(processor_time().unwrap() > Duration::ZERO);
    }

    #[test]
    fn forgotten_files_are_still_there() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("weights");
        fs::write(&path, [7; 10_000]).unwrap();
        fs::create_dir(dir.path().join("folder")).unwrap();
        forget_files(dir.path()).unwrap();
        assert_eq!(fs::read(&path).unwrap(), [7; 10_000]);
        assert!(forget_files(&dir.path().join("absent")).is_err());
    }
}
