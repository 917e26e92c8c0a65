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
    /// Floating point number of so many bytes.
    Float(usize),
    Char,
    String,
    Bytes,
    FixedBytes(usize),
    Tuple(Vec<Type>),
    Array(Box<Type>, usize),
    Vector(Box<Type>),
    Option(Box<Type>),
    Descending(Box<Type>),
    Named {
        name: String,
        width: Option<usize>,
    },
    Newtype {
        name: String,
        stored: Box<Type>,
    },
}

/// A decoded key or value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Datum {
    Unit,
    Bool(bool),
    Unsigned(u128),
    Signed(i128),
    /// The bits of a floating point number.
    Float(u64),
    Char(char),
    String(String),
    /// Also of fixed length, and of types that only the application knows.
    Bytes(Vec<u8>),
    Tuple(Vec<Datum>),
    /// The elements of an array or a vector.
    List(Vec<Datum>),
    Option(Option<Box<Datum>>),
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

fn decode_name(from: &mut &[u8]) -> Result<String> {
    let name_bytes = size(u16_at(take(from, 2)?, 0)?)?;
    utf8(take(from, name_bytes)?)
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
            0x20 => Self::Float(4),
            0x21 => Self::Float(8),
            0x28 => Self::Char,
            0x30 => Self::String,
            0x31 => Self::Bytes,
            0x32 => Self::FixedBytes(size(u32_at(take(from, 4)?, 0)?)?),
            0x40 => {
                let count = take(from, 1)?[0];
                require(count > 0, "a tuple has no part")?;
                Self::Tuple((0..count).map(|_| Self::decode_next(from, levels - 1)).collect::<Result<_>>()?)
            }
            0x41 => {
                let count = size(u32_at(take(from, 4)?, 0)?)?;
                let element = Self::decode_next(from, levels - 1)?;
                require(element != Self::Unsigned(1), "an array of bytes has another descriptor")?;
                Self::Array(Box::new(element), count)
            }
            0x42 => Self::Vector(Box::new(Self::decode_next(from, levels - 1)?)),
            0x43 => Self::Option(Box::new(Self::decode_next(from, levels - 1)?)),
            0x44 => Self::Descending(Box::new(Self::decode_next(from, levels - 1)?)),
            0x51 => {
                let name = decode_name(from)?;
                Self::Newtype { name, stored: Box::new(Self::decode_next(from, levels - 1)?) }
            }
            0x50 => {
                let name = decode_name(from)?;
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
            Self::Float(bytes) => Some(*bytes),
            Self::Char => Some(4),
            Self::String | Self::Bytes | Self::Vector(_) | Self::Option(_) => None,
            Self::Array(_, 0) => Some(0),
            Self::Array(element, count) => element.width().map(|width| width.saturating_mul(*count)),
            Self::Descending(stored) | Self::Newtype { stored, .. } => stored.width(),
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
            Self::Float(width) => {
                let bits = little_endian(bytes, *width)?;
                Ok(Datum::Float(u64::try_from(bits).unwrap_or(u64::MAX)))
            }
            Self::Char => scalar(little_endian(bytes, 4)?),
            Self::Tuple(parts) => {
                let parts: Vec<&Self> = parts.iter().collect();
                parts_value(&parts, bytes).map(Datum::Tuple)
            }
            Self::Array(element, count) => parts_value(&vec![&**element; *count], bytes).map(Datum::List),
            Self::Vector(element) => {
                let mut data = Vec::new();
                while !bytes.is_empty() {
                    let length = match element.width() {
                        Some(0) => {
                            require(take(&mut bytes, 1)? == [0], "an element without bytes is not marked by zero")?;
                            0
                        }
                        Some(width) => width,
                        None => size(u32_at(take(&mut bytes, 4)?, 0)?)?,
                    };
                    data.push(element.value(take(&mut bytes, length)?)?);
                }
                Ok(Datum::List(data))
            }
            Self::Option(content) => match take(&mut bytes, 1)?[0] {
                0 => require(bytes.is_empty(), "bytes follow an absent value").map(|()| Datum::Option(None)),
                1 => Ok(Datum::Option(Some(Box::new(content.value(bytes)?)))),
                _ => corrupted("an option is neither 0 nor 1"),
            },
            Self::Descending(stored) | Self::Newtype { stored, .. } => stored.value(bytes),
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
            Self::Float(width) => {
                let (ordered, sign) = (big_endian(bytes, *width)?, 1_u128 << (8 * width - 1));
                let all = (sign << 1) - 1;
                let bits = if ordered & sign == 0 { ordered ^ all } else { ordered ^ sign };
                Ok(Datum::Float(u64::try_from(bits).unwrap_or(u64::MAX)))
            }
            Self::Char => scalar(big_endian(bytes, 4)?),
            Self::Tuple(parts) => {
                let parts: Vec<&Self> = parts.iter().collect();
                parts_key(&parts, bytes).map(Datum::Tuple)
            }
            Self::Array(element, count) => parts_key(&vec![&**element; *count], bytes).map(Datum::List),
            Self::Vector(element) => {
                let mut data = Vec::new();
                while !bytes.is_empty() {
                    require(take(&mut bytes, 1)? == [1], "an element of a key is not marked")?;
                    data.push(element.key_part(&mut bytes)?);
                }
                Ok(Datum::List(data))
            }
            Self::Option(content) => match take(&mut bytes, 1)?[0] {
                0 => require(bytes.is_empty(), "bytes follow an absent value").map(|()| Datum::Option(None)),
                1 => Ok(Datum::Option(Some(Box::new(content.key(bytes)?)))),
                _ => corrupted("an option is neither 0 nor 1"),
            },
            Self::Descending(_) => {
                let decoded = self.key_part(&mut bytes)?;
                require(bytes.is_empty(), "bytes follow a descending key")?;
                Ok(decoded)
            }
            Self::Newtype { stored, .. } => stored.key(bytes),
            plain => plain.plain(bytes),
        }
    }

    /// Takes the part form off the front.
    fn key_part(&self, bytes: &mut &[u8]) -> Result<Datum> {
        match (self, self.width()) {
            (Self::Tuple(parts), _) => {
                parts.iter().map(|part| part.key_part(bytes)).collect::<Result<_>>().map(Datum::Tuple)
            }
            (Self::Array(element, count), _) => {
                (0..*count).map(|_| element.key_part(bytes)).collect::<Result<_>>().map(Datum::List)
            }
            (Self::Vector(element), _) => {
                let mut data = Vec::new();
                loop {
                    match take(bytes, 1)?[0] {
                        0 => return Ok(Datum::List(data)),
                        1 => data.push(element.key_part(bytes)?),
                        _ => return corrupted("an element of a key is not marked"),
                    }
                }
            }
            (Self::Option(content), _) => match take(bytes, 1)?[0] {
                0 => Ok(Datum::Option(None)),
                1 => Ok(Datum::Option(Some(Box::new(content.key_part(bytes)?)))),
                _ => corrupted("an option is neither 0 nor 1"),
            },
            (Self::Descending(content), _) => {
                let inverted: Vec<u8> = bytes.iter().map(|byte| !byte).collect();
                let mut rest = &inverted[..];
                let decoded = content.key_part(&mut rest)?;
                *bytes = &bytes[bytes.len() - rest.len()..];
                Ok(decoded)
            }
            (Self::Newtype { stored, .. }, _) => stored.key_part(bytes),
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

/// Decodes the value encoding of a tuple or an array.
fn parts_value(parts: &[&Type], mut bytes: &[u8]) -> Result<Vec<Datum>> {
    let mut lengths = Vec::new();
    let variable = parts.iter().filter(|part| part.width().is_none()).count();
    for _ in 1..variable {
        lengths.push(size(u32_at(take(&mut bytes, 4)?, 0)?)?);
    }
    let fixed: usize = parts.iter().filter_map(|part| part.width()).sum();
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
    Ok(data)
}

/// Decodes the standalone ordered form of a tuple or an array.
fn parts_key(parts: &[&Type], mut bytes: &[u8]) -> Result<Vec<Datum>> {
    let mut data = Vec::new();
    if let Some((last, before)) = parts.split_last() {
        for part in before {
            data.push(part.key_part(&mut bytes)?);
        }
        data.push(last.key(bytes)?);
    } else {
        require(bytes.is_empty(), "an array without elements has bytes")?;
    }
    Ok(data)
}

fn scalar(number: u128) -> Result<Datum> {
    let found = u32::try_from(number).ok().and_then(char::from_u32);
    found.map_or_else(|| corrupted("a char is no Unicode scalar value"), |found| Ok(Datum::Char(found)))
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
