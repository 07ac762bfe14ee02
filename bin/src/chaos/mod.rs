//! The fault test `lnc-chaos`: a cluster of processes, load, faults from a seed, and a verdict on every promise.

pub mod args;
pub mod check;
pub mod churn;
pub mod cluster;
pub mod faults;
pub mod groups;
pub mod history;
pub mod http;
pub mod inject;
pub mod load;
pub mod model;
pub mod net;
pub mod report;
pub mod segments;
pub mod watch;

use crate::cli::failure::Failure;
use args::ChaosCli;
use check::check;
use churn::Churn;
use clap::Parser;
use cluster::{Cluster, LOOK_EVERY};
use faults::Nemesis;
use groups::WatchedGroup;
use history::{Fate, History};
use lance_client::NodeId;
use lance_client::wire::cluster::ClusterCommand;
use report::{Report, Verdict};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::{JoinSet, LocalSet};
use watch::Watched;

/// Runs `lnc-chaos` with the arguments of the process.
pub fn main() -> ExitCode {
    let args = ChaosCli::parse();
    let filter = tracing_subscriber::EnvFilter::try_from_default_env();
    let filter = filter.unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("off"));
    _ = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).try_init();
    match start(&args) {
        Ok(report) => {
            println!("{}", report.render(args.output));
            if report.passed { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(failure) => {
            failure.report("lnc-chaos");
            failure.exit_code()
        }
    }
}

fn start(args: &ChaosCli) -> Result<Report, Failure> {
    let program = match &args.lance {
        Some(program) => program.clone(),
        None => beside_this_program()?,
    };
    let temporary = tempfile::Builder::new().prefix("lnc-chaos-").tempdir();
    let temporary = temporary.map_err(|error| Failure::failed(format!("no temporary folder: {error}")))?;
    let folder = args.dir.clone().unwrap_or_else(|| temporary.path().to_owned());
    let absolute = std::fs::create_dir_all(&folder).and_then(|()| folder.canonicalize());
    let folder = absolute.map_err(|error| Failure::failed(format!("{}: {error}", folder.display())))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.map_err(|error| Failure::failed(format!("cannot start the runtime: {error}")))?;
    // Processes are started on this thread, and end with it.
    let report = LocalSet::new().block_on(&runtime, run_unless_ended(args, &program, &folder));
    let broken = report.as_ref().map_or(true, |report| !report.passed);
    if broken && args.dir.is_none() {
        let kept = temporary.keep();
        eprintln!("lnc-chaos: folders and logs of the nodes stay in {}", kept.display());
    }
    report
}

fn beside_this_program() -> Result<PathBuf, Failure> {
    let own = std::env::current_exe().map_err(|error| Failure::failed(format!("where is this program? {error}")))?;
    let beside = own.with_file_name("lance");
    match beside.is_file() {
        true => Ok(beside),
        false => {
            Err(Failure::usage(format!("there is no {}", beside.display())).with_hint("name it with --lance PATH"))
        }
    }
}

/// Whoever ends the run ends the nodes and the network with it.
async fn run_unless_ended(args: &ChaosCli, program: &Path, folder: &Path) -> Result<Report, Failure> {
    let listen = |kind| signal(kind).map_err(|error| Failure::failed(format!("cannot wait for signals: {error}")));
    let (mut interrupt, mut terminate) = (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?);
    let mut hangup = listen(SignalKind::hangup())?;
    let ended = async {
        tokio::select! {
            _ = interrupt.recv() => "SIGINT",
            _ = terminate.recv() => "SIGTERM",
            _ = hangup.recv() => "SIGHUP",
        }
    };
    tokio::select! {
        report = run(args, program, folder) => report,
        signal = ended => Err(Failure::failed(format!("ended by {signal}, without a verdict"))),
    }
}

/// What works on the cluster, and looks at it, meanwhile.
struct Company {
    producers: JoinSet<()>,
    members: JoinSet<()>,
    others: JoinSet<()>,
    watched: Arc<Mutex<Watched>>,
    group: Arc<Mutex<WatchedGroup>>,
}

impl Company {
    async fn start(cluster: &Cluster, args: &ChaosCli, history: &Arc<History>) -> Result<Self, Failure> {
        let servers = cluster.servers();
        let (mut producers, mut members, mut others) = (JoinSet::new(), JoinSet::new(), JoinSet::new());
        for producer in 0..args.producers {
            load::start_producer(&mut producers, &servers, producer, args, history).await?;
        }
        for consumer in 0..args.consumers {
            others.spawn(load::consume(servers.clone(), consumer, args.partitions, Arc::clone(history)));
        }
        for _ in 0..args.members {
            // What a group consumer waits for cannot move between threads.
            members.spawn_local(groups::member(servers.clone(), Arc::clone(history)));
        }
        let (watched, group) = (Arc::default(), Arc::default());
        let admins = cluster.nodes.iter().map(|node| node.admin.clone()).collect();
        others.spawn(watch::watch(admins, Arc::clone(&watched)));
        if args.members > 0 {
            others.spawn(groups::watch(servers, Arc::clone(&group)));
        }
        Ok(Self { producers, members, others, watched, group })
    }

    fn verdicts(&self) -> Vec<Verdict> {
        let mut verdicts = self.watched.lock().unwrap_or_else(PoisonError::into_inner).verdicts();
        verdicts.extend(self.group.lock().unwrap_or_else(PoisonError::into_inner).verdicts());
        verdicts
    }
}

async fn run(args: &ChaosCli, program: &Path, folder: &Path) -> Result<Report, Failure> {
    let seed = args.seed.unwrap_or_else(|| u64::from(rand::random::<u32>()));
    eprintln!("lnc-chaos: seed {seed}");
    let mut cluster = Cluster::start(args, program, folder).await?;
    let servers = cluster.servers();
    load::create_topic(&servers, args).await?;
    let history = Arc::new(History::new(args.producers, args.consumers, args.partitions));
    let mut company = Company::start(&cluster, args, &history).await?;
    if !history.await_acks(LOOK_EVERY, args.patience).await {
        return Err(Failure::failed(format!(
            "no acks from every partition after {:?}, without any fault",
            args.patience
        )));
    }
    history.begin_measuring();
    let began = Instant::now();
    let churn = Churn::new(servers, u8::try_from(args.nodes).unwrap_or(u8::MAX));
    let mut nemesis = Nemesis::new(seed, args, &cluster, Arc::clone(&history), churn.clone());
    if nemesis.is_idle() {
        return Err(Failure::usage("none of these faults can be had here").with_hint("see --network and --faults"));
    }
    nemesis.run(&mut cluster, began + args.duration).await?;
    let duration = began.elapsed();
    history.stop_producers();
    let mut verdicts = judge_healed(&mut company.producers, &cluster, &nemesis, (args, &history)).await;
    // Whoever commits writes.
    company.members.shutdown().await;
    verdicts.extend(check(&cluster, args, &history).await);
    verdicts.push(judge_topics(&cluster, &churn).await);
    verdicts.extend(company.verdicts());
    company.others.shutdown().await;
    verdicts.sort_by_key(|verdict| verdict.invariant);
    Ok(summary(args, seed, (duration, verdicts), (&nemesis, cluster.network.describe()), &history))
}

/// Everything comes back after the faults: acks, nodes, copies.
async fn judge_healed(
    producers: &mut JoinSet<()>,
    cluster: &Cluster,
    nemesis: &Nemesis,
    (args, history): (&ChaosCli, &History),
) -> Vec<Verdict> {
    let all_settled = tokio::time::timeout(args.patience, async { while producers.join_next().await.is_some() {} });
    let mut settled = Verdict::new(10, "a producer that tries again is served after every fault");
    if all_settled.await.is_err() {
        settled.broken(format!("acks are missing {:?} after the last fault", args.patience));
    }
    let mut agreed = Verdict::new(10, "the healed cluster agrees, and every node counts again");
    lift_back_offs(cluster).await;
    match cluster.await_agreement(args.patience).await {
        Ok(()) => agreed.held(),
        Err(states) => agreed.broken(format!("after {:?}: {states}", args.patience)),
    }
    let mut whole = Verdict::new(10, "the cluster is whole again after each storm of faults");
    whole.held_by(nemesis.whole);
    nemesis.problems.iter().for_each(|problem| whole.broken(problem.clone()));
    judge_deliveries(&mut settled, args, history);
    vec![settled, whole, agreed]
}

/// Nodes that were evicted several times wait longer before they may count again; here nobody has time for that.
pub async fn lift_back_offs(cluster: &Cluster) {
    let Ok(client) = load::connect(&cluster.servers()).await else { return };
    for node in &cluster.nodes {
        // It lifts no condition: a node that does not count in the end shows, whatever became of this.
        _ = client.admin().order(ClusterCommand::Admit { node: NodeId(node.id) }).await;
    }
}

/// What was deleted is gone on every node, as soon as it has applied that.
async fn judge_topics(cluster: &Cluster, churn: &Churn) -> Verdict {
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        let mut judged = churn.ids().clone();
        for node in &cluster.nodes {
            judged.listed(node.id, node.topic_ids().await.unwrap_or_default());
        }
        let verdict = judged.verdict();
        if verdict.broken == churn.ids().verdict().broken || Instant::now() > deadline {
            return verdict;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn judge_deliveries(verdict: &mut Verdict, args: &ChaosCli, history: &History) {
    for (producer, partition) in lanes(args) {
        for (number, fate) in history.fates(producer, partition).into_iter().enumerate() {
            match fate {
                Fate::Acked(_) => verdict.held(),
                Fate::Failed(error) => {
                    verdict.broken(format!("partition {partition}, producer {producer}, record {number}: {error}"));
                }
                // Said once, above.
                Fate::Open => {}
            }
        }
    }
}

fn lanes(args: &ChaosCli) -> impl Iterator<Item = (u16, u16)> {
    let partitions = args.partitions;
    (0..args.producers).flat_map(move |producer| (0..partitions).map(move |partition| (producer, partition)))
}

fn summary(
    args: &ChaosCli,
    seed: u64,
    (duration, verdicts): (Duration, Vec<Verdict>),
    (nemesis, network): (&Nemesis, String),
    history: &History,
) -> Report {
    let fates: Vec<Fate> = lanes(args).flat_map(|(producer, partition)| history.fates(producer, partition)).collect();
    let count = |wanted: fn(&Fate) -> bool| fates.iter().filter(|fate| wanted(fate)).count() as u64;
    let views = (0..args.consumers).flat_map(|consumer| (0..args.partitions).map(move |number| (consumer, number)));
    let (partition, longest, ended_at) = history.longest_unavailability();
    Report {
        seed,
        nodes: args.nodes,
        duration_seconds: duration.as_secs_f64(),
        produced: fates.len() as u64,
        acked: count(|fate| matches!(fate, Fate::Acked(_))),
        failed: count(|fate| matches!(fate, Fate::Failed(_))),
        consumed: views.map(|(consumer, number)| history.view(consumer, number).records.len() as u64).sum(),
        faults: nemesis.counts.iter().map(|(kind, count)| (kind.name(), *count)).collect(),
        faults_at_once: nemesis.most_at_once as u64,
        network,
        longest_unavailability_seconds: longest.as_secs_f64(),
        longest_unavailability_ended_at: ended_at.as_secs_f64(),
        longest_unavailability_partition: partition,
        passed: verdicts.iter().all(|verdict| verdict.broken == 0),
        verdicts,
        folder: args.dir.as_ref().map(|folder| folder.display().to_string()),
        history: history.notes().into_iter().map(|(at, what)| (at.as_secs_f64(), what)).collect(),
    }
}
