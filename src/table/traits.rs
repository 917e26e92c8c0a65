//! The contracts between a Rust type and its bytes: `Value` for what a table stores, `Key` for what it sorts by.
//!
//! Invariant: every decode is fallible, and the byte order of an encoded key is the order of the key.
//! Layer 6 (table). Bytes: design.md, "Type descriptors and encodings".

use super::codec::ordered;
use super::descriptor::TypeDescriptor;
use crate::base::codec::DecodeError;
use std::fmt;

/// Name of a type as tools and error messages show it.
///
/// The identity of a stored type is its [`TypeDescriptor`]. A name made here never equals the name of a type
/// that this crate encodes itself, whatever its text.
///
/// ```
/// use cowslip::{TypeName, Value};
/// assert_eq!(TypeName::new("shop.Price").name(), "shop.Price");
/// assert_ne!(TypeName::new("u64"), u64::type_name());
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TypeName {
    name: String,
    builtin: bool,
}

impl TypeName {
    /// Names a type of the application. The name is stored in the file: keep it when the Rust type moves or is
    /// renamed, change it when the meaning of the bytes changes.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self { name: name.to_owned(), builtin: false }
    }

    pub(crate) fn builtin(descriptor: &TypeDescriptor) -> Self {
        Self { name: descriptor.to_string(), builtin: true }
    }

    /// The text of the name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl fmt::Display for TypeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

pub(crate) mod sealed {
    /// Whether arrays and vectors of a type are byte strings; only this crate can say yes.
    #[derive(Debug, Clone, Copy)]
    pub struct ByteElements(pub(crate) bool);

    /// Passed to what only this crate calls and overrides.
    #[derive(Debug, Clone, Copy)]
    pub struct Token(pub(crate) ());
}

/// A type that a table can store.
///
/// For a newtype around a type that is stored already, [`Newtype`](crate::Newtype) is the short way. The implementing type
/// is a marker that is named in a table definition; [`Value::SelfType`] is what the caller passes and gets back, and may borrow
/// from the stored bytes: for `&str` it is a `&str` into the page.
///
/// ```
/// use cowslip::{DecodeError, TypeName, Value};
///
/// #[derive(Debug, PartialEq)]
/// struct Cents(u32);
///
/// impl Value for Cents {
///     type SelfType<'a> = Cents;
///     type AsBytes<'a> = [u8; 4];
///
///     fn fixed_width() -> Option<usize> {
///         Some(4)
///     }
///
///     fn try_from_bytes<'a>(data: &'a [u8]) -> Result<Cents, DecodeError>
///     where
///         Self: 'a,
///     {
///         u32::try_from_bytes(data).map(Cents)
///     }
///
///     fn as_bytes<'a, 'b: 'a>(value: &'a Cents) -> [u8; 4]
///     where
///         Self: 'b,
///     {
///         value.0.to_le_bytes()
///     }
///
///     fn type_name() -> TypeName {
///         TypeName::new("shop.Cents")
///     }
/// }
///
/// assert_eq!(Cents::try_from_bytes(&Cents::as_bytes(&Cents(250))), Ok(Cents(250)));
/// assert!(Cents::try_from_bytes(b"toolong").is_err());
/// assert_eq!(Cents::descriptor().to_string(), "\"shop.Cents\" of 4 bytes");
/// ```
pub trait Value: fmt::Debug {
    /// What callers pass and get back, possibly borrowed from the stored bytes.
    type SelfType<'a>: fmt::Debug + 'a
    where
        Self: 'a;

    /// The encoded bytes, owned or borrowed from the value.
    type AsBytes<'a>: AsRef<[u8]> + 'a
    where
        Self: 'a;

    /// The length of every encoded value, where all have the same.
    ///
    /// When this answers a width, [`Value::as_bytes`] must give exactly that many bytes.
    fn fixed_width() -> Option<usize>;

    /// Reads a value from its bytes.
    ///
    /// The bytes come from a file: the implementation must answer every input without a panic.
    ///
    /// # Errors
    /// When the bytes are not what [`Value::as_bytes`] gives for any value.
    fn try_from_bytes<'a>(data: &'a [u8]) -> Result<Self::SelfType<'a>, DecodeError>
    where
        Self: 'a;

    /// Writes a value as bytes.
    fn as_bytes<'a, 'b: 'a>(value: &'a Self::SelfType<'b>) -> Self::AsBytes<'a>
    where
        Self: 'b;

    /// Name of the type, for people.
    fn type_name() -> TypeName;

    /// Structure of the type, stored with each table and compared when the table is opened.
    ///
    /// The default is an opaque type of this name and width. Override it only when the bytes are, in both the
    /// value and the key encoding, exactly those of the described type; tools then read them field by field.
    #[must_use]
    fn descriptor() -> TypeDescriptor {
        TypeDescriptor::named(&Self::type_name(), Self::fixed_width())
    }

    /// True for `u8` alone, whose arrays and vectors are stored as the byte strings that they are.
    #[doc(hidden)]
    const BYTE_ELEMENTS: sealed::ByteElements = sealed::ByteElements(false);

    /// The bytes that these elements are. Called only where `BYTE_ELEMENTS` is true.
    #[doc(hidden)]
    fn lend_bytes<'a, 'b: 'a>(_elements: &'a [Self::SelfType<'b>], _: sealed::Token) -> &'a [u8]
    where
        Self: 'b,
    {
        unreachable!("only elements that are bytes are lent as bytes")
    }

    /// The element that this byte is. Called only where `BYTE_ELEMENTS` is true.
    #[doc(hidden)]
    fn of_byte<'a>(_byte: u8, _: sealed::Token) -> Self::SelfType<'a>
    where
        Self: 'a,
    {
        unreachable!("only elements that are bytes are made of one")
    }
}

/// A type that a table can sort by.
///
/// # Contract
/// The store compares keys as bytes and never calls back into the type. For all values `a` and `b`, comparing
/// `encode_key(a)` with `encode_key(b)` byte by byte (a prefix sorts first) must answer what comparing `a` with `b`
/// answers; equal bytes for equal values only. To see that an encoding holds this, look at the first byte in which
/// two encodings differ: it must be decided by the most significant difference of the values. Big-endian unsigned
/// integers do so; a signed integer does after its sign bit is flipped; a little-endian integer does not.
///
/// There are two forms. The standalone form may end where the key ends. The part form is used inside tuples, where
/// more bytes follow: no encoding may be a prefix of another. The default part form is the standalone form itself
/// when the width is fixed, and otherwise the standalone form with each `0x00` written as `0x00 0xFF` and
/// `0x00 0x00` behind it, which keeps the order of whatever it wraps. Types whose descriptor is opaque must keep
/// the default, because tools rely on it.
///
/// When [`Value::fixed_width`] answers a width, the standalone form has that width too.
///
/// ```
/// use cowslip::{DecodeError, Key, TypeName, Value};
///
/// /// Sorts the highest score first.
/// #[derive(Debug)]
/// struct Score;
///
/// impl Value for Score {
///     type SelfType<'a> = u32;
///     type AsBytes<'a> = [u8; 4];
///     fn fixed_width() -> Option<usize> {
///         Some(4)
///     }
///     fn try_from_bytes<'a>(data: &'a [u8]) -> Result<u32, DecodeError>
///     where
///         Self: 'a,
///     {
///         u32::try_from_bytes(data)
///     }
///     fn as_bytes<'a, 'b: 'a>(value: &'a u32) -> [u8; 4]
///     where
///         Self: 'b,
///     {
///         value.to_le_bytes()
///     }
///     fn type_name() -> TypeName {
///         TypeName::new("game.Score")
///     }
/// }
///
/// impl Key for Score {
///     fn encode_key<'a>(value: &u32, out: &mut Vec<u8>)
///     where
///         Self: 'a,
///     {
///         u32::encode_key(&!value, out);
///     }
///     fn decode_key(bytes: &[u8], out: &mut Vec<u8>) -> Result<(), DecodeError> {
///         let inverted: Vec<u8> = bytes.iter().map(|byte| !byte).collect();
///         u32::decode_key(&inverted, out)
///     }
/// }
///
/// let (mut first, mut second) = (Vec::new(), Vec::new());
/// <(Score, &str)>::encode_key(&(900, "ada"), &mut first);
/// <(Score, &str)>::encode_key(&(20, "bob"), &mut second);
/// assert!(first < second);
/// ```
pub trait Key: Value {
    /// Whether the standalone ordered form of every value equals [`Value::as_bytes`], so that a key can be lent
    /// from the page without transcoding. When true, [`Key::encode_key`] and [`Key::decode_key`] must be copies.
    const KEY_BYTES_ARE_VALUE_BYTES: bool = false;

    /// Appends the standalone ordered form of `value`.
    fn encode_key<'a>(value: &Self::SelfType<'a>, out: &mut Vec<u8>)
    where
        Self: 'a;

    /// Appends the value encoding of the key whose standalone ordered form is `bytes`, so that the caller can keep
    /// that copy and borrow the key from it through [`Value::try_from_bytes`].
    ///
    /// The bytes come from a file: the implementation must answer every input without a panic. What is appended
    /// may still be refused by `try_from_bytes`; together they accept only what [`Key::encode_key`] writes.
    ///
    /// # Errors
    /// When the bytes are not an ordered form. `out` then ends in unspecified bytes.
    fn decode_key(bytes: &[u8], out: &mut Vec<u8>) -> Result<(), DecodeError>;

    /// Appends the self-delimiting ordered form of `value`, to which other parts may be appended.
    fn encode_key_part<'a>(value: &Self::SelfType<'a>, out: &mut Vec<u8>)
    where
        Self: 'a,
    {
        let Some(width) = Self::fixed_width() else {
            let mut standalone = Vec::new();
            Self::encode_key(value, &mut standalone);
            return ordered::escape(&standalone, out);
        };
        let start = out.len();
        Self::encode_key(value, out);
        assert_eq!(out.len() - start, width, "an ordered key has the fixed width that its type declares");
    }

    /// Appends the value encoding of the key whose part form opens `bytes`, and answers the bytes behind it.
    ///
    /// # Errors
    /// When the bytes do not open with a part form. `out` then ends in unspecified bytes.
    fn decode_key_part<'a>(bytes: &'a [u8], out: &mut Vec<u8>) -> Result<&'a [u8], DecodeError> {
        if let Some(width) = Self::fixed_width() {
            let (part, rest) = ordered::split_fixed(bytes, width)?;
            Self::decode_key(part, out)?;
            return Ok(rest);
        }
        let mut standalone = Vec::new();
        let rest = ordered::unescape(bytes, &mut standalone)?;
        Self::decode_key(&standalone, out)?;
        Ok(rest)
    }
}
