//! A record costs no allocation of its own: only its batch does.

use crate::support::{Toy, all_features};
use bytes::Bytes;
use lance_client::{Client, ClientOptions, ProducerOptions, ProducerRecord};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::{Arc, mpsc};

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

const RECORDS: u64 = 20_000;

#[test]
fn a_flood_of_records_allocates_once_in_a_while() {
    let (sender, address) = mpsc::channel();
    // The server's own allocations count on a thread of its own.
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let toy = Toy::start(Some(all_features()), 1).await;
            sender.send(toy.address.clone()).unwrap();
            std::future::pending::<()>().await;
        });
    });
    let address = address.recv().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let counted = runtime.block_on(async {
        let client = Client::connect(ClientOptions::new(&address).unwrap()).await.unwrap();
        let options = ProducerOptions { batch_bytes: 64 * 1024, buffer_bytes: 1 << 20, ..ProducerOptions::default() };
        let producer = client.producer(options);
        let (topic, value): (Arc<str>, _) = (Arc::from("flood"), Bytes::from(vec![b'x'; 1024]));
        let mut before = 0;
        for number in 0..2 * RECORDS {
            if number == RECORDS {
                before = ALLOCATIONS.with(Cell::get);
            }
            producer.send(ProducerRecord::new(Arc::clone(&topic), value.clone())).await.unwrap();
        }
        let counted = ALLOCATIONS.with(Cell::get) - before;
        producer.close().await;
        assert_eq!(producer.stats().records, 2 * RECORDS);
        counted
    });
    assert!(counted * 4 < RECORDS, "{counted} allocations for {RECORDS} records");
}
