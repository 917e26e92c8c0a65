//! Byte arrays of fixed length: `[u8; N]` by value and `&[u8; N]` lent.
//!
//! Invariant: both have the same bytes and the same descriptor, so a table may be opened with either.
//! Layer 6 (table). Bytes: design.md, "Type descriptors and encodings".

use super::ordered::{exact, exact_ref};
use crate::base::codec::DecodeError;
use crate::table::descriptor::TypeDescriptor;
use crate::table::traits::{Key, TypeName, Value};

const fn descriptor_of(len: usize) -> TypeDescriptor {
    TypeDescriptor::FixedBytes(TypeDescriptor::width_from(len))
}

impl<const N: usize> Value for [u8; N] {
    type SelfType<'a> = [u8; N];
    type AsBytes<'a> = &'a [u8; N];

    fn fixed_width() -> Option<usize> {
        Some(N)
    }

    fn try_from_bytes<'a>(data: &'a [u8]) -> Result<[u8; N], DecodeError>
    where
        Self: 'a,
    {
        exact(data, "array")
    }

    fn as_bytes<'a, 'b: 'a>(value: &'a [u8; N]) -> &'a [u8; N]
    where
        Self: 'b,
    {
        value
    }

    fn type_name() -> TypeName {
        TypeName::builtin(&descriptor_of(N))
    }

    fn descriptor() -> TypeDescriptor {
        descriptor_of(N)
    }
}

impl<const N: usize> Key for [u8; N] {
    const KEY_BYTES_ARE_VALUE_BYTES: bool = true;

    fn encode_key<'a>(value: &[u8; N], out: &mut Vec<u8>)
    where
        Self: 'a,
    {
        out.extend_from_slice(value);
    }

    fn decode_key(bytes: &[u8], out: &mut Vec<u8>) -> Result<(), DecodeError> {
        out.extend_from_slice(exact_ref::<N>(bytes, "array")?);
        Ok(())
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
        TypeName::builtin(&descriptor_of(N))
    }

    fn descriptor() -> TypeDescriptor {
        descriptor_of(N)
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
        <[u8; N]>::decode_key(bytes, out)
    }
}
