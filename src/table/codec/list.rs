//! Vectors, that of bytes included, which is a byte string.
//!
//! Invariant: every element takes at least one byte, so no input makes a vector longer than itself.
//! Layer 6 (table). Bytes: design.md, "Type descriptors and encodings".

use super::ordered;
use crate::base::codec::{DecodeError, Decoder};
use crate::table::descriptor::TypeDescriptor;
use crate::table::traits::sealed::Token;
use crate::table::traits::{Key, TypeName, Value};
use std::borrow::Cow;

/// In a key, stands before each element.
pub(crate) const ELEMENT: u8 = 0x01;
/// In a key part, stands behind the last element; it is below `ELEMENT`, so the shorter vector sorts first.
pub(crate) const END: u8 = 0x00;

const LENGTH_BYTES: usize = size_of::<u32>();

/// Calls `visit` with the value encoding of each element of a vector whose elements have this width.
pub(crate) fn split<'a>(
    width: Option<usize>,
    data: &'a [u8],
    mut visit: impl FnMut(&'a [u8]) -> Result<(), DecodeError>,
) -> Result<(), DecodeError> {
    let mut decoder = Decoder::new(data);
    while decoder.remaining() > 0 {
        match width {
            Some(0) => {
                let found = decoder.u8()?;
                if found != 0 {
                    return Err(DecodeError::new(format!("expected 0 for an element without bytes, found {found}")));
                }
                visit(&[])?;
            }
            Some(width) => visit(decoder.bytes(width)?)?,
            None => {
                let len = usize::try_from(decoder.u32()?)
                    .map_err(|_| DecodeError::new("an element is longer than this machine can address"))?;
                visit(decoder.bytes(len)?)?;
            }
        }
    }
    Ok(())
}

/// Appends one element to an encoded vector: `write` appends its value encoding.
///
/// A length that does not fit is written as the largest: such a vector exceeds 4 GiB, more than a value may have, so
/// the store refuses it.
pub(crate) fn push<R>(
    width: Option<usize>,
    out: &mut Vec<u8>,
    write: impl FnOnce(&mut Vec<u8>) -> Result<R, DecodeError>,
) -> Result<R, DecodeError> {
    let length_at = out.len();
    if width.is_none() {
        out.resize(length_at + LENGTH_BYTES, 0);
    }
    let start = out.len();
    let written = write(out)?;
    let len = out.len() - start;
    match width {
        Some(width) if len != width => {
            return Err(DecodeError::new(format!("expected an element of {width} bytes, found {len}")));
        }
        Some(0) => out.push(0),
        Some(_) => {}
        None => out[length_at..start].copy_from_slice(&u32::try_from(len).unwrap_or(u32::MAX).to_le_bytes()),
    }
    Ok(written)
}

impl<T: Value> Value for Vec<T> {
    type SelfType<'a>
        = Vec<T::SelfType<'a>>
    where
        Self: 'a;
    type AsBytes<'a>
        = Cow<'a, [u8]>
    where
        Self: 'a;

    fn fixed_width() -> Option<usize> {
        None
    }

    fn try_from_bytes<'a>(data: &'a [u8]) -> Result<Self::SelfType<'a>, DecodeError>
    where
        Self: 'a,
    {
        if T::BYTE_ELEMENTS.0 {
            return Ok(data.iter().map(|byte| T::of_byte(*byte, Token(()))).collect());
        }
        let mut elements = Vec::new();
        split(T::fixed_width(), data, |bytes| {
            elements.push(T::try_from_bytes(bytes)?);
            Ok(())
        })?;
        Ok(elements)
    }

    fn as_bytes<'a, 'b: 'a>(value: &'a Self::SelfType<'b>) -> Cow<'a, [u8]>
    where
        Self: 'b,
    {
        if T::BYTE_ELEMENTS.0 {
            return Cow::Borrowed(T::lend_bytes(value, Token(())));
        }
        let (mut out, width) = (Vec::new(), T::fixed_width());
        for element in value {
            push(width, &mut out, |out| {
                out.extend_from_slice(T::as_bytes(element).as_ref());
                Ok(())
            })
            .expect("an encoded element has the fixed width that its type declares");
        }
        Cow::Owned(out)
    }

    fn type_name() -> TypeName {
        TypeName::builtin(&Self::descriptor())
    }

    fn descriptor() -> TypeDescriptor {
        if T::BYTE_ELEMENTS.0 { TypeDescriptor::Bytes } else { TypeDescriptor::Vec(Box::new(T::descriptor())) }
    }
}

/// Appends the front of every key that starts with these elements.
pub(crate) fn encode_elements<'a, T: Key + 'a>(elements: &[T::SelfType<'a>], out: &mut Vec<u8>) {
    if T::BYTE_ELEMENTS.0 {
        return out.extend_from_slice(T::lend_bytes(elements, Token(())));
    }
    for element in elements {
        out.push(ELEMENT);
        T::encode_key_part(element, out);
    }
}

fn decode_element<'k, T: Key>(behind_mark: &'k [u8], out: &mut Vec<u8>) -> Result<&'k [u8], DecodeError> {
    push(T::fixed_width(), out, |out| T::decode_key_part(behind_mark, out))
}

pub(crate) fn wrong_mark(found: u8) -> DecodeError {
    DecodeError::new(format!("expected a mark before an element of a key, found {found:#04x}"))
}

impl<T: Key> Key for Vec<T> {
    const KEY_BYTES_ARE_VALUE_BYTES: bool = T::BYTE_ELEMENTS.0;

    fn encode_key<'a>(value: &Self::SelfType<'a>, out: &mut Vec<u8>)
    where
        Self: 'a,
    {
        encode_elements::<T>(value, out);
    }

    fn decode_key(bytes: &[u8], out: &mut Vec<u8>) -> Result<(), DecodeError> {
        if T::BYTE_ELEMENTS.0 {
            out.extend_from_slice(bytes);
            return Ok(());
        }
        let mut rest = bytes;
        while let Some((mark, behind)) = rest.split_first() {
            match *mark {
                ELEMENT => rest = decode_element::<T>(behind, out)?,
                found => return Err(wrong_mark(found)),
            }
        }
        Ok(())
    }

    fn encode_key_part<'a>(value: &Self::SelfType<'a>, out: &mut Vec<u8>)
    where
        Self: 'a,
    {
        if T::BYTE_ELEMENTS.0 {
            return ordered::escape(T::lend_bytes(value, Token(())), out);
        }
        encode_elements::<T>(value, out);
        out.push(END);
    }

    fn decode_key_part<'k>(bytes: &'k [u8], out: &mut Vec<u8>) -> Result<&'k [u8], DecodeError> {
        if T::BYTE_ELEMENTS.0 {
            return ordered::unescape(bytes, out);
        }
        let mut rest = bytes;
        loop {
            match rest.split_first() {
                Some((&END, behind)) => return Ok(behind),
                Some((&ELEMENT, behind)) => rest = decode_element::<T>(behind, out)?,
                Some((found, _)) => return Err(wrong_mark(*found)),
                None => {
                    return Err(DecodeError::new("expected an end mark behind a key part, found the end of the key"));
                }
            }
        }
    }
}
