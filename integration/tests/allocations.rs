//! The path of a batch inside the process allocates nothing once it is warm.

use lance_integration::in_process::{InProcess, produce_frame};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: every call goes to the system allocator unchanged; counting touches a thread-local without a destructor.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's promise is passed on.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn allocations() -> u64 {
    ALLOCATIONS.with(Cell::get)
}

#[test]
fn a_batch_is_handed_to_the_poller_without_an_allocation() {
    let frame = produce_frame(64, 1019);
    let mut path = InProcess::new().unwrap();
    for _ in 0..2_000 {
        path.receive(&frame);
        path.hand_off();
        assert_eq!(path.complete(), 1);
    }
    let mut counted = 0;
    for _ in 0..10_000 {
        path.receive(&frame);
        let before = allocations();
        path.hand_off();
        counted += allocations() - before;
        assert_eq!(path.complete(), 1);
    }
    assert_eq!(counted, 0, "allocations over 10,000 batches");
}
