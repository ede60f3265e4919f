//! The words of which scripts are made.

use std::fmt;
use std::time::Duration;

/// What the server does with one request: the right thing, or something else in any number of ways.
///
/// Positions count bytes of this answer's body as they go over the wire, so after a Content-Encoding, but without the lines
/// that frame chunks. Faults at the same position happen in the order in which they were added, those at the end after the
/// last chunk, and those behind the end never.
#[derive(Clone)]
pub struct Answer {
    pub(super) what: What,
    pub(super) wait: Duration,
    pub(super) interim: Vec<u16>,
    pub(super) headers: Vec<(String, String)>,
    pub(super) framing: Framing,
    pub(super) ranges: Ranges,
    pub(super) coding: Coding,
    pub(super) tag: Tag,
    pub(super) dated: bool,
    pub(super) acts: Vec<(usize, Act)>,
    pub(super) pace: Option<(usize, Duration)>,
    pub(super) after: After,
}

/// What an answer consists of.
#[derive(Debug, Clone)]
pub(super) enum What {
    /// A version of the file, or the asked range of it.
    File(usize),
    /// A status with a short text.
    Page { status: u16, content_type: &'static str, text: String },
    /// These bytes in place of head and body, and the end.
    Raw(Vec<u8>),
    /// Header after header without an end.
    EndlessHead,
    /// Not a byte.
    Nothing(End),
}

/// What some servers say instead of what was asked for: its type and text.
pub(super) const HTML: (&str, &str) = (
    "text/html; charset=utf-8",
    "<!DOCTYPE html>\n<html><head><title>Sign in</title></head><body>Please sign in.</body></html>\n",
);

/// How the body of a file is encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Coding {
    Plain,
    /// The body is gzip of the file, and the head says so.
    Gzip,
    /// The head says so, the body is the file.
    Claimed,
}

/// Something that happens at a place of the body.
#[derive(Debug, Clone, Copy)]
pub(super) enum Act {
    End(End),
    Stall(Duration),
    /// From here on the bytes are those of another version.
    Version(usize),
}

/// How a connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// In order, as if all had been said.
    Close,
    /// By a TCP reset. What the client has not yet been sent by the kernel is lost with it.
    Reset,
}

/// What becomes of the connection after a whole answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum After {
    /// It stays open for the next request.
    Keep,
    /// It is closed, and the head says so.
    Close,
    /// It is closed although the head promised to keep it, so that the next request on it races with the close.
    Vanish,
}

/// How the client learns where the body ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Framing {
    /// By the right Content-Length.
    Length,
    /// By a Content-Length that is this much too large.
    LongBy(u64),
    /// By a Content-Length that is this much too small; the rest comes all the same.
    ShortBy(u64),
    /// By the end of the connection.
    Close,
    /// By chunks of so many bytes, and their end.
    Chunked(usize, Chunks),
}

/// How a chunked body ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Chunks {
    /// With the last chunk.
    Clean,
    /// Without it: after the last byte the connection is closed.
    Unended,
    /// With the last chunk and these headers.
    Trailers(Vec<(String, String)>),
}

/// What a request for a range gets. Requests for the whole file are not concerned, except by `Ignored`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ranges {
    /// The range as asked: 206, 416 behind the end, and 200 if `If-Range` names something else.
    Right,
    /// 200 with the whole file, and no word of ranges in any head.
    Ignored,
    /// A range that is this many bytes later, and says so.
    Shifted(u64),
    /// Bytes from this much later, said to be those that were asked for.
    Mislabelled(u64),
    /// At most so many bytes of what was asked for, and says so, as a server may.
    AtMost(u64),
    /// The right bytes, said to be of a file of so many.
    Total(u64),
    /// The right bytes of a file of unknown length.
    UnknownTotal,
    /// The right bytes without a Content-Range.
    Unlabelled,
    /// The right bytes as the only part of multipart/byteranges.
    Multipart,
    /// 416, wherever the range lies.
    Refused,
    /// The page of [`Answer::html`], unless the range starts with the file.
    Html,
}

/// The validator of a file's answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tag {
    /// A strong ETag that is another one for each version.
    Strong,
    /// The same, weak. A weak tag never matches in `If-Range`.
    Weak,
    /// This ETag, quotes included.
    Literal(String),
    /// No ETag.
    None,
}

impl Answer {
    /// The file as a good server gives it: its first version, ranges, a strong ETag, a date, Content-Length, keep-alive.
    pub fn right() -> Self {
        Self::of(What::File(0))
    }

    /// A status with a line of text, as in `status(503).header("Retry-After", "1")`.
    pub fn status(status: u16) -> Self {
        Self::of(What::Page { status, content_type: "text/plain", text: format!("this is status {status}\n") })
    }

    /// The page of an error, given out as if it were the file: status 200.
    pub fn html() -> Self {
        Self::of(What::Page { status: 200, content_type: HTML.0, text: HTML.1.to_owned() })
    }

    /// A redirect to `location`, which may be anything.
    pub fn redirect(status: u16, location: &str) -> Self {
        Self::status(status).header("Location", location)
    }

    /// These bytes instead of an answer, and the end of the connection: garbage, or half a head.
    pub fn raw(bytes: impl Into<Vec<u8>>) -> Self {
        Self::of(What::Raw(bytes.into()))
    }

    /// A head that does not end, until the client has had enough of it or 16 MiB were sent.
    pub fn endless_head() -> Self {
        Self::of(What::EndlessHead)
    }

    /// The end of the connection before anything is answered. On a connection that was used before, this is what a request
    /// meets that came too late.
    pub fn nothing(end: End) -> Self {
        Self::of(What::Nothing(end))
    }

    /// Serves another version of the file; of statuses and pages there is only one.
    #[must_use]
    pub fn version(mut self, version: usize) -> Self {
        if let What::File(of) = &mut self.what {
            *of = version;
        }
        self
    }

    /// Waits before the first byte, as long as the client does.
    #[must_use]
    pub fn wait(mut self, wait: Duration) -> Self {
        self.wait = wait;
        self
    }

    /// Sends heads of these statuses before the answer, as 100 or 103.
    #[must_use]
    pub fn interim(mut self, statuses: &[u16]) -> Self {
        self.interim = statuses.to_vec();
        self
    }

    /// Adds a header, in place of what the server itself would say there.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// How the end of the body is told.
    #[must_use]
    pub fn framing(mut self, framing: Framing) -> Self {
        self.framing = framing;
        self
    }

    /// What a range gets.
    #[must_use]
    pub fn ranges(mut self, ranges: Ranges) -> Self {
        self.ranges = ranges;
        self
    }

    /// Sends the file as gzip, whether that was asked for or not. Ranges are then ranges of the gzip.
    #[must_use]
    pub fn gzip(mut self) -> Self {
        self.coding = Coding::Gzip;
        self
    }

    /// Says that the file is sent as gzip, and sends it as it is.
    #[must_use]
    pub fn claim_gzip(mut self) -> Self {
        self.coding = Coding::Claimed;
        self
    }

    /// The validator.
    #[must_use]
    pub fn tag(mut self, tag: Tag) -> Self {
        self.tag = tag;
        self
    }

    /// Leaves out Last-Modified.
    #[must_use]
    pub fn undated(mut self) -> Self {
        self.dated = false;
        self
    }

    /// Ends the connection after so many bytes of the body.
    #[must_use]
    pub fn cut(self, after: usize, end: End) -> Self {
        self.act(after, Act::End(end))
    }

    /// Sends nothing for a while after so many bytes of the body, unless the client leaves.
    #[must_use]
    pub fn stall(self, after: usize, pause: Duration) -> Self {
        self.act(after, Act::Stall(pause))
    }

    /// Goes on with the bytes of another version after so many, as a file does that is overwritten while it is sent.
    #[must_use]
    pub fn swap(self, after: usize, version: usize) -> Self {
        self.act(after, Act::Version(version))
    }

    /// Sends the body in pieces of so many bytes, with a pause after each.
    #[must_use]
    pub fn trickle(mut self, piece: usize, pause: Duration) -> Self {
        self.pace = Some((piece.max(1), pause));
        self
    }

    /// What becomes of the connection.
    #[must_use]
    pub fn after(mut self, after: After) -> Self {
        self.after = after;
        self
    }

    fn of(what: What) -> Self {
        Self {
            what,
            wait: Duration::ZERO,
            interim: Vec::new(),
            headers: Vec::new(),
            framing: Framing::Length,
            ranges: Ranges::Right,
            coding: Coding::Plain,
            tag: Tag::Strong,
            dated: true,
            acts: Vec::new(),
            pace: None,
            after: After::Keep,
        }
    }

    fn act(mut self, at: usize, act: Act) -> Self {
        self.acts.push((at, act));
        // Stable: at one place, in the order of the script.
        self.acts.sort_by_key(|(at, _)| *at);
        self
    }
}

/// Only what is not as in [`Answer::right`], for a script has to be read when a test has failed.
impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // All fields are taken here, so that a new one cannot be forgotten.
        let Self { what, wait, interim, headers, framing, ranges, coding, tag, dated, acts, pace, after } = self;
        let fields: [(&str, &dyn fmt::Debug, bool); 12] = [
            ("what", what, matches!(what, What::File(0))),
            ("wait", wait, wait.is_zero()),
            ("interim", interim, interim.is_empty()),
            ("headers", headers, headers.is_empty()),
            ("framing", framing, *framing == Framing::Length),
            ("ranges", ranges, *ranges == Ranges::Right),
            ("coding", coding, *coding == Coding::Plain),
            ("tag", tag, *tag == Tag::Strong),
            ("dated", dated, *dated),
            ("acts", acts, acts.is_empty()),
            ("pace", pace, pace.is_none()),
            ("after", after, *after == After::Keep),
        ];
        let mut output = f.debug_struct("Answer");
        for (name, value, _) in fields.iter().filter(|(_, _, usual)| !usual) {
            output.field(name, value);
        }
        output.finish()
    }
}
