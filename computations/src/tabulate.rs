//! What a computation makes of the results of a run: the columns of its table, the rows of each
//! group, and what it checks of the results as a whole.

use pipeline::Ledger;
use pipeline::ledger::SpillError;
use pipeline::reconciliation::Check;

/// A column of a table behind those of the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResultColumn {
    /// Its name.
    pub name: &'static str,
    /// What its cells hold.
    pub kind: Kind,
}

impl ResultColumn {
    /// A column of this name.
    pub const fn new(name: &'static str, kind: Kind) -> Self {
        Self { name, kind }
    }
}

/// What the cells of a column hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Integers.
    Integer,
    /// Floating-point numbers.
    Real,
    /// Texts.
    Text,
}

/// A cell of a table.
#[derive(Clone, Debug, PartialEq)]
pub enum Cell {
    /// Nothing is known.
    Missing,
    /// A cell of [`Kind::Integer`].
    Integer(i64),
    /// A cell of [`Kind::Real`].
    Real(f64),
    /// A cell of [`Kind::Text`].
    Text(String),
}

/// Rows of result cells, one after the other.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ResultRows {
    cells: Vec<Cell>,
}

impl ResultRows {
    /// Adds a row: one cell for each result column.
    pub fn push(&mut self, row: impl IntoIterator<Item = Cell>) {
        self.cells.extend(row);
    }

    /// The rows, of a table with this number of result columns.
    pub fn rows(&self, columns: usize) -> impl Iterator<Item = &[Cell]> {
        self.cells.chunks(columns.max(1))
    }

    /// Removes all rows.
    pub fn clear(&mut self) {
        self.cells.clear();
    }
}

/// Result bytes that the computation did not make.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the bytes are no result of the computation")]
pub struct MalformedResult;

/// A computation as the aggregator sees it.
pub trait Tabulate: Send + Sync {
    /// The result columns of its table.
    fn columns(&self) -> &'static [ResultColumn];

    /// Adds the rows of a group, one or several: `parts` are the results of its completed jobs, at
    /// least one, in the order of the parts.
    ///
    /// # Errors
    /// When one of them is malformed. What was added until then counts for nothing.
    fn rows(&self, parts: &[&[u8]], out: &mut ResultRows) -> Result<(), MalformedResult>;

    /// What is compared before a run with these outcomes is complete.
    ///
    /// # Errors
    /// When spilled results cannot be read back.
    fn checks(&self, ledger: &Ledger) -> Result<Vec<Check>, SpillError>;
}

/// The check that every result can be read: groups whose results are malformed are counted.
///
/// # Errors
/// When spilled results cannot be read back.
pub fn readable(of: &dyn Tabulate, ledger: &Ledger) -> Result<Check, SpillError> {
    let mut rows = ResultRows::default();
    let mut malformed = 0;
    ledger.groups().for_each(|group| {
        rows.clear();
        if !group.parts.is_empty() && of.rows(group.parts, &mut rows).is_err() {
            malformed += 1;
        }
        Ok::<_, SpillError>(())
    })?;
    Ok(Check::numbers(
        "groups with malformed results",
        0,
        malformed,
    ))
}
