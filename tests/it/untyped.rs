//! Tables by their stored types: what tools read and change without the application.

use crate::fixture::{assert_sound, tiny};
use cowslip::{
    Database, Error, StorageError, TableDefinition, TableError, TableHandle, TypeDescriptor, UntypedError, Value,
    parse_key, parse_prefix, parse_value, render_key, render_value,
};

const EVENTS: TableDefinition<(&str, i32), &str> = TableDefinition::new("events");

fn sample() -> Database {
    let db = tiny().in_memory().unwrap();
    db.update(|tx| {
        let mut events = tx.open_table(EVENTS)?;
        for (room, number) in [("door", -7), ("door", 3), ("doorbell", 0), ("attic", 9)] {
            events.insert((room, number), "rang")?;
        }
        Ok::<_, Error>(())
    })
    .unwrap();
    db
}

fn types() -> (TypeDescriptor, TypeDescriptor) {
    (<(&str, i32)>::descriptor(), <&str>::descriptor())
}

#[test]
fn an_untyped_table_answers_what_the_typed_one_does() {
    let db = sample();
    let table = db.begin_read().unwrap().open_untyped_table("events").unwrap();
    assert_eq!((table.key_type().clone(), table.value_type().clone()), types());
    assert_eq!((table.name(), table.len().unwrap(), table.is_empty().unwrap()), ("events", 4, false));
    let key = |text| parse_key(table.key_type(), text).unwrap();
    let value = table.get(&key(r#"["door", -7]"#)).unwrap().unwrap();
    assert_eq!(render_value(table.value_type(), value.value()).as_deref(), Ok("\"rang\""));
    assert!(table.get(&key(r#"["door", 7]"#)).unwrap().is_none());
    assert!(table.get(b"no key at all").unwrap().is_none());

    let keys = |rows: cowslip::Range<'static, &'static [u8], &'static [u8]>| -> Vec<String> {
        rows.map(|row| render_key(table.key_type(), row.unwrap().0.value()).unwrap()).collect()
    };
    let all = [r#"("attic", 9)"#, r#"("door", -7)"#, r#"("door", 3)"#, r#"("doorbell", 0)"#];
    assert_eq!(keys(table.iter().unwrap()), all);
    let (low, high) = (key(r#"["door", -7]"#), key(r#"["doorbell", 0]"#));
    assert_eq!(keys(table.range(&low[..]..&high[..]).unwrap()), all[1..3]);
    assert_eq!(keys(table.prefix(&parse_prefix(table.key_type(), r#"["door"]"#).unwrap()).unwrap()), all[1..3]);
    let mut ends = table.range(..).unwrap();
    let last = ends.next_back().unwrap().unwrap().0;
    assert_eq!(render_key(table.key_type(), last.value()).as_deref(), Ok(all[3]));
    assert_eq!(keys(ends), all[..3]);
}

#[test]
fn an_untyped_table_keeps_its_snapshot() {
    let db = sample();
    let table = db.begin_read().unwrap().open_untyped_table("events").unwrap();
    db.update(|tx| tx.delete_table(EVENTS).map_err(Error::from)).unwrap();
    assert_eq!(table.iter().unwrap().count(), 4);
    assert!(matches!(db.begin_read().unwrap().open_untyped_table("events"), Err(TableError::DoesNotExist(_))));
}

#[test]
fn untyped_changes_are_seen_by_typed_readers() {
    let db = sample();
    let (key_type, value_type) = types();
    let key = parse_key(&key_type, r#"["cellar", -1]"#).unwrap();
    let value = parse_value(&value_type, "flooded").unwrap();
    db.update(|tx| {
        let mut table = tx.open_untyped_table("events", &key_type, &value_type)?;
        assert!(table.insert(&key, &value)?.is_none());
        assert_eq!(table.insert(&key, &value)?.map(|old| old.value().to_vec()), Some(value.clone()));
        assert_eq!(table.get(&key)?.map(|found| found.value().to_vec()), Some(value.clone()));
        let gone = parse_key(&key_type, r#"["attic", 9]"#).unwrap();
        assert!(table.remove(&gone)?.is_some());
        assert!(table.remove(&gone)?.is_none());
        assert_eq!(table.len()?, 4);
        Ok::<_, Error>(())
    })
    .unwrap();
    let events = db.begin_read().unwrap().open_table(EVENTS).unwrap();
    assert_eq!(events.get(("cellar", -1)).unwrap().unwrap().value(), "flooded");
    assert!(events.get(("attic", 9)).unwrap().is_none());
    assert_sound(&db);
}

#[test]
fn a_table_made_without_types_is_the_typed_one() {
    let db = tiny().in_memory().unwrap();
    let (key_type, value_type) = types();
    db.update(|tx| tx.open_untyped_table("events", &key_type, &value_type).map(|_| ()).map_err(Error::from)).unwrap();
    assert!(db.begin_read().unwrap().open_table(EVENTS).unwrap().is_empty().unwrap());
    let tx = db.begin_write().unwrap();
    let mismatch = tx.open_untyped_table("events", &value_type, &value_type);
    assert!(matches!(mismatch, Err(TableError::TypeMismatch(_))));
    for (name, key_type) in [("", &value_type), ("empty", &TypeDescriptor::Tuple(Vec::new()))] {
        let refused = tx.open_untyped_table(name, key_type, &value_type);
        assert!(matches!(refused, Err(TableError::InvalidDefinition(_))));
    }
}

#[test]
fn bytes_of_another_type_change_nothing_and_the_transaction_goes_on() {
    let db = sample();
    let (key_type, value_type) = types();
    let tx = db.begin_write().unwrap();
    let mut table = tx.open_untyped_table("events", &key_type, &value_type).unwrap();
    let good = parse_key(&key_type, r#"["new", 1]"#).unwrap();
    for key in [&b""[..], b"new", b"new\0\0\0\0", b"\xFF\0\0\x80\0\0\x01", &[&good[..], b"x"].concat()] {
        assert!(matches!(table.insert(key, b"rang"), Err(UntypedError::InvalidKey(_))), "{key:?}");
        assert!(matches!(table.remove(key), Err(UntypedError::InvalidKey(_))), "{key:?}");
    }
    assert!(matches!(table.insert(&good, b"\xFF"), Err(UntypedError::InvalidValue(_))));
    let long = parse_key(&key_type, &format!("[\"{}\", 1]", "n".repeat(70_000))).unwrap();
    let refused = table.insert(&long, b"rang");
    assert!(matches!(refused, Err(UntypedError::Storage(StorageError::KeyTooLarge { .. }))));
    assert_eq!(table.len().unwrap(), 4);
    table.insert(&good, b"rang").unwrap();
    drop(table);
    tx.commit().unwrap();
    assert_eq!(db.begin_read().unwrap().open_table(EVENTS).unwrap().get(("new", 1)).unwrap().unwrap().value(), "rang");
}
