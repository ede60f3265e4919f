//! Whether bytes are all zero.

/// Looks at 64 bytes at a time, which compilers turn into vector instructions, and stops at the first data.
pub(crate) fn is_zero(bytes: &[u8]) -> bool {
    let (blocks, rest) = bytes.as_chunks::<64>();
    blocks.iter().all(|block| block.iter().fold(0, |all, byte| all | byte) == 0) && rest.iter().all(|byte| *byte == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_byte_is_data_wherever_it_is() {
        for at in [0, 63, 64, 4095] {
            let mut data = [0; 4096];
            data[at] = 1;
            assert!(!is_zero(&data), "byte {at}");
        }
        assert!(is_zero(&[0; 4097]) && is_zero(&[]));
    }
}
