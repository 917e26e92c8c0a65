//! Every key of the two roots, named once.
//!
//! Invariant: the first byte of a key in the data root says what kind of thing it names.
//! Layer 4 (catalog). Bytes: design.md, "Catalog".

/// Kind byte of tables in the data root.
const TABLE: u8 = b't';

/// Counter in the forward root: the id that the next new table gets.
pub(crate) const TABLE_ID_NEXT: &[u8] = b"table-id-next";

/// Key of a table's record in the data root.
pub(crate) fn table_key(name: &str) -> Vec<u8> {
    let mut key = Vec::with_capacity(1 + name.len());
    key.push(TABLE);
    key.extend_from_slice(name.as_bytes());
    key
}

/// Keys of all tables: from the first on and below the second.
pub(crate) fn table_range() -> ([u8; 1], [u8; 1]) {
    ([TABLE], [TABLE + 1])
}

/// The table that a key of the data root names.
pub(crate) fn table_name(key: &[u8]) -> Option<&str> {
    key.strip_prefix(&[TABLE]).and_then(|name| std::str::from_utf8(name).ok())
}
