//! Data set to jobs to topic
