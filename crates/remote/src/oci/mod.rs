//! Disk images in container images: in a registry, or in a directory with an image layout.
//!
//! A reference leads to a manifest, by way of an index where there are several machines to choose from; the manifest names a
//! configuration and layers; the topmost layer that has a file under `disk/` has the image. Manifests and configuration are small and
//! compared with their digests at once. A layer streams: its digest, and that of the archive within, are compared when the image has
//! passed, which is before a disk is published.
//!
//! docs/registry.md says what is understood and what is refused.

mod below;
mod copy;
mod describe;
mod desk;
mod helper;
mod keys;
mod layer;
pub(crate) mod layout;
mod manifest;
mod pipe;
mod platform;
mod push;
pub(crate) mod reference;
mod registry;
pub mod stock;
mod stow;
mod upload;

use std::io::Read;

use diskferry::archive::Pick;
use diskferry::source::Ranges;
use diskferry::{Error, Input, Limits, Progress, Result};

pub use self::copy::{Copied, copy};
pub(crate) use self::desk::Desk;
pub use self::keys::Keys;
pub use self::layer::Transferred;
pub use self::layout::{Layout, Lock};
pub use self::platform::Platform;
pub use self::push::{Form, Plan, Pushed, Sent, Target};
pub use self::reference::Reference;
pub use self::registry::Registry;
pub use self::stow::Stow;
pub use self::upload::Upload;

use self::layer::Layer;
use self::manifest::{Config, Descriptor, Manifest, REFERENCE_TYPE, Shown, check_size, each_manifest, short, verify};
use crate::http::How;
use crate::sandbox::Sandbox;

const FORMAT: &str = "oci";

/// How deep indexes may lie in one another.
const DEPTH: usize = 4;

/// Where container images are.
pub enum Store {
    /// A directory, and the name of an image in it. Without a name there has to be only one.
    Layout(Layout, Option<String>),
    /// A registry, and an image in it.
    Registry(Box<Registry>),
}

/// What is wanted of a container image, and how it is to be had.
#[derive(Debug, Clone)]
pub struct Wish {
    /// Which file is the disk image.
    pub pick: Pick,
    /// Which machine the image has to be for. Without, Linux on a machine like this one, where there is a choice.
    pub platform: Option<Platform>,
    /// What a layer may ask for.
    pub limits: Limits,
    /// Threads that unpack a layer.
    pub threads: usize,
    /// Where it is unpacked.
    pub sandbox: Sandbox,
    /// Patience with a server.
    pub how: How,
}

/// A container image: its documents have been read, its layers not. Of documents no more is kept than is asked for later.
pub struct Image {
    claims: Option<Claims>,
    layers: Vec<Layer>,
}

/// The disk image of a container image.
pub struct Pulled {
    /// The image. Its end comes when all digests have been compared.
    pub input: Input,
    /// How much of the layers has come.
    pub transferred: Transferred,
}

/// What the labels of an image say of the disk image within. Whoever made it has written that, and nothing was compared with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claims {
    /// Name of the format, as in `qcow2`.
    pub format: String,
    /// Bytes of the image as it is stored.
    pub stored_size: Option<u64>,
    /// Bytes of the disk.
    pub virtual_size: u64,
}

/// A blob on its way.
struct Blob {
    reader: Box<dyn Read + Send>,
    ranges: Option<Box<dyn Ranges>>,
}

impl Store {
    /// Finds the container image that is wanted, and reads its documents.
    pub fn find(&self, wish: &Wish, progress: &Progress) -> Result<Image> {
        let manifest = self.manifest(wish, progress)?;
        let config = self.config(&manifest, wish, progress)?;
        let layers =
            manifest.layers.iter().zip(config.diffs()?).map(|(blob, diff)| Ok(Layer { blob: blob.bare()?, diff }));
        Ok(Image { claims: Claims::of(&config), layers: layers.collect::<Result<_>>()? })
    }

    /// The configuration of an image, which has to be for the machine that is wanted.
    fn config(&self, manifest: &Manifest, wish: &Wish, progress: &Progress) -> Result<Config> {
        let config = self.document(&manifest.config, "configuration", wish, progress)?;
        let config = Config::parse(&config, manifest.layers.len())?;
        if let Some(platform) = wish.platform.as_ref().filter(|platform| !platform.takes(&config.platform())) {
            let found = short(&config.platform().to_string());
            let what = format!("the image is for {found:?}, and one for {platform} is wanted (--platform)");
            return Err(Error::source("platform", what));
        }
        Ok(config)
    }

    /// Opens the disk image in `image`, which was found here.
    pub fn open(&self, image: &Image, wish: &Wish, progress: &Progress) -> Result<Pulled> {
        layer::open(self, &image.layers, wish, progress)
    }

    fn manifest(&self, wish: &Wish, progress: &Progress) -> Result<Manifest> {
        let (descriptor, bytes) = self.named(wish, progress)?;
        Ok(self.below(descriptor, bytes, wish, progress)?.1)
    }

    /// The document that the image's name leads to.
    fn named(&self, wish: &Wish, progress: &Progress) -> Result<(Descriptor, Vec<u8>)> {
        match self {
            Self::Layout(layout, name) => {
                let descriptor = layout.image(name.as_deref(), wish.platform.as_ref())?;
                let bytes = self.document(&descriptor, "manifest", wish, progress)?;
                Ok((descriptor, bytes))
            }
            Self::Registry(registry) => registry.named(wish, progress),
        }
    }

    /// The manifest that a document is or, by way of indexes, leads to, as it stands there and understood.
    fn below(
        &self,
        mut descriptor: Descriptor,
        mut bytes: Vec<u8>,
        wish: &Wish,
        progress: &Progress,
    ) -> Result<((Descriptor, Vec<u8>), Manifest)> {
        for _ in 0..=DEPTH {
            if let Some(manifest) = Manifest::parse(&bytes, &descriptor.media_type)? {
                return Ok(((descriptor, bytes), manifest));
            }
            let mut choice = Choice::new(wish.platform.as_ref());
            each_manifest(&bytes, "index", |image| choice.offer(image))?;
            descriptor = choice.made()?;
            bytes = self.document(&descriptor, "manifest", wish, progress)?;
        }
        let what = format!("indexes lie in one another, more than {DEPTH} deep");
        Err(Error::corrupt(FORMAT, "index-depth", 0, what))
    }

    /// A document, compared with its digest.
    fn document(&self, blob: &Descriptor, what: &str, wish: &Wish, progress: &Progress) -> Result<Vec<u8>> {
        check_size(blob.size, what)?;
        let digest = blob.checksum()?;
        let kind = if what == "manifest" { "manifests" } else { "blobs" };
        let bytes = match self {
            Self::Layout(layout, _) => layout.document(&digest, what)?,
            Self::Registry(registry) => registry.bytes(kind, &digest, wish, progress)?,
        };
        if bytes.len() as u64 != blob.size {
            return Err(Error::Mismatch {
                what: format!("length of the {what} in bytes"),
                expected: blob.size.to_string(),
                found: bytes.len().to_string(),
            });
        }
        verify(&bytes, &digest, what)?;
        Ok(bytes)
    }

    fn blob(&self, blob: &Descriptor, wish: &Wish, progress: &Progress) -> Result<Blob> {
        match self {
            Self::Layout(layout, _) => layout.blob(blob),
            Self::Registry(registry) => registry.blob(blob, wish, progress),
        }
    }
}

/// Which of several manifests is for the machine that is wanted, of whom there may be more than anybody wants to keep.
struct Choice<'a> {
    wanted: Option<&'a Platform>,
    platform: Platform,
    images: usize,
    first: Option<Descriptor>,
    /// The first one that is for that machine.
    right: Option<Descriptor>,
    /// The first one that does not say whom it is for, and has to be looked at.
    unsaid: Option<Descriptor>,
    there: Shown,
}

impl<'a> Choice<'a> {
    fn new(wanted: Option<&'a Platform>) -> Self {
        let platform = wanted.cloned().unwrap_or_default();
        Self { wanted, platform, images: 0, first: None, right: None, unsaid: None, there: Shown::default() }
    }

    fn offer(&mut self, image: Descriptor) {
        if !may_be_meant(&image) {
            return;
        }
        self.images += 1;
        self.first.get_or_insert_with(|| image.clone());
        match &image.platform {
            None => drop(self.unsaid.get_or_insert(image)),
            Some(own) if self.platform.takes(own) => drop(self.right.get_or_insert(image)),
            Some(own) => self.there.add(&own.to_string()),
        }
    }

    fn made(self) -> Result<Descriptor> {
        let only = self.first.filter(|_| self.images == 1 && self.wanted.is_none());
        only.or(self.right).or(self.unsaid).ok_or_else(|| {
            let (platform, there) = (self.platform, short(&self.there.to_string()));
            Error::source("platform", format!("there is no image for {platform}, but for {there:?} (--platform)"))
        })
    }
}

/// Whether it is an image at all. Proofs of origin stand in an index beside what they are of.
fn may_be_meant(image: &Descriptor) -> bool {
    image.is_image() && image.annotation(REFERENCE_TYPE).is_none()
}

impl Image {
    /// What the labels say of the disk image, if they say enough.
    pub fn claims(&self) -> Option<&Claims> {
        self.claims.as_ref()
    }
}

impl Claims {
    fn of(config: &Config) -> Option<Self> {
        let number = |name: &str| config.label(name)?.parse::<u64>().ok().filter(|size| *size > 0);
        Some(Self {
            format: short(config.label("source-image-format")?),
            stored_size: number("source-image-size"),
            virtual_size: number("source-image-virtual-size")?,
        })
    }
}
