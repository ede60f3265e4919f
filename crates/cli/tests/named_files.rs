//! An image may name other files, and none of them is opened, asked for or even looked up. The kernel's record of all calls
//! with a path and of all sockets says so.
#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

mod common;

/// What a test run without the right to trace leaves out.
mod traced {
    use std::fs;
    use std::path::Path;
    use std::process::{Command, Output};

    use diskferry_testkit::qcow2::Qcow2;

    use super::common::{assert_fails, names, stderr};

    /// What all names in the images have in them, and no other path has.
    const NAMED: &str = "named-by-the-image";

    /// Spellings by which an image can name it.
    const SPELLINGS: [&str; 7] = [
        "named-by-the-image",
        "/etc/named-by-the-image",
        "../../named-by-the-image",
        "file:named-by-the-image",
        "nbd://127.0.0.1:1/named-by-the-image",
        "http://127.0.0.1:1/named-by-the-image",
        r#"json:{"driver":"file","filename":"named-by-the-image"}"#,
    ];

    /// Runs a command under strace: its output, and the calls with a path or a socket.
    fn trace(dir: &Path, command: &[&str]) -> (Output, String) {
        let log = dir.join("calls");
        let output = Command::new("strace")
            .args(["-f", "-qq", "-s", "4096", "-e", "trace=%file,%network", "-o"])
            .arg(&log)
            .args(command)
            .current_dir(dir)
            .output()
            .unwrap();
        let calls = fs::read_to_string(&log).unwrap();
        fs::remove_file(&log).unwrap();
        (output, calls)
    }

    /// Whether a call names what the image names, or makes a socket.
    fn strays(calls: &str) -> Vec<&str> {
        calls
            .lines()
            .filter(|call| call.contains(NAMED) || call.contains("socket(") || call.contains("connect("))
            .collect()
    }

    fn qemu_img(dir: &Path, args: &[&str]) {
        let output = Command::new("qemu-img").args(args).current_dir(dir).output().unwrap();
        assert!(output.status.success(), "{output:?}");
    }

    /// Every path that `image` names is left alone by `convert` and `info`, and `convert` refuses the image.
    #[track_caller]
    fn names_in_vain(dir: &Path, image: &str) {
        let program = env!("CARGO_BIN_EXE_diskferry");
        let before = names(dir);
        let (output, calls) = trace(dir, &[program, "convert", image, "disk.raw"]);
        assert_fails(&output, 3);
        assert!(calls.contains(image), "the image itself is opened: {calls}");
        assert_eq!(strays(&calls), Vec::<&str>::new(), "{}", stderr(&output));
        let (output, calls) = trace(dir, &[program, "info", image]);
        // It says what is named, where it can say what the image is.
        match output.status.code() {
            Some(0) => assert!(String::from_utf8_lossy(&output.stdout).contains(NAMED), "{output:?}"),
            code => assert_eq!(code, Some(3), "{output:?}"),
        }
        assert_eq!(strays(&calls), Vec::<&str>::new(), "{}", stderr(&output));
        assert_eq!(names(dir), before);
    }

    #[test]
    fn the_record_shows_what_a_tool_opens_that_follows_names() {
        let dir = tempfile::tempdir().unwrap();
        qemu_img(dir.path(), &["create", "-q", "-f", "raw", NAMED, "1M"]);
        qemu_img(dir.path(), &["create", "-q", "-f", "qcow2", "-b", NAMED, "-F", "raw", "image"]);
        let (output, calls) = trace(dir.path(), &["qemu-img", "info", "--backing-chain", "image"]);
        assert!(output.status.success(), "{output:?}");
        assert!(!strays(&calls).is_empty(), "{calls}");
    }

    #[test]
    fn backing_files_of_qcow2_are_left_alone() {
        for name in SPELLINGS {
            let dir = tempfile::tempdir().unwrap();
            fs::write(dir.path().join(NAMED), vec![7; 1 << 20]).unwrap();
            qemu_img(dir.path(), &["create", "-q", "-u", "-f", "qcow2", "-b", name, "-F", "raw", "image", "1M"]);
            names_in_vain(dir.path(), "image");
        }
    }

    #[test]
    fn external_data_files_of_qcow2_are_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let option = format!("data_file={NAMED}");
        qemu_img(dir.path(), &["create", "-q", "-f", "qcow2", "-o", &option, "image", "1M"]);
        names_in_vain(dir.path(), "image");
        let option = format!("data_file={NAMED},data_file_raw=on");
        qemu_img(dir.path(), &["create", "-q", "-f", "qcow2", "-o", &option, "image", "1M"]);
        names_in_vain(dir.path(), "image");
        // qemu-img opens what it names, and so makes none of the others.
        const EXTERNAL: u64 = 1 << 2;
        const NAME: u32 = 0x4441_5441;
        for name in SPELLINGS {
            let extensions = vec![(NAME, name.as_bytes().to_vec())];
            let image = Qcow2 { incompatible: EXTERNAL, extensions, ..Qcow2::new(1 << 20) };
            fs::write(dir.path().join("image"), image.build().image).unwrap();
            names_in_vain(dir.path(), "image");
        }
    }

    #[test]
    fn extents_and_parents_of_vmdk_are_left_alone() {
        let head = "# Disk DescriptorFile\nversion=1\nCID=fffffffe\n";
        let alone = "parentCID=ffffffff\n";
        let delta = |name: &str| format!("parentCID=12345678\nparentFileNameHint=\"{}\"\n", name.replace('"', "'"));
        let deltas = SPELLINGS.map(delta);
        let sparse = |delta| ("monolithicSparse", r#"RW 2048 SPARSE "named-by-the-image""#, delta);
        let extents = [
            ("monolithicFlat", r#"RW 2048 FLAT "named-by-the-image" 0"#, alone),
            ("monolithicFlat", r#"RW 2048 FLAT "/etc/named-by-the-image" 0"#, alone),
            ("monolithicFlat", r#"RW 2048 FLAT "../named-by-the-image" 0"#, alone),
            ("twoGbMaxExtentFlat", r#"RW 2048 FLAT "json:{'filename':'named-by-the-image'}" 0"#, alone),
            ("twoGbMaxExtentSparse", r#"RW 2048 SPARSE "named-by-the-image""#, alone),
            ("vmfs", r#"RW 2048 VMFS "named-by-the-image""#, alone),
            ("vmfsSparse", r#"RW 2048 VMFSSPARSE "named-by-the-image""#, alone),
            ("seSparse", r#"RW 2048 SESPARSE "named-by-the-image""#, alone),
            ("vmfsRawDeviceMap", r#"RW 2048 VMFSRDM "named-by-the-image""#, alone),
            ("fullDevice", r#"RW 2048 FLAT "/dev/named-by-the-image" 0"#, alone),
        ];
        for (kind, extent, parent) in extents.into_iter().chain(deltas.iter().map(|delta| sparse(delta.as_str()))) {
            let dir = tempfile::tempdir().unwrap();
            fs::write(dir.path().join(NAMED), vec![7; 1 << 20]).unwrap();
            let text = format!("{head}{parent}createType=\"{kind}\"\n\n# Extent description\n{extent}\n");
            fs::write(dir.path().join("image"), text).unwrap();
            names_in_vain(dir.path(), "image");
        }
        // The descriptor within a sparse extent.
        let dir = tempfile::tempdir().unwrap();
        qemu_img(dir.path(), &["create", "-q", "-f", "vmdk", NAMED, "1M"]);
        qemu_img(dir.path(), &["create", "-q", "-f", "vmdk", "-b", NAMED, "-F", "vmdk", "image"]);
        names_in_vain(dir.path(), "image");
    }

    /// How often a path that leads to the image is handed to the kernel.
    fn looks(calls: &str) -> usize {
        calls.lines().filter(|call| call.contains("itself\"")).count()
    }

    #[test]
    fn an_image_that_names_itself_is_opened_once_and_refused() {
        let dir = tempfile::tempdir().unwrap();
        let place = |name: &str| dir.path().join(name);
        let run = || trace(dir.path(), &[env!("CARGO_BIN_EXE_diskferry"), "convert", "-q", "itself", "disk.raw"]);
        fs::write(place("itself"), vec![7; 1 << 20]).unwrap();
        let (output, calls) = run();
        assert!(output.status.success(), "{output:?}");
        let usual = looks(&calls);
        assert!(usual > 0, "{calls}");
        fs::remove_file(place("disk.raw")).unwrap();

        let absolute = place("itself").into_os_string().into_string().unwrap();
        let json = r#"json:{"driver":"file","filename":"itself"}"#;
        let create = |args: &[&str]| qemu_img(dir.path(), &[&["create", "-q"], args].concat());
        let flat = |name: &str| {
            let head =
                "# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\ncreateType=\"monolithicFlat\"\n";
            fs::write(place("other"), format!("{head}\n# Extent description\nRW 2048 FLAT \"{name}\" 0\n")).unwrap();
        };
        let mut refused = 0;
        for name in ["itself", &absolute, json] {
            // Made under another name, since qemu-img does not make an image that names itself.
            let data = format!("data_file={name}");
            let makers: [(&str, &dyn Fn()); 4] = [
                ("a backing file", &|| create(&["-u", "-f", "qcow2", "-b", name, "-F", "qcow2", "other", "1M"])),
                ("a data file", &|| create(&["-f", "qcow2", "-o", &data, "other", "1M"])),
                ("a flat extent", &|| flat(name)),
                ("a parent", &|| {
                    create(&["-f", "vmdk", "parent", "1M"]);
                    create(&["-f", "vmdk", "-b", "parent", "-F", "vmdk", "other"]);
                    let image = fs::read(place("other")).unwrap();
                    let at = image.windows(8).position(|found| found == b"\"parent\"").unwrap();
                    let end = at + image[at..].iter().position(|&byte| byte == 0).unwrap();
                    let rest = [format!("\"{}\"", name.replace('"', "'")).as_bytes(), &image[at + 8..end]].concat();
                    let mut image = image;
                    image[at..at + rest.len()].copy_from_slice(&rest);
                    fs::write(place("other"), image).unwrap();
                    fs::remove_file(place("parent")).unwrap();
                }),
            ];
            for (what, make) in makers {
                if what == "a data file" && name == json {
                    continue; // qemu-img makes it, and takes no such name then
                }
                make();
                fs::rename(place("other"), place("itself")).unwrap();
                let before = names(dir.path());
                let (output, calls) = run();
                assert_fails(&output, 3);
                assert_eq!(looks(&calls), usual, "{what} {name}: {calls}");
                assert!(!calls.contains("socket("), "{what} {name}: {calls}");
                assert_eq!(names(dir.path()), before);
                refused += 1;
            }
        }
        assert_eq!(refused, 11);
    }
}
