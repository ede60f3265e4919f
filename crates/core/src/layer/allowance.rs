//! Memory for windows and dictionaries. All wrappings around one image share it, so that it is the same for two as for one.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::Error;

/// What one wrapping holds of it, and may hold.
#[derive(Debug)]
pub(super) struct Share {
    /// What nobody holds yet, in bytes.
    left: Arc<AtomicU64>,
    /// What all may hold together.
    limit: u64,
    held: u64,
}

impl Share {
    /// Of `limit` bytes for all, of which the others have left `left`.
    pub(super) fn new(left: Arc<AtomicU64>, limit: u64) -> Self {
        Self { left, limit, held: 0 }
    }

    pub(super) fn held(&self) -> u64 {
        self.held
    }

    /// The most that can be held now.
    pub(super) fn most(&self) -> u64 {
        self.held.saturating_add(self.left.load(Ordering::Relaxed))
    }

    /// Holds at least `wanted` bytes from now on. False if that is more than there are.
    pub(super) fn grow(&mut self, wanted: u64) -> bool {
        let more = wanted.saturating_sub(self.held);
        let taken = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(more)).is_ok();
        if taken {
            self.held = self.held.max(wanted);
        }
        taken
    }

    /// Why `wanted` bytes for `what` are too many: with what the others hold they are more than all may have.
    pub(super) fn exceeded(&self, what: &'static str, wanted: u64) -> Error {
        let others = self.limit.saturating_sub(self.most());
        Error::Limit { what, wanted: wanted.saturating_add(others), limit: self.limit, option: "--limit-window" }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_holds_the_other_cannot() {
        let left = Arc::new(AtomicU64::new(100));
        let (mut outer, mut inner) = (Share::new(Arc::clone(&left), 100), Share::new(left, 100));
        assert!(outer.grow(60) && outer.grow(10));
        assert_eq!((outer.held(), outer.most(), inner.most()), (60, 100, 40));
        assert!(!inner.grow(41));
        let message = inner.exceeded("bytes", 41).to_string();
        assert_eq!(message, "bytes: 101 wanted, the limit is 100 (--limit-window)", "as much has to be allowed");
        assert!(inner.grow(40));
        assert_eq!((outer.most(), inner.held()), (60, 40));
        assert!(!outer.grow(u64::MAX) && !outer.grow(61) && outer.grow(60));
    }
}
