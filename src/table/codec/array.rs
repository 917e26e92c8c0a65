//! Arrays: `[T; N]` by value, and `&[u8; N]` lent.
//!
//! Invariant: an array is encoded as the tuple of its elements is. One of bytes therefore is those bytes; by value and
//! lent it has the same descriptor, so a table may be opened with either.
//! Layer 6 (table). Bytes: design.md, "Type descriptors and encodings".

use super::ordered::{exact, exact_ref};
use super::tuple::{Layout, TupleWriter, join};
use crate::base::codec::DecodeError;
use crate::table::descriptor::TypeDescriptor;
use crate::table::traits::sealed::Token;
use crate::table::traits::{Key, TypeName, Value};
use std::borrow::Cow;

const fn bytes_of_length(len: usize) -> TypeDescriptor {
    TypeDescriptor::FixedBytes(TypeDescriptor::width_from(len))
}

fn widths<T: Value>(len: usize) -> Vec<Option<usize>> {
    vec![T::fixed_width(); len]
}

impl<T: Value, const N: usize> Value for [T; N] {
    type SelfType<'a>
        = [T::SelfType<'a>; N]
    where
        Self: 'a;
    type AsBytes<'a>
        = Cow<'a, [u8]>
    where
        Self: 'a;

    fn fixed_width() -> Option<usize> {
        if N == 0 { Some(0) } else { T::fixed_width().map(|width| width.saturating_mul(N)) }
    }

    fn try_from_bytes<'a>(data: &'a [u8]) -> Result<Self::SelfType<'a>, DecodeError>
    where
        Self: 'a,
    {
        if T::BYTE_ELEMENTS.0 {
            let bytes: [u8; N] = exact(data, "array")?;
            return Ok(bytes.map(|byte| T::of_byte(byte, Token(()))));
        }
        let mut elements = Vec::new();
        Layout::new(&widths::<T>(N)).split(data, |_, bytes| {
            elements.push(T::try_from_bytes(bytes)?);
            Ok(())
        })?;
        Ok(elements.try_into().expect("the layout has as many parts as the array has elements"))
    }

    fn as_bytes<'a, 'b: 'a>(value: &'a Self::SelfType<'b>) -> Cow<'a, [u8]>
    where
        Self: 'b,
    {
        if T::BYTE_ELEMENTS.0 {
            return Cow::Borrowed(T::lend_bytes(value, Token(())));
        }
        let encoded: Vec<T::AsBytes<'_>> = value.iter().map(T::as_bytes).collect();
        let parts: Vec<&[u8]> = encoded.iter().map(AsRef::as_ref).collect();
        Cow::Owned(join(&widths::<T>(N), &parts))
    }

    fn type_name() -> TypeName {
        TypeName::builtin(&Self::descriptor())
    }

    fn descriptor() -> TypeDescriptor {
        match T::descriptor() {
            TypeDescriptor::U8 => bytes_of_length(N),
            element => TypeDescriptor::Array(Box::new(element), TypeDescriptor::width_from(N)),
        }
    }
}

impl<T: Key, const N: usize> Key for [T; N] {
    const KEY_BYTES_ARE_VALUE_BYTES: bool = T::BYTE_ELEMENTS.0;

    fn encode_key<'a>(value: &Self::SelfType<'a>, out: &mut Vec<u8>)
    where
        Self: 'a,
    {
        if T::BYTE_ELEMENTS.0 {
            out.extend_from_slice(T::lend_bytes(value, Token(())));
        } else if let Some((last, leading)) = value.split_last() {
            for element in leading {
                T::encode_key_part(element, out);
            }
            T::encode_key(last, out);
        }
    }

    fn decode_key(bytes: &[u8], out: &mut Vec<u8>) -> Result<(), DecodeError> {
        if T::BYTE_ELEMENTS.0 {
            out.extend_from_slice(exact_ref::<N>(bytes, "array")?);
            return Ok(());
        }
        let Some(leading) = N.checked_sub(1) else { return <()>::decode_key(bytes, out) };
        let widths = widths::<T>(N);
        let mut writer = TupleWriter::new(Layout::new(&widths), out);
        let mut rest = bytes;
        for _ in 0..leading {
            let start = out.len();
            rest = T::decode_key_part(rest, out)?;
            writer.end_part(start, out)?;
        }
        let start = out.len();
        T::decode_key(rest, out)?;
        writer.end_part(start, out)
    }

    fn encode_key_part<'a>(value: &Self::SelfType<'a>, out: &mut Vec<u8>)
    where
        Self: 'a,
    {
        if T::BYTE_ELEMENTS.0 {
            return Self::encode_key(value, out);
        }
        for element in value {
            T::encode_key_part(element, out);
        }
    }

    fn decode_key_part<'k>(bytes: &'k [u8], out: &mut Vec<u8>) -> Result<&'k [u8], DecodeError> {
        if T::BYTE_ELEMENTS.0 {
            let (part, rest) = super::ordered::split_fixed(bytes, N)?;
            out.extend_from_slice(part);
            return Ok(rest);
        }
        let widths = widths::<T>(N);
        let mut writer = TupleWriter::new(Layout::new(&widths), out);
        let mut rest = bytes;
        for _ in 0..N {
            let start = out.len();
            rest = T::decode_key_part(rest, out)?;
            writer.end_part(start, out)?;
        }
        Ok(rest)
    }
}

impl<const N: usize> Value for &[u8; N] {
    type SelfType<'a>
        = &'a [u8; N]
    where
        Self: 'a;
    type AsBytes<'a>
        = &'a [u8; N]
    where
        Self: 'a;

    fn fixed_width() -> Option<usize> {
        Some(N)
    }

    fn try_from_bytes<'a>(data: &'a [u8]) -> Result<&'a [u8; N], DecodeError>
    where
        Self: 'a,
    {
        exact_ref(data, "array")
    }

    fn as_bytes<'a, 'b: 'a>(value: &'a &'b [u8; N]) -> &'a [u8; N]
    where
        Self: 'b,
    {
        value
    }

    fn type_name() -> TypeName {
        TypeName::builtin(&bytes_of_length(N))
    }

    fn descriptor() -> TypeDescriptor {
        bytes_of_length(N)
    }
}

impl<const N: usize> Key for &[u8; N] {
    const KEY_BYTES_ARE_VALUE_BYTES: bool = true;

    fn encode_key<'a>(value: &&'a [u8; N], out: &mut Vec<u8>)
    where
        Self: 'a,
    {
        out.extend_from_slice(&value[..]);
    }

    fn decode_key(bytes: &[u8], out: &mut Vec<u8>) -> Result<(), DecodeError> {
        out.extend_from_slice(exact_ref::<N>(bytes, "array")?);
        Ok(())
    }
}
