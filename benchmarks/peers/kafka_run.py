"""What the two Python peers on Kafka share: topics of their own, and worker processes."""

import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

from confluent_kafka.admin import AdminClient, NewTopic

#: Worker processes.
WORKERS = 2

#: Of each topic: some for each worker.
PARTITIONS = 8


@contextmanager
def topics(cluster: str, run: str) -> Iterator[tuple[str, str]]:
    """The topics of jobs and outcomes, made for this run and removed after it."""
    admin = AdminClient({"bootstrap.servers": cluster})
    names = (f"{run}-jobs", f"{run}-outcomes")
    made = admin.create_topics([NewTopic(name, PARTITIONS, 1) for name in names])
    for future in made.values():
        future.result()
    try:
        yield names
    finally:
        for future in admin.delete_topics(list(names)).values():
            future.result()


class Workers:
    """Worker processes, stopped when the run is over: what they did is committed by then."""

    def __init__(self, program: str, *arguments: str) -> None:
        command = [sys.executable, program, "worker", *arguments]
        self._processes = [subprocess.Popen(command) for _ in range(WORKERS)]

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            process.wait()

    def check(self) -> None:
        """Ends the run when a worker has ended, instead of waiting for what it does not do."""
        if any(process.poll() is not None for process in self._processes):
            raise RuntimeError("a worker has ended")


def fresh_run(name: str) -> str:
    """A name for topics and group that no other run has."""
    return f"peers-{name}-{uuid.uuid4()}"


def stop_on_error(error: object, message: object) -> None:
    """A delivery report that ends the process when a message was not delivered."""
    if error is not None:
        raise RuntimeError(f"not delivered: {error}")


#: Both clients retry at once what a new topic answers at first, where librdkafka waits half a second.
CLIENT = {"retry.backoff.ms": 5, "retry.backoff.max.ms": 50}

CONSUMER = CLIENT | {
    "auto.offset.reset": "earliest",
    "enable.auto.commit": False,
    "fetch.error.backoff.ms": 5,
    "fetch.queue.backoff.ms": 5,
    "fetch.wait.max.ms": 20,
    "heartbeat.interval.ms": 300,
}

PRODUCER = CLIENT | {
    "acks": "all",
    "linger.ms": 5,
    "batch.size": 1_000_000,
    "queue.buffering.max.messages": 0,
    "queue.buffering.max.kbytes": 1_000_000,
}
