//! What a block says of itself before its data: "Block Header" of the .xz file format.
//!
//! Only how a stream is decoded depends on it, never the result: liblzma reads the same header, and says what is wrong.

use super::fields::Fields;

/// Block flags: the size is given, packed or unpacked. `xz -T` gives both.
const HAS_PACKED: u8 = 0x40;
const HAS_UNPACKED: u8 = 0x80;
/// Block flags: how many filters there are, less one.
const FILTERS: u8 = 0x03;
const LZMA2: u64 = 0x21;

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Block {
    /// Bytes that come out, if both sizes are given: then the block can be decoded beside others.
    pub(super) unpacked: Option<u64>,
    pub(super) dictionary: u64,
}

impl Block {
    /// Reads a block header, which may have other bytes behind it. `None` if it is none.
    pub(super) fn parse(header: &[u8]) -> Option<Self> {
        let mut fields = Fields(header);
        let _length = fields.byte()?;
        let flags = fields.byte()?;
        let mut size = |given| if flags & given == 0 { Some(None) } else { fields.number().map(Some) };
        let (packed, unpacked) = (size(HAS_PACKED)?, size(HAS_UNPACKED)?);
        for _ in 0..=flags & FILTERS {
            let filter = fields.number()?;
            let len = fields.number()?;
            let properties = fields.take(len)?;
            if let (LZMA2, [bits]) = (filter, properties) {
                return Some(Self { unpacked: packed.and(unpacked), dictionary: dictionary(*bits)? });
            }
        }
        None
    }
}

/// "LZMA2": a mantissa of one bit, an exponent above it; 40 is the largest, one byte less than 4 GiB.
fn dictionary(bits: u8) -> Option<u64> {
    match bits {
        0..40 => Some(((2 | u64::from(bits & 1)) << 11) << (bits / 2)),
        40 => Some(u64::from(u32::MAX)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use diskferry_testkit::wrap;

    use super::*;

    /// The first block header, behind a stream header of 12 bytes.
    fn block(arguments: &[&str]) -> Option<Block> {
        Block::parse(&wrap::xz(&[7; 100_000], arguments)[12..])
    }

    #[test]
    fn a_block_tells_what_the_tool_was_told() {
        const MIB: u64 = 1 << 20;
        for (arguments, dictionary, unpacked) in [
            (&["-0", "-T2"][..], MIB / 4, 100_000),
            (&["-6", "-T2", "--block-size=5000"], 8 * MIB, 5000),
            (&["-9", "-T2"], 64 * MIB, 100_000),
            (&["-T2", "--x86", "--lzma2=dict=3MiB"], 3 * MIB, 100_000),
            (&["-T2", "--delta=dist=4", "--lzma2=dict=1536MiB,mf=hc3,mode=fast"], 1536 * MIB, 100_000),
        ] {
            assert_eq!(block(arguments), Some(Block { unpacked: Some(unpacked), dictionary }), "{arguments:?}");
        }
    }

    #[test]
    fn a_block_without_sizes_tells_its_dictionary() {
        assert_eq!(block(&["-T1", "-3"]), Some(Block { unpacked: None, dictionary: 4 << 20 }));
    }

    #[test]
    fn dictionaries_are_counted_as_the_specification_does() {
        for (bits, size) in [
            (0, Some(4 << 10)),
            (1, Some(6 << 10)),
            (2, Some(8 << 10)),
            (38, Some(2 << 30)),
            (39, Some(3 << 30)),
            (40, Some(0xffff_ffff)),
            (41, None),
            (255, None),
        ] {
            assert_eq!(dictionary(bits), size, "{bits}");
        }
    }

    #[test]
    fn a_header_cut_or_bent_anywhere_never_panics_and_asks_for_nothing_out_of_range() {
        let header = &wrap::xz(&[7; 1000], &["-T2"])[12..40];
        for cut in 0..8 {
            assert_eq!(Block::parse(&header[..cut]), None, "cut at {cut}");
        }
        for (at, byte) in (0..header.len()).flat_map(|at| (0..=255).map(move |byte| (at, byte))) {
            let mut bent = header.to_vec();
            bent[at] = byte;
            let dictionary = Block::parse(&bent).map_or(0, |block| block.dictionary);
            assert!(dictionary <= u64::from(u32::MAX), "byte {at} is {byte}: {dictionary}");
        }
    }
}
