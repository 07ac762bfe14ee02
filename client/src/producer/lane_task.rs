//! The task of a lane: sends its batches in order, several under way at once, and again when they did not arrive.

use super::batch::Batch;
use super::lane::{Lane, Next};
use super::{Acks, Shared};
use crate::client::MAX_REDIRECTS;
use crate::connection::PendingAck;
use crate::error::ClientError;
use crate::links::Link;
use crate::options::Backoff;
use lance_messages::error_code::ErrorCode;
use lance_messages::wire::hello::ProducerEpoch;
use lance_messages::wire::produce::AckOffsets;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Batches of one producer that the server recognises when they come again.
const RECOGNISED: usize = 5;
/// Time without an answer after which metadata is asked whether the leader still is one.
const DOUBT_AFTER: Duration = Duration::from_secs(3);

/// A batch whose answer is awaited.
struct InFlight {
    batch: Batch,
    ack: PendingAck,
    /// When to ask whether the leader still is one.
    doubted_at: Instant,
}

struct LaneTask {
    lane: Arc<Lane>,
    shared: Arc<Shared>,
    /// Upper half of batch ids, which only has to differ between lanes.
    number: u32,
    link: Option<Link>,
    in_flight: VecDeque<InFlight>,
    /// Batches to send again, before any new one.
    again: VecDeque<Batch>,
    /// The producer that `next_sequence` belongs to.
    producer: Option<ProducerEpoch>,
    next_sequence: u32,
    backoff: Backoff,
    /// Redirects followed since the last success.
    redirects: u32,
    /// What went wrong since the last success.
    trouble: Option<ClientError>,
}

/// Runs until the lane is closed and empty.
pub(super) async fn run(lane: Arc<Lane>, shared: Arc<Shared>, number: u32) {
    let backoff = Backoff::new(shared.client.options().retry_backoff);
    let mut task = LaneTask {
        lane,
        shared,
        number,
        link: None,
        in_flight: VecDeque::new(),
        again: VecDeque::new(),
        producer: None,
        next_sequence: 0,
        backoff,
        redirects: 0,
        trouble: None,
    };
    while task.turn().await {}
}

impl LaneTask {
    /// False: everything is done.
    async fn turn(&mut self) -> bool {
        let mut wake = None;
        let mut closed = false;
        while self.in_flight.len() < self.max_in_flight() && !self.must_settle() {
            let batch = match self.again.pop_front() {
                Some(batch) => batch,
                None => match self.lane.next(self.shared.options.linger) {
                    Next::Batch(batch) => batch,
                    Next::At(instant) => {
                        wake = Some(instant);
                        break;
                    }
                    Next::Nothing => break,
                    Next::Closed => {
                        closed = true;
                        break;
                    }
                },
            };
            self.send(batch).await;
        }
        if closed && self.in_flight.is_empty() && self.again.is_empty() {
            return false;
        }
        self.wait(wake).await;
        true
    }

    /// Over another connection a batch would overtake those that were lost with this one.
    fn must_settle(&self) -> bool {
        !self.in_flight.is_empty() && self.link.as_ref().is_none_or(|link| link.connection.is_closed())
    }

    fn max_in_flight(&self) -> usize {
        let most = if self.shared.options.idempotent { RECOGNISED } else { usize::MAX };
        self.shared.options.max_in_flight.clamp(1, most)
    }

    async fn wait(&mut self, wake: Option<Instant>) {
        let lane = Arc::clone(&self.lane);
        let delivery_timeout = self.shared.delivery_timeout();
        let outcome = match self.in_flight.front_mut() {
            Some(front) => tokio::select! {
                outcome = front.ack.wait() => outcome,
                () = lane.work.notified() => return,
                () = sleep_until(wake) => return,
                () = tokio::time::sleep_until(front.batch.opened + delivery_timeout) => {
                    Err(ClientError::TimedOut { what: "produce", after: delivery_timeout })
                }
                () = tokio::time::sleep_until(front.doubted_at) => return self.doubt().await,
            },
            None => {
                tokio::select! {
                    () = lane.work.notified() => {}
                    () = sleep_until(wake) => {}
                }
                return;
            }
        };
        if let Some(InFlight { batch, .. }) = self.in_flight.pop_front() {
            self.on_outcome(batch, outcome).await;
        }
    }

    /// A leader that answers nothing may have been followed by another one without knowing it.
    async fn doubt(&mut self) {
        let (client, name) = (self.shared.client.clone(), Arc::clone(&self.lane.topic));
        let asked = self.link.as_ref().map(|link| link.connection.address().to_owned());
        if let Some(asked) = &asked {
            // Whoever named it may have been of the past.
            client.unredirect(asked);
        }
        let leader = client.refresh_topic(&name, false).await;
        let leader = leader.and_then(|info| client.leader_address(&info, self.lane.partition));
        if let (Ok(leader), Some(asked)) = (leader, asked)
            && leader != asked
            && let Some(InFlight { batch, .. }) = self.in_flight.pop_front()
        {
            return self.on_failure(batch, ClientError::lost(&asked, "another node leads")).await;
        }
        for waiting in &mut self.in_flight {
            waiting.doubted_at = Instant::now() + DOUBT_AFTER;
        }
    }

    async fn send(&mut self, mut batch: Batch) {
        let timeout = self.shared.delivery_timeout();
        if Instant::now() >= batch.opened + timeout {
            // Others took the time it had.
            let late = ClientError::TimedOut { what: "produce", after: timeout };
            let error = self.trouble.clone().unwrap_or(late);
            return self.expire(batch, error).await;
        }
        let link = match self.link().await {
            Ok(link) => link,
            Err(error) => return self.on_no_link(batch, error).await,
        };
        match self.try_send(&mut batch, &link).await {
            Ok(Some(ack)) => {
                let doubted_at = Instant::now() + DOUBT_AFTER;
                self.in_flight.push_back(InFlight { batch, ack, doubted_at });
            }
            Ok(None) => self.succeed(batch, None),
            Err(error) => self.on_failure(batch, error).await,
        }
    }

    /// A batch that was never sent fails without consequences for others.
    async fn expire(&mut self, batch: Batch, error: ClientError) {
        if batch.attempts == 0 && batch.sequence.is_none() {
            self.fail(batch, error);
        } else {
            self.give_up(batch, error).await;
        }
    }

    fn succeed(&self, batch: Batch, offsets: Option<AckOffsets>) {
        let duplicate = offsets.is_some_and(|offsets| offsets.duplicate);
        self.shared.counters.on_delivered(batch.count, batch.plain_bytes, duplicate);
        batch.succeed(offsets);
        self.lane.batch_done();
    }

    fn fail(&self, batch: Batch, error: ClientError) {
        self.shared.counters.on_failed(batch.count);
        batch.fail(error);
        self.lane.batch_done();
    }

    /// `None`: nothing is waited for.
    async fn try_send(&mut self, batch: &mut Batch, link: &Link) -> Result<Option<PendingAck>, ClientError> {
        let topic = self.shared.client.topic(&self.lane.topic, false).await?.id;
        let batch_id = self.batch_id(batch, link);
        let codec = self.shared.options.compression;
        let (header, payload) = batch.frame(topic, self.lane.partition, batch_id, codec, link)?;
        self.shared.counters.on_sent(payload.len() as u64, batch.attempts > 1);
        let ack = link.connection.produce(batch_id, header, payload).await?;
        Ok((self.shared.options.acks == Acks::All).then_some(ack))
    }

    async fn link(&mut self) -> Result<Link, ClientError> {
        if let Some(link) = self.link.as_ref().filter(|link| !link.connection.is_closed()) {
            return Ok(link.clone());
        }
        let link = self.shared.links.to_leader(&self.lane.topic, self.lane.partition, self.producer).await?;
        if link.producer.is_some() && link.producer != self.producer {
            self.adopt(link.producer);
        }
        self.link = Some(link.clone());
        Ok(link)
    }

    /// Another producer begins its order anew, and batches to be sent again take new places in it.
    fn adopt(&mut self, producer: Option<ProducerEpoch>) {
        self.producer = producer;
        self.next_sequence = 0;
    }

    /// The low half is the sequence, kept when the batch is sent again by the same producer.
    fn batch_id(&mut self, batch: &mut Batch, link: &Link) -> u64 {
        let sequence = match batch.sequence {
            Some((producer, sequence)) if producer.is_some() && producer == link.producer => sequence,
            _ => {
                let sequence = self.next_sequence;
                self.next_sequence = self.next_sequence.wrapping_add(1);
                sequence
            }
        };
        batch.sequence = Some((link.producer, sequence));
        u64::from(self.number) << 32 | u64::from(sequence)
    }

    async fn on_outcome(&mut self, batch: Batch, outcome: Result<Option<AckOffsets>, ClientError>) {
        match outcome {
            // Sent once and stored before: the server takes it for another batch, which it must not be acked for.
            Ok(Some(AckOffsets { duplicate: true, .. })) if batch.attempts == 1 => {
                self.on_failure(batch, ClientError::from_code(ErrorCode::OutOfOrderSequence)).await;
            }
            Ok(offsets) => {
                self.backoff.reset();
                self.redirects = 0;
                self.trouble = None;
                self.succeed(batch, offsets);
            }
            Err(error) => self.on_failure(batch, error).await,
        }
    }

    async fn on_failure(&mut self, mut batch: Batch, error: ClientError) {
        let deadline = batch.opened + self.shared.delivery_timeout();
        self.trouble = Some(error.clone());
        if error.is_retriable() && Instant::now() < deadline {
            batch.span.iter_mut().for_each(|span| span.retry(&error));
            tracing::debug!(topic = &*self.lane.topic, partition = self.lane.partition, %error, "sending a batch again");
            self.take_back(&error);
            // A batch that could not even be sent is younger than those that were under way.
            let older = self.again.partition_point(|other| other.opened < batch.opened);
            self.again.insert(older, batch);
            if error.is_stale_metadata() {
                self.link = None;
                if self.shared.client.follow(&self.lane.topic, self.lane.partition, &error)
                    && self.redirects < MAX_REDIRECTS
                {
                    self.redirects += 1;
                    return;
                }
                self.shared.client.doubt_topic(&self.lane.topic).await;
            }
            tokio::time::sleep(self.backoff.next_wait()).await;
            return;
        }
        match self.producer {
            // Sent once and refused, it is stored nowhere: another producer may send it. The server forgets a producer
            // after a week, and a topic that was made again never knew it.
            Some(producer) if starts_over(&error) && batch.attempts <= 1 => {
                self.take_back(&error);
                self.again.push_front(batch);
                self.start_over(producer).await;
            }
            _ => self.give_up(batch, error).await,
        }
    }

    /// No connection: when the server no longer takes the producer, what was sent under it cannot be resolved any more.
    async fn on_no_link(&mut self, batch: Batch, error: ClientError) {
        let Some(producer) = self.producer.filter(|_| starts_over(&error)) else {
            return self.on_failure(batch, error).await;
        };
        self.take_back(&error);
        self.again.push_front(batch);
        self.fail_sent(&error);
        self.start_over(producer).await;
    }

    /// A batch that was sent may be stored: under another producer it would be stored twice.
    fn fail_sent(&mut self, error: &ClientError) {
        for batch in std::mem::take(&mut self.again) {
            if batch.attempts > 0 {
                self.fail(batch, error.clone());
            } else {
                self.again.push_back(batch);
            }
        }
    }

    async fn start_over(&mut self, producer: ProducerEpoch) {
        self.shared.links.reset_producer(producer).await;
        self.link = None;
        self.adopt(None);
    }

    /// After a failure the later batches of an idempotent producer were refused too, for being out of order, and over a
    /// lost connection nothing arrives any more. Without either, they go their way.
    fn take_back(&mut self, error: &ClientError) {
        let lost = matches!(error, ClientError::ConnectionLost { .. } | ClientError::TimedOut { .. });
        if self.producer.is_none() && !lost {
            return;
        }
        while let Some(later) = self.in_flight.pop_back() {
            self.again.push_front(later.batch);
        }
    }

    /// The batch fails for good. If it was never stored, the next batch takes its sequence; if it may be, nothing else
    /// may ever go under that sequence: the server would take it for the one it has, and ack what is nowhere.
    async fn give_up(&mut self, batch: Batch, error: ClientError) {
        if let Some(producer) = self.producer {
            self.take_back(&error);
            let refused = matches!(error, ClientError::Server { .. }) && !error.is_retriable();
            // A server whose disk failed does not know what of the last batches will be found there.
            let never_stored = refused && batch.attempts <= 1 && error.code() != Some(ErrorCode::StorageOffline);
            if !never_stored || starts_over(&error) {
                self.fail_sent(&error);
                self.start_over(producer).await;
            } else if let Some((_, sequence)) = batch.sequence {
                self.next_sequence = sequence;
                // Older ones may be stored under theirs.
                for later in self.again.iter_mut().filter(|other| other.opened > batch.opened) {
                    later.sequence = None;
                }
            }
        }
        self.fail(batch, error);
    }
}

/// The server has another idea of the producer: only a new one can go on.
fn starts_over(error: &ClientError) -> bool {
    let code = error.code();
    code.is_some_and(|code| {
        matches!(code, ErrorCode::OutOfOrderSequence | ErrorCode::FencedProducer | ErrorCode::UnknownProducer)
    })
}

async fn sleep_until(instant: Option<Instant>) {
    match instant {
        Some(instant) => tokio::time::sleep_until(instant).await,
        None => std::future::pending().await,
    }
}
