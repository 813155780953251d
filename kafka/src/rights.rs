//! What this user may do to topics: the operations that the brokers report as authorized (KIP-430), for
//! which nothing has to be read or written.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{CStr, CString};
use std::ptr;
use std::time::Duration;

use rdkafka::client::Client;
use rdkafka::consumer::Consumer;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka_sys as sys;
use sys::rd_kafka_AclOperation_t as Acl;

use crate::cluster::{Cluster, Context, REQUEST_TIMEOUT};
use crate::error::Error;

/// Something that a user may be allowed to do to a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    /// Read messages.
    Read,
    /// Write messages.
    Write,
}

impl Operation {
    /// As Kafka's own tools call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Read => "Read",
            Self::Write => "Write",
        }
    }

    fn of(acl: u32) -> Option<Self> {
        const READ: u32 = Acl::RD_KAFKA_ACL_OPERATION_READ as u32;
        const WRITE: u32 = Acl::RD_KAFKA_ACL_OPERATION_WRITE as u32;
        match acl {
            READ => Some(Self::Read),
            WRITE => Some(Self::Write),
            _ => None,
        }
    }
}

/// What this user may do to each of some topics. One that it may do nothing to, or that is not there,
/// has no entry.
pub type TopicRights = BTreeMap<String, BTreeSet<Operation>>;

/// Asks the brokers what this user may do to topics.
///
/// # Errors
/// When the brokers cannot be asked.
pub fn topic_rights(cluster: &Cluster, topics: &[&str]) -> Result<TopicRights, Error> {
    const ACTION: &str = "ask what this user may do";
    let names: Vec<CString> = topics
        .iter()
        // No topic has a name with a zero in it.
        .filter_map(|&name| CString::new(name).ok())
        .collect();
    let client = cluster.inquirer()?.client();
    let described = Event::describe_topics(client, &names, REQUEST_TIMEOUT);
    let described = described.map_err(|code| Error::client(ACTION)(KafkaError::AdminOp(code)))?;
    Ok(described.rights())
}

/// What has come of a request, which is freed at the end.
struct Event(*mut sys::rd_kafka_event_t);

impl Event {
    /// Asks for topics with what is allowed, and waits for the answer.
    fn describe_topics(
        client: &Client<Context>,
        names: &[CString],
        timeout: Duration,
    ) -> Result<Self, RDKafkaErrorCode> {
        let timeout_ms = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
        let mut names: Vec<*const std::ffi::c_char> =
            names.iter().map(|name| name.as_ptr()).collect();
        let api = sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS;
        // SAFETY: the client's handle is valid as long as `client` is borrowed, and `names` point to
        // strings that outlive the call, which copies them. What is made here is freed here, the queue
        // after the last call that uses it; an answer that comes later is freed with it.
        let event = unsafe {
            let handle = client.native_ptr();
            let queue = sys::rd_kafka_queue_new(handle);
            let options = sys::rd_kafka_AdminOptions_new(handle, api);
            sys::rd_kafka_AdminOptions_set_request_timeout(options, timeout_ms, ptr::null_mut(), 0);
            // Returns an error for other requests alone.
            sys::rd_kafka_AdminOptions_set_include_authorized_operations(options, 1);
            let topics =
                sys::rd_kafka_TopicCollection_of_topic_names(names.as_mut_ptr(), names.len());
            sys::rd_kafka_DescribeTopics(handle, topics, options, queue);
            sys::rd_kafka_TopicCollection_destroy(topics);
            sys::rd_kafka_AdminOptions_destroy(options);
            let event = sys::rd_kafka_queue_poll(queue, timeout_ms);
            sys::rd_kafka_queue_destroy(queue);
            event
        };
        if event.is_null() {
            return Err(RDKafkaErrorCode::OperationTimedOut);
        }
        let event = Self(event);
        // SAFETY: the event is valid until it is dropped.
        let code = unsafe { sys::rd_kafka_event_error(event.0) };
        match RDKafkaErrorCode::from(code) {
            RDKafkaErrorCode::NoError => Ok(event),
            code => Err(code),
        }
    }

    fn rights(&self) -> TopicRights {
        let mut rights = TopicRights::new();
        // SAFETY: the event is a result of DescribeTopics that has not failed. It is valid as long as
        // `self`, and so are the topics, names and operations that belong to it, of which there are as
        // many as the counts say.
        unsafe {
            let result = sys::rd_kafka_event_DescribeTopics_result(self.0);
            let mut count = 0;
            let topics = sys::rd_kafka_DescribeTopics_result_topics(result, &raw mut count);
            for position in 0..count {
                let topic = *topics.add(position);
                let error = sys::rd_kafka_TopicDescription_error(topic);
                let code = RDKafkaErrorCode::from(sys::rd_kafka_error_code(error));
                if code != RDKafkaErrorCode::NoError {
                    continue;
                }
                let name = CStr::from_ptr(sys::rd_kafka_TopicDescription_name(topic));
                let mut count = 0;
                let allowed =
                    sys::rd_kafka_TopicDescription_authorized_operations(topic, &raw mut count);
                // As numbers: a broker may know operations that these bindings do not.
                let allowed = allowed.cast::<u32>();
                let allowed = (0..count).filter_map(|own| Operation::of(*allowed.add(own)));
                rights.insert(name.to_string_lossy().into_owned(), allowed.collect());
            }
        }
        rights
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: the event is this one's own, and nothing of it is left outside.
        unsafe { sys::rd_kafka_event_destroy(self.0) }
    }
}
