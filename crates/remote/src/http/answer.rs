//! What an answer says about the image and about itself: RFC 9110, sections 8 (length, validators) and 14 (ranges).

use std::time::{Duration, SystemTime};

use diskferry::Error;
use reqwest::header::{
    ACCEPT_RANGES, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, DATE, ETAG, HeaderMap, HeaderName, HeaderValue,
    LAST_MODIFIED, RETRY_AFTER, WWW_AUTHENTICATE,
};
use reqwest::{Response, StatusCode};

use crate::failure::{Again, Failure};

/// An answer with bytes of the image.
pub(super) struct Answer {
    /// `None` if there are no bytes, and what the answer brings is something else.
    pub(super) response: Option<Response>,
    /// Offset in the image of its first byte.
    pub(super) at: u64,
    /// Whether it is a part of the image, as was asked for.
    pub(super) is_part: bool,
    pub(super) about: About,
}

/// What an answer says about the whole image.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct About {
    /// Length in bytes.
    pub(super) total: Option<u64>,
    pub(super) validator: Option<Validator>,
    /// An encoding that the server has put around the image, or says it has.
    pub(super) encoding: Option<String>,
    /// Whether the server said that it gives no parts.
    pub(super) refuses_ranges: bool,
}

/// A name for one version of the image, which another version cannot have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Validator(pub(super) HeaderValue);

impl Answer {
    /// Understands `response`, to a request for the bytes from `asked` on if for a part.
    pub(super) fn of(response: Response, asked: Option<u64>) -> Result<Self, Failure> {
        let headers = response.headers();
        let mut about = About {
            total: number(headers, &CONTENT_LENGTH),
            validator: validator(headers),
            encoding: text(headers, &CONTENT_ENCODING).filter(|encoding| encoding != "identity"),
            refuses_ranges: text(headers, &ACCEPT_RANGES).is_some_and(|unit| unit == "none"),
        };
        match (response.status(), asked) {
            (StatusCode::OK, _) => Ok(Self { response: Some(response), at: 0, is_part: false, about }),
            (StatusCode::PARTIAL_CONTENT, Some(asked)) => {
                let range = text(headers, &CONTENT_RANGE).and_then(|range| ContentRange::parse(&range));
                match range {
                    Some(range) if range.start == asked => {
                        about.total = range.total;
                        Ok(Self { response: Some(response), at: asked, is_part: true, about })
                    }
                    _ => Err(wrong_range(asked, headers)),
                }
            }
            // The image is empty, or was over when we did not know its length yet.
            (StatusCode::RANGE_NOT_SATISFIABLE, Some(asked)) if ends_at(asked, headers) => {
                about.total = Some(asked);
                Ok(Self { response: None, at: asked, is_part: true, about })
            }
            (status, _) => Err(refusal(status, headers)),
        }
    }
}

/// Content-Range: bytes 0-499/1234, or an unknown length.
#[derive(Debug, PartialEq, Eq)]
struct ContentRange {
    start: u64,
    total: Option<u64>,
}

impl ContentRange {
    fn parse(text: &str) -> Option<Self> {
        let (range, total) = text.strip_prefix("bytes ")?.trim().split_once('/')?;
        let (start, end) = range.split_once('-')?;
        let (start, end) = (start.parse::<u64>().ok()?, end.parse::<u64>().ok()?);
        let total = if total == "*" { None } else { Some(total.parse().ok()?) };
        (start <= end && total.is_none_or(|total| end < total)).then_some(Self { start, total })
    }
}

fn ends_at(asked: u64, headers: &HeaderMap) -> bool {
    text(headers, &CONTENT_RANGE).is_some_and(|range| range == format!("bytes */{asked}"))
}

/// If-Range takes strong validators only: RFC 9110, section 13.1.5. A date is one if the file was not touched in
/// the second in which it was sent.
fn validator(headers: &HeaderMap) -> Option<Validator> {
    if let Some(tag) = headers.get(ETAG).filter(|tag| tag.as_bytes().starts_with(b"\"")) {
        return Some(Validator(tag.clone()));
    }
    let modified = headers.get(LAST_MODIFIED)?;
    let since = date(headers, &DATE)?.duration_since(date(headers, &LAST_MODIFIED)?).ok()?;
    (since > Duration::from_secs(1)).then(|| Validator(modified.clone()))
}

fn wrong_range(asked: u64, headers: &HeaderMap) -> Failure {
    let found = text(headers, &CONTENT_RANGE).unwrap_or_else(|| "no range".into());
    let what = format!("the server was asked for the bytes from {asked} on and answered with {found:?}");
    // Some of several servers behind one name may do better.
    Failure { error: Error::source("wrong-range", what), again: Again::Later(None) }
}

fn refusal(status: StatusCode, headers: &HeaderMap) -> Failure {
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
        let parse = |text| ContentRange::parse(text).map(|range| (range.start, range.total));
        assert_eq!(parse("bytes 0-0/1"), Some((0, Some(1))));
        assert_eq!(parse("bytes 5-9/*"), Some((5, None)));
        for wrong in ["", "bytes */9", "bytes 5-4/9", "bytes 0-9/9", "items 0-1/2", "bytes 0-1", "bytes a-b/c"] {
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
