//! What an image may ask of us: every default in one place, every one an option of the command line.

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;

/// Bounds on what the bytes of a source can make this library do. Nothing read from an image decides an
/// allocation, a loop or a recursion before it has been compared with one of these.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Largest virtual disk in bytes. An unwrapped stream that is a mapped image may be twice as long and 64 MiB, for its
    /// metadata and snapshots.
    pub virtual_size: u64,
    /// Memory for mapping tables and the extents they name that have not passed yet, in bytes.
    pub table: u64,
    /// Largest unit that is packed as one (compressed cluster, grain), in bytes, unpacked.
    pub unit: u64,
    /// Most wrappings around an image. Each takes of the stack as well: a thread with 256 KiB reads through some three hundred.
    pub layers: u32,
    /// Memory for the windows and dictionaries of all wrappings together, in bytes. What a decoder needs besides is granted on top,
    /// up to 1 MiB. Blocks of an xz file that are unpacked at the same time count in place of its dictionary, 96 MiB at most.
    pub window: u64,
    /// Bytes of the spool that stay in memory; the rest goes to an unnamed file. On stdout, an eighth of that holds data that wait for
    /// their turn, and half of it is for what it takes to find them.
    pub spool_memory: u64,
    /// Most bytes spooled at one time, memory and file together.
    pub spool: u64,
}

impl Limits {
    /// The longest unwrapped stream, in bytes: metadata and snapshots come on top of the disk.
    pub fn stream(&self) -> u64 {
        self.virtual_size.saturating_mul(2).saturating_add(64 * MIB)
    }
}

/// Bytes of an unwrapped stream that a disk of `size` bytes may leave unused between those that it uses, and as many behind them: there may
/// be snapshots. A wrapped image of a few bytes could go on for days.
pub(crate) fn unused(size: u64) -> u64 {
    in_disks(size).max(8 * GIB)
}

/// As many of them may be spooled, which are those before the last table.
pub(crate) fn unused_before_tables(size: u64) -> u64 {
    in_disks(size).max(GIB)
}

fn in_disks(size: u64) -> u64 {
    size.saturating_mul(4)
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            virtual_size: 64 * TIB,
            table: 32 * MIB,
            // The largest cluster of qcow2. Grains have 64 KiB.
            unit: 2 * MIB,
            layers: 2,
            // zstd's own default for untrusted input is 2^27; xz -9 needs half of it.
            window: 128 * MIB,
            spool_memory: 8 * MIB,
            spool: 64 * GIB,
        }
    }
}
