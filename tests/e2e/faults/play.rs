//! A run with everything that a fault can strike: brokers, a dispatcher, workers, an aggregator, and a
//! witness beside them. A story starts them, strikes, and says when they have recovered.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use pipeline::{Grain, RunId};

use super::brokers::{OneBroker, ThreeBrokers};
use super::verdict::{Figures, Must, Oracle, judge};
use super::witness::{Arrival, Witness, partitions_of_jobs};
use crate::cluster::TestCluster;
use crate::processes::{Running, data_set, finish, folder, rollcall, wait_within};

/// Nothing that a row waits for takes longer, also where everything waits for a core.
const TIMEOUT: Duration = Duration::from_secs(240);

/// Outcomes after which a fault strikes, unless it strikes by itself: a tenth of the jobs.
const UNDER_WAY: u64 = 600;

/// How workers hand on what they have done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    AtLeastOnce,
    ExactlyOnce,
}

impl Delivery {
    pub fn name(self) -> &'static str {
        match self {
            Self::AtLeastOnce => "at-least-once",
            Self::ExactlyOnce => "exactly-once",
        }
    }
}

/// The brokers of a row.
pub enum Stand<'a> {
    One(&'a mut OneBroker),
    Three(&'a mut ThreeBrokers),
}

/// A process that fault points can be armed in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    Dispatcher,
    Worker,
    Aggregator,
}

/// A worker of the fleet, in one of its lives.
struct Worker {
    id: String,
    process: Running,
    life: u32,
    /// Whether it may have died.
    is_struck: bool,
}

/// When a fault has to strike, or it would prove nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strikes {
    /// Some jobs have an outcome, others have none.
    MidRun,
    /// Before all jobs have an outcome; maybe before the first is published.
    BeforeTheEnd,
    /// When all of them have.
    AfterTheLast,
}

impl Strikes {
    fn holds(self, done: u64, jobs: u64) -> bool {
        match self {
            Self::MidRun => (1..jobs).contains(&done),
            Self::BeforeTheEnd => done < jobs,
            Self::AfterTheLast => done == jobs,
        }
    }
}

/// How far a run was when the fault struck.
#[derive(Clone, Copy, Debug)]
struct Strike {
    at: Instant,
    jobs_done: u64,
}

/// One run of one row.
pub struct Play<'a> {
    // Dropped first: if the play has failed they show what they said, which is in the test's folder.
    workers: Vec<Worker>,
    pub dispatcher: Option<Running>,
    pub aggregator: Option<Running>,
    pub stand: Stand<'a>,
    pub delivery: Delivery,
    pub test: TestCluster,
    pub run_id: RunId,
    pub data: &'a Data,
    /// How long each job takes.
    pub work: &'static str,
    pub partitions: &'static str,
    /// Whether workers have lasting names in their group.
    pub is_static: bool,
    /// Whether somebody starts workers again that have died by themselves.
    pub is_supervised: bool,
    /// Whether jobs were published again on purpose, so that they have an outcome more.
    pub is_published_again: bool,
    pub worker_options: Vec<String>,
    pub dispatcher_options: Vec<String>,
    /// Environment of all processes.
    pub environment: Vec<(&'static str, String)>,
    pub witness: Witness,
    /// What is armed in which part, each as `ROLLCALL_FAULTS` names it.
    armed: Vec<(Part, String)>,
    /// How many dispatchers and aggregators there were.
    started: u32,
    /// How many workers there were, those that have ended included.
    hired: usize,
    /// How many workers were started again by their supervisor.
    pub deaths: u32,
    strike: Option<Strike>,
    recovery: Option<Duration>,
    /// The worker whose partitions' recovery is measured.
    victim: Option<Victim>,
    /// What else was measured.
    pub note: Option<String>,
}

/// A worker that was struck.
#[derive(Debug)]
struct Victim {
    id: String,
    partitions: BTreeSet<i32>,
    /// The partition of each job.
    jobs: BTreeMap<u64, i32>,
}

/// What a play came to.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub figures: Figures,
    pub recovery: Option<Duration>,
    /// When each of a victim's partitions had an outcome by somebody else again.
    pub recovery_of_all: Option<Duration>,
    pub note: Option<String>,
}

/// A data set, how it is grouped, and what it comes to. Each of its groups is one job.
#[derive(Debug)]
pub struct Data {
    pub path: PathBuf,
    pub grain: Grain,
    pub oracle: Oracle,
}

impl Data {
    /// Generates a data set and has the reference count it.
    #[track_caller]
    pub fn make(options: &[&str], grain: Grain) -> Self {
        let path = data_set(options);
        let folder = folder();
        let mut command = rollcall();
        command.args(["run", "--engine", "local", "--quiet"]);
        command.args(["--every", grain.name(), "--out"]);
        command.arg(folder.path()).arg(&path);
        finish(command).expect_code(0);
        Self {
            path,
            grain,
            oracle: Oracle::read(folder.path()),
        }
    }

    pub fn jobs(&self) -> u64 {
        self.oracle.counts.len() as u64
    }
}

impl<'a> Play<'a> {
    /// A stage on which nothing goes on yet. `name` is that of topics and group.
    pub fn new(stand: Stand<'a>, name: &str, delivery: Delivery, data: &'a Data) -> Self {
        let servers = match &stand {
            Stand::One(one) => one.broker.bootstrap_servers(),
            Stand::Three(three) => three.bootstrap_servers(),
        };
        let test = TestCluster::on(&servers, name);
        let run_id: RunId = name.parse().expect("a run id");
        let witness = Witness::start(&test, &run_id);
        Self {
            stand,
            delivery,
            test,
            run_id,
            data,
            work: "1ms",
            partitions: "24",
            is_static: false,
            is_supervised: false,
            is_published_again: false,
            worker_options: Vec::new(),
            dispatcher_options: Vec::new(),
            environment: Vec::new(),
            witness,
            armed: Vec::new(),
            workers: Vec::new(),
            started: 0,
            hired: 0,
            deaths: 0,
            dispatcher: None,
            aggregator: None,
            strike: None,
            recovery: None,
            victim: None,
            note: None,
        }
    }

    /// The single broker and its proxy.
    pub fn one(&mut self) -> &mut OneBroker {
        match &mut self.stand {
            Stand::One(one) => one,
            Stand::Three(_) => panic!("the row has three brokers"),
        }
    }

    pub fn three(&mut self) -> &mut ThreeBrokers {
        match &mut self.stand {
            Stand::Three(three) => three,
            Stand::One(_) => panic!("the row has one broker"),
        }
    }

    /// From now on all processes but the witness speak to the broker through the proxy.
    pub fn go_through_the_proxy(&mut self) {
        self.test.bootstrap_servers = self.one().through_the_proxy();
    }

    // --- starting -------------------------------------------------------------------------------

    /// Arms a fault point in every process of a part that is started from now on.
    pub fn arm(&mut self, part: Part, fault: &str) {
        self.armed.push((part, fault.to_owned()));
    }

    /// Arms a fault point that strikes once; [`has_struck`](Self::has_struck) tells whether it has.
    pub fn arm_once(&mut self, part: Part, fault: &str) {
        let fault = format!("{fault}!{}", self.mark().display());
        self.arm(part, &fault);
    }

    fn mark(&self) -> PathBuf {
        self.test.folder.path().join("struck")
    }

    pub fn has_struck(&self) -> bool {
        self.mark().exists()
    }

    fn prepared(&self, mut command: Command, part: Part) -> Command {
        let armed = self.armed.iter().filter(|(own, _)| *own == part);
        let faults: Vec<&str> = armed.map(|(_, fault)| fault.as_str()).collect();
        if !faults.is_empty() {
            command.env("ROLLCALL_FAULTS", faults.join(";"));
        }
        command.arg("-v");
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Dispatcher, aggregator and workers, at once.
    pub fn start(&mut self, workers: usize) {
        self.start_workers(workers);
        let all = workers.to_string();
        self.dispatcher_options
            .push("--wait-for-workers".to_owned());
        self.dispatcher_options.push(all);
        self.start_dispatcher();
        self.start_aggregator();
    }

    pub fn start_workers(&mut self, workers: usize) {
        for _ in 0..workers {
            let worker = self.worker(self.hired, 0);
            self.hired += 1;
            self.workers.push(worker);
        }
    }

    fn worker(&self, slot: usize, life: u32) -> Worker {
        let id = format!("worker-{slot}-{life}");
        let mut command = self.test.service("worker");
        command.args(["--group", &self.test.group(), "--worker-id", &id]);
        command.args([
            "--simulate-work",
            self.work,
            "--delivery",
            self.delivery.name(),
        ]);
        command.args(&self.worker_options);
        if self.is_static {
            let name = format!("{}-{slot}", self.test.prefix);
            command.args(["--group-instance-id", &name]);
        }
        let command = self.prepared(command, Part::Worker);
        Worker {
            process: Running::start(command, self.test.folder.path(), &id),
            id,
            life,
            is_struck: false,
        }
    }

    pub fn start_dispatcher(&mut self) {
        let mut command = self
            .test
            .dispatcher(&self.data.path, &["--every", self.data.grain.name()]);
        command.args([
            "--run-id",
            self.run_id.as_str(),
            "--partitions",
            self.partitions,
        ]);
        command.args(["--group", &self.test.group()]);
        command.args(&self.dispatcher_options);
        if self.delivery == Delivery::ExactlyOnce {
            command.args(["-X", "enable.idempotence=true"]);
        }
        let command = self.prepared(command, Part::Dispatcher);
        self.started += 1;
        let log = format!("dispatcher-{}", self.started);
        self.dispatcher = Some(Running::start(command, self.test.folder.path(), &log));
    }

    pub fn start_aggregator(&mut self) {
        let out = self.test.out(&self.run_id);
        self.start_aggregator_into(&out, "3m");
    }

    pub fn start_aggregator_into(&mut self, out: &std::path::Path, timeout: &str) {
        let options = ["--timeout", timeout];
        let command = self.test.aggregator(&self.run_id, out, &options);
        let command = self.prepared(command, Part::Aggregator);
        self.started += 1;
        let log = format!("aggregator-{}", self.started);
        self.aggregator = Some(Running::start(command, self.test.folder.path(), &log));
    }

    // --- waiting --------------------------------------------------------------------------------

    /// Waits, and meanwhile does what a supervisor does, if there is one.
    #[track_caller]
    pub fn wait_until(&mut self, what: &str, mut holds: impl FnMut(&mut Self) -> bool) {
        wait_within(TIMEOUT, what, || {
            if self.is_supervised {
                self.start_dead_workers();
            } else {
                self.assert_that_only_the_struck_are_dead();
            }
            holds(self)
        });
    }

    #[track_caller]
    fn assert_that_only_the_struck_are_dead(&mut self) {
        let may_die = self.armed.iter().any(|(part, _)| *part == Part::Worker);
        for worker in &mut self.workers {
            let lives = may_die || worker.is_struck || worker.process.is_running();
            assert!(
                lives,
                "{} has died by itself: {}",
                worker.id,
                worker.process.said()
            );
        }
    }

    fn start_dead_workers(&mut self) {
        for slot in 0..self.workers.len() {
            if !self.workers[slot].process.is_running() {
                self.deaths += 1;
                self.start_worker_again(slot);
            }
        }
    }

    /// Waits until some of the jobs have an outcome, and takes this for the moment of the strike.
    #[track_caller]
    pub fn until_under_way(&mut self) {
        self.until_done(UNDER_WAY);
    }

    /// Waits until so many jobs have an outcome, and takes this for the moment of the strike.
    #[track_caller]
    pub fn until_done(&mut self, jobs: u64) {
        self.wait_until("some jobs have an outcome", |play| {
            play.witness.jobs() >= jobs
        });
        self.strikes_now();
    }

    /// Waits until a fault that was armed once has struck, and takes this for the moment of the strike.
    #[track_caller]
    pub fn until_struck(&mut self) {
        self.wait_until("the fault strikes", |play| play.has_struck());
        self.strikes_now();
    }

    /// The worker that has died of the fault.
    #[track_caller]
    pub fn until_a_worker_is_dead(&mut self) -> usize {
        let mut dead = None;
        self.wait_until("a worker dies of it", |play| {
            let mut workers = play.workers.iter_mut();
            dead = workers.position(|worker| !worker.process.is_running());
            dead.is_some()
        });
        let dead = dead.expect("waited for");
        self.workers[dead].is_struck = true;
        dead
    }

    /// Notes how far the run is.
    pub fn strikes_now(&mut self) {
        self.strike = Some(Strike {
            at: Instant::now(),
            jobs_done: self.witness.jobs(),
        });
    }

    /// How many jobs had an outcome at the strike.
    #[track_caller]
    pub fn done_at_the_strike(&self) -> u64 {
        self.strike.expect("something has struck").jobs_done
    }

    /// Waits for the first outcome after the strike: that is when the run has recovered.
    #[track_caller]
    pub fn until_work_goes_on(&mut self) {
        let struck = self.strike.expect("something has struck").at;
        self.until_one_comes_after(struck, |_| true);
    }

    /// The same after a fault that has lasted until now.
    #[track_caller]
    pub fn until_work_goes_on_from_now(&mut self) {
        self.until_one_comes_after(Instant::now(), |_| true);
    }

    #[track_caller]
    fn until_one_comes_after(&mut self, since: Instant, is_one: impl Fn(&Arrival) -> bool) {
        self.wait_until("work goes on", |play| {
            play.recovery = play.witness.first_after(since, &is_one);
            play.recovery.is_some()
        });
    }

    /// Waits until a worker has said something.
    #[track_caller]
    pub fn until_a_worker_says(&mut self, what: &str) {
        self.wait_until("a worker says so", |play| {
            let mut workers = play.workers.iter();
            workers.any(|worker| worker.process.said().contains(what))
        });
    }

    /// Waits until so many more jobs are done, and takes the longest time without any outcome since
    /// `first` for the time that it took to recover.
    #[track_caller]
    pub fn until_so_many_more_are_done(&mut self, more: u64, first: Instant) {
        let done = self.witness.jobs();
        self.wait_until("work goes on", |play| play.witness.jobs() >= done + more);
        self.recovery = self.witness.longest_silence(first);
    }

    /// Waits until every copy of the run's topics and of the group's offsets is in sync.
    #[track_caller]
    pub fn wait_until_in_sync(&mut self) {
        let topics = self.test.topics.clone();
        let mut all = topics.all().to_vec();
        all.push("__consumer_offsets");
        self.three().wait_until_in_sync(&all);
    }

    /// Lets a fault last.
    pub fn hold(&self, how_long: Duration) {
        thread::sleep(how_long);
    }

    // --- striking -------------------------------------------------------------------------------

    /// Kills a worker as nobody can prevent.
    pub fn kill_worker(&mut self, slot: usize) {
        self.workers[slot].process.kill();
        self.workers[slot].is_struck = true;
    }

    /// Kills every worker, and nobody starts them again.
    pub fn kill_all_workers(&mut self) {
        self.workers.clear();
    }

    /// Starts a worker that has ended or died once more.
    pub fn start_worker_again(&mut self, slot: usize) {
        let life = self.workers[slot].life + 1;
        self.workers[slot] = self.worker(slot, life);
    }

    /// Asks a worker to end, and waits until it has.
    #[track_caller]
    pub fn end_worker(&mut self, slot: usize) {
        let mut worker = self.workers.remove(slot);
        worker.process.end();
    }

    /// Has quick workers finish what slow ones had enough of for as long as the faults lasted.
    #[track_caller]
    pub fn finish_quickly(&mut self) {
        self.work = "0ms";
        let slow = self.workers.len();
        self.start_workers(2);
        for _ in 0..slow {
            self.end_worker(0);
        }
    }

    pub fn signal_worker(&self, slot: usize, name: &str) {
        self.workers[slot].process.signal(name);
    }

    pub fn worker_process(&self, slot: usize) -> u32 {
        self.workers[slot].process.id()
    }

    /// Waits for the next outcome of a job from the partitions that a worker had when it was struck,
    /// by whoever has them now.
    #[track_caller]
    pub fn until_its_partitions_go_on(&mut self, slot: usize) {
        let victim = format!("worker-{slot}-0");
        let struck = self.strike.expect("something has struck").at;
        let log = self.test.folder.path().join(format!("{victim}.log"));
        let own = partitions_at_the_end_of(&fs::read_to_string(log).expect("its log"));
        assert!(!own.is_empty(), "{victim} had no partitions");
        let victim = Victim {
            id: victim,
            partitions: own,
            jobs: partitions_of_jobs(&self.test, &self.run_id),
        };
        self.until_one_comes_after(struck, |one| victim.is_gone_on_with_by(one).is_some());
        self.victim = Some(victim);
    }

    // --- the end --------------------------------------------------------------------------------

    /// Waits for the aggregator and judges. `None` when all is well, but the fault has not struck when
    /// it had to, and proves nothing.
    #[track_caller]
    pub fn end(mut self, must: Must, strikes: Strikes) -> Option<Outcome> {
        self.wait_until("the aggregator ends", |play| {
            !is_running(&mut play.aggregator)
        });
        let aggregator = self.aggregator.as_mut().expect("it was started");
        let code = aggregator.wait().code();
        let Some(must) = must.said_by(code) else {
            panic!("not {}, but {code:?}: {}", must.word(), aggregator.said());
        };
        let figures = judge(&self, must);
        let jobs = self.data.jobs();
        let done = self.done_at_the_strike();
        if !strikes.holds(done, jobs) {
            return None;
        }
        let recovery_of_all = self.victim.as_ref().map(|victim| {
            let struck = self.strike.expect("something has struck").at;
            let partition = |one: &Arrival| victim.is_gone_on_with_by(one);
            self.witness.first_of_each_after(struck, partition)
        });
        Some(Outcome {
            figures,
            recovery: self.recovery,
            recovery_of_all,
            note: self.note,
        })
    }
}

impl Victim {
    /// Which of its partitions an outcome of somebody else is of.
    fn is_gone_on_with_by(&self, one: &Arrival) -> Option<i32> {
        let partition = *self.jobs.get(&one.index)?;
        (*one.worker != *self.id && self.partitions.contains(&partition)).then_some(partition)
    }
}

/// Whether a process was started and goes on.
pub fn is_running(process: &mut Option<Running>) -> bool {
    process.as_mut().is_some_and(Running::is_running)
}

/// The partitions that a worker had last, as its log tells.
fn partitions_at_the_end_of(log: &str) -> BTreeSet<i32> {
    let mut own = BTreeSet::new();
    for line in log.lines() {
        let Some((said, listed)) = line.split_once(" partitions=[") else {
            continue;
        };
        let listed = listed.split(']').next().unwrap_or_default();
        let partitions = listed.split(", ").filter_map(|number| number.parse().ok());
        if said.ends_with("partitions assigned") {
            own.extend(partitions);
        } else {
            partitions.for_each(|partition| {
                own.remove(&partition);
            });
        }
    }
    own
}
