"""Positivity by country and hour with pandas: a plain loop over the groups, without a dispatcher.

python pandas_loop.py DATA.csv OUT.csv
"""

import sys

import pandas as pd

data, out = sys.argv[1:]

tests = pd.read_csv(data, usecols=["country", "test_date", "result"], parse_dates=["test_date"])
tests["date_hour"] = tests["test_date"].dt.floor("h")

series = []
for (country, hour), group in tests.groupby(["country", "date_hour"]):
    positive = int((group["result"] == "positive").sum())
    series.append((country, hour, len(group), positive, positive / len(group)))

pd.DataFrame(series, columns=["country", "date_hour", "tests", "positive", "rate"]).to_csv(
    out, index=False, date_format="%Y-%m-%dT%H:%M:%S"
)
