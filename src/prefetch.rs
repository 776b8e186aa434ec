//! What is looked at soon: the processor is told ahead, and has it by then.
//!
//! The memory of a query is spread over tables that no near cache holds whole. Whoever has many
//! queries tells of all of them what the next stage will look at: then it waits for none.

/// How many octets a line of the cache has.
pub(crate) const LINE: usize = 64;

/// Has the processor fetch the line of the cache in which this row is. Nothing else comes of it,
/// even where there is no such row; where processors have no such instruction that is known here,
/// nothing at all does.
#[inline]
pub(crate) fn prefetch<T>(rows: &[T], row: usize) {
    let place = rows.as_ptr().wrapping_add(row);
    #[cfg(target_arch = "x86_64")]
    // SAFETY: it reads nothing that the program sees, and faults nowhere; every x86-64 has it.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(place.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _unused = place;
}
