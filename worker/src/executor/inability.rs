//! The report of a compute thread that it cannot compute its jobs.

use std::sync::{Arc, OnceLock};

use computations::Unable;

/// The reason for which this worker leaves jobs to other workers; empty while it computes all. Clones
/// share it.
#[derive(Clone, Debug, Default)]
pub struct Inability(Arc<OnceLock<Unable>>);

impl Inability {
    /// Sets the reason, unless one is set.
    pub fn report(&self, unable: &Unable) {
        self.0.get_or_init(|| unable.clone());
    }

    /// The reason that was reported first; `None` while there is no reason.
    pub fn get(&self) -> Option<&Unable> {
        self.0.get()
    }
}
