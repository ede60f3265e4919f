//! SIGINT, SIGTERM and SIGHUP: the first asks the job to stop and clean up.

use diskferry::Progress;
use diskferry_remote::signals::{self, GRACE};

use crate::exit::Failure;

pub use diskferry_remote::signals::{asked, exit_code, with_temporary};

/// From now on a signal sets [`Progress::stop`].
pub fn watch(progress: &Progress) -> Result<(), Failure> {
    signals::watch(progress, GRACE).map_err(|error| Failure::Unexpected(format!("watching for signals: {error}")))
}
