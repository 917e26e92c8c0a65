//! Reading the catalog of a version, and staging changes to both roots in a write transaction.
//!
//! Invariant: readers and the writer look tables up through the same functions.
//! Layer 4 (catalog).

use super::names;
use super::record::TableRecord;
use crate::base::codec::Decoder;
use crate::base::error::{Result, StorageError};
use crate::base::ids::TreeRoot;
use crate::btree::cursor::RangeCursor;
use crate::btree::search;
use crate::btree::tree::{Pages, TreeMut};
use crate::pages::behind::Sealed;
use crate::pages::version::Trees;
use crate::pages::writer::PageWriter;
use std::ops::Bound;
use std::sync::Arc;

/// The record of a table in a data root.
pub(crate) fn find<P: Pages>(pages: &P, data: &TreeRoot, name: &str) -> Result<Option<TableRecord>> {
    let Some(row) = search::get(pages, data, &names::table_key(name))? else { return Ok(None) };
    let value = row.into_value(pages)?;
    decode(name, value.as_slice()).map(Some)
}

/// Every table of a data root with its record, in the order of the names' bytes. No two have the same id.
pub(crate) fn list<P: Pages>(pages: P, data: &TreeRoot) -> Result<Vec<(String, TableRecord)>> {
    let (start, end) = names::table_range();
    let mut rows = RangeCursor::new(pages, data, Bound::Included(&start), Bound::Excluded(&end))?;
    let mut tables = Vec::new();
    while let Some(found) = rows.next()? {
        let (key, value) = found.key_and_value()?;
        let name = names::table_name(key.as_slice())
            .ok_or_else(|| StorageError::corrupted("the catalog holds a table whose name is not UTF-8"))?;
        tables.push((name.to_owned(), decode(name, value.as_slice())?));
    }
    let mut ids: Vec<_> = tables.iter().map(|(_, record)| record.id).collect();
    ids.sort_unstable();
    if let Some(twice) = ids.windows(2).find(|ids| ids[0] == ids[1]) {
        return Err(StorageError::corrupted(format!("the catalog has two tables with the id {}", twice[0])));
    }
    Ok(tables)
}

fn decode(name: &str, bytes: &[u8]) -> Result<TableRecord> {
    TableRecord::decode(bytes)
        .map_err(|error| StorageError::undecodable(format_args!("the catalog's record"), error).in_table(name))
}

/// Both roots as a write transaction changes them.
#[derive(Debug)]
pub(crate) struct Roots {
    data: TreeMut,
    forward: TreeMut,
}

impl Roots {
    pub(crate) fn new(writer: &Arc<PageWriter>, base: &Trees) -> Self {
        Self {
            data: TreeMut::new(Arc::clone(writer), base.data),
            forward: TreeMut::new(Arc::clone(writer), base.forward),
        }
    }

    pub(crate) fn is_changed(&self) -> bool {
        self.data.is_changed() || self.forward.is_changed()
    }

    pub(crate) fn find(&self, name: &str) -> Result<Option<TableRecord>> {
        find(&&self.data, self.data.root(), name)
    }

    pub(crate) fn list(&self) -> Result<Vec<(String, TableRecord)>> {
        list(&self.data, self.data.root())
    }

    /// Packs the nodes of both roots and moves them below a limit.
    pub(crate) fn repack(&mut self, limit_units: u64) -> Result<()> {
        self.data.repack(&[], limit_units, usize::MAX)?;
        self.forward.repack(&[], limit_units, usize::MAX).map(drop)
    }

    pub(crate) fn put(&mut self, name: &str, record: &TableRecord) -> Result<()> {
        self.data.insert(&names::table_key(name), &record.encode()).map(|_| ())
    }

    pub(crate) fn remove(&mut self, name: &str) -> Result<()> {
        self.data.remove(&names::table_key(name)).map(|_| ())
    }

    /// Takes the id of a new table.
    pub(crate) fn next_table_id(&mut self) -> Result<u64> {
        let id = match search::get(&&self.forward, self.forward.root(), names::TABLE_ID_NEXT)? {
            None => 1,
            Some(row) => {
                let value = row.into_value(&&self.forward)?;
                let mut input = Decoder::new(value.as_slice());
                let id = input.u64()?;
                input.finish()?;
                id
            }
        };
        let next = id.checked_add(1).ok_or_else(|| StorageError::corrupted("the counter of table ids overflows"))?;
        self.forward.insert(names::TABLE_ID_NEXT, &next.to_le_bytes())?;
        Ok(id)
    }

    /// Seals both roots: data, then forward.
    pub(crate) fn seal(self, out: &mut Vec<Sealed>) -> Result<(TreeRoot, TreeRoot)> {
        Ok((self.data.seal(out)?, self.forward.seal(out)?))
    }
}
