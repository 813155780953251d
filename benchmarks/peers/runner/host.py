"""The machine and the versions that figures depend on. What cannot be told is None."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path


def describe() -> dict[str, object]:
    """This machine."""
    return {
        "name": platform.node(),
        "os": _value("/etc/os-release", "PRETTY_NAME", "="),
        "kernel": platform.release(),
        "arch": platform.machine(),
        "cpu": _value("/proc/cpuinfo", "model name", ":"),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_bytes": _memory(),
    }


def load() -> float | None:
    """How many processes wanted a core in the last minute, on average."""
    try:
        return os.getloadavg()[0]
    except OSError:
        return None


def commit(folder: Path) -> str | None:
    """The commit of the checkout, with a `+` when something in it is changed."""
    try:
        head = _git(folder, "rev-parse", "--short=12", "HEAD")
        return head + ("+" if _git(folder, "status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(folder), *arguments], check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def _value(path: str, key: str, separator: str) -> str | None:
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        name, found, value = line.partition(separator)
        if found and name.strip() == key:
            return value.strip().strip('"')
    return None


def _memory() -> int | None:
    kib = _value("/proc/meminfo", "MemTotal", ":")
    return int(kib.removesuffix("kB")) * 1024 if kib else None
