//! Verbs that change many rows of one open table.
//!
//! Invariant: a predicate is asked about each row of the model at most once, in turn from the end that is worked at,
//! and sees what the model holds.

use super::data::{AnyKey, AnyValue, Shape, TableModel, brief};
use super::disk::Planned;
use super::episode::Episode;
use super::halt::{Halt, ensure};
use super::rows::{is_same, select};
use super::typed::{AnyRow, Span, Writable};
use cowslip::StorageError;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;

/// What a predicate is asked, from both ends of the rows that it may be asked about.
struct Questions<'m> {
    rows: Vec<(&'m AnyKey, &'m AnyValue)>,
    picked: Vec<bool>,
    forward: Cell<bool>,
    /// Rows before this one were asked about, and those from `back` on.
    front: Cell<usize>,
    back: Cell<usize>,
    wrong: RefCell<Option<String>>,
}

impl<'m> Questions<'m> {
    fn new(rows: Vec<(&'m AnyKey, &'m AnyValue)>, picked: Vec<bool>) -> Self {
        let back = Cell::new(rows.len());
        Self { rows, picked, forward: Cell::new(true), front: Cell::new(0), back, wrong: RefCell::new(None) }
    }

    /// The row that was asked about last in the present direction.
    fn last_asked(&self) -> usize {
        if self.forward.get() { self.front.get().wrapping_sub(1) } else { self.back.get() }
    }

    fn is_over(&self) -> bool {
        self.front.get() == self.back.get()
    }

    /// Answers for the row whose turn it is.
    fn answer(&self, key: &AnyKey, value: &AnyValue) -> bool {
        if self.is_over() {
            *self.wrong.borrow_mut() = Some(format!("asked about {} behind the last row", brief(key)));
            return false;
        }
        if self.forward.get() {
            self.front.set(self.front.get() + 1);
        } else {
            self.back.set(self.back.get() - 1);
        }
        let at = self.last_asked();
        if self.rows[at] != (key, value) {
            let (found, expected) = (brief(&(key, value)), brief(&self.rows[at]));
            *self.wrong.borrow_mut() = Some(format!("asked about {found}, expected {expected}"));
        }
        self.picked[at]
    }

    fn check(&self) -> Result<(), Halt> {
        self.wrong.borrow_mut().take().map_or(Ok(()), |wrong| Err(Halt::Mismatch(format!("a predicate was {wrong}"))))
    }
}

fn forget(model: &mut TableModel, keys: &[AnyKey]) {
    if !keys.is_empty() {
        let rows = Arc::make_mut(&mut model.rows);
        keys.iter().for_each(|key| drop(rows.remove(key)));
    }
}

fn how_many(removed: usize, of: usize) -> &'static str {
    match removed {
        _ if of == 0 => "no rows",
        0 => "none of the rows",
        _ if removed == of => "all rows",
        _ => "some rows",
    }
}

impl Episode<'_> {
    /// One call that may change many rows.
    pub(super) fn change_many(
        &mut self,
        table: &mut dyn Writable,
        model: &mut TableModel,
        is_full: bool,
    ) -> Result<(), Halt> {
        // What removes rows is worth little where there are hardly any.
        let weights = match (is_full, model.rows.len()) {
            (true, _) => [0, 0, 30, 40, 60],
            (_, ..12) => [60, 60, 4, 8, 8],
            _ => [30, 30, 16, 40, 60],
        };
        match self.random.weighted(&weights) {
            0 => self.put_many(table, model),
            1 => self.bulk_load(table, model),
            2 => self.remove_span(table, model),
            3 => self.retain(table, model, is_full),
            _ => self.extract(table, model, is_full),
        }
    }

    /// Few rows or many, in any order, some keys twice.
    fn any_rows(&mut self, model: &TableModel) -> Vec<AnyRow> {
        let len = if self.random.chance(600) { self.random.below(12) } else { self.random.below(120) };
        let mut room_bytes = self.shape.bytes_max.saturating_sub(model.bytes()) / *self.random.pick(&[1, 4, 8]);
        // Of so many values one would nearly always be huge, and little else would fit.
        let shape = Shape { huge_values: self.shape.huge_values && self.random.chance(50), ..self.shape.clone() };
        let mut rows = Vec::new();
        while rows.len() < len && room_bytes > 0 {
            let present = model.any_key(&mut self.random).filter(|_| self.random.chance(300));
            let key = present.unwrap_or_else(|| self.shape.key(&mut self.random, model.kind));
            let value = shape.value(&mut self.random, model.kind);
            room_bytes = room_bytes.saturating_sub(value.len());
            rows.push((key, value));
        }
        rows
    }

    fn put_many(&mut self, table: &mut dyn Writable, model: &mut TableModel) -> Result<(), Halt> {
        let rows = self.any_rows(model);
        table.put_many(&rows)?;
        self.counts.add("put_many", if rows.is_empty() { "no rows" } else { "rows" });
        Arc::make_mut(&mut model.rows).extend(rows);
        Ok(())
    }

    fn bulk_load(&mut self, table: &mut dyn Writable, model: &mut TableModel) -> Result<(), Halt> {
        let ascending: BTreeMap<AnyKey, AnyValue> = self.any_rows(model).into_iter().collect();
        let mut rows: Vec<AnyRow> = ascending.into_iter().collect();
        if !rows.is_empty() && self.random.chance(150) {
            // A key of before comes again.
            let at = self.random.between(1, rows.len());
            let again = rows[self.random.below(at)].clone();
            rows.insert(at, again);
            let refused = table.bulk_load(&rows);
            match refused {
                Err(StorageError::UnsortedRows { row }) if row == at as u64 => {}
                Err(error @ StorageError::UnsortedRows { .. }) => {
                    return Err(Halt::Mismatch(format!("row {at} of a bulk load is out of order: {error}")));
                }
                Err(error) => return Err(error.into()),
                Ok(count) => return Err(Halt::Mismatch(format!("{count} rows loaded, row {at} out of order"))),
            }
            rows.truncate(at);
            self.counts.add("bulk_load", "unsorted");
        } else {
            let count = table.bulk_load(&rows)?;
            ensure!(count == rows.len() as u64, "{} rows loaded, counted as {count}", rows.len());
            self.counts.add("bulk_load", if rows.is_empty() { "no rows" } else { "rows" });
        }
        Arc::make_mut(&mut model.rows).extend(rows);
        Ok(())
    }

    fn remove_span(&mut self, table: &mut dyn Writable, model: &mut TableModel) -> Result<(), Halt> {
        let (operation, span, outcome) = if model.kind.has_prefixes() && self.random.chance(500) {
            ("remove_prefix", Span::Prefix(self.any_prefix(model)), None)
        } else if self.random.chance(50) {
            ("remove_range", Span::All, None)
        } else {
            let (span, outcome) = self.any_range(model);
            ("remove_range", span, outcome)
        };
        let keys: Vec<AnyKey> = select(&model.rows, &span).into_iter().map(|(key, _)| key.clone()).collect();
        let removed = table.remove_span(&span)?;
        let shown = brief(&span);
        ensure!(removed == keys.len() as u64, "{operation} {shown}: {removed} removed, expected {}", keys.len());
        self.counts.add(operation, outcome.unwrap_or_else(|| how_many(keys.len(), model.rows.len())));
        forget(model, &keys);
        Ok(())
    }

    /// The span of a predicate, and what to call it where that is known already.
    fn any_asked(&mut self, model: &TableModel) -> (Span, Option<&'static str>) {
        if self.random.chance(400) { (Span::All, None) } else { self.any_range(model) }
    }

    /// Of how many rows in a thousand a predicate rids the table.
    fn any_share(&mut self, is_full: bool) -> usize {
        let weights = if is_full { [1, 1, 1, 4, 3, 1] } else { [4, 8, 8, 3, 1, 1] };
        [0, 5, 50, 400, 970, 1000][self.random.weighted(&weights)]
    }

    fn any_questions<'m>(&mut self, model: &'m TableModel, span: &Span, is_full: bool) -> Questions<'m> {
        let rows: Vec<_> = select(&model.rows, span).into();
        let share = self.any_share(is_full);
        let picked = rows.iter().map(|_| self.random.chance(share)).collect();
        Questions::new(rows, picked)
    }

    fn retain(&mut self, table: &mut dyn Writable, model: &mut TableModel, is_full: bool) -> Result<(), Halt> {
        let (span, outcome) = self.any_asked(model);
        let operation = if matches!(span, Span::All) { "retain" } else { "retain_in" };
        let questions = self.any_questions(model, &span, is_full);
        let removed = table.retain_span(&span, &mut |key, value| !questions.answer(key, value))?;
        questions.check()?;
        let left = questions.back.get() - questions.front.get();
        ensure!(left == 0, "{operation} {}: {left} rows were not asked about", brief(&span));
        let (rows, picked) = (questions.rows.iter(), questions.picked.iter());
        let keys: Vec<AnyKey> =
            rows.zip(picked).filter(|(_, goes)| **goes).map(|((key, _), _)| (*key).clone()).collect();
        let shown = brief(&span);
        ensure!(removed == keys.len() as u64, "{operation} {shown}: {removed} removed, expected {}", keys.len());
        self.counts.add(operation, outcome.unwrap_or_else(|| how_many(keys.len(), questions.rows.len())));
        forget(model, &keys);
        Ok(())
    }

    /// Takes rows from one end or both, to the end or not.
    fn extract(&mut self, table: &mut dyn Writable, model: &mut TableModel, is_full: bool) -> Result<(), Halt> {
        let (span, outcome) = self.any_asked(model);
        let operation = if matches!(span, Span::All) { "extract_if" } else { "extract_from_if" };
        let questions = self.any_questions(model, &span, is_full);
        let direction = self.random.weighted(&[5, 2, 4]);
        // From both ends, some start at the front and turn later.
        let forward_share = [1000, 0, *self.random.pick(&[500, 900, 990])][direction];
        let picked = questions.picked.iter().filter(|picked| **picked).count();
        let steps = if self.random.chance(600) { self.random.below(picked + 1) } else { picked + 2 };
        let mut keys = Vec::new();
        let mut picks = |key: &AnyKey, value: &AnyValue| questions.answer(key, value);
        let mut extracted = table.extract(&span, &mut picks)?;
        for step in 0..steps {
            questions.forward.set(self.random.chance(forward_share));
            let found = if questions.forward.get() { extracted.next() } else { extracted.next_back() };
            if let Some(Err(error)) = found {
                ensure!(extracted.next().is_none(), "{operation} goes on after {error}");
                return Err(error.into());
            }
            let found = found.transpose()?;
            questions.check()?;
            let at = questions.last_asked();
            let expected = if found.is_some() { questions.rows.get(at).copied() } else { None };
            let is_picked = found.is_none() || questions.picked[at];
            ensure!(
                is_same(found.as_ref(), expected) && is_picked && (found.is_some() || questions.is_over()),
                "{operation} {}, step {step}: found {}, expected {}",
                brief(&span),
                brief(&found),
                brief(&expected)
            );
            keys.extend(found.map(|(key, _)| key));
        }
        drop(extracted);
        questions.check()?;
        self.counts.add(
            operation,
            outcome.unwrap_or(match (direction, questions.is_over()) {
                _ if questions.rows.is_empty() => "no rows",
                (0, true) => "forward, to the end",
                (1, true) => "backward, to the end",
                (_, true) => "from both ends, until they met",
                (0, false) => "forward, dropped",
                (1, false) => "backward, dropped",
                (_, false) => "from both ends, dropped",
            }),
        );
        forget(model, &keys);
        // Also says whether the table could be put together when the iterator was dropped.
        let len = table.len()?;
        ensure!(len == model.rows.len() as u64, "{operation} leaves {len} rows, expected {}", model.rows.len());
        Ok(())
    }

    /// Takes one row, or a few, from the ends.
    pub(super) fn pop(&mut self, table: &mut dyn Writable, model: &mut TableModel) -> Result<(), Halt> {
        let first = self.random.chance(500);
        let operation = if first { "pop_first" } else { "pop_last" };
        for _ in 0..*self.random.pick(&[1, 1, 1, 2, 20]) {
            let found = table.pop(first)?;
            let expected = if first { model.rows.first_key_value() } else { model.rows.last_key_value() };
            let shown = (brief(&found), brief(&expected));
            ensure!(is_same(found.as_ref(), expected), "{operation}: found {}, expected {}", shown.0, shown.1);
            self.counts.add(operation, if found.is_some() { "row" } else { "empty" });
            let Some((key, _)) = found else { break };
            forget(model, &[key]);
        }
        Ok(())
    }

    /// Panics inside of a predicate, where there is a row to ask about: nothing can be done with the table from then on.
    pub(super) fn panic_in_predicate(&mut self, table: &mut dyn Writable, model: &TableModel) -> Result<(), Halt> {
        let mut left = self.random.below(model.rows.len().max(1));
        let backward = self.random.chance(300);
        let caught = catch_unwind(AssertUnwindSafe(|| -> Result<(), StorageError> {
            let mut panics = |_: &AnyKey, _: &AnyValue| {
                left = left.checked_sub(1).unwrap_or_else(|| resume_unwind(Box::new(Planned)));
                left.is_multiple_of(3)
            };
            if backward {
                table.extract(&Span::All, &mut panics)?.rev().try_for_each(|row| row.map(drop))
            } else {
                table.retain_span(&Span::All, &mut panics).map(drop)
            }
        }));
        match caught {
            Ok(outcome) => {
                outcome?;
                ensure!(model.rows.is_empty(), "a predicate was not asked about all {} rows", model.rows.len());
            }
            Err(thrown) if thrown.is::<Planned>() => {
                let refused = table.len();
                ensure!(
                    matches!(refused, Err(StorageError::TransactionPoisoned)),
                    "a table goes on after a predicate panicked: {refused:?}"
                );
                self.counts.add(if backward { "extract_if" } else { "retain" }, "predicate panicked");
            }
            Err(thrown) => resume_unwind(thrown),
        }
        Ok(())
    }
}
