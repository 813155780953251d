//! The former imitations of both ends' loops, beside the loops themselves: they are to play every
//! history alike before the imitations go.

mod aggregator;
mod dispatcher;

use pipeline::Collection;

use crate::aggregator::{AggregatorProcess, Ended};
use crate::broker::Payload;
use crate::dispatcher::DispatcherProcess;
use crate::history::Shared;
use crate::invariants::Violation;

#[derive(Debug)]
pub enum AnyDispatcher {
    Own(DispatcherProcess),
    Imitated(dispatcher::DispatcherProcess),
}

impl AnyDispatcher {
    pub fn start(shared: &Shared, resumes: bool) -> Self {
        match shared.imitates {
            false => Self::Own(DispatcherProcess::start(shared, resumes)),
            true => Self::Imitated(dispatcher::DispatcherProcess::start(shared, resumes)),
        }
    }

    pub fn is_done(&self) -> bool {
        match self {
            Self::Own(own) => own.is_done(),
            Self::Imitated(own) => own.is_done(),
        }
    }

    pub fn step(&mut self, shared: &mut Shared) -> Result<(), Violation> {
        match self {
            Self::Own(own) => own.step(shared),
            Self::Imitated(own) => own.step(shared),
        }
    }

    pub fn deliver(&mut self, number: usize, shared: &mut Shared) {
        match self {
            Self::Own(own) => own.deliver(number, shared),
            Self::Imitated(own) => own.deliver(number, shared),
        }
    }

    pub fn on_the_way(&mut self) -> &mut Vec<(usize, Payload)> {
        match self {
            Self::Own(own) => &mut own.on_the_way,
            Self::Imitated(own) => &mut own.on_the_way,
        }
    }

    pub fn count_on_the_way(&self) -> usize {
        match self {
            Self::Own(own) => own.on_the_way.len(),
            Self::Imitated(own) => own.on_the_way.len(),
        }
    }
}

#[derive(Debug)]
pub enum AnyAggregator {
    Own(AggregatorProcess),
    Imitated(aggregator::AggregatorProcess),
}

impl AnyAggregator {
    pub fn start(shared: &Shared) -> Self {
        match shared.imitates {
            false => Self::Own(AggregatorProcess::start(shared)),
            true => Self::Imitated(aggregator::AggregatorProcess::start(shared)),
        }
    }

    pub fn collection(&self) -> Option<&Collection> {
        match self {
            Self::Own(own) => own.collection(),
            Self::Imitated(own) => Some(own.collection()),
        }
    }

    pub fn step(
        &mut self,
        is_quiet: bool,
        shared: &mut Shared,
    ) -> Result<Option<Ended>, Violation> {
        match self {
            Self::Own(own) => own.step(is_quiet, shared),
            Self::Imitated(own) => own.step(is_quiet, shared),
        }
    }
}
