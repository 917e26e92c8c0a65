//! The rows of the table, and how much work each is at a scale.

use crate::Result;
use crate::data::Keys;
use clap::ValueEnum;

/// Rows that a range read returns.
pub(crate) const RANGE_ROWS: usize = 10;

/// Name of the row that is measured beside a bare file.
pub(crate) const SINGLES: &str = "single durable writes";

/// Order in which rows are loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    Shuffled,
    Sorted,
}

/// Kind of work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Work {
    /// All rows in one transaction, into an empty database.
    Load(Order),
    /// All numbers in random order in one transaction, into an empty database.
    LoadNumbers,
    /// Bytes of the files that the load left.
    Size,
    /// The same for each byte of a key or a value.
    SizeOverRows,
    /// Lookups of keys that exist, spread over so many threads.
    Reads(Keys, usize),
    /// Reads of ten rows in order of their keys, spread over so many threads.
    Ranges(Keys, usize),
    /// New rows, each in a durable transaction, spread over so many threads.
    Singles(usize),
    /// New rows, each in a transaction that waits for no medium.
    NonDurable,
    /// New rows, many in a transaction.
    Batches,
    /// Half of the rows in one transaction.
    Removals,
    /// Every second row by a predicate that keeps the others.
    Retain,
    /// Every second row by a predicate, each looked at.
    ExtractIf,
    /// The rows with the lowest keys, one after the other in one transaction, each looked at.
    Pop,
    /// Bytes of the files after half of the rows were removed and the rest compacted.
    SizeAfterRemovals,
}

/// One row of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Workload {
    pub(crate) name: &'static str,
    pub(crate) work: Work,
}

impl Workload {
    /// All of them, in the order in which they run.
    pub(crate) const ALL: [Self; 26] = [
        Self::new("bulk load", Work::Load(Order::Shuffled)),
        Self::new("sorted inserts", Work::Load(Order::Sorted)),
        Self::new("bulk load u32 to u64", Work::LoadNumbers),
        Self::new("size after load", Work::Size),
        Self::new("size over raw rows after load", Work::SizeOverRows),
        Self::new("random reads", Work::Reads(Keys::Random, 1)),
        Self::new("random reads 2 threads", Work::Reads(Keys::Random, 2)),
        Self::new("random reads 4 threads", Work::Reads(Keys::Random, 4)),
        Self::new("random reads 8 threads", Work::Reads(Keys::Random, 8)),
        Self::new("random reads 16 threads", Work::Reads(Keys::Random, 16)),
        Self::new("range reads", Work::Ranges(Keys::Random, 1)),
        Self::new("range reads 2 threads", Work::Ranges(Keys::Random, 2)),
        Self::new("range reads 4 threads", Work::Ranges(Keys::Random, 4)),
        Self::new("range reads 8 threads", Work::Ranges(Keys::Random, 8)),
        Self::new("range reads 16 threads", Work::Ranges(Keys::Random, 16)),
        Self::new("random reads URL keys", Work::Reads(Keys::Urls, 1)),
        Self::new("URL range reads", Work::Ranges(Keys::Urls, 1)),
        Self::new(SINGLES, Work::Singles(1)),
        Self::new("single durable writes 8 threads", Work::Singles(8)),
        Self::new("non-durable commits", Work::NonDurable),
        Self::new("batches", Work::Batches),
        Self::new("removals", Work::Removals),
        Self::new("retain", Work::Retain),
        Self::new("extract_if", Work::ExtractIf),
        Self::new("pop", Work::Pop),
        Self::new("size after removals", Work::SizeAfterRemovals),
    ];

    const fn new(name: &'static str, work: Work) -> Self {
        Self { name, work }
    }

    /// The row of a name, in which hyphens may stand for spaces.
    pub(crate) fn of_name(name: &str) -> Result<Self> {
        let plain = |name: &str| name.trim().replace('-', " ").to_lowercase();
        let found = Self::ALL.into_iter().find(|workload| plain(workload.name) == plain(name));
        let known = Self::ALL.map(|workload| workload.name).join(", ");
        found.ok_or_else(|| format!("no row is called {name:?}; there are: {known}").into())
    }

    /// What one unit of the figure is.
    pub(crate) fn unit(&self) -> &'static str {
        match self.work {
            Work::Size | Work::SizeAfterRemovals => "MiB",
            Work::SizeOverRows => "ratio",
            Work::Reads(..) => "reads/s",
            Work::Ranges(..) => "ranges/s",
            Work::Singles(_) | Work::NonDurable => "commits/s",
            Work::Load(_) | Work::LoadNumbers | Work::Batches => "rows/s",
            Work::Removals | Work::Retain | Work::ExtractIf | Work::Pop => "rows/s",
        }
    }

    /// Whether more is better.
    pub(crate) fn more_is_better(&self) -> bool {
        !matches!(self.work, Work::Size | Work::SizeOverRows | Work::SizeAfterRemovals)
    }
}

/// How large everything is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Scale {
    /// 100 thousand rows: shows that everything works.
    Small,
    /// 1 million rows: minutes.
    Medium,
    /// 5 million rows: the published figures.
    Full,
}

impl Scale {
    /// Name in options and output.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Small => "small",
            Self::Medium => "medium",
            Self::Full => "full",
        }
    }
}

/// Amounts of work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Amounts {
    /// Rows of the main data set.
    pub(crate) rows: usize,
    /// Rows of the data set with URL keys.
    pub(crate) url_rows: usize,
    /// Lookups in a round.
    pub(crate) reads: usize,
    /// Range reads in a round.
    pub(crate) ranges: usize,
    /// Durable transactions of one row in a round.
    pub(crate) singles: usize,
    /// The same where several threads share them.
    pub(crate) singles_shared: usize,
    /// Transactions of one row in a round that wait for no medium.
    pub(crate) non_durable: usize,
    /// Blocks of the bare file that are overwritten in a round.
    pub(crate) overwrites: usize,
    /// Transactions of many rows in a round.
    pub(crate) batches: usize,
    /// Rows in each of them.
    pub(crate) batch_rows: usize,
    /// Rows that are popped in a round.
    pub(crate) pops: usize,
    /// Rounds of work that is repeated on the same database.
    pub(crate) rounds: usize,
    /// Rounds of work that needs a fresh database each time.
    pub(crate) rounds_fresh: usize,
    /// Cache of each store.
    pub(crate) cache_bytes: usize,
}

impl Amounts {
    /// Those of a scale, where asked with another number of rows.
    pub(crate) fn new(scale: Scale, rows: Option<usize>) -> Self {
        let (scale_rows, rounds, rounds_fresh, cache_bytes) = match scale {
            Scale::Small => (100_000, 5, 1, 256 << 20),
            Scale::Medium => (1_000_000, 11, 3, 512 << 20),
            Scale::Full => (5_000_000, 11, 3, 2 << 30),
        };
        let rows = rows.unwrap_or(scale_rows);
        let reads = rows.min(1_000_000);
        Self {
            rows,
            url_rows: rows.div_ceil(5),
            reads,
            ranges: reads.div_ceil(5),
            singles: (rows / 1000).clamp(10, 1000),
            singles_shared: (rows / 500).clamp(20, 2000),
            non_durable: (rows / 10).clamp(10, 50_000),
            overwrites: rows.clamp(10, 1000),
            batches: (rows / 10_000).clamp(5, 100),
            batch_rows: (rows / 1000).clamp(10, 1000),
            pops: rows.div_ceil(5),
            rounds,
            rounds_fresh,
            cache_bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_found_by_their_names_with_spaces_or_hyphens() {
        for workload in Workload::ALL {
            assert_eq!(Workload::of_name(workload.name).unwrap(), workload);
            assert!(!workload.name.contains(','), "the option takes it for two names");
            assert_eq!(Workload::of_name(&workload.name.to_lowercase().replace(' ', "-")).unwrap(), workload);
        }
        assert!(Workload::of_name("random").unwrap_err().to_string().contains("random reads 16 threads"));
    }

    #[test]
    fn full_scale_has_the_documented_amounts() {
        let amounts = Amounts::new(Scale::Full, None);
        assert_eq!((amounts.rows, amounts.url_rows, amounts.rounds), (5_000_000, 1_000_000, 11));
        assert_eq!((amounts.batches, amounts.batch_rows, amounts.singles), (100, 1000, 1000));
        assert_eq!((amounts.singles_shared, amounts.non_durable, amounts.overwrites), (2000, 50_000, 1000));
        assert_eq!((amounts.reads, amounts.ranges, amounts.pops), (1_000_000, 200_000, 1_000_000));
    }
}
