//! A file that the server has, and its script.

use std::sync::Arc;

use super::answer::Answer;
use super::request::Request;

type Script = Box<dyn Fn(&Request, usize) -> Answer + Send + Sync>;

/// Bytes under a path, in one or more versions, and what requests for them get.
pub struct File {
    versions: Vec<Arc<[u8]>>,
    gets: Script,
    heads: Script,
    posts: Script,
}

impl File {
    /// A file for which every GET and HEAD gets the right answer, and all else is refused.
    pub fn new(bytes: impl Into<Arc<[u8]>>) -> Self {
        let right = |_: &Request, _| Answer::right();
        let refused = |_: &Request, _| Answer::status(405).header("Allow", "GET, HEAD");
        Self { versions: vec![bytes.into()], gets: Box::new(right), heads: Box::new(right), posts: Box::new(refused) }
    }

    /// Adds a version; the first is number 0. Answers name the version that they are of.
    #[must_use]
    pub fn version(mut self, bytes: impl Into<Arc<[u8]>>) -> Self {
        self.versions.push(bytes.into());
        self
    }

    /// What the first GETs get. All others get the right answer.
    #[must_use]
    pub fn gets(self, answers: impl Into<Vec<Answer>>) -> Self {
        self.gets_then(answers, Answer::right())
    }

    /// What the first GETs get, and what all others get.
    #[must_use]
    pub fn gets_then(self, answers: impl Into<Vec<Answer>>, rest: Answer) -> Self {
        let answers = answers.into();
        self.gets_by(move |_, nth| answers.get(nth).unwrap_or(&rest).clone())
    }

    /// What the GET gets that comes as the n-th, from 0.
    #[must_use]
    pub fn gets_by(mut self, script: impl Fn(&Request, usize) -> Answer + Send + Sync + 'static) -> Self {
        self.gets = Box::new(script);
        self
    }

    /// What every HEAD gets.
    #[must_use]
    pub fn heads(mut self, answer: Answer) -> Self {
        self.heads = Box::new(move |_, _| answer.clone());
        self
    }

    /// What every POST gets.
    #[must_use]
    pub fn posts(mut self, answer: Answer) -> Self {
        self.posts = Box::new(move |_, _| answer.clone());
        self
    }

    pub(super) fn answer(&self, request: &Request, nth: usize) -> Answer {
        match request.method.as_str() {
            "GET" => (self.gets)(request, nth),
            "HEAD" => (self.heads)(request, nth),
            "POST" => (self.posts)(request, nth),
            _ => Answer::status(405).header("Allow", "GET, HEAD"),
        }
    }

    /// The bytes of a version. A script that names one that is not there is wrong.
    pub(super) fn bytes(&self, version: usize) -> &Arc<[u8]> {
        &self.versions[version]
    }
}
