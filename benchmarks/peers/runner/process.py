"""Runs a program and tells what it took: wall seconds, CPU seconds of its process tree, peak memory.

A program is the leader of a process group of its own, so that all it started can be ended with it when
it takes too long. (Not of a session: Linux may give each session its own share of the cores.)
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path

#: How often memory is looked at, where it is.
LOOK_EVERY_SECONDS = 0.02

#: Settings of whoever runs the benchmark that would change what is measured.
_NOT_INHERITED = (
    "KAFKA_",
    "ROLLCALL_",
    "POLARS_",
    "PYTHON",
    "JAVA_TOOL_OPTIONS",
    "JDK_JAVA_OPTIONS",
)


@dataclass(frozen=True)
class Taken:
    """What one run of a program took."""

    wall_seconds: float
    #: User and system, of the process and all that it waited for. The broker is another process.
    cpu_seconds: float
    #: Sum of the greatest resident sizes (`VmHWM`) of all its processes; None where not looked at.
    peak_bytes: int | None


class Failed(Exception):
    """A program that did not end well, or in time; with what it printed."""


def environment(**more: str) -> dict[str, str]:
    """The environment that programs are started with."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_NOT_INHERITED)}
    return kept | more


def run(command: list[str], log: Path, timeout_seconds: float, look_at_memory: bool) -> Taken:
    """Runs `command` to its end. What it prints goes to `log`."""
    with log.open("wb") as output:
        started = time.perf_counter()
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment(),
            process_group=0,
        )
        # Popen must not wait for it, or the figures of wait4 would be lost: a timer ends it instead.
        timer = threading.Timer(timeout_seconds, _end_group, [process.pid])
        timer.start()
        memory = _Memory(process.pid) if look_at_memory else None
        try:
            _, status, usage = os.wait4(process.pid, 0)
            wall = time.perf_counter() - started
        except BaseException:
            _end_group(process.pid)
            process.wait()
            raise
        finally:
            in_time = timer.is_alive()
            timer.cancel()
            peak = memory.stop() if memory else None
        process.returncode = os.waitstatus_to_exitcode(status)
    # Whatever it left behind would disturb the next one.
    _end_group(process.pid)
    if process.returncode != 0:
        why = f"ended with {process.returncode}" if in_time else f"took over {timeout_seconds:.0f} s"
        printed = log.read_text(errors="replace").splitlines()
        raise Failed("\n".join([f"{' '.join(command)}: {why}", *printed[-30:]]))
    return Taken(wall, usage.ru_utime + usage.ru_stime, peak)


def _end_group(leader: int) -> None:
    """Kills what is left of the process group that was started here with this leader."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(leader, signal.SIGKILL)


class _Memory:
    """Looks at the memory of a process tree until it is told to stop."""

    def __init__(self, root: int) -> None:
        self._root = root
        self._peaks: dict[int, int] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look_on, daemon=True)
        self._thread.start()

    def stop(self) -> int | None:
        self._over.set()
        self._thread.join()
        return sum(self._peaks.values()) or None

    def _look_on(self) -> None:
        while not self._over.wait(LOOK_EVERY_SECONDS):
            for pid in _tree(self._root):
                peak = _peak_bytes(pid)
                if peak is not None:
                    self._peaks[pid] = peak


def _tree(root: int) -> list[int]:
    """A process and all below it."""
    found = [root]
    for pid in found:
        try:
            for children in Path(f"/proc/{pid}/task").glob("*/children"):
                found += map(int, children.read_text().split())
        except OSError:
            continue
    return found


def _peak_bytes(pid: int) -> int | None:
    """Its greatest resident size; None when it has ended."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return None
