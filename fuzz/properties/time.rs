//! What a data set has as the time of a test, in the usual forms and in a format of its own.

use dispatcher::timestamp::{TimeFormat, parse};
use jiff::Timestamp;
use pipeline::Grain;

pub fn holds(input: &[u8]) {
    let at = input.iter().position(|&byte| byte == b'\n');
    let (text, format) = input.split_at(at.unwrap_or(input.len()));
    if let Some(seconds) = parse(text) {
        let timestamp = Timestamp::from_second(seconds).expect("a time is in range");
        // Written in the usual way it is the same.
        if (0..=253_000_000_000).contains(&seconds) {
            assert_eq!(parse(timestamp.to_string().as_bytes()), Some(seconds));
        }
        for grain in Grain::ALL {
            if let Some(bucket) = grain.truncate(seconds) {
                assert!(bucket.seconds() <= seconds);
                assert_eq!(grain.truncate(bucket.seconds()), Some(bucket));
            }
        }
        // A time that a library reads as a point in time is that one.
        let library = std::str::from_utf8(text)
            .ok()
            .and_then(|text| text.parse().ok());
        if let Some(library) = library.map(Timestamp::as_nanosecond) {
            assert_eq!(library.div_euclid(1_000_000_000), i128::from(seconds));
        }
    }
    let format = format
        .get(1..)
        .and_then(|format| std::str::from_utf8(format).ok());
    if let Some(Ok(format)) = format.map(str::parse::<TimeFormat>) {
        let _ = format.parse(text);
    }
}
