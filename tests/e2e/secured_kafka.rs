//! A real Apache Kafka behind TLS, SCRAM and ACLs, with certificates and rights of the test's own
//! making. The test itself administers it and looks at it through a plain listener, on which nobody
//! else is told to come; the binaries are sent to the secured ones.

use std::fs;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use kafka::{BrokerArgs, Cluster};
use openssl::asn1::Asn1Time;
use openssl::bn::{BigNum, MsbOption};
use openssl::error::ErrorStack;
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::rsa::Rsa;
use openssl::x509::extension::{
    BasicConstraints, ExtendedKeyUsage, KeyUsage, SubjectAlternativeName,
};
use openssl::x509::{X509, X509Builder, X509NameBuilder};
use tempfile::TempDir;

use crate::apache_kafka::{ApacheKafka, Peculiarities};
use crate::cluster::TestCluster;
use crate::processes::wait_until;

/// The users that the broker knows. A stranger is known and allowed nothing.
pub const USERS: [&str; 8] = [
    "dispatcher",
    "worker",
    "aggregator",
    "run",
    "doctor",
    "runs",
    "dlq",
    "stranger",
];

/// The password of a user: nothing else in any test looks like it.
pub fn password(user: &str) -> String {
    format!("pw0rd-of-{user}-7Qx2kZ")
}

/// The documentation whose tables say who needs which right.
const DOCUMENTED: &str = include_str!("../../docs/security.md");

/// The broker, and the files by which one is let in.
pub struct SecuredKafka {
    broker: ApacheKafka,
    pub files: TempDir,
    /// Rights are given once each.
    granted: Mutex<Vec<Right>>,
}

/// One right of one user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Right {
    pub user: String,
    pub kind: Resource,
    pub name: String,
    pub is_prefix: bool,
    pub operation: Operation,
}

/// `org.apache.kafka.common.resource.ResourceType`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource {
    Topic = 2,
    Group = 3,
    TransactionalId = 5,
}

/// `org.apache.kafka.common.acl.AclOperation`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    Read = 3,
    Write = 4,
    Create = 5,
    Delete = 6,
    Describe = 8,
    DescribeConfigs = 10,
}

/// `org.apache.kafka.common.acl.AclPermissionType`. A denial beats what is allowed.
#[derive(Clone, Copy, Debug)]
enum Permission {
    Deny = 2,
    Allow = 3,
}

impl SecuredKafka {
    /// The broker that all tests of security share.
    #[track_caller]
    pub fn shared() -> &'static Self {
        static BROKER: OnceLock<SecuredKafka> = OnceLock::new();
        BROKER.get_or_init(Self::start)
    }

    #[track_caller]
    fn start() -> Self {
        let files = tempfile::tempdir().expect("a temporary folder");
        let path = |name: &str| files.path().join(name).display().to_string();
        let authority = Identity::authority("authority of the test").expect("an authority");
        let broker = Identity::of("broker", &authority).expect("a certificate");
        let write = |name: &str, text: &[u8]| fs::write(path(name), text).expect("written");
        write("authority.pem", &authority.certificate());
        write("broker.pem", &[broker.key(), broker.certificate()].concat());
        // A client's certificate, one that the broker does not trust, and an authority nobody has.
        let other = Identity::authority("another authority").expect("an authority");
        for (name, signed_by) in [("certified", &authority), ("forged", &other)] {
            let client = Identity::of("certified", signed_by).expect("a certificate");
            write(&format!("{name}.pem"), &client.certificate());
            write(&format!("{name}.key"), &client.key());
        }
        write("other-authority.pem", &other.certificate());

        let passwords: Vec<_> = USERS.iter().map(|user| (*user, password(user))).collect();
        let users: Vec<_> = passwords
            .iter()
            .map(|(user, password)| (*user, password.as_str()))
            .collect();
        let (keys, trusted) = (path("broker.pem"), path("authority.pem"));
        let broker = ApacheKafka::start_as(Peculiarities {
            settings: &[
                (
                    "listener.security.protocol.map",
                    "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SASL_SSL:SASL_SSL,SSL:SSL",
                ),
                ("ssl.keystore.type", "PEM"),
                ("ssl.keystore.location", &keys),
                ("ssl.truststore.type", "PEM"),
                ("ssl.truststore.location", &trusted),
                ("listener.name.ssl.ssl.client.auth", "required"),
                ("sasl.enabled.mechanisms", "SCRAM-SHA-512"),
                (
                    "listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config",
                    "org.apache.kafka.common.security.scram.ScramLoginModule required;",
                ),
                (
                    "authorizer.class.name",
                    "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
                ),
                // The test itself, and the broker for its controller.
                ("super.users", "User:ANONYMOUS"),
            ],
            listeners: &["SASL_SSL", "SSL"],
            users: &users,
            ..Peculiarities::default()
        });
        Self {
            broker,
            files,
            granted: Mutex::default(),
        }
    }

    /// A file that one is let in by.
    pub fn file(&self, name: &str) -> PathBuf {
        self.files.path().join(name)
    }

    /// Where users log in.
    pub fn for_users(&self) -> String {
        self.broker.listener("SASL_SSL")
    }

    /// Where a certificate is what one logs in by.
    pub fn for_certified(&self) -> String {
        self.broker.listener("SSL")
    }

    /// Topics and group of one test. The test itself sees them as they are; the binaries are sent to
    /// where users log in.
    #[track_caller]
    pub fn test(&self, prefix: &str) -> TestCluster {
        let mut test = TestCluster::on(&self.broker.bootstrap_servers(), prefix);
        test.bootstrap_servers = self.for_users();
        test
    }

    /// Everything that the broker has written down.
    pub fn data(&self) -> PathBuf {
        self.broker.data()
    }

    /// The properties by which a user logs in, a line each.
    pub fn properties(&self, user: &str) -> String {
        format!(
            "security.protocol=SASL_SSL\nsasl.mechanism=SCRAM-SHA-512\nsasl.username={user}\n\
             sasl.password={}\nssl.ca.location={}\n",
            password(user),
            self.file("authority.pem").display()
        )
    }

    /// A command as a user.
    pub fn as_user(&self, mut command: Command, user: &str) -> Command {
        command.env("KAFKA_PROPERTIES", self.properties(user));
        command
    }

    /// What a user sees of the cluster, without any binary in between.
    #[track_caller]
    pub fn cluster_of(&self, user: &str) -> Cluster {
        let args = BrokerArgs {
            bootstrap_servers: Some(self.for_users()),
            properties: Vec::new(),
            kafka_properties_file: None,
            properties_text: self.properties(user),
            broker_timeout: Duration::from_secs(60),
        };
        Cluster::new(&args, "e2e").expect("a cluster")
    }

    /// Gives a user what the documentation says that a program needs, for a prefix of topics.
    #[track_caller]
    pub fn grant_documented(&self, user: &str, program: &str, prefix: &str) {
        let rights = documented(program, user, prefix);
        assert!(
            !rights.is_empty(),
            "docs/security.md has no rights of {program}"
        );
        self.grant(&rights);
    }

    #[track_caller]
    pub fn grant(&self, rights: &[Right]) {
        let mut granted = self.granted.lock().unwrap_or_else(PoisonError::into_inner);
        let missing: Vec<_> = rights
            .iter()
            .filter(|right| !granted.contains(right))
            .cloned()
            .collect();
        if !missing.is_empty() {
            self.create_acls(&missing, Permission::Allow);
            granted.extend(missing);
        }
    }

    /// Takes rights away, whoever gave them.
    #[track_caller]
    pub fn deny(&self, rights: &[Right]) {
        self.create_acls(rights, Permission::Deny);
    }

    #[track_caller]
    fn create_acls(&self, rights: &[Right], permission: Permission) {
        let address = self.broker.bootstrap_servers();
        let codes = create_acls(&address, rights, permission).expect("the broker answers");
        assert_eq!(codes, vec![0; rights.len()], "{rights:?}");
        // The controller has them; the broker learns of them in order, a moment later.
        let last = rights.last().expect("one right at least");
        wait_until("the broker knows of the rights", || {
            is_known(&address, last, permission).expect("the broker answers")
        });
    }
}

/// The rights that the tables of docs/security.md give to a program: rows like
/// ``| `worker` | topic `PREFIX.jobs.v2` | Read | why |``, where a name that ends with `*` is a
/// prefix.
fn documented(program: &str, user: &str, prefix: &str) -> Vec<Right> {
    let mut rights = Vec::new();
    for row in DOCUMENTED.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<_> = row.split('|').map(str::trim).collect();
        let [_, of, resource, operations, ..] = cells.as_slice() else {
            continue;
        };
        if *of != format!("`{program}`") {
            continue;
        }
        let (kind, name) = resource.split_once(" `").expect("a kind and a name");
        let kind = match kind {
            "topic" => Resource::Topic,
            "group" => Resource::Group,
            "transactional id" => Resource::TransactionalId,
            other => panic!("{other}: no kind of resource"),
        };
        let name = name.trim_end_matches('`').replace("PREFIX", prefix);
        for operation in operations.split(',').map(str::trim) {
            rights.push(Right {
                user: user.to_owned(),
                kind,
                name: name.trim_end_matches('*').to_owned(),
                is_prefix: name.ends_with('*'),
                operation: match operation {
                    "Read" => Operation::Read,
                    "Write" => Operation::Write,
                    "Create" => Operation::Create,
                    "Delete" => Operation::Delete,
                    "Describe" => Operation::Describe,
                    "DescribeConfigs" => Operation::DescribeConfigs,
                    other => panic!("{other}: no right"),
                },
            });
        }
    }
    rights
}

/// Sends a `CreateAcls` request and returns the error code of each. (Kafka's own tool for it is not
/// among the broker's jars, and librdkafka's call has no safe wrapper.) The layout:
/// <https://kafka.apache.org/protocol#The_Messages_CreateAcls>, version 1.
fn create_acls(address: &str, rights: &[Right], permission: Permission) -> io::Result<Vec<i16>> {
    let mut body = Vec::new();
    body.extend((rights.len() as i32).to_be_bytes());
    for right in rights {
        right.write(&mut body, permission);
    }
    let response = ask(address, 30, &body)?;
    // Number of results; then code and nullable message of each.
    let mut rest = &response[4..];
    let mut codes = Vec::new();
    for _ in rights {
        codes.push(i16::from_be_bytes([rest[0], rest[1]]));
        let message = i16::from_be_bytes([rest[2], rest[3]]).max(0) as usize;
        rest = &rest[4 + message..];
    }
    Ok(codes)
}

/// Whether the broker itself knows of a right by now, which the controller has noted down. By
/// `DescribeAcls`, version 1, laid out as above.
fn is_known(address: &str, right: &Right, permission: Permission) -> io::Result<bool> {
    let mut filter = Vec::new();
    right.write(&mut filter, permission);
    let response = ask(address, 29, &filter)?;
    // Code and nullable message, then the number of resources that match.
    let message = i16::from_be_bytes([response[2], response[3]]).max(0) as usize;
    let count = &response[4 + message..];
    Ok(i32::from_be_bytes([count[0], count[1], count[2], count[3]]) > 0)
}

impl Right {
    fn write(&self, request: &mut Vec<u8>, permission: Permission) {
        let string = |request: &mut Vec<u8>, text: &str| {
            request.extend((text.len() as i16).to_be_bytes());
            request.extend(text.as_bytes());
        };
        request.push(self.kind as u8);
        string(request, &self.name);
        request.push(if self.is_prefix { 4 } else { 3 });
        string(request, &format!("User:{}", self.user));
        string(request, "*");
        request.push(self.operation as u8);
        request.push(permission as u8);
    }
}

/// Sends a request of version 1 and returns what comes after correlation id and throttle time.
fn ask(address: &str, api: i16, body: &[u8]) -> io::Result<Vec<u8>> {
    static CORRELATION: AtomicI32 = AtomicI32::new(1);
    let mut request = Vec::new();
    request.extend(api.to_be_bytes());
    request.extend(1_i16.to_be_bytes()); // version
    request.extend(CORRELATION.fetch_add(1, Ordering::Relaxed).to_be_bytes());
    request.extend((-1_i16).to_be_bytes()); // no client id
    request.extend(body);
    let mut broker = TcpStream::connect(address)?;
    broker.set_read_timeout(Some(Duration::from_secs(30)))?;
    broker.write_all(&[&(request.len() as i32).to_be_bytes(), request.as_slice()].concat())?;
    let mut length = [0; 4];
    broker.read_exact(&mut length)?;
    let mut response = vec![0; i32::from_be_bytes(length) as usize];
    broker.read_exact(&mut response)?;
    Ok(response.split_off(8))
}

/// A certificate and its key.
struct Identity {
    certificate: X509,
    key: PKey<Private>,
}

impl Identity {
    /// Who signs others.
    fn authority(name: &str) -> Result<Self, ErrorStack> {
        let key = PKey::from_rsa(Rsa::generate(2_048)?)?;
        let mut builder = Self::builder(name, &key)?;
        builder.append_extension(BasicConstraints::new().critical().ca().build()?)?;
        builder.append_extension(
            KeyUsage::new()
                .critical()
                .key_cert_sign()
                .crl_sign()
                .build()?,
        )?;
        let subject = Self::name(name)?;
        builder.set_issuer_name(&subject)?;
        builder.sign(&key, MessageDigest::sha256())?;
        let certificate = builder.build();
        Ok(Self { certificate, key })
    }

    /// A broker or client on this machine.
    fn of(name: &str, authority: &Self) -> Result<Self, ErrorStack> {
        let key = PKey::from_rsa(Rsa::generate(2_048)?)?;
        let mut builder = Self::builder(name, &key)?;
        builder.set_issuer_name(authority.certificate.subject_name())?;
        builder.append_extension(BasicConstraints::new().build()?)?;
        let usage = ExtendedKeyUsage::new()
            .server_auth()
            .client_auth()
            .build()?;
        builder.append_extension(usage)?;
        let context = builder.x509v3_context(Some(&authority.certificate), None);
        let names = SubjectAlternativeName::new()
            .ip("127.0.0.1")
            .build(&context)?;
        builder.append_extension(names)?;
        builder.sign(&authority.key, MessageDigest::sha256())?;
        let certificate = builder.build();
        Ok(Self { certificate, key })
    }

    fn name(name: &str) -> Result<openssl::x509::X509Name, ErrorStack> {
        let mut subject = X509NameBuilder::new()?;
        subject.append_entry_by_nid(Nid::COMMONNAME, name)?;
        Ok(subject.build())
    }

    fn builder(name: &str, key: &PKey<Private>) -> Result<X509Builder, ErrorStack> {
        let mut builder = X509::builder()?;
        builder.set_version(2)?;
        let mut serial = BigNum::new()?;
        serial.rand(128, MsbOption::MAYBE_ZERO, false)?;
        let serial = serial.to_asn1_integer()?;
        builder.set_serial_number(&serial)?;
        let subject = Self::name(name)?;
        builder.set_subject_name(&subject)?;
        builder.set_pubkey(key)?;
        let (from, to) = (Asn1Time::days_from_now(0)?, Asn1Time::days_from_now(2)?);
        builder.set_not_before(&from)?;
        builder.set_not_after(&to)?;
        Ok(builder)
    }

    fn certificate(&self) -> Vec<u8> {
        self.certificate.to_pem().expect("it can be written")
    }

    fn key(&self) -> Vec<u8> {
        self.key
            .private_key_to_pem_pkcs8()
            .expect("it can be written")
    }
}
