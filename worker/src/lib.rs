//! Job to tally to topic
