//! The write transaction: its fields, its verbs on whole tables, and abort.
//!
//! Invariant: until the commit nothing of it is reachable from any slot or by any reader, and dropping it gives every
//! page back.
//! Layer 5 (txn).

use super::core::TurnGuard;
use super::durability::Durability;
use super::error::{SetDurabilityError, TableError, TransactionError};
use super::stats::CommitWatch;
use crate::base::error::{Result, StorageError};
use crate::base::ids::TransactionId;
use crate::base::sync::atomic::{AtomicBool, Ordering};
use crate::base::sync::{Arc, Mutex};
use crate::btree::buffered::BufferedTree;
use crate::btree::tree::TreeMut;
use crate::catalog::record::TableRecord;
use crate::catalog::roots::Roots;
use crate::pages::writer::PageWriter;
use std::collections::BTreeMap;

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
    /// Time of the commit, where it is not the time at which it is made.
    pub(super) commit_time_micros: Option<u64>,
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

/// What a write transaction owns while it runs. Fields are dropped in this order: trees before their pages.
#[derive(Debug)]
pub(super) struct OpenTransaction {
    pub(super) tables: Mutex<BTreeMap<String, Staged>>,
    pub(super) roots: Mutex<Roots>,
    pub(super) bracket: Bracket,
}

/// The writer's turn and pages. Unless the commit concludes it, dropping it gives every page back.
#[derive(Debug)]
pub(super) struct Bracket {
    pub(super) writer: Arc<PageWriter>,
    pub(super) turn: TurnGuard,
    pub(super) concluded: bool,
    pub(super) watch: CommitWatch,
}

impl Drop for Bracket {
    fn drop(&mut self) {
        if !self.concluded {
            self.writer.rollback();
            self.turn.core().store.meter().ended_without_version(self.watch.is_unchanged);
        }
    }
}

/// A table that the transaction has touched.
#[derive(Debug)]
pub(super) enum Staged {
    /// Open in a handle.
    Open,
    /// Closed again, with what changed.
    Closed(Box<(TableRecord, TreeMut)>),
}

/// A table while a handle has it: taken from the transaction, given back by [`WriteTransaction::check_in`].
#[derive(Debug)]
pub(crate) struct CheckedOut {
    pub(crate) name: String,
    pub(crate) record: TableRecord,
    pub(crate) tree: BufferedTree,
}

impl WriteTransaction {
    pub(crate) fn begin(turn: TurnGuard) -> Result<Self, TransactionError> {
        let head = turn.core().durable.lock().head.id;
        let id = turn.core().next_id(head)?;
        Self::begin_as(turn, id)
    }

    /// Begins a transaction whose id is known.
    pub(super) fn begin_as(turn: TurnGuard, id: TransactionId) -> Result<Self, TransactionError> {
        let core = Arc::clone(turn.core());
        core.slow_down();
        let mut durable = core.durable.lock();
        core.take_over_checkpoint(&mut durable)?;
        core.sweep(&mut durable);
        core.relieve(&mut durable);
        let base = core.pins.pin(durable.head);
        drop(durable);
        let version = *base.version();
        core.space.lock().begin();
        let writer = Arc::new(PageWriter::new(Arc::clone(&core.store), Arc::clone(&core.space), base, id));
        let roots = Mutex::new(Roots::new(&writer, &version));
        let bracket = Bracket { writer, turn, concluded: false, watch: CommitWatch::new(&core.store) };
        let open = OpenTransaction { tables: Mutex::new(BTreeMap::new()), roots, bracket };
        Ok(Self {
            open: Some(open),
            id,
            commit_time_micros: None,
            durability: core.durability,
            two_phase: false,
            without_log: false,
            commit_unchanged: false,
            poisoned: AtomicBool::new(false),
            untold: Mutex::new(None),
        })
    }

    /// Id that the commit will have.
    #[must_use]
    pub fn id(&self) -> TransactionId {
        self.id
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
            Some(Staged::Closed(closed)) => verify(&closed.0)?,
            None => {
                let mut roots = parts.roots.lock();
                roots.check_name(name)?;
                let record = match roots.find(name)? {
                    Some(record) => {
                        verify(&record)?;
                        record
                    }
                    None => self.change(|| {
                        parts.bracket.writer.give_up_log();
                        let record = create(roots.next_table_id()?);
                        roots.put(name, &record)?;
                        Ok(record)
                    })?,
                };
                let mut tree = TreeMut::new(Arc::clone(&parts.bracket.writer), record.root);
                tree.record_changes();
                tables.insert(name.to_owned(), Staged::Closed(Box::new((record, tree))));
            }
        }
        match tables.insert(name.to_owned(), Staged::Open) {
            Some(Staged::Closed(closed)) => {
                let (record, tree) = *closed;
                Ok(CheckedOut { name: name.to_owned(), record, tree: BufferedTree::new(tree) })
            }
            _ => unreachable!("the table was just found closed"),
        }
    }

    /// Takes a table that must exist, whatever its types.
    pub(super) fn check_out_existing(&self, name: &str) -> Result<CheckedOut, TableError> {
        if self.parts().roots.lock().find(name)?.is_none() {
            return Err(TableError::DoesNotExist(name.into()));
        }
        self.check_out(name, |_| unreachable!("the table was just found"), |_| Ok(()))
    }

    /// Gives a table back when its handle is dropped.
    pub(crate) fn check_in(&self, table: CheckedOut) {
        let CheckedOut { name, record, tree } = table;
        let settled = self.change(|| {
            let mut tree = tree.into_tree()?;
            if self.exceeds_budget() {
                tree.spill()?;
            }
            Ok(tree)
        });
        let tree = settled.unwrap_or_else(|error| {
            // The transaction is poisoned, so nobody reads this tree.
            self.tell_at_commit(error.in_table(&name));
            TreeMut::new(Arc::clone(&self.parts().bracket.writer), record.root)
        });
        self.parts().tables.lock().insert(name, Staged::Closed(Box::new((record, tree))));
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

    fn exceeds_budget(&self) -> bool {
        self.parts().bracket.writer.exceeds_budget()
    }

    /// Applies what a table has buffered, or writes it early, where the transaction keeps too much in memory and this
    /// table has its share of that; one with little would be merged or written again and again to no use.
    pub(crate) fn spill_if_large(&self, tree: &mut BufferedTree) -> Result<()> {
        if self.exceeds_budget() {
            // Half of an even share: the catalog has dirty pages too, and none of the tables may reach the whole.
            let shares = 2 * self.parts().tables.lock().len().max(1);
            let share_bytes = self.parts().bracket.writer.dirty_bytes() / shares;
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
        Ok(self.parts().roots.lock().list()?)
    }

    /// Gives a table another name; its rows stay where they are.
    pub(crate) fn rename(&self, old: &str, new: &str) -> Result<(), TableError> {
        if self.is_poisoned() {
            return Err(StorageError::TransactionPoisoned.into());
        }
        let parts = self.parts();
        let (mut tables, mut roots) = (parts.tables.lock(), parts.roots.lock());
        for name in [old, new] {
            if matches!(tables.get(name), Some(Staged::Open)) {
                return Err(TableError::AlreadyOpen(name.into()));
            }
        }
        roots.check_name(new)?;
        let record = roots.find(old)?.ok_or_else(|| TableError::DoesNotExist(old.into()))?;
        if old == new {
            return Ok(());
        }
        if roots.find(new)?.is_some() {
            return Err(TableError::Exists(new.into()));
        }
        self.change(|| {
            parts.bracket.writer.give_up_log();
            roots.remove(old)?;
            roots.put(new, &record)
        })?;
        if let Some(staged) = tables.remove(old) {
            tables.insert(new.to_owned(), staged);
        }
        Ok(())
    }

    /// Deletes a table with all its rows; says whether there was one.
    pub(crate) fn delete(&self, name: &str) -> Result<bool, TableError> {
        if self.is_poisoned() {
            return Err(StorageError::TransactionPoisoned.into());
        }
        let parts = self.parts();
        let (mut tables, mut roots) = (parts.tables.lock(), parts.roots.lock());
        if matches!(tables.get(name), Some(Staged::Open)) {
            return Err(TableError::AlreadyOpen(name.into()));
        }
        let Some(record) = roots.find(name)? else { return Ok(false) };
        let tree = match tables.remove(name) {
            Some(Staged::Closed(closed)) => closed.1,
            _ => TreeMut::new(Arc::clone(&parts.bracket.writer), record.root),
        };
        self.change(|| {
            parts.bracket.writer.give_up_log();
            tree.destroy()?;
            roots.remove(name)
        })?;
        Ok(true)
    }
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
