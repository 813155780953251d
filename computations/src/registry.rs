//! The computations that a program knows, by name: one line each.

use pipeline::Computation;
use pipeline::computation::MAX_COMPUTATION_BYTES;

use crate::{Compute, Encode, Tabulate, count, positivity};

/// Names this much alike are taken for a slip of the pen.
const LIKELY: f64 = 0.7;

/// A computation that a program knows. Each function is given the run's parameters, of which all
/// that are required are there and all are known.
#[derive(Clone, Copy, Debug)]
pub struct Definition {
    /// The name by which runs ask for it.
    pub name: &'static str,
    /// The parameters that it takes.
    pub parameters: &'static [Parameter],
    /// What a dispatcher does.
    pub encode: fn(&Computation) -> Result<Box<dyn Encode>, ParameterError>,
    /// What a worker does.
    pub compute: fn(&Computation) -> Result<Box<dyn Compute>, ParameterError>,
    /// What an aggregator does.
    pub tabulate: fn(&Computation) -> Result<Box<dyn Tabulate>, ParameterError>,
}

/// A parameter that a computation takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parameter {
    /// Its name.
    pub name: &'static str,
    /// Whether the computation can do nothing without it.
    pub is_required: bool,
    /// Whether it says how rows become payloads, so that workers are not given it.
    pub is_of_encoding: bool,
}

impl Parameter {
    /// A parameter without which the computation can do nothing.
    pub const fn required(name: &'static str) -> Self {
        Self {
            name,
            is_required: true,
            is_of_encoding: false,
        }
    }

    /// The same, of the encoding: it says how rows become payloads. No message carries it, so workers
    /// are not given it.
    #[must_use]
    pub const fn of_encoding(self) -> Self {
        Self {
            is_of_encoding: true,
            ..self
        }
    }

    /// A parameter that may be left out.
    pub const fn optional(name: &'static str) -> Self {
        Self {
            name,
            is_required: false,
            is_of_encoding: false,
        }
    }
}

/// A parameter with which a computation can do nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("computation {computation}: parameter {parameter}: {what}")]
pub struct ParameterError {
    /// The computation.
    pub computation: String,
    /// The parameter.
    pub parameter: String,
    /// What is wrong.
    pub what: String,
}

impl ParameterError {
    /// The error that `what` is wrong with a parameter of a computation.
    pub fn new(of: &Computation, parameter: &str, what: impl Into<String>) -> Self {
        Self {
            computation: of.name.clone(),
            parameter: parameter.to_owned(),
            what: what.into(),
        }
    }
}

impl Definition {
    /// Whether a parameter of this name is of the encoding.
    pub fn is_of_encoding(&self, name: &str) -> bool {
        let mut own = self.parameters.iter();
        own.any(|known| known.name == name && known.is_of_encoding)
    }

    /// Checks the names of a run's parameters against those that the computation takes, of which
    /// `is_given` selects those that the program is given.
    ///
    /// # Errors
    /// With the first parameter that is not known, is missing, or is too long for a message.
    fn check(
        &self,
        of: &Computation,
        is_given: impl Fn(&Parameter) -> bool,
    ) -> Result<(), ParameterError> {
        let error = |parameter: &str, what: String| ParameterError::new(of, parameter, what);
        let is_known = |name: &str| self.parameters.iter().any(|known| known.name == name);
        if let Some((unknown, _)) = of.all_parameters().find(|(name, _)| !is_known(name)) {
            return Err(error(unknown, self.suggestion(unknown)));
        }
        let mut required =
            (self.parameters.iter()).filter(|known| known.is_required && is_given(known));
        if let Some(missing) = required.find(|known| of.parameter(known.name).is_none()) {
            return Err(error(missing.name, "it is missing".to_owned()));
        }
        let longest = of.all_parameters().max_by_key(|(_, value)| value.len());
        match longest {
            Some((name, _)) if of.encode().len() > MAX_COMPUTATION_BYTES => Err(error(
                name,
                format!("the parameters have more than {MAX_COMPUTATION_BYTES} bytes together"),
            )),
            _ => Ok(()),
        }
    }

    /// What to do about a parameter that is not known.
    fn suggestion(&self, unknown: &str) -> String {
        let names = self.parameters.iter().map(|known| known.name);
        let likeness = |name: &str| strsim::jaro_winkler(name, unknown);
        let nearest = names
            .clone()
            .max_by(|a, b| likeness(a).total_cmp(&likeness(b)))
            .filter(|name| likeness(name) >= LIKELY);
        let known: Vec<&str> = names.collect();
        match (nearest, known.as_slice()) {
            (_, []) => "it is not known; the computation takes no parameters".to_owned(),
            (None, known) => format!("it is not known; known: {}", known.join(", ")),
            (Some(nearest), known) => format!(
                "it is not known, did you mean {nearest}? Known: {}",
                known.join(", ")
            ),
        }
    }
}

/// A run asks for a computation that the program does not know.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("computation {name} is not known here; known: {known}")]
pub struct UnknownComputation {
    /// What the run asks for.
    pub name: String,
    /// The names that are known.
    pub known: String,
}

/// Why a program can do nothing for a run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unable {
    /// It does not know the computation.
    #[error(transparent)]
    Unknown(#[from] UnknownComputation),
    /// The computation can do nothing with the parameters.
    #[error(transparent)]
    Parameter(#[from] ParameterError),
}

/// The computations that a program knows.
#[derive(Clone, Debug)]
pub struct Registry {
    definitions: Vec<Definition>,
}

impl Registry {
    /// The computations of the product.
    pub fn standard() -> Self {
        Self {
            definitions: vec![positivity::DEFINITION, count::DEFINITION],
        }
    }

    /// These alone.
    pub fn of(definitions: impl IntoIterator<Item = Definition>) -> Self {
        Self {
            definitions: definitions.into_iter().collect(),
        }
    }

    /// These and one more.
    #[must_use]
    pub fn with(mut self, definition: Definition) -> Self {
        self.definitions.push(definition);
        self
    }

    /// The names, in the order of the definitions.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        self.definitions.iter().map(|definition| definition.name)
    }

    /// What names the columns that a computation wants.
    ///
    /// # Errors
    /// When this program can do nothing for it.
    pub fn encode(&self, of: &Computation) -> Result<Box<dyn Encode>, Unable> {
        Ok((self.checked(of)?.encode)(of)?)
    }

    /// What computes jobs of a computation.
    ///
    /// # Errors
    /// When this program can do nothing for it.
    pub fn compute(&self, of: &Computation) -> Result<Box<dyn Compute>, Unable> {
        let found = self.find(&of.name)?;
        // A worker is not given the parameters of the encoding.
        found.check(of, |known| !known.is_of_encoding)?;
        Ok((found.compute)(of)?)
    }

    /// What makes a table of the results of a computation.
    ///
    /// # Errors
    /// When this program can do nothing for it.
    pub fn tabulate(&self, of: &Computation) -> Result<Box<dyn Tabulate>, Unable> {
        Ok((self.checked(of)?.tabulate)(of)?)
    }

    /// Checks that this program can do everything that a run asks for: dispatch, compute and
    /// tabulate.
    ///
    /// # Errors
    /// When it can do nothing for it.
    pub fn check(&self, of: &Computation) -> Result<(), Unable> {
        self.encode(of)?;
        self.compute(of)?;
        self.tabulate(of)?;
        Ok(())
    }

    fn checked(&self, of: &Computation) -> Result<&Definition, Unable> {
        let found = self.find(&of.name)?;
        found.check(of, |_| true)?;
        Ok(found)
    }

    /// The computation of this name.
    ///
    /// # Errors
    /// When it is not known.
    pub fn find(&self, name: &str) -> Result<&Definition, UnknownComputation> {
        let mut definitions = self.definitions.iter();
        let found = definitions.find(|definition| definition.name == name);
        found.ok_or_else(|| UnknownComputation {
            name: name.to_owned(),
            known: self.names().collect::<Vec<_>>().join(", "),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_computation_is_found_by_its_name_or_refused_with_those_that_are_known() {
        let registry = Registry::standard();
        for name in registry.names() {
            assert_eq!(registry.find(name).map(|found| found.name), Ok(name));
        }
        let error = registry.find("sum").expect_err("no such computation");
        assert_eq!(
            error.to_string(),
            "computation sum is not known here; known: positivity, count"
        );
        let none = Registry::of([count::DEFINITION]);
        let positivity = positivity::computation("result", "yes", "no");
        assert!(none.compute(&positivity).is_err() && none.tabulate(&positivity).is_err());
        assert!(registry.compute(&positivity).is_ok() && registry.tabulate(&positivity).is_ok());
        // As a message has it, a worker can compute it and nobody else can do anything.
        let of_jobs = Computation::named("positivity");
        assert_eq!(positivity.of_jobs(), of_jobs);
        assert!(registry.compute(&of_jobs).is_ok() && registry.encode(&of_jobs).is_err());
    }

    #[test]
    fn a_parameter_that_is_not_known_or_missing_is_refused_by_name_with_the_nearest() {
        const MEASURES: Definition = Definition {
            name: "measures",
            parameters: &[
                Parameter::required("column"),
                Parameter::optional("min_size"),
            ],
            ..count::DEFINITION
        };
        let registry = Registry::of([MEASURES, count::DEFINITION]);
        let measures = Computation::named("measures").with("column", "a");
        assert!(registry.check(&measures).is_ok());
        assert!(
            registry
                .check(&measures.clone().with("min_size", "3"))
                .is_ok()
        );
        let long = measures.clone().with("min_size", "3".repeat(1 << 14));
        let refused = [
            (
                Computation::named("measures"),
                "parameter column: it is missing",
            ),
            (
                measures.clone().with("min-size", "3"),
                "parameter min-size: it is not known, did you mean min_size? Known: column, min_size",
            ),
            (
                measures.with("x", "3"),
                "parameter x: it is not known; known: column, min_size",
            ),
            (
                Computation::named("count").with("x", ""),
                "parameter x: it is not known; the computation takes no parameters",
            ),
            (
                long,
                "parameter min_size: the parameters have more than 16384 bytes together",
            ),
        ];
        for (computation, why) in refused {
            let expected = format!("computation {}: {why}", computation.name);
            let made = [
                registry.encode(&computation).map(|_| ()),
                registry.compute(&computation).map(|_| ()),
                registry.tabulate(&computation).map(|_| ()),
                registry.check(&computation),
            ];
            for made in made {
                let error = made.expect_err("it is refused");
                assert_eq!(error.to_string(), expected);
            }
        }
    }
}
