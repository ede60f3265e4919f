//! Extents: the common language between formats, the engine and sinks.

/// A range of the virtual disk and where its bytes come from.
///
/// An image names every byte of its virtual disk in exactly one extent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Offset on the virtual disk.
    pub start: u64,
    /// Length on the virtual disk. Only a packed unit may reach past the end of the disk; what lies beyond is not written.
    pub len: u64,
    /// Where the bytes are.
    pub body: Body,
}

/// Where the bytes of an [`Extent`] are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Body {
    /// Stored as they are, `Extent::len` bytes at offset `at` of the unwrapped image.
    Data {
        /// Offset in the unwrapped image.
        at: u64,
    },
    /// Stored packed, as one unit.
    Packed {
        /// Offset in the unwrapped image.
        at: u64,
        /// Bytes that the packed form can take at most; the image may end before.
        len: u32,
        /// How it is packed.
        codec: Codec,
    },
    /// Not stored: unallocated, or marked as zero.
    Zero,
}

/// How one cluster or grain is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Codec {
    /// Raw deflate (RFC 1951), as qcow2 calls zlib. Unpacks to the whole unit; trailing bytes are ignored.
    Deflate,
    /// zlib (RFC 1950) with its check value, as in VMDK grains. The unit at the end of the disk may unpack to less than a grain.
    Zlib,
    /// One or more zstd frames (RFC 8878). Unpacks to the whole unit; trailing bytes are ignored.
    Zstd,
}

impl Codec {
    /// Whether the unit at the end of the disk may unpack to no more than the disk still needs.
    pub(crate) fn may_end_with_the_disk(self) -> bool {
        self == Self::Zlib
    }

    /// Whether units have the length that is said, and not just sectors up to which they may reach.
    pub(crate) fn is_exact(self) -> bool {
        self == Self::Zlib
    }
}
