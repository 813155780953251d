"""Positivity by country and hour with DuckDB: one query with given types, copied to a file.

python duckdb_query.py DATA.csv OUT.csv [any-order]
"""

import sys

import duckdb

data, out, *order = sys.argv[1:]

COLUMNS = {
    "patient_name": "VARCHAR",
    "city": "VARCHAR",
    "country": "VARCHAR",
    "birth_date": "VARCHAR",
    "test_date": "TIMESTAMP",
    "result": "VARCHAR",
}

duckdb.execute(
    f"""
    COPY (
        SELECT country, date_trunc('hour', test_date) AS date_hour,
               count(*) AS tests, count(*) FILTER (result = 'positive') AS positive,
               positive / tests AS rate
        FROM read_csv($data, auto_detect = false, header = true, delim = ',', quote = '"',
                      columns = {COLUMNS})
        GROUP BY ALL
        {"" if order else "ORDER BY country, date_hour"}
    ) TO $out (FORMAT csv, HEADER)
    """,
    {"data": data, "out": out},
)
