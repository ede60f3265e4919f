//! Nowhere: for reading an image to its end without keeping it.

use super::Sink;
use crate::error::Result;

/// A sink that forgets what it gets.
#[derive(Debug, Clone, Copy)]
pub struct Discard;

impl Sink for Discard {
    fn prepare(&self, _size: Option<u64>) -> Result<()> {
        Ok(())
    }

    fn write_at(&self, _data: &[u8], _offset: u64) -> Result<()> {
        Ok(())
    }

    fn zero(&self, _offset: u64, _len: u64) -> Result<()> {
        Ok(())
    }

    fn is_blank(&self) -> bool {
        true
    }

    fn finish(&self, _size: u64) -> Result<()> {
        Ok(())
    }
}
