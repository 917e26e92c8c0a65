//! Damaged, torn, stale and forged logs: this reader and the crate judge them alike, and as design.md says.
//!
//! Follows design.md, "Redo log" and "Damage". Each test changes bytes of a copy of an open database.

use super::blocks::{BLOCK_BYTES, Note, Opened};
use super::bytes::{corrupted, digest, u32_at};
use super::log::{GROUP_HEADER_BYTES, LogReference, sum};
use super::replay::{State, Workbench, assert_crate_agrees, assert_reader_agrees, in_memory, own_state};
use cowslip::{Builder, Database};
use std::ops::Range;

/// A copy whose log has some groups, and what it held after each of them, the slot's version first.
struct Sample {
    builder: Builder,
    bytes: Vec<u8>,
    states: Vec<State>,
    /// Where the log stands in the file.
    segment: Range<usize>,
    unit_bytes: usize,
    reference: LogReference,
    /// Where the groups stand in the file, without their padding.
    groups: Vec<Range<usize>>,
}

/// An ordinary file, and one of tiny geometry.
fn builders() -> [Builder; 2] {
    [Database::builder(), Database::builder().test_geometry(512, 512, 64)]
}

impl Sample {
    /// A copy whose log has `groups` groups at least; the last of them fills more than a unit where units are small.
    fn new(builder: Builder, groups: usize) -> Self {
        let mut bench = Workbench::filled(builder);
        let mut n = 0;
        loop {
            bench.direct_for_all(0);
            let mut states = vec![bench.state()];
            let generation = Opened::new(bench.copy()).unwrap().slot.generation;
            while states.len() <= groups {
                if states.len() == groups {
                    bench.commit(|bench, tx| {
                        for n in 0..9_u32 {
                            bench.put(tx, "words", &(n * 41).to_be_bytes().repeat(3), &[6; 45]);
                        }
                        bench.remove(tx, "long", &[vec![b'k'; 600], vec![30]].concat());
                    });
                } else {
                    n += 7;
                    bench.small(n % 400);
                }
                states.push(bench.state());
            }
            let opened = Opened::new(bench.copy()).unwrap();
            if opened.slot.generation == generation {
                return Self::of(&bench, states);
            }
        }
    }

    /// A copy whose log has three groups from before the slot, which made trees of one of their tables, and one from after it.
    fn with_older_groups(builder: Builder) -> Self {
        let mut bench = Workbench::filled(builder);
        loop {
            bench.direct_for_all(0);
            let opened = Opened::new(bench.copy()).unwrap();
            let mut states = vec![bench.state()];
            for n in [3, 5] {
                bench.commit(|bench, tx| {
                    bench.put(tx, "words", &[n; 12], b"in the slot's trees");
                    bench.put(tx, "long", &[n; 12], b"in the log alone");
                });
                states.push(bench.state());
            }
            bench.commit(|bench, tx| bench.remove(tx, "words", &[5; 12]));
            bench.direct(7);
            states.push(bench.state());
            bench.commit(|bench, tx| bench.put(tx, "words", &[5; 12], b"after the slot"));
            states.push(bench.state());
            let after = Opened::new(bench.copy()).unwrap();
            if after.slot.generation == opened.slot.generation + 1 && after.slot.log == opened.slot.log {
                let log = after.log.as_ref().unwrap();
                assert_eq!((log.transactions(), log.transactions_after_slot()), (4, 1));
                return Self::of(&bench, states);
            }
        }
    }

    fn of(bench: &Workbench, states: Vec<State>) -> Self {
        let Opened { bytes, slot, log, .. } = Opened::new(bench.copy()).unwrap();
        let (reference, unit_bytes) = (slot.log.unwrap(), slot.layout.unit_bytes);
        let start = usize::try_from(reference.page).unwrap() * unit_bytes;
        let groups = log.unwrap().groups.iter().map(|group| start + group.start..start + group.end).collect();
        let segment = start..start + reference.units * unit_bytes;
        Self { builder: bench.builder.clone(), bytes, states, segment, unit_bytes, reference, groups }
    }

    fn last(&self) -> Range<usize> {
        self.groups[self.groups.len() - 1].clone()
    }

    /// First byte of the first unit that no group takes.
    fn end(&self) -> usize {
        self.segment.start + (self.last().end - self.segment.start).next_multiple_of(self.unit_bytes)
    }

    /// Gives all groups the sums that their bytes ask for.
    fn reseal(&mut self) {
        let (nonce, mut chain) = (self.reference.nonce, self.reference.chain);
        for group in &self.groups {
            let length = usize::try_from(u32_at(&self.bytes, group.start + 24).unwrap()).unwrap();
            let body_start = group.start + GROUP_HEADER_BYTES;
            let Some(body) = self.bytes[..self.segment.end].get(body_start..body_start + length) else { return };
            let own = sum(&[&nonce, &self.bytes[group.start..group.start + 32], body]);
            chain = sum(&[&chain, &own]);
            self.bytes[group.start + 32..group.start + 48].copy_from_slice(&own);
            self.bytes[group.start + 48..group.start + 64].copy_from_slice(&chain);
        }
    }

    /// Requires that both readers find the rows after so many groups, or refuse.
    fn assert_judged(&self, bytes: &[u8], groups: Option<usize>, what: &str) {
        let found = assert_crate_agrees(&self.builder, bytes, what);
        let expected = groups.map(|groups| &self.states[groups]);
        assert!(found.as_ref() == expected, "{what}: expected is {groups:?} groups, found is {}", found.is_some());
    }
}

/// Gives a slot the digest that its bytes ask for.
fn seal_slot(bytes: &mut [u8], slot: usize) {
    let block = &mut bytes[BLOCK_BYTES * (1 + slot)..][..BLOCK_BYTES];
    let digest = digest(&block[..4064]);
    block[4064..].copy_from_slice(&digest);
}

/// Index of the slot that was written last: generation 1 stands in slot 0.
pub(crate) fn newest_slot(bytes: &[u8]) -> usize {
    usize::from(Opened::new(bytes.to_vec()).unwrap().slot.generation.is_multiple_of(2))
}

#[test]
fn a_flipped_byte_of_the_log_is_refused_exactly_where_a_later_group_knows_better() {
    for builder in builders() {
        let sample = Sample::new(builder, 2);
        let count = sample.groups.len();
        assert_eq!(count, 2);
        sample.assert_judged(&sample.bytes, Some(count), "undamaged");
        let first_unit = sample.segment.start..sample.segment.start + 64;
        for offset in sample.segment.clone() {
            let in_group = sample.groups.iter().any(|group| group.contains(&offset));
            if !in_group && !first_unit.contains(&offset) && offset % 61 != 0 {
                continue;
            }
            let mut bytes = sample.bytes.clone();
            bytes[offset] ^= 1 << (offset % 8);
            let expected = if sample.last().contains(&offset) {
                Some(count - 1)
            } else {
                (!in_group && !first_unit.contains(&offset)).then_some(count)
            };
            sample.assert_judged(&bytes, expected, &format!("offset {} of the log", offset - sample.segment.start));
        }
    }
}

#[test]
fn a_torn_last_group_is_none() {
    for builder in builders() {
        let sample = Sample::new(builder, 2);
        let last = sample.last();
        for cut in (1..last.len()).step_by(3).chain([last.len() - 1]) {
            // The segment was blank before.
            for lost in [last.start..last.start + cut, last.start + cut..last.end] {
                let mut bytes = sample.bytes.clone();
                bytes[lost.clone()].fill(0);
                let is_whole = bytes == sample.bytes;
                let expected = if is_whole { sample.groups.len() } else { sample.groups.len() - 1 };
                sample.assert_judged(&bytes, Some(expected), &format!("{lost:?} of {last:?} never arrived"));
            }
        }
        let mut bytes = sample.bytes.clone();
        bytes[last.start..last.start + GROUP_HEADER_BYTES].fill(0);
        bytes[sample.groups[0].clone()].fill(0);
        sample.assert_judged(&bytes, Some(0), "no group arrived");
    }
}

#[test]
fn a_lost_group_is_damage_only_if_a_later_one_knew_it_durable() {
    for builder in builders() {
        let mut sample = Sample::new(builder, 2);
        let (first, last) = (sample.groups[0].clone(), sample.last());
        let before = sample.reference.sequence - 1;
        for (durable_through, expected) in [(before, Some(0)), (before + 1, None), (before + 2, None)] {
            sample.bytes[last.start + 16..last.start + 24].copy_from_slice(&durable_through.to_le_bytes());
            sample.reseal();
            let mut bytes = sample.bytes.clone();
            sample.assert_judged(&bytes, Some(2), "both groups");
            bytes[first.end - 1] ^= 1;
            sample.assert_judged(&bytes, expected, &format!("a group that knew {durable_through} durable"));
            // A chain that does not match counts for nothing there, the own sum alone does.
            bytes[last.start + 48] ^= 1;
            sample.assert_judged(&bytes, expected, &format!("unchained, knew {durable_through} durable"));
        }
    }
}

#[test]
fn a_group_in_the_wrong_place_of_the_chain_ends_the_log() {
    for builder in builders() {
        let sample = Sample::new(builder, 2);
        let first = sample.groups[0].clone();
        // The first group once more, behind the last one: its sequence and chain do not follow.
        let mut bytes = sample.bytes.clone();
        if sample.end() + sample.unit_bytes <= sample.segment.end {
            bytes.copy_within(first.clone(), sample.end());
            sample.assert_judged(&bytes, Some(2), "an old group behind the last");
        }
        // The first one with the chain of another log, and a sum that is right.
        let mut bytes = sample.bytes.clone();
        bytes[first.start + 48] ^= 1;
        sample.assert_judged(&bytes, None, "a chain that does not match, before a group that knew better");
        bytes[sample.last()].fill(0);
        sample.assert_judged(&bytes, Some(0), "a chain that does not match");
    }
}

#[test]
fn groups_of_an_earlier_segment_mean_nothing() {
    for builder in builders() {
        let mut bench = Workbench::filled(builder);
        bench.small(1);
        bench.direct(0);
        for n in 0..3 {
            bench.small(n);
        }
        // The last of its groups says that the second was durable, which the next segment lacks.
        let old = Sample::of(&bench, vec![]);
        assert_eq!(old.groups.len(), 3);
        let mut n = 3;
        let current = loop {
            n += 1;
            bench.small(n % 300);
            let state = bench.state();
            if Opened::new(bench.copy()).unwrap().log.is_some_and(|log| log.groups.len() == 1) {
                let sample = Sample::of(&bench, vec![State::new(), state]);
                if sample.reference.nonce != old.reference.nonce {
                    break sample;
                }
            }
            assert!(n < 10_000, "the segment never changed");
        };
        current.assert_judged(&current.bytes, Some(1), "as written");
        for at in (current.end()..current.segment.end).step_by(current.unit_bytes) {
            let mut bytes = current.bytes.clone();
            for group in &old.groups {
                let group = group.start..group.end.min(group.start + current.segment.end - at);
                bytes[at..at + group.len()].copy_from_slice(&old.bytes[group]);
                current.assert_judged(&bytes, Some(1), "with an old group");
            }
        }
        let mut bytes = current.bytes.clone();
        let length = old.segment.len().min(current.segment.len());
        bytes[current.segment.start..][..length].copy_from_slice(&old.bytes[old.segment.start..][..length]);
        current.assert_judged(&bytes, None, "with the old segment's first unit");
    }
}

#[test]
fn logs_with_forged_fields_and_matching_sums_are_judged_as_by_the_crate() {
    for builder in builders() {
        assert_forged_fields_are_judged_alike(&Sample::new(builder.clone(), 2));
        assert_forged_fields_are_judged_alike(&Sample::with_older_groups(builder));
    }
}

fn assert_forged_fields_are_judged_alike(sample: &Sample) {
    let last = sample.last();
    let mut served = [0, 0];
    for group in &sample.groups {
        for offset in group.clone().filter(|offset| !(32..64).contains(&(offset - group.start))) {
            for bit in [1, 0x80] {
                let mut forged = Sample { bytes: sample.bytes.clone(), ..sample_like(sample) };
                forged.bytes[offset] ^= bit;
                forged.reseal();
                let what = format!("bit {bit:02x} at {} of {group:?}, last is {last:?}", offset - group.start);
                let found = assert_reader_agrees(&forged.builder, &forged.bytes, &what);
                served[usize::from(found.is_some())] += 1;
            }
        }
    }
    assert!(served.iter().all(|count| *count > 50), "{served:?} were refused and served");
}

#[test]
fn records_older_than_the_slot_count_for_the_tables_that_it_did_not_make_trees_of() {
    for builder in builders() {
        let sample = Sample::with_older_groups(builder);
        let mut bytes = sample.bytes.clone();
        sample.assert_judged(&bytes, Some(4), "as written");
        bytes[sample.last()].fill(0);
        sample.assert_judged(&bytes, Some(3), "without the record after the slot");
        // All groups before the last were durable by then.
        for group in &sample.groups[..3] {
            let mut bytes = sample.bytes.clone();
            bytes[group.end - 1] ^= 1;
            sample.assert_judged(&bytes, None, "a damaged record from before the slot");
        }
    }
}

/// The same places, without bytes and states.
fn sample_like(sample: &Sample) -> Sample {
    Sample {
        builder: sample.builder.clone(),
        bytes: Vec::new(),
        states: Vec::new(),
        segment: sample.segment.clone(),
        groups: sample.groups.clone(),
        ..*sample
    }
}

#[test]
fn references_to_a_log_with_forged_bytes_are_judged_as_by_the_crate() {
    for builder in builders() {
        let sample = Sample::new(builder, 2);
        let slot = newest_slot(&sample.bytes);
        for offset in 368..432 {
            for bit in 0..8 {
                let mut bytes = sample.bytes.clone();
                bytes[BLOCK_BYTES * (1 + slot) + offset] ^= 1 << bit;
                seal_slot(&mut bytes, slot);
                assert_reader_agrees(&sample.builder, &bytes, &format!("bit {bit} of byte {offset} of the slot"));
            }
        }
        let mut bytes = sample.bytes.clone();
        for (range, what) in [
            (368..376, "a page"),
            (376..384, "a length"),
            (384..400, "a nonce"),
            (400..408, "a place"),
            (408..416, "a sequence"),
        ] {
            bytes.copy_from_slice(&sample.bytes);
            bytes[BLOCK_BYTES * (1 + slot)..][range].fill(0);
            seal_slot(&mut bytes, slot);
            assert_crate_agrees(&sample.builder, &bytes, &format!("a slot without {what}"));
        }
    }
}

#[test]
fn the_log_belongs_to_the_space_of_the_slot_that_names_it() {
    for builder in builders() {
        let mut sample = Sample::new(builder, 2);
        let slot = newest_slot(&sample.bytes);
        sample.bytes[BLOCK_BYTES * (1 + slot)..][368..432].fill(0);
        seal_slot(&mut sample.bytes, slot);
        let leak = own_state(&sample.bytes).map(|_| ());
        assert_eq!(leak, corrupted("a unit is allocated and not reached"));
        let db = sample.builder.open_read_only_with_storage(in_memory(&sample.bytes)).unwrap();
        assert!(db.check_integrity().is_err());
    }
}

#[test]
fn a_log_is_read_under_every_god_byte_that_the_slots_are() {
    for builder in builders() {
        let sample = Sample::new(builder, 2);
        for god in 0..=255 {
            let mut bytes = sample.bytes.clone();
            bytes[12] = god;
            sample.assert_judged(&bytes, Some(2), &format!("god byte {god:02x}"));
        }
    }
}

#[test]
fn an_older_slot_serves_with_its_log() {
    for builder in builders() {
        let mut bench = Workbench::filled(builder);
        bench.small(1);
        bench.direct(0);
        bench.small(2);
        let before = bench.state();
        assert!(Opened::new(bench.copy()).unwrap().log.unwrap().transactions() > 0);
        bench.direct(9);
        let sample = Sample::of(&bench, vec![before]);
        let mut bytes = sample.bytes.clone();
        bytes[BLOCK_BYTES * (1 + newest_slot(&sample.bytes)) + 70] ^= 1;
        sample.assert_judged(&bytes, Some(0), "the newer slot is torn");
        assert_eq!(own_state(&bytes).unwrap().1.notes, [Note::SteppedBack]);
    }
}

#[test]
fn an_older_slot_that_shares_its_log_serves_without_the_records_of_the_newer() {
    for builder in builders() {
        let mut bench = Workbench::filled(builder);
        bench.small(1);
        bench.direct(0);
        let before = bench.state();
        let older = Opened::new(bench.copy()).unwrap().slot;
        bench.direct(9);
        bench.small(2);
        bench.small(3);
        let sample = Sample::of(&bench, vec![before]);
        let newest = Opened::new(sample.bytes.clone()).unwrap();
        assert_eq!((newest.slot.log, newest.log.unwrap().transactions()), (older.log, 2));
        let mut bytes = sample.bytes.clone();
        bytes[BLOCK_BYTES * (1 + newest_slot(&sample.bytes)) + 70] ^= 1;
        sample.assert_judged(&bytes, Some(0), "the newer slot is torn");
        // Damage in records that nobody asks for is still damage, where a later group knew them durable.
        bytes[sample.groups[0].end - 1] ^= 1;
        assert_crate_agrees(&sample.builder, &bytes, "the newer slot is torn and a record of it damaged");
    }
}

/// The sample with a log behind its end that tells of one change, of a key of so many bytes.
fn with_key_of(sample: &Sample, key_bytes: usize) -> Vec<u8> {
    let le = |number: usize| u32::try_from(number).unwrap().to_le_bytes();
    let slot = Opened::new(sample.bytes.clone()).unwrap().slot;
    let change = [&le(key_bytes)[..], &le(1), &vec![b'k'; key_bytes], b"v"].concat();
    let part = [&le(5)[..], &le(1), &le(change.len()), b"words", &change].concat();
    let ids = [slot.transaction + 1, slot.transaction, slot.commit_time_micros + 1].map(u64::to_le_bytes).concat();
    let record = [&[1, 0, 0, 0][..], &le(40 + part.len()), &ids, &le(1), &le(0), &part].concat();
    let place = [1, 0].map(u64::to_le_bytes).concat();
    let header = [&b"cwlg"[..], &sample.reference.nonce[..4], &place, &le(record.len()), &le(1)].concat();
    let own = sum(&[&sample.reference.nonce, &header, &record]);
    let group = [&header[..], &own, &sum(&[&sample.reference.nonce, &own]), &record].concat();
    let units = 1 + group.len().div_ceil(sample.unit_bytes);
    let first = [&b"cowlog\x01\0"[..], &(units as u64).to_le_bytes(), &sample.reference.nonce].concat();
    let mut bytes = sample.bytes.clone();
    bytes.resize(bytes.len().next_multiple_of(sample.unit_bytes), 0);
    let start = bytes.len();
    bytes.extend([&first[..], &digest(&first)].concat());
    bytes.resize(start + sample.unit_bytes, 0);
    bytes.extend(group);
    bytes.resize(start + units * sample.unit_bytes, 0);
    let newest = newest_slot(&sample.bytes);
    let reference = &mut bytes[BLOCK_BYTES * (1 + newest)..][368..432];
    reference[..8].copy_from_slice(&((start / sample.unit_bytes) as u64).to_le_bytes());
    reference[8..16].copy_from_slice(&(units as u64).to_le_bytes());
    reference[32..48].copy_from_slice(&[1, 1].map(u64::to_le_bytes).concat());
    reference[48..].copy_from_slice(&sample.reference.nonce);
    seal_slot(&mut bytes, newest);
    bytes
}

#[test]
fn a_key_in_the_log_is_as_long_as_a_key_may_be() {
    let sample = Sample::new(Database::builder(), 2);
    for (key_bytes, is_read) in [(65536, true), (65537, false)] {
        let bytes = with_key_of(&sample, key_bytes);
        let opened = Opened::new(bytes.clone()).map(|opened| opened.log.map(|log| log.transactions()));
        assert_eq!(opened, if is_read { Ok(Some(1)) } else { corrupted("a key in the log is too long") });
        let db = sample.builder.open_read_only_with_storage(in_memory(&bytes));
        assert_eq!(db.is_ok(), is_read, "{db:?}");
    }
}
