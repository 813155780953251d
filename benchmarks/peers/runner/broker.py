"""An Apache Kafka of the benchmark's own: one node on loopback, its data in a temporary folder.

It is stopped by its process id when the benchmark ends, and its data removed. A broker that is given
instead is only used.
"""

from __future__ import annotations

import contextlib
import ctypes
import random
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from . import cache

HOST = "127.0.0.1"

_START_SECONDS = 60.0
_STOP_SECONDS = 20.0

#: Any 16 bytes in base64.
_CLUSTER_ID = "cm9sbGNhbGwtcGVlcnMtMQ"

#: A heap as Kafka's own start script gives it, and no more.
_JVM = ["-Xms1g", "-Xmx1g", "-XX:+UseG1GC", "-XX:-UsePerfData"]

#: Defaults, but for what one node needs, and no wait for the first members of a group: with Kafka's
#: 3 s each program that joins one would take 3 s longer.
_PROPERTIES = """\
process.roles=broker,controller
node.id=1
controller.listener.names=CONTROLLER
auto.create.topics.enable=false
group.initial.rebalance.delay.ms=0
offsets.topic.replication.factor=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
log.dirs={folder}/data
listeners=PLAINTEXT://{host}:{port},CONTROLLER://{host}:{controller_port}
advertised.listeners=PLAINTEXT://{host}:{port}
controller.quorum.voters=1@{host}:{controller_port}
"""


_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


class Failed(Exception):
    """A broker that does not start; with the end of its log."""


class Broker:
    """A broker that was started here."""

    def __init__(self, address: str, process: subprocess.Popen[bytes], folder: Path) -> None:
        #: `host:port`.
        self.address = address
        self._process = process
        self._folder = folder

    def check(self) -> None:
        """Fails when it has ended: what a program says of that is not the reason."""
        if self._process.poll() is not None:
            raise Failed(_story(self._folder, f"it ended with {self._process.returncode}"))


@contextlib.contextmanager
def started() -> Iterator[Broker]:
    """Starts a broker and stops it."""
    jars = cache.kafka_jars()
    folder = Path(tempfile.mkdtemp(prefix="rollcall-peers-kafka-"))
    process: subprocess.Popen[bytes] | None = None
    try:
        port, controller_port = _free_port(), _free_port()
        (folder / "server.properties").write_text(
            _PROPERTIES.format(folder=folder, host=HOST, port=port, controller_port=controller_port)
        )
        tool = ["kafka.tools.StorageTool", "format", "-t", _CLUSTER_ID]
        formatting = _java(jars, folder, [*tool, "-c", "server.properties"])
        if formatting.wait(_START_SECONDS) != 0:
            raise Failed(_story(folder, "its data folder cannot be formatted"))
        process = _java(jars, folder, ["kafka.Kafka", "server.properties"])
        deadline = time.monotonic() + _START_SECONDS
        while not _answers(port):
            if process.poll() is not None:
                raise Failed(_story(folder, f"it ended with {process.returncode}"))
            if time.monotonic() > deadline:
                raise Failed(_story(folder, f"it does not answer after {_START_SECONDS:.0f} s"))
            time.sleep(0.05)
        yield Broker(f"{HOST}:{port}", process, folder)
    finally:
        if process is not None and process.poll() is None:
            process.terminate()
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _java(jars: Path, folder: Path, arguments: list[str]) -> subprocess.Popen[bytes]:
    log_level = "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"
    with (folder / "broker.log").open("ab") as log:
        try:
            return subprocess.Popen(
                ["java", *_JVM, log_level, "-cp", f"{jars}/*", *arguments],
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=_leave_ending_to_parent,
            )
        except FileNotFoundError:
            raise cache.Missing("java is not on the PATH: install Java 17 or newer") from None


def _leave_ending_to_parent() -> None:
    """Ctrl-C is for the benchmark, which then stops the broker; that ends with it when it is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _story(folder: Path, what: str) -> str:
    lines = (folder / "broker.log").read_text(errors="replace").splitlines()
    told = [line for line in lines if not line.startswith("\tat ")]
    return "\n".join([f"Apache Kafka: {what}; the end of its log:", *told[-30:]])


def _free_port() -> int:
    """Not one of the kernel's choice, which are those of outgoing connections, too."""
    for port in random.sample(range(15_000, 30_000), 100):
        with socket.socket() as listener, contextlib.suppress(OSError):
            listener.bind((HOST, port))
            return port
    raise Failed("no free port on " + HOST)


def _answers(port: int) -> bool:
    """Whether a broker answers an ApiVersions request, the one that every client begins with."""
    request = struct.pack(">hhih", 18, 0, 1, -1)
    with contextlib.suppress(OSError), socket.create_connection((HOST, port), 1.0) as broker:
        broker.settimeout(1.0)
        broker.sendall(struct.pack(">i", len(request)) + request)
        answer = broker.recv(10, socket.MSG_WAITALL)
        return len(answer) == 10 and answer[8:10] == b"\0\0"
    return False
