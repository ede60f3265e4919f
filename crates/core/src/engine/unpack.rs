//! Unpacks one cluster or grain.

use flate2::{Decompress, FlushDecompress, Status};
use libdeflater::Decompressor;
use zstd::stream::raw::{DParameter, Decoder, InBuffer, Operation, OutBuffer};

use crate::extent::Codec;

/// A cluster's zstd window is never larger than the cluster, and RFC 8878 asks decoders for 8 MiB; a larger one is an attack.
const ZSTD_WINDOW_LOG: u32 = 23;

/// Decoder state, kept between units.
pub(super) struct Unpacker {
    /// Takes whole units, and nothing else, in some half of the time. What it does not take goes to the decoders below, which
    /// know what came before the end or the damage, and say what is wrong.
    whole: Decompressor,
    deflate: Decompress,
    zlib: Decompress,
    zstd: Option<Decoder<'static>>,
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
            Codec::Zstd => self.unzstd(stored, out).map_err(|error| error.to_string()),
        }
    }

    fn unzstd(&mut self, stored: &[u8], out: &mut [u8]) -> std::io::Result<usize> {
        let decoder = match &mut self.zstd {
            Some(decoder) => {
                decoder.reinit()?;
                decoder
            }
            empty => {
                let mut decoder = Decoder::new()?;
                decoder.set_parameter(DParameter::WindowLogMax(ZSTD_WINDOW_LOG))?;
                empty.insert(decoder)
            }
        };
        let mut input = InBuffer::around(stored);
        let mut output = OutBuffer::around(out);
        loop {
            let before = (input.pos(), output.pos());
            decoder.run(&mut input, &mut output)?;
            if output.pos() == output.capacity() || (input.pos(), output.pos()) == before {
                return Ok(output.pos());
            }
        }
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

    use flate2::Compression;
    use flate2::write::{DeflateEncoder, ZlibEncoder};

    use super::*;

    fn deflated(data: &[u8]) -> Vec<u8> {
        let mut encoder = DeflateEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(data).unwrap();
        encoder.finish().unwrap()
    }

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
            (Codec::Deflate, deflated(&data)),
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
    fn a_cluster_has_a_window_of_8_mib_at_most() {
        let outcome = |log| {
            let mut encoder = zstd::Encoder::new(Vec::new(), 3).unwrap();
            encoder.set_parameter(zstd::stream::raw::CParameter::WindowLog(log)).unwrap();
            encoder.include_contentsize(false).unwrap();
            encoder.write_all(&[7; 4096]).unwrap();
            let mut out = vec![0; 4096];
            Unpacker::new().unpack(Codec::Zstd, &encoder.finish().unwrap(), &mut out)
        };
        assert_eq!(outcome(ZSTD_WINDOW_LOG), Ok(4096));
        assert_eq!(outcome(ZSTD_WINDOW_LOG + 1).unwrap_err(), "Frame requires too much memory for decoding");
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
            (Codec::Deflate, deflated(&data)),
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
