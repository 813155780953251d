"""rollcall beside itself: which variants there are, what is taken from their reports, and what is worked
out of it. Pure: reports in, figures out. What was not measured is None, never 0.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from .figures import spread
from .table import circumstances

#: Within a version fields are only added.
SCHEMA_VERSION = 1

PLAIN = "plain"
EMPTY = "nothing to compute"
TENFOLD = "ten times the rows"


class Differs(Exception):
    """Runs that must agree and do not."""


@dataclass(frozen=True)
class Variant:
    """A row of the table."""

    what: str
    on_kafka: bool

    @property
    def name(self) -> str:
        return f"{self.what}, {'Kafka' if self.on_kafka else 'in-process'}"


def chosen(empty: bool, tenfold: bool) -> list[Variant]:
    """The rows, in the order of the table."""
    whats = [PLAIN] + [EMPTY] * empty + [TENFOLD] * tenfold
    return [Variant(what, on_kafka) for on_kafka in (False, True) for what in whats]


def of_report(report: dict[str, Any]) -> dict[str, Any]:
    """What is kept of a run's report.json."""
    stages = {stage["stage"]: stage["seconds"] for stage in report["stages"]}
    first_job = report.get("first_job_seconds")
    beyond = None if first_job is None else first_job - stages["read"] - stages["group"]
    return {
        "status": report["status"],
        "tests": report["tests"],
        "positive": report["positive"],
        "jobs": report["jobs"]["counted"],
        "job_set_digest": report["manifest"]["job_set_digest"],
        "stages": stages,
        "first_job_seconds": first_job,
        #: Until the broker had the first job, without reading and grouping.
        "start_seconds": beyond,
        "peak_bytes": {one["name"]: one["peak_resident_bytes"] for one in report["processes"]},
    }


def check(rows: list[Variant], runs: list[dict[str, Any]]) -> None:
    """Whether the runs did the same work: a variant that counts nothing must still account for all."""
    known: dict[str, tuple[Any, ...]] = {}
    for row in rows:
        same_file = TENFOLD if row.what == TENFOLD else PLAIN
        for run in (run for run in runs if run["row"] == row.name):
            if run["status"] != "complete":
                raise Differs(f"{row.name}: its report says {run['status']}")
            did = (run["tests"], run["jobs"], run["job_set_digest"])
            if known.setdefault(same_file, did) != did:
                raise Differs(f"{row.name}: it had other jobs, {did} and not {known[same_file]}")
            if (run["positive"] == 0) != (row.what == EMPTY):
                raise Differs(f"{row.name}: it found {run['positive']} positive tests")


def rows_json(rows: list[Variant], runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each row with its figures, its ratio to the plain one or the plain one's to it, and its runs."""
    measured = []
    for row in rows:
        own = [run for run in runs if run["row"] == row.name]
        timed = [run for run in own if run["measured"]]
        wall = spread([run["wall_seconds"] for run in timed])
        starts = [run["start_seconds"] for run in timed if run["start_seconds"] is not None]
        start = spread(starts)
        peaks: dict[str, int] = {}
        for run in own:
            for name, peak in run["peak_bytes"].items():
                if peak is not None:
                    peaks[name] = max(peak, peaks.get(name, 0))
        measured.append(
            {
                "row": row.name,
                "what": row.what,
                "on_kafka": row.on_kafka,
                "wall_seconds": wall and asdict(wall),
                "start_seconds": start and asdict(start),
                "peak_bytes": peaks,
                "runs": own,
            }
        )
    for row in measured:
        plain = next(
            one for one in measured if one["what"] == PLAIN and one["on_kafka"] == row["on_kafka"]
        )
        row["ratio"] = _ratio(row, plain)
    return measured


def _ratio(row: dict[str, Any], plain: dict[str, Any]) -> float | None:
    """How many times as long as the other: the plain run beside the empty one, ten times beside one."""
    if row["what"] == PLAIN or not row["wall_seconds"] or not plain["wall_seconds"]:
        return None
    own, other = row["wall_seconds"]["median"], plain["wall_seconds"]["median"]
    return other / own if row["what"] == EMPTY else own / other


def markdown(result: dict[str, Any]) -> str:
    """The table, and below it what the figures depend on."""
    lines = [
        f"## {result['data']['rows']:,} rows ({result['data']['name']})",
        "",
        "| row | wall s | min … max | runs | ratio | start s | min … max | peak MiB |",
        "| :--- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in result["rows"]:
        peaks = row["peak_bytes"].values()
        ratio = row["ratio"]
        cells = [row["row"], *_cells(row["wall_seconds"], 2)]
        cells += [str(row["wall_seconds"]["runs"]), "–" if ratio is None else f"{ratio:.2f}"]
        cells += [*_cells(row["start_seconds"], 3), ", ".join(f"{peak / 2**20:.0f}" for peak in peaks)]
        lines.append("| " + " | ".join(cells) + " |")
    lines += [
        "",
        "Wall seconds are medians. Ratio: the plain run beside the one that has nothing to compute; ten"
        " times the rows beside once. Start: until the broker had the first job, without reading and"
        " grouping. Peak memory: of the process `rollcall`, then of its workers.",
        "",
        *circumstances(result),
    ]
    return "\n".join(lines) + "\n"


def _cells(spread: dict[str, float] | None, digits: int) -> list[str]:
    if spread is None:
        return ["–", "–"]
    median, least, most = (spread[name] for name in ("median", "least", "greatest"))
    return [f"{median:.{digits}f}", f"{least:.{digits}f} … {most:.{digits}f}"]
