//! Random scripts, and what may come of them.

use std::fmt;
use std::time::Duration;

use super::Server;
use super::answer::{After, Answer, Chunks, End, Framing, Ranges, Tag};
use super::file::File;
use crate::random::Random;

/// A random file and a random script for it. The same seed gives the same schedule.
///
/// A client has to be as patient as [`tries`](Self::tries) says, needs a time limit for silence (some answers stall until
/// the client leaves), and must honour `Retry-After`, which is 0 here. Then it has to end as [`expect`](Self::expect) says.
pub struct Schedule {
    /// What it was made from.
    pub seed: u64,
    /// What GETs of the file get, one after the other. All further ones get `rest`.
    pub answers: Vec<Answer>,
    /// The last word, which has no fault of its own.
    pub rest: Answer,
    /// Whether HEAD is refused with 405.
    pub headless: bool,
    /// What may come of it.
    pub expect: Expect,
    versions: [Vec<u8>; 2],
}

/// How a transfer may end. Bytes that are of no version of the file are never right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expect {
    /// With all bytes of the file.
    Whole,
    /// With all bytes of one version of the file, or with an error for one of these reasons.
    WholeOr(Vec<Finding>),
}

/// Why a client may give up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finding {
    /// The file is not the one that the transfer began with.
    Changed,
    /// What has broken off cannot be taken up again: no ranges, or no validator that could be trusted.
    Unresumable,
    /// An answer contradicts itself, the request, or the protocol.
    Malformed,
    /// The server has refused for good, with this status.
    Refused(u16),
    /// A Content-Encoding that nobody asked for.
    Encoded,
    /// More redirects than any limit allows.
    Redirects,
}

/// Longer than any time limit of a client in a test; it ends when the client leaves.
const FOR_EVER: Duration = Server::LIFE;

/// Where redirects lead: to the same path.
const ELSEWHERE: &str = "?moved";

/// Statuses that pass.
const PASSING: [u16; 6] = [408, 429, 500, 502, 503, 504];

/// Statuses that stay.
const LASTING: [u16; 5] = [400, 401, 403, 404, 410];

impl Schedule {
    /// At most so many answers have a fault.
    pub const MOST: usize = 6;

    /// The schedule of a seed.
    pub fn random(seed: u64) -> Self {
        let random = &mut Random::new(seed);
        let longest = [2, 100, 5000, 70_000, 400_000][random.below(5) as usize];
        let len = 2 + random.below(longest) as usize;
        let versions = [random.bytes(len), random.bytes(len)];
        let count = random.below(Self::MOST as u64 + 1) as usize;
        let answers = (0..count).map(|_| trouble(random, len)).collect();
        let headless = random.below(4) == 0;
        let mut schedule = Self { seed, answers, rest: Answer::right(), headless, expect: Expect::Whole, versions };
        if random.below(3) == 0 {
            schedule.worsen(random, len);
        }
        schedule
    }

    /// How many requests for the file a client needs at most, a client that asks for it once and then for what is missing.
    pub fn tries(&self) -> usize {
        self.answers.len() + 1
    }

    /// The file of this schedule. Its redirects lead to itself, with a query.
    pub fn file(&self) -> File {
        let [first, second] = self.versions.clone();
        let file = File::new(first).version(second).gets_then(self.answers.clone(), self.rest.clone());
        if self.headless { file.heads(Answer::status(405).header("Allow", "GET")) } else { file }
    }

    /// Whether these are the bytes of the file, in any of its versions that was given out.
    pub fn is_whole(&self, bytes: &[u8]) -> bool {
        self.versions[0] == bytes || (self.expect != Expect::Whole && self.versions[1] == bytes)
    }

    /// Adds the one fault from which there may be no way back.
    fn worsen(&mut self, random: &mut Random, len: usize) {
        use Finding::{Changed, Encoded, Malformed, Redirects, Refused, Unresumable};
        let at = random.below(self.answers.len() as u64 + 1) as usize;
        // What is wrong with a range shows when the client has a part already and asks for the rest.
        let broken_off = Answer::right().cut(1 + random.below(len as u64 - 1) as usize, End::Close);
        let (add, findings): (Vec<Answer>, Vec<Finding>) = match random.below(12) {
            0 => {
                let status = LASTING[random.below(LASTING.len() as u64) as usize];
                let answer = Answer::status(status);
                // A 401 has to say how.
                let answer =
                    if status == 401 { answer.header("WWW-Authenticate", "Basic realm=\"disks\"") } else { answer };
                self.rest = answer.clone();
                (vec![answer], vec![Refused(status)])
            }
            1 => {
                self.rest = self.rest.clone().version(1);
                for answer in &mut self.answers[at..] {
                    *answer = answer.clone().version(1);
                }
                (vec![broken_off], vec![Changed])
            }
            2 => (vec![broken_off, Answer::right().ranges(Ranges::Ignored)], vec![Unresumable, Changed]),
            3 => {
                let tag = if random.below(2) == 0 { Tag::Weak } else { Tag::None };
                let plain = |answer: Answer| answer.tag(tag.clone()).undated();
                self.rest = plain(self.rest.clone());
                self.answers = self.answers.drain(..).map(plain).collect();
                (vec![plain(broken_off)], vec![Unresumable, Changed])
            }
            4 => {
                // One byte earlier or later, said or unsaid, of another total: the label is wrong in each.
                let wrong = [Ranges::Shifted(1), Ranges::Total(len as u64 + 1), Ranges::Unlabelled, Ranges::Multipart];
                let wrong = wrong[random.below(4) as usize];
                (vec![broken_off, Answer::right().ranges(wrong)], vec![Malformed, Changed, Unresumable])
            }
            5 => (vec![broken_off, Answer::right().ranges(Ranges::Refused)], vec![Malformed, Changed, Unresumable]),
            6 => (vec![Answer::raw(random.bytes(200))], vec![Malformed]),
            7 => (vec![Answer::endless_head()], vec![Malformed]),
            8 => (vec![Answer::right().gzip()], vec![Encoded, Changed]),
            9 => (vec![broken_off, Answer::right().ranges(Ranges::Html)], vec![Changed, Malformed, Unresumable]),
            10 => {
                self.rest = Answer::redirect(302, ELSEWHERE);
                (vec![self.rest.clone()], vec![Redirects])
            }
            // The client has all bytes and is told that there are more.
            _ => {
                let more = [Framing::Chunked(1000, Chunks::Unended), Framing::LongBy(1 + random.below(100))];
                let more = more[random.below(2) as usize].clone();
                (vec![Answer::right().framing(more)], vec![Malformed, Changed, Unresumable])
            }
        };
        self.answers.splice(at..at, add);
        self.expect = Expect::WholeOr(findings);
    }
}

/// Without the bytes, which the seed brings back.
impl fmt::Debug for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Schedule")
            .field("seed", &self.seed)
            .field("len", &self.versions[0].len())
            .field("answers", &self.answers)
            .field("rest", &self.rest)
            .field("headless", &self.headless)
            .field("expect", &self.expect)
            .finish_non_exhaustive()
    }
}

/// An answer with a trouble that passes: a good client asks again, for what it lacks.
fn trouble(random: &mut Random, len: usize) -> Answer {
    let (right, at) = (Answer::right(), random.below(len as u64) as usize);
    let end = if random.below(2) == 0 { End::Close } else { End::Reset };
    match random.below(18) {
        0..=2 => right.cut(at, end),
        3 => right.stall(at, Duration::from_millis(5)),
        4 => right.stall(at, FOR_EVER),
        5 => Answer::nothing(end),
        6 | 7 => Answer::status(PASSING[random.below(PASSING.len() as u64) as usize]).header("Retry-After", "0"),
        8 => right.wait(Duration::from_millis(5)).cut(at, end),
        9 => right.framing(Framing::Chunked(1 + at, Chunks::Clean)).cut(at, end),
        10 => right.framing(Framing::Chunked(1 + at, Chunks::Trailers(vec![("X-Checked".into(), "yes".into())]))),
        11 => right.framing(Framing::Close),
        12 => right.trickle(1 + len / 8, Duration::from_millis(1)),
        13 => right.interim(&[100, 103]).cut(at, end),
        14 => Answer::redirect([301, 302, 303, 307, 308][random.below(5) as usize], ELSEWHERE),
        15 => right.ranges(Ranges::AtMost(1 + at as u64)).after(After::Close),
        16 => right.ranges(Ranges::UnknownTotal).after(After::Vanish),
        _ => right.cut(at, End::Close).after(After::Close),
    }
}
