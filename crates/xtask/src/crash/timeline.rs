//! What happened to a database, by the operations of its disk: which states may be found after a power cut, and when.

use super::script::Setup;
use super::state::State;
use cowslip::OpenNote;
use cowslip::sim::SimDisk;

/// One committed state. Operation numbers are those that the disk was about to give.
#[derive(Debug, Clone)]
pub(super) struct Moment {
    pub(super) id: u64,
    pub(super) state: State,
    /// The commit was to be durable, with all before it, when it returned. Otherwise it may be lost until a later one,
    /// a sync or closing returns.
    pub(super) waits: bool,
    /// The commit had issued nothing before this operation.
    pub(super) begun: u64,
    /// The commit had returned before this operation, so readers may have seen the version.
    pub(super) seen: Option<u64>,
    /// A power cut during this operation or later must not lose it: the commit returned, or the next process saw it.
    pub(super) acked: Option<u64>,
    /// The next process did not find it, so from this operation on nobody may.
    pub(super) withdrawn: Option<u64>,
}

/// After an end without closing ids go on so much further up.
const IDS_AHEAD: u64 = 1 << 24;

impl Moment {
    /// Whether a version of this id and state shows the moment. A checkpoint gives what is there a new id where the slot has
    /// one whose trees are not all of it: the next id, or in a session that recovered the next that nobody has seen.
    pub(super) fn is_shown_by(&self, id: u64, state: &State) -> bool {
        [self.id, self.id + 1, self.id + IDS_AHEAD].contains(&id) && self.state == *state
    }

    /// Whether readers saw the id with another state before this operation.
    pub(super) fn contradicts(&self, id: u64, state: &State, operation: u64) -> bool {
        let is_seen = self.seen.is_some_and(|seen| seen <= operation) && self.withdrawn.is_none();
        is_seen && self.id == id && self.state != *state
    }
}

/// Whether opening noticed that the session before did not close. A torn slot that is not needed stays noted until the
/// next commit overwrites it, after a clean close too.
pub(super) fn is_noted(notes: &[OpenNote]) -> bool {
    notes.iter().any(|note| !matches!(note, OpenNote::OtherSlotInvalid { .. }))
}

/// One process that had the database open.
#[derive(Debug, Clone, Copy)]
pub(super) struct Session {
    /// Opening had returned before this operation.
    pub(super) opened: u64,
    /// Closing had issued nothing before this operation.
    pub(super) closing: Option<u64>,
    /// Closing had returned before this operation.
    pub(super) closed: Option<u64>,
    /// The file was closed when it was opened.
    pub(super) began_clean: bool,
}

/// What went wrong on purpose in a history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Disturbance {
    None,
    /// The process dies before this operation; the cache of the system survives.
    Kill(u64),
    /// This write never reaches the medium, though the cache shows it, and the process dies two operations later.
    KillAfterLoss(u64),
    /// This sync fails, and the unsynced writes are given up: none had reached the medium, or those of the seed had.
    FailSync(u64, Option<u64>),
    /// This operation fails and changes nothing.
    FailOperation(u64),
    /// This growth of the file finds no space.
    Full(u64),
    /// Half of this write gets in.
    ShortWrite(u64),
}

/// A history on a disk.
#[derive(Debug)]
pub(super) struct Timeline {
    pub(super) label: String,
    pub(super) setup: Setup,
    pub(super) disk: SimDisk,
    pub(super) moments: Vec<Moment>,
    pub(super) sessions: Vec<Session>,
    /// Creating had returned before this operation.
    pub(super) created: u64,
    /// The first operation whose crashes are of interest.
    pub(super) first: u64,
    pub(super) disturbance: Disturbance,
}

impl Timeline {
    /// States that may be found after a power cut during `operation`.
    pub(super) fn allowed(&self, operation: u64) -> impl Iterator<Item = &Moment> {
        let acked = |moment: &Moment| moment.acked.is_some_and(|acked| acked <= operation);
        let least = self.moments.iter().rposition(acked).unwrap_or(0);
        self.moments[least..].iter().filter(move |moment| {
            moment.begun <= operation && moment.withdrawn.is_none_or(|withdrawn| operation < withdrawn)
        })
    }

    /// Whether a power cut during `operation` must be noticed when opening: the session had written pages by then.
    pub(super) fn must_be_noticed(&self, operation: u64) -> bool {
        let Some(session) = self.sessions.iter().rfind(|session| session.opened <= operation) else { return false };
        let first_page = self.disk.operations().into_iter().find(|done| {
            done.number >= session.opened
                && !super::audit::is_block_zero(&done.kind)
                && !super::audit::is_sync(&done.kind)
        });
        first_page.is_some_and(|done| done.number <= operation)
            && session.closing.is_none_or(|closing| operation < closing)
    }

    /// What is said of this history in a report.
    pub(super) fn describe(&self) -> String {
        format!("{}, {:?}", self.label, self.disturbance)
    }
}
