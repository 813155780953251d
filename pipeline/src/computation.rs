//! Which computation a run wants of its jobs: a name that workers know, and parameters. To the
//! protocol both are texts; what they mean is the matter of the computation.

use std::collections::BTreeMap;
use std::fmt;

use prost::Message;
use serde::Serialize;

use crate::error::DecodeError;
use crate::wire;

/// Name and parameters may have this many bytes together: each message carries them beside a job.
pub const MAX_COMPUTATION_BYTES: usize = 16 * 1024;

/// A computation's name and its parameters.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Computation {
    /// The name under which workers know it.
    pub name: String,
    /// Values of its parameters, by name.
    pub parameters: BTreeMap<String, String>,
}

impl Computation {
    /// A computation without parameters.
    pub fn named(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            parameters: BTreeMap::new(),
        }
    }

    /// The same with one more parameter.
    #[must_use]
    pub fn with(mut self, parameter: &str, value: impl Into<String>) -> Self {
        self.parameters.insert(parameter.to_owned(), value.into());
        self
    }

    /// The value of a parameter.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.get(name).map(String::as_str)
    }

    /// As it stands in a message. The same computation is always the same bytes.
    pub fn encode(&self) -> Vec<u8> {
        self.to_wire().encode_to_vec()
    }

    /// Reads what [`encode`](Self::encode) made.
    ///
    /// # Errors
    /// When the bytes are no `Computation`, name none, or are more than a message has room for.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        if bytes.len() > MAX_COMPUTATION_BYTES {
            return Err(invalid("it is too long"));
        }
        let wire = wire::Computation::decode(bytes).map_err(|source| DecodeError::Protobuf {
            message: "Computation",
            source,
        })?;
        Self::from_wire(wire)
    }

    pub(crate) fn to_wire(&self) -> wire::Computation {
        wire::Computation {
            name: self.name.clone(),
            parameters: self.parameters.clone(),
        }
    }

    pub(crate) fn from_wire(wire: wire::Computation) -> Result<Self, DecodeError> {
        if wire.name.is_empty() {
            return Err(invalid("it has no name"));
        }
        if wire.encoded_len() > MAX_COMPUTATION_BYTES {
            return Err(invalid("it is too long"));
        }
        Ok(Self {
            name: wire.name,
            parameters: wire.parameters,
        })
    }
}

fn invalid(what: &'static str) -> DecodeError {
    DecodeError::Invalid {
        message: "Computation",
        what,
    }
}

impl fmt::Display for Computation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        for (number, (name, value)) in self.parameters.iter().enumerate() {
            let before = if number == 0 { " (" } else { ", " };
            write!(f, "{before}{name}={value}")?;
        }
        if !self.parameters.is_empty() {
            f.write_str(")")?;
        }
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    #[test]
    fn a_computation_comes_back_and_is_shown_with_its_parameters() {
        let plain = Computation::named("count");
        let measured = Computation::named("measures").with("b", "2").with("a", "");
        for computation in [&plain, &measured] {
            let decoded = Computation::decode(&computation.encode());
            assert_eq!(&decoded.expect("a computation"), computation);
        }
        assert_eq!(plain.to_string(), "count");
        assert_eq!(measured.to_string(), "measures (a=, b=2)");
        assert_eq!(measured.parameter("b"), Some("2"));
    }

    #[test]
    fn one_without_a_name_and_one_that_fills_a_message_are_refused() {
        let long = Computation::named("x").with("y", "z".repeat(MAX_COMPUTATION_BYTES));
        for (bytes, why) in [
            (Computation::default().encode(), "it has no name"),
            (long.encode(), "it is too long"),
            (b"\xff".to_vec(), "not a Computation message"),
        ] {
            let error = Computation::decode(&bytes).expect_err(why);
            assert!(error.to_string().contains(why), "{error}");
        }
    }
}
