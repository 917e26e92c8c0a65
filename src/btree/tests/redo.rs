//! What a tree records for the log.
//!
//! Invariant: what is recorded is read back as it was.
//! Layer 3 (btree).

use super::fixture::{Db, tiny};
use crate::base::codec::Decoder;
use crate::btree::redo::{Redo, RedoChange, take_change};

#[test]
fn changes_are_read_back_in_their_order() {
    let db = Db::new(tiny(), 1 << 20);
    let txn = db.begin();
    let mut redo = Redo::new(&txn.writer);
    let changes: [RedoChange<'_>; 4] = [(b"a", Some(b"1")), (b"", Some(b"")), (b"a", None), (b"long", Some(&[7; 300]))];
    for (key, value) in changes {
        redo.record(key, value);
    }
    let mut input = Decoder::new(redo.bytes());
    for change in changes {
        assert_eq!(take_change(&mut input).unwrap(), change);
    }
    input.finish().unwrap();
    assert_eq!(redo.count(), 4);
    for cut in 0..redo.bytes().len() {
        let mut input = Decoder::new(&redo.bytes()[..cut]);
        let whole = std::iter::from_fn(|| take_change(&mut input).ok()).count();
        assert!(whole < 4, "a change that was cut off at {cut} is read");
    }
}

#[test]
fn too_many_changes_leave_no_record_and_no_bytes() {
    let db = Db::new(tiny(), 1 << 20);
    let mut txn = db.begin();
    txn.tree.record_changes();
    for number in 0..40_000_u64 {
        txn.tree.record(&number.to_be_bytes(), Some(&[1; 16]));
    }
    assert!(txn.tree.redo.as_ref().unwrap().bytes().is_empty());
    assert!(txn.tree.take_redo().is_none());
}
