//! Looking at all images of a store, and tidying it: a real registry, layouts of real tools, and a registry that fails by a script.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod common;

use std::process::{Command, Output};
use std::sync::Arc;

use common::{assert_fails, diskferry, json, run, run_with_pipe, stdout};
use diskferry_testkit::container::{Blob, Layout};
use diskferry_testkit::serve::fault::{Answer, File, Server};
use diskferry_testkit::serve::registry::Registry;
use serde_json::{Value, json};
use tempfile::TempDir;

struct Lab {
    dir: TempDir,
    layout: Layout,
}

const LABELS: &str = r#""source-image-format":"iso","source-image-size":"7","source-image-virtual-size":"4194304""#;

impl Lab {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(&dir.path().join("layout"));
        Self { dir, layout }
    }

    /// The layout with every image, as a store.
    fn store(&self) -> String {
        format!("oci:{}", self.dir.path().join("layout").display())
    }

    /// Has skopeo push the image `name` to a registry without TLS.
    #[track_caller]
    fn push(&self, name: &str, to: &str) {
        let from = format!("{}:{name}", self.store());
        tool("skopeo", &["copy", "--all", "--insecure-policy", "--dest-tls-verify=false", &from, to]);
    }
}

#[track_caller]
fn tool(program: &str, args: &[&str]) {
    let output = Command::new(program).args(args).output().unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(output.status.success(), "{program} {args:?}: {output:?}");
}

/// Runs with the options that registries of tests need.
fn at<const N: usize>(args: [&str; N]) -> Output {
    diskferry(args).args(["--plain-http", "--retries", "1"]).env("HOME", "/nonexistent").output().unwrap()
}

/// Fails unless docs/json.md has a line for every key of `object` among the results about stores.
#[track_caller]
fn documented(object: &Value) {
    let docs = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/json.md");
    let text = std::fs::read_to_string(docs).unwrap();
    let about = text.split("\n## Stores of images\n").nth(1).unwrap();
    let missing: Vec<_> =
        object.as_object().unwrap().keys().filter(|key| !about.contains(&format!("\n| `{key}` |"))).collect();
    assert!(missing.is_empty(), "docs/json.md does not have {missing:?}");
}

/// Names in a result of `list`.
fn listed(output: &Output) -> Vec<String> {
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let images = json(output)["images"].as_array().unwrap().clone();
    images.iter().map(|image| image["name"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn images_of_a_layout_are_listed_without_their_layers() {
    let mut lab = Lab::new();
    let one = lab.layout.image(&[("disk/a", b"first")], LABELS);
    let other = lab.layout.image(&[("disk/a", b"second")], "");
    lab.layout.name(&one, "v1");
    lab.layout.name(&one, "team/v1:latest");
    let index = lab.layout.index(std::slice::from_ref(&other));
    lab.layout.name(&index, "all");
    lab.layout.name(&other, "lost");
    let store = lab.store();
    // Layers are not looked at.
    for layer in [b"first".as_slice(), b"second"] {
        std::fs::remove_file(lab.layout.path(&diskferry_testkit::container::digest(&archive(layer)))).unwrap();
    }
    let output = run(["list", "--json", &store]);
    assert_eq!(listed(&output), ["v1", "team/v1:latest", "all", "lost"]);
    let found = json(&output);
    let expected = json!({
        "name": "v1", "repository": null, "tag": "v1", "digest": one.digest, "format": "iso", "stored-size": 7,
        "unpacked-size": 4_194_304, "cdrom": true, "created": null, "layers-size": 2048,
    });
    documented(&found);
    documented(&found["images"][0]);
    assert_eq!((&found["images"][0], &found["store"]), (&expected, &Value::from(store.as_str())));
    assert_eq!(found["images"][2]["format"], Value::Null, "nobody has said");
    assert_eq!(found["images"][2]["layers-size"], 2048);

    std::fs::remove_file(lab.layout.path(&other.digest)).unwrap();
    let output = run(["list", "--json", &store]);
    assert_eq!(listed(&output).len(), 4);
    assert_eq!(json(&output)["images"][3]["error"]["code"], "source-read");
    assert_eq!(json(&output)["images"][3]["digest"], Value::from(other.digest.as_str()));
    let table = run(["list", &store]);
    let lines: Vec<_> = stdout(&table).lines().collect();
    assert_eq!(
        lines[0].split_whitespace().collect::<Vec<_>>(),
        ["NAME", "FORMAT", "STORED", "UNPACKED", "CDROM", "CREATED", "DIGEST"]
    );
    assert!(
        lines[1].starts_with("v1 ")
            && lines[1].split_whitespace().collect::<Vec<_>>()[1..7] == ["iso", "7", "B", "4", "MiB", "yes"],
        "{lines:?}"
    );
}

fn archive(data: &[u8]) -> Vec<u8> {
    diskferry_testkit::container::tar(&[("disk/a", data)])
}

#[test]
fn images_of_a_registry_are_listed_below_a_prefix() {
    let mut lab = Lab::new();
    let image = lab.layout.image(&[("disk/a", b"first")], LABELS);
    lab.layout.name(&image, "v1");
    let registry = Registry::default().start();
    let host = registry.host();
    for name in ["vi/team/a:1", "vi/team/a:2", "vi/teams/b:1", "cvi/c:1"] {
        lab.push("v1", &format!("docker://{host}/{name}"));
    }
    let output = at(["list", "--json", &format!("docker://{host}")]);
    assert_eq!(listed(&output), ["cvi/c:1", "vi/team/a:1", "vi/team/a:2", "vi/teams/b:1"]);
    assert_eq!(json(&output)["images"][0]["unpacked-size"], 4_194_304);
    let below = |prefix: &str| listed(&at(["list", "--json", &format!("docker://{host}/{prefix}")]));
    assert_eq!(below("vi/team"), ["vi/team/a:1", "vi/team/a:2"]);
    assert_eq!(below("vi/team/a"), ["vi/team/a:1", "vi/team/a:2"]);
    let nowhere = at(["list", "--json", &format!("docker://{host}/nowhere")]);
    assert_eq!(code(&nowhere, 4), "source-not-found");
    let said = json(&nowhere)["error"]["message"].to_string();
    assert!(said.contains("has no repository nowhere with an image, and none below it"), "{said}");
    assert_fails(&run(["list", "--retries", "0", &format!("docker://{host}")]), 4);
}

fn page(names: &str, next: Option<&str>) -> File {
    let right = Answer::right();
    let answer = match next {
        Some(next) => right.header("Link", &format!("<{next}>; rel=\"next\"")),
        None => right,
    };
    File::new(names.as_bytes().to_vec()).gets_then([], answer)
}

#[test]
fn pages_of_names_are_followed_and_bounded() {
    let server = Server::start();
    let store = format!("docker://{}", server.address());
    let first = "/v2/_catalog?n=1000";
    let second = "/v2/_catalog?last=b&n=2";
    let outcome = || at(["list", "--json", &store]);
    for repository in ["a", "b", "c"] {
        server.put(&format!("/v2/{repository}/tags/list?n=1000"), page(r#"{"tags":null}"#, None));
    }
    server.put("/v2/c/tags/list?n=1000", page(r#"{"name":"c","tags":["1"]}"#, Some("/v2/c/tags/list?last=1")));
    server.put("/v2/c/tags/list?last=1", page(r#"{"name":"c","tags":["2"]}"#, None));
    server.put(first, page(r#"{"repositories":["a","b"]}"#, Some(second)));
    server.put(second, page(r#"{"repositories":["c"]}"#, None));
    // Tags without manifests are lost images.
    assert_eq!(listed(&outcome()), ["c:1", "c:2"]);
    assert_eq!(json(&outcome())["images"][1]["error"]["code"], "source-not-found");

    let code = |next: &str| {
        server.put(second, page(r#"{"repositories":["c"]}"#, Some(next)));
        let output = outcome();
        assert_fails(&output, 4);
        json(&output)["error"]["code"].clone()
    };
    assert_eq!(code(second), "source-paging", "in a circle");
    assert_eq!(code("http://127.0.0.1:1/v2/_catalog"), "source-paging", "elsewhere");
    assert_eq!(code("/v2/a/tags/list"), "source-paging", "elsewhere");
    assert_eq!(code("http://["), "source-paging", "nowhere");
    server.put(second, page("<html>", None));
    let output = outcome();
    assert_fails(&output, 3);
    assert_eq!(json(&output)["error"]["code"], "oci-document");
    server.put(second, page(r#"{"repositories":["../../x","a:b","A"]}"#, None));
    assert_fails(&outcome(), 4);
}

#[test]
fn a_list_of_a_registry_may_have_ten_thousand_pages_and_a_mebi_of_names() {
    // Only the last page has no next one; of its names, all are the same.
    let outcome = |pages: usize, names: usize| {
        let server = Server::start();
        server.put("/v2/a/tags/list?n=1000", page(r#"{"tags":null}"#, None));
        let at_page = |number: usize| match number {
            1 => "/v2/_catalog?n=1000".to_owned(),
            _ => format!("/v2/_catalog?last={number}&n=1000"),
        };
        for number in 1..pages {
            server.put(&at_page(number), page(r#"{"repositories":[]}"#, Some(&at_page(number + 1))));
        }
        let last = format!(r#"{{"repositories":[{}]}}"#, vec![r#""a""#; names / 2].join(","));
        server.put(&at_page(pages), page(&last, Some(&at_page(pages + 1))));
        let last = format!(r#"{{"repositories":[{}]}}"#, vec![r#""a""#; names.div_ceil(2)].join(","));
        server.put(&at_page(pages + 1), page(&last, None));
        let output = at(["list", "--json", &format!("docker://{}", server.address())]);
        json(&output)["error"]["code"].as_str().unwrap_or("listed").to_owned()
    };
    for (pages, names, ends) in [
        (9_999, 1, "listed"),
        (10_000, 1, "source-paging"),
        (1, 1 << 20, "listed"),
        (1, (1 << 20) + 1, "source-paging"),
    ] {
        assert_eq!(outcome(pages, names), ends, "{pages} pages and one, {names} names");
    }
}

#[test]
fn names_of_a_registry_may_have_64_mib_together() {
    const NAME: usize = 4_000_000;
    let server = Server::start();
    let at_page = |number: usize| format!("/v2/_catalog?last={number}&n=1000");
    let names: Arc<[u8]> = format!(r#"{{"repositories":["{}"]}}"#, "a".repeat(NAME)).into_bytes().into();
    for number in 0..20 {
        let link = format!("<{}>; rel=\"next\"", at_page(number + 1));
        let path = if number == 0 { "/v2/_catalog?n=1000".into() } else { at_page(number) };
        server.put(&path, File::new(Arc::clone(&names)).gets_then([], Answer::right().header("Link", &link)));
    }
    let output = at(["list", "--json", &format!("docker://{}", server.address())]);
    assert_fails(&output, 4);
    assert_eq!(json(&output)["error"]["code"], "source-paging", "{output:?}");
    assert_eq!(server.requests().len(), (64 << 20) / NAME + 1);
}

#[test]
fn what_leads_to_the_next_page_may_have_4_kib() {
    let server = Server::start();
    server.put("/v2/a/tags/list?n=1000", page(r#"{"tags":null}"#, None));
    for (len, is_followed) in [(4 << 10, true), ((4 << 10) + 1, false)] {
        let next = "/v2/_catalog?last=";
        let next = format!("{next}{}", "x".repeat(len - next.len()));
        server.put("/v2/_catalog?n=1000", page(r#"{"repositories":[]}"#, Some(&next)));
        server.put(&next, page(r#"{"repositories":["a"]}"#, None));
        let output = at(["list", "--json", &format!("docker://{}", server.address())]);
        if is_followed {
            assert_eq!(output.status.code(), Some(0), "{output:?}");
            assert_eq!(server.requests()[1].path, next);
            continue;
        }
        assert_fails(&output, 4);
        let error = &json(&output)["error"];
        assert_eq!(error["code"], "source-paging", "{output:?}");
        let said = error["message"].as_str().unwrap();
        assert!(said.ends_with("names a next page by 4097 bytes, 4096 are allowed"), "{said}");
    }
}

#[test]
fn a_registry_without_a_catalogue_says_so_and_a_repository_can_be_named() {
    let server = Server::start();
    let store = format!("docker://{}", server.address());
    let output = at(["list", "--json", &store]);
    assert_fails(&output, 4);
    assert_eq!(json(&output)["error"]["code"], "source-no-catalogue");
    server.put("/v2/_catalog?n=1000", File::new(Vec::new()).gets_then([], Answer::status(401)));
    let output = at(["list", "--json", &store]);
    assert_eq!(json(&output)["error"]["code"], "source-denied");
    assert!(json(&output)["error"]["message"].as_str().unwrap().contains("catalogue"), "{output:?}");
    server.put("/v2/team/a/tags/list?n=1000", page(r#"{"tags":["1"]}"#, None));
    assert_eq!(listed(&at(["list", "--json", &format!("{store}/team/a")])), ["team/a:1"]);
    let nowhere = at(["list", "--json", &format!("{store}/team")]);
    assert_eq!(code(&nowhere, 4), "source-not-found");
    assert!(json(&nowhere)["error"]["message"].to_string().contains("and no catalogue of those below it"));
}

/// Codes of the findings of `verify`, by image.
fn findings(output: &Output) -> Vec<(String, Vec<String>)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let found = json(output);
    let images = found["images"].as_array().unwrap_or_else(|| panic!("{output:?}"));
    images
        .iter()
        .map(|image| {
            documented(image);
            let codes = image["findings"].as_array().unwrap().iter().map(|finding| text(&finding["code"]));
            (text(&image["name"]), codes.collect())
        })
        .collect()
}

#[test]
fn lost_and_damaged_images_of_a_layout_are_named() {
    let mut lab = Lab::new();
    let one = lab.layout.image(&[("disk/a", b"first")], LABELS);
    let other = lab.layout.image(&[("disk/a", b"second")], "");
    let index = lab.layout.index(&[one.clone(), other.clone()]);
    lab.layout.name(&one, "one");
    lab.layout.name(&other, "other");
    lab.layout.name(&index, "both");
    let store = lab.store();
    let verify = || run(["verify", "--json", &store]);
    let whole = verify();
    assert_eq!(whole.status.code(), Some(0), "{whole:?}");
    assert_eq!(json(&whole)["images"][0]["whole"], true);
    assert!(stdout(&run(["verify", &store])).starts_with("one: whole, "));

    let outcome = |exit: i32| {
        let output = verify();
        assert_fails(&output, exit);
        findings(&output).into_iter().map(|(_, codes)| codes.join(" ")).collect::<Vec<_>>()
    };
    // The same length, another byte.
    let layer = lab.layout.path(&diskferry_testkit::container::digest(&archive(b"first")));
    let good = std::fs::read(&layer).unwrap();
    let mut bent = good.clone();
    bent[513] ^= 1;
    std::fs::write(&layer, &bent).unwrap();
    assert_eq!(outcome(6), ["mismatch", "", "mismatch"]);
    std::fs::write(&layer, &good[..1000]).unwrap();
    assert_eq!(outcome(6), ["mismatch", "", "mismatch"]);
    std::fs::remove_file(&layer).unwrap();
    assert_eq!(outcome(4), ["source-read", "", "source-read"]);
    let output = run(["verify", &store]);
    assert!(stdout(&output).contains(&diskferry_testkit::container::digest(&archive(b"first"))), "{output:?}");
    // What cannot be read at all says nothing of the others.
    std::os::unix::fs::symlink(&layer, &layer).unwrap();
    assert_eq!(outcome(4), ["source-read", "", "source-read"]);
    std::fs::remove_file(&layer).unwrap();
    std::fs::create_dir(&layer).unwrap();
    assert_eq!(outcome(4), ["source-read", "", "source-read"]);
    std::fs::remove_dir(&layer).unwrap();
    std::fs::write(&layer, &good).unwrap();
    assert_eq!(verify().status.code(), Some(0));

    let manifest = lab.layout.path(&other.digest);
    std::fs::remove_file(&manifest).unwrap();
    std::fs::create_dir(&manifest).unwrap();
    assert_eq!(outcome(4), ["", "source-read", "source-read"]);
    assert_eq!(json(&run(["list", "--json", &store]))["images"].as_array().unwrap().len(), 3);
    std::fs::remove_dir(&manifest).unwrap();
    assert_eq!(outcome(4), ["", "source-read", "source-read"]);
    assert_eq!(run(["verify", &store, "one"]).status.code(), Some(0));
    assert_fails(&run(["verify", &store, "other"]), 4);
    assert_fails(&run(["verify", &store, &index.digest]), 4);
    let output = run(["verify", "--json", &store, "nobody"]);
    assert_eq!(json(&output)["error"]["code"], "source-not-found");
}

#[test]
fn lost_and_damaged_images_of_a_registry_are_named() {
    let mut lab = Lab::new();
    let image = lab.layout.image(&[("disk/a", b"first")], LABELS);
    let other = lab.layout.image(&[("disk/a", b"second")], LABELS);
    lab.layout.name(&image, "v1");
    lab.layout.name(&other, "v2");
    let registry = Registry::default().start();
    let store = format!("docker://{}", registry.host());
    lab.push("v1", &format!("{store}/a:1"));
    lab.push("v2", &format!("{store}/b:1"));
    let verify = || at(["verify", "--json", &store]);
    let output = verify();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(findings(&output), [("a:1".into(), vec![]), ("b:1".into(), vec![])]);
    assert_eq!(findings(&at(["verify", "--json", &store, "b:1"])), [("b:1".into(), vec![])]);

    // Where the registry has a blob is told by its digest.
    let config = json(&at(["list", "--json", &store]));
    assert!(config["images"][0]["error"].is_null());
    let manifest = std::fs::read(lab.layout.path(&other.digest)).unwrap();
    let manifest: Value = serde_json::from_slice(&manifest).unwrap();
    let hex = manifest["config"]["digest"].as_str().unwrap().strip_prefix("sha256:").unwrap().to_owned();
    let data = registry.blobs().join("sha256").join(&hex[..2]).join(hex).join("data");
    let good = std::fs::read(&data).unwrap();
    std::fs::write(&data, [b' '].repeat(good.len())).unwrap();
    let output = verify();
    assert_fails(&output, 6);
    assert_eq!(findings(&output)[1].1, ["mismatch"]);
    std::fs::remove_file(&data).unwrap();
    let output = verify();
    assert_fails(&output, 4);
    assert_eq!(findings(&output), [("a:1".into(), vec![]), ("b:1".into(), vec!["source-not-found".into()])]);
}

/// Names of unused images, with what each frees.
fn unused(output: &Output) -> Vec<(String, u64, u64)> {
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let found = json(output);
    documented(&found);
    let unused = found["unused"].as_array().unwrap();
    unused
        .iter()
        .map(|image| {
            documented(image);
            let number = |key: &str| image[key].as_u64().unwrap();
            (image["name"].as_str().unwrap().to_owned(), number("frees"), number("shared"))
        })
        .collect()
}

#[test]
fn what_nobody_needs_in_a_layout_is_shown_with_what_it_frees() {
    let mut lab = Lab::new();
    let layer = lab.layout.blob(diskferry_testkit::container::TAR, &archive(b"shared"));
    let with = |lab: &Lab, labels: &str| {
        lab.layout.manifest("linux/amd64", std::slice::from_ref(&layer), std::slice::from_ref(&layer.digest), labels)
    };
    let (one, two) = (with(&lab, r#""a":"1""#), with(&lab, r#""a":"2""#));
    let alone = lab.layout.image(&[("disk/a", b"alone")], "");
    let child = lab.layout.image(&[("disk/a", b"child")], "");
    let index = lab.layout.index(std::slice::from_ref(&child));
    for (image, name) in [(&one, "one"), (&two, "two"), (&alone, "alone"), (&alone, "again"), (&index, "all")] {
        lab.layout.name(image, name);
    }
    // What an index has may have a name of its own.
    lab.layout.name(&child, "child");
    let store = lab.store();
    let check = |list: &str| run_with_pipe(["gc", "check", "--json", &store, "--keep-list", "-"], list.as_bytes());
    assert_eq!(unused(&check("one\ntwo\nagain\nall\n")), []);
    // A mark in front is none of the first name, and what nothing is called is told.
    let output = check("\u{feff}one\ntwoo\nagain\nall\n");
    assert_eq!(unused(&output).iter().map(|(name, ..)| name.as_str()).collect::<Vec<_>>(), ["two"]);
    assert_eq!(json(&output)["keep-list-unmatched"], 1);
    assert_eq!(common::stderr(&output), "diskferry: warning: no image is twoo of the list to keep\n");
    // Who needs one image of an index by its digest has it from there.
    assert_eq!(unused(&check(&format!("one\ntwo\nagain\n{}\n", child.digest))), []);
    let found = unused(&check("# needed\none\nall\n"));
    assert_eq!(found.iter().map(|(name, ..)| name.as_str()).collect::<Vec<_>>(), ["alone", "two"]);
    assert!(found[0].1 > 2048 && found[0].2 == 0, "{found:?}");
    assert!(found[1].1 < 2048 && found[1].2 == 2048, "{found:?}");
    let found = check(&format!("{}\n", index.digest));
    let frees: u64 = unused(&found).iter().map(|(_, frees, _)| frees).sum();
    assert_eq!(
        json(&found)["frees"],
        frees + 2048,
        "what the unused share among themselves goes with the last of them"
    );
    assert_eq!(json(&found)["manifests"], 5);
    assert!(json(&found)["room"]["total"].as_u64() >= json(&found)["room"]["available"].as_u64());

    let text = run_with_pipe(["gc", "check", &store, "--keep-list", "-"], b"one\nall\n");
    let lines: Vec<_> = stdout(&text).lines().collect();
    assert_eq!(lines[..2], ["Found 5 manifests in the store", "Found 2 images in the list to keep"]);
    assert!(lines[2].ends_with("Use%") && lines[4] == "Images eligible for cleanup:", "{lines:?}");
    let text = run_with_pipe(["gc", "check", &store, "--keep-list", "-"], b"one\ntwo\nall\nalone\n");
    assert_eq!(stdout(&text).lines().last(), Some("No images eligible for auto-cleanup."));

    assert_fails(&check("# nothing\n"), 2);
    assert_fails(&check("one two\n"), 2);
    assert_fails(&run(["gc", "check", &store, "--keep-list", "/nowhere"]), 2);
    let all = run_with_pipe(["gc", "check", "--json", "--keep-nothing", &store, "--keep-list", "-"], b"");
    assert_eq!(unused(&all).len(), 5);
    std::fs::remove_file(lab.layout.path(&child.digest)).unwrap();
    let output = check("one\n");
    assert_eq!(json(&output)["unknown"][0]["name"], "all");
    assert!(common::stderr(&output).contains("warning: all: "), "{output:?}");
}

#[test]
fn a_layer_that_only_another_repository_has_is_missing() {
    let mut lab = Lab::new();
    let image = lab.layout.image(&[("disk/a", b"first")], LABELS);
    lab.layout.name(&image, "v1");
    let registry = Registry::default().deletes().start();
    let store = format!("docker://{}", registry.host());
    for to in ["a:1", "b:1"] {
        let output = at(["copy", &format!("{}:v1", lab.store()), &format!("{store}/{to}")]);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
    }
    assert_eq!(at(["verify", &store]).status.code(), Some(0));
    let layer = diskferry_testkit::container::digest(&archive(b"first"));
    tool("curl", &["-fsSX", "DELETE", &format!("http://{}/v2/b/blobs/{layer}", registry.host())]);
    let output = at(["verify", "--json", &store]);
    assert_fails(&output, 4);
    assert_eq!(
        findings(&output).into_iter().map(|(_, codes)| codes.join(" ")).collect::<Vec<_>>(),
        ["", "source-not-found"]
    );
}

#[test]
fn what_nobody_needs_in_a_registry_is_shown_as_platforms_do() {
    let mut lab = Lab::new();
    let image = lab.layout.image(&[("disk/a", b"first")], LABELS);
    let other = lab.layout.image(&[("disk/a", b"second")], LABELS);
    lab.layout.name(&image, "v1");
    lab.layout.name(&other, "v2");
    let registry = Registry::default().start();
    let store = format!("docker://{}", registry.host());
    for (name, to) in [("v1", "cvi/a:1"), ("v1", "vi/team/b:1"), ("v1", "vi/team/b:2"), ("v2", "vd/team/c:1")] {
        lab.push(name, &format!("{store}/{to}"));
    }
    let list = lab.dir.path().join("keep").display().to_string();
    std::fs::write(&list, format!("{store}/vi/team/b:2\n")).unwrap();
    let output = at(["gc", "check", "--json", &store, "--keep-list", &list]);
    let names: Vec<_> = unused(&output).into_iter().map(|(name, ..)| name).collect();
    assert_eq!(names, ["cvi/a:1", "vd/team/c:1"], "one name keeps the image with all of its names");
    assert_eq!((&unused(&output)[0].1, &json(&output)["room"]), (&0, &Value::Null), "another repository has all of it");
    let text = at(["gc", "check", &store, "--keep-list", &list]);
    let lines: Vec<_> = stdout(&text).lines().collect();
    assert_eq!(lines[0], "Found 1 cvi, 1 vi, 1 vd manifests in registry");
    assert_eq!(lines[2], "Images eligible for cleanup:");
    assert_eq!(lines[4].split_whitespace().collect::<Vec<_>>()[..2], ["ClusterVirtualImage", "a:1"]);
    assert_eq!(lines[5].split_whitespace().collect::<Vec<_>>()[..3], ["VirtualDisk", "team", "c:1"]);
    std::fs::write(&list, "other.example/a:1\n").unwrap();
    assert_fails(&at(["gc", "check", &store, "--keep-list", &list]), 2);
}

#[test]
fn a_list_to_keep_may_have_64_mib() {
    let mut lab = Lab::new();
    let image = lab.layout.image(&[("disk/a", b"first")], LABELS);
    lab.layout.name(&image, "one");
    let (store, list) = (lab.store(), lab.dir.path().join("keep").display().to_string());
    for (len, code) in [(64 << 20, 0), ((64 << 20) + 1, 2)] {
        std::fs::write(&list, "one".to_owned() + &"\n".repeat(len - 3)).unwrap();
        let output = run(["gc", "check", &store, "--keep-list", &list]);
        assert_eq!(output.status.code(), Some(code), "{}", common::stderr(&output));
        assert_eq!(common::stderr(&output).contains("more than 67108864 bytes"), code == 2);
    }
}

/// Makes all files of the layout older by two hours.
fn age(lab: &Lab) {
    let old = std::time::SystemTime::now() - std::time::Duration::from_secs(7200);
    for name in common::names(&lab.dir.path().join("layout/blobs/sha256")) {
        let path = lab.dir.path().join("layout/blobs/sha256").join(name);
        std::fs::File::open(path).unwrap().set_modified(old).unwrap();
    }
}

fn sweep(store: &str, list: &str, more: &[&str]) -> Output {
    let mut command = diskferry(["gc", "run", "--json", store, "--keep-list", "-"]);
    if store.starts_with("docker:") {
        command.args(["--plain-http", "--retries", "1"]);
    }
    let mut child = command.args(more).stdin(std::process::Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || std::io::Write::write_all(&mut stdin, list.as_bytes()));
        child.wait_with_output().unwrap()
    })
}

/// Names of the images that `gc run` has removed, or would.
fn removed(output: &Output) -> Vec<String> {
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let found = json(output);
    documented(&found);
    let images = found["removed"].as_array().unwrap().clone();
    images.iter().map(|image| image["name"].as_str().unwrap().to_owned()).collect()
}

fn code(output: &Output, exit: i32) -> Value {
    assert_fails(output, exit);
    json(output)["error"]["code"].clone()
}

#[test]
fn what_nobody_needs_in_a_layout_is_removed_and_nothing_else() {
    let mut lab = Lab::new();
    let layer = lab.layout.blob(diskferry_testkit::container::TAR, &archive(b"shared"));
    let with = |lab: &Lab, labels: &str| {
        lab.layout.manifest("linux/amd64", std::slice::from_ref(&layer), std::slice::from_ref(&layer.digest), labels)
    };
    let (one, two) = (with(&lab, r#""a":"1""#), with(&lab, r#""a":"2""#));
    let alone = lab.layout.image(&[("disk/a", b"alone")], "");
    let (child, other) = (lab.layout.image(&[("disk/a", b"child")], ""), lab.layout.image(&[("disk/a", b"arm")], ""));
    let index = lab.layout.index(&[child.clone(), other]);
    for (image, name) in [(&one, "one"), (&one, "uno"), (&two, "two"), (&alone, "alone"), (&index, "all")] {
        lab.layout.name(image, name);
    }
    let orphan = lab.layout.blob("", b"left by a broken upload");
    std::fs::write(lab.dir.path().join("layout/blobs/sha256/notes"), b"not a blob").unwrap();
    let store = lab.store();
    let blobs = || common::names(&lab.dir.path().join("layout/blobs/sha256"));
    let before = (blobs(), std::fs::read(lab.dir.path().join("layout/index.json")).unwrap());

    let young = sweep(&store, "uno\nall\n", &["--yes"]);
    assert_eq!(removed(&young), Vec::<String>::new());
    assert_eq!(json(&young)["young"].as_array().unwrap().len(), 2);
    age(&lab);
    let dry = sweep(&store, "uno\nall\n", &[]);
    assert_eq!(removed(&dry), ["alone", "two"]);
    assert_eq!((blobs(), std::fs::read(lab.dir.path().join("layout/index.json")).unwrap()), before);
    assert_eq!(code(&sweep(&store, "elsewhere\n", &["--yes"]), 5), "target-keeps-nothing");
    assert_eq!(code(&sweep(&store, "\n", &["--yes"]), 2), "usage");
    assert_eq!(code(&sweep(&store, "one\n", &["--yes", "--seen", "x"]), 2), "usage");
    assert_eq!(code(&sweep(&store, "one\n", &["--yes", "--grace", "x"]), 2), "usage");
    assert_eq!(before.0, blobs());

    let done = sweep(&store, "uno\nall\n", &["--yes"]);
    assert_eq!(removed(&done), ["alone", "two"]);
    // Of `two` its manifest and configuration, of `alone` its layer as well, and the orphan.
    assert_eq!((&json(&done)["blobs"], &json(&done)["freed"]), (&json!(6), &json(&dry)["freed"]));
    assert!(!lab.layout.path(&orphan.digest).exists());
    assert_eq!(blobs().len(), before.0.len() - 6);
    assert_eq!(listed(&run(["list", "--json", &store])), ["one", "uno", "all"]);
    assert_eq!(run(["verify", &store]).status.code(), Some(0));
    assert_eq!(removed(&sweep(&store, "uno\nall\n", &["--yes"])), Vec::<String>::new());

    // What is needed and cannot be read may need anything.
    let manifest = lab.layout.path(&child.digest);
    std::fs::remove_file(&manifest).unwrap();
    let before = blobs();
    assert_eq!(code(&sweep(&store, "all\n", &["--yes"]), 5), "target-not-whole");
    assert_eq!(blobs(), before);
    assert_eq!(removed(&sweep(&store, "one\n", &["--yes"])), ["all"]);
    assert_eq!(removed(&sweep(&store, "", &["--yes", "--keep-nothing"])), ["one"]);
    assert_eq!(blobs(), ["notes"]);
}

#[test]
fn an_image_with_a_digest_of_another_kind_stays_and_keeps_the_rest_or_goes() {
    let mut lab = Lab::new();
    let kept = lab.layout.image(&[("disk/a", b"kept")], "");
    lab.layout.name(&kept, "kept");
    lab.layout.name(&Blob { digest: format!("sha384:{}", "0".repeat(96)), ..kept.clone() }, "odd");
    let old = lab.layout.image(&[("disk/a", b"old")], "");
    lab.layout.name(&old, "old");
    lab.layout.blob("", b"left by a broken upload");
    age(&lab);
    let store = lab.store();
    let blobs = || common::names(&lab.dir.path().join("layout/blobs/sha256")).len();
    // Nobody knows how old it is, or what it needs.
    for act in [&[][..], &["--yes"]] {
        let refused = sweep(&store, "kept\n", act);
        assert_eq!(code(&refused, 5), "target-not-whole");
        let said = json(&refused)["error"]["message"].to_string();
        assert!(said.contains("sha384:") && said.contains("stays in the index and cannot be read"), "{said}");
        assert_eq!((listed(&run(["list", "--json", &store])).len(), blobs()), (3, 7), "and nothing is removed");
    }
    assert_eq!(removed(&sweep(&store, "kept\n", &["--yes", "--grace", "0s"])), ["odd", "old"]);
    assert_eq!((listed(&run(["list", "--json", &store])), blobs()), (vec!["kept".to_owned()], 3));
}

#[test]
fn images_that_are_pushed_to_a_layout_while_it_is_swept_stay_whole() {
    let mut lab = Lab::new();
    let kept = lab.layout.image(&[("disk/a", b"kept")], "");
    lab.layout.name(&kept, "kept");
    let store = lab.store();
    let disks: Vec<_> = (0..2_u8)
        .map(|at| {
            let path = lab.dir.path().join(format!("disk{at}.raw"));
            std::fs::write(&path, [at + 1].repeat(1 << 20)).unwrap();
            path.display().to_string()
        })
        .collect();
    std::thread::scope(|scope| {
        for (at, disk) in disks.iter().enumerate() {
            let store = &store;
            scope.spawn(move || {
                // The same blobs again and again, which the sweep finds unused in between: there is no grace period here.
                for round in 0..8 {
                    let target = format!("{store}:push{at}-{round}");
                    let output = run(["push", "-q", "-f", "raw", disk, &target]);
                    assert_eq!(output.status.code(), Some(0), "{output:?}");
                    // Whole, or removed as a whole.
                    let verified = run(["verify", store]);
                    let text = stdout(&verified);
                    assert!(!text.contains("mismatch"), "{text}");
                }
            });
        }
        for _ in 0..24 {
            let output = sweep(&store, "kept\n", &["--yes", "--grace", "0s"]);
            assert_eq!(output.status.code(), Some(0), "{output:?}");
        }
    });
    let output = run(["verify", &store]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(stdout(&output).contains("kept: whole"), "{output:?}");
    let output = sweep(&store, "kept\n", &["--yes", "--grace", "0s"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(common::names(&lab.dir.path().join("layout/blobs/sha256")).len(), 3);
}

#[test]
fn layouts_of_other_tools_are_swept() {
    let lab = Lab::new();
    let (dir, disk) = (lab.dir.path().join("umoci"), lab.dir.path().join("in"));
    std::fs::create_dir(&disk).unwrap();
    let image = |name: &str| format!("{}:{name}", dir.display());
    tool("umoci", &["init", "--layout", dir.to_str().unwrap()]);
    for name in ["a", "b"] {
        std::fs::write(disk.join("a.raw"), name.repeat(100_000)).unwrap();
        tool("umoci", &["new", "--image", &image(name)]);
        tool("umoci", &["insert", "--rootless", "--image", &image(name), disk.to_str().unwrap(), "/disk"]);
    }
    tool("skopeo", &["copy", "--insecure-policy", &format!("oci:{}", image("a")), &format!("oci:{}", image("c"))]);
    let store = format!("oci:{}", dir.display());
    // umoci leaves blobs of its former images behind, too.
    assert_eq!(removed(&sweep(&store, "c\n", &["--yes", "--grace", "0s"])), ["b"]);
    assert_eq!(run(["verify", &store]).status.code(), Some(0));
    tool("skopeo", &["inspect", &format!("oci:{}", image("c"))]);
    tool("umoci", &["stat", "--image", &image("a")]);
    let before = common::names(&dir.join("blobs/sha256"));
    tool("umoci", &["gc", "--layout", dir.to_str().unwrap()]);
    assert_eq!(common::names(&dir.join("blobs/sha256")), before, "there is nothing left to remove");
}

#[test]
fn what_nobody_needs_in_a_registry_is_removed_and_its_collector_frees_it() {
    let mut lab = Lab::new();
    let child = lab.layout.image(&[("disk/a", b"child")], "");
    let both = lab.layout.image(&[("disk/a", b"both")], "");
    let (old, new) = (lab.layout.index(&[child, both.clone()]), lab.layout.index(&[both]));
    let (alone, needed) =
        (lab.layout.image(&[("disk/a", b"alone")], ""), lab.layout.image(&[("disk/a", b"needed")], ""));
    for (image, name) in [(&old, "old"), (&new, "new"), (&alone, "alone"), (&needed, "needed")] {
        lab.layout.name(image, name);
    }
    let registry = Registry::default().deletes().start();
    let store = format!("docker://{}", registry.host());
    for (name, to) in [("old", "a:old"), ("new", "a:new"), ("alone", "a:x"), ("needed", "a:n"), ("needed", "b:n")] {
        lab.push(name, &format!("{store}/{to}"));
    }
    let seen = lab.dir.path().join("seen").display().to_string();
    let list = "a:new\na:n\n";
    let all = ["a:old", "a:x", "b:n"];
    assert_eq!(code(&sweep(&store, list, &["--yes"]), 5), "target-age-unknown");
    assert_eq!(code(&sweep(&store, "other:1\n", &["--yes", "--grace", "0s"]), 5), "target-keeps-nothing");
    assert_eq!(removed(&sweep(&store, list, &["--grace", "0s"])), all);
    assert_eq!(
        removed(&sweep(&store, list, &["--seen", &seen])),
        Vec::<String>::new(),
        "they are seen for the first time"
    );
    // As if that had been two hours ago.
    let text = std::fs::read_to_string(&seen).unwrap();
    let mut remembered: Value = serde_json::from_str(&text).unwrap();
    for since in remembered["since"].as_object_mut().unwrap().values_mut() {
        *since = json!(since.as_u64().unwrap() - 7200);
    }
    std::fs::write(&seen, remembered.to_string()).unwrap();
    // What gets another name now is new.
    lab.push("alone", &format!("{store}/a:y"));
    let done = sweep(&store, list, &["--yes", "--seen", &seen]);
    assert_eq!(removed(&done), ["a:old", "b:n"]);
    assert_eq!(json(&done)["young"][0]["tags"], json!(["x", "y"]));
    assert_eq!(listed(&at(["list", "--json", &store])), ["a:n", "a:new", "a:x", "a:y"]);
    assert_eq!(at(["verify", &store]).status.code(), Some(0));

    let blobs = || -> usize {
        let dir = registry.blobs().join("sha256");
        common::names(&dir).iter().map(|name| common::names(&dir.join(name)).len()).sum()
    };
    let before = blobs();
    registry.collect();
    // Of `old` the index, and of its first image manifest, configuration and layer.
    assert_eq!(blobs(), before - 4);
    assert_eq!(removed(&sweep(&store, list, &["--yes", "--grace", "0s"])), ["a:x"]);
    registry.collect();
    assert_eq!(at(["verify", &store]).status.code(), Some(0));
    assert_eq!(listed(&at(["list", "--json", &store])), ["a:n", "a:new"]);
}

#[test]
fn a_registry_that_does_not_delete_says_so() {
    let mut lab = Lab::new();
    let one = lab.layout.image(&[("disk/a", b"one")], "");
    let two = lab.layout.image(&[("disk/a", b"two")], "");
    lab.layout.name(&one, "one");
    lab.layout.name(&two, "two");
    let registry = Registry::default().start();
    let store = format!("docker://{}", registry.host());
    lab.push("one", &format!("{store}/a:1"));
    lab.push("two", &format!("{store}/a:2"));
    assert_eq!(removed(&sweep(&store, "a:1\n", &["--grace", "0s"])), ["a:2"]);
    assert_eq!(code(&sweep(&store, "a:1\n", &["--grace", "0s", "--yes"]), 5), "target-no-deletes");
    assert_eq!(listed(&at(["list", "--json", &store])), ["a:1", "a:2"]);
}
