//! Documents of a container image: [image index], [manifest] and [configuration], and Docker's older forms of them.
//!
//! [image index]: https://github.com/opencontainers/image-spec/blob/main/image-index.md
//! [manifest]: https://github.com/opencontainers/image-spec/blob/main/manifest.md
//! [configuration]: https://github.com/opencontainers/image-spec/blob/main/config.md

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;
use std::marker::PhantomData;

use diskferry::digest::{Algorithm, Checksum, Digester};
use diskferry::{Error, Result};
use serde::de::{DeserializeOwned, DeserializeSeed, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::platform::Platform;

const FORMAT: &str = "oci";

/// Most bytes of a document: what registries allow for a manifest.
pub(super) const DOCUMENT: u64 = 4 << 20;

pub(super) const INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(super) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(super) const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
pub(super) const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const CONFIGS: [&str; 2] =
    ["application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json"];
/// Layers are these, and packed in a way that their bytes tell.
const LAYERS: [&str; 2] = ["application/vnd.oci.image.layer.v1.tar", "application/vnd.docker.image.rootfs.diff.tar"];

/// The annotation that an image's name in an index stands in.
pub(super) const NAME: &str = "org.opencontainers.image.ref.name";

/// Annotations and labels that are asked for somewhere.
const KEPT: [&str; 6] =
    [NAME, REFERENCE_TYPE, CREATED, "source-image-format", "source-image-size", "source-image-virtual-size"];

/// What says that something stands beside an image, as what it was built from.
pub(super) const REFERENCE_TYPE: &str = "vnd.docker.reference.type";

/// When an image was made.
pub(super) const CREATED: &str = "org.opencontainers.image.created";

/// Most descriptors in one document, or digests: more than any index has.
pub(super) const DESCRIPTORS: usize = 1 << 16;

/// Most layers of an image. Docker takes 127.
const MOST_LAYERS: usize = 1024;

/// Of annotations or labels those that are asked for: there may be so many others as a document has room for, and in memory each takes many
/// times what it takes there.
#[derive(Debug, Clone, Default)]
pub(super) struct Labels(Box<[(&'static str, Box<str>)]>);

impl Labels {
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(own, _)| *own == name).map(|(_, value)| &**value)
    }
}

impl<'de> Deserialize<'de> for Labels {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        deserializer.deserialize_map(Keeping)
    }
}

struct Keeping;

impl<'de> Visitor<'de> for Keeping {
    type Value = Labels;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("annotations")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Labels, A::Error> {
        let mut labels: Vec<(&str, Box<str>)> = Vec::new();
        while let Some(name) = map.next_key::<Cow<'de, str>>()? {
            let Some(kept) = KEPT.into_iter().find(|kept| *kept == name) else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            // Of one that is there twice the last counts.
            labels.retain(|(own, _)| *own != kept);
            labels.push((kept, map.next_value()?));
        }
        Ok(Labels(labels.into()))
    }
}

/// A list that is no longer than [`DESCRIPTORS`].
fn few<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> std::result::Result<Vec<T>, D::Error> {
    let mut found = Vec::new();
    deserializer.deserialize_seq(Each::new(DESCRIPTORS, |next| found.push(next)))?;
    Ok(found)
}

/// Hands on what a list has, one by one.
pub(super) struct Each<T, F> {
    most: usize,
    hand_on: F,
    of: PhantomData<T>,
}

impl<T, F: FnMut(T)> Each<T, F> {
    /// A list that is longer than `most` is an error.
    pub(super) fn new(most: usize, hand_on: F) -> Self {
        Self { most, hand_on, of: PhantomData }
    }
}

impl<'de, T: Deserialize<'de>, F: FnMut(T)> Visitor<'de> for Each<T, F> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut list: A) -> std::result::Result<(), A::Error> {
        let mut count = 0;
        while let Some(next) = list.next_element()? {
            if count == self.most {
                return Err(A::Error::custom("a list that is longer than it may be"));
            }
            count += 1;
            (self.hand_on)(next);
        }
        Ok(())
    }
}

impl<'de, T: Deserialize<'de>, F: FnMut(T)> DeserializeSeed<'de> for Each<T, F> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> std::result::Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

/// A reference to a blob.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Descriptor {
    #[serde(default)]
    pub(super) media_type: String,
    pub(super) digest: String,
    pub(super) size: u64,
    #[serde(default)]
    pub(super) platform: Option<Platform>,
    #[serde(default)]
    pub(super) annotations: Option<Labels>,
}

impl Descriptor {
    /// A blob of this digest and size, of which nothing else is known.
    pub(super) fn blob(digest: &str, size: u64) -> Self {
        Self { media_type: String::new(), digest: digest.to_owned(), size, platform: None, annotations: None }
    }

    /// The same without what else is said of the blob, and so that it takes little. Its digest is one that can be checked.
    pub(super) fn bare(&self) -> Result<Self> {
        Ok(Self { media_type: short(&self.media_type), ..Self::blob(&self.checksum()?.to_string(), self.size) })
    }

    /// The digest, if it is one that can be checked.
    pub(super) fn checksum(&self) -> Result<Checksum> {
        checksum(&self.digest)
    }

    /// The value of an annotation.
    pub(super) fn annotation(&self, name: &str) -> Option<&str> {
        self.annotations.as_ref()?.get(name)
    }

    /// The name that an image has in a layout.
    pub(super) fn name(&self) -> Option<&str> {
        self.annotation(NAME)
    }

    pub(super) fn is_index(&self) -> bool {
        [INDEX, DOCKER_LIST].contains(&self.media_type.as_str())
    }

    /// Whether it is a manifest or an index, and no other document that may stand in an index.
    pub(super) fn is_image(&self) -> bool {
        self.is_index() || [MANIFEST, DOCKER_MANIFEST].contains(&self.media_type.as_str())
    }

    /// That it is a layer with a tar archive.
    pub(super) fn check_layer(&self) -> Result<()> {
        let bare = self.media_type.strip_suffix("+gzip").or(self.media_type.strip_suffix("+zstd"));
        let bare = bare.or(self.media_type.strip_suffix(".gzip")).unwrap_or(&self.media_type);
        if LAYERS.contains(&bare) {
            return Ok(());
        }
        let what = format!("a layer is of the type {:?}, which is not carried", short(&self.media_type));
        Err(Error::unsupported(FORMAT, "layer-type", what))
    }
}

/// Hands on the manifests of an index, as of one for several platforms, and as `index.json` of a layout, one by one: all together may take ten
/// times the index.
pub(super) fn each_manifest(bytes: &[u8], what: &str, hand_on: impl FnMut(Descriptor)) -> Result<()> {
    each_of("manifests", DESCRIPTORS, bytes, what, hand_on)
}

/// Hands on what the list `name` of a document has.
pub(super) fn each_of<T: DeserializeOwned>(
    name: &'static str,
    most: usize,
    bytes: &[u8],
    what: &str,
    hand_on: impl FnMut(T),
) -> Result<()> {
    read(bytes, what, List { name, each: Each::new(most, hand_on) })
}

struct List<T, F> {
    name: &'static str,
    each: Each<T, F>,
}

impl<'de, T: Deserialize<'de>, F: FnMut(T)> DeserializeSeed<'de> for List<T, F> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> std::result::Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de, T: Deserialize<'de>, F: FnMut(T)> Visitor<'de> for List<T, F> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an object with the list {}", self.name)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<(), A::Error> {
        let mut each = Some(self.each);
        while let Some(name) = map.next_key::<Cow<'de, str>>()? {
            if name == self.name {
                map.next_value_seed(each.take().ok_or_else(|| A::Error::duplicate_field(self.name))?)?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        each.map_or(Ok(()), |_| Err(A::Error::missing_field(self.name)))
    }
}

/// The manifest of an image.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Manifest {
    pub(super) config: Descriptor,
    #[serde(deserialize_with = "few")]
    pub(super) layers: Vec<Descriptor>,
    #[serde(default)]
    annotations: Option<Labels>,
}

/// What a document says of its own kind.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Kind {
    #[serde(default)]
    media_type: Option<String>,
    #[serde(default)]
    schema_version: Option<u64>,
    #[serde(default)]
    manifests: Option<IgnoredAny>,
    #[serde(default)]
    layers: Option<IgnoredAny>,
}

/// The type of a document that was said to be of the type `stated`: what it says itself, as it has to in a registry, or else what it can
/// only be, where nobody says any type of these documents.
pub(super) fn media_type(bytes: &[u8], stated: &str) -> String {
    let is_known = |text: &&str| [INDEX, DOCKER_LIST, MANIFEST, DOCKER_MANIFEST].contains(text);
    let kind = json::<Kind>(bytes, "manifest").ok();
    let own = kind.as_ref().and_then(|kind| kind.media_type.as_deref());
    let shape = kind.as_ref().and_then(|kind| match (kind.manifests.is_some(), kind.layers.is_some()) {
        (true, false) => Some(INDEX),
        (false, true) => Some(MANIFEST),
        _ => None,
    });
    own.filter(is_known).or(Some(stated).filter(is_known)).or(shape).unwrap_or(stated).to_owned()
}

impl Manifest {
    /// Reads a document that was said to be of the type `stated`: `None` if it is an index. One that can be read as two kinds is neither.
    pub(super) fn parse(bytes: &[u8], stated: &str) -> Result<Option<Self>> {
        let kind: Kind = json(bytes, "manifest")?;
        if kind.schema_version == Some(1) {
            let what = "the manifest is of Docker's first version, which names nothing that could be checked: push the image anew";
            return Err(Error::unsupported(FORMAT, "manifest-version", what));
        }
        let own = kind.media_type.as_deref().unwrap_or(stated);
        let is_index = [INDEX, DOCKER_LIST].contains(&own);
        let is_manifest = [MANIFEST, DOCKER_MANIFEST].contains(&own);
        match (kind.manifests.is_some(), kind.layers.is_some()) {
            (true, false) if !is_manifest => Ok(None),
            (false, true) if !is_index => {
                let manifest: Self = json(bytes, "manifest")?;
                manifest.check()?;
                Ok(Some(manifest))
            }
            _ => {
                let what = format!("a manifest of the type {:?} has not what such a manifest has", short(own));
                Err(Error::corrupt(FORMAT, "manifest", 0, what))
            }
        }
    }

    /// The value of an annotation.
    pub(super) fn annotation(&self, name: &str) -> Option<&str> {
        self.annotations.as_ref()?.get(name)
    }

    fn check(&self) -> Result<()> {
        if self.layers.len() > MOST_LAYERS {
            let what = format!("the image has {} layers, {MOST_LAYERS} are allowed", self.layers.len());
            return Err(Error::corrupt(FORMAT, "manifest", 0, what));
        }
        if CONFIGS.contains(&self.config.media_type.as_str()) {
            return Ok(());
        }
        let found = short(&self.config.media_type);
        let what = format!("this is no container image: its configuration is of the type {found:?}");
        Err(Error::unsupported(FORMAT, "artifact", what))
    }
}

/// The configuration of an image.
#[derive(Debug, Deserialize)]
pub(super) struct Config {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    variant: Option<String>,
    #[serde(default)]
    created: Option<String>,
    #[serde(default)]
    config: Option<Settings>,
    rootfs: RootFs,
}

#[derive(Debug, Deserialize)]
struct Settings {
    #[serde(default, rename = "Labels")]
    labels: Option<Labels>,
}

#[derive(Debug, Deserialize)]
struct RootFs {
    #[serde(deserialize_with = "few")]
    diff_ids: Vec<String>,
}

impl Config {
    /// Reads the configuration of an image with so many layers.
    pub(super) fn parse(bytes: &[u8], layers: usize) -> Result<Self> {
        let config: Self = json(bytes, "configuration")?;
        let diffs = config.rootfs.diff_ids.len();
        if diffs != layers {
            let what = format!("the configuration has digests of {diffs} layers, the manifest has {layers}");
            return Err(Error::corrupt(FORMAT, "configuration", 0, what));
        }
        Ok(config)
    }

    pub(super) fn platform(&self) -> Platform {
        Platform::new(&self.os, &self.architecture, self.variant.as_deref())
    }

    /// When the image was made, as whoever made it has written.
    pub(super) fn created(&self) -> Option<&str> {
        self.created.as_deref()
    }

    /// Digests of the layers as they are unpacked, the lowest first.
    pub(super) fn diffs(&self) -> Result<Vec<Checksum>> {
        self.rootfs.diff_ids.iter().map(|digest| checksum(digest)).collect()
    }

    pub(super) fn label(&self, name: &str) -> Option<&str> {
        self.config.as_ref()?.labels.as_ref()?.get(name)
    }
}

/// A digest of the algorithms that the specification has.
pub(super) fn checksum(text: &str) -> Result<Checksum> {
    let parsed = text.parse::<Checksum>().ok();
    // Otherwise two names would stand for one blob.
    let parsed = parsed.filter(|sum| sum.to_string() == text);
    let parsed = parsed.filter(|sum| matches!(sum.algorithm, Algorithm::Sha256 | Algorithm::Sha512));
    parsed.ok_or_else(|| {
        let what = format!("{:?} is no digest that can be checked", short(text));
        Error::corrupt(FORMAT, "digest", 0, what)
    })
}

/// That `bytes`, which are `what`, have this digest.
pub(super) fn verify(bytes: &[u8], expected: &Checksum, what: &str) -> Result<()> {
    let mut digester = Digester::new([expected.algorithm]);
    digester.update(bytes);
    match digester.finish().into_iter().next() {
        Some(found) if found == *expected => Ok(()),
        found => Err(Error::Mismatch {
            what: format!("{} of the {what}", expected.algorithm),
            expected: expected.hex.clone(),
            found: found.map(|sum| sum.hex).unwrap_or_default(),
        }),
    }
}

/// The digest that `bytes` have.
pub(super) fn digest(bytes: &[u8]) -> Result<Checksum> {
    let mut digester = Digester::new([Algorithm::Sha256]);
    digester.update(bytes);
    finish(digester)
}

/// The only digest that was computed.
pub(super) fn finish(digester: Digester) -> Result<Checksum> {
    digester.finish().into_iter().next().map_or_else(|| checksum(""), Ok)
}

/// That a document is of a size that is read at all.
pub(super) fn check_size(size: u64, what: &str) -> Result<()> {
    if size > DOCUMENT {
        let what = format!("the {what} has {size} bytes, {DOCUMENT} are allowed");
        return Err(Error::corrupt(FORMAT, "document-size", 0, what));
    }
    Ok(())
}

/// `bytes` as a document of the kind `what`, which is an object.
pub(super) fn json<T: DeserializeOwned>(bytes: &[u8], what: &str) -> Result<T> {
    read(bytes, what, PhantomData)
}

/// The same, of what may borrow from `bytes`.
pub(super) fn read<'de, S: DeserializeSeed<'de>>(bytes: &'de [u8], what: &str, seed: S) -> Result<S::Value> {
    let damaged = |line, column| {
        let what = format!("the {what} cannot be understood at line {line}, column {column}");
        Error::corrupt(FORMAT, "document", 0, what)
    };
    // A list would be taken for the fields of a structure, in their order.
    if bytes.trim_ascii_start().first() != Some(&b'{') {
        return Err(damaged(1, 1));
    }
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let value = seed.deserialize(&mut json).and_then(|value| json.end().map(|()| value));
    // The error's text would repeat the document's own.
    value.map_err(|error| damaged(error.line(), error.column()))
}

/// What somebody else has written, for a message.
pub(super) fn short(text: &str) -> String {
    text.chars().take(120).collect()
}

/// Some of what somebody else has written, in order, for a message.
#[derive(Debug, Default)]
pub(super) struct Shown(BTreeSet<String>);

impl Shown {
    const MOST: usize = 20;

    pub(super) fn add(&mut self, text: &str) {
        self.0.insert(short(text));
        // One is kept to know that there are more.
        if self.0.len() > Self::MOST + 1 {
            self.0.pop_last();
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list: Vec<_> = self.0.iter().take(Self::MOST).map(String::as_str).collect();
        write!(f, "{}{}", list.join(", "), if self.0.len() > Self::MOST { " and more" } else { "" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SUM: &str = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    fn manifest(config: &str) -> String {
        format!(
            r#"{{"schemaVersion":2,"config":{{"mediaType":"{config}","digest":"{SUM}","size":3}},"layers":[{{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"{SUM}","size":3}}]}}"#
        )
    }

    fn code(bytes: &str, stated: &str) -> String {
        match Manifest::parse(bytes.as_bytes(), stated) {
            Ok(None) => "index".into(),
            Ok(Some(_)) => "manifest".into(),
            Err(error) => error.code(),
        }
    }

    #[test]
    fn documents_are_told_by_what_is_in_them() {
        let image = manifest(CONFIGS[0]);
        assert_eq!(code(&image, MANIFEST), "manifest");
        assert_eq!(code(&image, ""), "manifest");
        assert_eq!(code(r#"{"manifests":[]}"#, INDEX), "index");
        assert_eq!(code(&image, INDEX), "oci-manifest");
        assert_eq!(code(r#"{"manifests":[]}"#, MANIFEST), "oci-manifest");
        assert_eq!(code(r#"{"manifests":[],"layers":[]}"#, MANIFEST), "oci-manifest", "it could be read as two things");
        assert_eq!(code(r#"{"schemaVersion":1}"#, ""), "oci-manifest-version");
        assert_eq!(code(&manifest("application/vnd.oci.empty.v1+json"), MANIFEST), "oci-artifact");
        for bad in ["", "[]", "{", r#"{"layers":[]}"#, r#"{"layers":[{"size":-1}],"config":{}}"#, &"[".repeat(100_000)]
        {
            assert_eq!(code(bad, MANIFEST), "oci-document", "{}", short(bad));
        }
    }

    #[test]
    fn a_document_of_four_mebibytes_is_read_and_none_of_more() {
        check_size(4 << 20, "manifest").unwrap();
        assert_eq!(check_size((4 << 20) + 1, "manifest").unwrap_err().code(), "oci-document-size");
    }

    #[test]
    fn only_digests_that_can_be_checked_are_digests() {
        assert!(checksum(SUM).is_ok());
        for bad in ["", "sha256:abc", "md5:900150983cd24fb0d6963f7d28e17f72", &SUM.to_uppercase(), "sha256:../../etc"] {
            assert_eq!(checksum(bad).unwrap_err().code(), "oci-digest", "{bad}");
        }
        assert!(verify(b"abc", &checksum(SUM).unwrap(), "manifest").is_ok());
        assert_eq!(verify(b"abd", &checksum(SUM).unwrap(), "manifest").unwrap_err().code(), "mismatch");
    }

    #[test]
    fn a_configuration_has_as_many_digests_as_there_are_layers() {
        let config = format!(r#"{{"os":"linux","architecture":"arm64","rootfs":{{"diff_ids":["{SUM}"]}}}}"#);
        assert_eq!(Config::parse(config.as_bytes(), 1).unwrap().platform().to_string(), "linux/arm64");
        assert_eq!(Config::parse(config.as_bytes(), 2).unwrap_err().code(), "oci-configuration");
        assert_eq!(Config::parse(b"{}", 0).unwrap_err().code(), "oci-document");
    }

    #[test]
    fn layers_are_archives() {
        for (name, ok) in [
            ("application/vnd.oci.image.layer.v1.tar", true),
            ("application/vnd.oci.image.layer.v1.tar+gzip", true),
            ("application/vnd.oci.image.layer.v1.tar+zstd", true),
            ("application/vnd.docker.image.rootfs.diff.tar", true),
            ("application/vnd.docker.image.rootfs.diff.tar.gzip", true),
            ("application/vnd.oci.image.layer.v1.tar+encrypted", false),
            ("application/vnd.oci.image.layer.nondistributable.v1.tar", false),
            ("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", false),
            ("", false),
        ] {
            let layer =
                Descriptor { media_type: name.into(), digest: SUM.into(), size: 3, platform: None, annotations: None };
            assert_eq!(layer.check_layer().is_ok(), ok, "{name}");
        }
    }

    #[test]
    fn of_annotations_those_are_kept_that_are_asked_for() {
        let text = format!(
            r#"{{"digest":"{SUM}","size":3,"annotations":{{"{NAME}":"none","a":"b","{NAME}":"one","c":[{{}}],"a":""}}}}"#
        );
        let found: Descriptor = serde_json::from_str(&text).unwrap();
        assert_eq!(found.name(), Some("one"));
        assert_eq!(found.annotations.unwrap().0.len(), 1);
        assert!(serde_json::from_str::<Labels>(&format!(r#"{{"{NAME}":7}}"#)).is_err());
    }

    #[test]
    fn an_index_has_one_list() {
        let found = |text: &str| each_manifest(text.as_bytes(), "index", drop).map_err(|error| error.code());
        assert_eq!(found(r#"{"a":[{"manifests":[7]}],"manifests":[],"b":0}"#), Ok(()));
        for text in
            [r#"{"manifests":[],"manifests":[]}"#, r#"{"a":[]}"#, r#"{"manifests":{}}"#, r#"{"manifests":[]} 7"#]
        {
            assert_eq!(found(text).unwrap_err(), "oci-document", "{text}");
        }
    }

    #[test]
    fn no_list_is_longer_than_it_may_be() {
        let one = r#"{"digest":"","size":0}"#;
        let index = |many: usize| {
            let (text, mut found) = (format!(r#"{{"manifests":[{}]}}"#, vec![one; many].join(",")), 0);
            each_manifest(text.as_bytes(), "index", |_| found += 1).map(|()| found)
        };
        assert_eq!(index(DESCRIPTORS).unwrap(), DESCRIPTORS);
        assert_eq!(index(DESCRIPTORS + 1).unwrap_err().code(), "oci-document");
        let manifest = |many: usize| {
            let config = format!(r#"{{"mediaType":"{}","digest":"","size":0}}"#, CONFIGS[0]);
            let text = format!(r#"{{"config":{config},"layers":[{}]}}"#, vec![one; many].join(","));
            Manifest::parse(text.as_bytes(), MANIFEST).map(drop).map_err(|error| error.code())
        };
        assert_eq!([MOST_LAYERS, MOST_LAYERS + 1].map(manifest), [Ok(()), Err("oci-manifest".to_owned())]);
    }
}
