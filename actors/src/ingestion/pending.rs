//! Produce requests that wait for their batch to be committed, in log order.

use lance_messages::id::ConnectionId;
use lance_messages::mail::connection::Produced;
use std::collections::VecDeque;

/// One produce request that was appended and not answered yet.
#[derive(Clone, Copy, Debug)]
pub struct PendingProduce {
    /// Who is answered.
    pub connection: ConnectionId,
    /// The request's number there.
    pub request: u64,
    /// Log position that the high watermark has to reach.
    pub end_position: u64,
    /// The answer, once it has.
    pub produced: Produced,
}

/// The pending produce requests of one partition. Acks leave in log order.
#[derive(Debug, Default)]
pub struct PendingProduces {
    queue: VecDeque<PendingProduce>,
}

impl PendingProduces {
    /// Adds a request; its end position may equal that of the one before (a duplicate), never be lower.
    pub fn push(&mut self, mut pending: PendingProduce) {
        if let Some(last) = self.queue.back() {
            // A duplicate of an older batch must not overtake the requests before it.
            pending.end_position = pending.end_position.max(last.end_position);
        }
        self.queue.push_back(pending);
    }

    /// Takes the next request that is committed once the high watermark is `position`.
    pub fn release_through(&mut self, position: u64) -> Option<PendingProduce> {
        if self.queue.front()?.end_position > position {
            return None;
        }
        self.queue.pop_front()
    }

    /// Takes every request, to be answered with an error.
    pub fn drain(&mut self) -> impl Iterator<Item = PendingProduce> + '_ {
        self.queue.drain(..)
    }

    /// How many requests wait.
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pending(request: u64, end_position: u64) -> PendingProduce {
        let produced = Produced { base_offset: 0, record_count: 1, duplicate: false };
        PendingProduce { connection: ConnectionId(1), request, end_position, produced }
    }

    #[test]
    fn requests_leave_in_order_and_only_when_committed() {
        let mut pendings = PendingProduces::default();
        for (request, end) in [(1, 100), (2, 200), (3, 300)] {
            pendings.push(pending(request, end));
        }
        assert!(pendings.release_through(99).is_none());
        assert_eq!(pendings.release_through(250).map(|p| p.request), Some(1));
        assert_eq!(pendings.release_through(250).map(|p| p.request), Some(2));
        assert!(pendings.release_through(250).is_none());
        assert_eq!(pendings.len(), 1);
    }

    #[test]
    fn a_duplicate_of_an_old_batch_waits_for_the_requests_before_it() {
        let mut pendings = PendingProduces::default();
        pendings.push(pending(1, 500));
        pendings.push(pending(2, 100));
        assert!(pendings.release_through(100).is_none());
        assert_eq!(pendings.release_through(500).map(|p| p.request), Some(1));
        assert_eq!(pendings.release_through(500).map(|p| p.request), Some(2));
        assert!(pendings.is_empty());
    }
}
