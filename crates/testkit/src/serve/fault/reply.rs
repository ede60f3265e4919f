//! What an answer comes to for one request: status, headers and bytes.

use std::ops::Range;
use std::sync::Arc;

use super::answer::{After, Answer, Coding, Framing, HTML, Ranges, Tag, What};
use super::file::File;
use super::request::Request;
use crate::wrap;

/// A head and a body, ready to be sent.
pub(super) struct Reply {
    pub(super) status: u16,
    headers: Vec<(String, String)>,
    pub(super) body: Body,
}

/// A part of some bytes.
pub(super) struct Body {
    pub(super) bytes: Arc<[u8]>,
    pub(super) range: Range<usize>,
}

impl Body {
    fn whole(bytes: impl Into<Arc<[u8]>>) -> Self {
        let bytes = bytes.into();
        Self { range: 0..bytes.len(), bytes }
    }

    pub(super) fn len(&self) -> usize {
        self.range.len()
    }
}

impl Reply {
    /// The reply of an answer that has head and body.
    pub(super) fn new(file: &File, answer: &Answer, request: &Request) -> Self {
        let mut reply = match &answer.what {
            What::File(version) => Self::file(file, *version, answer, request),
            What::Page { status, content_type, text } => {
                Self { status: *status, headers: Vec::new(), body: Body::whole(text.as_bytes()) }
                    .with("Content-Type", *content_type)
            }
            What::Raw(_) | What::EndlessHead | What::Nothing(_) => unreachable!("these have no head"),
        };
        let len = reply.body.len() as u64;
        reply = match &answer.framing {
            Framing::Length => reply.with("Content-Length", len.to_string()),
            Framing::LongBy(by) => reply.with("Content-Length", (len + by).to_string()),
            Framing::ShortBy(by) => reply.with("Content-Length", len.saturating_sub(*by).to_string()),
            Framing::Chunked(..) => reply.with("Transfer-Encoding", "chunked"),
            Framing::Close => reply,
        };
        let closes = answer.after == After::Close || answer.framing == Framing::Close;
        reply = reply.with("Connection", if closes { "close" } else { "keep-alive" });
        reply.headers.retain(|(name, _)| !answer.headers.iter().any(|(other, _)| other.eq_ignore_ascii_case(name)));
        reply.headers.extend(answer.headers.iter().cloned());
        reply
    }

    /// The head as it is on the wire.
    pub(super) fn head(&self) -> String {
        let headers: String = self.headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        format!("HTTP/1.1 {} By Script\r\n{headers}\r\n", self.status)
    }

    fn file(file: &File, version: usize, answer: &Answer, request: &Request) -> Self {
        let bytes = representation(file, version, answer.coding);
        let (tag, date) = (etag(answer, version, bytes.len()), format!("Mon, 01 Jan 2024 {version:02}:00:00 GMT"));
        let len = bytes.len();
        let reply = match asked(answer, request, tag.as_deref(), &date, len) {
            Asked::Whole => Self { status: 200, headers: Vec::new(), body: Body::whole(bytes) },
            Asked::Part(range) if answer.ranges == Ranges::Html && range.start > 0 => {
                let page = Self { status: 200, headers: Vec::new(), body: Body::whole(HTML.1.as_bytes()) };
                return page.with("Content-Type", HTML.0);
            }
            Asked::Part(range) => Self::part(bytes, range, answer.ranges),
            Asked::Outside => Self { status: 416, headers: Vec::new(), body: Body::whole([]) }
                .with("Content-Range", format!("bytes */{len}")),
            Asked::Other => Self { status: 412, headers: Vec::new(), body: Body::whole([]) },
        };
        // Only the parts of several have their own type.
        let multipart = reply.headers.iter().any(|(name, _)| name == "Content-Type");
        let content_type = (!multipart).then_some(("Content-Type", "application/octet-stream"));
        let ranges = (answer.ranges != Ranges::Ignored).then_some(("Accept-Ranges", "bytes"));
        let coding = (answer.coding != Coding::Plain).then_some(("Content-Encoding", "gzip"));
        let tag = tag.as_deref().map(|tag| ("ETag", tag));
        let date = answer.dated.then_some(("Last-Modified", date.as_str()));
        [content_type, ranges, coding, tag, date]
            .into_iter()
            .flatten()
            .fold(reply, |reply, (name, value)| reply.with(name, value))
    }

    /// A 206 for `asked`, which lies within `bytes`.
    fn part(bytes: Arc<[u8]>, asked: Range<usize>, ranges: Ranges) -> Self {
        let len = bytes.len();
        let range = match ranges {
            Ranges::Shifted(by) => (asked.start + by as usize).min(len - 1)..len.min(asked.end + by as usize),
            Ranges::Mislabelled(by) if asked.end + by as usize <= len => {
                asked.start + by as usize..asked.end + by as usize
            }
            Ranges::Mislabelled(by) => {
                let back = asked.start.min(by as usize);
                asked.start - back..asked.end - back
            }
            Ranges::AtMost(most) => asked.start..asked.end.min(asked.start + most as usize),
            _ => asked.clone(),
        };
        let said = if matches!(ranges, Ranges::Mislabelled(_)) { &asked } else { &range };
        let total = match ranges {
            Ranges::Total(total) => total.to_string(),
            Ranges::UnknownTotal => "*".to_owned(),
            _ => len.to_string(),
        };
        let label = format!("bytes {}-{}/{total}", said.start, said.end - 1);
        match ranges {
            Ranges::Multipart => {
                const BOUNDARY: &str = "boundary-of-parts";
                let head =
                    format!("--{BOUNDARY}\r\nContent-Type: application/octet-stream\r\nContent-Range: {label}\r\n\r\n");
                let body = [head.as_bytes(), &bytes[range], format!("\r\n--{BOUNDARY}--\r\n").as_bytes()].concat();
                Self { status: 206, headers: Vec::new(), body: Body::whole(body) }
                    .with("Content-Type", format!("multipart/byteranges; boundary={BOUNDARY}"))
            }
            Ranges::Unlabelled => Self { status: 206, headers: Vec::new(), body: Body { bytes, range } },
            _ => Self { status: 206, headers: Vec::new(), body: Body { bytes, range } }.with("Content-Range", label),
        }
    }

    fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }
}

/// What goes over the wire for a version of a file.
pub(super) fn representation(file: &File, version: usize, coding: Coding) -> Arc<[u8]> {
    match coding {
        Coding::Gzip => wrap::gzip(file.bytes(version)).into(),
        Coding::Plain | Coding::Claimed => Arc::clone(file.bytes(version)),
    }
}

fn etag(answer: &Answer, version: usize, len: usize) -> Option<String> {
    let coding = if answer.coding == Coding::Gzip { "-gzip" } else { "" };
    let strong = format!("\"version-{version}-of-{len}{coding}\"");
    match &answer.tag {
        Tag::Strong => Some(strong),
        Tag::Weak => Some(format!("W/{strong}")),
        Tag::Literal(tag) => Some(tag.clone()),
        Tag::None => None,
    }
}

enum Asked {
    Whole,
    Part(Range<usize>),
    Outside,
    /// Another version than the one that there is, by If-Match.
    Other,
}

/// What the request is for, by RFC 9110, sections 13 and 14.
fn asked(answer: &Answer, request: &Request, tag: Option<&str>, date: &str, len: usize) -> Asked {
    let same = |validator: &str| tag.is_some_and(|tag| tag == validator && !tag.starts_with("W/"));
    if request.header("if-match").is_some_and(|wanted| wanted != "*" && !wanted.split(',').any(|one| same(one.trim())))
    {
        return Asked::Other;
    }
    let (Some(range), false) = (request.header("range"), answer.ranges == Ranges::Ignored || request.is_head()) else {
        return Asked::Whole;
    };
    let if_range = request.header("if-range");
    if if_range.is_some_and(|validator| !(same(validator) || answer.dated && validator == date)) {
        return Asked::Whole;
    }
    // What is malformed or asks for several ranges may be ignored, and is.
    match span(range, len) {
        None => Asked::Whole,
        Some(_) if answer.ranges == Ranges::Refused => Asked::Outside,
        Some(range) if range.is_empty() => Asked::Outside,
        Some(range) => Asked::Part(range),
    }
}

/// The part of `len` bytes that a header asks for, empty if there is none.
fn span(header: &str, len: usize) -> Option<Range<usize>> {
    let (first, last) = header.strip_prefix("bytes=")?.split_once('-')?;
    if first.is_empty() {
        let suffix: usize = last.parse().ok()?;
        return Some(len.saturating_sub(suffix)..len);
    }
    let first: usize = first.parse().ok()?;
    let end = if last.is_empty() { len } else { last.parse::<usize>().ok()?.checked_add(1)?.min(len) };
    Some(first..end)
}
