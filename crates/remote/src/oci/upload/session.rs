//! A blob while it is sent: what the registry has of it, and what is kept to be sent again.

use std::collections::VecDeque;

use bytes::Bytes;
use diskferry::Error;
use url::Url;

use crate::failure::Failure;

/// Where a blob is being put together.
pub(super) struct Session {
    /// Where the next request goes.
    pub(super) url: Url,
    /// What is kept of the blob, and where in the blob it begins.
    pub(super) tail: VecDeque<Bytes>,
    pub(super) tail_at: u64,
    /// How many bytes the registry has, and the most that it ever had.
    pub(super) offset: u64,
    pub(super) furthest: u64,
}

impl Session {
    /// One of which the registry has nothing yet.
    pub(super) fn new(url: Url) -> Self {
        Self { url, tail: VecDeque::new(), tail_at: 0, offset: 0, furthest: 0 }
    }

    /// Where what is kept ends: everything that was read has passed here.
    pub(super) fn end(&self) -> u64 {
        self.tail_at.saturating_add(self.tail.iter().map(|chunk| chunk.len() as u64).sum())
    }

    /// What of a kept chunk follows the bytes that the registry has.
    pub(super) fn missing(&self) -> Result<Bytes, Failure> {
        let mut at = self.tail_at;
        for chunk in &self.tail {
            let end = at.saturating_add(chunk.len() as u64);
            if self.offset >= at && self.offset < end {
                let from = usize::try_from(self.offset - at).unwrap_or(usize::MAX);
                return Ok(chunk.slice(from.min(chunk.len())..));
            }
            at = end;
        }
        Err(self.lost(self.offset))
    }

    /// The registry has `offset` bytes, and cannot have more than `most`.
    pub(super) fn reach(&mut self, offset: u64, most: u64) -> Result<(), Failure> {
        if offset < self.tail_at || offset > most {
            return Err(self.lost(offset));
        }
        self.offset = offset;
        Ok(())
    }

    /// How many bytes the registry has beyond those that it ever had: who loses some and gets them again makes no progress.
    pub(super) fn gained(&mut self) -> u64 {
        let gained = self.offset.saturating_sub(self.furthest);
        self.furthest = self.furthest.max(self.offset);
        gained
    }

    fn lost(&self, offset: u64) -> Failure {
        let (from, to) = (self.tail_at, self.end());
        let what = format!(
            "the registry says that it has {offset} bytes of the blob, of which those from {from} to {to} can be sent again"
        );
        Failure::never(Error::Target { code: "upload-lost", what })
    }
}
