//! What `rollcall dlq` takes from the dead-letter topic: lines of headers, an empty line, and the value.

use pipeline::dead_letters::{Letter, LetterHeaders};
use pipeline::{DeadLetters, JobBatch, Ledger};

pub fn holds(input: &[u8]) {
    let end = input.windows(2).position(|bytes| bytes == b"\n\n");
    let (headers, value) = input.split_at(end.unwrap_or(0));
    let value = value.strip_prefix(b"\n\n").unwrap_or(value);
    let headers = String::from_utf8_lossy(headers);
    let headers = LetterHeaders::read(headers.lines().filter_map(|line| line.split_once('=')));
    let Ok(batch) = JobBatch::decode(value) else {
        let mut letters = DeadLetters::new(&"a-run".parse().expect("a run id"));
        letters.apply_letter(0, headers, value);
        assert_eq!(
            (letters.unreadable_count(), letters.unreadable().len()),
            (1, 1)
        );
        return;
    };
    let mut letters = DeadLetters::new(batch.run_id());
    letters.apply_letter(0, headers.clone(), value);
    assert_eq!(letters.unreadable_count(), 0);
    assert_eq!(letters.still_dead(&Ledger::new(1)).count(), 0);
    // Whichever of them is replayed is the job that died.
    let last = batch.jobs_count() as usize - 1;
    let letter = Letter::new(0, headers.into(), batch.into(), last);
    let payload = letter.payload(0);
    let alone = JobBatch::decode(&payload).expect("the job alone");
    assert_eq!(alone.jobs().next(), Some(letter.job()));
}
