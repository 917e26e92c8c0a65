//! Keys and values as text, given only the descriptor: what tools show of a table whose types they do not have.
//!
//! Invariant: any bytes give text or an error, never a panic; control bytes are escaped in the text.
//! Layer 6 (table). Bytes: design.md, "Type descriptors and encodings".

use super::codec::ordered;
use super::codec::tuple::Layout;
use super::descriptor::TypeDescriptor;
use super::traits::{Key, Value};
use crate::base::codec::DecodeError;
use std::fmt::{Display, Write as _};

type Rendered<T = ()> = Result<T, DecodeError>;

/// Shows an encoded value as text, in the notation of Rust.
///
/// Opaque types are shown as hexadecimal. The text is for people; its form may change.
///
/// ```
/// use cowslip::{Value, render_value};
///
/// let bytes = <(&str, i64)>::as_bytes(&("a\nb", -2));
/// assert_eq!(render_value(&<(&str, i64)>::descriptor(), &bytes).as_deref(), Ok(r#"("a\nb", -2)"#));
/// assert!(render_value(&u64::descriptor(), b"short").is_err());
/// ```
///
/// # Errors
/// When the bytes are not a value of the described type.
pub fn render_value(descriptor: &TypeDescriptor, bytes: &[u8]) -> Result<String, DecodeError> {
    let mut text = String::new();
    value(descriptor, bytes, &mut text)?;
    Ok(text)
}

/// Shows an ordered key as text, in the notation of Rust.
///
/// Opaque types are shown as the hexadecimal of their ordered form. The text is for people; its form may change.
///
/// ```
/// use cowslip::{Key, Value, render_key};
///
/// let mut bytes = Vec::new();
/// <(&str, i64)>::encode_key(&("a", -2), &mut bytes);
/// assert_eq!(render_key(&<(&str, i64)>::descriptor(), &bytes).as_deref(), Ok(r#"("a", -2)"#));
/// ```
///
/// # Errors
/// When the bytes are not a key of the described type.
pub fn render_key(descriptor: &TypeDescriptor, bytes: &[u8]) -> Result<String, DecodeError> {
    let mut text = String::new();
    key(descriptor, bytes, &mut text)?;
    Ok(text)
}

fn value(descriptor: &TypeDescriptor, bytes: &[u8], text: &mut String) -> Rendered {
    match descriptor {
        TypeDescriptor::U8 => number::<u8>(bytes, text),
        TypeDescriptor::U16 => number::<u16>(bytes, text),
        TypeDescriptor::U32 => number::<u32>(bytes, text),
        TypeDescriptor::U64 => number::<u64>(bytes, text),
        TypeDescriptor::U128 => number::<u128>(bytes, text),
        TypeDescriptor::I8 => number::<i8>(bytes, text),
        TypeDescriptor::I16 => number::<i16>(bytes, text),
        TypeDescriptor::I32 => number::<i32>(bytes, text),
        TypeDescriptor::I64 => number::<i64>(bytes, text),
        TypeDescriptor::I128 => number::<i128>(bytes, text),
        TypeDescriptor::Bool => number::<bool>(bytes, text),
        TypeDescriptor::Unit => {
            <()>::try_from_bytes(bytes)?;
            text.push_str("()");
            Ok(())
        }
        TypeDescriptor::Str => {
            write(text, format_args!("{:?}", <&str>::try_from_bytes(bytes)?));
            Ok(())
        }
        TypeDescriptor::Bytes => {
            byte_string(bytes, text);
            Ok(())
        }
        TypeDescriptor::FixedBytes(_) => {
            require_width(descriptor, bytes)?;
            byte_string(bytes, text);
            Ok(())
        }
        TypeDescriptor::Named { .. } => {
            require_width(descriptor, bytes)?;
            text.push_str("0x");
            for byte in bytes {
                write(text, format_args!("{byte:02x}"));
            }
            Ok(())
        }
        TypeDescriptor::Tuple(parts) => {
            text.push('(');
            Layout::new(&TypeDescriptor::widths(parts)).split(bytes, |index, bytes| {
                separate(index, text);
                value(&parts[index], bytes, text)
            })?;
            close(parts.len(), text);
            Ok(())
        }
    }
}

/// The standalone ordered form.
fn key(descriptor: &TypeDescriptor, bytes: &[u8], text: &mut String) -> Rendered {
    match descriptor {
        TypeDescriptor::U8 => key_number::<u8>(bytes, text),
        TypeDescriptor::U16 => key_number::<u16>(bytes, text),
        TypeDescriptor::U32 => key_number::<u32>(bytes, text),
        TypeDescriptor::U64 => key_number::<u64>(bytes, text),
        TypeDescriptor::U128 => key_number::<u128>(bytes, text),
        TypeDescriptor::I8 => key_number::<i8>(bytes, text),
        TypeDescriptor::I16 => key_number::<i16>(bytes, text),
        TypeDescriptor::I32 => key_number::<i32>(bytes, text),
        TypeDescriptor::I64 => key_number::<i64>(bytes, text),
        TypeDescriptor::I128 => key_number::<i128>(bytes, text),
        TypeDescriptor::Unit
        | TypeDescriptor::Bool
        | TypeDescriptor::Str
        | TypeDescriptor::Bytes
        | TypeDescriptor::FixedBytes(_)
        | TypeDescriptor::Named { .. } => value(descriptor, bytes, text),
        TypeDescriptor::Tuple(parts) => {
            let Some((last, leading)) = parts.split_last() else {
                return Err(DecodeError::new("a tuple without parts has no keys"));
            };
            text.push('(');
            let mut rest = bytes;
            for (index, part) in leading.iter().enumerate() {
                separate(index, text);
                rest = key_part(part, rest, text)?;
            }
            separate(leading.len(), text);
            key(last, rest, text)?;
            close(parts.len(), text);
            Ok(())
        }
    }
}

/// The self-delimiting form; answers the bytes behind it.
fn key_part<'a>(descriptor: &TypeDescriptor, bytes: &'a [u8], text: &mut String) -> Rendered<&'a [u8]> {
    if let TypeDescriptor::Tuple(parts) = descriptor {
        text.push('(');
        let mut rest = bytes;
        for (index, part) in parts.iter().enumerate() {
            separate(index, text);
            rest = key_part(part, rest, text)?;
        }
        close(parts.len(), text);
        return Ok(rest);
    }
    if let Some(width) = descriptor.fixed_width() {
        let (part, rest) = ordered::split_fixed(bytes, width)?;
        key(descriptor, part, text)?;
        return Ok(rest);
    }
    let mut standalone = Vec::new();
    let rest = ordered::unescape(bytes, &mut standalone)?;
    key(descriptor, &standalone, text)?;
    Ok(rest)
}

fn number<T>(bytes: &[u8], text: &mut String) -> Rendered
where
    for<'a> T: Value<SelfType<'a> = T> + Display + 'static,
{
    write(text, format_args!("{}", T::try_from_bytes(bytes)?));
    Ok(())
}

fn key_number<T>(bytes: &[u8], text: &mut String) -> Rendered
where
    for<'a> T: Key + Value<SelfType<'a> = T> + Display + 'static,
{
    let mut decoded = Vec::new();
    T::decode_key(bytes, &mut decoded)?;
    number::<T>(&decoded, text)
}

fn require_width(descriptor: &TypeDescriptor, bytes: &[u8]) -> Rendered {
    match descriptor.fixed_width() {
        Some(width) if width != bytes.len() => {
            Err(DecodeError::new(format!("expected {width} bytes of {descriptor}, found {}", bytes.len())))
        }
        _ => Ok(()),
    }
}

fn byte_string(bytes: &[u8], text: &mut String) {
    write(text, format_args!("b\"{}\"", bytes.escape_ascii()));
}

fn separate(index: usize, text: &mut String) {
    if index > 0 {
        text.push_str(", ");
    }
}

fn close(parts: usize, text: &mut String) {
    text.push_str(if parts == 1 { ",)" } else { ")" });
}

fn write(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    text.write_fmt(arguments).expect("writing to a string cannot fail");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::descriptor::tests::any_descriptor;
    use crate::table::traits::TypeName;
    use proptest::prelude::*;

    #[test]
    fn control_and_direction_characters_are_escaped() {
        let text = render_value(&TypeDescriptor::Str, "\0\x1b[31m\u{202e}\"".as_bytes());
        assert_eq!(text.as_deref(), Ok(r#""\0\u{1b}[31m\u{202e}\"""#));
        let text = render_value(&TypeDescriptor::Bytes, b"a\x00\x1b\xff\"");
        assert_eq!(text.as_deref(), Ok(r#"b"a\x00\x1b\xff\"""#));
    }

    #[test]
    fn opaque_types_are_hexadecimal_of_their_exact_width() {
        let fixed = TypeDescriptor::named(&TypeName::new("x"), Some(2));
        let open = TypeDescriptor::named(&TypeName::new("x"), None);
        assert_eq!(render_value(&fixed, &[0xAB, 1]).as_deref(), Ok("0xab01"));
        assert!(render_value(&fixed, &[0xAB]).is_err());
        let pair = TypeDescriptor::Tuple(vec![open, fixed]);
        assert_eq!(render_key(&pair, &[7, 0, 0xFF, 0, 0, 1, 2]).as_deref(), Ok("(0x0700, 0x0102)"));
    }

    #[test]
    fn tuples_show_as_rust_writes_them() {
        let mut key = Vec::new();
        <((&str, u8), bool, (i16,))>::encode_key(&(("a", 1), true, (-5,)), &mut key);
        let descriptor = <((&str, u8), bool, (i16,))>::descriptor();
        assert_eq!(render_key(&descriptor, &key).as_deref(), Ok(r#"(("a", 1), true, (-5,))"#));
    }

    proptest! {
        #[test]
        fn no_bytes_of_any_type_panic(
            descriptor in any_descriptor(),
            bytes in proptest::collection::vec(prop_oneof![Just(0_u8), Just(0xFF), any::<u8>()], 0..80),
        ) {
            for text in [render_key(&descriptor, &bytes), render_value(&descriptor, &bytes)].into_iter().flatten() {
                prop_assert!(!text.chars().any(char::is_control), "{}", text);
            }
        }
    }

    #[test]
    fn a_tuple_without_parts_is_an_error() {
        assert!(render_key(&TypeDescriptor::Tuple(Vec::new()), b"").is_err());
    }
}
