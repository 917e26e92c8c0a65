//! Damage: every byte that means something is covered, and the rules of choosing a slot hold.
//!
//! Follows design.md, "Opening" and "Damage". Each test changes bytes of a whole file and reads it again.

use super::blocks::{BLOCK_BYTES, Note, Opened};
use super::bytes::{Refusal, Result, digest};
use super::catalog::{Contents, read};
use super::replay::in_memory;
use super::tree::RunKind;
use cowslip::{Database, OpenNote, TableDefinition};
use std::fs;

const WORDS: TableDefinition<&str, &[u8]> = TableDefinition::new("words");

/// A small file that was closed cleanly, or copied while it was open, after `commits` commits.
fn sample(commits: u64, closed: bool) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sample.db");
    let db = Database::builder().test_geometry(512, 512, 64).create(&path).unwrap();
    for commit in 0..commits {
        let tx = db.begin_write().unwrap();
        let mut table = tx.open_table(WORDS).unwrap();
        for n in 0..20 + commit {
            table.insert(format!("{}{n:02}", "word".repeat(15)).as_str(), [7; 30].as_slice()).unwrap();
        }
        table.insert("list", [3; 17_000].as_slice()).unwrap();
        drop(table);
        tx.commit().unwrap();
    }
    if closed {
        db.close().unwrap();
    }
    fs::read(&path).unwrap()
}

fn read_bytes(bytes: Vec<u8>) -> Result<Contents> {
    read(&Opened::new(bytes)?)
}

fn row_count(contents: &Contents) -> u64 {
    contents.tables["words"].row_count
}

/// The file with one bit of the byte at `offset` changed.
fn flipped(bytes: &[u8], offset: usize) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[offset] ^= 1 << (offset % 8);
    bytes
}

#[test]
fn any_flipped_byte_of_a_live_node_value_or_list_fails_its_checksum() {
    let bytes = sample(2, true);
    let contents = read_bytes(bytes.clone()).unwrap();
    assert!(contents.runs.iter().any(|run| run.kind == RunKind::List));
    for run in &contents.runs {
        // The bytes of a large piece are all alike to its checksum.
        let stride = if run.kind == RunKind::Piece { 97 } else { 1 };
        for offset in (run.page * 512..run.page * 512 + run.length).step_by(stride) {
            match read_bytes(flipped(&bytes, offset)) {
                Err(Refusal::Corrupted(reason)) if reason.ends_with("does not match") => {}
                other => panic!("offset {offset} of {run:?}: {other:?}"),
            }
        }
    }
}

#[test]
fn a_flipped_byte_is_noticed_exactly_where_it_means_something() {
    let bytes = sample(2, true);
    let contents = read_bytes(bytes.clone()).unwrap();
    let stride = |offset: usize| if offset < 3 * BLOCK_BYTES { 1 } else { 13 };
    let mut offset = 0;
    let mut ignored = 0;
    while offset < bytes.len() {
        let means_something = contents.covered.iter().any(|range| range.contains(&offset));
        match read_bytes(flipped(&bytes, offset)) {
            Ok(read) => {
                assert_eq!(read.tables, contents.tables, "offset {offset}");
                assert_eq!(read.notes.is_empty(), !means_something, "offset {offset}");
                ignored += usize::from(!means_something);
            }
            Err(_) => assert!(means_something, "offset {offset} is refused and means nothing"),
        }
        offset += stride(offset);
    }
    assert!(ignored > 4000, "{ignored} ignored bytes are fewer than block 0 has");
}

#[test]
fn a_damaged_newest_slot_is_refused_after_a_clean_close_and_stepped_back_from_otherwise() {
    for (commits, closed) in [(2, true), (3, true), (2, false), (3, false)] {
        let bytes = sample(commits, closed);
        assert_eq!(row_count(&read_bytes(bytes.clone()).unwrap()), 21 + commits - 1);
        // Generation g stands in slot (g - 1) % 2, and a new database has generation 1.
        let newest = usize::try_from(commits % 2).unwrap();
        let read = read_bytes(flipped(&bytes, BLOCK_BYTES * (1 + newest) + 70));
        if closed {
            assert!(matches!(read, Err(Refusal::Corrupted(_))), "{read:?}");
        } else {
            let read = read.unwrap();
            assert_eq!(read.notes, [Note::SteppedBack]);
            assert_eq!(row_count(&read), 21 + commits - 2);
        }
    }
}

#[test]
fn a_damaged_older_slot_or_block_0_is_reported_and_both_together_are_refused() {
    let bytes = sample(3, true);
    let other_slot = 2 * BLOCK_BYTES - BLOCK_BYTES + 70;
    let read = read_bytes(flipped(&bytes, other_slot)).unwrap();
    assert_eq!((row_count(&read), read.notes), (23, vec![Note::OtherSlotDamaged]));
    let read = read_bytes(flipped(&bytes, 12)).unwrap();
    assert_eq!((row_count(&read), read.notes), (23, vec![Note::HeaderDamaged]));
    assert!(matches!(read_bytes(flipped(&flipped(&bytes, 12), other_slot)), Err(Refusal::Corrupted(_))));
}

#[test]
fn a_god_byte_that_names_the_older_slot_is_reported_and_does_not_choose_it() {
    let mut bytes = sample(3, true);
    // Three commits end in slot 1: `95`. The same state naming slot 0 is `9C`.
    assert_eq!(bytes[12], 0xB1);
    bytes[12] = 0xB8;
    let read = read_bytes(bytes).unwrap();
    assert_eq!((row_count(&read), read.notes), (23, vec![Note::GodByteDisagrees]));
}

#[test]
fn a_file_that_is_cut_below_its_reach_is_refused() {
    let bytes = sample(2, true);
    let reach = Opened::new(bytes.clone()).unwrap().slot.reach;
    let mut longer = bytes.clone();
    longer.extend([0xAA; 1000]);
    assert!(read_bytes(longer).is_ok());
    let end = usize::try_from(reach).unwrap() * 512;
    assert!(read_bytes(bytes[..end].to_vec()).is_ok());
    assert!(matches!(read_bytes(bytes[..end - 1].to_vec()), Err(Refusal::Corrupted(_))));
}

/// What the crate itself notes on opening the bytes; `None` where it refuses them.
fn crate_notes(bytes: &[u8]) -> Option<Vec<Note>> {
    let storage = in_memory(bytes);
    let db = Database::builder().test_geometry(512, 512, 64).open_read_only_with_storage(storage).ok()?;
    let note = |note: &OpenNote| match note {
        OpenNote::RecoveredAfterCrash => Note::RecoveredAfterCrash,
        OpenNote::ServedOlderSlot { .. } => Note::SteppedBack,
        OpenNote::OtherSlotInvalid { .. } => Note::OtherSlotDamaged,
        OpenNote::HeaderDamaged { .. } => Note::HeaderDamaged,
        OpenNote::GodByteDisagrees => Note::GodByteDisagrees,
        other => panic!("{other:?} is a note that this reader does not know"),
    };
    Some(db.open_notes().iter().map(note).collect())
}

/// Requires that this reader and the crate agree on whether the file opens, and with which notes.
fn assert_agrees_with_the_crate(bytes: &[u8], what: &str) {
    let opened = Opened::new(bytes.to_vec());
    let notes = opened.as_ref().map(|opened| opened.notes.clone());
    assert_eq!(notes.as_ref().ok(), crate_notes(bytes).as_ref(), "{what}: {notes:?}");
}

/// Sets a byte of a slot or of block 0 and gives the block the digest that makes it whole.
fn forge(bytes: &mut [u8], block: usize, offset: usize, byte: u8) {
    let block = &mut bytes[block * BLOCK_BYTES..][..BLOCK_BYTES];
    block[offset] = byte;
    if block.starts_with(b"cowslip") {
        let covered = [&block[..12], &block[16..144]].concat();
        block[144..176].copy_from_slice(&digest(&covered));
    } else {
        let digest = digest(&block[..4064]);
        block[4064..].copy_from_slice(&digest);
    }
}

#[test]
fn opening_agrees_with_the_crate_on_damaged_blocks() {
    for (commits, closed) in [(0, true), (1, false), (2, true), (3, false)] {
        let bytes = sample(commits, closed);
        assert_agrees_with_the_crate(&bytes, "undamaged");
        for god in 0..=255 {
            let mut bytes = bytes.clone();
            bytes[12] = god;
            assert_agrees_with_the_crate(&bytes, &format!("{commits} commits, god byte {god:02x}"));
            for slot in [1, 2] {
                let torn = flipped(&bytes, slot * BLOCK_BYTES + 10);
                assert_agrees_with_the_crate(
                    &torn,
                    &format!("{commits} commits, god byte {god:02x}, slot {slot} torn"),
                );
            }
        }
    }
}

#[test]
fn opening_agrees_with_the_crate_on_forged_fields() {
    let bytes = sample(2, true);
    for block in [1, 2] {
        for offset in (0..64).chain(224..440).chain([500, 3935]) {
            for bit in [1, 0x80] {
                let mut bytes = bytes.clone();
                let byte = bytes[block * BLOCK_BYTES + offset] ^ bit;
                forge(&mut bytes, block, offset, byte);
                assert_agrees_with_the_crate(&bytes, &format!("byte {offset} of block {block} is {byte:02x}"));
            }
        }
    }
}

#[test]
fn opening_agrees_with_the_crate_on_forged_formats() {
    let bytes = sample(2, true);
    for offset in 0..128 {
        for blocks in [0b001, 0b010, 0b100, 0b101, 0b110, 0b111] {
            let mut bytes = bytes.clone();
            for (block, fields) in [(0, 16), (1, 3936), (2, 3936)] {
                if blocks >> block & 1 == 1 {
                    let byte = bytes[block * BLOCK_BYTES + fields + offset] ^ (1 << (offset % 8));
                    forge(&mut bytes, block, fields + offset, byte);
                }
            }
            assert_agrees_with_the_crate(&bytes, &format!("a bit of field {offset} in blocks {blocks:03b}"));
        }
    }
}

#[test]
fn another_version_or_feature_is_foreign_and_a_compatible_one_is_read() {
    let bytes = sample(2, true);
    for (offset, byte) in [(0, 1), (0, 2), (0, 3), (0, 5), (24, 1), (31, 0x80)] {
        for (block, fields) in [(0, 16), (1, 3936), (2, 3936)] {
            let mut bytes = bytes.clone();
            forge(&mut bytes, block, fields + offset, byte);
            assert_eq!(read_bytes(bytes).unwrap_err(), Refusal::Foreign);
        }
    }
    for mask in [32, 40] {
        let mut compatible = bytes.clone();
        for (block, fields) in [(0, 16), (1, 3936), (2, 3936)] {
            forge(&mut compatible, block, fields + mask, 1);
        }
        assert_agrees_with_the_crate(&compatible, "a compatible feature");
        assert_eq!(row_count(&read_bytes(compatible.clone()).unwrap()), 22);
        // The mask at 32 forbids writing.
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("compatible.db");
        fs::write(&path, compatible).unwrap();
        let writer = Database::builder().test_geometry(512, 512, 64).open(&path);
        assert_eq!(writer.is_ok(), mask == 40, "{writer:?}");
    }
}

#[test]
fn inspection_agrees_with_the_crate_on_nodes_with_forged_bytes_and_a_matching_digest() {
    let bytes = sample(2, true);
    let slot = Opened::new(bytes.clone()).unwrap().slot;
    let block = if slot.generation % 2 == 1 { 1 } else { 2 };
    for (root, place) in [(slot.data_root, 64), (slot.forward_root, 120)] {
        let page = usize::try_from(root.page).unwrap();
        for offset in 0..512 {
            for bit in 0..8 {
                let mut bytes = bytes.clone();
                bytes[page * 512 + offset] ^= 1 << bit;
                let forged = digest(&bytes[page * 512..(page + 1) * 512]);
                for (at, byte) in forged.into_iter().enumerate() {
                    bytes[block * BLOCK_BYTES + place + 8 + at] = byte;
                }
                let last = bytes[block * BLOCK_BYTES];
                forge(&mut bytes, block, 0, last);
                let db = Database::builder().test_geometry(512, 512, 64).open_with_storage(in_memory(&bytes));
                let checked = db.map(|db| db.check_integrity().map(|report| report.rows));
                match (read_bytes(bytes), matches!(checked, Ok(Ok(_)))) {
                    (Ok(_), true) | (Err(_), false) => {}
                    // The crate's check compares neither ids with their counter nor rows with their types.
                    (Err(Refusal::Corrupted(reason)), true)
                        if ["not given", "its type", "descriptor", "outside"]
                            .iter()
                            .any(|end| reason.contains(end)) => {}
                    (read, _) => panic!("root at {place}, offset {offset}, bit {bit}: {read:?} and {checked:?}"),
                }
            }
        }
    }
}
