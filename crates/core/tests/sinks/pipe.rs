//! A pipe gets the disk from first byte to last, whatever order it is made in.

use std::io::{self, Read, Write};
use std::sync::mpsc::{Sender, channel};

use diskferry::format::Order;
use diskferry::sink::{PipeSink, Sink};
use diskferry::{Kind, Limits};

use crate::lab::{KIB, MIB, assert_same, code, pattern, zeroes};

/// A writer whose bytes can be looked at afterwards, which takes little at a time.
struct Tape(Sender<Vec<u8>>);

impl Write for Tape {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let taken = &data[..data.len().min(10_007)];
        self.0.send(taken.to_vec()).unwrap();
        Ok(taken.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn taped(limits: &Limits, job: impl FnOnce(&PipeSink<Tape>)) -> Vec<u8> {
    let (tape, reel) = channel();
    let sink = PipeSink::new(Tape(tape), limits, None);
    sink.prepare(None).unwrap();
    job(&sink);
    drop(sink);
    reel.into_iter().flatten().collect()
}

/// A disk of 64 KiB tiles: even ones are data, odd ones zero.
const TILE: u64 = 64 * KIB;

fn put_tile(sink: &dyn Sink, tile: u64) {
    let at = tile * TILE;
    if tile.is_multiple_of(2) { sink.write_at(&pattern(at, TILE), at) } else { sink.zero(at, TILE) }.unwrap();
}

fn tiles(count: u64) -> Vec<u8> {
    (0..count).flat_map(|i| if i.is_multiple_of(2) { pattern(i * TILE, TILE) } else { zeroes(TILE) }).collect()
}

#[test]
fn any_order_from_several_threads_comes_out_in_order() {
    let found = taped(&Limits::default(), |sink| {
        assert_eq!(sink.order(), Order::Virtual);
        std::thread::scope(|scope| {
            for worker in 0..4 {
                scope.spawn(move || (0..64).for_each(|i| put_tile(sink, (i * 37 % 64) * 4 + worker)));
            }
        });
        sink.finish(256 * TILE).unwrap();
        assert!(sink.spooled() > 0);
    });
    assert_same(&found, &tiles(256));
}

#[test]
fn the_reverse_order_goes_through_memory_and_file() {
    let limits = Limits { spool_memory: MIB, ..Limits::default() };
    let found = taped(&limits, |sink| {
        (0..256).rev().for_each(|tile| put_tile(sink, tile));
        sink.finish(256 * TILE).unwrap();
        assert_eq!(sink.spooled(), 127 * TILE, "all data but the first tile's");
    });
    assert_same(&found, &tiles(256));
}

#[test]
fn the_right_order_spools_nothing() {
    let found = taped(&Limits::default(), |sink| {
        (0..32).for_each(|tile| put_tile(sink, tile));
        sink.finish(32 * TILE).unwrap();
        assert_eq!(sink.spooled(), 0);
    });
    assert_same(&found, &tiles(32));
}

#[test]
fn an_odd_end_and_a_disk_of_zeroes_are_exact() {
    let found = taped(&Limits::default(), |sink| {
        sink.write_at(&pattern(300_001, 7), 300_001).unwrap();
        sink.zero(1, 300_000).unwrap();
        sink.write_at(&[9], 0).unwrap();
        sink.finish(300_008).unwrap();
    });
    assert_same(&found, &[&[9][..], &[0; 300_000], &pattern(300_001, 7)].concat());
}

#[test]
fn more_than_the_limit_ahead_is_refused() {
    let limits = Limits { spool: MIB, ..Limits::default() };
    taped(&limits, |sink| {
        sink.write_at(&pattern(MIB, MIB), MIB).unwrap();
        let error = sink.write_at(&[1], 4 * MIB).unwrap_err();
        assert_eq!((error.kind(), error.code().as_str()), (Kind::Image, "spool-limit"));
    });
}

#[test]
fn zeroes_ahead_cost_nothing_unless_they_are_scattered() {
    let limits = Limits { spool: 0, spool_memory: 0, ..Limits::default() };
    taped(&limits, |sink| {
        for at in (MIB..64 * MIB).step_by(512) {
            sink.zero(at, 512).unwrap();
        }
        let scattered = (64..).find_map(|i| sink.zero(i * 2 * MIB, 512).err()).unwrap();
        assert_eq!(scattered.code(), "limit-spool-memory");
    });
}

#[test]
fn a_gap_is_no_success() {
    taped(&Limits::default(), |sink| {
        sink.write_at(&pattern(0, 100), 0).unwrap();
        sink.write_at(&pattern(101, 100), 101).unwrap();
        assert_eq!(code(sink.finish(201)), "target-incomplete");
    });
}

#[test]
fn a_byte_named_twice_is_told_at_the_end_and_nothing_is_written_behind_it() {
    type Naming = fn(&PipeSink<Tape>) -> diskferry::Result<()>;
    let namings: [Naming; 2] = [|sink| sink.write_at(&[1], 99), |sink| sink.zero(50, 1)];
    for name_again in namings {
        let written = taped(&Limits::default(), |sink| {
            sink.write_at(&pattern(0, 100), 0).unwrap();
            name_again(sink).unwrap();
            sink.write_at(&pattern(100, 100), 100).unwrap();
            sink.zero(200, 100).unwrap();
            assert_eq!(code(sink.finish(300)), "target-overlap");
        });
        assert_same(&written, &pattern(0, 100));
    }
}

#[test]
fn a_reader_that_goes_away_is_named() {
    let (mut reader, writer) = io::pipe().unwrap();
    let sink = PipeSink::new(writer, &Limits::default(), None);
    sink.write_at(&pattern(0, 100), 0).unwrap();
    reader.read_exact(&mut [0; 100]).unwrap();
    drop(reader);
    let error = sink.write_at(&pattern(100, 100), 100).unwrap_err();
    assert_eq!((error.kind(), error.code().as_str()), (Kind::Target, "target-closed-pipe"));
    assert!(error.to_string().contains("after byte 100"), "{error}");
}
