"""Positivity by country and hour over Kafka, in Python at its best: every step works on whole arrays.

The dispatcher groups with polars and numpy and sends jobs, either many in a message or one. Two worker
processes count them and send back batches of tallies. The dispatcher's process then collects them.

python vectorised_kafka.py DATA.csv OUT.csv BOOTSTRAP_SERVERS packed|one
"""

import sys

import numpy as np
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition

import kafka_run

#: A job in a message: its number, country, hour and count of results. Its results are behind the jobs.
JOB = np.dtype([("index", "<u4"), ("country", "<u2"), ("hour", "<u2"), ("tests", "<u4")])

#: What a worker makes of a job.
OUTCOME = np.dtype([("index", "<u4"), ("tests", "<u4"), ("positive", "<u4")])

#: Jobs in a packed message, which is some 32 KiB then.
PACKED = 2_000

#: Jobs in a message of outcomes, at most about: 600 KB.
OUTCOMES = 50_000


class Jobs:
    """The jobs of a data set as arrays, in the order of the series."""

    def __init__(self, data: str) -> None:
        import polars as pl  # Here, because workers do without it.

        rows = (
            pl.scan_csv(data, infer_schema=False)
            .select(
                country=pl.col("country").cast(pl.Categorical),
                hour=pl.col("test_date").str.head(13).cast(pl.Categorical),
                positive=pl.col("result") == "positive",
            )
            .collect(engine="streaming")
        )
        self.countries, country = _ranked(rows["country"])
        self.hours, hour = _ranked(rows["hour"])
        group = country * np.uint32(len(self.hours)) + hour
        order = np.argsort(group, kind="stable")
        group = group[order]
        self.results = rows["positive"].to_numpy().view(np.uint8)[order]
        self.starts = np.flatnonzero(np.diff(group, prepend=~group[:1]))
        self.table = np.empty(len(self.starts), JOB)
        self.table["index"] = np.arange(len(self.starts))
        self.table["country"], self.table["hour"] = divmod(group[self.starts], len(self.hours))
        self.table["tests"] = np.diff(self.starts, append=len(group))

    def messages(self, jobs_each: int):
        """The jobs as messages: a header of four bytes, the jobs, their results."""
        table, results = self.table.tobytes(), self.results.tobytes()
        ends = np.append(self.starts, len(results)).tolist()
        for first in range(0, len(self.table), jobs_each):
            past = min(first + jobs_each, len(self.table))
            yield b"".join(
                (
                    (past - first).to_bytes(4, "little"),
                    table[first * JOB.itemsize : past * JOB.itemsize],
                    results[ends[first] : ends[past]],
                )
            )

    def write(self, outcomes: np.ndarray, out: str) -> None:
        """Writes the series; `outcomes` are in the order of jobs."""
        import polars as pl

        hours = pl.Series(self.hours) + ":00:00"
        pl.DataFrame(
            {
                "country": pl.Series(self.countries).gather(self.table["country"]),
                "date_hour": hours.gather(self.table["hour"]),
                "tests": outcomes["tests"],
                "positive": outcomes["positive"],
                "rate": outcomes["positive"] / outcomes["tests"],
            }
        ).write_csv(out)


def _ranked(column):
    """The labels of a column in order, and for each row the place of its own."""
    labels = column.unique()
    names = labels.cast(str).to_numpy()
    order = np.argsort(names)
    codes = labels.to_physical().to_numpy()[order]
    place = np.empty(codes.max() + 1, np.uint32)
    place[codes] = np.arange(len(codes))
    return names[order], place[column.to_physical().to_numpy()]


def dispatch(producer: Producer, topic: str, jobs: Jobs, jobs_each: int) -> None:
    batch, partition = [], 0

    def send() -> None:
        nonlocal batch, partition
        producer.produce_batch(topic, batch, partition=partition, on_delivery=kafka_run.stop_on_error)
        producer.poll(0)
        batch, partition = [], (partition + 1) % kafka_run.PARTITIONS

    for message in jobs.messages(jobs_each):
        batch.append({"value": message})
        if jobs_each > 1 or len(batch) == 500:
            send()
    if batch:
        send()


def count(messages: list[bytes]) -> bytes:
    """Counts the jobs of several messages; returns the outcomes as a message."""
    tables, results = [], []
    for message in messages:
        end = 4 + int.from_bytes(message[:4], "little") * JOB.itemsize
        tables.append(message[4:end])
        results.append(message[end:])
    jobs = np.frombuffer(b"".join(tables), JOB)
    positive = np.frombuffer(b"".join(results), np.uint8)
    outcomes = np.empty(len(jobs), OUTCOME)
    outcomes["index"] = jobs["index"]
    outcomes["tests"] = jobs["tests"]
    starts = np.cumsum(jobs["tests"], dtype=np.int64) - jobs["tests"]
    outcomes["positive"] = np.add.reduceat(positive, starts, dtype=np.uint32)
    return outcomes.tobytes()


def work(cluster: str, jobs: str, outcomes: str, group: str, jobs_each: str) -> None:
    """Counts until it is stopped: at least once, for an offset is committed behind its outcomes."""
    producer = Producer(kafka_run.PRODUCER | {"bootstrap.servers": cluster})
    consumer = Consumer(kafka_run.CONSUMER | {"bootstrap.servers": cluster, "group.id": group})
    consumer.subscribe([jobs])
    while True:
        messages = consumer.consume(OUTCOMES // int(jobs_each), timeout=0.02)
        if not messages:
            continue
        for message in messages:
            if message.error():
                raise KafkaException(message.error())
        counted = count([message.value() for message in messages])
        producer.produce(outcomes, counted, on_delivery=kafka_run.stop_on_error)
        producer.flush()
        consumer.commit(asynchronous=True)


def collect(cluster: str, topic: str, jobs: int, workers: kafka_run.Workers) -> np.ndarray:
    """Reads outcomes until there is one for each job; one that comes twice counts once."""
    consumer = Consumer(kafka_run.CONSUMER | {"bootstrap.servers": cluster, "group.id": topic})
    consumer.assign([TopicPartition(topic, part, 0) for part in range(kafka_run.PARTITIONS)])
    ledger = np.zeros(jobs, OUTCOME)
    missing = jobs
    while missing:
        workers.check()
        for message in consumer.consume(100, timeout=0.01):
            if message.error():
                raise KafkaException(message.error())
            outcomes = np.frombuffer(message.value(), OUTCOME)
            index = outcomes["index"]
            missing -= int(np.count_nonzero(ledger["tests"][index] == 0))
            ledger[index] = outcomes
    consumer.close()
    return ledger


def main() -> None:
    if sys.argv[1] == "worker":
        work(*sys.argv[2:])
        return
    data, out, cluster, packing = sys.argv[1:]
    jobs_each = {"packed": PACKED, "one": 1}[packing]
    run = kafka_run.fresh_run("vectorised")
    with (
        kafka_run.topics(cluster, run) as (jobs_topic, outcomes_topic),
        kafka_run.Workers(__file__, cluster, jobs_topic, outcomes_topic, run, str(jobs_each)) as workers,
    ):
        # Asks for its id while the file is read.
        producer = Producer(kafka_run.PRODUCER | {"bootstrap.servers": cluster})
        jobs = Jobs(data)
        dispatch(producer, jobs_topic, jobs, jobs_each)
        producer.flush()
        outcomes = collect(cluster, outcomes_topic, len(jobs.table), workers)
        jobs.write(outcomes, out)


main()
