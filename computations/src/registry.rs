//! The computations that a program knows, by name: one line each.

use pipeline::Computation;

use crate::{Compute, Encode, Tabulate, count, positivity};

/// A computation that a program knows. Each function is given the run's parameters.
#[derive(Clone, Copy, Debug)]
pub struct Definition {
    /// The name by which runs ask for it.
    pub name: &'static str,
    /// What a dispatcher does.
    pub encode: fn(&Computation) -> Result<Box<dyn Encode>, ParameterError>,
    /// What a worker does.
    pub compute: fn(&Computation) -> Result<Box<dyn Compute>, ParameterError>,
    /// What an aggregator does.
    pub tabulate: fn(&Computation) -> Result<Box<dyn Tabulate>, ParameterError>,
}

/// A parameter with which a computation can do nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{computation}: parameter {parameter}: {what}")]
pub struct ParameterError {
    /// The computation.
    pub computation: &'static str,
    /// The parameter.
    pub parameter: String,
    /// What is wrong.
    pub what: String,
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
        Ok((self.find(&of.name)?.encode)(of)?)
    }

    /// What computes jobs of a computation.
    ///
    /// # Errors
    /// When this program can do nothing for it.
    pub fn compute(&self, of: &Computation) -> Result<Box<dyn Compute>, Unable> {
        Ok((self.find(&of.name)?.compute)(of)?)
    }

    /// What makes a table of the results of a computation.
    ///
    /// # Errors
    /// When this program can do nothing for it.
    pub fn tabulate(&self, of: &Computation) -> Result<Box<dyn Tabulate>, Unable> {
        Ok((self.find(&of.name)?.tabulate)(of)?)
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
        let positivity = Computation::named("positivity");
        assert!(none.compute(&positivity).is_err() && none.tabulate(&positivity).is_err());
        assert!(registry.compute(&positivity).is_ok() && registry.tabulate(&positivity).is_ok());
    }
}
