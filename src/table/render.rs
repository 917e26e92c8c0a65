//! Keys and values as text, given only the descriptor: what tools show of a table whose types they do not have.
//!
//! Invariant: any bytes give text or an error, never a panic; control bytes are escaped in the text.
//! Layer 6 (table). Bytes: design.md, "Type descriptors and encodings".

use super::codec::tuple::Layout;
use super::codec::{list, option, ordered};
use super::descriptor::TypeDescriptor;
use super::traits::{Key, Value};
use crate::base::codec::{DecodeError, Decoder};
use std::fmt::{Debug, Write as _};

type Rendered<T = ()> = Result<T, DecodeError>;

/// What was shown so far. The types in a file may be hostile, so what a byte of input may become is bounded.
struct Text {
    shown: String,
    bytes_max: usize,
}

impl Text {
    fn for_input(bytes: &[u8]) -> Self {
        Self { shown: String::new(), bytes_max: bytes.len().saturating_mul(64).saturating_add(1 << 16) }
    }

    fn push(&mut self, text: &str) {
        self.shown.push_str(text);
    }

    fn write(&mut self, arguments: std::fmt::Arguments<'_>) {
        self.shown.write_fmt(arguments).expect("writing to a string cannot fail");
    }

    /// A NaN shows its bits, which are part of the key.
    fn float(&mut self, is_nan: bool, number: &impl Debug, bits: std::fmt::Arguments<'_>) {
        if is_nan {
            self.write(bits);
        } else {
            self.write(format_args!("{number:?}"));
        }
    }

    /// Begins the next of several parts.
    fn separate(&mut self, index: usize) -> Rendered {
        if self.shown.len() > self.bytes_max {
            return Err(DecodeError::new("a row whose text is out of proportion to its bytes"));
        }
        if index > 0 {
            self.push(", ");
        }
        Ok(())
    }

    fn close_tuple(&mut self, parts: usize) {
        self.push(if parts == 1 { ",)" } else { ")" });
    }

    fn byte_string(&mut self, bytes: &[u8]) {
        self.write(format_args!("b\"{}\"", bytes.escape_ascii()));
    }
}

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
    let mut text = Text::for_input(bytes);
    value(descriptor, bytes, &mut text)?;
    Ok(text.shown)
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
    let mut text = Text::for_input(bytes);
    key(descriptor, bytes, 0, &mut text)?;
    Ok(text.shown)
}

fn value(descriptor: &TypeDescriptor, bytes: &[u8], text: &mut Text) -> Rendered {
    match descriptor {
        TypeDescriptor::Tuple(parts) => {
            text.push("(");
            Layout::new(&TypeDescriptor::widths(parts)).split(bytes, |index, bytes| {
                text.separate(index)?;
                value(&parts[index], bytes, text)
            })?;
            text.close_tuple(parts.len());
        }
        TypeDescriptor::Array(element, len) => array_value(element, *len, bytes, text)?,
        TypeDescriptor::Vec(element) => {
            let mut index = 0;
            text.push("[");
            list::split(element.fixed_width(), bytes, |bytes| {
                text.separate(index)?;
                index += 1;
                value(element, bytes, text)
            })?;
            text.push("]");
        }
        TypeDescriptor::Option(content) => match option::open(bytes)? {
            (true, bytes) => {
                text.push("Some(");
                value(content, bytes, text)?;
                text.push(")");
            }
            (false, rest) => {
                option::require_end(rest)?;
                text.push("None");
            }
        },
        TypeDescriptor::Desc(content) => {
            text.push("Desc(");
            value(content, bytes, text)?;
            text.push(")");
        }
        TypeDescriptor::Newtype { stored, .. } => value(stored, bytes, text)?,
        plain => return plain_value(plain, bytes, text),
    }
    Ok(())
}

/// An array of elements without bytes shows one of them, because its length is not bounded by the input.
fn array_of_nothing(len: u32, text: &mut Text, element: impl FnOnce(&mut Text) -> Rendered) -> Rendered {
    text.push("[");
    element(text)?;
    text.write(format_args!("; {len}]"));
    Ok(())
}

fn array_value(element: &TypeDescriptor, len: u32, bytes: &[u8], text: &mut Text) -> Rendered {
    let (width, len_wide) = (element.fixed_width(), u64::from(len));
    let mut elements = Decoder::new(bytes);
    let lengths_bytes = if width.is_none() { len_wide.saturating_sub(1) * 4 } else { 0 };
    let mut lengths = Decoder::new(elements.bytes(usize::try_from(lengths_bytes).unwrap_or(usize::MAX))?);
    if width == Some(0) && len > 0 {
        array_of_nothing(len, text, |text| value(element, &[], text))?;
        return elements.finish();
    }
    text.push("[");
    for index in 0..len {
        text.separate(usize::from(index > 0))?;
        let part_bytes = match width {
            Some(width) => width,
            None if lengths.remaining() > 0 => usize::try_from(lengths.u32()?).unwrap_or(usize::MAX),
            None => elements.remaining(),
        };
        value(element, elements.bytes(part_bytes)?, text)?;
    }
    text.push("]");
    elements.finish()
}

/// The value encoding of a type without types inside.
fn plain_value(descriptor: &TypeDescriptor, bytes: &[u8], text: &mut Text) -> Rendered {
    match descriptor {
        TypeDescriptor::U8 => scalar::<u8>(bytes, text),
        TypeDescriptor::U16 => scalar::<u16>(bytes, text),
        TypeDescriptor::U32 => scalar::<u32>(bytes, text),
        TypeDescriptor::U64 => scalar::<u64>(bytes, text),
        TypeDescriptor::U128 => scalar::<u128>(bytes, text),
        TypeDescriptor::I8 => scalar::<i8>(bytes, text),
        TypeDescriptor::I16 => scalar::<i16>(bytes, text),
        TypeDescriptor::I32 => scalar::<i32>(bytes, text),
        TypeDescriptor::I64 => scalar::<i64>(bytes, text),
        TypeDescriptor::I128 => scalar::<i128>(bytes, text),
        TypeDescriptor::Bool => scalar::<bool>(bytes, text),
        TypeDescriptor::Char => scalar::<char>(bytes, text),
        TypeDescriptor::Unit => scalar::<()>(bytes, text),
        TypeDescriptor::F32 => {
            let number = f32::try_from_bytes(bytes)?;
            text.float(number.is_nan(), &number, format_args!("f32::from_bits({:#x})", number.to_bits()));
            Ok(())
        }
        TypeDescriptor::F64 => {
            let number = f64::try_from_bytes(bytes)?;
            text.float(number.is_nan(), &number, format_args!("f64::from_bits({:#x})", number.to_bits()));
            Ok(())
        }
        TypeDescriptor::Str => {
            text.write(format_args!("{:?}", <&str>::try_from_bytes(bytes)?));
            Ok(())
        }
        TypeDescriptor::Bytes | TypeDescriptor::FixedBytes(_) => {
            require_width(descriptor, bytes)?;
            text.byte_string(bytes);
            Ok(())
        }
        _ => {
            require_width(descriptor, bytes)?;
            text.push("0x");
            for byte in bytes {
                text.write(format_args!("{byte:02x}"));
            }
            Ok(())
        }
    }
}

/// Takes the next byte of an ordered form.
fn take(bytes: &[u8], mask: u8) -> Rendered<(u8, &[u8])> {
    let (first, rest) =
        bytes.split_first().ok_or_else(|| DecodeError::new("expected a mark in a key, found the end of the key"))?;
    Ok((first ^ mask, rest))
}

fn take_option(bytes: &[u8], mask: u8) -> Rendered<(bool, &[u8])> {
    let (mark, rest) = take(bytes, mask)?;
    option::open(&[mark]).map(|(is_some, _)| (is_some, rest))
}

fn require_no_rest(rest: &[u8]) -> Rendered {
    Decoder::new(rest).finish()
}

/// The standalone ordered form; each byte is combined with `mask`, which falling order inverts.
fn key(descriptor: &TypeDescriptor, bytes: &[u8], mask: u8, text: &mut Text) -> Rendered {
    match descriptor {
        TypeDescriptor::Tuple(parts) => {
            let Some((last, leading)) = parts.split_last() else {
                return Err(DecodeError::new("a tuple without parts has no keys"));
            };
            text.push("(");
            let mut rest = bytes;
            for (index, part) in leading.iter().enumerate() {
                text.separate(index)?;
                rest = key_part(part, rest, mask, text)?;
            }
            text.separate(leading.len())?;
            key(last, rest, mask, text)?;
            text.close_tuple(parts.len());
            Ok(())
        }
        TypeDescriptor::Array(element, len) if *len > 0 && element.fixed_width() != Some(0) => {
            text.push("[");
            let mut rest = bytes;
            for index in 1..*len {
                text.separate(usize::from(index > 1))?;
                rest = key_part(element, rest, mask, text)?;
            }
            text.separate(usize::from(*len > 1))?;
            key(element, rest, mask, text)?;
            text.push("]");
            Ok(())
        }
        TypeDescriptor::Vec(element) => {
            text.push("[");
            let (mut rest, mut index) = (bytes, 0);
            while !rest.is_empty() {
                rest = match take(rest, mask)? {
                    (list::ELEMENT, behind) => list_element(element, index, behind, mask, text)?,
                    (found, _) => return Err(list::wrong_mark(found)),
                };
                index += 1;
            }
            text.push("]");
            Ok(())
        }
        TypeDescriptor::Option(content) => match take_option(bytes, mask)? {
            (true, rest) => {
                text.push("Some(");
                key(content, rest, mask, text)?;
                text.push(")");
                Ok(())
            }
            (false, rest) => {
                text.push("None");
                option::require_end(rest)
            }
        },
        TypeDescriptor::Newtype { stored, .. } => key(stored, bytes, mask, text),
        TypeDescriptor::Array(..) | TypeDescriptor::Desc(_) => {
            key_part(descriptor, bytes, mask, text).and_then(require_no_rest)
        }
        plain if mask == 0 => plain_key(plain, bytes, text),
        plain => plain_key(plain, &bytes.iter().map(|byte| byte ^ mask).collect::<Vec<u8>>(), text),
    }
}

/// The ordered form of a type without types inside.
fn plain_key(descriptor: &TypeDescriptor, bytes: &[u8], text: &mut Text) -> Rendered {
    let mut decoded = Vec::new();
    match descriptor {
        TypeDescriptor::U16 => u16::decode_key(bytes, &mut decoded)?,
        TypeDescriptor::U32 => u32::decode_key(bytes, &mut decoded)?,
        TypeDescriptor::U64 => u64::decode_key(bytes, &mut decoded)?,
        TypeDescriptor::U128 => u128::decode_key(bytes, &mut decoded)?,
        TypeDescriptor::I8 => i8::decode_key(bytes, &mut decoded)?,
        TypeDescriptor::I16 => i16::decode_key(bytes, &mut decoded)?,
        TypeDescriptor::I32 => i32::decode_key(bytes, &mut decoded)?,
        TypeDescriptor::I64 => i64::decode_key(bytes, &mut decoded)?,
        TypeDescriptor::I128 => i128::decode_key(bytes, &mut decoded)?,
        TypeDescriptor::F32 => f32::decode_key(bytes, &mut decoded)?,
        TypeDescriptor::F64 => f64::decode_key(bytes, &mut decoded)?,
        TypeDescriptor::Char => char::decode_key(bytes, &mut decoded)?,
        same => return plain_value(same, bytes, text),
    }
    plain_value(descriptor, &decoded, text)
}

fn list_element<'a>(
    element: &TypeDescriptor,
    index: usize,
    bytes: &'a [u8],
    mask: u8,
    text: &mut Text,
) -> Rendered<&'a [u8]> {
    text.separate(index)?;
    key_part(element, bytes, mask, text)
}

/// The self-delimiting form; answers the bytes behind it.
fn key_part<'a>(descriptor: &TypeDescriptor, bytes: &'a [u8], mask: u8, text: &mut Text) -> Rendered<&'a [u8]> {
    let mut rest = bytes;
    match descriptor {
        TypeDescriptor::Tuple(parts) => {
            text.push("(");
            for (index, part) in parts.iter().enumerate() {
                rest = list_element(part, index, rest, mask, text)?;
            }
            text.close_tuple(parts.len());
        }
        TypeDescriptor::Array(element, len) if *len > 0 && element.fixed_width() == Some(0) => {
            array_of_nothing(*len, text, |text| key_part(element, &[], mask, text).map(|_| ()))?;
        }
        TypeDescriptor::Array(element, len) => {
            text.push("[");
            for index in 0..*len {
                rest = list_element(element, usize::from(index > 0), rest, mask, text)?;
            }
            text.push("]");
        }
        TypeDescriptor::Vec(element) => {
            text.push("[");
            let mut index = 0;
            loop {
                rest = match take(rest, mask)? {
                    (list::END, behind) => {
                        rest = behind;
                        break;
                    }
                    (list::ELEMENT, behind) => list_element(element, index, behind, mask, text)?,
                    (found, _) => return Err(list::wrong_mark(found)),
                };
                index += 1;
            }
            text.push("]");
        }
        TypeDescriptor::Option(content) => {
            let (is_some, behind) = take_option(rest, mask)?;
            rest = behind;
            text.push(if is_some { "Some(" } else { "None" });
            if is_some {
                rest = key_part(content, rest, mask, text)?;
                text.push(")");
            }
        }
        TypeDescriptor::Desc(content) => {
            text.push("Desc(");
            rest = key_part(content, rest, !mask, text)?;
            text.push(")");
        }
        TypeDescriptor::Newtype { stored, .. } => return key_part(stored, rest, mask, text),
        plain => return plain_part(plain, rest, mask, text),
    }
    Ok(rest)
}

fn plain_part<'a>(descriptor: &TypeDescriptor, bytes: &'a [u8], mask: u8, text: &mut Text) -> Rendered<&'a [u8]> {
    if let Some(width) = descriptor.fixed_width() {
        let (part, rest) = ordered::split_fixed(bytes, width)?;
        key(descriptor, part, mask, text)?;
        return Ok(rest);
    }
    let mut standalone = Vec::new();
    let rest = ordered::unescape_masked(bytes, mask, &mut standalone)?;
    plain_key(descriptor, &standalone, text)?;
    Ok(rest)
}

fn scalar<T>(bytes: &[u8], text: &mut Text) -> Rendered
where
    for<'a> T: Value<SelfType<'a> = T> + Debug + 'static,
{
    text.write(format_args!("{:?}", T::try_from_bytes(bytes)?));
    Ok(())
}

fn require_width(descriptor: &TypeDescriptor, bytes: &[u8]) -> Rendered {
    match descriptor.fixed_width() {
        Some(width) if width != bytes.len() => {
            Err(DecodeError::new(format!("expected {width} bytes of {descriptor}, found {}", bytes.len())))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::codec::descending::Desc;
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
    fn composite_types_show_as_rust_writes_them() {
        let mut key = Vec::new();
        <(Desc<Vec<f64>>, Option<char>, [u16; 2])>::encode_key(&(Desc(vec![-0.0, 1.5]), Some('a'), [1, 2]), &mut key);
        let descriptor = <(Desc<Vec<f64>>, Option<char>, [u16; 2])>::descriptor();
        assert_eq!(render_key(&descriptor, &key).as_deref(), Ok("(Desc([-0.0, 1.5]), Some('a'), [1, 2])"));
        let bits = 0x7FC0_0001_u32.to_le_bytes();
        assert_eq!(render_value(&TypeDescriptor::F32, &bits).as_deref(), Ok("f32::from_bits(0x7fc00001)"));
    }

    #[test]
    fn a_hostile_type_makes_no_long_text_of_few_bytes() {
        let units = TypeDescriptor::Tuple(vec![TypeDescriptor::Unit; 255]);
        let many = TypeDescriptor::Array(Box::new(units.clone()), u32::MAX);
        let text = render_value(&many, b"").unwrap();
        assert!(text.ends_with("; 4294967295]") && text.len() < 2000, "{}", text.len());
        let fat = TypeDescriptor::Tuple(vec![units, TypeDescriptor::U8]);
        let list = TypeDescriptor::Vec(Box::new(fat));
        assert!(render_value(&list, &[0; 10]).is_ok());
        assert!(render_value(&list, &[0; 100_000]).is_err());
        let strings = TypeDescriptor::Array(Box::new(TypeDescriptor::Str), u32::MAX);
        assert!(render_value(&strings, &[0; 100]).is_err());
        assert!(render_key(&strings, &[0; 100]).is_err());
    }

    #[test]
    fn a_tuple_without_parts_is_an_error() {
        assert!(render_key(&TypeDescriptor::Tuple(Vec::new()), b"").is_err());
    }
}
