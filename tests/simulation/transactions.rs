//! Transactions as the broker keeps them: what is written in one is read by nobody who reads
//! committed records, and its offsets hold up whoever asks for them, until it is decided as a whole.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use pipeline::offsets::Commit;

use crate::broker::{Broker, Payload};
use crate::history::Shared;
use crate::invariants::Violation;
use crate::mutants::Mutation;

/// How a transaction stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Nothing is decided.
    Open,
    /// What is in it counts.
    Committed,
    /// What is in it never was.
    Aborted,
}

/// Where a message of a transaction goes.
#[derive(Clone, Copy, Debug)]
pub enum Place {
    /// A partition of the outcomes topic.
    Outcomes(usize),
    /// The dead-letter topic.
    Dlq {
        /// The partition and the offset that the letter comes from.
        source: (i32, i64),
        /// No outcome follows: a message is buried whole.
        is_whole: bool,
    },
}

#[derive(Debug)]
struct Written {
    place: Place,
    offset: i64,
    payload: Payload,
}

/// A transaction.
#[derive(Debug)]
pub struct Transaction {
    /// The producer's lasting name.
    producer: u64,
    /// The process that began it.
    process: u64,
    state: Cell<State>,
    written: RefCell<Vec<Written>>,
    offsets: RefCell<Vec<Commit>>,
}

impl Transaction {
    /// How it stands.
    pub fn state(&self) -> State {
        self.state.get()
    }

    /// The process that began it.
    pub fn process(&self) -> u64 {
        self.process
    }

    /// Whether anything was written in it.
    pub fn is_begun(&self) -> bool {
        !self.written.borrow().is_empty()
    }

    /// Its offsets.
    pub fn offsets(&self) -> Vec<Commit> {
        self.offsets.borrow().clone()
    }

    /// Offsets that are committed with it.
    pub fn add_offsets<'a>(&self, commits: impl Iterator<Item = &'a Commit>) {
        self.offsets.borrow_mut().extend(commits.cloned());
    }
}

impl Broker {
    /// A producer begins a transaction.
    pub fn begin(&mut self, producer: u64, process: u64) -> Rc<Transaction> {
        let transaction = Rc::new(Transaction {
            producer,
            process,
            state: Cell::new(State::Open),
            written: RefCell::default(),
            offsets: RefCell::default(),
        });
        self.transactions.push(Rc::clone(&transaction));
        transaction
    }

    /// Whether an undecided transaction holds the offset of a partition.
    pub fn has_pending_offset(&self, partition: i32) -> bool {
        self.transactions.iter().any(|transaction| {
            let offsets = transaction.offsets.borrow();
            offsets.iter().any(|own| own.partition == partition)
        })
    }

    /// Aborts a transaction, if it is not decided.
    pub fn abort(&mut self, transaction: &Transaction) {
        if transaction.state() == State::Open {
            self.decide(transaction, State::Aborted);
        }
    }

    /// A producer takes its lasting name: what it, or whoever had the name before, has left open is
    /// aborted. Returns whether there was anything.
    pub fn take_name(&mut self, producer: u64) -> bool {
        let open = self.transactions.iter();
        let own = open.filter(|transaction| transaction.producer == producer);
        let own: Vec<_> = own.map(Rc::clone).collect();
        for transaction in &own {
            self.abort(transaction);
        }
        !own.is_empty()
    }

    fn decide(&mut self, transaction: &Transaction, state: State) {
        transaction.state.set(state);
        self.transactions.retain(|own| own.state() == State::Open);
        let mut marked = Vec::new();
        for written in transaction.written.borrow().iter() {
            let log = match written.place {
                Place::Outcomes(partition) => Some(partition),
                Place::Dlq { .. } => None,
            };
            if !marked.contains(&log) {
                marked.push(log);
                log.map_or(&mut self.dlq, |partition| &mut self.outcomes[partition])
                    .append_marker();
            }
        }
    }
}

impl Shared {
    /// A message is written in a transaction.
    pub fn write(
        &mut self,
        transaction: &Rc<Transaction>,
        place: Place,
        payload: Payload,
    ) -> Result<(), Violation> {
        let log = match place {
            Place::Outcomes(partition) => &mut self.broker.outcomes[partition],
            Place::Dlq { .. } => &mut self.broker.dlq,
        };
        if self.mutation == Some(Mutation::WrittenOutsideTransaction) {
            let offset = log.append(Rc::clone(&payload));
            return self.apply_written(place, offset, &payload);
        }
        let offset = log.append_in(transaction, Rc::clone(&payload));
        transaction.written.borrow_mut().push(Written {
            place,
            offset,
            payload,
        });
        Ok(())
    }

    fn apply_written(
        &mut self,
        place: Place,
        offset: i64,
        payload: &Payload,
    ) -> Result<(), Violation> {
        match place {
            Place::Outcomes(partition) => self.oracle.outcomes_told(partition, offset, payload),
            Place::Dlq { source, is_whole } => self.oracle.dead_letter(source, payload, is_whole),
        }
    }

    /// The messages of a transaction count from now on; its offsets are the caller's to keep, before
    /// anything else happens.
    pub fn reveal(&mut self, transaction: &Transaction) -> Result<(), Violation> {
        if self.mutation == Some(Mutation::OffsetsWithoutOutcomes) {
            self.broker.decide(transaction, State::Aborted);
            return Ok(());
        }
        self.broker.decide(transaction, State::Committed);
        for written in transaction.written.borrow().iter() {
            self.apply_written(written.place, written.offset, &written.payload)?;
        }
        Ok(())
    }
}
