//! VMDK images in one file: the growing disk, and the stream as its producers write it.
//! Layout: VMware's "Virtual Disk Format 5.0".

pub mod descriptor;
pub mod field;
mod layout;

use std::collections::BTreeMap;

pub use descriptor::Descriptor;

use crate::random::Random;

/// Bytes of a sector, the unit of every offset in a VMDK.
pub const SECTOR: u64 = 512;

/// A VMDK to be built.
#[derive(Debug, Clone)]
pub struct Vmdk {
    /// What it is and who wrote it.
    pub style: Style,
    /// 1, 2 (with zeroed grains) or 3.
    pub version: u32,
    /// Capacity in sectors, as the header has it.
    pub capacity: u64,
    /// Sectors of a grain.
    pub grain: u64,
    /// Whether there is a redundant grain directory. Streams of VMware and VirtualBox have none.
    pub redundant: bool,
    /// The embedded descriptor.
    pub descriptor: Vec<u8>,
    /// Stores the grains in a random order; where the tables are behind them, those of each table.
    pub shuffle: Option<u64>,
    /// Sectors of zeroes that Xen Orchestra puts between the grains and their tables.
    pub padding: u64,
    /// What the disk holds; grains that are not named are holes.
    pub grains: BTreeMap<u64, Grain>,
}

/// Which producer's layout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// monolithicSparse: plain grains, tables in front.
    Sparse,
    /// streamOptimized of `qemu-img`: tables in front, twice; zeroes behind the end-of-stream marker.
    StreamQemu,
    /// streamOptimized of open-vmdk and other tools of VMware: tables in front, once; the end-of-stream marker is last.
    StreamOpenVmdk,
    /// streamOptimized of VirtualBox and ESXi: tables behind their grains, found through the footer.
    StreamTail,
    /// streamOptimized of vmdktool: as the one before, but the header in front is written once more when it is known where the
    /// directory is.
    StreamVmdktool,
    /// streamOptimized of Xen Orchestra: tables behind all grains in one piece, twice, behind markers that count no sectors.
    StreamXenOrchestra,
}

impl Style {
    /// Each of them.
    pub const ALL: [Self; 6] = [
        Self::Sparse,
        Self::StreamQemu,
        Self::StreamOpenVmdk,
        Self::StreamTail,
        Self::StreamVmdktool,
        Self::StreamXenOrchestra,
    ];

    /// Whether the tables are behind their grains, with a footer.
    pub fn has_footer(self) -> bool {
        matches!(self, Self::StreamTail | Self::StreamVmdktool | Self::StreamXenOrchestra)
    }
}

/// What one grain of the virtual disk holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Grain {
    /// Stored; filled up with zeroes. Streams pack it, and no further than the capacity.
    Data(Vec<u8>),
    /// Zero by declaration.
    Zero,
}

/// An image, and where its parts lie, in bytes.
#[derive(Debug, Clone, Default)]
pub struct Built {
    /// The image.
    pub image: Vec<u8>,
    /// The grain directory.
    pub directory: u64,
    /// The redundant grain directory, or 0.
    pub redundant: u64,
    /// Each grain table, by its place in the directory; missing where it is not stored.
    pub tables: BTreeMap<u64, u64>,
    /// Each stored grain; of a stream, its marker.
    pub grains: BTreeMap<u64, u64>,
    /// The footer, or 0.
    pub footer: u64,
    /// The end-of-stream marker, or 0.
    pub end_of_stream: u64,
}

impl Vmdk {
    /// An empty image of `capacity` sectors with grains of 64 KiB and the descriptor that its style brings.
    pub fn new(style: Style, capacity: u64) -> Self {
        let create_type = if style == Style::Sparse { "monolithicSparse" } else { "streamOptimized" };
        Self {
            style,
            version: if style == Style::Sparse { 1 } else { 3 },
            capacity,
            grain: 128,
            redundant: matches!(style, Style::Sparse | Style::StreamQemu | Style::StreamXenOrchestra),
            descriptor: Descriptor::new(create_type, capacity, "disk.vmdk").text().into_bytes(),
            shuffle: None,
            padding: 0,
            grains: BTreeMap::new(),
        }
    }

    /// Fills the image by `seed`: data, holes, zeroed grains in version 2, and a stored last grain.
    pub fn fill(mut self, seed: u64) -> Self {
        let random = &mut Random::new(seed);
        let len = (self.grain * SECTOR) as usize;
        let count = self.grain_count();
        for index in 0..count {
            let kind = if index + 1 == count { 0 } else { random.below(5) };
            let grain = match kind {
                0 | 1 => Grain::Data(random.text(len)),
                2 => Grain::Data(random.bytes(len)),
                3 if self.version == 2 => Grain::Zero,
                _ => continue,
            };
            self.grains.insert(index, grain);
        }
        self
    }

    /// The disk that the image stands for.
    pub fn disk(&self) -> Vec<u8> {
        let mut disk = vec![0; (self.capacity * SECTOR) as usize];
        for (index, grain) in &self.grains {
            let start = (index * self.grain * SECTOR) as usize;
            if let Grain::Data(data) = grain {
                let len = data.len().min(disk.len() - start);
                disk[start..start + len].copy_from_slice(&data[..len]);
            }
        }
        disk
    }

    /// Lays the image out.
    pub fn build(&self) -> Built {
        layout::build(self)
    }

    fn grain_count(&self) -> u64 {
        self.capacity.div_ceil(self.grain)
    }
}
