//! The qcow2 header and its extensions, checked once and turned into native values.

use std::mem::size_of;

use zerocopy::big_endian::{U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

use super::FORMAT;
use crate::error::{Error, Result};
use crate::extent::Codec;
use crate::format::{Detail, ImageInfo, Refusal};
use crate::source::{Source, look_exact};

pub(super) const MAGIC: [u8; 4] = *b"QFI\xfb";

/// "Header" in the specification, as in versions 2 and 3.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
struct RawHeader {
    magic: [u8; 4],
    version: U32,
    backing_file_offset: U64,
    backing_file_size: U32,
    cluster_bits: U32,
    size: U64,
    crypt_method: U32,
    l1_size: U32,
    l1_table_offset: U64,
    refcount_table_offset: U64,
    refcount_table_clusters: U32,
    nb_snapshots: U32,
    snapshots_offset: U64,
}
const _: () = assert!(size_of::<RawHeader>() == 72);

/// The fields that version 3 adds.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
struct RawHeaderV3 {
    incompatible_features: U64,
    compatible_features: U64,
    autoclear_features: U64,
    refcount_order: U32,
    header_length: U32,
}
const _: () = assert!(size_of::<RawHeader>() + size_of::<RawHeaderV3>() == 104);

/// "Header extensions": type and length in front of each one's data.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
struct RawExtension {
    kind: U32,
    len: U32,
}

const EXTENSION_END: u32 = 0;
const EXTENSION_BACKING_FORMAT: u32 = 0xe279_2aca;
const EXTENSION_BITMAPS: u32 = 0x2385_2875;
const EXTENSION_ENCRYPTION: u32 = 0x0537_be77;
const EXTENSION_DATA_FILE: u32 = 0x4441_5441;

/// The encryption method of what begins with a header of LUKS.
const LUKS: u32 = 2;

const DIRTY: u64 = 1 << 0;
const CORRUPT: u64 = 1 << 1;
const DATA_FILE: u64 = 1 << 2;
const COMPRESSION_TYPE: u64 = 1 << 3;
const EXTENDED_L2: u64 = 1 << 4;
const KNOWN_INCOMPATIBLE: u64 = DIRTY | CORRUPT | DATA_FILE | COMPRESSION_TYPE | EXTENDED_L2;
const LAZY_REFCOUNTS: u64 = 1 << 0;

/// The same bounds as QEMU's, which no producer exceeds.
const MAX_L1_BYTES: u64 = 32 << 20;
const MAX_REFCOUNT_TABLE_BYTES: u64 = 8 << 20;
const MAX_SNAPSHOTS: u32 = 65536;
const MAX_BACKING_NAME: u32 = 1023;
const MAX_REFCOUNT_ORDER: u32 = 6;

/// What later code needs of the header; every value is within bounds.
#[derive(Debug)]
pub(super) struct Header {
    pub(super) version: u32,
    pub(super) cluster_bits: u32,
    pub(super) virtual_size: u64,
    pub(super) l1_at: u64,
    pub(super) l1_entries: u64,
    pub(super) refcount_table_at: u64,
    pub(super) refcount_table_bytes: u64,
    pub(super) codec: Codec,
    pub(super) extended_l2: bool,
}

impl Header {
    /// Reads the header, its extensions and the backing file's name, all of which lie in cluster 0.
    pub(super) fn read(source: &mut dyn Source) -> Result<(Self, ImageInfo)> {
        let mut raw = RawHeader::new_zeroed();
        look_exact(source, raw.as_mut_bytes(), 0, FORMAT, "the header")?;
        if raw.magic != MAGIC {
            let what = format!("the first bytes are {:02x?}, not {MAGIC:02x?}: this is no qcow2", raw.magic);
            return Err(Error::corrupt(FORMAT, "not-this-format", 0, what));
        }
        let v3 = match raw.version.get() {
            2 => None,
            3 => {
                let mut v3 = RawHeaderV3::new_zeroed();
                look_exact(source, v3.as_mut_bytes(), size_of::<RawHeader>() as u64, FORMAT, "the header")?;
                Some(v3)
            }
            version => {
                let what = format!("version {version}, versions 2 and 3 are known");
                return Err(Error::unsupported(FORMAT, "version", what));
            }
        };
        let compression = match &v3 {
            Some(v3) if v3.header_length.get() > 104 => {
                let mut byte = [0];
                look_exact(source, &mut byte, 104, FORMAT, "the header")?;
                byte[0]
            }
            _ => 0,
        };
        let header = Self::parse(&raw, v3.as_ref(), compression)?;
        let info = describe(source, &header, &raw, v3.as_ref())?;
        Ok((header, info))
    }

    fn parse(raw: &RawHeader, v3: Option<&RawHeaderV3>, compression: u8) -> Result<Self> {
        let cluster_bits = raw.cluster_bits.get();
        if !(9..=21).contains(&cluster_bits) {
            let what = format!("cluster_bits is {cluster_bits}, allowed are 9 to 21");
            return Err(Error::corrupt(FORMAT, "cluster-bits", 20, what));
        }
        let cluster = 1_u64 << cluster_bits;
        let incompatible = v3.map_or(0, |v3| v3.incompatible_features.get());
        check_features(incompatible)?;
        if let Some(v3) = v3 {
            check_v3(v3, cluster)?;
        }
        let extended_l2 = incompatible & EXTENDED_L2 != 0;
        if extended_l2 && cluster_bits < 14 {
            let what = format!("extended L2 entries need clusters of 16 KiB or more, these have {cluster} bytes");
            return Err(Error::corrupt(FORMAT, "extended-l2-cluster", 20, what));
        }
        check_snapshots(raw, cluster)?;
        let refcount_table_bytes = u64::from(raw.refcount_table_clusters.get()).saturating_mul(cluster);
        check_refcount_table(raw, refcount_table_bytes, cluster)?;
        let header = Self {
            version: raw.version.get(),
            cluster_bits,
            virtual_size: raw.size.get(),
            l1_at: raw.l1_table_offset.get(),
            l1_entries: u64::from(raw.l1_size.get()),
            refcount_table_at: raw.refcount_table_offset.get(),
            refcount_table_bytes,
            codec: codec(compression, incompatible & COMPRESSION_TYPE != 0)?,
            extended_l2,
        };
        header.check_l1()?;
        Ok(header)
    }

    fn check_l1(&self) -> Result<()> {
        let needed = self.l1_entries_needed();
        if self.l1_entries < needed {
            let what = format!("the L1 table has {} entries, this virtual size needs {needed}", self.l1_entries);
            return Err(Error::corrupt(FORMAT, "l1-too-small", 36, what));
        }
        let bytes = self.l1_entries.saturating_mul(8);
        if bytes > MAX_L1_BYTES {
            let what = format!("the L1 table takes {bytes} bytes, allowed are {MAX_L1_BYTES}");
            return Err(Error::corrupt(FORMAT, "l1-too-large", 36, what));
        }
        check_table_offset("the L1 table", self.l1_at, bytes, self.cluster_size(), 40)
    }

    pub(super) fn cluster_size(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// Bytes of an L2 entry, 8 or 16, as a power of two.
    pub(super) fn entry_bits(&self) -> u32 {
        if self.extended_l2 { 4 } else { 3 }
    }

    /// Bytes of the virtual disk that one L2 table maps: at most 2 MiB / 8 clusters of 2 MiB, 2^39.
    pub(super) fn l2_reach(&self) -> u64 {
        (self.cluster_size() >> self.entry_bits()) << self.cluster_bits
    }

    /// Where entry `index` of the L1 table is.
    pub(super) fn l1_entry_at(&self, index: u64) -> u64 {
        self.l1_at.saturating_add(index.saturating_mul(8))
    }

    pub(super) fn l1_entries_needed(&self) -> u64 {
        self.virtual_size.div_ceil(self.l2_reach())
    }
}

/// Only bits whose meaning is known may be set here: the rest must be understood to read the image.
fn check_features(incompatible: u64) -> Result<()> {
    let unknown = incompatible & !KNOWN_INCOMPATIBLE;
    if unknown == 0 {
        return Ok(());
    }
    let bits: Vec<_> = (0..64).filter(|bit| unknown >> bit & 1 == 1).map(|bit: u32| bit.to_string()).collect();
    let what = format!("unknown incompatible feature bit {}: the image needs a newer reader", bits.join(", "));
    Err(Error::unsupported(FORMAT, "incompatible-bits", what))
}

fn check_v3(v3: &RawHeaderV3, cluster: u64) -> Result<()> {
    let len = v3.header_length.get();
    if len < 104 || u64::from(len) > cluster {
        let what = format!("the header is {len} bytes long, allowed are 104 to {cluster}");
        return Err(Error::corrupt(FORMAT, "header-length", 100, what));
    }
    let order = v3.refcount_order.get();
    if order > MAX_REFCOUNT_ORDER {
        let what = format!("refcount_order is {order}, allowed are 0 to {MAX_REFCOUNT_ORDER}");
        return Err(Error::corrupt(FORMAT, "refcount-order", 96, what));
    }
    Ok(())
}

/// Snapshots are not read, but a header that lies here is not to be trusted elsewhere.
fn check_snapshots(raw: &RawHeader, cluster: u64) -> Result<()> {
    let count = raw.nb_snapshots.get();
    if count > MAX_SNAPSHOTS {
        let what = format!("{count} snapshots, allowed are {MAX_SNAPSHOTS}");
        return Err(Error::corrupt(FORMAT, "snapshots", 60, what));
    }
    match count {
        0 => Ok(()),
        // Each entry takes 40 bytes at least.
        _ => check_table_offset("the snapshot table", raw.snapshots_offset.get(), u64::from(count) * 40, cluster, 64),
    }
}

fn check_refcount_table(raw: &RawHeader, bytes: u64, cluster: u64) -> Result<()> {
    if bytes == 0 || bytes > MAX_REFCOUNT_TABLE_BYTES {
        let what = format!("the refcount table takes {bytes} bytes, allowed are 1 to {MAX_REFCOUNT_TABLE_BYTES}");
        return Err(Error::corrupt(FORMAT, "refcount-table", 56, what));
    }
    check_table_offset("the refcount table", raw.refcount_table_offset.get(), bytes, cluster, 48)
}

/// Tables begin where a cluster does; signed 64-bit file offsets bound where they end.
fn check_table_offset(table: &str, at: u64, bytes: u64, cluster: u64, field: u64) -> Result<()> {
    if !at.is_multiple_of(cluster) {
        let what = format!("{table} lies at byte {at}, which is no multiple of the cluster size {cluster}");
        return Err(Error::corrupt(FORMAT, "table-unaligned", field, what));
    }
    if at.checked_add(bytes).is_none_or(|end| i64::try_from(end).is_err()) {
        let what = format!("{table} at byte {at} with {bytes} bytes ends beyond 2^63");
        return Err(Error::corrupt(FORMAT, "table-outside", field, what));
    }
    Ok(())
}

fn codec(compression: u8, flagged: bool) -> Result<Codec> {
    match (compression, flagged) {
        (0, false) => Ok(Codec::Deflate),
        (1, true) => Ok(Codec::Zstd),
        (0, true) | (1, false) => {
            let what = format!("compression type {compression} contradicts incompatible feature bit 3");
            Err(Error::corrupt(FORMAT, "compression-bit", 104, what))
        }
        _ => {
            let what = format!("compression type {compression}, known are 0 (zlib) and 1 (zstd)");
            Err(Error::unsupported(FORMAT, "compression-type", what))
        }
    }
}

/// What `info` shows, and what stands in the way of carrying the image.
fn describe(source: &mut dyn Source, header: &Header, raw: &RawHeader, v3: Option<&RawHeaderV3>) -> Result<ImageInfo> {
    let incompatible = v3.map_or(0, |v3| v3.incompatible_features.get());
    let set = |bit| Detail::Flag(incompatible & bit != 0);
    let data_file = read_extensions(source, header, raw, v3)?;
    let backing = read_backing_name(source, header, raw)?;
    let compression = if header.codec == Codec::Zstd { "zstd" } else { "zlib" };
    let mut details = vec![
        ("compat", Detail::Text(if header.version == 2 { "0.10" } else { "1.1" }.into())),
        ("compression-type", Detail::Text(compression.into())),
        ("refcount-bits", Detail::Number(1 << v3.map_or(4, |v3| v3.refcount_order.get()))),
        ("snapshots", Detail::Number(raw.nb_snapshots.get().into())),
    ];
    if let Some(v3) = v3 {
        let lazy = v3.compatible_features.get() & LAZY_REFCOUNTS != 0;
        details.extend([
            ("lazy-refcounts", Detail::Flag(lazy)),
            ("dirty", set(DIRTY)),
            ("corrupt", set(CORRUPT)),
            ("extended-l2", set(EXTENDED_L2)),
        ]);
    }
    let mut warnings = Vec::new();
    if incompatible & CORRUPT != 0 {
        warnings.push("the image is marked as corrupt by its last writer; its metadata is read as it is".into());
    }
    if raw.nb_snapshots.get() > 0 {
        warnings.push(format!("{} internal snapshots are left behind: the active disk is read", raw.nb_snapshots));
    }
    let mut refusals = Vec::new();
    let mut refuse = |code, what| refusals.push(Refusal { code, what });
    if let Some(name) = &backing {
        let what =
            format!("the image is an overlay of the backing file {name:?}: flatten it with qemu-img convert first");
        refuse("backing-file", what);
    }
    let data_file = data_file.unwrap_or_default();
    if incompatible & DATA_FILE != 0 {
        let what = format!("the data lies in the external file {data_file:?}: flatten it with qemu-img convert first");
        refuse("data-file", what);
    } else if !data_file.is_empty() {
        let what = format!(
            "the image names an external data file, {data_file:?}, and does not say that it has one: flatten it with qemu-img convert first"
        );
        refuse("data-file", what);
    }
    match raw.crypt_method.get() {
        0 => {}
        1 => refuse("encrypted", "the image is encrypted with AES: decrypt it first".into()),
        LUKS => refuse("encrypted", "the image is encrypted with LUKS: decrypt it first".into()),
        method => refuse("encryption-method", format!("unknown encryption method {method}")),
    }
    Ok(ImageInfo {
        format: FORMAT,
        virtual_size: Some(header.virtual_size),
        cluster_size: Some(header.cluster_size()),
        backing,
        refusals,
        details,
        warnings,
        ..ImageInfo::default()
    })
}

/// Passes over the header extensions and returns the external data file's name, if one is there.
fn read_extensions(
    source: &mut dyn Source,
    header: &Header,
    raw: &RawHeader,
    v3: Option<&RawHeaderV3>,
) -> Result<Option<String>> {
    let mut at = v3.map_or(size_of::<RawHeader>() as u64, |v3| v3.header_length.get().into());
    let end = match raw.backing_file_offset.get() {
        0 => header.cluster_size(),
        backing => backing.min(header.cluster_size()),
    };
    let mut data_file = None;
    while at < end {
        let mut extension = RawExtension::new_zeroed();
        look_exact(source, extension.as_mut_bytes(), at, FORMAT, "a header extension")?;
        let (kind, len) = (extension.kind.get(), u64::from(extension.len.get()));
        let (head, left) = (size_of::<RawExtension>() as u64, end.saturating_sub(at));
        if head.saturating_add(len) > left {
            let what = format!("header extension {kind:#010x} takes {head} + {len} bytes, {left} are left");
            return Err(Error::corrupt(FORMAT, "extension-length", at, what));
        }
        if kind == EXTENSION_END {
            break;
        }
        check_extension(kind, len, raw.crypt_method.get(), at)?;
        at = at.saturating_add(head);
        if kind == EXTENSION_DATA_FILE {
            data_file = Some(read_name(source, at, len.min(u64::from(MAX_BACKING_NAME)), "the data file's name")?);
        }
        at = at.saturating_add(len.next_multiple_of(8));
    }
    Ok(data_file)
}

/// Extensions that are not needed to read the disk, and that QEMU takes at these lengths only.
fn check_extension(kind: u32, len: u64, crypt_method: u32, at: u64) -> Result<()> {
    let (name, lengths) = match kind {
        EXTENSION_BACKING_FORMAT => ("the backing file's format", 0..=15_u64),
        EXTENSION_BITMAPS => ("the bitmaps", 24..=24),
        EXTENSION_ENCRYPTION => ("the encryption header", 16..=16),
        _ => return Ok(()),
    };
    if !lengths.contains(&len) {
        let most = lengths.end();
        let allowed = if lengths.contains(&0) { format!("up to {most}") } else { most.to_string() };
        let what = format!("the header extension of {name} has {len} bytes, allowed are {allowed}");
        return Err(Error::corrupt(FORMAT, "extension-length", at, what));
    }
    if kind == EXTENSION_ENCRYPTION && crypt_method != LUKS {
        let what = format!("there is a header of LUKS, and the encryption method is {crypt_method}, not {LUKS}");
        return Err(Error::corrupt(FORMAT, "encryption-extension", at, what));
    }
    Ok(())
}

fn read_backing_name(source: &mut dyn Source, header: &Header, raw: &RawHeader) -> Result<Option<String>> {
    let (at, len) = (raw.backing_file_offset.get(), raw.backing_file_size.get());
    if at == 0 {
        return Ok(None);
    }
    if len > MAX_BACKING_NAME || at.saturating_add(len.into()) > header.cluster_size() {
        let what = format!(
            "the backing file's name lies at byte {at} with {len} bytes, \
             allowed are {MAX_BACKING_NAME} bytes inside the first cluster"
        );
        return Err(Error::corrupt(FORMAT, "backing-name", 8, what));
    }
    // A name without a byte names nothing.
    if len == 0 {
        return Ok(None);
    }
    read_name(source, at, len.into(), "the backing file's name").map(Some)
}

fn read_name(source: &mut dyn Source, at: u64, len: u64, what: &'static str) -> Result<String> {
    let mut name = vec![0; usize::try_from(len).unwrap_or_default()];
    look_exact(source, &mut name, at, FORMAT, what)?;
    Ok(String::from_utf8_lossy(&name).into_owned())
}
