//! Taking all wrappings off, outermost first.

use std::io::{self, BufReader, Cursor, Read};

use crate::error::{Error, Result};
use crate::layer::{HEAD, Layer, Reader, Unwrapping, probe};
use crate::progress::Progress;

/// Packed bytes read at once: enough that system calls do not show beside the decoding, little beside any decoder's own memory.
const PACKED: usize = 128 << 10;

/// Takes the wrappings off `reader`, and says which those were, outermost first.
///
/// With `stated`, wrappings from the outermost on, exactly these come off and nothing is probed: an image whose
/// first bytes look like one more wrapping stays as it is, and bytes that are not what was stated are an error when they are read.
/// Without, wrappings are told by their first bytes, and more than [`Limits::layers`](crate::Limits::layers) of them are an error.
///
/// The reader that comes back ends only when the stored bytes have been read to their end and every check value agreed.
pub fn peel(reader: Reader, stated: Option<&[&Layer]>, how: &Unwrapping) -> Result<(Reader, Vec<&'static str>)> {
    match stated {
        Some(stated) => peel_stated(reader, stated, how),
        None => peel_probed(reader, how),
    }
}

fn peel_stated(mut reader: Reader, stated: &[&Layer], how: &Unwrapping) -> Result<(Reader, Vec<&'static str>)> {
    let mut peeled = Vec::new();
    for layer in stated {
        reader = open(layer, reader, how)?;
        peeled.push(layer.name);
    }
    Ok((reader, peeled))
}

fn peel_probed(mut reader: Reader, how: &Unwrapping) -> Result<(Reader, Vec<&'static str>)> {
    let mut peeled = Vec::new();
    loop {
        let head = read_head(&mut reader)?;
        let layer = probe(&head);
        reader = Box::new(Cursor::new(head).chain(reader));
        let Some(layer) = layer else { return Ok((reader, peeled)) };
        check_depth((peeled.len() as u64).saturating_add(1), u64::from(how.limits.layers))?;
        reader = open(layer, reader, how)?;
        peeled.push(layer.name);
    }
}

fn check_depth(wanted: u64, limit: u64) -> Result<()> {
    if wanted > limit {
        return Err(Error::Limit { what: "wrappings around the image", wanted, limit, option: "--limit-layers" });
    }
    Ok(())
}

fn open(layer: &Layer, packed: Reader, how: &Unwrapping) -> Result<Reader> {
    let unpacked = (layer.open)(Box::new(BufReader::with_capacity(PACKED, packed)), how)?;
    Ok(Box::new(Until { unpacked, progress: how.progress.clone() }))
}

/// Unpacked bytes, until the job is to stop.
struct Until {
    unpacked: Reader,
    progress: Progress,
}

impl Read for Until {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.progress.check()?;
        self.unpacked.read(buf)
    }
}

/// The first [`HEAD`] bytes, or all there are, however few a read brings.
fn read_head(reader: &mut dyn Read) -> Result<Vec<u8>> {
    let mut head = Vec::with_capacity(HEAD);
    reader.take(HEAD as u64).read_to_end(&mut head).map_err(|error| Error::reading(head.len() as u64, error))?;
    Ok(head)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::layer::by_name;
    use crate::limits::Limits;

    fn gz(data: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(1));
        encoder.write_all(data).unwrap();
        encoder.finish().unwrap()
    }

    fn zst(data: &[u8]) -> Vec<u8> {
        zstd::encode_all(data, 1).unwrap()
    }

    /// Peels, reads to the end, and gives the bytes and the names, or the error's code.
    fn peeled(packed: Vec<u8>, stated: Option<&[&str]>) -> Result<(Vec<u8>, Vec<&'static str>), String> {
        let limits = Limits::default();
        let how = Unwrapping::new(&limits, 1);
        let layers = stated.map(|names| names.iter().map(|name| by_name(name).unwrap()).collect::<Vec<_>>());
        let (mut reader, names) =
            peel(Box::new(OneByOne(Cursor::new(packed))), layers.as_deref(), &how).map_err(|e| e.code())?;
        let mut unpacked = Vec::new();
        reader.read_to_end(&mut unpacked).map_err(|error| Error::reading(0, error).code())?;
        Ok((unpacked, names))
    }

    struct OneByOne(Cursor<Vec<u8>>);

    impl Read for OneByOne {
        fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
            let n = buf.len().min(1);
            self.0.read(&mut buf[..n])
        }
    }

    #[test]
    fn what_is_not_wrapped_comes_as_it_is() {
        for plain in [&b""[..], b"x", b"BZh9", b"a disk that is longer than a head"] {
            assert_eq!(peeled(plain.to_vec(), None), Ok((plain.to_vec(), vec![])));
        }
    }

    #[test]
    fn wrappings_are_named_outermost_first() {
        assert_eq!(peeled(gz(b"disk"), None), Ok((b"disk".to_vec(), vec!["gzip"])));
        assert_eq!(peeled(gz(&zst(b"disk")), None), Ok((b"disk".to_vec(), vec!["gzip", "zstd"])));
    }

    #[test]
    fn one_wrapping_too_many_is_a_limit() {
        let limits = Limits { layers: 2, ..Limits::default() };
        let how = Unwrapping::new(&limits, 1);
        let Err(error) = peel(Box::new(Cursor::new(gz(&gz(&gz(b"disk"))))), None, &how) else { panic!() };
        assert_eq!(error.to_string(), "wrappings around the image: 3 wanted, the limit is 2 (--limit-layers)");
    }

    #[test]
    fn windows_of_all_wrappings_count_together_however_many_threads_there_are() {
        const MIB: u64 = 1 << 20;
        use diskferry_testkit::wrap::{xz, zstd};
        let data = vec![7; 100_000];
        let outcome = |packed: &[u8], window, threads| {
            let limits = Limits { window, ..Limits::default() };
            let (mut reader, _) =
                peel(Box::new(Cursor::new(packed.to_vec())), None, &Unwrapping::new(&limits, threads))?;
            io::copy(&mut reader, &mut io::sink()).map_err(|error| Error::reading(0, error))
        };
        let code = |packed: &[u8], window, threads| {
            outcome(packed, window, threads).map_or_else(|e| e.code(), |_| "whole".into())
        };
        // Where a frame gives the size of its content, that is the window.
        let zst = |data: &[u8]| zstd(data, &["-19", "--zstd=wlog=24", "--no-content-size"]);
        let one = |data: &[u8]| xz(data, &["-T1", "--lzma2=preset=0,dict=8MiB"]);
        let blocks = |data: &[u8]| xz(data, &["-T2", "--lzma2=preset=0,dict=1MiB", "--block-size=3MiB"]);
        for (packed, wanted) in [
            (zst(&one(&data)), 24 * MIB),
            (one(&zst(&data)), 24 * MIB),
            (one(&one(&data)), 16 * MIB),
            (zst(&zst(&data)), 32 * MIB),
        ] {
            assert_eq!(
                (code(&packed, wanted, 1), code(&packed, wanted - 1, 1)),
                ("whole".into(), "limit-window".into())
            );
            let error = outcome(&packed, wanted - 1, 1).unwrap_err();
            let Error::Limit { wanted: named, limit, .. } = error else { panic!("{error}") };
            assert_eq!((limit, code(&packed, named, 1)), (wanted - 1, "whole".into()), "{named} are enough");
        }
        // Seventeen blocks of 5.6 MiB leave 33 MiB.
        for threads in [1, 2, 8] {
            let packed = blocks(&xz(&data, &["-8"]));
            assert_eq!(code(&packed, 128 * MIB, threads), "whole", "{threads} threads");
            let packed = blocks(&xz(&data, &["-9"]));
            assert_eq!(code(&packed, 128 * MIB, threads), "limit-window", "{threads} threads");
        }
    }

    #[test]
    fn stated_wrappings_come_off_and_no_others() {
        assert_eq!(peeled(gz(b"disk"), Some(&[])), Ok((gz(b"disk"), vec![])));
        assert_eq!(peeled(gz(&gz(b"disk")), Some(&["gz"])), Ok((gz(b"disk"), vec!["gzip"])));
        assert_eq!(peeled(gz(&zst(b"disk")), Some(&["gzip", "zstd"])), Ok((b"disk".to_vec(), vec!["gzip", "zstd"])));
    }

    #[test]
    fn a_stated_wrapping_that_is_not_there_is_an_error_that_names_it() {
        for (name, code) in [
            ("gz", "gzip-not-this-format"),
            ("xz", "xz-not-this-format"),
            ("zst", "zstd-not-this-format"),
            ("bz2", "bzip2-not-this-format"),
        ] {
            assert_eq!(peeled(b"a plain disk".to_vec(), Some(&[name])), Err(code.into()));
        }
        assert_eq!(peeled(gz(b"disk"), Some(&["gzip", "xz"])), Err("xz-not-this-format".into()));
    }

    #[test]
    fn the_outer_wrapping_is_checked_behind_the_end_of_the_inner_one() {
        let inner = zst(b"disk");
        let mut outer = gz(&inner);
        let check = outer.len() - 8;
        outer[check] ^= 1;
        assert_eq!(peeled(outer, None), Err("gzip-check".into()));
        assert_eq!(peeled(gz(&[inner, b"garbage".to_vec()].concat()), None), Err("zstd-trailing-garbage".into()));
    }

    #[test]
    fn a_job_that_is_stopped_unpacks_no_further_although_all_packed_bytes_are_there() {
        let (limits, progress) = (Limits::default(), Progress::default());
        let how = Unwrapping::new(&limits, 1).until(&progress);
        let bomb = zst(&zst(&vec![0; 8 << 20]));
        let (mut reader, names) = peel(Box::new(Cursor::new(bomb)), None, &how).unwrap();
        assert_eq!(names, ["zstd", "zstd"]);
        reader.read_exact(&mut [1; 4096]).unwrap();
        progress.stop();
        let error = reader.read(&mut [1; 4096]).unwrap_err();
        assert_eq!(Error::reading(0, error).code(), "stopped");
    }

    #[test]
    fn a_source_that_dies_in_the_head_is_no_short_image() {
        struct Dead;
        impl Read for Dead {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::ErrorKind::ConnectionReset.into())
            }
        }
        let limits = Limits::default();
        let how = Unwrapping::new(&limits, 1);
        let Err(error) = peel(Box::new(Cursor::new(b"abc").chain(Dead)), None, &how) else { panic!() };
        assert!(error.is_transient(), "{error}");
    }
}
