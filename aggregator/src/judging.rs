//! When an aggregator stops reading and judges. Pure: what was collected and how far the topics were
//! read is told, and the clock is the caller's.

use pipeline::Collection;

/// How things stand at one look.
#[derive(Clone, Copy, Debug, Default)]
pub struct Look<'a> {
    /// The runs topic was read to its end, and the outcomes to where they ended at the start.
    pub caught_up: bool,
    /// Why the run's dispatcher gave up, if it has.
    pub aborted: Option<&'a str>,
    /// Nothing new has come for as long as it may take.
    pub is_quiet: bool,
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next<'a> {
    /// Read on.
    ReadOn,
    /// Nothing that may still come can make it any better.
    Judge,
    /// There will be no manifest, for this reason.
    Abort(&'a str),
    /// Judge what there is.
    GiveUp,
}

/// What to do with a collection at a look.
///
/// However settled it is, nothing is judged before the end: a later outcome may outrank a dead
/// letter or contradict a result, and is there for everyone to read.
pub fn next<'a>(collection: &Collection, look: &Look<'a>) -> Next<'a> {
    if look.caught_up && collection.is_settled() {
        return Next::Judge;
    }
    match look.aborted {
        Some(reason) if look.caught_up && collection.manifest().is_none() => Next::Abort(reason),
        _ if look.is_quiet => Next::GiveUp,
        _ => Next::ReadOn,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use pipeline::{JobSetHasher, Manifest};

    use super::*;

    fn settled() -> Collection {
        let mut collection = Collection::new();
        collection.hear_manifest(Manifest {
            run_id: "a-run".parse().expect("a run id"),
            jobs: 0,
            rows_read: 0,
            rows_accepted: 0,
            rejected: BTreeMap::new(),
            job_set_digest: JobSetHasher::new().finish(),
            messages: 0,
            stages: Vec::new(),
        });
        collection
    }

    #[test]
    fn nothing_is_judged_before_the_end_unless_nothing_comes_any_more() {
        let mut look = Look::default();
        assert_eq!(next(&settled(), &look), Next::ReadOn);
        look.caught_up = true;
        assert_eq!(next(&settled(), &look), Next::Judge);
        assert_eq!(next(&Collection::new(), &look), Next::ReadOn);
        look.is_quiet = true;
        assert_eq!(next(&Collection::new(), &look), Next::GiveUp);
    }

    #[test]
    fn a_run_that_was_given_up_ends_unless_its_manifest_is_there() {
        let look = Look {
            caught_up: true,
            aborted: Some("too many rejects"),
            is_quiet: false,
        };
        let aborted = Next::Abort("too many rejects");
        assert_eq!(next(&Collection::new(), &look), aborted);
        assert_eq!(next(&settled(), &look), Next::Judge);
        let early = Look {
            caught_up: false,
            ..look
        };
        assert_eq!(next(&Collection::new(), &early), Next::ReadOn);
    }
}
