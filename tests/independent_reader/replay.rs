//! Copies of open databases: slot and log together give what the last acknowledged commit left.
//!
//! Follows design.md, "Redo log" and "Logged commit". The crate opens each copy as well, and must find the same rows.

use super::blocks::{Note, Opened};
use super::bytes::Result;
use super::catalog::{Contents, read};
use super::log::{Log, Rows};
use super::tree::RunKind;
use super::types::Datum;
use cowslip::{
    Builder, Database, DatabaseError, Error, MemoryStorage, Storage, TableDefinition, TableHandle, WriteMode,
    WriteTransaction,
};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::IoSlice;
use std::path::PathBuf;

/// The rows of all tables.
pub(crate) type State = BTreeMap<String, Vec<(Datum, Datum)>>;

pub(crate) type Bytes = TableDefinition<'static, &'static [u8], &'static [u8]>;

pub(crate) fn table(name: &'static str) -> Bytes {
    TableDefinition::new(name)
}

/// Sorted by value and key alike, with a key that is not stored as its value would be.
const NUMBERS: TableDefinition<i64, u64> = TableDefinition::new("numbers");

/// What this reader finds in the bytes of a file.
pub(crate) fn own_state(bytes: &[u8]) -> Result<(State, Contents)> {
    let mut contents = read(&Opened::new(bytes.to_vec())?)?;
    let tables = contents.tables.iter_mut();
    let state = tables.map(|(name, table)| (name.clone(), std::mem::take(&mut table.rows))).collect();
    Ok((state, contents))
}

/// Not a file: opening one drops what the system has cached of it, thousands of times here.
pub(crate) fn in_memory(bytes: &[u8]) -> MemoryStorage {
    let storage = MemoryStorage::new();
    storage.write_at(0, &[IoSlice::new(bytes)], WriteMode::Plain).unwrap();
    storage
}

/// The stored rows of all tables, as an open database shows them.
fn stored_rows(db: &Database) -> std::result::Result<BTreeMap<String, Rows>, Error> {
    let mut state = BTreeMap::new();
    let tx = db.begin_read()?;
    for handle in tx.list_tables()? {
        let table = tx.open_untyped_table(handle.name())?;
        let rows = table.iter()?.map(|row| row.map(|(key, value)| (key.value().to_vec(), value.value().to_vec())));
        state.insert(handle.name().to_owned(), rows.collect::<std::result::Result<_, _>>()?);
    }
    Ok(state)
}

/// What this reader finds, if it refuses nothing; the crate, opening the bytes to read, must find the same or refuse too.
pub(crate) fn assert_reader_agrees(builder: &Builder, bytes: &[u8], what: &str) -> Option<State> {
    let own = own_state(bytes);
    assert_same(&own, builder.open_read_only_with_storage(in_memory(bytes)), what);
    own.ok().map(|(state, _)| state)
}

/// The same, opening the bytes to write as well.
pub(crate) fn assert_crate_agrees(builder: &Builder, bytes: &[u8], what: &str) -> Option<State> {
    let own = own_state(bytes);
    assert_same(&own, builder.open_with_storage(in_memory(bytes)), &format!("{what}, to write"));
    assert_reader_agrees(builder, bytes, what)
}

fn assert_same(own: &Result<(State, Contents)>, opened: std::result::Result<Database, DatabaseError>, what: &str) {
    match (own, opened) {
        (Ok((state, contents)), Ok(db)) => {
            db.check_integrity().unwrap();
            let decode = |(name, rows): (String, Rows)| {
                let table = &contents.tables[&name];
                let row = |(key, value): (Vec<u8>, Vec<u8>)| Ok((table.key.key(&key)?, table.value.value(&value)?));
                (name, rows.into_iter().map(row).collect::<Result<Vec<_>>>().unwrap())
            };
            let found: State = stored_rows(&db).unwrap().into_iter().map(decode).collect();
            assert!(found == *state, "{what}: the crate finds other rows");
        }
        (Err(_), Err(DatabaseError::Storage(_))) => {}
        (own, theirs) => panic!("{what}: {:?} and {theirs:?}", own.as_ref().map(|_| ())),
    }
}

/// The rows that should be there.
#[derive(Debug, Clone, Default)]
pub(crate) struct Model {
    bytes: BTreeMap<&'static str, Rows>,
    numbers: BTreeMap<i64, u64>,
}

impl Model {
    fn state(&self) -> State {
        let bytes = |bytes: &Vec<u8>| Datum::from(bytes.as_slice());
        let mut state: State = (self.bytes.iter())
            .map(|(name, rows)| {
                ((*name).to_owned(), rows.iter().map(|(key, value)| (bytes(key), bytes(value))).collect())
            })
            .collect();
        if !self.numbers.is_empty() {
            let rows = self.numbers.iter().map(|(key, value)| ((*key).into(), (*value).into()));
            state.insert("numbers".to_owned(), rows.collect());
        }
        state
    }
}

/// An open database, the rows that its last acknowledged commit left, and the way to a copy of its file.
pub(crate) struct Workbench {
    _folder: tempfile::TempDir,
    path: PathBuf,
    pub(crate) builder: Builder,
    pub(crate) db: Database,
    pub(crate) model: Model,
}

impl Workbench {
    /// Checkpoints are written by the commit after the one that they begin at: a copy that is taken while another thread
    /// writes one is a crash in the midst of it, and a different one each time.
    pub(crate) fn new(builder: Builder) -> Self {
        let builder = builder.test_checkpoint_lag(1);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("open.db");
        let db = builder.create(&path).unwrap();
        Self { _folder: folder, path, builder, db, model: Model::default() }
    }

    /// A file that has tables large enough for small commits to be logged.
    pub(crate) fn filled(builder: Builder) -> Self {
        let mut bench = Self::new(builder);
        bench.commit(|bench, tx| {
            for n in 0..400_u32 {
                bench.put(tx, "words", &n.to_be_bytes().repeat(3), &[7; 40]);
            }
            for n in 0..40_u8 {
                bench.put(tx, "long", &[vec![b'k'; 600], vec![n]].concat(), &[n; 20]);
            }
        });
        bench
    }

    pub(crate) fn put(&mut self, tx: &WriteTransaction, name: &'static str, key: &[u8], value: &[u8]) {
        tx.open_table(table(name)).unwrap().insert(key, value).unwrap();
        self.model.bytes.entry(name).or_default().insert(key.to_vec(), value.to_vec());
    }

    pub(crate) fn remove(&mut self, tx: &WriteTransaction, name: &'static str, key: &[u8]) {
        tx.open_table(table(name)).unwrap().remove(key).unwrap();
        self.model.bytes.entry(name).or_default().remove(key);
    }

    pub(crate) fn commit(&mut self, change: impl FnOnce(&mut Self, &WriteTransaction)) {
        let tx = self.db.begin_write().unwrap();
        change(self, &tx);
        tx.commit().unwrap();
    }

    /// A commit of one row.
    pub(crate) fn small(&mut self, n: u32) {
        self.commit(|bench, tx| bench.put(tx, "words", &n.to_be_bytes().repeat(3), &n.to_be_bytes()));
    }

    /// A commit under a slot, whatever it changed.
    pub(crate) fn direct(&mut self, n: u32) {
        let mut tx = self.db.begin_write().unwrap();
        tx.set_two_phase_commit(true);
        self.put(&tx, "words", &n.to_be_bytes().repeat(3), b"direct");
        tx.commit().unwrap();
    }

    /// The same for every table that small commits are laid over: the log goes on without a record that anybody needs.
    pub(crate) fn direct_for_all(&mut self, n: u32) {
        let mut tx = self.db.begin_write().unwrap();
        tx.set_two_phase_commit(true);
        self.put(&tx, "words", &n.to_be_bytes().repeat(3), b"direct");
        self.put(&tx, "long", b"direct", b"");
        tx.commit().unwrap();
    }

    pub(crate) fn copy(&self) -> Vec<u8> {
        fs::read(&self.path).unwrap()
    }

    pub(crate) fn state(&self) -> State {
        self.model.state()
    }

    /// Closes the database and opens it again.
    pub(crate) fn reopen(&mut self) {
        let db = std::mem::replace(&mut self.db, self.builder.in_memory().unwrap());
        db.close().unwrap();
        self.db = self.builder.open(&self.path).unwrap();
    }

    /// Opens a file of these bytes instead.
    pub(crate) fn restart(&mut self, bytes: &[u8]) {
        self.db = self.builder.in_memory().unwrap();
        fs::write(&self.path, bytes).unwrap();
        self.db = self.builder.open(&self.path).unwrap();
    }

    /// Requires that a copy holds what was acknowledged, and returns it.
    pub(crate) fn assert_copy(&self, what: &str) -> Vec<u8> {
        let bytes = self.copy();
        let found = assert_crate_agrees(&self.builder, &bytes, what);
        assert!(found == Some(self.state()), "{what}: a copy holds other rows than were acknowledged");
        bytes
    }
}

/// One of many sorts of commits.
pub(crate) fn step(bench: &mut Workbench, round: u32) {
    let n = round.wrapping_mul(2_654_435_761) >> 16;
    let key = (n % 500).to_be_bytes().repeat(3);
    let long = [vec![b'k'; 600], vec![(n % 60).to_le_bytes()[0]]].concat();
    bench.commit(|bench, tx| match round % 12 {
        0 => bench.remove(tx, "words", &key),
        1 => bench.put(tx, "long", &long, &n.to_be_bytes()),
        2 => bench.remove(tx, "long", &long),
        3 => {
            bench.put(tx, "words", &key, b"one of two tables");
            bench.put(tx, "long", &long, b"the other");
            bench.remove(tx, "words", &(n % 77).to_be_bytes().repeat(3));
            bench.put(tx, "words", &key, b"and once more");
        }
        4 => {
            tx.open_table(NUMBERS).unwrap().insert(i64::from(n) - 30_000, u64::from(round)).unwrap();
            bench.model.numbers.insert(i64::from(n) - 30_000, u64::from(round));
        }
        // More than a quarter of a node, so out of line, and yet in the record.
        5 if round % 24 == 5 => bench.put(tx, "words", &key, &vec![9; 2500]),
        6 if round % 36 == 6 => bench.put(tx, "words", &key, &vec![8; 70_000]),
        7 if round % 36 == 7 => {
            tx.delete_table(table("passing")).unwrap();
            bench.model.bytes.remove("passing");
            bench.put(tx, "passing", b"born again", b"");
        }
        8 => bench.put(tx, "passing", &key, &[]),
        _ => bench.put(tx, "words", &key, &n.to_be_bytes()),
    });
    if round % 17 == 16 {
        bench.direct(n % 500);
    }
}

fn assert_every_commit_is_in_a_copy(builder: Builder, rounds: u32) {
    let mut bench = Workbench::filled(builder);
    let (mut nonces, mut generations, mut records_max) = (BTreeSet::new(), BTreeSet::new(), 0);
    for round in 0..rounds {
        step(&mut bench, round);
        let bytes = bench.assert_copy(&format!("round {round}"));
        let opened = Opened::new(bytes.clone()).unwrap();
        let records = opened.log.as_ref().map_or(0, |log| log.transactions());
        nonces.extend(opened.slot.log.map(|log| log.nonce));
        generations.insert(opened.slot.generation);
        records_max = records_max.max(records);
        let contents = read(&opened).unwrap();
        assert_eq!(contents.notes, [Note::RecoveredAfterCrash]);
        assert_eq!(contents.runs.iter().any(|run| run.kind == RunKind::Log), opened.slot.log.is_some());
    }
    let rounds = usize::try_from(rounds).unwrap();
    assert!(records_max >= 3, "at most {records_max} records were in a log");
    assert!(nonces.len() >= 2, "there was only {} segment", nonces.len());
    assert!((3..rounds * 3 / 4).contains(&generations.len()), "{} of {rounds} commits are slots", generations.len());
    let (state, path) = (bench.state(), bench.path.clone());
    bench.db.close().unwrap();
    let bytes = fs::read(path).unwrap();
    assert!(Opened::new(bytes.clone()).unwrap().slot.log.is_none(), "a closed file names a log");
    assert!(own_state(&bytes).unwrap().0 == state, "closing changed rows");
}

#[test]
fn what_opening_makes_of_a_log_reads_back_from_the_file() {
    for builder in [Database::builder(), Database::builder().test_geometry(512, 512, 64)] {
        let mut bench = Workbench::filled(builder);
        let (mut replayed, mut continued) = (0, 0);
        for round in 0..40 {
            step(&mut bench, round);
            let before = Opened::new(bench.copy()).unwrap();
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("copy.db");
            fs::write(&path, &before.bytes).unwrap();
            let db = bench.builder.open(&path).unwrap();
            let copy = || Opened::new(fs::read(&path).unwrap()).unwrap();
            let (transaction, commit_time) = before.last_commit();
            // What the log tells stays there: slot and log serve as they are.
            assert!(copy().bytes == before.bytes, "round {round}: opening wrote something");
            let found = stored_rows(&db).unwrap();
            assert!(bench.model.bytes.iter().all(|(name, rows)| found[*name] == *rows), "round {round}");
            assert!(own_state(&before.bytes).unwrap().0 == bench.state(), "round {round}");
            let records = before.log.as_ref().map_or(0, Log::transactions);
            replayed += u32::from(records > 0);
            // The next session's commits are on top of it, with ids that no lost commit can have had.
            let mut model = bench.model.clone();
            for (commits, key) in [b"new".as_slice(), b"session"].into_iter().enumerate() {
                let tx = db.begin_write().unwrap();
                tx.open_table(table("words")).unwrap().insert(key, b"made".as_slice()).unwrap();
                tx.commit().unwrap();
                let after = copy();
                model.bytes.get_mut("words").unwrap().insert(key.to_vec(), b"made".to_vec());
                assert!(own_state(&after.bytes).unwrap().0 == model.state(), "round {round}");
                let (next, next_commit_time) = after.last_commit();
                assert_eq!(next, transaction + (1 << 24) + commits as u64);
                assert!(next_commit_time > commit_time);
                let Some(log) = after.log.filter(|_| after.slot == before.slot) else { continue };
                // The log goes on behind its last record.
                continued += u32::from(records > 0);
                assert_eq!(log.transactions(), records + 1 + commits, "round {round}");
                let groups = &before.log.as_ref().unwrap().groups;
                assert_eq!((&log.groups[..groups.len()], log.groups.len()), (&groups[..], groups.len() + 1 + commits));
            }
        }
        assert!((10..40).contains(&replayed), "{replayed} of 40 copies were replayed");
        assert!(continued >= 10, "the log went on in {continued} commits");
    }
}

#[test]
fn a_copy_of_an_open_database_holds_every_acknowledged_commit() {
    assert_every_commit_is_in_a_copy(Database::builder(), 150);
}

#[test]
fn a_copy_of_an_open_database_of_tiny_geometry_holds_every_acknowledged_commit() {
    assert_every_commit_is_in_a_copy(Database::builder().test_geometry(512, 512, 64), 150);
    assert_every_commit_is_in_a_copy(Database::builder().test_geometry(1024, 2048, 256), 150);
}

#[test]
fn each_sort_of_change_reads_back_from_a_record() {
    let tiny = Database::builder().test_geometry(512, 512, 64);
    for (builder, quarter_of_node, long_bytes) in [(Database::builder(), 2032, 600), (tiny, 112, 60)] {
        let mut bench = Workbench::filled(builder);
        let long = [vec![b'k'; long_bytes], vec![7]].concat();
        type Change<'c> = (&'c str, &'c dyn Fn(&mut Workbench, &WriteTransaction));
        let changes: [Change<'_>; 7] = [
            ("an empty value", &|bench, tx| bench.put(tx, "words", &[1; 12], &[])),
            ("a removal", &|bench, tx| bench.remove(tx, "words", &[1; 12])),
            ("a removal of nothing, and a row", &|bench, tx| {
                bench.remove(tx, "words", b"not there");
                bench.put(tx, "words", &[2; 12], &[2]);
            }),
            ("a value over a quarter of a node", &|bench, tx| {
                bench.put(tx, "words", &[3; 12], &vec![3; quarter_of_node + 10]);
            }),
            ("a long key", &|bench, tx| bench.put(tx, "long", &long, b"long")),
            ("a long key's removal", &|bench, tx| bench.remove(tx, "long", &long)),
            ("two tables, one key twice", &|bench, tx| {
                bench.put(tx, "words", &[4; 12], b"first");
                bench.put(tx, "long", b"short", b"");
                bench.put(tx, "words", &[4; 12], b"second");
            }),
        ];
        for (what, change) in changes {
            let records =
                |bench: &Workbench| Opened::new(bench.copy()).unwrap().log.map_or(0, |log| log.transactions());
            let generation = |bench: &Workbench| Opened::new(bench.copy()).unwrap().slot.generation;
            // A commit that fills the segment begins another one; then there is room.
            bench.direct(5);
            let slot = generation(&bench);
            bench.commit(change);
            if generation(&bench) != slot {
                bench.small(6);
                bench.commit(change);
            }
            assert!(records(&bench) > 0, "{what} is in no record");
            bench.assert_copy(what);
        }
    }
}

#[test]
fn a_file_without_records_reads_as_its_slot_says() {
    let mut bench = Workbench::filled(Database::builder());
    bench.assert_copy("no log");
    bench.small(1);
    let first = Opened::new(bench.assert_copy("a log is wanted")).unwrap();
    assert_eq!(first.log.map(|log| log.transactions()), Some(0));
    bench.direct(2);
    let second = Opened::new(bench.assert_copy("a log without records goes on")).unwrap();
    assert_eq!((second.slot.log, second.slot.generation), (first.slot.log, first.slot.generation + 1));
    bench.small(3);
    let third = Opened::new(bench.assert_copy("the first record")).unwrap();
    assert_eq!(third.slot, second.slot);
    assert_eq!(third.log.map(|log| log.transactions()), Some(1));
}

#[test]
fn records_of_a_name_are_not_those_of_the_table_that_takes_it_over() {
    for (deletes, creates) in [(false, false), (true, false), (true, true)] {
        let mut bench = Workbench::filled(Database::builder());
        bench.commit(|bench, tx| bench.put(tx, "passing", &[9; 12], b"the other table"));
        // A log is begun.
        bench.small(1);
        bench.direct_for_all(1);
        // Only the log tells of these.
        bench.commit(|bench, tx| {
            bench.put(tx, "words", &[1; 12], b"still in the log");
            bench.put(tx, "long", b"from before", b"the name was another table's");
        });
        bench.commit(|bench, tx| {
            if deletes {
                tx.delete_table(table("long")).unwrap();
            } else {
                tx.rename_table(table("long"), table("away")).unwrap();
                bench.model.bytes.insert("away", bench.model.bytes["long"].clone());
            }
            bench.model.bytes.remove("long");
            if creates {
                bench.put(tx, "long", b"born", b"again");
            } else {
                tx.rename_table(table("passing"), table("long")).unwrap();
                let rows = bench.model.bytes.remove("passing").unwrap();
                bench.model.bytes.insert("long", rows);
            }
        });
        let log = Opened::new(bench.copy()).unwrap().log.unwrap();
        assert_eq!((log.transactions(), log.transactions_after_slot()), (1, 0));
        bench.assert_copy(if deletes { "a deleted table's name" } else { "a renamed table's name" });
    }
}
