//! The budget of memory changes how fast the answers come, and nothing else.
//!
//! Method: the same random operations on a database with a budget of one mebibyte or less and on one that keeps
//! everything in memory, with readers on other threads. Invariant: all answers are equal.

use crate::fixture::{ROWS, value};
use cowslip::{Builder, Database, ReadTransaction, Row, WriteTransaction};

const KEYS: u64 = 4000;

/// A sequence of numbers without pattern.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

/// One operation on both databases, with equal answers.
fn operate(random: &mut Random, round: u64, [one, other]: [&WriteTransaction; 2]) {
    let (mut one, mut other) = (one.open_table(ROWS).unwrap(), other.open_table(ROWS).unwrap());
    for _ in 0..50 {
        let key = random.below(KEYS);
        match random.below(10) {
            0..6 => {
                let len = if random.below(40) == 0 { random.below(200_000) } else { random.below(3000) };
                let value = value(key, round, usize::try_from(len).unwrap());
                let old = one.insert(key, &value[..]).unwrap().map(|old| old.value().to_vec());
                assert_eq!(old, other.insert(key, &value[..]).unwrap().map(|old| old.value().to_vec()));
            }
            6..8 => {
                let old = one.remove(key).unwrap().map(|old| old.value().to_vec());
                assert_eq!(old, other.remove(key).unwrap().map(|old| old.value().to_vec()));
            }
            8 => {
                let found = one.get(key).unwrap().map(|row| row.value().to_vec());
                assert_eq!(found, other.get(key).unwrap().map(|row| row.value().to_vec()));
            }
            _ => {
                let (mut rows, mut others) = (one.range(key..).unwrap(), other.range(key..).unwrap());
                for _ in 0..20 {
                    let (row, other) = (rows.next().transpose().unwrap(), others.next().transpose().unwrap());
                    assert_eq!(row.as_ref().map(plain), other.as_ref().map(plain));
                }
            }
        }
    }
}

fn plain(row: &Row<'_, u64, &'static [u8]>) -> (u64, Vec<u8>) {
    (row.0.value(), row.1.value().to_vec())
}

/// Reads everything that two snapshots hold, forwards, backwards and by key.
fn compare([one, other]: [ReadTransaction; 2], seed: u64) {
    let (one, other) = (one.open_table_or_empty(ROWS).unwrap(), other.open_table_or_empty(ROWS).unwrap());
    assert_eq!(one.len().unwrap(), other.len().unwrap());
    let mut random = Random(seed);
    for _ in 0..200 {
        let key = random.below(KEYS);
        let found = one.get(key).unwrap().map(|row| row.value().to_vec());
        assert_eq!(found, other.get(key).unwrap().map(|row| row.value().to_vec()));
    }
    let (mut rows, mut others) = (one.iter().unwrap(), other.iter().unwrap());
    loop {
        let backwards = random.below(2) == 0;
        let (row, other) =
            if backwards { (rows.next_back(), others.next_back()) } else { (rows.next(), others.next()) };
        let (row, other) = (row.transpose().unwrap(), other.transpose().unwrap());
        assert_eq!(row.as_ref().map(plain), other.as_ref().map(plain));
        if row.is_none() {
            return;
        }
    }
}

fn no_answer_differs(builder: &Builder, budget_bytes: usize, rounds: u64) {
    let small = builder.clone().cache_bytes_max(budget_bytes).in_memory().unwrap();
    let large = builder.clone().cache_bytes_max(1 << 30).in_memory().unwrap();
    let both = |begin: fn(&Database) -> ReadTransaction| [&small, &large].map(begin);
    let mut random = Random(budget_bytes as u64);
    for round in 0..rounds {
        std::thread::scope(|scope| {
            for reader in 0..3 {
                let snapshots = both(|db| db.begin_read().unwrap());
                scope.spawn(move || compare(snapshots, round * 3 + reader));
            }
            let transactions = [&small, &large].map(|db| db.begin_write().unwrap());
            for _ in 0..16 {
                operate(&mut random, round, transactions.each_ref());
            }
            let aborted = random.below(4) == 0;
            for transaction in transactions {
                if aborted {
                    transaction.abort().unwrap();
                } else {
                    transaction.commit().unwrap();
                }
            }
        });
    }
    compare(both(|db| db.begin_read().unwrap()), 0);
    let [small, large] = [small, large].map(|db| db.check_integrity().unwrap());
    assert_eq!((small.rows, small.stored_bytes), (large.rows, large.stored_bytes));
    assert!(small.stored_bytes > 4 * budget_bytes as u64, "the data is many times the budget");
}

#[test]
fn no_answer_changes_under_a_budget_of_one_mebibyte() {
    no_answer_differs(&Builder::new(), 1 << 20, 12);
}

#[test]
fn no_answer_changes_under_a_budget_that_is_smaller_than_what_it_has_to_count() {
    no_answer_differs(&Builder::new().test_geometry(512, 512, 64), 1 << 20, 6);
    no_answer_differs(&Builder::new(), 100 << 10, 4);
}
