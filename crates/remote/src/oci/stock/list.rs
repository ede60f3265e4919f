//! What images there are, by what their documents say. No layer is fetched.

use diskferry::{Error, Progress, Result};

use super::super::Store;
use super::super::manifest::{CREATED, Config, Manifest, short};
use super::{Memory, Named, Stock, own};

/// An image that has a name, or is in the index of a layout.
pub struct Row {
    /// The repository; only in a registry.
    pub repository: Option<String>,
    /// Tag, or name in a layout. What is in a layout need not have one.
    pub tag: Option<String>,
    /// The digest of its topmost document, where that is known.
    pub digest: Option<String>,
    /// What is said of the image for a machine like this one, or why that cannot be known.
    pub facts: Result<Facts>,
}

/// What documents say of a disk image. Of the sizes only `layers` is a fact, all else is what somebody has written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// Name of the format, as in `qcow2`.
    pub format: Option<String>,
    /// Bytes of the image as it is stored.
    pub stored_size: Option<u64>,
    /// Bytes of the disk.
    pub unpacked_size: Option<u64>,
    /// When it was made.
    pub created: Option<String>,
    /// Bytes of all its layers, as they are stored.
    pub layers: u64,
}

impl Row {
    /// `REPOSITORY:TAG` in a registry, the name in a layout. Without one, the digest.
    pub fn name(&self) -> String {
        name(self.repository.as_deref(), self.tag.as_deref(), self.digest.as_deref())
    }
}

pub(super) fn name(repository: Option<&str>, tag: Option<&str>, digest: Option<&str>) -> String {
    match (repository, tag) {
        (Some(repository), Some(tag)) => format!("{repository}:{tag}"),
        (None, Some(tag)) => tag.to_owned(),
        (_, None) => digest.unwrap_or_default().to_owned(),
    }
}

impl Stock {
    /// All images, in the order of their names or as they stand in the index.
    pub fn list(&self, progress: &Progress) -> Result<Vec<Row>> {
        let (mut rows, mut memory) = (Vec::new(), Memory::default());
        self.each(progress, |Named { repository, tag, digest, store, top }| {
            let facts = match top {
                Ok((descriptor, bytes)) => own(self.facts(&store, descriptor, bytes, progress))?,
                Err(error) => Err(error),
            };
            memory.image(0, usize::from(facts.is_err()))?;
            rows.push(Row { repository, tag, digest, facts });
            Ok(())
        })?;
        Ok(rows)
    }

    fn facts(
        &self,
        store: &Store,
        descriptor: super::Descriptor,
        bytes: Vec<u8>,
        progress: &Progress,
    ) -> Result<Facts> {
        let (_, manifest) = store.below(descriptor, bytes, &self.wish, progress)?;
        let config = store.document(&manifest.config, "configuration", &self.wish, progress)?;
        let config = Config::parse(&config, manifest.layers.len())?;
        Ok(Facts::of(&manifest, &config))
    }
}

impl Facts {
    fn of(manifest: &Manifest, config: &Config) -> Self {
        let said = |name: &str| config.label(name).or_else(|| manifest.annotation(name));
        let number = |name: &str| said(name)?.parse::<u64>().ok().filter(|size| *size > 0);
        let created = manifest.annotation(CREATED).or_else(|| config.created());
        Self {
            format: said("source-image-format").map(short),
            stored_size: number("source-image-size"),
            unpacked_size: number("source-image-virtual-size"),
            created: created.map(short),
            layers: manifest.layers.iter().fold(0, |sum, layer| sum.saturating_add(layer.size)),
        }
    }

    /// Whether it is the image of a CD-ROM, as far as the format is known.
    pub fn cdrom(&self) -> Option<bool> {
        self.format.as_ref().map(|format| format == "iso")
    }
}

impl Row {
    /// Why nothing can be said of it.
    pub fn error(&self) -> Option<&Error> {
        self.facts.as_ref().err()
    }
}
