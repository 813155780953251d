#!/usr/bin/env python3
"""Runs rollcall and its peers interleaved on the same file, checks that all give the same series, and
writes what each took as a table and as JSON. README.md beside it says what is measured and how.

It needs Python 3.11 and a release build of rollcall; Java 17 and Maven for the rows on Kafka.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import hashlib
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from runner import broker, cache, data, host, process, rows, series, table, variants
from runner.figures import order_of
from runner.rows import Place, Row


class Refused(Exception):
    """A benchmark that cannot be made, or whose results must not be believed."""


def main() -> int:
    args = arguments()
    return carry_out(lambda: Benchmark(args).run(), table.markdown, args.out / "peers")


def carry_out(
    measure: Callable[[], dict[str, Any]], markdown: Callable[[dict[str, Any]], str], out: Path
) -> int:
    """Measures, writes OUT.json and OUT.md, and returns the exit code; what goes wrong is one line."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        result = measure()
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except (
        Refused,
        variants.Differs,
        cache.Missing,
        broker.Failed,
        process.Failed,
        data.Bad,
        series.NotASeries,
        OSError,
    ) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    out.parent.mkdir(parents=True, exist_ok=True)
    out.with_suffix(".json").write_text(json.dumps(result, indent=2) + "\n")
    text = markdown(result)
    out.with_suffix(".md").write_text(text)
    print(text)
    return 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Run rollcall and its peers interleaved on the same file.",
        epilog=f"rows: {', '.join(row.name for row in rows.ROWS)}. "
        + " ".join(f"{name}: {', '.join(names)}." for name, names in rows.SETS.items()),
    )
    add = parser.add_argument
    add("--data", default="wide", metavar="wide|narrow|FILE", help="data set (default: wide)")
    add("--rows", type=positive, default=2_000_000, help="rows to generate (default: 2000000)")
    add("--rounds", type=positive, default=7, help="measured rounds (default: 7)")
    add("--slow-rounds", type=natural, default=1, help="of the slow rows (default: 1)")
    add("--warm-up", type=natural, default=1, help="rounds before these (default: 1)")
    add("--set", type=chosen, default="fast", help="rows and sets, by commas (default: fast)")
    add("--rollcall", type=Path, help="the program (default: the checkout's release build)")
    add("--bootstrap-servers", help="a cluster to use (default: a broker of its own)")
    add("--timeout", type=positive, default=900, help="seconds for one run (default: 900)")
    add("--out", type=Path, default=Path("out/peers"), help="folder (default: out/peers)")
    return parser.parse_args()


def positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return number


def natural(text: str) -> int:
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"{text} is negative")
    return number


def chosen(text: str) -> list[Row]:
    try:
        return rows.chosen(text)
    except rows.Unknown as error:
        raise argparse.ArgumentTypeError(str(error)) from None


class Benchmark:
    """Everything that is made ready before a program is timed, and the rounds."""

    def __init__(self, args: argparse.Namespace) -> None:
        self._args = args
        self._rows: list[Row] = args.set
        self._rollcall = rollcall(args.rollcall)
        self._own_broker: broker.Broker | None = None
        #: Data set and digest of its series, by the days between those that are in it.
        self._inputs: dict[int, tuple[Path, str]] = {}
        #: Digests of series, by the digest of the file: a program writes the same bytes each time.
        self._known: dict[str, str] = {}
        self._runs: list[dict[str, Any]] = []
        self._versions: dict[str, str] = {}

    def run(self) -> dict[str, Any]:
        """Makes ready, measures, and returns what peers.json has."""
        python = cache.python()
        if any(row.name.startswith("kafka-streams") for row in self._rows):
            cache.kafka_streams()
        with tempfile.TemporaryDirectory(prefix="rollcall-peers-") as folder, self._broker() as at:
            self._folder = Path(folder)
            facts = self._prepare()
            self._describe_versions(python, facts.pop("versions"))
            place = Place(Path(), Path(), at, self._rollcall, python)
            begun, before = datetime.datetime.now(datetime.UTC), host.load()
            self._rounds(place)
            return {
                "schema_version": table.SCHEMA_VERSION,
                "begun_at": begun.isoformat(timespec="seconds"),
                "command": sys.argv,
                "commit": host.commit(cache.PEERS),
                "host": host.describe(),
                "load": {"before": before, "after": host.load()},
                "versions": self._versions,
                "broker": self._broker_is(),
                "settings": {
                    "rounds": self._args.rounds,
                    "slow_rounds": self._args.slow_rounds,
                    "warm_up": self._args.warm_up,
                },
                "data": facts,
                "rows": table.rows_json(self._rows, self._runs),
            }

    @contextlib.contextmanager
    def _broker(self) -> Iterator[str]:
        if self._args.bootstrap_servers or not any(row.needs_broker for row in self._rows):
            yield self._args.bootstrap_servers or ""
        else:
            with broker.started() as own:
                self._own_broker = own
                yield own.address

    def _broker_is(self) -> str | None:
        if not any(row.needs_broker for row in self._rows):
            return None
        if self._args.bootstrap_servers:
            return self._args.bootstrap_servers
        return f"Apache Kafka {cache.kafka_version()}, one node on the same machine"

    def _prepare(self) -> dict[str, Any]:
        """The data sets, and what their series has to be: by rollcall's reference, without Kafka."""
        if self._args.data in data.MADE:
            whole = data.make(self._rollcall, self._args.data, self._args.rows, self._folder)
        else:
            whole = Path(self._args.data).absolute()
        for days in sorted({1} | {row.every_day for row in self._rows}):
            file = whole if days == 1 else data.every_day(whole, days, self._folder)
            out = self._folder / f"reference-{days}"
            command = [str(self._rollcall), "run", str(file), "--engine", "local", "--config", ""]
            command += ["--quiet", "--outputs", "csv", "--out", str(out)]
            log = self._folder / "reference.log"
            process.run(command, log, self._args.timeout, look_at_memory=False)
            report = json.loads((out / "report.json").read_text())
            if report["manifest"]["rows_rejected"]:
                raise Refused(f"{file} has rows that rollcall rejects: peers do not look for them")
            found, groups = series.digest(out / "series.csv")
            if found != report["series"]["sha256"]:
                raise Refused("series.csv of the reference has not the digest of its report.json")
            self._inputs[days] = (file, found)
            if days == 1:
                facts = {
                    "name": self._args.data,
                    "rows": report["manifest"]["rows_read"],
                    "groups": groups,
                    "bytes": file.stat().st_size,
                    "series_sha256": found,
                    "versions": report["versions"],
                }
        return facts

    def _describe_versions(self, python: Path, of_rollcall: dict[str, str]) -> None:
        self._versions = {"rollcall": of_rollcall["rollcall"], "built from": of_rollcall["commit"]}
        self._versions |= {"profile": of_rollcall["profile"], "Python": platform.python_version()}
        packages = cache.packages(python)
        for name in ("polars", "duckdb", "pandas", "numpy", "confluent-kafka"):
            self._versions[name] = packages[name]
        if any(row.needs_broker for row in self._rows):
            java = subprocess.run(["java", "-version"], capture_output=True, text=True, check=False)
            self._versions["Java"] = java.stderr.split('"')[1] if '"' in java.stderr else "unknown"

    def _rounds(self, place: Place) -> None:
        by_name = {row.name: row for row in self._rows}
        for number in range(1, self._args.warm_up + 1):
            for name in order_of([row.name for row in self._rows if not row.slow], number):
                self._one(by_name[name], place, f"warm-up {number}", number, measured=False)
        for number in range(1, max(self._args.rounds, self._args.slow_rounds) + 1):
            due = [row.name for row in self._rows if number <= self._rounds_of(row)]
            for name in order_of(due, number):
                self._one(by_name[name], place, f"round {number}", number, measured=True)

    def _rounds_of(self, row: Row) -> int:
        return self._args.slow_rounds if row.slow else self._args.rounds

    def _one(self, row: Row, place: Place, when: str, number: int, measured: bool) -> None:
        """One run of a program, and the look at what it wrote."""
        file, expected = self._inputs[row.every_day]
        out = self._folder / "run"
        out.mkdir()
        place = Place(file, out, place.cluster, place.rollcall, place.python)
        load = host.load()
        # Looking at memory takes time of a core, so it is done where nothing is timed; but slow rows
        # have no warm-up, and take so long that it is lost in it.
        look = row.slow or not measured
        log = self._folder / "run.log"
        try:
            taken = process.run(row.command(place), log, self._args.timeout, look)
        finally:
            if self._own_broker:
                self._own_broker.check()
        found = self._digest(out / "series.csv")
        if found != expected:
            raise Refused(f"{row.name} gives another series: {found[:12]}, not {expected[:12]}")
        if row.is_rollcall:
            report = json.loads((out / "report.json").read_text())
            if report["status"] != "complete" or report["series"]["sha256"] != expected:
                raise Refused(f"{row.name}: its report says {report['status']}")
        shutil.rmtree(out)
        print(f"{when:10} {row.name:28} {taken.wall_seconds:9.3f} s", file=sys.stderr, flush=True)
        self._runs.append(
            {
                "row": row.name,
                "round": number,
                "measured": measured,
                "wall_seconds": taken.wall_seconds,
                "cpu_seconds": taken.cpu_seconds,
                "peak_bytes": taken.peak_bytes,
                "load": load,
            }
        )

    def _digest(self, file: Path) -> str:
        """The digest of a series. The canonical form takes seconds, so it is made once of each file."""
        with file.open("rb") as content:
            written = hashlib.file_digest(content, "sha256").hexdigest()
        if written not in self._known:
            self._known[written], _ = series.digest(file)
        return self._known[written]


def rollcall(given: Path | None) -> Path:
    """The program to measure: what is given, else the release build of this checkout."""
    root = cache.PEERS.parent.parent
    target = Path(os.environ.get("CARGO_TARGET_DIR") or root / "target")
    program = (given or target / "release" / "rollcall").absolute()
    if not os.access(program, os.X_OK):
        raise Refused(f"{program} is not there: cargo build --release, or --rollcall PATH")
    return program


if __name__ == "__main__":
    sys.exit(main())
