//! Whom we believe, who we say we are and to whom, and where requests go: against nginx, squid and servers that lead astray.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod common;

use std::fs;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::PathBuf;
use std::thread;

use common::Fetcher;
use diskferry::Error;
use diskferry_remote::{Access, Guard, Identity, Login, Netrc, Proxies, Trust};
use diskferry_testkit::serve::fault::{Answer, End, File, Request, Server};
use diskferry_testkit::serve::nginx::{Nginx, Origin, RunningNginx};
use diskferry_testkit::serve::squid::Squid;
use diskferry_testkit::serve::tls::{self, Authority};
use tempfile::TempDir;

const DISK: &[u8] = &[7; 100_000];
const SECRET: &str = "hunter2";

/// Fetches, and makes sure that no error shows what is secret.
fn fetch(access: &Access, url: &str) -> Result<Vec<u8>, Error> {
    let mut fetcher = Fetcher::with(access);
    // nginx may be slow on a machine that does other things too.
    fetcher.how.patience.stall = std::time::Duration::from_secs(10);
    fetcher.how.patience.retries = 1;
    let fetched = fetcher.fetch(url);
    if let Err(error) = &fetched {
        assert!(!error.to_string().contains(SECRET) && !format!("{error:?}").contains(SECRET), "{error:?}");
    }
    fetched
}

/// The code of the error, and its text.
fn refusal(access: &Access, url: &str) -> (String, String) {
    let error = fetch(access, url).map(|bytes| bytes.len()).unwrap_err();
    (error.code(), error.to_string())
}

#[track_caller]
fn assert_refused(access: &Access, url: &str, code: &str, text: &str) {
    let (found, message) = refusal(access, url);
    assert!(found == code && message.contains(text), "{found}: {message}");
}

/// A folder for files that options name.
struct Files(TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn put(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.path().join(name);
        fs::write(&path, text).unwrap();
        path
    }

    fn trusting(&self, certificate: &str) -> Access {
        let ca = vec![self.put("ca.pem", certificate)];
        Access { trust: Trust { ca, ..Trust::default() }, ..Access::default() }
    }
}

fn serving(nginx: &Nginx) -> RunningNginx {
    let nginx = nginx.start();
    fs::write(nginx.root().join("disk"), DISK).unwrap();
    nginx
}

fn basic(password: &str) -> Access {
    Access { login: Some(Login::basic(&format!("me:{password}")).unwrap()), ..Access::default() }
}

fn proxies(variables: &[(&str, &str)]) -> Access {
    let find = |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
    Access { proxies: Proxies::from_variables(find).unwrap(), ..Access::default() }
}

#[test]
fn a_private_authority_is_believed_when_it_is_named() {
    let (authority, files) = (Authority::new(), Files::new());
    let nginx = serving(&Nginx::new().tls(authority.server(&["127.0.0.1"])));
    let url = nginx.url(Origin::Tls, "/disk");
    assert_refused(&Access::default(), &url, "source-tls", "--cacert");
    let mut access = files.trusting(&authority.certificate());
    assert_eq!(fetch(&access, &url).unwrap(), DISK);
    files.put("README", "other things may lie here");
    access.trust.ca = vec![files.0.path().to_owned()];
    assert_eq!(fetch(&access, &url).unwrap(), DISK);
    assert_refused(&files.trusting(&Authority::new().certificate()), &url, "source-tls", "127.0.0.1");
}

#[test]
fn certificates_that_are_wrong_are_refused_by_name_of_what_is_wrong() {
    let (authority, files) = (Authority::new(), Files::new());
    let own = tls::Identity::self_signed(&["127.0.0.1"]);
    let insecure = Access { trust: Trust { insecure: true, ..Trust::default() }, ..Access::default() };
    for (server, believed, text) in [
        (authority.expired_server(&["127.0.0.1"]), authority.certificate(), "has expired"),
        (authority.server(&["host.example"]), authority.certificate(), "for another name"),
        (own.clone(), own.certificate, "CA:TRUE"),
    ] {
        let nginx = serving(&Nginx::new().tls(server));
        let url = nginx.url(Origin::Tls, "/disk");
        assert_refused(&files.trusting(&believed), &url, "source-tls", text);
        assert_eq!(fetch(&insecure, &url).unwrap(), DISK);
    }
    let nginx = serving(&Nginx::new());
    let plain = nginx.url(Origin::Plain, "/disk").replace("http:", "https:");
    assert_refused(&Access::default(), &plain, "source-tls", "does not speak TLS");
}

#[test]
fn a_client_certificate_is_shown_to_the_server_that_was_named_and_to_no_other() {
    let (authority, files) = (Authority::new(), Files::new());
    let (server, client) = (authority.server(&["127.0.0.1"]), authority.client("me"));
    let wants = Nginx::new().tls(server).client_authority(authority.certificate());
    let nginx = serving(&wants);
    let away = format!("location = /away {{ return 302 {}; }}", nginx.url(Origin::Tls, "/disk"));
    let other = serving(&wants.setting(&away));
    let mut access = files.trusting(&authority.certificate());
    let url = nginx.url(Origin::Tls, "/disk");
    assert_refused(&access, &url, "source-http-status", "400");
    let cert = files.put("client.pem", &format!("{}{}", client.certificate, client.key));
    access.trust.identity = Some(Identity { cert: cert.clone(), key: cert });
    assert_eq!(fetch(&access, &url).unwrap(), DISK);
    assert_eq!(fetch(&access, &other.url(Origin::Tls, "/disk")).unwrap(), DISK);
    assert_refused(&access, &other.url(Origin::Tls, "/away"), "source-http-status", "400");
}

#[test]
fn a_login_comes_from_an_option_the_url_or_netrc() {
    let (nginx, files) = (serving(&Nginx::new().user("me", "a p@ss")), Files::new());
    let url = nginx.url(Origin::Plain, "/disk");
    let with = |userinfo: &str| url.replace("http://", &format!("http://{userinfo}@"));
    let netrc = |text: &str| Access { netrc: Netrc::read(&files.put("netrc", text)).unwrap(), ..Access::default() };
    assert_eq!(refusal(&Access::default(), &url).0, "source-denied");
    assert_eq!(refusal(&basic(SECRET), &url).0, "source-denied");
    assert_eq!(refusal(&Access::default(), &with("me:hunter2")).0, "source-denied");
    for (access, url) in [
        (basic("a p@ss"), url.clone()),
        (basic("a p@ss"), with("me:hunter2")),
        (Access::default(), with("me:a%20p%40ss")),
        (netrc("machine 127.0.0.1 login me password \"a p@ss\""), url.clone()),
        (netrc("default login me password \"a p@ss\""), url.clone()),
        (netrc("default login me password hunter2"), with("me:a%20p%40ss")),
    ] {
        assert_eq!(fetch(&access, &url).unwrap(), DISK, "{access:?}");
    }
}

#[test]
fn tokens_and_headers_are_sent() {
    let server = Server::start();
    server.put("/disk", File::new(DISK));
    let mut access = Access {
        login: Some(Login::bearer("abc.def\n").unwrap()),
        headers: "X-Mirror: 2\nX-Mirror: 3".parse().unwrap(),
        ..Access::default()
    };
    fetch(&access, &server.url("/disk")).unwrap();
    access.headers = "Authorization: Digest x".parse().unwrap();
    fetch(&access, &server.url("/disk")).unwrap();
    let requests = server.requests();
    assert_eq!(requests[0].header("authorization"), Some("Bearer abc.def"));
    assert_eq!(requests[0].header("x-mirror"), Some("2"));
    assert_eq!(requests[1].header("authorization"), Some("Digest x"));
    assert!(requests[0].header("user-agent").is_some_and(|agent| agent.starts_with("diskferry/")));
}

/// Everything that is secret, in every way that it can be given.
fn full_of_secrets(files: &Files) -> Vec<Access> {
    let headers = || "X-Key: hunter2\nCookie: a=hunter2".parse().unwrap();
    let netrc = Netrc::read(&files.put("netrc", "default login me password hunter2")).unwrap();
    vec![
        Access { login: Some(Login::basic("me:hunter2").unwrap()), headers: headers(), ..Access::default() },
        Access { login: Some(Login::bearer("hunter2").unwrap()), ..Access::default() },
        Access { headers: "Authorization: hunter2".parse().unwrap(), ..Access::default() },
        Access { netrc, headers: headers(), ..Access::default() },
    ]
}

/// What a request says of its sender.
fn credentials(request: &Request) -> Vec<&str> {
    ["authorization", "cookie", "x-key", "proxy-authorization", "referer"]
        .into_iter()
        .filter(|name| request.header(name).is_some())
        .collect()
}

#[test]
fn credentials_do_not_follow_a_redirect_to_another_origin() {
    let (files, far) = (Files::new(), Server::start());
    let elsewhere = far.url("/disk?for=you");
    let locations =
        [elsewhere.clone(), elsewhere.trim_start_matches("http:").to_owned(), elsewhere.replace("//", "//u:p@")];
    for access in full_of_secrets(&files) {
        for status in [301, 302, 303, 307, 308] {
            for location in &locations {
                let near = Server::start();
                near.put("/a", File::new(DISK).gets_then([], Answer::redirect(status, "b?c")));
                near.put("/b?c", File::new(DISK).gets_then([], Answer::redirect(status, location)));
                // The far server breaks off, and is asked again for the rest without a way over the near one.
                far.put("/disk?for=you", File::new(DISK).gets([Answer::right().cut(40_000, End::Close)]));
                let (seen, url) = (far.requests().len(), near.url("/a").replace("//", "//me:hunter2@"));
                assert_eq!(fetch(&access, &url).unwrap(), DISK);
                let (near, far) = (near.requests(), far.requests());
                assert!(near.iter().all(|request| request.header("authorization").is_some()), "{near:?}");
                let far = &far[seen..];
                assert_eq!(far.len(), 2, "{far:?}");
                for request in far {
                    assert!(credentials(request).is_empty(), "{access:?} {request:?}");
                    assert!(!format!("{request:?}").contains(SECRET), "{request:?}");
                }
                assert!(far[1].header("range").is_some() && far[1].header("if-range").is_some(), "{far:?}");
            }
        }
    }
}

#[test]
fn netrc_knows_the_host_that_a_redirect_leads_to() {
    let (files, far, near) = (Files::new(), Server::start(), Server::start());
    let named = far.url("/disk").replace("127.0.0.1", "localhost");
    near.put("/a", File::new(DISK).gets([Answer::redirect(302, &named)]));
    far.put("/disk", File::new(DISK));
    let text = "machine localhost login you password p\ndefault login me password hunter2";
    let netrc = Netrc::read(&files.put("netrc", text)).unwrap();
    fetch(&Access { netrc, ..Access::default() }, &near.url("/a")).unwrap();
    assert_eq!(far.requests()[0].header("authorization"), Some("Basic eW91OnA="));
}

#[test]
fn redirects_end() {
    let server = Server::start();
    for step in 0..12 {
        server
            .put(&format!("/{step}"), File::new(DISK).gets_then([], Answer::redirect(302, &format!("/{}", step + 1))));
    }
    server.put("/12", File::new(DISK));
    assert_eq!(fetch(&Access::default(), &server.url("/2")).unwrap(), DISK);
    assert_refused(&Access::default(), &server.url("/1"), "source-redirect", "redirect 11 leads, 10 are followed");
    let following = |redirects| Access { guard: Guard { redirects, ..Guard::default() }, ..Access::default() };
    assert_eq!(fetch(&following(12), &server.url("/0")).unwrap(), DISK);
    assert_refused(
        &following(11),
        &server.url("/0"),
        "source-redirect",
        "redirect 12 leads, 11 are followed (--max-redirects)",
    );
    assert_eq!(fetch(&following(0), &server.url("/12")).unwrap(), DISK);
    assert_refused(
        &following(0),
        &server.url("/11"),
        "source-redirect",
        "redirect 1 leads, 0 are followed (--max-redirects)",
    );
    server.put("/circle", File::new(DISK).gets_then([], Answer::redirect(302, "/circle")));
    assert_refused(&Access::default(), &server.url("/circle"), "source-redirect", "circle");
    for (location, text) in [
        ("ftp://host/disk", "ftp:"),
        ("file:///etc/passwd", "file:"),
        ("http://", "without saying where"),
        ("http://me:hunter2@ho st/", "without saying where"),
    ] {
        server.put("/away", File::new(DISK).gets_then([], Answer::redirect(302, location)));
        assert_refused(&Access::default(), &server.url("/away"), "source-redirect", text);
    }
    server.put("/nowhere", File::new(DISK).gets_then([], Answer::status(302)));
    assert_refused(&Access::default(), &server.url("/nowhere"), "source-redirect", "without saying where");
}

#[test]
fn https_does_not_fall_to_http() {
    let (authority, files) = (Authority::new(), Files::new());
    let nginx = Nginx::new().tls(authority.server(&["127.0.0.1"]));
    let nginx = nginx.redirect("/down", 302, Origin::Plain, "/disk").redirect("/up", 302, Origin::Tls, "/disk");
    let nginx = serving(&nginx);
    let access = files.trusting(&authority.certificate());
    assert_refused(&access, &nginx.url(Origin::Tls, "/down"), "source-redirect", "from https to http");
    assert_eq!(fetch(&access, &nginx.url(Origin::Plain, "/up")).unwrap(), DISK);
}

#[test]
fn a_proxy_with_a_password_is_passed_by_http_and_by_connect() {
    let (authority, files) = (Authority::new(), Files::new());
    let nginx = serving(&Nginx::new().tls(authority.server(&["127.0.0.1"])));
    let squid = Squid::new().user("me", "a p@ss").start();
    let through = |credentials| {
        let proxies = proxies(&[("all_proxy", &squid.url(credentials))]).proxies;
        Access { proxies, ..files.trusting(&authority.certificate()) }
    };
    for origin in [Origin::Plain, Origin::Tls] {
        let url = nginx.url(origin, "/disk");
        assert_eq!(fetch(&through(Some(("me", "a%20p%40ss"))), &url).unwrap(), DISK);
        assert_refused(&through(Some(("me", SECRET))), &url, "source-proxy", "wants another name and password");
        assert_refused(&through(None), &url, "source-proxy", "wants another name and password");
    }
    let passed: Vec<_> = squid.passages(6).into_iter().filter(|passage| passage.status == 200).collect();
    assert_eq!(passed.iter().map(|passage| passage.method.as_str()).collect::<Vec<_>>(), ["GET", "CONNECT"]);
}

#[test]
fn a_proxy_is_left_out_where_no_proxy_says_so_and_is_not_when_it_is_dead() {
    let nginx = serving(&Nginx::new());
    let url = nginx.url(Origin::Plain, "/disk");
    let dead = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let dead = format!("http://me:hunter2@{dead}");
    assert_refused(&proxies(&[("http_proxy", &dead)]), &url, "source-unreachable", "through the proxy");
    assert_eq!(fetch(&proxies(&[("http_proxy", &dead), ("no_proxy", "127.0.0.0/8")]), &url).unwrap(), DISK);
    assert_eq!(fetch(&proxies(&[("https_proxy", &dead)]), &url).unwrap(), DISK);
}

#[test]
fn a_socks_proxy_is_told_the_name_or_the_address() {
    let nginx = serving(&Nginx::new());
    let url = nginx.url(Origin::Plain, "/disk");
    let named = url.replace("127.0.0.1", "localhost");
    for (scheme, url, told) in
        [("socks5", &url, "127.0.0.1"), ("socks5h", &url, "127.0.0.1"), ("socks5h", &named, "localhost")]
    {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let proxy = format!("{scheme}://me:p%40ss@{}", listener.local_addr().unwrap());
        let proxy = proxies(&[("all_proxy", &proxy)]);
        let socks = thread::spawn(move || socks(&listener).unwrap());
        assert_eq!(fetch(&proxy, url).unwrap(), DISK);
        assert_eq!(socks.join().unwrap(), (told.to_owned(), "me:p@ss".to_owned()));
    }
}

/// Serves one connection as RFC 1928 and RFC 1929 have it. Gives the host that was asked for, and who asked.
fn socks(listener: &TcpListener) -> io::Result<(String, String)> {
    let (mut client, _) = listener.accept()?;
    let methods = counted(&mut client, 1)?;
    assert!(methods.contains(&2));
    client.write_all(&[5, 2])?;
    let user = counted(&mut client, 1)?;
    let password = counted(&mut client, 0)?;
    client.write_all(&[1, 0])?;
    let mut head = [0; 4];
    client.read_exact(&mut head)?;
    let host = match head[3] {
        1 => {
            let mut address = [0; 4];
            client.read_exact(&mut address)?;
            std::net::Ipv4Addr::from(address).to_string()
        }
        _ => String::from_utf8(counted(&mut client, 0)?).unwrap(),
    };
    let mut port = [0; 2];
    client.read_exact(&mut port)?;
    let server = TcpStream::connect((host.as_str(), u16::from_be_bytes(port)))?;
    client.write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0])?;
    let (mut up, mut to) = (client.try_clone()?, server.try_clone()?);
    let there = thread::spawn(move || {
        let _ = io::copy(&mut up, &mut to);
        let _ = to.shutdown(Shutdown::Both);
    });
    let _ = io::copy(&mut &server, &mut &client);
    let _ = client.shutdown(Shutdown::Both);
    there.join().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Ok((host, format!("{}:{}", text(user), text(password))))
}

/// Bytes behind so many others and a count.
fn counted(stream: &mut TcpStream, skip: usize) -> io::Result<Vec<u8>> {
    let mut head = vec![0; skip + 1];
    stream.read_exact(&mut head)?;
    let mut bytes = vec![0; usize::from(head[skip])];
    stream.read_exact(&mut bytes)?;
    Ok(bytes)
}

#[test]
fn nothing_private_is_connected_to_where_that_is_denied() {
    let server = Server::start();
    server.put("/disk", File::new(DISK));
    let mut access = Access::default();
    access.guard.deny_private = true;
    let port = server.address().port();
    for host in ["127.0.0.1", "0x7f.1", "2130706433", "localhost", "[::ffff:127.0.0.1]"] {
        assert_refused(&access, &format!("http://{host}:{port}/disk"), "source-forbidden-host", "--deny-private");
    }
    assert_eq!(server.connections(), 0);
    access.proxies = proxies(&[("all_proxy", &server.url(""))]).proxies;
    assert_refused(&access, "http://images.example/disk", "source-forbidden-host", "resolved by the proxy");
    assert_eq!(server.connections(), 0);
}

#[test]
fn a_redirect_leads_to_no_host_that_is_not_allowed() {
    let (near, far) = (Server::start(), Server::start());
    near.put("/a", File::new(DISK).gets([Answer::redirect(302, &far.url("/disk"))]));
    near.put("/b", File::new(DISK));
    let allow_hosts = Some(vec![format!("127.0.0.1:{}", near.address().port()).parse().unwrap()]);
    let access = Access { guard: Guard { allow_hosts, ..Guard::default() }, ..Access::default() };
    assert_eq!(fetch(&access, &near.url("/b")).unwrap(), DISK);
    assert_refused(&access, &near.url("/a"), "source-forbidden-host", "--allow-hosts");
    assert_eq!(far.connections(), 0);
}

#[test]
fn errors_show_neither_password_nor_query() {
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let url = format!("http://me:hunter2@{nobody}/disk?X-Amz-Signature=hunter2");
    assert_refused(&Access::default(), &url, "source-unreachable", &format!("{nobody} cannot be reached"));
    let server = Server::start();
    for (path, answer) in [
        ("/garbage", Answer::raw(*b"\0\x01\x02\r\n\r\n")),
        ("/endless", Answer::endless_head()),
        ("/missing", Answer::status(404)),
        ("/denied", Answer::status(403)),
        ("/busy", Answer::status(503).header("Retry-After", "0")),
        ("/nothing", Answer::nothing(End::Reset)),
    ] {
        let file = format!("{path}?sig=hunter2");
        server.put(&file, File::new(DISK).gets_then([], answer));
        let url = server.url(&file).replace("//", "//me:hunter2@");
        assert!(refusal(&Access::default(), &url).0.starts_with("source-"));
    }
}
