//! Reply slots: every request of a connection has one, and replies leave in the order of their requests.
//!
//! With Hello there are two lanes, so that a fetch that waits does not hold back acks: one for ingest, one for
//! control. A 1.0 connection has one lane, as its clients expect.

use std::collections::VecDeque;

/// Number of a request on its connection: the lane in the lowest bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestId(pub u64);

/// One queue of reply slots; `S` is what a slot holds.
#[derive(Debug)]
struct Lane<S> {
    first: u64,
    slots: VecDeque<S>,
}

impl<S> Default for Lane<S> {
    fn default() -> Self {
        Self { first: 0, slots: VecDeque::new() }
    }
}

/// The reply slots of one connection.
#[derive(Debug)]
pub struct Lanes<S> {
    lanes: [Lane<S>; 2],
}

impl<S> Default for Lanes<S> {
    fn default() -> Self {
        Self { lanes: [Lane::default(), Lane::default()] }
    }
}

/// The lane of ingest frames, and of everything on a 1.0 connection.
pub const INGEST_LANE: usize = 0;
/// The lane of control frames after Hello.
pub const CONTROL_LANE: usize = 1;

impl<S> Lanes<S> {
    /// Reserves the next slot of a lane.
    pub fn reserve(&mut self, lane: usize, slot: S) -> RequestId {
        let queue = &mut self.lanes[lane & 1];
        let sequence = queue.first + queue.slots.len() as u64;
        queue.slots.push_back(slot);
        RequestId(sequence << 1 | (lane as u64 & 1))
    }

    /// The slot of a request that was not answered to the client yet.
    pub fn get_mut(&mut self, id: RequestId) -> Option<&mut S> {
        let queue = &mut self.lanes[(id.0 & 1) as usize];
        let index = (id.0 >> 1).checked_sub(queue.first)?;
        queue.slots.get_mut(usize::try_from(index).ok()?)
    }

    /// The slot whose reply leaves next.
    pub fn front_mut(&mut self, lane: usize) -> Option<&mut S> {
        self.lanes[lane & 1].slots.front_mut()
    }

    /// The id that the next request of a lane will have.
    pub fn next_id(&self, lane: usize) -> RequestId {
        let queue = &self.lanes[lane & 1];
        RequestId((queue.first + queue.slots.len() as u64) << 1 | (lane as u64 & 1))
    }

    /// The id of the request whose reply leaves next.
    pub fn front_id(&self, lane: usize) -> RequestId {
        RequestId(self.lanes[lane & 1].first << 1 | (lane as u64 & 1))
    }

    /// Removes the slot whose reply left.
    pub fn pop(&mut self, lane: usize) -> Option<S> {
        let queue = &mut self.lanes[lane & 1];
        let slot = queue.slots.pop_front()?;
        queue.first += 1;
        Some(slot)
    }

    /// Every slot, with the id of its request.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (RequestId, &mut S)> {
        self.lanes.iter_mut().enumerate().flat_map(|(lane, queue)| {
            let first = queue.first;
            queue
                .slots
                .iter_mut()
                .zip(first..)
                .map(move |(slot, sequence)| (RequestId(sequence << 1 | lane as u64), slot))
        })
    }

    /// Requests not answered yet.
    pub fn len(&self) -> usize {
        self.lanes.iter().map(|lane| lane.slots.len()).sum()
    }

    /// Whether every request was answered.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_found_by_its_number_until_its_reply_left() {
        let mut lanes = Lanes::default();
        let expected = lanes.next_id(INGEST_LANE);
        let first = lanes.reserve(INGEST_LANE, "a");
        assert_eq!((first, lanes.front_id(INGEST_LANE)), (expected, expected));
        let second = lanes.reserve(INGEST_LANE, "b");
        let control = lanes.reserve(CONTROL_LANE, "c");
        assert_eq!(lanes.get_mut(second), Some(&mut "b"));
        assert_eq!(lanes.get_mut(control), Some(&mut "c"));
        assert_eq!(lanes.pop(INGEST_LANE), Some("a"));
        assert_eq!(lanes.get_mut(first), None);
        assert_eq!(lanes.front_id(INGEST_LANE), second);
        assert_eq!(lanes.get_mut(second), Some(&mut "b"));
        assert_eq!(lanes.len(), 2);
        let ids: Vec<u64> = lanes.iter_mut().map(|(id, _)| id.0).collect();
        assert_eq!(ids, [second.0, control.0]);
    }
}
