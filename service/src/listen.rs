//! The HTTP server behind `--listen`: `/livez`, `/readyz` and `/metrics`, for probes and scrapers
//! and for nobody else. Everything about a request is bounded: its size, its time, and how many are
//! served at once; each has a connection of its own.
//!
//! The few lines of HTTP are written out here, over the parser that hyper uses: hyper's server
//! feature would have every dependant of hyper in the workspace, polars among them, built again.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, ToSocketAddrs};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use clap::Args;
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Notify, Semaphore};
use tokio::time::{Instant, timeout_at};
use tracing::{debug, info, warn};

use crate::health::Health;
use crate::shutdown::Shutdown;

/// A request's head is no longer than this.
const MAX_HEAD_BYTES: usize = 8 * 1024;

/// A request has no more headers than this.
const MAX_HEADERS: usize = 64;

/// A connection lives no longer than this, whatever it does.
const CONNECTION_TIME: Duration = Duration::from_secs(10);

/// The timeout for the head of a request, so that a silent client does not hold a connection.
const HEAD_TIME: Duration = Duration::from_secs(2);

/// The timeout for a client to close its connection after the answer.
const DRAIN_TIME: Duration = Duration::from_millis(500);

/// The largest number of connections that are served at once; others wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 32;

/// A body that nobody asked for is read up to this, so that the answer is not lost in a reset.
const MAX_DRAINED_BYTES: usize = 64 * 1024;

/// How often a process asks whether its broker is still there.
const PROBE_PERIOD: Duration = Duration::from_secs(5);

const TEXT: &str = "text/plain; charset=utf-8";
/// <https://github.com/prometheus/OpenMetrics/blob/main/specification/OpenMetrics.md>
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Where to listen for probes and scrapers.
#[derive(Args, Clone, Debug, Default)]
pub struct ListenArgs {
    /// Serve /livez, /readyz and /metrics over HTTP at this address; a port alone is on loopback
    #[arg(long, value_name = "ADDR:PORT|PORT", value_parser = parse_address)]
    pub listen: Option<SocketAddr>,
}

fn parse_address(text: &str) -> Result<SocketAddr, String> {
    if let Ok(port) = text.parse() {
        return Ok((Ipv4Addr::LOCALHOST, port).into());
    }
    let resolved = text.to_socket_addrs().map_err(|error| error.to_string())?;
    let mut resolved = resolved.into_iter();
    resolved.next().ok_or_else(|| "no such address".to_owned())
}

/// The address cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}; name a free port, or 0 for any, with --listen")]
pub struct Error {
    address: SocketAddr,
    source: io::Error,
}

/// What is served.
struct Site {
    health: Arc<Health>,
    registry: Registry,
    shutdown: Shutdown,
}

/// A server that goes on until this is dropped.
#[derive(Debug)]
pub struct Listening {
    address: SocketAddr,
    closed: Arc<Notify>,
    thread: Option<JoinHandle<()>>,
}

impl Listening {
    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.closed.notify_one();
        if let Some(thread) = self.thread.take() {
            // A panic while serving is no reason to fail the work.
            let _ = thread.join();
        }
    }
}

/// Serves a process's health and metrics at an address, from a thread of its own, until the
/// returned guard is dropped. From a shutdown request on, it says that it is not ready.
///
/// # Errors
/// When the address cannot be listened on.
pub fn serve(
    address: SocketAddr,
    health: Arc<Health>,
    registry: Registry,
    shutdown: &Shutdown,
) -> Result<Listening, Error> {
    let failed = |source| Error { address, source };
    let listener = TcpListener::bind(address).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(failed)?;
    let site = Arc::new(Site {
        health,
        registry,
        shutdown: shutdown.clone(),
    });
    let closed = Arc::new(Notify::new());
    let seen_by_thread = Arc::clone(&closed);
    let thread = thread::Builder::new()
        .name("http".to_owned())
        .spawn(move || {
            runtime.block_on(async move {
                tokio::select! {
                    () = accept(listener, site) => {}
                    () = seen_by_thread.notified() => {}
                }
            });
        })
        .map_err(failed)?;
    info!("serving http://{bound}/livez, /readyz and /metrics");
    Ok(Listening {
        address: bound,
        closed,
        thread: Some(thread),
    })
}

async fn accept(listener: TcpListener, site: Arc<Site>) {
    const PAUSE: Duration = Duration::from_millis(100);
    let listener = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => {
            warn!(%error, "cannot serve health and metrics");
            return;
        }
    };
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((connection, _)) => {
                let site = Arc::clone(&site);
                tokio::spawn(async move {
                    let served = converse(connection, &site);
                    if let Ok(Err(error)) = tokio::time::timeout(CONNECTION_TIME, served).await {
                        debug!(%error, "a connection to health and metrics");
                    }
                    drop(place);
                });
            }
            Err(error) => {
                // Such as too many open files: it passes.
                debug!(%error, "cannot accept a connection");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// One request, one response.
async fn converse(mut connection: TcpStream, site: &Site) -> io::Result<()> {
    let mut head = Vec::with_capacity(1_024);
    let until = Instant::now() + HEAD_TIME;
    let request = loop {
        if timeout_at(until, connection.read_buf(&mut head)).await?? == 0 {
            return Ok(());
        }
        match Request::parse(&head) {
            Parsed::Whole(request) => break Some(request),
            Parsed::Partial if head.len() <= MAX_HEAD_BYTES => {}
            Parsed::Partial | Parsed::TooLarge => {
                let refused = Response::text(431, "the request's head is too large\n");
                connection.write_all(&refused.bytes(true)).await?;
                break None;
            }
            Parsed::Invalid => {
                let refused = Response::text(400, "not an HTTP request\n");
                connection.write_all(&refused.bytes(true)).await?;
                break None;
            }
        }
    };
    if let Some(request) = request {
        let response = site.respond(&request);
        let with_body = request.method != "HEAD";
        connection.write_all(&response.bytes(with_body)).await?;
    }
    connection.shutdown().await?;
    let mut drained = 0;
    let mut rest = [0; 4_096];
    let until = Instant::now() + DRAIN_TIME;
    while drained < MAX_DRAINED_BYTES {
        match timeout_at(until, connection.read(&mut rest)).await?? {
            0 => break,
            read => drained += read,
        }
    }
    Ok(())
}

/// What a request asks for.
#[derive(Debug, PartialEq, Eq)]
struct Request {
    method: String,
    /// Without its query.
    path: String,
}

#[derive(Debug, PartialEq, Eq)]
enum Parsed {
    Whole(Request),
    Partial,
    TooLarge,
    Invalid,
}

impl Request {
    fn parse(head: &[u8]) -> Parsed {
        let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
        let mut request = httparse::Request::new(&mut headers);
        match request.parse(head) {
            Ok(httparse::Status::Complete(_)) => {}
            Ok(httparse::Status::Partial) => return Parsed::Partial,
            Err(httparse::Error::TooManyHeaders) => return Parsed::TooLarge,
            Err(_) => return Parsed::Invalid,
        }
        let (Some(method), Some(target)) = (request.method, request.path) else {
            return Parsed::Invalid;
        };
        let path = target.split_once('?').map_or(target, |(path, _)| path);
        Parsed::Whole(Self {
            method: method.to_owned(),
            path: path.to_owned(),
        })
    }
}

/// What is answered.
struct Response {
    status: u16,
    content_type: &'static str,
    body: String,
}

impl Response {
    fn text(status: u16, body: &str) -> Self {
        Self {
            status,
            content_type: TEXT,
            body: body.to_owned(),
        }
    }

    fn of(health: Result<(), String>) -> Self {
        match health {
            Ok(()) => Self::text(200, "ok\n"),
            Err(reason) => Self::text(503, &format!("{reason}\n")),
        }
    }

    fn bytes(&self, with_body: bool) -> Vec<u8> {
        let reason = match self.status {
            200 => "OK",
            400 => "Bad Request",
            404 => "Not Found",
            405 => "Method Not Allowed",
            431 => "Request Header Fields Too Large",
            500 => "Internal Server Error",
            _ => "Service Unavailable",
        };
        let allow = if self.status == 405 {
            "allow: GET, HEAD\r\n"
        } else {
            ""
        };
        let mut bytes = format!(
            "HTTP/1.1 {} {reason}\r\ncontent-type: {}\r\ncontent-length: {}\r\n{allow}\
             cache-control: no-store\r\nconnection: close\r\n\r\n",
            self.status,
            self.content_type,
            self.body.len()
        )
        .into_bytes();
        if with_body {
            bytes.extend_from_slice(self.body.as_bytes());
        }
        bytes
    }
}

impl Site {
    fn respond(&self, request: &Request) -> Response {
        if !["/livez", "/readyz", "/metrics"].contains(&request.path.as_str()) {
            return Response::text(404, "try /livez, /readyz or /metrics\n");
        }
        if !["GET", "HEAD"].contains(&request.method.as_str()) {
            return Response::text(405, "only GET and HEAD\n");
        }
        match request.path.as_str() {
            "/livez" => Response::of(self.health.liveness()),
            "/readyz" if self.shutdown.is_requested() => {
                Response::of(Err("shutting down".to_owned()))
            }
            "/readyz" => Response::of(self.health.readiness()),
            _ => self.metrics(),
        }
    }

    fn metrics(&self) -> Response {
        let mut body = String::with_capacity(8 * 1_024);
        match encode(&mut body, &self.registry) {
            Ok(()) => Response {
                status: 200,
                content_type: OPEN_METRICS,
                body,
            },
            Err(_) => Response::text(500, "cannot write the metrics\n"),
        }
    }
}

/// Asks every few seconds whether a process is ready, from a thread of its own, until it is
/// dropped.
#[derive(Debug)]
pub struct Probing {
    over: Arc<(Mutex<bool>, Condvar)>,
    thread: Option<JoinHandle<()>>,
}

impl Probing {
    /// Begins to ask `probe`; an `Err` is why the process is not ready.
    pub fn start(
        health: Arc<Health>,
        probe: impl Fn() -> Result<(), String> + Send + 'static,
    ) -> Self {
        let over = Arc::new((Mutex::new(false), Condvar::new()));
        let seen_by_thread = Arc::clone(&over);
        let spawned = thread::Builder::new()
            .name("probe".to_owned())
            .spawn(move || {
                let (flag, changed) = &*seen_by_thread;
                let mut is_over = *flag.lock().unwrap_or_else(PoisonError::into_inner);
                while !is_over {
                    match probe() {
                        Ok(()) => health.set_ready(),
                        Err(reason) => health.set_not_ready(&reason),
                    }
                    let flag = flag.lock().unwrap_or_else(PoisonError::into_inner);
                    let (flag, _) = changed
                        .wait_timeout_while(flag, PROBE_PERIOD, |over| !*over)
                        .unwrap_or_else(PoisonError::into_inner);
                    is_over = *flag;
                }
            });
        if let Err(error) = &spawned {
            warn!(%error, "cannot watch the connection; /readyz stays as it is");
        }
        Self {
            over,
            thread: spawned.ok(),
        }
    }
}

impl Drop for Probing {
    fn drop(&mut self) {
        let (flag, changed) = &*self.over;
        *flag.lock().unwrap_or_else(PoisonError::into_inner) = true;
        changed.notify_all();
        if let Some(thread) = self.thread.take() {
            // A panic while asking is no reason to fail the work.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpStream as Connection;

    use prometheus_client::metrics::counter::Counter;

    use super::*;
    use crate::shutdown::Signal;

    struct Served {
        health: Arc<Health>,
        shutdown: Shutdown,
        jobs: Counter,
        listening: Listening,
    }

    fn served() -> Served {
        let health = Arc::new(Health::default());
        let shutdown = Shutdown::new();
        let jobs: Counter = Counter::default();
        let mut registry = Registry::with_prefix("rollcall_test");
        registry.register("jobs", "Jobs that were done", jobs.clone());
        let address = (Ipv4Addr::LOCALHOST, 0).into();
        let listening = serve(address, Arc::clone(&health), registry, &shutdown);
        Served {
            health,
            shutdown,
            jobs,
            listening: listening.expect("a port is free"),
        }
    }

    /// The whole answer to these bytes.
    fn answer(served: &Served, request: &[u8]) -> String {
        let mut connection =
            Connection::connect(served.listening.address()).expect("it can be connected to");
        connection.write_all(request).expect("it can be written to");
        let mut answer = String::new();
        connection
            .read_to_string(&mut answer)
            .expect("it can be read");
        answer
    }

    fn get(served: &Served, path: &str) -> String {
        answer(
            served,
            format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes(),
        )
    }

    #[test]
    fn metrics_are_in_the_open_metrics_format_with_the_present_counts() {
        let served = served();
        served.jobs.inc_by(3);
        let answer = get(&served, "/metrics?name=x");
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        assert!(answer.contains(OPEN_METRICS), "{answer}");
        let body = "# HELP rollcall_test_jobs Jobs that were done.\n\
                    # TYPE rollcall_test_jobs counter\n\
                    rollcall_test_jobs_total 3\n\
                    # EOF\n";
        assert_eq!(answer.split_once("\r\n\r\n").expect("a body").1, body);
    }

    #[test]
    fn readiness_follows_the_health_and_ends_with_a_shutdown_request() {
        let served = served();
        let answer = get(&served, "/readyz");
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
        assert!(answer.ends_with("\r\n\r\nstarting\n"), "{answer}");
        served.health.set_ready();
        assert!(get(&served, "/readyz").starts_with("HTTP/1.1 200 "));
        served.shutdown.request(Signal::Terminate);
        let answer = get(&served, "/readyz");
        assert!(answer.ends_with("\r\n\r\nshutting down\n"), "{answer}");
        assert!(get(&served, "/livez").ends_with("\r\n\r\nok\n"));
    }

    #[test]
    fn other_methods_and_paths_are_refused() {
        let served = served();
        let answer_to = |head: &str| answer(&served, format!("{head}\r\n\r\n").as_bytes());
        assert!(get(&served, "/").starts_with("HTTP/1.1 404 "));
        let refused = answer_to("POST /metrics HTTP/1.1\r\nhost: x\r\ncontent-length: 0");
        assert!(refused.starts_with("HTTP/1.1 405 "), "{refused}");
        assert!(refused.contains("\r\nallow: GET, HEAD\r\n"), "{refused}");
        let head = answer_to("HEAD /livez HTTP/1.1\r\nhost: x");
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        assert!(head.contains("\r\ncontent-length: 3\r\n"), "{head}");
        assert!(head.ends_with("\r\n\r\n"), "{head}");
        assert!(answer_to("nonsense").starts_with("HTTP/1.1 400 "));
    }

    #[test]
    fn a_head_without_end_is_refused_at_its_bound() {
        let served = served();
        let mut head = b"GET /livez HTTP/1.1\r\nx: ".to_vec();
        head.resize(MAX_HEAD_BYTES + 1, b'a');
        assert!(answer(&served, &head).starts_with("HTTP/1.1 431 "));
        let many = format!(
            "GET / HTTP/1.1\r\n{}\r\n",
            "a: b\r\n".repeat(MAX_HEADERS + 1)
        );
        assert!(answer(&served, many.as_bytes()).starts_with("HTTP/1.1 431 "));
    }

    #[test]
    fn the_port_is_free_again_when_the_guard_is_dropped() {
        let served = served();
        let address = served.listening.address();
        let idle = Connection::connect(address).expect("it can be connected to");
        let taken = serve(
            address,
            Arc::default(),
            Registry::default(),
            &Shutdown::new(),
        );
        let error = taken.expect_err("it is taken").to_string();
        assert!(error.contains("--listen"), "{error}");
        // Not even a connection that says nothing keeps it.
        drop(served);
        assert!(Connection::connect(address).is_err());
        drop(idle);
    }

    #[test]
    fn a_port_alone_is_on_loopback() {
        assert_eq!(
            parse_address("9464").map(|address| address.to_string()),
            Ok("127.0.0.1:9464".to_owned())
        );
        assert_eq!(
            parse_address("0.0.0.0:9464").map(|address| address.to_string()),
            Ok("0.0.0.0:9464".to_owned())
        );
        assert!(parse_address("nonsense").is_err());
    }

    #[test]
    fn a_probe_decides_whether_it_is_ready() {
        let health = Arc::new(Health::default());
        let (asked, answers) = std::sync::mpsc::channel();
        let probing = Probing::start(Arc::clone(&health), move || {
            let _ = asked.send(());
            Err("no broker answers".to_owned())
        });
        answers.recv().expect("it was asked");
        // Joined, so that the answer is applied.
        drop(probing);
        assert_eq!(health.readiness(), Err("no broker answers".to_owned()));
    }
}
