//! Container images with disk images in them, as image layouts: the usual ones, and those that nobody should make.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

/// A blob as manifests name it.
#[derive(Debug, Clone)]
pub struct Blob {
    /// As in `application/vnd.oci.image.layer.v1.tar`.
    pub media_type: String,
    /// As in `sha256:9f86…`.
    pub digest: String,
    /// In bytes.
    pub size: usize,
    /// More of its descriptor: fields of JSON, each with a comma in front.
    pub more: String,
}

/// An image layout that is being made.
pub struct Layout {
    dir: PathBuf,
    images: Vec<Blob>,
}

/// Type of an uncompressed layer.
pub const TAR: &str = "application/vnd.oci.image.layer.v1.tar";
/// Type of a manifest.
pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// Type of an index.
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// Type of a configuration.
pub const CONFIG: &str = "application/vnd.oci.image.config.v1+json";

/// The digest of `bytes`.
pub fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold("sha256:".to_owned(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

/// A tar archive of these files, each with its name.
pub fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut archive = Vec::new();
    for (name, data) in files {
        let mut block = vec![0; 512];
        block[..name.len()].copy_from_slice(name.as_bytes());
        block[100..107].copy_from_slice(b"0000644");
        block[124..135].copy_from_slice(format!("{:011o}", data.len()).as_bytes());
        block[156] = b'0';
        block[257..265].copy_from_slice(b"ustar\x0000");
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
        block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        archive.extend(block);
        archive.extend(*data);
        archive.resize(archive.len().next_multiple_of(512), 0);
    }
    archive.resize(archive.len() + 1024, 0);
    archive
}

impl Layout {
    /// A new layout in `dir`, which is made.
    pub fn new(dir: &Path) -> Self {
        fs::create_dir_all(dir.join("blobs/sha256")).unwrap();
        fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        let layout = Self { dir: dir.to_owned(), images: Vec::new() };
        layout.write_index();
        layout
    }

    /// Adds a blob.
    pub fn blob(&self, media_type: &str, bytes: &[u8]) -> Blob {
        let digest = digest(bytes);
        fs::write(self.path(&digest), bytes).unwrap();
        Blob { media_type: media_type.into(), digest, size: bytes.len(), more: String::new() }
    }

    /// Where the blob with this digest is.
    pub fn path(&self, digest: &str) -> PathBuf {
        self.dir.join("blobs").join(digest.replace(':', "/"))
    }

    /// Adds the manifest of an image for `platform`, as in `linux/amd64`, with these layers, the lowest first. `diffs` are their digests
    /// unpacked, `labels` fields of JSON.
    pub fn manifest(&self, platform: &str, layers: &[Blob], diffs: &[String], labels: &str) -> Blob {
        let (os, architecture) = platform.split_once('/').unwrap();
        let diffs = diffs.iter().map(|diff| format!("\"{diff}\"")).collect::<Vec<_>>().join(",");
        let config = format!(
            r#"{{"os":"{os}","architecture":"{architecture}","config":{{"Labels":{{{labels}}}}},"rootfs":{{"type":"layers","diff_ids":[{diffs}]}}}}"#
        );
        let config = self.blob(CONFIG, config.as_bytes()).json();
        let layers = layers.iter().map(Blob::json).collect::<Vec<_>>().join(",");
        let manifest =
            format!(r#"{{"schemaVersion":2,"mediaType":"{MANIFEST}","config":{config},"layers":[{layers}]}}"#);
        let mut manifest = self.blob(MANIFEST, manifest.as_bytes());
        manifest.more = format!(r#","platform":{{"os":"{os}","architecture":"{architecture}"}}"#);
        manifest
    }

    /// Adds a manifest that names these layers, and nothing else.
    pub fn manifest_of(&self, layers: &[Blob]) -> Blob {
        let layers = layers.iter().map(Blob::json).collect::<Vec<_>>().join(",");
        self.blob(MANIFEST, format!(r#"{{"schemaVersion":2,"mediaType":"{MANIFEST}","layers":[{layers}]}}"#).as_bytes())
    }

    /// Adds an image with one uncompressed layer of these files.
    pub fn image(&self, files: &[(&str, &[u8])], labels: &str) -> Blob {
        let archive = tar(files);
        self.manifest("linux/amd64", &[self.blob(TAR, &archive)], &[digest(&archive)], labels)
    }

    /// Adds an index of these.
    pub fn index(&self, manifests: &[Blob]) -> Blob {
        self.blob(INDEX, index(manifests).as_bytes())
    }

    /// Gives an image a name.
    pub fn name(&mut self, image: &Blob, name: &str) {
        let mut image = image.clone();
        write!(image.more, r#","annotations":{{"org.opencontainers.image.ref.name":"{name}"}}"#).unwrap();
        self.images.push(image);
        self.write_index();
    }

    fn write_index(&self) {
        fs::write(self.dir.join("index.json"), index(&self.images)).unwrap();
    }
}

fn index(manifests: &[Blob]) -> String {
    let manifests = manifests.iter().map(Blob::json).collect::<Vec<_>>().join(",");
    format!(r#"{{"schemaVersion":2,"mediaType":"{INDEX}","manifests":[{manifests}]}}"#)
}

impl Blob {
    /// Its descriptor.
    pub fn json(&self) -> String {
        let Self { media_type, digest, size, more } = self;
        format!(r#"{{"mediaType":"{media_type}","digest":"{digest}","size":{size}{more}}}"#)
    }
}
