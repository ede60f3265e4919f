//! What is deployed: the container image, and the manifests that start it. The image runs as Kubernetes would run it from the manifest: with
//! its variables, its user, its volumes and its memory, without anything to write to but those.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::LazyLock;

use serde_json::Value;

const MANIFESTS: [&str; 4] = ["import-block", "import-filesystem", "import-registry", "upload"];

/// The oldest release of Kubernetes that the manifests are for, and the newest that there are schemas of.
const RELEASES: [&str; 2] = ["1.31", "1.37"];

fn project() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

fn manifest(name: &str) -> PathBuf {
    project().join("deploy").join(name).with_extension("yaml")
}

fn done(output: Output) -> String {
    let (said, complaint) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}{complaint}");
    said
}

/// Where the programs are that know Kubernetes' schemas.
static KUBERNETES: LazyLock<PathBuf> =
    LazyLock::new(|| done(Command::new(project().join("scripts/kubernetes")).output().unwrap()).trim().into());

fn validate(release: &str, file: &Path) -> Output {
    Command::new(KUBERNETES.join("kubernetes-validate")).args(["--strict", "-k", release]).arg(file).output().unwrap()
}

/// The documents of a manifest.
fn documents(name: &str) -> Vec<Value> {
    let program = "import json, sys, yaml; json.dump(list(yaml.safe_load_all(open(sys.argv[1]))), sys.stdout)";
    let output = Command::new(KUBERNETES.join("python")).args(["-c", program]).arg(manifest(name)).output().unwrap();
    serde_json::from_str(&done(output)).unwrap()
}

/// The pod of a manifest, and the only container in it.
fn pod(name: &str) -> (Value, Value) {
    let documents = documents(name);
    let spec = |document: &Value| match document["kind"].as_str() {
        Some("Job") => Some(document["spec"]["template"]["spec"].clone()),
        Some("Pod") => Some(document["spec"].clone()),
        _ => None,
    };
    let spec = documents.iter().find_map(spec).unwrap();
    let [container] = spec["containers"].as_array().unwrap().as_slice() else { panic!("{spec}") };
    (spec.clone(), container.clone())
}

#[test]
fn manifests_are_as_the_schemas_of_kubernetes_want_them() {
    let listed = fs::read_dir(project().join("deploy")).unwrap().count();
    assert_eq!(listed, MANIFESTS.len(), "each manifest is checked");
    let dir = tempfile::tempdir().unwrap();
    for release in RELEASES {
        for name in MANIFESTS {
            done(validate(release, &manifest(name)));
            // What is misspelt is found, so what is not found is not misspelt.
            let (bent, text) = (dir.path().join("bent.yaml"), fs::read_to_string(manifest(name)).unwrap());
            fs::write(&bent, text.replace("readOnlyRootFilesystem", "readonlyRootFilesystem")).unwrap();
            assert!(!validate(release, &bent).status.success(), "{name}");
        }
    }
}

#[test]
fn manifests_set_what_the_worker_knows_and_ask_for_no_rights() {
    let known = done(Command::new(env!("CARGO_BIN_EXE_diskferry-worker")).arg("reference").output().unwrap());
    for name in MANIFESTS {
        let (spec, container) = pod(name);
        for variable in container["env"].as_array().unwrap() {
            let variable = variable["name"].as_str().unwrap();
            assert!(known.contains(&format!("`{variable}`")), "{name}: {variable}");
        }
        assert_eq!(spec["securityContext"]["runAsNonRoot"], true, "{name}");
        assert_eq!(spec["automountServiceAccountToken"], false, "{name}");
        let rights = &container["securityContext"];
        assert_eq!(rights["allowPrivilegeEscalation"], false, "{name}");
        assert_eq!(rights["readOnlyRootFilesystem"], true, "{name}");
        assert_eq!(rights["capabilities"]["drop"][0], "ALL", "{name}");
        assert_eq!(container["resources"]["limits"]["memory"], "100Mi", "{name}");
    }
}

/// Needs the right to mount, to change the root directory and to bound memory, as root has it.
mod container {
    use std::net::TcpListener;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
    use std::process::{Child, Stdio};
    use std::thread;
    use std::time::{Duration, Instant};

    use diskferry_testkit::places::MemoryGroup;
    use diskferry_testkit::serve::nginx::{Nginx, Origin, RunningNginx};
    use diskferry_testkit::serve::registry::Registry;
    use diskferry_testkit::wrap;
    use tempfile::TempDir;

    use super::*;

    /// The image as it is handed out, and its files.
    struct Image {
        dir: TempDir,
    }

    static IMAGE: LazyLock<Image> = LazyLock::new(|| {
        let dir = tempfile::tempdir().unwrap();
        let (archive, layout) = (dir.path().join("image.tar"), dir.path().join("layout"));
        done(Command::new(project().join("scripts/image")).arg(&archive).output().unwrap());
        fs::create_dir(&layout).unwrap();
        done(Command::new("tar").arg("-xf").arg(&archive).arg("-C").arg(&layout).output().unwrap());
        let mut tag = layout.into_os_string();
        tag.push(":latest");
        done(
            Command::new("umoci").args(["unpack", "--image"]).arg(tag).arg(dir.path().join("bundle")).output().unwrap(),
        );
        Image { dir }
    });

    impl Image {
        fn files(&self) -> PathBuf {
            self.dir.path().join("bundle/rootfs")
        }
    }

    /// What a container of a manifest runs in.
    struct Container {
        dir: TempDir,
        spec: Value,
        container: Value,
        variables: Vec<(String, String)>,
        cgroup: MemoryGroup,
    }

    /// Puts itself under the bound of memory, makes the files what a container sees, becomes nobody and then the worker.
    const ENTER: &str = r#"
        group=$1 root=$2 dir=$3 user=$4 device=$5
        shift 5
        echo $$ >"$group/cgroup.procs"
        mount --bind "$root" "$root"
        mount -t tmpfs -o mode=1777 none "$root/tmp"
        mount --bind "$dir/dev" "$root/dev"
        mount --bind "$dir/data" "$root/data"
        mount --bind "$dir/hosts" "$root/etc/hosts"
        if test -n "$device"; then mount --bind "$device" "$root/dev/cdi-block-volume"; fi
        mount -o remount,bind,ro "$root"
        exec setpriv --no-new-privs chroot --userspec="$user" --groups= "$root" /diskferry-worker "$@"
    "#;

    impl Container {
        /// As the manifest says, but with these values.
        fn new(name: &str, values: &[(&str, &str)]) -> Self {
            let (spec, container) = pod(name);
            let dir = tempfile::tempdir().unwrap();
            fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
            done(Command::new("cp").arg("-a").arg(IMAGE.files()).arg(dir.path().join("root")).output().unwrap());
            for made in ["dev", "data", "root/dev", "root/data"] {
                fs::create_dir_all(dir.path().join(made)).unwrap();
            }
            for made in ["dev/termination-log", "dev/cdi-block-volume", "root/etc/hosts"] {
                fs::write(dir.path().join(made), "").unwrap();
            }
            fs::write(dir.path().join("hosts"), "127.0.0.1 images.example registry.example\n").unwrap();
            // The volume belongs to the group, and the message to nobody, as kubelet has it.
            chown(dir.path().join("data"), None, Some(group(&spec))).unwrap();
            fs::set_permissions(dir.path().join("data"), fs::Permissions::from_mode(0o2775)).unwrap();
            fs::set_permissions(dir.path().join("dev/termination-log"), fs::Permissions::from_mode(0o666)).unwrap();
            let stated = container["env"].as_array().unwrap().iter();
            let variables = stated.map(|variable| {
                // What is to be looked up elsewhere is among the values, but for the identity.
                let value = variable["value"].as_str().unwrap_or("b856691e-1038");
                (variable["name"].as_str().unwrap().to_owned(), value.to_owned())
            });
            let mut variables: Vec<_> =
                variables.filter(|(name, _)| !values.iter().any(|value| value.0 == name)).collect();
            variables.extend(values.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
            let memory = container["resources"]["limits"]["memory"].as_str().unwrap();
            let memory = memory.strip_suffix("Mi").unwrap().parse::<u64>().unwrap() << 20;
            let cgroup = MemoryGroup::new(dir.path().file_name().unwrap().to_str().unwrap(), memory);
            Self { dir, spec, container, variables, cgroup }
        }

        fn start(&self, device: &str) -> Child {
            let user = &self.spec["securityContext"];
            let user = format!("{}:{}", user["runAsUser"], user["runAsGroup"]);
            let mut command = Command::new("unshare");
            command.args(["--mount", "--propagation", "private", "sh", "-euc", ENTER, "sh"]).arg(self.cgroup.path());
            command.arg(self.dir.path().join("root")).arg(self.dir.path()).args([&user, device]);
            command.args(self.container["args"].as_array().unwrap().iter().map(|arg| arg.as_str().unwrap()));
            command.env_clear().envs(self.variables.iter().cloned()).env("PATH", std::env::var("PATH").unwrap());
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
        }

        /// Waits until it has ended well, and gives its termination message.
        fn end(&self, child: Child) -> Value {
            done(child.wait_with_output().unwrap());
            serde_json::from_slice(&fs::read(self.dir.path().join("dev/termination-log")).unwrap()).unwrap()
        }

        fn disk(&self) -> PathBuf {
            self.dir.path().join("data/disk.img")
        }
    }

    fn group(spec: &Value) -> u32 {
        spec["securityContext"]["fsGroup"].as_u64().unwrap().try_into().unwrap()
    }

    /// A disk of so many MiB that hardly packs, and as a qcow2.
    fn image(mib: usize) -> (Vec<u8>, Vec<u8>) {
        let dir = tempfile::tempdir().unwrap();
        let (disk, image) = (dir.path().join("disk"), dir.path().join("image"));
        let mut state = 0x9E37_79B9_7F4A_7C15_u64;
        let noise = |_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()
        };
        let bytes: Vec<u8> = (0..mib << 17).flat_map(noise).collect();
        fs::write(&disk, &bytes).unwrap();
        let convert = ["convert", "-f", "raw", "-O", "qcow2"];
        done(Command::new("qemu-img").args(convert).args([&disk, &image]).output().unwrap());
        (bytes, fs::read(image).unwrap())
    }

    fn nginx(name: &str, bytes: &[u8]) -> (RunningNginx, String) {
        let nginx = Nginx::new().start();
        fs::write(nginx.root().join(name), bytes).unwrap();
        let url = nginx.url(Origin::Plain, &format!("/{name}")).replace("127.0.0.1", "images.example");
        assert!(url.contains("images.example"), "{url}");
        (nginx, url)
    }

    #[test]
    fn the_image_is_small_and_has_nothing_but_the_worker() {
        let archive = fs::metadata(IMAGE.dir.path().join("image.tar")).unwrap().len();
        let output = Command::new("find").args([".", "-type", "f"]).current_dir(IMAGE.files()).output().unwrap();
        let files = done(output);
        let mut files: Vec<_> = files.lines().collect();
        files.sort_unstable();
        let expected = ["./diskferry-worker", "./etc/ssl/certs/ca-certificates.crt", "./licenses/LICENSE-APACHE"];
        assert_eq!(files, [&expected[..], &["./licenses/LICENSE-MIT"]].concat());
        let unpacked: u64 = files.iter().map(|file| fs::metadata(IMAGE.files().join(file)).unwrap().len()).sum();
        assert!(archive < 20 << 20 && unpacked < 20 << 20, "{archive} bytes, {unpacked} unpacked");
        let config = fs::read_to_string(IMAGE.dir.path().join("bundle/config.json")).unwrap();
        let config: Value = serde_json::from_str(&config).unwrap();
        assert_eq!(
            (&config["process"]["user"]["uid"], &config["process"]["args"][0]),
            (&65532.into(), &"/diskferry-worker".into())
        );
    }

    #[test]
    fn an_import_to_a_filesystem_runs_as_its_manifest_says() {
        let (disk, image) = image(160);
        let (_nginx, url) = nginx("debian-13.qcow2", &image);
        let container =
            Container::new("import-filesystem", &[("IMPORTER_ENDPOINT", &url), ("DISKFERRY_DENY_PRIVATE", "false")]);
        let left = container.end(container.start(""));
        assert_eq!(
            (&left["source-image-virtual-size"], &left["message"]),
            (&disk.len().into(), &"Import Complete".into())
        );
        assert!(fs::read(container.disk()).unwrap() == disk);
        assert_eq!(fs::metadata(container.disk()).unwrap().uid(), 65532);
        assert_eq!(fs::read_dir(container.dir.path().join("data")).unwrap().count(), 1);
    }

    #[test]
    fn a_private_address_is_refused_as_its_manifest_says() {
        let (_nginx, url) = nginx("debian-13.qcow2", b"QFI\xfb");
        let container = Container::new("import-filesystem", &[("IMPORTER_ENDPOINT", &url)]);
        let output = container.start("").wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(4), "{}", String::from_utf8_lossy(&output.stderr));
        let left: Value =
            serde_json::from_slice(&fs::read(container.dir.path().join("dev/termination-log")).unwrap()).unwrap();
        assert_eq!((&left["error-code"], &left["verdict"]), (&"source-forbidden-host".into(), &"permanent".into()));
    }

    #[test]
    fn an_import_to_a_registry_runs_as_its_manifest_says() {
        let (disk, image) = image(64);
        let packed = wrap::xz(&image, &[]);
        let (_nginx, url) = nginx("debian-13.qcow2", &packed);
        let registry = Registry::default().start();
        let target = format!("{}/images/debian:13", registry.host()).replace("127.0.0.1", "registry.example");
        let values = [
            ("IMPORTER_ENDPOINT", &url[..]),
            ("IMPORTER_DESTINATION_ENDPOINT", &target),
            ("IMPORTER_DESTINATION_ACCESS_KEY_ID", "somebody"),
            ("IMPORTER_DESTINATION_SECRET_KEY", "something"),
            ("DESTINATION_INSECURE_TLS", "true"),
            ("DISKFERRY_DENY_PRIVATE", "false"),
        ];
        let container = Container::new("import-registry", &values);
        let left = container.end(container.start(""));
        assert_eq!(
            (&left["source-image-size"], &left["source-image-virtual-size"]),
            (&packed.len().into(), &disk.len().into())
        );
        assert!(left["digest"].as_str().unwrap().starts_with("sha256:"), "{left}");
    }

    #[test]
    fn an_upload_runs_as_its_manifest_says() {
        let (disk, image) = image(160);
        let free = || TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
        let (port, health, token) = (free(), free(), "0123456789abcdef0123456789abcdef");
        let values = [("LISTEN_PORT", &port[..]), ("HEALTHZ_PORT", &health), ("DISKFERRY_UPLOAD_TOKEN", token)];
        let container = Container::new("upload", &values);
        let child = container.start("");
        let probe = format!(
            "http://127.0.0.1:{health}{}",
            container.container["readinessProbe"]["httpGet"]["path"].as_str().unwrap()
        );
        let began = Instant::now();
        while !Command::new("curl").args(["-fsS", "-m", "5", &probe]).output().unwrap().status.success() {
            assert!(began.elapsed() < Duration::from_secs(30), "never ready");
            thread::sleep(Duration::from_millis(50));
        }
        let file = container.dir.path().join("debian.qcow2");
        fs::write(&file, &image).unwrap();
        let url = format!("http://127.0.0.1:{port}/upload/{token}");
        let said = done(Command::new("curl").args(["-fsS", "-m", "120", "-T"]).arg(&file).arg(url).output().unwrap());
        assert_eq!(serde_json::from_str::<Value>(&said).unwrap()["unpacked-size"], disk.len());
        assert_eq!(container.end(child)["source-image-virtual-size"], disk.len());
        assert!(fs::read(container.disk()).unwrap() == disk);
    }

    /// Needs loop devices besides.
    mod device {
        use super::*;

        #[test]
        fn an_import_to_a_block_volume_runs_as_its_manifest_says() {
            let (disk, image) = image(160);
            let (_nginx, url) = nginx("debian-13.qcow2", &image);
            let values = [("IMPORTER_ENDPOINT", &url[..]), ("DISKFERRY_DENY_PRIVATE", "false")];
            let container = Container::new("import-block", &values);
            let file = container.dir.path().join("volume");
            fs::write(&file, vec![0xA5; disk.len()]).unwrap();
            let output = Command::new("losetup").args(["--show", "-f"]).arg(&file).output().unwrap();
            let device = done(output).trim().to_owned();
            // A runtime gives the device to the user of the pod, if it is told to; here that is done by hand, and undone.
            let before = fs::metadata(&device).unwrap();
            let user = container.spec["securityContext"]["runAsUser"].as_u64().unwrap().try_into().unwrap();
            chown(&device, Some(user), Some(group(&container.spec))).unwrap();
            let output = container.start(&device).wait_with_output().unwrap();
            chown(&device, Some(before.uid()), Some(before.gid())).unwrap();
            let detached = Command::new("losetup").args(["-d", &device]).output().unwrap();
            done(output);
            done(detached);
            assert!(fs::read(&file).unwrap() == disk);
        }
    }
}
