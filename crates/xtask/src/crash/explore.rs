//! Cuts the power at the operations of a history and judges what is found.

use super::audit::{is_block_zero, is_group, is_slot, is_sync};
use super::examine::{examine, examine_rotten};
use super::state::State;
use super::timeline::{Disturbance, Moment, Session, Timeline};
use crate::random::Random;
use cowslip::WriteMode;
use cowslip::sim::{CrashPlan, LengthSurvival, Operation, OperationKind, SimDisk, Survivors};
use std::collections::{BTreeMap, HashMap};
use std::hash::{DefaultHasher, Hasher};
use std::ops::Range;

/// Violations that are kept; more say nothing new.
const VIOLATIONS_MAX: usize = 20;

/// Power cuts inside the recovery of one image.
const DOUBLE_IMAGES: usize = 5;

/// One image in so many is crashed again inside its recovery.
const DOUBLE_ONE_IN: u64 = 24;

/// Stands for the version of an image that could not be used, or was made to be so.
const BROKEN: u64 = u64::MAX;

/// What an image was found to hold, for the next time that the same bytes come up.
#[derive(Debug)]
struct Known {
    id: u64,
    state: State,
    noted: bool,
}

/// Everything that was found so far.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    known: HashMap<u64, Known>,
    pub(super) kinds: BTreeMap<&'static str, u64>,
    /// Distinct images by workload.
    pub(super) workloads: BTreeMap<&'static str, usize>,
    /// Images whose bytes had come up before; they were judged by the states allowed at their place.
    pub(super) repeated: u64,
    pub(super) histories: u64,
    pub(super) violations: Vec<String>,
    pub(super) violations_dropped: u64,
}

/// The place of an image: what was allowed there.
struct Place<'t> {
    timeline: &'t Timeline,
    operation: u64,
    allowed: Vec<&'t Moment>,
    must_be_noticed: bool,
    /// A session had just marked the file as closed. One that wrote nothing owes nothing to the one before it, whose
    /// closing may have failed.
    closed_here: bool,
}

impl Ledger {
    /// Number of distinct images.
    pub(super) fn distinct(&self) -> usize {
        self.known.len()
    }

    pub(super) fn violation(&mut self, text: String) {
        if self.violations.len() < VIOLATIONS_MAX {
            self.violations.push(text);
        } else {
            self.violations_dropped += 1;
        }
    }

    /// Judges power cuts during the history until so many distinct images were found.
    pub(super) fn explore(&mut self, timeline: &Timeline, images_max: usize, kind: Option<&'static str>, seed: u64) {
        self.histories += 1;
        let mut random = Random::at(seed, timeline.first);
        let end = timeline.disk.next_operation();
        let mut operations: Vec<u64> = (timeline.first..=end).collect();
        if timeline.disturbance == Disturbance::None {
            let count = operations.len();
            operations = random.sample(operations, count);
        }
        let goal = self.distinct() + images_max;
        let share = (2 * images_max / operations.len().max(1)).max(2);
        let kinds: HashMap<u64, OperationKind> =
            timeline.disk.operations().iter().map(|done| (done.number, done.kind)).collect();
        for operation in operations {
            let is_decisive =
                |kind: &OperationKind| is_slot(kind) || is_group(kind) || is_block_zero(kind) || is_sync(kind);
            let decisive = kinds.get(&operation).is_none_or(is_decisive);
            let most = if decisive { 3 * share } else { share };
            let decays = matches!(kinds.get(&operation), Some(OperationKind::FlipBit { .. }));
            let closed = |session: &Session| session.closed == Some(operation) && session.closing < session.closed;
            let place = Place {
                timeline,
                operation,
                closed_here: !decays && timeline.sessions.iter().any(closed),
                allowed: timeline.allowed(operation).collect(),
                must_be_noticed: timeline.must_be_noticed(operation),
            };
            self.cut(&place, most.min(goal - self.distinct()), kind, &mut random);
            if self.distinct() >= goal {
                break;
            }
        }
    }

    /// Judges power cuts during one operation.
    fn cut(&mut self, place: &Place<'_>, images_max: usize, kind: Option<&'static str>, random: &mut Random) {
        let operation = place.operation;
        let all: Vec<CrashPlan> = place.timeline.disk.crash_plans(operation).collect();
        let writes = all.iter().map(writes_in).max().unwrap_or(0);
        let mut plans = vec![CrashPlan::nothing(operation), CrashPlan::everything(operation)];
        plans.extend((0..images_max.div_ceil(3)).map(|_| CrashPlan::seeded(operation, random.next())));
        plans.extend(random.sample(all, 3 * images_max));
        let goal = self.distinct() + images_max;
        for plan in plans {
            let kind = kind.unwrap_or_else(|| kind_of(&plan, writes));
            self.judge(place, &plan, kind, random);
            if self.distinct() >= goal {
                break;
            }
        }
    }

    fn judge(&mut self, place: &Place<'_>, plan: &CrashPlan, kind: &'static str, random: &mut Random) {
        let disk = place.timeline.disk.crash_image(plan);
        let setup = place.timeline.setup;
        let hash = hash_of(&disk);
        let told = |text: &str| format!("{}: {plan:?}: {text}", place.timeline.describe());
        if let Some(known) = self.known.get(&hash) {
            self.repeated += 1;
            if let Err(text) = place.verdict(known, plan) {
                self.violation(told(&format!("(repeated image) {text}")));
            }
            return;
        }
        let may_create = place.operation < place.timeline.created;
        *self.kinds.entry(kind).or_default() += 1;
        match examine(&disk, setup, may_create, hash) {
            Err(text) => {
                self.known.insert(hash, Known { id: BROKEN, state: State::default(), noted: true });
                self.violation(told(&text));
            }
            Ok(mut examined) => {
                let known = Known { id: examined.id, state: place.shared(examined.state), noted: examined.noted };
                let verdict = place.verdict(&known, plan);
                self.known.insert(hash, known);
                if let Err(text) = verdict {
                    self.violation(told(&text));
                } else if kind != "double" && random.below_wide(DOUBLE_ONE_IN) == 0 {
                    examined.follow.label = told("again inside the recovery");
                    self.explore(&examined.follow, DOUBLE_IMAGES, Some("double"), random.next());
                }
            }
        }
    }

    /// Lets the newest slot decay after each commit and after each clean close.
    pub(super) fn rot(&mut self, timeline: &Timeline, random: &mut Random) {
        let operations = timeline.disk.operations();
        for newest in &timeline.moments[1..] {
            let Some(acked) = newest.acked.filter(|_| newest.waits) else { continue };
            let closed = timeline
                .sessions
                .iter()
                .find(|session| session.closing == Some(acked))
                .and_then(|session| session.closed);
            for (end, closed) in [Some((acked, false)), closed.map(|closed| (closed, true))].into_iter().flatten() {
                let slot = operations.iter().rfind(|done| done.number < end && is_slot(&done.kind));
                let Some((written, OperationKind::Write { offset, .. })) = slot.map(|done| (done.number, done.kind))
                else {
                    continue;
                };
                // What the older slot and its log tell: all that was safe before the newest slot was written.
                let was_safe = |moment: &&Moment| moment.acked.is_some_and(|acked| acked <= written);
                let Some(safe) = timeline.moments.iter().rposition(|moment| was_safe(&moment)) else { continue };
                // What waited for nothing may have been kept all the same, and what the log tells of: where the newest slot is
                // a checkpoint, records go on from those of the slot before.
                let is_recorded = |moment: &Moment| groups(&operations, moment.begun..end).next().is_some();
                let may_be_kept = |moment: &&Moment| !moment.waits || is_recorded(moment);
                let kept = timeline.moments[safe + 1..].iter().take_while(may_be_kept).count();
                let before = &timeline.moments[safe..=safe + kept];
                // Everything up to the end survived, and nothing after it.
                let disk = timeline.disk.crash_image(&CrashPlan::everything(end - 1));
                disk.flip_bit(offset + 40 + random.below_wide(100), 2).expect("a slot has that byte");
                if self.known.contains_key(&hash_of(&disk)) {
                    continue;
                }
                let known = Known { id: BROKEN, state: State::default(), noted: true };
                self.known.insert(hash_of(&disk), known);
                *self.kinds.entry("rotten").or_default() += 1;
                let may_refuse = closed || may_be_written_over(&operations, written, end);
                if let Err(text) = examine_rotten(&disk, timeline.setup, closed, may_refuse, before) {
                    self.violation(format!(
                        "{}: newest slot decayed after operation {}, closed {closed}: {text}",
                        timeline.describe(),
                        end - 1
                    ));
                }
            }
        }
    }
}

/// The fixed blocks end here.
const FIXED_BYTES: u64 = 12_288;

/// Groups of the log among the operations of these numbers, by the bytes that they take.
fn groups(operations: &[Operation], range: Range<u64>) -> impl Iterator<Item = Range<u64>> {
    operations.iter().filter(move |done| range.contains(&done.number)).filter_map(|done| match done.kind {
        OperationKind::Write { offset, len, mode: WriteMode::Forced } => Some(offset..offset + len),
        _ => None,
    })
}

/// Whether records after the newest slot stand where the slot before it may need some, older than itself too, or pages were
/// written that may stand where it has pages: that is allowed, and the older slot is of no use from then on.
fn may_be_written_over(operations: &[Operation], written: u64, end: u64) -> bool {
    let is_page = |kind: &OperationKind| match kind {
        OperationKind::Write { offset, mode: WriteMode::Plain, .. } => *offset >= FIXED_BYTES,
        _ => false,
    };
    operations.iter().any(|done| (written + 1..end).contains(&done.number) && is_page(&done.kind))
        || groups(operations, written + 1..end)
            .any(|new| groups(operations, 0..written).any(|old| new.start < old.end && old.start < new.end))
}

impl Place<'_> {
    /// Whether what was found may be found here.
    fn verdict(&self, found: &Known, plan: &CrashPlan) -> Result<(), String> {
        if found.id == BROKEN {
            return Err("not to be used, as before".to_owned());
        }
        let is_exact = self.allowed.iter().any(|moment| moment.id == found.id && moment.state == found.state);
        let is_shown = || self.allowed.iter().any(|moment| moment.is_shown_by(found.id, &found.state));
        // Commits that nobody has seen yet may have the id that the opening gives here.
        let moments = &self.timeline.moments;
        let is_taken = || moments.iter().any(|moment| moment.contradicts(found.id, &found.state, self.operation));
        if !is_exact && (!is_shown() || is_taken()) {
            let ids: Vec<u64> = self.allowed.iter().map(|moment| moment.id).collect();
            let nearest = self.allowed.iter().rfind(|moment| moment.id == found.id).or(self.allowed.last());
            let difference = nearest.map_or_else(String::new, |moment| found.state.difference(&moment.state));
            return Err(format!("found version {}, allowed {ids:?}: {difference}", found.id));
        }
        if self.must_be_noticed && !found.noted {
            return Err("the session had written pages and did not close, and opening noticed nothing".to_owned());
        }
        if found.noted && self.closed_here && (self.is_last() || *plan == CrashPlan::nothing(self.operation)) {
            return Err("the database was closed, and opening noticed something".to_owned());
        }
        Ok(())
    }

    /// Whether the history ends here, so that nothing that came later can be in the image.
    fn is_last(&self) -> bool {
        self.operation == self.timeline.disk.next_operation()
    }

    /// The same state, sharing memory with the history.
    fn shared(&self, state: State) -> State {
        self.allowed.iter().find(|moment| moment.state == state).map_or(state, |moment| moment.state.clone())
    }
}

fn hash_of(disk: &SimDisk) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(&disk.image());
    hasher.finish()
}

/// How many writes a mask names at least.
fn writes_in(plan: &CrashPlan) -> u32 {
    match plan.writes() {
        Survivors::Mask(mask) => u64::BITS - mask.leading_zeros(),
        _ => 0,
    }
}

/// The hardest thing that a plan does to the disk.
fn kind_of(plan: &CrashPlan, writes: u32) -> &'static str {
    if plan.length() != LengthSurvival::All {
        return "length";
    }
    if !plan.tears().is_empty() {
        return "torn";
    }
    match plan.writes() {
        Survivors::Seeded(_) => "mixed",
        Survivors::AllBut(_) => "reordered",
        Survivors::All => "whole",
        Survivors::None => "lost",
        Survivors::Mask(mask) if mask & mask.wrapping_add(1) != 0 => "reordered",
        Survivors::Mask(_) if writes_in(plan) == writes => "whole",
        Survivors::Mask(_) => "lost",
    }
}
