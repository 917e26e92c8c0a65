//! Types from text: the counterpart of how a descriptor prints.
//!
//! Invariant: the text that a descriptor prints as is read back as that descriptor.
//! Layer 6 (table).

use super::descriptor::TypeDescriptor;
use super::literal::Scanner;
use crate::base::codec::DecodeError;
use std::str::FromStr;

/// More levels than any type may have; the exact bound is that of [`TypeDescriptor::check`].
const DEPTH_MAX: usize = 32;

/// Reads what [`TypeDescriptor`] prints.
///
/// ```
/// use cowslip::{TypeDescriptor, Value};
///
/// assert_eq!("(str, u64)".parse(), Ok(<(&str, u64)>::descriptor()));
/// assert!("string".parse::<TypeDescriptor>().is_err());
/// ```
impl FromStr for TypeDescriptor {
    type Err = DecodeError;

    fn from_str(text: &str) -> Result<Self, DecodeError> {
        let mut scanner = Scanner::new(text);
        let descriptor = one(&mut scanner, 1)?;
        scanner.finish()?;
        descriptor.check()?;
        Ok(descriptor)
    }
}

fn one(scanner: &mut Scanner<'_>, depth: usize) -> Result<TypeDescriptor, DecodeError> {
    if depth > DEPTH_MAX {
        return Err(DecodeError::new(format!("expected a type of at most {DEPTH_MAX} levels, found more")));
    }
    scanner.skip_space();
    if scanner.eat("(") {
        return tuple(scanner, depth);
    }
    if scanner.eat("[") {
        return array(scanner, depth);
    }
    if scanner.eat("\"") {
        return named(scanner, depth);
    }
    Ok(match scanner.word()? {
        "bool" => TypeDescriptor::Bool,
        "u8" => TypeDescriptor::U8,
        "u16" => TypeDescriptor::U16,
        "u32" => TypeDescriptor::U32,
        "u64" => TypeDescriptor::U64,
        "u128" => TypeDescriptor::U128,
        "i8" => TypeDescriptor::I8,
        "i16" => TypeDescriptor::I16,
        "i32" => TypeDescriptor::I32,
        "i64" => TypeDescriptor::I64,
        "i128" => TypeDescriptor::I128,
        "str" => TypeDescriptor::Str,
        "bytes" => TypeDescriptor::Bytes,
        "f32" => TypeDescriptor::F32,
        "f64" => TypeDescriptor::F64,
        "char" => TypeDescriptor::Char,
        "Vec" => TypeDescriptor::Vec(inside(scanner, depth)?),
        "Option" => TypeDescriptor::Option(inside(scanner, depth)?),
        "Desc" => TypeDescriptor::Desc(inside(scanner, depth)?),
        word => return Err(DecodeError::new(format!("expected a type, found {}", super::literal::shorten(word)))),
    })
}

fn tuple(scanner: &mut Scanner<'_>, depth: usize) -> Result<TypeDescriptor, DecodeError> {
    let mut parts = Vec::new();
    loop {
        scanner.skip_space();
        if scanner.eat(")") {
            return Ok(if parts.is_empty() { TypeDescriptor::Unit } else { TypeDescriptor::Tuple(parts) });
        }
        parts.push(one(scanner, depth + 1)?);
        scanner.skip_space();
        if parts.len() > 1 && scanner.eat(")") {
            return Ok(TypeDescriptor::Tuple(parts));
        }
        scanner.expect(",")?;
    }
}

/// `<T>` behind a name.
fn inside(scanner: &mut Scanner<'_>, depth: usize) -> Result<Box<TypeDescriptor>, DecodeError> {
    scanner.expect("<")?;
    let descriptor = one(scanner, depth + 1)?;
    scanner.expect(">")?;
    Ok(Box::new(descriptor))
}

fn array(scanner: &mut Scanner<'_>, depth: usize) -> Result<TypeDescriptor, DecodeError> {
    let element = one(scanner, depth + 1)?;
    scanner.expect(";")?;
    let len = number(scanner)?;
    scanner.expect("]")?;
    Ok(match element {
        TypeDescriptor::U8 => TypeDescriptor::FixedBytes(len),
        element => TypeDescriptor::Array(Box::new(element), len),
    })
}

fn named(scanner: &mut Scanner<'_>, depth: usize) -> Result<TypeDescriptor, DecodeError> {
    let name = scanner.string()?;
    scanner.skip_space();
    if scanner.eat("as") {
        return Ok(TypeDescriptor::Newtype { name, stored: Box::new(one(scanner, depth + 1)?) });
    }
    let mut width = None;
    if scanner.eat("of") {
        width = Some(number(scanner)?);
        scanner.expect("bytes")?;
    }
    Ok(TypeDescriptor::Named { name, width })
}

fn number(scanner: &mut Scanner<'_>) -> Result<u32, DecodeError> {
    scanner.skip_space();
    let word = scanner.word()?;
    word.parse().map_err(|_| DecodeError::new(format!("expected a length, found {}", super::literal::shorten(word))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::descriptor::tests::any_descriptor;
    use proptest::prelude::*;

    fn parse(text: &str) -> Result<TypeDescriptor, DecodeError> {
        text.parse()
    }

    #[test]
    fn space_does_not_matter_and_a_comma_makes_a_tuple() {
        let pair = TypeDescriptor::Tuple(vec![TypeDescriptor::Str, TypeDescriptor::FixedBytes(16)]);
        for text in ["(str, [u8; 16])", "(str,[u8;16])", " ( str , [ u8 ; 16 ] , ) "] {
            assert_eq!(parse(text).as_ref(), Ok(&pair), "{text}");
        }
        assert_eq!(parse("()"), Ok(TypeDescriptor::Unit));
        assert_eq!(parse("(u8,)"), Ok(TypeDescriptor::Tuple(vec![TypeDescriptor::U8])));
    }

    #[test]
    fn what_is_no_type_is_refused() {
        for text in [
            "",
            "string",
            "&str",
            "U64",
            "(u8)",
            "(,)",
            "(u8",
            "u8)",
            "u8 u8",
            "u8, u8",
            "[u8; x]",
            "[u8; -1]",
            "[u8]",
            "[u16]",
            "[u8; 4294967296]",
            "\"a",
            "\"a\" of 4",
            "\"a\" of bytes",
            "\"a\" bytes",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
        assert!(parse(&"(".repeat(100_000)).is_err());
        assert!(parse(&format!("({})", "u8,".repeat(256))).is_err());
        assert!(parse(&format!("{}u8{}", "(".repeat(16), ",)".repeat(16))).is_err());
        assert!(parse(&format!("{}u8{}", "(".repeat(15), ",)".repeat(15))).is_ok());
    }

    proptest! {
        #[test]
        fn every_type_is_read_back_as_it_prints(descriptor in any_descriptor()) {
            prop_assert_eq!(descriptor.to_string().parse(), Ok(descriptor));
        }

        #[test]
        fn no_text_panics(wild in "\\PC{0,40}", near in "[(),u8\\[; \\]\"of1bytes]{0,30}") {
            for text in [wild, near] {
                if let Ok(descriptor) = parse(&text) {
                    prop_assert_eq!(parse(&descriptor.to_string()), Ok(descriptor));
                }
            }
        }
    }
}
