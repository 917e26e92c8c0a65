//! The rows of the table that write new rows, each on one copy of the loaded database that grows from round to round.

use super::{Bench, rate};
use crate::Result;
use crate::bare::{Bare, BareFile};
use crate::engine::Engine;
use crate::output::{Samples, Yardstick};
use std::fs;
use std::thread;
use std::time::Instant;

/// A key and a value.
type Row<'rows> = (&'rows [u8], &'rows [u8]);

impl Bench<'_> {
    /// Rounds of durable transactions of many rows.
    pub(super) fn batches(&mut self) -> Result<Vec<Vec<f64>>> {
        let rows = self.amounts.batch_rows;
        self.grow(self.amounts.batches * rows, None, |engine, all| {
            timed(all, |all| all.chunks(rows).try_for_each(|batch| engine.insert(batch)))
        })
    }

    /// Rounds of durable transactions of one row, in each of which the bare file is overwritten too.
    pub(super) fn singles_beside_bare(&mut self) -> Result<Vec<Vec<f64>>> {
        let path = self.folders.bare()?;
        let mut bare = Bare::create(&path, self.amounts.overwrites)?;
        let file = if let Bare::Ready(file) = &mut bare { Some(file) } else { None };
        let mut figures =
            self.grow(self.amounts.singles, file, |engine, rows| timed(rows, |rows| each(engine, rows)))?;
        fs::remove_file(&path)?;
        let overwrites = figures.split_off(self.kinds.len()).pop().unwrap_or_default();
        let rates = if let Bare::Refused(reason) = bare { Err(reason) } else { Ok(overwrites) };
        let of = |(engine, figures): (_, &Vec<f64>)| Samples { engine, figures: figures.clone() };
        self.yardstick = Some(Yardstick { rates, singles: self.kinds.iter().copied().zip(&figures).map(of).collect() });
        Ok(figures)
    }

    /// Rounds of durable transactions of one row that several threads share.
    pub(super) fn singles_shared(&mut self, threads: usize) -> Result<Vec<Vec<f64>>> {
        self.grow(self.amounts.singles_shared, None, |engine, rows| timed(rows, |rows| spread(engine, rows, threads)))
    }

    /// Rounds of transactions of one row that wait for no medium. Each round ends with a durable one, which counts for
    /// nobody, so that no store writes what it put off while another is measured.
    pub(super) fn non_durable(&mut self) -> Result<Vec<Vec<f64>>> {
        self.grow(self.amounts.non_durable + 1, None, |engine, rows| {
            let (last, rows) = rows.split_at(1);
            let rate = timed(rows, |rows| engine.insert_each_non_durably(rows))?;
            engine.insert(last)?;
            Ok(rate)
        })
    }

    /// Rounds in each of which `write` writes so many new rows and says at which rate. The figures of the bare file, if
    /// there is one, follow those of the engines.
    fn grow(
        &mut self,
        count: usize,
        mut bare: Option<&mut BareFile>,
        write: impl Fn(&mut dyn Engine, &[Row<'_>]) -> Result<f64>,
    ) -> Result<Vec<Vec<f64>>> {
        let (set, mut engines) = self.copies()?;
        let mut figures = vec![Vec::new(); self.kinds.len() + usize::from(bare.is_some())];
        let mut expected = set.total();
        for round in 0..self.amounts.rounds {
            let written = set.rows_beyond(round * count..(round + 1) * count);
            let rows = written.pairs();
            for index in self.order_of(figures.len()) {
                if let Some(engine) = engines.get_mut(index) {
                    figures[index].push(write(&mut **engine, &rows)?);
                    engine.settle()?;
                } else if let Some(bare) = &mut bare {
                    let started = Instant::now();
                    bare.overwrite(self.amounts.overwrites)?;
                    figures[index].push(rate(self.amounts.overwrites, started));
                }
            }
            expected = expected + written.digest();
        }
        self.close_copies(engines, expected)?;
        Ok(figures)
    }
}

/// Rate at which `write` writes all rows.
fn timed(rows: &[Row<'_>], write: impl FnOnce(&[Row<'_>]) -> Result<()>) -> Result<f64> {
    let started = Instant::now();
    write(rows)?;
    Ok(rate(rows.len(), started))
}

/// Writes each row in a durable transaction of its own.
fn each(engine: &dyn Engine, rows: &[Row<'_>]) -> Result<()> {
    rows.chunks(1).try_for_each(|row| engine.insert(row))
}

/// The same from several threads, each of which has its part of the rows. Starting them is part of the work.
fn spread(engine: &dyn Engine, rows: &[Row<'_>], threads: usize) -> Result<()> {
    thread::scope(|scope| {
        let parts = rows.chunks(rows.len().div_ceil(threads).max(1));
        let running: Vec<_> = parts.map(|part| scope.spawn(|| each(engine, part))).collect();
        running.into_iter().try_for_each(|thread| thread.join().map_err(|_| "a writing thread panicked")?)
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::Map;
    use super::*;
    use crate::data::{DataSet, Keys};
    use crate::engine::EngineKind;
    use crate::measure::check_all;
    use std::sync::atomic::Ordering;

    #[test]
    fn each_row_is_a_transaction_of_its_own_with_any_number_of_threads() {
        let set = DataSet::new(Keys::Random, 50, 5);
        let rows = set.rows_shuffled();
        for threads in [1, 3, 8, 64] {
            let map = Map::default();
            spread(&map, &rows.pairs(), threads).unwrap();
            assert_eq!(map.inserts.load(Ordering::Relaxed), 50);
            check_all(EngineKind::Cowslip, &map, set.total()).unwrap();
        }
    }
}
