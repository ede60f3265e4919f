//! Images on HTTP servers: a stream that survives its connections, and requests for what lies far ahead of it.
//!
//! The image is asked for with one plain GET, which every server answers. When the connection breaks, the rest is asked
//! for with `Range` and `If-Range`, so that it is of the same image; where a server has no ranges or gives the image no name,
//! it is read again from the beginning, and the bytes that have passed must be the same. [RFC 9110] is what servers should do;
//! docs/http.md says what is done when they do not.
//!
//! [RFC 9110]: https://www.rfc-editor.org/rfc/rfc9110

mod answer;
pub(crate) mod document;
mod elsewhere;
mod forward;
mod look;
mod resource;
mod retry;
pub(crate) mod small;

use std::io::Read;

use diskferry::{Error, Input, Progress, Stated};
use url::Url;

pub use self::retry::Patience;

pub(crate) use self::answer::refusal;
pub(crate) use self::retry::Tries;

use self::elsewhere::Elsewhere;
use self::forward::{PART, Pace, Reader};
use self::look::{BEGINNING, Look};
use self::resource::Resource;
use crate::client::Client;
use crate::runtime::{Runtime, unless_stopped};

/// How an image is to be had from a server.
#[derive(Debug, Clone)]
pub struct How {
    /// Whether only the beginning will be looked at.
    pub look: bool,
    /// Parts that are fetched at the same time, each over a connection of its own if the server speaks HTTP/1.1. With one, the
    /// image comes as a whole.
    pub connections: usize,
    /// Patience with the server.
    pub patience: Patience,
    /// What the image was stated to be.
    pub format: Option<Stated>,
}

impl Default for How {
    fn default() -> Self {
        Self { look: false, connections: 1, patience: Patience::default(), format: None }
    }
}

/// More connections than this are an attack on the server.
pub const MOST_CONNECTIONS: usize = 16;

/// Asks for the image at `url`. Its bytes come while the input is read.
pub fn open(runtime: &Runtime, client: &Client, url: &Url, how: &How, progress: &Progress) -> diskferry::Result<Input> {
    Ok(open_and_tell(runtime, client, url, how, progress)?.0)
}

/// The same, and whether only the end of the connection tells where the image ends: if that was cut off, it looks the same.
pub(crate) fn open_and_tell(
    runtime: &Runtime,
    client: &Client,
    url: &Url,
    how: &How,
    progress: &Progress,
) -> diskferry::Result<(Input, bool)> {
    let pace = match how.connections.min(MOST_CONNECTIONS) {
        0 | 1 => Pace::Whole,
        ahead => Pace::Parts(ahead),
    };
    let first_part = match (how.look, pace) {
        (true, _) => Some(BEGINNING),
        (false, Pace::Whole) => None,
        (false, Pace::Parts(_)) => Some(PART),
    };
    let mut resource = Resource::new(client, url, how.patience, progress);
    let work = unless_stopped(progress, resource.first(first_part, how.look));
    let first = runtime.block_on(work)??;
    check_encoding(&resource.about.encoding, how.format.as_ref())?;
    // Who was asked for a part has shown whether there are any; others may say so.
    let has_ranges = first.is_part() || (first_part.is_none() && resource.about.ranges != Some(false));
    let len = resource.about.total;
    // Who has ranges is asked whether something follows.
    let ends_by_closing = first.ends_by_closing && len.is_none() && resource.about.ranges != Some(true);
    let elsewhere = Elsewhere { runtime: runtime.clone(), resource: resource.clone() };
    let reader: Box<dyn Read + Send> = if how.look {
        Box::new(Look::new(runtime, resource, first))
    } else {
        Box::new(Reader::start(runtime, resource, first, pace))
    };
    let input = match has_ranges {
        true => Input::Ranged { reader, len, ranges: Box::new(elsewhere) },
        false => Input::Stream { reader, len },
    };
    Ok((input, ends_by_closing))
}

/// What a server puts around the image is a wrapping like others, and told by its first bytes. Where the caller has stated what
/// comes, it has to be among that: otherwise packed bytes would be taken for a disk. Some servers say it of the wrapping that the
/// file has by itself, and some add one more. A raw disk cannot show which of the two it was.
fn check_encoding(encoding: &Option<String>, stated: Option<&Stated>) -> diskferry::Result<()> {
    let Some(encoding) = encoding else { return Ok(()) };
    let name = encoding.strip_prefix("x-").unwrap_or(encoding);
    let is_known = matches!(name, "gzip" | "zstd");
    let fits = |stated: &Stated| stated.format() != "raw" && stated.wrappings().next() == Some(name);
    if is_known && stated.is_none_or(fits) {
        return Ok(());
    }
    let remedy = if is_known {
        "leave the format out, or save it"
    } else {
        "ask its administrator to leave that out, or save it"
    };
    let what = format!("the server has put {encoding:?} around the image (Content-Encoding): {remedy}");
    Err(Error::source("encoding", what))
}
