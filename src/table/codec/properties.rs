//! Property tests of every built-in type: order, round trips, canonical bytes, and bytes that mean nothing.
//!
//! Invariant: the oracle is the `Ord` of the Rust type itself, and bytes pinned by hand, never the encoder.
//! Layer 6 (table). Bytes: design.md, "Type descriptors and encodings".

use crate::base::codec::DecodeError;
use crate::table::render::{render_key, render_value};
use crate::table::traits::{Key, TypeName, Value};
use proptest::prelude::*;
use proptest::sample::Index;
use std::cmp::Ordering;

pub(super) fn standalone<'a, K: Key + 'a>(key: &K::SelfType<'a>) -> Vec<u8> {
    let mut out = Vec::new();
    K::encode_key(key, &mut out);
    out
}

pub(super) fn part<'a, K: Key + 'a>(key: &K::SelfType<'a>) -> Vec<u8> {
    let mut out = Vec::new();
    K::encode_key_part(key, &mut out);
    out
}

/// Everything that the contract of `Key` promises about two keys.
pub(super) fn hold_contract<'a, K: Key + 'static>(
    left: &K::SelfType<'a>,
    right: &K::SelfType<'a>,
) -> Result<(), TestCaseError>
where
    K::SelfType<'a>: Ord,
{
    hold_order::<K>(left, right, left.cmp(right))
}

/// The same for a type whose order is not its `Ord`.
pub(super) fn hold_order<'a, K: Key + 'static>(
    left: &K::SelfType<'a>,
    right: &K::SelfType<'a>,
    order: Ordering,
) -> Result<(), TestCaseError> {
    prop_assert_eq!(standalone::<K>(left).cmp(&standalone::<K>(right)), order, "{:?} {:?}", left, right);
    // Whatever follows two different parts must not decide.
    for (behind_left, behind_right) in [(0x00, 0xFF), (0xFF, 0x00)] {
        let (mut left_bytes, mut right_bytes) = (part::<K>(left), part::<K>(right));
        left_bytes.push(behind_left);
        right_bytes.push(behind_right);
        prop_assert_eq!(left_bytes.cmp(&right_bytes), order.then(behind_left.cmp(&behind_right)));
    }
    round_trips::<K>(left)
}

fn round_trips<'a, K: Key + 'static>(key: &K::SelfType<'a>) -> Result<(), TestCaseError> {
    let value = K::as_bytes(key).as_ref().to_vec();
    let ordered = standalone::<K>(key);
    let shown = format!("{key:?}");

    let mut transcoded = vec![0xEE];
    prop_assert_eq!(K::decode_key(&ordered, &mut transcoded), Ok(()));
    prop_assert_eq!(&transcoded[1..], &value[..], "decode_key appends the value encoding");
    let lent = K::try_from_bytes(&transcoded[1..]);
    prop_assert_eq!(lent.map(|lent| format!("{lent:?}")), Ok(shown));

    let mut parts = part::<K>(key);
    parts.extend_from_slice(b"tail");
    transcoded.truncate(1);
    prop_assert_eq!(K::decode_key_part(&parts, &mut transcoded), Ok(&b"tail"[..]));
    prop_assert_eq!(&transcoded[1..], &value[..]);

    if K::KEY_BYTES_ARE_VALUE_BYTES {
        prop_assert_eq!(&ordered, &value);
    }
    if let Some(width) = K::fixed_width() {
        prop_assert_eq!((value.len(), ordered.len(), part::<K>(key).len()), (width, width, width));
    }
    prop_assert_eq!(K::descriptor().fixed_width(), K::fixed_width());
    prop_assert_eq!(K::descriptor().check(), Ok(()));
    let (as_value, as_key) = (render_value(&K::descriptor(), &value), render_key(&K::descriptor(), &ordered));
    prop_assert!(as_value.is_ok() && as_key.is_ok(), "{:?} {:?}", as_value, as_key);
    // Opaque types show their bytes, which differ between the two forms.
    let is_opaque = K::descriptor().to_string().contains("\"test.Reversed\"");
    prop_assert!(is_opaque || as_value == as_key, "{:?} {:?}", as_value, as_key);
    Ok(())
}

/// No bytes panic, what is accepted is exactly what encoding writes, and the renderer accepts the same bytes.
pub(super) fn refuse_or_accept<K: Key + 'static>(bytes: &[u8]) -> Result<(), TestCaseError> {
    let value = K::try_from_bytes(bytes);
    prop_assert_eq!(value.is_ok(), render_value(&K::descriptor(), bytes).is_ok());
    if let Ok(value) = value {
        let encoded = K::as_bytes(&value);
        prop_assert_eq!(encoded.as_ref(), bytes);
    }

    let mut transcoded = Vec::new();
    let key = K::decode_key(bytes, &mut transcoded).and_then(|()| K::try_from_bytes(&transcoded));
    prop_assert_eq!(key.is_ok(), render_key(&K::descriptor(), bytes).is_ok());
    if let Ok(key) = key {
        prop_assert_eq!(&standalone::<K>(&key)[..], bytes);
    }

    let mut transcoded = Vec::new();
    if let Ok(rest) = K::decode_key_part(bytes, &mut transcoded)
        && let Ok(key) = K::try_from_bytes(&transcoded)
    {
        let mut again = part::<K>(&key);
        again.extend_from_slice(rest);
        prop_assert_eq!(&again[..], bytes);
    }
    Ok(())
}

/// Bytes near zero and near the top, so that ends, escapes and prefixes meet often.
pub(super) fn any_bytes() -> impl Strategy<Value = Vec<u8>> {
    let byte = proptest::sample::select(vec![0_u8, 0, 1, 0xFE, 0xFF, b'a']);
    proptest::collection::vec(byte, 0..6)
}

pub(super) fn any_text() -> impl Strategy<Value = String> {
    let letter = proptest::sample::select(vec!['\0', '\0', '\u{1}', 'a', '\u{7F}', '\u{E9}', '\u{FFFF}', '\u{10FFFF}']);
    proptest::collection::vec(letter, 0..6).prop_map(String::from_iter)
}

/// A valid encoding with one byte changed, one cut off or one more, beside bytes of no meaning.
pub(super) fn damaged(mut bytes: Vec<u8>, at: Index, byte: u8, how: u8) -> Vec<u8> {
    let at = at.index(bytes.len() + 1);
    match how % 3 {
        0 if at < bytes.len() => bytes[at] = byte,
        1 => bytes.truncate(at),
        _ => bytes.insert(at, byte),
    }
    bytes
}

macro_rules! int_properties {
    ($($name:ident $type:ty),*) => {$(
        proptest! {
            #[test]
            fn $name(
                left in prop_oneof![any::<$type>(), proptest::sample::select(vec![0, 1, <$type>::MIN, <$type>::MAX])],
                right in prop_oneof![any::<$type>(), proptest::sample::select(vec![0, 1, <$type>::MIN, <$type>::MAX])],
            ) {
                hold_contract::<$type>(&left, &right)?;
                hold_contract::<$type>(&left, &left)?;
                hold_contract::<$type>(&left, &left.wrapping_add(1))?;
            }
        }
    )*};
}

int_properties!(
    u8_keys_sort u8, u16_keys_sort u16, u32_keys_sort u32, u64_keys_sort u64, u128_keys_sort u128,
    i8_keys_sort i8, i16_keys_sort i16, i32_keys_sort i32, i64_keys_sort i64, i128_keys_sort i128
);

type Mixed = (&'static [u8], u64, &'static str, i32, (&'static str, &'static [u8]), [u8; 3]);
type Deep = ((&'static str, (u16, &'static [u8]), ()), (bool,), ((&'static [u8],),));
type Twelve = (u8, &'static str, i8, bool, (), &'static [u8], u16, &'static str, [u8; 2], i64, u32, &'static [u8]);

proptest! {
    #[test]
    fn byte_keys_sort(left in any_bytes(), right in any_bytes()) {
        hold_contract::<&[u8]>(&&left[..], &&right[..])?;
        hold_contract::<(&[u8],)>(&(&left[..],), &(&right[..],))?;
    }

    #[test]
    fn string_keys_sort(left in any_text(), right in any_text()) {
        hold_contract::<&str>(&&left[..], &&right[..])?;
    }

    #[test]
    fn array_unit_and_bool_keys_sort(left: [u8; 3], right: [u8; 3], first: bool, second: bool) {
        hold_contract::<[u8; 3]>(&left, &right)?;
        hold_contract::<&[u8; 3]>(&&left, &&right)?;
        hold_contract::<[u8; 0]>(&[], &[])?;
        hold_contract::<bool>(&first, &second)?;
        hold_contract::<()>(&(), &())?;
    }

    #[test]
    fn pair_keys_sort_by_the_first_then_the_second(
        left in (any_text(), 0..3_u64), right in (any_text(), 0..3_u64),
    ) {
        hold_contract::<(&str, u64)>(&(&left.0, left.1), &(&right.0, right.1))?;
        hold_contract::<(u64, &str)>(&(left.1, &left.0), &(right.1, &right.0))?;
        hold_contract::<(&str, &str)>(&(&left.0, &right.0), &(&right.0, &left.0))?;
        hold_contract::<(i64, u64)>(&(-1, left.1), &(1, right.1))?;
    }

    #[test]
    fn mixed_keys_sort(
        a in (any_bytes(), 0..2_u64, any_text(), -1..2_i32, any_text(), any_bytes()),
        b in (any_bytes(), 0..2_u64, any_text(), -1..2_i32, any_text(), any_bytes()),
        same in 0..6_usize,
    ) {
        let left = (&a.0[..], a.1, &a.2[..], a.3, (&a.4[..], &a.5[..]), [1, 2, 3]);
        let mut right = (&b.0[..], b.1, &b.2[..], b.3, (&b.4[..], &b.5[..]), [1, 2, 4]);
        // A shared front lets the later parts decide.
        if same > 0 { right.0 = left.0; }
        if same > 1 { right.1 = left.1; }
        if same > 2 { right.2 = left.2; }
        if same > 3 { right.3 = left.3; }
        if same > 4 { right.4.0 = left.4.0; }
        hold_contract::<Mixed>(&left, &right)?;
    }

    #[test]
    fn nested_keys_sort(
        a in (any_text(), 0..2_u16, any_bytes(), any::<bool>(), any_bytes()),
        b in (any_text(), 0..2_u16, any_bytes(), any::<bool>(), any_bytes()),
        same in 0..3_usize,
    ) {
        let left = ((&a.0[..], (a.1, &a.2[..]), ()), (a.3,), ((&a.4[..],),));
        let mut right = ((&b.0[..], (b.1, &b.2[..]), ()), (b.3,), ((&b.4[..],),));
        if same > 0 { right.0.0 = left.0.0; }
        if same > 1 { right.0.1 = left.0.1; }
        hold_contract::<Deep>(&left, &right)?;
    }

    #[test]
    fn twelve_part_keys_sort(
        texts in (any_text(), any_text()), blobs in (any_bytes(), any_bytes()), n: (i64, u32), other: (i64, u32),
    ) {
        let key = |text, blob, n: (i64, u32)| (1, text, -1, true, (), blob, 9, text, [0, 1], n.0, n.1, blob);
        hold_contract::<Twelve>(
            &key(&texts.0[..], &blobs.0[..], n), &key(&texts.0[..], &blobs.0[..], other))?;
        hold_contract::<Twelve>(
            &key(&texts.0[..], &blobs.0[..], n), &key(&texts.1[..], &blobs.1[..], other))?;
    }

    #[test]
    fn bytes_of_no_meaning_never_panic_and_what_is_accepted_is_canonical(
        bytes in proptest::collection::vec(prop_oneof![Just(0_u8), Just(0xFF), any::<u8>()], 0..40),
    ) {
        refuse_all(&bytes)?;
    }

    #[test]
    fn damaged_encodings_never_panic_and_what_is_accepted_is_canonical(
        text in any_text(), blob in any_bytes(), at in any::<Index>(), byte: u8, how: u8,
    ) {
        let mixed = (&blob[..], 7, &text[..], -7, (&text[..], &blob[..]), [1, 2, 3]);
        let deep = ((&text[..], (7, &blob[..]), ()), (true,), ((&blob[..],),));
        for bytes in [
            Mixed::as_bytes(&mixed), standalone::<Mixed>(&mixed), part::<Mixed>(&mixed),
            Deep::as_bytes(&deep), standalone::<Deep>(&deep), part::<Deep>(&deep),
        ] {
            refuse_all(&damaged(bytes, at, byte, how))?;
        }
    }

    #[test]
    fn the_default_part_form_keeps_the_order_of_a_custom_key(left in any_bytes(), right in any_bytes()) {
        hold_contract::<Reversed>(&std::cmp::Reverse(left.clone()), &std::cmp::Reverse(right.clone()))?;
        hold_contract::<(Reversed, u8)>(&(std::cmp::Reverse(left), 1), &(std::cmp::Reverse(right), 0))?;
    }
}

fn refuse_all(bytes: &[u8]) -> Result<(), TestCaseError> {
    refuse_or_accept::<u8>(bytes)?;
    refuse_or_accept::<u64>(bytes)?;
    refuse_or_accept::<i128>(bytes)?;
    refuse_or_accept::<bool>(bytes)?;
    refuse_or_accept::<()>(bytes)?;
    refuse_or_accept::<&str>(bytes)?;
    refuse_or_accept::<&[u8]>(bytes)?;
    refuse_or_accept::<[u8; 4]>(bytes)?;
    refuse_or_accept::<&[u8; 4]>(bytes)?;
    refuse_or_accept::<(&str,)>(bytes)?;
    refuse_or_accept::<(&str, u64)>(bytes)?;
    refuse_or_accept::<(&[u8], &[u8])>(bytes)?;
    refuse_or_accept::<(u8, &[u8], u8)>(bytes)?;
    refuse_or_accept::<(u8, i16)>(bytes)?;
    refuse_or_accept::<Mixed>(bytes)?;
    refuse_or_accept::<Deep>(bytes)?;
    refuse_or_accept::<Twelve>(bytes)
}

/// Sorts longer and greater byte strings first: each byte is inverted, and the end sorts last.
#[derive(Debug)]
struct Reversed;

impl Value for Reversed {
    type SelfType<'a> = std::cmp::Reverse<Vec<u8>>;
    type AsBytes<'a> = Vec<u8>;

    fn fixed_width() -> Option<usize> {
        None
    }

    fn try_from_bytes<'a>(data: &'a [u8]) -> Result<Self::SelfType<'a>, DecodeError>
    where
        Self: 'a,
    {
        Ok(std::cmp::Reverse(data.to_vec()))
    }

    fn as_bytes<'a, 'b: 'a>(value: &'a Self::SelfType<'b>) -> Vec<u8>
    where
        Self: 'b,
    {
        value.0.clone()
    }

    fn type_name() -> TypeName {
        TypeName::new("test.Reversed")
    }
}

impl Key for Reversed {
    fn encode_key<'a>(value: &Self::SelfType<'a>, out: &mut Vec<u8>)
    where
        Self: 'a,
    {
        out.extend(part::<&[u8]>(&&value.0[..]).iter().map(|byte| !byte));
    }

    fn decode_key(bytes: &[u8], out: &mut Vec<u8>) -> Result<(), DecodeError> {
        let inverted: Vec<u8> = bytes.iter().map(|byte| !byte).collect();
        match <&[u8]>::decode_key_part(&inverted, out)? {
            [] => Ok(()),
            _ => Err(DecodeError::new("bytes behind the end mark")),
        }
    }
}

#[test]
fn value_bytes_are_as_documented() {
    assert_eq!(u32::as_bytes(&0x0102_0304), [4, 3, 2, 1]);
    assert_eq!(i16::as_bytes(&-2), [0xFE, 0xFF]);
    assert_eq!(bool::as_bytes(&true), [1]);
    assert_eq!(<(u8, i16)>::as_bytes(&(7, -2)), [7, 0xFE, 0xFF]);
    // One part of variable width: no length, wherever it stands.
    assert_eq!(<(u8, &str, u8)>::as_bytes(&(1, "ab", 2)), *b"\x01ab\x02");
    // Two: the length of the first is stored in front of everything.
    assert_eq!(<(u8, &str, &[u8], u8)>::as_bytes(&(1, "ab", b"c", 2)), *b"\x02\0\0\0\x01abc\x02");
    assert_eq!(<((&str, &str), &str)>::as_bytes(&(("a", "b"), "c")), *b"\x06\0\0\0\x01\0\0\0abc");
}

#[test]
fn key_bytes_are_as_documented() {
    assert_eq!(standalone::<u32>(&0x0102_0304), [1, 2, 3, 4]);
    assert_eq!(standalone::<i16>(&-2), [0x7F, 0xFE]);
    assert_eq!(standalone::<i8>(&1), [0x81]);
    assert_eq!(standalone::<&str>(&"a\0"), *b"a\0");
    assert_eq!(part::<&str>(&"a\0"), *b"a\0\xFF\0\0");
    assert_eq!(standalone::<(&str, u16)>(&("a", 1)), *b"a\0\0\0\x01");
    assert_eq!(standalone::<(u16, &str)>(&(1, "a\0")), *b"\0\x01a\0");
    assert_eq!(standalone::<((u8, &str), &str)>(&((1, "a"), "b")), *b"\x01a\0\0b");
    assert_eq!(part::<(u8, &str)>(&(1, "a")), *b"\x01a\0\0");
}

#[test]
fn a_string_inside_a_key_is_lent_from_the_transcoded_copy() {
    let mut copy = Vec::new();
    <(&str, u64)>::decode_key(b"key\0\0\0\0\0\0\0\0\0\x05", &mut copy).unwrap();
    let (text, number) = <(&str, u64)>::try_from_bytes(&copy).unwrap();
    assert_eq!((text, number), ("key", 5));
    assert!(copy.as_ptr_range().contains(&text.as_ptr()));
}

#[test]
fn keys_that_need_no_copy_say_so() {
    fn says<K: Key>() -> bool {
        K::KEY_BYTES_ARE_VALUE_BYTES
    }
    assert_eq!([says::<&str>(), says::<&[u8]>(), says::<[u8; 4]>(), says::<&[u8; 4]>()], [true; 4]);
    assert_eq!([says::<u8>(), says::<bool>(), says::<()>(), says::<(&str,)>()], [true; 4]);
    assert_eq!([says::<u16>(), says::<i8>(), says::<(&str, u8)>(), says::<(u16,)>()], [false; 4]);
}

#[test]
fn stored_lengths_that_lie_are_refused() {
    let good = <(&str, &str)>::as_bytes(&("ab", "c"));
    assert!(<(&str, &str)>::try_from_bytes(&good).is_ok());
    for len in [4_u32, 1000, u32::MAX] {
        let mut bytes = good.clone();
        bytes[..4].copy_from_slice(&len.to_le_bytes());
        assert!(<(&str, &str)>::try_from_bytes(&bytes).is_err(), "{len}");
    }
    assert!(<(&str, u64)>::try_from_bytes(b"1234567").is_err());
    assert!(<(u8, u8)>::try_from_bytes(b"123").is_err());
}
