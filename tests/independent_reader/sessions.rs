//! Sessions that end without closing, on files that lost their last group or their newest slot: the next one goes on from
//! what this reader finds, and every copy of what it makes of that reads back.
//!
//! Follows design.md, "Opening" and "Redo log".

use super::blocks::{BLOCK_BYTES, Opened};
use super::log_damage::newest_slot;
use super::replay::{Model, State, Workbench, own_state, step};
use cowslip::Database;

/// A plain generator of numbers: the same each time.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        u32::try_from(self.0 >> 40).unwrap()
    }
}

/// How a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Killed,
    LastGroupTorn,
    SlotTorn,
}

/// A copy as a crash leaves it, unless it has nothing to lose in that way.
fn after(end: End, bytes: &[u8]) -> Option<Vec<u8>> {
    let opened = Opened::new(bytes.to_vec()).unwrap();
    let mut bytes = bytes.to_vec();
    match end {
        End::Killed => {}
        End::LastGroupTorn => {
            let last = opened.log?.groups.last()?.end - 1;
            let page = usize::try_from(opened.slot.log?.page).unwrap();
            bytes[page * opened.slot.layout.unit_bytes + last] ^= 1;
        }
        End::SlotTorn => {
            let newest = newest_slot(&bytes);
            bytes[BLOCK_BYTES * (1 + newest) + 70] ^= 1;
            // What the older slot reaches may be overwritten by now.
            own_state(&bytes).ok()?;
        }
    }
    Some(bytes)
}

#[test]
fn sessions_go_on_from_what_the_one_before_left() {
    let mut ends = Vec::new();
    let tiny = Database::builder().test_geometry(512, 512, 64);
    for (seed, builder) in [(1, Database::builder()), (2, tiny.clone()), (3, tiny)] {
        let mut dice = Dice(0x9E37_79B9_7F4A_7C15_u64.wrapping_mul(seed));
        let mut bench = Workbench::filled(builder);
        let mut history: Vec<(State, Model)> =
            vec![(State::new(), Model::default()), (bench.state(), bench.model.clone())];
        for round in 0..70 {
            match dice.roll() % 12 {
                0 => assert!(bench.db.compact().is_ok()),
                1 => bench.reopen(),
                2..5 => {
                    let end = [End::Killed, End::LastGroupTorn, End::SlotTorn][dice.roll() as usize % 3];
                    if let Some(bytes) = after(end, &bench.copy()) {
                        let (found, _) = own_state(&bytes).unwrap();
                        let known = history.iter().rev().find(|(state, _)| *state == found);
                        let (_, model) = known.expect("a state that some commit left");
                        bench.model = model.clone();
                        bench.restart(&bytes);
                        ends.push(end);
                    }
                }
                // Only one commit at a time: each state is known.
                _ => step(&mut bench, dice.roll() / 17 * 17),
            }
            bench.assert_copy(&format!("seed {seed}, round {round}"));
            if history.last().is_none_or(|(state, _)| *state != bench.state()) {
                history.push((bench.state(), bench.model.clone()));
            }
        }
    }
    for end in [End::Killed, End::LastGroupTorn, End::SlotTorn] {
        assert!(ends.iter().filter(|found| **found == end).count() >= 3, "too few are {end:?}");
    }
}
