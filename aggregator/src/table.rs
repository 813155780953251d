//! Which table a run leaves: the series of positivity, in all its forms, or the rows of another
//! computation.

use computations::Tabulate;
use computations::positivity::{self, Series};
use pipeline::ledger::SpillError;
use pipeline::{Grain, Ledger, RunOptions};

use crate::args::Config;
use crate::error::Error;

/// The table that is made of a run's results.
pub struct Tabulation {
    /// The computation's part.
    pub tabulate: Box<dyn Tabulate>,
    /// The grain of the series; `None` when the run leaves a table.
    pub series_grain: Option<Grain>,
}

impl Tabulation {
    /// What a run of these options leaves, as far as this aggregator was asked for it.
    ///
    /// # Errors
    /// When the computation is not known, can do nothing with its parameters, or what is to be
    /// written cannot be made of it.
    pub fn new(config: &Config, options: &RunOptions) -> Result<Self, Error> {
        let tabulate = config.computations.tabulate(&options.computation)?;
        let series_grain = series_grain(options);
        match series_grain {
            Some(grain) => config.outputs.check(grain)?,
            None if config.outputs.grains().is_empty() => {}
            None => {
                return Err(Error::GrainOutOfTable {
                    computation: options.computation.name.clone(),
                });
            }
        }
        Ok(Self {
            tabulate,
            series_grain,
        })
    }

    /// The series of the outcomes; `None` when the run leaves a table, or nothing is known.
    ///
    /// # Errors
    /// When spilled results cannot be read back.
    pub fn series(&self, ledger: Option<&Ledger>) -> Result<Option<Series>, SpillError> {
        let of_run = self.series_grain.map(|_| match ledger {
            Some(ledger) => Series::of(ledger),
            None => Ok(Series::default()),
        });
        of_run.transpose()
    }
}

fn series_grain(options: &RunOptions) -> Option<Grain> {
    let is_positivity = options.computation.name == positivity::DEFINITION.name;
    options.cut.grain().filter(|_| is_positivity)
}
