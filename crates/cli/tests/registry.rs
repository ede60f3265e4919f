//! Disk images in registries: a real one with what real tools have pushed, and one that fails by a script.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::slice;

use common::{assert_fails, diskferry, json, names, stderr, stdout};
use diskferry_testkit::container::{Layout, MANIFEST, TAR, digest, tar};
use diskferry_testkit::qcow2::Qcow2;
use diskferry_testkit::serve::fault::{Answer, Chunks, End, File, Framing, Server};
use diskferry_testkit::serve::registry::{Registry, USER};
use diskferry_testkit::serve::tls::Authority;
use serde_json::Value;
use tempfile::TempDir;

/// What must never be shown: the password, and what it looks like when it is sent (`me:s3cr3t` in base64).
const SECRETS: [&str; 3] = [USER.1, "bWU6czNjcjN0", "t0ken"];

struct Lab {
    /// Of the target only.
    dir: TempDir,
    /// Of all else, and everybody's home.
    home: TempDir,
    image: Vec<u8>,
    disk: Vec<u8>,
}

impl Lab {
    fn new() -> Self {
        let image = Qcow2::new(4 << 20).fill(1);
        let disk = image.disk();
        let (dir, home) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        Self { dir, home, image: image.build().image, disk }
    }

    fn target(&self) -> PathBuf {
        self.dir.path().join("disk.raw")
    }

    fn path(&self, name: &str) -> String {
        self.home.path().join(name).into_os_string().into_string().unwrap()
    }

    fn write(&self, name: &str, text: &str) -> String {
        fs::write(self.path(name), text).unwrap();
        self.path(name)
    }

    /// An auth.json with the right password for `host`.
    fn authfile(&self, host: &str) -> String {
        self.write("auth.json", &format!(r#"{{"auths":{{"{host}":{{"auth":"bWU6czNjcjN0"}}}}}}"#))
    }

    fn command<const N: usize>(&self, args: [&str; N]) -> Command {
        let mut command = diskferry(args);
        command.env("HOME", self.home.path());
        for variable in ["XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "DOCKER_CONFIG", "REGISTRY_AUTH_FILE"] {
            command.env_remove(variable);
        }
        command
    }

    fn convert(&self, source: &str, more: &[&str]) -> Output {
        let _ = fs::remove_file(self.target());
        let mut command = self.command(["convert", "--json", "--retries", "4"]);
        let output = command.args(more).arg(source).arg(self.target()).output().unwrap();
        let said = format!("{}{}", stdout(&output), stderr(&output));
        assert!(!SECRETS.iter().any(|secret| said.contains(secret)), "{output:?}");
        output
    }

    #[track_caller]
    fn carries(&self, source: &str, more: &[&str]) {
        let output = self.convert(source, more);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        assert!(fs::read(self.target()).unwrap() == self.disk, "{source}");
    }

    #[track_caller]
    fn refuses(&self, source: &str, more: &[&str], exit: i32, code: &str) {
        let output = self.convert(source, more);
        assert_fails(&output, exit);
        assert_eq!(json(&output)["error"]["code"], code, "{output:?}");
        assert!(names(self.dir.path()).is_empty());
    }

    /// A layout with the image under the name `v1`; its place for other tools.
    fn layout(&self) -> String {
        let mut layout = Layout::new(&self.home.path().join("layout"));
        let image = layout.image(&[("disk/a.qcow2", &self.image)], "");
        layout.name(&image, "v1");
        format!("oci:{}:v1", self.path("layout"))
    }
}

#[track_caller]
fn tool(program: &str, args: &[&str]) {
    let output = Command::new(program).args(args).output().unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(output.status.success(), "{program} {args:?}: {output:?}");
}

#[test]
fn what_skopeo_has_pushed_is_carried() {
    let lab = Lab::new();
    for (format, compress) in [("oci", "zstd"), ("v2s2", "gzip")] {
        // One for each: skopeo remembers what a registry has, and would not pack it again.
        let registry = Registry::default().start();
        let (from, to) = (lab.layout(), format!("docker://{}/vi/team/a:1", registry.host()));
        let mut args = vec!["copy", "--insecure-policy", "--dest-tls-verify=false", "--format", format];
        args.extend(["--dest-compress", "--dest-compress-format", compress, &from, &to]);
        tool("skopeo", &args);
        lab.carries(&to, &["--plain-http"]);
        lab.carries(&to, &["--plain-http", "--connections", "3"]);
        let found = json(&lab.command(["info", "--json", "--full", "--plain-http", &to]).output().unwrap());
        assert_eq!((&found["unpacked-size"], &found["filename"]), (&Value::from(4 << 20), &Value::from(to.as_str())));
        lab.refuses(&to.replace(":1", ":9"), &["--plain-http"], 4, "source-not-found");
        lab.refuses(&to.replace("/a:", "/b:"), &["--plain-http"], 4, "source-not-found");
        // Nobody has asked to do without TLS, not even on a loopback address.
        lab.refuses(&to, &[], 4, "source-tls");
    }
}

#[test]
fn a_containerdisk_of_buildah_is_carried() {
    let (lab, registry) = (Lab::new(), Registry::default().start());
    fs::write(lab.path("a.qcow2"), &lab.image).unwrap();
    let file = lab.write("Containerfile", "FROM scratch\nADD --chown=107:107 a.qcow2 /disk/\n");
    let to = format!("docker://{}/kubevirt/a:1", registry.host());
    let (root, run) = (lab.path("root"), lab.path("run"));
    let storage = ["--storage-driver", "vfs", "--root", &root, "--runroot", &run];
    let context = lab.path("");
    tool("buildah", &[&storage[..], &["bud", "--isolation", "chroot", "-t", "a:1", "-f", &file, &context]].concat());
    tool("buildah", &[&storage[..], &["push", "--tls-verify=false", "a:1", &to]].concat());
    lab.carries(&to, &["--plain-http"]);
}

#[test]
fn a_locked_registry_lets_in_who_has_the_password() {
    let lab = Lab::new();
    let authority = Authority::new();
    let registry = Registry::default().locked().tls(authority.server(&["127.0.0.1"])).start();
    let host = registry.host();
    let (ca, from, to) = (lab.write("ca.pem", &authority.certificate()), lab.layout(), format!("docker://{host}/a:1"));
    let ca = ["--cacert", &ca];
    let creds = format!("{}:{}", USER.0, USER.1);
    tool("skopeo", &["copy", "--insecure-policy", "--dest-tls-verify=false", "--dest-creds", &creds, &from, &to]);

    lab.refuses(&to, &[], 4, "source-tls");
    lab.refuses(&to, &ca, 4, "source-denied");
    let named = lab.authfile(&host);
    lab.carries(&to, &[&ca[..], &["--authfile", &named]].concat());
    lab.carries(&to, &["--insecure", "-q", "--authfile", &named]);
    lab.carries(&to, &[&ca[..], &["--user-file", &lab.write("user", &creds)]].concat());
    let wrong = lab.write("wrong.json", &format!(r#"{{"auths":{{"{host}":{{"username":"me","password":"no"}}}}}}"#));
    lab.refuses(&to, &[&ca[..], &["--authfile", &wrong]].concat(), 4, "source-denied");
    let other = lab.write("other.json", r#"{"auths":{"other.example":{"auth":"bWU6czNjcjN0"}}}"#);
    lab.refuses(&to, &[&ca[..], &["--authfile", &other]].concat(), 4, "source-denied");
    lab.refuses(&to, &[&ca[..], &["--authfile", "/nowhere"]].concat(), 4, "source-credentials");

    // Where container tools keep it.
    fs::create_dir_all(lab.path(".config/containers")).unwrap();
    fs::rename(named, lab.path(".config/containers/auth.json")).unwrap();
    lab.carries(&to, &ca);
    fs::remove_file(lab.path(".config/containers/auth.json")).unwrap();
    fs::create_dir(lab.path(".docker")).unwrap();
    lab.write(".docker/config.json", r#"{"credsStore":"lab"}"#);
    let runs = lab.path("runs");
    // It takes longer than the server may be silent, as a person does.
    let helper = lab.write(
        "docker-credential-lab",
        &format!(
            "#!/bin/sh\necho 1 >>{runs}\nsleep 2\n\
             test \"$(cat)\" = {host} && echo '{{\"Username\":\"me\",\"Secret\":\"s3cr3t\"}}'\n"
        ),
    );
    fs::set_permissions(&helper, fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", lab.home.path().display(), std::env::var("PATH").unwrap());
    let mut command = lab.command(["convert", "-q", "--cacert", ca[1], "--stall-timeout", "1", &to]);
    let output = command.arg(lab.target()).env("PATH", path).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(fs::read_to_string(runs).unwrap(), "1\n", "it is asked once");
}

/// A registry that fails by a script, with the image `a:1`.
struct Script {
    server: Server,
    blob: String,
    archive: Vec<u8>,
}

impl Script {
    fn new(lab: &Lab) -> Self {
        let server = Server::start();
        let layout = Layout::new(&lab.home.path().join("script"));
        let archive = tar(&[("disk/a", &lab.image)]);
        let layer = layout.blob(TAR, &archive);
        let image = layout.manifest("linux/amd64", slice::from_ref(&layer), slice::from_ref(&layer.digest), "");
        for entry in fs::read_dir(lab.home.path().join("script/blobs/sha256")).unwrap() {
            let bytes = fs::read(entry.unwrap().path()).unwrap();
            let kind = if digest(&bytes) == image.digest { "manifests" } else { "blobs" };
            server.put(&format!("/v2/a/{kind}/{}", digest(&bytes)), File::new(bytes));
        }
        let manifest = fs::read(layout.path(&image.digest)).unwrap();
        let answer = Answer::right().header("Content-Type", MANIFEST);
        server.put("/v2/a/manifests/1", File::new(manifest).gets_then([], answer));
        Self { server, blob: format!("/v2/a/blobs/{}", layer.digest), archive }
    }

    fn source(&self) -> String {
        format!("docker://{}/a:1", self.server.address())
    }

    fn blob(&self) -> File {
        File::new(self.archive.clone())
    }
}

#[test]
fn a_layer_is_taken_up_where_it_broke_off() {
    let lab = Lab::new();
    let script = Script::new(&lab);
    let faults = [
        Answer::right().cut(100_000, End::Close),
        Answer::status(503).header("Retry-After", "0"),
        Answer::right().cut(300_000, End::Reset),
    ];
    script.server.put(&script.blob, script.blob().gets(faults));
    lab.carries(&script.source(), &["--plain-http"]);
    let requests = script.server.requests();
    let ranges: Vec<_> = requests
        .iter()
        .filter(|request| request.path == script.blob)
        .filter_map(|request| request.header("range"))
        .collect();
    assert!(ranges.contains(&"bytes=100000-"), "{ranges:?}");
    assert!(script.server.sent() < 2 * script.archive.len() as u64);
}

#[test]
fn a_registry_that_lies_publishes_nothing() {
    let lab = Lab::new();
    let script = Script::new(&lab);
    script.server.put(&script.blob, File::new(Vec::new()));
    lab.refuses(&script.source(), &["--plain-http"], 6, "mismatch");
    let mut bent = script.archive.clone();
    *bent.last_mut().unwrap() = 1;
    script.server.put(&script.blob, File::new(bent));
    lab.refuses(&script.source(), &["--plain-http"], 3, "tar-trailing-garbage");
    let mut bent = script.archive.clone();
    // The group of the file's owner, and the header's sum with it.
    bent[116] = b'7';
    bent[149] += 1;
    script.server.put(&script.blob, File::new(bent));
    let output = lab.convert(&script.source(), &["--plain-http"]);
    assert!([Some(3), Some(6)].contains(&output.status.code()), "{output:?}");
    script.server.put("/v2/a/manifests/1", File::new(vec![b' '; 5 << 20]));
    lab.refuses(&script.source(), &["--plain-http"], 4, "source-document-size");
    let digest = format!("sha256:{}", "0".repeat(64));
    let lie = Answer::right().header("Docker-Content-Digest", &digest);
    script.server.put("/v2/a/manifests/1", File::new(b"{}".to_vec()).gets_then([], lie));
    lab.refuses(&script.source(), &["--plain-http"], 6, "mismatch");
    script.server.put("/v2/a/manifests/1", File::new(b"<html>".to_vec()));
    lab.refuses(&script.source(), &["--plain-http"], 3, "oci-document");
}

/// Wants a token for every request to `server`, which `realm` gives out.
fn locked(file: File, realm: &str) -> File {
    let challenge = format!("Bearer realm=\"{realm}\",service=\"lab\",scope=\"repository:a:pull\"");
    file.gets_by(move |request, _| match request.header("authorization") {
        Some("Bearer t0ken") => Answer::right(),
        _ => Answer::status(401).header("WWW-Authenticate", &challenge),
    })
}

#[test]
fn a_token_is_fetched_and_shown_to_the_registry_alone() {
    let lab = Lab::new();
    let script = Script::new(&lab);
    let (realm, storage) = (Server::start(), Server::start());
    let token = "/token?service=lab&scope=repository%3Aa%3Apull";
    realm.put(token, File::new(br#"{"token":"t0ken"}"#.to_vec()));
    storage.put("/blob", script.blob().gets([Answer::right().cut(100_000, End::Reset)]));
    let manifest = fs::read(lab.home.path().join("script/blobs/sha256").join(manifest_of(&lab))).unwrap();
    script.server.put("/v2/a/manifests/1", locked(File::new(manifest), &realm.url("/token")));
    let away = storage.url("/blob");
    script.server.put(
        &script.blob,
        script.blob().gets_by(move |request, _| match request.header("authorization") {
            Some("Bearer t0ken") => Answer::redirect(307, &away),
            _ => Answer::status(401),
        }),
    );

    let authfile = lab.authfile(&script.server.address().to_string());
    lab.carries(&script.source(), &["--plain-http", "--authfile", &authfile]);
    let asked = realm.requests();
    assert!(asked.iter().all(|request| request.header("authorization") == Some("Basic bWU6czNjcjN0")), "{asked:?}");
    assert_eq!(asked.len(), 1, "one token serves for all");
    let stored = storage.requests();
    assert!(stored.len() >= 2 && stored.iter().all(|request| request.header("authorization").is_none()), "{stored:?}");
    let shown = script.server.requests();
    assert!(shown.iter().all(|request| request.header("authorization") != Some("Basic bWU6czNjcjN0")), "{shown:?}");

    let host = script.server.address();
    let identity = lab.write("identity.json", &format!(r#"{{"auths":{{"{host}":{{"identitytoken":"s3cr3t"}}}}}}"#));
    realm.put("/token", File::new(br#"{"access_token":"t0ken"}"#.to_vec()).posts(Answer::right()));
    lab.carries(&script.source(), &["--plain-http", "--authfile", &identity]);
    let asked = realm.requests();
    let last = asked.last().unwrap();
    assert_eq!((last.method.as_str(), last.path.as_str(), last.header("authorization")), ("POST", "/token", None));
    let form =
        "grant_type=refresh_token&refresh_token=s3cr3t&client_id=diskferry&scope=repository%3Aa%3Apull&service=lab";
    assert_eq!(String::from_utf8_lossy(&last.body), form);
    let ready = lab.write("ready.json", &format!(r#"{{"auths":{{"{host}":{{"registrytoken":"t0ken"}}}}}}"#));
    lab.carries(&script.source(), &["--plain-http", "--authfile", &ready]);
    assert_eq!(realm.requests().len(), asked.len(), "who has the token needs no other");

    // The password goes to nobody whom the registry has named and the user does not know.
    let manifest = fs::read(lab.home.path().join("script/blobs/sha256").join(manifest_of(&lab))).unwrap();
    let strange = realm.url("/token").replace("127.0.0.1", "localhost");
    script.server.put("/v2/a/manifests/1", locked(File::new(manifest), &strange));
    realm.put(token, File::new(br#"{"token":"t0ken"}"#.to_vec()));
    let before = realm.requests().len();
    for file in [&authfile, &identity] {
        let output = lab.convert(&script.source(), &["--plain-http", "--authfile", file]);
        assert_eq!(output.status.code(), Some(4), "{output:?}");
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(error.contains("--token-servers") && error.contains("localhost"), "{error}");
    }
    assert_eq!(realm.requests().len(), before, "who is strange is not even asked");
    lab.refuses(&script.source(), &["--plain-http", "--authfile", &authfile], 4, "source-forbidden-host");
    let trusting = ["--plain-http", "--authfile", &authfile, "--token-servers", "other.example,localhost"];
    lab.carries(&script.source(), &trusting);
    assert_eq!(realm.requests().last().unwrap().header("authorization"), Some("Basic bWU6czNjcjN0"));

    let challenge = format!("Bearer realm=\"{strange}\",service=\"lab\"");
    let challenge = Answer::status(401).header("WWW-Authenticate", &challenge);
    script.server.put("/v2/b/blobs/uploads/", File::new([]).posts(challenge));
    let target = format!("docker://{host}/b:1");
    let disk = lab.write("disk.img", "a disk");
    let output = diskferry(["push", "--json", "-f", "raw", "--plain-http", "--authfile", &authfile, &disk, &target])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(5), "{output:?}");
    assert_eq!(json(&output)["error"]["code"], "target-forbidden-host", "{output:?}");

    // Without a password, anybody may ask, and anybody may be asked.
    lab.carries(&script.source(), &["--plain-http"]);
    assert_eq!(realm.requests().last().unwrap().header("authorization"), None);
    realm.put(token, File::new(Vec::new()).gets_then([], Answer::status(403)));
    lab.refuses(&script.source(), &["--plain-http"], 4, "source-denied");
    realm.put(token, File::new(b"<html>".to_vec()));
    lab.refuses(&script.source(), &["--plain-http"], 4, "source-denied");
    realm.put(token, File::new(br#"{"token":"other"}"#.to_vec()));
    lab.refuses(&script.source(), &["--plain-http"], 4, "source-denied");
}

#[test]
fn a_token_may_come_in_a_mebibyte() {
    let lab = Lab::new();
    let script = Script::new(&lab);
    let realm = Server::start();
    let manifest = fs::read(lab.home.path().join("script/blobs/sha256").join(manifest_of(&lab))).unwrap();
    script.server.put("/v2/a/manifests/1", locked(File::new(manifest), &realm.url("/token")));
    let token = r#"{"token":"t0ken"}"#;
    let padded = |len: usize| File::new(format!("{token}{}", " ".repeat(len - token.len())).into_bytes());
    for framing in [Framing::Length, Framing::Chunked(10_000, Chunks::Clean)] {
        let answer = Answer::right().framing(framing);
        realm.put("/token", padded(1 << 20).gets_then([], answer.clone()));
        lab.carries(&script.source(), &["--plain-http"]);
        realm.put("/token", padded((1 << 20) + 1).gets_then([], answer));
        lab.refuses(&script.source(), &["--plain-http"], 4, "source-denied");
        let output = lab.convert(&script.source(), &["--plain-http"]);
        let said = stderr(&output);
        assert!(said.contains("answered with more than the 1048576 bytes that a token may take"), "{said}");
    }
}

/// The hexadecimal digest of the manifest among the blobs of the script.
fn manifest_of(lab: &Lab) -> String {
    let blobs = names(&lab.home.path().join("script/blobs/sha256"));
    let is_manifest = |name: &&String| {
        let bytes = fs::read(lab.home.path().join("script/blobs/sha256").join(name)).unwrap();
        bytes.starts_with(b"{\"schemaVersion\"")
    };
    blobs.iter().find(is_manifest).unwrap().clone()
}
