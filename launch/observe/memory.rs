//! Memory of this process and of its children, as the kernel counts it.

use std::fs;

/// Peak resident memory of this process and of every process it started, in bytes; `None` where there is no /proc.
pub fn peak_resident_bytes() -> Option<u64> {
    let own = std::process::id();
    let mut total = peak(own)?;
    for entry in fs::read_dir("/proc").ok()?.flatten() {
        let Some(id) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse::<u32>().ok())
        else {
            continue;
        };
        if field(id, "PPid:") == Some(u64::from(own)) {
            total += peak(id).unwrap_or(0);
        }
    }
    Some(total)
}

fn peak(id: u32) -> Option<u64> {
    field(id, "VmHWM:").map(|kibibytes| kibibytes * 1024)
}

/// A number of `/proc/<id>/status`.
fn field(id: u32, name: &str) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{id}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with(name))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_has_memory() {
        assert!(peak_resident_bytes().is_some_and(|bytes| bytes > 1 << 20));
        assert_eq!(field(std::process::id(), "NoSuchField:"), None);
    }
}
