//! What an answer says about the image and about itself: RFC 9110, sections 8 (length, validators) and 14 (ranges).

use std::time::{Duration, SystemTime};

use diskferry::Error;
use reqwest::header::{
    ACCEPT_RANGES, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, DATE, ETAG, HeaderMap, HeaderName,
    HeaderValue, LAST_MODIFIED, RETRY_AFTER, TRANSFER_ENCODING, WWW_AUTHENTICATE,
};
use reqwest::{Response, StatusCode, Version};

use crate::failure::{Again, Failure};

/// What an ETag begins with that is not weak.
const STRONG: &[u8] = b"\"";
/// A coding that changes nothing.
const IDENTITY: &str = "identity";

/// An answer with bytes of the image.
pub(super) struct Answer {
    /// `None` if there are no bytes, and what the answer brings is something else.
    pub(super) response: Option<Response>,
    /// Offset in the image of the first byte that it brings.
    pub(super) start: u64,
    /// The same of the next one.
    pub(super) at: u64,
    /// Offset of the first byte behind a part, as was asked for; `None` for the whole image.
    pub(super) part_end: Option<u64>,
    /// Whether the end of the connection is all that tells where the image ends.
    pub(super) ends_by_closing: bool,
    /// Whether it is said to be a web page, and has not brought a byte yet.
    pub(super) could_be_page: bool,
    pub(super) about: About,
}

/// What an answer says about the whole image.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct About {
    /// Length in bytes.
    pub(super) total: Option<u64>,
    pub(super) validator: Option<Validator>,
    pub(super) marks: Marks,
    /// An encoding that the server has put around the image, or says it has.
    pub(super) encoding: Option<String>,
    /// Whether the server said that it gives parts, or that it does not.
    pub(super) ranges: Option<bool>,
}

/// A name for one version of the image, which another version cannot have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Validator(pub(super) HeaderValue);

impl Validator {
    /// Whether it is an ETag, and not a date.
    pub(super) fn is_tag(&self) -> bool {
        self.0.as_bytes().starts_with(STRONG)
    }
}

/// What an answer says of the version, whether or not that is a name for it: two of one version have the same.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Marks {
    tag: Option<HeaderValue>,
    pub(super) modified: Option<HeaderValue>,
}

impl Marks {
    fn of(headers: &HeaderMap) -> Self {
        let mark = |name| headers.get(name).filter(|value| !value.is_empty()).cloned();
        Self { tag: mark(ETAG), modified: mark(LAST_MODIFIED) }
    }

    /// Whether something that both say tells one from the other. Several servers may date one version differently and give it the same strong
    /// tag. A weak tag may have lost its weakness on the way, or got it: RFC 9110, section 8.8.3.2.
    pub(super) fn differ(&self, other: &Self) -> bool {
        let opaque = |tag| <[u8]>::strip_prefix(tag, b"W/").unwrap_or(tag);
        match (self.tag.as_ref().map(HeaderValue::as_bytes), other.tag.as_ref().map(HeaderValue::as_bytes)) {
            (Some(one), Some(other)) if opaque(one) != opaque(other) => return true,
            (Some(one), Some(other)) if one.starts_with(STRONG) && other.starts_with(STRONG) => return false,
            _ => {}
        }
        self.modified.is_some() && other.modified.is_some() && self.modified != other.modified
    }
}

impl About {
    /// Whether parts of the image can be told from parts of others, and counted.
    pub(super) fn names_all(&self) -> bool {
        self.validator.is_some() && self.total.is_some()
    }
}

impl Answer {
    /// Understands `response`, to a request for the bytes from `asked` on if for a part.
    pub(super) fn of(response: Response, asked: Option<u64>) -> Result<Self, Failure> {
        let headers = response.headers();
        let mut about = About {
            total: number(headers, &CONTENT_LENGTH),
            validator: validator(headers),
            marks: Marks::of(headers),
            encoding: encoding(headers),
            ranges: text(headers, &ACCEPT_RANGES).map(|unit| !unit.eq_ignore_ascii_case("none")),
        };
        match (response.status(), asked) {
            (StatusCode::OK, _) => {
                let has_end = is_chunked(headers)? || about.total.is_some();
                let ends_by_closing = !has_end && response.version() < Version::HTTP_2;
                let could_be_page =
                    text(headers, &CONTENT_TYPE).is_some_and(|of| of.to_ascii_lowercase().starts_with("text/html"));
                let response = Some(response);
                Ok(Self { response, start: 0, at: 0, part_end: None, ends_by_closing, could_be_page, about })
            }
            (StatusCode::PARTIAL_CONTENT, Some(asked)) => {
                is_chunked(headers)?;
                let range = text(headers, &CONTENT_RANGE).and_then(|range| ContentRange::parse(&range));
                let Some(range) = range.filter(|range| range.start == asked) else {
                    return Err(wrong_range(asked, headers));
                };
                about.total = range.total;
                Ok(Self::part(Some(response), asked, range.end, about))
            }
            // The image is empty, or was over when we did not know its length yet, or has become shorter.
            (StatusCode::RANGE_NOT_SATISFIABLE, Some(asked)) => match nothing_behind(headers) {
                Some(total) if total <= asked => {
                    about.total = Some(total);
                    Ok(Self::part(None, total, total, about))
                }
                _ => Err(wrong_range(asked, headers)),
            },
            (status, _) => Err(refusal(status, headers)),
        }
    }

    fn part(response: Option<Response>, at: u64, end: u64, about: About) -> Self {
        Self { response, start: at, at, part_end: Some(end), ends_by_closing: false, could_be_page: false, about }
    }

    /// Whether it is a part of the image.
    pub(super) fn is_part(&self) -> bool {
        self.part_end.is_some()
    }

    /// Counts the bytes of a `chunk`, or `None` at the end, and holds a part to what was said of it. One that ends too early is for
    /// the caller to see.
    pub(super) fn pass(&mut self, chunk: &[u8]) -> Result<(), Failure> {
        if self.could_be_page && chunk.trim_ascii_start().starts_with(b"<") {
            let what =
                "the server answers with a web page and not with an image: the address may want a login, or be wrong";
            return Err(Failure { error: Error::source("web-page", what), again: Again::Never });
        }
        self.could_be_page &= chunk.trim_ascii().is_empty();
        self.at = self.at.saturating_add(chunk.len() as u64);
        if self.part_end.is_some_and(|end| self.at > end) {
            let what = "the server sends more than the part of the image that it has announced";
            return Err(Failure { error: Error::source("wrong-range", what), again: Again::Later(None) });
        }
        Ok(())
    }
}

/// Content-Range: bytes 0-499/1234, or an unknown length.
#[derive(Debug, PartialEq, Eq)]
struct ContentRange {
    start: u64,
    /// Behind the last byte.
    end: u64,
    total: Option<u64>,
}

impl ContentRange {
    fn parse(text: &str) -> Option<Self> {
        let (range, total) = text.strip_prefix("bytes ")?.trim().split_once('/')?;
        let (start, end) = range.split_once('-')?;
        let (start, end) = (start.parse::<u64>().ok()?, end.parse::<u64>().ok()?.checked_add(1)?);
        let total = if total == "*" { None } else { Some(total.parse().ok()?) };
        (start < end && total.is_none_or(|total| end <= total)).then_some(Self { start, end, total })
    }
}

/// The length of an image from which nothing could be had: `bytes */1234`.
fn nothing_behind(headers: &HeaderMap) -> Option<u64> {
    text(headers, &CONTENT_RANGE)?.strip_prefix("bytes */")?.parse().ok()
}

/// If-Range takes strong validators only: RFC 9110, section 13.1.5. A date is one if the file was not touched in
/// the second in which it was sent.
fn validator(headers: &HeaderMap) -> Option<Validator> {
    if let Some(tag) = headers.get(ETAG).filter(|tag| tag.as_bytes().starts_with(STRONG)) {
        return Some(Validator(tag.clone()));
    }
    let modified = headers.get(LAST_MODIFIED)?;
    let since = date(headers, &DATE)?.duration_since(date(headers, &LAST_MODIFIED)?).ok()?;
    (since > Duration::from_secs(1)).then(|| Validator(modified.clone()))
}

/// What has been put around the image: RFC 9110, section 8.4. That of S3 is how it was sent to there, and no more.
fn encoding(headers: &HeaderMap) -> Option<String> {
    const NONE: [&str; 3] = ["", IDENTITY, "aws-chunked"];
    let all = lines(headers, &CONTENT_ENCODING).to_ascii_lowercase();
    let left: Vec<_> = all.split(',').map(str::trim).filter(|coding| !NONE.contains(coding)).collect();
    (!left.is_empty()).then(|| left.join(", "))
}

/// Whether the answer comes in chunks, which have been taken off. It was asked for without anything around it that would have to be:
/// RFC 9112, section 7.4.
fn is_chunked(headers: &HeaderMap) -> Result<bool, Failure> {
    if !headers.contains_key(TRANSFER_ENCODING) {
        return Ok(false);
    }
    match lines(headers, &TRANSFER_ENCODING) {
        found if found.eq_ignore_ascii_case(IDENTITY) => Ok(false),
        found if found.eq_ignore_ascii_case("chunked") => Ok(true),
        found => {
            let what = format!(
                "the server has put {found:?} around its answer (Transfer-Encoding), which it was not asked for"
            );
            Err(Failure::never(Error::source("encoding", what)))
        }
    }
}

fn wrong_range(asked: u64, headers: &HeaderMap) -> Failure {
    let found = text(headers, &CONTENT_RANGE).unwrap_or_else(|| "no range".into());
    let what = format!("the server was asked for the bytes from {asked} on and answered with {found:?}");
    // Some of several servers behind one name may do better.
    Failure { error: Error::source("wrong-range", what), again: Again::Later(None) }
}

/// What a status means that is no success.
pub(crate) fn refusal(status: StatusCode, headers: &HeaderMap) -> Failure {
    let (error, again) = match status.as_u16() {
        404 | 410 => (Error::source("not-found", format!("the server has no such file ({status})")), Again::Never),
        401 => {
            let scheme = text(headers, &WWW_AUTHENTICATE).and_then(|text| text.split(' ').next().map(str::to_owned));
            let wanted = scheme.map_or(String::new(), |scheme| format!(", it asks for {scheme} authentication"));
            (Error::source("denied", format!("the server does not let us in ({status}){wanted}")), Again::Never)
        }
        403 | 407 => (Error::source("denied", format!("the server does not let us in ({status})")), Again::Never),
        408 | 425 | 429 | 500 | 502..=504 | 506..=599 => {
            let error = Error::source("http-status", format!("the server answered with {status}")).for_now();
            (error, Again::Later(retry_after(headers)))
        }
        _ => (Error::source("http-status", format!("the server answered with {status}")), Again::Never),
    };
    Failure { error, again }
}

/// Seconds or a date: RFC 9110, section 10.2.3.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    if let Some(seconds) = number(headers, &RETRY_AFTER) {
        return Some(Duration::from_secs(seconds));
    }
    date(headers, &RETRY_AFTER)?.duration_since(SystemTime::now()).ok()
}

fn text(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    headers.get(name)?.to_str().ok().map(|text| text.trim().to_owned())
}

/// All lines of a list, as one.
fn lines(headers: &HeaderMap, name: &HeaderName) -> String {
    let lines: Vec<_> =
        headers.get_all(name).into_iter().map(|line| String::from_utf8_lossy(line.as_bytes())).collect();
    lines.join(", ")
}

fn number(headers: &HeaderMap, name: &HeaderName) -> Option<u64> {
    text(headers, name)?.parse().ok()
}

fn date(headers: &HeaderMap, name: &HeaderName) -> Option<SystemTime> {
    httpdate::parse_http_date(&text(headers, name)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    #[test]
    fn a_content_range_must_make_sense() {
        let parse = |text| ContentRange::parse(text).map(|range| (range.start, range.end, range.total));
        assert_eq!(parse("bytes 0-0/1"), Some((0, 1, Some(1))));
        assert_eq!(parse("bytes 5-9/*"), Some((5, 10, None)));
        for wrong in [
            "",
            "bytes */9",
            "bytes 5-4/9",
            "bytes 0-9/9",
            "items 0-1/2",
            "bytes 0-1",
            "bytes a-b/c",
            "bytes 0-18446744073709551615/*",
        ] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn only_strong_validators_count() {
        let modified = ("last-modified", "Tue, 15 Nov 2022 12:45:26 GMT");
        for (pairs, found) in [
            (&[("etag", "\"a\""), modified][..], Some("\"a\"")),
            (&[("etag", "W/\"a\"")], None),
            (&[("etag", "a")], None),
            (&[modified], None),
            (&[modified, ("date", "Tue, 15 Nov 2022 12:45:27 GMT")], None),
            (&[("etag", "W/\"a\""), modified, ("date", "Tue, 15 Nov 2022 12:45:28 GMT")], Some(modified.1)),
        ] {
            let found_here = validator(&headers(pairs)).map(|validator| validator.0);
            assert_eq!(found_here, found.map(HeaderValue::from_static), "{pairs:?}");
        }
    }

    #[test]
    fn marks_differ_where_both_say_something_else() {
        let [old, new] =
            ["Tue, 15 Nov 2022 12:45:26 GMT", "Tue, 15 Nov 2022 12:45:27 GMT"].map(|date| ("last-modified", date));
        let [strong, weak] = ["\"a\"", "W/\"a\""].map(|tag| ("etag", tag));
        let (other, other_weak) = (("etag", "\"b\""), ("etag", "W/\"b\""));
        for (one, two, differ) in [
            (&[strong, old][..], &[strong, new][..], false),
            (&[strong, old], &[other, old], true),
            (&[weak, old], &[other_weak, old], true),
            (&[weak, old], &[strong, old], false),
            (&[weak, old], &[weak, new], true),
            (&[old], &[new], true),
            (&[strong, old], &[new], true),
            (&[strong], &[old], false),
            (&[old], &[], false),
            (&[("etag", ""), old], &[strong, old], false),
        ] {
            let [first, second] = [one, two].map(|pairs| Marks::of(&headers(pairs)));
            assert_eq!((first.differ(&second), second.differ(&first)), (differ, differ), "{one:?} {two:?}");
        }
    }

    #[test]
    fn encodings_that_put_nothing_around_the_image_are_none() {
        for (value, found) in [
            ("", None),
            ("identity", None),
            ("Identity, ,identity", None),
            ("aws-chunked", None),
            ("GZIP", Some("gzip")),
            ("aws-chunked,gzip", Some("gzip")),
            ("gzip, br", Some("gzip, br")),
        ] {
            assert_eq!(encoding(&headers(&[("content-encoding", value)])).as_deref(), found, "{value}");
        }
        assert_eq!(encoding(&headers(&[])), None);
    }

    #[test]
    fn only_chunks_are_taken_off_an_answer() {
        for (lines, found) in [
            (&[][..], Some(false)),
            (&["identity"], Some(false)),
            (&["Chunked"], Some(true)),
            (&["gzip, chunked"], None),
            (&["gzip", "chunked"], None),
            (&["chunked, identity"], None),
            (&["chunked", "chunked"], None),
            (&["chunked,"], None),
            (&[", chunked"], None),
            (&["chunked", ""], None),
            (&[""], None),
            (&["x"], None),
        ] {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(TRANSFER_ENCODING, HeaderValue::from_static(line));
            }
            assert_eq!(is_chunked(&headers).ok(), found, "{lines:?}");
        }
    }

    #[test]
    fn statuses_are_final_or_not() {
        let retry = headers(&[("retry-after", "7")]);
        for (status, code, again) in [
            (404, "source-not-found", Again::Never),
            (410, "source-not-found", Again::Never),
            (401, "source-denied", Again::Never),
            (403, "source-denied", Again::Never),
            (400, "source-http-status", Again::Never),
            (416, "source-http-status", Again::Never),
            (501, "source-http-status", Again::Never),
            (408, "source-http-status", Again::Later(Some(Duration::from_secs(7)))),
            (429, "source-http-status", Again::Later(Some(Duration::from_secs(7)))),
            (500, "source-http-status", Again::Later(Some(Duration::from_secs(7)))),
            (503, "source-http-status", Again::Later(Some(Duration::from_secs(7)))),
        ] {
            let failure = refusal(StatusCode::from_u16(status).unwrap(), &retry);
            assert_eq!((failure.error.code().as_str(), failure.again), (code, again), "{status}");
            assert_eq!(failure.error.is_transient(), again != Again::Never, "{status}");
        }
    }

    #[test]
    fn a_server_may_name_a_date_to_come_back_at() {
        assert_eq!(retry_after(&headers(&[("retry-after", "Tue, 15 Nov 2022 12:45:27 GMT")])), None, "it has passed");
        let far = headers(&[("retry-after", "Fri, 31 Dec 9999 23:59:59 GMT")]);
        assert!(retry_after(&far).is_some_and(|pause| pause > Duration::from_secs(1 << 30)));
    }
}
