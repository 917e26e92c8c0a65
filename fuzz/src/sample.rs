//! The database that the `image` target damages: small, and every kind of structure occurs in it.

use cowslip::sim::SimDisk;
use cowslip::{Builder, Clock, Database, Error, ReadTransaction, TableDefinition, TableError, TableHandle};
use std::collections::{BTreeMap, HashMap};
use std::sync::OnceLock;
use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

/// Bytes of an allocation unit.
pub const UNIT_BYTES: usize = 512;
const NODE_UNITS: u32 = 2;
const REGION_UNITS: u32 = 64;
/// Longest value; all long ones have a length that is a multiple of eight.
const VALUE_BYTES_MAX: usize = 2400;

/// Table whose keys are byte strings.
pub const BYTES: TableDefinition<&[u8], &[u8]> = TableDefinition::new("bytes");
/// Table whose keys are integers.
pub const NUMBERS: TableDefinition<u64, &[u8]> = TableDefinition::new("numbers");

/// Table whose leaves are uniform: all keys and all values have one length.
pub const PAIRS: TableDefinition<u64, &[u8]> = TableDefinition::new("pairs");
const PAIRS_COUNT: u64 = 150;

/// Rows of every table, keys of integers in big-endian order.
pub type State = BTreeMap<String, Vec<(Vec<u8>, Vec<u8>)>>;

/// Bytes that are covered by a checksum, and the places where that is stored.
#[derive(Debug, Clone)]
pub struct Sealed {
    /// Offset of the first byte.
    pub start: usize,
    /// Number of bytes.
    pub len: usize,
    /// Offsets of the checksum, and how many bytes of it are stored there: 8 or 16.
    pub stored_at: Vec<(usize, usize)>,
}

/// A file, what it holds, and where its checksums are.
#[derive(Debug)]
pub struct Sample {
    /// The bytes of the file.
    pub bytes: Vec<u8>,
    /// Everything that a parent has a checksum of.
    pub sealed: Vec<Sealed>,
}

/// The same database, once closed and once as a killed process leaves it, and the state after every commit.
#[derive(Debug)]
pub struct Samples {
    /// After a clean close.
    pub closed: Sample,
    /// While the database was still open.
    pub open: Sample,
    /// What each commit made, the empty database first.
    pub states: Vec<State>,
}

/// Time stands still, so that every run makes the same bytes.
#[derive(Debug)]
struct NoTime;

impl Clock for NoTime {
    fn now_micros(&self) -> u64 {
        1
    }
}

/// Options for files with the geometry of the sample.
#[must_use]
pub fn builder() -> Builder {
    let unit_bytes = u32::try_from(UNIT_BYTES).expect("a unit is small");
    let builder = Builder::new().test_geometry(unit_bytes, NODE_UNITS * unit_bytes, REGION_UNITS);
    builder.test_identity([7; 16]).cache_bytes_max(1 << 20).clock(NoTime)
}

/// The sample, made once.
pub fn samples() -> &'static Samples {
    static SAMPLES: OnceLock<Samples> = OnceLock::new();
    SAMPLES.get_or_init(|| build(0).expect("an undamaged database can be written and read"))
}

/// The sample with one more table, whose leaves are uniform. Inputs of the `image` target name places by their order
/// in the smaller one.
pub fn uniform_samples() -> &'static Samples {
    static SAMPLES: OnceLock<Samples> = OnceLock::new();
    SAMPLES.get_or_init(|| build(PAIRS_COUNT).expect("an undamaged database can be written and read"))
}

fn build(pairs_count: u64) -> Result<Samples, Error> {
    let disk = SimDisk::new();
    let database = builder().create_with_storage(disk.clone())?;
    let mut states = vec![State::new()];
    for round in 0..3_usize {
        database.update(|tx| {
            let mut bytes = tx.open_table(BYTES)?;
            let mut numbers = tx.open_table(NUMBERS)?;
            for number in round * 12..round * 12 + 40 {
                let filler = [number.to_le_bytes()[0]; VALUE_BYTES_MAX];
                let id = number as u64;
                let key = [&b"key-"[..], &id.to_be_bytes()[6..], &filler[..if number % 9 == 0 { 200 } else { 3 }]];
                bytes.insert(&key.concat()[..], &filler[..20])?;
                let len = if number % 7 == 0 { 80 * (number % 30) } else { number % 40 };
                numbers.insert(id * 1000, &filler[..len])?;
                if number % 5 == 0 {
                    numbers.remove(id * 200)?;
                }
            }
            if pairs_count > 0 {
                let mut pairs = tx.open_table(PAIRS)?;
                for number in 0..pairs_count {
                    pairs.insert(number * 997, &(number * round as u64).to_le_bytes()[..])?;
                }
            }
            Ok::<_, Error>(())
        })?;
        states.push(read_all(&database.begin_read()?)?);
    }
    let open = Sample::new(disk.image());
    database.close()?;
    Ok(Samples { closed: Sample::new(disk.image()), open, states })
}

/// Reads every row of every table.
pub fn read_all(snapshot: &ReadTransaction) -> Result<State, Error> {
    let mut state = State::new();
    for table in snapshot.list_tables()? {
        let mut rows = Vec::new();
        match snapshot.open_table(TableDefinition::<u64, &[u8]>::new(table.name())) {
            Ok(numbers) => {
                for row in numbers.iter()? {
                    let (key, value) = row?;
                    rows.push((key.value().to_be_bytes().to_vec(), value.value().to_vec()));
                }
            }
            Err(TableError::TypeMismatch(_)) => {
                let bytes = snapshot.open_table(TableDefinition::<&[u8], &[u8]>::new(table.name()))?;
                for row in bytes.iter()?.rev() {
                    let (key, value) = row?;
                    rows.push((key.value().to_vec(), value.value().to_vec()));
                }
                rows.reverse();
            }
            Err(error) => return Err(error.into()),
        }
        state.insert(table.name().to_owned(), rows);
    }
    Ok(state)
}

/// Opens an image.
pub fn open(disk: SimDisk, read_only: bool) -> Result<Database, Error> {
    let opened =
        if read_only { builder().open_read_only_with_storage(disk) } else { builder().open_with_storage(disk) };
    Ok(opened?)
}

impl Sample {
    /// Finds what is covered by a checksum by looking for the checksums, so that nothing of the format is repeated
    /// here but that units are aligned and lengths are multiples of eight.
    fn new(bytes: Vec<u8>) -> Self {
        let mut words: HashMap<[u8; 8], Vec<usize>> = HashMap::new();
        for (at, word) in bytes.windows(8).enumerate() {
            if word.iter().any(|byte| *byte != 0) {
                words.entry(word.try_into().expect("a window of eight bytes")).or_default().push(at);
            }
        }
        let mut sealed = Vec::new();
        for start in (3 * 4096..bytes.len()).step_by(UNIT_BYTES) {
            for len in (8..=VALUE_BYTES_MAX.min(bytes.len() - start)).step_by(8) {
                let covered = &bytes[start..start + len];
                let wide = xxh3_128(covered).to_le_bytes();
                let places = |word: &[u8]| words.get(word).into_iter().flatten().copied();
                let narrow = places(&xxh3_64(covered).to_le_bytes()).map(|at| (at, 8));
                let wide_at = places(&wide[..8]).filter(|at| bytes[*at..].starts_with(&wide)).map(|at| (at, 16));
                let stored_at: Vec<(usize, usize)> = narrow.chain(wide_at).collect();
                if !stored_at.is_empty() {
                    sealed.push(Sealed { start, len, stored_at });
                }
            }
        }
        Self { bytes, sealed }
    }
}
