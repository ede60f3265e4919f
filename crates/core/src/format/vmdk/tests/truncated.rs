//! Truncated: a cut at any boundary is an error, never a short success.

use super::*;

#[test]
fn every_cut_is_an_error() {
    for style in Style::ALL {
        let spec = small(style);
        let built = spec.build();
        // qemu writes no end-of-stream marker but may leave zeroes that look like one, or no padding behind the last grain; the
        // tables in front prove that all came. That padding is less than a sector.
        let whole = match style {
            Style::StreamQemu | Style::StreamOpenVmdk => built.end_of_stream as usize - 511,
            _ => built.image.len(),
        };
        let sectors = (0..built.image.len()).step_by(512).flat_map(|cut| [cut, cut + 1, cut + 20, cut + 511]);
        for cut in sectors.filter(|cut| *cut < built.image.len()) {
            for mut source in Bytes::both(&built.image[..cut]) {
                match assemble(&mut source, spec.disk().len()) {
                    Ok(disk) => {
                        assert!(cut >= whole, "{style:?} cut at {cut} of {}", built.image.len());
                        assert!(disk == spec.disk(), "{style:?} cut at {cut}");
                    }
                    Err(code) => {
                        let expected = ["vmdk-ends-early", "vmdk-no-footer", "vmdk-grain-count"];
                        assert!(expected.contains(&code.as_str()), "{style:?} cut at {cut}: {code}");
                    }
                }
            }
        }
    }
}

#[test]
fn an_empty_disk_cut_in_front_of_its_grains_is_an_error() {
    for style in [Style::Sparse, Style::StreamQemu] {
        let spec = Vmdk::new(style, 40 * 128);
        let image = spec.build().image;
        // The writer does not fill up to the first grain, as qemu does.
        let mut whole = image.clone();
        whole.resize(whole.len().max(128 * 512), 0);
        for mut source in Bytes::both(&whole) {
            assert!(assemble(&mut source, spec.disk().len()).is_ok(), "{style:?}");
        }
        for mut source in Bytes::both(&whole[..100 * 512]) {
            assert_eq!(code_of(&mut source), "vmdk-ends-early", "{style:?}");
        }
    }
}

#[test]
fn what_follows_the_end_must_be_padding() {
    let with = |style, tail: &[u8]| {
        let image = [small(style).build().image.as_slice(), tail].concat();
        Bytes::both(&image).map(|mut source| code_of(&mut source))
    };
    assert_eq!(with(Style::StreamOpenVmdk, &[0; 4096]), ["carried"; 2]);
    assert_eq!(with(Style::StreamOpenVmdk, &[0; 4096 + 512]), ["vmdk-trailing-data"; 2]);
    assert_eq!(with(Style::StreamOpenVmdk, &[0, 0, 1]), ["vmdk-trailing-data"; 2]);
    assert_eq!(with(Style::StreamOpenVmdk, &[&[0, 0, 1][..], &[0; 509]].concat()), ["vmdk-trailing-data"; 2]);
    assert_eq!(with(Style::StreamTail, &[0; 512]), ["vmdk-ends-early", "vmdk-trailing-data"]);
}
