//! What each stage costs a row or a job where it is pure: the functions of the services in the order
//! of the pipeline, on one thread, in memory, each over a whole data set. `docs/performance.md` makes
//! a cost model of them.
//!
//! `cargo bench` runs all, `cargo bench -- wide/work` one of them. `throughput` is rows or jobs a
//! second.

mod data_set;

use std::hint::black_box;
use std::io;
use std::time::Duration;

use aggregator::export::{Exporter, SeriesCsv, Table};
use computations::positivity::Series;
use computations::{Compute, Positivity};
use criterion::measurement::WallTime;
use criterion::{BatchSize, BenchmarkGroup, Criterion, SamplingMode, Throughput};
use dispatcher::publish::Batching;
use pipeline::Verdict;

use data_set::DataSet;

/// Messages that are filled with jobs, as far as `auto` fills them.
const PACKED: Batching = Batching {
    max_jobs: u64::MAX,
    max_bytes: 64 * 1024,
};

/// The textbook form.
const ONE_JOB_A_MESSAGE: Batching = Batching {
    max_jobs: 1,
    ..PACKED
};

fn main() {
    // A stage takes some tenths of a second, so a few of them tell enough.
    let mut criterion = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(4))
        .configure_from_args();
    for (name, countries) in [("wide", 195), ("narrow", 20)] {
        let data_set = DataSet::generate(countries);
        let mut group = criterion.benchmark_group(name);
        group.sampling_mode(SamplingMode::Flat);
        stages(&mut group, &data_set);
        group.finish();
    }
    criterion.final_summary();
}

/// All stages that a data set goes through.
fn stages(group: &mut BenchmarkGroup<'_, WallTime>, data_set: &DataSet) {
    let rows = data_set.read();
    group.throughput(Throughput::Elements(rows.len() as u64));
    group.bench_function("read", |bench| {
        bench.iter_with_large_drop(|| data_set.read());
    });
    group.bench_function("group", |bench| {
        let input = || rows.clone();
        bench.iter_batched(input, |rows| data_set.group(rows), BatchSize::PerIteration);
    });

    let jobs = data_set.group(rows);
    group.throughput(Throughput::Elements(jobs.counts().jobs));
    group.bench_function("digest", |bench| {
        bench.iter(|| data_set::digest(&jobs));
    });
    group.bench_function("compute", |bench| {
        let mut result = Vec::new();
        bench.iter(|| {
            let computed = jobs.for_each(|job| {
                result.clear();
                let computed = Positivity.compute(black_box(job), &mut result);
                computed.expect("a generated result is one");
                black_box(&result);
                Ok(())
            });
            computed.expect("the jobs are in memory");
        });
    });
    for (packing, ending) in [(PACKED, ""), (ONE_JOB_A_MESSAGE, ", one job a message")] {
        group.bench_function(format!("encode{ending}"), |bench| {
            bench.iter(|| data_set::encode(&jobs, packing, |message| _ = black_box(message)));
        });
        let slices = data_set::slices(&jobs, packing);
        group.bench_function(format!("work{ending}"), |bench| {
            bench.iter_with_large_drop(|| data_set::work(&slices));
        });
    }

    let outcomes = data_set::work(&data_set::slices(&jobs, PACKED));
    let manifest = data_set::manifest(&jobs);
    group.bench_function("record", |bench| {
        bench.iter_with_large_drop(|| data_set::record(&manifest, &outcomes));
    });
    let collection = data_set::record(&manifest, &outcomes);
    // Figures of wrong results would mean nothing.
    assert_eq!(data_set::reconcile(&collection), Verdict::Complete);
    group.bench_function("reconcile", |bench| {
        bench.iter(|| data_set::reconcile(&collection));
    });
    let ledger = collection.ledger().expect("the manifest is known");
    group.bench_function("series", |bench| {
        bench.iter_with_large_drop(|| Series::of(ledger).expect("all is in memory"));
    });
    let series = Series::of(ledger).expect("all is in memory");
    group.bench_function("write", |bench| {
        bench.iter(|| {
            let grouping = data_set.grouping();
            let table = Table::of_run(&series, &grouping.label_columns, grouping.grain);
            let mut csv = SeriesCsv::new(table);
            csv.export(&mut io::sink()).expect("a sink takes all");
            csv.into_digest()
        });
    });
}
