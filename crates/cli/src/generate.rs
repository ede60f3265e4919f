//! Shell completions and manual pages, generated from the same definitions as `--help`.

use std::path::Path;

use clap::CommandFactory;
use clap_complete::Shell;

use crate::args::Cli;
use crate::exit::Failure;
use crate::output;

/// Prints the completion script for `shell`.
pub fn completions(shell: Shell) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "diskferry", &mut script);
    output::result(String::from_utf8_lossy(&script).trim_end())
}

/// Writes `diskferry.1` and a page for each subcommand into `dir`.
pub fn man_pages(dir: &Path) -> Result<(), Failure> {
    clap_mangen::generate_to(Cli::command(), dir)
        .map_err(|error| Failure::Unexpected(format!("writing manual pages to {}: {error}", dir.display())))
}
