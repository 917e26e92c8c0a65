//! Integers and bool.
//!
//! Invariant: values are little-endian; keys are big-endian, with the sign bit flipped where there is one.
//! Layer 6 (table). Bytes: design.md, "Type descriptors and encodings".

use super::ordered::exact;
use crate::base::codec::DecodeError;
use crate::table::descriptor::TypeDescriptor;
use crate::table::traits::sealed::{ByteElements, Token};
use crate::table::traits::{Key, TypeName, Value};

macro_rules! int_codec {
    ($type:ty, $descriptor:ident, $flip:expr, $same:expr $(, { $($hook:tt)* })?) => {
        impl Value for $type {
            type SelfType<'a> = $type;
            type AsBytes<'a> = [u8; size_of::<$type>()];

            fn fixed_width() -> Option<usize> {
                Some(size_of::<$type>())
            }

            fn try_from_bytes<'a>(data: &'a [u8]) -> Result<$type, DecodeError>
            where
                Self: 'a,
            {
                Ok(<$type>::from_le_bytes(exact(data, stringify!($type))?))
            }

            fn as_bytes<'a, 'b: 'a>(value: &'a $type) -> Self::AsBytes<'a>
            where
                Self: 'b,
            {
                value.to_le_bytes()
            }

            fn type_name() -> TypeName {
                TypeName::builtin(&TypeDescriptor::$descriptor)
            }

            fn descriptor() -> TypeDescriptor {
                TypeDescriptor::$descriptor
            }

            $($($hook)*)?
        }

        impl Key for $type {
            const KEY_BYTES_ARE_VALUE_BYTES: bool = $same;

            fn encode_key<'a>(value: &$type, out: &mut Vec<u8>)
            where
                Self: 'a,
            {
                out.extend_from_slice(&(value ^ $flip).to_be_bytes());
            }

            fn decode_key(bytes: &[u8], out: &mut Vec<u8>) -> Result<(), DecodeError> {
                let value = <$type>::from_be_bytes(exact(bytes, stringify!($type))?) ^ $flip;
                out.extend_from_slice(&value.to_le_bytes());
                Ok(())
            }
        }
    };
}

int_codec!(u8, U8, 0, true, {
    const BYTE_ELEMENTS: ByteElements = ByteElements(true);

    fn lend_bytes<'a, 'b: 'a>(elements: &'a [u8], _: Token) -> &'a [u8]
    where
        Self: 'b,
    {
        elements
    }

    fn of_byte<'a>(byte: u8, _: Token) -> u8
    where
        Self: 'a,
    {
        byte
    }
});
int_codec!(u16, U16, 0, false);
int_codec!(u32, U32, 0, false);
int_codec!(u64, U64, 0, false);
int_codec!(u128, U128, 0, false);
int_codec!(i8, I8, i8::MIN, false);
int_codec!(i16, I16, i16::MIN, false);
int_codec!(i32, I32, i32::MIN, false);
int_codec!(i64, I64, i64::MIN, false);
int_codec!(i128, I128, i128::MIN, false);

impl Value for bool {
    type SelfType<'a> = bool;
    type AsBytes<'a> = [u8; 1];

    fn fixed_width() -> Option<usize> {
        Some(1)
    }

    fn try_from_bytes<'a>(data: &'a [u8]) -> Result<bool, DecodeError>
    where
        Self: 'a,
    {
        match exact(data, "bool")? {
            [0] => Ok(false),
            [1] => Ok(true),
            [found] => Err(DecodeError::new(format!("expected 0 or 1 as bool, found {found}"))),
        }
    }

    fn as_bytes<'a, 'b: 'a>(value: &'a bool) -> [u8; 1]
    where
        Self: 'b,
    {
        [u8::from(*value)]
    }

    fn type_name() -> TypeName {
        TypeName::builtin(&TypeDescriptor::Bool)
    }

    fn descriptor() -> TypeDescriptor {
        TypeDescriptor::Bool
    }
}

impl Key for bool {
    const KEY_BYTES_ARE_VALUE_BYTES: bool = true;

    fn encode_key<'a>(value: &bool, out: &mut Vec<u8>)
    where
        Self: 'a,
    {
        out.push(u8::from(*value));
    }

    fn decode_key(bytes: &[u8], out: &mut Vec<u8>) -> Result<(), DecodeError> {
        out.push(u8::from(bool::try_from_bytes(bytes)?));
        Ok(())
    }
}
