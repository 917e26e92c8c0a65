//! Owned strings.
//!
//! Invariant: bytes and descriptor are those of `&str`, so a table may be opened with either.
//! Layer 6 (table). Bytes: design.md, "Type descriptors and encodings".

use crate::base::codec::DecodeError;
use crate::table::descriptor::TypeDescriptor;
use crate::table::traits::{Key, TypeName, Value};

impl Value for String {
    type SelfType<'a> = String;
    type AsBytes<'a> = &'a str;

    fn fixed_width() -> Option<usize> {
        None
    }

    fn try_from_bytes<'a>(data: &'a [u8]) -> Result<String, DecodeError>
    where
        Self: 'a,
    {
        <&str>::try_from_bytes(data).map(str::to_owned)
    }

    fn as_bytes<'a, 'b: 'a>(value: &'a String) -> &'a str
    where
        Self: 'b,
    {
        value
    }

    fn type_name() -> TypeName {
        <&str>::type_name()
    }

    fn descriptor() -> TypeDescriptor {
        TypeDescriptor::Str
    }
}

impl Key for String {
    const KEY_BYTES_ARE_VALUE_BYTES: bool = true;

    fn encode_key<'a>(value: &String, out: &mut Vec<u8>)
    where
        Self: 'a,
    {
        <&str>::encode_key(&value.as_str(), out);
    }

    fn decode_key(bytes: &[u8], out: &mut Vec<u8>) -> Result<(), DecodeError> {
        <&str>::decode_key(bytes, out)
    }

    fn encode_key_part<'a>(value: &String, out: &mut Vec<u8>)
    where
        Self: 'a,
    {
        <&str>::encode_key_part(&value.as_str(), out);
    }

    fn decode_key_part<'k>(bytes: &'k [u8], out: &mut Vec<u8>) -> Result<&'k [u8], DecodeError> {
        <&str>::decode_key_part(bytes, out)
    }
}
