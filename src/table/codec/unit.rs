//! The empty type: the value of a table that is a set, the key of a table with one row.
//!
//! Invariant: it has no bytes.
//! Layer 6 (table). Bytes: design.md, "Type descriptors and encodings".

use super::ordered::exact;
use crate::base::codec::DecodeError;
use crate::table::descriptor::TypeDescriptor;
use crate::table::traits::{Key, TypeName, Value};

impl Value for () {
    type SelfType<'a> = ();
    type AsBytes<'a> = [u8; 0];

    fn fixed_width() -> Option<usize> {
        Some(0)
    }

    fn try_from_bytes<'a>(data: &'a [u8]) -> Result<(), DecodeError>
    where
        Self: 'a,
    {
        exact::<0>(data, "()").map(|_| ())
    }

    fn as_bytes<'a, 'b: 'a>((): &'a ()) -> [u8; 0]
    where
        Self: 'b,
    {
        []
    }

    fn type_name() -> TypeName {
        TypeName::builtin(&TypeDescriptor::Unit)
    }

    fn descriptor() -> TypeDescriptor {
        TypeDescriptor::Unit
    }
}

impl Key for () {
    const KEY_BYTES_ARE_VALUE_BYTES: bool = true;

    fn encode_key<'a>((): &(), _out: &mut Vec<u8>)
    where
        Self: 'a,
    {
    }

    fn decode_key(bytes: &[u8], _out: &mut Vec<u8>) -> Result<(), DecodeError> {
        exact::<0>(bytes, "()").map(|_| ())
    }
}
