//! Building whole nodes from rows or separators: prefix, uniformity, sizes, and where to split.
//!
//! Invariant: a node is built with the longest prefix that all its keys share, so rows that stood in one node always
//! fit in one node again.
//! Layer 3 (btree). Bytes: design.md, "Nodes".

use super::branch::{self, Child};
use super::key::KeyCell;
use super::leaf::{self, Row, ValueCell};
use super::node::{self, HEADER_BYTES, KIND_BRANCH, KIND_LEAF, PREFIX_BYTES_MIN, Shape};
use crate::base::ids::TransactionId;

/// The prefix that a node over these keys stores: what the outermost two share, where that is worth it.
pub(super) fn prefix_len(first: &KeyCell<'_>, last: &KeyCell<'_>, count: usize) -> usize {
    if count < 2 {
        return 0;
    }
    let common = first.common_inline(last);
    if common < PREFIX_BYTES_MIN { 0 } else { common }
}

/// All rows of a leaf that is to be built, in order.
#[derive(Debug)]
pub(crate) struct Rows<'a> {
    rows: Vec<Row<'a>>,
    /// Heap bytes of the rows before each index, with no prefix and no lengths.
    bytes_before: Vec<usize>,
    /// Rows below this index have all the same lengths as the first.
    uniform_until: usize,
    /// Rows from this index on have all the same lengths as the last.
    uniform_from: usize,
}

/// Key and value length of a row that may stand in a uniform leaf.
pub(super) fn lengths(row: &Row<'_>) -> Option<(usize, usize)> {
    match (row.key.rest, row.value) {
        (None, ValueCell::Inline(value)) => Some((row.key.inline_len(), value.len())),
        _ => None,
    }
}

impl<'a> Rows<'a> {
    pub(crate) fn new(rows: Vec<Row<'a>>) -> Self {
        let mut bytes_before = Vec::with_capacity(rows.len() + 1);
        let mut sum = 0;
        for row in &rows {
            bytes_before.push(sum);
            sum += leaf::entry_bytes(row, 0, true);
        }
        bytes_before.push(sum);
        let run = |of: Option<&Row<'_>>, rows: &mut dyn Iterator<Item = &Row<'a>>| {
            let Some(expected) = of.and_then(lengths) else { return 0 };
            rows.take_while(|row| lengths(row) == Some(expected)).count()
        };
        let uniform_until = run(rows.first(), &mut rows.iter());
        let uniform_from = rows.len() - run(rows.last(), &mut rows.iter().rev());
        Self { rows, bytes_before, uniform_until, uniform_from }
    }

    /// The rows of a leaf as they are.
    pub(crate) fn of(leaf: &'a [u8]) -> Vec<Row<'a>> {
        (0..node::count(leaf)).map(|index| leaf::row(leaf, index)).collect()
    }

    pub(crate) fn len(&self) -> usize {
        self.rows.len()
    }

    pub(crate) fn get(&self, index: usize) -> &Row<'a> {
        &self.rows[index]
    }

    fn is_uniform(&self, from: usize, to: usize) -> bool {
        let same = from < to && (to <= self.uniform_until || from >= self.uniform_from);
        let entry_bytes = |index: usize| self.bytes_before[index + 1] - self.bytes_before[index];
        same && entry_bytes(from) - self.prefix_len(from, to) >= leaf::UNIFORM_ENTRY_BYTES_MIN
    }

    fn prefix_len(&self, from: usize, to: usize) -> usize {
        if from >= to { 0 } else { prefix_len(&self.rows[from].key, &self.rows[to - 1].key, to - from) }
    }

    /// Size of a leaf over the rows `from..to`.
    pub(crate) fn leaf_bytes(&self, from: usize, to: usize) -> usize {
        let (count, prefix) = (to - from, self.prefix_len(from, to));
        let lengths = if self.is_uniform(from, to) { 0 } else { 4 };
        HEADER_BYTES + prefix + self.bytes_before[to] - self.bytes_before[from]
            + count * (leaf::ROW_OVERHEAD_BYTES + lengths)
            - count * prefix
    }

    /// Builds a leaf over the rows `from..to`, which are known to fit.
    pub(crate) fn build(&self, from: usize, to: usize, out: &mut [u8], birth: TransactionId) {
        assert!(self.leaf_bytes(from, to) <= out.len(), "the rows do not fit in one leaf");
        let prefix_len = self.prefix_len(from, to);
        let mut prefix = vec![0; if from < to { self.rows[from].key.inline_len() } else { 0 }];
        if let Some(row) = self.rows.get(from).filter(|_| from < to) {
            row.key.copy_inline(0, &mut prefix);
        }
        let uniform = self.is_uniform(from, to).then(|| lengths(&self.rows[from])).flatten();
        let uniform = uniform.map(|(key_len, value_len)| (key_len - prefix_len, value_len));
        node::format(out, Shape { kind: KIND_LEAF, level: 1, birth, uniform }, &prefix[..prefix_len]);
        node::set_count(out, to - from);
        // The heap grows downwards: so its entries stand in key order.
        for (index, row) in self.rows[from..to].iter().enumerate().rev() {
            leaf::push(out, index, to - from, row);
        }
    }

    /// Where to cut rows that do not fit in one leaf, so that both halves fit and are as even as can be.
    pub(crate) fn split_point(&self, node_bytes: usize) -> usize {
        let larger_bytes = |cut: usize| self.leaf_bytes(0, cut).max(self.leaf_bytes(cut, self.len()));
        // Nearly always the middle of the bytes will do; only prefixes and uniformity can make it too large.
        let half = self.bytes_before[self.len()] / 2;
        let middle = self.bytes_before.partition_point(|before| *before < half).clamp(1, self.len() - 1);
        if larger_bytes(middle) * 4 <= node_bytes * 3 {
            return middle;
        }
        (1..self.len())
            .map(|cut| (larger_bytes(cut), cut))
            .min()
            .filter(|(bytes, _)| *bytes <= node_bytes)
            .map(|(_, cut)| cut)
            .expect("entries are at most a quarter of a node, so two leaves hold what one and one row did")
    }
}

/// All separators and children of a branch that is to be built.
#[derive(Debug)]
pub(crate) struct Fences<'a> {
    pub(crate) separators: Vec<KeyCell<'a>>,
    pub(crate) children: Vec<Child>,
}

impl<'a> Fences<'a> {
    /// What a branch holds as it is.
    pub(crate) fn of(branch: &'a [u8]) -> Self {
        let count = node::count(branch);
        Self {
            separators: (0..count).map(|index| branch::separator(branch, index)).collect(),
            children: (0..=count).map(|index| branch::child(branch, index)).collect(),
        }
    }

    fn prefix_len(&self, from: usize, to: usize) -> usize {
        if from >= to { 0 } else { prefix_len(&self.separators[from], &self.separators[to - 1], to - from) }
    }

    /// Size of a branch over the separators `from..to` and the children around them.
    pub(crate) fn branch_bytes(&self, from: usize, to: usize) -> usize {
        let prefix = self.prefix_len(from, to);
        let separators = &self.separators[from..to];
        let heap: usize = separators.iter().map(|key| branch::entry_bytes(key, prefix)).sum();
        branch::LONE_CHILD_BYTES + prefix + heap + (to - from) * branch::SEPARATOR_OVERHEAD_BYTES
    }

    /// Builds a branch over the separators `from..to`, which are known to fit.
    pub(crate) fn build(&self, from: usize, to: usize, out: &mut [u8], level: u8, birth: TransactionId) {
        let prefix_len = self.prefix_len(from, to);
        let mut prefix = vec![0; if from < to { self.separators[from].inline_len() } else { 0 }];
        if let Some(key) = self.separators.get(from).filter(|_| from < to) {
            key.copy_inline(0, &mut prefix);
        }
        node::format(out, Shape { kind: KIND_BRANCH, level, birth, uniform: None }, &prefix[..prefix_len]);
        branch::fill(out, &self.separators[from..to], &self.children[from..=to]);
    }

    /// Which separator moves up when the branch does not fit in one node.
    pub(crate) fn split_point(&self, node_bytes: usize) -> usize {
        let count = self.separators.len();
        let larger_bytes = |cut: usize| self.branch_bytes(0, cut).max(self.branch_bytes(cut + 1, count));
        // Nearly always the middle will do; only separators of very different lengths make it too large.
        if larger_bytes(count / 2) * 4 <= node_bytes * 3 {
            return count / 2;
        }
        (0..count)
            .map(|cut| (larger_bytes(cut), cut))
            .min()
            .filter(|(bytes, _)| *bytes <= node_bytes)
            .map(|(_, cut)| cut)
            .expect("separators are at most a quarter of a node, so two branches hold what one and one did")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row<'a>(key: &'a [u8], value: &'a [u8]) -> Row<'a> {
        Row { key: KeyCell::inline(key), value: ValueCell::Inline(value) }
    }

    #[test]
    fn predicted_size_is_the_size_that_building_gives() {
        let keys: Vec<Vec<u8>> = (0..20_u8).map(|i| [b"common-prefix-", &[i, i][..]].concat()).collect();
        for long_from in [0, 7, 20] {
            let values: Vec<Vec<u8>> = (0..20).map(|i| vec![9; if i < long_from { 3 } else { 5 }]).collect();
            let rows = Rows::new(keys.iter().zip(&values).map(|(key, value)| row(key, value)).collect());
            for (from, to) in [(0, 20), (0, 7), (7, 20), (3, 12), (5, 6)] {
                let mut out = vec![0xaa; 1024];
                rows.build(from, to, &mut out, TransactionId::new(1));
                assert_eq!(leaf::used_bytes(&out), rows.leaf_bytes(from, to), "{from}..{to}");
                for index in from..to {
                    let found = leaf::row(&out, index - from);
                    assert_eq!(found.value.stored(), &values[index][..]);
                    assert_eq!([found.key.prefix, found.key.suffix].concat(), keys[index]);
                }
            }
        }
    }

    #[test]
    fn a_row_outside_the_prefix_of_a_full_leaf_gets_a_leaf_of_its_own() {
        let keys: Vec<Vec<u8>> = (0..40_u8).map(|i| [&[b'p'; 200][..], &[i]].concat()).collect();
        let mut rows: Vec<_> = keys.iter().map(|key| row(key, b"12345678")).collect();
        assert!(Rows::new(rows.clone()).leaf_bytes(0, 40) <= 1024);
        rows.push(row(b"z", b"12345678"));
        let rows = Rows::new(rows);
        assert!(rows.leaf_bytes(0, 41) > 2048);
        let cut = rows.split_point(1024);
        assert!(rows.leaf_bytes(0, cut) <= 1024 && rows.leaf_bytes(cut, 41) <= 1024);
    }
}
