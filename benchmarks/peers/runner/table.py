"""What was measured, as JSON for programs and as a table for people."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from .figures import base_of, spread
from .rows import Row

#: Within a version fields are only added.
SCHEMA_VERSION = 1


def rows_json(rows: list[Row], runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each row with its figures and its runs. `runs` say what was measured, not what it is scaled to."""
    measured = []
    for row in rows:
        own = [run for run in runs if run["row"] == row.name]
        wall = spread([run["wall_seconds"] * row.every_day for run in own if run["measured"]])
        cpu = spread([run["cpu_seconds"] * row.every_day for run in own if run["measured"]])
        peaks = [run["peak_bytes"] for run in own if run["peak_bytes"] is not None]
        measured.append(
            {
                "row": row.name,
                "what": row.what,
                "scaled_by": row.every_day,
                "wall_seconds": wall and asdict(wall),
                "cpu_seconds": cpu and asdict(cpu),
                "peak_bytes": max(peaks, default=None),
                "runs": own,
            }
        )
    medians = {row["row"]: row["wall_seconds"]["median"] for row in measured if row["wall_seconds"]}
    base = base_of(medians)
    for row in measured:
        median = medians.get(row["row"])
        row["ratio"] = median / medians[base] if base and median is not None else None
    return measured


def markdown(result: dict[str, Any]) -> str:
    """The table, and below it what the figures depend on."""
    lines = [
        f"## {result['data']['rows']:,} rows, {result['data']['groups']:,} groups"
        f" ({result['data']['name']})",
        "",
        "| row | what | wall s | ± MAD | min … max | runs | ratio | CPU s | peak MiB |",
        "| :--- | :--- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in result["rows"]:
        lines.append("| " + " | ".join(_cells(row)) + " |")
    host, load = result["host"], result["load"]
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    lines += [
        "",
        "Wall seconds are medians. The ratio is to the faster one of polars and DuckDB here."
        " CPU seconds and memory are those of a program's processes, without the broker's.",
        "",
        *circumstances(result),
        f"- versions: {versions}",
        f"- series: {result['data']['series_sha256']}",
    ]
    if any(row["scaled_by"] > 1 for row in result["rows"]):
        lines.append("- †: measured on a part of the days and multiplied")
    if load["before"] is not None and host["cores"] and load["before"] > host["cores"]:
        lines.append("- the machine was busy with other work: measure again on a quiet one")
    return "\n".join(lines) + "\n"


def circumstances(result: dict[str, Any]) -> list[str]:
    """Where, when and of what it was measured."""
    host, load = result["host"], result["load"]
    return [
        f"- host: {host['name']}, {host['cores']} cores, {host['cpu']}, {host['os']}",
        f"- load: {_number(load['before'])} before, {_number(load['after'])} after",
        f"- begun: {result['begun_at']}; commit {result['commit']}",
        f"- broker: {result['broker']}",
    ]


def _cells(row: dict[str, Any]) -> list[str]:
    wall, cpu, peak = row["wall_seconds"], row["cpu_seconds"], row["peak_bytes"]
    name = row["row"] + (f" † ×{row['scaled_by']}" if row["scaled_by"] > 1 else "")
    if wall is None:
        return [name, row["what"], *["–"] * 7]
    return [
        name,
        row["what"],
        _number(wall["median"]),
        _number(wall["mad"]) if wall["runs"] > 1 else "–",
        f"{_number(wall['least'])} … {_number(wall['greatest'])}",
        str(wall["runs"]),
        _number(row["ratio"]),
        _number(cpu["median"]),
        f"{peak / 2**20:.0f}" if peak is not None else "–",
    ]


def _number(value: float | None) -> str:
    """Three digits or so; what is not known is a dash."""
    if value is None:
        return "–"
    return f"{value:.2f}" if abs(value) < 100 else f"{value:.0f}"
