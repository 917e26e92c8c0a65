//! Tables of every type behind one face, so that an operation is written once for all of them.
//!
//! Invariant: what comes out of the store is turned into the model's own types before anything is compared.

use super::data::{AnyKey, AnyValue, Kind};
use cowslip::{
    Key, PrefixKey, Range, ReadOnlyTable, ReadTransaction, Row, StorageError, Table, TableDefinition, TableError,
    Value, WriteTransaction,
};
use std::ops::Bound;

/// The rows to visit.
#[derive(Debug, Clone)]
pub(super) enum Span {
    All,
    Between(Bound<AnyKey>, Bound<AnyKey>),
    Prefix(AnyKey),
}

pub(super) type AnyRow = (AnyKey, AnyValue);

/// Rows from both ends.
pub(super) type AnyRows<'t> = Box<dyn DoubleEndedIterator<Item = Result<AnyRow, StorageError>> + 't>;

/// A key type that the model knows.
trait ModelKey: Key + Sized + 'static {
    fn lend(key: &AnyKey) -> Self::SelfType<'_>;
    fn own(key: &Self::SelfType<'_>) -> AnyKey;

    fn prefix_of_writer<'t, V: Value + 'static>(
        _: &'t Table<'_, Self, V>,
        prefix: &AnyKey,
    ) -> Result<Range<'t, Self, V>, StorageError> {
        unreachable!("keys like {prefix:?} have no prefixes")
    }

    fn prefix_of_reader<V: Value + 'static>(
        _: &ReadOnlyTable<Self, V>,
        prefix: &AnyKey,
    ) -> Result<Range<'static, Self, V>, StorageError> {
        unreachable!("keys like {prefix:?} have no prefixes")
    }

    fn remove_prefix<V: Value + 'static>(_: &mut Table<'_, Self, V>, prefix: &AnyKey) -> Result<u64, StorageError> {
        unreachable!("keys like {prefix:?} have no prefixes")
    }
}

/// Implements the model's face of a key type: its variant, how it is lent and owned, and its prefix, if it has one.
macro_rules! model_key {
    ($type:ty, $pattern:pat => $lent:expr, $view:ident => $owned:expr $(, $prefix_pattern:pat => $prefix:expr)?) => {
        impl ModelKey for $type {
            fn lend(key: &AnyKey) -> Self::SelfType<'_> {
                match key {
                    $pattern => $lent,
                    other => unreachable!("{other:?} is of another table"),
                }
            }

            fn own($view: &Self::SelfType<'_>) -> AnyKey {
                $owned
            }

            $(
                fn prefix_of_writer<'t, V: Value + 'static>(
                    table: &'t Table<'_, Self, V>,
                    prefix: &AnyKey,
                ) -> Result<Range<'t, Self, V>, StorageError> {
                    match prefix {
                        $prefix_pattern => {
                            let prefix: <Self as PrefixKey>::Prefix<'_> = $prefix;
                            table.prefix(prefix)
                        }
                        other => unreachable!("{other:?} is of another table"),
                    }
                }

                fn prefix_of_reader<V: Value + 'static>(
                    table: &ReadOnlyTable<Self, V>,
                    prefix: &AnyKey,
                ) -> Result<Range<'static, Self, V>, StorageError> {
                    match prefix {
                        $prefix_pattern => {
                            let prefix: <Self as PrefixKey>::Prefix<'_> = $prefix;
                            table.prefix(prefix)
                        }
                        other => unreachable!("{other:?} is of another table"),
                    }
                }

                fn remove_prefix<V: Value + 'static>(
                    table: &mut Table<'_, Self, V>,
                    prefix: &AnyKey,
                ) -> Result<u64, StorageError> {
                    match prefix {
                        $prefix_pattern => {
                            let prefix: <Self as PrefixKey>::Prefix<'_> = $prefix;
                            table.remove_prefix(prefix)
                        }
                        other => unreachable!("{other:?} is of another table"),
                    }
                }
            )?
        }
    };
}

model_key!(u64, AnyKey::U64(key) => *key, view => AnyKey::U64(*view));
model_key!(&'static str, AnyKey::Text(key) => key, view => AnyKey::Text((*view).into()), AnyKey::Text(key) => key);
model_key!(&'static [u8], AnyKey::Bytes(key) => key, view => AnyKey::Bytes((*view).into()), AnyKey::Bytes(key) => key);
model_key!((u32, &'static str), AnyKey::Pair(first, second) => (*first, second),
    view => AnyKey::Pair(view.0, view.1.into()), AnyKey::Pair(first, _) => *first);
model_key!(([u8; 16], i64), AnyKey::Stamp(first, second) => (*first, *second),
    view => AnyKey::Stamp(view.0, view.1), AnyKey::Stamp(first, _) => *first);
model_key!(i32, AnyKey::I32(key) => *key, view => AnyKey::I32(*view));
model_key!(u128, AnyKey::U128(key) => *key, view => AnyKey::U128(*view));
model_key!((), AnyKey::Unit => (), _view => AnyKey::Unit);

/// A value type that the model knows.
trait ModelValue: Value + Sized + 'static {
    fn lend(value: &AnyValue) -> Self::SelfType<'_>;
    fn own(value: &Self::SelfType<'_>) -> AnyValue;

    /// These bytes as a value, where bytes are one.
    fn of_bytes(_: &[u8]) -> Option<Self::SelfType<'_>> {
        None
    }
}

macro_rules! model_value {
    ($type:ty, $pattern:pat => $lent:expr, $view:ident => $owned:expr $(, $bytes:ident => $value:expr)?) => {
        impl ModelValue for $type {
            fn lend(value: &AnyValue) -> Self::SelfType<'_> {
                match value {
                    $pattern => $lent,
                    other => unreachable!("{other:?} is of another table"),
                }
            }

            fn own($view: &Self::SelfType<'_>) -> AnyValue {
                $owned
            }

            $(
                fn of_bytes($bytes: &[u8]) -> Option<Self::SelfType<'_>> {
                    Some($value)
                }
            )?
        }
    };
}

model_value!(u64, AnyValue::U64(value) => *value, view => AnyValue::U64(*view));
model_value!(&'static [u8], AnyValue::Bytes(value) => value, view => AnyValue::Bytes((*view).into()), bytes => bytes);
model_value!(&'static str, AnyValue::Text(value) => value, view => AnyValue::Text((*view).into()));
model_value!((u64, &'static [u8]), AnyValue::Counted(count, bytes) => (*count, bytes),
    view => AnyValue::Counted(view.0, view.1.into()));
model_value!((), AnyValue::Unit => (), _view => AnyValue::Unit);
model_value!([u8; 24], AnyValue::Array(value) => *value, view => AnyValue::Array(*view));

/// Runs the body with the key and value type of a kind.
macro_rules! with_types {
    ($kind:expr, $key:ident, $value:ident, $body:expr) => {
        with_types!(@ $kind, $key, $value, $body,
            NumberToBytes u64, &'static [u8]; TextToNumber &'static str, u64; BytesToText &'static [u8], &'static str;
            PairToCounted (u32, &'static str), (u64, &'static [u8]); StampToUnit ([u8; 16], i64), ();
            SignedToArray i32, [u8; 24]; WideToBytes u128, &'static [u8]; UnitToText (), &'static str;
            TextToBytes &'static str, &'static [u8])
    };
    (@ $kind:expr, $key:ident, $value:ident, $body:expr, $($name:ident $k:ty, $v:ty);*) => {
        match $kind {
            $(Kind::$name => {
                type $key = $k;
                type $value = $v;
                $body
            })*
        }
    };
}

/// A table that can be read.
pub(super) trait Readable {
    fn get(&self, key: &AnyKey) -> Result<Option<AnyValue>, StorageError>;
    fn rows(&self, span: &Span) -> Result<AnyRows<'_>, StorageError>;
    fn first(&self) -> Result<Option<AnyRow>, StorageError>;
    fn last(&self) -> Result<Option<AnyRow>, StorageError>;
    fn len(&self) -> Result<u64, StorageError>;
    fn is_empty(&self) -> Result<bool, StorageError>;
}

/// Says of a row whether it is picked.
pub(super) type Predicate<'p> = &'p mut dyn FnMut(&AnyKey, &AnyValue) -> bool;

/// A table that can be changed.
pub(super) trait Writable: Readable {
    fn insert(&mut self, key: &AnyKey, value: &AnyValue) -> Result<Option<AnyValue>, StorageError>;
    fn remove(&mut self, key: &AnyKey) -> Result<Option<AnyValue>, StorageError>;
    fn put(&mut self, key: &AnyKey, value: &AnyValue) -> Result<(), StorageError>;
    fn delete(&mut self, key: &AnyKey) -> Result<(), StorageError>;
    /// Inserts bytes that the model does not keep; `None` where values are not bytes.
    fn insert_bytes(&mut self, key: &AnyKey, bytes: &[u8]) -> Option<Result<(), StorageError>>;
    fn put_many(&mut self, rows: &[AnyRow]) -> Result<(), StorageError>;
    fn bulk_load(&mut self, rows: &[AnyRow]) -> Result<u64, StorageError>;
    /// By range or prefix.
    fn remove_span(&mut self, span: &Span) -> Result<u64, StorageError>;
    /// In a range or everywhere.
    fn retain_span(&mut self, span: &Span, stays: Predicate<'_>) -> Result<u64, StorageError>;
    /// In a range or everywhere.
    fn extract<'p>(&'p mut self, span: &Span, picks: Predicate<'p>) -> Result<AnyRows<'p>, StorageError>;
    fn pop(&mut self, first: bool) -> Result<Option<AnyRow>, StorageError>;
}

fn lend_bound<K: ModelKey>(bound: &Bound<AnyKey>) -> Bound<K::SelfType<'_>> {
    bound.as_ref().map(K::lend)
}

fn own_row<K: ModelKey, V: ModelValue>((key, value): Row<'_, K, V>) -> AnyRow {
    (K::own(&key.value()), V::own(&value.value()))
}

fn own_rows<'t, 'r: 't, K: ModelKey, V: ModelValue>(
    rows: impl DoubleEndedIterator<Item = Result<Row<'r, K, V>, StorageError>> + 't,
) -> AnyRows<'t> {
    Box::new(rows.map(|row| row.map(own_row)))
}

fn lend_rows<K: ModelKey, V: ModelValue>(rows: &[AnyRow]) -> impl Iterator<Item = (K::SelfType<'_>, V::SelfType<'_>)> {
    rows.iter().map(|(key, value)| (K::lend(key), V::lend(value)))
}

macro_rules! readable {
    ([$($lifetime:tt)*] $table:ty, $prefix:ident) => {
        impl<$($lifetime)* K: ModelKey, V: ModelValue> Readable for $table {
            fn get(&self, key: &AnyKey) -> Result<Option<AnyValue>, StorageError> {
                Ok(<$table>::get(self, K::lend(key))?.map(|value| V::own(&value.value())))
            }

            fn rows(&self, span: &Span) -> Result<AnyRows<'_>, StorageError> {
                Ok(own_rows(match span {
                    Span::All => self.iter()?,
                    Span::Between(start, end) => {
                        self.range::<K::SelfType<'_>>((lend_bound::<K>(start), lend_bound::<K>(end)))?
                    }
                    Span::Prefix(prefix) => K::$prefix(self, prefix)?,
                }))
            }

            fn first(&self) -> Result<Option<AnyRow>, StorageError> {
                Ok(<$table>::first(self)?.map(own_row))
            }

            fn last(&self) -> Result<Option<AnyRow>, StorageError> {
                Ok(<$table>::last(self)?.map(own_row))
            }

            fn len(&self) -> Result<u64, StorageError> {
                <$table>::len(self)
            }

            fn is_empty(&self) -> Result<bool, StorageError> {
                <$table>::is_empty(self)
            }
        }
    };
}

readable!(['t,] Table<'t, K, V>, prefix_of_writer);
readable!([] ReadOnlyTable<K, V>, prefix_of_reader);

impl<K: ModelKey, V: ModelValue> Writable for Table<'_, K, V> {
    fn insert(&mut self, key: &AnyKey, value: &AnyValue) -> Result<Option<AnyValue>, StorageError> {
        Ok(Table::insert(self, K::lend(key), V::lend(value))?.map(|old| V::own(&old.value())))
    }

    fn remove(&mut self, key: &AnyKey) -> Result<Option<AnyValue>, StorageError> {
        Ok(Table::remove(self, K::lend(key))?.map(|old| V::own(&old.value())))
    }

    fn put(&mut self, key: &AnyKey, value: &AnyValue) -> Result<(), StorageError> {
        Table::put(self, K::lend(key), V::lend(value))
    }

    fn delete(&mut self, key: &AnyKey) -> Result<(), StorageError> {
        Table::delete(self, K::lend(key))
    }

    fn insert_bytes(&mut self, key: &AnyKey, bytes: &[u8]) -> Option<Result<(), StorageError>> {
        let value = V::of_bytes(bytes)?;
        Some(Table::insert(self, K::lend(key), value).map(|_| ()))
    }

    fn put_many(&mut self, rows: &[AnyRow]) -> Result<(), StorageError> {
        Table::put_many(self, lend_rows::<K, V>(rows))
    }

    fn bulk_load(&mut self, rows: &[AnyRow]) -> Result<u64, StorageError> {
        Table::bulk_load(self, lend_rows::<K, V>(rows))
    }

    fn remove_span(&mut self, span: &Span) -> Result<u64, StorageError> {
        match span {
            Span::All => self.remove_range::<K::SelfType<'_>>(..),
            Span::Between(start, end) => {
                self.remove_range::<K::SelfType<'_>>((lend_bound::<K>(start), lend_bound::<K>(end)))
            }
            Span::Prefix(prefix) => K::remove_prefix(self, prefix),
        }
    }

    fn retain_span(&mut self, span: &Span, stays: Predicate<'_>) -> Result<u64, StorageError> {
        match span {
            Span::All => self.retain(|key, value| stays(&K::own(&key), &V::own(&value))),
            Span::Between(start, end) => self
                .retain_in::<K::SelfType<'_>, _>((lend_bound::<K>(start), lend_bound::<K>(end)), |key, value| {
                    stays(&K::own(&key), &V::own(&value))
                }),
            Span::Prefix(prefix) => unreachable!("no verb retains below {prefix:?}"),
        }
    }

    fn extract<'p>(&'p mut self, span: &Span, picks: Predicate<'p>) -> Result<AnyRows<'p>, StorageError> {
        let picks = |key: K::SelfType<'_>, value: V::SelfType<'_>| picks(&K::own(&key), &V::own(&value));
        Ok(match span {
            Span::All => own_rows(self.extract_if(picks)?),
            Span::Between(start, end) => own_rows(
                self.extract_from_if::<K::SelfType<'_>, _>((lend_bound::<K>(start), lend_bound::<K>(end)), picks)?,
            ),
            Span::Prefix(prefix) => unreachable!("no verb extracts below {prefix:?}"),
        })
    }

    fn pop(&mut self, first: bool) -> Result<Option<AnyRow>, StorageError> {
        Ok(if first { self.pop_first()? } else { self.pop_last()? }.map(own_row))
    }
}

/// Opens a table of the writer, with the types of `kind`.
pub(super) fn open_writable<'t>(
    transaction: &'t WriteTransaction,
    name: &str,
    kind: Kind,
) -> Result<Box<dyn Writable + 't>, TableError> {
    with_types!(kind, K, V, Ok(Box::new(transaction.open_table(TableDefinition::<K, V>::new(name))?)))
}

/// Opens a table of a snapshot; with `or_empty`, one that does not exist as an empty one.
pub(super) fn open_readable(
    transaction: &ReadTransaction,
    name: &str,
    kind: Kind,
    or_empty: bool,
) -> Result<Box<dyn Readable>, TableError> {
    with_types!(kind, K, V, {
        let definition = TableDefinition::<K, V>::new(name);
        Ok(Box::new(if or_empty {
            transaction.open_table_or_empty(definition)?
        } else {
            transaction.open_table(definition)?
        }))
    })
}

/// Renames through definitions, whose types do not matter.
pub(super) fn rename(transaction: &WriteTransaction, old: &str, new: &str) -> Result<(), TableError> {
    transaction.rename_table(TableDefinition::<u64, ()>::new(old), TableDefinition::<(), u64>::new(new))
}

/// Deletes through a definition, whose types do not matter.
pub(super) fn delete(transaction: &WriteTransaction, name: &str) -> Result<bool, TableError> {
    transaction.delete_table(TableDefinition::<(), ()>::new(name))
}
