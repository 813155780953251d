//! Which computation a run wants of its jobs: a name that workers know, and parameters. To the
//! protocol both are texts; what they mean is the matter of the computation.

use std::collections::BTreeMap;
use std::fmt;

use prost::Message;
use serde::ser::SerializeStruct;
use serde::{Serialize, Serializer};

use crate::error::DecodeError;
use crate::protobuf;
use crate::wire;

/// Name and parameters may have this many bytes together: each message carries them beside a job.
pub const MAX_COMPUTATION_BYTES: usize = 16 * 1024;

/// A computation's name and its parameters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Computation {
    /// The name under which workers know it.
    pub name: String,
    /// Values of its parameters, by name.
    pub parameters: BTreeMap<String, String>,
    /// Values of those parameters that say how rows become payloads. Dispatchers alone use them, so
    /// that no message carries them.
    pub encoding: BTreeMap<String, String>,
}

impl Computation {
    /// A computation without parameters.
    pub fn named(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            ..Self::default()
        }
    }

    /// The same with one more parameter.
    #[must_use]
    pub fn with(mut self, parameter: &str, value: impl Into<String>) -> Self {
        self.parameters.insert(parameter.to_owned(), value.into());
        self
    }

    /// The same with one more parameter of the encoding.
    #[must_use]
    pub fn with_encoding(mut self, parameter: &str, value: impl Into<String>) -> Self {
        self.encoding.insert(parameter.to_owned(), value.into());
        self
    }

    /// The value of a parameter.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        let value = self.parameters.get(name);
        value
            .or_else(|| self.encoding.get(name))
            .map(String::as_str)
    }

    /// All parameters, by name, those of the encoding last.
    pub fn all_parameters(&self) -> impl Iterator<Item = (&str, &str)> {
        let all = self.parameters.iter().chain(&self.encoding);
        all.map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// The computation as batches of jobs carry it: without the parameters of the encoding.
    #[must_use]
    pub fn of_jobs(&self) -> Self {
        Self {
            encoding: BTreeMap::new(),
            ..self.clone()
        }
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
        Self::from_wire(protobuf::decode("Computation", bytes)?)
    }

    pub(crate) fn to_wire(&self) -> wire::Computation {
        wire::Computation {
            name: self.name.clone(),
            parameters: self.parameters.clone(),
            encoding: self.encoding.clone(),
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
            encoding: wire.encoding,
        })
    }
}

fn invalid(what: &'static str) -> DecodeError {
    DecodeError::invalid("Computation", what)
}

/// Its name, and all parameters in one map.
impl Serialize for Computation {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let parameters: BTreeMap<_, _> = self.all_parameters().collect();
        let mut fields = serializer.serialize_struct("Computation", 2)?;
        fields.serialize_field("name", &self.name)?;
        fields.serialize_field("parameters", &parameters)?;
        fields.end()
    }
}

impl fmt::Display for Computation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        for (number, (name, value)) in self.all_parameters().enumerate() {
            let before = if number == 0 { " (" } else { ", " };
            write!(f, "{before}{name}={value}")?;
        }
        if self.all_parameters().next().is_some() {
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
    fn batches_of_jobs_carry_no_parameter_of_the_encoding() {
        let whole = Computation::named("measures")
            .with("b", "2")
            .with_encoding("column", "a");
        let decoded = Computation::decode(&whole.encode());
        assert_eq!(decoded.expect("a computation"), whole);
        assert_eq!(whole.to_string(), "measures (b=2, column=a)");
        assert_eq!(whole.parameter("column"), Some("a"));
        assert_eq!(
            whole.of_jobs(),
            Computation::named("measures").with("b", "2")
        );
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
