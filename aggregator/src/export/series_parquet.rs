//! The exporter of `series.parquet`: the lines of `series.csv` as typed columns, for polars, pandas,
//! DuckDB or Spark. An empty cell of the CSV is a null.

use std::collections::HashSet;
use std::io::{self, Write};

use computations::positivity::SeriesRow;
use pipeline::Grain;
use polars::prelude::*;

use super::{Exporter, Table};

const MILLISECONDS_PER_SECOND: i64 = 1_000;

/// The exporter of a series as Parquet.
///
/// Columns: labels as strings; `date_hour` as milliseconds in UTC without a time zone, or `date_day`,
/// `date_week`, `date_month` as dates; `tests` and `positive` as unsigned 64-bit integers and `rate` as
/// a 64-bit float. In a group without a completed job the last three are null.
#[derive(Clone, Copy, Debug)]
pub struct SeriesParquet<'a>(pub Table<'a>);

impl Exporter for SeriesParquet<'_> {
    fn file_name(&self) -> String {
        self.0.file_name("parquet")
    }

    fn export(&mut self, out: &mut dyn Write) -> io::Result<()> {
        let mut frame = frame(&self.0).map_err(io::Error::other)?;
        let writer = ParquetWriter::new(out);
        writer.finish(&mut frame).map_err(io::Error::other)?;
        Ok(())
    }
}

fn frame(table: &Table<'_>) -> PolarsResult<DataFrame> {
    let rows = &table.series.rows;
    let mut names = column_names(table).into_iter().map(PlSmallStr::from_string);
    let mut name = || names.next().unwrap_or_default();
    let mut columns = Vec::with_capacity(table.label_columns.len() + 4);
    for position in 0..table.label_columns.len() {
        let values = rows.iter().map(|row| {
            let labels = &table.series.label_sets[row.label_set as usize];
            labels.values[position].as_str()
        });
        columns.push(StringChunked::from_iter_values(name(), values).into_column());
    }
    columns.push(time_column(name(), rows, table.grain));
    let known = |row: &SeriesRow, value: u64| (row.tests > 0).then_some(value);
    let tests = rows.iter().map(|row| known(row, row.tests));
    columns.push(UInt64Chunked::from_iter_options(name(), tests).into_column());
    let positive = rows.iter().map(|row| known(row, row.positive));
    columns.push(UInt64Chunked::from_iter_options(name(), positive).into_column());
    let rates = rows.iter().map(SeriesRow::rate);
    columns.push(Float64Chunked::from_iter_options(name(), rates).into_column());
    DataFrame::new(rows.len(), columns)
}

fn time_column(name: PlSmallStr, rows: &[SeriesRow], grain: Grain) -> Column {
    match grain {
        Grain::Hour => {
            let times = rows
                .iter()
                .map(|row| row.time().seconds() * MILLISECONDS_PER_SECOND);
            Int64Chunked::from_iter_values(name, times)
                .into_datetime(TimeUnit::Milliseconds, None)
                .into_column()
        }
        Grain::Day | Grain::Week | Grain::Month => {
            let days = rows.iter().map(|row| row.hours.div_euclid(24));
            Int32Chunked::from_iter_values(name, days)
                .into_date()
                .into_column()
        }
    }
}

/// The names of the columns. They are those of `series.csv`, except that a label column with the name
/// of another column gets a number, because Parquet does not allow two columns of one name.
fn column_names(table: &Table<'_>) -> Vec<String> {
    let fixed = [table.grain.column(), "tests", "positive", "rate"];
    let mut taken: HashSet<String> = fixed.map(str::to_owned).into();
    let mut names = Vec::with_capacity(table.label_columns.len() + fixed.len());
    for column in table.label_columns {
        let mut name = column.clone();
        let mut number = 1;
        while !taken.insert(name.clone()) {
            number += 1;
            name = format!("{column}_{number}");
        }
        names.push(name);
    }
    names.extend(fixed.map(str::to_owned));
    names
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use computations::positivity::Series;

    use super::super::SeriesCsv;
    use super::super::test_series::{columns, row, series};
    use super::*;

    fn table<'a>(series: &'a Series, label_columns: &'a [String], grain: Grain) -> Table<'a> {
        Table {
            series,
            label_columns,
            grain,
            added: false,
        }
    }

    fn bytes(mut exporter: impl Exporter) -> Vec<u8> {
        let mut bytes = Vec::new();
        exporter.export(&mut bytes).expect("a vector takes all");
        bytes
    }

    fn read_back(table: Table<'_>) -> DataFrame {
        let bytes = bytes(SeriesParquet(table));
        ParquetReader::new(Cursor::new(bytes))
            .finish()
            .expect("Parquet")
    }

    /// The frame as the text of `series.csv`.
    fn as_csv(frame: &DataFrame) -> String {
        let mut writer = csv::Writer::from_writer(Vec::new());
        let names = frame.get_column_names();
        writer
            .write_record(names.iter().map(|name| name.as_str()))
            .expect("written");
        for number in 0..frame.height() {
            let values = frame.get(number).expect("a row");
            let fields = values.iter().map(|value| match value {
                AnyValue::Null => String::new(),
                AnyValue::String(text) => (*text).to_owned(),
                AnyValue::UInt64(number) => number.to_string(),
                AnyValue::Float64(number) => number.to_string(),
                AnyValue::Date(days) => shown(i64::from(*days) * 24, Grain::Day),
                AnyValue::Datetime(milliseconds, TimeUnit::Milliseconds, None) => {
                    shown(milliseconds / 3_600_000, Grain::Hour)
                }
                other => panic!("no column of a series is of {}", other.dtype()),
            });
            writer.write_record(fields).expect("written");
        }
        String::from_utf8(writer.into_inner().expect("flushed")).expect("UTF-8")
    }

    fn shown(hours: i64, grain: Grain) -> String {
        row(0, hours, 0, 0).time().display(grain).to_string()
    }

    #[test]
    fn the_columns_read_back_are_those_of_the_csv_at_every_grain() {
        let label_columns = columns(&["country"]);
        let mut rows = Vec::new();
        for label_set in 0..3u32 {
            // From before 1970 to after it, and one group in five without a counted job.
            let hours = (-9_000..9_000).step_by(37);
            rows.extend(hours.map(|hour| row(label_set, hour, hour.rem_euclid(5) as u64, 1)));
        }
        for row in rows.iter_mut().filter(|row| row.tests == 0) {
            row.positive = 0;
        }
        let by_hour = series(&["", "Korea, \"South\"", "Åland"], rows);
        for grain in Grain::ALL {
            let series = by_hour.coarsened(grain);
            let table = table(&series, &label_columns, grain);
            let text = bytes(SeriesCsv::new(table));
            assert_eq!(
                as_csv(&read_back(table)),
                String::from_utf8(text).expect("UTF-8"),
                "{grain}"
            );
        }
    }

    #[test]
    fn columns_have_their_documented_types() {
        let label_columns = columns(&["country"]);
        let series = series(&["Italy"], vec![row(0, 24, 0, 0), row(0, 48, 4, 1)]);
        let hour = read_back(table(&series, &label_columns, Grain::Hour));
        assert_eq!(
            hour.dtypes(),
            [
                DataType::String,
                DataType::Datetime(TimeUnit::Milliseconds, None),
                DataType::UInt64,
                DataType::UInt64,
                DataType::Float64
            ]
        );
        for name in ["tests", "positive", "rate"] {
            assert_eq!(hour.column(name).expect("it is there").null_count(), 1);
        }
        let day = read_back(table(&series, &label_columns, Grain::Day));
        assert_eq!(
            day.column("date_day").expect("it is there").dtype(),
            &DataType::Date
        );
    }

    #[test]
    fn a_series_without_labels_or_without_rows_is_written() {
        let nothing = Series::default();
        assert_eq!(read_back(table(&nothing, &[], Grain::Day)).shape(), (0, 4));
        let one = Series {
            label_sets: vec![pipeline::LabelSet::default()],
            rows: vec![row(0, 24, 2, 1)],
        };
        assert_eq!(
            as_csv(&read_back(table(&one, &[], Grain::Month))),
            "date_month,tests,positive,rate\n1970-01-02,2,1,0.5\n"
        );
    }

    #[test]
    fn a_label_column_with_the_name_of_another_column_gets_a_number() {
        let label_columns = columns(&["rate", "city", "city", "rate_2"]);
        let nothing = Series::default();
        assert_eq!(
            column_names(&table(&nothing, &label_columns, Grain::Day)),
            [
                "rate_2", "city", "city_2", "rate_2_2", "date_day", "tests", "positive", "rate"
            ]
        );
    }

    #[test]
    fn the_same_series_makes_the_same_bytes() {
        let label_columns = columns(&["country"]);
        let rows = (0..5_000)
            .map(|hour| row(0, hour, 3, hour as u64 % 3))
            .collect();
        let series = series(&["Italy"], rows);
        let table = table(&series, &label_columns, Grain::Hour);
        assert_eq!(bytes(SeriesParquet(table)), bytes(SeriesParquet(table)));
    }
}
