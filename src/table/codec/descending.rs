//! Keys in falling order.
//!
//! Invariant: the ordered form is the part form with every bit inverted, also where the key ends: no part form is a
//! prefix of another, so two of them differ in a byte, and inverting turns the order around.
//! Layer 6 (table). Bytes: design.md, "Type descriptors and encodings".

use super::ordered;
use crate::base::codec::DecodeError;
use crate::table::descriptor::TypeDescriptor;
use crate::table::traits::{Key, TypeName, Value};
use std::cmp::Ordering;

/// How much of a key is inverted at first to look for the end of a part.
const WINDOW_BYTES: usize = 64;

/// A key, or a part of one, that sorts in falling order, as [`std::cmp::Reverse`] does.
///
/// As a value it has the bytes of what it wraps.
///
/// ```
/// # fn main() -> Result<(), cowslip::Error> {
/// use cowslip::{Database, Desc, TableDefinition};
/// const SCORES: TableDefinition<(&str, Desc<u32>), &str> = TableDefinition::new("scores");
/// let db = Database::in_memory()?;
/// db.update(|tx| {
///     let mut scores = tx.open_table(SCORES)?;
///     scores.insert(("chess", Desc(20)), "bob")?;
///     scores.insert(("chess", Desc(900)), "ada")?;
///     let best = scores.prefix("chess")?.next().transpose()?;
///     assert_eq!(best.map(|(_, player)| player.value().to_owned()), Some("ada".to_owned()));
///     Ok::<_, cowslip::Error>(())
/// })
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Desc<T>(pub T);

impl<T: PartialOrd> PartialOrd for Desc<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        other.0.partial_cmp(&self.0)
    }
}

impl<T: Ord> Ord for Desc<T> {
    fn cmp(&self, other: &Self) -> Ordering {
        other.0.cmp(&self.0)
    }
}

impl<T: Value> Value for Desc<T> {
    type SelfType<'a>
        = Desc<T::SelfType<'a>>
    where
        Self: 'a;
    type AsBytes<'a>
        = T::AsBytes<'a>
    where
        Self: 'a;

    fn fixed_width() -> Option<usize> {
        T::fixed_width()
    }

    fn try_from_bytes<'a>(data: &'a [u8]) -> Result<Self::SelfType<'a>, DecodeError>
    where
        Self: 'a,
    {
        T::try_from_bytes(data).map(Desc)
    }

    fn as_bytes<'a, 'b: 'a>(value: &'a Self::SelfType<'b>) -> T::AsBytes<'a>
    where
        Self: 'b,
    {
        T::as_bytes(&value.0)
    }

    fn type_name() -> TypeName {
        TypeName::builtin(&Self::descriptor())
    }

    fn descriptor() -> TypeDescriptor {
        TypeDescriptor::Desc(Box::new(T::descriptor()))
    }
}

fn inverted(bytes: &[u8]) -> Vec<u8> {
    bytes.iter().map(|byte| !byte).collect()
}

impl<T: Key> Key for Desc<T> {
    fn encode_key<'a>(value: &Self::SelfType<'a>, out: &mut Vec<u8>)
    where
        Self: 'a,
    {
        let start = out.len();
        T::encode_key_part(&value.0, out);
        for byte in &mut out[start..] {
            *byte = !*byte;
        }
    }

    fn decode_key(bytes: &[u8], out: &mut Vec<u8>) -> Result<(), DecodeError> {
        match T::decode_key_part(&inverted(bytes), out)? {
            [] => Ok(()),
            rest => Err(DecodeError::new(format!("{} bytes left over behind a falling key", rest.len()))),
        }
    }

    fn encode_key_part<'a>(value: &Self::SelfType<'a>, out: &mut Vec<u8>)
    where
        Self: 'a,
    {
        Self::encode_key(value, out);
    }

    /// Inverts no more than about twice the part, whose end only its decoding tells: many parts may stand in one key.
    fn decode_key_part<'k>(bytes: &'k [u8], out: &mut Vec<u8>) -> Result<&'k [u8], DecodeError> {
        let start = out.len();
        if let Some(width) = T::fixed_width() {
            let (part, rest) = ordered::split_fixed(bytes, width)?;
            Self::decode_key(part, out)?;
            return Ok(rest);
        }
        let mut window = WINDOW_BYTES.min(bytes.len());
        loop {
            let front = inverted(&bytes[..window]);
            match T::decode_key_part(&front, out) {
                Ok(behind) => return Ok(&bytes[window - behind.len()..]),
                Err(error) if window == bytes.len() => return Err(error),
                Err(_) => {
                    out.truncate(start);
                    window = window.saturating_mul(2).min(bytes.len());
                }
            }
        }
    }
}
