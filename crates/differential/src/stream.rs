//! The random stream of operations.
//!
//! It remembers which tables there are and of which kind, so that most operations hit a table with the right types;
//! where it remembers wrongly the operation is still one that both stores must answer alike.

use crate::operation::{Answer, Key, KeyKind, Operation, Question, View};
use fastrand::Rng;
use std::collections::BTreeMap;
use std::iter;
use std::ops::Bound;

const KINDS: [KeyKind; 3] = [KeyKind::Bytes, KeyKind::Signed, KeyKind::Pair];
const TABLE_NAMES: usize = 6;
/// Different keys of each kind.
const KEYS: u64 = 3000;

type Tables = BTreeMap<String, KeyKind>;

/// A stream that depends on nothing but its seed, and on the answers only where they say which tables exist.
#[derive(Debug)]
pub(crate) struct Stream {
    rng: Rng,
    tables: Tables,
    committed: Tables,
    /// Of 100 changes of rows, how many insert; drifts so that tables grow and shrink.
    inserts_percent: u32,
}

impl Stream {
    pub(crate) fn new(seed: u64) -> Self {
        Self { rng: Rng::with_seed(seed), tables: Tables::new(), committed: Tables::new(), inserts_percent: 80 }
    }

    /// The next operation.
    pub(crate) fn next(&mut self) -> Operation {
        match self.rng.u32(..10_000) {
            0..4800 => self.change(),
            4800..9700 => self.ask(),
            9700..9780 => Operation::ListTables { view: self.view() },
            9780..9800 => Operation::DeleteTable { table: self.name() },
            9800..9840 => Operation::RenameTable { old: self.name(), new: self.name() },
            9840..9930 => Operation::Commit,
            9930..9950 => Operation::Abort,
            9950..9990 => Operation::Hold,
            _ => Operation::Reopen,
        }
    }

    /// Learns from an answer which tables there are.
    pub(crate) fn note(&mut self, operation: &Operation, answer: &Answer) {
        if matches!(answer, Answer::Refused(_)) {
            return;
        }
        let mut seen = |table: &String, kind| {
            self.tables.entry(table.clone()).or_insert(kind);
        };
        match operation {
            Operation::Insert { table, key, .. } | Operation::Remove { table, key } => seen(table, key.kind()),
            Operation::Ask { view: View::Writer, table, kind, .. } => seen(table, *kind),
            Operation::DeleteTable { table } => drop(self.tables.remove(table)),
            Operation::RenameTable { old, new } => {
                if let Some(kind) = self.tables.remove(old) {
                    self.tables.insert(new.clone(), kind);
                }
            }
            Operation::Commit => self.committed = self.tables.clone(),
            Operation::Abort | Operation::Reopen => self.tables = self.committed.clone(),
            Operation::Ask { .. } | Operation::ListTables { .. } | Operation::Hold => {}
        }
    }

    /// The tables of the newest commit.
    pub(crate) fn committed(&self) -> impl Iterator<Item = (&String, KeyKind)> {
        self.committed.iter().map(|(name, kind)| (name, *kind))
    }

    fn name(&mut self) -> String {
        format!("table {}", self.rng.usize(..TABLE_NAMES))
    }

    /// A table, mostly with the type of its keys.
    fn table(&mut self) -> (String, KeyKind) {
        let name = self.name();
        let guess = self.rng.usize(..KINDS.len());
        let known = if self.rng.u32(..200) == 0 { None } else { self.tables.get(&name).copied() };
        (name, known.unwrap_or(KINDS[guess]))
    }

    fn view(&mut self) -> View {
        [View::Writer, View::Writer, View::Committed, View::Held][self.rng.usize(..4)]
    }

    fn change(&mut self) -> Operation {
        if self.rng.u32(..1000) == 0 {
            self.inserts_percent = [20, 50, 80][self.rng.usize(..3)];
        }
        let (table, kind) = self.table();
        let key = self.key(kind);
        if self.rng.u32(..100) < self.inserts_percent {
            Operation::Insert { table, key, value: self.value() }
        } else {
            Operation::Remove { table, key }
        }
    }

    fn ask(&mut self) -> Operation {
        let (table, kind) = self.table();
        let question = match self.rng.u32(..100) {
            0..40 => Question::Get(self.key(kind)),
            40..70 => self.range(kind),
            70..80 => Question::First,
            80..90 => Question::Last,
            _ => Question::Len,
        };
        Operation::Ask { view: self.view(), table, kind, question }
    }

    fn range(&mut self, kind: KeyKind) -> Question {
        let (a, b) = (self.key(kind), self.key(kind));
        let (from, to) = if a <= b { (a, b) } else { (b, a) };
        let rows_max = if self.rng.u32(..50) == 0 { usize::MAX } else { self.rng.usize(..30) };
        Question::Range { from: self.bound(from), to: self.bound(to), backwards: self.rng.bool(), rows_max }
    }

    fn bound(&mut self, key: Key) -> Bound<Key> {
        match self.rng.u32(..10) {
            0 => Bound::Unbounded,
            1..6 => Bound::Included(key),
            _ => Bound::Excluded(key),
        }
    }

    /// One of the keys of a kind: the number of the key decides it, so keys come again.
    fn key(&mut self, kind: KeyKind) -> Key {
        let number = self.rng.u64(..KEYS);
        let mut rng = Rng::with_seed(number);
        match kind {
            KeyKind::Bytes => {
                let len = if number.is_multiple_of(200) { rng.usize(..3000) } else { rng.usize(..24) };
                Key::Bytes(iter::repeat_with(|| [0, 1, 0x7f, 0xff][rng.usize(..4)]).take(len).collect())
            }
            KeyKind::Signed => Key::Signed(match number {
                0 => i64::MIN,
                1 => i64::MAX,
                _ if number.is_multiple_of(10) => rng.i64(..),
                _ => rng.i64(-2000..2000),
            }),
            KeyKind::Pair => {
                let texts = ["", "a", "a\0", "a\0b", "ab", "b", "\u{e9}", "\u{10ffff}"];
                let text = texts[rng.usize(..texts.len())].repeat(rng.usize(1..4));
                Key::Pair(text, if rng.bool() { rng.u64(..300) } else { rng.u64(..) })
            }
        }
    }

    /// Mostly short, at times longer than a node.
    fn value(&mut self) -> Vec<u8> {
        let len = match self.rng.u32(..1000) {
            0 => self.rng.usize(..200_000),
            1..20 => self.rng.usize(..10_000),
            _ => self.rng.usize(..120),
        };
        let first = self.rng.u8(..);
        (0..len).map(|index| first.wrapping_add(index.to_le_bytes()[0])).collect()
    }
}
