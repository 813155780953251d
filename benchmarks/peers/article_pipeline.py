"""Positivity by country and hour as the article does it: a dispatcher sends a JSON message for each
group, workers make a pandas data frame of each and send back what they count, all over Kafka.

python article_pipeline.py DATA.csv OUT.csv BOOTSTRAP_SERVERS
"""

import json
import sys

import pandas as pd
from confluent_kafka import Consumer, Producer, TopicPartition

import kafka_run


def dispatch(data: str, cluster: str, topic: str) -> int:
    """Sends a job for each group and returns how many there are."""
    tests = pd.read_csv(data, usecols=["country", "test_date", "result"], parse_dates=["test_date"])
    tests["date_hour"] = tests["test_date"].dt.strftime("%Y-%m-%dT%H:00:00")
    producer = Producer(kafka_run.PRODUCER | {"bootstrap.servers": cluster})
    jobs = 0
    for (country, hour), group in tests.groupby(["country", "date_hour"]):
        job = {"country": country, "date_hour": hour, "results": group["result"].tolist()}
        producer.produce(topic, json.dumps(job), on_delivery=kafka_run.stop_on_error)
        producer.poll(0)
        jobs += 1
    producer.flush()
    return jobs


def work(cluster: str, jobs: str, outcomes: str, group: str) -> None:
    """Counts one job after the other until it is stopped."""
    consumer = Consumer(kafka_run.CONSUMER | {"bootstrap.servers": cluster, "group.id": group})
    producer = Producer(kafka_run.PRODUCER | {"bootstrap.servers": cluster})
    consumer.subscribe([jobs])
    while True:
        messages = consumer.consume(500, timeout=0.1)
        for message in messages:
            job = json.loads(message.value())
            frame = pd.DataFrame({"result": job["results"]})
            positive = int((frame["result"] == "positive").sum())
            outcome = {
                "country": job["country"],
                "date_hour": job["date_hour"],
                "tests": len(frame),
                "positive": positive,
                "rate": positive / len(frame),
            }
            producer.produce(outcomes, json.dumps(outcome), on_delivery=kafka_run.stop_on_error)
            producer.poll(0)
        if messages:
            producer.flush()
            consumer.commit(asynchronous=False)


def collect(cluster: str, topic: str, jobs: int, workers: kafka_run.Workers) -> pd.DataFrame:
    """Reads outcomes until there is one for each job; one that comes twice counts once."""
    consumer = Consumer(kafka_run.CONSUMER | {"bootstrap.servers": cluster, "group.id": topic})
    consumer.assign([TopicPartition(topic, part, 0) for part in range(kafka_run.PARTITIONS)])
    outcomes = {}
    while len(outcomes) < jobs:
        workers.check()
        for message in consumer.consume(1000, timeout=0.1):
            outcome = json.loads(message.value())
            outcomes[outcome["country"], outcome["date_hour"]] = outcome
    consumer.close()
    return pd.DataFrame(outcomes.values()).sort_values(["country", "date_hour"])


def main() -> None:
    if sys.argv[1] == "worker":
        work(*sys.argv[2:])
        return
    data, out, cluster = sys.argv[1:]
    run = kafka_run.fresh_run("article")
    with (
        kafka_run.topics(cluster, run) as (jobs, outcomes),
        kafka_run.Workers(__file__, cluster, jobs, outcomes, run) as workers,
    ):
        sent = dispatch(data, cluster, jobs)
        collect(cluster, outcomes, sent, workers).to_csv(out, index=False)


main()
