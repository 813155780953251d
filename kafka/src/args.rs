//! The options by which every binary finds its cluster.

use std::time::Duration;

use clap::Args;

/// The variable with the properties of `-X`, one a line: the place for secrets, which every user of
/// a machine could read on a command line.
pub const PROPERTIES_VARIABLE: &str = "KAFKA_PROPERTIES";

/// The cluster and how to speak to it.
#[derive(Args, Clone, Debug)]
pub struct BrokerArgs {
    /// Brokers to begin with, as host:port, separated by commas
    #[arg(long, env = "KAFKA_BOOTSTRAP_SERVERS", value_name = "HOST:PORT,…")]
    pub bootstrap_servers: Option<String>,

    /// Set any librdkafka property, as key=value (may be given more than once)
    #[arg(
        short = 'X',
        env = PROPERTIES_VARIABLE,
        hide_env_values = true,
        value_name = "KEY=VALUE",
        value_delimiter = '\n',
        value_parser = parse_property
    )]
    pub properties: Vec<(String, String)>,

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_property_may_have_an_equals_sign_in_its_value() {
        let parsed = parse_property("sasl.jaas.config=a=b");
        assert_eq!(parsed, Ok(("sasl.jaas.config".into(), "a=b".into())));
        assert!(parse_property("acks").is_err());
        assert!(parse_property("=x").is_err());
    }
}
