//! Hints to the processor about bytes that will be read soon.
//!
//! Invariant: a hint changes nothing but time.
//! Layer 2 (pages).

use std::ops::Range;

/// Bytes that a processor fetches at once.
const LINE_BYTES: usize = 64;

/// Asks the processor to bring the lines of `bytes` near that `range` touches, without waiting for them. What lies
/// outside is left out.
#[inline]
pub(crate) fn prefetch(bytes: &[u8], range: Range<usize>) {
    let end = range.end.min(bytes.len());
    let mut at = range.start;
    while at < end {
        prefetch_line(&bytes[at]);
        at += LINE_BYTES;
    }
}

/// Asks the processor to bring the line near in which something begins.
#[cfg(all(target_arch = "x86_64", not(miri)))]
#[inline]
pub(crate) fn prefetch_line<T>(there: &T) {
    use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
    // SAFETY: a prefetch is a hint, which reads nothing that the program could see and never faults.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(there).cast()) }
}

#[cfg(any(not(target_arch = "x86_64"), miri))]
#[inline]
pub(crate) fn prefetch_line<T>(_there: &T) {}
