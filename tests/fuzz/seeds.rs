//! Inputs as they should be, a few for each property: where a fuzzer begins.

use std::collections::BTreeMap;

use pipeline::{
    Computation, ContentDigest, Cut, GenerationOpened, Grain, GroupKey, IndexRanges, Job,
    JobBatchEncoder, JobHeader, JobSetHasher, LabelSet, Manifest, OffsetRange, Outcome,
    OutcomeBatchBuilder, ResultsPolicy, RunAborted, RunCancelled, RunEvent, RunId, RunOpened,
    RunOptions, RunReconciled, TimeBucket, TimeColumn, Verdict, VerdictKey, WriterId,
    outcome::Worker, payload_digest, run::NUMBERING_VERSION,
};
use polars::prelude::*;

/// The inputs for a property.
pub fn of(name: &str) -> Vec<Vec<u8>> {
    match name {
        "config" => texts(&[
            "bootstrap-servers = \"kafka:9092\"\n[run]\nworkers = 3\nevery = \"day\"\n[worker]\nthreads = 2\n",
            "by = [\"country\", \"city\"]\nquiet = true\nX = [\"acks=all\"]\n[datagen]\nfrom = 2020-03-01\n",
        ]),
        "csv" => vec![
            chosen(0, CSV.as_bytes()),
            chosen(6, CSV.replace(',', ";").as_bytes()),
            chosen(9, CSV.as_bytes()),
            chosen(1, &zstd::encode_all(CSV.as_bytes(), 1).unwrap()),
            chosen(2, &gzip(CSV.as_bytes())),
        ],
        "dead_letter" => {
            let headers = "__dlq.errors.topic=jobs\n__dlq.errors.partition=3\n__dlq.errors.offset=9\n\
                __dlq.errors.delivery.count=4\n__dlq.errors.message=it is broken\n\n";
            vec![
                [headers.as_bytes(), &jobs(1)].concat(),
                [headers.as_bytes(), &jobs(3)].concat(),
                b"a=b\n\nno message".to_vec(),
            ]
        }
        "job_batch" => vec![jobs(1), jobs(5), timeless_jobs(), jobs_of_centuries()],
        "labels" => texts(&["Italy,Rome,2020-07-14\nItaly,Rome,2020-07-15\n,,2020-07-14T09:00:00Z\nIt,alyRome,2020\n"]),
        "mark" => texts(&["rollcall/1 held take-overs=3 position=7 deaths=2", "rollcall/1 held", ""]),
        "outcome_batch" => vec![outcomes([2; 5]), outcomes([0, 2, 1, 8, 40])],
        "parquet" => [parquet(true), parquet(false)].map(|bytes| bytes[4..].to_vec()).to_vec(),
        "run_event" => events(),
        "series" => vec![
            chosen(4, b"country,date_hour,tests,positive,rate\nItaly,2020-07-14T09:00:00,3,1,0.5\n,2020-07-14T10:00:00,1,0,0\n"),
            chosen(1, b"date_day,tests,positive,rate\n2020-07-14,3,1,0.5\n"),
        ],
        "time" => texts(&[
            "2020-07-14T09:23:51",
            "2020-07-14 09:23:51.5+02:00[Europe/Rome]",
            "20200714T0923Z",
            "14.07.2020 12:00\n%d.%m.%Y %H:%M",
            "1594728000\n%s",
            "14 Jul 2020 12:00:00 PM +0200\n%d %b %Y %I:%M:%S %p %z",
        ]),
        other => panic!("no seeds for {other}"),
    }
}

const CSV: &str = "country,test_date,result,name\nItaly,2020-07-14T09:00:00,positive,a\n\
    \"It\"\"aly\",2020-07-14,negative,\"a\nb\"\nItaly,,positive,\nSpain,2020-07-14,other,x\nx\n";

fn texts(of: &[&str]) -> Vec<Vec<u8>> {
    of.iter().map(|text| text.as_bytes().to_vec()).collect()
}

fn chosen(choice: u8, bytes: &[u8]) -> Vec<u8> {
    [&[choice], bytes].concat()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn run_id() -> RunId {
    "a-run".parse().unwrap()
}

fn with_jobs(count: u64, mut each: impl FnMut(&Job<'_>)) {
    for index in 0..count {
        let labels = LabelSet::new([format!("Land{}", index / 2), "city".to_owned()]);
        each(&Job {
            index: 7 + index,
            key: GroupKey {
                labels: &labels,
                time: TimeBucket::from_hours(440_000 + index as i64),
            },
            part: 0,
            weight: 3,
            payload: &[0, 1, 1],
        });
    }
}

fn computation() -> Computation {
    Computation::named("positivity").with("result", "result")
}

fn encoder() -> JobBatchEncoder {
    JobBatchEncoder::new(&JobHeader {
        run_id: run_id(),
        generation: 2,
        computation: computation().into(),
    })
}

/// Without times, and with payloads that are not as long as their weights.
fn timeless_jobs() -> Vec<u8> {
    let mut encoder = encoder();
    with_jobs(3, |job| {
        let key = GroupKey {
            time: None,
            ..job.key
        };
        let payload = &job.payload[..(job.index % 3) as usize];
        encoder.push(&Job {
            key,
            payload,
            ..*job
        });
    });
    let mut bytes = Vec::new();
    encoder.finish(&mut bytes);
    bytes
}

/// With times that are further apart than 32 bits of seconds.
fn jobs_of_centuries() -> Vec<u8> {
    const CENTURY: i64 = 3_155_760_000;
    let mut encoder = encoder();
    with_jobs(3, |job| {
        let key = GroupKey {
            time: TimeBucket::from_seconds(job.index as i64 % 3 * CENTURY),
            ..job.key
        };
        encoder.push(&Job { key, ..*job });
    });
    let mut bytes = Vec::new();
    encoder.finish(&mut bytes);
    bytes
}

fn jobs(count: u64) -> Vec<u8> {
    let mut encoder = encoder();
    with_jobs(count, |job| encoder.push(job));
    let mut bytes = Vec::new();
    encoder.finish(&mut bytes);
    bytes
}

/// Results of these lengths.
fn outcomes(lengths: [usize; 5]) -> Vec<u8> {
    let worker = Worker {
        host: "a-host".to_owned(),
        id: "worker-1".to_owned(),
    };
    let mut builder = OutcomeBatchBuilder::new(&run_id(), 2, &worker);
    with_jobs(5, |job| {
        let result = vec![2; lengths[job.index as usize - 7]];
        let outcome = match job.index {
            9 => Outcome::DeadLettered {
                reason: "it is broken",
                attempts: 3,
            },
            _ => Outcome::Completed(&result),
        };
        builder.push(job, payload_digest(job.payload), outcome);
    });
    builder.encode()
}

/// The same each time, as a seed has to be.
fn writer() -> WriterId {
    "a-writer".parse().expect("the id of a writer")
}

fn events() -> Vec<Vec<u8>> {
    let events = [
        RunEvent::Opened(RunOpened {
            run_id: run_id(),
            options: RunOptions {
                numbering_version: NUMBERING_VERSION,
                cut: Cut {
                    label_columns: vec!["country".to_owned()],
                    time: Some(TimeColumn {
                        name: "test_date".to_owned(),
                        grain: Grain::Week,
                    }),
                    max_rows_per_job: 10_000,
                },
                computation: computation(),
                results: ResultsPolicy::Any,
            },
            opened_at_ms: 1_594_718_631_000,
            jobs_start_offsets: vec![3, 0],
            outcomes_start_offsets: vec![7],
        }),
        RunEvent::Dispatched(Manifest {
            run_id: run_id(),
            jobs: 3,
            rows_read: 10,
            rows_accepted: 9,
            rejected: BTreeMap::from([("invalid_time".to_owned(), 1)]),
            job_set_digest: JobSetHasher::new().finish(),
            messages: 1,
            stages: vec![("read".to_owned(), 0.5)],
        }),
        RunEvent::Aborted(RunAborted {
            run_id: run_id(),
            reason: "too many rejects".to_owned(),
        }),
        RunEvent::Generation(GenerationOpened {
            run_id: run_id(),
            generation: 2,
            writer: writer(),
            reopened: IndexRanges::of_ascending([0, 1, 7]),
            builds_on: Some(VerdictKey {
                generation: 1,
                writer: writer(),
            }),
            ends_cancellation: Some(writer()),
            opened_by: "a replay".to_owned(),
        }),
        RunEvent::Reconciled(RunReconciled {
            run_id: run_id(),
            generation: 1,
            writer: writer(),
            outcomes: vec![OffsetRange { start: 3, end: 9 }],
            manifest_digest: ContentDigest::of(b"a manifest"),
            verdict: Verdict::CompleteWithDeadLetters,
            completed: 2,
            dead_lettered: 1,
            differing: 0,
            table_digest: ContentDigest::of(b"a table"),
            published_by: "an aggregator".to_owned(),
        }),
        RunEvent::Cancelled(RunCancelled {
            run_id: run_id(),
            generation: 2,
            writer: writer(),
            reason: "no longer wanted".to_owned(),
            cancelled_by: "somebody".to_owned(),
        }),
    ];
    let bytes = events.map(|event| [event.key().as_bytes(), b"\n", &event.encode()].concat());
    bytes.to_vec()
}

fn written(columns: Vec<Column>, rows: usize, packed: bool) -> Vec<u8> {
    let mut frame = DataFrame::new(rows, columns).unwrap();
    let compression = match packed {
        true => ParquetCompression::Zstd(None),
        false => ParquetCompression::Uncompressed,
    };
    let mut bytes = Vec::new();
    ParquetWriter::new(&mut bytes)
        .with_compression(compression)
        .with_statistics(StatisticsOptions::empty())
        .finish(&mut frame)
        .unwrap();
    bytes
}

fn parquet(packed: bool) -> Vec<u8> {
    let columns = vec![
        Column::new("country".into(), [Some("Italy"), None, Some("Italy")]),
        Column::new("test_date".into(), ["2020-07-14", "x", "2020-07-15"]),
        Column::new("result".into(), ["positive", "negative", "positive"]),
    ];
    written(columns, 3, packed)
}
