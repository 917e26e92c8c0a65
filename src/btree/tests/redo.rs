//! What is recorded of a transaction for the log.
//!
//! Invariant: what is recorded is read back as it was.
//! Layer 3 (btree).

use crate::base::codec::Decoder;
use crate::btree::redo::{Redo, RedoChange, take_change};

#[test]
fn changes_are_read_back_in_their_order() {
    let mut redo = Redo::default();
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
