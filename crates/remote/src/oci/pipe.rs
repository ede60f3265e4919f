//! From who reads an image to who stores it: a pipe that tells an end from a failure.

use std::io::{self, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

/// Bytes that change hands at once.
const PIECE: usize = 256 << 10;

/// Pieces on their way. Who reads has chunks of its own, so these only have to keep both ends at work.
const PIECES: usize = 8;

/// The end that is written to. Dropped without [`end`](Self::end), it makes the other one fail.
pub(super) struct Writer {
    /// `None` once it was given up.
    pieces: Option<SyncSender<Option<Vec<u8>>>>,
    piece: Vec<u8>,
    gone: Arc<AtomicBool>,
}

/// The end that is read from.
pub(super) struct Reader {
    pieces: Receiver<Option<Vec<u8>>>,
    piece: Vec<u8>,
    at: usize,
    ended: bool,
}

/// Whether the reader has given up before the writer has.
#[derive(Clone)]
pub(super) struct Gone(Arc<AtomicBool>);

impl Gone {
    pub(super) fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

pub(super) fn pipe() -> (Writer, Reader, Gone) {
    let (sender, receiver) = sync_channel(PIECES);
    let gone = Arc::new(AtomicBool::new(false));
    let writer = Writer { pieces: Some(sender), piece: Vec::with_capacity(PIECE), gone: Arc::clone(&gone) };
    (writer, Reader { pieces: receiver, piece: Vec::new(), at: 0, ended: false }, Gone(gone))
}

impl Writer {
    /// Says that nothing is missing.
    pub(super) fn end(&mut self) -> io::Result<()> {
        self.flush()?;
        self.send(None)
    }

    fn send(&self, piece: Option<Vec<u8>>) -> io::Result<()> {
        let Some(pieces) = &self.pieces else { return Err(io::ErrorKind::BrokenPipe.into()) };
        pieces.send(piece).map_err(|_| {
            self.gone.store(true, Ordering::Relaxed);
            io::ErrorKind::BrokenPipe.into()
        })
    }

    /// Makes the other end fail, if it has not ended, whoever else has this one.
    pub(super) fn give_up(&mut self) {
        self.pieces = None;
    }
}

impl Write for Writer {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        if self.piece.len() >= PIECE {
            self.flush()?;
        }
        let len = buf.len().min(PIECE.saturating_sub(self.piece.len()));
        self.piece.extend(buf.iter().take(len));
        Ok(len)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.piece.is_empty() {
            return Ok(());
        }
        let piece = std::mem::replace(&mut self.piece, Vec::with_capacity(PIECE));
        self.send(Some(piece))
    }
}

impl Read for Reader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while self.at == self.piece.len() && !self.ended {
            match self.pieces.recv() {
                Ok(Some(piece)) => (self.piece, self.at) = (piece, 0),
                Ok(None) => self.ended = true,
                Err(_) => return Err(io::Error::other("the image has not come to its end")),
            }
        }
        let left = self.piece.get(self.at..).unwrap_or_default();
        let len = left.len().min(buf.len());
        if let (Some(to), Some(from)) = (buf.get_mut(..len), left.get(..len)) {
            to.copy_from_slice(from);
        }
        self.at += len;
        Ok(len)
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn bytes_pass_in_order_and_end() {
        let (mut writer, mut reader, _) = pipe();
        let bytes: Vec<u8> = (0..3_000_001_u32).map(|at| u8::try_from(at % 253).unwrap()).collect();
        let copy = bytes.clone();
        let sender = thread::spawn(move || {
            copy.chunks(77_777).for_each(|chunk| writer.write_all(chunk).unwrap());
            writer.end().unwrap();
        });
        let mut found = Vec::new();
        reader.read_to_end(&mut found).unwrap();
        sender.join().unwrap();
        assert!(found == bytes);
        assert_eq!(reader.read(&mut [0]).unwrap(), 0);
    }

    #[test]
    fn a_writer_that_gives_up_is_no_end() {
        let (mut writer, mut reader, gone) = pipe();
        writer.write_all(&[1; PIECE + 1]).unwrap();
        drop(writer);
        assert!(reader.read_to_end(&mut Vec::new()).is_err() && !gone.is_set());
    }

    #[test]
    fn a_reader_that_gives_up_is_noticed() {
        let (mut writer, reader, gone) = pipe();
        drop(reader);
        assert!(writer.write_all(&[1; 2 * PIECE]).is_err() && gone.is_set());
    }
}
