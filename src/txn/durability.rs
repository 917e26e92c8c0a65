//! How durable a commit is when it returns.
//!
//! Invariant: a crash keeps a prefix of the commits: one that is durable makes all before it durable.
//! Layer 5 (txn). Rules: design.md, "Commit".

/// What a commit waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Durability {
    /// For nothing: readers see the commit at once, and a crash loses it unless a durable commit, a sync, closing or a checkpoint
    /// follows, or a MiB of such commits has been written together by a thread. What is found after a crash is whole all the
    /// same. It is not seen before commits that were made before it, and waits for those that wait for the medium, or while that
    /// thread is several MiB behind.
    None,
    /// For nothing: readers see the commit at once, and it is durable soon: the next durable commit takes it along,
    /// [`Database::sync`](crate::Database::sync) does, and closing, and a thread after
    /// [`Builder::sync_delay_max`](crate::Builder::sync_delay_max) at the latest. A crash before loses it, and a crash of the
    /// process alone does so too. Large transactions, and those that change tables themselves, wait as with `Immediate`, and
    /// now and then one that finds the log full or begins one, or comes after commits with `None`. Like `None` it waits for
    /// commits before it that wait.
    Buffered,
    /// For the medium: once `commit` returns no crash loses it.
    #[default]
    Immediate,
}
