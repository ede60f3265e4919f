//! How much an .xz file unpacks to, found at its end: "Stream Footer" and "Index" of the .xz file format.
//!
//! Nothing is decided by this number; it is for looking at a file without unpacking it. Whatever does not fit together
//! gives no answer, and unpacking will say what is wrong.

use super::fields::Fields;
use crate::error::Result;
use crate::source::{Source, look_full};

const HEADER: u64 = 12;
const FOOTER: u64 = 12;
const MAGIC: &[u8] = b"YZ";
/// A block takes two numbers of an index, of a few bytes each: this is an index of a million blocks.
const LONGEST_INDEX: u64 = 16 << 20;
/// Streams follow one another in one file; nobody makes more of them.
const MOST_STREAMS: usize = 1024;

/// The sum of all blocks' sizes in the `stored` file, if its index can be read.
pub(in crate::layer) fn unpacked_len(stored: &mut dyn Source) -> Result<Option<u64>> {
    let Some(mut end) = stored.len() else { return Ok(None) };
    let mut sum = 0_u64;
    for _ in 0..MOST_STREAMS {
        let Some(stream) = stream_before(stored, end)? else { break };
        let (Some(both), Some(before)) = (sum.checked_add(stream.unpacked), end.checked_sub(stream.len)) else { break };
        (sum, end) = (both, before);
        if end == 0 {
            return Ok(Some(sum));
        }
    }
    Ok(None)
}

/// One stream of the file, or four bytes of padding behind one.
struct Stream {
    len: u64,
    unpacked: u64,
}

fn stream_before(stored: &mut dyn Source, end: u64) -> Result<Option<Stream>> {
    let Some(tail) = read(stored, end, 4)? else { return Ok(None) };
    if tail == [0; 4] {
        return Ok(Some(Stream { len: 4, unpacked: 0 }));
    }
    let Some(footer) = read(stored, end, FOOTER)?.filter(|footer| footer.ends_with(MAGIC)) else { return Ok(None) };
    let backward = footer.get(4..8).and_then(|size| size.try_into().ok()).map_or(0, u32::from_le_bytes);
    let index_len = u64::from(backward).saturating_add(1).saturating_mul(4);
    if index_len > LONGEST_INDEX {
        return Ok(None);
    }
    let Some(index) = read(stored, end.saturating_sub(FOOTER), index_len)? else { return Ok(None) };
    Ok(stream_of(Fields(&index), index_len))
}

/// Reads the `len` bytes that end at `end`.
fn read(stored: &mut dyn Source, end: u64, len: u64) -> Result<Option<Vec<u8>>> {
    let (Some(at), Ok(size)) = (end.checked_sub(len), usize::try_from(len)) else { return Ok(None) };
    let mut bytes = vec![0; size];
    Ok((look_full(stored, &mut bytes, at)? == size).then_some(bytes))
}

/// Adds up the records of an index: the length of the stream that it ends, and what its blocks unpack to.
fn stream_of(mut index: Fields, index_len: u64) -> Option<Stream> {
    if index.byte()? != 0 {
        return None;
    }
    let records = index.number()?;
    let (mut blocks, mut unpacked) = (0_u64, 0_u64);
    for _ in 0..records {
        blocks = blocks.checked_add(index.number()?.checked_next_multiple_of(4)?)?;
        unpacked = unpacked.checked_add(index.number()?)?;
    }
    let len = blocks.checked_add(HEADER + FOOTER)?.checked_add(index_len)?;
    Some(Stream { len, unpacked })
}

#[cfg(test)]
mod tests {
    use diskferry_testkit::wrap;

    use super::*;
    use crate::layer::testing::in_a_file;

    fn len_of(stored: &[u8]) -> Option<u64> {
        unpacked_len(&mut in_a_file(stored)).unwrap()
    }

    #[test]
    fn the_index_tells_what_the_tool_packed() {
        let data = vec![7; 3_000_001];
        let one = wrap::xz(&data, &[]);
        let many = wrap::xz(&data, &["--block-size=65536"]);
        assert_eq!(len_of(&one), Some(3_000_001));
        assert_eq!(len_of(&many), Some(3_000_001));
        assert_eq!(len_of(&wrap::xz(&[], &[])), Some(0));
        assert_eq!(len_of(&[one, many, vec![0; 8]].concat()), Some(6_000_002));
    }

    #[test]
    fn what_does_not_fit_together_gives_no_answer() {
        let packed = wrap::xz(&[7; 100_000], &["--block-size=4096"]);
        assert_eq!(len_of(b""), None);
        assert_eq!(len_of(&packed[4..]), None, "more stream than file");
        for cut in 1..packed.len() {
            assert_eq!(len_of(&packed[..cut]), None, "cut at {cut}");
        }
        let magic = packed.len() - 1;
        // The length of the index: too long for the file, too short, and longer than is read of any.
        for (at, value) in [(magic, b'z'), (magic - 6, 0xff), (magic - 7, 0), (magic - 4, 1)] {
            let mut bent = packed.clone();
            bent[at] = value;
            assert_eq!(len_of(&bent), None, "byte {at} is {value}");
        }
    }
}
