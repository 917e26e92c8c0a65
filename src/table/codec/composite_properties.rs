//! Property tests of floats, characters, owned and composite types and newtypes.
//!
//! Invariant: as in `properties.rs`, the oracle is the order of the Rust type itself, and bytes pinned by hand.
//! Layer 6 (table). Bytes: design.md, "Type descriptors and encodings".

use super::descending::Desc;
use super::properties::{any_bytes, any_text, damaged, hold_contract, hold_order, part, refuse_or_accept, standalone};
use crate::base::codec::DecodeError;
use crate::table::newtype::Newtype;
use crate::table::traits::{Key, Value};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

/// A newtype that takes every string.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Label(String);

impl Newtype for Label {
    type Stored = String;
    const NAME: &'static str = "test.Label";

    fn as_stored(&self) -> &String {
        &self.0
    }

    fn from_stored(stored: String) -> Result<Self, DecodeError> {
        Ok(Self(stored))
    }
}

/// A newtype around several fields, in falling order of the second.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Rank((String, Desc<u16>));

impl Newtype for Rank {
    type Stored = (String, Desc<u16>);
    const NAME: &'static str = "test.Rank";

    fn as_stored(&self) -> &(String, Desc<u16>) {
        &self.0
    }

    fn from_stored(stored: (String, Desc<u16>)) -> Result<Self, DecodeError> {
        Ok(Self(stored))
    }
}

type Nested = (Vec<Option<String>>, Desc<Vec<[i16; 2]>>, [Vec<String>; 2], Option<(char, Desc<String>)>, Label);
type Falling = Vec<Desc<Option<Vec<Desc<String>>>>>;

fn any_nested() -> impl Strategy<Value = <Nested as Value>::SelfType<'static>> {
    let texts = || vec(any_text(), 0..3);
    let letter = prop_oneof![Just('\0'), Just('a'), any::<char>()];
    (
        vec(proptest::option::of(any_text()), 0..3),
        vec([-1..2_i16, -1..2_i16], 0..3).prop_map(Desc),
        [texts(), texts()],
        proptest::option::of((letter, any_text().prop_map(Desc))),
        any_text().prop_map(Label),
    )
}

fn any_falling() -> impl Strategy<Value = <Falling as Value>::SelfType<'static>> {
    vec(proptest::option::of(vec(any_text().prop_map(Desc), 0..3)).prop_map(Desc), 0..3)
}

fn any_f64() -> impl Strategy<Value = f64> {
    let edges =
        [0.0, -0.0, 1.0, f64::MIN, f64::MAX, f64::EPSILON, f64::INFINITY, f64::NEG_INFINITY, f64::NAN, -f64::NAN];
    prop_oneof![any::<u64>().prop_map(f64::from_bits), proptest::sample::select(edges.to_vec())]
}

fn any_f32() -> impl Strategy<Value = f32> {
    let edges =
        [0.0, -0.0, 1.0, f32::MIN, f32::MAX, f32::EPSILON, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, -f32::NAN];
    prop_oneof![any::<u32>().prop_map(f32::from_bits), proptest::sample::select(edges.to_vec())]
}

proptest! {
    #[test]
    fn float_keys_sort_as_total_cmp_does_and_keep_every_bit(
        left in any_f64(), right in any_f64(), narrow in any_f32(), other in any_f32(),
    ) {
        hold_order::<f64>(&left, &right, left.total_cmp(&right))?;
        hold_order::<f32>(&narrow, &other, narrow.total_cmp(&other))?;
        let (mut value, mut narrow_value) = (Vec::new(), Vec::new());
        f64::decode_key(&standalone::<f64>(&left), &mut value).unwrap();
        f32::decode_key(&standalone::<f32>(&narrow), &mut narrow_value).unwrap();
        prop_assert_eq!(f64::try_from_bytes(&value).unwrap().to_bits(), left.to_bits());
        prop_assert_eq!(f32::try_from_bytes(&narrow_value).unwrap().to_bits(), narrow.to_bits());
        hold_order::<(Desc<f64>, f32)>(
            &(Desc(left), narrow), &(Desc(right), other), right.total_cmp(&left).then(narrow.total_cmp(&other)))?;
    }

    #[test]
    fn char_keys_sort(left: char, right: char) {
        hold_contract::<char>(&left, &right)?;
        hold_contract::<[char; 2]>(&[left, right], &[right, left])?;
    }

    #[test]
    fn owned_keys_sort(text in (any_text(), any_text()), blob in (any_bytes(), any_bytes())) {
        hold_contract::<String>(&text.0, &text.1)?;
        hold_contract::<Vec<u8>>(&blob.0, &blob.1)?;
        hold_contract::<(Vec<u8>, String)>(&(blob.0.clone(), text.0.clone()), &(blob.1, text.1))?;
        hold_contract::<Option<Vec<u8>>>(&Some(blob.0), &None)?;
    }

    #[test]
    fn owned_and_lent_types_have_the_same_bytes(text in any_text(), blob in any_bytes()) {
        prop_assert_eq!(part::<String>(&text), part::<&str>(&&text[..]));
        prop_assert_eq!(standalone::<Vec<u8>>(&blob), standalone::<&[u8]>(&&blob[..]));
        prop_assert_eq!(part::<Vec<u8>>(&blob), part::<&[u8]>(&&blob[..]));
        let owned = Vec::<u8>::as_bytes(&blob);
        prop_assert_eq!(owned.as_ref(), &blob[..]);
        prop_assert_eq!(<(String, Vec<u8>)>::descriptor(), <(&str, &[u8])>::descriptor());
    }

    #[test]
    fn array_keys_sort(
        texts in ([any_text(), any_text()], [any_text(), any_text()]),
        numbers in ([-1..2_i16, -1..2_i16, -1..2_i16], [-1..2_i16, -1..2_i16, -1..2_i16]),
    ) {
        hold_contract::<[String; 2]>(&texts.0, &texts.1)?;
        hold_contract::<[i16; 3]>(&numbers.0, &numbers.1)?;
        hold_contract::<[String; 0]>(&[], &[])?;
        hold_contract::<[(); 3]>(&[(); 3], &[(); 3])?;
        hold_contract::<[[u8; 2]; 2]>(&[[0, 1], [2, 3]], &[[0, 1], [2, 4]])?;
        hold_contract::<([String; 2], [i16; 3])>(&(texts.0, numbers.0), &(texts.1, numbers.1))?;
    }

    #[test]
    fn vector_and_optional_keys_sort(
        texts in (vec(any_text(), 0..4), vec(any_text(), 0..4)),
        numbers in (vec(0..3_u32, 0..4), vec(0..3_u32, 0..4)),
        maybe in (proptest::option::of(-1..2_i64), proptest::option::of(-1..2_i64)),
        units in (0..4_usize, 0..4_usize),
    ) {
        hold_contract::<Vec<String>>(&texts.0, &texts.1)?;
        hold_contract::<Vec<u32>>(&numbers.0, &numbers.1)?;
        hold_contract::<Vec<()>>(&vec![(); units.0], &vec![(); units.1])?;
        hold_contract::<Option<i64>>(&maybe.0, &maybe.1)?;
        hold_contract::<Option<Option<i64>>>(&Some(maybe.0), &maybe.1.map(Some))?;
        hold_contract::<(Vec<String>, Option<i64>, Vec<u32>)>(
            &(texts.0, maybe.0, numbers.0), &(texts.1, maybe.1, numbers.1))?;
    }

    #[test]
    fn falling_keys_sort(text in (any_text(), any_text()), number: (u64, u64)) {
        hold_contract::<Desc<u64>>(&Desc(number.0), &Desc(number.1))?;
        hold_contract::<Desc<String>>(&Desc(text.0.clone()), &Desc(text.1.clone()))?;
        hold_contract::<Desc<Desc<&str>>>(&Desc(Desc(&text.0)), &Desc(Desc(&text.1)))?;
        hold_contract::<(Desc<&str>, u64)>(&(Desc(&text.0), number.0), &(Desc(&text.1), number.1))?;
        hold_contract::<Desc<(&str, u64)>>(&Desc((&text.0, number.0)), &Desc((&text.1, number.1)))?;
        // The end of the part lies behind the first window.
        let long = |end: &str| Desc(format!("{}{end}", "\0x".repeat(90)));
        hold_contract::<(Desc<String>, u8)>(&(long(&text.0), 1), &(long(&text.1), 2))?;
    }

    #[test]
    fn newtype_and_nested_keys_sort(
        label in (any_text(), any_text()), rank in (any_text(), 0..3_u16, any_text(), 0..3_u16),
        nested in (any_nested(), any_nested()), falling in (any_falling(), any_falling()),
    ) {
        hold_contract::<Label>(&Label(label.0), &Label(label.1))?;
        hold_contract::<Rank>(&Rank((rank.0, Desc(rank.1))), &Rank((rank.2, Desc(rank.3))))?;
        hold_contract::<Nested>(&nested.0, &nested.1)?;
        hold_contract::<Desc<Nested>>(&Desc(nested.0.clone()), &Desc(nested.1))?;
        hold_contract::<(Nested, u8)>(&(nested.0.clone(), 1), &(nested.0, 2))?;
        hold_contract::<Falling>(&falling.0, &falling.1)?;
    }

    #[test]
    fn bytes_of_no_meaning_never_panic_and_what_is_accepted_is_canonical(
        bytes in vec(prop_oneof![Just(0_u8), Just(1), Just(0xFE), Just(0xFF), any::<u8>()], 0..40),
    ) {
        refuse_all(&bytes)?;
    }

    #[test]
    fn damaged_encodings_never_panic_and_what_is_accepted_is_canonical(
        nested in any_nested(), falling in any_falling(), at in any::<Index>(), byte: u8, how: u8,
    ) {
        for bytes in [
            Nested::as_bytes(&nested), standalone::<Nested>(&nested), part::<Nested>(&nested),
            Falling::as_bytes(&falling).into_owned(), standalone::<Falling>(&falling), part::<Falling>(&falling),
        ] {
            refuse_all(&damaged(bytes, at, byte, how))?;
        }
    }
}

fn refuse_all(bytes: &[u8]) -> Result<(), TestCaseError> {
    refuse_or_accept::<f32>(bytes)?;
    refuse_or_accept::<f64>(bytes)?;
    refuse_or_accept::<char>(bytes)?;
    refuse_or_accept::<String>(bytes)?;
    refuse_or_accept::<Vec<u8>>(bytes)?;
    refuse_or_accept::<[i16; 3]>(bytes)?;
    refuse_or_accept::<[String; 2]>(bytes)?;
    refuse_or_accept::<[String; 0]>(bytes)?;
    refuse_or_accept::<[(); 3]>(bytes)?;
    refuse_or_accept::<Vec<u32>>(bytes)?;
    refuse_or_accept::<Vec<()>>(bytes)?;
    refuse_or_accept::<Vec<String>>(bytes)?;
    refuse_or_accept::<Option<u16>>(bytes)?;
    refuse_or_accept::<(Option<String>, u8)>(bytes)?;
    refuse_or_accept::<Desc<u32>>(bytes)?;
    refuse_or_accept::<Desc<&str>>(bytes)?;
    refuse_or_accept::<(Desc<Vec<u8>>, Desc<Vec<u8>>)>(bytes)?;
    refuse_or_accept::<Desc<[Desc<String>; 2]>>(bytes)?;
    refuse_or_accept::<Label>(bytes)?;
    refuse_or_accept::<Rank>(bytes)?;
    refuse_or_accept::<Nested>(bytes)?;
    refuse_or_accept::<Falling>(bytes)
}

#[test]
fn value_bytes_are_as_documented() {
    assert_eq!(f32::as_bytes(&-2.0), [0, 0, 0, 0xC0]);
    assert_eq!(char::as_bytes(&'\u{10FFFF}'), [0xFF, 0xFF, 0x10, 0]);
    assert_eq!(*<[u16; 2]>::as_bytes(&[1, 2]), [1, 0, 2, 0]);
    assert_eq!(*<[&str; 2]>::as_bytes(&["ab", "c"]), *b"\x02\0\0\0abc");
    assert_eq!(*Vec::<u16>::as_bytes(&vec![1, 2]), [1, 0, 2, 0]);
    assert_eq!(*Vec::<&str>::as_bytes(&vec!["ab", ""]), *b"\x02\0\0\0ab\0\0\0\0");
    assert_eq!(*Vec::<()>::as_bytes(&vec![(); 3]), [0, 0, 0]);
    assert_eq!(Option::<u16>::as_bytes(&None), [0]);
    assert_eq!(Option::<u16>::as_bytes(&Some(7)), [1, 7, 0]);
    assert_eq!(Desc::<u16>::as_bytes(&Desc(7)), [7, 0]);
    assert_eq!(Label::as_bytes(&Label("ab".into())).as_bytes(), b"ab");
}

#[test]
fn key_bytes_are_as_documented() {
    assert_eq!(standalone::<f32>(&1.0), [0xBF, 0x80, 0, 0]);
    assert_eq!(standalone::<f32>(&-2.0), [0x3F, 0xFF, 0xFF, 0xFF]);
    assert_eq!(standalone::<char>(&'a'), [0, 0, 0, 0x61]);
    assert_eq!(standalone::<[&str; 2]>(&["a", "b"]), *b"a\0\0b");
    assert_eq!(part::<[&str; 2]>(&["a", "b"]), *b"a\0\0b\0\0");
    assert_eq!(standalone::<Vec<&str>>(&vec!["a", ""]), *b"\x01a\0\0\x01\0\0");
    assert_eq!(part::<Vec<u16>>(&vec![5]), [1, 0, 5, 0]);
    assert_eq!(part::<Vec<u8>>(&vec![5]), [5, 0, 0]);
    assert_eq!(standalone::<Option<&str>>(&Some("a")), *b"\x01a");
    assert_eq!(part::<Option<&str>>(&None), [0]);
    assert_eq!(standalone::<Desc<u16>>(&Desc(1)), [0xFF, 0xFE]);
    assert_eq!(standalone::<Desc<&str>>(&Desc("a")), [0x9E, 0xFF, 0xFF]);
}

#[test]
fn descriptors_are_as_documented() {
    let shown = |descriptor: &crate::table::descriptor::TypeDescriptor| (descriptor.encode(), descriptor.to_string());
    let cases = [
        (shown(&<[u16; 3]>::descriptor()), &b"\x41\x03\0\0\0\x11"[..], "[u16; 3]"),
        (shown(&<[u8; 3]>::descriptor()), b"\x32\x03\0\0\0", "[u8; 3]"),
        (shown(&Vec::<Option<f64>>::descriptor()), b"\x42\x43\x21", "Vec<Option<f64>>"),
        (shown(&<(Desc<f32>, char)>::descriptor()), b"\x40\x02\x44\x20\x28", "(Desc<f32>, char)"),
        (shown(&<(String, Vec<u8>)>::descriptor()), b"\x40\x02\x30\x31", "(str, bytes)"),
        (shown(&Label::descriptor()), b"\x51\x0A\0test.Label\x30", "\"test.Label\" as str"),
    ];
    for ((bytes, text), expected, name) in cases {
        assert_eq!((&bytes[..], &text[..]), (expected, name));
    }
    assert!(crate::table::descriptor::TypeDescriptor::decode(b"\x41\x03\0\0\0\x10").is_err(), "[u8; 3] has one form");
}

#[test]
fn keys_that_need_no_copy_say_so() {
    fn says<K: Key>() -> bool {
        K::KEY_BYTES_ARE_VALUE_BYTES
    }
    assert_eq!([says::<String>(), says::<Vec<u8>>(), says::<Option<String>>(), says::<Label>()], [true; 4]);
    assert_eq!([says::<[u16; 2]>(), says::<Vec<u32>>(), says::<Desc<u8>>(), says::<Rank>()], [false; 4]);
}

#[test]
fn lengths_and_marks_that_lie_are_refused() {
    assert!(Vec::<&str>::try_from_bytes(b"\xFF\xFF\xFF\xFFab").is_err());
    assert!(Vec::<()>::try_from_bytes(b"\0\x01").is_err());
    assert!(<[&str; 2]>::try_from_bytes(b"\x09\0\0\0ab").is_err());
    assert!(Option::<u8>::try_from_bytes(b"\0\0").is_err());
    assert!(Option::<u8>::try_from_bytes(b"\x02\0").is_err());
    assert!(char::try_from_bytes(&0xD800_u32.to_le_bytes()).is_err());
    assert!(Vec::<u16>::decode_key(b"\x02\0\x05", &mut Vec::new()).is_err());
    assert!(Desc::<&str>::decode_key(b"\x9E\xFF", &mut Vec::new()).is_err());
}
