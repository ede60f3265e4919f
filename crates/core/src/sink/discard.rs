//! Nowhere: for reading an image to its end without keeping it.

use std::sync::atomic::{AtomicU64, Ordering};

use super::Sink;
use crate::error::Result;

/// A sink that counts and forgets.
#[derive(Debug, Default)]
pub struct Discard {
    data: AtomicU64,
}

impl Discard {
    /// Bytes of data that came; zeroes named as such are not among them.
    pub fn data(&self) -> u64 {
        self.data.load(Ordering::Relaxed)
    }
}

impl Sink for Discard {
    fn prepare(&self, _size: Option<u64>) -> Result<()> {
        Ok(())
    }

    fn write_at(&self, data: &[u8], _offset: u64) -> Result<()> {
        self.data.fetch_add(data.len() as u64, Ordering::Relaxed);
        Ok(())
    }

    fn zero(&self, _offset: u64, _len: u64) -> Result<()> {
        Ok(())
    }

    fn finish(&self, _size: u64) -> Result<()> {
        Ok(())
    }
}
