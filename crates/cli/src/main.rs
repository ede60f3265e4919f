//! The command line of diskferry: what was typed → resolved options → one library call → print → exit code.

mod access;
mod args;
mod columns;
mod convert;
mod copy;
mod deadline;
mod exit;
mod gc;
mod generate;
mod human;
mod info;
mod json;
mod later;
mod list;
mod output;
mod progress;
mod push;
mod signals;
mod size;
mod source;
mod stock;
mod target;
mod verify;

use std::process::ExitCode;

use clap::Parser;

use args::{Cli, Command};
use exit::Failure;
use later::Later;

fn main() -> ExitCode {
    // The panic's own message has gone to stderr by then; only its exit code would be a surprise.
    std::panic::catch_unwind(run).unwrap_or(ExitCode::FAILURE)
}

fn run() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(refusal) => return exit::of_parsing(refusal),
    };
    let json = cli.command.json();
    exit::of(dispatch(cli.command), json)
}

fn dispatch(command: Command) -> Result<(), Failure> {
    match command {
        Command::Convert(Later(args)) => convert::run(args),
        Command::Copy(Later(args)) => copy::run(args),
        Command::Info(Later(args)) => info::run(args),
        Command::List(Later(args)) => list::run(args),
        Command::Push(Later(args)) => push::run(args),
        Command::Gc { command } => gc::run(command),
        Command::Verify(Later(args)) => verify::run(args),
        Command::Completions { shell } => generate::completions(shell),
        Command::Man { dir } => generate::man_pages(&dir),
    }
}
