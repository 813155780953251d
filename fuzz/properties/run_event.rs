//! What everybody takes from the runs topic: a key, a line end, and the value.

use std::convert::Infallible;

use pipeline::{Collection, RunEvent, RunHistory, Verdict};

pub fn holds(input: &[u8]) {
    let at = input.iter().position(|&byte| byte == b'\n');
    let (key, value) = input.split_at(at.unwrap_or(input.len()));
    let value = value.get(1..).unwrap_or_default();
    let Ok(Some(event)) = RunEvent::decode(key, value) else {
        return;
    };
    let again = RunEvent::decode(event.key().as_bytes(), &event.encode());
    let again = again
        .expect("what is encoded is decoded")
        .expect("an event");
    // Not the events themselves: seconds may be no number, which equals nothing.
    assert_eq!(again.encode(), event.encode());
    assert_eq!(again.key(), event.key());
    let mut history = RunHistory::new(event.run_id().clone());
    history.apply(event);
    history.apply(again);
    if let Some(manifest) = history.manifest() {
        let _ = (manifest.rows_rejected(), history.disagreeing());
        // However many jobs it claims.
        let mut collection = Collection::new();
        collection.apply_manifest(manifest.clone());
        let Ok(judged) = collection.reconcile(|_| Ok::<_, Infallible>(Vec::new()));
        let complete = judged.verdict == Verdict::Complete;
        assert!(!complete || manifest.jobs == 0);
    }
}
