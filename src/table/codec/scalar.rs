//! Floating point numbers and characters.
//!
//! Invariant: floats sort as `total_cmp` does and keep every bit, those of NaN included.
//! Layer 6 (table). Bytes: design.md, "Type descriptors and encodings".

use super::ordered::exact;
use crate::base::codec::DecodeError;
use crate::table::descriptor::TypeDescriptor;
use crate::table::traits::{Key, TypeName, Value};

macro_rules! float_codec {
    ($type:ident, $bits:ty, $descriptor:ident) => {
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
                Ok($type::from_le_bytes(exact(data, stringify!($type))?))
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
        }

        impl Key for $type {
            fn encode_key<'a>(value: &$type, out: &mut Vec<u8>)
            where
                Self: 'a,
            {
                // Negative numbers sort by falling magnitude and below all others.
                let (bits, sign): ($bits, $bits) = (value.to_bits(), 1 << (<$bits>::BITS - 1));
                let ordered = if bits & sign == 0 { bits ^ sign } else { !bits };
                out.extend_from_slice(&ordered.to_be_bytes());
            }

            fn decode_key(bytes: &[u8], out: &mut Vec<u8>) -> Result<(), DecodeError> {
                let ordered = <$bits>::from_be_bytes(exact(bytes, stringify!($type))?);
                let sign = 1 << (<$bits>::BITS - 1);
                let bits = if ordered & sign == 0 { !ordered } else { ordered ^ sign };
                out.extend_from_slice(&bits.to_le_bytes());
                Ok(())
            }
        }
    };
}

float_codec!(f32, u32, F32);
float_codec!(f64, u64, F64);

impl Value for char {
    type SelfType<'a> = char;
    type AsBytes<'a> = [u8; 4];

    fn fixed_width() -> Option<usize> {
        Some(4)
    }

    fn try_from_bytes<'a>(data: &'a [u8]) -> Result<char, DecodeError>
    where
        Self: 'a,
    {
        let number = u32::from_le_bytes(exact(data, "char")?);
        char::from_u32(number).ok_or_else(|| DecodeError::new(format!("expected a Unicode scalar, found {number:#x}")))
    }

    fn as_bytes<'a, 'b: 'a>(value: &'a char) -> [u8; 4]
    where
        Self: 'b,
    {
        u32::from(*value).to_le_bytes()
    }

    fn type_name() -> TypeName {
        TypeName::builtin(&TypeDescriptor::Char)
    }

    fn descriptor() -> TypeDescriptor {
        TypeDescriptor::Char
    }
}

impl Key for char {
    fn encode_key<'a>(value: &char, out: &mut Vec<u8>)
    where
        Self: 'a,
    {
        u32::encode_key(&u32::from(*value), out);
    }

    fn decode_key(bytes: &[u8], out: &mut Vec<u8>) -> Result<(), DecodeError> {
        u32::decode_key(&exact::<4>(bytes, "char")?, out)
    }
}
