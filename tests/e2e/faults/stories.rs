//! The faults, each a short story on a [`Play`]: what is started, what strikes, and when it is over.

use std::time::{Duration, Instant};

use kafka::{TopicNames, TopicSpec, topics};

use super::brokers::stop;
use super::clock::DayClock;
use super::disk::SmallDisk;
use super::play::{Part, Play, is_running};
use super::proxy::Weather;
use crate::processes::{peak_resident_bytes, signal};

/// Twice the session time-out, and more than brokers wait for a transaction.
const LONG: Duration = Duration::from_secs(20);

/// As long as a person needs to start a broker again.
const A_MINUTE: Duration = Duration::from_secs(60);

const MIB: u64 = 1024 * 1024;

// --- workers --------------------------------------------------------------------------------------

pub fn a_worker_is_killed(play: &mut Play<'_>) {
    play.start(2);
    play.until_under_way();
    play.kill_worker(0);
    play.until_its_partitions_go_on(0);
}

pub fn a_worker_is_killed_and_replaced(play: &mut Play<'_>) {
    play.start(2);
    play.until_under_way();
    play.kill_worker(0);
    play.start_worker_again(0);
    play.until_its_partitions_go_on(0);
}

pub fn a_static_worker_is_killed_and_replaced(play: &mut Play<'_>) {
    play.is_static = true;
    a_worker_is_killed_and_replaced(play);
}

pub fn all_workers_are_killed(play: &mut Play<'_>) {
    play.start(2);
    play.until_under_way();
    for worker in 0..2 {
        play.kill_worker(worker);
    }
    for worker in 0..2 {
        play.start_worker_again(worker);
    }
    play.until_its_partitions_go_on(0);
}

pub fn workers_are_killed_in_turns(play: &mut Play<'_>) {
    play.is_static = true;
    play.start(2);
    for kill in 0..6 {
        let done = play.witness.jobs();
        play.until_done(done + 400);
        play.kill_worker(kill % 2);
        play.start_worker_again(kill % 2);
    }
}

/// Fault points of workers: `fault` as `ROLLCALL_FAULTS` names it.
pub fn a_worker_dies_at(play: &mut Play<'_>, fault: &str) {
    play.arm_once(Part::Worker, fault);
    play.start(2);
    play.until_struck();
    let dead = play.until_a_worker_is_dead();
    play.start_worker_again(dead);
    play.until_its_partitions_go_on(dead);
}

pub fn a_worker_stands_still_and_comes_back(play: &mut Play<'_>) {
    play.start(2);
    play.until_under_way();
    play.signal_worker(0, "STOP");
    play.until_its_partitions_go_on(0);
    play.signal_worker(0, "CONT");
    play.until_a_worker_says("partitions lost");
}

pub fn a_worker_stands_still_for_a_moment(play: &mut Play<'_>) {
    play.start(2);
    play.until_under_way();
    play.signal_worker(0, "STOP");
    play.hold(Duration::from_secs(3));
    play.signal_worker(0, "CONT");
}

pub fn one_worker_becomes_eight_and_one_again(play: &mut Play<'_>) {
    play.work = "5ms";
    play.start(1);
    play.until_under_way();
    play.start_workers(7);
    play.wait_until("all eight work", |play| {
        (0..8).all(|slot| !play.witness.jobs_of(&format!("worker-{slot}-0")).is_empty())
    });
    for _ in 0..7 {
        play.end_worker(1);
    }
    // The second strike is the one that counts: there has to be work left for the last.
    play.strikes_now();
}

pub fn a_job_takes_longer_than_polls_may(play: &mut Play<'_>) {
    play.worker_options = ["-X", "max.poll.interval.ms=6000"]
        .map(str::to_owned)
        .into();
    play.arm_once(Part::Worker, "worker.before-compute=slow:12s@3000");
    play.start(2);
    play.until_struck();
}

pub fn a_job_fails_always(play: &mut Play<'_>) {
    play.arm(Part::Worker, "worker.before-compute=error@3000");
    play.start(2);
    play.until_a_worker_says("fault injected");
    play.strikes_now();
}

pub fn a_job_kills_its_workers(play: &mut Play<'_>) {
    a_job_ends_its_workers(play, "worker.before-compute=abort@3000");
}

pub fn a_job_hangs_its_workers(play: &mut Play<'_>) {
    play.worker_options = ["--job-timeout", "1s"].map(str::to_owned).into();
    a_job_ends_its_workers(play, "worker.before-compute=hang@3000");
}

/// Each worker that comes to the job dies of it, and is started again.
fn a_job_ends_its_workers(play: &mut Play<'_>, fault: &str) {
    play.is_static = true;
    play.is_supervised = true;
    play.arm(Part::Worker, fault);
    play.start(3);
    play.wait_until("a worker dies of it", |play| play.deaths > 0);
    play.strikes_now();
}

pub fn there_are_fewer_partitions_than_workers(play: &mut Play<'_>) {
    play.partitions = "2";
    play.work = "5ms";
    play.dispatcher_options = ["--jobs-per-message", "16"].map(str::to_owned).into();
    play.start(4);
    play.until_under_way();
    // One of the two that work.
    let idle = |play: &Play<'_>, slot: &usize| {
        play.witness.jobs_of(&format!("worker-{slot}-0")).is_empty()
    };
    let worker = (0..4)
        .find(|slot| !idle(play, slot))
        .expect("somebody works");
    play.kill_worker(worker);
    play.until_its_partitions_go_on(worker);
}

// --- dispatcher -----------------------------------------------------------------------------------

/// Fault points of the dispatcher. It publishes slowly, so that workers are at work meanwhile.
pub fn a_dispatcher_dies_at(play: &mut Play<'_>, fault: &str) {
    play.arm(Part::Dispatcher, "dispatcher.mid-publish=slow:300ms");
    play.arm_once(Part::Dispatcher, fault);
    play.start(2);
    play.until_struck();
    play.wait_until("it is dead", |play| !is_running(&mut play.dispatcher));
    play.start_dispatcher();
}

/// Starts a run whose dispatcher takes long to publish, and waits until it is in the midst of that.
fn start_publishing_slowly(play: &mut Play<'_>) {
    play.arm(Part::Dispatcher, "dispatcher.mid-publish=slow:1s");
    play.start(2);
    play.until_done(1);
    assert_publishing(play);
}

/// Else what strikes the dispatcher, or what it publishes to, would strike nothing.
#[track_caller]
fn assert_publishing(play: &mut Play<'_>) {
    assert!(
        is_running(&mut play.dispatcher),
        "it has published everything already"
    );
}

pub fn a_dispatcher_is_killed_while_it_publishes(play: &mut Play<'_>) {
    start_publishing_slowly(play);
    play.dispatcher.as_mut().expect("it was started").kill();
    play.start_dispatcher();
    play.until_work_goes_on();
}

pub fn a_dispatcher_stands_still(play: &mut Play<'_>) {
    start_publishing_slowly(play);
    let signal = |play: &Play<'_>, name| {
        let dispatcher = play.dispatcher.as_ref().expect("it was started");
        dispatcher.signal(name);
    };
    signal(play, "STOP");
    play.hold(Duration::from_secs(10));
    signal(play, "CONT");
}

pub fn two_dispatchers_publish_one_run(play: &mut Play<'_>) {
    // What both have published has an outcome of each.
    play.is_published_again = true;
    play.arm(Part::Dispatcher, "dispatcher.mid-publish=slow:300ms");
    play.start(2);
    play.until_done(1);
    let first = play.dispatcher.take();
    play.start_dispatcher();
    let mut both = [first, play.dispatcher.take()];
    play.wait_until("both have published", |_| {
        both.iter_mut().all(|dispatcher| !is_running(dispatcher))
    });
    for dispatcher in both.iter_mut().flatten() {
        assert_eq!(dispatcher.wait().code(), Some(0), "{}", dispatcher.said());
    }
}

// --- aggregator -----------------------------------------------------------------------------------

pub fn an_aggregator_is_killed(play: &mut Play<'_>) {
    play.start(2);
    play.until_under_way();
    play.aggregator.as_mut().expect("it was started").kill();
    play.start_aggregator();
}

pub fn an_aggregator_stands_still(play: &mut Play<'_>) {
    play.start(2);
    play.until_under_way();
    let aggregator = play.aggregator.as_ref().expect("it was started");
    aggregator.signal("STOP");
    play.hold(Duration::from_secs(10));
    play.aggregator
        .as_ref()
        .expect("it was started")
        .signal("CONT");
}

/// Fault points of the aggregator.
pub fn an_aggregator_dies_at(play: &mut Play<'_>, fault: &str) {
    play.arm_once(Part::Aggregator, fault);
    play.start(2);
    play.until_struck();
    play.wait_until("it is dead", |play| !is_running(&mut play.aggregator));
    play.start_aggregator();
}

// --- one broker -----------------------------------------------------------------------------------

pub fn the_broker_is_killed_and_comes_back(play: &mut Play<'_>) {
    the_broker_is_away(play, Duration::ZERO);
}

pub fn the_broker_is_away_for_a_minute(play: &mut Play<'_>) {
    the_broker_is_away(play, A_MINUTE);
}

fn the_broker_is_away(play: &mut Play<'_>, how_long: Duration) {
    play.start(2);
    play.until_under_way();
    play.one().broker.kill();
    play.hold(how_long);
    play.one().broker.restart();
    play.until_work_goes_on_from_now();
}

pub fn the_broker_is_away_while_jobs_are_published(play: &mut Play<'_>) {
    // A minute, and the broker's own start.
    play.dispatcher_options = ["--broker-timeout", "5m"].map(str::to_owned).into();
    start_publishing_slowly(play);
    play.one().broker.kill();
    play.hold(A_MINUTE);
    play.one().broker.restart();
    play.until_work_goes_on_from_now();
}

pub fn the_broker_is_stopped_in_order_and_comes_back(play: &mut Play<'_>) {
    play.start(2);
    play.until_under_way();
    stop(&mut play.one().broker);
    play.one().broker.restart();
    play.until_work_goes_on_from_now();
}

pub fn the_broker_is_away_at_the_start(play: &mut Play<'_>) {
    play.one().broker.kill();
    play.start(2);
    play.strikes_now();
    play.hold(LONG);
    play.one().broker.restart();
    play.until_work_goes_on_from_now();
}

pub fn the_broker_stands_still(play: &mut Play<'_>) {
    play.start(2);
    play.until_under_way();
    let broker = play.one().broker.process_id().expect("it runs");
    signal(broker, "STOP");
    play.hold(LONG);
    signal(broker, "CONT");
    play.until_work_goes_on_from_now();
}

/// A million jobs, one a message, and nobody takes what the clients have: what they hold is bounded.
pub fn memory_is_bounded_while_the_broker_stands_still(play: &mut Play<'_>) {
    const BUDGET: u64 = 64;
    play.go_through_the_proxy();
    play.work = "0ms";
    play.dispatcher_options = ["--jobs-per-message", "1", "--memory-budget", "64MiB"]
        .map(str::to_owned)
        .into();
    play.start(2);
    play.until_under_way();
    assert_publishing(play);
    play.one().proxy.set(Weather::Silent);
    play.hold(LONG);
    let dispatcher = play.dispatcher.as_ref().expect("it was started").id();
    let worker = play.worker_process(0);
    let mib = |process| peak_resident_bytes(process).expect("it is alive") / MIB;
    let (dispatcher, worker) = (mib(dispatcher), mib(worker));
    play.note = Some(format!(
        "at most: dispatcher {dispatcher} MiB, worker {worker} MiB"
    ));
    assert!(
        dispatcher <= BUDGET + 100,
        "the dispatcher has {dispatcher} MiB"
    );
    assert!(worker <= 80, "a worker has {worker} MiB");
    play.one().proxy.set(Weather::Clear);
    play.until_work_goes_on_from_now();
}

// --- the network ----------------------------------------------------------------------------------

/// Bad weather between every client and the broker for some time.
pub fn there_is_bad_weather(play: &mut Play<'_>, weather: Weather, how_long: Duration) {
    play.go_through_the_proxy();
    play.start(2);
    play.until_under_way();
    play.one().proxy.set(weather);
    play.hold(how_long);
    play.one().proxy.set(Weather::Clear);
    play.until_work_goes_on_from_now();
}

pub fn everything_is_late(play: &mut Play<'_>) {
    play.work = "2ms";
    there_is_bad_weather(play, Weather::Late(Duration::from_millis(200)), LONG / 4);
}

pub fn the_network_is_narrow(play: &mut Play<'_>) {
    play.work = "2ms";
    there_is_bad_weather(play, Weather::Narrow(16 * 1024), LONG / 4);
}

pub fn the_network_is_silent(play: &mut Play<'_>) {
    there_is_bad_weather(play, Weather::Silent, LONG);
}

pub fn answers_do_not_come(play: &mut Play<'_>) {
    there_is_bad_weather(play, Weather::AnswersHeld, LONG);
}

pub fn connections_are_reset_again_and_again(play: &mut Play<'_>) {
    play.go_through_the_proxy();
    play.start(2);
    for _ in 0..5 {
        let done = play.witness.jobs();
        play.until_done(done + 400);
        play.one().proxy.reset();
    }
}

pub fn connections_are_half_open(play: &mut Play<'_>) {
    play.go_through_the_proxy();
    play.start(2);
    play.until_under_way();
    play.one().proxy.half_open();
    play.until_work_goes_on();
}

// --- three brokers --------------------------------------------------------------------------------

/// Jobs so slow that no number of restarts outlasts them; others finish them when those are over.
const VERY_SLOW: &str = "50ms";

/// Outcomes of very slow jobs after which a fault strikes.
const SOME: u64 = 40;

pub fn brokers_are_restarted_one_by_one(play: &mut Play<'_>) {
    play.work = VERY_SLOW;
    play.start(2);
    play.until_done(SOME);
    let first = Instant::now();
    for broker in 0..3 {
        play.wait_until_in_sync();
        stop(&mut play.three().brokers[broker]);
        play.three().brokers[broker].restart();
    }
    play.wait_until_in_sync();
    play.until_so_many_more_are_done(SOME, first);
    play.strikes_now();
    play.finish_quickly();
}

pub fn the_leader_of_a_partition_is_killed(play: &mut Play<'_>) {
    let topic = play.test.topics.jobs.clone();
    a_leader_is_killed(play, &topic);
}

pub fn the_coordinator_of_the_group_is_killed(play: &mut Play<'_>) {
    a_leader_is_killed(play, "__consumer_offsets");
}

pub fn the_coordinator_of_transactions_is_killed(play: &mut Play<'_>) {
    a_leader_is_killed(play, "__transaction_state");
}

/// Kills the leader of partition 0 of a topic, and starts it again when work has gone on without it.
fn a_leader_is_killed(play: &mut Play<'_>, topic: &str) {
    play.work = VERY_SLOW;
    play.start(2);
    play.until_done(SOME);
    play.wait_until_in_sync();
    let leader = play.three().leader(topic, 0);
    play.strikes_now();
    play.three().brokers[leader].kill();
    // More than what was on its way at the strike.
    play.until_so_many_more_are_done(10 * SOME, Instant::now());
    play.three().brokers[leader].restart();
    play.wait_until_in_sync();
    play.finish_quickly();
}

pub fn two_of_three_brokers_are_killed(play: &mut Play<'_>) {
    play.work = VERY_SLOW;
    play.start(2);
    play.until_done(SOME);
    for broker in 0..2 {
        play.three().brokers[broker].kill();
    }
    play.hold(LONG);
    for broker in 0..2 {
        play.three().brokers[broker].restart();
    }
    play.until_work_goes_on_from_now();
    play.wait_until_in_sync();
    play.finish_quickly();
}

// --- topics ---------------------------------------------------------------------------------------

/// A topic goes for ever; the run is incomplete, and says so.
pub fn a_topic_is_deleted(play: &mut Play<'_>, which: fn(&TopicNames) -> &str) {
    play.is_supervised = true;
    start_with_an_impatient_aggregator(play);
    delete(play, which);
}

/// A topic goes and comes again, empty. Its workers are ended, for their offsets are those of the
/// topic that was; the dispatcher is asked to publish what is missing, and new workers are started.
pub fn a_topic_is_recreated(play: &mut Play<'_>, which: fn(&TopicNames) -> &str) {
    play.is_supervised = true;
    play.is_published_again = true;
    start_with_an_impatient_aggregator(play);
    delete(play, which);
    let spec = TopicSpec {
        partitions: 24,
        replication_factor: None,
        retention: Duration::from_secs(3_600),
    };
    play.wait_until("the topic is there again", |play| {
        topics::create(&play.test.cluster, &play.test.topics, &spec, &|| false).is_ok()
    });
    play.wait_until("the first aggregator gives up", |play| {
        !is_running(&mut play.aggregator)
    });
    let code = play
        .aggregator
        .as_mut()
        .expect("it was started")
        .wait()
        .code();
    // Workers may have had all messages already, and finish what is in their hands.
    assert!(matches!(code, Some(0 | 1 | 4)), "{code:?}");
    play.kill_all_workers();
    play.dispatcher_options = vec!["--resume".to_owned()];
    play.start_dispatcher();
    // It may have to move the group, which has to be empty for that.
    play.wait_until("it is published again", |play| {
        !is_running(&mut play.dispatcher)
    });
    play.start_aggregator();
    play.start_workers(2);
}

fn start_with_an_impatient_aggregator(play: &mut Play<'_>) {
    play.start_dispatcher();
    play.wait_until("all is published", |play| !is_running(&mut play.dispatcher));
    let out = play.test.out(&play.run_id);
    play.start_aggregator_into(&out, "20s");
    play.start_workers(2);
    play.until_under_way();
}

fn delete(play: &Play<'_>, which: fn(&TopicNames) -> &str) {
    let topic = which(&play.test.topics);
    let nothing = |number| format!("{topic}.nothing-{number}");
    let only = TopicNames {
        jobs: topic.to_owned(),
        outcomes: nothing(1),
        dlq: nothing(2),
        runs: nothing(3),
    };
    topics::delete(&play.test.cluster, &only).expect("deleted");
}

/// A broker that takes small batches only, and clients that do not know.
pub fn messages_are_too_large(play: &mut Play<'_>) {
    // All 250 KB for one partition, so that batches become large.
    play.partitions = "1";
    play.strikes_now();
    play.start(2);
    let mut ended = None;
    play.wait_until("the dispatcher gives up", |play| {
        ended = play
            .dispatcher
            .take_if(|dispatcher| !dispatcher.is_running());
        ended.is_some()
    });
    let mut dispatcher = ended.expect("waited for");
    assert_eq!(dispatcher.wait().code(), Some(1), "{}", dispatcher.said());
    assert!(
        dispatcher.said().contains("MessageSizeTooLarge"),
        "{}",
        dispatcher.said()
    );
}

/// The same with clients that were told.
pub fn messages_are_as_small_as_the_broker_wants(play: &mut Play<'_>) {
    let told = ["-X", "batch.size=10000", "-X", "message.max.bytes=20000"].map(str::to_owned);
    play.dispatcher_options = told.to_vec();
    play.worker_options = told.to_vec();
    play.start(2);
    play.until_under_way();
}

// --- disks and clocks -----------------------------------------------------------------------------

pub fn the_disk_is_full_while_rows_are_spilled(play: &mut Play<'_>) {
    let disk = SmallDisk::mount(play.test.folder.path(), "64k").expect("a small disk");
    let options = ["--memory-budget", "1MiB", "--spill-folder"].map(str::to_owned);
    play.dispatcher_options = options.into();
    play.dispatcher_options
        .push(disk.folder.display().to_string());
    play.start_workers(2);
    play.strikes_now();
    play.start_dispatcher();
    play.wait_until("the dispatcher gives up", |play| {
        !is_running(&mut play.dispatcher)
    });
    let dispatcher = play.dispatcher.as_mut().expect("it was started");
    assert_eq!(dispatcher.wait().code(), Some(1), "{}", dispatcher.said());
    assert!(
        dispatcher.said().contains("No space left"),
        "{}",
        dispatcher.said()
    );
    play.dispatcher_options.clear();
    play.start_dispatcher();
    // An aggregator that was there before would have ended with the first attempt.
    play.wait_until("all is published", |play| !is_running(&mut play.dispatcher));
    play.start_aggregator();
}

pub fn the_disk_is_full_while_the_report_is_written(play: &mut Play<'_>) {
    let disk = SmallDisk::mount(play.test.folder.path(), "64k").expect("a small disk");
    play.start_workers(2);
    play.start_dispatcher();
    play.start_aggregator_into(&disk.folder.join("out"), "3m");
    play.wait_until("the aggregator gives up", |play| {
        !is_running(&mut play.aggregator)
    });
    play.strikes_now();
    let aggregator = play.aggregator.as_mut().expect("it was started");
    assert_eq!(aggregator.wait().code(), Some(1), "{}", aggregator.said());
    assert!(
        aggregator.said().contains("No space left"),
        "{}",
        aggregator.said()
    );
    assert!(!disk.folder.join("out/report.json").exists());
    play.start_aggregator();
}

/// Who is set back ends, and is started again.
pub fn clocks_are_set_back_and_forth(play: &mut Play<'_>) {
    const HOUR: i64 = 3_600;
    let clock = DayClock::make(play.test.folder.path());
    play.environment = clock.environment();
    play.is_supervised = true;
    play.start(2);
    let mut before = 0;
    for ahead in [HOUR, -30 * 24 * HOUR, 30 * 24 * HOUR, 0] {
        let done = play.witness.jobs();
        play.until_done(done + 500);
        clock.set(ahead);
        if ahead < before {
            play.wait_until("the aggregator has ended", |play| {
                !is_running(&mut play.aggregator)
            });
            play.start_aggregator();
        }
        before = ahead;
    }
}
