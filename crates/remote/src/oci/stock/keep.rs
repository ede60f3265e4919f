//! The list of images that are needed: one on a line, and nothing else but comments.

use std::cell::Cell;
use std::collections::BTreeMap;

use super::super::manifest::checksum;
use super::super::reference::Reference;
use super::Place;

/// Images that are needed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeepList {
    /// `REPOSITORY:TAG`, `REPOSITORY@DIGEST` or `REPOSITORY` in a registry, names in a layout, digests in both.
    /// And whether an image was found that has it.
    names: BTreeMap<String, Cell<bool>>,
}

impl KeepList {
    /// Reads a list for the images at `place`. One line that cannot be meant spoils it: what was meant would be missing.
    pub fn parse(text: &str, place: &Place) -> Result<Self, String> {
        let mut names = BTreeMap::new();
        // Some editors begin a text with a mark that it is one.
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        for (line, at) in text.lines().zip(1_u64..) {
            let entry = line.trim();
            if entry.is_empty() || entry.starts_with('#') {
                continue;
            }
            names.insert(understand(entry, place).map_err(|why| format!("line {at}: {why}"))?, Cell::new(false));
        }
        Ok(Self { names })
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Whether nothing is to be kept.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// Entries that no image has had that was looked for: it is not there, or they are not what was meant.
    pub fn unmatched(&self) -> Vec<&str> {
        self.names.iter().filter(|(_, is_found)| !is_found.get()).map(|(name, _)| name.as_str()).collect()
    }

    pub(super) fn has(&self, repository: Option<&str>, tag: Option<&str>, digest: &str) -> bool {
        let name = tag.map(|tag| repository.map_or(tag.to_owned(), |repository| format!("{repository}:{tag}")));
        let whole = repository.map(|repository| [repository.to_owned(), format!("{repository}@{digest}")]);
        let all = name.into_iter().chain(whole.into_iter().flatten()).chain([digest.to_owned()]);
        // Each of them is found, and not only the first.
        let found = all.filter_map(|name| self.names.get(&name)).inspect(|is_found| is_found.set(true)).count();
        found > 0
    }
}

fn understand(entry: &str, place: &Place) -> Result<String, String> {
    if entry.contains(|letter: char| letter.is_whitespace() || letter.is_control() || letter == '\u{feff}') {
        return Err("expected one name on a line".into());
    }
    if let Ok(digest) = checksum(entry.strip_prefix('@').unwrap_or(entry)) {
        return Ok(digest.to_string());
    }
    let Place::Registry { host, .. } = place else {
        // That is a place and a name, of which an index has the name.
        return match entry.starts_with("oci:") {
            true => Err("expected the name that the image has in the layout, without oci:DIR:".into()),
            false => Ok(entry.to_owned()),
        };
    };
    let entry = entry.strip_prefix("docker://").unwrap_or(entry);
    let name = match entry.strip_prefix(host.as_str()).and_then(|rest| rest.strip_prefix('/')) {
        Some(rest) => rest,
        None => match entry.split_once('/') {
            Some((first, _)) if first.contains(['.', ':']) || first == "localhost" => {
                return Err(format!("an image of another registry than {host}"));
            }
            _ => entry,
        },
    };
    Reference::parse(&format!("//{host}/{name}"))?;
    // Who names both means that image, wherever the tag leads by now.
    let pinned = name.split_once('@').and_then(|(tagged, digest)| Some((tagged.split_once(':')?.0, digest)));
    Ok(pinned.map_or_else(|| name.to_owned(), |(repository, digest)| format!("{repository}@{digest}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_for_a_registry_names_its_images_only() {
        let place = Place::Registry { host: "h:5".into(), prefix: None };
        let digest = format!("sha256:{}", "0".repeat(64));
        let text = format!("# needed\n\n vi/a:1 \r\ndocker://h:5/vi/b:2\nh:5/c\nd@{digest}\n{digest}\n");
        let keep = KeepList::parse(&text, &place).unwrap();
        assert_eq!(keep.len(), 5);
        let has = |repository, tag, digest: &str| keep.has(Some(repository), Some(tag), digest);
        assert!(has("vi/a", "1", "") && has("vi/b", "2", "") && has("c", "any", "") && has("d", "x", &digest));
        assert!(has("other", "x", &digest), "a digest keeps what has it, wherever");
        assert!(!has("vi/a", "2", "") && !has("vi", "1", "") && !has("a", "1", ""));
        assert_eq!(keep.unmatched(), Vec::<&str>::new());
        // As pods pin images.
        for pinned in [format!("vi/a:1@{digest}"), format!("docker://h:5/vi/a:1@{digest}")] {
            let keep = KeepList::parse(&pinned, &place).unwrap();
            let has = |tag, digest: &str| keep.has(Some("vi/a"), Some(tag), digest);
            assert!(has("1", &digest) && has("2", &digest) && !has("1", "other"), "{pinned}");
            assert_eq!(keep.unmatched(), Vec::<&str>::new());
        }
        let keep = KeepList::parse("\u{feff}a:1\nb:1\n", &place).unwrap();
        assert!(keep.has(Some("a"), Some("1"), "") && !keep.has(Some("a"), Some("2"), ""));
        assert_eq!(keep.unmatched(), ["b:1"]);
        for wrong in ["a b", "A:1", "other.example/a:1", "h:6/a", "a:", "<html>", "{\"a\":1}", "a@sha256:00", "../a"] {
            let error = KeepList::parse(&format!("a:1\n{wrong}\n"), &place).unwrap_err();
            assert!(error.starts_with("line 2: "), "{error}");
        }
        assert!(KeepList::parse("\n# nothing\n", &place).unwrap().is_empty());
    }

    #[test]
    fn a_list_for_a_layout_has_names_and_no_places() {
        let place = Place::Layout("/srv/images".into());
        assert!(KeepList::parse("debian 12\n", &place).is_err());
        let keep = KeepList::parse("registry.example/debian:12\n", &place).unwrap();
        assert!(keep.has(None, Some("registry.example/debian:12"), ""));
        let error = KeepList::parse("a\noci:/srv/images:a\n", &place).unwrap_err();
        assert!(error.starts_with("line 2: ") && error.contains("without oci:DIR:"), "{error}");
    }
}
