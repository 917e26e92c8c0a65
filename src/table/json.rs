//! Keys and values as JSON, given only the descriptor.
//!
//! Invariant: the JSON says the same as the text of `render`, and `parse` reads it back.
//! Layer 6 (table).

use super::descriptor::TypeDescriptor;
use super::literal::Literal;
use super::render::{render_key, render_value};
use crate::base::codec::DecodeError;
use std::fmt::Write as _;

/// Shows an encoded value as JSON.
///
/// Strings are strings; integers are numbers with all their digits; `bool` is a boolean; `()` is `null`; tuples are
/// arrays; bytes, and the bytes of types of the application, are strings of `hex:` and lowercase digits. An absent value
/// is `null`, a present one what it holds, or `{"Some":..}` where that could be mixed up; infinities and NaN are strings.
/// This form is stable, and [`parse_value`](crate::parse_value) reads it.
///
/// ```
/// use cowslip::{Value, render_value_json};
///
/// let bytes = <(&str, &[u8])>::as_bytes(&("a\nb", &[0, 255]));
/// assert_eq!(render_value_json(&<(&str, &[u8])>::descriptor(), &bytes)?, r#"["a\u000ab","hex:00ff"]"#);
/// # Ok::<_, cowslip::DecodeError>(())
/// ```
///
/// # Errors
/// When the bytes are not a value of the described type.
pub fn render_value_json(descriptor: &TypeDescriptor, bytes: &[u8]) -> Result<String, DecodeError> {
    json(&render_value(descriptor, bytes)?)
}

/// Shows an ordered key as JSON, in the form of [`render_value_json`].
///
/// # Errors
/// When the bytes are not a key of the described type.
pub fn render_key_json(descriptor: &TypeDescriptor, bytes: &[u8]) -> Result<String, DecodeError> {
    json(&render_key(descriptor, bytes)?)
}

/// How a present value begins that would look like an absent one without it.
const SOME: &str = "{\"Some\":";

fn json(shown: &str) -> Result<String, DecodeError> {
    let mut out = String::new();
    write(&Literal::parse(shown)?, &mut out);
    Ok(out)
}

fn write(literal: &Literal<'_>, out: &mut String) {
    match literal {
        Literal::Unit => out.push_str("null"),
        Literal::Text(text) => quote(text, out),
        Literal::Bytes(bytes) => {
            out.push_str("\"hex:");
            for byte in bytes {
                write!(out, "{byte:02x}").expect("a string takes every character");
            }
            out.push('"');
        }
        Literal::List(items) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                write(item, out);
            }
            out.push(']');
        }
        Literal::Char(character) => quote(character.encode_utf8(&mut [0; 4]), out),
        // Only an array whose elements have no bytes is shown so, and it has one value.
        Literal::Repeat(..) => out.push_str("null"),
        Literal::Call(name, content) => call(name, content, out),
        Literal::Word("None") => out.push_str("null"),
        Literal::Word(infinite @ ("inf" | "-inf")) => quote(infinite, out),
        Literal::Word(word) => match word.strip_prefix("0x") {
            Some(digits) => quote(&format!("hex:{digits}"), out),
            None => out.push_str(word),
        },
    }
}

/// What is there stands for itself, but for where it would look like what is not there.
fn call(name: &str, content: &Literal<'_>, out: &mut String) {
    let mut json = String::new();
    write(content, &mut json);
    match name {
        "Some" if json == "null" || json.starts_with(SOME) => {
            out.push_str(SOME);
            out.push_str(&json);
            out.push('}');
        }
        "Some" | "Desc" => out.push_str(&json),
        // A NaN and its bits.
        _ => match content {
            Literal::Word(bits) => quote(&format!("{name}({bits})"), out),
            _ => out.push_str(&json),
        },
    }
}

/// Whatever a terminal would not show as itself is escaped, so that the line is safe to print.
fn quote(text: &str, out: &mut String) {
    out.push('"');
    for character in text.chars() {
        match character {
            '"' | '\\' => out.extend(['\\', character]),
            '\'' => out.push(character),
            _ if character.escape_debug().len() == 1 => out.push(character),
            _ => {
                for unit in character.encode_utf16(&mut [0; 2]) {
                    write!(out, "\\u{unit:04x}").expect("a string takes every character");
                }
            }
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::traits::{Key, TypeName, Value};

    #[test]
    fn every_kind_of_value_has_its_json() {
        type All = (&'static str, i128, bool, &'static [u8], (), [u8; 2], (u8,));
        let value = ("a\"\\\u{e9}'", i128::MIN, true, &b"\x00z"[..], (), [1, 0xAB], (7,));
        let shown = r#"["a\"\\@'",-170141183460469231731687303715884105728,true,"hex:007a",null,"hex:01ab",[7]]"#;
        let shown = shown.replace('@', "\u{e9}");
        assert_eq!(render_value_json(&All::descriptor(), &All::as_bytes(&value)).as_ref(), Ok(&shown));
        let mut key = Vec::new();
        All::encode_key(&value, &mut key);
        assert_eq!(render_key_json(&All::descriptor(), &key).as_ref(), Ok(&shown));
        let named = TypeDescriptor::named(&TypeName::new("x"), None);
        assert_eq!(render_value_json(&named, &[0, 0xFF]).as_deref(), Ok("\"hex:00ff\""));
    }

    #[test]
    fn what_moves_a_cursor_is_escaped() {
        let text = "\x1b\u{7f}\u{202e}\u{10FFFF}\n\0";
        let shown = render_value_json(&TypeDescriptor::Str, text.as_bytes());
        assert_eq!(shown.as_deref(), Ok(r#""\u001b\u007f\u202e\udbff\udfff\u000a\u0000""#));
    }

    #[test]
    fn what_is_not_there_is_null_and_never_mixed_up() {
        type Nested = Option<Option<()>>;
        let shown = |value| render_value_json(&Nested::descriptor(), &Nested::as_bytes(&value)).unwrap();
        assert_eq!(
            [shown(None), shown(Some(None)), shown(Some(Some(())))],
            ["null", r#"{"Some":null}"#, r#"{"Some":{"Some":null}}"#]
        );
        type Numbers = Vec<Option<f64>>;
        let numbers = Numbers::as_bytes(&vec![Some(-0.0), None, Some(f64::NEG_INFINITY), Some(f64::NAN)]).into_owned();
        let expected = r#"[-0.0,null,"-inf","f64::from_bits(0x7ff8000000000000)"]"#;
        assert_eq!(render_value_json(&Numbers::descriptor(), &numbers).as_deref(), Ok(expected));
    }

    #[test]
    fn bytes_of_another_type_are_refused() {
        assert!(render_value_json(&TypeDescriptor::U64, b"short").is_err());
        assert!(render_key_json(&TypeDescriptor::Bool, b"\x02").is_err());
    }
}
