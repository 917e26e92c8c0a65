//! Keys, values and tables of the model, and how random ones are made.
//!
//! Invariant: keys sort by the derived order of their Rust types, never by anything that the store encodes.

use crate::random::Random;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Longest key that the store takes.
pub(super) const KEY_BYTES_MAX: usize = 64 << 10;

/// A key of any table. Keys of one table are all of one variant.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum AnyKey {
    U64(u64),
    Text(Arc<str>),
    Bytes(Arc<[u8]>),
    Pair(u32, Arc<str>),
    Stamp([u8; 16], i64),
    I32(i32),
    U128(u128),
    Unit,
}

impl AnyKey {
    /// Whether the key starts with `prefix`: a shorter text, fewer bytes, or the first part of a pair.
    pub(super) fn starts_with(&self, prefix: &AnyKey) -> bool {
        match (self, prefix) {
            (Self::Text(key), Self::Text(prefix)) => key.starts_with(&**prefix),
            (Self::Bytes(key), Self::Bytes(prefix)) => key.starts_with(prefix),
            (Self::Pair(first, _), Self::Pair(prefix, _)) => first == prefix,
            (Self::Stamp(first, _), Self::Stamp(prefix, _)) => first == prefix,
            _ => false,
        }
    }
}

/// A value of any table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum AnyValue {
    U64(u64),
    Bytes(Arc<[u8]>),
    Text(Arc<str>),
    Counted(u64, Arc<[u8]>),
    Unit,
    Array([u8; 24]),
}

impl AnyValue {
    pub(super) fn len(&self) -> usize {
        match self {
            Self::U64(_) => 8,
            Self::Bytes(bytes) => bytes.len(),
            Self::Text(text) => text.len(),
            Self::Counted(_, bytes) => 8 + bytes.len(),
            Self::Unit => 0,
            Self::Array(bytes) => bytes.len(),
        }
    }
}

/// The types of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    NumberToBytes,
    TextToNumber,
    BytesToText,
    PairToCounted,
    StampToUnit,
    SignedToArray,
    WideToBytes,
    UnitToText,
    TextToBytes,
}

impl Kind {
    pub(super) const ALL: [Kind; 9] = [
        Self::NumberToBytes,
        Self::TextToNumber,
        Self::BytesToText,
        Self::PairToCounted,
        Self::StampToUnit,
        Self::SignedToArray,
        Self::WideToBytes,
        Self::UnitToText,
        Self::TextToBytes,
    ];

    pub(super) fn has_prefixes(self) -> bool {
        matches!(
            self,
            Self::TextToNumber | Self::BytesToText | Self::PairToCounted | Self::StampToUnit | Self::TextToBytes
        )
    }
}

pub(super) type RowMap = BTreeMap<AnyKey, AnyValue>;

/// A table of the model. Cheap to clone; rows are copied by whoever changes them first.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct TableModel {
    pub(super) kind: Kind,
    pub(super) rows: Arc<RowMap>,
}

impl TableModel {
    pub(super) fn new(kind: Kind) -> Self {
        Self { kind, rows: Arc::default() }
    }

    pub(super) fn any_key(&self, random: &mut Random) -> Option<AnyKey> {
        let index = random.below(self.rows.len().max(1));
        self.rows.keys().nth(index).cloned()
    }

    pub(super) fn bytes(&self) -> usize {
        self.rows.values().map(AnyValue::len).sum()
    }
}

/// All tables of one version.
pub(super) type State = BTreeMap<String, TableModel>;

/// The start of what Debug shows.
pub(super) fn brief(shown: &impl std::fmt::Debug) -> String {
    let text = format!("{shown:?}");
    let start: String = text.chars().take(100).collect();
    if start.len() < text.len() { format!("{start}.. ({} characters)", text.len()) } else { start }
}

/// What the data of one episode looks like.
#[derive(Debug, Clone)]
pub(super) struct Shape {
    /// Rows at which a table starts to shrink.
    pub(super) rows_max: usize,
    /// Bytes of values at which a table starts to shrink.
    pub(super) bytes_max: usize,
    /// Values of several MiB may occur.
    pub(super) huge_values: bool,
    /// Starts that many keys share.
    pub(super) stems: Vec<String>,
}

impl Shape {
    pub(super) fn draw(random: &mut Random, tiny: bool) -> Self {
        let rows_max = *random.pick(&[8, 60, 300, 800]);
        let mut stems = vec![String::new(), "a".to_owned(), "item/".to_owned()];
        for len in [30, 100, 400, 3000] {
            let len = random.between(len / 2, len);
            stems.push(text(random, len));
        }
        Self { rows_max, bytes_max: if tiny { 96 << 10 } else { 512 << 10 }, huge_values: !tiny, stems }
    }

    pub(super) fn key(&self, random: &mut Random, kind: Kind) -> AnyKey {
        match kind {
            Kind::NumberToBytes => AnyKey::U64(match random.below(8) {
                0 => random.next(),
                1 => u64::MAX - random.next() % 4,
                2 => 1 << random.below(64),
                _ => random.next() % (3 * self.rows_max as u64),
            }),
            Kind::TextToNumber | Kind::TextToBytes => AnyKey::Text(self.text_key(random).into()),
            Kind::BytesToText => AnyKey::Bytes(match random.below(4) {
                0 => self.text_key(random).into_bytes().into(),
                1 => [[0, 0xFF][random.below(2)]].repeat(random.below(20)).into(),
                _ => {
                    let len = random.below(6);
                    random.bytes(len).iter().map(|byte| [0, 1, b'a', 0xFE, 0xFF][usize::from(*byte) % 5]).collect()
                }
            }),
            Kind::PairToCounted => {
                let first = [0, 1, 256, u32::MAX][random.below(4)];
                AnyKey::Pair(first, self.text_key(random).into())
            }
            Kind::StampToUnit => {
                let mut first = [0; 16];
                first[random.below(16)] = [0, 1, 0xFF][random.below(3)];
                let second = [i64::MIN, -1, 0, 1, i64::MAX][random.below(5)];
                AnyKey::Stamp(first, second.wrapping_add([0, 1, -1, 77][random.below(4)]))
            }
            Kind::SignedToArray => {
                let offset = i32::try_from(random.below(2 * self.rows_max)).expect("few rows");
                AnyKey::I32([i32::MIN, 0, 0, 0][random.below(4)].wrapping_add(offset - 9))
            }
            Kind::WideToBytes => {
                let low = u128::from(random.next() % (self.rows_max as u64));
                AnyKey::U128([low, low << 64, u128::MAX - low, low << 32][random.below(4)])
            }
            Kind::UnitToText => AnyKey::Unit,
        }
    }

    /// Texts from empty to the longest key, most of them short or behind a shared stem.
    fn text_key(&self, random: &mut Random) -> String {
        match random.weighted(&[20, 200, 700, 30, 4]) {
            0 => String::new(),
            1 => {
                let len = random.between(1, 12);
                text(random, len)
            }
            2 => {
                let stem = random.below(self.stems.len());
                format!("{}{:03}", self.stems[stem], random.below(self.rows_max))
            }
            3 => {
                let len = random.between(500, 6000);
                text(random, len)
            }
            _ => {
                let mut key = "k".repeat(KEY_BYTES_MAX - 5 - random.below(5000));
                key.push_str(["", "a", "b", "\0"][random.below(4)]);
                key
            }
        }
    }

    pub(super) fn value(&self, random: &mut Random, kind: Kind) -> AnyValue {
        let len = self.value_len(random);
        value_of(random, kind, len)
    }

    fn value_len(&self, random: &mut Random) -> usize {
        match random.weighted(&[40, 600, 200, 100, 40, 14, if self.huge_values { 30 } else { 0 }]) {
            0 => 0,
            1 => random.below(64),
            2 => random.below(600),
            3 => random.below(5000),
            4 => random.below(20_000),
            5 => random.between(40_000, 200_000),
            _ => random.between(1 << 20, 3 << 20),
        }
    }
}

/// A value whose variable part has this length.
pub(super) fn value_of(random: &mut Random, kind: Kind, len: usize) -> AnyValue {
    match kind {
        Kind::NumberToBytes | Kind::WideToBytes | Kind::TextToBytes => AnyValue::Bytes(random.bytes(len).into()),
        Kind::TextToNumber => AnyValue::U64(random.next()),
        Kind::BytesToText | Kind::UnitToText => AnyValue::Text(letters(random, len).into()),
        Kind::PairToCounted => AnyValue::Counted(random.next(), random.bytes(len.saturating_sub(8)).into()),
        Kind::StampToUnit => AnyValue::Unit,
        Kind::SignedToArray => {
            let mut array = [0; 24];
            array.copy_from_slice(&random.bytes(24));
            AnyValue::Array(array)
        }
    }
}

fn letters(random: &mut Random, len: usize) -> String {
    random.bytes(len).into_iter().map(|byte| char::from(b'a' + byte % 26)).collect()
}

/// So many characters, some of them of several bytes.
fn text(random: &mut Random, len: usize) -> String {
    (0..len).map(|_| *random.pick(&['a', 'a', 'b', '\0', '~', '\u{E9}', '\u{10FFFF}'])).collect()
}
