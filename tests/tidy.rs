//! Style as a test: the house rules that a machine can check, over every source file and document of the tree.
//!
//! Each check is a function from files to complaints. It runs twice: over the tree, where it must find nothing, and
//! over a small sample, where it must complain; a checker that cannot fail proves nothing.

mod tidy {
    mod dead;
    mod gate;
    mod headers;
    mod layers;
    mod lengths;
    mod names;
    mod source;
    mod words;

    /// Fails with every complaint on a line of its own.
    fn assert_clean(complaints: &[String]) {
        assert!(complaints.is_empty(), "{} complaints:\n{}", complaints.len(), complaints.join("\n"));
    }

    /// Requires that at least one complaint contains `expected`.
    fn assert_complains(complaints: &[String], expected: &str) {
        assert!(
            complaints.iter().any(|complaint| complaint.contains(expected)),
            "no complaint contains {expected:?}: {complaints:?}"
        );
    }
}
