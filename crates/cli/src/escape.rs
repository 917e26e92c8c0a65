//! Text from a file as one line that a terminal shows as it is.

use std::fmt::Write;

/// Escapes control characters, characters that reorder or break lines, and the backslash itself, so that every text
/// has one spelling and none can move the cursor.
pub(crate) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        if character == '\\' || character.is_control() || is_layout(character) {
            write!(out, "{}", character.escape_default()).expect("a string takes every character");
        } else {
            out.push(character);
        }
    }
    out
}

/// Separators of lines and paragraphs, and the marks that change the direction of text.
fn is_layout(character: char) -> bool {
    matches!(character, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_moves_a_cursor_is_left() {
        assert_eq!(escape("a\nb\t\x1b[2J\x7f\u{9b}"), "a\\nb\\t\\u{1b}[2J\\u{7f}\\u{9b}");
        assert_eq!(escape("a\u{202e}b"), "a\\u{202e}b");
    }

    #[test]
    fn ordinary_text_stays_and_every_text_has_one_spelling() {
        assert_eq!(escape("caf\u{e9} \"1\""), "caf\u{e9} \"1\"");
        assert_ne!(escape("a\\n"), escape("a\n"));
    }
}
