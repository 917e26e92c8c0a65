//! Tuples of one to twelve parts.
//!
//! Invariant: a tuple value stores the length of each part of variable width but the last such, and nothing else
//! beside the parts; a tuple key is its parts one behind the other, each but the last self-delimiting.
//! Layer 6 (table). Bytes: design.md, "Type descriptors and encodings".

use crate::base::codec::{DecodeError, Decoder};
use crate::table::descriptor::TypeDescriptor;
use crate::table::traits::{Key, TypeName, Value};

const LENGTH_BYTES: usize = size_of::<u32>();

/// Widths of the parts of one tuple type; it knows which lengths the value encoding stores.
#[derive(Clone, Copy)]
pub(crate) struct Layout<'w> {
    widths: &'w [Option<usize>],
    last_variable: Option<usize>,
}

impl<'w> Layout<'w> {
    pub(crate) fn new(widths: &'w [Option<usize>]) -> Self {
        Self { widths, last_variable: widths.iter().rposition(Option::is_none) }
    }

    /// Width of the whole, where every part has one.
    pub(crate) fn width(self) -> Option<usize> {
        self.widths.iter().try_fold(0_usize, |sum, width| width.map(|width| sum.saturating_add(width)))
    }

    fn stores_length(self, part: usize) -> bool {
        self.widths[part].is_none() && self.last_variable != Some(part)
    }

    fn header_bytes(self) -> usize {
        (0..self.widths.len()).filter(|&part| self.stores_length(part)).count() * LENGTH_BYTES
    }

    /// Calls `visit` with each part of an encoded tuple, in order.
    pub(crate) fn split<'a>(
        self,
        data: &'a [u8],
        mut visit: impl FnMut(usize, &'a [u8]) -> Result<(), DecodeError>,
    ) -> Result<(), DecodeError> {
        let mut decoder = Decoder::new(data);
        let mut lengths = Decoder::new(decoder.bytes(self.header_bytes())?);
        for (part, width) in self.widths.iter().enumerate() {
            let len = match *width {
                Some(width) => width,
                None if self.stores_length(part) => usize::try_from(lengths.u32()?)
                    .map_err(|_| DecodeError::new("a tuple part is longer than this machine can address"))?,
                None => self.length_of_last_variable(part, decoder.remaining())?,
            };
            visit(part, decoder.bytes(len)?)?;
        }
        decoder.finish()
    }

    /// The last part of variable width takes what the parts of fixed width behind it leave.
    fn length_of_last_variable(self, part: usize, remaining: usize) -> Result<usize, DecodeError> {
        let behind = self.widths[part + 1..].iter().flatten().fold(0_usize, |sum, width| sum.saturating_add(*width));
        remaining.checked_sub(behind).ok_or_else(|| {
            DecodeError::new(format!("expected {behind} bytes at the end of a tuple, found {remaining}"))
        })
    }
}

/// Writes a tuple value part by part, filling in the lengths as the parts become known.
pub(super) struct TupleWriter<'w> {
    layout: Layout<'w>,
    part: usize,
    length_at: usize,
}

impl<'w> TupleWriter<'w> {
    pub(super) fn new(layout: Layout<'w>, out: &mut Vec<u8>) -> Self {
        let length_at = out.len();
        out.resize(length_at + layout.header_bytes(), 0);
        Self { layout, part: 0, length_at }
    }

    /// Accounts for the part that was appended since `out` had the length `start`.
    pub(super) fn end_part(&mut self, start: usize, out: &mut [u8]) -> Result<(), DecodeError> {
        let len = out.len() - start;
        match self.layout.widths[self.part] {
            Some(width) if len != width => {
                return Err(DecodeError::new(format!("expected a tuple part of {width} bytes, found {len}")));
            }
            None if self.layout.stores_length(self.part) => {
                let stored = u32::try_from(len)
                    .map_err(|_| DecodeError::new(format!("a tuple part of {len} bytes exceeds 4 GiB")))?;
                out[self.length_at..self.length_at + LENGTH_BYTES].copy_from_slice(&stored.to_le_bytes());
                self.length_at += LENGTH_BYTES;
            }
            _ => {}
        }
        self.part += 1;
        Ok(())
    }
}

/// Joins encoded parts into a tuple value.
///
/// A length that does not fit is written as the largest: such a tuple exceeds 4 GiB, more than a value may have,
/// so the store refuses it.
pub(crate) fn join(widths: &[Option<usize>], parts: &[&[u8]]) -> Vec<u8> {
    let layout = Layout::new(widths);
    let payload: usize = parts.iter().map(|part| part.len()).sum();
    let mut out = Vec::with_capacity(layout.header_bytes() + payload);
    for (part, bytes) in parts.iter().enumerate() {
        if let Some(width) = widths[part] {
            assert_eq!(bytes.len(), width, "an encoded value has the fixed width that its type declares");
        } else if layout.stores_length(part) {
            out.extend_from_slice(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes());
        }
    }
    for bytes in parts {
        out.extend_from_slice(bytes);
    }
    out
}

fn split_all<'a, const N: usize>(widths: [Option<usize>; N], data: &'a [u8]) -> Result<[&'a [u8]; N], DecodeError> {
    let mut parts: [&'a [u8]; N] = [&[]; N];
    Layout::new(&widths).split(data, |part, bytes| {
        parts[part] = bytes;
        Ok(())
    })?;
    Ok(parts)
}

macro_rules! tuple_codec {
    ($count:literal: $($type:ident $index:tt),* ; $last:ident $last_index:tt) => {
        impl<$($type: Value,)* $last: Value> Value for ($($type,)* $last,) {
            type SelfType<'a> = ($($type::SelfType<'a>,)* $last::SelfType<'a>,) where Self: 'a;
            type AsBytes<'a> = Vec<u8> where Self: 'a;

            fn fixed_width() -> Option<usize> {
                Layout::new(&[$($type::fixed_width(),)* $last::fixed_width()]).width()
            }

            fn try_from_bytes<'a>(data: &'a [u8]) -> Result<Self::SelfType<'a>, DecodeError>
            where
                Self: 'a,
            {
                let parts: [&'a [u8]; $count] =
                    split_all([$($type::fixed_width(),)* $last::fixed_width()], data)?;
                Ok(($($type::try_from_bytes(parts[$index])?,)* $last::try_from_bytes(parts[$last_index])?,))
            }

            fn as_bytes<'a, 'b: 'a>(value: &'a Self::SelfType<'b>) -> Vec<u8>
            where
                Self: 'b,
            {
                join(
                    &[$($type::fixed_width(),)* $last::fixed_width()],
                    &[
                        $($type::as_bytes(&value.$index).as_ref(),)*
                        $last::as_bytes(&value.$last_index).as_ref(),
                    ],
                )
            }

            fn type_name() -> TypeName {
                TypeName::builtin(&Self::descriptor())
            }

            fn descriptor() -> TypeDescriptor {
                TypeDescriptor::Tuple(vec![$($type::descriptor(),)* $last::descriptor()])
            }
        }

        impl<$($type: Key,)* $last: Key> Key for ($($type,)* $last,) {
            const KEY_BYTES_ARE_VALUE_BYTES: bool = $count == 1 && $last::KEY_BYTES_ARE_VALUE_BYTES;

            fn encode_key<'a>(value: &Self::SelfType<'a>, out: &mut Vec<u8>)
            where
                Self: 'a,
            {
                $($type::encode_key_part(&value.$index, out);)*
                $last::encode_key(&value.$last_index, out);
            }

            fn decode_key(bytes: &[u8], out: &mut Vec<u8>) -> Result<(), DecodeError> {
                let widths = [$($type::fixed_width(),)* $last::fixed_width()];
                let mut writer = TupleWriter::new(Layout::new(&widths), out);
                let rest = bytes;
                $(
                    let start = out.len();
                    let rest = $type::decode_key_part(rest, out)?;
                    writer.end_part(start, out)?;
                )*
                let start = out.len();
                $last::decode_key(rest, out)?;
                writer.end_part(start, out)
            }

            fn encode_key_part<'a>(value: &Self::SelfType<'a>, out: &mut Vec<u8>)
            where
                Self: 'a,
            {
                $($type::encode_key_part(&value.$index, out);)*
                $last::encode_key_part(&value.$last_index, out);
            }

            fn decode_key_part<'k>(bytes: &'k [u8], out: &mut Vec<u8>) -> Result<&'k [u8], DecodeError> {
                let widths = [$($type::fixed_width(),)* $last::fixed_width()];
                let mut writer = TupleWriter::new(Layout::new(&widths), out);
                let rest = bytes;
                $(
                    let start = out.len();
                    let rest = $type::decode_key_part(rest, out)?;
                    writer.end_part(start, out)?;
                )*
                let start = out.len();
                let rest = $last::decode_key_part(rest, out)?;
                writer.end_part(start, out)?;
                Ok(rest)
            }
        }
    };
}

tuple_codec!(1: ; A 0);
tuple_codec!(2: A 0; B 1);
tuple_codec!(3: A 0, B 1; C 2);
tuple_codec!(4: A 0, B 1, C 2; D 3);
tuple_codec!(5: A 0, B 1, C 2, D 3; E 4);
tuple_codec!(6: A 0, B 1, C 2, D 3, E 4; F 5);
tuple_codec!(7: A 0, B 1, C 2, D 3, E 4, F 5; G 6);
tuple_codec!(8: A 0, B 1, C 2, D 3, E 4, F 5, G 6; H 7);
tuple_codec!(9: A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7; I 8);
tuple_codec!(10: A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7, I 8; J 9);
tuple_codec!(11: A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7, I 8, J 9; K 10);
tuple_codec!(12: A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7, I 8, J 9, K 10; L 11);
