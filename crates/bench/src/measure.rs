//! The measurements: interleaved rounds, each checked.
//!
//! All stores do the work of a round right after one another, in an order drawn anew each time, so that whatever else
//! the machine does falls on all of them. What a store reads has to add up to what was written, and after a row that
//! writes, a full scan has to as well; otherwise the run fails.

mod writes;

use crate::Result;
use crate::data::{DataSet, KEY_MIN, Keys, Picked, Split, leaves, number_digest, numbers, stays};
use crate::digest::Digest;
use crate::engine::{Engine, EngineKind};
use crate::folders::{Folders, file_bytes};
use crate::output::{Samples, Yardstick};
use crate::workload::{Amounts, Order, RANGE_ROWS, Work, Workload};
use fastrand::Rng;
use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::rc::Rc;
use std::thread;
use std::time::Instant;

/// Everything that the rows share.
pub(crate) struct Bench<'log> {
    amounts: Amounts,
    kinds: Vec<EngineKind>,
    folders: Folders,
    seed: u64,
    rng: Rng,
    set: Option<(Keys, Rc<DataSet>)>,
    /// Loaded databases, open for reading from one row to the next, and what their keys are.
    readers: Option<(Keys, Engines)>,
    /// The bare file beside the single durable writes, once they are measured.
    yardstick: Option<Yardstick>,
    log: &'log mut dyn Write,
}

/// One open database for each engine, in the order of the columns.
type Engines = Vec<Box<dyn Engine>>;

impl<'log> Bench<'log> {
    pub(crate) fn new(
        amounts: Amounts,
        kinds: Vec<EngineKind>,
        folders: Folders,
        seed: u64,
        log: &'log mut dyn Write,
    ) -> Self {
        Self {
            amounts,
            kinds,
            folders,
            seed,
            rng: Rng::with_seed(seed),
            set: None,
            readers: None,
            yardstick: None,
            log,
        }
    }

    /// Runs one row on every engine, all of its rounds.
    pub(crate) fn measure(&mut self, workload: &Workload) -> Result<Vec<Samples>> {
        let figures = match workload.work {
            Work::Load(order) => self.loads(order)?,
            Work::LoadNumbers => self.number_loads()?,
            Work::Size => self.sizes(|bytes, _| mib(bytes))?,
            Work::SizeOverRows => self.sizes(|bytes, set| bytes as f64 / set.row_bytes() as f64)?,
            Work::Reads(keys, threads) => {
                let count = self.amounts.reads;
                let pick = |set: &DataSet, rng: &mut Rng| set.pick_reads(count, rng);
                self.reads(keys, count, pick, |engine, picked| read(engine, picked, threads))?
            }
            Work::Ranges(keys, threads) => {
                let count = self.amounts.ranges;
                let pick = |set: &DataSet, rng: &mut Rng| set.pick_ranges(count, RANGE_ROWS, rng);
                self.reads(keys, count, pick, |engine, picked| scan(engine, picked, threads))?
            }
            Work::Singles(1) => self.singles_beside_bare()?,
            Work::Singles(threads) => self.singles_shared(threads)?,
            Work::NonDurable => self.non_durable()?,
            Work::Batches => self.batches()?,
            Work::Removals => self.removals()?,
            Work::Retain => self.splits(DataSet::split_by_rule, |engine, split| {
                engine.retain(stays)?;
                // What left is not seen; the full scan finds what stayed.
                Ok(split.leave)
            })?,
            Work::ExtractIf => self.splits(DataSet::split_by_rule, |engine, _| engine.extract_if(leaves))?,
            Work::Pop => {
                let count = self.amounts.pops;
                self.splits(|set| set.split_lowest(count), |engine, _| engine.pop_first(count))?
            }
            Work::SizeAfterRemovals => self.sizes_after_removals()?,
        };
        Ok(self.kinds.iter().zip(figures).map(|(engine, figures)| Samples { engine: *engine, figures }).collect())
    }

    /// What the bare file did in the rounds of the single durable writes; `None` unless they were measured.
    pub(crate) fn yardstick(&self) -> Option<&Yardstick> {
        self.yardstick.as_ref()
    }

    /// Closes what is open and removes what is not kept.
    pub(crate) fn close(mut self) -> Result<()> {
        self.close_readers()?;
        self.folders.close()
    }

    fn set(&mut self, keys: Keys) -> Rc<DataSet> {
        match &self.set {
            Some((known, set)) if *known == keys => Rc::clone(set),
            _ => {
                let rows = if keys == Keys::Urls { self.amounts.url_rows } else { self.amounts.rows };
                let set = Rc::new(DataSet::new(keys, rows, self.seed));
                self.set = Some((keys, Rc::clone(&set)));
                set
            }
        }
    }

    /// Numbers of the engines in a new random order.
    fn order(&mut self) -> Vec<usize> {
        self.order_of(self.kinds.len())
    }

    fn order_of(&mut self, count: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..count).collect();
        self.rng.shuffle(&mut order);
        order
    }

    fn no_figures(&self) -> Vec<Vec<f64>> {
        vec![Vec::new(); self.kinds.len()]
    }

    fn loads(&mut self, order: Order) -> Result<Vec<Vec<f64>>> {
        self.close_readers()?;
        let set = self.set(Keys::Random);
        let mut figures = self.no_figures();
        for _ in 0..self.amounts.rounds_fresh {
            for index in self.order() {
                figures[index].push(self.load(&set, self.kinds[index], order)?);
            }
        }
        Ok(figures)
    }

    /// Loads a set into a fresh database and returns the rate. Shuffled rows stay as the loaded database if there is
    /// none yet.
    fn load(&mut self, set: &DataSet, kind: EngineKind, order: Order) -> Result<f64> {
        writeln!(self.log, "loading {} rows into {}", set.len(), kind.name())?;
        let folder = self.folders.fresh(kind)?;
        let engine = kind.open(&folder, self.amounts.cache_bytes)?;
        let rows = if order == Order::Sorted { set.rows_sorted() } else { set.rows_shuffled() };
        let pairs = rows.pairs();
        let started = Instant::now();
        engine.insert(&pairs)?;
        let rate = rate(pairs.len(), started);
        engine.settle()?;
        check_all(kind, &*engine, set.total())?;
        engine.close()?;
        let loaded = self.folders.loaded(set, kind);
        if order == Order::Shuffled && !loaded.exists() {
            self.folders.keep(&folder, &loaded)?;
        } else {
            fs::remove_dir_all(&folder)?;
        }
        Ok(rate)
    }

    /// Makes sure that every engine has a loaded database of the set.
    fn prepare(&mut self, keys: Keys) -> Result<Rc<DataSet>> {
        let set = self.set(keys);
        for kind in self.kinds.clone() {
            if !self.folders.loaded(&set, kind).exists() {
                self.close_readers()?;
                self.load(&set, kind, Order::Shuffled)?;
            }
        }
        Ok(set)
    }

    fn number_loads(&mut self) -> Result<Vec<Vec<f64>>> {
        self.close_readers()?;
        let numbers = numbers(self.amounts.rows, self.seed)?;
        let expected = number_digest(&numbers);
        let mut figures = self.no_figures();
        for _ in 0..self.amounts.rounds_fresh {
            for index in self.order() {
                let kind = self.kinds[index];
                let mut engine = kind.open(&self.folders.fresh(kind)?, self.amounts.cache_bytes)?;
                let started = Instant::now();
                engine.insert_numbers(&numbers)?;
                figures[index].push(rate(numbers.len(), started));
                engine.settle()?;
                check(engine.scan_numbers()?, expected).map_err(|error| named(kind, &*error))?;
                engine.close()?;
                self.folders.fresh(kind)?;
            }
        }
        Ok(figures)
    }

    fn sizes(&mut self, figure: impl Fn(u64, &DataSet) -> f64) -> Result<Vec<Vec<f64>>> {
        let set = self.prepare(Keys::Random)?;
        let size = |kind: &EngineKind| -> Result<Vec<f64>> {
            let bytes = file_bytes(&self.folders.loaded(&set, *kind))?;
            Ok(vec![figure(bytes, &set)])
        };
        self.kinds.iter().map(size).collect()
    }

    fn reads(
        &mut self,
        keys: Keys,
        count: usize,
        pick: impl Fn(&DataSet, &mut Rng) -> Picked,
        run: impl Fn(&dyn Engine, &Picked) -> Result<f64>,
    ) -> Result<Vec<Vec<f64>>> {
        let set = self.prepare(keys)?;
        let engines = self.take_readers(keys, &set)?;
        let mut figures = self.no_figures();
        for _ in 0..self.amounts.rounds {
            let picked = pick(&set, &mut self.rng);
            for index in self.order() {
                let seconds = run(&*engines[index], &picked).map_err(|error| named(self.kinds[index], &*error))?;
                figures[index].push(count as f64 / seconds);
            }
        }
        self.readers = Some((keys, engines));
        Ok(figures)
    }

    /// The loaded databases, opened if they are not yet. The check also brings everything into the caches.
    fn take_readers(&mut self, keys: Keys, set: &DataSet) -> Result<Engines> {
        match self.readers.take() {
            Some((known, engines)) if known == keys => Ok(engines),
            other => {
                self.readers = other;
                self.close_readers()?;
                let loaded = |kind| Ok(self.folders.loaded(set, kind));
                open(&self.kinds, self.amounts.cache_bytes, set, loaded)
            }
        }
    }

    fn close_readers(&mut self) -> Result<()> {
        let engines = self.readers.take().map_or_else(Vec::new, |(_, engines)| engines);
        engines.into_iter().try_for_each(Engine::close)
    }

    /// Copies of the loaded databases, to write to.
    fn copies(&mut self) -> Result<(Rc<DataSet>, Engines)> {
        let set = self.prepare(Keys::Random)?;
        self.close_readers()?;
        let copy = |kind| self.folders.copy(&self.folders.loaded(&set, kind), kind);
        let engines = open(&self.kinds, self.amounts.cache_bytes, &set, copy)?;
        Ok((set, engines))
    }

    fn close_copies(&self, engines: Engines, expected: Digest) -> Result<()> {
        for (kind, engine) in self.kinds.iter().zip(engines) {
            check_all(*kind, &*engine, expected)?;
            engine.close()?;
            self.folders.fresh(*kind)?;
        }
        Ok(())
    }

    fn removals(&mut self) -> Result<Vec<Vec<f64>>> {
        let mut figures = self.no_figures();
        for _ in 0..self.amounts.rounds_fresh {
            let (set, mut engines) = self.copies()?;
            let picked = set.pick_removals(&mut self.rng);
            let keys = picked.keys.list();
            for index in self.order() {
                let started = Instant::now();
                engines[index].remove(&keys)?;
                figures[index].push(rate(keys.len(), started));
                engines[index].settle()?;
            }
            self.close_copies(engines, picked.expected)?;
        }
        Ok(figures)
    }

    /// Rounds in each of which `take` takes the same rows out of a copy.
    fn splits(
        &mut self,
        split: impl Fn(&DataSet) -> Split,
        take: impl Fn(&mut dyn Engine, &Split) -> Result<Digest>,
    ) -> Result<Vec<Vec<f64>>> {
        let split = split(&self.set(Keys::Random));
        let mut figures = self.no_figures();
        for _ in 0..self.amounts.rounds_fresh {
            let (_, mut engines) = self.copies()?;
            for index in self.order() {
                let started = Instant::now();
                let taken = take(&mut *engines[index], &split)?;
                figures[index].push(rate(usize::try_from(split.leave.rows())?, started));
                check(taken, split.leave).map_err(|error| named(self.kinds[index], &*error))?;
                engines[index].settle()?;
            }
            self.close_copies(engines, split.stay)?;
        }
        Ok(figures)
    }

    /// Sizes of closed databases, each of which is opened again to see that nothing else is missing.
    fn sizes_after_removals(&mut self) -> Result<Vec<Vec<f64>>> {
        let (set, engines) = self.copies()?;
        let picked = set.pick_removals(&mut self.rng);
        let mut figures = self.no_figures();
        for ((kind, mut engine), figures) in self.kinds.iter().zip(engines).zip(&mut figures) {
            engine.remove(&picked.keys.list())?;
            engine.settle()?;
            engine.compact()?;
            engine.close()?;
            let folder = self.folders.work(*kind);
            figures.push(mib(file_bytes(&folder)?));
            let engine = kind.open(&folder, self.amounts.cache_bytes)?;
            check_all(*kind, &*engine, picked.expected)?;
            engine.close()?;
            self.folders.fresh(*kind)?;
        }
        Ok(figures)
    }
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

fn open(
    kinds: &[EngineKind],
    cache_bytes: usize,
    set: &DataSet,
    folder: impl Fn(EngineKind) -> Result<PathBuf>,
) -> Result<Engines> {
    let open_one = |kind: &EngineKind| {
        let engine = kind.open(&folder(*kind)?, cache_bytes)?;
        engine.settle()?;
        check_all(*kind, &*engine, set.total())?;
        Ok(engine)
    };
    kinds.iter().map(open_one).collect()
}

fn rate(operations: usize, started: Instant) -> f64 {
    operations as f64 / started.elapsed().as_secs_f64()
}

fn named(kind: EngineKind, error: &(dyn std::error::Error + Send + Sync)) -> String {
    format!("{}: {error}", kind.name())
}

/// Fails unless a full scan finds what it should.
fn check_all(kind: EngineKind, engine: &dyn Engine, expected: Digest) -> Result<()> {
    let found = engine.scan(&[KEY_MIN], usize::MAX)?;
    check(found, expected).map_err(|error| format!("{}: full scan: {error}", kind.name()).into())
}

fn check(found: Digest, expected: Digest) -> Result<()> {
    if found == expected { Ok(()) } else { Err(format!("read {found:?}, expected {expected:?}").into()) }
}

/// Seconds that the lookups take.
fn read(engine: &dyn Engine, picked: &Picked, threads: usize) -> Result<f64> {
    timed(picked, threads, |keys| engine.read(keys))
}

/// Seconds that the range reads take.
fn scan(engine: &dyn Engine, picked: &Picked, threads: usize) -> Result<f64> {
    timed(picked, threads, |keys| engine.scan(keys, RANGE_ROWS))
}

/// Spreads the keys over threads and times it. Each thread has one read transaction for its part; starting the threads
/// is part of the time.
fn timed(picked: &Picked, threads: usize, part: impl Fn(&[&[u8]]) -> Result<Digest> + Sync) -> Result<f64> {
    let keys = picked.keys.list();
    let started = Instant::now();
    let digests: Result<Vec<Digest>> = if threads == 1 {
        Ok(vec![part(&keys)?])
    } else {
        thread::scope(|scope| {
            let parts = keys.chunks(keys.len().div_ceil(threads).max(1));
            let running: Vec<_> = parts.map(|keys| scope.spawn(|| part(keys))).collect();
            running.into_iter().map(|thread| thread.join().map_err(|_| "a reading thread panicked")?).collect()
        })
    };
    let seconds = started.elapsed().as_secs_f64();
    check(digests?.into_iter().collect(), picked.expected)?;
    Ok(seconds)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::RowTest;
    use std::collections::BTreeMap;
    use std::sync::RwLock;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// A store that can leave a row out.
    #[derive(Default)]
    pub(super) struct Map {
        rows: RwLock<BTreeMap<Vec<u8>, Vec<u8>>>,
        /// Transactions that wrote rows.
        pub(super) inserts: AtomicUsize,
        numbers: BTreeMap<u32, u64>,
    }

    impl Engine for Map {
        fn insert(&self, rows: &[(&[u8], &[u8])]) -> Result<()> {
            self.inserts.fetch_add(1, Ordering::Relaxed);
            self.rows.write().unwrap().extend(rows.iter().map(|(key, value)| (key.to_vec(), value.to_vec())));
            Ok(())
        }

        fn insert_each_non_durably(&mut self, rows: &[(&[u8], &[u8])]) -> Result<()> {
            rows.chunks(1).try_for_each(|row| self.insert(row))
        }

        fn read(&self, keys: &[&[u8]]) -> Result<Digest> {
            let (mut digest, rows) = (Digest::default(), self.rows.read().unwrap());
            keys.iter().filter_map(|key| rows.get(*key)).for_each(|value| digest.add_value(value));
            Ok(digest)
        }

        fn scan(&self, starts: &[&[u8]], len: usize) -> Result<Digest> {
            let (mut digest, rows) = (Digest::default(), self.rows.read().unwrap());
            let found = starts.iter().flat_map(|start| rows.range(start.to_vec()..).take(len));
            found.for_each(|(_, value)| digest.add_value(value));
            Ok(digest)
        }

        fn remove(&mut self, keys: &[&[u8]]) -> Result<()> {
            let rows = self.rows.get_mut().unwrap();
            keys.iter().for_each(|key| drop(rows.remove(*key)));
            Ok(())
        }

        fn retain(&mut self, stays: RowTest) -> Result<()> {
            self.rows.get_mut().unwrap().retain(|key, value| stays(key, value));
            Ok(())
        }

        fn extract_if(&mut self, leaves: RowTest) -> Result<Digest> {
            let (mut digest, rows) = (Digest::default(), self.rows.get_mut().unwrap());
            rows.extract_if(.., |key, value| leaves(key, value)).for_each(|(_, value)| digest.add_value(&value));
            Ok(digest)
        }

        fn pop_first(&mut self, count: usize) -> Result<Digest> {
            let (mut digest, rows) = (Digest::default(), self.rows.get_mut().unwrap());
            (0..count).filter_map(|_| rows.pop_first()).for_each(|(_, value)| digest.add_value(&value));
            Ok(digest)
        }

        fn insert_numbers(&mut self, numbers: &[(u32, u64)]) -> Result<()> {
            self.numbers.extend(numbers.iter().copied());
            Ok(())
        }

        fn scan_numbers(&self) -> Result<Digest> {
            let mut digest = Digest::default();
            self.numbers.iter().for_each(|(key, value)| digest.add_number(*key, *value));
            Ok(digest)
        }
    }

    #[test]
    fn wrong_answers_fail_the_measurement_with_any_number_of_threads() {
        let set = DataSet::new(Keys::Random, 200, 5);
        let mut rng = Rng::with_seed(5);
        let (reads, ranges) = (set.pick_reads(1000, &mut rng), set.pick_ranges(1000, RANGE_ROWS, &mut rng));
        let mut map = Map::default();
        map.insert(&set.rows_shuffled().pairs()).unwrap();
        for threads in [1, 2, 3, 16] {
            read(&map, &reads, threads).unwrap();
            scan(&map, &ranges, threads).unwrap();
        }
        check_all(EngineKind::Cowslip, &map, set.total()).unwrap();
        map.rows.get_mut().unwrap().values_mut().for_each(|value| value[149] = value[149].wrapping_add(1));
        for threads in [1, 2, 3, 16] {
            read(&map, &reads, threads).unwrap_err();
            scan(&map, &ranges, threads).unwrap_err();
        }
        check_all(EngineKind::Cowslip, &map, set.total()).unwrap_err();
        let removals = set.pick_removals(&mut rng);
        map.insert(&set.rows_shuffled().pairs()).unwrap();
        map.remove(&removals.keys.list()).unwrap();
        check_all(EngineKind::Cowslip, &map, removals.expected).unwrap();
    }

    /// What `take` takes out of a map with all rows, and of one that lost a row, against what it should find.
    fn taken(set: &DataSet, split: &Split, take: impl Fn(&mut Map) -> Digest) -> [bool; 2] {
        [false, true].map(|short| {
            let mut map = Map::default();
            map.insert(&set.rows_shuffled().pairs()).unwrap();
            if short {
                // A row that stays by the rule, for retaining does not tell what left.
                let rows = map.rows.get_mut().unwrap();
                let key = rows.iter().find(|(key, value)| stays(key, value)).unwrap().0.clone();
                rows.remove(&key);
            }
            let taken = take(&mut map);
            check(taken, split.leave).is_ok() && check_all(EngineKind::Cowslip, &map, split.stay).is_ok()
        })
    }

    #[test]
    fn a_row_missed_by_retaining_extracting_or_popping_fails_the_measurement() {
        let set = DataSet::new(Keys::Random, 500, 5);
        let (rule, lowest) = (set.split_by_rule(), set.split_lowest(100));
        let retain = |map: &mut Map| {
            map.retain(stays).unwrap();
            rule.leave
        };
        assert_eq!(taken(&set, &rule, retain), [true, false]);
        assert_eq!(taken(&set, &rule, |map| map.extract_if(leaves).unwrap()), [true, false]);
        assert_eq!(taken(&set, &lowest, |map| map.pop_first(100).unwrap()), [true, false]);
    }

    #[test]
    fn a_number_that_is_missing_or_wrong_is_found() {
        let numbers = numbers(100, 5).unwrap();
        let mut map = Map::default();
        map.insert_numbers(&numbers).unwrap();
        assert_eq!(map.scan_numbers().unwrap(), number_digest(&numbers));
        map.insert_numbers(&[(numbers[0].0, numbers[0].1 ^ 1)]).unwrap();
        assert_ne!(map.scan_numbers().unwrap(), number_digest(&numbers));
    }
}
