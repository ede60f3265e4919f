//! Options of commands that nobody has typed cost nothing. To put those of all together takes as long as everything else that `info` does.

use clap::builder::Resettable;
use clap::{ArgMatches, Args, FromArgMatches};

/// A command's options, put together when the command was typed.
pub struct Later<A>(pub A);

impl<A: Args> Args for Later<A> {
    fn augment_args(command: clap::Command) -> clap::Command {
        command.defer(|command| add(command, A::augment_args))
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        command.defer(|command| add(command, A::augment_args_for_update))
    }
}

/// Options that several commands share bring words of their own along, which are not those of the command.
fn add(command: clap::Command, options: fn(clap::Command) -> clap::Command) -> clap::Command {
    let (about, long_about) = (command.get_about().cloned(), command.get_long_about().cloned());
    options(command).about(Resettable::from(about)).long_about(Resettable::from(long_about))
}

impl<A: FromArgMatches> FromArgMatches for Later<A> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        A::from_arg_matches(matches).map(Self)
    }

    fn from_arg_matches_mut(matches: &mut ArgMatches) -> Result<Self, clap::Error> {
        A::from_arg_matches_mut(matches).map(Self)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        self.0.update_from_arg_matches(matches)
    }
}
