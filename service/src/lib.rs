//! What makes a process a good service: exit codes, logging, signals that become a shutdown
//! request, progress that a person, a log or a machine can follow, health and metrics over HTTP, and
//! fault points for tests, an end when the clock is set back. It knows nothing of Kafka or of jobs.

pub mod catch_panic;
pub mod clock;
pub mod exit;
pub mod fault;
pub mod health;
pub mod listen;
pub mod logging;
pub mod machine;
pub mod metrics;
pub mod output;
pub mod process;
pub mod progress;
pub mod shutdown;
pub mod table;
pub mod text;
pub mod usage;

pub use exit::{Ending, Exit};
pub use fault::FaultPoint;
pub use health::Health;
pub use listen::ListenArgs;
pub use logging::{LogArgs, Talk};
pub use machine::JsonArgs;
pub use output::say;
pub use progress::{Progress, Show};
pub use shutdown::{Shutdown, Signal};
pub use usage::Usage;
