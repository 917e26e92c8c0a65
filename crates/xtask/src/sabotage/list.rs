//! The planted bugs and the commands that must catch them.

use super::delta_list::DELTA_SABOTAGES;
use super::gate::Gate;
use super::log_list::LOG_SABOTAGES;

/// One line made wrong at its real place.
#[derive(Debug)]
pub(crate) struct Sabotage {
    /// Unique, in lower case with underscores.
    pub(crate) name: &'static str,
    /// The rule or invariant that the change breaks.
    pub(crate) rule: &'static str,
    /// Path from the root of the workspace.
    pub(crate) file: &'static str,
    /// Part of one line that occurs exactly once in the file.
    pub(crate) find: &'static str,
    /// What stands there instead; it must compile.
    pub(crate) replace: &'static str,
    /// Gate commands, the one that fails soonest first.
    pub(crate) commands: &'static [Gate],
}

/// Name of the unit test that fails whenever a sabotage is planted, because its `find` is gone.
///
/// It would catch every sabotage without proving anything, so the gate skips it.
const APPLIES_TEST: &str = "every_listed_sabotage_still_applies";

/// Unit tests of the store alone: quick to build and to run.
pub(crate) const UNIT: Gate = Gate { name: "unit tests", args: &["test", "--locked", "--package", "cowslip", "--lib"] };

/// Every test of the workspace.
pub(crate) const WORKSPACE: Gate =
    Gate { name: "all tests", args: &["test", "--locked", "--workspace", "--", "--skip", APPLIES_TEST] };

/// What a change has to pass; the same for every sabotage that names nothing else.
pub(crate) const DEFAULT: &[Gate] = &[UNIT, WORKSPACE];

/// The tests of the public API alone.
pub(crate) const API: Gate =
    Gate { name: "integration tests", args: &["test", "--locked", "--package", "cowslip", "--test", "it"] };

/// For what the store's own tests must catch without the workspace around it.
pub(crate) const STORE: &[Gate] = &[UNIT, API];

/// Every planted bug.
pub(crate) fn all() -> impl Iterator<Item = &'static Sabotage> {
    STORE_SABOTAGES.iter().chain(LOG_SABOTAGES).chain(DELTA_SABOTAGES)
}

/// Planted bugs of everything but the redo log and what is laid over the trees.
const STORE_SABOTAGES: &[Sabotage] = &[
    Sabotage {
        name: "decoder_accepts_leftover_bytes",
        rule: "every decode is checked",
        file: "src/base/codec.rs",
        find: "if self.rest.is_empty() {",
        replace: "if self.rest.len() < usize::MAX {",
        commands: DEFAULT,
    },
    Sabotage {
        name: "page_number_limit_off_by_one",
        rule: "page numbers fit in 48 bits",
        file: "src/base/ids.rs",
        find: "(number < Self::LIMIT).then_some(Self(number))",
        replace: "(number <= Self::LIMIT).then_some(Self(number))",
        commands: DEFAULT,
    },
    Sabotage {
        name: "pin_is_not_counted",
        rule: "R1: a pin holds its version",
        file: "src/pages/version.rs",
        find: "*self.counts.entry(id).or_insert(0) += 1;",
        replace: "*self.counts.entry(id).or_insert(0) += 0;",
        commands: DEFAULT,
    },
    Sabotage {
        name: "published_version_is_not_held",
        rule: "R1: the published version is held",
        file: "src/pages/version.rs",
        find: "if let Err(place) = held.binary_search(&made) {",
        replace: "if let Some(place) = held.is_empty().then_some(0) {",
        commands: DEFAULT,
    },
    Sabotage {
        name: "spilled_page_is_edited_in_place",
        rule: "R1: a page that was written early is copied",
        file: "src/btree/seal.rs",
        find: "branch::set_child(self.dirty_node(root), index, Child { page: child.page, sum });",
        replace: "branch::set_child(self.dirty_node(root), index, Child { page: child.page, sum: 0 * sum });",
        commands: DEFAULT,
    },
    Sabotage {
        name: "run_is_freed_one_version_too_early",
        rule: "R3: a run waits for every pin that reaches it",
        file: "src/txn/reclaim.rs",
        find: "Some(version) if *version >= dead.birth =>",
        replace: "Some(version) if *version > dead.birth =>",
        commands: DEFAULT,
    },
    Sabotage {
        name: "retired_run_is_handed_out_at_once",
        rule: "R3: a retired run stays allocated until its freeing is durable",
        file: "src/pages/region.rs",
        find: "self.image.clear_range(start, units);",
        replace: "self.image.clear_range(start, units); self.allocated.clear_range(start, units); self.buddy = None;",
        commands: DEFAULT,
    },
    Sabotage {
        name: "sweep_forgets_older_pins",
        rule: "R3: a run goes to the next older pin that reaches it",
        file: "src/txn/reclaim.rs",
        find: "free.extend(self.settle(dead, pinned));",
        replace: "free.extend(dead.into_iter().map(|dead| dead.run));",
        commands: DEFAULT,
    },
    Sabotage {
        name: "active_bitmap_is_overwritten",
        rule: "R5: the copy to write derives from the durable slot",
        file: "src/pages/allocator.rs",
        find: "let target = entry.active.map_or(Copy::A, Copy::other);",
        replace: "let target = entry.active.unwrap_or(Copy::A);",
        commands: DEFAULT,
    },
    Sabotage {
        name: "bitmap_records_what_readers_hold",
        rule: "R5: nothing of readers on disk",
        file: "src/pages/allocator.rs",
        find: "let bytes = region.image().to_bytes(padded as usize);",
        replace: "let bytes = region.allocated().to_bytes(padded as usize);",
        commands: DEFAULT,
    },
    Sabotage {
        name: "dirty_values_are_not_written",
        rule: "R6: every dirty page is written",
        file: "src/btree/seal.rs",
        find: "out.push(Sealed { page, bytes, level: None });",
        replace: "drop((page, bytes));",
        commands: DEFAULT,
    },
    Sabotage {
        name: "parent_keeps_no_checksum",
        rule: "R6: parents carry the checksums of their children",
        file: "src/btree/seal.rs",
        find: "branch::set_child(&mut bytes, index, Child { page: child.page, sum });",
        replace: "branch::set_child(&mut bytes, index, Child { page: child.page, sum: sum ^ 1 });",
        commands: DEFAULT,
    },
    Sabotage {
        name: "page_without_checksum_is_read_unverified",
        rule: "R7: neither checksum nor dirty content is an error",
        file: "src/pages/store.rs",
        find: "Self::Child(sum) => child_sum(bytes) == sum,",
        replace: "Self::Child(sum) => sum == 0 || child_sum(bytes) == sum,",
        commands: DEFAULT,
    },
    Sabotage {
        name: "memory_remembers_a_released_run",
        rule: "R10: what is handed out is unknown to memory",
        file: "src/txn/core.rs",
        find: "self.store.forget(run);",
        replace: "let _kept = run;",
        commands: DEFAULT,
    },
    Sabotage {
        name: "child_checksum_is_ignored",
        rule: "every page is verified when it is read",
        file: "src/pages/store.rs",
        find: "Self::Child(sum) => child_sum(bytes) == sum,",
        replace: "Self::Child(sum) => child_sum(bytes) == sum || sum > 1,",
        commands: DEFAULT,
    },
    Sabotage {
        name: "root_digest_is_ignored",
        rule: "every root is verified when it is read",
        file: "src/pages/store.rs",
        find: "Self::Root(digest) => checksum::digest(bytes) == digest,",
        replace: "Self::Root(digest) => checksum::digest(bytes) == digest || digest != Digest::ZERO,",
        commands: DEFAULT,
    },
    Sabotage {
        name: "nodes_are_not_inspected",
        rule: "a node is inspected before it is used",
        file: "src/btree/inspect.rs",
        find: "(KIND_LEAF, 0 | FLAG_UNIFORM, 1) => inspect_leaf(bytes, layout),",
        replace: "(KIND_LEAF, 0 | FLAG_UNIFORM, 1) => Ok(()),",
        commands: DEFAULT,
    },
    Sabotage {
        name: "torn_slot_is_trusted",
        rule: "R13: only a slot with a valid digest serves",
        file: "src/pages/slot.rs",
        find: "if checksum::digest(&block[..DIGEST_OFFSET]).0 != block[DIGEST_OFFSET..] {",
        replace: "if block[DIGEST_OFFSET..].is_empty() {",
        commands: DEFAULT,
    },
    Sabotage {
        name: "god_byte_chooses_the_slot",
        rule: "R13: the god byte never chooses a lower generation",
        file: "src/pages/select.rs",
        find: "let newest = u8::from(b > a);",
        replace: "let newest = god.map_or(u8::from(b > a), |god| god.primary);",
        commands: DEFAULT,
    },
    Sabotage {
        name: "older_slot_serves_after_a_clean_close",
        rule: "R13: the older slot serves only where recovery was required",
        file: "src/pages/select.rs",
        find: "Some(god) if god.recovery_required => {",
        replace: "Some(god) if god.recovery_required || god.primary < 2 => {",
        commands: DEFAULT,
    },
    Sabotage {
        name: "slot_is_written_before_its_pages_are_durable",
        rule: "R13: what a slot names is durable before it",
        file: "src/txn/checkpoint.rs",
        find: "    store.sync()",
        replace: "    Ok(())",
        commands: DEFAULT,
    },
    Sabotage {
        name: "commit_point_is_not_durable",
        rule: "R13: slot and god byte are durable before anybody sees them",
        file: "src/pages/store/write.rs",
        find: "self.sync() // the commit point",
        replace: "Ok(()) // the commit point",
        commands: DEFAULT,
    },
    Sabotage {
        name: "live_slot_is_overwritten",
        rule: "the live slot's block is never rewritten",
        file: "src/txn/checkpoint.rs",
        find: "store.flip(prepared.index,",
        replace: "store.flip(1 - prepared.index,",
        commands: DEFAULT,
    },
    Sabotage {
        name: "recovery_trusts_the_cache",
        rule: "recovery believes only what a power cut would leave",
        file: "src/txn/recover.rs",
        find: "storage.sync(SyncKind::Full).map_err(StorageError::io(\"sync\"))?;",
        replace: "let _ = SyncKind::Full;",
        commands: DEFAULT,
    },
    Sabotage {
        name: "cut_ignores_the_other_slot",
        rule: "R17: both slots keep what they reach",
        file: "src/txn/shutdown.rs",
        find: ".max(durable.other_reach_units))",
        replace: ".max(0))",
        commands: DEFAULT,
    },
    Sabotage {
        name: "cut_ignores_what_memory_holds",
        rule: "R17: readers keep what they reach",
        file: "src/txn/shutdown.rs",
        find: "Ok(allocated.max(durable.slot.reach_units)",
        replace: "Ok(allocated.min(0).max(durable.slot.reach_units)",
        commands: DEFAULT,
    },
    Sabotage {
        name: "growth_reserves_no_space",
        rule: "R18: space is reserved before anything is written",
        file: "src/pages/store/write.rs",
        find: "and_then(|()| self.storage.preallocate(wanted_bytes)) {",
        replace: "and_then(|()| self.storage.len().map(|_| ())) {",
        commands: DEFAULT,
    },
    Sabotage {
        name: "open_mark_is_not_durable",
        rule: "R20: the session is marked before its first other write",
        file: "src/pages/store/write.rs",
        find: "self.sync()?; // nothing else is written before this",
        replace: "// nothing else is written before this",
        commands: DEFAULT,
    },
    Sabotage {
        name: "close_mark_overtakes_the_last_writes",
        rule: "R20: the session is marked as closed after its last write",
        file: "src/pages/store/write.rs",
        find: "self.sync()?; // the session's last writes, before the mark",
        replace: "// the session's last writes, before the mark",
        commands: DEFAULT,
    },
    Sabotage {
        name: "failed_write_does_not_poison",
        rule: "R20: a poisoned handle writes nothing",
        file: "src/pages/store/write.rs",
        find: "self.poisoned.store(true, Ordering::Release);",
        replace: "self.poisoned.store(false, Ordering::Release);",
        commands: DEFAULT,
    },
    Sabotage {
        name: "abort_keeps_the_recorded_image",
        rule: "an abort gives every page back",
        file: "src/pages/region.rs",
        find: "self.image = old.image;",
        replace: "drop(old.image);",
        commands: DEFAULT,
    },
    Sabotage {
        name: "panic_does_not_poison",
        rule: "a half-applied change poisons the transaction",
        file: "src/txn/write.rs",
        find: "self.poisoned.store(true, Ordering::Release);",
        replace: "self.poisoned.store(false, Ordering::Release);",
        commands: DEFAULT,
    },
    Sabotage {
        name: "separator_is_cut_too_short",
        rule: "separators lie above everything to their left",
        file: "src/btree/insert.rs",
        find: "key.truncate(shared + 1);",
        replace: "key.truncate(shared.max(1));",
        commands: DEFAULT,
    },
    Sabotage {
        name: "ids_do_not_increase",
        rule: "transaction ids strictly increase",
        file: "src/base/ids.rs",
        find: "self.0.checked_add(1).map(Self)",
        replace: "self.0.checked_add(0).map(Self)",
        commands: DEFAULT,
    },
    Sabotage {
        name: "merge_overfills",
        rule: "merges leave room",
        file: "src/btree/rebalance.rs",
        find: "const FILL_PERCENT_MAX: usize = 90;",
        replace: "const FILL_PERCENT_MAX: usize = 100;",
        commands: DEFAULT,
    },
    Sabotage {
        name: "retired_frame_is_filled_while_readers_are_inside",
        rule: "a frame is filled again only when every reader that could see it has left",
        file: "src/pages/frames.rs",
        find: "if tag > oldest {",
        replace: "if tag > oldest && tag == 0 {",
        commands: DEFAULT,
    },
    Sabotage {
        name: "retired_frame_is_held",
        rule: "a frame that is being retired refuses new holds",
        file: "src/pages/frames/hold.rs",
        find: "state & RETIRED == 0 && state & HOLDS < HOLDS",
        replace: "state & HOLDS < HOLDS",
        commands: DEFAULT,
    },
    Sabotage {
        name: "refused_hold_ends_another",
        rule: "a hold counts once in the state of its frame",
        file: "src/pages/frames/hold.rs",
        find: "counted.ok().map(|_| Hold {",
        replace: "counted.is_ok().then_some(Hold {",
        commands: STORE,
    },
    Sabotage {
        name: "first_of_equal_changes_counts",
        rule: "of several buffered changes of one key the last one counts",
        file: "src/btree/buffer.rs",
        find: ".then(a.place.cmp(&b.place))",
        replace: ".then(b.place.cmp(&a.place))",
        commands: STORE,
    },
    Sabotage {
        name: "merge_forgets_removed_rows",
        rule: "a merge keeps the count of rows exact",
        file: "src/btree/merge.rs",
        find: "self.pass.output.tree.count_rows(inserted, removed)",
        replace: "self.pass.output.tree.count_rows(inserted, 0)",
        commands: STORE,
    },
    Sabotage {
        name: "forgotten_pass_goes_unnoticed",
        rule: "whoever sees a tree sees it whole",
        file: "src/btree/pass.rs",
        find: "tree.in_pieces = true;",
        replace: "tree.in_pieces = false;",
        commands: STORE,
    },
    Sabotage {
        name: "inclusive_range_loses_its_last_row",
        rule: "a sweep visits each row of its range",
        file: "src/btree/sweep.rs",
        find: "Bound::Included(key) => Some(successor(key)),",
        replace: "Bound::Included(key) => Some(key.to_vec()),",
        commands: STORE,
    },
    Sabotage {
        name: "extraction_asks_twice_where_it_turns",
        rule: "a row is asked about at most once",
        file: "src/table/extract.rs",
        find: "if let Some(start) = sweep.last_visited()? {",
        replace: "if let Some(start) = sweep.last_visited()?.filter(Vec::is_empty) {",
        commands: STORE,
    },
    Sabotage {
        name: "extraction_repeats_its_error",
        rule: "nothing follows an error of an extraction",
        file: "src/table/extract.rs",
        find: "if matches!(self.way, Way::Ended) {",
        replace: "if matches!(self.way, Way::Ended) && !self.transaction.is_poisoned() {",
        commands: STORE,
    },
    Sabotage {
        name: "bulk_load_takes_a_key_twice",
        rule: "keys of a bulk load ascend strictly",
        file: "src/table/bulk.rs",
        find: "if count > 0 && key <= &last[..] {",
        replace: "if count > 0 && key < &last[..] {",
        commands: STORE,
    },
    Sabotage {
        name: "effective_removals_are_skipped",
        rule: "a merge skips only removals of rows that are not there",
        file: "src/btree/merge.rs",
        find: "key, &&*self.pass.output.tree)?.is_ok() {",
        replace: "key, &&*self.pass.output.tree)?.is_err() {",
        commands: STORE,
    },
    Sabotage {
        name: "kept_way_takes_keys_of_other_leaves",
        rule: "the way of the last change is taken only where the key belongs to its leaf",
        file: "src/btree/insert.rs",
        find: "Err(index) => way.is_last || index < node::count(leaf),",
        replace: "Err(index) => way.is_last || index <= node::count(leaf),",
        commands: STORE,
    },
    Sabotage {
        name: "moved_node_is_not_given_back",
        rule: "every allocated unit is reached",
        file: "src/btree/pass.rs",
        find: "self.output.free_taken(page, birth, false)?;",
        replace: "let _kept = birth;",
        commands: STORE,
    },
    Sabotage {
        name: "moved_value_gives_back_only_its_head",
        rule: "an out-of-line value moves with all its runs",
        file: "src/pages/relocate.rs",
        find: "self.free_extent(extent)?;",
        replace: "self.free(head, extent.birth)?;",
        commands: STORE,
    },
    Sabotage {
        name: "packing_forgets_the_rows_that_wait",
        rule: "packing what is packed changes nothing",
        file: "src/btree/repack.rs",
        find: "let next = first.unwrap_or_else(|| key.clone());",
        replace: "let next = key.clone();",
        commands: STORE,
    },
    Sabotage {
        name: "older_slot_keeps_the_free_end",
        rule: "compaction cuts the file to what is left",
        file: "src/txn/compact.rs",
        find: "while left > 0 && self.let_go()? {",
        replace: "while left > UNCHANGED_COMMITS_MAX {",
        commands: STORE,
    },
    Sabotage {
        name: "compaction_lengthens_the_file_for_a_reader",
        rule: "compaction is refused where it would lengthen the file",
        file: "src/txn/compact.rs",
        find: "if older > 0 && end > self.end_units_max {",
        replace: "if older > 1 && self.ends()?.0 > self.end_units_max {",
        commands: STORE,
    },
    Sabotage {
        name: "page_on_its_way_is_read",
        rule: "R10: no page is read or given back before its write has ended",
        file: "src/pages/behind.rs",
        find: "if self.shared.unwritten.load(Ordering::Acquire) == 0 {",
        replace: "if self.shared.unwritten.load(Ordering::Acquire) != usize::MAX {",
        commands: STORE,
    },
];

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::fs;

    #[test]
    fn every_listed_sabotage_still_applies() {
        for sabotage in all() {
            let path = crate::workspace_root().join(sabotage.file);
            let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", sabotage.file));
            assert!(sabotage.plant(&text).is_ok(), "{}: {}", sabotage.name, sabotage.plant(&text).unwrap_err());
        }
    }

    #[test]
    fn sabotages_have_unique_names_and_change_one_line() {
        let names: BTreeSet<&str> = all().map(|sabotage| sabotage.name).collect();
        assert_eq!(names.len(), all().count());
        for sabotage in all() {
            assert!(!sabotage.find.contains('\n') && !sabotage.replace.contains('\n'), "{}", sabotage.name);
            assert!(!sabotage.find.is_empty() && !sabotage.commands.is_empty(), "{}", sabotage.name);
            assert_ne!(sabotage.find, sabotage.replace, "{}", sabotage.name);
        }
    }

    #[test]
    fn the_skipped_test_is_the_one_above() {
        let own_text = include_str!("list.rs");
        assert!(own_text.contains(&format!("fn {APPLIES_TEST}()")));
    }
}
