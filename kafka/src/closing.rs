//! A consumer's client that has ended as soon as it can. rdkafka's looks every 100 ms whether it is
//! closed, and a run on one machine would wait for that several times, one after the other.

use std::ops::Deref;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, ConsumerContext};
use tracing::{Dispatch, dispatcher};

use crate::error::Error;
use crate::settings;

/// How often it is looked whether a consumer is closed.
const STEP: Duration = Duration::from_millis(1);

/// A consumer with a `group.id`, whether or not it joins that group.
pub(crate) struct ClosingConsumer<C: ConsumerContext>(
    /// Always there, until it is dropped.
    Option<BaseConsumer<C>>,
);

impl<C: ConsumerContext> ClosingConsumer<C> {
    /// # Errors
    /// When a property is wrong.
    pub(crate) fn create(config: &ClientConfig, context: C) -> Result<Self, Error> {
        settings::create(config, context).map(|consumer| Self(Some(consumer)))
    }
}

impl<C: ConsumerContext> Deref for ClosingConsumer<C> {
    type Target = BaseConsumer<C>;

    fn deref(&self) -> &Self::Target {
        self.0.as_ref().expect("it is not dropped yet")
    }
}

impl<C: ConsumerContext> Drop for ClosingConsumer<C> {
    fn drop(&mut self) {
        if self.close_queue().is_ok() {
            while !self.closed() {
                self.poll(STEP);
            }
        }
        // rdkafka closes it once more, and complains that it is closed.
        dispatcher::with_default(&Dispatch::none(), || self.0 = None);
    }
}
