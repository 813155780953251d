//! What a worker finds in the metadata of a committed offset.

use pipeline::mark::Mark;

pub fn holds(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let mark = Mark::parse(&text);
    assert_eq!(Mark::parse(&mark.to_string()), mark);
    let position = mark.position();
    for next in [
        mark.taken_over(true),
        mark.taken_over(false),
        mark.released(),
        mark.hanging(),
        mark.trying(position),
        mark.trying(u32::MAX),
    ] {
        assert!(next.to_string().len() < 100);
        assert_eq!(Mark::parse(&next.to_string()), next);
        assert!(next.taken_over(true).reading() >= next.reading());
    }
}
