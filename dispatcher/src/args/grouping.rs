//! The options by which rows become jobs, and what is made of those.

use std::collections::BTreeMap;
use std::str::FromStr;

use clap::builder::TypedValueParser;
use computations::{Registry, positivity};
use pipeline::job::MAX_ROWS_PER_JOB;
use pipeline::{Computation, Grain};

use crate::columns::PayloadColumns;
use crate::error::Error;
use crate::grouping::Grouping;

/// How rows become jobs. The job indexes depend on these and the data set alone.
#[derive(clap::Args, Clone, Debug)]
pub struct GroupingArgs {
    /// Label column; give it more than once for several, or '' to group by time alone. A row whose
    /// labels have more than 32 KiB together is rejected
    #[arg(long, value_name = "COLUMN", default_value = "country")]
    pub by: Vec<String>,

    /// Column with the time of a test; without a zone it is taken for UTC
    #[arg(long, value_name = "COLUMN", default_value = "test_date")]
    pub time: String,

    /// Grain to which the time is truncated
    #[arg(
        long,
        value_name = "GRAIN",
        default_value = "hour",
        value_parser = clap::builder::PossibleValuesParser::new(["hour", "day", "week", "month"])
            .map(|name| name.parse::<Grain>().expect("it is one of the possible values"))
    )]
    pub every: Grain,

    /// What is made of each job: positivity (tests and positive ones) or count (rows)
    #[arg(long, value_name = "NAME", default_value = positivity::DEFINITION.name)]
    pub compute: String,

    /// Parameter of the computation, of one that takes any; may be given several times
    #[arg(long, value_name = "KEY=VALUE")]
    pub param: Vec<Param>,

    /// Column with the result of a test
    #[arg(long, value_name = "COLUMN", default_value = "result")]
    pub result: String,

    /// Value of a positive result
    #[arg(long, value_name = "VALUE", default_value = "positive")]
    pub positive: String,

    /// Value of a negative result
    #[arg(long, value_name = "VALUE", default_value = "negative")]
    pub negative: String,

    /// A group with more rows is cut into parts
    #[arg(
        long,
        value_name = "ROWS",
        default_value_t = 10_000,
        value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_ROWS_PER_JOB))
    )]
    pub max_rows_per_job: u32,
}

/// A parameter of a computation, as a command line has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Param {
    /// Its name.
    pub key: String,
    /// Its value.
    pub value: String,
}

/// A text that is no parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected KEY=VALUE")]
pub struct NotAParam;

impl FromStr for Param {
    type Err = NotAParam;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once('=') {
            Some((key, value)) if !key.is_empty() => Ok(Self {
                key: key.to_owned(),
                value: value.to_owned(),
            }),
            _ => Err(NotAParam),
        }
    }
}

impl GroupingArgs {
    /// The grouping that these arguments ask for, of a program that knows these computations.
    ///
    /// # Errors
    /// When an empty label column stands among others, both results are the same, or the computation or
    /// one of its parameters is not known.
    pub fn grouping(&self, computations: &Registry) -> Result<Grouping, Error> {
        let label_columns = match self.by.as_slice() {
            [only] if only.is_empty() => Vec::new(),
            columns if columns.iter().any(String::is_empty) => return Err(Error::EmptyLabelColumn),
            columns => columns.to_vec(),
        };
        let computation = self.computation(computations)?;
        // What no worker could compute is refused before anything is published.
        computations.check(&computation)?;
        let tabulate = computations.tabulate(&computation)?;
        let results = tabulate.columns().iter().map(|column| column.name);
        let columns: Vec<&str> = results.chain([self.every.column()]).collect();
        for (position, name) in label_columns.iter().enumerate() {
            if columns.contains(&name.as_str()) || label_columns[..position].contains(name) {
                return Err(Error::LabelColumnTaken(name.clone()));
            }
        }
        if self.positive == self.negative {
            return Err(Error::SameValue {
                options: ["--positive", "--negative"],
                value: self.positive.clone(),
            });
        }
        Ok(Grouping {
            label_columns,
            time_column: self.time.clone(),
            grain: self.every,
            computation,
            max_rows_per_job: self.max_rows_per_job,
        })
    }

    /// The computation with its parameters. One that has an option of its own is named like that.
    fn computation(&self, computations: &Registry) -> Result<Computation, Error> {
        let definition = computations.find(&self.compute).ok();
        let is_of_encoding = |name: &str| definition.is_some_and(|own| own.is_of_encoding(name));
        let mut computation = match self.compute == positivity::DEFINITION.name {
            true => positivity::computation(&self.result, &self.positive, &self.negative),
            false => Computation::named(&self.compute),
        };
        for (name, value) in self.parameters()? {
            computation = match is_of_encoding(&name) {
                true => computation.with_encoding(&name, value),
                false => computation.with(&name, value),
            };
        }
        Ok(computation)
    }

    /// The parameters of the computation that have no options of their own.
    fn parameters(&self) -> Result<BTreeMap<String, String>, Error> {
        const OWN_OPTIONS: [&str; 3] = [
            positivity::RESULT,
            positivity::POSITIVE_VALUE,
            positivity::NEGATIVE_VALUE,
        ];
        let is_positivity = self.compute == positivity::DEFINITION.name;
        let mut parameters = BTreeMap::new();
        for Param { key, value } in &self.param {
            if is_positivity && OWN_OPTIONS.contains(&key.as_str()) {
                return Err(Error::ParamWithOption(key.clone()));
            }
            if parameters.insert(key.clone(), value.clone()).is_some() {
                return Err(Error::ParamTwice(key.clone()));
            }
        }
        Ok(parameters)
    }
}

/// The columns that travel with each row of a grouping.
///
/// # Errors
/// When its computation is none of these.
pub fn payload_columns(
    grouping: &Grouping,
    computations: &Registry,
) -> Result<PayloadColumns, Error> {
    let encode = computations.encode(&grouping.computation)?;
    // The option by which the user has come to want the column.
    let option = match grouping.computation.name == positivity::DEFINITION.name {
        true => "--result",
        false => "--compute",
    };
    Ok(PayloadColumns::new(encode.columns().to_vec(), option))
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use computations::{Definition, Parameter, count};

    use super::*;
    use crate::args::Args;
    use crate::args::tests::args;

    #[test]
    fn an_empty_label_column_groups_by_time_alone() {
        let grouping = args(&["--by", ""])
            .config(&Registry::standard())
            .expect("valid")
            .grouping;
        assert_eq!(grouping.label_columns, [""; 0]);
        let several = args(&["--by", "city", "--by", "country"]).config(&Registry::standard());
        let columns = several.expect("valid").grouping.label_columns;
        assert_eq!(columns, ["city", "country"]);
        let mixed = args(&["--by", "", "--by", "country"]).config(&Registry::standard());
        assert!(matches!(mixed, Err(Error::EmptyLabelColumn)));
    }

    #[test]
    fn parameters_go_to_the_computation_and_are_checked_before_anything_is_published() {
        const MEASURES: Definition = Definition {
            name: "measures",
            parameters: const {
                &[
                    Parameter::optional("min_size"),
                    Parameter::optional("column").of_encoding(),
                ]
            },
            ..count::DEFINITION
        };
        let registry = Registry::standard().with(MEASURES);
        let options = |of: &[&str]| args(of).config(&registry).map(|config| config.options);
        let measures = ["--compute", "measures", "--param", "min_size=a=b"];
        let both = [&measures[..], &["--param", "column=c"]].concat();
        let computation = options(&both).expect("it is known").computation;
        assert_eq!(computation.parameter("min_size"), Some("a=b"));
        assert_eq!(computation.parameter("column"), Some("c"));
        assert_eq!(computation.of_jobs().parameter("column"), None);
        let refused = |of: &[&str]| {
            let error = options(of).expect_err("it is refused");
            let cause = std::error::Error::source(&error).map(ToString::to_string);
            format!("{error} {}", cause.unwrap_or_default())
        };
        let twice = [&measures[..], &["--param", "min_size="]].concat();
        let twice = refused(&twice);
        assert!(twice.contains("--param min_size is given twice"), "{twice}");
        let unknown = refused(&["--compute", "measures", "--param", "minsize=3"]);
        assert!(unknown.contains("did you mean min_size?"), "{unknown}");
        let own = refused(&["--param", "result=outcome"]);
        assert!(own.contains("--result"), "{own}");
        for malformed in ["min_size", "=3", ""] {
            let argument = format!("--param={malformed}");
            let fixed = ["dispatcher", "tests.csv", &argument];
            assert!(Args::try_parse_from(fixed).is_err(), "{malformed}");
        }
    }
}
