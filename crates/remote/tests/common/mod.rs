//! What tests of HTTP sources share.
#![allow(clippy::unwrap_used, clippy::panic, dead_code, reason = "test helpers, of which each test file uses some")]

use std::fs;
use std::io::Read;
use std::time::Duration;

use diskferry::sink::{FileOptions, FileSink};
use diskferry::{Error, Input, Options, Progress, Report};
use diskferry_remote::http::{How, Patience};
use diskferry_remote::{Access, Client, Runtime};
use url::Url;

/// A client of an impatient person.
pub struct Fetcher {
    pub runtime: Runtime,
    pub client: Client,
    pub how: How,
}

impl Fetcher {
    pub fn new() -> Self {
        Self::with(&Access::default())
    }

    pub fn with(access: &Access) -> Self {
        let patience = Patience {
            retries: 4,
            first_pause: Duration::from_millis(1),
            longest_pause: Duration::from_millis(4),
            stall: Duration::from_millis(250),
            most: None,
        };
        let how = How { patience, ..How::default() };
        Self { runtime: Runtime::new().unwrap(), client: Client::new(access).unwrap(), how }
    }

    pub fn open(&self, url: &str) -> Result<Input, Error> {
        diskferry_remote::http::open(
            &self.runtime,
            &self.client,
            &url.parse::<Url>().unwrap(),
            &self.how,
            &Progress::default(),
        )
    }

    /// The disk of the image at `url`, and the report. A conversion that fails must not leave anything.
    pub fn convert(&self, url: &str, options: &Options) -> Result<(Vec<u8>, Report), Error> {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("disk.raw");
        let options = Options { format: self.how.format.clone(), ..options.clone() };
        let converted = self.open(url).and_then(|input| {
            let sink = FileSink::create(&target, FileOptions { sync: false, ..FileOptions::default() })?;
            diskferry::convert(input, &sink, &options, &Progress::default())
        });
        match converted {
            Ok(report) => Ok((fs::read(target).unwrap(), report)),
            Err(error) => {
                assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "{error} has left something");
                Err(error)
            }
        }
    }

    /// All bytes that come, and whatever ends them.
    pub fn fetch(&self, url: &str) -> Result<Vec<u8>, Error> {
        let (mut reader, len) = match self.open(url)? {
            Input::Stream { reader, len } | Input::Unpacked { reader, len } | Input::Ranged { reader, len, .. } => {
                (reader, len)
            }
            Input::File(_) => panic!("a server is no file"),
        };
        let mut bytes = Vec::new();
        reader.read_to_end(&mut bytes).map_err(|error| Error::reading(bytes.len() as u64, error))?;
        if let Some(len) = len {
            assert_eq!(bytes.len() as u64, len, "a length was promised and not kept");
        }
        Ok(bytes)
    }
}

/// The error's code, or how many bytes came.
pub fn outcome(fetched: Result<Vec<u8>, Error>) -> String {
    fetched.map_or_else(|error| error.code(), |bytes| format!("{} bytes", bytes.len()))
}
