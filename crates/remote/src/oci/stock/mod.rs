//! All images of a registry or a layout: what there is, whether it is whole, and what nobody needs any more.

mod catalogue;
mod keep;
mod list;
mod place;
mod seen;
mod survey;
mod sweep;
mod tree;
mod verify;

use diskferry::archive::Pick;
use diskferry::{Error, Kind, Limits, Progress, Result};

pub use self::catalogue::Catalogue;
pub use self::keep::KeepList;
pub use self::list::{Facts, Row};
pub use self::place::Place;
pub use self::seen::Seen;
pub use self::survey::{Survey, Unused};
pub use self::sweep::{Order, Sweep};
pub use self::verify::{Finding, Verdict};

use super::keys::Keys;
use super::manifest::Descriptor;
use super::{Layout, Store, Wish};
use crate::access::Access;
use crate::client::Client;
use crate::http::{How, Patience};
use crate::runtime::Runtime;
use crate::sandbox::Sandbox;

/// What is kept in mind of all images of a place, in names of documents and blobs, of which each takes some hundred bytes.
const KEPT: usize = 1 << 18;

/// In names: what is said of an image, and of what is wrong with one.
const IMAGE: usize = 4;
const FINDING: usize = 24;

/// A place with images, and the means to look at them.
pub struct Stock {
    means: Means,
    wish: Wish,
}

enum Means {
    Layout(Layout),
    Registry(Box<Catalogue>),
}

/// How a registry is dealt with.
pub struct Dealing {
    /// Who we are, and whom we trust.
    pub access: Access,
    /// Where credentials are looked for.
    pub keys: Keys,
    /// Whether it is asked without TLS.
    pub is_plain: bool,
    /// Patience with it.
    pub patience: Patience,
}

/// An image that has been looked up: what names it, and its topmost document.
struct Named {
    /// Of a registry only.
    repository: Option<String>,
    /// Tag, or name in a layout. What is in a layout need not have one.
    tag: Option<String>,
    /// The digest of its topmost document, where that is known.
    digest: Option<String>,
    /// By what the image is got at.
    store: Store,
    /// The topmost document, or why it cannot be had.
    top: Result<(Descriptor, Vec<u8>)>,
}

impl Stock {
    /// Makes ready what it takes to look at the images at `place`.
    pub fn open(place: &Place, dealing: &Dealing) -> Result<Self> {
        let means = match place {
            Place::Layout(dir) => Means::Layout(Layout::open(dir)?),
            Place::Registry { host, prefix } => Means::Registry(Box::new(Catalogue {
                runtime: Runtime::new()?,
                client: Client::new(&dealing.access)?,
                keys: dealing.keys.clone(),
                host: host.clone(),
                prefix: prefix.clone(),
                is_plain: dealing.is_plain,
            })),
        };
        let wish = Wish {
            pick: Pick::UnderDisk,
            platform: None,
            limits: Limits::default(),
            threads: 1,
            sandbox: Sandbox::default(),
            how: How { patience: dealing.patience, ..How::default() },
        };
        Ok(Self { means, wish })
    }

    /// Looks up every image, one after the other, and has `each` look at it. Only what concerns an image alone is in its result:
    /// a registry that does not answer ends it all.
    fn each(&self, progress: &Progress, mut each: impl FnMut(Named) -> Result<()>) -> Result<()> {
        match &self.means {
            Means::Layout(layout) => {
                for image in layout.all()? {
                    progress.check()?;
                    let tag = image.name().map(str::to_owned);
                    let store = Store::Layout(layout.clone(), None);
                    let found = store.document(&image, "manifest", &self.wish, progress);
                    let digest = Some(image.digest.clone());
                    let top = own(found.map(|bytes| (image, bytes)))?;
                    each(Named { repository: None, tag, digest, store, top })?;
                }
            }
            Means::Registry(catalogue) => {
                for repository in catalogue.repositories(&self.wish, progress)? {
                    self.each_of(catalogue, &repository, progress, &mut each)?;
                }
            }
        }
        Ok(())
    }

    /// The same, of one repository.
    fn each_of(
        &self,
        catalogue: &Catalogue,
        repository: &str,
        progress: &Progress,
        each: &mut impl FnMut(Named) -> Result<()>,
    ) -> Result<()> {
        for tag in catalogue.tags(repository, &self.wish, progress)? {
            progress.check()?;
            let registry = catalogue.image(repository, &tag)?;
            let top = own(registry.named(&self.wish, progress))?;
            let digest = top.as_ref().ok().map(|(descriptor, _)| descriptor.digest.clone());
            let store = Store::Registry(Box::new(registry));
            each(Named { repository: Some(repository.to_owned()), tag: Some(tag), digest, store, top })?;
        }
        Ok(())
    }
}

/// Counts what is kept in mind, and fails when it is too much.
#[derive(Default)]
struct Memory(usize);

impl Memory {
    /// An image with so many names, and so much that is wrong with it.
    fn image(&mut self, names: usize, findings: usize) -> Result<()> {
        self.keep(IMAGE.saturating_add(names).saturating_add(findings.saturating_mul(FINDING)))
    }

    fn keep(&mut self, names: usize) -> Result<()> {
        self.0 = self.0.saturating_add(names);
        if self.0 > KEPT {
            let what = format!(
                "there is too much to be kept in mind: {KEPT} names of documents and blobs are allowed, for which an image counts as {IMAGE} \
                 more, and what is not whole as {FINDING} (of a registry, a part may be named: docker://HOST/PREFIX)"
            );
            return Err(Error::source("store-size", what));
        }
        Ok(())
    }
}

/// Tells what is wrong with one image from what is wrong with the place: the others may be whole.
fn own<T>(found: Result<T>) -> Result<Result<T>> {
    match found {
        Err(error) if !is_own(&error) => Err(error),
        found => Ok(found),
    }
}

fn is_own(error: &Error) -> bool {
    match error.kind() {
        Kind::Image | Kind::Mismatch => true,
        // What cannot be read of a layout is a file of an image: its index has been read by then.
        Kind::Source if error.is_transient() => false,
        Kind::Source => {
            matches!(error, Error::Io { .. } | Error::Source { code: "not-found" | "document-size" | "platform", .. })
        }
        Kind::Target | Kind::Stopped => false,
    }
}
