//! What a dispatcher reads from CSV, plain or packed, and the jobs that it makes of it.

use std::io::Read;
use std::path::Path;

use computations::{Registry, positivity};
use dispatcher::Grouping;
use dispatcher::input::{CsvFormat, Delimiter, Quote};
use dispatcher::job_set::JobSet;
use dispatcher::rejects::Rejects;
use dispatcher::source::csv_file::CsvFile;
use dispatcher::source::decompress::{Kind, sniff, unpack};
use dispatcher::source::rules::Rules;
use dispatcher::source::sink::Sink;
use dispatcher::spill::Spill;
use dispatcher::timestamp::TimeFormat;
use dispatcher::{Selection, payload_columns};
use pipeline::{Grain, JobBatch, JobBatchEncoder, JobHeader};
use service::Shutdown;

use super::choices;

pub fn grouping(grain: Grain) -> Grouping {
    Grouping {
        label_columns: vec!["country".to_owned()],
        time_column: "test_date".to_owned(),
        grain,
        computation: positivity::computation("result", "positive", "negative"),
        max_rows_per_job: 2,
    }
}

/// Rejected rows are written to where they are forgotten.
pub fn forgotten() -> Rejects {
    Rejects::new(Path::new("/dev/null"), None)
}

pub fn no_spill(grain: Grain) -> Spill {
    Spill::new(Path::new(""), grain, u64::MAX)
}

pub fn holds(input: &[u8]) {
    let ([choice], bytes) = choices(input);
    let grain = Grain::ALL[usize::from(choice & 3)];
    let delimiter = Delimiter([b',', b';'][usize::from(choice >> 2 & 1)]);
    let quote = Quote([Some(b'"'), None][usize::from(choice >> 3 & 1)]);
    let format = CsvFormat::new(delimiter, quote).expect("they differ");
    // A packed file of a few bytes may be as long as it likes, and nobody waits for that here.
    let most = 16 * (bytes.len() as u64 + 1_024);
    let Ok((kind, reader)) = sniff(Box::new(bytes))
        .and_then(|(kind, reader)| unpack(kind, reader))
        .and_then(|reader| sniff(Box::new(reader.take(most))))
    else {
        return;
    };
    if kind != Kind::Text {
        return;
    }
    let (grouping, time, shutdown) = (grouping(grain), TimeFormat::default(), Shutdown::new());
    let selection = Selection {
        grouping: &grouping,
        payload: &payload_columns(&grouping, &Registry::standard()).expect("it is known"),
    };
    let Ok(file) = CsvFile::open("a.csv".to_owned(), reader, format, selection) else {
        return;
    };
    let rules = Rules::new(selection, &time);
    let mut sink = Sink::new(rules, forgotten(), no_spill(grain), &shutdown);
    if file.read(&mut sink).is_err() {
        return;
    }
    let data_set = sink.finish().expect("there is no limit");
    let accepted = data_set.rows.len() as u64;
    assert_eq!(accepted + data_set.rejects.total, data_set.rows_read);
    assert_eq!(
        data_set.rejects.by_reason.values().sum::<u64>(),
        data_set.rejects.total
    );
    let jobs = JobSet::new(data_set.rows, no_spill(grain), &grouping).expect("in memory");
    assert_eq!(jobs.counts().rows, accepted);
    let mut encoder = JobBatchEncoder::new(&JobHeader {
        run_id: "a-run".parse().expect("a run id"),
        generation: 0,
        computation: grouping.computation.of_jobs().into(),
    });
    let (mut next, mut rows) = (0, 0);
    let each = jobs.for_each(|job| {
        assert_eq!(job.index, next);
        next += 1;
        encoder.push(job);
        let mut message = Vec::new();
        encoder.finish(&mut message);
        let batch = JobBatch::decode(&message).expect("what is published can be read");
        assert_eq!(batch.jobs().next().as_ref(), Some(job));
        let tally = positivity::tally(job).expect("its results are known");
        rows += u64::from(tally.tests);
        Ok(())
    });
    each.expect("in memory");
    assert_eq!((next, rows), (jobs.counts().jobs, accepted));
}
