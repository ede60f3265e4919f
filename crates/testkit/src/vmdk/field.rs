//! The fields of the sparse header, of its copy in the footer, and of markers.

use crate::field::Field;

/// `KDMV`.
pub const MAGIC: Field = Field::le(0, 4);
/// Version number.
pub const VERSION: Field = Field::le(4, 4);
/// Flags.
pub const FLAGS: Field = Field::le(8, 4);
/// Capacity in sectors.
pub const CAPACITY: Field = Field::le(12, 8);
/// Sectors of a grain.
pub const GRAIN: Field = Field::le(20, 8);
/// Sector of the embedded descriptor.
pub const DESCRIPTOR_OFFSET: Field = Field::le(28, 8);
/// Sectors of the embedded descriptor.
pub const DESCRIPTOR_SIZE: Field = Field::le(36, 8);
/// Entries of a grain table.
pub const TABLE_ENTRIES: Field = Field::le(44, 4);
/// Sector of the redundant grain directory.
pub const REDUNDANT_OFFSET: Field = Field::le(48, 8);
/// Sector of the grain directory; all ones: see the footer.
pub const DIRECTORY_OFFSET: Field = Field::le(56, 8);
/// Sectors in front of the grains.
pub const OVERHEAD: Field = Field::le(64, 8);
/// Whether the image was not closed.
pub const UNCLEAN: Field = Field::le(72, 1);
/// Four bytes that show whether somebody copied the image as a text.
pub const NEWLINES: Field = Field::be(73, 4);
/// 0 none, 1 deflate.
pub const COMPRESSION: Field = Field::le(77, 2);

/// Every number of the header, for tests that bend one after the other.
pub const ALL: &[(&str, Field)] = &[
    ("magic", MAGIC),
    ("version", VERSION),
    ("flags", FLAGS),
    ("capacity", CAPACITY),
    ("grain", GRAIN),
    ("descriptor offset", DESCRIPTOR_OFFSET),
    ("descriptor size", DESCRIPTOR_SIZE),
    ("table entries", TABLE_ENTRIES),
    ("redundant offset", REDUNDANT_OFFSET),
    ("directory offset", DIRECTORY_OFFSET),
    ("overhead", OVERHEAD),
    ("unclean", UNCLEAN),
    ("newlines", NEWLINES),
    ("compression", COMPRESSION),
];

/// Of a marker: sectors of what follows; for a grain, the sector on the disk.
pub const MARKER_VALUE: Field = Field::le(0, 8);
/// Of a marker: bytes of the packed grain, or 0 for a marker of another type.
pub const MARKER_SIZE: Field = Field::le(8, 4);
/// Of a marker with size 0: 0 end of stream, 1 grain table, 2 grain directory, 3 footer.
pub const MARKER_TYPE: Field = Field::le(12, 4);

/// Entry `index` of the directory or table at `table`.
pub const fn entry(table: u64, index: u64) -> Field {
    Field::le((table + index * 4) as usize, 4)
}
