//! Numbers at known places: how headers are written, and how they are bent.

/// A number in an image: where it stands, how many bytes it takes, and in which order they come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field {
    /// Byte offset in the image.
    pub at: usize,
    /// Bytes taken, at most 8.
    pub width: usize,
    /// Whether the most significant byte comes first.
    pub big_endian: bool,
}

impl Field {
    /// A big-endian number, as qcow2 has them.
    pub const fn be(at: usize, width: usize) -> Self {
        Self { at, width, big_endian: true }
    }

    /// A little-endian number, as VDI and VMDK have them.
    pub const fn le(at: usize, width: usize) -> Self {
        Self { at, width, big_endian: false }
    }

    /// The same field of a structure that starts at `base`, as in the footer that repeats a header.
    pub const fn after(self, base: usize) -> Self {
        Self { at: self.at + base, ..self }
    }

    /// Reads the number.
    pub fn peek(self, image: &[u8]) -> u64 {
        let bytes = &image[self.at..self.at + self.width];
        let push = |sum: u64, byte: &u8| sum << 8 | u64::from(*byte);
        if self.big_endian { bytes.iter().fold(0, push) } else { bytes.iter().rev().fold(0, push) }
    }
}

/// Overwrites a number of an image; bits of `value` that do not fit are dropped.
pub fn poke(image: &mut [u8], field: Field, value: u64) {
    let target = &mut image[field.at..field.at + field.width];
    if field.big_endian {
        target.copy_from_slice(&value.to_be_bytes()[8 - field.width..]);
    } else {
        target.copy_from_slice(&value.to_le_bytes()[..field.width]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_poked_is_peeked_in_either_order() {
        let mut image = vec![0; 8];
        poke(&mut image, Field::be(1, 3), 0x010203);
        poke(&mut image, Field::le(4, 2), 0x0405);
        assert_eq!(image, [0, 1, 2, 3, 5, 4, 0, 0]);
        assert_eq!((Field::be(1, 3).peek(&image), Field::le(0, 2).after(4).peek(&image)), (0x010203, 0x0405));
    }
}
