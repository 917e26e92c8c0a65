//! The map against a model, its copies, and its ranges from both ends.
//!
//! Invariant: a copy stays as it was whatever becomes of the map that it was made of.
//! Layer 1 (delta).

use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

type Model = BTreeMap<Vec<u8>, (Option<Vec<u8>>, i8)>;

fn rows(mut range: MapRange) -> Vec<(Vec<u8>, Option<Vec<u8>>)> {
    let mut rows = Vec::new();
    while let Some(row) = range.peek() {
        rows.push((row.key().to_vec(), row.value().map(<[u8]>::to_vec)));
        range.skip();
    }
    rows
}

impl Sum {
    fn without_longest(self) -> Self {
        Self { longest: 0, ..self }
    }
}

fn check_nodes(node: &Node) -> Sum {
    assert!((1..=NODE_MAX).contains(&node.len()));
    if let Node::Branch(children) = node {
        for child in children {
            let sum = check_nodes(&child.node);
            assert!(sum.longest <= child.sum.longest);
            assert_eq!(sum.without_longest(), child.sum.without_longest());
            assert_eq!(child.node.first().head, child.head);
        }
    }
    node.sum()
}

fn check(map: &Map, model: &Model) {
    let sum = map.root.as_deref().map_or(Sum::default(), check_nodes);
    assert!(sum.longest <= map.sum().longest);
    assert_eq!(sum.without_longest(), map.sum().without_longest());
    assert_eq!(u64::from(sum.count), model.len() as u64);
    assert_eq!(i64::from(sum.rows), model.values().map(|(_, effect)| i64::from(*effect)).sum::<i64>());
    let expected: Vec<_> = model.iter().map(|(key, (value, _))| (key.clone(), value.clone())).collect();
    assert_eq!(rows(map.range(Bound::Unbounded, Bound::Unbounded)), expected);
    assert!(map.iter().map(Row::key).eq(model.keys()));
}

fn key() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        prop::collection::vec(0..3_u8, 0..12),
        prop::collection::vec(any::<u8>(), 0..4),
        Just(vec![7; 8]),
        Just(vec![7; 9])
    ]
}

proptest! {
    #[test]
    fn a_map_equals_a_model_and_its_copies_stay_as_they_were(
        changes in prop::collection::vec((key(), prop::option::of(prop::collection::vec(any::<u8>(), 0..5)), -1..2_i8), 0..400),
        copy_at in prop::collection::vec(any::<prop::sample::Index>(), 0..4),
        bounds in prop::collection::vec((key(), key(), 0..3_u8, 0..3_u8), 0..10),
    ) {
        let (mut map, mut model) = (Map::default(), Model::new());
        let copies: Vec<_> = copy_at.iter().map(|at| at.index(changes.len().max(1))).collect();
        let mut kept = Vec::new();
        for (index, (key, value, effect)) in changes.iter().enumerate() {
            if copies.contains(&index) {
                kept.push((map.clone(), model.clone()));
            }
            let before = map.put(Row::new(key, value.as_deref(), Effect::Known(*effect)));
            let expected = model.insert(key.clone(), (value.clone(), *effect));
            prop_assert_eq!(before.map(|row| row.value().map(<[u8]>::to_vec)), expected.map(|(value, _)| value));
        }
        kept.push((map, model));
        for (map, model) in &kept {
            check(map, model);
            for (key, (value, _)) in model {
                prop_assert_eq!(map.get(key).unwrap().value(), value.as_deref());
            }
            prop_assert!(map.get(&[9; 30]).is_none());
        }
        let (map, model) = kept.last().unwrap();
        for (start, end, start_kind, end_kind) in &bounds {
            let bound = |key, kind| match kind {
                0 => Bound::Included(key),
                1 => Bound::Excluded(key),
                _ => Bound::Unbounded,
            };
            let (start, end) = (bound(&start[..], *start_kind), bound(&end[..], *end_kind));
            let inside = |key: &[u8]| {
                (match start { Bound::Included(s) => s <= key, Bound::Excluded(s) => s < key, Bound::Unbounded => true })
                    && (match end { Bound::Included(e) => key <= e, Bound::Excluded(e) => key < e, Bound::Unbounded => true })
            };
            let expected: Vec<_> = model.iter().filter(|(key, _)| inside(key))
                .map(|(key, (value, _))| (key.clone(), value.clone())).collect();
            prop_assert_eq!(rows(map.range(start, end)), expected);
        }
    }

    #[test]
    fn from_both_ends_each_change_is_met_once(count in 0..300_u32, forward in prop::collection::vec(any::<bool>(), 400)) {
        let mut map = Map::default();
        for number in 0..count {
            map.put(Row::new(&number.to_be_bytes(), None, Effect::Unknown));
        }
        prop_assert_eq!(map.sum().unknown, count);
        let mut range = map.range(Bound::Unbounded, Bound::Unbounded);
        let (mut low, mut high) = (0, count);
        for forward in forward {
            if low == high {
                prop_assert!(range.peek().is_none() && range.peek_back().is_none());
                break;
            }
            if forward {
                prop_assert_eq!(range.peek().unwrap().key(), low.to_be_bytes());
                range.skip();
                low += 1;
            } else {
                high -= 1;
                prop_assert_eq!(range.peek_back().unwrap().key(), high.to_be_bytes());
                range.skip_back();
            }
        }
    }
}
