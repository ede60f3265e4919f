//! The command line of the worker.

use std::io::{self, Write};
use std::process::ExitCode;

use clap::{Arg, Command};
use diskferry_worker::{human, import, settings, upload};

fn main() -> ExitCode {
    let import = Command::new("import").about("Bring an image from its source to a registry or a volume");
    let upload =
        Command::new("upload").about("Take an image from whoever sends it, and bring it to a registry or a volume");
    let command = Command::new("diskferry-worker")
        .version(env!("CARGO_PKG_VERSION"))
        .about("Brings one disk image to its store or volume, for a platform that starts it in a container")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(settings::command(import, import::table::GROUPS))
        .subcommand(settings::command(upload, upload::table::GROUPS))
        .subcommand(Command::new("reference").about("Print the settings as docs/worker.md has them").hide(true))
        .subcommand(Command::new("man").about("Write the manual pages").hide(true).arg(Arg::new("dir").required(true)));
    let (typed, refused) = match command.clone().try_get_matches() {
        Ok(typed) => (typed, None),
        Err(refusal) if refusal.use_stderr() => {
            // What was understood says at least which job it was to be: its controller waits for an answer.
            let understood = command.clone().ignore_errors(true).try_get_matches();
            match understood {
                Ok(typed) if matches!(typed.subcommand_name(), Some("import" | "upload")) => {
                    (typed, Some(settings::refused(refusal)))
                }
                _ => refusal.exit(),
            }
        }
        Err(help) => help.exit(),
    };
    // What is not text is no setting of ours.
    let environment =
        std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    match typed.subcommand() {
        Some(("import", typed)) => ended(import::run(typed, refused, &environment.collect())),
        Some(("upload", typed)) => ended(upload::run(typed, refused, &environment.collect())),
        Some(("reference", _)) => {
            let own = upload::table::GROUPS
                .iter()
                .filter(|group| !import::table::GROUPS.iter().any(|other| other.title == group.title));
            let shared = settings::markdown(import::table::GROUPS);
            print(&(shared + &settings::markdown(&own.copied().collect::<Vec<_>>())))
        }
        Some(("man", typed)) => man(command, typed.get_one::<String>("dir").map_or("", String::as_str)),
        _ => ExitCode::FAILURE,
    }
}

fn ended(code: u8) -> ExitCode {
    human::flush();
    ExitCode::from(code)
}

/// Writes to stdout. Who stops listening, as `head` does, has what they wanted.
fn print(text: &str) -> ExitCode {
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            eprintln!("diskferry-worker: writing to stdout: {error}");
            ExitCode::FAILURE
        }
        _ => ExitCode::SUCCESS,
    }
}

/// Writes the manual pages, from the same table as everything else.
fn man(command: Command, dir: &str) -> ExitCode {
    // As for the command itself, which has no page for `help`.
    match clap_mangen::generate_to(command.disable_help_subcommand(true), dir) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("diskferry-worker: {dir}: {error}");
            ExitCode::FAILURE
        }
    }
}
