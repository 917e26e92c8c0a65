//! Whole tables: names, listing, renaming, deleting, types.

use crate::fixture::{ROWS, assert_sound, put, rows, tiny};
use cowslip::{
    Database, DecodeError, Desc, Error, Newtype, StorageError, TableDefinition, TableError, TableHandle, TypeName,
    Value,
};

const A: TableDefinition<u64, &str> = TableDefinition::new("a");
const B: TableDefinition<u64, &str> = TableDefinition::new("b");

fn names(db: &Database) -> Vec<String> {
    db.begin_read().unwrap().list_tables().unwrap().map(|table| table.name().to_owned()).collect()
}

fn one_table(name: &str) -> Result<(), Error> {
    let db = tiny().in_memory()?;
    let table = TableDefinition::<u64, &str>::new(name);
    db.update(|tx| {
        tx.open_table(table)?.insert(1, "one")?;
        Ok::<_, Error>(())
    })?;
    assert_sound(&db);
    assert_eq!(names(&db), [name]);
    let found = db.view(|tx| Ok::<_, Error>(tx.open_table(table)?.get(1)?.map(|row| row.value().to_owned())))?;
    assert_eq!(found.as_deref(), Some("one"));
    db.update(|tx| {
        assert!(tx.delete_table(table)?);
        assert!(!tx.delete_table(table)?);
        Ok::<_, Error>(())
    })?;
    assert!(names(&db).is_empty());
    assert_sound(&db);
    Ok(())
}

#[test]
fn table_names_of_any_content_and_up_to_64_kib_work() {
    for name in ["a", "\0", "a\0b", "t", " ", "\u{1F33C} cowslip", "../x", "\n", "\u{202e}"] {
        one_table(name).unwrap();
    }
    for len in [31, 32, 255, 256, 4096, 65_535] {
        one_table(&"n".repeat(len)).unwrap();
    }
}

#[test]
fn table_names_that_are_empty_or_over_long_are_typed_errors() {
    assert!(matches!(one_table(""), Err(Error::Table(TableError::InvalidDefinition(_)))));
    for len in [65_536, 65_537, 1 << 20] {
        let long = "n".repeat(len);
        let outcome = one_table(&long);
        assert!(matches!(outcome, Err(Error::Table(TableError::Storage(StorageError::KeyTooLarge { .. })))), "{len}");
        let db = tiny().in_memory().unwrap();
        let table = TableDefinition::<u64, &str>::new(&long);
        let reader = db.begin_read().unwrap();
        assert!(matches!(reader.open_table(table), Err(TableError::DoesNotExist(_))));
        assert!(reader.open_table_or_empty(table).unwrap().is_empty().unwrap());
        let tx = db.begin_write().unwrap();
        assert!(!tx.delete_table(table).unwrap());
        drop(tx.open_table(A).unwrap());
        assert!(tx.rename_table(A, table).is_err());
        assert!(matches!(tx.rename_table(table, A), Err(TableError::DoesNotExist(_))));
        assert!(matches!(
            tx.rename_table(A, TableDefinition::<u64, u64>::new("")),
            Err(TableError::InvalidDefinition(_))
        ));
        tx.commit().unwrap();
        assert_eq!(names(&db), ["a"], "a refused name poisons nothing");
    }
}

#[test]
fn type_mismatch_names_expected_and_found_types_readably() {
    let db = tiny().in_memory().unwrap();
    put(&db, 0..3, 0, 5).unwrap();
    const WRONG: TableDefinition<(&str, u32), [u8; 4]> = TableDefinition::new("rows");
    let expected = r#"table "rows" stores <u64, bytes>, but <(str, u32), [u8; 4]> was expected"#;
    let reader = db.begin_read().unwrap();
    assert_eq!(reader.open_table(WRONG).unwrap_err().to_string(), expected);
    assert_eq!(reader.open_table_or_empty(WRONG).unwrap_err().to_string(), expected);
    let tx = db.begin_write().unwrap();
    assert_eq!(tx.open_table(WRONG).unwrap_err().to_string(), expected);
    drop(tx.open_table(ROWS).unwrap());
    assert_eq!(tx.open_table(WRONG).unwrap_err().to_string(), expected, "in a table that is staged as well");
    assert!(matches!(tx.open_table(TableDefinition::<i64, &[u8]>::new("rows")), Err(TableError::TypeMismatch(_))));
    tx.commit().unwrap();
}

/// Types of an application that call themselves what a type of the store is called.
macro_rules! namesake {
    ($marker:ident, $newtype:ident, $type:ty, $name:literal) => {
        #[derive(Debug)]
        struct $marker;

        impl Value for $marker {
            type SelfType<'a> = $type;
            type AsBytes<'a> = Vec<u8>;

            fn fixed_width() -> Option<usize> {
                <$type as Value>::fixed_width()
            }

            fn try_from_bytes<'a>(data: &'a [u8]) -> Result<$type, DecodeError>
            where
                Self: 'a,
            {
                <$type as Value>::try_from_bytes(data)
            }

            fn as_bytes<'a, 'b: 'a>(value: &'a $type) -> Vec<u8>
            where
                Self: 'b,
            {
                AsRef::<[u8]>::as_ref(&<$type as Value>::as_bytes(value)).to_vec()
            }

            fn type_name() -> TypeName {
                TypeName::new($name)
            }
        }

        #[derive(Debug)]
        struct $newtype($type);

        impl Newtype for $newtype {
            type Stored = $type;
            const NAME: &'static str = $name;

            fn as_stored(&self) -> &$type {
                &self.0
            }

            fn from_stored(stored: $type) -> Result<Self, DecodeError> {
                Ok(Self(stored))
            }
        }
    };
}

namesake!(FalseU64, NewU64, u64, "u64");
namesake!(FalseStr, NewStr, String, "str");

/// Requires that a table of `V` opens as no other of three types, which share a name.
fn assert_apart<A: Value + 'static, B: Value + 'static, C: Value + 'static>() {
    fn make<V: Value + 'static>() -> Database {
        let db = tiny().in_memory().unwrap();
        db.update(|tx| {
            drop(tx.open_table(TableDefinition::<u64, V>::new("t"))?);
            Ok::<_, Error>(())
        })
        .unwrap();
        db
    }
    fn opens<V: Value + 'static>(db: &Database) -> bool {
        let table = TableDefinition::<u64, V>::new("t");
        let read = db.begin_read().unwrap().open_table(table).map(drop);
        let written = db.begin_write().unwrap().open_table(table).map(drop);
        for outcome in [&read, &written] {
            assert!(matches!(outcome, Ok(()) | Err(TableError::TypeMismatch(_))), "{outcome:?}");
        }
        assert_eq!(read.is_ok(), written.is_ok());
        read.is_ok()
    }
    for (index, db) in [make::<A>(), make::<B>(), make::<C>()].into_iter().enumerate() {
        let opened = [opens::<A>(&db), opens::<B>(&db), opens::<C>(&db)];
        assert_eq!(opened, [index == 0, index == 1, index == 2], "{:?}", A::descriptor());
    }
}

#[test]
fn pitfall_14_types_of_one_name_never_alias_alone_or_inside_others() {
    assert_apart::<u64, FalseU64, NewU64>();
    assert_apart::<String, FalseStr, NewStr>();
    assert_apart::<Vec<u64>, Vec<FalseU64>, Vec<NewU64>>();
    assert_apart::<Option<String>, Option<FalseStr>, Option<NewStr>>();
    assert_apart::<[u64; 3], [FalseU64; 3], [NewU64; 3]>();
    assert_apart::<(u8, u64), (u8, FalseU64), (u8, NewU64)>();
    assert_apart::<Desc<u64>, Desc<FalseU64>, Desc<NewU64>>();
    assert_apart::<Vec<(u8, Option<String>)>, Vec<(u8, Option<FalseStr>)>, Vec<(u8, Option<NewStr>)>>();
}

#[test]
fn rename_moves_rows_staged_or_not_and_refuses_what_is_taken() {
    let db = tiny().in_memory().unwrap();
    let tx = db.begin_write().unwrap();
    tx.open_table(A).unwrap().insert(1, "first").unwrap();
    tx.rename_table(A, B).unwrap();
    tx.open_table(B).unwrap().insert(2, "second").unwrap();
    tx.open_table(A).unwrap().insert(3, "third").unwrap();
    assert!(matches!(tx.rename_table(A, B), Err(TableError::Exists(name)) if *name == *"b"));
    tx.rename_table(A, A).unwrap();
    let open = tx.open_table(A).unwrap();
    assert!(matches!(tx.rename_table(B, A), Err(TableError::AlreadyOpen(_))));
    assert!(matches!(tx.delete_table(A), Err(TableError::AlreadyOpen(_))));
    assert!(matches!(tx.open_table(A), Err(TableError::AlreadyOpen(_))));
    drop(open);
    tx.commit().unwrap();
    assert_eq!(names(&db), ["a", "b"]);
    assert_sound(&db);
    let reader = db.begin_read().unwrap();
    assert_eq!(reader.open_table(B).unwrap().len().unwrap(), 2);
    db.update(|tx| {
        tx.rename_table(B, TableDefinition::<u8, u8>::new("c"))?;
        assert!(matches!(tx.rename_table(B, A), Err(TableError::DoesNotExist(_))));
        Ok::<_, Error>(())
    })
    .unwrap();
    assert_eq!(names(&db), ["a", "c"]);
    assert_eq!(reader.open_table(B).unwrap().len().unwrap(), 2, "the snapshot keeps the old name");
}

#[test]
fn rename_and_delete_are_undone_by_an_abort() {
    let db = tiny().in_memory().unwrap();
    put(&db, 0..50, 0, 50).unwrap();
    let before = db.check_integrity().unwrap();
    let tx = db.begin_write().unwrap();
    tx.rename_table(ROWS, A).unwrap();
    assert!(tx.delete_table(A).unwrap());
    assert_eq!(tx.list_tables().unwrap().count(), 0);
    tx.abort().unwrap();
    assert_eq!((rows(&db).unwrap().len(), db.check_integrity().unwrap().reached_units), (50, before.reached_units));
}

#[test]
fn deleting_a_table_of_long_keys_and_values_gives_every_page_back() {
    let db = tiny().in_memory().unwrap();
    put(&db, 0..1, 0, 1).unwrap();
    let empty = db.check_integrity().unwrap().reached_units;
    const LONG: TableDefinition<&[u8], &[u8]> = TableDefinition::new("long");
    for staged in [false, true] {
        let tx = db.begin_write().unwrap();
        let mut table = tx.open_table(LONG).unwrap();
        for len in [0_usize, 31, 33, 200, 600, 5000, 20_000] {
            let key = vec![7; len.min(9000)];
            table.insert(&key[..], &vec![1; len][..]).unwrap();
        }
        drop(table);
        if staged {
            assert!(tx.delete_table(LONG).unwrap());
            tx.commit().unwrap();
        } else {
            tx.commit().unwrap();
            assert_sound(&db);
            db.update(|tx| tx.delete_table(LONG).map_err(Error::from)).unwrap();
        }
        assert_eq!(db.check_integrity().unwrap().reached_units, empty, "staged: {staged}");
    }
}
