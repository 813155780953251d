//! The table that a computation makes from the results of a run: its columns, the rows of each group,
//! and the checks of the results as a whole.

use pipeline::Ledger;
use pipeline::ledger::SpillError;
use pipeline::reconciliation::Check;

/// A column of a table, after the columns of the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResultColumn {
    /// The name of the column.
    pub name: &'static str,
    /// The type of its cells.
    pub kind: Kind,
}

impl ResultColumn {
    /// A column with this name and type.
    pub const fn new(name: &'static str, kind: Kind) -> Self {
        Self { name, kind }
    }
}

/// The type of the cells of a column.
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
    /// A cell without a value.
    Missing,
    /// A cell of [`Kind::Integer`].
    Integer(i64),
    /// A cell of [`Kind::Real`].
    Real(f64),
    /// A cell of [`Kind::Text`].
    Text(String),
}

/// The result cells of rows, one row after the other.
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

/// The error of bytes that are not a result of the computation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the bytes are not a result of the computation")]
pub struct MalformedResult;

/// The part of a computation that the aggregator calls: it makes a table from results.
pub trait Tabulate: Send + Sync {
    /// The result columns of its table.
    fn columns(&self) -> &'static [ResultColumn];

    /// Adds the rows of a group, one or several. `parts`: the results of its completed jobs, at least
    /// one, in the order of the parts.
    ///
    /// # Errors
    /// When one of them is malformed. The caller ignores the rows that were added until then.
    fn rows(&self, parts: &[&[u8]], out: &mut ResultRows) -> Result<(), MalformedResult>;

    /// The checks of this computation. A run with these outcomes is complete only where all hold.
    ///
    /// # Errors
    /// When spilled results cannot be read back.
    fn checks(&self, ledger: &Ledger) -> Result<Vec<Check>, SpillError>;
}

/// The check that all results are well-formed, by the number of groups with malformed ones.
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
