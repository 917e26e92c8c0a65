//! Tests of parsing: against the encoders of the Rust types, and as the inverse of rendering.
//!
//! Invariant: what is shown can be given back.
//! Layer 6 (table).

use super::*;
use crate::table::descriptor::tests::any_descriptor;
use crate::table::json::{render_key_json, render_value_json};
use crate::table::render::{render_key, render_value};
use crate::table::traits::TypeName;
use proptest::prelude::*;
use std::fmt::Debug;

/// Bytes of a described type and the text of them, made without the parser.
fn any_value(descriptor: &TypeDescriptor) -> BoxedStrategy<Vec<u8>> {
    fn of<T>() -> BoxedStrategy<Vec<u8>>
    where
        for<'a> T: Value<SelfType<'a> = T> + Arbitrary + Debug + 'static,
    {
        any::<T>().prop_map(|value| T::as_bytes(&value).as_ref().to_vec()).boxed()
    }
    match descriptor {
        TypeDescriptor::U8 => of::<u8>(),
        TypeDescriptor::U16 => of::<u16>(),
        TypeDescriptor::U32 => of::<u32>(),
        TypeDescriptor::U64 => of::<u64>(),
        TypeDescriptor::U128 => of::<u128>(),
        TypeDescriptor::I8 => of::<i8>(),
        TypeDescriptor::I16 => of::<i16>(),
        TypeDescriptor::I32 => of::<i32>(),
        TypeDescriptor::I64 => of::<i64>(),
        TypeDescriptor::I128 => of::<i128>(),
        TypeDescriptor::Bool => of::<bool>(),
        TypeDescriptor::Str => any::<String>().prop_map(String::into_bytes).boxed(),
        TypeDescriptor::Tuple(parts) => {
            let widths = TypeDescriptor::widths(parts);
            let values: Vec<_> = parts.iter().map(any_value).collect();
            values
                .prop_map(move |values| {
                    let slices: Vec<&[u8]> = values.iter().map(Vec::as_slice).collect();
                    tuple::join(&widths, &slices)
                })
                .boxed()
        }
        TypeDescriptor::F32 => any::<u32>().prop_map(|bits| bits.to_le_bytes().to_vec()).boxed(),
        TypeDescriptor::F64 => any::<u64>().prop_map(|bits| bits.to_le_bytes().to_vec()).boxed(),
        TypeDescriptor::Char => of::<char>(),
        TypeDescriptor::Array(element, _) if element.fixed_width() == Some(0) => Just(Vec::new()).boxed(),
        TypeDescriptor::Array(element, len) => {
            let parts = vec![(**element).clone(); usize::try_from(*len).unwrap()];
            if parts.is_empty() { Just(Vec::new()).boxed() } else { any_value(&TypeDescriptor::Tuple(parts)) }
        }
        TypeDescriptor::Vec(element) => {
            let width = element.fixed_width();
            proptest::collection::vec(any_value(element), 0..4)
                .prop_map(move |elements| {
                    let behind_mark = |bytes: Vec<u8>| match width {
                        Some(0) => vec![0],
                        Some(_) => bytes,
                        None => [&u32::try_from(bytes.len()).unwrap().to_le_bytes()[..], &bytes].concat(),
                    };
                    elements.into_iter().flat_map(behind_mark).collect()
                })
                .boxed()
        }
        TypeDescriptor::Option(content) => proptest::option::of(any_value(content))
            .prop_map(|content| content.map_or(vec![0], |content| [&[1], &content[..]].concat()))
            .boxed(),
        TypeDescriptor::Desc(stored) | TypeDescriptor::Newtype { stored, .. } => any_value(stored),
        other => match other.fixed_width() {
            Some(width) => proptest::collection::vec(any::<u8>(), width).boxed(),
            None => proptest::collection::vec(any::<u8>(), 0..20).boxed(),
        },
    }
}

fn is_small(descriptor: &TypeDescriptor) -> bool {
    descriptor.fixed_width().is_none_or(|width| width < 10_000)
        && match descriptor {
            TypeDescriptor::Tuple(parts) => parts.iter().all(is_small),
            TypeDescriptor::Array(element, len) => is_small(element) && (*len < 8 || element.fixed_width() == Some(0)),
            TypeDescriptor::Vec(content)
            | TypeDescriptor::Option(content)
            | TypeDescriptor::Desc(content)
            | TypeDescriptor::Newtype { stored: content, .. } => is_small(content),
            _ => true,
        }
}

fn any_typed_value() -> impl Strategy<Value = (TypeDescriptor, Vec<u8>)> {
    any_descriptor().prop_filter("values of this width take too long", is_small).prop_flat_map(|descriptor| {
        let values = any_value(&descriptor);
        (Just(descriptor), values)
    })
}

type Mixed = (&'static str, u64, &'static [u8], (i16, bool), ());

fn mixed_key(key: &(&str, u64, &[u8], (i16, bool), ())) -> Vec<u8> {
    let mut bytes = Vec::new();
    Mixed::encode_key(key, &mut bytes);
    bytes
}

proptest! {
    #[test]
    fn rendered_values_of_every_type_are_read_back((descriptor, bytes) in any_typed_value()) {
        let shown = render_value(&descriptor, &bytes).unwrap();
        prop_assert_eq!(parse_value(&descriptor, &shown), Ok(bytes.clone()), "{}", shown);
        let json = render_value_json(&descriptor, &bytes).unwrap();
        prop_assert_eq!(parse_value(&descriptor, &json), Ok(bytes), "{}", json);
    }

    #[test]
    fn rendered_keys_of_every_type_are_read_back((descriptor, bytes) in any_typed_value()) {
        let shown = render_value(&descriptor, &bytes).unwrap();
        let key = parse_key(&descriptor, &shown).unwrap();
        // The two renderers are independent of the parser, so equal text means that the key is right.
        let shown_key = render_key(&descriptor, &key).unwrap();
        prop_assert_eq!(&shown_key, &shown);
        let json = render_key_json(&descriptor, &key).unwrap();
        prop_assert_eq!(parse_key(&descriptor, &json), Ok(key), "{}", json);
    }

    #[test]
    fn parsed_tuples_are_what_the_rust_type_encodes(
        text in ".{0,8}", number: u64, blob in proptest::collection::vec(any::<u8>(), 0..8), low: i16, flag: bool,
    ) {
        let mixed = (&text[..], number, &blob[..], (low, flag), ());
        let shown = format!("({text:?}, {number}, b\"{}\", ({low}, {flag}), ())", blob.escape_ascii());
        prop_assert_eq!(parse_value(&Mixed::descriptor(), &shown), Ok(Mixed::as_bytes(&mixed)));
        prop_assert_eq!(parse_key(&Mixed::descriptor(), &shown), Ok(mixed_key(&mixed)));
        let front = parse_prefix(&Mixed::descriptor(), &format!("[{:?}]", &text)).unwrap();
        prop_assert!(mixed_key(&mixed).starts_with(&front));
    }

    #[test]
    fn no_text_panics_for_any_type(descriptor in any_descriptor(), wild in "\\PC{0,30}", near in "[hex:0b\"(),\\[\\]1 ]{0,20}") {
        for text in [&wild, &near] {
            if let Ok(bytes) = parse_value(&descriptor, text) {
                prop_assert!(render_value(&descriptor, &bytes).is_ok());
            }
            if let Ok(bytes) = parse_key(&descriptor, text) {
                prop_assert!(render_key(&descriptor, &bytes).is_ok());
            }
            let _prefix = parse_prefix(&descriptor, text);
        }
    }

    #[test]
    fn plain_text_is_taken_as_it_is(text in "[^\"]\\PC{0,20}") {
        prop_assert_eq!(parse_value(&TypeDescriptor::Str, &text).unwrap(), text.as_bytes());
    }
}

#[test]
fn bytes_are_spelled_in_four_ways() {
    for text in ["hex:00ff", "0x00FF", "\"hex:00ff\"", r#"b"\x00\xff""#] {
        assert_eq!(parse_value(&TypeDescriptor::Bytes, text), Ok(vec![0, 0xFF]), "{text}");
        assert_eq!(parse_value(&TypeDescriptor::FixedBytes(2), text), Ok(vec![0, 0xFF]), "{text}");
    }
    let named = TypeDescriptor::named(&TypeName::new("x"), Some(2));
    assert_eq!(parse_key(&named, "0x00ff"), Ok(vec![0, 0xFF]));
    for wrong in ["00ff", "\"00ff\"", "\"0x00ff\"", "hex:0", "text"] {
        assert!(parse_value(&TypeDescriptor::Bytes, wrong).is_err(), "{wrong}");
    }
    assert!(parse_value(&TypeDescriptor::FixedBytes(3), "hex:00ff").is_err());
}

#[test]
fn text_of_another_type_is_refused_with_both_named() {
    let error = |descriptor: &TypeDescriptor, text| parse_value(descriptor, text).unwrap_err().to_string();
    assert_eq!(error(&TypeDescriptor::U8, "256"), "expected u8, found 256");
    assert_eq!(error(&TypeDescriptor::U64, "\"5\""), "expected u64, found \"5\"");
    assert_eq!(error(&TypeDescriptor::Bool, "1"), "expected bool, found 1");
    assert_eq!(error(&<(&str, u64)>::descriptor(), "[\"a\"]"), "expected (str, u64), found a list of 1");
    assert_eq!(error(&<(&str, u64)>::descriptor(), "a"), "expected (str, u64) as a JSON array, found a");
    assert_eq!(error(&<(&str, u64)>::descriptor(), "[a, 1]"), "expected str, found a");
    assert!(error(&TypeDescriptor::U64, &"9".repeat(1_000_000)).len() < 100);
}

#[test]
fn prefixes_select_exactly_the_keys_that_start_so() {
    let path: TypeDescriptor = "(str, str, u8)".parse().unwrap();
    let key = parse_key(&path, r#"["home", "ada", 1]"#).unwrap();
    for prefix in ["[]", r#"["home"]"#, r#"["home", "ada"]"#] {
        assert!(key.starts_with(&parse_prefix(&path, prefix).unwrap()), "{prefix}");
    }
    for other in [r#"["hom"]"#, r#"["home", "ad"]"#, r#"["home", ""]"#] {
        assert!(!key.starts_with(&parse_prefix(&path, other).unwrap()), "{other}");
    }
    for wrong in [r#"["home", "ada", 1]"#, r#"["home", "ada", 1, 2]"#, "home"] {
        assert!(parse_prefix(&path, wrong).is_err(), "{wrong}");
    }
    assert_eq!(parse_prefix(&TypeDescriptor::FixedBytes(4), "hex:0102"), Ok(vec![1, 2]));
    assert!(parse_prefix(&TypeDescriptor::FixedBytes(1), "hex:0102").is_err());
}
