//! The oracle accepts what the VDI writer makes and reads the promised bytes.

use diskferry_testkit::vdi::Vdi;
use diskferry_testkit::{Scratch, qemu_img, raw_of};

/// qemu-img rounds odd disks up to whole sectors, and gives what the last block has there.
fn assert_accepted(name: &str, spec: &Vdi) {
    let scratch = Scratch::new();
    let path = scratch.write("image", &spec.build().image);
    qemu_img(&["check".as_ref(), "-f".as_ref(), "vdi".as_ref(), path.as_os_str()]);
    let (disk, raw) = (spec.disk(), raw_of(&path, "vdi"));
    assert_eq!(raw.len(), disk.len().next_multiple_of(512), "{name}");
    assert!(raw[..disk.len()] == disk, "{name}: qemu-img reads other bytes");
}

#[test]
fn both_layouts_dynamic_and_static_in_order_and_shuffled() {
    for (producer, spec) in [("qemu", Vdi::qemu(9 << 20)), ("virtualbox", Vdi::virtualbox(9 << 20))] {
        for kind in [1, 2] {
            for shuffle in [None, Some(4)] {
                let spec = Vdi { kind, shuffle, ..spec.clone() }.fill(3);
                assert_accepted(&format!("{producer}, type {kind}, shuffle {shuffle:?}"), &spec);
            }
        }
    }
}

#[test]
fn sizes_that_are_no_multiple_of_block_or_sector() {
    for size in [512, 513, (1 << 20) - 1, (1 << 20) + 1, (3 << 20) + 1000] {
        assert_accepted(&format!("size {size}"), &Vdi::virtualbox(size).fill(5));
    }
}
