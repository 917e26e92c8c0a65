//! The queue by itself, on a store without trees.
//!
//! Invariant: what is kept for records that wait is given back with them, and whoever comes after a failure is told.
//! Layer 5 (txn).

use super::super::future::CommitFuture;
use super::*;
use crate::base::ids::{PageId, TreeRoot};
use crate::io::memory::MemoryStorage;
use crate::io::storage::Storage;
use crate::pages::header::{Format, GodByte};
use crate::pages::layout::Layout;
use crate::pages::slot::LogSegment;
use crate::pages::version::Trees;
use std::future::Future;
use std::task::{Context, Poll, Waker};
use std::thread;

const UNIT_BYTES: u32 = 512;
const SEGMENT_UNITS: u32 = 1 << 14;

fn version(id: u64) -> Version {
    let (data, forward) = (TreeRoot::EMPTY, TreeRoot::EMPTY);
    Version::of_trees(Trees { made: TransactionId::new(id), data, forward }, 0)
}

/// An empty queue whose version 0 is published.
fn started() -> Arc<CommitQueue> {
    let storage = MemoryStorage::new();
    storage.set_len(u64::from(Layout::FIXED_BYTES)).unwrap();
    let layout = Layout::new(UNIT_BYTES, 1, 64).unwrap();
    let format = Format { layout, uuid: [1; 16], read_only_compatible: 0, compatible: 0 };
    let god = GodByte { primary: 0, recovery_required: true, ids_seen: false };
    let store = PageStore::new(Arc::new(storage), format, god, u64::from(layout.header_units()), 1 << 20).unwrap();
    store.grow(u64::from(SEGMENT_UNITS) + 64).unwrap();
    let queue = CommitQueue::new(Arc::new(store), Pins::new(version(0)));
    let segment = LogSegment { page: PageId::new(32).unwrap(), units: SEGMENT_UNITS, nonce: [3; 16] };
    queue.set_log(Some(LogWriter::new(segment, UNIT_BYTES)));
    queue
}

fn push(queue: &Arc<CommitQueue>, id: u64, body_bytes: usize, is_hidden: bool) -> CommitFuture {
    let outcome = Arc::new(Outcome::default());
    let record = Some(QueuedRecord { body: vec![1; body_bytes], changes: 2 });
    let outcomes = vec![Arc::clone(&outcome)];
    let watch = CommitWatch::new(&queue.store);
    queue.push(Queued { version: version(id), record, is_hidden, due: None, outcomes, watch });
    CommitFuture::new(outcome)
}

/// As one that the thread which made it waits for: no other thread writes for it.
fn push_waited_for(queue: &Arc<CommitQueue>, id: u64, body_bytes: usize, is_hidden: bool) {
    let record = Some(QueuedRecord { body: vec![1; body_bytes], changes: 2 });
    let watch = CommitWatch::new(&queue.store);
    queue.push(Queued { version: version(id), record, is_hidden, due: None, outcomes: Vec::new(), watch });
}

fn outcome(future: &mut CommitFuture) -> Poll<Result<TransactionId, String>> {
    let outcome = std::pin::Pin::new(future).poll(&mut Context::from_waker(Waker::noop()));
    outcome.map(|outcome| outcome.map_err(|error| error.to_string()))
}

#[test]
fn a_group_gives_back_the_room_that_its_records_kept_each_for_itself() {
    let queue = started();
    for id in 1..=5 {
        _ = push(&queue, id, 40, true);
        assert_eq!(u64::from(queue.log().unwrap().units_used()), id);
    }
    queue.drain().unwrap();
    let log = queue.log().unwrap();
    assert_eq!((log.units_used(), log.changes()), (1, 10), "their changes are replayed all the same");
}

#[test]
fn records_that_came_while_a_group_was_written_keep_their_room() {
    let queue = started();
    _ = push(&queue, 1, 40, true);
    _ = push(&queue, 2, 40, true);
    let group = queue.state.lock().take_group();
    assert_eq!(group.len(), 2);
    _ = push(&queue, 3, 600, true);
    assert_eq!(queue.log().unwrap().units_used(), 2 + 2);
    let mut state = queue.state.lock();
    write(state.writer.as_mut().unwrap(), &queue.store, group).unwrap();
    state.appended_changes += 4;
    state.conclude_group(&queue.pins, Duration::ZERO);
    assert_eq!((state.log.unwrap().units_used(), state.log.unwrap().changes()), (1 + 2, 6));
    assert_eq!(state.waiting.len(), 1);
}

#[test]
fn r18_what_waits_is_charged_until_it_is_written() {
    let queue = started();
    let before = queue.store.account().charged();
    _ = push(&queue, 1, 3000, true);
    _ = push(&queue, 2, 500, false);
    assert_eq!(queue.store.account().charged() - before, 3500 + 2 * size_of::<Waiting>());
    queue.drain().unwrap();
    assert_eq!(queue.store.account().charged(), before);
    assert_eq!(queue.pins.held(), [TransactionId::new(2)], "what waited is not pinned any more");
}

#[test]
fn r18_what_nobody_waits_for_is_written_from_a_limit_on_and_whoever_adds_to_more_waits() {
    let queue = started();
    let bytes_max = queue.state.lock().queued_bytes_max();
    let mut added_bytes = 0;
    for id in 1..100 {
        push_waited_for(&queue, id, 50_000, false);
        added_bytes += 50_000 + size_of::<Waiting>();
        queue.finish(TransactionId::new(id)).unwrap();
        let queued_bytes = queue.state.lock().queued_bytes;
        if added_bytes <= QUEUED_BYTES_DUE {
            assert_eq!(queued_bytes, added_bytes, "what nobody waits for is not written yet");
        }
        assert!(queued_bytes <= bytes_max, "{queued_bytes}");
    }
    let deadline = Deadline::after(Duration::from_secs(60));
    while queue.state.lock().queued_bytes > QUEUED_BYTES_DUE {
        assert!(!deadline.is_over(), "the thread writes although nobody asks for it");
        thread::yield_now();
    }
    queue.end();
}

#[test]
fn r18_commits_in_memory_take_no_place_behind_a_record_that_waits() {
    let queue = started();
    push_waited_for(&queue, 1, 40, false);
    let watch = CommitWatch::new(&queue.store);
    for id in 2..100 {
        let version = version(id);
        queue.push(Queued { version, record: None, is_hidden: false, due: None, outcomes: Vec::new(), watch });
    }
    assert_eq!((queue.pins.published().id.get(), queue.state.lock().waiting.len()), (99, 1));
    push_waited_for(&queue, 100, 40, true);
    queue.finish(TransactionId::new(100)).unwrap();
    assert_eq!((queue.pins.published().id.get(), queue.state.lock().waiting.len()), (100, 0));
}

#[test]
fn a_group_is_no_longer_than_a_reader_believes() {
    let queue = started();
    for id in 1..=3 {
        push_waited_for(&queue, id, BODY_BYTES_MAX / 2, true);
    }
    let mut state = queue.state.lock();
    assert_eq!((state.take_group().len(), state.in_flight), (2, 2));
    assert_eq!(state.queued_bytes, BODY_BYTES_MAX / 2 + size_of::<Waiting>());
}

#[test]
fn what_is_queued_after_a_failure_is_in_doubt_and_not_shown() {
    for is_hidden in [true, false] {
        let queue = started();
        let mut before = push(&queue, 1, 40, false);
        assert_eq!(outcome(&mut before), Poll::Ready(Ok(TransactionId::new(1))), "it was shown");
        queue.state.lock().fail(StorageError::corrupted("nothing that is written comes back"));
        let mut future = push(&queue, 2, 40, is_hidden);
        let told = outcome(&mut future);
        assert!(matches!(&told, Poll::Ready(Err(why)) if why.contains("comes back")), "{told:?}");
        assert!(queue.finish(TransactionId::new(2)).is_err() && queue.sync().is_err());
        assert_eq!(queue.pins.published().id.get(), 1);
        assert!(queue.check_shown(false).is_err(), "version 1 is lost");
    }
}

#[test]
fn a_version_without_a_record_waits_for_those_before_it_and_for_no_write_of_its_own() {
    let queue = started();
    let watch = CommitWatch::new(&queue.store);
    let memory =
        |id| Queued { version: version(id), record: None, is_hidden: false, due: None, outcomes: Vec::new(), watch };
    queue.push(memory(1));
    assert!(queue.state.lock().waiting.is_empty());
    _ = push(&queue, 2, 40, true);
    queue.push(memory(3));
    assert_eq!((queue.pins.published().id.get(), queue.state.lock().waiting.len()), (1, 2));
    queue.finish(TransactionId::new(3)).unwrap();
    assert_eq!((queue.pins.published().id.get(), queue.log().unwrap().units_used()), (3, 1));
}

#[test]
fn what_changed_nothing_is_told_with_the_version_that_it_shows() {
    let queue = started();
    let ask = |id| {
        let outcome = Arc::new(Outcome::default());
        queue.tell(TransactionId::new(id), Arc::clone(&outcome));
        CommitFuture::new(outcome)
    };
    assert_eq!(outcome(&mut ask(0)), Poll::Ready(Ok(TransactionId::new(0))));
    _ = push(&queue, 1, 40, true);
    _ = push(&queue, 2, 40, true);
    let mut first = ask(1);
    assert!(outcome(&mut first).is_pending());
    queue.drain().unwrap();
    assert_eq!(outcome(&mut first), Poll::Ready(Ok(TransactionId::new(1))));
    _ = push(&queue, 3, 40, true);
    queue.state.lock().fail(StorageError::Poisoned);
    assert!(matches!(outcome(&mut ask(3)), Poll::Ready(Err(_))));
    assert_eq!(outcome(&mut ask(2)), Poll::Ready(Ok(TransactionId::new(2))));
    queue.end();
}
