//! What makes a process a good service: exit codes, logging, signals that become a shutdown
//! request, and progress that a person or a log can follow. It knows nothing of Kafka or of jobs.

pub mod exit;
pub mod logging;
pub mod output;
pub mod process;
pub mod progress;
pub mod shutdown;

pub use exit::{Ending, Exit};
pub use logging::{LogArgs, Talk};
pub use output::say;
pub use progress::Progress;
pub use shutdown::{Shutdown, Signal};
