#!/usr/bin/env python3
"""Runs rollcall interleaved with itself: with nothing to compute, and on ten times the rows; on its
in-process broker and on Apache Kafka. Writes what each run took as a table and as JSON. README.md beside
it says how the program with nothing to compute is made.

It needs Python 3.11 and a release build of rollcall; Java 17 and Maven for Apache Kafka.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from run import carry_out, positive, rollcall
from runner import broker, cache, data, host, process, variants
from runner.figures import order_of
from runner.variants import EMPTY, TENFOLD, Variant, chosen


def main() -> int:
    args = arguments()
    return carry_out(lambda: measure(args), variants.markdown, args.out / "itself")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Run rollcall interleaved with itself.")
    add = parser.add_argument
    add("--data", default="wide", choices=data.MADE, help="data set (default: wide)")
    add("--rows", type=positive, default=2_000_000, help="rows to generate (default: 2000000)")
    add("--rounds", type=positive, default=5, help="measured rounds, after one more (default: 5)")
    add("--rollcall", type=Path, help="the program (default: the checkout's release build)")
    add("--empty", type=Path, help="the program whose jobs have nothing to compute")
    add("--tenfold", action="store_true", help="run ten times the rows, too")
    add("--bootstrap-servers", help="a cluster to use (default: a broker of its own)")
    add("--timeout", type=positive, default=900, help="seconds for one run (default: 900)")
    add("--out", type=Path, default=Path("out/itself"), help="folder (default: out/itself)")
    return parser.parse_args()


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Makes ready, measures, and returns what itself.json has."""
    program = rollcall(args.rollcall)
    empty = args.empty and rollcall(args.empty)
    runs: list[dict[str, Any]] = []
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rollcall-itself-")))
        cluster = args.bootstrap_servers or stack.enter_context(broker.started()).address
        files = {1: data.make(program, args.data, args.rows, folder)}
        if args.tenfold:
            (folder / "tenfold").mkdir()
            files[10] = data.make(program, args.data, 10 * args.rows, folder / "tenfold")
        rows = chosen(empty is not None, args.tenfold)
        by_name = {row.name: row for row in rows}
        begun, before = datetime.datetime.now(datetime.UTC), host.load()
        for number in range(args.rounds + 1):
            for name in order_of(list(by_name), number):
                row = by_name[name]
                runs.append(
                    one(row, empty if row.what == EMPTY else program, files, cluster, folder, args)
                    | {"row": name, "round": number, "measured": number > 0}
                )
    variants.check(rows, runs)
    return {
        "schema_version": variants.SCHEMA_VERSION,
        "begun_at": begun.isoformat(timespec="seconds"),
        "command": sys.argv,
        "commit": host.commit(cache.PEERS),
        "host": host.describe(),
        "load": {"before": before, "after": host.load()},
        "broker": args.bootstrap_servers
        or f"Apache Kafka {cache.kafka_version()}, one node on the same machine",
        "data": {"name": args.data, "rows": args.rows},
        "rows": variants.rows_json(rows, runs),
    }


def one(
    row: Variant,
    program: Path,
    files: dict[int, Path],
    cluster: str,
    folder: Path,
    args: argparse.Namespace,
) -> dict[str, Any]:
    """One run: what it took by the clock, and what its report says."""
    out = folder / "run"
    file = files[10 if row.what == TENFOLD else 1]
    command = [str(program), "run", str(file), "--config", "", "--quiet", "--workers", "2"]
    command += ["--outputs", "csv", "--out", str(out)]
    if row.on_kafka:
        command += ["--bootstrap-servers", cluster]
    taken = process.run(command, folder / "run.log", args.timeout, look_at_memory=False)
    report = json.loads((out / "report.json").read_text())
    print(f"{row.name:32} {taken.wall_seconds:9.3f} s", file=sys.stderr, flush=True)
    return {"wall_seconds": taken.wall_seconds, "cpu_seconds": taken.cpu_seconds} | variants.of_report(
        report
    )


if __name__ == "__main__":
    sys.exit(main())
