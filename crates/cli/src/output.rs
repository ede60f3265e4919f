//! stdout is for results, stderr for people.

use std::io::{self, Write};

use diskferry_remote::escape;

use crate::exit::Failure;

/// Writes a result. Somebody who stopped listening, as `head` does, has what they wanted.
pub fn result(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    written(writeln!(stdout, "{text}").and_then(|()| stdout.flush()))
}

/// What came of writing a result.
pub fn written(outcome: io::Result<()>) -> Result<(), Failure> {
    match outcome {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::Unexpected(format!("writing to stdout: {error}")))
        }
        _ => Ok(()),
    }
}

/// Tells a person something, on one line.
pub fn say(text: &str) {
    // Where stderr is closed there is nobody to tell that it is.
    let _ = writeln!(io::stderr().lock(), "diskferry: {}", escape::for_people(text));
}

/// Tells what a person should know and what did not stop the job.
pub fn warn(warnings: &[String]) {
    for warning in warnings {
        say(&format!("warning: {warning}"));
    }
}
