//! A consumer whose drop closes it without delay. rdkafka's own drop checks every 100 ms whether the
//! client is closed, and a run on one machine would wait for several such checks, one after the other.

use std::ops::Deref;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, ConsumerContext};
use tracing::{Dispatch, dispatcher};

use crate::error::Error;
use crate::settings;

/// The time between two checks whether a consumer is closed.
const STEP: Duration = Duration::from_millis(1);

/// A consumer with a `group.id`, whether or not it joins that group.
pub(crate) struct ClosingConsumer<C: ConsumerContext>(
    /// The consumer; `None` only while this value is dropped.
    Option<BaseConsumer<C>>,
);

impl<C: ConsumerContext> ClosingConsumer<C> {
    /// A consumer of this configuration.
    ///
    /// # Errors
    /// When a property is wrong.
    pub(crate) fn create(config: &ClientConfig, context: C) -> Result<Self, Error> {
        settings::create(config, context).map(|consumer| Self(Some(consumer)))
    }
}

impl<C: ConsumerContext> Deref for ClosingConsumer<C> {
    type Target = BaseConsumer<C>;

    fn deref(&self) -> &Self::Target {
        self.0
            .as_ref()
            .expect("the consumer is taken by drop alone")
    }
}

impl<C: ConsumerContext> Drop for ClosingConsumer<C> {
    fn drop(&mut self) {
        if self.close_queue().is_ok() {
            while !self.closed() {
                self.poll(STEP);
            }
        }
        // rdkafka closes the consumer a second time, and logs an error because it is closed already.
        dispatcher::with_default(&Dispatch::none(), || self.0 = None);
    }
}
