//! The two stores behind one trait. Their interfaces have the same names, so one text serves both.
//!
//! What the text cannot express for both stands in front of it in the module of each store.

/// Everything of a store that is spelled alike.
macro_rules! store {
    ($store:ident, $engine:ident) => {
        use crate::Result;
        use crate::operation::{Answer, Key, KeyKind, Operation, Question, Row, Store, View};
        use std::ops::Bound;
        use std::path::{Path, PathBuf};
        use $engine::{Database, ReadTransaction, TableDefinition, TableHandle, Value, WriteTransaction};

        /// An open database with the transactions of the stream.
        pub(crate) struct $store {
            path: PathBuf,
            writer: Option<WriteTransaction>,
            held: Option<ReadTransaction>,
            /// `None` only while it is reopened.
            database: Option<Database>,
        }

        /// How keys of one kind are told to the store and taken from it.
        trait Keys {
            type Marker: $engine::Key + 'static;

            fn lend(key: &Key) -> <Self::Marker as Value>::SelfType<'_>;

            fn own(key: <Self::Marker as Value>::SelfType<'_>) -> Key;
        }

        struct BytesKeys;

        impl Keys for BytesKeys {
            type Marker = &'static [u8];

            fn lend(key: &Key) -> &[u8] {
                let Key::Bytes(bytes) = key else { unreachable!("the kind of the key was matched") };
                bytes
            }

            fn own(key: &[u8]) -> Key {
                Key::Bytes(key.to_vec())
            }
        }

        struct SignedKeys;

        impl Keys for SignedKeys {
            type Marker = i64;

            fn lend(key: &Key) -> i64 {
                let Key::Signed(number) = key else { unreachable!("the kind of the key was matched") };
                *number
            }

            fn own(key: i64) -> Key {
                Key::Signed(key)
            }
        }

        struct PairKeys;

        impl Keys for PairKeys {
            type Marker = (&'static str, u64);

            fn lend(key: &Key) -> (&str, u64) {
                let Key::Pair(text, number) = key else { unreachable!("the kind of the key was matched") };
                (text, *number)
            }

            fn own((text, number): (&str, u64)) -> Key {
                Key::Pair(text.to_owned(), number)
            }
        }

        fn definition<K: Keys>(table: &str) -> TableDefinition<'_, K::Marker, &'static [u8]> {
            TableDefinition::new(table)
        }

        fn bound<K: Keys>(bound: &Bound<Key>) -> Bound<<K::Marker as Value>::SelfType<'_>> {
            bound.as_ref().map(|key| K::lend(key))
        }

        /// The table, or the answer that says why it could not be opened.
        macro_rules! opened {
            ($table:expr) => {
                match $table {
                    Ok(table) => table,
                    Err(error) => return refuse(error).map(Answer::Refused),
                }
            };
        }

        /// Answers a question about a table, whichever kind of handle it is.
        macro_rules! answer {
            ($keys:ident, $table:expr, $question:expr) => {{
                let table = $table;
                let row = |(key, value): (_, $engine::AccessGuard<'_, &'static [u8]>)| -> Row {
                    let key: $engine::AccessGuard<'_, $keys::Marker> = key;
                    ($keys::own(key.value()), value.value().to_vec())
                };
                match $question {
                    Question::Get(key) => Answer::Value(table.get($keys::lend(key))?.map(|v| v.value().to_vec())),
                    Question::Range { from, to, backwards, rows_max } => {
                        let mut range = table.range((bound::<$keys>(from), bound::<$keys>(to)))?;
                        let mut rows = Vec::new();
                        while rows.len() < *rows_max {
                            let next = if *backwards { range.next_back() } else { range.next() };
                            let Some(found) = next else { break };
                            rows.push(row(found?));
                        }
                        Answer::Rows(rows)
                    }
                    Question::First => Answer::Rows(table.first()?.map(row).into_iter().collect()),
                    Question::Last => Answer::Rows(table.last()?.map(row).into_iter().collect()),
                    Question::Len => Answer::Count(table.len()?),
                }
            }};
        }

        impl $store {
            pub(crate) fn create(path: &Path) -> Result<Self> {
                let database = Some(Database::create(path)?);
                Ok(Self { path: path.to_owned(), writer: None, held: None, database })
            }

            fn database(&self) -> &Database {
                self.database.as_ref().expect("the database is open between operations")
            }

            fn writer(&mut self) -> Result<&WriteTransaction> {
                if self.writer.is_none() {
                    self.writer = Some(self.database().begin_write()?);
                }
                Ok(self.writer.as_ref().expect("the transaction was just begun"))
            }

            fn insert<K: Keys>(&mut self, table: &str, key: &Key, value: &[u8]) -> Result<Answer> {
                let writer = self.writer()?;
                let mut table = opened!(writer.open_table(definition::<K>(table)));
                let old = table.insert(K::lend(key), value)?.map(|old| old.value().to_vec());
                Ok(Answer::Value(old))
            }

            fn remove<K: Keys>(&mut self, table: &str, key: &Key) -> Result<Answer> {
                let writer = self.writer()?;
                let mut table = opened!(writer.open_table(definition::<K>(table)));
                let old = table.remove(K::lend(key))?.map(|old| old.value().to_vec());
                Ok(Answer::Value(old))
            }

            fn ask<K: Keys>(&mut self, view: View, table: &str, question: &Question) -> Result<Answer> {
                let definition = definition::<K>(table);
                if view == View::Writer {
                    let writer = self.writer()?;
                    let table = opened!(writer.open_table(definition));
                    return Ok(answer!(K, &table, question));
                }
                let fresh = self.fresh(view)?;
                let snapshot = fresh.as_ref().or(self.held.as_ref()).expect("a snapshot is held or fresh");
                let table = opened!(snapshot.open_table(definition));
                Ok(answer!(K, &table, question))
            }

            /// A snapshot of the newest commit, unless the held one answers.
            fn fresh(&self, view: View) -> Result<Option<ReadTransaction>> {
                let held = view == View::Held && self.held.is_some();
                Ok(if held { None } else { Some(self.database().begin_read()?) })
            }

            fn list(&mut self, view: View) -> Result<Answer> {
                let mut names: Vec<String> = if view == View::Writer {
                    self.writer()?.list_tables()?.map(|table| table.name().to_owned()).collect()
                } else {
                    let fresh = self.fresh(view)?;
                    let snapshot = fresh.as_ref().or(self.held.as_ref()).expect("a snapshot is held or fresh");
                    snapshot.list_tables()?.map(|table| table.name().to_owned()).collect()
                };
                // The order of a listing is not promised by either store.
                names.sort();
                Ok(Answer::Names(names))
            }

            fn delete(&mut self, table: &str) -> Result<Answer> {
                let handle = TableDefinition::<&[u8], &[u8]>::new(table);
                Ok(Answer::Existed(opened!(self.writer()?.delete_table(handle))))
            }

            fn rename(&mut self, old: &str, new: &str) -> Result<Answer> {
                let [old, new] = [old, new].map(TableDefinition::<&[u8], &[u8]>::new);
                opened!(self.writer()?.rename_table(old, new));
                Ok(Answer::Done)
            }

            fn end(&mut self, commit: bool) -> Result<Answer> {
                match self.writer.take() {
                    Some(writer) if commit => drop(writer.commit()?),
                    Some(writer) => writer.abort()?,
                    None => {}
                }
                Ok(Answer::Done)
            }

            fn reopen(&mut self) -> Result<Answer> {
                (self.writer, self.held) = (None, None);
                close(self.database.take().expect("the database is open between operations"))?;
                self.database = Some(Database::open(&self.path)?);
                Ok(Answer::Done)
            }
        }

        impl Store for $store {
            fn apply(&mut self, operation: &Operation) -> Result<Answer> {
                match operation {
                    Operation::Insert { table, key, value } => match key.kind() {
                        KeyKind::Bytes => self.insert::<BytesKeys>(table, key, value),
                        KeyKind::Signed => self.insert::<SignedKeys>(table, key, value),
                        KeyKind::Pair => self.insert::<PairKeys>(table, key, value),
                    },
                    Operation::Remove { table, key } => match key.kind() {
                        KeyKind::Bytes => self.remove::<BytesKeys>(table, key),
                        KeyKind::Signed => self.remove::<SignedKeys>(table, key),
                        KeyKind::Pair => self.remove::<PairKeys>(table, key),
                    },
                    Operation::Ask { view, table, kind, question } => match kind {
                        KeyKind::Bytes => self.ask::<BytesKeys>(*view, table, question),
                        KeyKind::Signed => self.ask::<SignedKeys>(*view, table, question),
                        KeyKind::Pair => self.ask::<PairKeys>(*view, table, question),
                    },
                    Operation::ListTables { view } => self.list(*view),
                    Operation::DeleteTable { table } => self.delete(table),
                    Operation::RenameTable { old, new } => self.rename(old, new),
                    Operation::Commit => self.end(true),
                    Operation::Abort => self.end(false),
                    Operation::Hold => {
                        self.held = Some(self.database().begin_read()?);
                        Ok(Answer::Done)
                    }
                    Operation::Reopen => self.reopen(),
                }
            }

            fn verify(&mut self) -> Result<()> {
                self.end(false)?;
                verify(self.database.as_mut().expect("the database is open between operations"))
            }
        }
    };
}

pub(crate) mod cowslip {
    //! Cowslip as a store of the comparison.

    use crate::operation::Refusal;
    use cowslip::TableError;

    store!(Cowslip, cowslip);

    fn refuse(error: TableError) -> Result<Refusal> {
        match error {
            TableError::TypeMismatch(_) => Ok(Refusal::TypeMismatch),
            TableError::DoesNotExist(_) => Ok(Refusal::DoesNotExist),
            TableError::Exists(_) => Ok(Refusal::Exists),
            other => Err(other.into()),
        }
    }

    fn close(database: Database) -> Result<()> {
        Ok(database.close()?)
    }

    fn verify(database: &mut Database) -> Result<()> {
        database.check_integrity()?;
        Ok(())
    }
}

pub(crate) mod redb {
    //! redb as a store of the comparison.

    use crate::operation::Refusal;
    use redb::{ReadableDatabase, ReadableTable, ReadableTableMetadata, TableError};

    store!(Redb, redb);

    fn refuse(error: TableError) -> Result<Refusal> {
        match error {
            TableError::TableTypeMismatch { .. } => Ok(Refusal::TypeMismatch),
            TableError::TableDoesNotExist(_) => Ok(Refusal::DoesNotExist),
            TableError::TableExists(_) => Ok(Refusal::Exists),
            other => Err(other.into()),
        }
    }

    /// Closes when it is dropped.
    fn close(database: Database) -> Result<()> {
        drop(database);
        Ok(())
    }

    fn verify(database: &mut Database) -> Result<()> {
        if database.check_integrity()? { Ok(()) } else { Err("redb found damage in its file".into()) }
    }
}
