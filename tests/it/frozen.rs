//! The frozen file of format version 4: written once, by `cargo xtask freeze`, and never again.
//!
//! Invariant: every later release of this format reads it, row by row, and writes to it.

use crate::fixture::SharedBytes;
use cowslip::{Builder, Database, DatabaseError, DecodeError, Desc, Error, Key, Newtype, TableDefinition, Value};
use std::fmt::Debug;
use std::path::PathBuf;

/// Offsets of the immutable fields: in block 0, and in the slots.
const FIELDS: [usize; 3] = [16, 4096 + 3936, 2 * 4096 + 3936];

/// An identity around a number, as the file names it.
#[derive(Debug, Clone, Copy, PartialEq)]
struct OrderId(u64);

impl Newtype for OrderId {
    type Stored = u64;
    const NAME: &'static str = "frozen.OrderId";

    fn as_stored(&self) -> &u64 {
        &self.0
    }

    fn from_stored(stored: u64) -> Result<Self, DecodeError> {
        Ok(Self(stored))
    }
}

fn frozen() -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/format/v4.cowslip");
    std::fs::read(path).unwrap()
}

/// Requires exactly these rows, in this order, by their debug forms.
fn expect<K: Key + 'static, V: Value + 'static>(db: &Database, name: &str, rows: &[(&str, &str)]) {
    let tx = db.begin_read().unwrap();
    let table = tx.open_table(TableDefinition::<K, V>::new(name)).unwrap();
    let found: Vec<(String, String)> = table
        .iter()
        .unwrap()
        .map(|row| {
            let (key, value) = row.unwrap();
            (format!("{:?}", key.value()), format!("{:?}", value.value()))
        })
        .collect();
    let found: Vec<(&str, &str)> = found.iter().map(|(key, value)| (&**key, &**value)).collect();
    assert_eq!(found, rows, "{name}");
}

fn expect_contents(db: &Database) {
    let tx = db.begin_read().unwrap();
    let names: Vec<String> =
        tx.list_tables().unwrap().map(|table| cowslip::TableHandle::name(&table).to_owned()).collect();
    assert_eq!(names, ["arrays", "empty", "events", "falling", "floats", "keys", "large", "orders", "signed"]);
    expect::<[u8; 3], [i16; 2]>(db, "arrays", &[("[0, 1, 2]", "[-1, 1]"), ("[255, 0, 0]", "[-32768, 32767]")]);
    expect::<(), ()>(db, "empty", &[]);
    expect::<(&str, u32), Vec<String>>(
        db,
        "events",
        &[("(\"\", 1)", "[]"), ("(\"a\\0b\", 2)", "[\"one\", \"\"]"), ("(\"door\", 2)", "[\"rang\"]")],
    );
    expect::<Desc<String>, bool>(db, "falling", &[("Desc(\"z\")", "true"), ("Desc(\"a\")", "false")]);
    let floats = [("-inf", "'z'"), ("-0.0", "'\u{e9}'"), ("0.0", "'a'"), ("2.5", "'\\0'")];
    expect::<f64, char>(db, "floats", &floats);
    expect::<OrderId, (Option<u128>, u8)>(
        db,
        "orders",
        &[("OrderId(7)", "(None, 1)"), ("OrderId(9)", "(Some(340282366920938463463374607431768211455), 2)")],
    );
    let table = tx.open_table(TableDefinition::<i64, &[u8]>::new("large")).unwrap();
    // Rows 10, 20, 30, 40 were removed again.
    let keys: Vec<i64> = (-60..60).filter(|key| ![10, 20, 30, 40].contains(key)).collect();
    let found: Vec<i64> = table.iter().unwrap().map(|row| row.unwrap().0.value()).collect();
    assert_eq!(found, keys);
    for key in keys {
        let len = if key == 5 { 70_000 } else { 2 * usize::try_from(key + 60).unwrap() };
        let fill = key.to_le_bytes()[0];
        assert!(table.get(key).unwrap().unwrap().value() == vec![fill; len], "row {key}");
    }
    let table = tx.open_table(TableDefinition::<&[u8], u16>::new("keys")).unwrap();
    for (len, number) in [(0, 1), (3, 2), (600, 3), (65_536, 4)] {
        assert_eq!(table.get(&vec![b'k'; len][..]).unwrap().unwrap().value(), number, "key of {len} bytes");
    }
    assert_eq!(table.len().unwrap(), 4);
    let signed = [("-128", "1"), ("-1", "18446744073709551615"), ("0", "0"), ("127", "9")];
    expect::<i8, u64>(db, "signed", &signed);
}

#[test]
fn the_frozen_file_of_version_4_has_exactly_its_rows_and_can_be_written_to() {
    let bytes = frozen();
    let storage = SharedBytes::of(bytes.clone());
    let db = Builder::new().open_read_only_with_storage(storage.clone()).unwrap();
    assert!(db.open_notes().is_empty());
    expect_contents(&db);
    let report = db.check_integrity().unwrap();
    assert_eq!((report.tables, report.rows), (9, 137));
    drop(db);
    assert!(storage.image() == bytes, "reading writes nothing");

    let db = Builder::new().open_with_storage(storage.clone()).unwrap();
    let new = TableDefinition::<u64, u64>::new("new");
    db.update(|tx| {
        drop(tx.open_table(new)?.insert(1, 2)?);
        Ok::<_, Error>(())
    })
    .unwrap();
    db.update(|tx| {
        assert!(tx.delete_table(new)?);
        Ok::<_, Error>(())
    })
    .unwrap();
    db.check_integrity().unwrap();
    db.close().unwrap();
    let db = Builder::new().open_with_storage(storage).unwrap();
    expect_contents(&db);
    db.check_integrity().unwrap();
}

/// Sets the version in the chosen copies of the immutable fields, with digests that fit.
fn with_version(version: u32, copies: &[usize]) -> Vec<u8> {
    let mut bytes = frozen();
    for copy in copies {
        bytes[FIELDS[*copy]..FIELDS[*copy] + 4].copy_from_slice(&version.to_le_bytes());
    }
    let sum = xxhash_rust::xxh3::xxh3_128(&[&bytes[..12], &bytes[16..144]].concat()).to_le_bytes();
    bytes[144..160].copy_from_slice(&sum);
    for slot in [4096, 8192] {
        let sum = xxhash_rust::xxh3::xxh3_128(&bytes[slot..slot + 4064]).to_le_bytes();
        bytes[slot + 4064..slot + 4080].copy_from_slice(&sum);
    }
    bytes
}

#[test]
fn a_file_of_another_version_is_an_error_that_names_both_versions_and_changes_nothing() {
    for (version, copies) in
        [(5, &[0, 1, 2][..]), (3, &[0, 1, 2]), (0, &[0, 1, 2]), (u32::MAX, &[0]), (5, &[1]), (3, &[2])]
    {
        let bytes = with_version(version, copies);
        let storage = SharedBytes::of(bytes.clone());
        for outcome in [
            Builder::new().open_with_storage(storage.clone()),
            Builder::new().create_with_storage(storage.clone()),
            Builder::new().open_read_only_with_storage(storage.clone()),
        ] {
            let error = outcome.unwrap_err();
            assert!(
                matches!(error, DatabaseError::UnsupportedVersion { found, supported: 4 } if found == version),
                "{error}"
            );
            let text = format!("the file has format version {version}, this release reads version 4");
            assert_eq!(error.to_string(), text);
            assert!(!error.is_corruption());
        }
        assert!(storage.image() == bytes);
    }
    assert!(with_version(4, &[0, 1, 2]) == frozen(), "the digests are those of the format");
}
