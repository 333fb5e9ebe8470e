//! A global allocator that counts, for tests that show that a path allocates nothing, and for what things weigh.
//!
//! Counted per thread, so that a test is not disturbed by what runs beside it.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

/// The system's allocator with a count; make it the `#[global_allocator]` of a test.
#[derive(Debug, Clone, Copy, Default)]
pub struct CountingAllocator;

/// How often this thread has asked for memory so far; growing what it has counts too.
pub fn allocations() -> u64 {
    ALLOCATIONS.with(Cell::get)
}

/// Bytes that this thread has asked for and not given back; what it gave back for others counts against it.
pub fn held() -> i64 {
    HELD.with(Cell::get)
}

thread_local! {
    /// Made at compile time and without a destructor: touching it allocates nothing.
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
    static HELD: Cell<i64> = const { Cell::new(0) };
}

fn count(calls: u64, taken: usize, given: usize) {
    // A thread that is ending has nobody left who asks.
    let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + calls));
    let _ = HELD.try_with(|held| held.set(held.get() + taken as i64 - given as i64));
}

// SAFETY: every call goes to the system's allocator unchanged; counting neither allocates nor unwinds.
unsafe impl GlobalAlloc for CountingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(1, layout.size(), 0);
        // SAFETY: the caller's promises are the system's conditions.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(1, layout.size(), 0);
        // SAFETY: as in `alloc`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        count(0, 0, layout.size());
        // SAFETY: as in `alloc`.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(1, size, layout.size());
        // SAFETY: as in `alloc`.
        unsafe { System.realloc(at, layout, size) }
    }
}
