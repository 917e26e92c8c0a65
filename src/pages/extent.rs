//! References to bytes that live outside the nodes: long values and the rest of long keys.
//!
//! Invariant: a reference is verified against the file before its length is used for anything.
//! Layer 2 (pages). Bytes: design.md, "Runs and extent lists".

use super::layout::Layout;
use crate::base::codec::DecodeError;
use crate::base::ids::{PageId, Run, TransactionId};

/// Bytes that an encoded reference takes.
pub(crate) const EXTENT_BYTES: usize = 28;

/// Set in the top sixteen bits of the page field: the page holds a list of extents.
const LIST_FLAG: u64 = 1 << 48;

/// Bytes of one entry of an extent list: page and checksum.
const LIST_ENTRY_BYTES: usize = 16;

/// Where out-of-line bytes are, how many, who wrote them, and their checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Extent {
    pub(crate) page: PageId,
    /// Length of the whole value. Longer than one run can hold: `page` names a list of runs.
    pub(crate) len_bytes: u32,
    /// The transaction that wrote every run of this value.
    pub(crate) birth: TransactionId,
    /// Of the bytes at `page`: the value itself, or the list.
    pub(crate) sum: u64,
}

impl Extent {
    pub(crate) fn encode(&self, layout: &Layout) -> [u8; EXTENT_BYTES] {
        let flag = if self.is_list(layout) { LIST_FLAG } else { 0 };
        let mut out = [0; EXTENT_BYTES];
        out[..8].copy_from_slice(&(self.page.get() | flag).to_le_bytes());
        out[8..12].copy_from_slice(&self.len_bytes.to_le_bytes());
        out[12..20].copy_from_slice(&self.birth.get().to_le_bytes());
        out[20..].copy_from_slice(&self.sum.to_le_bytes());
        out
    }

    pub(crate) fn decode(bytes: &[u8; EXTENT_BYTES], layout: &Layout) -> Result<Self, DecodeError> {
        let mut input = crate::base::codec::Decoder::new(bytes);
        let word = input.u64()?;
        let extent = Self {
            page: PageId::new(word & (PageId::LIMIT - 1))
                .ok_or_else(|| DecodeError::new("page number exceeds 48 bits"))?,
            len_bytes: input.u32()?,
            birth: TransactionId::new(input.u64()?),
            sum: input.u64()?,
        };
        let flag = if extent.is_list(layout) { LIST_FLAG } else { 0 };
        if word & !(PageId::LIMIT - 1) != flag || extent.page.is_none() || extent.len_bytes == 0 {
            return Err(DecodeError::new(format!("impossible extent: word {word:#x}, length {}", extent.len_bytes)));
        }
        Ok(extent)
    }

    /// Whether the value is too long for one run.
    pub(crate) fn is_list(&self, layout: &Layout) -> bool {
        u64::from(self.len_bytes) > run_bytes_max(layout)
    }

    /// Bytes stored at `page`: the value, or the list of its runs.
    pub(crate) fn head_bytes(&self, layout: &Layout) -> u64 {
        if self.is_list(layout) {
            piece_count(self.len_bytes, layout) * LIST_ENTRY_BYTES as u64
        } else {
            u64::from(self.len_bytes)
        }
    }

    /// The run at `page`.
    pub(crate) fn head_run(&self, layout: &Layout) -> Option<Run> {
        let units = u32::try_from(layout.units_for_bytes(self.head_bytes(layout))).ok()?;
        (units <= layout.largest_run_units()).then(|| Run::new(self.page, units))
    }
}

/// The most bytes that one run holds.
pub(crate) fn run_bytes_max(layout: &Layout) -> u64 {
    u64::from(layout.largest_run_units()) * u64::from(layout.unit_bytes())
}

/// How many runs a value of this length is cut into.
pub(crate) fn piece_count(len_bytes: u32, layout: &Layout) -> u64 {
    u64::from(len_bytes).div_ceil(run_bytes_max(layout))
}

/// The longest value whose extent list still fits in one run.
pub(crate) fn value_bytes_max(layout: &Layout) -> usize {
    let by_list = (run_bytes_max(layout) / LIST_ENTRY_BYTES as u64).saturating_mul(run_bytes_max(layout));
    usize::try_from(by_list.min(u64::from(u32::MAX))).unwrap_or(usize::MAX)
}

/// One run of a value that is stored as a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) run: Run,
    pub(crate) len_bytes: usize,
    pub(crate) sum: u64,
}

/// Encodes the list that names a value's runs.
pub(crate) fn encode_list(pieces: &[Piece]) -> Vec<u8> {
    let mut out = Vec::with_capacity(pieces.len() * LIST_ENTRY_BYTES);
    for piece in pieces {
        out.extend_from_slice(&piece.run.page.get().to_le_bytes());
        out.extend_from_slice(&piece.sum.to_le_bytes());
    }
    out
}

/// Decodes a list; every run has the largest length except the last.
pub(crate) fn decode_list(list: &[u8], len_bytes: u32, layout: &Layout) -> Result<Vec<Piece>, DecodeError> {
    let mut input = crate::base::codec::Decoder::new(list);
    let mut left = u64::from(len_bytes);
    let mut pieces = Vec::new();
    while left > 0 {
        let (page, sum) = (input.page()?, input.u64()?);
        let len = left.min(run_bytes_max(layout));
        let units = u32::try_from(layout.units_for_bytes(len)).map_err(|_| DecodeError::new("run too long"))?;
        let len_bytes = usize::try_from(len).map_err(|_| DecodeError::new("run too long for this machine"))?;
        pieces.push(Piece { run: Run::new(page, units), len_bytes, sum });
        left -= len;
    }
    input.finish()?;
    Ok(pieces)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extent_survives_a_round_trip_on_both_sides_of_the_list_threshold() {
        let layout = Layout::new(512, 1, 64).unwrap();
        let most = u32::try_from(run_bytes_max(&layout)).unwrap();
        for len_bytes in [1, most, most + 1, 5 * most] {
            let extent = Extent {
                page: PageId::new((1 << 48) - 1).unwrap(),
                len_bytes,
                birth: TransactionId::new(u64::MAX),
                sum: 3,
            };
            assert_eq!(extent.is_list(&layout), len_bytes > most);
            assert_eq!(Extent::decode(&extent.encode(&layout), &layout), Ok(extent));
        }
    }

    #[test]
    fn unknown_flags_and_empty_extents_are_refused() {
        let layout = Layout::new(4096, 2, 65536).unwrap();
        let extent = Extent { page: PageId::new(9).unwrap(), len_bytes: 5000, birth: TransactionId::new(1), sum: 3 };
        let good = extent.encode(&layout);
        for (byte, value) in [(7, 0x80), (6, 1), (0, 0)] {
            let mut bad = good;
            bad[byte] = value;
            assert!(Extent::decode(&bad, &layout).is_err(), "byte {byte}");
        }
    }

    #[test]
    fn list_names_every_byte_of_the_value() {
        let layout = Layout::new(512, 1, 64).unwrap();
        let most = run_bytes_max(&layout);
        let pieces: Vec<_> = [most, most, 100]
            .iter()
            .enumerate()
            .map(|(index, len)| Piece {
                run: Run::new(
                    PageId::new(100 + index as u64).unwrap(),
                    u32::try_from(layout.units_for_bytes(*len)).unwrap(),
                ),
                len_bytes: usize::try_from(*len).unwrap(),
                sum: 7,
            })
            .collect();
        let total = u32::try_from(2 * most + 100).unwrap();
        assert_eq!(decode_list(&encode_list(&pieces), total, &layout), Ok(pieces.clone()));
        assert!(decode_list(&encode_list(&pieces[..2]), total, &layout).is_err());
    }
}
