//! The formats of the doctor's lines: text in columns, and JSON.

use crate::doctor::judgement::Line;
use crate::error::Error;

/// The lines as JSON, one object per line.
///
/// # Errors
/// When a line cannot be serialized.
pub fn as_json(lines: &[Line]) -> Result<String, Error> {
    let mut text = String::new();
    for line in lines {
        text.push_str(&serde_json::to_string(line)?);
        text.push('\n');
    }
    Ok(text)
}

/// The lines as text in columns, with the advice below the finding.
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
