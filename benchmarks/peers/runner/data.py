"""The data sets: made by `rollcall datagen`, or a file that is given; and a part of one."""

from __future__ import annotations

import csv
import datetime
import subprocess
from pathlib import Path

#: Options of `rollcall datagen`. Both have the rows of 306 days.
MADE = {"wide": [], "narrow": ["--countries", "20"]}


class Bad(Exception):
    """A data set that cannot be had or used."""


def make(rollcall: Path, name: str, rows: int, folder: Path) -> Path:
    """Writes the data set of this name."""
    file = folder / f"{name}.csv"
    command = [str(rollcall), "datagen", "--config", "", "--quiet", "--rows", str(rows)]
    command += ["--from", "2020-03-01", "--to", "2021-01-01", *MADE[name], "--out", str(file)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode != 0:
        raise Bad(f"{' '.join(command)}: {done.stderr.strip()}")
    return file


def every_day(data: Path, days: int, folder: Path) -> Path:
    """The rows of every so manieth day of a data set.

    Whole days, so that the part has that share of the rows and of the groups as well. The first so
    many rows would have more than their share of groups.
    """
    part = folder / f"{data.stem}-every-{days}-days.csv"
    with data.open(newline="") as source, part.open("w", newline="") as target:
        rows, out = csv.reader(source), csv.writer(target, lineterminator="\n")
        header = next(rows)
        at = header.index("test_date")
        out.writerow(header)
        chosen: dict[str, bool] = {}
        for row in rows:
            day = row[at][:10]
            if day not in chosen:
                chosen[day] = datetime.date.fromisoformat(day).toordinal() % days == 0
            if chosen[day]:
                out.writerow(row)
    return part
