//! An ordered map of changes, of which a copy costs nothing.
//!
//! Invariant: nodes that two maps share are never changed: a change copies the way from the root to its leaf, as far as
//! others hold it. Sums in branches are those of what is below, but for the longest value, which may be gone by now.
//! Layer 1 (delta).

use std::cmp::Ordering;
use std::hint::black_box;
use std::ops::Bound;
use std::sync::Arc;

/// Rows in a leaf, and children of a branch, at most.
const NODE_MAX: usize = 16;

/// What a row takes in memory beside its bytes: its place in a leaf that is two thirds full, and its allocation.
const ROW_BYTES: u64 = 80;

/// How a change alters the number of rows, compared with what it is laid over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effect {
    Known(i8),
    /// Nobody has looked what is below.
    Unknown,
}

/// What became of the row with a key.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    /// The first bytes of the key, by which most keys are told apart.
    head: u64,
    /// The key, and behind it the value.
    bytes: Arc<[u8]>,
    key_len: u32,
    is_removed: bool,
    pub(crate) effect: Effect,
}

fn head_of(key: &[u8]) -> u64 {
    match key.first_chunk() {
        Some(head) => u64::from_be_bytes(*head),
        None => {
            let mut head = [0; 8];
            head[..key.len()].copy_from_slice(key);
            u64::from_be_bytes(head)
        }
    }
}

impl Row {
    /// A key that has a value from here on, or none.
    pub(crate) fn new(key: &[u8], value: Option<&[u8]>, effect: Effect) -> Self {
        let stored = value.unwrap_or_default();
        // Collected from an iterator that knows its length, for that allocates once.
        let mut bytes: Arc<[u8]> = std::iter::repeat_n(0, key.len() + stored.len()).collect();
        let (key_part, value_part) = Arc::get_mut(&mut bytes).expect("it is new").split_at_mut(key.len());
        key_part.copy_from_slice(key);
        value_part.copy_from_slice(stored);
        let key_len = u32::try_from(key.len()).expect("the length of keys was checked");
        Self { head: head_of(key), bytes, key_len, is_removed: value.is_none(), effect }
    }

    /// The same change, where it counts differently.
    pub(crate) fn with_effect(&self, effect: Effect) -> Self {
        Self { effect, ..self.clone() }
    }

    pub(crate) fn key(&self) -> &[u8] {
        &self.bytes[..self.key_len as usize]
    }

    /// The value; `None` where the row is removed.
    pub(crate) fn value(&self) -> Option<&[u8]> {
        (!self.is_removed).then(|| &self.bytes[self.key_len as usize..])
    }

    /// Key and value, one behind the other.
    pub(crate) fn bytes(&self) -> &Arc<[u8]> {
        &self.bytes
    }

    fn compare(&self, head: u64, key: &[u8]) -> Ordering {
        self.head.cmp(&head).then_with(|| self.key().cmp(key))
    }

    fn sum(&self) -> Sum {
        let (rows, unknown) = match self.effect {
            Effect::Known(effect) => (i32::from(effect), 0),
            Effect::Unknown => (0, 1),
        };
        // A removal brings neither to the tree.
        let longest = self.value().map_or(0, |value| value.len().max(self.key().len()));
        let longest = u32::try_from(longest).unwrap_or(u32::MAX);
        Sum { count: 1, rows, unknown, bytes: self.bytes.len() as u64 + ROW_BYTES, longest }
    }
}

/// What all changes of a part of a map come to. They are short, because each branch has one for each child: memory for changes
/// is limited so that there are less than 2^31 of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Sum {
    /// Memory.
    pub(crate) bytes: u64,
    pub(crate) count: u32,
    /// How many rows there are more than below, without the unknown.
    pub(crate) rows: i32,
    /// Changes of which nobody knows whether there was a row.
    pub(crate) unknown: u32,
    /// Length of the longest key or value of a row that has one, now or before.
    pub(crate) longest: u32,
}

impl Sum {
    pub(crate) fn plus(self, other: Self) -> Self {
        Self {
            count: self.count + other.count,
            rows: self.rows + other.rows,
            unknown: self.unknown + other.unknown,
            bytes: self.bytes + other.bytes,
            longest: self.longest.max(other.longest),
        }
    }

    /// Without a part; the longest value may have been in it.
    pub(crate) fn minus(self, other: Self) -> Self {
        Self {
            count: self.count - other.count,
            rows: self.rows - other.rows,
            unknown: self.unknown - other.unknown,
            bytes: self.bytes - other.bytes,
            longest: self.longest,
        }
    }
}

/// What became of a row that was put into a map.
struct Put {
    before: Option<Row>,
    added: Sum,
    /// The upper half of the node, where there were too many.
    upper: Option<Child>,
}

impl Put {
    /// What a sum is from here on.
    fn changed(&self, sum: Sum) -> Sum {
        let sum = sum.plus(self.added);
        self.before.as_ref().map_or(sum, |before| sum.minus(before.sum()))
    }
}

#[derive(Debug)]
enum Node {
    Leaf(Vec<Row>),
    Branch(Vec<Child>),
}

#[derive(Debug, Clone)]
struct Child {
    /// Head of the lowest key below.
    head: u64,
    sum: Sum,
    node: Arc<Node>,
}

/// A copy of a node's items, each of which counts who holds it. The counts lie all over memory, and increments that others
/// may see wait for one another: that they are read before brings them at the same time.
fn copied<T: Clone>(items: &[T], holders: impl Fn(&T) -> usize) -> Vec<T> {
    black_box(items.iter().map(holders).fold(0, usize::wrapping_add));
    let mut copy = Vec::with_capacity(NODE_MAX + 1);
    copy.extend_from_slice(items);
    copy
}

impl Node {
    fn sum(&self) -> Sum {
        match self {
            Self::Leaf(rows) => rows.iter().fold(Sum::default(), |sum, row| sum.plus(row.sum())),
            Self::Branch(children) => children.iter().fold(Sum::default(), |sum, child| sum.plus(child.sum)),
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Leaf(rows) => rows.len(),
            Self::Branch(children) => children.len(),
        }
    }

    /// The lowest row.
    fn first(&self) -> &Row {
        let mut node = self;
        loop {
            match node {
                Self::Leaf(rows) => return &rows[0],
                Self::Branch(children) => node = &children[0].node,
            }
        }
    }

    /// The node itself where nobody else holds it, or a copy in its place.
    fn own(node: &mut Arc<Self>) -> &mut Self {
        if Arc::get_mut(node).is_none() {
            *node = Arc::new(match &**node {
                Self::Leaf(rows) => Self::Leaf(copied(rows, |row| Arc::strong_count(&row.bytes))),
                Self::Branch(children) => Self::Branch(copied(children, |child| Arc::strong_count(&child.node))),
            });
        }
        Arc::get_mut(node).expect("it is shared with nobody")
    }

    /// Cuts the upper half off where there are too many.
    fn split(&mut self) -> Option<Child> {
        if self.len() <= NODE_MAX {
            return None;
        }
        let upper = match self {
            Self::Leaf(rows) => Self::Leaf(upper_half(rows)),
            Self::Branch(children) => Self::Branch(upper_half(children)),
        };
        Some(Child::new(Arc::new(upper)))
    }

    /// Puts a row in the place of its key, with the effect that it has in the place of what was there. Says what was there,
    /// and what the row comes to.
    fn put(node: &mut Arc<Self>, mut row: Row, effect: impl FnOnce(Option<&Row>) -> Effect) -> Put {
        let node = Self::own(node);
        let mut put = match node {
            Self::Leaf(rows) => {
                let place = rows.binary_search_by(|other| other.compare(row.head, row.key()));
                row.effect = effect(place.ok().map(|place| &rows[place]));
                let added = row.sum();
                let before = match place {
                    Ok(place) => Some(std::mem::replace(&mut rows[place], row)),
                    Err(place) => {
                        rows.insert(place, row);
                        None
                    }
                };
                Put { before, added, upper: None }
            }
            Self::Branch(children) => {
                let place = child_of(children, row.head, row.key());
                let child = &mut children[place];
                let mut put = Self::put(&mut child.node, row, effect);
                match put.upper.take() {
                    None => child.sum = put.changed(child.sum),
                    Some(upper) => {
                        child.sum = child.node.sum();
                        children.insert(place + 1, upper);
                    }
                }
                children[place].head = children[place].node.first().head;
                put
            }
        };
        put.upper = node.split();
        put
    }
}

/// Cuts the upper half off.
fn upper_half<T>(items: &mut Vec<T>) -> Vec<T> {
    let mut upper = Vec::with_capacity(NODE_MAX + 1);
    upper.extend(items.drain(items.len() / 2..));
    upper
}

impl Child {
    fn new(node: Arc<Node>) -> Self {
        Self { head: node.first().head, sum: node.sum(), node }
    }

    /// Whether the lowest key below is at most this one.
    fn begins_by(&self, head: u64, key: &[u8]) -> bool {
        match self.head.cmp(&head) {
            Ordering::Less => true,
            Ordering::Greater => false,
            Ordering::Equal => self.node.first().key() <= key,
        }
    }
}

/// The child below which a key belongs.
fn child_of(children: &[Child], head: u64, key: &[u8]) -> usize {
    children.partition_point(|child| child.begins_by(head, key)).saturating_sub(1)
}

/// Changes in the order of their keys, each key once.
#[derive(Debug, Clone, Default)]
pub(crate) struct Map {
    root: Option<Arc<Node>>,
    sum: Sum,
}

impl Map {
    pub(crate) fn is_empty(&self) -> bool {
        self.root.is_none()
    }

    pub(crate) fn sum(&self) -> Sum {
        self.sum
    }

    fn len(&self) -> u64 {
        u64::from(self.sum.count)
    }

    /// The change of a key.
    pub(crate) fn get(&self, key: &[u8]) -> Option<&Row> {
        let head = head_of(key);
        let mut node = self.root.as_deref()?;
        loop {
            match node {
                Node::Leaf(rows) => {
                    let place = rows.binary_search_by(|row| row.compare(head, key)).ok()?;
                    return Some(&rows[place]);
                }
                Node::Branch(children) => node = &children[child_of(children, head, key)].node,
            }
        }
    }

    /// Puts a change in the place of the one that its key had, which is returned.
    pub(crate) fn put(&mut self, row: Row) -> Option<Row> {
        let effect = row.effect;
        self.put_with(row, |_| effect)
    }

    /// As before, where what the change does to the number of rows depends on the one that the key had.
    pub(crate) fn put_with(&mut self, row: Row, effect: impl FnOnce(Option<&Row>) -> Effect) -> Option<Row> {
        let root = self.root.get_or_insert_with(|| Arc::new(Node::Leaf(Vec::with_capacity(NODE_MAX + 1))));
        let mut put = Node::put(root, row, effect);
        if let Some(upper) = put.upper.take() {
            let mut children = Vec::with_capacity(NODE_MAX + 1);
            children.extend([Child::new(Arc::clone(root)), upper]);
            *root = Arc::new(Node::Branch(children));
        }
        self.sum = put.changed(self.sum);
        put.before
    }

    /// All changes.
    pub(crate) fn iter(&self) -> MapIter<'_> {
        let mut iter = MapIter { branches: Vec::new(), leaf: [].iter() };
        if let Some(root) = &self.root {
            iter.enter(root);
        }
        iter
    }

    /// How many changes there are before a key.
    fn rank(&self, key: &[u8]) -> u64 {
        let head = head_of(key);
        let Some(mut node) = self.root.as_deref() else { return 0 };
        let mut rank = 0;
        loop {
            match node {
                Node::Leaf(rows) => return rank + rows.partition_point(|row| row.compare(head, key).is_lt()) as u64,
                Node::Branch(children) => {
                    let place = child_of(children, head, key);
                    rank += children[..place].iter().map(|child| u64::from(child.sum.count)).sum::<u64>();
                    node = &children[place].node;
                }
            }
        }
    }

    /// The leaf that holds the change at a place, and the place of its first one.
    fn leaf(&self, place: u64) -> Option<(&Arc<Node>, u64)> {
        let mut node = self.root.as_ref().filter(|_| place < self.len())?;
        let mut first = 0;
        while let Node::Branch(children) = &**node {
            let mut children = children.iter();
            let child = children.find(|child| {
                let is_there = place < first + u64::from(child.sum.count);
                first += if is_there { 0 } else { u64::from(child.sum.count) };
                is_there
            });
            node = &child.expect("sums are those of what is below").node;
        }
        Some((node, first))
    }

    /// The changes of keys within bounds. Where the start is above the end there are none.
    pub(crate) fn range(&self, start: Bound<&[u8]>, end: Bound<&[u8]>) -> MapRange {
        let above = |key: &[u8]| self.rank(key) + u64::from(self.get(key).is_some());
        let front = match start {
            Bound::Unbounded => 0,
            Bound::Included(key) => self.rank(key),
            Bound::Excluded(key) => above(key),
        };
        let back = match end {
            Bound::Unbounded => self.len(),
            Bound::Included(key) => above(key),
            Bound::Excluded(key) => self.rank(key),
        };
        MapRange { map: self.clone(), front, back: back.max(front), front_leaf: None, back_leaf: None }
    }
}

/// Changes of a map in the order of their keys.
#[derive(Debug, Clone)]
pub(crate) struct MapIter<'m> {
    /// What is left of the branches on the way down.
    branches: Vec<std::slice::Iter<'m, Child>>,
    leaf: std::slice::Iter<'m, Row>,
}

impl<'m> MapIter<'m> {
    /// Goes down to the first leaf below a node.
    fn enter(&mut self, mut node: &'m Node) {
        loop {
            match node {
                Node::Leaf(rows) => {
                    self.leaf = rows.iter();
                    return;
                }
                Node::Branch(children) => {
                    let mut children = children.iter();
                    node = &children.next().expect("no branch is empty").node;
                    self.branches.push(children);
                }
            }
        }
    }
}

impl<'m> Iterator for MapIter<'m> {
    type Item = &'m Row;

    fn next(&mut self) -> Option<&'m Row> {
        loop {
            if let Some(row) = self.leaf.next() {
                return Some(row);
            }
            match self.branches.last_mut()?.next() {
                Some(child) => self.enter(&child.node),
                None => drop(self.branches.pop()),
            }
        }
    }
}

/// A leaf that a range stands in, and the place of its first change.
type LeafAt = Option<(Arc<Node>, u64)>;

/// Changes of a map in the order of their keys, from both ends.
#[derive(Debug, Clone)]
pub(crate) struct MapRange {
    map: Map,
    /// Places of the next change from the front, and behind the next from the back.
    front: u64,
    back: u64,
    front_leaf: LeafAt,
    back_leaf: LeafAt,
}

fn row_in<'l>(map: &Map, leaf: &'l mut LeafAt, place: u64) -> Option<&'l Row> {
    let is_inside = |(node, first): &(Arc<Node>, u64)| (*first..*first + node.len() as u64).contains(&place);
    if !leaf.as_ref().is_some_and(is_inside) {
        *leaf = map.leaf(place).map(|(node, first)| (Arc::clone(node), first));
    }
    let (node, first) = leaf.as_ref()?;
    match &**node {
        Node::Leaf(rows) => rows.get(usize::try_from(place - first).ok()?),
        Node::Branch(_) => None,
    }
}

impl MapRange {
    pub(crate) fn is_empty(&self) -> bool {
        self.front >= self.back
    }

    /// The next change from the front, without going on.
    pub(crate) fn peek(&mut self) -> Option<&Row> {
        if self.is_empty() { None } else { row_in(&self.map, &mut self.front_leaf, self.front) }
    }

    /// The next change from the back, without going on.
    pub(crate) fn peek_back(&mut self) -> Option<&Row> {
        if self.is_empty() { None } else { row_in(&self.map, &mut self.back_leaf, self.back - 1) }
    }

    pub(crate) fn skip(&mut self) {
        self.front = (self.front + 1).min(self.back);
    }

    pub(crate) fn skip_back(&mut self) {
        self.back = self.back.saturating_sub(1).max(self.front);
    }
}

#[cfg(test)]
mod tests;
