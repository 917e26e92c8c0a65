//! How much memory a database takes when nobody says: what the machine, or the group of processes, has to spare.
//!
//! Invariant: the answer is never more than a quarter of what is available, nor than `BYTES_MAX`.
//! Layer 8 (db).

/// The most that a database takes without being told.
const BYTES_MAX: u64 = 1 << 30;

/// The least, so that small machines work at all.
const BYTES_MIN: u64 = 4 << 20;

/// Taken where the system does not say what is available.
const BYTES_UNKNOWN: u64 = 256 << 20;

/// The default of `Builder::cache_bytes_max`.
pub(crate) fn default_bytes() -> usize {
    if cfg!(miri) {
        return 16 << 20;
    }
    let machine = read_meminfo("/proc/meminfo");
    let group = ["/sys/fs/cgroup", "/sys/fs/cgroup/memory"].into_iter().filter_map(read_group).min();
    let available = [machine, group].into_iter().flatten().min();
    let bytes = available.map_or(BYTES_UNKNOWN, |available| available / 4).clamp(BYTES_MIN, BYTES_MAX);
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

/// `MemAvailable` of the machine.
fn read_meminfo(path: &str) -> Option<u64> {
    parse_meminfo(&std::fs::read_to_string(path).ok()?)
}

fn parse_meminfo(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// What the memory group of this process may still take: of version 2, or of version 1.
fn read_group(folder: &str) -> Option<u64> {
    let read = |name: &str| std::fs::read_to_string(format!("{folder}/{name}")).ok();
    let pair = |limit, used| parse_group(&read(limit)?, &read(used)?);
    pair("memory.max", "memory.current").or_else(|| pair("memory.limit_in_bytes", "memory.usage_in_bytes"))
}

/// `None` where there is no limit.
fn parse_group(limit: &str, used: &str) -> Option<u64> {
    let limit: u64 = limit.trim().parse().ok()?;
    let used: u64 = used.trim().parse().ok()?;
    Some(limit.saturating_sub(used))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_between_its_limits() {
        assert!((BYTES_MIN..=BYTES_MAX).contains(&(default_bytes() as u64)));
    }

    #[test]
    fn available_memory_is_read_from_the_line_that_names_it() {
        let text = "MemTotal:       24000000 kB\nMemFree:  1 kB\nMemAvailable:   2000 kB\n";
        assert_eq!(parse_meminfo(text), Some(2_048_000));
        assert_eq!(parse_meminfo("MemTotal: 1 kB\n"), None);
        assert_eq!(parse_meminfo("MemAvailable: many kB\n"), None);
    }

    #[test]
    fn a_group_without_a_limit_does_not_bound() {
        assert_eq!(parse_group("max\n", "5\n"), None);
        assert_eq!(parse_group("1000\n", "400\n"), Some(600));
        assert_eq!(parse_group("1000\n", "4000\n"), Some(0));
    }
}
