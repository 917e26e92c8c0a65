//! Who holds the lock of a file, as far as Linux tells.
//!
//! Invariant: it only improves a message; text that it does not understand means "unknown".
//! Layer 1 (io).

use std::fs::File;
use std::os::unix::fs::MetadataExt;

/// Process that holds a whole-file lock.
pub(super) fn lock_holder(file: &File) -> Option<u32> {
    let metadata = file.metadata().ok()?;
    let dev = metadata.dev();
    let device = (u64::from(rustix::fs::major(dev)), u64::from(rustix::fs::minor(dev)));
    find_holder(&std::fs::read_to_string("/proc/locks").ok()?, device, metadata.ino())
}

/// Lines read `1: FLOCK ADVISORY WRITE pid major:minor:inode start end`; those that wait have `->` in second place.
/// Some file systems show another device number there, so an inode that matches alone is second best.
fn find_holder(table: &str, device: (u64, u64), inode: u64) -> Option<u32> {
    let mut second_best = None;
    for line in table.lines() {
        let mut words = line.split_ascii_whitespace().skip(1);
        if words.next() != Some("FLOCK") {
            continue;
        }
        let Some(pid) = words.nth(2).and_then(|word| word.parse::<u32>().ok()).filter(|pid| *pid != 0) else {
            continue;
        };
        let mut place = words.next().unwrap_or_default().split(':');
        let major = place.next().and_then(|word| u64::from_str_radix(word, 16).ok());
        let minor = place.next().and_then(|word| u64::from_str_radix(word, 16).ok());
        if place.next().and_then(|word| word.parse::<u64>().ok()) != Some(inode) {
            continue;
        }
        if (major, minor) == (Some(device.0), Some(device.1)) {
            return Some(pid);
        }
        second_best = second_best.or(Some(pid));
    }
    second_best
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "1: POSIX  ADVISORY  READ 5 fd:01:77 0 EOF\n\
                         2: FLOCK  ADVISORY  WRITE 11 fd:02:77 0 EOF\n\
                         3: FLOCK  ADVISORY  WRITE 42 fd:01:77 0 EOF\n\
                         3: -> FLOCK  ADVISORY  WRITE 43 fd:01:77 0 EOF\n\
                         4: FLOCK  ADVISORY  READ -1 fd:01:99 0 EOF\n";

    #[test]
    fn holder_is_found_by_device_and_inode() {
        assert_eq!(find_holder(TABLE, (0xfd, 1), 77), Some(42));
        assert_eq!(find_holder(TABLE, (0, 9), 77), Some(11));
        assert_eq!(find_holder(TABLE, (0xfd, 1), 78), None);
    }

    #[test]
    fn strange_text_means_unknown() {
        assert_eq!(find_holder(TABLE, (0xfd, 1), 99), None);
        for table in
            ["", "\n\n", "1: FLOCK", "1: FLOCK A W x y", "1: FLOCK A W 3", "1: FLOCK A W 3 ::", "1: FLOCK A W 3 1:2"]
        {
            assert_eq!(find_holder(table, (1, 2), 3), None);
        }
    }
}
