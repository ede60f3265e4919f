//! Texts that say what a VMDK is.

use diskferry_testkit::vmdk::{Style, Vmdk};

use crate::image::stated;

/// Reads `text` as the descriptor in a growing disk and in a stream, and as a file of its own.
pub fn descriptor(text: &[u8]) {
    for style in [Style::Sparse, Style::StreamQemu, Style::StreamTail] {
        let disk = Vmdk { grain: 8, descriptor: text.to_vec(), ..Vmdk::new(style, 8) };
        stated(&disk.build().image, "vmdk", &[]);
    }
    stated(text, "vmdk", &[]);
}
