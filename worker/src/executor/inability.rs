//! What a compute thread tells the rest of the worker that it cannot do.

use std::sync::{Arc, OnceLock};

use computations::Unable;

/// Why this worker has left jobs to others; empty while it has not. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Inability(Arc<OnceLock<Unable>>);

impl Inability {
    /// Notes why. The first reason stays.
    pub fn report(&self, unable: &Unable) {
        self.0.get_or_init(|| unable.clone());
    }

    /// The first reason that was reported.
    pub fn get(&self) -> Option<&Unable> {
        self.0.get()
    }
}
