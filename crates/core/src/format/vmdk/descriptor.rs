//! The descriptor: a text that says what kind of disk this is and which files hold it.
//!
//! Producers and hand editors differ in case, spacing, quotes and line ends. What is not understood is ignored: nothing
//! here is ever followed, so a line can at most make us refuse. What is said several times counts each time where it makes us refuse.

use super::{FORMAT, SECTOR};
use crate::error::{Error, Result};
use crate::format::detect::NEAR;
use crate::format::{Detail, Refusal};

/// What an image without a parent has as its parent's content id.
const NO_PARENT: u32 = u32::MAX;

/// A parsed descriptor.
#[derive(Debug, Default)]
pub(super) struct Descriptor {
    /// Key in lower case, and value without quotes.
    entries: Vec<(String, String)>,
    extents: Vec<ExtentLine>,
    pub(super) parent_cid: Option<u32>,
    parent_name: Option<String>,
}

#[derive(Debug)]
struct ExtentLine {
    access: String,
    sectors: Option<u64>,
    kind: String,
    name: String,
}

/// Whether `head` begins as a descriptor that is a file of its own.
pub(super) fn is_text(head: &[u8]) -> bool {
    const TITLE: &[u8] = b"disk descriptorfile";
    let head = head.get(..NEAR).unwrap_or(head);
    let text = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(head).trim_ascii_start();
    let title = text.strip_prefix(b"#").map(<[u8]>::trim_ascii_start);
    title.and_then(|title| title.get(..TITLE.len())).is_some_and(|title| title.eq_ignore_ascii_case(TITLE))
}

impl Descriptor {
    /// Reads the text stored at `at`, up to its NUL padding, and checks what an image with data cannot do without.
    pub(super) fn parse(bytes: &[u8], at: u64) -> Result<Self> {
        let descriptor = Self::read(bytes);
        let is_decided = descriptor.is_empty() || descriptor.refuse_parent().is_some();
        if descriptor.parent_cid.is_none() && !is_decided {
            // qemu needs it as well: a line that is damaged may hide a parent.
            let found = descriptor.values("parentcid").find(|found| content_id(found).is_none());
            let found = found.map_or("missing".to_owned(), |found| format!("{found:?}"));
            let what = format!(
                "parentCID in the descriptor is {found}; a hexadecimal number of 32 bits says whether there is a parent ({NO_PARENT:x}: none)"
            );
            return Err(Error::corrupt(FORMAT, "content-id", at, what));
        }
        Ok(descriptor)
    }

    /// Reads a text, up to its NUL padding.
    pub(super) fn read(bytes: &[u8]) -> Self {
        let text = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
        let text = String::from_utf8_lossy(text);
        let lines = || text.split(['\n', '\r']).map(str::trim);
        let parent_name = lines().find_map(parent_name).map(str::to_owned);
        let mut descriptor = Self { parent_name, ..Self::default() };
        for line in lines().filter(|line| !line.starts_with('#')) {
            if let Some(extent) = ExtentLine::parse(line) {
                descriptor.extents.push(extent);
            } else if let Some((key, value)) = line.split_once('=') {
                descriptor.entries.push((key.trim().to_ascii_lowercase(), unquoted(value).to_owned()));
            }
        }
        descriptor.parent_cid = descriptor.parent_cid();
        descriptor
    }

    /// The content id of the parent; `None` unless it is a number, in each line where it stands.
    fn parent_cid(&self) -> Option<u32> {
        let all = self.values("parentcid").map(content_id).collect::<Option<Vec<_>>>()?;
        all.iter().find(|cid| **cid != NO_PARENT).or(all.first()).copied()
    }

    /// Whether nothing stands in it, as in a piece of a larger set.
    fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.extents.is_empty()
    }

    pub(super) fn create_type(&self) -> Option<&str> {
        self.value("createtype")
    }

    /// The content id. Nothing hangs on it, so what is no number, as Xen Orchestra's ten decimal digits, is shown as it stands there.
    pub(super) fn cid(&self) -> Option<Detail> {
        let found = self.value("cid")?;
        Some(content_id(found).map_or_else(|| Detail::Text(found.to_owned()), |cid| Detail::Number(cid.into())))
    }

    /// The name of the parent, where one is given.
    pub(super) fn parent_name(&self) -> Option<&str> {
        self.parent_name.as_deref()
    }

    /// Bytes of the disk, as the extent line has them.
    pub(super) fn size(&self) -> Option<u64> {
        self.extents.first().and_then(|extent| extent.sectors)?.checked_mul(SECTOR)
    }

    /// Bytes of the disk that all extents make together, where every line says how many it has.
    pub(super) fn total_size(&self) -> Option<u64> {
        let add = |sum: u64, extent: &ExtentLine| sum.checked_add(extent.sectors?.checked_mul(SECTOR)?);
        self.extents.iter().try_fold(0, add).filter(|size| *size > 0)
    }

    /// The files that hold the extents, as they are named.
    pub(super) fn extent_names(&self) -> impl Iterator<Item = &str> {
        self.extents.iter().map(|extent| extent.name.as_str()).filter(|name| !name.is_empty())
    }

    /// Why a disk of which there is nothing but this descriptor cannot be carried.
    pub(super) fn refusals_alone(&self) -> Vec<Refusal> {
        let names = match (self.extent_names().next(), self.extent_names().count()) {
            (None, _) => String::new(),
            (Some(name), 1) => format!(": its data are in the file {name:?}, which is never opened"),
            (Some(name), count) => format!(": its data are in {count} files, {name:?} first, which are never opened"),
        };
        let what =
            format!("a descriptor without data{names}; give one whole image (monolithicSparse, streamOptimized)");
        [Some(Refusal { code: "descriptor-only", what }), self.refuse_parent()].into_iter().flatten().collect()
    }

    /// Why a disk with this descriptor cannot be carried, where its header says that it should be of `expected` type.
    pub(super) fn refusals(&self, expected: &'static str) -> Vec<Refusal> {
        if self.is_empty() {
            let what = "the image has no descriptor: it is one piece of a disk that is split into several files; \
                        join them first, for example with qemu-img convert on the descriptor file";
            return vec![Refusal { code: "piece", what: what.to_owned() }];
        }
        let found = [self.refuse_create_type(expected), self.refuse_extents(), self.refuse_parent()];
        found.into_iter().flatten().collect()
    }

    fn refuse_create_type(&self, expected: &str) -> Option<Refusal> {
        let other = self.values("createtype").find(|found| !found.eq_ignore_ascii_case(expected));
        let what = match (other, self.create_type()) {
            (None, Some(_)) => return None,
            (Some(found), _) => format!("createType is {found:?}, but only {expected} is one file with this header"),
            (None, None) => format!("the descriptor gives no createType, expected is {expected}"),
        };
        Some(Refusal { code: "create-type", what })
    }

    fn refuse_extents(&self) -> Option<Refusal> {
        let [extent] = self.extents.as_slice() else {
            let what = format!("the descriptor names {} extents, a disk in one file has 1", self.extents.len());
            return Some(Refusal { code: "extents", what });
        };
        let ExtentLine { access, kind, name, .. } = extent;
        if !kind.eq_ignore_ascii_case("SPARSE") || access.eq_ignore_ascii_case("NOACCESS") || extent.sectors.is_none() {
            let what = format!("the extent {name:?} is {access} {kind}; carried is RW, RO or RDONLY SPARSE");
            return Some(Refusal { code: "extent-kind", what });
        }
        if name.contains(['/', '\\']) {
            let what = format!("the extent is named {name:?}: a path leads to another file, which is never opened");
            return Some(Refusal { code: "extent-path", what });
        }
        None
    }

    fn refuse_parent(&self) -> Option<Refusal> {
        // VirtualBox links deltas by this id and may leave parentCID empty.
        let uuid = self.values("ddb.uuid.parent").find(|uuid| !is_nil(uuid));
        let parent = match (self.parent_name(), self.parent_cid, uuid) {
            (Some(name), ..) => format!("{name:?}"),
            (None, Some(cid), _) if cid != NO_PARENT => format!("with the content id {cid:08x}"),
            (None, _, Some(uuid)) => format!("with the uuid {uuid}"),
            _ => return None,
        };
        let what = format!("the image is a delta over a parent {parent}, which is never opened; flatten it first");
        Some(Refusal { code: "parent", what })
    }

    fn value(&self, key: &str) -> Option<&str> {
        self.values(key).next()
    }

    fn values(&self, key: &str) -> impl Iterator<Item = &str> {
        self.entries.iter().filter(move |(found, _)| found == key).map(|(_, value)| value.as_str())
    }
}

impl ExtentLine {
    /// Reads `RW 4192256 SPARSE "disk-s001.vmdk" 0`, with or without what follows the kind; `None` if the line is something else.
    fn parse(line: &str) -> Option<Self> {
        let (access, rest) = line.split_once([' ', '\t'])?;
        // rPath's tools write RO.
        let is_access = ["RW", "RDONLY", "RO", "NOACCESS"].iter().any(|known| access.eq_ignore_ascii_case(known));
        if !is_access {
            return None;
        }
        let rest = rest.trim_start();
        let (sectors, rest) = rest.split_once([' ', '\t']).unwrap_or((rest, ""));
        let rest = rest.trim_start();
        let (kind, name) = rest.split_once([' ', '\t']).unwrap_or((rest, ""));
        Some(Self {
            access: access.to_owned(),
            sectors: sectors.parse().ok(),
            kind: kind.to_owned(),
            name: quoted_part(name.trim()).to_owned(),
        })
    }
}

/// The name of a parent in `line`, or whatever else stands where there could be one. qemu looks for it in the whole text: behind other letters
/// and in comments, too.
fn parent_name(line: &str) -> Option<&str> {
    const KEY: &str = "parentfilenamehint";
    let at = line.to_ascii_lowercase().find(KEY)?;
    let rest = line.get(at.saturating_add(KEY.len())..)?;
    match rest.trim_start().strip_prefix('=') {
        Some(value) => Some(unquoted(value)).filter(|name| !name.is_empty()),
        None => Some(unquoted(rest)),
    }
}

/// What stands between the first two quotes; all of it if there are none.
fn quoted_part(text: &str) -> &str {
    text.split('"').nth(1).unwrap_or(text)
}

fn unquoted(value: &str) -> &str {
    value.trim().trim_matches('"').trim()
}

/// A hexadecimal number as qemu takes it: with or without 0x, and whatever stands behind it.
fn content_id(value: &str) -> Option<u32> {
    let word = value.split_whitespace().next()?;
    let digits = word.strip_prefix("0x").or_else(|| word.strip_prefix("0X")).unwrap_or(word);
    u32::from_str_radix(digits, 16).ok()
}

fn is_nil(uuid: &str) -> bool {
    !uuid.chars().any(|c| c.is_ascii_alphanumeric() && c != '0')
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: &str = "# Disk DescriptorFile\nversion=1\nCID=0000abcd\nparentCID=ffffffff\n\
                         createType=\"monolithicSparse\"\nRW 2048 SPARSE \"a b.vmdk\"\nddb.adapterType = \"ide\"\n\0\0junk";

    fn codes(text: &str) -> Vec<&'static str> {
        let descriptor = Descriptor::parse(text.as_bytes(), 512).unwrap();
        descriptor.refusals("monolithicSparse").iter().map(|refusal| refusal.code).collect()
    }

    #[test]
    fn a_plain_descriptor_is_read() {
        let descriptor = Descriptor::parse(PLAIN.as_bytes(), 512).unwrap();
        assert_eq!((descriptor.cid(), descriptor.parent_cid), (Some(Detail::Number(0xabcd)), Some(NO_PARENT)));
        assert_eq!((descriptor.create_type(), descriptor.size()), (Some("monolithicSparse"), Some(2048 * 512)));
        assert_eq!(codes(PLAIN), [""; 0]);
    }

    #[test]
    fn case_spacing_and_line_ends_do_not_matter() {
        for text in [
            PLAIN.to_ascii_lowercase(),
            PLAIN.to_ascii_uppercase(),
            PLAIN.replace('\n', "\r\n"),
            PLAIN.replace('=', " =\t"),
            PLAIN.replace("RW 2048 SPARSE ", "  rdonly\t2048   sparse "),
            PLAIN.replace("\"monolithicSparse\"", "monolithicSparse"),
            PLAIN.replace("a b.vmdk", "whatever it is called"),
        ] {
            assert_eq!(codes(&text), [""; 0], "{text}");
            assert_eq!(Descriptor::parse(text.as_bytes(), 512).unwrap().size(), Some(2048 * 512), "{text}");
        }
    }

    #[test]
    fn what_leads_to_another_file_is_refused_by_name() {
        let bent = |from: &str, to: &str| codes(&PLAIN.replace(from, to));
        assert_eq!(bent("monolithicSparse", "monolithicFlat"), ["create-type"]);
        assert_eq!(bent("createType", "kreateType"), ["create-type"]);
        assert_eq!(bent("RW 2048", "RW 2048 SPARSE \"b\"\nRW 2048"), ["extents"]);
        assert_eq!(bent("RW 2048", "version"), ["extents"]);
        for kind in ["FLAT", "ZERO", "VMFS", "VMFSSPARSE", "VMFSRDM", "VMFSRAW", "SESPARSE"] {
            assert_eq!(bent("SPARSE \"", &format!("{kind} \"")), ["extent-kind"]);
        }
        assert_eq!(bent("RW ", "NOACCESS "), ["extent-kind"]);
        assert_eq!(bent("RW 2048", "RW many"), ["extent-kind"]);
        assert_eq!(bent("a b.vmdk", "/etc/passwd"), ["extent-path"]);
        assert_eq!(bent("a b.vmdk", "..\\b.vmdk"), ["extent-path"]);
        assert_eq!(bent("\"a b.vmdk\"", "/etc/passwd"), ["extent-path"]);
        assert_eq!(codes("\0\0\0"), ["piece"]);
    }

    #[test]
    fn each_kind_of_link_to_a_parent_is_refused() {
        let with = |line: &str| codes(&PLAIN.replace("version=1", line));
        assert_eq!(codes(&PLAIN.replace("ffffffff", "0000abce")), ["parent"]);
        assert_eq!(with("parentFileNameHint=\"base.vmdk\""), ["parent"]);
        assert_eq!(with("ddb.uuid.parent=\"5b7a0e1c-0000-0000-0000-000000000000\""), ["parent"]);
        assert_eq!(with("ddb.uuid.parent=\"00000000-0000-0000-0000-000000000000\""), [""; 0]);
        assert_eq!(with("parentFileNameHint=\"\""), [""; 0]);
    }

    #[test]
    fn a_line_that_names_no_parent_hides_none_that_does() {
        let with = |line: &str| codes(&format!("{line}\n{}", PLAIN.replace('\0', "")));
        for (line, none) in [
            ("parentCID=12345678", "parentCID=ffffffff"),
            ("parentFileNameHint=\"base.vmdk\"", "parentFileNameHint=\"\""),
            ("ddb.uuid.parent=\"5b7a0e1c-0000\"", "ddb.uuid.parent=\"\""),
        ] {
            assert_eq!(with(none), [""; 0], "{none}");
            assert_eq!(with(&format!("{none}\n{line}")), ["parent"], "{line}");
            assert_eq!(with(&format!("{line}\n{none}")), ["parent"], "{line}");
        }
        assert_eq!(with("createType=\"monolithicFlat\""), ["create-type"]);
        for line in [
            "# a parentFileNameHint",
            "#  ParentFileNameHint=\"base.vmdk\"",
            "# no parentFileNameHint=\"a\"",
            "xparentFileNameHint =a",
            "parentFileNameHint a",
        ] {
            assert_eq!(with(line), ["parent"], "{line}");
        }
        assert_eq!(with("#parentCID=12345678\n# parentFileNameHint = \"\""), [""; 0]);
        let two = Descriptor::parse(PLAIN.replace("ffffffff", "ffffffff\nparentCID=many").as_bytes(), 512);
        let error = two.unwrap_err();
        assert_eq!(error.code(), "vmdk-content-id");
        assert!(error.to_string().contains("\"many\""), "{error}");
    }

    #[test]
    fn a_content_id_is_shown_whatever_it_is() {
        let shown = |cid| Descriptor::parse(PLAIN.replace("0000abcd", cid).as_bytes(), 512).unwrap().cid();
        for cid in ["0xabcd", "0XABCD", "00000000abcd"] {
            assert_eq!(shown(cid), Some(Detail::Number(0xabcd)), "{cid}");
        }
        for cid in ["3984736254", "none"] {
            assert_eq!(shown(cid), Some(Detail::Text(cid.to_owned())));
        }
    }

    #[test]
    fn a_content_id_of_the_parent_that_is_no_number_or_missing_is_corrupt() {
        let parsed = |from, to: &str| Descriptor::parse(PLAIN.replace(from, to).as_bytes(), 512);
        for (from, to) in [("ffffffff", "fffffffff"), ("ffffffff", "4294967295"), ("parentCID", "qarentCID")] {
            assert_eq!(parsed(from, to).unwrap_err().code(), "vmdk-content-id", "{to}");
        }
        for none in ["0xffffffff", "FFFFFFFF", "0000ffffffff", "ffffffff  # no parent"] {
            assert_eq!(parsed("ffffffff", none).unwrap().parent_cid, Some(NO_PARENT), "{none}");
        }
        // Where something else says that there is a parent, it decides nothing.
        assert_eq!(codes(&PLAIN.replace("ffffffff", "xyz\nparentFileNameHint=\"base.vmdk\"")), ["parent"]);
    }

    #[test]
    fn an_extent_line_may_do_without_a_name() {
        for line in ["RO 2048 SPARSE", "RW 2048 SPARSE \"\"", "ro\t2048\tsparse "] {
            let text = PLAIN.replace("RW 2048 SPARSE \"a b.vmdk\"", line);
            assert_eq!(codes(&text), [""; 0], "{line}");
            assert_eq!(Descriptor::read(text.as_bytes()).size(), Some(2048 * 512), "{line}");
        }
    }

    #[test]
    fn a_text_file_is_told_by_its_title() {
        for head in ["# Disk DescriptorFile\n", "\u{feff}# disk descriptorfile", "\r\n  #DISK DESCRIPTORFILE"] {
            assert!(is_text(head.as_bytes()), "{head:?}");
        }
        for head in ["", "#", "# Disk Descriptor", "Disk DescriptorFile"] {
            assert!(!is_text(head.as_bytes()), "{head:?}");
        }
    }
}
