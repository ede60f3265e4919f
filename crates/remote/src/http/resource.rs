//! One image on a server, and how its bytes are asked for.

use std::mem::replace;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use diskferry::{Error, Progress};
use reqwest::header::{ACCEPT, ACCEPT_ENCODING, HeaderMap, HeaderValue, IF_RANGE, RANGE};
use reqwest::{Method, Response};
use tokio::time::timeout;
use url::Url;

use super::answer::{About, Answer, Validator};
use super::retry::{PROGRESS, Patience, Tries};
use crate::client::{Client, without_userinfo};
use crate::failure::{Again, Failure};

/// See the [module](self).
#[derive(Clone)]
pub(super) struct Resource {
    client: Client,
    url: Url,
    found: Arc<Mutex<Found>>,
    /// The types that it may have, where that is to be said.
    pub(super) accept: Option<HeaderValue>,
    pub(super) patience: Patience,
    pub(super) progress: Progress,
    /// What the first answer said.
    pub(super) about: About,
}

/// Where redirects led to: another mirror may have another version, so that it is asked as long as it answers.
#[derive(Default, Clone)]
struct Found {
    at: Option<Url>,
    /// Whether it has failed when it was last asked: then it is the turn of who has named it.
    has_failed: bool,
    /// Whether somebody else, who would begin anew, has been declined since it last answered.
    has_declined: bool,
}

impl Resource {
    pub(super) fn new(client: &Client, url: &Url, patience: Patience, progress: &Progress) -> Self {
        Self {
            client: client.clone(),
            url: url.clone(),
            found: Arc::default(),
            accept: None,
            patience,
            progress: progress.clone(),
            about: About::default(),
        }
    }

    /// The first answer, which says what there is: to a request for the first `part` bytes, or for all of it. It is a part only
    /// where `first_part` says so and the image can be put together from parts, or where it is `looked` at.
    pub(super) async fn first(&mut self, part: Option<u64>, look: bool) -> Result<Answer, Error> {
        let mut tries = self.tries();
        let mut range = part.map(|len| 0..len);
        loop {
            match self.request(&self.url, range.clone()).await {
                // Parts of an image without a name could be parts of two, and without a length nobody knows how many there are.
                Ok(answer) if answer.is_part() && !look && !answer.about.names_all() => range = None,
                Ok(answer) => {
                    self.about = answer.about.clone();
                    self.find(&answer);
                    return Ok(answer);
                }
                Err(failure) if range.is_some() && is_wrong_range(&failure) => range = None,
                Err(failure) => tries.pause_after(failure).await?,
            }
        }
    }

    /// The bytes in `range` of the same image, or all of it if the server prefers to send that.
    pub(super) async fn again(&self, range: Option<Range<u64>>) -> Result<Answer, Failure> {
        let found = self.found().clone();
        let answer = match &found {
            Found { at: None, .. } => self.request(&self.url, range).await?,
            Found { at: Some(_), has_failed: true, .. } => return self.elsewhere(range).await,
            Found { at: Some(url), .. } => match self.request(url, range.clone()).await {
                // It may have been good for a while only.
                Err(Failure { again: Again::Never, .. }) => self.request(&self.url, range).await?,
                answer => answer.inspect_err(|_| self.fail(url))?,
            },
        };
        self.check_same(&answer)?;
        self.find(&answer);
        Ok(answer)
    }

    /// The same by the URL that was named, where what it led to fails. That this leads nowhere now, or to another version, is not the end: the
    /// other one may come back. So it may before all is read anew from somebody else, for which it is asked once more.
    async fn elsewhere(&self, range: Option<Range<u64>>) -> Result<Answer, Failure> {
        let later = |failure: Failure| match failure.again {
            Again::Never => Failure { again: Again::Later(None), ..failure },
            Again::Later(_) => failure,
        };
        self.found().has_failed = false;
        let goes_on = range.as_ref().is_some_and(|range| range.start > 0);
        let answer = self.request(&self.url, range).await.map_err(later)?;
        self.check_same(&answer).map_err(later)?;
        let begins_anew = !answer.is_part() && (goes_on || self.about.marks.differ(&answer.about.marks));
        if begins_anew && !replace(&mut self.found().has_declined, true) {
            let what = "the server that gives the image fails, and another one would begin it anew";
            return Err(Failure::later(Error::source("interrupted", what)));
        }
        self.find(&answer);
        Ok(answer)
    }

    /// Remembers that this one has failed, if it is the one that is asked.
    fn fail(&self, url: &Url) {
        let mut found = self.found();
        found.has_failed |= found.at.as_ref() == Some(url);
    }

    /// Remembers where the answer is from, if that is not what was named.
    fn find(&self, answer: &Answer) {
        if let Some(response) = &answer.response {
            *self.found() = Found { at: self.led_to(response), ..Found::default() };
        }
    }

    fn found(&self) -> MutexGuard<'_, Found> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A part of another version, or another length, cannot be used. A whole one is still held against what has passed.
    /// A part has to say of which version it is, where the first answer did: RFC 9110, section 15.3.7.
    fn check_same(&self, answer: &Answer) -> Result<(), Failure> {
        let (then, now) = (&self.about, &answer.about);
        // What may be a page is looked at before it is called another image.
        let other_length =
            then.total.is_some() && now.total.is_some() && then.total != now.total && !answer.could_be_page;
        let other_version = answer.response.is_some() && then.marks.differ(&now.marks);
        if other_length || (other_version && answer.is_part()) || then.encoding != now.encoding {
            return Err(changed("the image on the server was replaced by another one while it was read"));
        }
        let has_tag = |about: &About| about.validator.as_ref().is_some_and(Validator::is_tag);
        let is_named_as_then = match &then.validator {
            Some(_) if has_tag(then) => has_tag(now),
            Some(_) => now.marks.modified.is_some() || has_tag(now),
            None => true,
        };
        if answer.is_part() && answer.response.is_some() && !is_named_as_then {
            return Err(Failure {
                error: Error::source(
                    "wrong-range",
                    "the server sends a part of the image and does not say of which version",
                ),
                again: Again::Later(None),
            });
        }
        Ok(())
    }

    pub(super) async fn request(&self, url: &Url, range: Option<Range<u64>>) -> Result<Answer, Failure> {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        headers.extend(self.accept.clone().map(|accept| (ACCEPT, accept)));
        if let Some(range) = &range {
            let last = range.end.saturating_sub(1);
            let wanted = if range.end == u64::MAX {
                format!("bytes={}-", range.start)
            } else {
                format!("bytes={}-{last}", range.start)
            };
            headers.extend(HeaderValue::try_from(wanted).ok().map(|wanted| (RANGE, wanted)));
            headers.extend(self.about.validator.clone().map(|validator| (IF_RANGE, validator.0)));
        }
        let response = timeout(self.patience.stall, self.client.send(Method::GET, &self.url, url, headers));
        let response = response.await.map_err(|_| self.stalled())??;
        let led_to = self.led_to(&response);
        Answer::of(response, range.map(|range| range.start)).map_err(|failure| match led_to {
            Some(url) => failure.of_redirect(&url),
            None => failure,
        })
    }

    /// Where redirects led to, if there were any. Requests go without name, password and fragment.
    fn led_to(&self, response: &Response) -> Option<Url> {
        let named = without_userinfo(&self.url).0;
        Some(response.url().clone()).filter(|led_to| *led_to != named)
    }

    /// The next bytes of an answer; `None` at its end, which for a part is the one that it has announced.
    pub(super) async fn chunk(&self, answer: &mut Answer) -> Result<Option<Bytes>, Failure> {
        let next = self.next(answer).await;
        if let (Err(_), Some(response)) = (&next, &answer.response)
            && answer.at.saturating_sub(answer.start) < PROGRESS
        {
            // Whoever answers, and has nothing to give then, is as good as away.
            self.fail(response.url());
        }
        next
    }

    async fn next(&self, answer: &mut Answer) -> Result<Option<Bytes>, Failure> {
        let Some(response) = &mut answer.response else { return Ok(None) };
        let chunk = timeout(self.patience.stall, response.chunk()).await.map_err(|_| self.stalled())?;
        let chunk = chunk.map_err(|error| Failure {
            error: Error::source("interrupted", format!("the connection broke: {}", cause(&error))).for_now(),
            again: Again::Later(None),
        })?;
        match &chunk {
            Some(bytes) => {
                answer.pass(bytes)?;
                if self.about.total.is_some_and(|total| answer.at > total) {
                    // A later answer that does not say how long it is.
                    return Err(changed("the image on the server has become longer than it was said to be"));
                }
            }
            None if answer.part_end.is_some_and(|end| answer.at < end) => return Err(self.interrupted(answer.at)),
            None => {}
        }
        Ok(chunk)
    }

    /// The failure of an answer that ends too early.
    pub(super) fn interrupted(&self, at: u64) -> Failure {
        let of = self.about.total.map_or(String::new(), |total| format!(" of {total}"));
        let what = format!("the connection ended after {at}{of} bytes");
        Failure { error: Error::source("interrupted", what).for_now(), again: Again::Later(None) }
    }

    fn stalled(&self) -> Failure {
        let what = format!("the server has said nothing for {} s (--stall-timeout)", self.patience.stall.as_secs_f64());
        Failure { error: Error::source("stalled", what).for_now(), again: Again::Later(None) }
    }

    pub(super) fn tries(&self) -> Tries {
        Tries::new(self.patience, &self.progress)
    }
}

/// The image is not what it was: the beginning of one and the end of another make none.
pub(super) fn changed(what: &str) -> Failure {
    Failure { error: Error::source("changed", what).for_now(), again: Again::Never }
}

/// Whether a request for all of the image may be answered better.
pub(super) fn is_wrong_range(failure: &Failure) -> bool {
    matches!(failure.error, Error::Source { code: "wrong-range", .. })
}

/// The innermost reason, which says what happened; the outer ones repeat the URL.
fn cause(error: &dyn std::error::Error) -> String {
    let mut innermost = error;
    while let Some(inner) = innermost.source() {
        innermost = inner;
    }
    innermost.to_string()
}
