"""Positivity by country and hour with polars: one lazy query on its streaming engine.

python polars_query.py DATA.csv OUT.csv [any-order]
"""

import sys

import polars as pl

data, out, *order = sys.argv[1:]

# The hour is the first 13 characters of an ISO 8601 time, so no time is parsed and none formatted.
series = (
    pl.scan_csv(data, infer_schema=False)
    .group_by("country", date_hour=pl.col("test_date").str.slice(0, 13))
    .agg(tests=pl.len(), positive=(pl.col("result") == "positive").sum())
)
if not order:
    series = series.sort("country", "date_hour")
series.with_columns(
    date_hour=pl.col("date_hour") + ":00:00", rate=pl.col("positive") / pl.col("tests")
).collect(engine="streaming").write_csv(out)
