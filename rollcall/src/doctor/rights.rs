//! The judgement on what the user who asks may do to the topics, for the programs that it is to run.
//! What each needs stands in docs/security.md, too.

use clap::ValueEnum;
use kafka::TopicNames;
use kafka::rights::Operation;

use crate::doctor::facts::Facts;
use crate::doctor::judgement::{Line, Verdict};

/// A program that a user is to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Program {
    /// Dispatches runs, named ones as well.
    Dispatcher,
    /// Computes jobs.
    Worker,
    /// Collects runs.
    Aggregator,
    /// Cancels runs.
    Cancel,
    /// Shows dead letters and replays them.
    Dlq,
}

/// A right on a topic.
struct Need {
    topic: fn(&TopicNames) -> &str,
    operation: Operation,
    /// How bad it is to lack it.
    verdict: Verdict,
    /// What does not work without it.
    lacking: &'static str,
}

const fn need(topic: fn(&TopicNames) -> &str, operation: Operation, lacking: &'static str) -> Need {
    Need {
        topic,
        operation,
        verdict: Verdict::Fail,
        lacking,
    }
}

/// A right without which the program still does the most of its work.
const fn useful(
    topic: fn(&TopicNames) -> &str,
    operation: Operation,
    lacking: &'static str,
) -> Need {
    Need {
        verdict: Verdict::Warn,
        ..need(topic, operation, lacking)
    }
}

fn jobs(names: &TopicNames) -> &str {
    &names.jobs
}

fn outcomes(names: &TopicNames) -> &str {
    &names.outcomes
}

fn dlq(names: &TopicNames) -> &str {
    &names.dlq
}

fn runs(names: &TopicNames) -> &str {
    &names.runs
}

const DISPATCHER: &[Need] = &[
    need(jobs, Operation::Write, "no job is published"),
    need(
        runs,
        Operation::Read,
        "a run that is named or cancelled is not known",
    ),
    need(runs, Operation::Write, "no run is opened"),
    useful(jobs, Operation::Read, "no run is resumed"),
    useful(outcomes, Operation::Read, "--resume does not work"),
];

const WORKER: &[Need] = &[
    need(jobs, Operation::Read, "no job is taken"),
    need(outcomes, Operation::Write, "no outcome is published"),
    need(dlq, Operation::Write, "no dead letter is published"),
    useful(runs, Operation::Read, "jobs of cancelled runs are computed"),
];

const AGGREGATOR: &[Need] = &[
    need(outcomes, Operation::Read, "no outcome is collected"),
    need(runs, Operation::Read, "no run is found"),
    useful(
        runs,
        Operation::Write,
        "no verdict is published, and runs by --results any end with exit code 6",
    ),
];

const CANCEL: &[Need] = &[
    need(runs, Operation::Read, "no run is found"),
    need(runs, Operation::Write, "no run is cancelled"),
];

const DLQ: &[Need] = &[
    need(runs, Operation::Read, "no run is found"),
    need(outcomes, Operation::Read, "no dead job is known"),
    need(dlq, Operation::Read, "no dead letter is shown"),
    useful(runs, Operation::Write, "no dead letter is replayed"),
    useful(jobs, Operation::Write, "no dead letter is replayed"),
];

impl Program {
    fn needs(self) -> &'static [Need] {
        match self {
            Self::Dispatcher => DISPATCHER,
            Self::Worker => WORKER,
            Self::Aggregator => AGGREGATOR,
            Self::Cancel => CANCEL,
            Self::Dlq => DLQ,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Dispatcher => "dispatcher",
            Self::Worker => "worker",
            Self::Aggregator => "aggregator",
            Self::Cancel => "cancel",
            Self::Dlq => "dlq",
        }
    }
}

/// A line for each program that was named, or for each right that it lacks.
pub fn judge(facts: &Facts) -> Vec<Line> {
    let programs = facts.programs.iter();
    programs.flat_map(|&own| judge_one(facts, own)).collect()
}

fn judge_one(facts: &Facts, program: Program) -> Vec<Line> {
    const CHECK: &str = "rights";
    let name = program.name();
    let rights = match &facts.rights {
        Ok(rights) => rights,
        Err(refusal) => {
            let found = format!("{name}: the brokers do not report them, {}", refusal.reason);
            return vec![Line::warn(CHECK, found, None)];
        }
    };
    let lines: Vec<Line> = program
        .needs()
        .iter()
        .filter_map(|need| {
            let topic = (need.topic)(&facts.names);
            let operation = need.operation;
            let is_allowed = rights
                .get(topic)
                .is_some_and(|allowed| allowed.contains(&operation));
            if is_allowed {
                return None;
            }
            let operation = operation.name();
            Some(Line {
                verdict: need.verdict,
                check: CHECK,
                found: format!(
                    "{name}: this user may not {} topic {topic}: {}",
                    operation.to_lowercase(),
                    need.lacking
                ),
                advice: Some(format!("grant {operation} on topic {topic}")),
            })
        })
        .collect();
    match lines.is_empty() {
        false => lines,
        true => vec![Line::ok(
            CHECK,
            format!("{name}: this user may do to the topics what it needs"),
        )],
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use kafka::Refusal;

    use super::*;
    use crate::doctor::judgement::tests::healthy;

    /// A user who may do this, and is to run that.
    fn asked(program: Program, may: Grants<'_>) -> Vec<Line> {
        let mut facts = healthy();
        facts.programs = vec![program];
        let may = may.iter();
        let may = may.map(|(topic, allowed)| {
            let topic = format!("rollcall.{topic}");
            (topic, allowed.iter().copied().collect())
        });
        facts.rights = Ok(may.collect());
        judge(&facts)
    }

    /// The operations that are allowed on each topic.
    type Grants<'a> = &'a [(&'a str, &'a [Operation])];

    const READ: &[Operation] = &[Operation::Read];
    const WRITE: &[Operation] = &[Operation::Write];
    const BOTH: &[Operation] = &[Operation::Read, Operation::Write];

    #[test]
    fn a_program_that_may_what_it_needs_has_one_good_line() {
        let cases: [(Program, Grants<'_>); 5] = [
            (
                Program::Dispatcher,
                &[("jobs.v2", BOTH), ("runs.v2", BOTH), ("outcomes.v2", READ)],
            ),
            (
                Program::Worker,
                &[
                    ("jobs.v2", READ),
                    ("outcomes.v2", WRITE),
                    ("jobs.v2.dlq", WRITE),
                    ("runs.v2", READ),
                ],
            ),
            (
                Program::Aggregator,
                &[("outcomes.v2", READ), ("runs.v2", BOTH)],
            ),
            (Program::Cancel, &[("runs.v2", BOTH)]),
            (
                Program::Dlq,
                &[
                    ("jobs.v2", WRITE),
                    ("outcomes.v2", READ),
                    ("jobs.v2.dlq", READ),
                    ("runs.v2", BOTH),
                ],
            ),
        ];
        for (program, may) in cases {
            let lines = asked(program, may);
            assert_eq!(lines.len(), 1, "{lines:#?}");
            assert_eq!(lines[0].verdict, Verdict::Ok, "{lines:#?}");
        }
    }

    #[test]
    fn a_missing_right_is_named_with_what_does_not_work_and_what_to_grant() {
        let lines = asked(
            Program::Aggregator,
            &[("outcomes.v2", READ), ("runs.v2", READ)],
        );
        let [line] = lines.as_slice() else {
            panic!("{lines:#?}")
        };
        assert_eq!(line.verdict, Verdict::Warn);
        assert!(line.found.contains("no verdict is published"), "{line:?}");
        let advice = line.advice.as_deref();
        assert_eq!(advice, Some("grant Write on topic rollcall.runs.v2"));
        let lines = asked(Program::Cancel, &[("runs.v2", READ)]);
        assert_eq!(lines[0].verdict, Verdict::Fail);
        // A topic of which nothing may be known.
        let lines = asked(Program::Worker, &[]);
        assert_eq!(lines.len(), WORKER.len(), "{lines:#?}");
    }

    #[test]
    fn nobody_is_judged_unless_a_program_is_named_and_rights_are_told() {
        let mut facts = healthy();
        facts.rights = Ok(BTreeMap::new());
        assert_eq!(judge(&facts), []);
        facts.programs = vec![Program::Worker];
        facts.rights = Err(Refusal {
            denied: false,
            reason: "it is too old".to_owned(),
        });
        let lines = judge(&facts);
        assert_eq!(lines[0].verdict, Verdict::Warn);
        assert!(lines[0].found.contains("it is too old"), "{lines:?}");
    }
}
