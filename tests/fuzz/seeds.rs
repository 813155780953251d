//! Inputs as they should be, a few for each property: where a fuzzer begins.

use std::collections::BTreeMap;

use pipeline::run::NUMBERING_VERSION;
use pipeline::{
    Grain, GroupKey, Grouping, Job, JobBatchEncoder, JobSetHasher, LabelSet, Manifest, Outcome,
    OutcomeBatchBuilder, ResultsPolicy, RunAborted, RunEvent, RunId, RunOpened, Tally, TimeBucket,
    outcome::Worker,
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
        "job_batch" => vec![jobs(1), jobs(5)],
        "labels" => texts(&["Italy,Rome,2020-07-14\nItaly,Rome,2020-07-15\n,,2020-07-14T09:00:00Z\nIt,alyRome,2020\n"]),
        "mark" => texts(&["rollcall/1 held take-overs=3 position=7 deaths=2", "rollcall/1 held", ""]),
        "outcome_batch" => vec![outcomes()],
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
                time: TimeBucket::from_hours(440_000 + index as i64).unwrap(),
            },
            part: 0,
            results: &[0, 1, 1],
        });
    }
}

fn jobs(count: u64) -> Vec<u8> {
    let mut encoder = JobBatchEncoder::new(&run_id());
    with_jobs(count, |job| encoder.push(job));
    let mut bytes = Vec::new();
    encoder.finish(&mut bytes);
    bytes
}

fn outcomes() -> Vec<u8> {
    let worker = Worker {
        host: "a-host".to_owned(),
        id: "worker-1".to_owned(),
    };
    let mut builder = OutcomeBatchBuilder::new(&run_id(), &worker);
    with_jobs(5, |job| {
        let outcome = match job.index {
            9 => Outcome::DeadLettered {
                reason: "it is broken",
                attempts: 3,
            },
            _ => Outcome::Counted(Tally {
                tests: 3,
                positive: 2,
            }),
        };
        builder.push(job, outcome);
    });
    builder.encode()
}

fn events() -> Vec<Vec<u8>> {
    let events = [
        RunEvent::Opened(RunOpened {
            run_id: run_id(),
            numbering_version: NUMBERING_VERSION,
            grouping: Grouping {
                label_columns: vec!["country".to_owned()],
                time_column: "test_date".to_owned(),
                grain: Grain::Week,
                result_column: "result".to_owned(),
                positive: "positive".to_owned(),
                negative: "negative".to_owned(),
                max_rows_per_job: 10_000,
            },
            opened_at_ms: 1_594_718_631_000,
            jobs_start_offsets: vec![3, 0],
            outcomes_start_offsets: vec![7],
            results: ResultsPolicy::Reproducible,
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
