//! What can go wrong with a request, and whether it is worth another.

use std::time::Duration;

use diskferry::Error;

/// Why a request has no answer, or none that helps.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) error: Error,
    pub(crate) again: Again,
}

/// Whether the same request might be answered if it is made again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Again {
    /// The answer will be the same.
    Never,
    /// The answer may be another one, and not before this time has passed if the server has said so.
    Later(Option<Duration>),
}
