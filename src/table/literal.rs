//! Text in the notation of Rust or JSON, read without knowing which type it stands for.
//!
//! Invariant: any text gives a literal or an error; nesting is bounded, and memory by the length of the text.
//! Layer 6 (table).

use crate::base::codec::DecodeError;
use std::borrow::Cow;

/// More levels than any type may have.
const DEPTH_MAX: usize = 32;

/// How much of a text an error repeats.
const SHOWN_CHARS_MAX: usize = 40;

/// A piece of text whose meaning only its type tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Literal<'t> {
    /// `()`.
    Unit,
    /// What needs no quotes: a number, `true`, `null`, `hex:00ff`.
    Word(&'t str),
    /// A quoted string.
    Text(String),
    /// `b"..."`.
    Bytes(Vec<u8>),
    /// `'a'`.
    Char(char),
    /// `(a, b)`, `(a,)` or `[a, b]`.
    List(Vec<Literal<'t>>),
    /// `[a; 3]`.
    Repeat(Box<Literal<'t>>, &'t str),
    /// `name(a)`, or as JSON `{"name": a}`.
    Call(Cow<'t, str>, Box<Literal<'t>>),
}

impl<'t> Literal<'t> {
    /// Reads one literal that is the whole text, but for space around it.
    pub(super) fn parse(text: &'t str) -> Result<Self, DecodeError> {
        let mut scanner = Scanner::new(text);
        let literal = Self::one(&mut scanner, 1)?;
        scanner.finish()?;
        Ok(literal)
    }

    fn one(scanner: &mut Scanner<'t>, depth: usize) -> Result<Self, DecodeError> {
        if depth > DEPTH_MAX {
            return Err(DecodeError::new(format!("expected at most {DEPTH_MAX} levels, found more")));
        }
        scanner.skip_space();
        if scanner.eat("b\"") {
            return scanner.byte_string().map(Self::Bytes);
        }
        if scanner.eat("\"") {
            return scanner.string().map(Self::Text);
        }
        if scanner.eat("'") {
            return scanner.quoted_character().map(Self::Char);
        }
        if scanner.eat("[") {
            return Self::array(scanner, depth);
        }
        if scanner.eat("{") {
            return Self::object(scanner, depth);
        }
        if scanner.eat("(") {
            let (items, trailing_comma) = Self::list(scanner, ")", depth)?;
            return match items.len() {
                0 => Ok(Self::Unit),
                1 if !trailing_comma => Err(DecodeError::new("expected a comma behind the only part of a tuple")),
                _ => Ok(Self::List(items)),
            };
        }
        let word = scanner.word()?;
        if !scanner.eat("(") {
            return Ok(Self::Word(word));
        }
        let argument = Self::one(scanner, depth + 1)?;
        scanner.expect(")")?;
        Ok(Self::Call(Cow::Borrowed(word), Box::new(argument)))
    }

    /// What follows `[`.
    fn array(scanner: &mut Scanner<'t>, depth: usize) -> Result<Self, DecodeError> {
        let (mut items, _) = Self::list(scanner, "]", depth)?;
        if items.len() == 1 && scanner.eat(";") {
            scanner.skip_space();
            let count = scanner.word()?;
            scanner.expect("]")?;
            return Ok(Self::Repeat(Box::new(items.remove(0)), count));
        }
        Ok(Self::List(items))
    }

    /// What follows `{`: one name and one content.
    fn object(scanner: &mut Scanner<'t>, depth: usize) -> Result<Self, DecodeError> {
        scanner.expect("\"")?;
        let name = scanner.string()?;
        scanner.expect(":")?;
        let content = Self::one(scanner, depth + 1)?;
        scanner.expect("}")?;
        Ok(Self::Call(Cow::Owned(name), Box::new(content)))
    }

    /// What follows an opening bracket, and whether a comma stands before the closing one.
    fn list(scanner: &mut Scanner<'t>, close: &str, depth: usize) -> Result<(Vec<Self>, bool), DecodeError> {
        let mut items = Vec::new();
        loop {
            scanner.skip_space();
            if scanner.eat(close) {
                let trailing_comma = !items.is_empty();
                return Ok((items, trailing_comma));
            }
            items.push(Self::one(scanner, depth + 1)?);
            scanner.skip_space();
            if scanner.eat(close) || (close == "]" && items.len() == 1 && scanner.rest.starts_with(';')) {
                return Ok((items, false));
            }
            scanner.expect(",")?;
        }
    }

    /// The literal as an error shows it.
    pub(super) fn shown(&self) -> String {
        match self {
            Self::Unit => "()".to_owned(),
            Self::Word(word) => shorten(word),
            Self::Text(text) => format!("\"{}\"", shorten(text)),
            Self::Bytes(bytes) => format!("{} bytes", bytes.len()),
            Self::Char(character) => format!("{character:?}"),
            Self::List(items) => format!("a list of {}", items.len()),
            Self::Repeat(item, count) => format!("a list of {} times {}", shorten(count), item.shown()),
            Self::Call(name, _) => format!("{}(..)", shorten(name)),
        }
    }
}

/// The front of a text, without control characters.
pub(super) fn shorten(text: &str) -> String {
    let mut front: String = text.chars().take(SHOWN_CHARS_MAX).flat_map(char::escape_debug).collect();
    if text.chars().nth(SHOWN_CHARS_MAX).is_some() {
        front.push_str("..");
    }
    front
}

/// Reads text front to back.
pub(super) struct Scanner<'t> {
    rest: &'t str,
}

impl<'t> Scanner<'t> {
    pub(super) fn new(text: &'t str) -> Self {
        Self { rest: text }
    }

    pub(super) fn skip_space(&mut self) {
        self.rest = self.rest.trim_start();
    }

    /// Takes `token` if it comes next.
    pub(super) fn eat(&mut self, token: &str) -> bool {
        match self.rest.strip_prefix(token) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    /// Takes `token`, which must come next but for space.
    pub(super) fn expect(&mut self, token: &str) -> Result<(), DecodeError> {
        self.skip_space();
        if self.eat(token) { Ok(()) } else { Err(self.unexpected(&format!("{token:?}"))) }
    }

    /// Requires that nothing but space is left.
    pub(super) fn finish(mut self) -> Result<(), DecodeError> {
        self.skip_space();
        if self.rest.is_empty() { Ok(()) } else { Err(self.unexpected("the end")) }
    }

    pub(super) fn unexpected(&self, expected: &str) -> DecodeError {
        match self.rest {
            "" => DecodeError::new(format!("expected {expected}, found the end of the text")),
            rest => DecodeError::new(format!("expected {expected}, found {}", shorten(rest))),
        }
    }

    /// Takes everything up to space, a bracket, a quote or a separator.
    pub(super) fn word(&mut self) -> Result<&'t str, DecodeError> {
        let ends = |found: char| {
            found.is_whitespace()
                || matches!(found, ',' | ';' | '(' | ')' | '[' | ']' | '{' | '}' | '<' | '>' | '"' | '\'')
        };
        let len = self.rest.find(ends).unwrap_or(self.rest.len());
        if len == 0 {
            return Err(self.unexpected("a value"));
        }
        let (word, rest) = self.rest.split_at(len);
        self.rest = rest;
        Ok(word)
    }

    fn character(&mut self) -> Result<char, DecodeError> {
        let mut characters = self.rest.chars();
        let found = characters.next().ok_or_else(|| DecodeError::new("expected a closing quote, found the end"))?;
        self.rest = characters.as_str();
        Ok(found)
    }

    /// What follows an opening quote, with the escapes of Rust and of JSON.
    pub(super) fn string(&mut self) -> Result<String, DecodeError> {
        let mut text = String::new();
        loop {
            match self.character()? {
                '"' => return Ok(text),
                '\\' => text.push(self.escaped()?),
                found => text.push(found),
            }
        }
    }

    /// What follows the quote before a character, up to the one behind it.
    fn quoted_character(&mut self) -> Result<char, DecodeError> {
        let found = match self.character()? {
            '\\' => self.escaped()?,
            found => found,
        };
        if self.eat("'") { Ok(found) } else { Err(self.unexpected("a quote behind one character")) }
    }

    /// What follows a backslash.
    fn escaped(&mut self) -> Result<char, DecodeError> {
        Ok(match self.character()? {
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            'b' => '\u{8}',
            'f' => '\u{c}',
            '0' => '\0',
            'u' => self.unicode()?,
            found @ ('"' | '\'' | '\\' | '/') => found,
            found => return Err(unknown_escape(found)),
        })
    }

    /// `{1f600}` as Rust writes it, or four digits and perhaps a second half as JSON does.
    fn unicode(&mut self) -> Result<char, DecodeError> {
        let wrong = || DecodeError::new("expected a character behind \\u, found something else");
        if self.eat("{") {
            let end = self.rest.find('}').filter(|end| (1..=6).contains(end)).ok_or_else(wrong)?;
            let number = hex_number(&self.rest[..end]).ok_or_else(wrong)?;
            self.rest = &self.rest[end + 1..];
            return char::from_u32(number).ok_or_else(wrong);
        }
        let first = self.four_digits().ok_or_else(wrong)?;
        let mut units = vec![first];
        if (0xD800..0xDC00).contains(&first) {
            if !self.eat("\\u") {
                return Err(wrong());
            }
            units.push(self.four_digits().ok_or_else(wrong)?);
        }
        match char::decode_utf16(units).next() {
            Some(Ok(found)) => Ok(found),
            _ => Err(wrong()),
        }
    }

    fn four_digits(&mut self) -> Option<u16> {
        let digits = self.rest.get(..4)?;
        let number = u16::try_from(hex_number(digits)?).ok()?;
        self.rest = &self.rest[4..];
        Some(number)
    }

    /// What follows `b"`.
    fn byte_string(&mut self) -> Result<Vec<u8>, DecodeError> {
        let mut bytes = Vec::new();
        loop {
            let found = match self.character()? {
                '"' => return Ok(bytes),
                '\\' => match self.character()? {
                    'n' => b'\n',
                    'r' => b'\r',
                    't' => b'\t',
                    '0' => 0,
                    '"' => b'"',
                    '\'' => b'\'',
                    '\\' => b'\\',
                    'x' => self.two_digits()?,
                    found => return Err(unknown_escape(found)),
                },
                found => u8::try_from(found).ok().filter(u8::is_ascii).ok_or_else(|| {
                    DecodeError::new(format!("expected an ASCII character, found {}", found.escape_debug()))
                })?,
            };
            bytes.push(found);
        }
    }

    fn two_digits(&mut self) -> Result<u8, DecodeError> {
        let digits = self.rest.get(..2).and_then(hex_number).and_then(|number| u8::try_from(number).ok());
        let byte = digits.ok_or_else(|| self.unexpected("two hexadecimal digits"))?;
        self.rest = &self.rest[2..];
        Ok(byte)
    }
}

/// Digits only: `from_str_radix` would take a sign too.
fn hex_number(digits: &str) -> Option<u32> {
    if digits.bytes().all(|digit| digit.is_ascii_hexdigit()) { u32::from_str_radix(digits, 16).ok() } else { None }
}

fn unknown_escape(found: char) -> DecodeError {
    DecodeError::new(format!("expected an escape, found \\{}", found.escape_debug()))
}

/// Pairs of hexadecimal digits as bytes.
pub(super) fn hex_bytes(digits: &str) -> Result<Vec<u8>, DecodeError> {
    let pairs = digits.as_bytes().chunks(2).map(|pair| {
        let pair = std::str::from_utf8(pair).ok().filter(|pair| pair.len() == 2)?;
        u8::try_from(hex_number(pair)?).ok()
    });
    pairs
        .collect::<Option<_>>()
        .ok_or_else(|| DecodeError::new(format!("expected pairs of hexadecimal digits, found {}", shorten(digits))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn text(text: &str) -> Literal<'_> {
        Literal::Text(text.to_owned())
    }

    #[test]
    fn rust_and_json_spell_the_same_things() {
        let pair = Literal::List(vec![text("a"), Literal::Word("-5")]);
        for spelled in ["(\"a\", -5)", "[\"a\",-5]", " ( \"a\" , -5 , ) ", "[\"\\u0061\", -5]", "(\"\\u{61}\", -5)"] {
            assert_eq!(Literal::parse(spelled).as_ref(), Ok(&pair), "{spelled}");
        }
        assert_eq!(Literal::parse("()"), Ok(Literal::Unit));
        assert_eq!(Literal::parse("(1,)"), Ok(Literal::List(vec![Literal::Word("1")])));
        assert_eq!(Literal::parse("[1]"), Literal::parse("(1,)"));
        assert_eq!(Literal::parse("[]"), Ok(Literal::List(Vec::new())));
    }

    #[test]
    fn escapes_of_both_notations_are_read() {
        assert_eq!(Literal::parse(r#""\n\r\t\0\\\"\'\/\b\f""#), Ok(text("\n\r\t\0\\\"'/\u{8}\u{c}")));
        assert_eq!(Literal::parse(r#""\ud83d\ude00\u{1F600}""#), Ok(text("\u{1F600}\u{1F600}")));
        assert_eq!(Literal::parse(r#"b"a\x00\xff\n\"""#), Ok(Literal::Bytes(b"a\0\xff\n\"".to_vec())));
    }

    #[test]
    fn half_spelled_text_is_refused() {
        for wrong in [
            "",
            " ",
            "(",
            "(1",
            "(1)",
            "(,)",
            "(,1)",
            "[1,,2]",
            "1 2",
            "\"a",
            "\"\\",
            "\"\\q\"",
            "\"\\u12\"",
            "\"\\u{}\"",
            "\"\\u{d800}\"",
            "\"\\ud800\"",
            "\"\\ud800\\u0041\"",
            "\"\\u{+1}\"",
            "b\"\u{e9}\"",
            "b\"\\x1\"",
            "b\"\\x+1\"",
            "(1]",
            ")",
            "a\"b\"",
        ] {
            assert!(Literal::parse(wrong).is_err(), "{wrong}");
        }
        assert!(Literal::parse(&"[".repeat(1_000_000)).is_err());
    }

    #[test]
    fn characters_calls_and_repetitions_are_read() {
        assert_eq!(Literal::parse("'\\u{61}'"), Ok(Literal::Char('a')));
        assert_eq!(Literal::parse("'''"), Ok(Literal::Char('\'')));
        let call = Literal::Call("Some".into(), Box::new(Literal::Word("1")));
        assert_eq!(Literal::parse("Some(1)").as_ref(), Ok(&call));
        assert_eq!(Literal::parse("{ \"Some\" : 1 }").as_ref(), Ok(&call));
        assert_eq!(Literal::parse("[(); 3]"), Ok(Literal::Repeat(Box::new(Literal::Unit), "3")));
        for wrong in ["'", "'ab'", "'a", "[1; 2", "[1;]", "[1, 2; 2]", "(1; 2)", "{\"a\"}", "{a: 1}", "f(1", "f()"] {
            assert!(Literal::parse(wrong).is_err(), "{wrong}");
        }
        assert!(Literal::parse(&"{\"a\":".repeat(100_000)).is_err());
    }

    #[test]
    fn hexadecimal_digits_come_in_pairs() {
        assert_eq!(hex_bytes("00fFa0"), Ok(vec![0, 0xFF, 0xA0]));
        assert_eq!(hex_bytes(""), Ok(Vec::new()));
        for wrong in ["0", "000", "0g", "+1", "\u{e9}", "a\u{e9}b"] {
            assert!(hex_bytes(wrong).is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(wild in "\\PC*", near in "[b\"\\\\u{}x0-9a(),\\[\\] ]{0,30}") {
            for literal in [Literal::parse(&wild), Literal::parse(&near)].into_iter().flatten() {
                prop_assert!(literal.shown().len() < 1000);
            }
        }
    }
}
