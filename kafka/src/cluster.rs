//! The cluster that a process works with: its address, and the constructor of its clients. Every
//! client of the process is configured here, from the one table of settings.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use rdkafka::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use tracing::{debug, error, info, trace, warn};

use crate::args::{BrokerArgs, property};
use crate::error::Error;
use crate::rejection::AuthenticationState;
use crate::settings::{self, Role};

/// The timeout of one request for metadata of the cluster.
pub(crate) const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// The address and the client properties of a cluster.
#[derive(Clone)]
pub struct Cluster {
    bootstrap_servers: Arc<str>,
    properties: Arc<[(String, String)]>,
    client_id: Arc<str>,
    broker_timeout: Duration,
    /// Shared by all clients of this process.
    authentication: Arc<AuthenticationState>,
    /// One client for all requests for metadata, created with the first of them: the next ones use its
    /// connection.
    inquirer: Arc<OnceLock<BaseConsumer<Context>>>,
}

/// Prints the names of the properties only, because their values may be secrets.
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
    /// The cluster that the options name. Does not connect.
    ///
    /// # Errors
    /// When no broker is named, or when `-X` sets a property that the guarantees depend on.
    pub fn new(args: &BrokerArgs, client_id: &str) -> Result<Self, Error> {
        let bootstrap_servers = args
            .bootstrap_servers
            .as_deref()
            .filter(|servers| !servers.trim().is_empty())
            .ok_or(Error::NoBootstrapServers)?;
        // A password in an address would be printed in logs and errors.
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
            authentication: Arc::default(),
            inquirer: Arc::default(),
        })
    }

    /// The addresses of the first brokers to connect to, as `host:port`, separated by commas.
    pub fn bootstrap_servers(&self) -> &str {
        &self.bootstrap_servers
    }

    /// The properties that the user set; of two values for one key, the later one counts.
    pub fn properties(&self) -> &[(String, String)] {
        &self.properties
    }

    /// How long to wait for a broker that cannot be reached yet.
    pub fn broker_timeout(&self) -> Duration {
        self.broker_timeout
    }

    /// The configuration of a client of this role.
    pub(crate) fn config(&self, role: Role) -> ClientConfig {
        settings::client_config(
            role,
            &self.bootstrap_servers,
            &self.client_id,
            &self.properties,
        )
    }

    /// The callbacks of a client of this cluster, for its log lines and errors.
    pub(crate) fn context(&self) -> Context {
        Context {
            authentication: Arc::clone(&self.authentication),
        }
    }

    /// What brokers have answered to the log-ins of this process's clients.
    pub(crate) fn authentication(&self) -> &Arc<AuthenticationState> {
        &self.authentication
    }

    /// Checks that no broker has refused to authenticate this process. Its clients themselves retry
    /// for ever.
    ///
    /// # Errors
    /// [`Error::Rejected`] when a broker has refused one of the clients. A client's errors are seen
    /// when it is polled.
    pub fn check_admission(&self) -> Result<(), Error> {
        self.authentication.check()
    }

    /// The client for metadata of the cluster: a consumer that never consumes.
    pub(crate) fn inquirer(&self) -> Result<&BaseConsumer<Context>, Error> {
        if let Some(inquirer) = self.inquirer.get() {
            return Ok(inquirer);
        }
        let inquirer = settings::create(&self.config(Role::Reader), self.context())?;
        // If another thread was faster, its client is used.
        Ok(self.inquirer.get_or_init(|| inquirer))
    }

    /// Waits until a broker answers, at most for [`broker_timeout`](Self::broker_timeout). A longer
    /// wait is logged once. `stopped` is called a few times a second.
    ///
    /// # Errors
    /// [`Error::Unreachable`] when no broker answers, [`Error::Rejected`] when one refuses to
    /// authenticate this process, [`Error::Stopped`] when `stopped` returns true.
    pub fn wait_until_reachable(&self, stopped: &dyn Fn() -> bool) -> Result<(), Error> {
        const LOG_AFTER: Duration = Duration::from_millis(1_500);
        const STEP: Duration = Duration::from_millis(250);
        const EVENTS: usize = 64;
        let started = Instant::now();
        let client = self.inquirer()?;
        let mut logged = false;
        loop {
            let left = self.broker_timeout.saturating_sub(started.elapsed());
            match client.fetch_metadata(Some("rollcall"), STEP.min(left.max(STEP))) {
                Ok(_) => {
                    self.authentication.reset();
                    return Ok(());
                }
                Err(error) => trace!(%error, "no broker yet"),
            }
            // Each attempt leaves a few errors of connections and log lines.
            for _ in 0..EVENTS {
                client.poll(Duration::ZERO);
            }
            self.authentication.check()?;
            if stopped() {
                return Err(Error::Stopped);
            }
            if started.elapsed() >= self.broker_timeout {
                return Err(Error::Unreachable {
                    bootstrap_servers: self.bootstrap_servers.to_string(),
                    waited: self.broker_timeout,
                    last_error: self.authentication.last_error(),
                });
            }
            if !logged && started.elapsed() >= LOG_AFTER.min(self.broker_timeout / 2) {
                info!(
                    "waiting for a broker at {} (up to {})",
                    self.bootstrap_servers,
                    humantime::format_duration(self.broker_timeout)
                );
                logged = true;
            }
        }
    }

    /// Sends one request to the cluster and waits for the answer, at most for `timeout`.
    ///
    /// # Errors
    /// When no broker answers.
    pub fn ask(&self, timeout: Duration) -> Result<(), Error> {
        self.inquirer()?
            .fetch_metadata(Some("rollcall"), timeout)
            .map(|_| ())
            .map_err(Error::client("reach a broker"))
    }

    /// Checks that a broker answers, for the readiness of this process (`/readyz`).
    ///
    /// # Errors
    /// The reason as a text, when no broker answers within two seconds.
    pub fn readiness(&self) -> Result<(), String> {
        const TIMEOUT: Duration = Duration::from_secs(2);
        self.ask(TIMEOUT)
            .map_err(|_| format!("no broker answers at {}", self.bootstrap_servers))
    }

    /// The version of librdkafka.
    pub fn client_version() -> String {
        rdkafka::util::get_rdkafka_version().1
    }

    /// The most bytes that a producer of this cluster sends as one batch. A topic with a smaller
    /// `max.message.bytes` refuses such a batch.
    pub fn batch_bytes(&self) -> usize {
        // librdkafka's default of both properties.
        const DEFAULT: usize = 1_000_000;
        let set = |key: &str| {
            let value = property(&self.properties, key).and_then(|value| value.parse().ok());
            value.unwrap_or(DEFAULT)
        };
        set("batch.size").min(set("message.max.bytes"))
    }

    /// The number of brokers of the cluster.
    ///
    /// # Errors
    /// When no broker answers.
    pub fn broker_count(&self) -> Result<usize, Error> {
        let metadata = self
            .inquirer()?
            .fetch_metadata(Some("rollcall"), REQUEST_TIMEOUT)
            .map_err(Error::client("list the brokers"))?;
        Ok(metadata.brokers().len())
    }
}

/// The callbacks of a client: they write librdkafka's log lines and errors to this process's log.
pub(crate) struct Context {
    authentication: Arc<AuthenticationState>,
}

impl Context {
    /// As [`Cluster::check_admission`].
    pub(crate) fn check_admission(&self) -> Result<(), Error> {
        self.authentication.check()
    }
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, fac: &str, log_message: &str) {
        log_line(level, fac, log_message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.authentication.record_error(&error, reason);
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::GroupAuthorizationFailed) {
            // A reader has a group id and never joins the group, so it needs no right on the group.
            debug!(target: "librdkafka", "{error}: {reason}");
            return;
        }
        log_error(&error, reason);
    }
}

impl ConsumerContext for Context {}

/// Writes one line of librdkafka's log to this process's log.
pub(crate) fn log_line(level: RDKafkaLogLevel, fac: &str, message: &str) {
    match level {
        // All clients get one list of properties, so librdkafka warns of those of other clients.
        _ if fac == "CONFWARN" => debug!(target: "librdkafka", "{message}"),
        RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical => {
            error!(target: "librdkafka", "{fac}: {message}");
        }
        // An error of a message or a partition is also returned by the call or the delivery report;
        // the others are of connections that are opened and closed.
        RDKafkaLogLevel::Error | RDKafkaLogLevel::Warning => {
            warn!(target: "librdkafka", "{fac}: {message}");
        }
        RDKafkaLogLevel::Notice | RDKafkaLogLevel::Info => {
            info!(target: "librdkafka", "{fac}: {message}");
        }
        RDKafkaLogLevel::Debug => debug!(target: "librdkafka", "{fac}: {message}"),
    }
}

/// Logs an error of a whole client, such as a lost connection; librdkafka continues by itself.
pub(crate) fn log_error(error: &KafkaError, reason: &str) {
    warn!(target: "librdkafka", "{error}: {reason}");
}
