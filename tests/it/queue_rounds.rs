//! Threads that commit, and meet after each commit: nobody is left waiting for a group that was written.
//!
//! Invariant: a commit returns although nobody commits after it, whatever else was queued beside it.

use crate::fixture::{ROWS, Random, SharedBytes, assert_sound, put, rows, value};
use cowslip::{Builder, Database, Durability, LockMode, Storage, SyncKind, WriteMode};
use std::io::{self, IoSlice, IoSliceMut};
use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Bytes in memory; what is forced to the medium takes a while.
#[derive(Debug, Clone)]
struct Slow {
    bytes: SharedBytes,
    takes: Duration,
}

impl Storage for Slow {
    fn len(&self) -> io::Result<u64> {
        self.bytes.len()
    }

    fn read_at(&self, offset: u64, buffers: &mut [IoSliceMut<'_>]) -> io::Result<()> {
        self.bytes.read_at(offset, buffers)
    }

    fn write_at(&self, offset: u64, buffers: &[IoSlice<'_>], mode: WriteMode) -> io::Result<()> {
        if mode != WriteMode::Plain {
            thread::sleep(self.takes);
        }
        self.bytes.write_at(offset, buffers, mode)
    }

    fn writes_at_once(&self) -> usize {
        2
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.bytes.set_len(len)
    }

    fn preallocate(&self, len: u64) -> io::Result<()> {
        self.bytes.preallocate(len)
    }

    fn sync(&self, kind: SyncKind) -> io::Result<()> {
        self.bytes.sync(kind)
    }

    fn lock(&self, mode: LockMode) -> io::Result<()> {
        self.bytes.lock(mode)
    }

    fn unlock(&self) -> io::Result<()> {
        self.bytes.unlock()
    }

    fn drop_cache(&self) -> io::Result<()> {
        self.bytes.drop_cache()
    }
}

fn commit(db: &Database, durability: Durability, key: u64, len: usize) {
    let mut tx = db.begin_write().unwrap();
    tx.set_durability(durability).unwrap();
    tx.open_table(ROWS).unwrap().put(key, &value(key, 1, len)[..]).unwrap();
    tx.commit().unwrap();
}

const ROUNDS: u64 = 60;

/// Commits of a thread in one round, of which the last is durable.
fn round(db: &Database, random: &mut Random, own: u64, len: usize) {
    for _ in 0..random.below(3) {
        if random.below(5) == 0 {
            db.sync().unwrap();
        }
        let durability = match random.below(3) {
            0 => Durability::None,
            1 => Durability::Buffered,
            _ => Durability::Immediate,
        };
        commit(db, durability, own * 100 + random.below(50), len);
    }
    commit(db, Durability::Immediate, own * 100, 50);
}

fn meets_in_every_round(threads: usize, takes: Duration, len: usize) {
    let storage = Slow { bytes: SharedBytes::default(), takes };
    let builder = Builder::new().cache_bytes_max(64 << 20).sync_delay_max(Duration::from_secs(3600));
    let db = builder.create_with_storage(storage.clone()).unwrap();
    put(&db, 10_000..10_400, 0, 5000).unwrap();
    let (barrier, steps) = (Barrier::new(threads), AtomicU64::new(0));
    thread::scope(|scope| {
        for own in 0..threads as u64 {
            let (db, barrier, steps) = (&db, &barrier, &steps);
            scope.spawn(move || {
                let mut random = Random::new(own + 1);
                for _ in 0..ROUNDS {
                    round(db, &mut random, own, len);
                    steps.fetch_add(1, Ordering::Relaxed);
                    barrier.wait();
                }
            });
        }
        let (mut last, mut since) = (0, Instant::now());
        while last < ROUNDS * threads as u64 {
            let now = steps.load(Ordering::Relaxed);
            if now > last {
                (last, since) = (now, Instant::now());
            } else if since.elapsed() > Duration::from_secs(60) {
                // The others wait for good, and a panic here would wait for them.
                eprintln!("{threads} threads, {takes:?} a write, values of {len} bytes: stuck after {now} steps");
                std::process::abort();
            }
            thread::sleep(Duration::from_millis(1));
        }
    });
    let model = rows(&db).unwrap();
    assert_sound(&db);
    db.close().unwrap();
    let again = builder.open_with_storage(storage).unwrap();
    assert!(rows(&again).unwrap() == model);
}

#[test]
fn r12_every_commit_returns_although_nobody_commits_after_it() {
    for (threads, takes_micros, len) in [(2, 1, 50), (3, 300, 50), (5, 100, 60_000), (6, 1000, 50)] {
        meets_in_every_round(threads, Duration::from_micros(takes_micros), len);
    }
}
