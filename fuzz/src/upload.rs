//! What strangers say to the server that takes an image, and whether it still serves others.

use std::io::Read;
use std::sync::{Arc, LazyLock};
use std::thread;
use std::time::Duration;

use diskferry_worker::status::{Board, Outlets, Work};
use diskferry_worker::upload::Paths;
use diskferry_worker::upload::intake::{Intake, Outcome, Times};
use diskferry_worker::upload::server::{Door, connection};
use diskferry_worker::verdict::Verdict;
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
use tokio::runtime::Runtime;
use tokio::time::timeout;

use crate::network::END;

/// How long a stranger listens before it stops talking, and how long a good client does and the server may take then.
const MOMENT: Duration = Duration::from_millis(5);
const LONG: Duration = Duration::from_secs(5);

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime")
});

/// Says one request after the other, each over a connection of its own; then a good client comes.
pub fn upload(script: &[u8]) {
    let requests: Vec<_> = script.split(|byte| *byte == END).take(4).collect();
    let sent: usize = requests.iter().map(|request| request.len()).sum();
    let times = Times { first: LONG, stall: LONG, resume: LONG, whole: None };
    let (intake, jobs) = Intake::new(times);
    let ended = intake.clone();
    let job = thread::spawn(move || {
        let mut most = 0;
        for mut job in jobs {
            let mut image = Vec::new();
            let outcome = match job.feed.read_to_end(&mut image) {
                Ok(_) => {
                    assert!(job.len.is_none_or(|len| len == image.len() as u64), "{} of {:?}", image.len(), job.len);
                    Outcome::Good
                }
                // It was begun anew, or the end has come.
                Err(_) => continue,
            };
            most = most.max(image.len());
            ended.end(outcome);
            break;
        }
        // Who waits for it while its own hand holds the door would wait for ever.
        drop(ended);
        most
    });
    let paths = Paths::new(None, true).expect("no token is none");
    let board = Board::new("", Outlets::none(Work::Upload));
    let door = Arc::new(Door { intake: intake.clone(), board, paths, client_name: None });
    RUNTIME.block_on(async {
        for request in requests {
            say(&door, request, MOMENT).await;
        }
        let health = say(&door, b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", LONG).await;
        assert!(health.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&health));
        let mut good = Vec::new();
        // Somebody who begins while the one before is still being let go is asked to come again.
        for _ in 0..100 {
            let request = b"PUT /upload HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 5\r\n\r\nimage";
            good = say(&door, request, LONG).await;
            if good.starts_with(b"HTTP/1.1 200") || intake.outcome().is_some() {
                break;
            }
            tokio::time::sleep(MOMENT).await;
        }
        let is_ended = intake.outcome().is_some();
        assert!(is_ended, "a good client is refused: {}", String::from_utf8_lossy(&good));
    });
    intake.end(Outcome::Bad(Verdict::settings("over")));
    drop((door, intake));
    let most = job.join().expect("the image came as it was promised");
    assert!(most <= sent.max(5), "{most} bytes of an image, where {sent} were sent");
}

/// Sends a request, and gives the answer, if it comes in time.
async fn say(door: &Arc<Door>, request: &[u8], patience: Duration) -> Vec<u8> {
    let (mut ours, theirs) = duplex(64 << 10);
    let served = connection(theirs, Arc::clone(door), true);
    let said = async {
        let mut answer = Vec::new();
        // Who closes early has heard enough.
        let _ = ours.write_all(request).await;
        if timeout(patience, ours.read_to_end(&mut answer)).await.is_err() {
            let _ = ours.shutdown().await;
            let _ = ours.read_to_end(&mut answer).await;
        }
        answer
    };
    let both = async { tokio::join!(served, said).1 };
    timeout(patience + LONG, both).await.expect("a server that lets go of who has gone")
}
