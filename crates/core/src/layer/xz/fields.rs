//! Fields of headers and indexes: bytes, and "Multibyte Integers" of the .xz file format.

use std::ops::ControlFlow;

/// What is left of a header or an index while it is parsed.
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl<'a> Fields<'a> {
    pub(super) fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    /// The next `len` bytes.
    pub(super) fn take(&mut self, len: u64) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(usize::try_from(len).ok()?)?;
        self.0 = rest;
        Some(taken)
    }

    /// Seven bits a byte, lowest first, nine bytes at most.
    pub(super) fn number(&mut self) -> Option<u64> {
        let bits = (0..63).step_by(7).try_fold(0_u64, |sum, place| match self.byte() {
            Some(byte) if byte < 0x80 => ControlFlow::Break(Some(sum | u64::from(byte) << place)),
            Some(byte) => ControlFlow::Continue(sum | u64::from(byte & 0x7f) << place),
            None => ControlFlow::Break(None),
        });
        bits.break_value()?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_end_where_they_say_and_are_never_longer_than_nine_bytes() {
        for (bytes, number) in [
            (&[0x00][..], Some(0)),
            (&[0x7f], Some(127)),
            (&[0x80, 0x01], Some(128)),
            (&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f], Some(u64::MAX >> 1)),
            (&[0x80; 10], None),
            (&[0x80, 0x80], None),
            (&[], None),
        ] {
            assert_eq!(Fields(bytes).number(), number, "{bytes:02x?}");
        }
    }

    #[test]
    fn nothing_is_taken_behind_the_end() {
        let mut fields = Fields(&[1, 2, 3]);
        assert_eq!((fields.take(4), fields.take(u64::MAX), fields.take(2)), (None, None, Some(&[1, 2][..])));
        assert_eq!((fields.byte(), fields.byte()), (Some(3), None));
    }
}
