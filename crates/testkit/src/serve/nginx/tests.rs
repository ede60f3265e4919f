use super::*;
use crate::random::Random;
use crate::serve::curl;
use crate::serve::tls::Authority;

fn disk() -> Vec<u8> {
    Random::new(1).bytes(100_000)
}

/// Starts it with a disk, and a list of digests that has a known text.
fn start(nginx: &Nginx) -> RunningNginx {
    let running = nginx.start();
    fs::write(running.root().join("disk.raw"), disk()).unwrap();
    fs::write(running.root().join("SHA256SUMS"), "0 *disk.raw\n".repeat(100)).unwrap();
    running
}

#[test]
fn files_and_ranges_are_served_and_logged() {
    let nginx = start(&Nginx::new());
    let url = nginx.url(Origin::Plain, "/disk.raw");
    assert!(curl(&[&url]).unwrap().body == disk());
    let part = curl(&["--range", "10-19", "--user-agent", "me", &url]).unwrap();
    assert_eq!((part.status, part.body), (206, disk()[10..20].to_vec()));
    let listing = curl(&[&nginx.url(Origin::Other, "/")]).unwrap();
    assert!(String::from_utf8(listing.body).unwrap().contains("SHA256SUMS"));
    let accesses = nginx.accesses(3);
    assert_eq!(accesses.len(), 3);
    let [whole, part, listing] = &accesses[..] else { panic!("{accesses:?}") };
    assert_eq!(
        (whole.method.as_str(), whole.path.as_str(), whole.status, whole.sent),
        ("GET", "/disk.raw", 200, 100_000)
    );
    assert_eq!((part.range.as_deref(), part.agent.as_deref(), part.sent), (Some("bytes=10-19"), Some("me"), 10));
    assert_eq!((listing.origin, whole.origin), (Origin::Other, Origin::Plain));
}

#[test]
fn without_ranges_a_range_gets_the_whole_file() {
    let nginx = start(&Nginx::new().without_ranges());
    let answer = curl(&["--range", "10-19", &nginx.url(Origin::Plain, "/disk.raw")]).unwrap();
    assert_eq!((answer.status, answer.body.len(), answer.header("accept-ranges")), (200, 100_000, None));
}

#[test]
fn gzip_makes_the_tag_weak_and_the_length_unknown() {
    let nginx = start(&Nginx::new().gzip());
    let url = nginx.url(Origin::Plain, "/SHA256SUMS");
    let packed = curl(&["--header", "Accept-Encoding: gzip", &url]).unwrap();
    assert_eq!((packed.header("content-encoding"), packed.header("content-length")), (Some("gzip"), None));
    assert!(packed.header("etag").unwrap().starts_with("W/"));
    assert_eq!(curl(&[&url]).unwrap().header("content-encoding"), None);
}

#[test]
fn a_rate_slows_a_connection_down() {
    let nginx = start(&Nginx::new().rate(100_000));
    let began = std::time::Instant::now();
    assert!(curl(&[&nginx.url(Origin::Plain, "/disk.raw")]).unwrap().body == disk());
    assert!(began.elapsed().as_millis() > 300, "{:?}", began.elapsed());
}

#[test]
fn certificates_are_accepted_or_refused_by_what_they_say() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let trusted = Scratch::new();
    let ca = |certificate: String| text(&trusted.write("ca.pem", certificate.as_bytes()));
    // 60 is curl's number for a certificate that it does not believe.
    let get = |identity: Identity, trust: String| {
        let nginx = start(&Nginx::new().tls(identity));
        curl(&["--cacert", &ca(trust), &nginx.url(Origin::Tls, "/disk.raw")]).map(|answer| answer.status)
    };
    let names = &["localhost", "127.0.0.1"];
    assert_eq!(get(authority.server(names), authority.certificate()), Ok(200));
    assert_eq!(get(authority.server(names), stranger.certificate()), Err(60));
    assert_eq!(get(authority.server(&["elsewhere.example"]), authority.certificate()), Err(60));
    assert_eq!(get(authority.expired_server(names), authority.certificate()), Err(60));
    let own = Identity::self_signed(names);
    assert_eq!(get(own.clone(), own.certificate), Ok(200));
}

#[test]
fn http2_is_spoken_with_tls() {
    let authority = Authority::new();
    let nginx = start(&Nginx::new().tls(authority.server(&["127.0.0.1"])).http2());
    let trusted = Scratch::new();
    let ca = text(&trusted.write("ca.pem", authority.certificate().as_bytes()));
    let answer = curl(&["--http2", "--cacert", &ca, &nginx.url(Origin::Tls, "/disk.raw")]).unwrap();
    assert!(answer.body == disk());
    assert_eq!(nginx.accesses(1)[0].protocol, "HTTP/2.0");
}

#[test]
fn only_known_clients_are_served() {
    let authority = Authority::new();
    let nginx = Nginx::new().tls(authority.server(&["127.0.0.1"])).client_authority(authority.certificate());
    let nginx = start(&nginx);
    let files = Scratch::new();
    let write = |name, pem: &str| text(&files.write(name, pem.as_bytes()));
    let (ca, url) = (write("ca.pem", &authority.certificate()), nginx.url(Origin::Tls, "/disk.raw"));
    assert_eq!(curl(&["--cacert", &ca, &url]).unwrap().status, 400);
    let client = authority.client("somebody");
    let (certificate, key) = (write("client.pem", &client.certificate), write("client.key", &client.key));
    let known = curl(&["--cacert", &ca, "--cert", &certificate, "--key", &key, &url]).unwrap();
    assert!(known.body == disk());
    assert_eq!(curl(&[&nginx.url(Origin::Plain, "/disk.raw")]).unwrap().status, 400);
}

#[test]
fn only_the_user_is_served() {
    let nginx = start(&Nginx::new().user("me", "a secret"));
    let url = nginx.url(Origin::Plain, "/disk.raw");
    let refused = curl(&[&url]).unwrap();
    assert_eq!((refused.status, refused.header("www-authenticate")), (401, Some("Basic realm=\"disks\"")));
    assert_eq!(curl(&["--user", "me:wrong", &url]).unwrap().status, 401);
    assert_eq!(curl(&["--user", "me:a secret", &url]).unwrap().status, 200);
    assert_eq!(nginx.accesses(3)[2].authorization.as_deref(), Some("Basic bWU6YSBzZWNyZXQ="));
}

#[test]
fn redirects_lead_to_every_origin_and_statuses_to_none() {
    let authority = Authority::new();
    let nginx = Nginx::new()
        .tls(authority.server(&["127.0.0.1"]))
        .redirect("/same", 301, Origin::Plain, "/disk.raw")
        .redirect("/other", 302, Origin::Other, "/disk.raw")
        .redirect("/down", 307, Origin::Plain, "/disk.raw")
        .redirect("/loop", 308, Origin::Plain, "/loop")
        .status("/broken", 503);
    let nginx = start(&nginx);
    let trusted = Scratch::new();
    let ca = text(&trusted.write("ca.pem", authority.certificate().as_bytes()));
    let follow = |origin, path| curl(&["--location", "--cacert", &ca, &nginx.url(origin, path)]);
    for (origin, path) in [(Origin::Plain, "/same"), (Origin::Plain, "/other"), (Origin::Tls, "/down")] {
        assert!(follow(origin, path).unwrap().body == disk(), "{path}");
    }
    let moved = curl(&[&nginx.url(Origin::Plain, "/other")]).unwrap();
    assert_eq!((moved.status, moved.header("location")), (302, Some(nginx.url(Origin::Other, "/disk.raw").as_str())));
    // 47 is curl's number for too many redirects.
    assert_eq!(follow(Origin::Plain, "/loop").unwrap_err(), 47);
    assert_eq!(follow(Origin::Plain, "/broken").unwrap().status, 503);
}

#[test]
fn it_listens_where_it_is_told_to_and_ends_with_its_value() {
    let nginx = start(&Nginx::new().address(std::net::Ipv6Addr::LOCALHOST));
    let (url, dir) = (nginx.url(Origin::Plain, "/disk.raw"), nginx.root());
    assert!(url.starts_with("http://[::1]:"), "{url}");
    assert_eq!(curl(&[&url]).unwrap().status, 200);
    drop(nginx);
    assert!(!dir.exists());
    // 7 is curl's number for a server that is not there.
    assert_eq!(curl(&[&url]).unwrap_err(), 7);
}

#[test]
#[should_panic(expected = "unknown directive \"no_such_thing\"")]
fn a_mistake_in_the_settings_is_told() {
    Nginx::new().setting("no_such_thing on;").start();
}
