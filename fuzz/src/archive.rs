//! The image in an archive, and what whiteouts hide of the layers below.

use std::io::{Cursor, Read};

use diskferry::archive::{Found, Hidden, Pick, Room, find};

use crate::image::told;

/// Reads `archive` to its end, twice: as a layer, and as one above which the same layer lies.
pub fn archive(archive: &[u8]) {
    let mut hidden = Hidden::default();
    for _ in 0..2 {
        let reader = Box::new(Cursor::new(archive.to_vec()));
        let most = archive.len() as u64 * 2 + 1024;
        match find(reader, &Pick::UnderDisk, &mut hidden, Room { archive: most, beside: most, passed: 0 }) {
            Ok(Found::Image(mut image)) => {
                let mut bytes = Vec::new();
                if image.reader.read_to_end(&mut bytes).is_ok() {
                    assert_eq!(bytes.len() as u64, image.len, "an image of another length");
                    let at = usize::try_from(image.at).expect("it has been read");
                    assert!(archive[at..].starts_with(&bytes), "other bytes than those at {at}");
                }
            }
            Ok(Found::Nothing(_)) => {}
            Err(error) => told(&error),
        }
    }
}
