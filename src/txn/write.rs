//! The write transaction: its fields, its verbs on whole tables, and abort.
//!
//! Invariant: until the commit nothing of it is reachable from any slot or by any reader, and dropping it gives every
//! page back.
//! Layer 5 (txn).

use super::core::{Core, TurnGuard};
use super::durability::Durability;
use super::error::{SetDurabilityError, TableError, TransactionError};
use super::staged::{self, CheckedOut, ClosedRows, ClosedTable, OpenRows, OverlaidRows, Staged};
use super::stats::CommitWatch;
use crate::base::error::{Result, StorageError};
use crate::base::ids::TransactionId;
use crate::base::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use crate::base::sync::{Arc, Mutex};
use crate::btree::buffered::BufferedTree;
use crate::btree::insert::check_sizes;
use crate::btree::overlaid::OverlaidTree;
use crate::btree::redo;
use crate::btree::tree::{SnapshotPages, TreeMut};
use crate::catalog::names;
use crate::catalog::record::TableRecord;
use crate::catalog::roots::{self, Roots};
use crate::pages::layout::Layout;
use crate::pages::store::PageStore;
use crate::pages::writer::PageWriter;
use std::collections::BTreeMap;
use std::sync::OnceLock;

/// A transaction whose changes take more than this has no record.
pub(super) const RECORDED_BYTES_MAX: usize = 1 << 20;

/// Nor has one that makes more of them: from here on changing the trees costs less.
pub(super) const RECORDED_CHANGES_MAX: usize = 4096;

/// Values from this length on are neither recorded nor buffered.
const BUFFERED_VALUE_BYTES_MAX: usize = 64 << 10;

/// The one writer of a database.
///
/// Changes are invisible to everybody else until [`WriteTransaction::commit`] returns. Dropping the transaction
/// without committing, by a panic too, undoes everything.
///
/// Several tables can be open at once, and moved to other threads; each table is open at most once.
///
/// ```
/// # fn main() -> Result<(), cowslip::Error> {
/// use cowslip::{Database, TableDefinition};
/// const STOCK: TableDefinition<u64, &str> = TableDefinition::new("stock");
/// let db = Database::in_memory()?;
/// let tx = db.begin_write()?;
/// {
///     let mut stock = tx.open_table(STOCK)?;
///     stock.insert(7, "seven")?;
/// }
/// tx.commit()?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct WriteTransaction {
    /// `None` once committed or aborted.
    pub(super) open: Option<OpenTransaction>,
    pub(super) id: TransactionId,
    pub(super) durability: Durability,
    /// The commit writes a slot.
    pub(super) two_phase: bool,
    /// The commit writes a slot, and that slot names no log.
    pub(super) without_log: bool,
    /// The commit writes a slot even where nothing changed, so that the older slot lets go of what it names.
    pub(super) commit_unchanged: bool,
    /// Set while an operation is under way and left set by one that failed or panicked.
    poisoned: AtomicBool,
    /// What poisoned it, where nobody could be told: the commit tells.
    untold: Mutex<Option<StorageError>>,
}

/// What a write transaction owns while it runs. Fields are dropped in this order: trees before their pages, and the turn last.
#[derive(Debug)]
pub(super) struct OpenTransaction {
    pub(super) tables: Mutex<BTreeMap<String, Staged>>,
    /// Where it changes trees and not only what is laid over them.
    trees: OnceLock<OpenTrees>,
    /// Held while the trees are begun.
    beginning: Mutex<()>,
    /// The version that it builds on.
    pub(super) base: SnapshotPages,
    /// Changes that are recorded for the log, and their bytes.
    pub(super) recorded_changes: AtomicUsize,
    pub(super) recorded_bytes: AtomicUsize,
    pub(super) ending: Ending,
    pub(super) turn: TurnGuard,
}

/// Counts how a transaction ends.
#[derive(Debug)]
pub(super) struct Ending {
    store: Arc<PageStore>,
    /// Until there is a version of it.
    watch: Option<CommitWatch>,
}

impl Ending {
    /// The commit begins.
    pub(super) fn commit_begins(&mut self) {
        self.watch.iter_mut().for_each(CommitWatch::restart);
    }

    pub(super) fn is_unchanged(&mut self) {
        self.watch.iter_mut().for_each(|watch| watch.is_unchanged = true);
    }

    /// There is a version: whoever publishes it counts it.
    pub(super) fn take(&mut self) -> CommitWatch {
        self.watch.take().expect("a transaction commits once")
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        if let Some(watch) = &self.watch {
            self.store.meter().ended_without_version(watch.is_unchanged);
        }
    }
}

/// The trees of a write transaction.
#[derive(Debug)]
pub(super) struct OpenTrees {
    pub(super) roots: Mutex<Roots>,
    /// Tables of which nothing is laid over their trees any more.
    pub(super) folded: Mutex<Vec<u64>>,
    pub(super) bracket: Bracket,
}

/// The pages of a write transaction. Unless the commit concludes it, dropping it gives every page back.
#[derive(Debug)]
pub(super) struct Bracket {
    pub(super) writer: Arc<PageWriter>,
    pub(super) concluded: bool,
}

impl Drop for Bracket {
    fn drop(&mut self) {
        if !self.concluded {
            self.writer.rollback();
        }
    }
}

impl OpenTransaction {
    pub(super) fn core(&self) -> &Arc<Core> {
        self.turn.core()
    }

    /// The trees, if they were begun.
    pub(super) fn trees(&self) -> Option<&OpenTrees> {
        self.trees.get()
    }

    /// Ends the transaction without giving anything back.
    pub(super) fn into_parts(self) -> (Option<OpenTrees>, Ending, TurnGuard) {
        let Self { trees, ending, turn, .. } = self;
        (trees.into_inner(), ending, turn)
    }
}

impl WriteTransaction {
    pub(crate) fn begin(turn: TurnGuard) -> Result<Self, TransactionError> {
        let core = Arc::clone(turn.core());
        core.slow_down();
        let mut durable = core.durable.lock();
        core.take_over_checkpoint(&mut durable)?;
        core.sweep(&mut durable);
        core.relieve(&mut durable);
        let id = core.next_id(durable.head.id)?;
        let base = SnapshotPages::new(Arc::clone(&core.store), core.pins.pin(durable.head.clone()));
        drop(durable);
        let open = OpenTransaction {
            tables: Mutex::new(BTreeMap::new()),
            trees: OnceLock::new(),
            beginning: Mutex::new(()),
            base,
            recorded_changes: AtomicUsize::new(0),
            recorded_bytes: AtomicUsize::new(0),
            ending: Ending { store: Arc::clone(&core.store), watch: Some(CommitWatch::new(&core.store)) },
            turn,
        };
        Ok(Self {
            open: Some(open),
            id,
            durability: core.durability,
            two_phase: false,
            without_log: false,
            commit_unchanged: false,
            poisoned: AtomicBool::new(false),
            untold: Mutex::new(None),
        })
    }

    /// The trees, which are begun where they are first asked for: the commit then writes a slot.
    pub(super) fn trees(&self) -> Result<&OpenTrees> {
        let parts = self.parts();
        let _beginning = parts.beginning.lock();
        if let Some(trees) = parts.trees.get() {
            return Ok(trees);
        }
        let core = parts.core();
        let mut durable = core.durable.lock();
        core.finish_checkpoint(&mut durable)?;
        let base = core.pins.pin(durable.head.clone());
        drop(durable);
        core.space.lock().begin();
        let roots = base.version().trees;
        let writer = Arc::new(PageWriter::new(Arc::clone(&core.store), Arc::clone(&core.space), base, self.id));
        let roots = Mutex::new(Roots::new(&writer, &roots));
        let trees = OpenTrees { roots, folded: Mutex::new(Vec::new()), bracket: Bracket { writer, concluded: false } };
        Ok(parts.trees.get_or_init(|| trees))
    }

    /// Id that the commit will have.
    #[must_use]
    pub fn id(&self) -> TransactionId {
        self.id
    }

    pub(crate) fn layout(&self) -> &Layout {
        self.parts().core().store.layout()
    }

    pub(super) fn parts(&self) -> &OpenTransaction {
        self.open.as_ref().expect("the transaction ends only by value")
    }

    /// Sets what the commit waits for; unless set it is what [`Builder::durability`](crate::Builder::durability) says.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use cowslip::{Database, Durability, TableDefinition};
    /// const SEEN: TableDefinition<u64, u64> = TableDefinition::new("seen");
    /// let db = Database::in_memory()?;
    /// let mut tx = db.begin_write()?;
    /// tx.set_durability(Durability::None)?;
    /// tx.open_table(SEEN)?.insert(1, 1)?;
    /// tx.commit()?;
    /// assert_eq!(db.begin_read()?.open_table(SEEN)?.len()?, 1);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// None today; the signature leaves room.
    pub fn set_durability(&mut self, durability: Durability) -> Result<(), SetDurabilityError> {
        self.durability = durability;
        Ok(())
    }

    /// Whether the commit writes all changed pages and a slot that names them, with a sync after each, instead of a record
    /// in the redo log. Nothing then depends on what a checksum tells about the order of writes. Off by default; large
    /// transactions, and those that change tables themselves, commit this way in any case.
    ///
    /// Cost: two syncs for each commit instead of one.
    pub fn set_two_phase_commit(&mut self, enabled: bool) {
        self.two_phase = enabled;
    }

    /// Undoes everything and lets the next writer begin. The same as dropping the transaction.
    ///
    /// # Errors
    /// None today; the signature leaves room.
    pub fn abort(self) -> Result<(), StorageError> {
        drop(self);
        Ok(())
    }

    /// Whether an operation failed half-way, so that the transaction can only be aborted.
    pub(crate) fn is_poisoned(&self) -> bool {
        self.poisoned.load(Ordering::Acquire)
    }

    /// Runs a change. If it fails or panics the transaction is poisoned, because the tree may be half changed.
    pub(crate) fn change<T>(&self, step: impl FnOnce() -> Result<T>) -> Result<T> {
        if self.is_poisoned() {
            return Err(StorageError::TransactionPoisoned);
        }
        let armed = Armed { poisoned: &self.poisoned, disarmed: false };
        let outcome = step()?;
        armed.disarm();
        Ok(outcome)
    }

    /// Takes a table, creating it with `create` where it does not exist; `verify` may refuse what is there.
    pub(crate) fn check_out(
        &self,
        name: &str,
        create: impl FnOnce(u64) -> TableRecord,
        verify: impl FnOnce(&TableRecord) -> Result<(), TableError>,
    ) -> Result<CheckedOut, TableError> {
        if self.is_poisoned() {
            return Err(StorageError::TransactionPoisoned.into());
        }
        let parts = self.parts();
        let mut tables = parts.tables.lock();
        match tables.get(name) {
            Some(Staged::Open) => return Err(TableError::AlreadyOpen(name.into())),
            Some(Staged::Closed(closed)) => verify(&closed.record)?,
            None => {
                check_name(parts.core().store.layout(), name)?;
                let closed = match self.find(name)? {
                    Some(record) => {
                        verify(&record)?;
                        self.overlaid(record)
                    }
                    None => self.change(|| self.create(name, create))?,
                };
                tables.insert(name.to_owned(), Staged::Closed(Box::new(closed)));
            }
        }
        match tables.insert(name.to_owned(), Staged::Open) {
            Some(Staged::Closed(closed)) => {
                let ClosedTable { record, rows } = *closed;
                let rows = match rows {
                    ClosedRows::Overlaid(rows) => OpenRows::Overlaid(rows),
                    ClosedRows::InTree(tree) => OpenRows::InTree(BufferedTree::new(tree)),
                };
                Ok(CheckedOut { name: name.to_owned(), record, rows })
            }
            _ => unreachable!("the table was just found closed"),
        }
    }

    /// The record of a table that the transaction has not touched, as it is in the version that it began on.
    fn find(&self, name: &str) -> Result<Option<TableRecord>> {
        let parts = self.parts();
        // What the transaction deleted, or gave another name, is only missing in its own catalog.
        if let Some(trees) = parts.trees()
            && trees.roots.lock().find(name)?.is_none()
        {
            return Ok(None);
        }
        roots::find(&parts.base, &parts.base.version().trees.data, name)
    }

    /// A table of the version that the transaction began on.
    fn overlaid(&self, record: TableRecord) -> ClosedTable {
        let pages = self.parts().base.clone();
        let delta = pages.version().delta.table(record.id);
        let tree = OverlaidTree { pages, root: record.root, delta };
        ClosedTable { record, rows: ClosedRows::Overlaid(OverlaidRows::new(tree)) }
    }

    fn create(&self, name: &str, create: impl FnOnce(u64) -> TableRecord) -> Result<ClosedTable> {
        let trees = self.trees()?;
        let mut roots = trees.roots.lock();
        let record = TableRecord { folded: self.id, ..create(roots.next_table_id()?) };
        roots.put(name, &record)?;
        let tree = TreeMut::new(Arc::clone(&trees.bracket.writer), record.root);
        Ok(ClosedTable { record, rows: ClosedRows::InTree(tree) })
    }

    /// Gives a table back when its handle is dropped.
    pub(crate) fn check_in(&self, table: CheckedOut) {
        let CheckedOut { name, record, rows } = table;
        let settled = self.change(|| match rows {
            OpenRows::Overlaid(rows) => Ok(ClosedRows::Overlaid(rows)),
            OpenRows::InTree(tree) => {
                let mut tree = tree.into_tree()?;
                tree.spill_if_over_budget()?;
                Ok(ClosedRows::InTree(tree))
            }
        });
        let closed = match settled {
            Ok(rows) => ClosedTable { record, rows },
            Err(error) => {
                // The transaction is poisoned, so nobody reads this table.
                self.tell_at_commit(error.in_table(&name));
                self.overlaid(record)
            }
        };
        self.parts().tables.lock().insert(name, Staged::Closed(Box::new(closed)));
    }

    /// Gives a key of an open table a value, or removes its row. `had_row` says whether there is one, where that is known.
    pub(crate) fn put(
        &self,
        table: &mut CheckedOut,
        key: &[u8],
        value: Option<&[u8]>,
        had_row: Option<bool>,
    ) -> Result<()> {
        if let OpenRows::Overlaid(rows) = &mut table.rows {
            let added = redo::change_bytes(key, value);
            if value.is_none() && had_row.is_none() && rows.has_nothing_at(key) {
                return Ok(());
            }
            if self.is_recorded(added) && value.is_none_or(|value| value.len() < BUFFERED_VALUE_BYTES_MAX) {
                rows.put(key, value, had_row);
                return Ok(());
            }
            self.fold(table)?;
        }
        let tree = table.tree_mut()?;
        match value {
            // A long value goes to the file at once; a copy in the buffer would gain nothing.
            Some(value) if value.len() >= BUFFERED_VALUE_BYTES_MAX => drop(tree.tree_mut()?.insert(key, value)?),
            Some(value) => tree.put(key, value)?,
            None => tree.delete(key)?,
        }
        self.spill_if_large(table)
    }

    /// Counts a change of so many bytes; says whether the transaction is still worth a record.
    fn is_recorded(&self, bytes: usize) -> bool {
        let parts = self.parts();
        let changes = parts.recorded_changes.fetch_add(1, Ordering::Relaxed) + 1;
        let bytes = parts.recorded_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        changes <= RECORDED_CHANGES_MAX && bytes <= RECORDED_BYTES_MAX
    }

    /// Makes a table a tree of the transaction, with all that was laid over it.
    pub(crate) fn fold(&self, table: &mut CheckedOut) -> Result<()> {
        if let OpenRows::Overlaid(rows) = &table.rows {
            let tree = self.fold_rows(&table.name, &mut table.record, rows)?;
            table.rows = OpenRows::InTree(BufferedTree::new(tree));
        }
        Ok(())
    }

    pub(super) fn fold_rows(&self, name: &str, record: &mut TableRecord, rows: &OverlaidRows) -> Result<TreeMut> {
        let trees = self.trees()?;
        // A checkpoint may have moved the tree since the transaction began.
        let found = trees.roots.lock().find(name)?;
        *record = found.ok_or_else(|| StorageError::corrupted("the catalog lost a table").in_table(name))?;
        let mut tree = TreeMut::new(Arc::clone(&trees.bracket.writer), record.root);
        staged::merge(&mut tree, &rows.tree.delta)?;
        if !rows.tree.delta.is_empty() {
            trees.folded.lock().push(record.id);
        }
        Ok(tree)
    }

    /// Keeps an error that poisoned the transaction and that nobody was there to receive.
    pub(crate) fn tell_at_commit(&self, error: StorageError) {
        // Where it was poisoned before, the first failure has been told.
        if !matches!(error, StorageError::TransactionPoisoned) {
            self.untold.lock().get_or_insert(error);
        }
    }

    /// What poisoned the transaction without anybody being told.
    pub(super) fn take_untold(&self) -> Option<StorageError> {
        self.untold.lock().take()
    }

    /// Applies what a table has buffered, or writes it early, where the transaction keeps too much in memory and this
    /// table has its share of that; one with little would be merged or written again and again to no use.
    pub(crate) fn spill_if_large(&self, table: &mut CheckedOut) -> Result<()> {
        let (OpenRows::InTree(tree), Some(trees)) = (&mut table.rows, self.parts().trees()) else { return Ok(()) };
        let writer = &trees.bracket.writer;
        if writer.exceeds_budget() {
            // Half of an even share: the catalog has dirty pages too, and none of the tables may reach the whole.
            let shares = 2 * self.parts().tables.lock().len().max(1);
            let share_bytes = writer.dirty_bytes() / shares;
            if tree.buffer_bytes() >= share_bytes {
                tree.tree_mut()?;
            }
            let tree = tree.base_mut()?;
            if tree.dirty_bytes() >= share_bytes {
                return tree.spill();
            }
        }
        Ok(())
    }

    pub(crate) fn list(&self) -> Result<Vec<(String, TableRecord)>, TableError> {
        let parts = self.parts();
        match parts.trees() {
            Some(trees) => Ok(trees.roots.lock().list()?),
            None => Ok(roots::list(parts.base.clone(), &parts.base.version().trees.data)?),
        }
    }

    /// Gives a table another name; its rows stay where they are.
    pub(crate) fn rename(&self, old: &str, new: &str) -> Result<(), TableError> {
        if self.is_poisoned() {
            return Err(StorageError::TransactionPoisoned.into());
        }
        let parts = self.parts();
        let mut tables = parts.tables.lock();
        for name in [old, new] {
            if matches!(tables.get(name), Some(Staged::Open)) {
                return Err(TableError::AlreadyOpen(name.into()));
            }
        }
        check_name(parts.core().store.layout(), new)?;
        let exists = |name: &str| match tables.get(name) {
            Some(_) => Ok(true),
            None => self.find(name).map(|found| found.is_some()),
        };
        if !exists(old)? {
            return Err(TableError::DoesNotExist(old.into()));
        }
        if old == new {
            return Ok(());
        }
        if exists(new)? {
            return Err(TableError::Exists(new.into()));
        }
        self.change(|| {
            // The log names tables: what it tells of this one must not be looked for under another name.
            let (mut record, tree) = self.take_tree(&mut tables, old)?;
            record.folded = self.id;
            let mut roots = self.trees()?.roots.lock();
            roots.remove(old)?;
            roots.put(new, &record)?;
            let rows = ClosedRows::InTree(tree);
            tables.insert(new.to_owned(), Staged::Closed(Box::new(ClosedTable { record, rows })));
            Ok(())
        })?;
        Ok(())
    }

    /// Takes a table that is not open out of the transaction, as a tree.
    fn take_tree(&self, tables: &mut BTreeMap<String, Staged>, name: &str) -> Result<(TableRecord, TreeMut)> {
        let closed = match tables.remove(name) {
            Some(Staged::Closed(closed)) => *closed,
            _ => self.overlaid(self.find(name)?.expect("the table was just found")),
        };
        let ClosedTable { mut record, rows } = closed;
        let tree = match rows {
            ClosedRows::InTree(tree) => tree,
            ClosedRows::Overlaid(rows) => self.fold_rows(name, &mut record, &rows)?,
        };
        Ok((record, tree))
    }

    /// Deletes a table with all its rows; says whether there was one.
    pub(crate) fn delete(&self, name: &str) -> Result<bool, TableError> {
        if self.is_poisoned() {
            return Err(StorageError::TransactionPoisoned.into());
        }
        let parts = self.parts();
        let mut tables = parts.tables.lock();
        if matches!(tables.get(name), Some(Staged::Open)) {
            return Err(TableError::AlreadyOpen(name.into()));
        }
        if !tables.contains_key(name) && self.find(name)?.is_none() {
            return Ok(false);
        }
        self.change(|| {
            let trees = self.trees()?;
            let found = trees.roots.lock().find(name)?;
            let record = found.ok_or_else(|| StorageError::corrupted("the catalog lost a table").in_table(name))?;
            trees.folded.lock().push(record.id);
            let tree = match tables.remove(name) {
                Some(Staged::Closed(closed)) => match closed.rows {
                    ClosedRows::InTree(tree) => Some(tree),
                    ClosedRows::Overlaid(_) => None,
                },
                _ => None,
            };
            tree.unwrap_or_else(|| TreeMut::new(Arc::clone(&trees.bracket.writer), record.root)).destroy()?;
            trees.roots.lock().remove(name)
        })?;
        Ok(true)
    }
}

/// Whether a record of this name can be stored.
fn check_name(layout: &Layout, name: &str) -> Result<()> {
    check_sizes(layout, &names::table_key(name), &[])
}

/// Poisons a transaction unless it is disarmed: errors and panics take the same way.
struct Armed<'t> {
    poisoned: &'t AtomicBool,
    disarmed: bool,
}

impl Armed<'_> {
    fn disarm(mut self) {
        self.disarmed = true;
    }
}

impl Drop for Armed<'_> {
    fn drop(&mut self) {
        if !self.disarmed {
            self.poisoned.store(true, Ordering::Release);
        }
    }
}
