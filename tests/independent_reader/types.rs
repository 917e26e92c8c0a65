//! Type descriptors, and the two forms of every type: in values and in keys.
//!
//! Uses no code of `src/` and follows design.md, "Type descriptors and encodings".

use super::bytes::{Result, array, corrupted, part, require, size, u16_at, u32_at};

/// What the bytes of a key or value mean.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Type {
    Unit,
    Bool,
    /// Unsigned integer of so many bytes.
    Unsigned(usize),
    /// Signed integer of so many bytes.
    Signed(usize),
    String,
    Bytes,
    FixedBytes(usize),
    Tuple(Vec<Type>),
    Named {
        name: String,
        width: Option<usize>,
    },
}

/// A decoded key or value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Datum {
    Unit,
    Bool(bool),
    Unsigned(u128),
    Signed(i128),
    String(String),
    /// Also of fixed length, and of types that only the application knows.
    Bytes(Vec<u8>),
    Tuple(Vec<Datum>),
}

/// Takes the next `length` bytes off the front of `bytes`.
fn take<'b>(bytes: &mut &'b [u8], length: usize) -> Result<&'b [u8]> {
    let taken = part(bytes, 0, length)?;
    *bytes = &bytes[length..];
    Ok(taken)
}

fn utf8(bytes: &[u8]) -> Result<String> {
    String::from_utf8(bytes.to_vec()).or_else(|_| corrupted("a string is not UTF-8"))
}

impl Type {
    /// Decodes a descriptor that has exactly these bytes.
    pub(crate) fn decode(mut descriptor: &[u8]) -> Result<Self> {
        require(descriptor.len() <= 4096, "a descriptor is too long")?;
        let decoded = Self::decode_next(&mut descriptor, 16)?;
        require(descriptor.is_empty(), "bytes follow a descriptor")?;
        Ok(decoded)
    }

    fn decode_next(from: &mut &[u8], levels: u32) -> Result<Self> {
        require(levels > 0, "a descriptor is nested too deeply")?;
        Ok(match take(from, 1)?[0] {
            0x01 => Self::Unit,
            0x02 => Self::Bool,
            tag @ 0x10..=0x14 => Self::Unsigned(1 << (tag - 0x10)),
            tag @ 0x18..=0x1C => Self::Signed(1 << (tag - 0x18)),
            0x30 => Self::String,
            0x31 => Self::Bytes,
            0x32 => Self::FixedBytes(size(u32_at(take(from, 4)?, 0)?)?),
            0x40 => {
                let count = take(from, 1)?[0];
                require(count > 0, "a tuple has no part")?;
                Self::Tuple((0..count).map(|_| Self::decode_next(from, levels - 1)).collect::<Result<_>>()?)
            }
            0x50 => {
                let name_bytes = size(u16_at(take(from, 2)?, 0)?)?;
                let name = utf8(take(from, name_bytes)?)?;
                let flag = take(from, 1)?[0];
                let width = size(u32_at(take(from, 4)?, 0)?)?;
                require(flag == 1 || (flag, width) == (0, 0), "a named type has an impossible width")?;
                Self::Named { name, width: (flag == 1).then_some(width) }
            }
            _ => return corrupted("a descriptor has an unknown tag"),
        })
    }

    /// Bytes of every encoded key and value of the type, where all have the same.
    fn width(&self) -> Option<usize> {
        match self {
            Self::Unit => Some(0),
            Self::Bool => Some(1),
            Self::Unsigned(bytes) | Self::Signed(bytes) | Self::FixedBytes(bytes) => Some(*bytes),
            Self::String | Self::Bytes => None,
            Self::Tuple(parts) => parts.iter().map(Self::width).sum(),
            Self::Named { width, .. } => *width,
        }
    }

    /// Decodes the value encoding, which uses up the bytes.
    pub(crate) fn value(&self, mut bytes: &[u8]) -> Result<Datum> {
        match self {
            Self::Unsigned(width) => little_endian(bytes, *width).map(Datum::Unsigned),
            Self::Signed(width) => {
                let shift = 128 - 8 * width;
                Ok(Datum::Signed((little_endian(bytes, *width)? << shift).cast_signed() >> shift))
            }
            Self::Tuple(parts) => {
                let mut lengths = Vec::new();
                let variable = parts.iter().filter(|part| part.width().is_none()).count();
                for _ in 1..variable {
                    lengths.push(size(u32_at(take(&mut bytes, 4)?, 0)?)?);
                }
                let fixed: usize = parts.iter().filter_map(Self::width).sum();
                let used = lengths.iter().fold(fixed, |sum, length| sum.saturating_add(*length));
                if variable > 0 {
                    require(used <= bytes.len(), "a tuple is shorter than its parts")?;
                    lengths.push(bytes.len() - used);
                }
                let mut lengths = lengths.into_iter();
                let mut data = Vec::new();
                for part in parts {
                    let length = part.width().or_else(|| lengths.next()).unwrap_or(0);
                    data.push(part.value(take(&mut bytes, length)?)?);
                }
                require(bytes.is_empty(), "bytes follow a tuple")?;
                Ok(Datum::Tuple(data))
            }
            plain => plain.plain(bytes),
        }
    }

    /// Decodes the standalone ordered form, which uses up the bytes.
    pub(crate) fn key(&self, mut bytes: &[u8]) -> Result<Datum> {
        match self {
            Self::Unsigned(width) => big_endian(bytes, *width).map(Datum::Unsigned),
            Self::Signed(width) => {
                let flipped = big_endian(bytes, *width)? ^ (1 << (8 * width - 1));
                let shift = 128 - 8 * width;
                Ok(Datum::Signed((flipped << shift).cast_signed() >> shift))
            }
            Self::Tuple(parts) => {
                let mut data = Vec::new();
                if let Some((last, before)) = parts.split_last() {
                    for part in before {
                        data.push(part.key_part(&mut bytes)?);
                    }
                    data.push(last.key(bytes)?);
                }
                Ok(Datum::Tuple(data))
            }
            plain => plain.plain(bytes),
        }
    }

    /// Takes the part form off the front.
    fn key_part(&self, bytes: &mut &[u8]) -> Result<Datum> {
        match (self, self.width()) {
            (Self::Tuple(parts), _) => {
                parts.iter().map(|part| part.key_part(bytes)).collect::<Result<_>>().map(Datum::Tuple)
            }
            (_, Some(width)) => self.key(take(bytes, width)?),
            (_, None) => {
                let mut plain = Vec::new();
                loop {
                    match take(bytes, 1)?[0] {
                        0 => match take(bytes, 1)?[0] {
                            0xFF => plain.push(0),
                            0 => return self.key(&plain),
                            _ => return corrupted("a zero in a key is not escaped"),
                        },
                        byte => plain.push(byte),
                    }
                }
            }
        }
    }

    /// Decodes a type whose encodings in keys and values are the same.
    fn plain(&self, bytes: &[u8]) -> Result<Datum> {
        require(
            self.width().is_none_or(|width| width == bytes.len()),
            "a key or value has another length than its type",
        )?;
        match (self, bytes) {
            (Self::Unit, _) => Ok(Datum::Unit),
            (Self::Bool, [0]) => Ok(Datum::Bool(false)),
            (Self::Bool, [1]) => Ok(Datum::Bool(true)),
            (Self::Bool, _) => corrupted("a bool is neither 0 nor 1"),
            (Self::String, _) => utf8(bytes).map(Datum::String),
            _ => Ok(Datum::Bytes(bytes.to_vec())),
        }
    }
}

fn little_endian(bytes: &[u8], width: usize) -> Result<u128> {
    require(bytes.len() == width, "an integer has another length than its type")?;
    let mut wide = [0; 16];
    wide[..width].copy_from_slice(bytes);
    array(&wide, 0).map(u128::from_le_bytes)
}

fn big_endian(bytes: &[u8], width: usize) -> Result<u128> {
    let reversed: Vec<u8> = bytes.iter().rev().copied().collect();
    little_endian(&reversed, width)
}
