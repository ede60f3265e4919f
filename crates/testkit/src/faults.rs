//! Readers that behave as badly as the world does.

use std::io::{self, Read};

use crate::random::Random;

/// Gives `after` bytes of `inner`, then fails with `error` each time it is asked.
pub struct Dying<R> {
    /// Where the good bytes come from.
    pub inner: R,
    /// How many of them are still to come.
    pub after: u64,
    /// What happens then.
    pub error: io::ErrorKind,
}

impl<R: Read> Read for Dying<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.after == 0 && !buf.is_empty() {
            return Err(self.error.into());
        }
        let allowed = self.after.min(buf.len() as u64) as usize;
        let got = self.inner.read(&mut buf[..allowed])?;
        self.after -= got as u64;
        Ok(got)
    }
}

/// Gives one byte per read.
pub struct OneByte<R>(pub R);

impl<R: Read> Read for OneByte<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let len = buf.len().min(1);
        self.0.read(&mut buf[..len])
    }
}

/// Gives chunks of random length, many tiny and some large, and is interrupted by a signal now and then.
pub struct Choppy<R> {
    inner: R,
    random: Random,
}

impl<R> Choppy<R> {
    /// Chops `inner` in a way that `seed` decides.
    pub fn new(inner: R, seed: u64) -> Self {
        Self { inner, random: Random::new(seed) }
    }
}

impl<R: Read> Read for Choppy<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let longest = match self.random.below(8) {
            0 => return Err(io::ErrorKind::Interrupted.into()),
            1..=3 => 7,
            4..=6 => 5000,
            _ => 1 << 20,
        };
        let chunk = 1 + self.random.below(longest) as usize;
        let len = buf.len().min(chunk);
        self.inner.read(&mut buf[..len])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dying_reader_gives_its_bytes_first() {
        let mut reader = Dying { inner: &[7u8; 100][..], after: 40, error: io::ErrorKind::ConnectionReset };
        let mut got = Vec::new();
        let error = reader.read_to_end(&mut got).unwrap_err();
        assert_eq!((got.len(), error.kind()), (40, io::ErrorKind::ConnectionReset));
    }

    #[test]
    fn chopping_changes_no_byte() {
        let bytes = Random::new(1).bytes(100_000);
        let (mut single, mut chopped) = (Vec::new(), Vec::new());
        OneByte(&bytes[..]).read_to_end(&mut single).unwrap();
        Choppy::new(&bytes[..], 2).read_to_end(&mut chopped).unwrap();
        assert!(single == bytes && chopped == bytes);
    }
}
