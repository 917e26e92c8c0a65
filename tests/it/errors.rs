//! Errors: what their text names, what a caller can ask them, and where they came from.
//!
//! Invariant: damage names the table, and where one page is to blame the page; the source of an error is never lost.

use crate::fixture::{ROWS, SharedBytes, closed_tiny, tiny};
use cowslip::{
    CloseError, CommitError, Database, DatabaseError, DecodeError, Desc, Error, IoFailure, Key, Newtype, StorageError,
    TableDefinition, TableError, TransactionError, TypeDescriptor, TypeName, Value,
};
use std::error::Error as StdError;
use std::io;

/// A number that is even.
#[derive(Debug, Clone, Copy)]
struct Even(u64);

impl Newtype for Even {
    type Stored = u64;
    const NAME: &'static str = "test.Even";

    fn as_stored(&self) -> &u64 {
        &self.0
    }

    fn from_stored(stored: u64) -> Result<Self, DecodeError> {
        if stored.is_multiple_of(2) { Ok(Self(stored)) } else { Err(DecodeError::new(format!("{stored} is odd"))) }
    }
}

const EVENS: TableDefinition<Even, Even> = TableDefinition::new("evens");

fn chain(error: &dyn StdError) -> Vec<String> {
    let (mut texts, mut source) = (Vec::new(), error.source());
    while let Some(error) = source {
        texts.push(error.to_string());
        source = error.source();
    }
    texts
}

#[test]
fn a_row_that_does_not_decode_names_table_type_and_reason() {
    let db = Database::in_memory().unwrap();
    db.update(|tx| {
        let mut table = tx.open_table(EVENS)?;
        table.insert(Even(2), Even(5))?;
        let error = table.get(Even(2)).unwrap_err();
        assert!(error.to_string().contains("table \"evens\""), "{error}");
        Ok::<_, Error>(())
    })
    .unwrap();
    let table = db.begin_read().unwrap().open_table(EVENS).unwrap();
    for error in [table.get(Even(2)).unwrap_err(), table.iter().unwrap().next().unwrap().unwrap_err()] {
        assert_eq!(error.to_string(), "corrupted: table \"evens\": a stored value is no test.Even: 5 is odd");
        assert!(error.is_corruption() && !error.is_out_of_space());
        let StorageError::Corrupted(corruption) = &error else { panic!("{error}") };
        assert_eq!((corruption.table(), corruption.page()), (Some("evens"), None));
        assert!(StdError::source(&**corruption).is_some_and(|source| source.is::<DecodeError>()));
        assert_eq!(chain(&error).last().map(String::as_str), Some("5 is odd"));
    }

    db.update(|tx| {
        tx.open_table(EVENS)?.insert(Even(1), Even(0))?;
        Ok::<_, Error>(())
    })
    .unwrap();
    let table = db.begin_read().unwrap().open_table(EVENS).unwrap();
    let error = table.first().unwrap_err();
    assert_eq!(error.to_string(), "corrupted: table \"evens\": a stored key is no test.Even: 1 is odd");
}

/// Claims to be stored as a `u64` is, and is not.
#[derive(Debug)]
struct Liar;

impl Value for Liar {
    type SelfType<'a> = &'a [u8];
    type AsBytes<'a> = &'a [u8];

    fn fixed_width() -> Option<usize> {
        None
    }

    fn try_from_bytes<'a>(data: &'a [u8]) -> Result<&'a [u8], DecodeError>
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
        TypeName::new("test.Liar")
    }

    fn descriptor() -> TypeDescriptor {
        u64::descriptor()
    }
}

#[test]
fn pitfall_29_stored_bytes_of_the_wrong_fixed_width_are_an_error_in_every_way_of_reading() {
    let db = Database::in_memory().unwrap();
    let lies = TableDefinition::<u64, Liar>::new("rows");
    let truth = TableDefinition::<u64, u64>::new("rows");
    for len in [0, 1, 7, 9, 16, 5000] {
        db.update(|tx| {
            drop(tx.open_table(lies)?.insert(1, &vec![1; len][..])?);
            Ok::<_, Error>(())
        })
        .unwrap();
        let table = db.begin_read().unwrap().open_table(truth).unwrap();
        let outcomes = [
            table.get(1).map(drop),
            table.first().map(drop),
            table.iter().unwrap().next_back().unwrap().map(drop),
            db.begin_write().unwrap().open_table(truth).unwrap().get(1).map(drop),
        ];
        for outcome in outcomes {
            let error = outcome.unwrap_err();
            assert!(error.is_corruption() && error.to_string().contains("table \"rows\""), "{len} bytes: {error}");
        }
    }
}

fn refuses_other_widths<T: Key + 'static>() {
    let width = T::fixed_width().expect("a type of fixed width");
    for len in (0..width + 3).chain([2 * width + 1, 300]).filter(|len| *len != width) {
        let bytes = vec![0; len];
        assert!(T::try_from_bytes(&bytes).is_err(), "{}: value of {len} bytes", T::descriptor());
        assert!(T::decode_key(&bytes, &mut Vec::new()).is_err(), "{}: key of {len} bytes", T::descriptor());
    }
}

#[test]
fn pitfall_29_every_type_of_fixed_width_refuses_bytes_of_another() {
    macro_rules! all {
        ($($type:ty),* $(,)?) => {$(refuses_other_widths::<$type>();)*};
    }
    all![
        (),
        bool,
        char,
        u8,
        u16,
        u32,
        u64,
        u128,
        i8,
        i16,
        i32,
        i64,
        i128,
        f32,
        f64,
        [u8; 4],
        &[u8; 4],
        [u16; 3],
        [u8; 0]
    ];
    all![(u8, u32), (u8, (i64, bool)), Desc<u64>, [Desc<f32>; 2], Even];
}

#[test]
fn a_damaged_page_of_a_table_is_named_with_its_table() {
    let (disk, model) = closed_tiny();
    let image = disk.image();
    let mut named = 0;
    for unit in 24..image.len() / 512 {
        let mut image = image.clone();
        image[unit * 512 + 100] ^= 0x10;
        let Ok(db) = tiny().open_read_only_with_storage(SharedBytes::of(image)) else { continue };
        let Ok(table) = db.begin_read().unwrap().open_table(ROWS) else { continue };
        let from_get = model.keys().find_map(|key| table.get(key).err());
        let from_range = table.iter().and_then(|mut rows| rows.try_for_each(|row| row.map(drop))).err();
        let from_check = db.check_integrity().err().map(|error| error.to_string());
        for error in from_get.iter().chain(&from_range) {
            let StorageError::Corrupted(corruption) = error else { panic!("unit {unit}: {error}") };
            assert_eq!(corruption.table(), Some("rows"), "unit {unit}: {error}");
            assert!(corruption.page().is_some(), "unit {unit}: {error}");
            named += 1;
        }
        if let (Some(_), Some(checked)) = (from_get, from_check) {
            assert!(checked.contains("table \"rows\": page"), "{checked}");
        }
    }
    assert!(named > 4, "{named}");
}

#[test]
fn a_type_mismatch_names_both_types_in_full() {
    let db = Database::in_memory().unwrap();
    let other = TableDefinition::<u64, Option<Vec<String>>>::new("evens");
    let error = db
        .update(|tx| {
            tx.open_table(EVENS)?;
            tx.open_table(other)?;
            Ok::<_, Error>(())
        })
        .unwrap_err();
    let expected = "table \"evens\" stores <\"test.Even\" as u64, \"test.Even\" as u64>, \
                    but <u64, Option<Vec<str>>> was expected";
    assert_eq!(error.to_string(), expected);
    assert!(!error.is_corruption() && !error.is_locked() && !error.is_out_of_space());
}

fn out_of_space() -> StorageError {
    StorageError::OutOfSpace { wanted_bytes: 8192, source: io::ErrorKind::StorageFull.into() }
}

fn failed_read() -> StorageError {
    StorageError::Io(Box::new(IoFailure { operation: "reading", source: io::Error::other("bad cable") }))
}

#[test]
fn every_verb_passes_the_questions_and_the_source_of_its_storage_error_on() {
    type Verb = fn(StorageError) -> Error;
    let verbs: [Verb; 7] = [
        |error| DatabaseError::from(error).into(),
        |error| TransactionError::from(error).into(),
        |error| TableError::from(error).into(),
        |error| CommitError::Aborted(Box::new(error)).into(),
        |error| CommitError::InDoubt(Box::new(error)).into(),
        |error| CloseError::from(error).into(),
        |error| error.into(),
    ];
    for verb in verbs {
        assert!(verb(out_of_space()).is_out_of_space());
        assert!(!verb(failed_read()).is_out_of_space());
        assert!(!verb(failed_read()).is_corruption());
        let damaged = verb(DecodeError::new("odd").into());
        assert!(damaged.is_corruption() && damaged.storage_error().is_some());
        assert_eq!(chain(&damaged).last().map(String::as_str), Some("odd"));
        let failed = verb(failed_read());
        assert!(failed.to_string().contains("reading failed: bad cable"), "{failed}");
        assert_eq!(chain(&failed).last().map(String::as_str), Some("bad cable"));
        assert!(size_of_val(&failed) <= 32);
    }
    assert!(Error::from(DatabaseError::Locked("process 7".into())).is_locked());
    assert!(Error::from(DecodeError::new("odd")).is_corruption());
    assert!(!Error::from(CloseError::InUse(1)).is_locked());
}

#[test]
fn a_second_opening_is_locked_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("one.db");
    let _db = Database::create(&path).unwrap();
    let error = Database::open(&path).unwrap_err();
    assert!(error.is_locked() && !error.is_corruption() && !error.is_out_of_space(), "{error}");
}

fn accepts<K: Key>() -> String {
    <K as Value>::descriptor().to_string()
}

#[test]
fn newtypes_are_keys_where_what_they_wrap_is_one() {
    assert_eq!(accepts::<(Even, Even)>(), "(\"test.Even\" as u64, \"test.Even\" as u64)");
}
