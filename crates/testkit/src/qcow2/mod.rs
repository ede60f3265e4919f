//! qcow2 images with every knob that `qemu-img` does not have.
//! Layout: <https://www.qemu.org/docs/master/interop/qcow2.html>.

pub mod field;
mod layout;

use std::collections::BTreeMap;

use crate::random::Random;

/// A qcow2 image to be built. The defaults of [`Qcow2::new`] are what `qemu-img create` writes; images that keep the
/// specification also pass `qemu-img check`.
#[derive(Debug, Clone)]
pub struct Qcow2 {
    /// 2 or 3.
    pub version: u32,
    /// Cluster size as a power of two.
    pub cluster_bits: u32,
    /// Virtual size in bytes, as exact or odd as wanted.
    pub size: u64,
    /// Refcount width in bits as a power of two.
    pub refcount_order: u32,
    /// Must-understand bits beside those that `compression` and `extended_l2` bring.
    pub incompatible: u64,
    /// May-ignore bits.
    pub compatible: u64,
    /// Bits that a writer clears when it does not know them.
    pub autoclear: u64,
    /// Length of a version 3 header; the compression type is left out below 105.
    pub header_length: u32,
    /// How packed clusters are packed.
    pub compression: Compression,
    /// 0, or how the image claims to be encrypted.
    pub crypt_method: u32,
    /// Name and format of a backing file.
    pub backing: Option<(Vec<u8>, Vec<u8>)>,
    /// More header extensions: type and content.
    pub extensions: Vec<(u32, Vec<u8>)>,
    /// 16-byte L2 entries with 32 subclusters each.
    pub extended_l2: bool,
    /// Where the L1 table lies.
    pub l1: Place,
    /// Where the L2 tables lie.
    pub l2: Place,
    /// Puts the data clusters into a random order.
    pub shuffle: Option<u64>,
    /// What the disk holds; clusters that are not named are holes.
    pub clusters: BTreeMap<u64, Cluster>,
}

/// Compression of packed clusters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Raw deflate; the specification calls it zlib.
    Deflate,
    /// zstd, which needs version 3.
    Zstd,
}

/// Where tables lie among the data clusters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// In front of all data.
    Front,
    /// Behind all data, as after a resize or with `preallocation=falloc`.
    Behind,
    /// Each L2 table in front of the first cluster that it maps, as `qemu-img convert` writes. An L1 table lies in front.
    Before,
    /// L2 tables at random places among the data, by this seed. An L1 table lies in front.
    Scattered(u64),
}

/// What one cluster of the virtual disk holds. Contents shorter than the cluster are filled up with zeroes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cluster {
    /// Stored as it is.
    Plain(Vec<u8>),
    /// Stored packed, directly behind the packed cluster before it.
    Packed(Vec<u8>),
    /// Not stored: its entry is that of another cluster, which is.
    As(u64),
    /// Marked as zero. Needs version 3.
    Zero,
    /// Marked as zero and still backed by a host cluster, which is full of garbage. Needs version 3.
    AllocatedZero,
    /// Of an image with `extended_l2`: one bit per subcluster that is stored, one per subcluster that is zero.
    Subclusters {
        /// Content of the whole cluster; what no bit names does not matter.
        data: Vec<u8>,
        /// Bit n: subcluster n is stored.
        allocated: u32,
        /// Bit n: subcluster n is zero.
        zero: u32,
    },
}

/// An image, and where its parts lie, for tests that bend them.
#[derive(Debug, Clone)]
pub struct Built {
    /// The image.
    pub image: Vec<u8>,
    /// Byte offset of the L1 table.
    pub l1: u64,
    /// L1 index and byte offset of each L2 table.
    pub l2: BTreeMap<u64, u64>,
    /// Guest cluster and byte offset of each stored cluster, packed or not.
    pub clusters: BTreeMap<u64, u64>,
    /// Byte offset of the refcount table.
    pub refcounts: u64,
}

impl Qcow2 {
    /// An empty version 3 image of `size` bytes with clusters of 64 KiB.
    pub fn new(size: u64) -> Self {
        Self {
            version: 3,
            cluster_bits: 16,
            size,
            refcount_order: 4,
            incompatible: 0,
            compatible: 0,
            autoclear: 0,
            header_length: 112,
            compression: Compression::Deflate,
            crypt_method: 0,
            backing: None,
            extensions: Vec::new(),
            extended_l2: false,
            l1: Place::Front,
            l2: Place::Before,
            shuffle: None,
            clusters: BTreeMap::new(),
        }
    }

    /// Bytes of a cluster.
    pub fn cluster_size(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// Fills the image by `seed` with every kind of cluster that its version and knobs allow, also the last one.
    pub fn fill(mut self, seed: u64) -> Self {
        let random = &mut Random::new(seed);
        let count = self.size.div_ceil(self.cluster_size());
        for guest in 0..count {
            let kind = if guest + 1 == count { random.below(4) } else { random.below(10) };
            if let Some(cluster) = self.any_cluster(kind, random) {
                self.clusters.insert(guest, cluster);
            }
        }
        self
    }

    fn any_cluster(&self, kind: u64, random: &mut Random) -> Option<Cluster> {
        let len = self.cluster_size() as usize;
        let has_zero_flag = self.version > 2;
        Some(match kind {
            0 if self.extended_l2 => {
                let (allocated, zero) = (random.next_u64() as u32, random.next_u64() as u32);
                Cluster::Subclusters { data: random.text(len), allocated, zero: zero & !allocated }
            }
            0 | 1 => Cluster::Plain(random.bytes(len)),
            2 => Cluster::Packed(random.text(len)),
            // Noise does not shrink, so that packed clusters of every length lie side by side.
            3 => Cluster::Packed([random.bytes(len / 2 + len / 4), vec![7; len / 4]].concat()),
            4 if has_zero_flag => Cluster::Zero,
            5 if has_zero_flag => Cluster::AllocatedZero,
            _ => return None,
        })
    }

    /// The disk that the image stands for.
    pub fn disk(&self) -> Vec<u8> {
        let cluster = self.cluster_size();
        let mut disk = vec![0; self.size as usize];
        for (guest, content) in &self.clusters {
            let start = guest * cluster;
            let content = match content {
                Cluster::As(other) => &self.clusters[other],
                own => own,
            };
            for (at, byte) in content.bytes(cluster as usize).iter().enumerate() {
                if let Some(target) = disk.get_mut(start as usize + at) {
                    *target = *byte;
                }
            }
        }
        disk
    }

    /// Lays the image out.
    pub fn build(&self) -> Built {
        layout::build(self)
    }
}

impl Cluster {
    /// What a guest reads.
    fn bytes(&self, cluster: usize) -> Vec<u8> {
        match self {
            Self::Plain(data) | Self::Packed(data) => filled(data, cluster),
            Self::Zero | Self::AllocatedZero => vec![0; cluster],
            Self::As(other) => panic!("cluster {other} is not stored itself"),
            Self::Subclusters { data, allocated, .. } => {
                let mut bytes = filled(data, cluster);
                for (n, subcluster) in bytes.chunks_mut(cluster / 32).enumerate() {
                    if allocated & 1 << n == 0 {
                        subcluster.fill(0);
                    }
                }
                bytes
            }
        }
    }
}

/// `data` with zeroes behind it, up to a cluster.
fn filled(data: &[u8], cluster: usize) -> Vec<u8> {
    assert!(data.len() <= cluster, "{} bytes do not fit into a cluster of {cluster}", data.len());
    let mut bytes = data.to_vec();
    bytes.resize(cluster, 0);
    bytes
}
