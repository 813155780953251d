//! The table: which fault on which brokers, with which deliveries, when it has to strike, and what the
//! run must end in.

use kafka::TopicNames;

use super::disk::SmallDisk;
use super::play::Delivery::{self, AtLeastOnce, ExactlyOnce};
use super::play::{Play, Strikes};
use super::stories as the;
use super::verdict::Must;

/// One fault.
#[derive(Clone, Copy)]
pub struct Row {
    pub fault: &'static str,
    pub deliveries: &'static [Delivery],
    pub brokers: Brokers,
    pub data: DataSet,
    /// What happens.
    pub story: fn(&mut Play<'_>),
    pub strikes: Strikes,
    pub must: Must,
    /// Whether it can be played here; else why not.
    pub is_possible: fn() -> Result<(), &'static str>,
    /// Played with every `cargo test`, with one delivery.
    pub is_short: bool,
}

/// The brokers of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Brokers {
    /// One, with a proxy before it.
    One,
    /// The same, with batches of 20,000 bytes at most.
    Strict,
    /// Three copies of everything, two of which have to be there.
    Three,
}

/// The data of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DataSet {
    /// 6,120 jobs, few enough to be made slow.
    FewJobs,
    /// A million.
    ManyJobs,
}

const BOTH: &[Delivery] = &[AtLeastOnce, ExactlyOnce];

/// What most rows have.
const ROW: Row = Row {
    fault: "",
    deliveries: BOTH,
    brokers: Brokers::One,
    data: DataSet::FewJobs,
    story: |_| {},
    strikes: Strikes::MidRun,
    must: Must::Complete,
    is_possible: || Ok(()),
    is_short: false,
};

const fn row(fault: &'static str, story: fn(&mut Play<'_>)) -> Row {
    Row {
        fault,
        story,
        ..ROW
    }
}

const fn of_three(fault: &'static str, story: fn(&mut Play<'_>)) -> Row {
    Row {
        brokers: Brokers::Three,
        ..row(fault, story)
    }
}

/// Only the dispatcher or the aggregator is struck, so that the workers' delivery makes no difference.
const fn once(fault: &'static str, story: fn(&mut Play<'_>)) -> Row {
    Row {
        deliveries: &[AtLeastOnce],
        ..row(fault, story)
    }
}

const fn short(row: Row) -> Row {
    Row {
        is_short: true,
        ..row
    }
}

const fn early(row: Row) -> Row {
    Row {
        strikes: Strikes::BeforeTheEnd,
        ..row
    }
}

fn jobs(names: &TopicNames) -> &str {
    &names.jobs
}

fn outcomes(names: &TopicNames) -> &str {
    &names.outcomes
}

/// Every row.
pub const ROWS: &[Row] = &[
    short(row("kill -9 of a worker", the::a_worker_is_killed)),
    row(
        "kill -9 of a worker, replaced at once",
        the::a_worker_is_killed_and_replaced,
    ),
    row(
        "kill -9 of a static member, replaced at once",
        the::a_static_worker_is_killed_and_replaced,
    ),
    row(
        "kill -9 of all workers, replaced at once",
        the::all_workers_are_killed,
    ),
    row(
        "kill -9 of two static members in turns, six times",
        the::workers_are_killed_in_turns,
    ),
    row("abort of a worker before it computes a job", |play| {
        the::a_worker_dies_at(play, "worker.before-compute=abort@3000");
    }),
    row("abort of a worker after it has computed a job", |play| {
        the::a_worker_dies_at(play, "worker.after-compute=abort@3000");
    }),
    row("abort of a worker before it produces outcomes", |play| {
        the::a_worker_dies_at(play, "worker.before-produce=abort@5");
    }),
    row("abort of a worker between outcomes and commit", |play| {
        the::a_worker_dies_at(play, "worker.before-commit=abort@5");
    }),
    row(
        "SIGSTOP of a worker beyond its session, then SIGCONT",
        the::a_worker_stands_still_and_comes_back,
    ),
    row(
        "SIGSTOP of a worker for 3 s, within its session",
        the::a_worker_stands_still_for_a_moment,
    ),
    row(
        "1 → 8 → 1 workers",
        the::one_worker_becomes_eight_and_one_again,
    ),
    row(
        "a job of 12 s with max.poll.interval.ms of 6 s",
        the::a_job_takes_longer_than_polls_may,
    ),
    Row {
        must: Must::DeadLetters(&[3_000]),
        ..row("a job that always fails", the::a_job_fails_always)
    },
    Row {
        must: Must::DeadLetters(&[3_000]),
        // A worker may die of it before it has told of any other job.
        strikes: Strikes::BeforeTheEnd,
        ..row("a job that kills its worker", the::a_job_kills_its_workers)
    },
    Row {
        must: Must::DeadLetters(&[3_000]),
        ..row(
            "a job that hangs, --job-timeout 1s",
            the::a_job_hangs_its_workers,
        )
    },
    row(
        "2 partitions, 4 workers, kill -9 of one that works",
        the::there_are_fewer_partitions_than_workers,
    ),
    early(once(
        "abort of the dispatcher after the run is opened",
        |play| {
            the::a_dispatcher_dies_at(play, "dispatcher.after-opened=abort");
        },
    )),
    early(once(
        "abort of the dispatcher before the first job",
        |play| {
            the::a_dispatcher_dies_at(play, "dispatcher.before-produce=abort");
        },
    )),
    once(
        "abort of the dispatcher in the middle of its jobs",
        |play| {
            the::a_dispatcher_dies_at(play, "dispatcher.mid-publish=abort@2");
        },
    ),
    once("abort of the dispatcher before the manifest", |play| {
        the::a_dispatcher_dies_at(play, "dispatcher.before-manifest=abort");
    }),
    once("abort of the dispatcher after the manifest", |play| {
        the::a_dispatcher_dies_at(play, "dispatcher.after-manifest=abort");
    }),
    row(
        "kill -9 of the dispatcher while it publishes",
        the::a_dispatcher_is_killed_while_it_publishes,
    ),
    once(
        "SIGSTOP of the dispatcher for 10 s",
        the::a_dispatcher_stands_still,
    ),
    once(
        "two dispatchers of one run at once",
        the::two_dispatchers_publish_one_run,
    ),
    row("kill -9 of the aggregator", the::an_aggregator_is_killed),
    once(
        "SIGSTOP of the aggregator for 10 s",
        the::an_aggregator_stands_still,
    ),
    Row {
        strikes: Strikes::AfterTheLast,
        ..once("abort of the aggregator before its first file", |play| {
            the::an_aggregator_dies_at(play, "aggregator.before-rename=abort@1");
        })
    },
    Row {
        strikes: Strikes::AfterTheLast,
        ..once("abort of the aggregator before report.json", |play| {
            the::an_aggregator_dies_at(play, "aggregator.before-rename=abort@6");
        })
    },
    row(
        "kill -9 of the broker, which comes back",
        the::the_broker_is_killed_and_comes_back,
    ),
    row(
        "kill -9 of the broker, away for 60 s",
        the::the_broker_is_away_for_a_minute,
    ),
    once(
        "kill -9 of the broker while jobs are published, away for 60 s",
        the::the_broker_is_away_while_jobs_are_published,
    ),
    row(
        "the broker stopped in order, which comes back",
        the::the_broker_is_stopped_in_order_and_comes_back,
    ),
    early(row(
        "the broker away at the start, for 20 s",
        the::the_broker_is_away_at_the_start,
    )),
    row(
        "SIGSTOP of the broker for 20 s",
        the::the_broker_stands_still,
    ),
    Row {
        data: DataSet::ManyJobs,
        ..row(
            "memory while the broker is silent for 20 s, a million jobs",
            the::memory_is_bounded_while_the_broker_stands_still,
        )
    },
    row(
        "200 ms of latency each way for 5 s",
        the::everything_is_late,
    ),
    row("16 KiB/s each way for 5 s", the::the_network_is_narrow),
    row("a black hole for 20 s", the::the_network_is_silent),
    row("answers held up for 20 s", the::answers_do_not_come),
    short(row(
        "all connections reset, five times",
        the::connections_are_reset_again_and_again,
    )),
    row("all connections half-open", the::connections_are_half_open),
    short(of_three(
        "rolling restart of three brokers",
        the::brokers_are_restarted_one_by_one,
    )),
    of_three(
        "kill -9 of a partition's leader",
        the::the_leader_of_a_partition_is_killed,
    ),
    of_three(
        "kill -9 of the group's coordinator",
        the::the_coordinator_of_the_group_is_killed,
    ),
    Row {
        deliveries: &[ExactlyOnce],
        ..of_three(
            "kill -9 of the coordinator of transactions",
            the::the_coordinator_of_transactions_is_killed,
        )
    },
    of_three(
        "kill -9 of two of three brokers, away for 20 s",
        the::two_of_three_brokers_are_killed,
    ),
    Row {
        must: Must::CompleteOrIncomplete,
        ..row("the jobs topic deleted", |play| {
            the::a_topic_is_deleted(play, jobs)
        })
    },
    row(
        "the jobs topic deleted and made again, then --resume",
        |play| {
            the::a_topic_is_recreated(play, jobs);
        },
    ),
    row(
        "the outcomes topic deleted and made again, then --resume",
        |play| {
            the::a_topic_is_recreated(play, outcomes);
        },
    ),
    Row {
        brokers: Brokers::Strict,
        must: Must::Abort,
        ..early(once(
            "batches over message.max.bytes",
            the::messages_are_too_large,
        ))
    },
    Row {
        brokers: Brokers::Strict,
        ..row(
            "message.max.bytes of 20,000, clients told by -X batch.size",
            the::messages_are_as_small_as_the_broker_wants,
        )
    },
    Row {
        is_possible: SmallDisk::is_possible,
        ..early(once(
            "disk full while rows are spilled, then another disk",
            the::the_disk_is_full_while_rows_are_spilled,
        ))
    },
    Row {
        is_possible: SmallDisk::is_possible,
        strikes: Strikes::AfterTheLast,
        ..once(
            "disk full while the report is written, then another disk",
            the::the_disk_is_full_while_the_report_is_written,
        )
    },
    row(
        "clocks of all clients +1 h, −30 days, +30 days, right again",
        the::clocks_are_set_back_and_forth,
    ),
];
