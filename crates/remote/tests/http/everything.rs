//! Everything at once.

use super::*;

/// The schedules are for files of some bytes. What comes in pieces of a few bytes would take hours for an image.
fn in_time(answer: &Answer) -> Answer {
    let told = format!("{answer:?}");
    if told.contains("pace:") || told.contains("Chunked(") {
        return right().framing(Framing::Chunked(50_000, Chunks::Clean)).cut(300_000, End::Close);
    }
    answer.clone()
}

#[test]
fn random_schedules_never_make_a_wrong_disk() {
    const SEEDS: u64 = 240;
    let qcow2 = |seed| {
        let mut image = Qcow2::new((4 << 20) - 512).fill(seed);
        (image.l1, image.l2) = (Place::Behind, Place::Behind);
        image.shuffle = Some(seed);
        (image.build().image, image.disk())
    };
    let stream = |seed| {
        let image = Vmdk::new(Style::StreamTail, 6 << 11).fill(seed);
        (image.build().image, image.disk())
    };
    let packed = |seed| {
        let disk = Random::new(seed).text(1_500_032);
        (wrap::gzip(&disk), disk)
    };
    let kinds = [("qcow2", [qcow2(1), qcow2(2)]), ("vmdk", [stream(1), stream(2)]), ("raw.gz", [packed(1), packed(2)])];
    let (next, wrong, whole) = (AtomicU64::new(0), Mutex::new(Vec::new()), AtomicU64::new(0));
    thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                let shared = Fetcher::new();
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= SEEDS {
                        break;
                    }
                    let schedule = Schedule::random(seed + 5000);
                    let (format, [(image, disk), (other, other_disk)]) = &kinds[usize::try_from(seed % 3).unwrap()];
                    let answers: Vec<_> = schedule.answers.iter().map(in_time).collect();
                    let script = File::new(image.clone()).version(other.clone());
                    let (_server, url) = serve(script.gets_then(answers, schedule.rest.clone()));
                    let mut fetcher = Fetcher {
                        runtime: shared.runtime.clone(),
                        client: shared.client.clone(),
                        how: shared.how.clone(),
                    };
                    fetcher.how.format = Some(format.parse().unwrap());
                    fetcher.how.connections = if seed % 6 < 3 { 1 } else { 2 };
                    fetcher.how.patience.retries = 3 * u32::try_from(schedule.tries()).unwrap();
                    match fetcher.convert(&url, &Options::default()) {
                        Ok((found, _)) if found == *disk => drop(whole.fetch_add(1, Ordering::Relaxed)),
                        Ok((found, _)) if found == *other_disk && schedule.expect != Expect::Whole => {}
                        Ok(_) => wrong.lock().unwrap().push(format!("{format}: another disk: {schedule:?}")),
                        Err(error) if schedule.expect != Expect::Whole && error.code().starts_with("source-") => {}
                        Err(error) => {
                            wrong.lock().unwrap().push(format!("{format}: {error} ({}): {schedule:?}", error.code()))
                        }
                    }
                }
            });
        }
    });
    let wrong = wrong.into_inner().unwrap();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(whole.into_inner() > SEEDS / 2);
}
