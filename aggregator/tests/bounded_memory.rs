//! How much memory an aggregator takes. It is the only test of its process, so that the peak is its
//! own.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};

use aggregator::export::{RunTable, TableCsv};
use aggregator::memory;
use aggregator::outputs::Outputs;
use computations::Tabulate;
use computations::tabulate::{Cell, Kind, MalformedResult, ResultColumn, ResultRows, readable};
use pipeline::ledger::SpillError;
use pipeline::ledger::counting::CountingRules;
use pipeline::outcome::Worker;
use pipeline::reconciliation::Check;
use pipeline::{
    Collection, GroupKey, Job, JobSetHasher, LabelSet, Ledger, Manifest, Outcome, OutcomeBatch,
    OutcomeBatchBuilder, Verdict, payload_digest,
};

const JOBS: u64 = 1_000_000;
const RESULT_BYTES: usize = 1024;
const JOBS_PER_MESSAGE: u64 = 60;

/// Messages of as many partitions are read in turn, the later ones first.
const PARTITIONS: usize = 24;

const BUDGET_BYTES: u64 = 128 * 1024 * 1024;
const MAX_PEAK_KIB: u64 = 256 * 1024;

/// A result is its job's index, again and again; the table has the index.
struct Repeated;

impl Tabulate for Repeated {
    fn columns(&self) -> &'static [ResultColumn] {
        &[ResultColumn {
            name: "index",
            kind: Kind::Integer,
        }]
    }

    fn rows(&self, parts: &[&[u8]], out: &mut ResultRows) -> Result<(), MalformedResult> {
        let &[result] = parts else {
            return Err(MalformedResult);
        };
        let (numbers, rest) = result.as_chunks::<8>();
        let &index = numbers.first().ok_or(MalformedResult)?;
        let is_whole = result.len() == RESULT_BYTES && rest.is_empty();
        if !is_whole || numbers.iter().any(|number| *number != index) {
            return Err(MalformedResult);
        }
        out.push([Cell::Integer(i64::from_le_bytes(index))]);
        Ok(())
    }

    fn checks(&self, ledger: &Ledger) -> Result<Vec<Check>, SpillError> {
        Ok(vec![readable(self, ledger)?])
    }
}

fn labels(index: u64) -> LabelSet {
    LabelSet::new([format!("{index:012}")])
}

fn job(index: u64, labels: &LabelSet) -> Job<'_> {
    Job {
        index,
        key: GroupKey { labels, time: None },
        part: 0,
        weight: 1,
        payload: &[],
    }
}

fn message(first: u64) -> OutcomeBatch {
    let run_id = "a-run".parse().expect("a run id");
    let mut builder = OutcomeBatchBuilder::new(&run_id, 0, &Worker::default());
    for index in first..(first + JOBS_PER_MESSAGE).min(JOBS) {
        let labels = labels(index);
        let result = index.to_le_bytes().repeat(RESULT_BYTES / 8);
        let outcome = Outcome::Completed(&result);
        builder.push(&job(index, &labels), payload_digest(&[]), outcome);
    }
    OutcomeBatch::decode(&builder.encode()).expect("a valid batch")
}

fn manifest() -> Manifest {
    let mut hasher = JobSetHasher::new();
    for index in 0..JOBS {
        hasher.update(&job(index, &labels(index)));
    }
    Manifest {
        run_id: "a-run".parse().expect("a run id"),
        jobs: JOBS,
        rows_read: JOBS,
        rows_accepted: JOBS,
        rejected: Default::default(),
        job_set_digest: hasher.finish(),
        messages: 0,
        stages: Vec::new(),
    }
}

/// The most memory that this process has had, in KiB.
fn peak_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("this system tells the peak");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let peak = peak.and_then(|peak| peak.trim().strip_suffix(" kB"));
    peak.and_then(|peak| peak.parse().ok()).expect("a number")
}

/// All outcomes, and the manifest last.
fn collect(collection: &mut Collection) {
    let firsts: Vec<u64> = (0..JOBS).step_by(JOBS_PER_MESSAGE as usize).collect();
    for turn in firsts.chunks(PARTITIONS) {
        for &first in turn.iter().rev() {
            let is_new = collection.apply_outcomes_at(0, 0, &message(first));
            assert!(is_new.expect("the disk has room"));
        }
    }
    collection.apply_manifest(manifest());
}

#[test]
fn a_million_results_of_one_kibibyte_are_a_table_within_256_mebibytes() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut collection = memory::within(BUDGET_BYTES, folder.path(), CountingRules::default());
    collect(&mut collection);
    let used = collection.memory_use();
    assert!(used.held <= BUDGET_BYTES, "{used:?}");
    assert!(used.spilled > JOBS * 1024 * 9 / 10, "{used:?}");

    let room = memory::table_bytes(&collection, false);
    collection.make_room(room).expect("the disk has room");
    let judged = collection.reconcile(|ledger| Repeated.checks(ledger));
    let judged = judged.expect("what was spilled can be read back");
    assert_eq!(judged.verdict, Verdict::Complete, "{judged:?}");

    let outputs = Outputs::new(folder.path()).expect("a folder to write to");
    let label_columns = ["key".to_owned()];
    let mut table = TableCsv::new(RunTable {
        ledger: collection.ledger().expect("the manifest is there"),
        tabulate: &Repeated,
        label_columns: &label_columns,
        grain: None,
    });
    let file = outputs.export(&mut table).expect("the disk has room");
    outputs.place().expect("the folder is there");
    let peak = peak_kib();

    let written = File::open(folder.path().join(file.name)).expect("it was written");
    let mut index = 0;
    for line in BufReader::new(written).lines().skip(1) {
        assert_eq!(line.expect("a line"), format!("{index:012},{index}"));
        index += 1;
    }
    assert_eq!(index, JOBS);
    assert!(peak < MAX_PEAK_KIB, "{peak} KiB");
}
