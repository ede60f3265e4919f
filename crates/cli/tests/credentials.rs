//! What is secret stays with the server that it is for: two listeners record every byte that is sent to them, over every shape of
//! redirect and with every way to say who we are.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use common::diskferry;
use diskferry_testkit::processes::{Watched, watch};
use diskferry_testkit::serve::fault::{Answer, End, File, Server};
use diskferry_testkit::serve::nginx::Nginx;
use diskferry_testkit::serve::tls::Authority;
use tempfile::TempDir;

/// The password, and `me:hunter2` as it is sent.
const SECRETS: [&str; 2] = ["hunter2", "bWU6aHVudGVyMg"];

/// A server behind a listener that records every byte of its clients. It listens as long as the test runs.
struct Recorder {
    server: Server,
    address: SocketAddr,
    seen: Arc<Mutex<Vec<u8>>>,
}

impl Recorder {
    fn new() -> Self {
        let (server, listener) = (Server::start(), TcpListener::bind("127.0.0.1:0").unwrap());
        let (address, behind, seen) =
            (listener.local_addr().unwrap(), server.address(), Arc::<Mutex<Vec<u8>>>::default());
        let log = Arc::clone(&seen);
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let log = Arc::clone(&log);
                thread::spawn(move || relay(&client, behind, &log));
            }
        });
        Self { server, address, seen }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    fn seen(&self) -> String {
        String::from_utf8_lossy(&self.seen.lock().unwrap()).into_owned()
    }
}

fn relay(mut client: &TcpStream, to: SocketAddr, log: &Mutex<Vec<u8>>) {
    let Ok(server) = TcpStream::connect(to) else { return };
    thread::scope(|scope| {
        scope.spawn(|| {
            let _ = std::io::copy(&mut &server, &mut &*client);
            let _ = client.shutdown(Shutdown::Both);
        });
        let mut buf = [0; 4096];
        while let Ok(got @ 1..) = client.read(&mut buf) {
            log.lock().unwrap().extend(&buf[..got]);
            if (&server).write_all(&buf[..got]).is_err() {
                break;
            }
        }
        let _ = server.shutdown(Shutdown::Both);
    });
}

fn disk() -> Vec<u8> {
    let mut disk = vec![7; 5 << 20];
    disk[510..512].copy_from_slice(b"\x55\xaa");
    disk
}

/// A way to say who we are: options, and variables.
struct Way {
    name: &'static str,
    args: Vec<String>,
    variables: Vec<(&'static str, String)>,
    userinfo: bool,
}

fn ways(dir: &TempDir) -> Vec<Way> {
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        fs::write(&path, text).unwrap();
        path.into_os_string().into_string().unwrap()
    };
    let args = |name, args: &[&str]| Way {
        name,
        args: args.iter().map(|&arg| arg.to_owned()).collect(),
        variables: Vec::new(),
        userinfo: false,
    };
    let variable =
        |name, value: &str| Way { name, args: Vec::new(), variables: vec![(name, value.to_owned())], userinfo: false };
    let netrc = |name, text| {
        let option = format!("--netrc={}", file(name, text));
        args(name, &[&option])
    };
    vec![
        args("--user-file", &["--user-file", &file("user", "me:hunter2\n")]),
        args("--token-file", &["--token-file", &file("token", "hunter2\n")]),
        args("Authorization", &["--header-file", &file("authorization", "Authorization: Digest hunter2\n")]),
        args("headers and cookies", &["--header-file", &file("headers", "X-Key: hunter2\nCookie: a=hunter2\n")]),
        netrc("netrc, default", "default login me password hunter2\n"),
        netrc("netrc, machine", "machine localhost login me password hunter2\n"),
        variable("DISKFERRY_USER", "me:hunter2"),
        variable("DISKFERRY_TOKEN", "hunter2"),
        variable("DISKFERRY_HEADERS", "X-Key: hunter2\nCookie: a=hunter2"),
        Way { userinfo: true, ..args("the URL", &[]) },
    ]
}

/// A shape of redirects, from the near server to the far one.
struct Shape {
    name: String,
    /// What the near server has at `/a` and `/b`, and the far one at `/disk`.
    a: Answer,
    b: Answer,
    far: Vec<Answer>,
    command: &'static [&'static str],
}

fn shapes(near: &Recorder, far: &Recorder) -> Vec<Shape> {
    let (near_b, there) = (near.url("/b"), far.url("/disk"));
    let shape = |name: &str, a: Answer| Shape {
        name: name.to_owned(),
        a,
        b: Answer::right(),
        far: Vec::new(),
        command: &["convert"],
    };
    let to = |location: &str| Answer::redirect(302, location);
    let mut shapes: Vec<_> = [301, 302, 303, 307, 308]
        .map(|status| shape(&format!("{status} to another port"), Answer::redirect(status, &there)))
        .into();
    shapes.extend([
        shape("to another name of the host", to(&there.replace("127.0.0.1", "localhost"))),
        shape("without a scheme", to(there.trim_start_matches("http:"))),
        shape("with name and password", to(&there.replace("//", "//me:other@"))),
        shape("with the near host as a name", to(&there.replace("//", &format!("//{}@", near.address.ip())))),
        shape("with a query and a fragment", to(&format!("{there}?a=b#c"))),
        Shape { b: to(&there), ..shape("relative first", to("b")) },
        Shape { b: to(&there), ..shape("absolute to itself first", to(&near_b)) },
        Shape { far: vec![to(&near_b)], ..shape("away and home again", to(&there)) },
        Shape {
            far: vec![Answer::right().cut(1 << 20, End::Reset), Answer::right().cut(1 << 20, End::Close)],
            ..shape("broken off and gone on with", to(&there))
        },
        Shape { far: vec![Answer::status(401)], ..shape("to one that asks who we are", to(&there)) },
        Shape { command: &["convert", "--connections", "3"], ..shape("in parts", to(&there)) },
        Shape { command: &["info"], ..shape("looked at by ranges", to(&there)) },
    ]);
    shapes
}

#[test]
fn no_secret_goes_to_a_second_origin_over_any_shape_of_redirect() {
    let (dir, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut runs = 0;
    for way in ways(&dir) {
        let (near, far) = (Recorder::new(), Recorder::new());
        for Shape { name, a, b, far: answers, command } in shapes(&near, &far) {
            near.server.put("/a", File::new(disk()).gets_then([], a));
            near.server.put("/b", File::new(disk()).gets_then([], b));
            let is_denied = name == "to one that asks who we are";
            far.server.put("/disk", File::new(disk()).gets(answers));
            let target = out.path().join("disk.raw");
            // The near one has a name, by which netrc knows it.
            let mut url = near.url("/a").replace("127.0.0.1", "localhost");
            if way.userinfo {
                url = url.replace("//", "//me:hunter2@");
            }
            let mut job = diskferry::<0>([]);
            job.args(command).args(["--json", "--retries", "3"]).args(&way.args).arg(&url);
            if command[0] == "convert" {
                job.args(["--progress", "json"]).arg(&target);
            }
            for name in ["http_proxy", "https_proxy", "all_proxy", "no_proxy"] {
                job.env_remove(name).env_remove(name.to_uppercase());
            }
            let output = job.envs(way.variables.iter().map(|(name, value)| (name, value))).output().unwrap();
            let what = format!("{} with {name}", way.name);
            assert_eq!(output.status.success(), !is_denied, "{what}: {output:?}");
            let said = format!("{output:?}");
            assert!(!SECRETS.iter().any(|secret| said.contains(secret)), "{what}: {said}");
            let seen = far.seen();
            assert!(!SECRETS.iter().any(|secret| seen.contains(secret)), "{what}: {seen}");
            assert!(seen.contains("GET /disk"), "{what}: the far one was asked");
            assert!(SECRETS.iter().any(|secret| near.seen().contains(secret)), "{what}: the near one knows us");
            far.seen.lock().unwrap().clear();
            near.seen.lock().unwrap().clear();
            runs += 1;
        }
    }
    eprintln!("{runs} runs");
    assert_eq!(runs, 17 * 10);
}

#[test]
fn no_secret_leaves_tls() {
    let (dir, far, authority) = (tempfile::tempdir().unwrap(), Recorder::new(), Authority::new());
    let down = format!("location = /down {{ return 302 {}; }}", far.url("/disk"));
    let nginx = Nginx::new().tls(authority.server(&["localhost"])).setting(&down).start();
    let ca = dir.path().join("ca.pem");
    fs::write(&ca, authority.certificate()).unwrap();
    let url = nginx.url(diskferry_testkit::serve::nginx::Origin::Tls, "/down").replace("127.0.0.1", "localhost");
    for way in ways(&dir) {
        let url = if way.userinfo { url.replace("//", "//me:hunter2@") } else { url.clone() };
        let mut job = diskferry(["info", "--json", "--retries", "0", "--cacert"]);
        job.arg(&ca).args(&way.args).arg(&url).envs(way.variables.iter().map(|(name, value)| (name, value)));
        let output = job.env_remove("https_proxy").output().unwrap();
        assert_eq!(common::json(&output)["error"]["code"], "source-redirect", "{}", way.name);
        assert!(!SECRETS.iter().any(|secret| format!("{output:?}").contains(secret)), "{output:?}");
    }
    assert_eq!(far.seen(), "");
}

#[test]
fn the_login_of_a_proxy_is_for_the_proxy() {
    let (proxy, far) = (Recorder::new(), Recorder::new());
    let there = far.url("/disk").replace("127.0.0.1", "localhost");
    proxy.server.put("http://images.example/a", File::new(disk()).gets_then([], Answer::redirect(302, &there)));
    far.server.put("/disk", File::new(disk()).gets([Answer::right().cut(1 << 20, End::Reset)]));
    let mut job = diskferry(["info", "--json", "--full", "http://images.example/a"]);
    job.env("http_proxy", proxy.url("").replace("//", "//me:hunter2@")).env("no_proxy", "localhost");
    let output = job.output().unwrap();
    assert!(output.status.success() && !format!("{output:?}").contains("hunter2"), "{output:?}");
    assert!(proxy.seen().contains(SECRETS[1]), "{}", proxy.seen());
    let seen = far.seen();
    assert!(seen.contains("GET /disk") && !SECRETS.iter().any(|secret| seen.contains(secret)), "{seen}");
}

#[test]
fn a_helper_is_not_told_what_we_know() {
    let (home, server) = (tempfile::tempdir().unwrap(), Server::start());
    let path = |name: &str| home.path().join(name);
    fs::write(path("config.json"), r#"{"credsStore":"lab"}"#).unwrap();
    let script = format!(
        "#!/bin/sh\ntr '\\0' '\\n' </proc/self/environ >{0}\ntr '\\0' '\\n' </proc/$$/cmdline >>{0}\necho 'credentials not found'\nexit 1\n",
        path("told").display()
    );
    fs::write(path("docker-credential-lab"), script).unwrap();
    fs::set_permissions(path("docker-credential-lab"), fs::Permissions::from_mode(0o755)).unwrap();
    let challenge = format!("Bearer realm=\"{}\",service=\"lab\"", server.url("/token"));
    let locked = Answer::status(401).header("WWW-Authenticate", &challenge);
    server.put("/v2/a/manifests/1", File::new([]).gets_then([], locked));
    server.put("/token", File::new(br#"{"token":"t"}"#.to_vec()));
    let mut job = diskferry(["info", "--json", "--retries", "0", "--plain-http"]);
    job.arg(format!("docker://{}/a:1", server.address()));
    let known = format!("{}:{}", home.path().display(), std::env::var("PATH").unwrap());
    job.env("PATH", known).env("HOME", home.path()).env("DOCKER_CONFIG", home.path()).env("AWS_REGION", "for-helpers");
    for variable in ["XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "REGISTRY_AUTH_FILE", "http_proxy"] {
        job.env_remove(variable);
    }
    for ours in ["DISKFERRY_UPLOAD_TOKEN", "IMPORTER_DESTINATION_SECRET_KEY", "UPLOADER_DESTINATION_SECRET_KEY"] {
        job.env(ours, "hunter2");
    }
    let output = job.env("DISKFERRY_HEADERS", "X-Key: hunter2").output().unwrap();
    assert!(!output.status.success());
    let told = fs::read_to_string(path("told")).unwrap_or_else(|_| panic!("no helper was asked: {output:?}"));
    assert!(told.contains("AWS_REGION=for-helpers") && !told.contains("hunter2"), "{told}");
}

/// Where what was given shows while a job runs: it is where the user has put it.
fn own_places(way: &Way) -> BTreeSet<&'static str> {
    let arguments = way.userinfo.then_some("cmdline");
    arguments.into_iter().chain((!way.variables.is_empty()).then_some("environ")).collect()
}

#[test]
fn a_job_shows_no_secret_while_it_runs() {
    let (dir, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let target = out.path().join("disk.raw");
    for way in ways(&dir) {
        let near = Recorder::new();
        // Some 0.4 s in all.
        let slow = || Answer::right().trickle(64 << 10, Duration::from_millis(5));
        near.server.put("/good", File::new(disk()).gets_then([], slow()));
        // Lets us in at first, and then no more.
        near.server.put("/denied", File::new(disk()).gets_then([slow().cut(3 << 20, End::Reset)], Answer::status(401)));
        for (path, code) in [("/good", 0), ("/denied", 4)] {
            let mut url = near.url(path).replace("127.0.0.1", "localhost");
            if way.userinfo {
                url = url.replace("//", "//me:hunter2@");
            }
            let mut job = diskferry(["convert", "--json", "--progress", "json"]);
            job.args(&way.args).arg(&url).arg(&target);
            for name in ["http_proxy", "all_proxy"] {
                job.env_remove(name).env_remove(name.to_uppercase());
            }
            job.envs(way.variables.iter().map(|(name, value)| (name, value)));
            let Watched { output, looks, shown } = watch(job.spawn().unwrap(), &SECRETS);
            let what = format!("{} at {path}", way.name);
            assert_eq!(output.status.code(), Some(code), "{what}: {output:?}");
            assert!(looks > 3, "{what}: {looks} looks");
            assert_eq!(shown, own_places(&way), "{what}");
            let said = format!("{output:?}");
            assert!(!SECRETS.iter().any(|secret| said.contains(secret)), "{what}: {said}");
            assert!(SECRETS.iter().any(|secret| near.seen().contains(secret)), "{what}: it knows the secret");
        }
    }
}

#[test]
fn jobs_with_a_registry_show_no_secret_while_they_run() {
    use diskferry_testkit::serve::registry::{Registry, USER};

    // As it is typed into the file, and as it is sent.
    const OF_REGISTRY: [&str; 2] = [USER.1, "bWU6czNjcjN0"];
    let (dir, registry) = (tempfile::tempdir().unwrap(), Registry::default().locked().start());
    let path = |name: &str| dir.path().join(name).into_os_string().into_string().unwrap();
    let auths = |secret: &str| format!(r#"{{"auths":{{"{}":{{"auth":"{secret}"}}}}}}"#, registry.host());
    fs::write(path("auth.json"), auths(OF_REGISTRY[1])).unwrap();
    // s3cr3t's cousin, as it is sent.
    fs::write(path("wrong.json"), auths("bWU6czNjcjN0cw==")).unwrap();
    fs::write(path("disk.img"), [disk(), vec![9; 32 << 20]].concat()).unwrap();
    let image = format!("docker://{}/a:1", registry.host());
    for (args, authfile, code) in [
        (["push", &path("disk.img"), &image], "auth.json", 0),
        (["convert", &image, &path("disk.raw")], "auth.json", 0),
        (["convert", &image, &path("disk.raw")], "wrong.json", 4),
    ] {
        let mut job = diskferry([args[0], "--json", "--progress", "json", "--plain-http", "--authfile"]);
        job.arg(path(authfile)).args(&args[1..]);
        // Who is refused may be gone before anybody has looked: then it is tried again.
        let mut tries = (0..50).map(|_| watch(job.spawn().unwrap(), &OF_REGISTRY));
        let watched = tries.find(|watched| watched.looks > 0);
        let Watched { output, shown, .. } = watched.unwrap_or_else(|| panic!("{args:?}: nobody has looked"));
        assert_eq!(output.status.code(), Some(code), "{args:?}: {output:?}");
        assert!(shown.is_empty(), "{args:?}: {shown:?}");
        let said = format!("{output:?}");
        assert!(!OF_REGISTRY.iter().any(|secret| said.contains(secret)), "{args:?}: {said}");
    }
}
