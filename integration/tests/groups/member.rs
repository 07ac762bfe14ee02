//! A member of a group on a thread of its own, and what it saw.

use lance_client::consumer::Position;
use lance_client::{AssignedPartition, Client, ClientOptions, GroupConsumer, GroupOptions, RebalanceListener};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// What happened to a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    Assigned(u16),
    /// It was asked to give a partition up, or leaves.
    GivenUp(u16),
    /// It heard that a partition is another's.
    Lost(u16),
    /// It crashed, holding whatever it held.
    Crashed,
    Record(u16, u64),
}

/// Something that happened, when and to whom.
#[derive(Clone, Debug)]
pub struct Seen {
    pub at: Instant,
    pub member: usize,
    pub event: Event,
}

/// What all members of a test saw, in order.
#[derive(Clone, Default)]
pub struct History(Arc<Mutex<Vec<Seen>>>);

impl History {
    fn note(&self, member: usize, event: Event) {
        self.0.lock().unwrap().push(Seen { at: Instant::now(), member, event });
    }

    /// Everything so far.
    pub fn all(&self) -> Vec<Seen> {
        self.0.lock().unwrap().clone()
    }

    /// How often each record of each partition was handled.
    pub fn handled(&self) -> BTreeMap<(u16, u64), usize> {
        let mut handled = BTreeMap::new();
        for seen in self.0.lock().unwrap().iter() {
            if let Event::Record(partition, number) = seen.event {
                *handled.entry((partition, number)).or_default() += 1;
            }
        }
        handled
    }

    /// How many different records were handled.
    pub fn handled_count(&self) -> usize {
        self.handled().len()
    }

    /// No partition is held by two members at once. Whoever crashed holds nothing from then on.
    pub fn expect_one_owner_at_a_time(&self) {
        let mut owners: BTreeMap<u16, usize> = BTreeMap::new();
        for seen in self.all() {
            match seen.event {
                Event::Assigned(partition) => {
                    let before = owners.insert(partition, seen.member);
                    assert!(before.is_none(), "partition {partition}: {before:?} still held what {} got", seen.member);
                }
                Event::GivenUp(partition) | Event::Lost(partition) => {
                    assert_eq!(owners.remove(&partition), Some(seen.member), "partition {partition}");
                }
                Event::Crashed => owners.retain(|_, owner| *owner != seen.member),
                Event::Record(partition, number) => {
                    assert_eq!(owners.get(&partition), Some(&seen.member), "record {number} of partition {partition}");
                }
            }
        }
    }
}

struct Listener {
    member: usize,
    history: History,
}

impl RebalanceListener for Listener {
    fn assigned(&self, partitions: &[Position]) {
        partitions.iter().for_each(|position| self.history.note(self.member, Event::Assigned(position.partition)));
    }

    fn revoked(&self, partitions: &[AssignedPartition]) {
        partitions.iter().for_each(|gone| self.history.note(self.member, Event::GivenUp(gone.id.partition)));
    }

    fn lost(&self, partitions: &[AssignedPartition]) {
        partitions.iter().for_each(|gone| self.history.note(self.member, Event::Lost(gone.id.partition)));
    }
}

enum End {
    Leave,
    Crash,
}

/// A running member.
pub struct Member {
    end: Option<oneshot::Sender<End>>,
    thread: Option<JoinHandle<()>>,
}

/// How members of a test join.
pub fn options(group: &str, topic: &str, session: Duration) -> GroupOptions {
    GroupOptions {
        session_timeout: session,
        auto_commit: Some(Duration::from_millis(200)),
        ..GroupOptions::new(group, [topic])
    }
}

impl Member {
    /// Joins; `number` tells members apart in the history.
    pub fn start(servers: &str, number: usize, options: GroupOptions, history: &History) -> Member {
        let (end, ended) = oneshot::channel();
        let (servers, history) = (servers.to_owned(), history.clone());
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(run(&servers, number, options, history, ended));
        });
        Member { end: Some(end), thread: Some(thread) }
    }

    /// Commits and leaves.
    pub fn leave(self) {
        self.finish(End::Leave);
    }

    /// Vanishes without a word, as a process does that is killed.
    pub fn crash(self) {
        self.finish(End::Crash);
    }

    fn finish(mut self, how: End) {
        // A member that failed has said why already.
        let _ = self.end.take().unwrap().send(how);
        self.thread.take().unwrap().join().unwrap();
    }
}

async fn run(
    servers: &str,
    number: usize,
    mut options: GroupOptions,
    history: History,
    mut ended: oneshot::Receiver<End>,
) {
    let mut connect = ClientOptions::new(servers).unwrap();
    connect.client_name = format!("member-{number}");
    let client = loop {
        match Client::connect(connect.clone()).await {
            Ok(client) => break client,
            Err(error) => eprintln!("member {number} cannot connect yet: {error}"),
        }
    };
    options.listener = Some(Arc::new(Listener { member: number, history: history.clone() }));
    let mut consumer = client.group_consumer(options);
    loop {
        tokio::select! {
            biased;
            how = &mut ended => {
                match how.unwrap() {
                    End::Leave => leave(consumer, number, &history).await,
                    End::Crash => {
                        // Its sessions end with the runtime; nothing of it is heard after this.
                        history.note(number, Event::Crashed);
                        drop(consumer);
                    }
                }
                return;
            }
            chunk = consumer.next_chunk() => {
                let chunk = chunk.unwrap_or_else(|error| panic!("member {number}: {error}"));
                for record in &chunk.records {
                    let value = record.value.as_ref().unwrap();
                    let value: u64 = std::str::from_utf8(value).unwrap().trim_start_matches('x').parse().unwrap();
                    history.note(number, Event::Record(chunk.partition, value));
                }
            }
        }
    }
}

async fn leave(consumer: GroupConsumer, number: usize, history: &History) {
    // What it holds may go to others before it hears that it has left.
    for held in consumer.held() {
        history.note(number, Event::GivenUp(held.id.partition));
    }
    if let Err(error) = consumer.close().await {
        eprintln!("member {number}: {error}");
    }
}
