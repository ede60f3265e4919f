//! VDI images as VirtualBox and QEMU lay them out.
//! VirtualBox has no specification; the layout is in its `VDICore.h` and in QEMU's `block/vdi.c`.

use crate::field::{Field, poke};
use crate::random::Random;

/// The fields of the header.
pub mod field {
    use crate::field::Field;

    /// `0xbeda107f`.
    pub const SIGNATURE: Field = Field::le(64, 4);
    /// `0x00010001`.
    pub const VERSION: Field = Field::le(68, 4);
    /// Bytes of the header, itself included.
    pub const HEADER_SIZE: Field = Field::le(72, 4);
    /// 1 dynamic, 2 static, 3 undo, 4 differencing.
    pub const TYPE: Field = Field::le(76, 4);
    /// Image flags.
    pub const FLAGS: Field = Field::le(80, 4);
    /// Offset of the block map.
    pub const MAP_OFFSET: Field = Field::le(340, 4);
    /// Offset of the first block.
    pub const DATA_OFFSET: Field = Field::le(344, 4);
    /// Bytes of a sector.
    pub const SECTOR_SIZE: Field = Field::le(360, 4);
    /// Virtual size in bytes.
    pub const DISK_SIZE: Field = Field::le(368, 8);
    /// Bytes of a block.
    pub const BLOCK_SIZE: Field = Field::le(376, 4);
    /// Bytes in front of each block.
    pub const BLOCK_EXTRA: Field = Field::le(380, 4);
    /// Entries of the block map.
    pub const BLOCKS: Field = Field::le(384, 4);
    /// Blocks that are stored.
    pub const ALLOCATED: Field = Field::le(388, 4);
    /// First half of the uuid of the image that this one is a delta to.
    pub const UUID_LINK: Field = Field::le(424, 8);
    /// First half of the uuid of the parent.
    pub const UUID_PARENT: Field = Field::le(440, 8);

    /// Every number that a reader looks at, for tests that bend one after the other.
    pub const ALL: &[(&str, Field)] = &[
        ("signature", SIGNATURE),
        ("version", VERSION),
        ("header size", HEADER_SIZE),
        ("type", TYPE),
        ("map offset", MAP_OFFSET),
        ("data offset", DATA_OFFSET),
        ("sector size", SECTOR_SIZE),
        ("disk size", DISK_SIZE),
        ("block size", BLOCK_SIZE),
        ("block extra", BLOCK_EXTRA),
        ("blocks", BLOCKS),
        ("allocated", ALLOCATED),
        ("link", UUID_LINK),
        ("parent", UUID_PARENT),
    ];
}

const FREE: u32 = u32::MAX;
const ZERO: u32 = u32::MAX - 1;
const UUID_IMAGE_AT: usize = 392;
const UUID_SNAPSHOT_AT: usize = 408;

/// A VDI to be built.
#[derive(Debug, Clone)]
pub struct Vdi {
    /// 384 as QEMU writes it, 400 as VirtualBox does.
    pub header_size: u32,
    /// 1 dynamic, 2 static, 3 undo, 4 differencing.
    pub kind: u32,
    /// Virtual size in bytes.
    pub size: u64,
    /// Bytes of a block.
    pub block_size: u32,
    /// Bytes of nobody's in front of each block.
    pub extra: u32,
    /// Where the block map lies.
    pub map_at: u32,
    /// What the offset of the first block is a multiple of.
    pub data_align: u32,
    /// uuid of the image that this one is a delta to.
    pub link: [u8; 16],
    /// uuid of the parent.
    pub parent: [u8; 16],
    /// Stores the blocks in a random order.
    pub shuffle: Option<u64>,
    /// One for each block of the disk; missing ones are free.
    pub blocks: Vec<Block>,
}

/// What one block of the virtual disk holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Block {
    /// Not stored, -1.
    Free,
    /// Zero by declaration, -2.
    Zero,
    /// Stored; filled up with zeroes.
    Data(Vec<u8>),
}

/// An image, and where its parts lie.
#[derive(Debug, Clone)]
pub struct Built {
    /// The image.
    pub image: Vec<u8>,
    /// Byte offset of the block map.
    pub map: u64,
    /// Byte offset of the first stored block.
    pub data: u64,
}

impl Vdi {
    /// The layout of `qemu-img`: everything as close as sectors allow.
    pub fn qemu(size: u64) -> Self {
        Self {
            header_size: 384,
            kind: 1,
            size,
            block_size: 1 << 20,
            extra: 0,
            map_at: 0x200,
            data_align: 512,
            link: [0; 16],
            parent: [0; 16],
            shuffle: None,
            blocks: Vec::new(),
        }
    }

    /// The layout of VirtualBox: map and data on whole MiB.
    pub fn virtualbox(size: u64) -> Self {
        Self { header_size: 400, map_at: 1 << 20, data_align: 1 << 20, ..Self::qemu(size) }
    }

    /// Fills the image by `seed` with every kind of block; a static image has stored ones only.
    pub fn fill(mut self, seed: u64) -> Self {
        let random = &mut Random::new(seed);
        let len = self.block_size as usize;
        let is_static = self.kind == 2;
        self.blocks = (0..self.block_count())
            .map(|_| match random.below(4) {
                0 if !is_static => Block::Free,
                1 if !is_static => Block::Zero,
                2 => Block::Data(random.bytes(len)),
                _ => Block::Data(random.text(len)),
            })
            .collect();
        self
    }

    /// The disk that the image stands for.
    pub fn disk(&self) -> Vec<u8> {
        let mut disk = vec![0; self.size as usize];
        for (target, block) in disk.chunks_mut(self.block_size as usize).zip(&self.blocks) {
            if let Block::Data(data) = block {
                let len = target.len().min(data.len());
                target[..len].copy_from_slice(&data[..len]);
            }
        }
        disk
    }

    /// Lays the image out.
    pub fn build(&self) -> Built {
        let (map, data) = (u64::from(self.map_at), self.data_at());
        let mut stored: Vec<usize> =
            (0..self.blocks.len()).filter(|block| matches!(self.blocks[*block], Block::Data(_))).collect();
        if let Some(seed) = self.shuffle {
            Random::new(seed).shuffle(&mut stored);
        }
        let stride = (self.extra + self.block_size) as usize;
        let mut image = vec![0; data as usize + stored.len() * stride];
        for block in 0..self.block_count() {
            let mark = if self.blocks.get(block as usize) == Some(&Block::Zero) { ZERO } else { FREE };
            poke(&mut image, map_entry(map, block), mark.into());
        }
        for (place, block) in stored.iter().enumerate() {
            poke(&mut image, map_entry(map, *block as u64), place as u64);
            let Block::Data(bytes) = &self.blocks[*block] else { unreachable!() };
            let target = &mut image[data as usize + place * stride..][..stride];
            target[..self.extra as usize].fill(0xEE);
            target[self.extra as usize..][..bytes.len()].copy_from_slice(bytes);
        }
        self.write_header(&mut image, stored.len() as u64);
        Built { image, map, data }
    }

    fn block_count(&self) -> u64 {
        self.size.div_ceil(self.block_size.into())
    }

    fn data_at(&self) -> u64 {
        (u64::from(self.map_at) + self.block_count() * 4).next_multiple_of(self.data_align.into())
    }

    fn write_header(&self, image: &mut [u8], allocated: u64) {
        let text = b"<<< Oracle VM VirtualBox Disk Image >>>\n";
        image[..text.len()].copy_from_slice(text);
        let numbers = [
            (field::SIGNATURE, 0xbeda_107f),
            (field::VERSION, 0x0001_0001),
            (field::HEADER_SIZE, self.header_size.into()),
            (field::TYPE, self.kind.into()),
            (field::MAP_OFFSET, self.map_at.into()),
            (field::DATA_OFFSET, self.data_at()),
            (field::SECTOR_SIZE, 512),
            (field::DISK_SIZE, self.size),
            (field::BLOCK_SIZE, self.block_size.into()),
            (field::BLOCK_EXTRA, self.extra.into()),
            (field::BLOCKS, self.block_count()),
            (field::ALLOCATED, allocated),
        ];
        for (field, value) in numbers {
            poke(image, field, value);
        }
        let uuids = [
            (UUID_IMAGE_AT, [0x11; 16]),
            (UUID_SNAPSHOT_AT, [0x22; 16]),
            (field::UUID_LINK.at, self.link),
            (field::UUID_PARENT.at, self.parent),
        ];
        for (at, uuid) in uuids {
            image[at..at + 16].copy_from_slice(&uuid);
        }
    }
}

/// Entry `block` of the block map at `map`.
pub const fn map_entry(map: u64, block: u64) -> Field {
    Field::le((map + block * 4) as usize, 4)
}
