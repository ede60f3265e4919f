//! BGZF, section 4.1 of the [SAM specification](https://samtools.github.io/hts-specs/SAMv1.pdf): gzip in members of 64 KiB at most, each of which
//! says in its header how long it is, so that several are unpacked at the same time. `bgzip` writes it.
//!
//! What a member says of itself is not believed. It has to be one member and nothing else to the decoder of other gzip, and where it is not, that
//! decoder goes on from its first byte and says what is wrong: the bytes and the errors are the same as with one thread.

use std::collections::VecDeque;
use std::io::{self, BufRead, Cursor, ErrorKind, Read};
use std::ops::ControlFlow::{self, Break, Continue};
use std::sync::mpsc::{Receiver, Sender, SyncSender, TryRecvError, channel, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::Builder;

use crate::layer::Packed;
use crate::layer::gzip::Gzip;
use crate::layer::unwrapper::{Decoder, Unwrapper, still_barren};
use crate::lock::lock;

/// The part of a header that says how long the member is, as all writers make it: one extra field, and no other.
const HEADER: usize = 18;

/// The most that a member holds unpacked.
const MEMBER: usize = 64 << 10;

/// Members that a thread is given at once: enough that handing them over does not show. They take a quarter of a MiB.
const GROUP: usize = 2;

/// Groups under way besides one for each thread, so that none waits for its next.
const BESIDES: usize = 1;

/// More threads unpack more than anybody writes.
const MOST_THREADS: usize = 4;

/// Packed bytes for next to nothing that are passed over here. What has more is no image, and the other decoder counts on.
const BARREN: u64 = 1 << 20;

/// Reads the unpacked bytes.
pub(super) struct Bgzf {
    /// Gone when the other decoder has taken over.
    packed: Option<Packed>,
    /// What was read and is in no group yet.
    pending: Vec<u8>,
    /// An error of the reader behind that, for its turn.
    broken: Option<io::Error>,
    groups: VecDeque<Receiver<Group>>,
    /// Threads that unpack, once the first member has turned out to be BGZF's.
    threads: usize,
    send: Option<SyncSender<(Group, Sender<Group>)>>,
    /// Buffers of groups that are done with.
    spare: Vec<Group>,
    /// The group whose bytes are handed out, and how many were.
    current: (Group, usize),
    /// Unpacked bytes handed out, members behind which they lie, and packed bytes for which none have made up.
    at: u64,
    members: u64,
    barren: u64,
    /// Where the packed bytes are no BGZF, or what is wrong with them.
    other: Option<Unwrapper<Gzip>>,
}

/// Members in a row.
#[derive(Default)]
struct Group {
    packed: Vec<u8>,
    /// Where each of them ends.
    ends: Vec<usize>,
    /// The first `given` bytes. What lies behind them is left over, since clearing it takes its time.
    unpacked: Vec<u8>,
    given: usize,
    /// How many are what they say, and where the last of them ends.
    members: u64,
    taken: usize,
}

impl Bgzf {
    /// Unpacks by `threads` threads, if the packed bytes are BGZF.
    pub(super) fn new(packed: Packed, threads: usize) -> Self {
        Self {
            packed: Some(packed),
            pending: Vec::new(),
            broken: None,
            groups: VecDeque::new(),
            threads: threads.min(MOST_THREADS),
            send: None,
            spare: Vec::new(),
            current: Default::default(),
            at: 0,
            members: 0,
            barren: 0,
            other: None,
        }
    }

    /// Starts the threads, if there is something for them. False if there is not, or none can be started.
    fn start(&mut self) -> bool {
        if self.send.is_some() {
            return true;
        }
        if !self.gather(HEADER) || member_len(&self.pending).is_none() {
            return false;
        }
        let (send, receive) = sync_channel(self.most());
        let receive = Arc::new(Mutex::new(receive));
        let start = |_: &usize| {
            let receive = Arc::clone(&receive);
            Builder::new().name("unpack".into()).spawn(move || unpack(&receive)).is_ok()
        };
        let started = (0..self.threads).take_while(start).count() > 0;
        self.send = started.then_some(send);
        started
    }

    /// Groups that may be under way.
    fn most(&self) -> usize {
        self.threads.saturating_add(BESIDES)
    }

    /// Reads until `len` bytes are pending. False if there are not so many.
    fn gather(&mut self, len: usize) -> bool {
        while let (Some(packed), Some(missing)) = (&mut self.packed, len.checked_sub(self.pending.len()))
            && missing > 0
            && self.broken.is_none()
        {
            match packed.fill_buf() {
                Ok([]) => return false,
                Ok(bytes) => {
                    let taken = bytes.get(..missing).unwrap_or(bytes);
                    self.pending.extend_from_slice(taken);
                    let taken = taken.len();
                    packed.consume(taken);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => self.broken = Some(error),
            }
        }
        self.pending.len() >= len
    }

    /// The next members, as far as they say how long they are. None if the next one does not.
    fn group(&mut self) -> Option<Group> {
        let mut group = self.spare.pop().unwrap_or_default();
        group.packed.clear();
        group.ends.clear();
        while group.ends.len() < GROUP
            && self.gather(HEADER)
            && let Some(len) = member_len(&self.pending)
            && self.gather(len)
        {
            group.packed.extend(self.pending.drain(..len));
            group.ends.push(group.packed.len());
        }
        (!group.ends.is_empty()).then_some(group)
    }

    /// Hands out one more group, if there may be one.
    fn hand_out(&mut self) -> bool {
        if self.groups.len() >= self.most() {
            return false;
        }
        let Some(group) = self.group() else { return false };
        let (done, receive) = channel();
        self.groups.push_back(receive);
        // Whoever is gone gives nothing back, which is noticed then.
        let _ = self.send.as_ref().map(|send| send.send((group, done)));
        true
    }

    /// Waits for the next group, handing others out meanwhile.
    fn next(&mut self) -> io::Result<Option<Group>> {
        loop {
            match self.groups.front().map(Receiver::try_recv) {
                Some(Ok(group)) => {
                    self.groups.pop_front();
                    return Ok(Some(group));
                }
                Some(Err(TryRecvError::Disconnected)) => return Err(gone()),
                Some(Err(TryRecvError::Empty)) | None => {}
            }
            if !self.hand_out() {
                let Some(first) = self.groups.pop_front() else { return Ok(None) };
                return first.recv().map(Some).map_err(|_| gone());
            }
        }
    }

    /// Takes the next group over, or has the other decoder take over.
    fn go_on(&mut self) -> io::Result<()> {
        let next = if self.barren <= BARREN && self.start() { self.next()? } else { None };
        let Some(group) = next else { return self.give_over(Vec::new()) };
        self.members = self.members.saturating_add(group.members);
        self.barren = still_barren(self.barren, group.taken as u64, group.members, group.given as u64);
        self.spare.push(std::mem::replace(&mut self.current, (group, 0)).0);
        Ok(())
    }

    /// Has the other decoder go on with `rest`, and with what was handed out and read behind it.
    fn give_over(&mut self, mut rest: Vec<u8>) -> io::Result<()> {
        for group in std::mem::take(&mut self.groups) {
            let group = group.recv().map_err(|_| gone())?;
            rest.extend_from_slice(&group.packed);
        }
        rest.append(&mut self.pending);
        if let Some(packed) = self.packed.take() {
            let packed = Cursor::new(rest).chain(Broken { error: self.broken.take(), packed });
            let decoder = Gzip::behind(self.members);
            self.other = Some(Unwrapper::resumed(Box::new(packed), decoder, self.at, self.barren));
        }
        Ok(())
    }
}

impl Read for Bgzf {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            if let Some(other) = &mut self.other {
                return other.read(buf);
            }
            let (group, handed) = &mut self.current;
            let mut left = group.unpacked.get(*handed..group.given).unwrap_or_default();
            if !left.is_empty() {
                let got = left.read(buf)?;
                *handed = handed.saturating_add(got);
                self.at = self.at.saturating_add(got as u64);
                return Ok(got);
            }
            match group.packed.get(group.taken..) {
                Some(rest) if !rest.is_empty() => {
                    let rest = rest.to_vec();
                    self.give_over(rest)?;
                }
                _ => self.go_on()?,
            }
        }
    }
}

fn gone() -> io::Error {
    io::Error::other("a thread that unpacks is gone")
}

/// How long the member is that begins with `head`, if it says so.
fn member_len(head: &[u8]) -> Option<usize> {
    match head {
        [0x1f, 0x8b, 8, 4, _, _, _, _, _, _, 6, 0, b'B', b'C', 2, 0, low, high, ..] => {
            Some(usize::from(u16::from_le_bytes([*low, *high])).saturating_add(1)).filter(|len| *len > HEADER)
        }
        _ => None,
    }
}

/// Unpacks groups until nobody hands any out.
fn unpack(receive: &Mutex<Receiver<(Group, Sender<Group>)>>) {
    while let Ok((mut group, done)) = { lock(receive).recv() } {
        group.unpack();
        // Nobody may want it any more.
        let _ = done.send(group);
    }
}

impl Group {
    /// Unpacks the members up to the first that is not what it says.
    fn unpack(&mut self) {
        let mut decoder = Gzip::behind(0);
        // One more, so that no member ends where there is no room any more.
        self.unpacked.resize(GROUP * MEMBER + 1, 0);
        let mut room = self.unpacked.as_mut_slice();
        (self.given, self.members, self.taken) = (0, 0, 0);
        for &end in &self.ends {
            let member = self.packed.get(self.taken..end).unwrap_or_default();
            let Some(len) = unpack_member(&mut decoder, member, room) else { break };
            room = std::mem::take(&mut room).get_mut(len..).unwrap_or_default();
            self.given = self.given.saturating_add(len);
            self.members = self.members.saturating_add(1);
            self.taken = end;
        }
    }
}

/// Unpacks into `room`, and says how much that was; nothing if it is not one whole member of which all fits in.
fn unpack_member(decoder: &mut Gzip, member: &[u8], room: &mut [u8]) -> Option<usize> {
    let before = decoder.members();
    let (mut taken, mut given) = (0_usize, 0_usize);
    let mut step = || -> Option<ControlFlow<()>> {
        let (packed, unpacked) = (member.get(taken..)?, room.get_mut(given..)?);
        let step = decoder.step(packed, unpacked, 0).ok()?;
        taken = taken.saturating_add(step.taken);
        given = given.saturating_add(step.given);
        Some(if packed.is_empty() && step.given == 0 { Break(()) } else { Continue(()) })
    };
    while step()?.is_continue() {}
    let is_one = decoder.is_between() && decoder.members() == before.saturating_add(1);
    (is_one && taken == member.len()).then_some(given)
}

/// A reader that fails once.
struct Broken {
    error: Option<io::Error>,
    packed: Packed,
}

impl Read for Broken {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.error.take().map_or_else(|| self.packed.read(buf), Err)
    }
}

impl BufRead for Broken {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.error.take().map_or_else(|| self.packed.fill_buf(), Err)
    }

    fn consume(&mut self, amount: usize) {
        self.packed.consume(amount);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::write::DeflateEncoder;
    use flate2::{Compression, Crc};

    use super::*;
    use crate::error::Error;
    use crate::layer::testing::*;
    use crate::limits::Limits;

    /// A member with this data, whatever length it says.
    fn member_of(data: &[u8], says: impl FnOnce(usize) -> usize) -> Vec<u8> {
        let mut encoder = DeflateEncoder::new(Vec::new(), Compression::new(6));
        encoder.write_all(data).unwrap();
        let deflated = encoder.finish().unwrap();
        let mut crc = Crc::new();
        crc.update(data);
        let len = u16::try_from(says(HEADER + deflated.len() + 8) - 1).unwrap();
        let header = [0x1f, 0x8b, 8, 4, 0, 0, 0, 0, 0, 0xff, 6, 0, b'B', b'C', 2, 0];
        [&header[..], &len.to_le_bytes(), &deflated, &crc.sum().to_le_bytes(), &crc.amount().to_le_bytes()].concat()
    }

    fn member(data: &[u8]) -> Vec<u8> {
        member_of(data, |len| len)
    }

    /// As bgzip writes it, with the empty member at its end.
    fn bgzf(data: &[u8], piece: usize) -> Vec<u8> {
        data.chunks(piece).chain([&b""[..]]).flat_map(member).collect()
    }

    fn other(data: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), Compression::new(6));
        encoder.write_all(data).unwrap();
        encoder.finish().unwrap()
    }

    /// What comes out, and how it ends, with so many threads.
    fn end(packed: &[u8], threads: usize) -> Result<Vec<u8>, String> {
        unpack_with("gzip", packed, &Limits::default(), threads).map_err(|error| error.to_string())
    }

    fn ends_as_with_one_thread(packed: &[u8], what: &str) {
        let one = end(packed, 1);
        for threads in [2, 5] {
            assert_eq!(end(packed, threads), one, "{what}, {threads} threads");
        }
    }

    #[test]
    fn members_come_back_in_order() {
        let data = sample(300_000);
        for piece in [1, 1000, 65_280, MEMBER] {
            let data = data.get(..piece * 40).unwrap_or(&data);
            let packed = bgzf(data, piece);
            assert!(end(&packed, 4).unwrap() == data, "{piece}");
        }
        comes_back("gzip", &bgzf(&data[..5000], 300), &data[..5000]);
    }

    #[test]
    fn whole_members_are_unpacked_by_the_threads_and_by_nobody_else() {
        let data = sample(2_000_000);
        let mut reader = Bgzf::new(Box::new(Cursor::new(bgzf(&data, 65_280))), 3);
        let mut found = vec![0; data.len()];
        reader.read_exact(&mut found).unwrap();
        assert!(found == data && reader.other.is_none());
        assert_eq!(reader.read(&mut found).unwrap(), 0);
        assert!(reader.other.is_some_and(|other| other.decoder().members() == 32));
    }

    #[test]
    fn other_members_may_stand_between_them() {
        let data = sample(40_000);
        let parts = [bgzf(&data, 700), other(&data), member(&data[..50]), bgzf(&data, 20_000)];
        ends_as_with_one_thread(&parts.concat(), "in between");
        ends_as_with_one_thread(&[&bgzf(&data, 700)[..], &[0; 1000]].concat(), "padding");
        ends_as_with_one_thread(&[&bgzf(&data, 700)[..], b"garbage"].concat(), "garbage");
    }

    #[test]
    fn a_cut_or_a_flipped_bit_ends_as_with_one_thread() {
        let packed = bgzf(&sample(2500), 100);
        for at in (0..packed.len()).step_by(7) {
            ends_as_with_one_thread(&packed[..at], &format!("cut at {at}"));
            let mut bent = packed.clone();
            bent[at] ^= 1 << (at % 8);
            ends_as_with_one_thread(&bent, &format!("bent at {at}"));
        }
        every_death_of_the_source_passes("gzip", &packed);
    }

    #[test]
    fn a_member_that_lies_about_its_length_changes_nothing() {
        let data = sample(3000);
        for (what, says) in [
            ("shorter", Box::new(|len: usize| len - 5) as Box<dyn Fn(usize) -> usize>),
            ("longer", Box::new(|len: usize| len + 5)),
            ("the next one too", Box::new(|len: usize| len + member(&data).len())),
            ("almost nothing", Box::new(|_| 19)),
            ("nothing", Box::new(|_| 1)),
            ("all there can be", Box::new(|_| 65_536)),
        ] {
            let liar = member_of(&data, says);
            let packed = [bgzf(&data, 500), liar, member(&data), bgzf(&data, 100)].concat();
            ends_as_with_one_thread(&packed, what);
            assert!(end(&packed, 3).is_ok_and(|found| found == data.repeat(4)), "{what}");
        }
        // More than a member of BGZF holds.
        let large = sample(70_000).iter().map(|byte| byte & 1).collect::<Vec<_>>();
        ends_as_with_one_thread(&[member(&data), member(&large), member(&data)].concat(), "large");
    }

    #[test]
    fn empty_members_are_counted_as_with_one_thread() {
        let (first, empty) = (member(b"disk"), member(b""));
        // Each member counts for 2 KiB more, and each unpacked byte makes up for two.
        let left = (256 << 20) - (first.len() as u64 + 2048 - 4 * 2);
        let most = left / (empty.len() as u64 + 2048);
        for (members, expected) in
            [(most, "whole"), (most + 1, "wrapping-no-output"), (u64::MAX >> 8, "wrapping-no-output")]
        {
            let empties = Repeated { bytes: empty.clone(), at: 0 }.take(members * empty.len() as u64);
            let packed = io::BufReader::new(Cursor::new(first.clone()).chain(empties));
            let read = io::copy(&mut Bgzf::new(Box::new(packed), 2), &mut io::sink());
            let read = read.map_err(|error| Error::reading(0, error).code());
            assert_eq!(read.map_or_else(|code| code, |_| "whole".into()), expected, "{members} members");
        }
    }
}
