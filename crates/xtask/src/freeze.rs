//! `cargo xtask freeze`: writes the file that stands for the current format version in `tests/format`.
//!
//! Invariant: a frozen file is never written again; a change of the format comes with a new one beside it. What the
//! rows are is repeated in `tests/it/frozen.rs`, which must not share code with this.

use crate::Result;
use cowslip::{Builder, Clock, DecodeError, Desc, Error, Newtype, TableDefinition, WriteTransaction};
use std::path::PathBuf;

/// Options of the task.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// File to write, which must not exist yet; by default that of this version in `tests/format`.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// Time stands still, so that the file has the same bytes whenever it is written.
#[derive(Debug)]
struct StoppedClock;

impl Clock for StoppedClock {
    fn now_micros(&self) -> u64 {
        1_700_000_000_000_000
    }
}

#[derive(Debug)]
struct OrderId(u64);

impl Newtype for OrderId {
    type Stored = u64;
    const NAME: &'static str = "frozen.OrderId";

    fn as_stored(&self) -> &u64 {
        &self.0
    }

    fn from_stored(stored: u64) -> std::result::Result<Self, DecodeError> {
        Ok(Self(stored))
    }
}

/// Runs the task.
pub(crate) fn run(options: &Options) -> Result<bool> {
    let path = options.out.clone().unwrap_or_else(|| crate::workspace_root().join("tests/format/v4.cowslip"));
    if path.exists() {
        return Err(format!("{} exists, and a frozen file never changes", path.display()).into());
    }
    let builder = Builder::new().node_bytes(4096).clock(StoppedClock).test_identity(*b"frozen version 4");
    let database = builder.create(&path)?;
    database.update(fill)?;
    database.update(thin)?;
    database.check_integrity()?;
    database.close()?;
    println!("{}: {} bytes", path.display(), std::fs::metadata(&path)?.len());
    Ok(true)
}

const LARGE: TableDefinition<i64, &[u8]> = TableDefinition::new("large");
const SIGNED: TableDefinition<i8, u64> = TableDefinition::new("signed");

fn fill(tx: &WriteTransaction) -> std::result::Result<(), Error> {
    let mut arrays = tx.open_table(TableDefinition::<[u8; 3], [i16; 2]>::new("arrays"))?;
    arrays.insert([0, 1, 2], [-1, 1])?;
    arrays.insert([255, 0, 0], [i16::MIN, i16::MAX])?;
    drop(tx.open_table(TableDefinition::<(), ()>::new("empty"))?);
    let mut events = tx.open_table(TableDefinition::<(&str, u32), Vec<String>>::new("events"))?;
    events.insert(("door", 2), vec!["rang".to_owned()])?;
    events.insert(("a\0b", 2), vec!["one".to_owned(), String::new()])?;
    events.insert(("", 1), Vec::new())?;
    let mut falling = tx.open_table(TableDefinition::<Desc<String>, bool>::new("falling"))?;
    falling.insert(Desc("a".to_owned()), false)?;
    falling.insert(Desc("z".to_owned()), true)?;
    let mut floats = tx.open_table(TableDefinition::<f64, char>::new("floats"))?;
    for (key, value) in [(0.0, 'a'), (-0.0, '\u{e9}'), (2.5, '\0'), (f64::NEG_INFINITY, 'z')] {
        floats.insert(key, value)?;
    }
    let mut keys = tx.open_table(TableDefinition::<&[u8], u16>::new("keys"))?;
    for (len, number) in [(0, 1), (3, 2), (600, 3), (65_536, 4)] {
        keys.insert(&vec![b'k'; len][..], number)?;
    }
    let mut large = tx.open_table(LARGE)?;
    for key in -60..60_i64 {
        let len = if key == 5 { 70_000 } else { usize::try_from(2 * (key + 60)).unwrap_or(0) };
        large.insert(key, &vec![key.to_le_bytes()[0]; len][..])?;
    }
    let mut orders = tx.open_table(TableDefinition::<OrderId, (Option<u128>, u8)>::new("orders"))?;
    orders.insert(OrderId(9), (Some(u128::MAX), 2))?;
    orders.insert(OrderId(7), (None, 1))?;
    let mut signed = tx.open_table(SIGNED)?;
    for (key, value) in [(0, 0), (-1, u64::MAX), (i8::MIN, 1), (i8::MAX, 8)] {
        signed.insert(key, value)?;
    }
    Ok(())
}

/// The second commit, so that both slots are written and a few pages are free.
fn thin(tx: &WriteTransaction) -> std::result::Result<(), Error> {
    let mut large = tx.open_table(LARGE)?;
    for key in [10, 20, 30, 40] {
        large.remove(key)?;
    }
    tx.open_table(SIGNED)?.insert(i8::MAX, 9)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn freezing_twice_writes_the_same_bytes_and_never_over_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let [first, second] = ["first.cowslip", "second.cowslip"].map(|name| folder.path().join(name));
        for path in [&first, &second] {
            assert!(run(&Options { out: Some(path.clone()) }).unwrap());
        }
        assert!(std::fs::read(&first).unwrap() == std::fs::read(second).unwrap());
        assert!(run(&Options { out: Some(first) }).unwrap_err().to_string().contains("never changes"));
    }
}
