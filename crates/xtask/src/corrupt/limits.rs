//! Limits of time and memory for opening and reading one file.
//!
//! Invariant: memory is counted by the allocator, so what is taken without being touched counts as well. What the page
//! cache maps is bounded by its own option, which is far below the limit, and not counted.

use peakmem_alloc::{INSTRUMENTED_SYSTEM, PeakMemAlloc, PeakMemAllocTrait};
use std::alloc::System;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

#[global_allocator]
static HEAP: &PeakMemAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Only a process that does nothing else can tell whose memory it is.
static MEMORY_COUNTS: AtomicBool = AtomicBool::new(false);

const TIME_MAX: Duration = Duration::from_secs(2);
const MEMORY_BASE_BYTES: usize = 32 << 20;
const MEMORY_PER_BYTE: usize = 4;

/// What opening and reading took.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cost {
    pub(super) time: Duration,
    pub(super) bytes: usize,
}

impl Cost {
    /// Keeps the higher of each.
    pub(super) fn add(&mut self, other: &Self) {
        self.time = self.time.max(other.time);
        self.bytes = self.bytes.max(other.bytes);
    }

    /// What exceeds the limits for a file of this length.
    fn complaints(&self, file_bytes: usize) -> Vec<String> {
        let bytes_max = MEMORY_PER_BYTE * file_bytes + MEMORY_BASE_BYTES;
        let mut found = Vec::new();
        if self.time > TIME_MAX {
            found.push(format!("opening and reading took {:.1} s", self.time.as_secs_f64()));
        }
        if self.bytes > bytes_max {
            found.push(format!("opening and reading took {} bytes of memory, above {bytes_max}", self.bytes));
        }
        found
    }
}

/// A measurement that has begun.
#[derive(Debug)]
pub(super) struct Watch {
    begun: Instant,
    file_bytes: usize,
}

impl Watch {
    pub(super) fn start(file_bytes: usize) -> Self {
        HEAP.reset_peak_memory();
        Self { begun: Instant::now(), file_bytes }
    }

    /// What it took; what exceeds the limits is complained of.
    pub(super) fn stop(self, complaints: &mut Vec<String>) -> Cost {
        let bytes = HEAP.get_peak_memory();
        let counted = if MEMORY_COUNTS.load(Ordering::Relaxed) { bytes } else { 0 };
        let cost = Cost { time: self.begun.elapsed(), bytes: counted };
        complaints.extend(cost.complaints(self.file_bytes));
        cost
    }
}

/// Counts memory from now on: this process examines one file at a time.
pub(super) fn count_memory() {
    MEMORY_COUNTS.store(true, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_exceeds_a_limit_is_complained_of() {
        let most = Cost { time: TIME_MAX, bytes: MEMORY_BASE_BYTES + 400 };
        assert_eq!(most.complaints(100), Vec::<String>::new());
        assert_eq!(most.complaints(99).len(), 1);
        assert_eq!(Cost { time: TIME_MAX + Duration::from_millis(1), ..most }.complaints(100).len(), 1);
    }

    #[test]
    fn memory_that_is_not_touched_counts() {
        let _watch = Watch::start(0);
        let untouched = std::hint::black_box(Vec::<u8>::with_capacity(500 << 20));
        let taken = HEAP.get_peak_memory();
        drop(untouched);
        assert!(taken > 400 << 20, "{taken}");
    }
}
