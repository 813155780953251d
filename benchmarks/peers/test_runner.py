"""What the runner decides, without programs, broker or network: python3 -m unittest (in this folder)."""

import argparse
import contextlib
import csv
import hashlib
import io
import sys
import tempfile
import unittest
from pathlib import Path

from runner import data, figures, process, rows, series, table, variants

RECORDS = b"""\
country,date_hour,tests,positive,rate
"Bonaire, Saba",2020-03-01T00:00:00,3,1,0.3333333333333333
Italy,2020-03-01T00:00:00,1,0,0
Italy,2020-03-01T13:00:00,2,1,0.5
"""

PLAIN = RECORDS.replace(b'"Bonaire, Saba"', b"Bonaire")


def digest(text: bytes) -> str:
    return hashlib.sha256(b"".join(series.canonical_lines(text))).hexdigest()


class TheCanonicalSeries(unittest.TestCase):
    def test_has_the_digest_that_rollcall_gives_its_lines_without_header_and_rate(self):
        # tail -n +2 series.csv | sed 's/,[^,]*$//' | sha256sum, as the README has it.
        for text in (RECORDS, PLAIN):
            lines = text.splitlines(keepends=True)[1:]
            cut = b"".join(line.rpartition(b",")[0] + b"\n" for line in lines)
            self.assertEqual(digest(text), hashlib.sha256(cut).hexdigest())

    def test_is_the_same_however_a_library_writes_times_and_rates_and_orders_lines(self):
        for text in (RECORDS, PLAIN):
            with_blank = text.replace(b"T00:00:00", b" 00:00:00").replace(b"T13:00:00", b" 13:00:00")
            with_fraction = text.replace(b":00,", b":00.000000,")
            of_floats = text.replace(b",0\n", b",0.0\n")
            head, *lines = text.splitlines(keepends=True)
            backwards = head + b"".join(reversed(lines))
            for other in (with_blank, with_fraction, of_floats, backwards):
                self.assertNotEqual(other, text)
                self.assertEqual(digest(other), digest(text))

    def test_is_another_one_when_any_count_label_or_hour_is(self):
        for text in (RECORDS, PLAIN):
            for old, new in ((b",2,1,", b",2,2,"), (b"Italy", b"Malta"), (b"T13", b"T14")):
                self.assertNotEqual(digest(text.replace(old, new, 1)), digest(text))
            *lines, _ = text.splitlines(keepends=True)
            self.assertNotEqual(digest(b"".join(lines)), digest(text))

    def test_sorts_countries_as_bytes_also_where_one_begins_another(self):
        lines = [b"Niger,2020-03-01T00:00:00,1,0,0\n", b"Niger A,2020-03-01T00:00:00,1,0,0\n"]
        head = RECORDS.splitlines(keepends=True)[0]
        expected = [line.rpartition(b",")[0] + b"\n" for line in lines]
        self.assertEqual(series.canonical_lines(head + lines[1] + lines[0]), expected)

    def test_is_refused_of_what_is_no_series(self):
        italy = b"Italy,2020-03-01T00:00:00,1,0,0\n"
        for text, why in (
            (PLAIN.replace(b"tests", b"count", 1), "first line"),
            (PLAIN[:-1], "cut short"),
            (PLAIN.replace(b":00:00,1", b":30:00,1"), "not country, hour"),
            (PLAIN + b"Italy,2020-03-01T14:00:00,1,0\n", "4 fields"),
            (PLAIN + b"Italy,2020-03-01T14:00:00,-1,0,0\n", "not country, hour"),
            (PLAIN + italy, "twice"),
            (RECORDS + italy, "twice"),
        ):
            with self.assertRaisesRegex(series.NotASeries, why):
                series.canonical_lines(text)


class Figures(unittest.TestCase):
    def test_are_medians_that_one_slow_run_does_not_move(self):
        expected = figures.Spread(median=3, mad=1, least=1, greatest=100, runs=5)
        self.assertEqual(figures.spread([100, 2, 1, 3, 4]), expected)

    def test_of_nothing_are_none(self):
        self.assertIsNone(figures.spread([]))

    def test_are_compared_with_the_faster_one_of_the_queries_that_ran(self):
        self.assertEqual(figures.base_of({"polars": 0.9, "duckdb": 0.8, "rollcall": 0.7}), "duckdb")
        self.assertEqual(figures.base_of({"polars": 0.9, "rollcall": 0.7}), "polars")
        self.assertIsNone(figures.base_of({"rollcall": 0.7}))

    def test_come_from_rounds_of_which_every_second_goes_backwards(self):
        names = ["a", "b", "c"]
        orders = [figures.order_of(names, number) for number in (1, 2, 3)]
        self.assertEqual(orders, [["c", "b", "a"], names, ["c", "b", "a"]])
        self.assertEqual(names, ["a", "b", "c"])


class TheTable(unittest.TestCase):
    def one(self, row, wall, measured=True, peak=None):
        return {
            "row": row,
            "round": 1,
            "measured": measured,
            "wall_seconds": wall,
            "cpu_seconds": wall / 2,
            "peak_bytes": peak,
            "load": None,
        }

    def test_leaves_warm_up_out_of_the_figures_but_takes_its_memory(self):
        runs = [self.one("polars", 9.0, measured=False, peak=1 << 20), self.one("polars", 1.0)]
        (row,) = table.rows_json(rows.chosen("polars"), runs)
        self.assertEqual(row["wall_seconds"]["median"], 1.0)
        self.assertEqual(row["cpu_seconds"]["median"], 0.5)
        self.assertEqual(row["peak_bytes"], 1 << 20)

    def test_scales_what_ran_on_a_part_and_keeps_what_was_measured(self):
        runs = [self.one("article-pipeline", 10.0), self.one("polars", 2.0)]
        _, article = table.rows_json(rows.chosen("polars,article-pipeline"), runs)
        self.assertEqual(article["wall_seconds"]["median"], 50.0)
        self.assertEqual(article["ratio"], 25.0)
        self.assertEqual(article["runs"][0]["wall_seconds"], 10.0)

    def test_has_no_ratio_without_polars_and_duckdb_and_no_figures_without_runs(self):
        rollcall, loop = table.rows_json(
            rows.chosen("rollcall,pandas-loop"), [self.one("rollcall", 1.0)]
        )
        self.assertIsNone(rollcall["ratio"])
        self.assertIsNone(loop["wall_seconds"])
        self.assertIsNone(loop["ratio"])


class Rows(unittest.TestCase):
    def test_are_chosen_by_name_and_set_once_each_in_the_order_of_the_table(self):
        names = [row.name for row in rows.chosen("kafka_streams,duckdb,polars,duckdb")]
        self.assertEqual(names, ["polars", "duckdb", "kafka-streams"])
        everything = [row.name for row in rows.chosen("fast,all")]
        self.assertEqual(everything, [row.name for row in rows.ROWS])

    def test_of_the_fast_set_are_rollcalls_and_the_queries(self):
        others = {row.name for row in rows.chosen("fast") if not row.is_rollcall}
        self.assertEqual(others, {"polars", "duckdb"})

    def test_of_the_kafka_set_all_need_a_broker_and_none_is_slow_or_extra(self):
        chosen = rows.chosen("kafka")
        self.assertTrue(all(row.needs_broker for row in chosen))
        self.assertFalse(any(row.slow or row.extra for row in chosen))

    def test_that_are_extra_are_in_the_set_of_all_alone(self):
        extra = {row.name for row in rows.ROWS if row.extra}
        self.assertIn("kafka-streams-by-row", extra)
        for name, members in rows.SETS.items():
            self.assertEqual(extra & set(members), extra if name == "all" else set())

    def test_that_are_not_there_are_named_with_those_that_are(self):
        with self.assertRaisesRegex(rows.Unknown, "'spark'.*polars"):
            rows.chosen("polars,spark")


class RollcallBesideItself(unittest.TestCase):
    ROWS = variants.chosen(empty=True, tenfold=True)

    def runs(self, seconds):
        """A warm-up and a measured run of each row, on either broker the same."""
        runs = []
        for row in self.ROWS:
            for number in (0, 1):
                report = {
                    "status": "complete",
                    "tests": 200 if row.what == variants.TENFOLD else 20,
                    "positive": 0 if row.what == variants.EMPTY else 3,
                    "jobs": {"counted": 7},
                    "manifest": {"job_set_digest": "ab"},
                    "stages": [{"stage": "read", "seconds": 0.25}, {"stage": "group", "seconds": 0.5}],
                    "first_job_seconds": 1.0,
                    "processes": [{"name": "rollcall", "peak_resident_bytes": 5 + number}],
                }
                runs.append(
                    {"row": row.name, "measured": number > 0, "wall_seconds": seconds[row.what]}
                    | variants.of_report(report)
                )
        return runs

    def test_has_the_plain_run_beside_the_empty_one_and_ten_times_the_rows_beside_once(self):
        runs = self.runs({variants.PLAIN: 3.0, variants.EMPTY: 2.0, variants.TENFOLD: 12.0})
        variants.check(self.ROWS, runs)
        measured = variants.rows_json(self.ROWS, runs)
        self.assertEqual([row["ratio"] for row in measured], [None, 1.5, 4.0] * 2)
        self.assertEqual(measured[0]["start_seconds"]["median"], 0.25)
        self.assertEqual(measured[0]["peak_bytes"], {"rollcall": 6})
        self.assertEqual(measured[0]["wall_seconds"]["runs"], 1)

    def test_is_refused_when_a_run_has_other_jobs_or_the_empty_one_computes(self):
        for row, field, value in [
            (0, "tests", 21),
            (0, "status", "incomplete"),
            (1, "job_set_digest", "cd"),
            (1, "positive", 3),
            (0, "positive", 0),
        ]:
            runs = self.runs(dict.fromkeys([variants.PLAIN, variants.EMPTY, variants.TENFOLD], 1.0))
            name = self.ROWS[row].name
            for run in runs:
                run[field] = value if run["row"] == name and run["measured"] else run[field]
            with self.assertRaises(variants.Differs):
                variants.check(self.ROWS, runs)


class ThePartOfADataSet(unittest.TestCase):
    def test_has_whole_days_and_the_same_header(self):
        with tempfile.TemporaryDirectory() as folder:
            whole = Path(folder) / "d.csv"
            with whole.open("w", newline="") as out:
                writer = csv.writer(out, lineterminator="\n")
                writer.writerow(["city", "test_date", "result"])
                for day in range(1, 11):
                    for hour in (0, 23):
                        writer.writerow(["a, b", f"2020-03-{day:02}T{hour:02}:59:59", "positive"])
            part = data.every_day(whole, 5, Path(folder))
            with part.open(newline="") as content:
                header, *records = csv.reader(content)
        self.assertEqual(header, ["city", "test_date", "result"])
        days = [int(record[1][8:10]) for record in records]
        self.assertEqual([days[0], days[1], days[2], days[3]], [days[0]] * 2 + [days[0] + 5] * 2)
        self.assertEqual(len(days), 4)


class AProcess(unittest.TestCase):
    def run_python(self, program: str, timeout: float = 60, look: bool = False) -> process.Taken:
        with tempfile.TemporaryDirectory() as folder:
            log = Path(folder) / "log"
            return process.run([sys.executable, "-c", program], log, timeout, look)

    def test_has_the_cpu_seconds_of_its_children_too(self):
        burn = "import time\nwhile time.process_time() < 0.3: pass"
        taken = self.run_python(
            f"import subprocess, sys; subprocess.run([sys.executable, '-c', {burn!r}])"
        )
        self.assertGreaterEqual(taken.cpu_seconds, 0.3)

    @unittest.skipUnless(sys.platform == "linux", "memory is looked at in /proc")
    def test_has_the_peak_memory_of_its_children_too_when_it_is_looked_at(self):
        child = "import time; held = b'x' * 50_000_000; time.sleep(1)"
        program = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
        taken = self.run_python(program, look=True)
        self.assertGreater(taken.peak_bytes or 0, 50_000_000)
        self.assertIsNone(self.run_python("pass").peak_bytes)

    def test_that_fails_is_told_with_what_it_printed(self):
        with self.assertRaisesRegex(process.Failed, r"ended with 3\nout of luck"):
            self.run_python("print('out of luck', flush=True); raise SystemExit(3)")

    def test_that_takes_too_long_is_ended(self):
        with self.assertRaisesRegex(process.Failed, "took over 1 s"):
            self.run_python("import time; time.sleep(600)", timeout=1)


class Arguments(unittest.TestCase):
    def test_that_make_no_benchmark_are_refused(self):
        import run

        for parse, text in ((run.positive, "0"), (run.natural, "-1"), (run.chosen, "spark")):
            with self.assertRaises(argparse.ArgumentTypeError):
                parse(text)

    def test_default_to_the_fast_set(self):
        import run

        before, sys.argv = sys.argv, ["run.py"]
        try:
            with contextlib.redirect_stderr(io.StringIO()):
                args = run.arguments()
        finally:
            sys.argv = before
        self.assertEqual([row.name for row in args.set], rows.SETS["fast"])


if __name__ == "__main__":
    unittest.main()
