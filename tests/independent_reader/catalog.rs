//! The catalog, and the contents of a whole database: every table, its types and its rows.
//!
//! Uses no code of `src/` and follows design.md, "Catalog" and "Redo log".

use super::blocks::{Note, Opened, TreeRoot};
use super::bytes::{Result, corrupted, part, require, size, u16_at, u64_at};
use super::log::{Rows, Stored};
use super::space::{account, covered};
use super::tree::{Run, RunKind, Walk};
use super::types::{Datum, Type};
use std::collections::BTreeMap;
use std::ops::Range;

/// A table and its rows in key order.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Table {
    pub(crate) key: Type,
    pub(crate) value: Type,
    pub(crate) row_count: u64,
    pub(crate) rows: Vec<(Datum, Datum)>,
}

/// Everything that the serving slot of a file reaches, and what the log tells beyond it.
#[derive(Debug)]
pub(crate) struct Contents {
    pub(crate) tables: BTreeMap<String, Table>,
    pub(crate) notes: Vec<Note>,
    pub(crate) runs: Vec<Run>,
    /// Bytes whose damage is detected.
    pub(crate) covered: Vec<Range<usize>>,
}

/// A table as its record in the catalog describes it.
struct Record {
    name: String,
    id: u64,
    root: TreeRoot,
    /// The tree holds what records of the log tell up to this transaction.
    folded: u64,
    key: Type,
    value: Type,
}

impl Record {
    fn decode(name: &[u8], record: &[u8]) -> Result<Self> {
        // Kind 1, no flags, no alignment, no change log, nothing reserved.
        require(*part(record, 8, 8)? == [1, 0, 0, 0, 0, 0, 0, 0], "a table record has an unknown kind or feature")?;
        let key_bytes = size(u16_at(record, 80)?)?;
        let value_bytes = size(u16_at(record, 82 + key_bytes)?)?;
        require(record.len() == 84 + key_bytes + value_bytes, "bytes follow a table record")?;
        let Ok(name) = std::str::from_utf8(name) else { return corrupted("a table's name is not UTF-8") };
        require(!name.is_empty(), "a table has no name")?;
        Ok(Self {
            name: name.to_owned(),
            id: u64_at(record, 0)?,
            root: TreeRoot::decode(&record[16..72])?,
            folded: u64_at(record, 72)?,
            key: Type::decode(part(record, 82, key_bytes)?)?,
            value: Type::decode(part(record, 84 + key_bytes, value_bytes)?)?,
        })
    }
}

/// Reads everything, and verifies everything that design.md allows to verify.
pub(crate) fn read(file: &Opened) -> Result<Contents> {
    let mut walk = Walk::new(file);
    let mut records = Vec::new();
    walk.tree(&file.slot.data_root, &mut |key, value| {
        if let [b't', name @ ..] = key {
            records.push(Record::decode(name, value)?);
        }
        Ok(())
    })?;
    let mut table_id_next = 1;
    walk.tree(&file.slot.forward_root, &mut |key, value| {
        require(value.len() == 8, "a counter has another length than 8")?;
        if key == b"table-id-next" {
            table_id_next = u64_at(value, 0)?;
        }
        Ok(())
    })?;
    let mut ids: Vec<u64> = records.iter().map(|record| record.id).collect();
    ids.sort_unstable();
    require(ids.windows(2).all(|pair| pair[0] < pair[1]), "two tables have one id")?;
    require(ids.iter().all(|id| (1..table_id_next).contains(id)), "a table has an id that was not given")?;
    let mut stored = BTreeMap::new();
    for record in &records {
        let mut rows = Rows::new();
        walk.tree(&record.root, &mut |key, value| {
            rows.insert(key.to_vec(), value.to_vec());
            Ok(())
        })?;
        stored.insert(record.name.clone(), Stored { folded: record.folded, rows });
    }
    if let (Some(reference), Some(log)) = (&file.slot.log, &file.log) {
        walk.run(reference.page, reference.units * file.slot.layout.unit_bytes, RunKind::Log)?;
        log.apply(&mut stored)?;
    }
    let mut tables = BTreeMap::new();
    for Record { name, key, value, .. } in records {
        let Some(Stored { rows, .. }) = stored.remove(&name) else { return corrupted("two tables have one name") };
        let decoded = rows.iter().map(|(row_key, row_value)| Ok((key.key(row_key)?, value.value(row_value)?)));
        let rows: Vec<_> = decoded.collect::<Result<_>>()?;
        tables.insert(name, Table { key, value, row_count: rows.len() as u64, rows });
    }
    let bitmaps = account(file, &mut walk)?;
    let covered = covered(file, &walk, &bitmaps);
    Ok(Contents { tables, notes: file.notes.clone(), runs: walk.runs, covered })
}
