"""What the peers need that is not in the checkout, fetched once into rollcall's cache folder.

Python packages by pip, Apache Kafka's jars and the Kafka Streams program by Maven. A folder of the
cache is there complete or not at all, and is named by the hash of what it is made of.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

#: benchmarks/peers.
PEERS = Path(__file__).resolve().parent.parent

#: The pom that the end-to-end tests take their broker from: same version, same folder of the cache.
_KAFKA_POM = PEERS.parent.parent / "tests" / "kafka" / "pom.xml"

_TOOL_SECONDS = 900


class Missing(Exception):
    """Something that is needed and cannot be had; says what to install."""


def python() -> Path:
    """The Python that has the packages of requirements.txt."""
    requirements = PEERS / "requirements.txt"
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    name = _name("peers-venv", version.encode(), requirements.read_bytes())

    def make(folder: Path) -> None:
        _run([sys.executable, "-m", "venv", str(folder / "venv")], "install Python's venv")
        pip = [str(folder / "venv/bin/python"), "-m", "pip", "install", "--quiet"]
        _run([*pip, "--requirement", str(requirements)], "see what pip says")

    return _made(name, "installing the peers' packages from PyPI", make) / "venv/bin/python"


def kafka_version() -> str:
    """The version that the tests' pom names."""
    return _KAFKA_POM.read_text().split("<kafka.version>")[1].split("<")[0]


def kafka_jars() -> Path:
    """The folder of the broker's jars."""

    def make(folder: Path) -> None:
        shutil.copy(_KAFKA_POM, folder / "pom.xml")
        _maven(folder, "dependency:copy-dependencies", "-DoutputDirectory=libs")

    # Not named by a hash: tests/e2e/apache_kafka.rs keeps them at this place.
    name = f"kafka-{kafka_version()}"
    return _made(name, "downloading Apache Kafka from Maven Central", make, "libs") / "libs"


def kafka_streams() -> str:
    """The class path of the Kafka Streams program."""
    source = PEERS / "kafka_streams"
    files = sorted(path for path in source.rglob("*") if path.suffix in (".xml", ".java"))

    def make(folder: Path) -> None:
        for path in files:
            copy = folder / path.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, copy)
        _maven(folder, "package")

    name = _name("peers-kafka-streams", *(path.read_bytes() for path in files))
    target = _made(name, "building the Kafka Streams program with Maven", make) / "target"
    return f"{target}/kafka-streams-peer-1.jar:{target}/libs/*"


def packages(interpreter: Path) -> dict[str, str]:
    """The packages of an environment with their versions."""
    pip = [str(interpreter), "-m", "pip", "list", "--format=freeze", "--disable-pip-version-check"]
    done = subprocess.run(pip, check=True, capture_output=True, text=True)
    return dict(line.split("==", 1) for line in done.stdout.splitlines() if "==" in line)


def _folder() -> Path:
    """`$ROLLCALL_CACHE`, else `$XDG_CACHE_HOME/rollcall`, else `~/.cache/rollcall`."""
    if own := os.environ.get("ROLLCALL_CACHE"):
        return Path(own).absolute()
    above = os.environ.get("XDG_CACHE_HOME")
    return (Path(above) if above else Path.home() / ".cache").absolute() / "rollcall"


def _name(what: str, *made_of: bytes) -> str:
    digest = hashlib.sha256(b"\0".join(made_of)).hexdigest()
    return f"{what}-{digest[:16]}"


def _made(name: str, doing: str, make: Callable[[Path], None], marker: str = "complete") -> Path:
    """The cache's folder of this name, made if it is not there: by one process while others wait.

    `marker` is what is in it when it is whole. The broker's jars have no file for that: they are made
    elsewhere and renamed. A virtual environment cannot be renamed.
    """
    folder = _folder() / name
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder / "lock"):
        if (folder / marker).exists():
            return folder
        print(f"{doing}, once (to {folder})", file=sys.stderr, flush=True)
        if marker == "complete":
            for left in folder.iterdir():
                if left.is_dir():
                    shutil.rmtree(left)
            make(folder)
            (folder / marker).touch()
        else:
            with tempfile.TemporaryDirectory(prefix="partial-", dir=folder) as partial:
                make(Path(partial))
                (Path(partial) / marker).rename(folder / marker)
    return folder


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """The lock that the end-to-end tests take, too; it ends with the process that holds it."""
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _maven(folder: Path, *arguments: str) -> None:
    command = ["mvn", "-q", "-B", "-f", str(folder / "pom.xml"), *arguments]
    _run(command, "install Apache Maven and a JDK of version 17 or newer", cwd=folder)


def _run(command: list[str], install: str, cwd: Path | None = None) -> None:
    try:
        done = subprocess.run(
            command, cwd=cwd, capture_output=True, text=True, timeout=_TOOL_SECONDS, check=False
        )
    except FileNotFoundError:
        raise Missing(f"{command[0]} is not on the PATH: {install}") from None
    except subprocess.TimeoutExpired:
        raise Missing(f"{command[0]} took over {_TOOL_SECONDS} s") from None
    if done.returncode != 0:
        printed = (done.stdout + done.stderr).splitlines()
        raise Missing("\n".join([f"{' '.join(command)} failed: {install}", *printed[-30:]]))
