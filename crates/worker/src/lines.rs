//! Lines for a log, written by a thread of their own: who reads them slowly, or not at all, keeps nobody waiting.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

/// Lines that wait to be written. When there are more, the oldest goes.
const MOST: usize = 256;

/// How long the end of the work is held up by who does not read.
const PATIENCE: Duration = Duration::from_secs(1);

/// Where lines are left to be written. They come out in their order.
pub struct Lines(Arc<Queue>);

#[derive(Default)]
struct Queue {
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

#[derive(Default)]
struct Waiting {
    lines: VecDeque<String>,
    is_writing: bool,
}

impl Lines {
    /// Lines that are written to `out`. Fails where there can be no thread.
    pub fn start(mut out: impl Write + Send + 'static) -> io::Result<Self> {
        let queue = Arc::new(Queue::default());
        let source = Arc::clone(&queue);
        let write = move || {
            loop {
                // A log that nobody reads is no reason to lose an image.
                let _ = source.take().into_iter().try_for_each(|line| writeln!(out, "{line}"));
            }
        };
        thread::Builder::new().name("log".into()).spawn(write)?;
        Ok(Self(queue))
    }

    /// Leaves a line.
    pub fn leave(&self, line: String) {
        let mut waiting = self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.lines.len() == MOST {
            waiting.lines.pop_front();
        }
        waiting.lines.push_back(line);
        self.0.changed.notify_all();
    }

    /// Waits until all lines are written, for a second at most.
    pub fn flush(&self) {
        let waiting = self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let is_busy = |waiting: &mut Waiting| waiting.is_writing || !waiting.lines.is_empty();
        drop(self.0.changed.wait_timeout_while(waiting, PATIENCE, is_busy));
    }
}

impl Queue {
    /// The lines that wait, once there are some. Those that were taken before are written.
    fn take(&self) -> VecDeque<String> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.is_writing = false;
        self.changed.notify_all();
        let none = |waiting: &mut Waiting| waiting.lines.is_empty();
        let mut waiting = self.changed.wait_while(waiting, none).unwrap_or_else(PoisonError::into_inner);
        waiting.is_writing = true;
        std::mem::take(&mut waiting.lines)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::time::Instant;

    use super::*;

    #[test]
    fn lines_are_written_in_their_order_before_the_end() {
        let (reader, writer) = io::pipe().unwrap();
        let lines = Lines::start(writer).unwrap();
        (0..100).for_each(|number| lines.leave(number.to_string()));
        lines.flush();
        let read: Vec<_> = BufReader::new(reader).lines().take(100).map(Result::unwrap).collect();
        assert_eq!(read, (0..100).map(|number| number.to_string()).collect::<Vec<_>>());
    }

    #[test]
    fn who_does_not_read_holds_up_nothing_but_the_end_and_gets_the_last_lines() {
        let (reader, writer) = io::pipe().unwrap();
        let lines = Lines::start(writer).unwrap();
        // More than a pipe takes.
        lines.leave("x".repeat(1 << 20));
        let began = Instant::now();
        while !lines.0.waiting.lock().unwrap().lines.is_empty() {
            assert!(began.elapsed() < Duration::from_secs(20), "nobody writes");
        }
        (0..1000).for_each(|number| lines.leave(number.to_string()));
        let began = Instant::now();
        lines.flush();
        assert!((PATIENCE..PATIENCE * 10).contains(&began.elapsed()), "{:?}", began.elapsed());
        let read: Vec<_> = BufReader::new(reader).lines().skip(1).take(256).map(Result::unwrap).collect();
        assert_eq!(read, (744..1000).map(|number| number.to_string()).collect::<Vec<_>>());
    }
}
