//! Databases made with the public API read back as the rows that were written.
//!
//! Follows design.md: whatever the reader finds comes from the bytes of the file.

use super::blocks::{Note, Opened};
use super::bytes::{Refusal, Result};
use super::catalog::{Contents, read};
use super::tree::RunKind;
use super::types::{Datum, Type};
use cowslip::{
    Builder, Database, DecodeError, Desc, IntegrityReport, Key, Newtype, TableDefinition, TypeName, WriteTransaction,
};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

macro_rules! datum_from_integer {
    ($($integer:ty => $datum:ident),*) => {
        $(impl From<$integer> for Datum {
            fn from(number: $integer) -> Self {
                Self::$datum(number.into())
            }
        })*
    };
}

datum_from_integer!(u8 => Unsigned, u32 => Unsigned, u64 => Unsigned, u128 => Unsigned);
datum_from_integer!(i16 => Signed, i32 => Signed, i64 => Signed, i128 => Signed);

impl From<()> for Datum {
    fn from((): ()) -> Self {
        Self::Unit
    }
}

impl From<bool> for Datum {
    fn from(flag: bool) -> Self {
        Self::Bool(flag)
    }
}

impl From<&str> for Datum {
    fn from(text: &str) -> Self {
        Self::String(text.to_owned())
    }
}

impl From<&[u8]> for Datum {
    fn from(bytes: &[u8]) -> Self {
        Self::Bytes(bytes.to_vec())
    }
}

impl From<f64> for Datum {
    fn from(number: f64) -> Self {
        Self::Float(number.to_bits())
    }
}

impl From<char> for Datum {
    fn from(letter: char) -> Self {
        Self::Char(letter)
    }
}

impl From<String> for Datum {
    fn from(text: String) -> Self {
        Self::String(text)
    }
}

impl<T: Into<Datum>> From<Vec<T>> for Datum {
    fn from(elements: Vec<T>) -> Self {
        Self::List(elements.into_iter().map(T::into).collect())
    }
}

impl<T: Into<Datum>> From<Option<T>> for Datum {
    fn from(content: Option<T>) -> Self {
        Self::Option(content.map(|content| Box::new(content.into())))
    }
}

impl<T: Into<Datum>> From<Desc<T>> for Datum {
    fn from(falling: Desc<T>) -> Self {
        falling.0.into()
    }
}

impl From<Celsius> for Datum {
    fn from(degrees: Celsius) -> Self {
        degrees.0.into()
    }
}

/// A newtype around a float.
#[derive(Debug, Clone)]
struct Celsius(f64);

impl Newtype for Celsius {
    type Stored = f64;
    const NAME: &'static str = "test.Celsius";

    fn as_stored(&self) -> &f64 {
        &self.0
    }

    fn from_stored(stored: f64) -> std::result::Result<Self, DecodeError> {
        Ok(Self(stored))
    }
}

impl<const N: usize> From<[u8; N]> for Datum {
    fn from(bytes: [u8; N]) -> Self {
        Self::Bytes(bytes.to_vec())
    }
}

impl<A: Into<Datum>, B: Into<Datum>> From<(A, B)> for Datum {
    fn from((a, b): (A, B)) -> Self {
        Self::Tuple(vec![a.into(), b.into()])
    }
}

impl<A: Into<Datum>, B: Into<Datum>, C: Into<Datum>> From<(A, B, C)> for Datum {
    fn from((a, b, c): (A, B, C)) -> Self {
        Self::Tuple(vec![a.into(), b.into(), c.into()])
    }
}

/// The rows that each table should hold.
#[derive(Default)]
pub(crate) struct Expected(BTreeMap<&'static str, Vec<(Datum, Datum)>>);

/// Inserts the rows, given in key order, and notes them as expected.
macro_rules! fill {
    ($expected:expr, $tx:expr, $name:literal: $key:ty => $value:ty, $rows:expr) => {{
        let mut table = $tx.open_table(TableDefinition::<$key, $value>::new($name)).unwrap();
        let expected: &mut Vec<(Datum, Datum)> = $expected.0.entry($name).or_default();
        for (key, value) in $rows {
            table.insert(key.clone(), value.clone()).unwrap();
            expected.push((key.into(), value.into()));
        }
    }};
}

impl Expected {
    pub(crate) fn assert_is(&self, contents: &Contents) {
        let names: Vec<&str> = contents.tables.keys().map(String::as_str).collect();
        assert_eq!(names, self.0.keys().copied().collect::<Vec<_>>());
        for (name, rows) in &self.0 {
            let table = &contents.tables[*name];
            assert_eq!(table.row_count, u64::try_from(rows.len()).unwrap(), "rows of {name}");
            assert!(table.rows == *rows, "{name} holds other rows than were written");
        }
    }
}

pub(crate) fn read_file(path: &Path) -> Result<Contents> {
    read(&Opened::open(path)?)
}

fn read_copy(path: &Path) -> Result<Contents> {
    read(&Opened::new(fs::read(path).unwrap())?)
}

/// Requires that the crate's own full check counted what this reader found.
fn assert_same_counts(contents: &Contents, report: &IntegrityReport) {
    let count = |items: usize| u64::try_from(items).unwrap();
    assert_eq!(report.tables, count(contents.tables.len()));
    assert_eq!(report.rows, contents.tables.values().map(|table| table.row_count).sum::<u64>());
    assert_eq!(
        report.nodes,
        count(contents.runs.iter().filter(|run| matches!(run.kind, RunKind::Node { .. })).count())
    );
    assert_eq!(report.reached_units, count(contents.runs.iter().map(|run| run.length.div_ceil(4096)).sum()));
}

/// Bytes that look random and are the same each time.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let step = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    (0..length).map(step).collect()
}

/// Keys that differ only far behind what a node keeps of a key, in order.
fn long_keys(count: u8) -> Vec<Vec<u8>> {
    (0..count).map(|last| [vec![b'k'; 3000 + 100 * usize::from(last)], vec![b'l', last]].concat()).rev().collect()
}

fn fill_composite_types(tx: &WriteTransaction, expected: &mut Expected) {
    let floats = [f64::NEG_INFINITY, -2.5, -0.0, 0.0, 1e-300, 7.0, f64::NAN];
    fill!(expected, tx, "floats": f64 => char, floats.map(|number| (number, 'x')));
    fill!(expected, tx, "chars": char => f64, ['\0', 'a', '\u{10FFFF}'].map(|letter| (letter, -1.5)));
    fill!(expected, tx, "degrees": Desc<Celsius> => Celsius, [30.5, -3.0].map(|n| (Desc(Celsius(n)), Celsius(n))));
    let owned = ["", "\0", "a", "a\0b"].map(str::to_owned);
    let rows = owned.iter().map(|text| ((Desc(7_u32), text.clone()), Some(text.clone())));
    fill!(expected, tx, "owned": (Desc<u32>, String) => Option<String>, rows);
    let falling = owned.iter().rev().map(|text| ((Desc(text.clone()), 1_u8), (None, vec![text.clone()])));
    fill!(expected, tx, "falling": (Desc<String>, u8) => (Option<u32>, Vec<String>), falling);
    let lists = [vec![], vec![None], vec![None, Some(3_u32)], vec![Some(1), None], vec![Some(2)]];
    let rows = lists.into_iter().map(|list| ((list, 'z'), vec![(), ()]));
    fill!(expected, tx, "lists": (Vec<Option<u32>>, char) => Vec<()>, rows);
}

/// One table for each sort of type.
fn fill_every_type(tx: &WriteTransaction, expected: &mut Expected) {
    fill!(expected, tx, "uniform": u64 => u64, (0..6000).map(|n| (n * 7, n ^ 0xFF)));
    fill!(expected, tx, "signed": i32 => i64, (-700..700).map(|n| (n * 1000, i64::from(-n))));
    fill!(expected, tx, "wide": i128 => u128, (-9..9).map(|n: i128| (n << 90, n.unsigned_abs() << 100)));
    fill!(expected, tx, "small": u8 => i16, (0..=255).map(|n: u8| (n, i16::from(n) - 128)));
    let names: Vec<String> = (0..3000).map(|n| format!("person/{n:05}/{}", "x".repeat(n % 40))).collect();
    fill!(expected, tx, "names": &str => &str, names.iter().map(|name| (name.as_str(), &name[7..])));
    let blobs: Vec<Vec<u8>> = (0..200).map(|n| [vec![n, 0, n], noise(n.into(), usize::from(n))].concat()).collect();
    fill!(expected, tx, "blobs": &[u8] => &[u8], blobs.iter().map(|blob| (blob.as_slice(), blob.as_slice())));
    let fixed = (0..500_u32).map(|n| (n.to_be_bytes(), [n.to_le_bytes()[0]; 20]));
    fill!(expected, tx, "fixed": [u8; 4] => [u8; 20], fixed);
    fill!(expected, tx, "flags": bool => bool, [(false, true), (true, false)]);
    fill!(expected, tx, "single": () => &str, [((), "alone")]);
    fill!(expected, tx, "nothing": () => (), [((), ())]);
    fill!(expected, tx, "set": &str => (), [("", ()), ("a", ()), ("a\0", ()), ("b", ())]);
    let zeros = ["", "\0", "\0\0", "\0a", "a", "a\0", "a\0b", "b"];
    let pairs = zeros.iter().flat_map(|a| zeros.iter().map(move |b| ((*a, *b), (*b, 7_u64, a.as_bytes()))));
    fill!(expected, tx, "pairs": (&str, &str) => (&str, u64, &[u8]), pairs);
    let nested = zeros.iter().flat_map(|a| (0..3_u32).map(move |n| (((*a, n), a.as_bytes()), (true, ("v", n)))));
    fill!(expected, tx, "nested": ((&str, u32), &[u8]) => (bool, (&str, u32)), nested);
    fill!(expected, tx, "empty": u64 => u64, Vec::<(u64, u64)>::new());
    fill_composite_types(tx, expected);
    let long = long_keys(120);
    let values: Vec<Vec<u8>> = (0..120).map(|n| noise(n, 40 * usize::try_from(n).unwrap())).collect();
    let rows = long.iter().zip(&values).map(|(key, value)| (key.as_slice(), value.as_slice()));
    fill!(expected, tx, "long keys": &[u8] => &[u8], rows);
    let large: Vec<Vec<u8>> = [1, 2000, 4096, 8193, 70_000, 3_000_000].map(|length| noise(5, length)).to_vec();
    let rows = large.iter().map(|value| (u64::try_from(value.len()).unwrap(), value.as_slice()));
    fill!(expected, tx, "large values": u64 => &[u8], rows);
}

#[test]
fn every_type_reads_back_after_a_clean_close() {
    for node_bytes in [4096, 8192, 65536] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("types.db");
        let db = Database::builder().node_bytes(node_bytes).create(&path).unwrap();
        let tx = db.begin_write().unwrap();
        let mut expected = Expected::default();
        fill_every_type(&tx, &mut expected);
        tx.commit().unwrap();
        let report = db.check_integrity().unwrap();
        db.close().unwrap();

        let contents = read_file(&path).unwrap();
        expected.assert_is(&contents);
        assert_same_counts(&contents, &report);
        assert_eq!(contents.notes, []);
        let pairs = &contents.tables["pairs"];
        assert_eq!(pairs.key, Type::Tuple(vec![Type::String, Type::String]));
        assert_eq!(pairs.value, Type::Tuple(vec![Type::String, Type::Unsigned(8), Type::Bytes]));
        assert_eq!(contents.tables["fixed"].value, Type::FixedBytes(20));
        let has = |kind: &dyn Fn(RunKind) -> bool| contents.runs.iter().any(|run| kind(run.kind));
        assert!(has(&|kind| matches!(kind, RunKind::Node { uniform: true, .. })));
        assert!(has(&|kind| matches!(kind, RunKind::Node { uniform: false, prefixed: true, level: 1 })));
        assert!(has(&|kind| matches!(kind, RunKind::Node { level: 2, .. })));
        assert!(has(&|kind| kind == RunKind::Piece));
    }
}

#[test]
fn a_new_database_reads_as_empty() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("new.db");
    Database::create(&path).unwrap().close().unwrap();
    let contents = read_file(&path).unwrap();
    assert_eq!((contents.tables.len(), contents.runs.len(), contents.notes.len()), (0, 0, 0));
    assert_eq!(Opened::new(vec![0; 12288]).unwrap_err(), Refusal::NotADatabase);
}

#[test]
fn an_open_database_is_locked_and_a_copy_of_it_holds_the_last_commit() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("open.db");
    let db = Database::create(&path).unwrap();
    let mut expected = Expected::default();
    for _ in 0..2 {
        let tx = db.begin_write().unwrap();
        expected = Expected::default();
        fill_every_type(&tx, &mut expected);
        tx.commit().unwrap();
    }
    assert!(matches!(read_file(&path), Err(Refusal::Io(_))));
    let contents = read_copy(&path).unwrap();
    expected.assert_is(&contents);
    assert_eq!(contents.notes, [Note::RecoveredAfterCrash]);
    // What an unfinished transaction has written changes nothing of that.
    let tx = db.begin_write().unwrap();
    let mut table = tx.open_table(TableDefinition::<u64, &[u8]>::new("large values")).unwrap();
    table.insert(1, noise(9, 500_000).as_slice()).unwrap();
    expected.assert_is(&read_copy(&path).unwrap());
}

const CHURN: TableDefinition<u64, &[u8]> = TableDefinition::new("churn");

/// Commits `rounds` rounds of inserts, updates and removals, and reopens the file between them; returns the rows.
fn churn(builder: &Builder, path: &Path, rounds: u64, value_bytes_max: u64) -> BTreeMap<u64, Vec<u8>> {
    let mut model = BTreeMap::new();
    for round in 0..rounds {
        let db = builder.create(path).unwrap();
        for half in 0..2 {
            let tx = db.begin_write().unwrap();
            let mut table = tx.open_table(CHURN).unwrap();
            for step in 0..200 {
                let pick = (round * 7919 + half * 104_729 + step * step * 31) % 500;
                if (pick + step) % 3 == 0 {
                    table.remove(pick).unwrap();
                    model.remove(&pick);
                } else {
                    let value = noise(step, usize::try_from(pick * step * 31 % value_bytes_max).unwrap());
                    table.insert(pick, value.as_slice()).unwrap();
                    model.insert(pick, value);
                }
            }
            drop(table);
            tx.commit().unwrap();
        }
        db.close().unwrap();
        let contents = read_file(path).unwrap();
        let rows: Vec<_> = model.iter().map(|(key, value)| ((*key).into(), value.as_slice().into())).collect();
        assert!(contents.tables["churn"].rows == rows, "round {round}");
        assert_eq!(contents.notes, []);
    }
    model
}

#[test]
fn rows_read_back_after_updates_removals_and_reopening() {
    let folder = tempfile::tempdir().unwrap();
    churn(&Database::builder(), &folder.path().join("churn.db"), 6, 9000);
}

#[test]
fn a_file_of_tiny_geometry_has_many_regions_deep_trees_and_extent_lists() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tiny.db");
    let builder = Database::builder().test_geometry(512, 512, 64);
    // A run holds at most 16384 bytes here.
    let model = churn(&builder, &path, 4, 40_000);
    assert!(model.values().any(|value| value.len() > 3 * 16384 / 2));
    let db = builder.open(&path).unwrap();
    let tx = db.begin_write().unwrap();
    let mut table = tx.open_table(TableDefinition::<u64, u64>::new("deep")).unwrap();
    for n in 0..12_000 {
        table.insert(n * 1_000_003, n).unwrap();
    }
    drop(table);
    tx.commit().unwrap();
    db.close().unwrap();
    let contents = read_file(&path).unwrap();
    assert_eq!(contents.tables["deep"].row_count, 12_000);
    assert!(contents.runs.iter().any(|run| run.kind == RunKind::List));
    assert!(contents.runs.iter().any(|run| matches!(run.kind, RunKind::Node { level: 4, .. })));
}

#[test]
fn a_table_emptied_of_rows_and_a_dropped_table_leave_no_unit_behind() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("emptied.db");
    let db = Database::create(&path).unwrap();
    let tx = db.begin_write().unwrap();
    fill_every_type(&tx, &mut Expected::default());
    tx.commit().unwrap();
    let tx = db.begin_write().unwrap();
    let mut long = tx.open_table(TableDefinition::<&[u8], &[u8]>::new("long keys")).unwrap();
    for key in long_keys(120) {
        long.remove(key.as_slice()).unwrap();
    }
    drop(long);
    assert!(tx.delete_table(TableDefinition::<u64, &[u8]>::new("large values")).unwrap());
    tx.commit().unwrap();
    db.close().unwrap();
    let contents = read_file(&path).unwrap();
    assert_eq!(contents.tables["long keys"].rows, []);
    assert!(!contents.tables.contains_key("large values"));
}

/// A string that only the application can read.
#[derive(Debug)]
struct Sealed;

impl cowslip::Value for Sealed {
    type SelfType<'a> = &'a [u8];
    type AsBytes<'a> = &'a [u8];

    fn fixed_width() -> Option<usize> {
        None
    }

    fn try_from_bytes<'a>(data: &'a [u8]) -> std::result::Result<&'a [u8], DecodeError>
    where
        Self: 'a,
    {
        Ok(data)
    }

    fn as_bytes<'a, 'b: 'a>(value: &'a &'b [u8]) -> &'a [u8]
    where
        Self: 'b,
    {
        value
    }

    fn type_name() -> TypeName {
        TypeName::new("test.Sealed")
    }
}

impl Key for Sealed {
    const KEY_BYTES_ARE_VALUE_BYTES: bool = true;

    fn encode_key<'a>(value: &&'a [u8], out: &mut Vec<u8>)
    where
        Self: 'a,
    {
        out.extend_from_slice(value);
    }

    fn decode_key(bytes: &[u8], out: &mut Vec<u8>) -> std::result::Result<(), DecodeError> {
        out.extend_from_slice(bytes);
        Ok(())
    }
}

#[test]
fn a_type_of_the_application_reads_back_as_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("named.db");
    let db = Database::create(&path).unwrap();
    let tx = db.begin_write().unwrap();
    let mut expected = Expected::default();
    let sealed: [&[u8]; 4] = [b"", b"\0", b"\0\xFF", b"\xFF"];
    let rows = sealed.iter().flat_map(|key| (0..3).map(move |n| ((*key, n), (n, *key))));
    fill!(expected, tx, "sealed": (Sealed, u8) => (u8, Sealed), rows);
    tx.commit().unwrap();
    db.close().unwrap();
    let contents = read_file(&path).unwrap();
    expected.assert_is(&contents);
    let named = Type::Named { name: "test.Sealed".to_owned(), width: None };
    assert_eq!(contents.tables["sealed"].key, Type::Tuple(vec![named, Type::Unsigned(1)]));
}
