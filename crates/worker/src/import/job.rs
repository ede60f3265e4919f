//! One attempt: from the source that was ordered to the destination.

use std::sync::atomic::{AtomicBool, Ordering};

use diskferry::digest::{Algorithm, Checksum};
use diskferry::sink::Sink;
use diskferry::{Course, Error, Input, Inspection, Kind, Opened, Options, Progress, Report, Result, Side, Stated};
use diskferry_remote::oci::{self, Claims, Reference, Registry, Target, Upload};
use diskferry_remote::source::{Reading, Source};
use diskferry_remote::{Client, Location, Runtime, Sandbox, signals};

use super::journal::Journal;
use super::order::{Destination, Order, Origin, Store, Volume};
use super::volume;
use crate::human::say;
use crate::status::{Board, Facts, Reason};
use crate::verdict::Verdict;

/// Code of the errors by which a server shows that it speaks no TLS.
const SOURCE_TLS: &str = "source-tls";
const TARGET_TLS: &str = "target-tls";

/// How an image is decoded.
pub struct How<'a> {
    pub options: &'a Options,
    pub sandbox: &'a Sandbox,
}

/// Whether a container image is copied as it is.
pub fn is_copy(order: &Order) -> bool {
    order.origin == Origin::Registry && matches!(order.destination, Destination::Registry(_))
}

/// Does what was ordered.
pub fn attempt(order: &Order, board: &Board, progress: &Progress) -> Result<Facts> {
    match &order.destination {
        Destination::Registry(store) if is_copy(order) => copied(order, store, board, progress),
        Destination::Registry(store) => pushed(order, store, board, progress),
        Destination::Volume(volume) => written(order, volume, board, progress),
    }
}

/// Copies a container image from registry to registry.
fn copied(order: &Order, store: &Store, board: &Board, progress: &Progress) -> Result<Facts> {
    let Location::Registry(reference) = &order.location else { return Err(unexpected("no registry to copy from")) };
    let Reading { access, keys, wish, .. } = &order.reading;
    let (runtime, client) = (Runtime::new()?, Client::new(access)?);
    let target = Target::Registry(Box::new(upload(&runtime, store, Some(reference), progress)?));
    let (copied, claims) = plain_where_it_must_be(order, |is_plain| {
        let store = |reference: &Reference| {
            oci::Store::Registry(Box::new(Registry::new(&runtime, &client, reference, keys, is_plain)))
        };
        let copied = oci::copy(&store(reference), &target, wish, progress)?;
        // The tag may lead to another image by now.
        let found = store(&reference.at(&copied.digest)).find(wish, progress);
        match found {
            Ok(image) => Ok((copied, image.claims().cloned())),
            // What cannot be read as a disk image is copied all the same.
            Err(error) if error.kind() == Kind::Image => Ok((copied, None)),
            Err(error) => Err(error),
        }
    })?;
    board.opened();
    let Claims { format, stored_size, virtual_size } = match claims {
        Some(claims) => claims,
        None => return Ok(Facts { digest: Some(copied.digest.to_string()), ..Facts::default() }),
    };
    Ok(Facts {
        stored_size,
        unpacked_size: Some(virtual_size),
        cdrom: Some(format == "iso"),
        format: Some(format),
        digest: Some(copied.digest.to_string()),
        ..Facts::default()
    })
}

/// Brings an image, which cannot be had twice, to its destination.
pub fn deliver(
    input: Input,
    destination: &Destination,
    how: &How,
    board: &Board,
    progress: &Progress,
) -> Result<Facts> {
    match destination {
        Destination::Registry(store) => {
            let mut first = Some(input);
            let lost = "the registry has lost what it had, and the image does not come again: send it anew";
            let open = || first.take().ok_or_else(|| Error::Target { code: "upload-lost", what: lost.into() });
            into_registry(open, store, how.options, progress, |report| report)
        }
        Destination::Volume(volume) => onto_volume(input, volume, None, how, board, progress, |report| report),
    }
}

/// Puts an image into a registry.
fn pushed(order: &Order, store: &Store, board: &Board, progress: &Progress) -> Result<Facts> {
    let (source, input) = open(order, progress)?;
    board.opened();
    let options = options(order, &input)?;
    let mut first = Some(input);
    let open = || match first.take() {
        Some(input) => Ok(input),
        None => source.open(progress)?.ok_or_else(terminal),
    };
    into_registry(open, store, &options, progress, |report| source.correct(report))
}

fn into_registry(
    open: impl FnMut() -> Result<Input>,
    store: &Store,
    options: &Options,
    progress: &Progress,
    correct: impl Fn(Report) -> Report,
) -> Result<Facts> {
    let runtime = Runtime::new()?;
    let target = Target::Registry(Box::new(upload(&runtime, store, None, progress)?));
    let pushed = target.push::<Error>(open, &store.plan, options, progress)?;
    Ok(Facts { digest: Some(pushed.manifest.to_string()), ..facts(&correct(pushed.report)) })
}

/// Writes a disk to a volume.
fn written(order: &Order, volume: &Volume, board: &Board, progress: &Progress) -> Result<Facts> {
    let (source, input) = open(order, progress)?;
    board.opened();
    let options = options(order, &input)?;
    let journal = Journal::of(order, volume, &options, &input);
    let how = How { options: &options, sandbox: &order.sandbox };
    let written = onto_volume(input, volume, journal, &how, board, progress, |report| source.correct(report));
    if written.as_ref().is_err_and(|error| !may_go_on(error)) {
        // Nobody will go on with what another process has left either.
        volume.remove_leftovers();
    }
    written
}

fn onto_volume(
    input: Input,
    volume: &Volume,
    journal: Option<Journal>,
    how: &How,
    board: &Board,
    progress: &Progress,
    correct: impl Fn(Report) -> Report,
) -> Result<Facts> {
    let begun = journal.as_ref().and_then(Journal::begun);
    let room = volume.room(begun.as_ref().map(|begun| begun.path.as_path()))?;
    let read_from = volume::Source::of(&input);
    let How { options, sandbox } = *how;
    let opened = sandbox.run(|| {
        let mut opened = diskferry::open(input, options, progress)?;
        opened.look_for_unpacked_size()?;
        Ok::<_, Error>(opened)
    })??;
    let found = opened.inspection();
    board.learn(found_out(&found));
    if let Some(refusal) = found.image.refusals.first() {
        // That counts more than that it would not fit either.
        let (format, code, what) = (found.image.format, refusal.code, refusal.what.clone());
        return Err(Error::Unsupported { format, code, what });
    }
    let size = found.image.virtual_size;
    let journal = journal.filter(|_| opened.is_resumable());
    let begun = begun.filter(|begun| journal.is_some() && size == Some(begun.size));
    let place = begun.as_ref().map(|begun| begun.path.as_path());
    let sink = volume.sink(room, size, place, &read_from, how, progress)?;
    let from = begun.filter(|_| sink.is_resumable()).map_or(0, |begun| begun.named);
    let report = match (journal, size) {
        (Some(journal), Some(size)) => Along { journal, size, from }.carry(opened, sink, how, board)?,
        _ => sandbox.run(|| opened.complete(&sink, None))??.publish()?,
    };
    let report = correct(report);
    let digest = report.digests.first().map(Checksum::to_string);
    Ok(Facts { digest, preallocated: Some(volume.preallocate && !volume.is_block), ..facts(&report) })
}

/// A disk of which a journal is kept, by which another attempt can go on.
struct Along {
    journal: Journal,
    /// Its bytes.
    size: u64,
    /// How many of them, in the order in which they are named, are there.
    from: u64,
}

impl Along {
    fn carry(self, opened: Opened, sink: volume::Sized, how: &How, board: &Board) -> Result<Report> {
        let Self { journal, size, from } = self;
        let sandbox = how.sandbox;
        if from > 0 {
            signals::leave_temporary();
            let message = format!("goes on where it was interrupted, {from} bytes of the disk are there");
            // That it is stopped meanwhile is seen soon.
            let _ = board.enter(Reason::Provisioning, message);
        }
        let unfinished = sink.unfinished();
        let (is_kept, is_marked) = (AtomicBool::new(true), AtomicBool::new(from > 0));
        let mark = |named| {
            let Some(unfinished) = unfinished.clone().filter(|_| is_kept.load(Ordering::Relaxed)) else {
                return Ok(());
            };
            let journal = journal.clone();
            let written = sandbox.outside(move || journal.write(&unfinished, size, named)).and_then(|written| written);
            match written {
                Ok(()) => {
                    is_marked.store(true, Ordering::Relaxed);
                    signals::leave_temporary();
                }
                // The disk is as good without.
                Err(error) => {
                    is_kept.store(false, Ordering::Relaxed);
                    say(&format!(
                        "the journal is kept no longer, what comes now would come again after an interruption: {error}"
                    ));
                }
            }
            Ok(())
        };
        let course = Course { from, every: journal.every(), mark: &mark };
        let carried = sandbox.run(|| opened.complete(&sink, Some(&course)));
        let published = carried.and_then(|complete| complete?.publish());
        let may_go_on = |error: &Error| is_marked.load(Ordering::Relaxed) && may_go_on(error);
        let is_left = published.as_ref().is_err_and(may_go_on) && sink.leave();
        if !is_left {
            journal.forget();
        }
        published
    }
}

/// Whether what was carried may be of use: to the next attempt, to who is started after this process, or when somebody has seen to the
/// source. Of one that has changed it is not known what was carried.
fn may_go_on(error: &Error) -> bool {
    let may_pass = matches!(error.kind(), Kind::Stopped | Kind::Source) || Verdict::of(error).is_transient();
    may_pass && error.code() != "source-changed"
}

/// Opens the source, without TLS where that is allowed and there is none.
fn open<'a>(order: &'a Order, progress: &Progress) -> Result<(Source<'a>, Input)> {
    let opened = |plain_http| -> Result<_> {
        let reading = Reading { plain_http, ..order.reading.clone() };
        let source = Source::new(&order.location, reading, |name| order.s3.get(name))?;
        let input = source.open(progress)?.ok_or_else(terminal)?;
        Ok((source, input))
    };
    plain_where_it_must_be(order, opened)
}

fn plain_where_it_must_be<T>(order: &Order, work: impl Fn(bool) -> Result<T>) -> Result<T> {
    let is_plain = order.reading.plain_http;
    match work(is_plain) {
        Err(error) if !is_plain && order.source_may_be_plain && error.code() == SOURCE_TLS => {
            // The first answer says more, unless the second one is better.
            work(true).map_err(|second| if second.code() == "source-unreachable" { error } else { second })
        }
        done => done,
    }
}

/// What writes to the registry, without TLS where that is allowed and there is none. Blobs of the repository `beside` need not be sent.
fn upload(runtime: &Runtime, store: &Store, beside: Option<&Reference>, progress: &Progress) -> Result<Upload> {
    let client = Client::new(&store.access)?;
    let upload =
        |is_plain| Upload::new(runtime, &client, &store.reference, beside, &store.keys, is_plain, store.patience);
    if store.plain_http || !store.may_be_plain {
        return Ok(upload(store.plain_http));
    }
    // Any blob will do to see how the registry speaks.
    let nothing = Checksum { algorithm: Algorithm::Sha256, hex: EMPTY.into() };
    let with_tls = upload(false);
    match with_tls.blob_exists(&nothing, 0, progress) {
        Err(error) if error.code() == TARGET_TLS => {
            let without = upload(true);
            match without.blob_exists(&nothing, 0, progress) {
                Err(second) if second.code() == "target-unreachable" => Err(error),
                _ => Ok(without),
            }
        }
        // It has been waited for already.
        Err(error) if ["target-unreachable", "target-busy", "stopped"].contains(&error.code().as_str()) => Err(error),
        _ => Ok(with_tls),
    }
}

/// sha256 of nothing.
const EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/// The options for an input. What a guest could write to is raw, or an ISO as which it was made: nothing else is believed.
fn options(order: &Order, input: &Input) -> Result<Options> {
    let mut options = order.options.clone();
    if let (Origin::Device, None, Input::File(device)) = (order.origin, &options.format, input) {
        let device = device.try_clone().map_err(|error| Error::reading(0, error))?;
        let looking = Options { format: None, ..options.clone() };
        let found = order.sandbox.run(|| diskferry::inspect(Input::File(device), &looking))?;
        let name = if found.is_ok_and(|found| found.image.format == "iso" && found.wrappings.is_empty()) {
            "iso"
        } else {
            "raw"
        };
        options.format = name.parse::<Stated>().ok();
    }
    Ok(options)
}

fn found_out(found: &Inspection) -> Facts {
    Facts {
        stored_size: found.stored_size,
        unpacked_size: found.unpacked_size,
        format: Some(found.image.format.to_owned()),
        cdrom: Some(found.image.cdrom),
        warnings: found.image.warnings.clone(),
        ..Facts::default()
    }
}

fn facts(report: &Report) -> Facts {
    found_out(&report.inspection)
}

fn terminal() -> Error {
    unexpected("the source is a terminal")
}

fn unexpected(what: &str) -> Error {
    Error::Io {
        side: Side::Source,
        doing: "opening the source",
        at: None,
        source: std::io::Error::other(what.to_owned()),
    }
}
