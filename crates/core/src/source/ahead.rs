//! Reads a file ahead in a thread of its own, so that who unwraps it waits neither for the kernel's copies nor for digests.

use std::io::{self, Read};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread;

/// What is read in place before the thread is worth starting: who only looks at an image reads less.
const IN_PLACE: u64 = 1 << 20;

/// A piece: enough that handing it over does not show, little enough to stay in the processor's cache.
const PIECE: usize = 128 << 10;

/// Pieces that wait. One more is read and one is used at the same time.
const WAITING: usize = 2;

/// A reader that reads ahead of who reads from it. Its own reader must be one that does not wait for others for long, as files do not:
/// when this is dropped the thread ends with its next piece.
pub(crate) struct ReadAhead<R>(State<R>);

enum State<R> {
    InPlace {
        reader: R,
        /// What is still to be read before a thread is started. `None` where none can be.
        left: Option<u64>,
    },
    Ahead(Pieces),
    /// While the thread is started.
    Between,
}

struct Pieces {
    pieces: Receiver<io::Result<Vec<u8>>>,
    /// Pieces that were used, to be filled again.
    used: Sender<Vec<u8>>,
    piece: Vec<u8>,
    taken: usize,
    ended: bool,
}

impl<R: Read + Send + 'static> ReadAhead<R> {
    pub(crate) fn new(reader: R) -> Self {
        Self(State::InPlace { reader, left: Some(IN_PLACE) })
    }

    /// Has a thread go on with the reader. Where none can be started, it stays here.
    fn start(&mut self) {
        let State::InPlace { reader, .. } = std::mem::replace(&mut self.0, State::Between) else { return };
        let (send, pieces) = sync_channel(WAITING);
        let (used, free) = channel();
        let (hand_over, handed_over) = channel::<R>();
        let go_on = move || handed_over.into_iter().for_each(|reader| read(reader, &send, &free));
        let started = thread::Builder::new().name("read ahead".into()).spawn(go_on).is_ok();
        let kept = if started { hand_over.send(reader).map_err(|refused| refused.0) } else { Err(reader) };
        self.0 = match kept {
            Ok(()) => State::Ahead(Pieces { pieces, used, piece: Vec::new(), taken: 0, ended: false }),
            Err(reader) => State::InPlace { reader, left: None },
        };
    }
}

/// Reads until the end, an error, or until nobody wants more. The end is an empty piece.
fn read(mut reader: impl Read, pieces: &SyncSender<io::Result<Vec<u8>>>, free: &Receiver<Vec<u8>>) {
    loop {
        let mut piece = free.try_recv().unwrap_or_else(|_| vec![0; PIECE]);
        piece.resize(PIECE, 0);
        let got = reader.read(&mut piece).map(|got| {
            piece.truncate(got);
            piece
        });
        let ended = !got.as_ref().is_ok_and(|piece| !piece.is_empty());
        if pieces.send(got).is_err() || ended {
            return;
        }
    }
}

impl Read for Pieces {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.taken == self.piece.len() {
            if self.ended {
                return Ok(0);
            }
            let gone = |_| io::Error::other("the thread that reads ahead is gone");
            let next = self.pieces.recv().map_err(gone)??;
            self.ended = next.is_empty();
            // A thread that has ended needs none.
            let _ = self.used.send(std::mem::replace(&mut self.piece, next));
            self.taken = 0;
        }
        let got = self.piece.get(self.taken..).unwrap_or_default().read(buf)?;
        self.taken = self.taken.saturating_add(got);
        Ok(got)
    }
}

impl<R: Read + Send + 'static> Read for ReadAhead<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if matches!(self.0, State::InPlace { left: Some(0), .. }) {
            self.start();
        }
        match &mut self.0 {
            State::InPlace { reader, left } => {
                let got = reader.read(buf)?;
                *left = left.map(|left| left.saturating_sub(got as u64));
                Ok(got)
            }
            State::Ahead(pieces) => pieces.read(buf),
            State::Between => Err(io::Error::other("the reader was lost while a thread was started")),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::{Duration, Instant};

    use diskferry_testkit::Random;

    use super::*;

    #[test]
    fn all_bytes_come_in_order_and_then_the_end() {
        let bytes = Random::new(1).bytes(5 << 20);
        let mut reader = ReadAhead::new(Cursor::new(bytes.clone()));
        let mut read = Vec::new();
        reader.read_to_end(&mut read).unwrap();
        assert!(read == bytes);
        assert_eq!(reader.read(&mut [0; 10]).unwrap(), 0);
    }

    #[test]
    fn a_thread_that_is_gone_is_no_end() {
        struct Panics;
        impl Read for Panics {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                panic!("as the test wants");
            }
        }
        let mut reader = ReadAhead::new(Cursor::new(vec![7; 2 << 20]).chain(Panics));
        let mut read = Vec::new();
        let error = reader.read_to_end(&mut read).unwrap_err();
        assert_eq!(error.to_string(), "the thread that reads ahead is gone");
        assert_eq!(read.len(), 2 << 20);
        assert!(reader.read(&mut [0; 10]).is_err(), "still none");
    }

    #[test]
    fn an_error_comes_behind_the_bytes_before_it() {
        struct Dies;
        impl Read for Dies {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::ErrorKind::ConnectionReset.into())
            }
        }
        for len in [0, 100, (1 << 20) - 1, 1 << 20, 3 << 20] {
            let mut reader = ReadAhead::new(Cursor::new(vec![7; len]).chain(Dies));
            let mut read = Vec::new();
            let error = reader.read_to_end(&mut read).unwrap_err();
            assert_eq!((read.len(), error.kind()), (len, io::ErrorKind::ConnectionReset), "{len}");
        }
    }

    /// Counts what is asked for, and never ends.
    struct Endless(Arc<AtomicU64>);

    impl Read for Endless {
        fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
            self.0.fetch_add(buf.len() as u64, Ordering::Relaxed);
            Ok(buf.len())
        }
    }

    #[test]
    fn who_reads_little_causes_no_more_to_be_read_and_a_dropped_one_ends() {
        let asked = Arc::new(AtomicU64::new(0));
        let mut reader = ReadAhead::new(Endless(Arc::clone(&asked)));
        reader.read_exact(&mut [0; 4096]).unwrap();
        assert_eq!(asked.load(Ordering::Relaxed), 4096);
        let mut buf = vec![0; 4 << 20];
        reader.read_exact(&mut buf).unwrap();
        drop(reader);
        // The thread lets go of its reader, and with it of the counter.
        let deadline = Instant::now() + Duration::from_secs(60);
        while Arc::strong_count(&asked) > 1 {
            assert!(Instant::now() < deadline, "it goes on");
            thread::sleep(Duration::from_millis(1));
        }
        let ahead = (PIECE * (WAITING + 2)) as u64;
        assert!(asked.load(Ordering::Relaxed) <= (4 << 20) + 4096 + ahead);
    }
}
