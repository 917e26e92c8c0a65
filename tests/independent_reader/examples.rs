//! Every worked example of design.md, as the independent reader sees it.
//!
//! Uses no code of `src/` and follows design.md, "Ids and digests" and "Type descriptors and encodings".

use super::bytes::{Result, child_checksum, digest};
use super::types::{Datum, Type};

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.chunks(2).map(byte).collect()
}

fn tuple(parts: &[Type]) -> Type {
    Type::Tuple(parts.to_vec())
}

fn string(text: &str) -> Datum {
    Datum::String(text.to_owned())
}

#[test]
fn checksums_match_the_table() {
    let expected: [(&[u8], u64, &str); 3] = [
        (b"", 0x2d06_8005_38d3_94c2, "7f498d4624c30160d8984701d306aa99"),
        (b"cowslip", 0xb598_3406_2986_e7b7, "417269debf8f0c3052b1e165138cc6ae"),
        (&[0; 4096], 0x93d7_6fe1_48c6_89ba, "ba89c648e16fd79395e47e9e4fdce83e"),
    ];
    for (input, child, half) in expected {
        assert_eq!(child_checksum(input), child);
        assert_eq!(digest(input)[..16], hex(half));
        assert_eq!(digest(input)[16..], [0; 16]);
    }
}

#[test]
fn descriptors_decode_as_the_examples_say() {
    let triple = tuple(&[Type::String, Type::Unsigned(8), Type::FixedBytes(16)]);
    assert_eq!(Type::decode(&hex("40 03 30 13 32 10 00 00 00")), Ok(triple));
    let named = Type::Named { name: "ab".to_owned(), width: Some(7) };
    assert_eq!(Type::decode(&hex("50 02 00 61 62 01 07 00 00 00")), Ok(named));
    let vector = Type::Vector(Box::new(Type::Option(Box::new(Type::Float(8)))));
    assert_eq!(Type::decode(&hex("42 43 21")), Ok(vector));
    let stored = Box::new(Type::Descending(Box::new(Type::Unsigned(8))));
    let newtype = Type::Newtype { name: "ab".to_owned(), stored };
    assert_eq!(Type::decode(&hex("51 02 00 61 62 44 13")), Ok(newtype));
}

#[test]
fn tuples_decode_as_the_examples_say() {
    let value = tuple(&[Type::String, Type::Unsigned(8), Type::Bytes]);
    let expected = Datum::Tuple(vec![string("ab"), Datum::Unsigned(5), Datum::Bytes(vec![0xFF])]);
    assert_eq!(value.value(&hex("02 00 00 00 | 61 62 | 05 00 00 00 00 00 00 00 | FF")), Ok(expected));

    let key = tuple(&[Type::String, Type::Signed(8)]);
    let expected = Datum::Tuple(vec![string("a"), Datum::Signed(-2)]);
    assert_eq!(key.key(&hex("61 00 00 | 7F FF FF FF FF FF FF FE")), Ok(expected));

    let key = tuple(&[Type::Unsigned(1), Type::String]);
    let expected = Datum::Tuple(vec![Datum::Unsigned(7), string("a\0")]);
    assert_eq!(key.key(&hex("07 | 61 00")), Ok(expected));

    let key = tuple(&[tuple(&[Type::String, Type::String]), Type::Unsigned(1)]);
    let expected = Datum::Tuple(vec![Datum::Tuple(vec![string("a"), string("b")]), Datum::Unsigned(1)]);
    assert_eq!(key.key(&hex("61 00 00 | 62 00 00 | 01")), Ok(expected));
}

#[test]
fn composite_types_decode_as_the_examples_say() {
    let list = |data: &[Datum]| Datum::List(data.to_vec());
    let strings = Type::Vector(Box::new(Type::String));
    let numbers = Type::Vector(Box::new(Type::Unsigned(2)));
    let expected = list(&[string("ab"), string("")]);
    assert_eq!(strings.value(&hex("02 00 00 00 | 61 62 | 00 00 00 00")), Ok(expected));
    let expected = list(&[Datum::Unsigned(1), Datum::Unsigned(2)]);
    assert_eq!(numbers.value(&hex("01 00 | 02 00")), Ok(expected));
    assert_eq!(strings.key(&hex("01 61 00 00 | 01 00 00")), Ok(list(&[string("a"), string("")])));
    let expected = Datum::Tuple(vec![list(&[Datum::Unsigned(5)]), Datum::Unsigned(1)]);
    assert_eq!(tuple(&[numbers, Type::Unsigned(1)]).key(&hex("01 00 05 | 00 | 01")), Ok(expected));
    let option = Type::Option(Box::new(Type::String));
    let expected = Datum::Tuple(vec![Datum::Option(None), Datum::Option(Some(Box::new(string("a"))))]);
    assert_eq!(tuple(&[option.clone(), option]).key(&hex("00 | 01 61")), Ok(expected));
    assert_eq!(Type::Descending(Box::new(Type::String)).key(&hex("9E FF FF")), Ok(string("a")));
    assert_eq!(Type::Float(4).key(&hex("3F FF FF FF")), Ok(Datum::Float((-2.0_f32).to_bits().into())));
}

#[test]
fn bytes_that_no_writer_writes_are_refused() {
    let refused: [(&str, Result<Datum>); 6] = [
        ("bool 2", Type::Bool.value(&[2])),
        ("no UTF-8", Type::String.key(&[0xFF])),
        ("short integer", Type::Unsigned(8).key(&[1])),
        ("zero without escape", tuple(&[Type::Bytes, Type::Unit]).key(&[0, 1])),
        ("bytes behind a tuple", tuple(&[Type::Bool, Type::Bool]).value(&[0, 1, 0])),
        ("a length that leads outside", tuple(&[Type::Bytes, Type::Bytes]).value(&[9, 0, 0, 0, 1])),
    ];
    for (what, decoded) in refused {
        assert!(decoded.is_err(), "{what} is decoded as {decoded:?}");
    }
    for descriptor in
        ["", "22", "41 02 00 00 00 10", "42", "40 00", "40 02 30", "01 01", "50 00 00 02 00 00 00 00", "32 01 00"]
    {
        assert!(Type::decode(&hex(descriptor)).is_err(), "{descriptor} is decoded");
    }
    let nested = |levels: usize| [hex("40 01").repeat(levels - 1), vec![0x01]].concat();
    assert!(Type::decode(&nested(16)).is_ok());
    assert!(Type::decode(&nested(17)).is_err());
}
