//! Optional values.
//!
//! Invariant: nothing is one byte, 0, and sorts before everything else; something is 1 and what is there.
//! Layer 6 (table). Bytes: design.md, "Type descriptors and encodings".

use crate::base::codec::DecodeError;
use crate::table::descriptor::TypeDescriptor;
use crate::table::traits::{Key, TypeName, Value};

pub(crate) const NONE: u8 = 0;
pub(crate) const SOME: u8 = 1;

/// Whether there is a value, and the bytes behind the mark that says so.
pub(crate) fn open(bytes: &[u8]) -> Result<(bool, &[u8]), DecodeError> {
    match bytes.split_first() {
        Some((&NONE, rest)) => Ok((false, rest)),
        Some((&SOME, rest)) => Ok((true, rest)),
        Some((found, _)) => Err(DecodeError::new(format!("expected 0 or 1 before an optional value, found {found}"))),
        None => Err(DecodeError::new("expected 0 or 1 before an optional value, found no byte")),
    }
}

/// Requires that nothing follows.
pub(crate) fn require_end(rest: &[u8]) -> Result<(), DecodeError> {
    match rest.len() {
        0 => Ok(()),
        len => Err(DecodeError::new(format!("expected no bytes behind an absent value, found {len}"))),
    }
}

impl<T: Value> Value for Option<T> {
    type SelfType<'a>
        = Option<T::SelfType<'a>>
    where
        Self: 'a;
    type AsBytes<'a>
        = Vec<u8>
    where
        Self: 'a;

    fn fixed_width() -> Option<usize> {
        None
    }

    fn try_from_bytes<'a>(data: &'a [u8]) -> Result<Self::SelfType<'a>, DecodeError>
    where
        Self: 'a,
    {
        match open(data)? {
            (true, content) => T::try_from_bytes(content).map(Some),
            (false, rest) => require_end(rest).map(|()| None),
        }
    }

    fn as_bytes<'a, 'b: 'a>(value: &'a Self::SelfType<'b>) -> Vec<u8>
    where
        Self: 'b,
    {
        let Some(content) = value else { return vec![NONE] };
        let content = T::as_bytes(content);
        [&[SOME], content.as_ref()].concat()
    }

    fn type_name() -> TypeName {
        TypeName::builtin(&Self::descriptor())
    }

    fn descriptor() -> TypeDescriptor {
        TypeDescriptor::Option(Box::new(T::descriptor()))
    }
}

impl<T: Key> Key for Option<T> {
    const KEY_BYTES_ARE_VALUE_BYTES: bool = T::KEY_BYTES_ARE_VALUE_BYTES;

    fn encode_key<'a>(value: &Self::SelfType<'a>, out: &mut Vec<u8>)
    where
        Self: 'a,
    {
        out.push(if value.is_some() { SOME } else { NONE });
        if let Some(content) = value {
            T::encode_key(content, out);
        }
    }

    fn decode_key(bytes: &[u8], out: &mut Vec<u8>) -> Result<(), DecodeError> {
        let (is_some, rest) = open(bytes)?;
        out.push(bytes[0]);
        if is_some { T::decode_key(rest, out) } else { require_end(rest) }
    }

    fn encode_key_part<'a>(value: &Self::SelfType<'a>, out: &mut Vec<u8>)
    where
        Self: 'a,
    {
        out.push(if value.is_some() { SOME } else { NONE });
        if let Some(content) = value {
            T::encode_key_part(content, out);
        }
    }

    fn decode_key_part<'k>(bytes: &'k [u8], out: &mut Vec<u8>) -> Result<&'k [u8], DecodeError> {
        let (is_some, rest) = open(bytes)?;
        out.push(bytes[0]);
        if is_some { T::decode_key_part(rest, out) } else { Ok(rest) }
    }
}
