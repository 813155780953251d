"""Computes the series of a data set as `series.csv` has it, without rollcall: one query by polars or
by DuckDB. Usage: series.py ENGINE DATASET GRAIN OUT [LABEL...]"""

import sys

engine, data_set, grain, out, *labels = sys.argv[1:]
is_parquet = data_set.endswith(".parquet")

if engine == "polars":
    import polars as pl

    rows = pl.scan_parquet(data_set) if is_parquet else pl.scan_csv(data_set, infer_schema=False)
    time = pl.col("test_date") if is_parquet else pl.col("test_date").str.to_datetime("%Y-%m-%dT%H:%M:%S")
    every = {"hour": "1h", "day": "1d", "week": "1w", "month": "1mo"}[grain]
    (
        rows.select(*labels, time=time.dt.truncate(every), positive=pl.col("result") == "positive")
        .group_by(*labels, "time")
        .agg(tests=pl.len(), positive=pl.col("positive").sum())
        .select(*labels, pl.col("time").dt.strftime("%Y-%m-%dT%H:%M:%S"), "tests", "positive")
        .collect()
        .write_csv(out)
    )
elif engine == "duckdb":
    import duckdb

    source = f"read_parquet('{data_set}')" if is_parquet else f"read_csv('{data_set}', all_varchar = true)"
    keys = "".join(f'"{label}", ' for label in labels)
    duckdb.sql(
        f"""
        copy (
            select {keys} strftime(date_trunc('{grain}', test_date::timestamp)::timestamp, '%Y-%m-%dT%H:%M:%S') as time,
                   count(*) as tests, count(*) filter (result = 'positive') as positive
            from {source} group by all
        ) to '{out}' (format csv, header)
        """
    )
else:
    sys.exit(f"no engine {engine}")
