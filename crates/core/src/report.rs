//! What a job tells its caller.

use std::time::Duration;

use crate::digest::Checksum;
use crate::format::ImageInfo;

/// What can be said about a stored image.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inspection {
    /// What the image says about itself.
    pub image: ImageInfo,
    /// Wrappings around it, outermost first.
    pub wrappings: Vec<&'static str>,
    /// Length of the image as it is stored, wrappings included, in bytes; `None` where only reading on would tell.
    pub stored_size: Option<u64>,
    /// Size of the virtual disk in bytes: what a disk made from the image must at least hold; `None` where only reading on would tell.
    pub unpacked_size: Option<u64>,
}

/// What a finished job did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// The image, with both sizes known.
    pub inspection: Inspection,
    /// Bytes of the virtual disk that hold data, counted in grains of 4 KiB.
    pub allocated: u64,
    /// Bytes that were read from the source, each counted once; holes of a sparse file are not. Of a source that answers ranged
    /// requests, what was requested counts besides.
    pub transferred: u64,
    /// The most bytes that were spooled at one time, in memory and on disk.
    pub spooled: u64,
    /// Digests of the stored image, as asked for.
    pub digests: Vec<Checksum>,
    /// How long it took.
    pub elapsed: Duration,
}
