//! A cluster, as one process sees it: where it is, and the way to make clients of it. Every client
//! of the process is made here, from the one table of settings.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use rdkafka::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use tracing::{debug, error, info, trace, warn};

use crate::args::{BrokerArgs, property};
use crate::error::Error;
use crate::rejection::Admission;
use crate::settings::{self, Role};

/// How long one request about the cluster may take.
pub(crate) const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// A cluster and how this process speaks to it.
#[derive(Clone)]
pub struct Cluster {
    bootstrap_servers: Arc<str>,
    properties: Arc<[(String, String)]>,
    client_id: Arc<str>,
    broker_timeout: Duration,
    /// What the clients of this process hear of whether it is let in.
    admission: Arc<Admission>,
    /// One client for all questions, made with the first: its connection is there for the next.
    inquirer: Arc<OnceLock<BaseConsumer<Context>>>,
}

/// Properties may hold secrets, so only their names are shown.
impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let keys: Vec<_> = self.properties.iter().map(|(key, _)| key).collect();
        f.debug_struct("Cluster")
            .field("bootstrap_servers", &self.bootstrap_servers)
            .field("properties", &keys)
            .field("client_id", &self.client_id)
            .field("broker_timeout", &self.broker_timeout)
            .finish()
    }
}

impl Cluster {
    /// The cluster that the options name. Nothing is connected yet.
    ///
    /// # Errors
    /// When no broker is named, or when `-X` sets what the guarantees rest on.
    pub fn new(args: &BrokerArgs, client_id: &str) -> Result<Self, Error> {
        let bootstrap_servers = args
            .bootstrap_servers
            .as_deref()
            .filter(|servers| !servers.trim().is_empty())
            .ok_or(Error::NoBootstrapServers)?;
        // Whoever puts a password there would find it in logs and errors.
        if bootstrap_servers.contains('@') {
            return Err(Error::UserInServers);
        }
        let properties = args.all_properties()?;
        settings::check_overrides(&properties)?;
        settings::check_properties(bootstrap_servers, &properties)?;
        Ok(Self {
            bootstrap_servers: bootstrap_servers.into(),
            properties: properties.into(),
            client_id: client_id.into(),
            broker_timeout: args.broker_timeout,
            admission: Arc::default(),
            inquirer: Arc::default(),
        })
    }

    /// Where to begin to look for brokers.
    pub fn bootstrap_servers(&self) -> &str {
        &self.bootstrap_servers
    }

    /// The properties that the user set, in the order in which they count.
    pub fn properties(&self) -> &[(String, String)] {
        &self.properties
    }

    /// How long to wait for a broker that is not there yet.
    pub fn broker_timeout(&self) -> Duration {
        self.broker_timeout
    }

    pub(crate) fn config(&self, role: Role) -> ClientConfig {
        settings::client_config(
            role,
            &self.bootstrap_servers,
            &self.client_id,
            &self.properties,
        )
    }

    /// What a client of this cluster tells its log lines and errors to.
    pub(crate) fn context(&self) -> Context {
        Context {
            admission: Arc::clone(&self.admission),
        }
    }

    /// What the clients hear of whether this process is let in.
    pub(crate) fn admission(&self) -> &Arc<Admission> {
        &self.admission
    }

    /// Whether this process may go on: its clients try again for ever where a broker says no.
    ///
    /// # Errors
    /// [`Error::Rejected`] when a broker has said no to one of them, as far as it was polled.
    pub fn check_admission(&self) -> Result<(), Error> {
        self.admission.check()
    }

    /// A consumer that asks about the cluster and never consumes.
    pub(crate) fn inquirer(&self) -> Result<&BaseConsumer<Context>, Error> {
        if let Some(inquirer) = self.inquirer.get() {
            return Ok(inquirer);
        }
        let inquirer = settings::create(&self.config(Role::Reader), self.context())?;
        // If another thread was faster, its client is as good.
        Ok(self.inquirer.get_or_init(|| inquirer))
    }

    /// Waits until a broker answers, at most as long as the options say, with a line that says so.
    /// `stopped` is asked a few times a second.
    ///
    /// # Errors
    /// [`Error::Unreachable`] when none does, [`Error::Rejected`] when one does not let this process
    /// in, [`Error::Stopped`] when it was stopped.
    pub fn wait_until_reachable(&self, stopped: &dyn Fn() -> bool) -> Result<(), Error> {
        const PATIENCE: Duration = Duration::from_millis(1_500);
        const STEP: Duration = Duration::from_millis(250);
        const EVENTS: usize = 64;
        let started = Instant::now();
        let client = self.inquirer()?;
        let mut said = false;
        loop {
            let left = self.broker_timeout.saturating_sub(started.elapsed());
            match client.fetch_metadata(Some("rollcall"), STEP.min(left.max(STEP))) {
                Ok(_) => {
                    self.admission.let_in();
                    return Ok(());
                }
                Err(error) => trace!(%error, "no broker yet"),
            }
            // Errors of connections and log lines, of which there are a few for each attempt.
            for _ in 0..EVENTS {
                client.poll(Duration::ZERO);
            }
            self.admission.check()?;
            if stopped() {
                return Err(Error::Stopped);
            }
            if started.elapsed() >= self.broker_timeout {
                return Err(Error::Unreachable {
                    bootstrap_servers: self.bootstrap_servers.to_string(),
                    waited: self.broker_timeout,
                    last_heard: self.admission.last_heard(),
                });
            }
            if !said && started.elapsed() >= PATIENCE.min(self.broker_timeout / 2) {
                info!(
                    "waiting for a broker at {} (up to {})",
                    self.bootstrap_servers,
                    humantime::format_duration(self.broker_timeout)
                );
                said = true;
            }
        }
    }

    /// Asks the cluster anything, to see whether a broker answers within `patience`.
    ///
    /// # Errors
    /// When none does.
    pub fn ask(&self, patience: Duration) -> Result<(), Error> {
        self.inquirer()?
            .fetch_metadata(Some("rollcall"), patience)
            .map(|_| ())
            .map_err(Error::client("ask whether a broker answers"))
    }

    /// Whether a process of this cluster is ready: a broker answers. If none does, the error is the
    /// reason in words, for whoever asks the process for its health.
    ///
    /// # Errors
    /// When no broker answers soon.
    pub fn readiness(&self) -> Result<(), String> {
        const PATIENCE: Duration = Duration::from_secs(2);
        self.ask(PATIENCE)
            .map_err(|_| format!("no broker answers at {}", self.bootstrap_servers))
    }

    /// The version of librdkafka.
    pub fn client_version() -> String {
        rdkafka::util::get_rdkafka_version().1
    }

    /// The most bytes that a producer of this cluster sends as one batch: a topic that takes less
    /// refuses it.
    pub fn batch_bytes(&self) -> usize {
        // librdkafka's default of both properties.
        const DEFAULT: usize = 1_000_000;
        let set = |key: &str| {
            let value = property(&self.properties, key).and_then(|value| value.parse().ok());
            value.unwrap_or(DEFAULT)
        };
        set("batch.size").min(set("message.max.bytes"))
    }

    /// How many brokers the cluster has.
    ///
    /// # Errors
    /// When no broker answers.
    pub fn broker_count(&self) -> Result<usize, Error> {
        let metadata = self
            .inquirer()?
            .fetch_metadata(Some("rollcall"), REQUEST_TIMEOUT)
            .map_err(Error::client("ask for the brokers"))?;
        Ok(metadata.brokers().len())
    }
}

/// Brings librdkafka's log lines and errors into this process's log.
pub(crate) struct Context {
    admission: Arc<Admission>,
}

impl Context {
    /// As [`Cluster::check_admission`].
    pub(crate) fn check_admission(&self) -> Result<(), Error> {
        self.admission.check()
    }
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, fac: &str, log_message: &str) {
        log_line(level, fac, log_message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.admission.hear(&error, reason);
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::GroupAuthorizationFailed) {
            // Readers name a group that they never join: they need no right on it.
            debug!(target: "librdkafka", "{error}: {reason}");
            return;
        }
        log_error(&error, reason);
    }
}

impl ConsumerContext for Context {}

/// One line of librdkafka's log.
pub(crate) fn log_line(level: RDKafkaLogLevel, fac: &str, message: &str) {
    match level {
        // One list of properties serves all clients, so that each is told of some that are not its.
        _ if fac == "CONFWARN" => debug!(target: "librdkafka", "{message}"),
        RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical => {
            error!(target: "librdkafka", "{fac}: {message}");
        }
        // Whatever concerns a message or a partition also comes back from the call or the delivery
        // report; what is left are connections that come and go.
        RDKafkaLogLevel::Error | RDKafkaLogLevel::Warning => {
            warn!(target: "librdkafka", "{fac}: {message}");
        }
        RDKafkaLogLevel::Notice | RDKafkaLogLevel::Info => {
            info!(target: "librdkafka", "{fac}: {message}");
        }
        RDKafkaLogLevel::Debug => debug!(target: "librdkafka", "{fac}: {message}"),
    }
}

/// An error that concerns a whole client, such as a broker that went away; librdkafka goes on.
pub(crate) fn log_error(error: &KafkaError, reason: &str) {
    warn!(target: "librdkafka", "{error}: {reason}");
}
