//! The options by which every binary finds its cluster.

use std::time::Duration;

use clap::Args;

/// The variable with more properties: the place for secrets, which every user of a machine could
/// read on a command line. One `key=value` a line; empty lines and those that begin with `#` are
/// passed over; `\n` in a value is a line break, and `\\` a backslash.
pub const PROPERTIES_VARIABLE: &str = "KAFKA_PROPERTIES";

/// The cluster and how to speak to it.
#[derive(Args, Clone, Debug)]
pub struct BrokerArgs {
    /// Brokers to begin with, as host:port, separated by commas
    #[arg(long, env = "KAFKA_BOOTSTRAP_SERVERS", value_name = "HOST:PORT,…")]
    pub bootstrap_servers: Option<String>,

    /// Set any librdkafka property, as key=value (may be given more than once); for secrets there
    /// is the variable KAFKA_PROPERTIES, with a property a line
    #[arg(short = 'X', value_name = "KEY=VALUE", value_parser = parse_property)]
    pub properties: Vec<(String, String)>,

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

fn parse_property(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.trim().is_empty() => {
            Ok((key.trim().to_owned(), value.to_owned()))
        }
        _ => Err("expected key=value".to_owned()),
    }
}

/// The properties in a text like that of [`PROPERTIES_VARIABLE`].
pub(crate) fn parse_properties(text: &str) -> Result<Vec<(String, String)>, String> {
    let lines = text.lines().map(str::trim);
    lines
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| {
            let (key, value) = parse_property(line)?;
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
        assert!(parse_properties("nonsense").is_err());
    }

    #[test]
    fn a_property_may_have_an_equals_sign_in_its_value() {
        let parsed = parse_property("sasl.jaas.config=a=b");
        assert_eq!(parsed, Ok(("sasl.jaas.config".into(), "a=b".into())));
        assert!(parse_property("acks").is_err());
        assert!(parse_property("=x").is_err());
    }
}
