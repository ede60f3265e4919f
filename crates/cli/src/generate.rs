//! Shell completions and manual pages, generated from the same definitions as `--help`.

use std::path::Path;
use std::{fs, io};

use clap::builder::Resettable;
use clap::{Command, CommandFactory};
use clap_complete::Shell;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

use crate::access::NETWORK;
use crate::args::{Cli, EXIT_CODES};
use crate::exit::Failure;
use crate::output;

/// Variables that commands look at which ask servers, and what each is for.
const ENVIRONMENT: [(&str, &str); 9] = [
    ("DISKFERRY_USER", "NAME:PASSWORD, where no option names credentials."),
    ("DISKFERRY_TOKEN", "A bearer token, where no option names credentials."),
    ("DISKFERRY_HEADERS", "Headers for each request, one on a line, besides those of --header and --header-file."),
    ("NETRC", "The file that --netrc reads, in place of ~/.netrc."),
    ("http_proxy, https_proxy, all_proxy, no_proxy", "Proxies, in lower case or in upper. An empty one means none."),
    ("SSL_CERT_FILE, SSL_CERT_DIR", "Where the certificates are that the system trusts."),
    (
        "AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL, AWS_REGION, AWS_DEFAULT_REGION",
        "The server of s3:// sources; without them Amazon's in us-east-1.",
    ),
    (
        "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN",
        "Keys for s3:// sources; without them requests are not signed.",
    ),
    (
        "REGISTRY_AUTH_FILE, XDG_RUNTIME_DIR, XDG_CONFIG_HOME, DOCKER_CONFIG",
        "Where credentials of registries are looked for, if --authfile names no file.",
    ),
];

/// Prints the completion script for `shell`.
pub fn completions(shell: Shell) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "diskferry", &mut script);
    output::result(String::from_utf8_lossy(&script).trim_end())
}

/// Writes `diskferry.1` and a page for each subcommand into `dir`.
pub fn man_pages(dir: &Path) -> Result<(), Failure> {
    let mut root = Cli::command().disable_help_subcommand(true);
    root.build();
    let mut commands = Vec::new();
    collect(&root, &mut commands);
    let names: Vec<_> = commands.iter().map(|command| name(command)).collect();
    for command in commands {
        let path = dir.join(format!("{}.1", name(command)));
        let written = page(command, &names).and_then(|page| fs::write(&path, page));
        written.map_err(|error| Failure::Unexpected(format!("writing {}: {error}", path.display())))?;
    }
    Ok(())
}

fn collect<'a>(command: &'a Command, all: &mut Vec<&'a Command>) {
    all.push(command);
    for below in command.get_subcommands().filter(|below| !below.is_hide_set()) {
        collect(below, all);
    }
}

fn name(command: &Command) -> &str {
    command.get_display_name().unwrap_or_else(|| command.get_name())
}

/// The page of `command`; `names` are those of all pages.
fn page(command: &Command, names: &[&str]) -> io::Result<Vec<u8>> {
    let examples = command.get_after_help().map(ToString::to_string);
    let examples = examples.as_deref().filter(|help| help.starts_with("Examples:"));
    let usage = command.clone().render_usage().to_string();
    let shown =
        command.clone().override_usage(usage.trim_start_matches("Usage: ").to_owned()).after_help(Resettable::Reset);
    let mut page = Vec::new();
    let version = env!("CARGO_PKG_VERSION");
    Man::new(shown).source(format!("diskferry {version}")).manual("diskferry").render(&mut page)?;

    let mut roff = Roff::new();
    if let Some(examples) = examples {
        verbatim(&mut roff, "EXAMPLES", examples);
    }
    if command.get_arguments().any(|arg| arg.get_help_heading() == Some(NETWORK)) {
        roff.control("SH", ["ENVIRONMENT"]);
        for (variables, what) in ENVIRONMENT {
            roff.control("TP", []).text([bold(variables)]).text([roman(what)]);
        }
    }
    verbatim(&mut roff, "EXIT STATUS", EXIT_CODES);
    roff.control("SH", ["SEE ALSO"]);
    let others: Vec<_> =
        names.iter().filter(|other| **other != name(command)).map(|name| format!("{name}(1)")).collect();
    roff.text([roman(others.join(", "))]);
    roff.to_writer(&mut page)?;
    Ok(page)
}

/// A section of the lines below the first of `help`, as they are.
fn verbatim(roff: &mut Roff, heading: &str, help: &str) {
    roff.control("SH", [heading]).control("nf", []);
    for line in help.lines().skip(1) {
        roff.text([roman(line)]);
    }
    roff.control("fi", []);
}
