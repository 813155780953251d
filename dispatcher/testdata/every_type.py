"""Writes every_type.parquet: the same five rows in every type that a label, a time or a result may have.

    pip install pyarrow numpy && python every_type.py

It is kept as a file because polars, as it is built here, writes none of the categories, zones and
small integers that other tools write.
"""

import datetime
import decimal

import numpy
import pyarrow
import pyarrow.parquet

countries = ["Italy", "", "Zaire", None, "Italy"]
times = [
    datetime.datetime(2020, 7, 14, 9, 23, 51, 500_000),
    datetime.datetime(1969, 12, 31, 23, 59, 58, 500_000),
    datetime.datetime(1970, 1, 1),
    datetime.datetime(2020, 2, 29, 23, 59, 59),
    None,
]
days = [time and time.date() for time in times]
results = ["positive", "negative", "positive", "negative", "positive"]
numbers = numpy.array([1, 0, 1, 0, 1])

columns = {
    "label_text": pyarrow.array(countries),
    "label_category": pyarrow.array(countries).dictionary_encode(),
    "label_binary": pyarrow.array([b"Italy", b"", b"Zaire", None, b"Cura\xe7ao"]),
    "label_int": pyarrow.array([1, -2, 3, None, 1]),
    "label_int_category": pyarrow.array([1, -2, 3, None, 1]).dictionary_encode(),
    "label_uint64": pyarrow.array([1, 2, 3, None, 1], pyarrow.uint64()),
    "label_bool": pyarrow.array([True, False, True, None, True]),
    "label_date": pyarrow.array(days),
    "label_nothing": pyarrow.nulls(5),
    "label_uint8": pyarrow.array(numbers.astype("uint8")),
    "label_float": pyarrow.array(numbers.astype("float64")),
    "label_timestamp": pyarrow.array(times, pyarrow.timestamp("us")),
    "label_list": pyarrow.array([["a"]] * 5),
    "label_struct": pyarrow.array([{"a": 1}] * 5),
    "label_decimal": pyarrow.array([decimal.Decimal("1.20")] * 5),
    "time_date": pyarrow.array(days, pyarrow.date32()),
    "time_text": pyarrow.array([time and time.isoformat() for time in times]),
    "time_int": pyarrow.array([time and int((time - times[2]).total_seconds() // 1) for time in times]),
    "time_float": pyarrow.array([time and (time - times[2]).total_seconds() for time in times]),
    "time_of_day": pyarrow.array([time and time.time() for time in times]),
    "time_bool": pyarrow.array([True, False, True, None, True]),
    "result_text": pyarrow.array(results),
    "result_category": pyarrow.array(results).dictionary_encode(),
    "result_binary": pyarrow.array([result.encode() for result in results]),
    "result_int": pyarrow.array(numbers.astype("int8")),
    "result_bool": pyarrow.array(numbers.astype("bool")),
    "result_float": pyarrow.array(numbers.astype("float32")),
    "result_date": pyarrow.array(days),
}
for unit in ["ms", "us", "ns"]:
    for name, zone in [("naive", None), ("utc", "UTC"), ("rome", "Europe/Rome")]:
        # With a zone the numbers are those of UTC, whatever the zone.
        columns[f"time_{unit}_{name}"] = pyarrow.array(times, pyarrow.timestamp("us", zone)).cast(pyarrow.timestamp(unit, zone), safe=False)

pyarrow.parquet.write_table(
    pyarrow.table(columns), "every_type.parquet", compression="none", write_statistics=False
)
