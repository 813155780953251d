"""The rows of the table: which programs there are, how each is started, and which sets they make."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from . import cache


@dataclass(frozen=True)
class Place:
    """Where one run of a program happens."""

    #: The data set.
    data: Path
    #: A fresh folder; the series is to be `series.csv` in it.
    out: Path
    #: Brokers, for rows that need them.
    cluster: str
    #: The program `rollcall`.
    rollcall: Path
    #: The Python that has the peers' packages.
    python: Path


@dataclass(frozen=True)
class Row:
    """A row of the table."""

    name: str
    #: What it is, for the table.
    what: str
    command: Callable[[Place], list[str]]
    needs_broker: bool = False
    #: Takes a minute and more of two million rows: not warmed up, and run in fewer rounds.
    slow: bool = False
    #: Shows what another result or another way to put the work costs: only in the set `all`.
    extra: bool = False
    #: Is given every so manieth day of the data set, and what it takes is multiplied by that.
    every_day: int = 1

    @property
    def is_rollcall(self) -> bool:
        return self.name.startswith("rollcall")


def _rollcall(*options: str, broker: bool = True) -> Callable[[Place], list[str]]:
    def command(place: Place) -> list[str]:
        line = [str(place.rollcall), "run", str(place.data), "--config", "", "--quiet"]
        if broker:
            line += ["--bootstrap-servers", place.cluster]
        return [*line, "--outputs", "csv", "--out", str(place.out), *options]

    return command


def _python(program: str, *options: str, broker: bool = False) -> Callable[[Place], list[str]]:
    def command(place: Place) -> list[str]:
        line = [str(place.python), str(cache.PEERS / program), str(place.data)]
        line.append(str(place.out / "series.csv"))
        return [*line, *([place.cluster] if broker else []), *options]

    return command


def _kafka_streams(formulation: str, guarantee: str) -> Callable[[Place], list[str]]:
    def command(place: Place) -> list[str]:
        java = ["java", "-Xms2g", "-Xmx4g", "-XX:+UseParallelGC", "-XX:TieredStopAtLevel=1"]
        java.append("-Dorg.slf4j.simpleLogger.defaultLogLevel=error")
        series = str(place.out / "series.csv")
        program = ["-cp", cache.kafka_streams(), "peers.Positivity"]
        return [*java, *program, str(place.data), series, place.cluster, formulation, guarantee]

    return command


_WORKERS = ("--workers", "2")

ROWS = [
    Row("polars", "one query, Python wheel", _python("polars_query.py")),
    Row("duckdb", "one query, Python wheel", _python("duckdb_query.py")),
    Row(
        "polars-any-order",
        "the same, lines in any order",
        _python("polars_query.py", "any-order"),
        extra=True,
    ),
    Row(
        "duckdb-any-order",
        "the same, lines in any order",
        _python("duckdb_query.py", "any-order"),
        extra=True,
    ),
    Row(
        "rollcall",
        "on Kafka, 2 workers, packed",
        _rollcall(*_WORKERS),
        needs_broker=True,
    ),
    Row(
        "rollcall-one",
        "on Kafka, 2 workers, one job a message",
        _rollcall(*_WORKERS, "--jobs-per-message", "1"),
        needs_broker=True,
    ),
    Row(
        "rollcall-exactly-once",
        "on Kafka, 2 workers, packed, exactly once",
        _rollcall(*_WORKERS, "--delivery", "exactly-once"),
        needs_broker=True,
    ),
    Row(
        "rollcall-in-process",
        "in-process broker, 2 workers, packed",
        _rollcall(*_WORKERS, broker=False),
    ),
    Row(
        "rollcall-local",
        "no broker, one polars query in Rust",
        _rollcall("--engine", "local", broker=False),
    ),
    Row(
        "vectorised-kafka",
        "Python on Kafka, 2 workers, packed",
        _python("vectorised_kafka.py", "packed", broker=True),
        needs_broker=True,
    ),
    Row(
        "vectorised-kafka-one",
        "Python on Kafka, 2 workers, one job a message",
        _python("vectorised_kafka.py", "one", broker=True),
        needs_broker=True,
    ),
    Row(
        "kafka-streams",
        "Kafka Streams, 2 threads, one job a record",
        _kafka_streams("by-job", "at_least_once"),
        needs_broker=True,
    ),
    Row(
        "kafka-streams-exactly-once",
        "the same, exactly once v2",
        _kafka_streams("by-job", "exactly_once_v2"),
        needs_broker=True,
    ),
    Row(
        "kafka-streams-by-row",
        "Kafka Streams, 2 threads, one row a record, counted in a store",
        _kafka_streams("by-row", "at_least_once"),
        needs_broker=True,
        extra=True,
    ),
    Row(
        "pandas-loop",
        "a loop over pandas groups, no dispatcher",
        _python("pandas_loop.py"),
        slow=True,
    ),
    Row(
        "article-pipeline",
        "the article: JSON and pandas on Kafka, 2 workers",
        _python("article_pipeline.py", broker=True),
        needs_broker=True,
        slow=True,
        every_day=5,
    ),
]

_BY_NAME = {row.name: row for row in ROWS}

SETS = {
    "fast": [
        row.name for row in ROWS if row.is_rollcall or not (row.needs_broker or row.slow or row.extra)
    ],
    "kafka": [row.name for row in ROWS if row.needs_broker and not (row.slow or row.extra)],
    "all": [row.name for row in ROWS],
}


class Unknown(Exception):
    """A name that is neither a row nor a set."""


def chosen(text: str) -> list[Row]:
    """The rows that a list of rows and sets means, each once, in the table's order.

    Names are taken with underscores, too.
    """
    names: set[str] = set()
    for name in text.replace("_", "-").split(","):
        if name not in SETS and name not in _BY_NAME:
            known = ", ".join([*SETS, *_BY_NAME])
            raise Unknown(f"no row or set is called {name!r}; there are {known}")
        names.update(SETS.get(name, [name]))
    return [row for row in ROWS if row.name in names]
