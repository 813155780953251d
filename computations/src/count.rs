//! Count: how many rows a job has. It wants no column, so that a payload is empty and the weight of a
//! job says it all.

use crate::{Column, Encode};

/// Counts the rows of a job.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count;

impl Encode for Count {
    fn columns(&self) -> &[Column] {
        &[]
    }
}
