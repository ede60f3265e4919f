//! `diskferry gc`.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use diskferry::Progress;
use diskferry_remote::oci::stock::{KeepList, Order, Place, Seen, Survey, Sweep, Unused};
use rustix::fs::statvfs;
use serde_json::{Value, json};

use crate::args::{GcCheckArgs, GcCommand, GcRunArgs, KeepArgs};
use crate::exit::Failure;
use crate::size::iec;
use crate::{columns, json, output, signals};

/// Largest list that is read, in bytes.
const MOST: u64 = 64 << 20;

/// Entries that no image has of which so many are named.
const SHOWN: usize = 20;

/// Runs what was asked for.
pub fn run(command: GcCommand) -> Result<(), Failure> {
    match command {
        GcCommand::Check(args) => check(&args),
        GcCommand::Run(args) => sweep(&args),
    }
}

/// Prints which images nobody needs.
fn check(args: &GcCheckArgs) -> Result<(), Failure> {
    let progress = Progress::default();
    signals::watch(&progress)?;
    let keep = keep_list(&args.keep, &args.store.store)?;
    let survey = args.dealing.during(&args.store.store, &progress, |stock| stock.survey(&keep, &progress))?;
    let room = Room::of(&args.store.store);
    let text = if args.store.json {
        json::text(&object(&args.store.store, &keep, &survey, room.as_ref()))
    } else {
        text(&keep, &survey, room.as_ref())
    };
    for (name, error) in &survey.unknown {
        output::say(&format!("warning: {name}: {error}"));
    }
    warn_of_unmatched(&keep);
    output::result(&text)
}

/// Removes them, or says what it would remove.
fn sweep(args: &GcRunArgs) -> Result<(), Failure> {
    let progress = Progress::default();
    signals::watch(&progress)?;
    let place = &args.store.store;
    let keep = keep_list(&args.keep, place)?;
    if args.seen.is_some() && matches!(place, Place::Layout(_)) {
        return Err(Failure::Usage("--seen is for a registry: files of a layout tell when they were written".into()));
    }
    let mut seen = args.seen.as_deref().map(Seen::open).transpose()?;
    let order =
        Order { keep: &keep, keep_nothing: args.keep.nothing, grace: args.grace, seen: seen.as_mut(), act: args.yes };
    let done = args.dealing.during(&args.store.store, &progress, |stock| stock.sweep(order, &progress))?;
    let room = Room::of(place);
    warn_of_unmatched(&keep);
    for (name, error) in &done.survey.unknown {
        output::say(&format!("warning: {name}: {error}"));
    }
    output::result(&if args.store.json {
        json::text(&swept(place, args.yes, &done, room.as_ref()))
    } else {
        outcome(place, args.yes, &done, room.as_ref())
    })
}

fn outcome(place: &Place, act: bool, done: &Sweep, room: Option<&Room>) -> String {
    let mut lines = vec![found(&done.survey)];
    let young = done.young.len();
    if !done.removed.is_empty() {
        lines.push(if act { "Removed images:" } else { "Images that would be removed:" }.into());
        lines.push(table(&done.removed));
    } else {
        lines.push("No images eligible for auto-cleanup.".into());
    }
    if young > 0 {
        lines.push(format!("{young} images are not needed and stay for now, they are too young (--grace)"));
    }
    let size = iec(done.freed);
    lines.push(match (place, act) {
        (Place::Layout(_), true) => format!("Freed space after cleanup: {size}, {} blobs", done.blobs),
        (Place::Layout(_), false) => format!("{size} in {} blobs would be freed; --yes does it", done.blobs),
        (Place::Registry { .. }, true) => format!("{size} can be freed by the registry's own garbage collector"),
        (Place::Registry { .. }, false) => {
            format!("the registry's own garbage collector could free {size} then; --yes removes the images")
        }
    });
    lines.extend(room.map(Room::lines));
    lines.join("\n")
}

fn swept(place: &Place, act: bool, done: &Sweep, room: Option<&Room>) -> Value {
    let list = |images: &[Unused]| images.iter().map(image).collect::<Vec<_>>();
    json!({
        "store": place.to_string(), "dry-run": !act, "manifests": done.survey.images, "kept": done.survey.kept,
        "removed": list(&done.removed), "young": list(&done.young), "blobs": done.blobs, "freed": done.freed,
        "room": room.map(Room::object), "unknown": unknown(&done.survey),
    })
}

/// Who has mistyped a name would lose what it stands for.
fn warn_of_unmatched(keep: &KeepList) {
    let unmatched = keep.unmatched();
    for name in unmatched.iter().take(SHOWN) {
        output::say(&format!("warning: no image is {name} of the list to keep"));
    }
    if unmatched.len() > SHOWN {
        output::say(&format!("warning: nor are {} others", unmatched.len() - SHOWN));
    }
}

fn keep_list(args: &KeepArgs, place: &Place) -> Result<KeepList, Failure> {
    let path = args.list.as_path();
    let keep = read(path, place)?;
    if keep.is_empty() && !args.nothing {
        let what = "the list of images to keep is empty; if none is needed, say so with --keep-nothing";
        return Err(Failure::Usage(what.into()));
    }
    Ok(keep)
}

fn read(path: &Path, place: &Place) -> Result<KeepList, Failure> {
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

    fn lines(&self) -> String {
        let short = |bytes: u64| iec(bytes).replace(' ', "");
        let (total, used, available) = (short(self.total), short(self.used()), short(self.available));
        let percent = format!("{}%", self.percent());
        let head = format!("{:>7} {:>7} {:>7} {:>7}", "Total", "Used", "Avail", "Use%");
        format!("{head}\n{total:>7} {used:>7} {available:>7} {percent:>7}")
    }

    fn object(&self) -> Value {
        json!({ "total": self.total, "used": self.used(), "available": self.available, "use-percent": self.percent() })
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
    lines.extend(room.map(Room::lines));
    if survey.unused.is_empty() {
        lines.push("No images eligible for auto-cleanup.".into());
        return lines.join("\n");
    }
    lines.push("Images eligible for cleanup:".into());
    lines.push(table(&survey.unused));
    lines.push(format!("Together they would free {} of {}", iec(survey.freed), iec(survey.size)));
    lines.join("\n")
}

fn table(images: &[Unused]) -> String {
    let mut rows = vec![["KIND", "NAMESPACE", "NAME", "FREES", "SHARED"].map(str::to_owned).to_vec()];
    rows.extend(images.iter().map(row));
    columns::text(&rows)
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
    let unused: Vec<_> = survey.unused.iter().map(image).collect();
    json!({
        "store": place.to_string(), "keep-list": keep.len(), "keep-list-unmatched": keep.unmatched().len(),
        "manifests": survey.images, "kept": survey.kept,
        "size": survey.size, "room": room.map(Room::object), "unused": unused, "frees": survey.freed, "unknown": unknown(survey),
    })
}

fn image(unused: &Unused) -> Value {
    json!({
        "name": unused.name(), "repository": unused.repository, "tags": unused.tags, "digest": unused.digest,
        "frees": unused.frees, "shared": unused.shared,
    })
}

fn unknown(survey: &Survey) -> Vec<Value> {
    let unknown = survey.unknown.iter();
    unknown.map(|(name, error)| json!({ "name": name, "code": error.code(), "message": error.to_string() })).collect()
}
