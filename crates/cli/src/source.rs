//! SOURCE, as it was typed, with the options that it was typed with.

use std::env;

use diskferry::digest::Checksum;
use diskferry::{Input, Inspection, Progress, Report};
use diskferry_remote::publisher::From;
use diskferry_remote::{Access, Location, Sandbox, source};

use crate::access::AccessArgs;
use crate::args::{ContainerArgs, FetchArgs, JobArgs, LimitArgs};
use crate::exit::Failure;

/// What an image is read from.
pub struct Source<'a> {
    location: &'a Location,
    source: source::Source<'a>,
}

/// How a source is to be read.
pub struct Reading {
    reading: source::Reading,
    access: AccessArgs,
    container: ContainerArgs,
    /// Whether there is a container image at the other end.
    push: bool,
}

impl Reading {
    /// As the arguments say, of the whole image or only of its beginning.
    pub fn new(fetch: &FetchArgs, job: &JobArgs, limits: &LimitArgs, look: bool) -> Self {
        let reading = source::Reading {
            how: fetch.how(job, look),
            wish: fetch.wish(job, limits, look),
            access: Access::default(),
            keys: fetch.container.keys(),
            plain_http: fetch.container.plain_http,
        };
        Self { reading, access: fetch.access.clone(), container: fetch.container.clone(), push: false }
    }

    /// The same, with what is decoded to find the image decoded in `sandbox`.
    pub fn within(mut self, sandbox: &Sandbox) -> Self {
        self.reading.wish.sandbox = sandbox.clone();
        self
    }

    /// The same, for a source that becomes a container image.
    pub fn for_push(self) -> Self {
        Self { push: true, ..self }
    }
}

impl<'a> Source<'a> {
    /// Makes ready what it takes to read what lies at `location`.
    pub fn new(location: &'a Location, reading: Reading) -> Result<Self, Failure> {
        let Reading { mut reading, access, container, push } = reading;
        if container.any() && !push && !matches!(location, Location::Registry(_) | Location::Layout(..)) {
            let what = "--platform, --path, --authfile and --plain-http are for container images: docker:// or oci:";
            return Err(Failure::Usage(what.into()));
        }
        if location.is_remote() {
            reading.access = access.resolve()?;
        }
        let source = source::Source::new(location, reading, |name| env::var(name).ok())?;
        Ok(Self { location, source })
    }

    /// What the labels of a container image say of the disk image in it, where they say enough and something that we know.
    pub fn claims(&self, progress: &Progress) -> Result<Option<Inspection>, Failure> {
        Ok(self.source.claims(progress)?)
    }

    /// Adds to the report what only the source knows.
    pub fn correct(&self, report: Report) -> Report {
        self.source.correct(report)
    }

    /// The digest that the publisher says the image has.
    pub fn published(&self, from: &From, progress: &Progress) -> Result<Checksum, Failure> {
        let what = match self.location {
            Location::S3(_) => "--checksum-url auto does not look into S3: name the file",
            _ => "--checksum-url is for an image on an HTTP server or in S3; --checksum is for every one",
        };
        self.source.published(from, progress)?.ok_or_else(|| Failure::Usage(what.into()))
    }

    /// Lets the whole process give up what nobody needs once this, and the target, are open: the network has threads of its own that do.
    pub fn confine_process(&self, sandbox: &Sandbox) -> Result<(), Failure> {
        match self.location {
            Location::Stdin | Location::Path(_) => Ok(sandbox.confine_process()?),
            _ => Ok(()),
        }
    }

    /// Opens it.
    pub fn open(&self, progress: &Progress) -> Result<Input, Failure> {
        let input = self.source.open(progress)?;
        input.ok_or_else(|| Failure::Usage("SOURCE is a terminal: name a file, or pipe an image in".into()))
    }
}
