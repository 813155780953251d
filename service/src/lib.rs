//! The parts that all processes of rollcall share: exit codes, logging, signals that become a
//! shutdown request, progress for people and as JSON, printing of results and tables, health and
//! metrics over HTTP, fault points for tests, and an end when the system clock is set back. They do
//! not depend on Kafka or on jobs.

pub mod catch_panic;
pub mod clock;
pub mod exit;
pub mod fault;
pub mod health;
pub mod json_output;
pub mod listen;
pub mod logging;
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
pub use json_output::JsonArgs;
pub use listen::ListenArgs;
pub use logging::{LogArgs, Verbosity};
pub use output::print;
pub use progress::{Progress, Show};
pub use shutdown::{Shutdown, Signal};
pub use usage::Usage;
