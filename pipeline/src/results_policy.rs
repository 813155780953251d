//! What counts where a job has several results that differ.

use std::fmt;

use serde::Serialize;

/// The policy of a run for results of one job that differ. Key, part or weight that differ fail a
/// run under both.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ResultsPolicy {
    /// They are a conflict, and the run fails.
    #[default]
    Reproducible,
    /// The lowest result bytes count, and the jobs with several are counted and listed.
    Any,
}

impl ResultsPolicy {
    /// Both, in the order in which they are offered.
    pub const ALL: [Self; 2] = [Self::Reproducible, Self::Any];

    /// The name in options and in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Reproducible => "reproducible",
            Self::Any => "any",
        }
    }
}

impl fmt::Display for ResultsPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
