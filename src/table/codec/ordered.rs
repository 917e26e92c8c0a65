//! Byte forms whose order is the order of what they hold.
//!
//! Invariant: no escaped form is a prefix of another, and escaping keeps the order of the bytes that it wraps.
//! Layer 6 (table). Bytes: design.md, "Type descriptors and encodings".
//!
//! A zero byte becomes `00 FF` and the end is marked by `00 00`. Where one string ends and another goes on, the end
//! mark meets either a byte above zero or an escaped zero, and sorts below both.

use crate::base::codec::DecodeError;

const ESCAPED_ZERO: [u8; 2] = [0x00, 0xFF];
const END: [u8; 2] = [0x00, 0x00];

/// Appends `bytes` in the self-delimiting form.
pub(crate) fn escape(bytes: &[u8], out: &mut Vec<u8>) {
    out.reserve(bytes.len() + END.len());
    let mut runs = bytes.split(|&byte| byte == 0);
    out.extend_from_slice(runs.next().unwrap_or_default());
    for run in runs {
        out.extend_from_slice(&ESCAPED_ZERO);
        out.extend_from_slice(run);
    }
    out.extend_from_slice(&END);
}

/// Appends what `escape` wrapped at the front of `bytes`, and answers the bytes behind the end mark.
pub(crate) fn unescape<'a>(bytes: &'a [u8], out: &mut Vec<u8>) -> Result<&'a [u8], DecodeError> {
    unescape_masked(bytes, 0, out)
}

/// The same for bytes each of which was combined with `mask` by exclusive or; what is appended is not.
pub(crate) fn unescape_masked<'a>(bytes: &'a [u8], mask: u8, out: &mut Vec<u8>) -> Result<&'a [u8], DecodeError> {
    let mut rest = bytes;
    loop {
        let zero = rest.iter().position(|&byte| byte == mask).ok_or_else(unterminated)?;
        let (run, marked) = rest.split_at(zero);
        let (mark, behind) = marked.split_first_chunk::<2>().ok_or_else(unterminated)?;
        out.extend(run.iter().map(|byte| byte ^ mask));
        rest = behind;
        match mark.map(|byte| byte ^ mask) {
            END => return Ok(rest),
            ESCAPED_ZERO => out.push(0),
            [_, found] => {
                return Err(DecodeError::new(format!(
                    "expected 00 or ff behind a zero in a key part, found {found:02x}"
                )));
            }
        }
    }
}

/// Splits a part of known width from the front.
pub(crate) fn split_fixed(bytes: &[u8], width: usize) -> Result<(&[u8], &[u8]), DecodeError> {
    bytes
        .split_at_checked(width)
        .ok_or_else(|| DecodeError::new(format!("expected a key part of {width} bytes, found {}", bytes.len())))
}

fn unterminated() -> DecodeError {
    DecodeError::new("expected an end mark behind a key part, found the end of the key")
}

/// Requires the exact length of a fixed-width type.
pub(crate) fn exact<const N: usize>(bytes: &[u8], what: &str) -> Result<[u8; N], DecodeError> {
    exact_ref(bytes, what).copied()
}

/// Requires the exact length of a fixed-width type, without a copy.
pub(crate) fn exact_ref<'a, const N: usize>(bytes: &'a [u8], what: &str) -> Result<&'a [u8; N], DecodeError> {
    bytes.try_into().map_err(|_| DecodeError::new(format!("expected {N} bytes of {what}, found {} bytes", bytes.len())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escaped_bytes_are_as_documented() {
        let mut out = vec![7];
        escape(b"a\0\0b", &mut out);
        assert_eq!(out, [7, b'a', 0, 0xFF, 0, 0xFF, b'b', 0, 0]);
        out.clear();
        escape(b"", &mut out);
        assert_eq!(out, [0, 0]);
    }

    #[test]
    fn unescape_stops_behind_the_end_mark() {
        let mut out = Vec::new();
        assert_eq!(unescape(b"a\0\xFF\0\0tail", &mut out), Ok(&b"tail"[..]));
        assert_eq!(out, b"a\0");
    }

    #[test]
    fn a_missing_or_wrong_mark_is_refused() {
        for bytes in [&b""[..], b"a", b"a\0", b"a\0\x01\0\0", b"a\0\xFF"] {
            assert!(unescape(bytes, &mut Vec::new()).is_err(), "{bytes:?}");
        }
    }
}
