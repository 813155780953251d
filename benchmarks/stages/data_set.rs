//! What the stages are given: a generated data set in memory, and what each stage makes of it for
//! the next. Every step is that of the service which takes it, without its input and output.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use computations::{Positivity, Registry, Tabulate, positivity};
use crossbeam_channel::unbounded;
use csv::ByteRecord;
use dispatcher::Grouping;
use dispatcher::columns::Columns;
use dispatcher::input::CsvFormat;
use dispatcher::job_set::JobSet;
use dispatcher::publish::Batching;
use dispatcher::rejects::Rejects;
use dispatcher::source::Rows;
use dispatcher::source::csv_blocks::{Block, Blocks};
use dispatcher::source::csv_rows::{BlockRows, Reading};
use dispatcher::source::rules::Rules;
use dispatcher::source::sink::Sink;
use dispatcher::spill::Spill;
use dispatcher::timestamp::TimeFormat;
use dispatcher::{Selection, payload_columns};
use kafka::{Record, RecordBatch, SharedCancellations};
use pipeline::{
    Collection, Computation, Grain, JobBatchEncoder, JobHeader, JobSetDigest, JobSetHasher,
    Manifest, OutcomeBatch, RunId, Verdict, Worker,
};
use service::Shutdown;
use service::metrics::{Counter, SecondsCounter};
use worker::SimulatedWork;
use worker::executor::{self, Inability, Inline, Lease, Leases, Settings, Watch, WorkUnit};
use worker::outbox::Finished;
use worker::retry::RetryPolicy;

/// So many messages are handed to a compute thread at once: those of one fetch, about.
const MESSAGES_PER_SLICE: usize = 1_024;

/// Where they come from.
const PARTITION: i32 = 0;

/// A data set as text, and how its rows are counted.
pub struct DataSet {
    header: &'static str,
    /// The records behind the header.
    text: Vec<u8>,
    grouping: Grouping,
}

impl DataSet {
    /// The two million rows of `rollcall datagen --countries N`.
    pub fn generate(countries: usize) -> Self {
        let config = datagen::Config {
            countries,
            ..datagen::Config::default()
        };
        let mut text = Vec::new();
        datagen::generate(&config, &mut text, &Shutdown::new(), &|_| {})
            .expect("a vector takes all");
        let header = "patient_name,city,country,birth_date,test_date,result";
        assert!(text.starts_with(header.as_bytes()), "another header");
        Self {
            header,
            text: text.split_off(header.len() + 1),
            grouping: Grouping {
                label_columns: vec!["country".to_owned()],
                time_column: "test_date".to_owned(),
                grain: Grain::Hour,
                computation: positivity::computation("result", "positive", "negative"),
                max_rows_per_job: 10_000,
            },
        }
    }

    /// How its rows are counted.
    pub fn grouping(&self) -> &Grouping {
        &self.grouping
    }

    /// From text to accepted rows: cut into blocks, fields found and judged, blocks put together.
    pub fn read(&self) -> Rows {
        let format = CsvFormat::default();
        let time = TimeFormat::default();
        let header = ByteRecord::from(self.header.split(',').collect::<Vec<_>>());
        let selection = Selection {
            grouping: &self.grouping,
            payload: &payload_columns(&self.grouping, &Registry::standard()).expect("it is known"),
        };
        let columns = Columns::find("the data set", &header, selection);
        let columns = columns.expect("it has all columns");
        let reading = Reading {
            format,
            columns: &columns,
            selection,
            time: &time,
        };
        let shutdown = Shutdown::new();
        let rejects = Rejects::new(Path::new(""), None);
        let rules = Rules::new(selection, &time);
        let mut sink = Sink::new(rules, rejects, no_spill(), &shutdown);
        let mut blocks = Blocks::new(self.text.as_slice(), format);
        let mut block = Block::default();
        let mut rows = BlockRows::new(selection.payload.width());
        let mut records = 0;
        while blocks.next(&mut block).expect("the text is whole") {
            rows.read(&block, reading).expect("it is CSV");
            let appended = sink.append("the data set", records, &rows);
            appended.expect("no row is rejected");
            records += rows.records;
        }
        sink.finish().expect("no row is rejected").rows
    }

    /// From rows to numbered jobs.
    pub fn group(&self, rows: Rows) -> JobSet {
        JobSet::new(rows, no_spill(), &self.grouping).expect("nothing is on disk")
    }
}

fn no_spill() -> Spill {
    Spill::new(Path::new(""), Grain::Hour, u64::MAX)
}

fn run_id() -> RunId {
    "01a1fece-a408-74de-9405-116e93840057"
        .parse()
        .expect("a run id")
}

/// From jobs to the values of messages, each of which is sent by `send`.
pub fn encode(jobs: &JobSet, packing: Batching, mut send: impl FnMut(&[u8])) {
    let mut encoder = JobBatchEncoder::new(&JobHeader {
        run_id: run_id(),
        generation: 0,
        computation: Computation::named("positivity")
            .with("result", "result")
            .with("positive", "positive")
            .with("negative", "negative")
            .into(),
    });
    let mut buffer = Vec::new();
    let mut finish = |encoder: &mut JobBatchEncoder| {
        buffer.clear();
        encoder.finish(&mut buffer);
        send(&buffer);
    };
    let encoded = jobs.for_each(|job| {
        encoder.push(job);
        if packing.is_full(encoder.jobs_count() as u64, encoder.bytes_bound() as u64) {
            finish(&mut encoder);
        }
        Ok(())
    });
    encoded.expect("the jobs are in memory");
    if encoder.jobs_count() > 0 {
        finish(&mut encoder);
    }
}

/// The digest of the jobs, as a dispatcher makes it beside the messages.
pub fn digest(jobs: &JobSet) -> JobSetDigest {
    let mut hasher = JobSetHasher::new();
    let hashed = jobs.for_each(|job| {
        hasher.update(job);
        Ok(())
    });
    hashed.expect("the jobs are in memory");
    hasher.finish()
}

/// The messages of jobs as a worker hands them to a compute thread.
pub fn slices(jobs: &JobSet, packing: Batching) -> Vec<WorkUnit> {
    let mut batches = vec![RecordBatch::default()];
    let mut offset = 0;
    encode(jobs, packing, |payload| {
        if batches
            .last()
            .is_none_or(|last| last.len() == MESSAGES_PER_SLICE)
        {
            batches.push(RecordBatch::default());
        }
        if let Some(batch) = batches.last_mut() {
            batch.push(Record {
                partition: PARTITION,
                offset,
                key: None,
                payload,
            });
        }
        offset += 1;
    });
    let leases = Arc::new(Leases::from([(PARTITION, Arc::new(Lease::new(0)))]));
    let slice = |batch: RecordBatch| WorkUnit {
        range: 0..batch.len(),
        records: Arc::new(batch),
        leases: Arc::clone(&leases),
        job: None,
    };
    batches.into_iter().map(slice).collect()
}

/// From messages of jobs to messages of outcomes, by a compute thread.
pub fn work(slices: &[WorkUnit]) -> Vec<Finished> {
    let settings = Settings {
        worker: Worker {
            host: "localhost".to_owned(),
            id: "worker-1".to_owned(),
        },
        retry: RetryPolicy {
            max_attempts: NonZeroU32::MIN,
            first_pause: Duration::ZERO,
        },
        apart_by_partition: false,
        seconds: SecondsCounter::default(),
        inability: Inability::default(),
        cancellations: SharedCancellations::default(),
        cancelled_jobs: Counter::default(),
    };
    let (hand_out, taken) = unbounded();
    for slice in slices {
        hand_out.send(slice.clone()).expect("the receiver is here");
    }
    // There are no more, so the thread ends with the last of them.
    drop(hand_out);
    let (finished, done) = unbounded();
    let watch = Arc::<Watch>::default();
    let executor = Inline::new(Registry::standard(), SimulatedWork::default());
    executor::run(settings, Shutdown::new(), watch, executor, &taken, finished);
    done.iter().collect()
}

/// What a dispatcher swears to when it has published the jobs.
pub fn manifest(jobs: &JobSet) -> Manifest {
    let counts = jobs.counts();
    Manifest {
        run_id: run_id(),
        jobs: counts.jobs,
        rows_read: counts.rows,
        rows_accepted: counts.rows,
        rejected: BTreeMap::new(),
        job_set_digest: digest(jobs),
        messages: 0,
        stages: Vec::new(),
    }
}

/// From messages of outcomes to a ledger.
pub fn record(manifest: &Manifest, finished: &[Finished]) -> Collection {
    let mut collection = Collection::new();
    collection.apply_manifest(manifest.clone());
    for outcomes in finished.iter().filter_map(|one| one.outcomes.as_ref()) {
        let outcomes = OutcomeBatch::decode(outcomes).expect("a worker made it");
        let recorded = collection.apply_outcomes_at(0, 0, &outcomes);
        recorded.expect("all is in memory");
    }
    collection
}

/// The verdict on what was recorded.
pub fn reconcile(collection: &Collection) -> Verdict {
    let judged = collection.reconcile(|ledger| Positivity.checks(ledger));
    judged.expect("all is in memory").verdict
}
