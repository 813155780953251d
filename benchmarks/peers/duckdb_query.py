"""Positivity by country and hour with DuckDB: one query with given types, copied to a file.

python duckdb_query.py DATA.csv OUT.csv
"""

import sys

import duckdb

data, out = sys.argv[1:]

COLUMNS = ["patient_name", "city", "country", "birth_date", "test_date", "result"]

duckdb.execute(
    f"""
    COPY (
        SELECT country, hour || ':00:00' AS date_hour, tests, positive, positive / tests AS rate
        FROM (
            -- The hour is the first 13 characters of an ISO 8601 time: none is parsed or formatted.
            SELECT country, left(test_date, 13) AS hour,
                   count(*) AS tests, count(*) FILTER (result = 'positive') AS positive
            FROM read_csv($data, auto_detect = false, header = true, delim = ',', quote = '"',
                          columns = {dict.fromkeys(COLUMNS, "VARCHAR")})
            GROUP BY ALL
        )
        ORDER BY country, date_hour
    ) TO $out (FORMAT csv, HEADER)
    """,
    {"data": data, "out": out},
)
