"""Positivity by country and hour with polars: one lazy query on its streaming engine.

python polars_query.py DATA.csv OUT.csv
"""

import sys

import polars as pl

data, out = sys.argv[1:]

# The hour is the first 13 characters of an ISO 8601 time, so no time is parsed and none formatted.
(
    pl.scan_csv(data, infer_schema=False)
    .group_by("country", date_hour=pl.col("test_date").str.head(13))
    .agg(tests=pl.len(), positive=(pl.col("result") == "positive").sum())
    .sort("country", "date_hour")
    .with_columns(date_hour=pl.col("date_hour") + ":00:00", rate=pl.col("positive") / pl.col("tests"))
    .collect(engine="streaming")
    .write_csv(out)
)
