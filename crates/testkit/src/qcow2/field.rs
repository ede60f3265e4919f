//! The fields of the header and of table entries, by the names of the specification.

use crate::field::Field;

/// `QFI\xfb`.
pub const MAGIC: Field = Field::be(0, 4);
/// Version number.
pub const VERSION: Field = Field::be(4, 4);
/// Offset of the backing file's name.
pub const BACKING_OFFSET: Field = Field::be(8, 8);
/// Length of the backing file's name.
pub const BACKING_LENGTH: Field = Field::be(16, 4);
/// Cluster size as a power of two.
pub const CLUSTER_BITS: Field = Field::be(20, 4);
/// Virtual size in bytes.
pub const SIZE: Field = Field::be(24, 8);
/// 0 none, 1 AES, 2 LUKS.
pub const CRYPT_METHOD: Field = Field::be(32, 4);
/// Entries of the L1 table.
pub const L1_ENTRIES: Field = Field::be(36, 4);
/// Offset of the L1 table.
pub const L1_OFFSET: Field = Field::be(40, 8);
/// Offset of the refcount table.
pub const REFCOUNT_OFFSET: Field = Field::be(48, 8);
/// Clusters of the refcount table.
pub const REFCOUNT_CLUSTERS: Field = Field::be(56, 4);
/// Number of internal snapshots.
pub const SNAPSHOTS: Field = Field::be(60, 4);
/// Offset of the snapshot table.
pub const SNAPSHOTS_OFFSET: Field = Field::be(64, 8);
/// Must-understand bits.
pub const INCOMPATIBLE: Field = Field::be(72, 8);
/// May-ignore bits.
pub const COMPATIBLE: Field = Field::be(80, 8);
/// Bits that an ignorant writer clears.
pub const AUTOCLEAR: Field = Field::be(88, 8);
/// Refcount width as a power of two.
pub const REFCOUNT_ORDER: Field = Field::be(96, 4);
/// Length of the header.
pub const HEADER_LENGTH: Field = Field::be(100, 4);
/// 0 zlib, 1 zstd.
pub const COMPRESSION: Field = Field::be(104, 1);

/// Every number of the header, for tests that bend one after the other.
pub const ALL: &[(&str, Field)] = &[
    ("magic", MAGIC),
    ("version", VERSION),
    ("backing offset", BACKING_OFFSET),
    ("backing length", BACKING_LENGTH),
    ("cluster bits", CLUSTER_BITS),
    ("size", SIZE),
    ("crypt method", CRYPT_METHOD),
    ("L1 entries", L1_ENTRIES),
    ("L1 offset", L1_OFFSET),
    ("refcount offset", REFCOUNT_OFFSET),
    ("refcount clusters", REFCOUNT_CLUSTERS),
    ("snapshots", SNAPSHOTS),
    ("snapshots offset", SNAPSHOTS_OFFSET),
    ("incompatible", INCOMPATIBLE),
    ("compatible", COMPATIBLE),
    ("autoclear", AUTOCLEAR),
    ("refcount order", REFCOUNT_ORDER),
    ("header length", HEADER_LENGTH),
    ("compression", COMPRESSION),
];

/// Entry `index` of a table of 8-byte entries at `table`.
pub const fn entry(table: u64, index: u64) -> Field {
    Field::be((table + index * 8) as usize, 8)
}

/// Of an L1 or L2 entry: refcount is exactly one.
pub const COPIED: u64 = 1 << 63;
/// Of an L2 entry: the cluster is packed.
pub const PACKED: u64 = 1 << 62;
/// Of an L2 entry: the cluster reads as zero.
pub const ZERO: u64 = 1;
