"""The canonical form of a series and its digest, so that results of different writers can be compared.

The digest is rollcall's own (`series.sha256` in report.json): SHA-256 over the lines of series.csv
without header and rate. A peer may write times as its library does and lines in any order.
"""

from __future__ import annotations

import csv
import hashlib
import io
import itertools
import re
from pathlib import Path

#: Columns of a series; `rate` is a quotient of two others and not compared.
HEADER = ["country", "date_hour", "tests", "positive", "rate"]

#: An hour as ISO 8601, polars and DuckDB write it: `T` or a blank, perhaps with a fraction of zeros.
_HOUR = re.compile(r"(\d{4}-\d\d-\d\d)[T ](\d\d):00:00(?:\.0+)?")

#: A line without quotes, as nearly all are.
_PLAIN = re.compile(
    rb'^([^",\n]*),(\d{4}-\d\d-\d\d)[T ](\d\d):00:00(?:\.0+)?,(\d+),(\d+),[^,\n]*\n', re.MULTILINE
)


class NotASeries(Exception):
    """A file that is not the series of tests by country and hour."""


def digest(path: Path) -> tuple[str, int]:
    """The digest of the series in a file, and its number of groups."""
    lines = canonical_lines(path.read_bytes())
    return hashlib.sha256(b"".join(lines)).hexdigest(), len(lines)


def canonical_lines(text: bytes) -> list[bytes]:
    """`country,YYYY-MM-DDTHH:00:00,tests,positive`, in the order of country and time as bytes."""
    header, _, body = text.partition(b"\n")
    if header.decode().strip().split(",") != HEADER:
        raise NotASeries(f"its first line is {header[:80]!r}, not {','.join(HEADER)}")
    if body and not body.endswith(b"\n"):
        raise NotASeries("its last line is cut short")
    groups = _PLAIN.findall(body)
    if len(groups) == body.count(b"\n"):
        rows = [(c, b"%b,%bT%b:00:00,%b,%b\n" % (c, d, h, t, p)) for c, d, h, t, p in groups]
    else:
        rows = [_canonical(row) for row in csv.reader(io.StringIO(body.decode(), newline=""))]
    rows.sort()
    for before, after in itertools.pairwise(rows):
        if before[1].rsplit(b",", 2)[0] == after[1].rsplit(b",", 2)[0]:
            raise NotASeries(f"a group is in it twice: {after[1].decode().strip()}")
    return [line for _, line in rows]


def _canonical(row: list[str]) -> tuple[bytes, bytes]:
    """The country, which the lines are sorted by, and the line."""
    if len(row) != len(HEADER):
        raise NotASeries(f"a line has {len(row)} fields: {row}")
    country, time, tests, positive, _ = row
    hour = _HOUR.fullmatch(time)
    if not hour or not tests.isdecimal() or not positive.isdecimal():
        raise NotASeries(f"a line is not country, hour, tests, positive, rate: {row}")
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerow(
        [country, f"{hour[1]}T{hour[2]}:00:00", tests, positive]
    )
    return country.encode(), out.getvalue().encode()
