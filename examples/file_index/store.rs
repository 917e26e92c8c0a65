//! The tables: one row per file, and two indexes that are kept in the same transactions.
//!
//! Invariant: after every commit, `BY_SIZE` and `BY_HASH` hold one row for each row of `FILES` and no other.

use crate::scan::{self, Found, FoundFile};
use cowslip::{Database, ReadTransaction, TableDefinition, WriteTransaction};
use indicatif::{ProgressBar, ProgressStyle};

type Hash = [u8; 32];
/// Size in bytes, modification time in nanoseconds, SHA-256 of the content.
type Row = (u64, u64, Hash);

/// Path to what is known about the file.
const FILES: TableDefinition<&str, Row> = TableDefinition::new("files");
/// Size and path: the largest files stand last.
const BY_SIZE: TableDefinition<(u64, &str), ()> = TableDefinition::new("files_by_size");
/// Hash and path to the size: identical files stand side by side.
const BY_HASH: TableDefinition<(Hash, &str), u64> = TableDefinition::new("files_by_hash");

/// Files per write transaction: a run that is interrupted keeps all but the last batch.
const BATCH_FILES: usize = 256;

/// What a run did.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) added: u64,
    pub(crate) changed: u64,
    pub(crate) removed: u64,
    pub(crate) unchanged: u64,
    pub(crate) unreadable: u64,
}

/// A file that has to be read, with what the index says about it so far.
type Stale<'a> = (&'a FoundFile, Option<Row>);

/// Brings the index up to date with what the walk found.
pub(crate) fn refresh(database: &Database, found: &Found) -> Result<Counts, cowslip::Error> {
    let (stale, gone) = database.view(|tx| compare(tx, found))?;
    let mut counts = Counts {
        unchanged: count(found.files.len() - stale.len()),
        unreadable: count(found.unreadable.len()),
        ..Counts::default()
    };
    for batch in gone.chunks(BATCH_FILES) {
        let rows: Vec<_> = batch.iter().map(|path| (path.as_str(), None)).collect();
        database.update(|tx| apply(tx, &rows))?;
        counts.removed += count(batch.len());
    }
    let bar = ProgressBar::new(stale.iter().map(|(file, _)| file.size_bytes).sum());
    let style = ProgressStyle::with_template("{wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {msg}");
    bar.set_style(style.expect("the template is valid"));
    for batch in stale.chunks(BATCH_FILES) {
        // Hashing takes long and the writer is one: it is asked for only once the rows are ready.
        let rows = hash_batch(batch, &bar, &mut counts);
        database.update(|tx| apply(tx, &rows))?;
    }
    bar.finish_and_clear();
    Ok(counts)
}

fn count(items: usize) -> u64 {
    u64::try_from(items).unwrap_or(u64::MAX)
}

/// The files that have to be read because they are new or look changed, and the paths that are gone.
fn compare<'a>(tx: &ReadTransaction, found: &'a Found) -> Result<(Vec<Stale<'a>>, Vec<String>), cowslip::Error> {
    let files = tx.open_table_or_empty(FILES)?;
    let mut stale = Vec::new();
    for file in &found.files {
        let row = files.get(file.path.as_str())?.map(|row| row.value());
        if row.is_none_or(|(size, modified, _)| (size, modified) != (file.size_bytes, file.modified_nanos)) {
            stale.push((file, row));
        }
    }
    let mut gone = Vec::new();
    for entry in files.iter()? {
        let (path, _) = entry?;
        if found.is_gone(path.value()) {
            gone.push(path.value().to_owned());
        }
    }
    Ok((stale, gone))
}

/// Reads the files and counts what became of them; those that cannot be read are reported and left out.
fn hash_batch<'a>(batch: &[Stale<'a>], bar: &ProgressBar, counts: &mut Counts) -> Vec<(&'a str, Option<Row>)> {
    let mut rows = Vec::new();
    for (file, before) in batch {
        bar.set_message(file.path.clone());
        match scan::hash(&file.on_disk) {
            // Size and time are those of before the file was read: a change meanwhile makes it stale for the next run.
            Ok(hash) => {
                match before {
                    None => counts.added += 1,
                    Some((_, _, old_hash)) if *old_hash == hash => counts.unchanged += 1,
                    Some(_) => counts.changed += 1,
                }
                rows.push((file.path.as_str(), Some((file.size_bytes, file.modified_nanos, hash))));
            }
            Err(error) => {
                bar.suspend(|| eprintln!("skipped: {}: {error}", file.on_disk.display()));
                counts.unreadable += 1;
            }
        }
        bar.inc(file.size_bytes);
    }
    rows
}

/// For each path, puts the row in the place of whatever the three tables hold; `None` removes it.
fn apply(tx: &WriteTransaction, rows: &[(&str, Option<Row>)]) -> Result<(), cowslip::Error> {
    let mut files = tx.open_table(FILES)?;
    let mut by_size = tx.open_table(BY_SIZE)?;
    let mut by_hash = tx.open_table(BY_HASH)?;
    for &(path, row) in rows {
        let before = match row {
            Some(row) => files.insert(path, row)?.map(|before| before.value()),
            None => files.remove(path)?.map(|before| before.value()),
        };
        if let Some((size, _, hash)) = before {
            by_size.remove((size, path))?;
            by_hash.remove((hash, path))?;
        }
        if let Some((size, _, hash)) = row {
            by_size.insert((size, path), ())?;
            by_hash.insert((hash, path), size)?;
        }
    }
    Ok(())
}

/// Files with the same content.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Group {
    pub(crate) size_bytes: u64,
    pub(crate) paths: Vec<String>,
}

impl Group {
    /// What all but one of the copies take.
    pub(crate) fn wasted_bytes(&self) -> u64 {
        self.size_bytes * (count(self.paths.len()) - 1)
    }
}

/// Number of files in the index.
pub(crate) fn len(tx: &ReadTransaction) -> Result<u64, cowslip::Error> {
    tx.open_table_or_empty(FILES)?.len().map_err(Into::into)
}

/// The largest files, largest first.
pub(crate) fn largest(tx: &ReadTransaction, limit: usize) -> Result<Vec<(u64, String)>, cowslip::Error> {
    let by_size = tx.open_table_or_empty(BY_SIZE)?;
    let mut largest = Vec::new();
    for entry in by_size.iter()?.rev().take(limit) {
        let (key, _) = entry?;
        let (size, path) = key.value();
        largest.push((size, path.to_owned()));
    }
    Ok(largest)
}

/// Groups of files with the same content, most wasteful first; empty files waste nothing and are left out.
pub(crate) fn identical(tx: &ReadTransaction) -> Result<Vec<Group>, cowslip::Error> {
    let by_hash = tx.open_table_or_empty(BY_HASH)?;
    let mut groups: Vec<Group> = Vec::new();
    let mut current: Option<(Hash, Group)> = None;
    for entry in by_hash.iter()? {
        let (key, size) = entry?;
        let (hash, path) = key.value();
        match &mut current {
            Some((same, group)) if *same == hash => group.paths.push(path.to_owned()),
            _ => {
                let group = Group { size_bytes: size.value(), paths: vec![path.to_owned()] };
                groups.extend(current.replace((hash, group)).map(|(_, group)| group).filter(is_wasteful));
            }
        }
    }
    groups.extend(current.map(|(_, group)| group).filter(is_wasteful));
    groups.sort_by(|a, b| b.wasted_bytes().cmp(&a.wasted_bytes()).then_with(|| a.paths.cmp(&b.paths)));
    Ok(groups)
}

fn is_wasteful(group: &Group) -> bool {
    group.wasted_bytes() > 0
}

/// Every file whose path starts with `prefix`, in path order.
pub(crate) fn under(tx: &ReadTransaction, prefix: &str) -> Result<Vec<(u64, String)>, cowslip::Error> {
    let files = tx.open_table_or_empty(FILES)?;
    let mut found = Vec::new();
    for entry in files.range(prefix..)? {
        let (path, row) = entry?;
        if !path.value().starts_with(prefix) {
            break;
        }
        found.push((row.value().0, path.value().to_owned()));
    }
    Ok(found)
}
