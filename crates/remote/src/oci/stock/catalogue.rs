//! What a registry has: its repositories, and the tags of each, page by page.
//! [Specification](https://github.com/opencontainers/distribution-spec/blob/main/spec.md#content-discovery); the list of repositories
//! is [Docker's](https://distribution.github.io/distribution/spec/api/#listing-repositories), and not every registry has it.

use std::collections::BTreeSet;

use diskferry::digest::Checksum;
use diskferry::{Error, Progress, Result};
use reqwest::header::{HeaderMap, HeaderValue, LINK};
use reqwest::{Method, StatusCode};
use serde::Deserialize;
use tokio::time::timeout;
use url::Url;

use super::super::Wish;
use super::super::desk::Desk;
use super::super::keys::Keys;
use super::super::manifest::{DOCUMENT, json, short};
use super::super::reference::Reference;
use super::super::registry::Registry;
use crate::client::Client;
use crate::failure::Failure;
use crate::http::{Tries, document, refusal};
use crate::runtime::{Runtime, unless_stopped};

/// Names that are asked for at once. A registry may give less.
const PAGE: usize = 1000;

/// Most pages of one list, and most names on all of them.
const PAGES: usize = 10_000;
const NAMES: usize = 1 << 20;

/// Bytes of all names in a list, and of what leads to a page: each page may be as long as a document.
const NAME_BYTES: usize = 64 << 20;
const LINKED: usize = 4 << 10;

/// A registry, or the part of it that begins with a prefix.
pub struct Catalogue {
    pub(super) runtime: Runtime,
    pub(super) client: Client,
    pub(super) keys: Keys,
    pub(super) host: String,
    pub(super) prefix: Option<String>,
    pub(super) is_plain: bool,
}

#[derive(Deserialize)]
struct Page {
    #[serde(default)]
    repositories: Option<Vec<String>>,
    #[serde(default)]
    tags: Option<Vec<String>>,
}

impl Catalogue {
    /// Names of repositories, in order.
    pub(super) fn repositories(&self, wish: &Wish, progress: &Progress) -> Result<Vec<String>> {
        let root = Reference::of(&self.host, "").map_err(|what| Error::source("unreachable", what))?;
        let client = self.client.with_desk(Desk::new(&self.client, &root, &self.keys));
        let found = self.pages(&client, root.place(self.is_plain, "_catalog")?, wish, progress);
        let has_catalogue = found.is_ok();
        let found = match (found, &self.prefix) {
            (Ok(found), _) => found,
            (Err(Error::Source { code: "not-found" | "denied" | "http-status", transient: false, .. }), Some(_)) => {
                Vec::new()
            }
            (Err(Error::Source { code: "not-found" | "http-status", what, transient: false }), None) => {
                let why = format!("{} does not say which repositories it has: {what}", self.host);
                return Err(Error::source("no-catalogue", format!("{why}; name one, as in docker://HOST/REPOSITORY")));
            }
            (Err(Error::Source { code: "denied", what, .. }), None) => {
                let why = format!("{} does not show which repositories it has: {what}", self.host);
                let remedy = "log in as who may read its catalogue, or name one, as in docker://HOST/REPOSITORY";
                return Err(Error::source("denied", format!("{why}; {remedy}")));
            }
            (Err(error), _) => return Err(error),
        };
        let is_below = |name: &String| match &self.prefix {
            Some(prefix) => {
                name.strip_prefix(prefix.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            }
            None => true,
        };
        let names: BTreeSet<_> = found.into_iter().filter(is_below).collect();
        if let (true, Some(prefix)) = (names.is_empty(), &self.prefix) {
            // It may still be a repository, and that says what it has.
            let reference = Reference::of(&self.host, prefix).map_err(|what| Error::source("not-found", what))?;
            return match self.tags_of(&reference, wish, progress) {
                Err(Error::Source { code: code @ "not-found", transient, .. }) => {
                    let below = if has_catalogue { "and none below it" } else { "and no catalogue of those below it" };
                    let what = format!("{} has no repository {prefix} with an image, {below}", self.host);
                    Err(Error::Source { code, what, transient })
                }
                found => found.map(|_| vec![prefix.clone()]),
            };
        }
        Ok(names.into_iter().collect())
    }

    /// Tags of a repository, in order. One that has lost its last tag has none.
    pub(super) fn tags(&self, repository: &str, wish: &Wish, progress: &Progress) -> Result<Vec<String>> {
        let reference = Reference::of(&self.host, repository).map_err(|what| Error::source("not-found", what))?;
        match self.tags_of(&reference, wish, progress) {
            Err(Error::Source { code: "not-found", .. }) => Ok(Vec::new()),
            found => Ok(found?.into_iter().collect()),
        }
    }

    fn tags_of(&self, reference: &Reference, wish: &Wish, progress: &Progress) -> Result<BTreeSet<String>> {
        let client = self.client.with_desk(Desk::new(&self.client, reference, &self.keys));
        let found = self.pages(&client, reference.url(self.is_plain, "tags", "list")?, wish, progress)?;
        Ok(found.into_iter().collect())
    }

    /// One image. What the registry has given as a name is not taken at its word.
    pub(super) fn image(&self, repository: &str, version: &str) -> Result<Registry> {
        let mark = if version.contains(':') { '@' } else { ':' };
        let reference = Reference::parse(&format!("//{}/{repository}{mark}{version}", self.host));
        let reference = reference.map_err(|what| Error::source("not-found", what))?;
        Ok(Registry::new(&self.runtime, &self.client, &reference, &self.keys, self.is_plain))
    }

    /// Deletes a manifest, and all names that it has. One that is gone already is no error.
    pub(super) fn delete(&self, repository: &str, digest: &Checksum, wish: &Wish, progress: &Progress) -> Result<()> {
        let reference = Reference::of(&self.host, repository).map_err(|what| Error::source("not-found", what))?;
        let client = self.client.with_desk(Desk::for_deleting(&self.client, &reference, &self.keys));
        let url = reference.url(self.is_plain, "manifests", &digest.to_string())?;
        let work = async {
            let mut tries = Tries::new(wish.how.patience, progress);
            loop {
                let answer = client.send(Method::DELETE, &url, &url, HeaderMap::new());
                let failure = match timeout(wish.how.patience.stall, answer).await {
                    Err(_) => Failure::later(Error::source(
                        "stalled",
                        format!("{} does not answer (--stall-timeout)", self.host),
                    )),
                    Ok(Err(failure)) => failure,
                    Ok(Ok(answer)) => match answer.status() {
                        status if status.is_success() => return Ok(()),
                        StatusCode::NOT_FOUND => return Ok(()),
                        StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_IMPLEMENTED | StatusCode::BAD_REQUEST => {
                            let what = format!(
                                "{} does not delete images ({}): its administrator has to allow that",
                                self.host,
                                answer.status()
                            );
                            return Err(Error::Target { code: "no-deletes", what });
                        }
                        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                            let what =
                                format!("{} does not let us delete in {repository} ({})", self.host, answer.status());
                            return Err(Error::source("denied", what));
                        }
                        status => refusal(status, answer.headers()),
                    },
                };
                tries.pause_after(failure).await?;
            }
        };
        self.runtime.block_on(unless_stopped(progress, work))?
    }

    fn pages(&self, client: &Client, mut url: Url, wish: &Wish, progress: &Progress) -> Result<Vec<String>> {
        url.query_pairs_mut().append_pair("n", &PAGE.to_string());
        let first = url.clone();
        let (mut names, mut held) = (Vec::new(), 0_usize);
        let mut seen = BTreeSet::new();
        while seen.insert(url.clone()) {
            if seen.len() > PAGES {
                return Err(paging(&self.host, &format!("has more than the {PAGES} pages that are followed")));
            }
            let accept = HeaderValue::from_static("application/json");
            let wanted = document::Wanted { url: &url, accept, most: DOCUMENT };
            let work = unless_stopped(progress, document::get(client, &wanted, wish.how.patience, progress));
            let found = self.runtime.block_on(work)??;
            let page: Page = json(&found.bytes, "list of names")?;
            let more = page.repositories.or(page.tags).unwrap_or_default();
            held = more.iter().fold(held, |held, name| held.saturating_add(name.len()));
            names.extend(more);
            if names.len() > NAMES || held > NAME_BYTES {
                let what =
                    format!("has {} names of {held} bytes so far, {NAMES} of {NAME_BYTES} are taken", names.len());
                return Err(paging(&self.host, &what));
            }
            let mut next = None;
            for links in found.headers.get_all(LINK) {
                let links = links.to_str().ok().and_then(next_page);
                // One that is missed would be the end of the list.
                let links = links.ok_or_else(|| paging(&self.host, "has links that cannot be understood"))?;
                next = next.or(links);
            }
            let Some(next) = next else { return Ok(names) };
            if next.len() > LINKED {
                let len = next.len();
                return Err(paging(&self.host, &format!("names a next page by {len} bytes, {LINKED} are allowed")));
            }
            let Ok(next) = url.join(&next) else {
                return Err(paging(&self.host, "names a next page that cannot be understood"));
            };
            // It could lead anywhere.
            if next.origin() != first.origin() || next.path() != first.path() {
                return Err(paging(&self.host, "names a next page that is somewhere else"));
            }
            url = next;
        }
        Err(paging(&self.host, "goes in a circle"))
    }
}

fn paging(host: &str, what: &str) -> Error {
    Error::source("paging", format!("a list of names of {} {what}", short(host)))
}

/// What a Link header, which may have several links, names as next, if it does: RFC 8288. `None` if it cannot be understood.
fn next_page(mut links: &str) -> Option<Option<String>> {
    let mut next = None;
    while !links.is_empty() {
        let (url, rest) = links.trim_start_matches([',', ' ', '\t']).strip_prefix('<')?.split_once('>')?;
        // As a comma may stand in a parameter, the next link is where one opens.
        let (parameters, more) = rest.split_at(rest.find('<').unwrap_or(rest.len()));
        let relations = parameters.split([';', ',']).find_map(relations)?;
        if relations.split_ascii_whitespace().any(|relation| relation.eq_ignore_ascii_case("next")) {
            next.get_or_insert_with(|| url.to_owned());
        }
        links = more;
    }
    Some(next)
}

/// What a parameter says that a link leads to, if it says that.
fn relations(parameter: &str) -> Option<&str> {
    let (name, relations) = parameter.split_once('=')?;
    name.trim().eq_ignore_ascii_case("rel").then(|| relations.trim().trim_matches('"'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_page_is_read_from_a_link() {
        let next = |link| next_page(link).map(|next| next.unwrap_or_else(|| "none".into()));
        assert_eq!(next("</v2/_catalog?last=a&n=1>; rel=\"next\"").as_deref(), Some("/v2/_catalog?last=a&n=1"));
        for link in [
            "<x>;rel=next",
            "<x>; REL = \"prefetch Next\"",
            "<y>; rel=\"prev\", <x>; title=\"one, two\"; rel=\"next\"",
            "<x>; rel=next, <y>; rel=last",
        ] {
            assert_eq!(next(link).as_deref(), Some("x"), "{link}");
        }
        for other in ["", "<x>; rel=\"prev\"", "</style.css>; rel=preload; as=style"] {
            assert_eq!(next(other).as_deref(), Some("none"), "{other}");
        }
        for odd in ["<x", "x; rel=next", "<x>", "<x>; rel=prev, <y>"] {
            assert_eq!(next(odd), None, "{odd}");
        }
    }
}
