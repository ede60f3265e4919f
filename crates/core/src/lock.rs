//! Taking a lock that a panicking thread may have left.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Waits for `mutex`. Where a thread panicked that held it, the panic ends the job and says so; the others need not as well.
pub(crate) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
