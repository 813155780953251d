//! Obtains and starts a real Apache Kafka, so that whole runs are tested on the broker they are made
//! for. The jars come from Maven Central (`tests/kafka/pom.xml`), once, into a cache outside the
//! checkout; the broker listens on free ports of 127.0.0.1 and ends with the test process, however
//! that ends.
//!
//! It needs `java` (17 or newer) and, for the first run, `mvn`. Without them a test that asks for the
//! broker fails and says what to install; it is never skipped.

use std::fs::{self, File};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};
use std::{env, iter, path, thread};

use tempfile::TempDir;

/// Names the jars, and so the version of the broker.
const POM: &str = include_str!("../kafka/pom.xml");

/// Ends the message that `java` is missing.
const INSTALL_JAVA: &str = "install Java 17 or newer, for example by \
    `apt-get install openjdk-17-jre-headless` or `brew install openjdk`";

/// Ends the message that `mvn` is missing.
const INSTALL_MAVEN: &str = "install Apache Maven, which fetches the broker once, for example by \
    `apt-get install maven` or `brew install maven`";

/// A start takes 2 s, on a machine that is busy compiling 3 to 5 s; three at once on a very busy one
/// were seen to take 65 s.
const START_DEADLINE: Duration = Duration::from_secs(180);

/// With the first compiler alone the broker is up after 1.8 s instead of 2.3 s, on a busy machine after
/// 2.9 s instead of 4.3 s (wrong for a benchmark, right for a test). No performance data: it would be
/// a file in `/tmp` which a killed broker leaves there.
const JVM_OPTIONS: [&str; 5] = [
    "-Xms256m",
    "-Xmx768m",
    "-XX:TieredStopAtLevel=1",
    "-XX:-UsePerfData",
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
];

/// One node that is broker and controller. Its internal topics have one replica and few partitions,
/// and a group's first member does not wait for others: both shorten the first join. As in the compose
/// file, it looks each second for transactions that have taken too long.
const SERVER_PROPERTIES: &str = "\
process.roles=broker,controller
node.id=1
controller.listener.names=CONTROLLER
auto.create.topics.enable=false
group.initial.rebalance.delay.ms=0
offsets.topic.num.partitions=5
offsets.topic.replication.factor=1
transaction.state.log.num.partitions=5
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.abort.timed.out.transaction.cleanup.interval.ms=1000
share.coordinator.state.topic.num.partitions=5
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
";

/// After a kill the controller first waits for the session of the broker that was: with the default
/// of 9 s a restart takes 12 s, with these 2 s. The shared broker, which is never killed, keeps the
/// default, so that a busy machine cannot fence it.
const RESTARTABLE: [(&str, &str); 2] = [
    ("broker.session.timeout.ms", "1000"),
    ("broker.heartbeat.interval.ms", "200"),
];

/// Begins the name of a directory that a download is going on in.
const PARTIAL: &str = "partial-";

/// What `java` prints, in the broker's directory.
const LOG: &str = "broker.log";

/// Any 16 bytes in base64.
const CLUSTER_ID: &str = "cm9sbGNhbGwtdGVzdC0wMQ";

/// What a broker has that others have not.
#[derive(Clone, Copy, Debug, Default)]
pub struct Peculiarities<'a> {
    /// Keys and values of `server.properties` that override the ones used here.
    pub settings: &'a [(&'a str, &'a str)],
    /// Listeners beside the plain one, each named as its protocol.
    pub listeners: &'a [&'a str],
    /// Users who log in by SCRAM-SHA-512: names and passwords.
    pub users: &'a [(&'a str, &'a str)],
    /// Further options of its virtual machine; the last of two that contradict each other counts.
    pub jvm_options: &'static [&'static str],
}

/// Where a broker and its controller listen: ports of 127.0.0.1 that nobody else has.
#[derive(Debug)]
pub struct Ports {
    pub broker: u16,
    pub controller: u16,
    /// Kept from everybody until the broker takes them.
    held: [TcpListener; 2],
}

impl Ports {
    pub fn free() -> Result<Self, String> {
        let (broker, for_clients) = free_port()?;
        let (controller, for_controller) = free_port()?;
        Ok(Self {
            broker,
            controller,
            held: [for_clients, for_controller],
        })
    }
}

/// A node of Apache Kafka on 127.0.0.1, by default one that is a cluster by itself. Dropping it kills
/// it and removes its data.
#[derive(Debug)]
pub struct ApacheKafka {
    libs: PathBuf,
    port: u16,
    /// Names and ports of the listeners beside the plain one.
    listeners: Vec<(String, u16)>,
    jvm_options: &'static [&'static str],
    java: Option<Child>,
    watchdog: Watchdog,
}

impl ApacheKafka {
    /// The broker that the whole test binary shares, started by whoever asks first.
    ///
    /// Topics, groups and transactional ids are to be named per test.
    ///
    /// # Panics
    /// When it cannot be obtained or started, with the reason; for every caller, without a second try.
    #[track_caller]
    pub fn shared() -> &'static Self {
        static BROKER: OnceLock<Result<ApacheKafka, String>> = OnceLock::new();
        match BROKER.get_or_init(|| Self::launch(Ports::free()?, Peculiarities::default())) {
            Ok(broker) => broker,
            Err(reason) => panic!("{reason}"),
        }
    }

    /// A broker of the caller's own: to be killed and restarted, or with `settings`, keys and values of
    /// `server.properties` that override the ones used here.
    ///
    /// # Panics
    /// When it cannot be obtained or started, with the reason.
    #[track_caller]
    pub fn start(settings: &[(&str, &str)]) -> Self {
        let settings = [&RESTARTABLE, settings].concat();
        Self::start_as(Peculiarities {
            settings: &settings,
            ..Peculiarities::default()
        })
    }

    /// A broker of the caller's own.
    ///
    /// # Panics
    /// When it cannot be obtained or started, with the reason.
    #[track_caller]
    pub fn start_as(peculiarities: Peculiarities<'_>) -> Self {
        match Ports::free().and_then(|ports| Self::launch(ports, peculiarities)) {
            Ok(broker) => broker,
            Err(reason) => panic!("{reason}"),
        }
    }

    /// `host:port`, the value of `bootstrap.servers`. It stays the same over a restart.
    pub fn bootstrap_servers(&self) -> String {
        format!("{}:{}", Ipv4Addr::LOCALHOST, self.port)
    }

    /// Where it keeps what clients send it, metadata of commits included.
    pub fn data(&self) -> PathBuf {
        self.watchdog.directory.join("data")
    }

    /// The same of the listener of this name.
    ///
    /// # Panics
    /// When it was not asked for.
    #[track_caller]
    pub fn listener(&self, name: &str) -> String {
        let listeners = &self.listeners;
        let (_, port) = listeners.iter().find(|(known, _)| known == name).unwrap();
        format!("{}:{port}", Ipv4Addr::LOCALHOST)
    }

    /// The process of the broker, while it is there.
    pub fn process_id(&self) -> Option<u32> {
        self.java.as_ref().map(Child::id)
    }

    /// Kills the broker as `kill -9` does and returns when it is gone. Its data stays.
    pub fn kill(&mut self) {
        if let Some(mut java) = self.java.take() {
            // Neither can fail for a child that nobody else waits for, and `drop` must not panic.
            let _ = java.kill();
            let _ = java.wait();
            self.watchdog.stand_down();
        }
    }

    /// Kills the broker if it runs, starts it on the same ports and data, and returns when it answers.
    ///
    /// # Panics
    /// When it does not come up again, with the end of its log.
    #[track_caller]
    pub fn restart(&mut self) {
        self.kill();
        if let Err(reason) = self.start_and_await() {
            panic!("{reason}");
        }
    }

    /// Jars, directory, settings, format, start: in this order. Returns when the broker answers, which
    /// one of several does when it has found enough of the others.
    pub fn launch(ports: Ports, peculiarities: Peculiarities<'_>) -> Result<Self, String> {
        run(Command::new("java").arg("-version"), INSTALL_JAVA)?;
        let libs = libs()?;
        let started = Instant::now();

        let directory = tempfile::Builder::new()
            .prefix("rollcall-kafka-")
            .tempdir()
            .map_err(|error| format!("cannot make a directory for the broker: {error}"))?;
        let watchdog = Watchdog::start(directory)?;
        let mut listeners = vec![("PLAINTEXT".to_owned(), ports.broker)];
        let mut for_others = Vec::new();
        for name in peculiarities.listeners {
            let (port, kept) = free_port()?;
            listeners.push(((*name).to_owned(), port));
            for_others.push(kept);
        }
        let directory = &watchdog.directory;
        let settings = peculiarities.settings;
        let properties = server_properties(directory, &listeners, ports.controller, settings);
        fs::write(watchdog.directory.join("server.properties"), properties)
            .map_err(|error| format!("cannot write server.properties: {error}"))?;

        let mut broker = Self {
            libs,
            port: ports.broker,
            listeners,
            jvm_options: peculiarities.jvm_options,
            java: None,
            watchdog,
        };
        broker.format(peculiarities.users)?;
        drop((ports.held, for_others));
        broker.start_and_await()?;

        // Not `eprintln!`, which libtest captures: the output of CI has to say what its tests ran on.
        let _ = writeln!(
            io::stderr(),
            "Apache Kafka {} on {} (real broker), started in {:.1} s",
            version(),
            broker.bootstrap_servers(),
            started.elapsed().as_secs_f64(),
        );
        Ok(broker)
    }

    /// Prepares the directory, as every KRaft broker's has to be before its first start.
    fn format(&mut self, users: &[(&str, &str)]) -> Result<(), String> {
        let tool = "kafka.tools.StorageTool";
        let users: Vec<String> = users
            .iter()
            .map(|(name, password)| format!("SCRAM-SHA-512=[name={name},password={password}]"))
            .collect();
        let mut arguments = vec![tool, "format", "-t", CLUSTER_ID, "-c", "server.properties"];
        for user in &users {
            arguments.extend(["--add-scram", user]);
        }
        let status = self
            .spawn(&arguments)?
            .wait()
            .map_err(|error| format!("cannot wait for {tool}: {error}"))?;
        self.kill(); // it has ended, so this only makes the watchdog forget it
        if !status.success() {
            return Err(self.failure(&format!("{tool} failed ({status})")));
        }
        Ok(())
    }

    /// Starts the broker's process and returns when it answers.
    fn start_and_await(&mut self) -> Result<(), String> {
        let port = self.port;
        let java = self.spawn(&["kafka.Kafka", "server.properties"])?;
        let deadline = Instant::now() + START_DEADLINE;
        let what = loop {
            if answers(port) {
                return Ok(());
            }
            match java.try_wait() {
                Ok(None) if Instant::now() < deadline => {
                    thread::sleep(Duration::from_millis(20));
                }
                Ok(None) => break format!("did not answer within {START_DEADLINE:?}"),
                Ok(Some(status)) => break format!("ended ({status})"),
                Err(error) => break format!("is lost: {error}"),
            }
        };
        self.kill();
        Err(self.failure(&format!("the broker {what}")))
    }

    /// Starts `java` with the broker's jars in its directory, which takes its output and its temporary
    /// files too.
    ///
    /// What is started is a shell that becomes `java` when it is told to, after the watchdog has its
    /// process id: if this process is killed in between, the shell reads the end of its input and ends.
    fn spawn(&mut self, arguments: &[&str]) -> Result<&mut Child, String> {
        let fail = |error: io::Error| format!("cannot start java: {error}");
        let directory = &self.watchdog.directory;
        let log = File::options()
            .create(true)
            .append(true)
            .open(directory.join(LOG))
            .map_err(fail)?;
        let mut java = Command::new("sh")
            .args(["-c", r#"read -r go && exec "$0" "$@""#, "java"])
            .args(JVM_OPTIONS)
            .args(self.jvm_options)
            .arg(format!("-Djava.io.tmpdir={}", directory.display()))
            .arg("-cp")
            .arg(self.libs.join("*"))
            .args(arguments)
            .current_dir(directory)
            .stdin(Stdio::piped())
            .stdout(log.try_clone().map_err(fail)?)
            .stderr(log)
            .spawn()
            .map_err(fail)?;
        let go = java.stdin.take();
        let java = self.java.insert(java);
        self.watchdog.guard(java)?;
        go.ok_or(ErrorKind::BrokenPipe.into())
            .and_then(|mut go| go.write_all(b"go\n"))
            .map_err(fail)?;
        Ok(java)
    }

    /// What went wrong, with the end of the log.
    fn failure(&self, what: &str) -> String {
        let log = match fs::read(self.watchdog.directory.join(LOG)) {
            Ok(log) => without_frames(&log),
            Err(error) => format!("no log: {error}"),
        };
        format!(
            "Apache Kafka {}: {what}; the end of its log:\n{log}",
            version()
        )
    }
}

impl Drop for ApacheKafka {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Kills the broker and removes its directory when this process ends.
///
/// Rust drops no statics, and nobody drops anything after `kill -9`. So a shell waits at the other end
/// of a pipe which the kernel closes when this process is gone. (Nothing else holds it open: Rust opens
/// its pipes close-on-exec.) It is in a process group of its own, so that Ctrl-C does not end it first.
#[derive(Debug)]
struct Watchdog {
    directory: PathBuf,
    shell: Child,
    pipe: Option<ChildStdin>,
}

impl Watchdog {
    /// Each line is the process id to kill at the end of the input, an empty one means none. Removing is
    /// tried again because a killed broker may still be about to create a file.
    const SCRIPT: &str = r#"
        trap '' HUP INT TERM
        pid=
        while read -r line; do pid=$line; done
        if [ -n "$pid" ]; then kill -9 "$pid"; fi
        for try in 1 2 3 4 5 6 7 8 9 10; do rm -rf "$1" && break; sleep 0.2; done
    "#;

    /// Takes over the removal of `directory`.
    fn start(directory: TempDir) -> Result<Self, String> {
        let mut shell = Command::new("sh")
            .args(["-c", Self::SCRIPT, "sh"])
            .arg(directory.path())
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| format!("cannot start the broker's watchdog: {error}"))?;
        Ok(Self {
            directory: directory.keep(),
            pipe: shell.stdin.take(),
            shell,
        })
    }

    /// From now on `broker` ends when this process does.
    fn guard(&mut self, broker: &Child) -> Result<(), String> {
        self.tell(&broker.id().to_string())
            .map_err(|error| format!("the broker's watchdog is gone: {error}"))
    }

    /// The broker is gone; its process id may soon be another's.
    fn stand_down(&mut self) {
        // If the watchdog is gone, it kills nobody.
        let _ = self.tell("");
    }

    /// Writes one line at once: a part of one would be ignored.
    fn tell(&mut self, process_id: &str) -> io::Result<()> {
        let line = format!("{process_id}\n");
        self.pipe
            .as_mut()
            .map_or(Ok(()), |pipe| pipe.write_all(line.as_bytes()))
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.pipe = None;
        let _ = self.shell.wait();
    }
}

/// The version that the pom names.
fn version() -> &'static str {
    POM.split_once("<kafka.version>")
        .and_then(|(_, rest)| rest.split_once("</kafka.version>"))
        .expect("the pom has the property kafka.version")
        .0
}

/// The directory of the broker's jars, which are downloaded if this is the first time.
fn libs() -> Result<PathBuf, String> {
    let cache = cache()?.join(format!("kafka-{}", version()));
    let libs = cache.join("libs");
    if !libs.is_dir() {
        download(&cache, &libs).map_err(|reason| {
            format!(
                "cannot get the jars of Apache Kafka {}: {reason}",
                version()
            )
        })?;
    }
    Ok(libs)
}

/// `$ROLLCALL_CACHE`, else `$XDG_CACHE_HOME/rollcall`, else `$HOME/.cache/rollcall`.
pub fn cache() -> Result<PathBuf, String> {
    let set = |name| env::var_os(name).filter(|value| !value.is_empty());
    let cache = set("ROLLCALL_CACHE")
        .map(PathBuf::from)
        .or_else(|| Some(Path::new(&set("XDG_CACHE_HOME")?).join("rollcall")))
        .or_else(|| Some(Path::new(&set("HOME")?).join(".cache/rollcall")))
        .ok_or("no place for what tests fetch: set HOME, XDG_CACHE_HOME or ROLLCALL_CACHE")?;
    path::absolute(&cache).map_err(|error| format!("{}: {error}", cache.display()))
}

/// Downloads the jars so that `libs` is there complete or not at all. One process does it while others
/// wait. The lock ends with the process that holds it; what an interrupted one left is removed first.
fn download(cache: &Path, libs: &Path) -> Result<(), String> {
    let place = |error: io::Error| format!("{}: {error}", cache.display());
    fs::create_dir_all(cache).map_err(place)?;
    let lock = File::create(cache.join("lock")).map_err(place)?;
    lock.lock().map_err(place)?;
    if libs.is_dir() {
        return Ok(());
    }

    for entry in fs::read_dir(cache).map_err(place)? {
        let entry = entry.map_err(place)?;
        if entry
            .file_name()
            .as_encoded_bytes()
            .starts_with(PARTIAL.as_bytes())
        {
            fs::remove_dir_all(entry.path()).map_err(place)?;
        }
    }
    let partial = tempfile::Builder::new()
        .prefix(PARTIAL)
        .tempdir_in(cache)
        .map_err(place)?;
    fs::write(partial.path().join("pom.xml"), POM).map_err(place)?;

    let _ = writeln!(
        io::stderr(),
        "downloading Apache Kafka {} from Maven Central, once (45 MB, to {})",
        version(),
        libs.display(),
    );
    run(
        Command::new("mvn")
            .args(["-q", "-B", "-f", "pom.xml"])
            .args(["dependency:copy-dependencies", "-DoutputDirectory=libs"])
            .current_dir(partial.path()),
        INSTALL_MAVEN,
    )?;
    fs::rename(partial.path().join("libs"), libs).map_err(place)
}

/// `server.properties` of a broker that keeps everything in `directory`. The last of two lines counts.
fn server_properties(
    directory: &Path,
    listeners: &[(String, u16)],
    controller_port: u16,
    settings: &[(&str, &str)],
) -> String {
    let host = Ipv4Addr::LOCALHOST;
    let listeners: Vec<String> = listeners
        .iter()
        .map(|(name, port)| format!("{name}://{host}:{port}"))
        .collect();
    let listeners = listeners.join(",");
    let mut properties = format!(
        "{SERVER_PROPERTIES}\
         log.dirs={directory}/data\n\
         listeners={listeners},CONTROLLER://{host}:{controller_port}\n\
         advertised.listeners={listeners}\n\
         controller.quorum.voters=1@{host}:{controller_port}\n",
        directory = directory.display(),
    );
    for (key, value) in settings {
        properties.push_str(&format!("{key}={value}\n"));
    }
    properties
}

/// A port that nobody listens on, and a listener which keeps it until it is dropped.
///
/// Not one of the kernel's choice, which are those of outgoing connections too: while the broker is
/// down, a client that tries to reconnect could be given the broker's port as its own.
pub fn free_port() -> Result<(u16, TcpListener), String> {
    iter::repeat_with(|| 15_000 + (RandomState::new().hash_one(()) % 15_000) as u16)
        .take(100)
        .find_map(|port| Some((port, TcpListener::bind((Ipv4Addr::LOCALHOST, port)).ok()?)))
        .ok_or_else(|| "no free port on 127.0.0.1".to_owned())
}

/// Runs `command` to its end. What it printed is in the error if it fails, and how to `install` it if
/// it is missing.
pub fn run(command: &mut Command, install: &str) -> Result<(), String> {
    let program = command.get_program().display().to_string();
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|error| match error.kind() {
            ErrorKind::NotFound => format!("`{program}` is not on the PATH: {install}"),
            _ => format!("cannot start `{program}`: {error}"),
        })?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!(
        "`{program}` failed ({}):\n{}",
        output.status,
        without_frames(&[output.stdout, output.stderr].concat()),
    ))
}

/// Whether a broker answers on `port`. It opens it only after its controller has let it in.
fn answers(port: u16) -> bool {
    ask_api_versions(port).is_ok_and(|error_code| error_code == 0)
}

/// Sends an `ApiVersions` request, the one that every client begins with, and returns the error code.
/// The layout: <https://kafka.apache.org/protocol#The_Messages_ApiVersions>.
fn ask_api_versions(port: u16) -> io::Result<i16> {
    let mut broker = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    broker.set_read_timeout(Some(Duration::from_secs(1)))?;
    broker.write_all(
        &[
            [0, 0, 0, 10].as_slice(), // bytes that follow
            &[0, 18, 0, 0],           // ApiVersions, version 0
            &[0, 0, 0, 1],            // correlation id
            &[0xff, 0xff],            // no client id
        ]
        .concat(),
    )?;
    // Bytes that follow, correlation id, error code; the versions are left unread.
    let mut response = [0; 10];
    broker.read_exact(&mut response)?;
    Ok(i16::from_be_bytes([response[8], response[9]]))
}

/// The last lines of what a Java program printed, without the frames of stack traces.
fn without_frames(printed: &[u8]) -> String {
    let printed = String::from_utf8_lossy(printed);
    let lines: Vec<&str> = printed
        .lines()
        .filter(|line| !line.starts_with("\tat "))
        .collect();
    lines[lines.len().saturating_sub(40)..].join("\n")
}
