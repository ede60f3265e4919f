//! What we want to reach in a row, and whether it is.

use std::time::Duration;

use crate::job::Sample;

/// A goal.
#[derive(Debug, Clone, Copy)]
pub enum Goal {
    /// At most this part of the time of the fastest peer.
    Time(f64),
    /// At most this part of the processor time of the fastest peer.
    Cpu(f64),
    /// At most this part of the time of the peer with this name.
    TimeOf(&'static str, f64),
    /// At most so many milliseconds more than the fastest peer.
    Beyond(u64),
    /// At most so many MiB of memory.
    Memory(u64),
    /// At most this part of the disk's data is stored once more.
    Stored(f64),
}

/// The medians that a goal is held against.
pub struct Standing<'a> {
    pub ours: &'a Sample,
    /// Nothing, where no peer is installed.
    pub best: Option<&'a Sample>,
    /// By its name.
    pub peer: &'a dyn Fn(&str) -> Option<&'a Sample>,
    /// Bytes of data on the disk.
    pub data: u64,
}

impl Goal {
    /// The goal, as the table has it.
    pub fn text(self) -> String {
        match self {
            Self::Time(part) => format!("time ≤ {part:.2}"),
            Self::Cpu(part) => format!("CPU ≤ {part:.2}"),
            Self::TimeOf(name, part) => format!("time ≤ {part:.2} of {name}"),
            Self::Beyond(ms) => format!("time ≤ {:.2} s more", seconds(ms)),
            Self::Memory(mib) => format!("≤ {mib} MiB"),
            Self::Stored(part) => format!("stored ≤ {part:.2} of the data"),
        }
    }

    /// Whether it is met, or what was measured instead.
    pub fn verdict(self, standing: &Standing) -> String {
        let Standing { ours, best, .. } = standing;
        let of = |peer: Option<&Sample>, measure: fn(&Sample) -> Duration| {
            peer.map(|peer| measure(ours).as_secs_f64() / measure(peer).as_secs_f64().max(0.001))
        };
        let measured = match self {
            Self::Time(part) => of(*best, |sample| sample.wall).map(|found| (found, part)),
            Self::Cpu(part) => of(*best, |sample| sample.cpu).map(|found| (found, part)),
            Self::TimeOf(name, part) => of((standing.peer)(name), |sample| sample.wall).map(|found| (found, part)),
            Self::Beyond(ms) => best.map(|best| (ours.wall.as_secs_f64() - best.wall.as_secs_f64(), seconds(ms))),
            Self::Memory(mib) => Some((as_mib(ours.memory), as_mib(mib << 20))),
            Self::Stored(part) => Some((as_mib(ours.stored) / as_mib(standing.data), part)),
        };
        match measured {
            // As many places as are shown.
            Some((found, bound)) if (found * 100.0).round() <= (bound * 100.0).round() => "met".to_owned(),
            Some((found, _)) => format!("**missed: {found:.2}**"),
            None => "not measured".to_owned(),
        }
    }
}

fn seconds(ms: u64) -> f64 {
    Duration::from_millis(ms).as_secs_f64()
}

#[expect(clippy::cast_precision_loss, reason = "a figure for people")]
fn as_mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
