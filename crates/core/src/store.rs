//! Storing an image as it is: its bytes are handed on unchanged, while the same bytes are read as an image.

use std::io::{self, Read, Write};
use std::sync::{Arc, Mutex};

use crate::convert::{Input, Options};
use crate::error::Result;
use crate::open::open_copied;
use crate::progress::Progress;
use crate::report::Report;
use crate::source::file::stored_len;
use crate::spool::Spool;

/// Reads the image in `input` to its end, checks everything that a conversion checks, and hands the stored bytes to `copied`, in
/// order and each once. An image that a conversion refuses is refused here.
///
/// On an error some bytes may have been handed on: nothing may be made of them. An [`Error`](crate::Error) that travels in an [`io::Error`] of the
/// writer comes out as it was.
///
/// ```
/// use std::sync::{Arc, Mutex};
/// use diskferry::{Input, Options, Progress, store};
///
/// # fn main() -> diskferry::Result<()> {
/// let image = std::io::Cursor::new(vec![0xeb; 4096]);
/// let stored = Arc::new(Mutex::new(Vec::new()));
/// let input = Input::Stream { reader: Box::new(image), len: None };
/// let report = store(input, stored.clone(), &Options::default(), &Progress::default())?;
/// assert_eq!(report.inspection.unpacked_size, Some(4096));
/// assert!(*stored.lock().unwrap() == [0xeb; 4096]);
/// # Ok(())
/// # }
/// ```
pub fn store(
    input: Input,
    copied: Arc<Mutex<dyn Write + Send>>,
    options: &Options,
    progress: &Progress,
) -> Result<Report> {
    let opened = open_copied(input, options, progress, Some(copied))?;
    opened.refuse()?;
    opened.verify()
}

impl Input {
    /// How many bytes it has, where that is known before they are read.
    pub fn stored_len(&self) -> Result<Option<u64>> {
        match self {
            Self::File(file) => stored_len(file),
            Self::Stream { len, .. } | Self::Unpacked { len, .. } | Self::Ranged { len, .. } => Ok(*len),
        }
    }
}

/// Bytes that wait until it is known how many there are, in memory first and then in an unnamed file. They are written once, and read
/// in order.
pub struct Kept {
    spool: Spool,
    len: u64,
    at: u64,
}

impl Kept {
    /// Room within the limits, and in the directory, of `options`.
    pub fn new(options: &Options) -> Self {
        let limits = &options.limits;
        Self { spool: Spool::new(options.spool_place(), limits.spool_memory, limits.spool), len: 0, at: 0 }
    }

    /// Reads from the first byte again.
    pub fn rewind(&mut self) {
        self.at = 0;
    }

    /// How many bytes were written.
    #[expect(clippy::len_without_is_empty, reason = "it says how much has waited, and holds nothing in the end")]
    pub fn len(&self) -> u64 {
        self.len
    }
}

impl Write for Kept {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.spool.put(buf, self.len)?;
        self.len = self.len.saturating_add(buf.len() as u64);
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Read for Kept {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let got = self.spool.read(buf, self.at)?;
        self.at = self.at.saturating_add(got as u64);
        Ok(got)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;
    use crate::limits::Limits;

    fn stored(input: Input) -> Result<(Report, Vec<u8>)> {
        let copied = Arc::new(Mutex::new(Vec::new()));
        let report = store(input, copied.clone(), &Options::default(), &Progress::default())?;
        let bytes = copied.lock().unwrap().clone();
        Ok((report, bytes))
    }

    #[test]
    fn a_file_and_a_stream_are_handed_on_unchanged() {
        let bytes: Vec<u8> = (0..3 << 20).map(|at| u8::try_from(at % 251).unwrap()).collect();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&bytes).unwrap();
        let stream = Input::Stream { reader: Box::new(io::Cursor::new(bytes.clone())), len: None };
        for input in [Input::File(file), stream] {
            let (report, copy) = stored(input).unwrap();
            assert!(copy == bytes);
            assert_eq!(report.inspection.stored_size, Some(3 << 20));
            assert_eq!(report.transferred, 3 << 20);
        }
    }

    #[test]
    fn a_writer_that_fails_ends_the_job_with_its_error() {
        struct Broken(fn() -> io::Error);
        impl Write for Broken {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(self.0())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let fails: [(fn() -> io::Error, _); 3] = [
            (|| Error::Target { code: "too-small", what: "full".into() }.into(), "target-too-small"),
            (|| io::ErrorKind::StorageFull.into(), "target-no-space"),
            (|| io::ErrorKind::BrokenPipe.into(), "target-write"),
        ];
        for (fail, code) in fails {
            let input = Input::Stream { reader: Box::new(io::Cursor::new(vec![1; 4096])), len: None };
            let writer = Arc::new(Mutex::new(Broken(fail)));
            assert_eq!(store(input, writer, &Options::default(), &Progress::default()).unwrap_err().code(), code);
        }
    }

    #[test]
    fn what_was_kept_comes_back_and_is_bounded() {
        let limits = Limits { spool_memory: 100_000, spool: 300_000, ..Limits::default() };
        let options = Options { limits, ..Options::default() };
        let mut kept = Kept::new(&options);
        kept.write_all(&[1; 200_000]).unwrap();
        kept.write_all(&[2; 100_000]).unwrap();
        let error = Error::reading(0, kept.write(&[3]).unwrap_err());
        assert_eq!(error.code(), "spool-limit");
        assert_eq!(kept.len(), 300_000);
        for _ in 0..2 {
            let mut bytes = Vec::new();
            kept.read_to_end(&mut bytes).unwrap();
            assert!(bytes == [vec![1; 200_000], vec![2; 100_000]].concat());
            kept.rewind();
        }
    }
}
