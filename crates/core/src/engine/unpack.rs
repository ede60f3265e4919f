//! Unpacks one cluster or grain.

use flate2::{Decompress, FlushDecompress, Status};
use libdeflater::Decompressor;
use zstd::zstd_safe::{DCtx, find_frame_compressed_size, get_error_name};

use crate::extent::Codec;

/// Decoder state, kept between units.
pub(super) struct Unpacker {
    /// Takes whole units, and nothing else, in some half of the time. What it does not take goes to the decoders below, which
    /// know what came before the end or the damage, and say what is wrong.
    whole: Decompressor,
    deflate: Decompress,
    zlib: Decompress,
    zstd: Option<DCtx<'static>>,
}

impl Unpacker {
    pub(super) fn new() -> Self {
        Self { whole: Decompressor::new(), deflate: Decompress::new(false), zlib: Decompress::new(true), zstd: None }
    }

    /// Unpacks `stored` into `out` and returns how many bytes came, which is never more than `out` holds; what lies behind them
    /// is overwritten or not. The error says what is wrong.
    pub(super) fn unpack(&mut self, codec: Codec, stored: &[u8], out: &mut [u8]) -> Result<usize, String> {
        match codec {
            Codec::Deflate => {
                if let Ok(got) = self.whole.deflate_decompress(stored, out) {
                    return Ok(got);
                }
                self.deflate.reset(false);
                inflate(&mut self.deflate, stored, out).map(|(got, _)| got)
            }
            Codec::Zlib => {
                if let Ok(got) = self.whole.zlib_decompress(stored, out) {
                    return Ok(got);
                }
                self.zlib.reset(true);
                // Only at its end has the check value been compared.
                match inflate(&mut self.zlib, stored, out)? {
                    (got, true) => Ok(got),
                    (_, false) => Err(format!("more than {} bytes come out, or the end is missing", out.len())),
                }
            }
            Codec::Zstd => self.unzstd(stored, out).map_err(|code| get_error_name(code).to_owned()),
        }
    }

    /// Unpacks frame by frame until `out` is full. As with QEMU, none may be longer than that, and each is read to its check value. The window
    /// of a frame is `out`, whatever its head asks for.
    fn unzstd(&mut self, stored: &[u8], out: &mut [u8]) -> Result<usize, usize> {
        let decoder = self.zstd.get_or_insert_with(DCtx::create);
        let (mut rest, mut got) = (stored, 0_usize);
        while got < out.len() && !rest.is_empty() {
            let (frame, behind) = rest.split_at(find_frame_compressed_size(rest)?.min(rest.len()));
            got = got.saturating_add(decoder.decompress(out.get_mut(got..).unwrap_or_default(), frame)?);
            rest = behind;
        }
        Ok(got)
    }
}

/// Inflates until `out` is full, the stream ends or nothing moves. Returns what came and whether the stream ended.
fn inflate(decoder: &mut Decompress, stored: &[u8], out: &mut [u8]) -> Result<(usize, bool), String> {
    loop {
        let (taken, given) = (progress(decoder.total_in()), progress(decoder.total_out()));
        let input = stored.get(taken..).unwrap_or_default();
        let output = out.get_mut(given..).unwrap_or_default();
        let status = decoder.decompress(input, output, FlushDecompress::Finish).map_err(|error| error.to_string())?;
        let moved = (progress(decoder.total_in()), progress(decoder.total_out())) != (taken, given);
        if status == Status::StreamEnd || !moved {
            return Ok((progress(decoder.total_out()), status == Status::StreamEnd));
        }
    }
}

/// The counters run over one unit, whose sizes come from slices.
fn progress(count: u64) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use diskferry_testkit::wrap::deflate;
    use flate2::Compression;
    use flate2::write::ZlibEncoder;

    use super::*;

    fn zlibbed(data: &[u8]) -> Vec<u8> {
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(data).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn units_unpack_with_anything_behind_them() {
        let data: Vec<u8> = (0..65536_u32).map(|i| (i / 7 % 251) as u8).collect();
        let mut unpacker = Unpacker::new();
        for (codec, mut stored) in [
            (Codec::Deflate, deflate(&data)),
            (Codec::Zlib, zlibbed(&data)),
            (Codec::Zstd, zstd::encode_all(&data[..], 3).unwrap()),
        ] {
            stored.extend([0xff; 511]);
            for _ in 0..2 {
                let mut out = vec![0; data.len()];
                assert_eq!(unpacker.unpack(codec, &stored, &mut out), Ok(data.len()), "{codec:?}");
                assert_eq!(out, data, "{codec:?}");
            }
        }
    }

    #[test]
    fn a_zstd_frame_may_have_any_window_and_no_more_bytes_than_the_unit() {
        let frame = |data: &[u8]| {
            let mut encoder = zstd::Encoder::new(Vec::new(), 3).unwrap();
            encoder.set_parameter(zstd::stream::raw::CParameter::WindowLog(27)).unwrap();
            encoder.include_contentsize(false).unwrap();
            encoder.write_all(data).unwrap();
            encoder.finish().unwrap()
        };
        let mut out = [0; 4096];
        assert_eq!(Unpacker::new().unpack(Codec::Zstd, &frame(&[7; 4096]), &mut out), Ok(4096));
        assert_eq!(out, [7; 4096]);
        let error = Unpacker::new().unpack(Codec::Zstd, &frame(&[7; 4097]), &mut out).unwrap_err();
        assert_eq!(error, "Destination buffer is too small");
    }

    #[test]
    fn two_zstd_frames_make_one_unit() {
        let stored = [zstd::encode_all(&[7; 100][..], 3).unwrap(), zstd::encode_all(&[9; 28][..], 3).unwrap()].concat();
        let mut out = [0; 128];
        assert_eq!(Unpacker::new().unpack(Codec::Zstd, &stored, &mut out), Ok(128));
        assert_eq!((out[99], out[100]), (7, 9));
    }

    #[test]
    fn a_cut_unit_gives_less_or_fails() {
        let data: Vec<u8> = (0..4096_u32).map(|i| (i * i % 251) as u8).collect();
        let mut out = vec![0; 4096];
        for (codec, stored) in [
            (Codec::Deflate, deflate(&data)),
            (Codec::Zlib, zlibbed(&data)),
            (Codec::Zstd, zstd::encode_all(&data[..], 3).unwrap()),
        ] {
            let got = Unpacker::new().unpack(codec, &stored[..stored.len() / 2], &mut out);
            assert!(got.as_ref().is_err() || got.as_ref().is_ok_and(|&got| got < 4096), "{codec:?}: {got:?}");
        }
    }

    #[test]
    fn a_wrong_adler_is_an_error() {
        let mut stored = zlibbed(&[1; 4096]);
        *stored.last_mut().unwrap() ^= 1;
        assert!(Unpacker::new().unpack(Codec::Zlib, &stored, &mut [0; 4096]).is_err());
    }
}
