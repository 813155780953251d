"""What is worked out of the runs of a row: medians and spreads, and the ratio to the fastest query.

Pure: numbers in, numbers out. What was not measured is None, never 0.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass

#: The rows that others are compared with: the faster of them is 1.
BASES = ("polars", "duckdb")


@dataclass(frozen=True)
class Spread:
    """A sample in five numbers. `mad` is the median absolute deviation from the median."""

    median: float
    mad: float
    least: float
    greatest: float
    runs: int


def spread(values: list[float]) -> Spread | None:
    """The sample's spread; None of an empty one."""
    if not values:
        return None
    median = statistics.median(values)
    return Spread(
        median=median,
        mad=statistics.median(abs(value - median) for value in values),
        least=min(values),
        greatest=max(values),
        runs=len(values),
    )


def base_of(medians: dict[str, float]) -> str | None:
    """The name of the faster one of the rows that others are compared with, if any has run."""
    candidates = [name for name in BASES if name in medians]
    return min(candidates, key=medians.__getitem__, default=None)


def order_of(names: list[str], number: int) -> list[str]:
    """The order of a round, counted from 1: every second one goes backwards.

    What drifts slowly, such as a broker that warms up, is so shared out evenly.
    """
    return list(reversed(names)) if number % 2 == 1 else list(names)
