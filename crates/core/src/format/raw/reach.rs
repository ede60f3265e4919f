//! How far what is on a disk reaches, by its partition table or its file system: a shorter image has been cut.

const SECTOR: u64 = 512;

/// Where what begins with `head` ends at the earliest, and what says so: a table by the
/// [UEFI specification](https://uefi.org/specs/UEFI/2.10/05_GUID_Partition_Table_Format.html) or of a PC, or the superblock of
/// [ext4](https://docs.kernel.org/filesystems/ext4/super.html) or XFS.
pub fn reach(head: &[u8]) -> Option<(u64, &'static str)> {
    let of = |what| move |end| (end, what);
    let partitions = partitions(head);
    let file_system = || ext(head).or_else(|| xfs(head));
    partitions.map(of("the partition table")).or_else(|| file_system().map(of("the file system")))
}

/// The same of a table of partitions alone.
pub fn partitions(head: &[u8]) -> Option<u64> {
    gpt(head, SECTOR).or_else(|| gpt(head, 4096)).or_else(|| mbr(head))
}

/// A copy of the header lies in the last sector of the disk.
fn gpt(head: &[u8], sector: u64) -> Option<u64> {
    let header = head.get(usize::try_from(sector).ok()?..)?;
    let copy = header.starts_with(b"EFI PART").then(|| bytes(header, 32).map(u64::from_le_bytes))??;
    copy.checked_add(1)?.checked_mul(sector)
}

fn mbr(head: &[u8]) -> Option<u64> {
    // Boot sectors of file systems have the same mark, and code or texts in place of a table.
    let table: &[u8; 64] = head.get(446..510)?.try_into().ok()?;
    let (entries, _) = table.as_chunks::<16>();
    let is_table =
        bytes(head, 510) == Some(*b"\x55\xaa") && entries.iter().all(|[state, ..]| matches!(state, 0 | 0x80));
    // The entry of a disk that has a GPT covers all that it can.
    let is_partition = |kind: &u8| !matches!(kind, 0 | 0xee);
    let ends = entries.iter().filter(|[_, _, _, _, kind, ..]| is_table && is_partition(kind)).map(|entry| {
        let [start, sectors] = [bytes(entry, 8)?, bytes(entry, 12)?].map(u32::from_le_bytes);
        u64::from(start).checked_add(sectors.into())?.checked_mul(SECTOR)
    });
    ends.max().flatten()
}

fn ext(head: &[u8]) -> Option<u64> {
    let superblock = head.get(1024..2048)?;
    if bytes(superblock, 56) != Some(*b"\x53\xef") {
        return None;
    }
    let [low, log, features, high] =
        [bytes(superblock, 4)?, bytes(superblock, 24)?, bytes(superblock, 96)?, bytes(superblock, 336)?]
            .map(u32::from_le_bytes);
    // Without that feature there is something else.
    let high = if features & 0x80 == 0 { 0 } else { u64::from(high) << 32 };
    (high | u64::from(low)).checked_mul(1024_u64.checked_shl(log)?)
}

fn xfs(head: &[u8]) -> Option<u64> {
    let block = head.starts_with(b"XFSB").then(|| bytes(head, 4).map(u32::from_be_bytes))??;
    bytes(head, 8).map(u64::from_be_bytes)?.checked_mul(block.into())
}

fn bytes<const N: usize>(of: &[u8], at: usize) -> Option<[u8; N]> {
    of.get(at..)?.first_chunk().copied()
}
