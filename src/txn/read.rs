//! Read transactions: one version, whole and unchanging.
//!
//! Invariant: data root and forward root are pinned together, by one pin.
//! Layer 5 (txn).

use super::core::Core;
use super::error::TableError;
use crate::base::ids::TransactionId;
use crate::base::sync::Arc;
use crate::btree::tree::SnapshotPages;
use crate::catalog::record::TableRecord;
use crate::catalog::roots;

/// A snapshot of the database.
///
/// It sees exactly one commit, however long it lives and whatever is committed meanwhile. It never waits for the
/// writer and the writer never waits for it; but the pages of its version stay in the file until it is dropped.
///
/// ```
/// # fn main() -> Result<(), cowslip::Error> {
/// use cowslip::{Database, TableDefinition};
/// const VISITS: TableDefinition<&str, u64> = TableDefinition::new("visits");
/// let db = Database::in_memory()?;
/// let before = db.begin_read()?;
/// db.update(|tx| {
///     tx.open_table(VISITS)?.insert("home", 1)?;
///     Ok::<_, cowslip::Error>(())
/// })?;
/// assert!(before.open_table(VISITS).is_err());
/// assert_eq!(db.begin_read()?.open_table(VISITS)?.get("home")?.map(|row| row.value()), Some(1));
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct ReadTransaction {
    pages: SnapshotPages,
}

impl ReadTransaction {
    pub(crate) fn begin(core: &Arc<Core>) -> Self {
        // The snapshot keeps the file open and locked as long as it is read.
        let owner = Arc::clone(core);
        Self { pages: SnapshotPages::owned_by(Arc::clone(&core.store), core.pins.pin_published(), owner) }
    }

    /// Id of the commit that the transaction sees; zero is the empty database.
    #[must_use]
    pub fn id(&self) -> TransactionId {
        self.pages.version().id
    }

    pub(crate) fn pages(&self) -> &SnapshotPages {
        &self.pages
    }

    pub(crate) fn find(&self, name: &str) -> Result<Option<TableRecord>, TableError> {
        Ok(roots::find(&self.pages, &self.pages.version().trees.data, name)?)
    }

    pub(crate) fn list(&self) -> Result<Vec<(String, TableRecord)>, TableError> {
        Ok(roots::list(self.pages.clone(), &self.pages.version().trees.data)?)
    }
}
