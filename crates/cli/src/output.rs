//! What goes to standard output: lines of text, or one JSON object a line.

use crate::escape::escape;
use cowslip::{TypeDescriptor, render_value_json};
use std::fmt::Display;
use std::io::{self, Write};

/// Prints records as text or as JSON.
#[derive(Debug)]
pub(crate) struct Printer<W> {
    out: W,
    json: bool,
}

/// The value of a field.
#[derive(Debug, Clone)]
pub(crate) enum Field {
    Text(String),
    Number(u64),
    Bool(bool),
    Texts(Vec<String>),
    /// JSON already.
    Json(String),
}

impl Field {
    fn json(&self) -> String {
        match self {
            Self::Text(text) => quote(text),
            Self::Number(number) => number.to_string(),
            Self::Bool(value) => value.to_string(),
            Self::Texts(texts) => format!("[{}]", texts.iter().map(|text| quote(text)).collect::<Vec<_>>().join(",")),
            Self::Json(json) => json.clone(),
        }
    }
}

fn quote(text: &str) -> String {
    render_value_json(&TypeDescriptor::Str, text.as_bytes()).expect("every string has a JSON form")
}

impl<W: Write> Printer<W> {
    pub(crate) fn new(out: W, json: bool) -> Self {
        Self { out, json }
    }

    pub(crate) fn is_json(&self) -> bool {
        self.json
    }

    /// A line for people, which says nothing where JSON is wanted.
    pub(crate) fn line(&mut self, line: impl Display) -> io::Result<()> {
        if self.json { Ok(()) } else { writeln!(self.out, "{line}") }
    }

    /// A line `name: value` for people.
    pub(crate) fn pair(&mut self, name: &str, value: impl Display) -> io::Result<()> {
        self.line(format_args!("{name}: {}", escape(&value.to_string())))
    }

    /// An object, which says nothing where text is wanted.
    pub(crate) fn object(&mut self, fields: &[(&str, Field)]) -> io::Result<()> {
        if !self.json {
            return Ok(());
        }
        let fields: Vec<String> = fields.iter().map(|(name, field)| format!("\"{name}\":{}", field.json())).collect();
        writeln!(self.out, "{{{}}}", fields.join(","))
    }

    pub(crate) fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn printed(json: bool) -> String {
        let mut printer = Printer::new(Vec::new(), json);
        printer.pair("name", "a\x1b").unwrap();
        let fields = [
            ("name", Field::Text("a\"\x1b".to_owned())),
            ("rows", Field::Number(u64::MAX)),
            ("removed", Field::Bool(true)),
            ("notes", Field::Texts(vec!["x".to_owned(), "y".to_owned()])),
            ("key", Field::Json("[1]".to_owned())),
        ];
        printer.object(&fields).unwrap();
        String::from_utf8(printer.out).unwrap()
    }

    #[test]
    fn each_form_prints_its_own_lines_and_no_control_characters() {
        assert_eq!(printed(false), "name: a\\u{1b}\n");
        let expected = r#"{"name":"a\"\u001b","rows":18446744073709551615,"removed":true,"notes":["x","y"],"key":[1]}"#;
        assert_eq!(printed(true), format!("{expected}\n"));
    }
}
