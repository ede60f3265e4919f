//! Memory for windows and dictionaries. All wrappings around one image share it, so that it is the same for two as for one.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What one wrapping holds of it, and may hold.
#[derive(Debug)]
pub(super) struct Share {
    /// What nobody holds yet, in bytes.
    left: Arc<AtomicU64>,
    held: u64,
}

impl Share {
    pub(super) fn new(left: Arc<AtomicU64>) -> Self {
        Self { left, held: 0 }
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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_holds_the_other_cannot() {
        let left = Arc::new(AtomicU64::new(100));
        let (mut outer, mut inner) = (Share::new(Arc::clone(&left)), Share::new(left));
        assert!(outer.grow(60) && outer.grow(10));
        assert_eq!((outer.held(), outer.most(), inner.most()), (60, 100, 40));
        assert!(!inner.grow(41) && inner.grow(40));
        assert_eq!((outer.most(), inner.held()), (60, 40));
        assert!(!outer.grow(u64::MAX) && !outer.grow(61) && outer.grow(60));
    }
}
