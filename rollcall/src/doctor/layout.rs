//! How the lines of a doctor are shown: to people in columns, to machines one JSON object a line.

use crate::doctor::judgement::Line;
use crate::error::Error;

/// One JSON object a line.
///
/// # Errors
/// When a line cannot be written as JSON.
pub fn as_json(lines: &[Line]) -> Result<String, Error> {
    let mut text = String::new();
    for line in lines {
        text.push_str(&serde_json::to_string(line)?);
        text.push('\n');
    }
    Ok(text)
}

/// The lines for people: what is to be done stands under what was found.
pub fn as_text(lines: &[Line]) -> String {
    let mut text = String::new();
    for line in lines {
        let word = line.verdict.word();
        text.push_str(&format!("{word:<5} {:<13} {}\n", line.check, line.found));
        if let Some(advice) = &line.advice {
            text.push_str(&format!("{:<20}-> {advice}\n", ""));
        }
    }
    text
}
