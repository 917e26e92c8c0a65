//! The structure of a stored type, written beside each table so that tools can read it without the application.
//!
//! Invariant: two descriptors are equal exactly when their bytes are; a type of the application never equals a
//! built-in one, whatever its name and wherever it is nested.
//! Layer 6 (table). Bytes: design.md, "Type descriptors and encodings".

use super::codec::tuple::Layout;
use super::traits::TypeName;
use crate::base::codec::{DecodeError, Decoder, Encoder};
use std::fmt;

const DEPTH_MAX: usize = 16;
const BYTES_MAX: usize = 4096;

mod tag {
    pub(super) const UNIT: u8 = 0x01;
    pub(super) const BOOL: u8 = 0x02;
    pub(super) const U8: u8 = 0x10;
    pub(super) const U16: u8 = 0x11;
    pub(super) const U32: u8 = 0x12;
    pub(super) const U64: u8 = 0x13;
    pub(super) const U128: u8 = 0x14;
    pub(super) const I8: u8 = 0x18;
    pub(super) const I16: u8 = 0x19;
    pub(super) const I32: u8 = 0x1A;
    pub(super) const I64: u8 = 0x1B;
    pub(super) const I128: u8 = 0x1C;
    pub(super) const F32: u8 = 0x20;
    pub(super) const F64: u8 = 0x21;
    pub(super) const CHAR: u8 = 0x28;
    pub(super) const STR: u8 = 0x30;
    pub(super) const BYTES: u8 = 0x31;
    pub(super) const FIXED_BYTES: u8 = 0x32;
    pub(super) const TUPLE: u8 = 0x40;
    pub(super) const ARRAY: u8 = 0x41;
    pub(super) const VEC: u8 = 0x42;
    pub(super) const OPTION: u8 = 0x43;
    pub(super) const DESC: u8 = 0x44;
    pub(super) const NAMED: u8 = 0x50;
    pub(super) const NEWTYPE: u8 = 0x51;
}

/// What the bytes of a key or a value mean.
///
/// ```
/// use cowslip::{TypeDescriptor, Value};
///
/// let descriptor = <(&str, u64, [u8; 16])>::descriptor();
/// assert_eq!(descriptor.to_string(), "(str, u64, [u8; 16])");
/// assert_eq!(TypeDescriptor::decode(&descriptor.encode()), Ok(descriptor));
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TypeDescriptor {
    /// `()`, no bytes.
    Unit,
    /// `bool`, one byte.
    Bool,
    /// `u8`.
    U8,
    /// `u16`.
    U16,
    /// `u32`.
    U32,
    /// `u64`.
    U64,
    /// `u128`.
    U128,
    /// `i8`.
    I8,
    /// `i16`.
    I16,
    /// `i32`.
    I32,
    /// `i64`.
    I64,
    /// `i128`.
    I128,
    /// `f32`.
    F32,
    /// `f64`.
    F64,
    /// `char`.
    Char,
    /// A UTF-8 string: `&str` or `String`.
    Str,
    /// Bytes of any length: `&[u8]` or `Vec<u8>`.
    Bytes,
    /// Bytes of this length: `[u8; N]` or `&[u8; N]`.
    FixedBytes(u32),
    /// The parts one behind the other.
    Tuple(Vec<TypeDescriptor>),
    /// So many elements of one type, other than `u8`.
    Array(Box<TypeDescriptor>, u32),
    /// Any number of elements of one type.
    Vec(Box<TypeDescriptor>),
    /// A value or none.
    Option(Box<TypeDescriptor>),
    /// The same in falling order.
    Desc(Box<TypeDescriptor>),
    /// A type of the application, opaque to everything else.
    Named {
        /// What the application calls it.
        name: String,
        /// Length of every encoded value, where all have the same.
        width: Option<u32>,
    },
    /// A type of the application whose bytes are those of another type.
    Newtype {
        /// What the application calls it.
        name: String,
        /// The type that it is stored as.
        stored: Box<TypeDescriptor>,
    },
}

impl TypeDescriptor {
    /// Describes a type of the application.
    #[must_use]
    pub fn named(name: &TypeName, width: Option<usize>) -> Self {
        Self::Named { name: name.name().to_owned(), width: width.map(Self::width_from) }
    }

    /// Widths from 4 GiB on are all described alike; no value is that long.
    #[expect(clippy::cast_possible_truncation, reason = "the bound is tested first; `try_from` is not const")]
    pub(crate) const fn width_from(width: usize) -> u32 {
        if width > u32::MAX as usize { u32::MAX } else { width as u32 }
    }

    /// The length of every encoded value, where all have the same. Keys of such a type have it too.
    #[must_use]
    pub fn fixed_width(&self) -> Option<usize> {
        match self {
            Self::Unit => Some(0),
            Self::Bool | Self::U8 | Self::I8 => Some(1),
            Self::U16 | Self::I16 => Some(2),
            Self::U32 | Self::I32 | Self::F32 | Self::Char => Some(4),
            Self::U64 | Self::I64 | Self::F64 => Some(8),
            Self::U128 | Self::I128 => Some(16),
            Self::Str | Self::Bytes | Self::Vec(_) | Self::Option(_) => None,
            Self::Array(_, 0) => Some(0),
            Self::Array(element, len) => element.fixed_width().map(|width| width.saturating_mul(bytes_of(*len))),
            Self::Desc(stored) | Self::Newtype { stored, .. } => stored.fixed_width(),
            Self::FixedBytes(width) => Some(bytes_of(*width)),
            Self::Tuple(parts) => Layout::new(&Self::widths(parts)).width(),
            Self::Named { width, .. } => width.map(bytes_of),
        }
    }

    pub(crate) fn widths(parts: &[Self]) -> Vec<Option<usize>> {
        parts.iter().map(Self::fixed_width).collect()
    }

    /// Whether [`TypeDescriptor::decode`] would read back what [`TypeDescriptor::encode`] writes.
    ///
    /// # Errors
    /// When the type is nested deeper than 16 levels, its description is longer than 4096 bytes, or a tuple in it
    /// has no part or more than 255.
    pub fn check(&self) -> Result<(), DecodeError> {
        match Self::decode(&self.encode()) {
            Ok(found) if found == *self => Ok(()),
            Ok(found) => Err(DecodeError::new(format!("type {self} would be read back as {found}"))),
            Err(error) => Err(DecodeError::new(format!("a type that cannot be described: {error}"))),
        }
    }

    /// The stored form. It is readable again if [`TypeDescriptor::check`] says so, which opening a table requires.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Encoder::new();
        self.encode_into(&mut out);
        out.into_vec()
    }

    /// A count or length above its field is written as the largest: more follows than it says, and decoding fails.
    fn encode_into(&self, out: &mut Encoder) {
        match self {
            Self::Unit => out.u8(tag::UNIT),
            Self::Bool => out.u8(tag::BOOL),
            Self::U8 => out.u8(tag::U8),
            Self::U16 => out.u8(tag::U16),
            Self::U32 => out.u8(tag::U32),
            Self::U64 => out.u8(tag::U64),
            Self::U128 => out.u8(tag::U128),
            Self::I8 => out.u8(tag::I8),
            Self::I16 => out.u8(tag::I16),
            Self::I32 => out.u8(tag::I32),
            Self::I64 => out.u8(tag::I64),
            Self::I128 => out.u8(tag::I128),
            Self::F32 => out.u8(tag::F32),
            Self::F64 => out.u8(tag::F64),
            Self::Char => out.u8(tag::CHAR),
            Self::Str => out.u8(tag::STR),
            Self::Bytes => out.u8(tag::BYTES),
            Self::FixedBytes(width) => out.u8(tag::FIXED_BYTES).u32(*width),
            Self::Tuple(parts) => {
                out.u8(tag::TUPLE).u8(u8::try_from(parts.len()).unwrap_or(u8::MAX));
                for part in parts {
                    part.encode_into(out);
                }
                out
            }
            Self::Array(element, len) => element.encode_behind(out.u8(tag::ARRAY).u32(*len)),
            Self::Vec(element) => element.encode_behind(out.u8(tag::VEC)),
            Self::Option(content) => content.encode_behind(out.u8(tag::OPTION)),
            Self::Desc(content) => content.encode_behind(out.u8(tag::DESC)),
            Self::Named { name, width } => {
                encode_name(name, out.u8(tag::NAMED)).u8(u8::from(width.is_some())).u32(width.unwrap_or(0))
            }
            Self::Newtype { name, stored } => stored.encode_behind(encode_name(name, out.u8(tag::NEWTYPE))),
        };
    }

    fn encode_behind<'e>(&self, out: &'e mut Encoder) -> &'e mut Encoder {
        self.encode_into(out);
        out
    }

    /// Reads the stored form.
    ///
    /// # Errors
    /// When the bytes are damaged, exceed the limits of depth or length, or name a type that this version of the
    /// crate does not know.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        if bytes.len() > BYTES_MAX {
            return Err(DecodeError::new(format!(
                "expected a type of at most {BYTES_MAX} bytes, found {}",
                bytes.len()
            )));
        }
        let mut decoder = Decoder::new(bytes);
        let descriptor = Self::decode_one(&mut decoder, 1)?;
        decoder.finish()?;
        Ok(descriptor)
    }

    fn decode_one(decoder: &mut Decoder<'_>, depth: usize) -> Result<Self, DecodeError> {
        if depth > DEPTH_MAX {
            return Err(DecodeError::new(format!("expected a type of at most {DEPTH_MAX} levels, found more")));
        }
        Ok(match decoder.u8()? {
            tag::UNIT => Self::Unit,
            tag::BOOL => Self::Bool,
            tag::U8 => Self::U8,
            tag::U16 => Self::U16,
            tag::U32 => Self::U32,
            tag::U64 => Self::U64,
            tag::U128 => Self::U128,
            tag::I8 => Self::I8,
            tag::I16 => Self::I16,
            tag::I32 => Self::I32,
            tag::I64 => Self::I64,
            tag::I128 => Self::I128,
            tag::F32 => Self::F32,
            tag::F64 => Self::F64,
            tag::CHAR => Self::Char,
            tag::STR => Self::Str,
            tag::BYTES => Self::Bytes,
            tag::FIXED_BYTES => Self::FixedBytes(decoder.u32()?),
            tag::TUPLE => {
                let count = decoder.u8()?;
                if count == 0 {
                    return Err(DecodeError::new("expected a tuple of at least one part, found none"));
                }
                let mut parts = Vec::new();
                for _ in 0..count {
                    parts.push(Self::decode_one(decoder, depth + 1)?);
                }
                Self::Tuple(parts)
            }
            tag::ARRAY => Self::decode_array(decoder, depth)?,
            tag::VEC => Self::Vec(Self::decode_inside(decoder, depth)?),
            tag::OPTION => Self::Option(Self::decode_inside(decoder, depth)?),
            tag::DESC => Self::Desc(Self::decode_inside(decoder, depth)?),
            tag::NAMED => Self::decode_named(decoder)?,
            tag::NEWTYPE => Self::Newtype { name: decode_name(decoder)?, stored: Self::decode_inside(decoder, depth)? },
            found => return Err(DecodeError::new(format!("type tag {found:#04x} is not known to this version"))),
        })
    }

    fn decode_inside(decoder: &mut Decoder<'_>, depth: usize) -> Result<Box<Self>, DecodeError> {
        Self::decode_one(decoder, depth + 1).map(Box::new)
    }

    fn decode_array(decoder: &mut Decoder<'_>, depth: usize) -> Result<Self, DecodeError> {
        let len = decoder.u32()?;
        match Self::decode_inside(decoder, depth)? {
            element if *element == Self::U8 => {
                Err(DecodeError::new("an array of u8 is described as bytes of fixed length, not as an array"))
            }
            element => Ok(Self::Array(element, len)),
        }
    }

    fn decode_named(decoder: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        let name = decode_name(decoder)?;
        let width = match (decoder.u8()?, decoder.u32()?) {
            (0, 0) => None,
            (1, width) => Some(width),
            (flag, width) => {
                return Err(DecodeError::new(format!(
                    "expected the width of a named type, found flag {flag}, width {width}"
                )));
            }
        };
        Ok(Self::Named { name, width })
    }
}

/// Types of the application are quoted, so that no two different types print alike.
impl fmt::Display for TypeDescriptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unit => f.write_str("()"),
            Self::Bool => f.write_str("bool"),
            Self::U8 => f.write_str("u8"),
            Self::U16 => f.write_str("u16"),
            Self::U32 => f.write_str("u32"),
            Self::U64 => f.write_str("u64"),
            Self::U128 => f.write_str("u128"),
            Self::I8 => f.write_str("i8"),
            Self::I16 => f.write_str("i16"),
            Self::I32 => f.write_str("i32"),
            Self::I64 => f.write_str("i64"),
            Self::I128 => f.write_str("i128"),
            Self::F32 => f.write_str("f32"),
            Self::F64 => f.write_str("f64"),
            Self::Char => f.write_str("char"),
            Self::Str => f.write_str("str"),
            Self::Bytes => f.write_str("bytes"),
            Self::FixedBytes(width) => write!(f, "[u8; {width}]"),
            Self::Tuple(parts) => {
                f.write_str("(")?;
                for (index, part) in parts.iter().enumerate() {
                    f.write_str(if index == 0 { "" } else { ", " })?;
                    part.fmt(f)?;
                }
                f.write_str(if parts.len() == 1 { ",)" } else { ")" })
            }
            Self::Array(element, len) => write!(f, "[{element}; {len}]"),
            Self::Vec(element) => write!(f, "Vec<{element}>"),
            Self::Option(content) => write!(f, "Option<{content}>"),
            Self::Desc(content) => write!(f, "Desc<{content}>"),
            Self::Newtype { name, stored } => write!(f, "{name:?} as {stored}"),
            Self::Named { name, width: None } => write!(f, "{name:?}"),
            Self::Named { name, width: Some(width) } => write!(f, "{name:?} of {width} bytes"),
        }
    }
}

fn encode_name<'e>(name: &str, out: &'e mut Encoder) -> &'e mut Encoder {
    out.u16(u16::try_from(name.len()).unwrap_or(u16::MAX)).bytes(name.as_bytes())
}

fn decode_name(decoder: &mut Decoder<'_>) -> Result<String, DecodeError> {
    let len = usize::from(decoder.u16()?);
    match std::str::from_utf8(decoder.bytes(len)?) {
        Ok(name) => Ok(name.to_owned()),
        Err(error) => Err(DecodeError::new(format!("expected a type name: {error}"))),
    }
}

fn bytes_of(width: u32) -> usize {
    usize::try_from(width).unwrap_or(usize::MAX)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::table::traits::Value;
    use proptest::prelude::*;

    pub(crate) fn any_descriptor() -> impl Strategy<Value = TypeDescriptor> {
        let leaf = prop_oneof![
            proptest::sample::select(vec![
                TypeDescriptor::Unit,
                TypeDescriptor::Bool,
                TypeDescriptor::U8,
                TypeDescriptor::U16,
                TypeDescriptor::U32,
                TypeDescriptor::U64,
                TypeDescriptor::U128,
                TypeDescriptor::I8,
                TypeDescriptor::I16,
                TypeDescriptor::I32,
                TypeDescriptor::I64,
                TypeDescriptor::I128,
                TypeDescriptor::F32,
                TypeDescriptor::F64,
                TypeDescriptor::Char,
                TypeDescriptor::Str,
                TypeDescriptor::Bytes,
            ]),
            prop_oneof![0..4_u32, any::<u32>()].prop_map(TypeDescriptor::FixedBytes),
            ("[u,\"() 8\\\\]{0,6}", proptest::option::of(0..3_u32))
                .prop_map(|(name, width)| TypeDescriptor::Named { name, width }),
        ];
        leaf.prop_recursive(5, 40, 6, |part| {
            let array = (part.clone(), prop_oneof![0..4_u32, any::<u32>()]).prop_map(|(element, len)| match element {
                TypeDescriptor::U8 => TypeDescriptor::FixedBytes(len),
                element => TypeDescriptor::Array(Box::new(element), len),
            });
            let newtype = ("[u,\"() 8\\\\]{0,6}", part.clone())
                .prop_map(|(name, stored)| TypeDescriptor::Newtype { name, stored: Box::new(stored) });
            prop_oneof![
                3 => proptest::collection::vec(part.clone(), 1..6).prop_map(TypeDescriptor::Tuple),
                1 => array,
                1 => newtype,
                1 => part.clone().prop_map(|element| TypeDescriptor::Vec(Box::new(element))),
                1 => part.clone().prop_map(|content| TypeDescriptor::Option(Box::new(content))),
                1 => part.prop_map(|content| TypeDescriptor::Desc(Box::new(content))),
            ]
        })
    }

    fn nested(levels: usize) -> TypeDescriptor {
        (1..levels).fold(TypeDescriptor::Unit, |inside, _| TypeDescriptor::Tuple(vec![inside]))
    }

    #[test]
    fn types_print_as_rust_writes_them() {
        assert_eq!(<(&str, u64)>::descriptor().to_string(), "(str, u64)");
        assert_eq!(<(&[u8], ((), &[u8; 16]), (i8,))>::descriptor().to_string(), "(bytes, ((), [u8; 16]), (i8,))");
        assert_eq!(<(&str, u64)>::type_name().name(), "(str, u64)");
    }

    #[test]
    fn stored_bytes_are_as_documented() {
        let bytes = <(&str, u64, [u8; 16])>::descriptor().encode();
        assert_eq!(bytes, [0x40, 3, 0x30, 0x13, 0x32, 16, 0, 0, 0]);
        let named = TypeDescriptor::named(&TypeName::new("ab"), Some(7)).encode();
        assert_eq!(named, [0x50, 2, 0, b'a', b'b', 1, 7, 0, 0, 0]);
        let tags: Vec<u8> = [
            <()>::descriptor(),
            bool::descriptor(),
            u8::descriptor(),
            u16::descriptor(),
            u32::descriptor(),
            u64::descriptor(),
            u128::descriptor(),
            i8::descriptor(),
            i16::descriptor(),
            i32::descriptor(),
            i64::descriptor(),
            i128::descriptor(),
            <&str>::descriptor(),
            <&[u8]>::descriptor(),
        ]
        .iter()
        .flat_map(TypeDescriptor::encode)
        .collect();
        assert_eq!(tags, [1, 2, 0x10, 0x11, 0x12, 0x13, 0x14, 0x18, 0x19, 0x1A, 0x1B, 0x1C, 0x30, 0x31]);
    }

    #[test]
    fn a_named_type_never_equals_a_builtin_of_the_same_name() {
        let fake = || TypeDescriptor::named(&TypeName::new("u64"), Some(8));
        let pair = TypeDescriptor::named(&TypeName::new("(u64, u64)"), Some(16));
        let inside = TypeDescriptor::Tuple(vec![fake(), TypeDescriptor::U64]);
        for (left, right) in
            [(fake(), u64::descriptor()), (pair, <(u64, u64)>::descriptor()), (inside, <(u64, u64)>::descriptor())]
        {
            assert_ne!(left, right);
            assert_ne!(left.encode(), right.encode());
            assert_ne!(left.to_string(), right.to_string());
        }
        assert_ne!(TypeName::new("(u64, u64)"), <(u64, u64)>::type_name());
    }

    #[test]
    fn limits_are_enforced_and_check_foresees_them() {
        assert_eq!(nested(DEPTH_MAX).check(), Ok(()));
        assert!(nested(DEPTH_MAX + 1).check().is_err());
        assert!(TypeDescriptor::decode(&[tag::TUPLE, 1].repeat(BYTES_MAX / 2)).is_err());
        let name_of = |len: usize| TypeDescriptor::named(&TypeName::new(&"n".repeat(len)), None);
        assert_eq!(name_of(BYTES_MAX - 8).check(), Ok(()));
        assert!(name_of(BYTES_MAX - 7).check().is_err());
        assert!(name_of(1 << 17).check().is_err());
        let tuple_of = |count: usize| TypeDescriptor::Tuple(vec![TypeDescriptor::U8; count]);
        assert_eq!(tuple_of(255).check(), Ok(()));
        assert!(tuple_of(0).check().is_err());
        assert!(tuple_of(256).check().is_err());
        assert!(TypeDescriptor::Tuple(vec![tuple_of(256), TypeDescriptor::U8]).check().is_err());
    }

    #[test]
    fn unknown_tags_are_refused() {
        for tag in [0x00, 0x03, 0x15, 0x22, 0x29, 0x33, 0x45, 0x52, 0xFF] {
            assert!(TypeDescriptor::decode(&[tag, 1, 1, 1, 1]).is_err());
            let error = TypeDescriptor::decode(&[tag]).unwrap_err();
            assert!(error.to_string().contains(&format!("{tag:#04x}")), "{error}");
        }
    }

    proptest! {
        #[test]
        fn a_descriptor_is_read_back_as_written(descriptor in any_descriptor()) {
            prop_assert_eq!(TypeDescriptor::decode(&descriptor.encode()), Ok(descriptor));
        }

        #[test]
        fn damaged_descriptors_never_panic_and_what_is_accepted_is_canonical(
            descriptor in any_descriptor(), at in any::<proptest::sample::Index>(), byte: u8,
        ) {
            let mut bytes = descriptor.encode();
            let at = at.index(bytes.len());
            bytes[at] = byte;
            if let Ok(found) = TypeDescriptor::decode(&bytes) {
                prop_assert_eq!(found.encode(), bytes);
                let _width = found.fixed_width();
            }
        }

        #[test]
        fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(found) = TypeDescriptor::decode(&bytes) {
                prop_assert_eq!(found.encode(), bytes);
            }
        }

        #[test]
        fn different_types_print_differently(left in any_descriptor(), right in any_descriptor()) {
            prop_assert_eq!(left == right, left.to_string() == right.to_string());
        }
    }
}
