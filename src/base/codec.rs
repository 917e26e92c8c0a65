//! Checked little-endian reading and writing of fixed structures.
//!
//! Invariant: `Decoder` never reads past its slice, never panics and never allocates by a length that it read.
//! Layer 0 (base).

use super::ids::{Digest, PageId};

/// Why bytes could not be decoded: what was expected and what was there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct DecodeError(String);

impl DecodeError {
    /// An error that says what was expected and what was found.
    pub fn new(reason: impl Into<String>) -> Self {
        Self(reason.into())
    }
}

/// Reads fixed structures from a slice, front to back.
#[derive(Debug, Clone)]
pub(crate) struct Decoder<'a> {
    rest: &'a [u8],
}

macro_rules! decode_int {
    ($name:ident, $type:ty) => {
        pub(crate) fn $name(&mut self) -> Result<$type, DecodeError> {
            Ok(<$type>::from_le_bytes(self.array()?))
        }
    };
}

impl<'a> Decoder<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(crate) fn remaining(&self) -> usize {
        self.rest.len()
    }

    pub(crate) fn bytes(&mut self, len: usize) -> Result<&'a [u8], DecodeError> {
        match self.rest.split_at_checked(len) {
            Some((head, rest)) => {
                self.rest = rest;
                Ok(head)
            }
            None => Err(DecodeError::new(format!("expected {len} more bytes, found {}", self.rest.len()))),
        }
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let mut out = [0; N];
        out.copy_from_slice(self.bytes(N)?);
        Ok(out)
    }

    decode_int!(u8, u8);
    decode_int!(u16, u16);
    decode_int!(u32, u32);
    decode_int!(u64, u64);

    /// A page number in eight bytes; anything above 48 bits is refused.
    pub(crate) fn page(&mut self) -> Result<PageId, DecodeError> {
        let number = self.u64()?;
        PageId::new(number).ok_or_else(|| DecodeError::new(format!("page number {number} exceeds 48 bits")))
    }

    pub(crate) fn digest(&mut self) -> Result<Digest, DecodeError> {
        Ok(Digest(self.array()?))
    }

    /// Requires that everything was read.
    pub(crate) fn finish(self) -> Result<(), DecodeError> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(DecodeError::new(format!("{} bytes left over", self.rest.len())))
        }
    }
}

/// Appends fixed structures to a byte vector.
#[derive(Debug, Default)]
pub(crate) struct Encoder {
    bytes: Vec<u8>,
}

impl Encoder {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// With room for so many bytes.
    pub(crate) fn with_capacity(len: usize) -> Self {
        Self { bytes: Vec::with_capacity(len) }
    }

    pub(crate) fn u8(&mut self, value: u8) -> &mut Self {
        self.bytes(&[value])
    }

    pub(crate) fn u16(&mut self, value: u16) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    pub(crate) fn u32(&mut self, value: u32) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    pub(crate) fn u64(&mut self, value: u64) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    pub(crate) fn page(&mut self, page: PageId) -> &mut Self {
        self.u64(page.get())
    }

    pub(crate) fn digest(&mut self, digest: Digest) -> &mut Self {
        self.bytes(&digest.0)
    }

    pub(crate) fn zeros(&mut self, count: usize) -> &mut Self {
        self.bytes.resize(self.bytes.len() + count, 0);
        self
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.bytes.extend_from_slice(bytes);
        self
    }

    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    pub(crate) fn as_slice(&self) -> &[u8] {
        &self.bytes
    }

    pub(crate) fn into_vec(self) -> Vec<u8> {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let mut out = Encoder::new();
        let page = PageId::new(77).unwrap();
        out.u8(1).u16(2).u32(3).u64(4).page(page).digest(Digest([9; 32])).bytes(b"abc");
        let mut decoder = Decoder::new(out.as_slice());
        assert_eq!((decoder.u8(), decoder.u16(), decoder.u32(), decoder.u64()), (Ok(1), Ok(2), Ok(3), Ok(4)));
        assert_eq!(decoder.page(), Ok(page));
        assert_eq!(decoder.digest(), Ok(Digest([9; 32])));
        assert_eq!(decoder.bytes(3), Ok(&b"abc"[..]));
        assert_eq!(decoder.finish(), Ok(()));
    }

    #[test]
    fn reading_past_the_end_is_an_error_and_consumes_nothing() {
        let mut decoder = Decoder::new(&[1, 2, 3]);
        assert!(decoder.u32().is_err());
        assert!(decoder.bytes(usize::MAX).is_err());
        assert_eq!(decoder.remaining(), 3);
        assert!(decoder.clone().finish().is_err());
    }

    #[test]
    fn a_page_number_above_48_bits_is_refused() {
        assert!(Decoder::new(&(1_u64 << 48).to_le_bytes()).page().is_err());
    }
}
