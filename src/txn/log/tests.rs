//! Logs that are written, damaged and read back.
//!
//! Invariant: what is read is a prefix of what was written that ends before the damage, and where something durable is missing
//! it is an error.
//! Layer 5 (txn).

use super::record::{RecordHead, TableChanges, encode};
use super::{LogReader, LogWriter, Served, SizeWish, blank, segment_units};
use crate::base::ids::{PageId, TransactionId};
use crate::base::sync::Arc;
use crate::io::memory::MemoryStorage;
use crate::io::storage::{Storage, WriteMode};
use crate::pages::header::{Format, GodByte};
use crate::pages::layout::Layout;
use crate::pages::slot::{LogSegment, LogStart};
use crate::pages::store::PageStore;
use proptest::prelude::*;
use std::io::{IoSlice, IoSliceMut};

const UNIT_BYTES: u32 = 512;
const FIRST: u64 = 7;

struct Log {
    storage: Arc<MemoryStorage>,
    store: PageStore,
    writer: LogWriter,
    bodies: Vec<Vec<u8>>,
    /// Where each group begins in the storage, and where the next one would.
    starts: Vec<u64>,
}

fn segment(nonce: u8) -> LogSegment {
    LogSegment { page: PageId::new(32).unwrap(), units: 16, nonce: [nonce; 16] }
}

impl Log {
    fn new() -> Self {
        let storage = Arc::new(MemoryStorage::new());
        storage.set_len(u64::from(Layout::FIXED_BYTES)).unwrap();
        let layout = Layout::new(UNIT_BYTES, 1, 64).unwrap();
        let format = Format { layout, uuid: [1; 16], read_only_compatible: 0, compatible: 0 };
        let god = GodByte { primary: 0, recovery_required: true, ids_seen: false };
        let shared: Arc<dyn Storage> = Arc::clone(&storage) as _;
        let store = PageStore::new(shared, format, god, u64::from(layout.header_units()), 1 << 20).unwrap();
        store.grow(80).unwrap();
        let writer = LogWriter::new(segment(9), UNIT_BYTES);
        let mut log = Self { storage, store, writer, bodies: Vec::new(), starts: Vec::new() };
        log.begin(9);
        log
    }

    /// Makes the segment anew, with another random number.
    fn begin(&mut self, nonce: u8) {
        let blank = blank(&segment(nonce), self.store.layout());
        self.store.write_pages(&mut blank.pages().collect::<Vec<_>>()).unwrap();
        self.writer = LogWriter::new(segment(nonce), UNIT_BYTES);
        self.bodies.clear();
        self.starts = vec![self.offset(u64::from(UNIT_BYTES))];
    }

    fn offset(&self, in_segment: u64) -> u64 {
        self.store.layout().offset(segment(0).page) + in_segment
    }

    fn append(&mut self, changes: &[u8]) {
        let id = FIRST + 1 + self.bodies.len() as u64;
        let head = RecordHead {
            id: TransactionId::new(id),
            previous: TransactionId::new(id - 1),
            commit_time_micros: id * 10,
        };
        let body = encode(&head, &[TableChanges { name: "rows", count: 1, changes }]);
        self.writer.append(&self.store, &body, 1).unwrap();
        self.bodies.push(changes.to_vec());
        let used = u64::from(self.writer.start().unit) * u64::from(UNIT_BYTES);
        self.starts.push(self.offset(used));
    }

    fn read(&self, nonce: u8) -> crate::base::error::Result<Vec<Vec<u8>>> {
        self.read_from(LogWriter::new(segment(nonce), UNIT_BYTES).start(), FIRST)
    }

    fn read_from(&self, start: LogStart, last: u64) -> crate::base::error::Result<Vec<Vec<u8>>> {
        let mut found = Vec::new();
        LogReader::open(&self.store, start)?.replay(
            &Served { transaction: TransactionId::new(last), is_older: false },
            |record| {
                let mut record = record.clone();
                let table = record.next_table()?.expect("each record has a table");
                assert_eq!((table.name, table.count), ("rows", 1));
                found.push(table.changes.to_vec());
                assert_eq!(record.next_table()?, None);
                Ok(())
            },
        )?;
        Ok(found)
    }

    fn byte(&self, at: u64) -> u8 {
        let mut byte = [0];
        self.storage.read_at(at, &mut [IoSliceMut::new(&mut byte)]).unwrap();
        byte[0]
    }

    fn set(&self, at: u64, bytes: &[u8]) {
        self.storage.write_at(at, &[IoSlice::new(bytes)], WriteMode::Plain).unwrap();
    }
}

fn filled() -> Log {
    let mut log = Log::new();
    for (index, len) in [3_usize, 700, 0, 420, 1000].into_iter().enumerate() {
        log.append(&vec![u8::try_from(index + 1).unwrap(); len]);
    }
    log
}

#[test]
fn records_are_read_back_in_their_order() {
    let log = filled();
    assert_eq!(log.read(9).unwrap(), log.bodies);
}

#[test]
fn r15_a_flipped_byte_ends_the_log_only_in_the_last_group_and_is_an_error_before_it() {
    let log = filled();
    let last = log.starts[4];
    for at in log.starts[0]..log.starts[5] {
        let before = log.byte(at);
        log.set(at, &[before ^ 0x10]);
        match log.read(9) {
            Ok(found) if found.len() == 5 => {
                // Only what pads a group to whole units belongs to nothing.
                assert!(found == log.bodies && before == 0, "byte {at}");
            }
            Ok(found) => {
                assert!(at >= last, "byte {at}: the log ends silently after {} groups", found.len());
                assert!(found == log.bodies[..4], "byte {at}");
            }
            Err(error) => assert!(error.is_corruption() && at < last, "byte {at}: {error}"),
        }
        log.set(at, &[before]);
    }
    assert_eq!(log.read(9).unwrap(), log.bodies);
}

#[test]
fn a_group_that_was_cut_short_ends_the_log() {
    let log = filled();
    let (from, to) = (log.starts[4], log.starts[5]);
    let whole: Vec<u8> = (from..to).map(|at| log.byte(at)).collect();
    assert_eq!(whole.len(), 3 * 512);
    // Any of the three sectors can be missing.
    for survivors in 0..7_usize {
        let mut torn = whole.clone();
        for (sector, bytes) in torn.chunks_mut(512).enumerate() {
            if survivors >> sector & 1 == 0 {
                bytes.fill(0);
            }
        }
        log.set(from, &torn);
        assert!(log.read(9).unwrap() == log.bodies[..4], "{survivors:b}");
    }
    log.set(from, &whole);
    assert!(log.read(9).unwrap() == log.bodies);
}

#[test]
fn r15_bytes_of_an_earlier_log_are_never_records() {
    let mut log = filled();
    let stale: Vec<u8> = (log.starts[0]..log.starts[5]).map(|at| log.byte(at)).collect();
    log.begin(10);
    log.set(log.starts[0], &stale);
    assert_eq!(log.read(10).unwrap(), Vec::<Vec<u8>>::new());
    // A group in front of the old ones does not bring them back.
    log.append(&[1; 3]);
    assert_eq!(log.read(10).unwrap(), [vec![1; 3]]);
    assert!(log.read(9).is_err_and(|error| error.is_corruption()), "another segment begins there");
}

#[test]
fn r12_a_record_that_does_not_follow_the_one_before_is_damage() {
    let mut log = Log::new();
    let head = RecordHead {
        id: TransactionId::new(FIRST + 2),
        previous: TransactionId::new(FIRST + 1),
        commit_time_micros: 1,
    };
    let body = encode(&head, &[]);
    log.writer.append(&log.store, &body, 1).unwrap();
    assert!(log.read(9).is_err_and(|error| error.is_corruption()));
}

#[test]
fn a_segment_outside_the_file_is_damage() {
    let log = Log::new();
    for (page, units) in [(70, 16), (500, 2), (32, u32::MAX), (PageId::LIMIT - 1, 16)] {
        let segment = LogSegment { page: PageId::new(page).unwrap(), units, nonce: [9; 16] };
        let start = LogWriter::new(segment, UNIT_BYTES).start();
        assert!(LogReader::open(&log.store, start).is_err_and(|error| error.is_corruption()), "{page}");
    }
}

#[test]
fn a_ring_is_read_from_any_start_over_its_end_and_never_further_back() {
    let mut log = Log::new();
    let mut starts = vec![(log.writer.start(), FIRST)];
    for index in 0..60_u8 {
        log.append(&vec![index; 37 * usize::from(index) % 1100]);
        starts.push((log.writer.start(), FIRST + u64::from(index) + 1));
    }
    let mut read = 0;
    for (from, (start, last)) in starts.into_iter().enumerate() {
        match log.read_from(start, last) {
            Ok(found) => {
                assert!(found == log.bodies[from..], "from {from}");
                read += 1;
            }
            Err(error) => assert!(error.is_corruption() && read == 0, "what was written over is missed: {error}"),
        }
    }
    assert!((5..20).contains(&read), "{read}");
}

#[test]
fn r15_a_flipped_byte_in_a_ring_that_went_round_is_an_error_before_the_last_group() {
    let mut log = Log::new();
    let mut starts = vec![log.writer.start()];
    for index in 0..27_u8 {
        log.append(&vec![index; 200 + 90 * usize::from(index % 4)]);
        starts.push(log.writer.start());
    }
    // The last eight groups, which stand before and behind the end of the ring.
    let (start, last) = (starts[19], FIRST + 19);
    assert!(starts[20..].iter().any(|later| later.unit < start.unit));
    assert!(log.read_from(start, last).unwrap() == log.bodies[19..]);
    for from in 19..27 {
        let len = 64 + 40 + 12 + "rows".len() + log.bodies[from].len();
        let units = u32::try_from(len.div_ceil(512)).unwrap();
        let at = log.offset(u64::from(starts[from + 1].unit - units) * u64::from(UNIT_BYTES));
        for at in at..at + len as u64 {
            let before = log.byte(at);
            log.set(at, &[before ^ 0x10]);
            match log.read_from(start, last) {
                Ok(found) => assert!(from == 26 && found == log.bodies[19..26], "group {from}"),
                Err(error) => assert!(from < 26 && error.is_corruption(), "group {from}: {error}"),
            }
            log.set(at, &[before]);
        }
    }
}

#[test]
fn r15_a_torn_group_over_older_ones_ends_the_log() {
    for kept in 0..15_u8 {
        let mut log = Log::new();
        for index in 0..21_u8 {
            log.append(&vec![index; 300]);
        }
        let start = log.writer.start();
        let at = log.offset(u64::from(start.unit) * u64::from(UNIT_BYTES));
        // It takes four units; those that did not reach the medium hold what was there a round ago.
        let before: Vec<u8> = (at..at + 2048).map(|at| log.byte(at)).collect();
        log.append(&[50; 1500]);
        assert_eq!(log.read_from(start, FIRST + 21).unwrap().len(), 1);
        for (unit, old) in before.chunks(512).enumerate().filter(|(unit, _)| kept >> unit & 1 == 0) {
            log.set(at + unit as u64 * 512, old);
        }
        assert!(log.read_from(start, FIRST + 21).unwrap().is_empty(), "{kept:#b}");
    }
}

#[test]
fn segments_grow_where_they_are_filled_and_stay_small_in_small_files() {
    let layout = Layout::new(4096, 2, 65536).unwrap();
    let wish = |last_units, is_full, file_units| SizeWish {
        last_units,
        record_bytes: u64::from(is_full),
        file_units,
        bytes_max: 64 << 20,
    };
    assert_eq!(segment_units(&layout, &wish(0, true, 30)), 4);
    assert_eq!(segment_units(&layout, &wish(0, true, 1 << 14)), 32);
    assert_eq!(segment_units(&layout, &wish(16, true, 1000)), 64);
    assert_eq!(segment_units(&layout, &wish(16, true, 200)), 16);
    assert_eq!(segment_units(&layout, &wish(16384, true, 1 << 24)), 16384);
    assert_eq!(segment_units(&layout, &wish(700, true, 1 << 14)), 4096);
    assert_eq!(segment_units(&layout, &wish(700, false, 1 << 24)), 1024);
    assert_eq!(segment_units(&layout, &SizeWish { bytes_max: 0, ..wish(700, true, 1 << 24) }), 4);
    let large = SizeWish { record_bytes: 200 << 10, ..wish(4, true, 1 << 24) };
    assert_eq!(segment_units(&layout, &large), 16384, "records of 200 KiB, of which 256 take 12800 units");
    let small = SizeWish { record_bytes: 20 << 10, ..large };
    assert_eq!(segment_units(&layout, &small), 128, "records of 20 KiB, of which 16 take 80 units");
    let tiny = Layout::new(512, 1, 64).unwrap();
    assert_eq!(segment_units(&tiny, &wish(4, true, 1 << 20)), 32);
    assert!(segment_units(&tiny, &wish(1 << 20, true, 1 << 20)) <= tiny.largest_run_units());
}

#[test]
fn values_that_look_like_groups_do_not_make_a_torn_one_damage() {
    let mut log = filled();
    // Each unit of the last body begins like a group that claims much, as far as a value can know.
    let mut body = vec![0; 1500];
    for unit in body.chunks_mut(4) {
        unit.copy_from_slice(b"cwlg");
    }
    let mut header = [0; 32];
    header[..4].copy_from_slice(b"cwlg");
    header[16] = 200;
    header[24..28].copy_from_slice(&(1_u32 << 20).to_le_bytes());
    let skipped = 64 + 40 + 12 + "rows".len();
    for unit in [512, 1024] {
        body[unit - skipped..][..32].copy_from_slice(&header);
    }
    log.append(&body);
    assert_eq!(log.byte(log.starts[5] + 512), b'c');
    log.set(log.starts[5], &[0; 512]);
    assert!(log.read(9).unwrap() == log.bodies[..5]);
}

#[test]
fn headers_that_lie_are_damage_before_much_is_read() {
    let log = filled();
    // Each unit behind the end claims a group as long as the segment.
    for unit in 10..16_u64 {
        let at = log.offset(unit * u64::from(UNIT_BYTES));
        let mut lie = [0; 32];
        lie[..4].copy_from_slice(b"cwlg");
        lie[4..8].fill(9);
        lie[16] = 200;
        lie[24..28].copy_from_slice(&(1_u32 << 20).to_le_bytes());
        log.set(at, &lie);
    }
    assert!(log.starts[5] <= log.offset(10 * u64::from(UNIT_BYTES)));
    assert!(log.read(9).is_err_and(|error| error.is_corruption()));
}

proptest! {
    #[test]
    fn no_bytes_of_a_segment_panic_or_show_what_was_not_written(
        bodies in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..600), 0..6),
        edits in proptest::collection::vec((512_u64..8192, any::<u8>()), 0..6),
    ) {
        let mut log = Log::new();
        for body in &bodies {
            log.append(body);
        }
        for (at, byte) in edits {
            log.set(log.offset(at), &[byte]);
        }
        if let Ok(found) = log.read(9) {
            prop_assert!(log.bodies.starts_with(&found));
        }
    }
}
