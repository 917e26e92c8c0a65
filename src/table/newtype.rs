//! Newtypes of the application: own names for types that are stored already.
//!
//! Invariant: a newtype has the bytes of what it wraps in every form, and is never the same type as it.
//! Layer 6 (table). Bytes: design.md, "Type descriptors and encodings".

use super::descriptor::TypeDescriptor;
use super::traits::{Key, TypeName, Value};
use crate::base::codec::DecodeError;
use std::fmt;

/// A type of the application that is stored as another type is, under a name of its own.
///
/// It is a [`Value`], and a [`Key`] where the wrapped type is one: it then sorts as that does. Tables remember the name
/// beside the wrapped type, so a table of `OrderId` does not open as one of `UserId` or of `u64`, while tools still
/// show its rows as numbers.
///
/// ```
/// # fn main() -> Result<(), cowslip::Error> {
/// use cowslip::{Database, DecodeError, Newtype, TableDefinition, Value};
///
/// #[derive(Debug, Clone, PartialEq)]
/// struct Email(String);
///
/// impl Newtype for Email {
///     type Stored = String;
///     const NAME: &'static str = "shop.Email";
///
///     fn as_stored(&self) -> &String {
///         &self.0
///     }
///
///     fn from_stored(stored: String) -> Result<Self, DecodeError> {
///         if stored.contains('@') { Ok(Self(stored)) } else { Err(DecodeError::new("an address has an @")) }
///     }
/// }
///
/// const USERS: TableDefinition<Email, u64> = TableDefinition::new("users");
/// let db = Database::in_memory()?;
/// db.update(|tx| {
///     tx.open_table(USERS)?.insert(Email("ada@example.org".into()), 7)?;
///     Ok::<_, cowslip::Error>(())
/// })?;
/// assert_eq!(Email::descriptor().to_string(), "\"shop.Email\" as str");
/// # Ok(())
/// # }
/// ```
pub trait Newtype: fmt::Debug + Sized + 'static {
    /// The type whose bytes are stored.
    type Stored: Value + 'static;

    /// What the type is called in the file: keep it when the Rust type moves or is renamed, change it when the meaning
    /// of the bytes changes.
    const NAME: &'static str;

    /// What is wrapped.
    fn as_stored(&self) -> &<Self::Stored as Value>::SelfType<'static>;

    /// Wraps what was read.
    ///
    /// # Errors
    /// When the application stores no such value. It must then not insert any either.
    fn from_stored(stored: <Self::Stored as Value>::SelfType<'_>) -> Result<Self, DecodeError>;
}

impl<T: Newtype> Value for T {
    type SelfType<'a> = T;
    type AsBytes<'a> = <T::Stored as Value>::AsBytes<'a>;

    fn fixed_width() -> Option<usize> {
        T::Stored::fixed_width()
    }

    fn try_from_bytes<'a>(data: &'a [u8]) -> Result<T, DecodeError>
    where
        Self: 'a,
    {
        T::from_stored(T::Stored::try_from_bytes(data)?)
    }

    fn as_bytes<'a, 'b: 'a>(value: &'a T) -> Self::AsBytes<'a>
    where
        Self: 'b,
    {
        T::Stored::as_bytes(value.as_stored())
    }

    fn type_name() -> TypeName {
        TypeName::new(T::NAME)
    }

    fn descriptor() -> TypeDescriptor {
        TypeDescriptor::Newtype { name: T::NAME.to_owned(), stored: Box::new(T::Stored::descriptor()) }
    }
}

impl<T: Newtype<Stored: Key>> Key for T {
    const KEY_BYTES_ARE_VALUE_BYTES: bool = T::Stored::KEY_BYTES_ARE_VALUE_BYTES;

    fn encode_key<'a>(value: &T, out: &mut Vec<u8>)
    where
        Self: 'a,
    {
        T::Stored::encode_key(value.as_stored(), out);
    }

    fn decode_key(bytes: &[u8], out: &mut Vec<u8>) -> Result<(), DecodeError> {
        T::Stored::decode_key(bytes, out)
    }

    fn encode_key_part<'a>(value: &T, out: &mut Vec<u8>)
    where
        Self: 'a,
    {
        T::Stored::encode_key_part(value.as_stored(), out);
    }

    fn decode_key_part<'k>(bytes: &'k [u8], out: &mut Vec<u8>) -> Result<&'k [u8], DecodeError> {
        T::Stored::decode_key_part(bytes, out)
    }
}
