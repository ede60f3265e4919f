//! Sound images with fields bent: what bytes at random hardly ever come to.

use std::sync::LazyLock;

use diskferry_testkit::hostile::{Subject, tiny_subjects};

use crate::same::same;

static QCOW2: LazyLock<Vec<Subject>> = LazyLock::new(|| tiny_subjects("qcow2"));
static VDI: LazyLock<Vec<Subject>> = LazyLock::new(|| tiny_subjects("vdi"));
static VMDK: LazyLock<Vec<Subject>> = LazyLock::new(|| tiny_subjects("vmdk"));

/// Most fields that are bent at once. More than a few and the first one is all that is seen.
const MOST: usize = 8;
/// Bytes that say which field is bent, how, and to what.
const STEP: usize = 11;

/// Bends an image of `format` as `script` says, and carries it from a file and from a stream.
pub fn bent(script: &[u8], format: &'static str) {
    if let Some(image) = bend(script, format) {
        same(&image, Some(format));
    }
}

/// The image that `script` says, behind a byte that says how large chunks are.
pub(crate) fn bend(script: &[u8], format: &str) -> Option<Vec<u8>> {
    let subjects: &[Subject] = match format {
        "qcow2" => &QCOW2,
        "vdi" => &VDI,
        _ => &VMDK,
    };
    let ([which, chunk], steps) = script.split_first_chunk()?;
    let subject = &subjects[usize::from(*which) % subjects.len()];
    let mut image = vec![*chunk];
    image.extend(&subject.image);
    for step in steps.chunks_exact(STEP).take(MOST) {
        let (field, rest) = step.split_first_chunk::<2>().expect("a whole step");
        let (how, value) = rest.split_first_chunk::<1>().expect("a whole step");
        let value = u64::from_le_bytes(value.try_into().expect("the rest are 8 bytes"));
        subject.bend(&mut image[1..], usize::from(u16::from_le_bytes(*field)), how[0], value);
    }
    Some(image)
}
