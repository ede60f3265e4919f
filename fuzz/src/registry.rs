//! A registry whose documents are hostile, though each has the digest by which it is asked for.

use std::ffi::OsStr;

use diskferry::Progress;
use diskferry::archive::Pick;
use diskferry_remote::oci::{Keys, Registry, Store, Wish};
use diskferry_remote::{Location, Sandbox};
use diskferry_testkit::container::{INDEX, MANIFEST, digest};

use crate::image::{LIMITS, told};
use crate::network::{CLIENT, END, SERVER, how};
use crate::same::carry;

/// Documents and layers that an input may have.
const MOST: usize = 6;

/// Carries the disk image of a container image. The first byte says how the registry behaves; the parts behind it are the document that the name
/// leads to and all that has digests: `@1` in one is the digest of the one behind it, `#1` its length.
pub fn registry(script: &[u8]) {
    let Some((&flags, parts)) = script.split_first() else { return };
    let mut parts: Vec<_> = parts.split(|byte| *byte == END).take(MOST).map(<[u8]>::to_vec).collect();
    let challenge = if flags & 4 == 0 { None } else { parts.pop() };
    let token = if flags & 4 == 0 { None } else { parts.pop() };
    for n in (1..parts.len()).rev() {
        let (before, part) = parts.split_at_mut(n);
        for document in before {
            *document = replaced(document, &[b'@', b'0' + n as u8], digest(&part[0]).as_bytes());
            *document = replaced(document, &[b'#', b'0' + n as u8], part[0].len().to_string().as_bytes());
        }
    }
    let mut challenge = challenge.filter(|text| !text.iter().any(|byte| b"\r\n".contains(byte)));
    SERVER.say(move |head| {
        let path = head.split(' ').nth(1).unwrap_or_default();
        if !path.starts_with("/v2/") {
            return answer("200 OK", "application/json", token.as_deref().unwrap_or_default());
        }
        if let Some(challenge) = challenge.take() {
            let head = b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\nConnection: close\r\nWWW-Authenticate: ";
            return [&head[..], &challenge, b"\r\n\r\n"].concat();
        }
        let name = path.rsplit('/').next().unwrap_or_default();
        let found = if name.contains(':') { parts.iter().find(|part| digest(part) == name) } else { parts.first() };
        let Some(found) = found else { return answer("404 Not Found", "text/plain", b"") };
        let is_index = found.windows(11).any(|word| word == b"\"manifests\"");
        let kind = if is_index { INDEX } else { MANIFEST };
        answer("200 OK", if flags & 8 == 0 { kind } else { "" }, found)
    });
    let (runtime, client) = &*CLIENT;
    let location = Location::parse(OsStr::new(&format!("docker://{}/image:tag", SERVER.address)));
    let Ok(Location::Registry(reference)) = location else { panic!("no registry: {location:?}") };
    let store = Store::Registry(Box::new(Registry::new(runtime, client, &reference, &Keys::usual(|_| None), true)));
    let wish = Wish {
        pick: Pick::UnderDisk,
        platform: None,
        limits: LIMITS,
        threads: 1,
        // What is found here is to be found as anywhere.
        sandbox: Sandbox::default(),
        how: how(flags & 1),
    };
    let progress = Progress::default();
    let image = match store.find(&wish, &progress) {
        Ok(image) => image,
        Err(error) => return told(&error),
    };
    // Nothing that it claims may be shown without being looked at.
    let _ = image.claims();
    match store.open(&image, &wish, &progress) {
        // What is wrong with it has been told.
        Ok(pulled) => drop(carry(pulled.input, &None, 1)),
        Err(error) => told(&error),
    }
}

fn answer(status: &str, kind: &str, body: &[u8]) -> Vec<u8> {
    let len = body.len();
    let head =
        format!("HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len}\r\nConnection: close\r\n\r\n");
    [head.as_bytes(), body].concat()
}

fn replaced(text: &[u8], word: &[u8], by: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.windows(word.len()).position(|here| here == word) {
        out.extend(&rest[..at]);
        out.extend(by);
        rest = &rest[at + word.len()..];
    }
    out.extend(rest);
    out
}
