//! Strings and byte slices, lent from where they are stored.
//!
//! Invariant: the standalone key is the value itself; only as a part of a tuple is it escaped.
//! Layer 6 (table). Bytes: design.md, "Type descriptors and encodings".

use super::ordered;
use crate::base::codec::DecodeError;
use crate::table::descriptor::TypeDescriptor;
use crate::table::traits::{Key, TypeName, Value};

impl Value for &[u8] {
    type SelfType<'a>
        = &'a [u8]
    where
        Self: 'a;
    type AsBytes<'a>
        = &'a [u8]
    where
        Self: 'a;

    fn fixed_width() -> Option<usize> {
        None
    }

    fn try_from_bytes<'a>(data: &'a [u8]) -> Result<&'a [u8], DecodeError>
    where
        Self: 'a,
    {
        Ok(data)
    }

    fn as_bytes<'a, 'b: 'a>(value: &'a &'b [u8]) -> &'a [u8]
    where
        Self: 'b,
    {
        value
    }

    fn type_name() -> TypeName {
        TypeName::builtin(&TypeDescriptor::Bytes)
    }

    fn descriptor() -> TypeDescriptor {
        TypeDescriptor::Bytes
    }
}

impl Key for &[u8] {
    const KEY_BYTES_ARE_VALUE_BYTES: bool = true;

    fn encode_key<'a>(value: &&'a [u8], out: &mut Vec<u8>)
    where
        Self: 'a,
    {
        out.extend_from_slice(value);
    }

    fn decode_key(bytes: &[u8], out: &mut Vec<u8>) -> Result<(), DecodeError> {
        out.extend_from_slice(bytes);
        Ok(())
    }

    fn encode_key_part<'a>(value: &&'a [u8], out: &mut Vec<u8>)
    where
        Self: 'a,
    {
        ordered::escape(value, out);
    }

    fn decode_key_part<'a>(bytes: &'a [u8], out: &mut Vec<u8>) -> Result<&'a [u8], DecodeError> {
        ordered::unescape(bytes, out)
    }
}

impl Value for &str {
    type SelfType<'a>
        = &'a str
    where
        Self: 'a;
    type AsBytes<'a>
        = &'a str
    where
        Self: 'a;

    fn fixed_width() -> Option<usize> {
        None
    }

    fn try_from_bytes<'a>(data: &'a [u8]) -> Result<&'a str, DecodeError>
    where
        Self: 'a,
    {
        std::str::from_utf8(data).map_err(|error| DecodeError::new(format!("expected a string: {error}")))
    }

    fn as_bytes<'a, 'b: 'a>(value: &'a &'b str) -> &'a str
    where
        Self: 'b,
    {
        value
    }

    fn type_name() -> TypeName {
        TypeName::builtin(&TypeDescriptor::Str)
    }

    fn descriptor() -> TypeDescriptor {
        TypeDescriptor::Str
    }
}

impl Key for &str {
    const KEY_BYTES_ARE_VALUE_BYTES: bool = true;

    fn encode_key<'a>(value: &&'a str, out: &mut Vec<u8>)
    where
        Self: 'a,
    {
        out.extend_from_slice(value.as_bytes());
    }

    fn decode_key(bytes: &[u8], out: &mut Vec<u8>) -> Result<(), DecodeError> {
        out.extend_from_slice(bytes);
        Ok(())
    }

    fn encode_key_part<'a>(value: &&'a str, out: &mut Vec<u8>)
    where
        Self: 'a,
    {
        ordered::escape(value.as_bytes(), out);
    }

    fn decode_key_part<'a>(bytes: &'a [u8], out: &mut Vec<u8>) -> Result<&'a [u8], DecodeError> {
        ordered::unescape(bytes, out)
    }
}
