//! How a run ends: one line for a person, an object for a program, an exit code for a script. All are listed in docs/errors.md.

use std::io::{self, Write};
use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use diskferry::{Error, Kind};
use diskferry_remote::sandbox::Missing;

use crate::{json, output, signals};

/// Why there is no result.
#[derive(Debug)]
pub enum Failure {
    /// What was typed cannot be meant.
    Usage(String),
    /// What decodes would not be confined as it has to be.
    Sandbox(Missing),
    /// The job ended badly.
    Job(Error),
    /// The result has been printed, and has findings of this kind.
    Found(String, Kind),
    /// Something around the job went wrong that is nobody's fault above.
    Unexpected(String),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Job(error)
    }
}

impl From<Missing> for Failure {
    fn from(missing: Missing) -> Self {
        Self::Sandbox(missing)
    }
}

impl Failure {
    /// What programs tell failures by: the name of the kind, and the exit code that goes with it.
    pub fn kind(&self) -> (&'static str, u8) {
        match self {
            Self::Unexpected(_) => ("unexpected", 1),
            Self::Usage(_) | Self::Sandbox(_) => ("usage", 2),
            Self::Job(error) => of_kind(error.kind()),
            Self::Found(_, kind) => of_kind(*kind),
        }
    }

    /// Name of the kind.
    pub fn kind_name(&self) -> &'static str {
        self.kind().0
    }

    /// The stable name of what happened.
    pub fn code(&self) -> String {
        match self {
            Self::Job(error) => error.code(),
            Self::Sandbox(_) => Missing::CODE.to_owned(),
            other => other.kind_name().to_owned(),
        }
    }

    /// What to tell a person, on one line.
    pub fn message(&self) -> String {
        match self {
            Self::Usage(what) | Self::Unexpected(what) | Self::Found(what, _) => what.clone(),
            Self::Job(error) => error.to_string(),
            Self::Sandbox(missing) => missing.to_string(),
        }
    }
}

fn of_kind(kind: Kind) -> (&'static str, u8) {
    match kind {
        Kind::Image => ("image", 3),
        Kind::Source => ("source", 4),
        Kind::Target => ("target", 5),
        Kind::Mismatch => ("mismatch", 6),
        Kind::Stopped => ("stopped", signals::exit_code()),
    }
}

/// Reports how a run ended.
pub fn of(outcome: Result<(), Failure>, json: bool) -> ExitCode {
    let Err(failure) = outcome else { return ExitCode::SUCCESS };
    let failure = match failure {
        // The signal that ended who has written to us comes before the end of what it wrote.
        Failure::Job(_) if signals::asked() => Failure::Job(Error::Stopped),
        failure => failure,
    };
    output::say(&failure.message());
    // Of findings, the result has been printed.
    if json && !matches!(failure, Failure::Found(..)) {
        // The exit code says more than a second failure would.
        let _ = output::result(&json::text(&json::error(&failure)));
    }
    ExitCode::from(failure.kind().1)
}

/// Reports a command line that was not understood, or that asked for help.
pub fn of_parsing(mut refusal: clap::Error) -> ExitCode {
    hide_urls(&mut refusal);
    match refusal.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            if refusal.use_stderr() {
                let _ = refusal.print();
                return ExitCode::from(2);
            }
            of(output::written(refusal.print().and_then(|()| io::stdout().flush())), false)
        }
        _ => {
            let json = std::env::args_os().any(|arg| arg == "--json");
            of(Err(Failure::Usage(one_line(&refusal.to_string()))), json)
        }
    }
}

/// Takes URLs out of what the parser repeats of what was typed: there may be a password in them.
fn hide_urls(refusal: &mut clap::Error) {
    for kind in [ContextKind::InvalidArg, ContextKind::InvalidValue] {
        if let Some(ContextValue::String(typed)) = refusal.get(kind)
            && let Some((scheme, _)) = typed.split_once("://")
        {
            let shown = ContextValue::String(format!("{scheme}://…"));
            refusal.insert(kind, shown);
        }
    }
}

/// The parser's message without its heading, its usage and its layout.
fn one_line(message: &str) -> String {
    let paragraphs = message.split("\n\n").filter(|part| !part.starts_with("Usage:"));
    let words = paragraphs.map(|part| part.split_whitespace().collect::<Vec<_>>().join(" ")).collect::<Vec<_>>();
    let line = words.join("; ");
    line.strip_prefix("error: ")
        .unwrap_or(&line)
        .trim_end_matches(['.', ' '])
        .replace("; For more information, try", "; see")
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[test]
    fn a_url_that_is_not_understood_is_not_repeated() {
        for typed in [&["https://me:hunter2@ho st/"][..], &["a", "b", "https://me:hunter2@host/"]] {
            let args = ["diskferry", "convert"].iter().chain(typed).copied();
            let mut refusal = crate::args::Cli::try_parse_from(args).err().unwrap();
            hide_urls(&mut refusal);
            let message = refusal.to_string();
            assert!(message.contains("https://…") && !message.contains("hunter2"), "{message}");
        }
    }

    #[test]
    fn a_parser_message_of_several_paragraphs_becomes_one_line() {
        let message = "error: unexpected argument '--jsn' found\n\n  tip: a similar argument exists: '--json'\n\n\
            Usage: diskferry info --json <SOURCE>\n\nFor more information, try '--help'.\n";
        let expected = "unexpected argument '--jsn' found; tip: a similar argument exists: '--json'; see '--help'";
        assert_eq!(one_line(message), expected);
    }
}
