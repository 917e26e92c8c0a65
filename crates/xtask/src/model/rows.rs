//! Operations on the rows of one open table.
//!
//! Invariant: whatever the store returns is compared with the model at once, old values included.

use super::data::{AnyKey, AnyValue, KEY_BYTES_MAX, RowMap, TableModel, brief, value_of};
use super::episode::Episode;
use super::halt::{Halt, ensure};
use super::typed::{AnyRow, Readable, Span, Writable};
use cowslip::StorageError;
use std::collections::VecDeque;
use std::ops::Bound;
use std::sync::Arc;

/// The rows of the model that lie in a span, in order.
pub(super) fn select<'m>(rows: &'m RowMap, span: &Span) -> VecDeque<(&'m AnyKey, &'m AnyValue)> {
    match span {
        Span::All => rows.iter().collect(),
        Span::Prefix(prefix) => rows.iter().filter(|(key, _)| key.starts_with(prefix)).collect(),
        Span::Between(start, end) => {
            let is_below = |key: &AnyKey| match end {
                Bound::Unbounded => true,
                Bound::Included(end) => key <= end,
                Bound::Excluded(end) => key < end,
            };
            rows.range((start.clone(), Bound::Unbounded)).take_while(|(key, _)| is_below(key)).collect()
        }
    }
}

pub(super) fn is_same(found: Option<&AnyRow>, expected: Option<(&AnyKey, &AnyValue)>) -> bool {
    found.map(|(key, value)| (key, value)) == expected
}

impl Episode<'_> {
    /// One operation that may change the table.
    pub(super) fn change_row(&mut self, table: &mut dyn Writable, model: &mut TableModel) -> Result<(), Halt> {
        let is_full = model.rows.len() > self.shape.rows_max || model.bytes() > self.shape.bytes_max;
        let weights = match (is_full, self.growing) {
            (true, _) => [40, 40, 20, 600, 20, 20, 12, 60, 150],
            (false, true) => [600, 120, 120, 100, 40, 24, 8, 30, 90],
            (false, false) => [150, 120, 120, 400, 60, 24, 8, 60, 120],
        };
        let choice = self.random.weighted(&weights);
        let present = model.any_key(&mut self.random);
        match (choice, present) {
            (1, Some(key)) => {
                let value = self.shape.value(&mut self.random, model.kind);
                self.insert(table, model, key, value, "replaced")
            }
            (2, Some(key)) => {
                let len = model.rows[&key].len();
                let value = value_of(&mut self.random, model.kind, len);
                self.insert(table, model, key, value, "replaced by the same length")
            }
            (3, Some(key)) => self.remove(table, model, &key, "present"),
            (4, _) => match self.absent_key(model) {
                Some(key) => self.remove(table, model, &key, "absent"),
                None => self.read_row(&*table, model),
            },
            (5, _) => self.refuse_sizes(table, model),
            (6, _) => self.burst(table, model, is_full),
            (7, _) => self.pop(table, model),
            (8, _) => self.change_many(table, model, is_full),
            _ => match self.absent_key(model) {
                Some(key) => {
                    let value = self.shape.value(&mut self.random, model.kind);
                    let outcome = if value.len() >= 1 << 20 { "new, several MiB" } else { "new" };
                    self.insert(table, model, key, value, outcome)
                }
                None => self.read_row(&*table, model),
            },
        }
    }

    /// A key that the table does not hold; `None` where there is hardly any.
    fn absent_key(&mut self, model: &TableModel) -> Option<AnyKey> {
        let mut candidates = (0..8).map(|_| self.shape.key(&mut self.random, model.kind));
        candidates.find(|key| !model.rows.contains_key(key))
    }

    fn insert(
        &mut self,
        table: &mut dyn Writable,
        model: &mut TableModel,
        key: AnyKey,
        value: AnyValue,
        outcome: &'static str,
    ) -> Result<(), Halt> {
        let found = table.insert(&key, &value)?;
        let shown = brief(&key);
        let expected = Arc::make_mut(&mut model.rows).insert(key, value);
        ensure!(found == expected, "insert {shown}: found {}, expected {}", brief(&found), brief(&expected));
        self.counts.add("insert", outcome);
        Ok(())
    }

    fn remove(
        &mut self,
        table: &mut dyn Writable,
        model: &mut TableModel,
        key: &AnyKey,
        outcome: &'static str,
    ) -> Result<(), Halt> {
        let found = table.remove(key)?;
        // An absent key must not copy the rows of the model.
        let expected = if model.rows.contains_key(key) { Arc::make_mut(&mut model.rows).remove(key) } else { None };
        ensure!(found == expected, "remove {}: found {}, expected {}", brief(key), brief(&found), brief(&expected));
        self.counts.add("remove", outcome);
        Ok(())
    }

    /// Changes that are not looked at before the next read: few, which are applied one by one, or many, which are
    /// merged.
    fn burst(&mut self, table: &mut dyn Writable, model: &mut TableModel, is_full: bool) -> Result<(), Halt> {
        let len = if self.random.chance(300) { self.random.below(16) } else { self.random.below(400) };
        let deletes = if is_full { 900 } else { self.random.below(1000) };
        let mut room_bytes = self.shape.bytes_max.saturating_sub(model.bytes());
        for _ in 0..len {
            let present = model.any_key(&mut self.random).filter(|_| self.random.chance(600));
            let key = present.unwrap_or_else(|| self.shape.key(&mut self.random, model.kind));
            let is_there = model.rows.contains_key(&key);
            if self.random.chance(deletes) {
                table.delete(&key)?;
                self.counts.add("delete", if is_there { "present" } else { "absent" });
                if is_there {
                    Arc::make_mut(&mut model.rows).remove(&key);
                }
            } else if room_bytes > 0 {
                let value = self.shape.value(&mut self.random, model.kind);
                room_bytes = room_bytes.saturating_sub(value.len());
                table.put(&key, &value)?;
                self.counts.add("put", if is_there { "replaced" } else { "new" });
                Arc::make_mut(&mut model.rows).insert(key, value);
            }
        }
        Ok(())
    }

    /// Keys and values over the limits, which must change nothing.
    fn refuse_sizes(&mut self, table: &mut dyn Writable, model: &TableModel) -> Result<(), Halt> {
        let key = self.shape.key(&mut self.random, model.kind);
        if let Some(bytes) = self.value_bytes_over.filter(|_| self.random.chance(750)) {
            let Some(refused) = table.insert_bytes(&key, &vec![0; bytes]) else { return Ok(()) };
            ensure!(
                matches!(refused, Err(StorageError::ValueTooLarge { found_bytes, .. }) if found_bytes == bytes),
                "a value of {bytes} bytes: {refused:?}"
            );
            self.counts.add("insert", "value too large");
            return Ok(());
        }
        let letters = "z".repeat(KEY_BYTES_MAX + 1 + self.random.below(3000));
        let (key, is_reading) = match key {
            AnyKey::Text(_) => (AnyKey::Text(letters.into()), self.random.chance(450)),
            AnyKey::Bytes(_) => (AnyKey::Bytes(letters.into_bytes().into()), self.random.chance(450)),
            AnyKey::Pair(first, _) => (AnyKey::Pair(first, letters.into()), self.random.chance(450)),
            _ => return self.read_row(&*table, model),
        };
        if is_reading {
            ensure!(table.get(&key)?.is_none(), "a key over the limit is there");
            ensure!(table.remove(&key)?.is_none(), "a key over the limit was removed");
            self.counts.add("get", "key too large");
            return Ok(());
        }
        let value = self.shape.value(&mut self.random, model.kind);
        let refused = table.insert(&key, &value);
        ensure!(matches!(refused, Err(StorageError::KeyTooLarge { .. })), "a key over the limit: {refused:?}");
        self.counts.add("insert", "key too large");
        Ok(())
    }

    /// One operation that only reads.
    pub(super) fn read_row(&mut self, table: &dyn Readable, model: &TableModel) -> Result<(), Halt> {
        match self.random.weighted(&[40, 20, 60, 20, 8, 10, 10, 10]) {
            0 => match model.any_key(&mut self.random) {
                Some(key) => self.get(table, model, &key, "present"),
                None => self.first_and_last(table, model, true),
            },
            1 => match self.absent_key(model) {
                Some(key) => self.get(table, model, &key, "absent"),
                None => self.first_and_last(table, model, false),
            },
            2 => {
                let (span, outcome) = self.any_range(model);
                self.scan(table, model, &span, "range", outcome)
            }
            3 if model.kind.has_prefixes() => {
                let prefix = self.any_prefix(model);
                self.scan(table, model, &Span::Prefix(prefix), "prefix", None)
            }
            3 | 4 => self.scan(table, model, &Span::All, "iter", None),
            5 => self.first_and_last(table, model, true),
            6 => self.first_and_last(table, model, false),
            _ => {
                let (len, expected) = (table.len()?, model.rows.len() as u64);
                ensure!(len == expected, "len is {len}, expected {expected}");
                ensure!(table.is_empty()? == (expected == 0), "is_empty contradicts len {expected}");
                self.counts.add("len", if expected == 0 { "empty" } else { "rows" });
                Ok(())
            }
        }
    }

    fn get(
        &mut self,
        table: &dyn Readable,
        model: &TableModel,
        key: &AnyKey,
        outcome: &'static str,
    ) -> Result<(), Halt> {
        let (found, expected) = (table.get(key)?, model.rows.get(key));
        ensure!(
            found.as_ref() == expected,
            "get {}: found {}, expected {}",
            brief(key),
            brief(&found),
            brief(&expected)
        );
        self.counts.add("get", outcome);
        Ok(())
    }

    fn first_and_last(&mut self, table: &dyn Readable, model: &TableModel, first: bool) -> Result<(), Halt> {
        let (operation, found, expected) = if first {
            ("first", table.first()?, model.rows.first_key_value())
        } else {
            ("last", table.last()?, model.rows.last_key_value())
        };
        ensure!(
            is_same(found.as_ref(), expected),
            "{operation}: found {}, expected {}",
            brief(&found),
            brief(&expected)
        );
        self.counts.add(operation, if expected.is_some() { "row" } else { "empty" });
        Ok(())
    }

    fn any_bound(&mut self, model: &TableModel) -> AnyKey {
        let present = if self.random.chance(600) { model.any_key(&mut self.random) } else { None };
        present.unwrap_or_else(|| self.shape.key(&mut self.random, model.kind))
    }

    /// A range of any kind of bounds, inverted ones included, and what to call it where that is known already.
    pub(super) fn any_range(&mut self, model: &TableModel) -> (Span, Option<&'static str>) {
        let (mut start, mut end) = (self.any_bound(model), self.any_bound(model));
        if self.random.chance(50) {
            end = start.clone();
        }
        if start > end && self.random.chance(700) {
            std::mem::swap(&mut start, &mut end);
        }
        let is_inverted = start > end;
        let mut bound = |key| match self.random.weighted(&[3, 3, 1]) {
            0 => Bound::Included(key),
            1 => Bound::Excluded(key),
            _ => Bound::Unbounded,
        };
        let (start, end) = (bound(start), bound(end));
        let is_bounded = !matches!(start, Bound::Unbounded) && !matches!(end, Bound::Unbounded);
        (Span::Between(start, end), (is_inverted && is_bounded).then_some("inverted"))
    }

    pub(super) fn any_prefix(&mut self, model: &TableModel) -> AnyKey {
        match self.any_bound(model) {
            AnyKey::Text(text) => {
                let cut = self.random.below(text.chars().count() + 1);
                AnyKey::Text(text.chars().take(cut).collect::<String>().into())
            }
            AnyKey::Bytes(bytes) => AnyKey::Bytes(bytes[..self.random.below(bytes.len() + 1)].into()),
            other => other,
        }
    }

    /// Iterates from one end or from both, to the end or not.
    fn scan(
        &mut self,
        table: &dyn Readable,
        model: &TableModel,
        span: &Span,
        operation: &'static str,
        outcome: Option<&'static str>,
    ) -> Result<(), Halt> {
        let mut expected = select(&model.rows, span);
        let direction = self.random.below(3);
        let outcome = outcome.unwrap_or(match direction {
            _ if expected.is_empty() => "no rows",
            0 => "forward",
            1 => "backward",
            _ => "from both ends",
        });
        ensure!(outcome != "inverted" || expected.is_empty(), "the model has rows in an inverted range");
        let steps = if self.random.chance(300) { self.random.below(12) } else { expected.len() + 2 };
        let mut rows = table.rows(span)?;
        for step in 0..steps {
            let forward = direction == 0 || (direction == 2 && self.random.chance(500));
            let found = if forward { rows.next() } else { rows.next_back() }.transpose()?;
            let wanted = if forward { expected.pop_front() } else { expected.pop_back() };
            ensure!(
                is_same(found.as_ref(), wanted),
                "{operation} {}, step {step}, forward {forward}: found {}, expected {}",
                brief(span),
                brief(&found),
                brief(&wanted)
            );
        }
        self.counts.add(operation, outcome);
        Ok(())
    }
}

/// Compares a whole table with the model.
pub(super) fn verify_rows(name: &str, table: &dyn Readable, model: &TableModel) -> Result<(), Halt> {
    let (len, expected) = (table.len()?, model.rows.len() as u64);
    ensure!(len == expected, "table {}: len is {len}, expected {expected}", brief(&name));
    let mut found = table.rows(&Span::All)?;
    for (index, wanted) in model.rows.iter().enumerate() {
        let row = found.next().transpose()?;
        ensure!(
            is_same(row.as_ref(), Some(wanted)),
            "table {}, row {index}: found {}, expected {}",
            brief(&name),
            brief(&row),
            brief(&wanted)
        );
    }
    let behind = found.next().transpose()?;
    ensure!(behind.is_none(), "table {}: a row behind the last: {}", brief(&name), brief(&behind));
    Ok(())
}
