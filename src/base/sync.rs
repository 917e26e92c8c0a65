//! Locks and atomics of the standard library, or loom's in model checks (`--cfg loom`).
//!
//! Invariant: a lock never reports poisoning; whoever can leave data half changed under a lock guards against it
//! with a poison flag of its own.
//! Layer 0 (base).

#[cfg(loom)]
pub(crate) use loom::thread::yield_now;
#[cfg(not(loom))]
pub(crate) use std::thread::yield_now;

#[cfg(loom)]
pub(crate) use loom::sync::{
    Condvar as RawCondvar, Mutex as RawMutex, MutexGuard, RwLock as RawRwLock, RwLockReadGuard, RwLockWriteGuard,
    atomic,
};
// Always the standard library's: loom's cannot be the type of `self`, and who frees what last is not what it checks here.
pub(crate) use std::sync::Arc;
#[cfg(not(loom))]
pub(crate) use std::sync::{
    Condvar as RawCondvar, Mutex as RawMutex, MutexGuard, RwLock as RawRwLock, RwLockReadGuard, RwLockWriteGuard,
    atomic,
};

use super::clock::Deadline;
use std::sync::PoisonError;

/// A mutual exclusion lock without poisoning.
#[derive(Debug, Default)]
pub(crate) struct Mutex<T>(RawMutex<T>);

impl<T> Mutex<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(RawMutex::new(value))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The value, without locking: nobody else can reach it.
    pub(crate) fn get_mut(&mut self) -> &mut T {
        self.0.get_mut().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn into_value(self) -> T {
        self.0.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A readers-writer lock without poisoning.
#[derive(Debug, Default)]
pub(crate) struct RwLock<T>(RawRwLock<T>);

impl<T> RwLock<T> {
    pub(crate) fn read(&self) -> RwLockReadGuard<'_, T> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn write(&self) -> RwLockWriteGuard<'_, T> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A condition variable for [`Mutex`]. What is waited for changes under the lock only, and so a notification that finds nobody
/// waiting costs no call of the system.
#[derive(Debug, Default)]
pub(crate) struct Condvar {
    raw: RawCondvar,
    /// How many wait. Changed under the lock: whoever changes what is waited for sees those who did not see that.
    waiting: atomic::AtomicUsize,
}

impl Condvar {
    pub(crate) fn wait<'g, T>(&self, guard: MutexGuard<'g, T>) -> MutexGuard<'g, T> {
        self.waiting.fetch_add(1, atomic::Ordering::Relaxed);
        let guard = self.raw.wait(guard).unwrap_or_else(PoisonError::into_inner);
        self.waiting.fetch_sub(1, atomic::Ordering::Relaxed);
        guard
    }

    /// As [`wait`](Self::wait), but no longer than until the deadline.
    pub(crate) fn wait_until<'g, T>(&self, guard: MutexGuard<'g, T>, deadline: Deadline) -> MutexGuard<'g, T> {
        self.waiting.fetch_add(1, atomic::Ordering::Relaxed);
        let (guard, _) = self.raw.wait_timeout(guard, deadline.left()).unwrap_or_else(PoisonError::into_inner);
        self.waiting.fetch_sub(1, atomic::Ordering::Relaxed);
        guard
    }

    pub(crate) fn notify_all(&self) {
        if self.waiting.load(atomic::Ordering::Relaxed) > 0 {
            self.raw.notify_all();
        }
    }

    pub(crate) fn notify_one(&self) {
        if self.waiting.load(atomic::Ordering::Relaxed) > 0 {
            self.raw.notify_one();
        }
    }
}
