//! Text to bytes, given only the descriptor: how tools take keys and values of types that they do not have.
//!
//! Invariant: parsing what `render` shows gives the bytes that it showed; any text gives bytes of the type or an
//! error.
//! Layer 6 (table). Bytes: design.md, "Type descriptors and encodings".

use super::codec::{list, option, ordered, tuple};
use super::descriptor::TypeDescriptor;
use super::literal::{Literal, hex_bytes};
use super::traits::{Key, Value};
use crate::base::codec::DecodeError;
use std::str::FromStr;

type Parsed<T = ()> = Result<T, DecodeError>;

/// Which bytes of a type are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Value,
    /// The standalone ordered form.
    Key,
    /// The self-delimiting ordered form.
    Part,
}

/// Encodes a value that is given as text.
///
/// | Type | Text |
/// |---|---|
/// | string | as it is; where it begins with `"`, or inside a list, quoted with the escapes of Rust or JSON |
/// | integer, `bool` | as Rust writes it |
/// | bytes, byte array, type of the application | `hex:00ff`, `0x00ff`, `"hex:00ff"` or `b"\x00\xff"` |
/// | float | as Rust writes it, with `inf` and `f64::from_bits(0x7ff8000000000001)` |
/// | `char` | `a`, `'a'` or `"a"` |
/// | tuple, array, vector | a JSON array, or as Rust writes it: `["a", 1]`, `("a", 1)` |
/// | option | what it holds, `Some(1)` or `{"Some": 1}`; `None` or `null` |
/// | descending | what it holds, or `Desc(1)` |
/// | `()` | `()` or `null` |
///
/// ```
/// use cowslip::{TypeDescriptor, Value, parse_value};
///
/// let pair: TypeDescriptor = "(str, i64)".parse()?;
/// let bytes = parse_value(&pair, r#"["a\nb", -2]"#)?;
/// assert_eq!(<(&str, i64)>::try_from_bytes(&bytes), Ok(("a\nb", -2)));
/// assert_eq!(parse_value(&TypeDescriptor::Str, "plain text")?, b"plain text");
/// assert!(parse_value(&TypeDescriptor::U8, "256").is_err());
/// # Ok::<_, cowslip::DecodeError>(())
/// ```
///
/// # Errors
/// When the text is no value of the described type; says what was expected and what was found.
pub fn parse_value(descriptor: &TypeDescriptor, text: &str) -> Result<Vec<u8>, DecodeError> {
    parse(descriptor, text, Form::Value)
}

/// Encodes a key that is given as text, in its ordered form. The text is that of [`parse_value`]; for a type of the
/// application it holds the ordered form itself.
///
/// ```
/// use cowslip::{TypeDescriptor, parse_key};
///
/// assert_eq!(parse_key(&TypeDescriptor::U16, "258")?, [1, 2]);
/// # Ok::<_, cowslip::DecodeError>(())
/// ```
///
/// # Errors
/// When the text is no key of the described type; says what was expected and what was found.
pub fn parse_key(descriptor: &TypeDescriptor, text: &str) -> Result<Vec<u8>, DecodeError> {
    parse(descriptor, text, Form::Key)
}

/// The bytes that exactly the keys with the given prefix start with.
///
/// A string or byte string has shorter ones as prefixes. A tuple has its first parts, as a list; where the list has
/// all of them, the last is itself a prefix of the last part. A vector has its first elements. Numbers have no prefixes.
///
/// ```
/// use cowslip::{TypeDescriptor, parse_prefix};
///
/// let path: TypeDescriptor = "(str, str)".parse()?;
/// assert_eq!(parse_prefix(&path, r#"["home"]"#)?, b"home\0\0");
/// assert_eq!(parse_prefix(&path, r#"["home", "a"]"#)?, b"home\0\0a");
/// assert!(parse_prefix(&TypeDescriptor::U64, "1").is_err());
/// # Ok::<_, cowslip::DecodeError>(())
/// ```
///
/// # Errors
/// When keys of the described type have no such prefix.
pub fn parse_prefix(descriptor: &TypeDescriptor, text: &str) -> Result<Vec<u8>, DecodeError> {
    let mut out = Vec::new();
    prefix(descriptor, &literal(descriptor, text)?, &mut out)?;
    Ok(out)
}

fn parse(descriptor: &TypeDescriptor, text: &str, form: Form) -> Parsed<Vec<u8>> {
    let mut out = Vec::new();
    encode(descriptor, &literal(descriptor, text)?, form, &mut out)?;
    Ok(out)
}

/// Only what stands alone may be plain text; a quote at its front says that it is not.
fn literal<'t>(descriptor: &TypeDescriptor, text: &'t str) -> Parsed<Literal<'t>> {
    match descriptor {
        TypeDescriptor::Newtype { stored, .. } => literal(stored, text),
        TypeDescriptor::Str if !text.starts_with('"') => Ok(Literal::Text(text.to_owned())),
        _ => Literal::parse(text),
    }
}

fn encode(descriptor: &TypeDescriptor, literal: &Literal<'_>, form: Form, out: &mut Vec<u8>) -> Parsed {
    match descriptor {
        TypeDescriptor::U8 => scalar::<u8>(descriptor, literal, form, out),
        TypeDescriptor::U16 => scalar::<u16>(descriptor, literal, form, out),
        TypeDescriptor::U32 => scalar::<u32>(descriptor, literal, form, out),
        TypeDescriptor::U64 => scalar::<u64>(descriptor, literal, form, out),
        TypeDescriptor::U128 => scalar::<u128>(descriptor, literal, form, out),
        TypeDescriptor::I8 => scalar::<i8>(descriptor, literal, form, out),
        TypeDescriptor::I16 => scalar::<i16>(descriptor, literal, form, out),
        TypeDescriptor::I32 => scalar::<i32>(descriptor, literal, form, out),
        TypeDescriptor::I64 => scalar::<i64>(descriptor, literal, form, out),
        TypeDescriptor::I128 => scalar::<i128>(descriptor, literal, form, out),
        TypeDescriptor::Bool => scalar::<bool>(descriptor, literal, form, out),
        TypeDescriptor::Unit => match literal {
            Literal::Unit | Literal::Word("null") => Ok(()),
            _ => Err(mismatch(descriptor, literal)),
        },
        TypeDescriptor::Str => {
            variable(text(descriptor, literal)?.as_bytes(), form, out);
            Ok(())
        }
        TypeDescriptor::Bytes => {
            variable(&bytes(descriptor, literal)?, form, out);
            Ok(())
        }
        TypeDescriptor::FixedBytes(_) | TypeDescriptor::Named { .. } => opaque(descriptor, literal, form, out),
        TypeDescriptor::F32 => float::<f32, u32>(descriptor, literal, f32::from_bits, form, out),
        TypeDescriptor::F64 => float::<f64, u64>(descriptor, literal, f64::from_bits, form, out),
        TypeDescriptor::Char => match literal {
            Literal::Char(character) => append::<char>(character, form, out),
            Literal::Text(word) => scalar::<char>(descriptor, &Literal::Word(word), form, out),
            _ => scalar::<char>(descriptor, literal, form, out),
        },
        TypeDescriptor::Tuple(parts) => {
            let items = items(descriptor, literal)?;
            if items.len() != parts.len() {
                return Err(mismatch(descriptor, literal));
            }
            sequence(&parts.iter().zip(items).collect::<Vec<_>>(), form, out)
        }
        TypeDescriptor::Array(element, len) => array(descriptor, element, *len, literal, form, out),
        TypeDescriptor::Vec(element) => vector(element, items(descriptor, literal)?, form, out),
        TypeDescriptor::Option(content) => match present(literal) {
            None => {
                out.push(option::NONE);
                Ok(())
            }
            Some(literal) => {
                out.push(option::SOME);
                encode(content, literal, form, out)
            }
        },
        TypeDescriptor::Desc(content) => {
            let literal = unwrap_call("Desc", literal);
            if form == Form::Value {
                return encode(content, literal, form, out);
            }
            let start = out.len();
            encode(content, literal, Form::Part, out)?;
            out[start..].iter_mut().for_each(|byte| *byte = !*byte);
            Ok(())
        }
        TypeDescriptor::Newtype { stored, .. } => encode(stored, literal, form, out),
    }
}

/// Parts one behind the other, as a tuple or an array has them.
fn sequence(parts: &[(&TypeDescriptor, &Literal<'_>)], form: Form, out: &mut Vec<u8>) -> Parsed {
    if form != Form::Value {
        for (index, (part, item)) in parts.iter().enumerate() {
            let is_last = index + 1 == parts.len();
            encode(part, item, if is_last { form } else { Form::Part }, out)?;
        }
        return Ok(());
    }
    let mut encoded = Vec::with_capacity(parts.len());
    for (part, item) in parts {
        let mut bytes = Vec::new();
        encode(part, item, Form::Value, &mut bytes)?;
        encoded.push(bytes);
    }
    let slices: Vec<&[u8]> = encoded.iter().map(Vec::as_slice).collect();
    let widths: Vec<Option<usize>> = parts.iter().map(|(part, _)| part.fixed_width()).collect();
    out.extend(tuple::join(&widths, &slices));
    Ok(())
}

/// An array of elements without bytes has one value, and its length is not bounded by the text.
fn array(
    descriptor: &TypeDescriptor,
    element: &TypeDescriptor,
    len: u32,
    literal: &Literal<'_>,
    form: Form,
    out: &mut Vec<u8>,
) -> Parsed {
    match literal {
        Literal::Word("null") if len > 0 && element.fixed_width() == Some(0) => return Ok(()),
        Literal::Repeat(item, count) if element.fixed_width() == Some(0) && *count == len.to_string() => {
            return encode(element, item, form, out);
        }
        _ => {}
    }
    let items = items(descriptor, literal)?;
    if usize::try_from(len) != Ok(items.len()) {
        return Err(mismatch(descriptor, literal));
    }
    sequence(&items.iter().map(|item| (element, item)).collect::<Vec<_>>(), form, out)
}

fn vector(element: &TypeDescriptor, items: &[Literal<'_>], form: Form, out: &mut Vec<u8>) -> Parsed {
    let width = element.fixed_width();
    for item in items {
        if form == Form::Value {
            list::push(width, out, |out| encode(element, item, form, out))?;
        } else {
            out.push(list::ELEMENT);
            encode(element, item, Form::Part, out)?;
        }
    }
    if form == Form::Part {
        out.push(list::END);
    }
    Ok(())
}

/// What an optional value holds, if anything.
fn present<'l, 't>(literal: &'l Literal<'t>) -> Option<&'l Literal<'t>> {
    match literal {
        Literal::Word("None" | "null") => None,
        _ => Some(unwrap_call("Some", literal)),
    }
}

fn unwrap_call<'l, 't>(name: &str, literal: &'l Literal<'t>) -> &'l Literal<'t> {
    match literal {
        Literal::Call(found, content) if found == name => content,
        _ => literal,
    }
}

/// A number as Rust writes it; where it is not one, its bits.
fn float<T, B>(
    descriptor: &TypeDescriptor,
    literal: &Literal<'_>,
    from_bits: impl FnOnce(B) -> T,
    form: Form,
    out: &mut Vec<u8>,
) -> Parsed
where
    for<'a> T: Key + Value<SelfType<'a> = T> + FromStr + 'static,
    B: TryFrom<u64>,
{
    // In JSON what is no number is the text of it.
    let inside = match literal {
        Literal::Text(text) => Some(Literal::parse(text)?),
        _ => None,
    };
    match inside.as_ref().unwrap_or(literal) {
        Literal::Call(name, bits) if *name == format!("{descriptor}::from_bits") => {
            let bits = match &**bits {
                Literal::Word(word) => word.strip_prefix("0x").and_then(|digits| u64::from_str_radix(digits, 16).ok()),
                _ => None,
            };
            let bits = bits.and_then(|bits| B::try_from(bits).ok()).ok_or_else(|| mismatch(descriptor, literal))?;
            append::<T>(&from_bits(bits), form, out)
        }
        word => scalar::<T>(descriptor, word, form, out),
    }
}

/// A type whose text is one word.
fn scalar<T>(descriptor: &TypeDescriptor, literal: &Literal<'_>, form: Form, out: &mut Vec<u8>) -> Parsed
where
    for<'a> T: Key + Value<SelfType<'a> = T> + FromStr + 'static,
{
    let Literal::Word(word) = literal else { return Err(mismatch(descriptor, literal)) };
    let value: T = word.parse().map_err(|_| mismatch(descriptor, literal))?;
    append(&value, form, out)
}

fn append<T>(value: &T, form: Form, out: &mut Vec<u8>) -> Parsed
where
    for<'a> T: Key + Value<SelfType<'a> = T> + 'static,
{
    match form {
        Form::Value => out.extend_from_slice(T::as_bytes(value).as_ref()),
        Form::Key => T::encode_key(value, out),
        Form::Part => T::encode_key_part(value, out),
    }
    Ok(())
}

/// A type that is shown as its bytes, whichever form they have.
fn opaque(descriptor: &TypeDescriptor, literal: &Literal<'_>, form: Form, out: &mut Vec<u8>) -> Parsed {
    let bytes = bytes(descriptor, literal)?;
    match descriptor.fixed_width() {
        None => variable(&bytes, form, out),
        Some(width) if width == bytes.len() => out.extend_from_slice(&bytes),
        Some(_) => {
            return Err(DecodeError::new(format!("expected the bytes of {descriptor}, found {} bytes", bytes.len())));
        }
    }
    Ok(())
}

/// Bytes of any length: as they are, but for where more follows.
fn variable(bytes: &[u8], form: Form, out: &mut Vec<u8>) {
    match form {
        Form::Value | Form::Key => out.extend_from_slice(bytes),
        Form::Part => ordered::escape(bytes, out),
    }
}

fn text<'l>(descriptor: &TypeDescriptor, literal: &'l Literal<'_>) -> Parsed<&'l str> {
    match literal {
        Literal::Text(text) => Ok(text),
        _ => Err(mismatch(descriptor, literal)),
    }
}

fn bytes(descriptor: &TypeDescriptor, literal: &Literal<'_>) -> Parsed<Vec<u8>> {
    let digits = match literal {
        Literal::Bytes(bytes) => return Ok(bytes.clone()),
        Literal::Word(word) => word.strip_prefix("hex:").or_else(|| word.strip_prefix("0x")),
        Literal::Text(text) => text.strip_prefix("hex:"),
        _ => None,
    };
    match digits {
        Some(digits) => hex_bytes(digits),
        None => Err(DecodeError::new(format!(
            "expected {descriptor} as hex:00ff or as b\"text\", found {}",
            literal.shown()
        ))),
    }
}

fn items<'l, 't>(descriptor: &TypeDescriptor, literal: &'l Literal<'t>) -> Parsed<&'l [Literal<'t>]> {
    match literal {
        Literal::List(items) => Ok(items),
        _ => Err(DecodeError::new(format!("expected {descriptor} as a JSON array, found {}", literal.shown()))),
    }
}

fn prefix(descriptor: &TypeDescriptor, literal: &Literal<'_>, out: &mut Vec<u8>) -> Parsed {
    match descriptor {
        TypeDescriptor::Str => out.extend_from_slice(text(descriptor, literal)?.as_bytes()),
        TypeDescriptor::Bytes | TypeDescriptor::FixedBytes(_) | TypeDescriptor::Named { .. } => {
            let bytes = bytes(descriptor, literal)?;
            if descriptor.fixed_width().is_some_and(|width| width < bytes.len()) {
                return Err(mismatch(descriptor, literal));
            }
            out.extend_from_slice(&bytes);
        }
        TypeDescriptor::Newtype { stored, .. } => return prefix(stored, literal, out),
        TypeDescriptor::Vec(element) => vector(element, items(descriptor, literal)?, Form::Key, out)?,
        TypeDescriptor::Tuple(parts) => {
            let items = items(descriptor, literal)?;
            if items.len() > parts.len() {
                return Err(mismatch(descriptor, literal));
            }
            for (index, (part, item)) in parts.iter().zip(items).enumerate() {
                if index + 1 == parts.len() {
                    return prefix(part, item, out);
                }
                encode(part, item, Form::Part, out)?;
            }
        }
        _ => return Err(DecodeError::new(format!("expected a type whose keys have prefixes, found {descriptor}"))),
    }
    Ok(())
}

fn mismatch(descriptor: &TypeDescriptor, literal: &Literal<'_>) -> DecodeError {
    DecodeError::new(format!("expected {descriptor}, found {}", literal.shown()))
}

#[cfg(test)]
mod tests;
