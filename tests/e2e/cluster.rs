//! One test's share of the real broker: topics and a group of its own, the services on them, and an
//! eye on the topics that is not the aggregator's.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use kafka::{
    BrokerArgs, Cluster, GroupOffsets, Reader, RecordBatch, TopicNames, end_offsets, run_history,
    topics,
};
use pipeline::{OutcomeBatch, RunHistory, RunId};
use serde_json::Value;
use tempfile::TempDir;

use crate::apache_kafka::ApacheKafka;
use crate::processes::{
    Finished, Running, assert_reconciled, finish, folder, report, rollcall, wait_until,
};

/// Topics, group and files of one test.
pub struct TestCluster {
    pub bootstrap_servers: String,
    pub prefix: String,
    pub cluster: Cluster,
    pub topics: TopicNames,
    pub folder: TempDir,
}

/// The id of a run by its name.
pub fn id(name: &str) -> RunId {
    name.parse().expect("a run id")
}

/// A run whose jobs are all published.
#[derive(Clone, Debug)]
pub struct Dispatched {
    pub run_id: RunId,
    pub jobs: u64,
    pub messages: u64,
}

impl TestCluster {
    /// The shared broker, for the test of this name.
    #[track_caller]
    pub fn new(test: &str) -> Self {
        Self::on(&ApacheKafka::shared().bootstrap_servers(), test)
    }

    /// A broker at this address.
    pub fn on(bootstrap_servers: &str, test: &str) -> Self {
        let args = BrokerArgs {
            bootstrap_servers: Some(bootstrap_servers.to_owned()),
            properties: Vec::new(),
            kafka_properties_file: None,
            properties_text: String::new(),
            broker_timeout: Duration::from_secs(60),
        };
        Self {
            bootstrap_servers: bootstrap_servers.to_owned(),
            prefix: test.to_owned(),
            cluster: Cluster::new(&args, "e2e").expect("a cluster"),
            topics: TopicNames::new(test),
            folder: folder(),
        }
    }

    pub fn group(&self) -> String {
        format!("{}.worker", self.prefix)
    }

    /// A command of `rollcall` on this test's topics: the command's words, and then the options.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = rollcall();
        command.args(words).args(["--topic-prefix", &self.prefix]);
        command.args(["--bootstrap-servers", &self.bootstrap_servers]);
        command
    }

    /// A service of `rollcall` on this test's topics.
    pub fn service(&self, name: &str) -> Command {
        self.command(&[name])
    }

    /// A dispatcher, as yet not started.
    pub fn dispatcher(&self, data_set: &Path, options: &[&str]) -> Command {
        let mut command = self.service("dispatcher");
        command.arg(data_set).args(options);
        command
            .arg("--rejects")
            .arg(self.folder.path().join("rejects.csv"));
        command
    }

    /// Dispatches a data set.
    #[track_caller]
    pub fn dispatch(&self, data_set: &Path, options: &[&str]) -> Dispatched {
        let finished = finish(self.dispatcher(data_set, options)).expect_code(0);
        // "run ID dispatched: N jobs in M messages; …"
        let words: Vec<&str> = finished.stdout.split_whitespace().collect();
        assert_eq!(
            (words[0], words[2]),
            ("run", "dispatched:"),
            "{}",
            finished.stdout
        );
        Dispatched {
            run_id: words[1].parse().expect("a run id"),
            jobs: words[3].parse().expect("a number of jobs"),
            messages: words[6].parse().expect("a number of messages"),
        }
    }

    /// Starts a worker that makes each job take as long as `work`.
    #[track_caller]
    pub fn worker(&self, id: &str, work: &str) -> Running {
        let mut command = self.service("worker");
        command.args(["--group", &self.group(), "--worker-id", id]);
        command.args(["--simulate-work", work]);
        Running::start(command, self.folder.path(), id)
    }

    /// Starts a worker by which these jobs die.
    #[track_caller]
    pub fn poisoned(&self, jobs: &[u64]) -> Running {
        let mut command = self.service("worker");
        command.args(["--group", &self.group(), "--worker-id", "poisoned"]);
        command.args(["--max-attempts", "1"]);
        let faults = jobs.iter();
        let faults = faults.map(|index| format!("worker.before-compute=error@{index}"));
        command.env("ROLLCALL_FAULTS", faults.collect::<Vec<_>>().join(";"));
        Running::start(command, self.folder.path(), "poisoned")
    }

    /// Where an aggregator writes.
    pub fn out(&self, run_id: &RunId) -> PathBuf {
        self.folder.path().join(format!("out-{run_id}"))
    }

    /// An aggregator of a run that writes to `out`, as yet not started.
    pub fn aggregator(&self, run_id: &RunId, out: &Path, options: &[&str]) -> Command {
        let mut command = self.service("aggregator");
        command.args(["--run-id", run_id.as_str()]).args(options);
        command.arg("--out").arg(out);
        command
    }

    /// Collects a run.
    #[track_caller]
    pub fn aggregate(&self, run_id: &RunId, timeout: &str) -> Finished {
        finish(self.aggregator(run_id, &self.out(run_id), &["--timeout", timeout]))
    }

    /// Collects a run that must be complete.
    #[track_caller]
    pub fn aggregate_complete(&self, run_id: &RunId) -> Value {
        self.aggregate(run_id, "60s").expect_code(0);
        let report = report(&self.out(run_id));
        assert_eq!(report["status"], "complete");
        assert_reconciled(&report);
        report
    }

    /// What the runs topic has of a run.
    #[track_caller]
    pub fn history(&self, run_id: &RunId) -> RunHistory {
        let history = run_history(&self.cluster, &self.topics.runs, run_id, &|| false);
        history.expect("it can be read")
    }

    /// The number of partitions of a topic that exists.
    #[track_caller]
    pub fn partitions(&self, topic: &str) -> usize {
        let partitions = topics::partition_count(&self.cluster, topic);
        partitions.expect("it can be asked").expect("it is there")
    }

    /// Every record of a topic, from its beginning to its end as it is now.
    #[track_caller]
    pub fn records(&self, topic: &str) -> RecordBatch {
        let partitions = topics::partition_count(&self.cluster, topic);
        let partitions = partitions.expect("it can be asked").unwrap_or(0);
        let mut records = RecordBatch::default();
        if partitions == 0 {
            return records;
        }
        let end = end_offsets(&self.cluster, topic, partitions).expect("it has an end");
        let start = vec![0; partitions];
        let mut reader = Reader::start(&self.cluster, topic, &start).expect("it can be read");
        wait_until("the topic is read", || {
            let read = reader.read(Duration::from_millis(20), &mut records);
            read.expect("it can be read");
            reader.has_reached(&end)
        });
        records
    }

    /// How many different jobs of a run have an outcome on the topic, as nobody but this test
    /// counts.
    #[track_caller]
    pub fn jobs_with_outcome(&self, run_id: &RunId) -> u64 {
        self.outcomes_by_job(run_id).len() as u64
    }

    /// How often each job of a run is among the outcomes, as whoever reads the topic with
    /// `read_committed` counts.
    #[track_caller]
    pub fn outcomes_by_job(&self, run_id: &RunId) -> BTreeMap<u64, u32> {
        let mut counts = BTreeMap::new();
        for record in self.records(&self.topics.outcomes).iter() {
            let batch = OutcomeBatch::decode(record.payload).expect("an outcome batch");
            if batch.run_id() == run_id {
                for outcome in batch.outcomes() {
                    *counts.entry(outcome.index).or_default() += 1;
                }
            }
        }
        counts
    }

    /// The ids of the workers that outcomes of a run came from so far.
    #[track_caller]
    pub fn workers_with_outcome(&self, run_id: &RunId) -> std::collections::BTreeSet<String> {
        let records = self.records(&self.topics.outcomes);
        let batches = records
            .iter()
            .map(|record| OutcomeBatch::decode(record.payload).expect("an outcome batch"));
        batches
            .filter(|batch| batch.run_id() == run_id)
            .map(|batch| batch.worker().id.clone())
            .collect()
    }

    /// Waits until some outcomes of a run are there, and asserts that others are still missing.
    #[track_caller]
    pub fn wait_until_mid_run(&self, run: &Dispatched, at_least: u64) {
        wait_until("some jobs have an outcome", || {
            self.jobs_with_outcome(&run.run_id) >= at_least
        });
        self.assert_mid_run(run);
    }

    /// Asserts that jobs of a run are still without an outcome.
    #[track_caller]
    pub fn assert_mid_run(&self, run: &Dispatched) {
        let done = self.jobs_with_outcome(&run.run_id);
        assert!(done < run.jobs, "all {} jobs are done already", run.jobs);
    }

    /// Waits until the group has committed everything on the jobs topic.
    #[track_caller]
    pub fn wait_until_committed(&self) {
        let topic = &self.topics.jobs;
        let partitions = self.partitions(topic);
        let end = end_offsets(&self.cluster, topic, partitions).expect("it has an end");
        let group = GroupOffsets::new(&self.cluster, &self.group(), topic, partitions);
        let group = group.expect("it can be asked");
        wait_until("all is committed", || {
            let committed = group.committed().expect("it can be asked");
            committed
                .iter()
                .zip(&end)
                .all(|(committed, end)| committed >= end)
        });
    }
}
