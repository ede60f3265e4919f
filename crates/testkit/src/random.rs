//! Repeatable randomness: the same seed gives the same image on every machine.

/// Marsaglia's xorshift64*, which is plenty for test data and needs no crate.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// A generator; seeds that differ in one bit give unrelated numbers.
    pub fn new(seed: u64) -> Self {
        // Spread by the golden ratio, because small seeds would start with long runs of zero bits; zero itself never moves.
        Self(seed.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    /// The next number.
    pub fn next_u64(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// A number below `bound`, which must not be 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next_u64() % bound
    }

    /// Fills `buf` with bytes that no codec can shorten.
    pub fn fill(&mut self, buf: &mut [u8]) {
        for chunk in buf.chunks_mut(8) {
            chunk.copy_from_slice(&self.next_u64().to_le_bytes()[..chunk.len()]);
        }
    }

    /// `len` bytes that no codec can shorten.
    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.fill(&mut bytes);
        bytes
    }

    /// `len` bytes of lines that pack well, as logs and source code do.
    pub fn text(&mut self, len: usize) -> Vec<u8> {
        let mut text = Vec::with_capacity(len + 64);
        while text.len() < len {
            let n = self.below(1000);
            text.extend_from_slice(format!("unit {n} of the sample disk has state {:x}\n", n * n).as_bytes());
        }
        text.truncate(len);
        text
    }

    /// Puts `items` into a random order.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            let other = self.below(last as u64 + 1) as usize;
            items.swap(last, other);
        }
    }
}
