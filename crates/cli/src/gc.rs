//! `diskferry gc`.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use diskferry::Progress;
use diskferry_remote::oci::stock::{KeepList, Place, Survey, Unused};
use rustix::fs::statvfs;
use serde_json::{Value, json};

use crate::args::{GcCheckArgs, GcCommand};
use crate::exit::Failure;
use crate::size::iec;
use crate::{columns, json, output, signals};

/// Largest list that is read, in bytes.
const MOST: u64 = 64 << 20;

/// Runs what was asked for.
pub fn run(command: GcCommand) -> Result<(), Failure> {
    match command {
        GcCommand::Check(args) => check(&args),
    }
}

/// Prints which images nobody needs.
fn check(args: &GcCheckArgs) -> Result<(), Failure> {
    let progress = Progress::default();
    signals::watch(&progress)?;
    let keep = keep_list(&args.keep_list, &args.store.store)?;
    if keep.is_empty() && !args.keep_nothing {
        let what = "the list of images to keep is empty; if none is needed, say so with --keep-nothing";
        return Err(Failure::Usage(what.into()));
    }
    let survey = args.store.open()?.survey(&keep, &progress)?;
    let room = Room::of(&args.store.store);
    let text = if args.store.json {
        json::text(&object(&args.store.store, &keep, &survey, room.as_ref()))
    } else {
        text(&keep, &survey, room.as_ref())
    };
    for (name, error) in &survey.unknown {
        output::say(&format!("warning: {name}: {error}"));
    }
    output::result(&text)
}

fn keep_list(path: &Path, place: &Place) -> Result<KeepList, Failure> {
    let bad = |why: String| Failure::Usage(format!("--keep-list {}: {why}", path.display()));
    let mut text = Vec::new();
    let read = if path == Path::new("-") {
        std::io::stdin().take(MOST + 1).read_to_end(&mut text)
    } else {
        File::open(path).and_then(|file| file.take(MOST + 1).read_to_end(&mut text))
    };
    read.map_err(|error| bad(error.to_string()))?;
    if text.len() as u64 > MOST {
        return Err(bad(format!("more than {MOST} bytes")));
    }
    let text = String::from_utf8(text).map_err(|_| bad("not a text in UTF-8".into()))?;
    KeepList::parse(&text, place).map_err(bad)
}

/// How much room there is where a layout is.
struct Room {
    total: u64,
    available: u64,
}

impl Room {
    fn of(place: &Place) -> Option<Self> {
        let Place::Layout(dir) = place else { return None };
        let found = statvfs(dir).ok()?;
        let bytes = |blocks: u64| blocks.saturating_mul(found.f_frsize);
        Some(Self { total: bytes(found.f_blocks), available: bytes(found.f_bavail) }).filter(|room| room.total > 0)
    }

    fn used(&self) -> u64 {
        self.total.saturating_sub(self.available)
    }

    fn percent(&self) -> u64 {
        let free = u128::from(self.available) * 100 / u128::from(self.total.max(1));
        100_u64.saturating_sub(u64::try_from(free).unwrap_or(100))
    }
}

/// Platforms call repositories so, and what they are for.
const KINDS: [(&str, &str); 3] = [("cvi", "ClusterVirtualImage"), ("vi", "VirtualImage"), ("vd", "VirtualDisk")];

/// What administrators of such platforms are used to, line for line, and behind each image what it frees.
fn text(keep: &KeepList, survey: &Survey, room: Option<&Room>) -> String {
    let mut lines = vec![found(survey), format!("Found {} images in the list to keep", keep.len())];
    if let Some(room) = room {
        let short = |bytes: u64| iec(bytes).replace(' ', "");
        lines.push(format!("{:>7} {:>7} {:>7} {:>7}", "Total", "Used", "Avail", "Use%"));
        let (total, used, available) = (short(room.total), short(room.used()), short(room.available));
        lines.push(format!("{total:>7} {used:>7} {available:>7} {:>7}", format!("{}%", room.percent())));
    }
    if survey.unused.is_empty() {
        lines.push("No images eligible for auto-cleanup.".into());
        return lines.join("\n");
    }
    lines.push("Images eligible for cleanup:".into());
    let mut rows = vec![["KIND", "NAMESPACE", "NAME", "FREES", "SHARED"].map(str::to_owned).to_vec()];
    rows.extend(survey.unused.iter().map(row));
    lines.push(columns::text(&rows));
    lines.push(format!("Together they would free {} of {}", iec(survey.freed), iec(survey.size)));
    lines.join("\n")
}

fn found(survey: &Survey) -> String {
    let count = |prefix: &str| -> usize {
        let is_one = |name: &String| name.split('/').next() == Some(prefix);
        survey.repositories.iter().filter(|(name, _)| is_one(name)).map(|(_, count)| count).sum()
    };
    let counts = KINDS.map(|(prefix, _)| (prefix, count(prefix)));
    let known: usize = counts.iter().map(|(_, count)| count).sum();
    if known == 0 {
        return format!("Found {} manifests in the store", survey.images);
    }
    let mut parts: Vec<_> = counts.iter().map(|(prefix, count)| format!("{count} {prefix}")).collect();
    if survey.images > known {
        parts.push(format!("{} other", survey.images - known));
    }
    format!("Found {} manifests in registry", parts.join(", "))
}

fn row(unused: &Unused) -> Vec<String> {
    let repository = unused.repository.as_deref().unwrap_or_default();
    let parts: Vec<_> = repository.split('/').collect();
    let kind = |prefix: &str| KINDS.iter().find(|(known, _)| *known == prefix).map(|(_, kind)| (*kind).to_owned());
    let tag = unused.tags.join(",");
    let (kind, namespace, name) = match parts.as_slice() {
        ["cvi", name] => (kind("cvi"), "", format!("{name}:{tag}")),
        [prefix @ ("vi" | "vd"), namespace, name] => (kind(prefix), *namespace, format!("{name}:{tag}")),
        _ => (None, "", unused.name()),
    };
    let kind = kind.unwrap_or_else(|| "-".into());
    vec![kind, namespace.to_owned(), name, iec(unused.frees), iec(unused.shared)]
}

fn object(place: &Place, keep: &KeepList, survey: &Survey, room: Option<&Room>) -> Value {
    let unused: Vec<_> = survey
        .unused
        .iter()
        .map(|unused| {
            json!({
                "name": unused.name(), "repository": unused.repository, "tags": unused.tags,
                "digest": unused.digest, "frees": unused.frees, "shared": unused.shared,
            })
        })
        .collect();
    let unknown: Vec<_> = survey
        .unknown
        .iter()
        .map(|(name, error)| json!({ "name": name, "code": error.code(), "message": error.to_string() }))
        .collect();
    let room = room.map(|room| {
        json!({ "total": room.total, "used": room.used(), "available": room.available, "use-percent": room.percent() })
    });
    json!({
        "store": place.to_string(), "keep-list": keep.len(), "manifests": survey.images, "kept": survey.kept,
        "size": survey.size, "room": room, "unused": unused, "frees": survey.freed, "unknown": unknown,
    })
}
