//! Commands that read and change rows, by the types that the file stores.

use crate::failure::Failure;
use crate::look::{open, warn};
use crate::output::{Field, Printer};
use crate::{Place, Selection, Types};
use cowslip::{
    Builder, Database, StorageError, TableError, TypeDescriptor, UntypedTable, parse_key, parse_prefix, parse_value,
    render_key, render_key_json, render_value, render_value_json,
};
use std::io::Write;
use std::ops::Bound;

/// Opens a file to change it, which recovers it where the last session did not close.
fn open_to_write(place: &Place) -> Result<Database, Failure> {
    let database = Builder::new().open(&place.file)?;
    warn(&database);
    Ok(database)
}

fn encode_key(key_type: &TypeDescriptor, key: &str) -> Result<Vec<u8>, Failure> {
    parse_key(key_type, key).map_err(|error| Failure::Argument("key", error))
}

fn no_such_key(place: &Place, key: &str) -> Failure {
    Failure::NotFound(format!("table {:?} has no key {key}", place.table))
}

/// The JSON of an ordered key; bytes that are no key are damage.
fn key_json(key_type: &TypeDescriptor, key: &[u8]) -> Result<Field, Failure> {
    Ok(Field::Json(render_key_json(key_type, key).map_err(StorageError::from)?))
}

fn value_json(value_type: &TypeDescriptor, value: &[u8]) -> Result<Field, Failure> {
    Ok(Field::Json(render_value_json(value_type, value).map_err(StorageError::from)?))
}

/// Prints the value of a key.
pub(crate) fn get(place: &Place, key: &str, out: &mut Printer<impl Write>) -> Result<(), Failure> {
    let database = open(&place.file)?;
    warn(&database);
    let table = database.begin_read()?.open_untyped_table(&place.table)?;
    let bytes = encode_key(table.key_type(), key)?;
    let value = table.get(&bytes)?.ok_or_else(|| no_such_key(place, key))?;
    if out.is_json() {
        return print_object(&table, &bytes, value.value(), out);
    }
    out.line(render_value(table.value_type(), value.value()).map_err(StorageError::from)?)?;
    Ok(())
}

fn print_object(table: &UntypedTable, key: &[u8], value: &[u8], out: &mut Printer<impl Write>) -> Result<(), Failure> {
    let (key, value) = (key_json(table.key_type(), key)?, value_json(table.value_type(), value)?);
    Ok(out.object(&[("key", key), ("value", value)])?)
}

/// Prints rows in order.
pub(crate) fn scan(place: &Place, selection: &Selection, out: &mut Printer<impl Write>) -> Result<(), Failure> {
    let database = open(&place.file)?;
    warn(&database);
    let table = database.begin_read()?.open_untyped_table(&place.table)?;
    let rows = if let Some(prefix) = &selection.prefix {
        let prefix = parse_prefix(table.key_type(), prefix).map_err(|error| Failure::Argument("prefix", error))?;
        table.prefix(&prefix)?
    } else {
        let encode = |key: &Option<String>| key.as_ref().map(|key| encode_key(table.key_type(), key)).transpose();
        let (from, to) = (encode(&selection.from)?, encode(&selection.to)?);
        let start = from.as_deref().map_or(Bound::Unbounded, Bound::Included);
        let end = to.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        table.range((start, end))?
    };
    let limit = selection.limit.unwrap_or(usize::MAX);
    if selection.rev {
        print_rows(&table, rows.rev().take(limit), out)
    } else {
        print_rows(&table, rows.take(limit), out)
    }
}

type Guard = cowslip::AccessGuard<'static, &'static [u8]>;

fn print_rows(
    table: &UntypedTable,
    rows: impl Iterator<Item = Result<(Guard, Guard), StorageError>>,
    out: &mut Printer<impl Write>,
) -> Result<(), Failure> {
    for row in rows {
        let (key, value) = row?;
        if out.is_json() {
            print_object(table, key.value(), value.value(), out)?;
            continue;
        }
        let key = render_key(table.key_type(), key.value()).map_err(StorageError::from)?;
        let value = render_value(table.value_type(), value.value()).map_err(StorageError::from)?;
        out.line(format_args!("{key}\t{value}"))?;
    }
    Ok(())
}

/// The types that the file stores beside a table, where it has the table.
fn stored_types(database: &Database, place: &Place) -> Result<Option<Types>, Failure> {
    match database.begin_read()?.open_untyped_table(&place.table) {
        Ok(table) => Ok(Some(Types { key: table.key_type().clone(), value: table.value_type().clone() })),
        Err(TableError::DoesNotExist(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Sets the value of a key.
pub(crate) fn put(
    place: &Place,
    key: &str,
    value: &str,
    types: Option<&Types>,
    out: &mut Printer<impl Write>,
) -> Result<(), Failure> {
    let database = open_to_write(place)?;
    // Nobody can create the table meanwhile, because the file is locked.
    let stored = stored_types(&database, place)?;
    let types = types.or(stored.as_ref()).ok_or_else(|| {
        Failure::NotFound(format!("table {:?} does not exist; --types KEY,VALUE creates it", place.table))
    })?;
    let key = encode_key(&types.key, key)?;
    let value = parse_value(&types.value, value).map_err(|error| Failure::Argument("value", error))?;
    let transaction = database.begin_write()?;
    let mut table = transaction.open_untyped_table(&place.table, &types.key, &types.value)?;
    let replaced = table.insert(&key, &value)?.is_some();
    drop(table);
    transaction.commit()?;
    database.close()?;
    out.object(&[("key", key_json(&types.key, &key)?), ("replaced", Field::Bool(replaced))])?;
    Ok(())
}

/// Removes a key.
pub(crate) fn del(place: &Place, key: &str, out: &mut Printer<impl Write>) -> Result<(), Failure> {
    let database = open_to_write(place)?;
    let types = stored_types(&database, place)?
        .ok_or_else(|| Failure::from(TableError::DoesNotExist(place.table.as_str().into())))?;
    let bytes = encode_key(&types.key, key)?;
    let transaction = database.begin_write()?;
    let mut table = transaction.open_untyped_table(&place.table, &types.key, &types.value)?;
    if table.remove(&bytes)?.is_none() {
        return Err(no_such_key(place, key));
    }
    drop(table);
    transaction.commit()?;
    database.close()?;
    out.object(&[("key", key_json(&types.key, &bytes)?), ("removed", Field::Bool(true))])?;
    Ok(())
}
