//! Every way a job can end badly, one variant per reaction of a caller.

use std::fmt::{self, Write};
use std::io;

/// The result of everything in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Which end of the ferry an I/O error belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Reading the image.
    Source,
    /// Writing the disk, or the spool beside it.
    Target,
}

/// What a caller does about an error: the command line turns it into an exit code, a controller into a verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The image is damaged, of a kind that is not carried, or beyond a limit. Trying again will not help.
    Image,
    /// The source could not be read.
    Source,
    /// The target cannot take the disk: too small, full, in use, not writable.
    Target,
    /// The bytes that came are not the bytes that were promised.
    Mismatch,
    /// Somebody asked the job to stop.
    Stopped,
}

/// What went wrong. The text is one line: what, where, the number found, the number allowed, the remedy.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A read or write failed.
    #[error("{doing}{}: {}", .at.map(|at| format!(" at byte {at}")).unwrap_or_default(), Line(source))]
    Io {
        /// Whether the image could not be read or the disk not written.
        side: Side,
        /// What was being done, as in "reading the image".
        doing: &'static str,
        /// Byte offset in the image or on the disk, where one is known.
        at: Option<u64>,
        /// What the system said.
        source: io::Error,
    },
    /// The source cannot be had, or not as it was promised, for a reason that is no failed read.
    #[error("{}", Line(what))]
    Source {
        /// Short name; see [`Error::code`].
        code: &'static str,
        /// What stands in the way, and the remedy if there is one.
        what: String,
        /// Whether the same job might succeed later without anything being changed.
        transient: bool,
    },
    /// The image contradicts its own format, or ends before what it promises.
    #[error("{format}: {what} (at byte {at})")]
    Corrupt {
        /// Format or wrapping, as in `qcow2` or `gzip`.
        format: &'static str,
        /// Short name of the finding, unique within the format; see [`Error::code`].
        code: &'static str,
        /// Byte offset in the image as unwrapped; for a wrapping, unpacked bytes delivered before.
        at: u64,
        /// What was found and what is allowed.
        what: String,
    },
    /// The image is whole, but of a kind that is not carried.
    #[error("{format}: {what}")]
    Unsupported {
        /// Format or wrapping.
        format: &'static str,
        /// Short name of the feature, unique within the format; see [`Error::code`].
        code: &'static str,
        /// The feature, and the remedy if there is one.
        what: String,
    },
    /// The image wants more than the caller allows.
    #[error("{what}: {wanted} wanted, the limit is {limit} ({option})")]
    Limit {
        /// What would have been exceeded, with its unit.
        what: &'static str,
        /// The amount wanted.
        wanted: u64,
        /// The amount allowed.
        limit: u64,
        /// The option that raises the limit, as in `--limit-table`.
        option: &'static str,
    },
    /// The target cannot take this disk, whatever is written.
    #[error("{}", Line(what))]
    Target {
        /// Short name; see [`Error::code`].
        code: &'static str,
        /// What stands in the way, with both sizes where sizes are the reason.
        what: String,
    },
    /// A checksum or a promised length does not agree with the bytes that came.
    #[error("{what} is {found}, expected {expected}")]
    Mismatch {
        /// What was compared, as in `sha256 of the source`.
        what: String,
        /// What was promised.
        expected: String,
        /// What came.
        found: String,
    },
    /// [`Progress::stop`](crate::Progress::stop) was called.
    #[error("stopped")]
    Stopped,
}

impl Error {
    /// What was read contradicts its own format; `code` is unique within `format`.
    pub fn corrupt(format: &'static str, code: &'static str, at: u64, what: impl Into<String>) -> Self {
        Self::Corrupt { format, code, at, what: what.into() }
    }

    /// What was read is whole, and not carried.
    pub fn unsupported(format: &'static str, code: &'static str, what: impl Into<String>) -> Self {
        Self::Unsupported { format, code, what: what.into() }
    }

    /// The source cannot be had, for good.
    pub fn source(code: &'static str, what: impl Into<String>) -> Self {
        Self::Source { code, what: what.into(), transient: false }
    }

    /// The same, but for now: later it might be had.
    pub fn for_now(self) -> Self {
        match self {
            Self::Source { code, what, .. } => Self::Source { code, what, transient: true },
            other => other,
        }
    }

    /// A failed read of the image at `at`. An error that already is one of ours (it travelled through an
    /// [`io::Read`]) comes out as it was.
    pub fn reading(at: u64, source: io::Error) -> Self {
        Self::from_io(source, |source| Self::Io {
            side: Side::Source,
            doing: "reading the image",
            at: Some(at),
            source,
        })
    }

    /// A failed write, seek or sync of the target; `doing` as in "writing the disk".
    pub fn writing(doing: &'static str, at: Option<u64>, source: impl Into<io::Error>) -> Self {
        Self::from_io(source.into(), |source| Self::Io { side: Side::Target, doing, at, source })
    }

    /// Takes out the [`Error`] that `source` carries, or makes one of it.
    pub(crate) fn from_io(source: io::Error, make: impl FnOnce(io::Error) -> Self) -> Self {
        match source.downcast::<Self>() {
            Ok(own) => own,
            Err(foreign) => make(foreign),
        }
    }

    /// What a caller should do about it.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Io { side: Side::Source, .. } | Self::Source { .. } => Kind::Source,
            Self::Io { side: Side::Target, .. } | Self::Target { .. } => Kind::Target,
            Self::Corrupt { .. } | Self::Unsupported { .. } | Self::Limit { .. } => Kind::Image,
            Self::Mismatch { .. } => Kind::Mismatch,
            Self::Stopped => Kind::Stopped,
        }
    }

    /// A stable name for programs, as in `qcow2-backing-file`, `limit-table` or `target-no-space`. All are listed in docs/errors.md.
    pub fn code(&self) -> String {
        match self {
            Self::Io { side: Side::Source, .. } => "source-read".into(),
            Self::Io { source, .. } if is_no_space(source) => "target-no-space".into(),
            Self::Io { .. } => "target-write".into(),
            Self::Source { code, .. } => format!("source-{code}"),
            Self::Corrupt { format, code, .. } | Self::Unsupported { format, code, .. } => format!("{format}-{code}"),
            Self::Limit { option, .. } => option.trim_start_matches('-').to_owned(),
            Self::Target { code, .. } => format!("target-{code}"),
            Self::Mismatch { .. } => "mismatch".into(),
            Self::Stopped => "stopped".into(),
        }
    }

    /// Whether the same job might succeed later without anything being changed.
    pub fn is_transient(&self) -> bool {
        use io::ErrorKind as K;
        match self {
            Self::Io { source, .. } => matches!(
                source.kind(),
                K::TimedOut
                    | K::ConnectionReset
                    | K::ConnectionAborted
                    | K::ConnectionRefused
                    | K::BrokenPipe
                    | K::WouldBlock
            ),
            Self::Source { transient, .. } => *transient,
            _ => false,
        }
    }
}

/// Whether a terminal obeys this, and does not show it: control characters (C0, DEL, C1), line separators, and the marks that reorder or
/// hide text.
pub fn is_command(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// A text of others on one line, without what a terminal would obey: names of files have line ends, too.
struct Line<T>(T);

impl<T: fmt::Display> fmt::Display for Line<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.to_string().chars().try_for_each(|c| match is_command(c) {
            true => write!(f, "{}", c.escape_default()),
            false => f.write_char(c),
        })
    }
}

fn is_no_space(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge)
}

impl From<Error> for io::Error {
    /// Carries an [`Error`] through an [`io::Read`]; [`Error::reading`] takes it out again.
    fn from(error: Error) -> Self {
        Self::other(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_own_error_survives_a_trip_through_io() {
        let error = Error::reading(7, io::Error::from(Error::corrupt("gzip", "crc", 3, "wrong check value")));
        assert_eq!(error.code(), "gzip-crc");
        assert_eq!(error.to_string(), "gzip: wrong check value (at byte 3)");
    }

    #[test]
    fn an_error_is_one_line_whatever_others_have_said() {
        let what = "/tmp/a\nb\u{1b}[31m cannot be a target";
        let errors = [
            Error::Target { code: "cannot-create", what: what.into() },
            Error::source("access", what),
            Error::reading(7, io::Error::other(what)),
        ];
        for error in errors {
            let text = error.to_string();
            assert!(text.ends_with(r"/tmp/a\nb\u{1b}[31m cannot be a target"), "{text}");
        }
    }

    #[test]
    fn a_full_disk_is_told_from_other_write_errors() {
        let full = Error::writing("writing the disk", Some(0), io::Error::from(io::ErrorKind::StorageFull));
        assert_eq!((full.kind(), full.code().as_str()), (Kind::Target, "target-no-space"));
    }
}
