//! The options by which every binary finds its cluster.

use std::convert::Infallible;
use std::fmt;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use crate::error::Error;

/// The variable with more properties: the place for secrets, which every user of a machine could
/// read on a command line. One `key=value` a line; empty lines and those that begin with `#` are
/// passed over; `\n` in a value is a line break, and `\\` a backslash.
pub const PROPERTIES_VARIABLE: &str = "KAFKA_PROPERTIES";

/// The cluster and how to speak to it.
#[derive(Args, Clone)]
pub struct BrokerArgs {
    /// Brokers to begin with, as host:port, separated by commas
    #[arg(long, env = "KAFKA_BOOTSTRAP_SERVERS", value_name = "HOST:PORT,…")]
    pub bootstrap_servers: Option<String>,

    /// Set any librdkafka property, as key=value (may be given more than once), such as
    /// security.protocol=SASL_SSL; secrets are for --kafka-properties-file or the variable
    /// KAFKA_PROPERTIES, with a property a line
    #[arg(short = 'X', value_name = "KEY=VALUE", value_parser = property_option)]
    pub properties: Vec<(String, String)>,

    /// File of librdkafka properties, a line each; KAFKA_PROPERTIES and -X are heeded before it
    #[arg(long, env = "KAFKA_PROPERTIES_FILE", value_name = "FILE")]
    pub kafka_properties_file: Option<PathBuf>,

    /// The text of KAFKA_PROPERTIES.
    #[arg(
        long = "kafka-properties",
        env = PROPERTIES_VARIABLE,
        hide = true,
        hide_env_values = true,
        default_value = ""
    )]
    pub properties_text: String,

    /// How long to wait for a broker that is not there yet
    #[arg(
        long,
        value_name = "DURATION",
        default_value = "60s",
        value_parser = humantime::parse_duration
    )]
    pub broker_timeout: Duration,
}

/// Properties may hold secrets, so only their names are shown.
impl fmt::Debug for BrokerArgs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys: Vec<_> = self.properties.iter().map(|(key, _)| key).collect();
        f.debug_struct("BrokerArgs")
            .field("bootstrap_servers", &self.bootstrap_servers)
            .field("properties", &keys)
            .field("kafka_properties_file", &self.kafka_properties_file)
            .field("broker_timeout", &self.broker_timeout)
            .finish_non_exhaustive()
    }
}

impl BrokerArgs {
    /// All properties that are given: those of the file, of the variable, and of `-X`. Of two with
    /// the same name the later one counts.
    ///
    /// # Errors
    /// When the file cannot be read, or a line is no property.
    pub fn all_properties(&self) -> Result<Vec<(String, String)>, Error> {
        let mut all = Vec::new();
        // Set and empty is not given, as compose files leave it.
        let file = self.kafka_properties_file.as_ref();
        if let Some(path) = file.filter(|path| !path.as_os_str().is_empty()) {
            let text = fs::read_to_string(path).map_err(|source| Error::PropertiesFile {
                path: path.clone(),
                source,
            })?;
            let name = path.display().to_string();
            all.extend(parse_properties(&text).map_err(|line| Error::PropertyLine { name, line })?);
        }
        let in_variable = parse_properties(&self.properties_text);
        all.extend(in_variable.map_err(|line| Error::PropertyLine {
            name: PROPERTIES_VARIABLE.to_owned(),
            line,
        })?);
        all.extend(self.properties.iter().cloned());
        match all.iter().any(|(key, _)| key.is_empty()) {
            true => Err(Error::PropertyOption),
            false => Ok(all),
        }
    }
}

/// What `-X` is given. What is no property has no key, and is refused by
/// [`BrokerArgs::all_properties`]: clap would show it, and it may be a secret.
fn property_option(text: &str) -> Result<(String, String), Infallible> {
    Ok(parse_property(text).unwrap_or_default())
}

/// The value of a property among those that are given: of several with this name the last counts.
pub fn property<'a>(properties: &'a [(String, String)], key: &str) -> Option<&'a str> {
    let mut named = properties.iter().filter(|(known, _)| known == key);
    named.next_back().map(|(_, value)| value.as_str())
}

fn parse_property(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if is_key(key.trim()) => Ok((key.trim().to_owned(), value.to_owned())),
        _ => Err("expected key=value".to_owned()),
    }
}

/// Whether a text may be the name of a property. Other texts are never printed, because a secret may
/// end in equals signs.
fn is_key(text: &str) -> bool {
    let may_be =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-".contains(&byte);
    !text.is_empty() && text.bytes().all(may_be)
}

/// The properties in a text like that of [`PROPERTIES_VARIABLE`]; or the number, from 1, of the first
/// line that is not a property.
fn parse_properties(text: &str) -> Result<Vec<(String, String)>, usize> {
    let lines = (1_usize..).zip(text.lines().map(str::trim));
    lines
        .filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
        .map(|(number, line)| {
            let (key, value) = parse_property(line).map_err(|_| number)?;
            Ok((key, unescape(&value)))
        })
        .collect()
}

/// Properties as a text for [`PROPERTIES_VARIABLE`].
pub fn write_properties(properties: &[(String, String)]) -> String {
    let lines = properties.iter().map(|(key, value)| {
        let value = value.replace('\\', "\\\\").replace('\n', "\\n");
        format!("{key}={value}\n")
    });
    lines.collect()
}

fn unescape(value: &str) -> String {
    let mut plain = String::with_capacity(value.len());
    let mut letters = value.chars();
    while let Some(letter) = letters.next() {
        if letter != '\\' {
            plain.push(letter);
            continue;
        }
        match letters.next() {
            Some('n') => plain.push('\n'),
            Some(other) => plain.push(other),
            None => plain.push('\\'),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn properties_come_back_from_the_variable_with_line_breaks_and_backslashes() {
        let properties = [
            ("ssl.ca.pem".to_owned(), "-----BEGIN\nabc\n".to_owned()),
            ("sasl.password".to_owned(), "a\\n=b".to_owned()),
        ];
        let text = format!("\n# a comment\n{}", write_properties(&properties));
        assert_eq!(parse_properties(&text), Ok(properties.to_vec()));
        assert_eq!(parse_properties("\n"), Ok(Vec::new()));
        assert_eq!(parse_properties("\na=b\nnonsense"), Err(3));
    }

    fn args() -> BrokerArgs {
        BrokerArgs {
            bootstrap_servers: Some("127.0.0.1:1".to_owned()),
            properties: vec![("sasl.password".to_owned(), "hunter2".to_owned())],
            kafka_properties_file: None,
            properties_text: "sasl.password=hunter3\nsasl.username=alice\n".to_owned(),
            broker_timeout: Duration::from_secs(1),
        }
    }

    #[test]
    fn the_command_line_beats_the_variable_and_the_variable_beats_the_file() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        fs::write(file.path(), "sasl.username=bob\nclient.rack=a\n").expect("written");
        let args = BrokerArgs {
            kafka_properties_file: Some(file.path().to_owned()),
            ..args()
        };
        let all = args.all_properties().expect("properties");
        let last = |key: &str| {
            let mut values = all.iter().filter(|(known, _)| known == key);
            values.next_back().map(|(_, value)| value.as_str())
        };
        assert_eq!(last("client.rack"), Some("a"));
        assert_eq!(last("sasl.username"), Some("alice"));
        assert_eq!(last("sasl.password"), Some("hunter2"));
    }

    #[test]
    fn no_secret_is_shown_by_debug_or_in_the_error_of_a_line() {
        let shown = format!("{:?}", args());
        assert!(!shown.contains("hunter"), "{shown}");
        assert!(shown.contains("sasl.password"), "{shown}");
        let args = BrokerArgs {
            properties_text: "# user\nhunter4".to_owned(),
            ..args()
        };
        let error = args.all_properties().expect_err("no property");
        let shown = format!("{error} {error:?}");
        assert!(
            shown.contains("KAFKA_PROPERTIES") && shown.contains("line 2"),
            "{shown}"
        );
        assert!(!shown.contains("hunter"), "{shown}");
    }

    #[test]
    fn a_property_may_have_an_equals_sign_in_its_value() {
        let parsed = parse_property("sasl.jaas.config=a=b");
        assert_eq!(parsed, Ok(("sasl.jaas.config".into(), "a=b".into())));
        assert!(parse_property("acks").is_err());
        assert!(parse_property("=x").is_err());
    }
}
