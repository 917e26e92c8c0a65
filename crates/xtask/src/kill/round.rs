//! One round after another: a child writes until it is struck down, and what it leaves is compared with the model.
//!
//! Invariant: the file is compared before anything of this process has written to it, so a file in which something is
//! missing is kept as the child left it.

use super::account::{Account, Line, Told};
use super::child::{Fault, PANIC};
use super::model::{Marks, Model, Violation, marks_of};
use super::plan::Plan;
use crate::Result;
use crate::random::Random;
use cowslip::{Database, DatabaseError, Error, OpenNote};
use std::fmt::Display;
use std::io::{self, BufRead, BufReader};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Rounds that go on with the same file. Then it is made anew, which is struck, too.
const ROUNDS_PER_FILE: u64 = 50;

/// A child that tells nothing for so long hangs.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// Apart from all plans and setups.
const TIMING_SEED: u64 = 0x71_4D00;

/// Where the file lies, and what happens to it there besides that its writer is killed.
pub(crate) trait Ground {
    /// Makes the place empty and says which file is to be used.
    fn renew(&mut self) -> Result<PathBuf>;

    /// Strikes while the child writes; it is killed right after.
    fn strike(&mut self) -> Result<()>;

    /// Makes the file accessible again once the child is dead.
    fn recover(&mut self) -> Result<()>;

    /// Whether the store of a child can fail because of the strike.
    fn fails_writers(&self) -> bool;
}

/// What happened in all rounds.
#[derive(Debug, Default)]
struct Tally {
    rounds: u64,
    files: u64,
    acks: u64,
    aborts: u64,
    syncs: u64,
    compactions: u64,
    while_opening: u64,
    while_committing: u64,
    while_syncing: u64,
    while_writing: u64,
    while_compacting: u64,
    between: u64,
    present: u64,
    absent: u64,
    recovered: u64,
    stepped_back: u64,
    unfinished: u64,
    bytes_max: u64,
}

/// How often strikes hit what, in lines.
impl Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(
            f,
            "{} rounds on {} files of at most {:.1} MiB: {} acknowledged commits, {} aborts, {} syncs, \
             {} compactions",
            self.rounds,
            self.files,
            self.bytes_max as f64 / f64::from(1 << 20),
            self.acks,
            self.aborts,
            self.syncs,
            self.compactions
        )?;
        writeln!(
            f,
            "struck while opening {}, inside a commit {}, inside a sync {}, inside a transaction {}, inside compaction {}, \
             between them {}",
            self.while_opening,
            self.while_committing,
            self.while_syncing,
            self.while_writing,
            self.while_compacting,
            self.between
        )?;
        writeln!(
            f,
            "commits that nothing promised: {} found whole, {} not there; opening: {} recovered, {} from the older slot, \
             {} not yet created",
            self.present, self.absent, self.recovered, self.stepped_back, self.unfinished
        )
    }
}

pub(crate) struct Rounds<'g> {
    seed: u64,
    fault: Option<Fault>,
    ground: &'g mut dyn Ground,
    path: PathBuf,
    model: Model,
    /// The file was a database once, and must be one from then on.
    is_created: bool,
    rounds_left_of_file: u64,
    tally: Tally,
    /// What the children told, round by round, since the file was made.
    history: String,
}

/// A child while it runs.
struct Running {
    child: Child,
    milestones: Receiver<Line>,
    listener: JoinHandle<io::Result<String>>,
}

impl<'g> Rounds<'g> {
    pub(crate) fn new(seed: u64, fault: Option<Fault>, ground: &'g mut dyn Ground) -> Self {
        Self {
            seed,
            fault,
            ground,
            path: PathBuf::new(),
            model: Model::default(),
            is_created: false,
            rounds_left_of_file: 0,
            tally: Tally::default(),
            history: String::new(),
        }
    }

    /// The next round begins with an empty place.
    fn give_file_up(&mut self) {
        self.rounds_left_of_file = 0;
    }

    /// Runs one round. The error is one of the harness.
    fn round(&mut self, round: u64) -> Result<std::result::Result<(), Violation>> {
        let mut random = Random::at(self.seed ^ TIMING_SEED, round);
        if self.rounds_left_of_file == 0 {
            self.path = self.ground.renew()?;
            (self.model, self.is_created, self.rounds_left_of_file) = (Model::default(), false, ROUNDS_PER_FILE);
            self.history.clear();
            self.tally.files += 1;
        }
        self.rounds_left_of_file -= 1;
        let mut running = self.start(round)?;
        let waited = self.strike(&mut running, &mut random);
        // Whatever went wrong, no child outlives its round.
        running.child.kill()?;
        running.child.wait()?;
        let told = running.listener.join().map_err(|_| "the listener panicked")??;
        self.history.push_str(&format!("round {round}\n{told}"));
        let ended = waited?;
        self.ground.recover()?;
        self.tally.rounds += 1;
        let judged = catch_unwind(AssertUnwindSafe(|| self.judge(&told, ended, &mut random)));
        Ok(judged.unwrap_or_else(|_| Err(Violation::Wrong("reading the file panicked".to_owned()))))
    }

    fn start(&self, round: u64) -> Result<Running> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["kill", "--seed", &self.seed.to_string(), "--round", &round.to_string(), "--child"]);
        command.arg(&self.path);
        if let Some(fault) = self.fault {
            command.args(["--fault", fault.argument()]);
        }
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
        let output = child.stdout.take().ok_or("the child has no output")?;
        let (sender, milestones) = channel();
        Ok(Running { child, milestones, listener: std::thread::spawn(move || listen(output, &sender)) })
    }

    /// Waits until the child does what it is to be struck at, and strikes. Says whether it ended before.
    fn strike(&mut self, running: &mut Running, random: &mut Random) -> Result<bool> {
        let at_opening = random.chance(if self.is_created { 120 } else { 500 });
        let micros_max = *random.pick(if at_opening { &[200, 1000, 4000] } else { &[2000, 15_000, 60_000, 60_000] });
        let least = if at_opening { 0 } else { 200 };
        let awaited = if at_opening { Line::Opening } else { Line::Opened };
        loop {
            match running.milestones.recv_timeout(SILENCE_MAX) {
                Ok(line) if line == awaited => break,
                Ok(_) => {}
                Err(std::sync::mpsc::RecvTimeoutError::Timeout) => return Err("the child hangs".into()),
                // What it said last tells why.
                Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => return Ok(true),
            }
        }
        std::thread::sleep(Duration::from_micros(random.between(least, micros_max) as u64));
        if running.child.try_wait()?.is_some() {
            return Ok(true);
        }
        self.ground.strike()?;
        Ok(false)
    }

    /// Compares what is there with what was told.
    fn judge(&mut self, told: &str, ended: bool, random: &mut Random) -> std::result::Result<(), Violation> {
        let mut account = Account::read(told).map_err(Violation::Wrong)?;
        if self.ground.fails_writers() {
            account.forget_given_up();
        }
        let has_panicked = account.failed.as_deref().is_some_and(|why| why.starts_with(PANIC));
        let may_fail = self.ground.fails_writers() && !has_panicked;
        if let Some(why) = account.failed.as_deref().filter(|_| ended || !may_fail) {
            return Err(Violation::Wrong(format!("the child failed: {why}")));
        }
        if ended {
            return Err(Violation::Wrong("the child ended by itself".to_owned()));
        }
        self.count(&account);
        self.is_created |= account.opened;
        let database = match Database::builder().open_read_only(&self.path) {
            Ok(database) => database,
            Err(DatabaseError::NotADatabase(_) | DatabaseError::Open(_)) if !self.is_created => {
                self.tally.unfinished += 1;
                return self.create();
            }
            Err(error @ (DatabaseError::NotADatabase(_) | DatabaseError::Open(_))) if self.has_promises(&account) => {
                return Err(Violation::Lost(format!("all is lost: {error}")));
            }
            Err(error) => return Err(wrong("opening for reading only")(error)),
        };
        self.is_created = true;
        self.count_notes(database.open_notes());
        let tx = database.begin_read().map_err(Error::from)?;
        let settled = self.model.settle(self.seed, &account, &marks_of(&tx)?)?;
        self.tally.present += settled.present;
        self.tally.absent += settled.absent;
        self.model.compare(&tx)?;
        drop(tx);
        let report = database.check_integrity().map_err(wrong("checking"))?;
        self.tally.bytes_max = self.tally.bytes_max.max(report.file_units * 4096);
        database.close().map_err(wrong("closing after reading only"))?;
        // Otherwise the next child recovers, and may be struck at that.
        if random.chance(500) { self.reopen(random) } else { Ok(()) }
    }

    /// Whether anything of the file was promised to be durable, or was there before.
    fn has_promises(&self, account: &Account) -> bool {
        let is_promise = |told: &Told| Plan::at(self.seed, told.lane, told.number).options.is_promise();
        account.synced_id.is_some()
            || account.transactions.iter().any(|told| told.is_acked && is_promise(told))
            || self.model.marks().iter().any(Option::is_some)
    }

    fn count(&mut self, account: &Account) {
        let tally = &mut self.tally;
        tally.acks += account.acks();
        tally.aborts += account.aborts;
        tally.syncs += account.syncs;
        tally.compactions += account.compactions;
        *(if !account.opened {
            &mut tally.while_opening
        } else if account.is_syncing() {
            &mut tally.while_syncing
        } else if account.is_committing() {
            &mut tally.while_committing
        } else if account.is_writing() {
            &mut tally.while_writing
        } else if account.compacting {
            &mut tally.while_compacting
        } else {
            &mut tally.between
        }) += 1;
    }

    fn count_notes(&mut self, notes: &[OpenNote]) {
        let noted = |matches: fn(&OpenNote) -> bool| u64::from(notes.iter().any(matches));
        self.tally.recovered += noted(|note| matches!(note, OpenNote::RecoveredAfterCrash));
        self.tally.stepped_back += noted(|note| matches!(note, OpenNote::ServedOlderSlot { .. }));
    }

    /// A creation that was cut off leaves nothing in the way of another one.
    fn create(&mut self) -> std::result::Result<(), Violation> {
        let database = Database::create(&self.path).map_err(wrong("creating after a creation that was cut off"))?;
        self.model.compare(&database.begin_read().map_err(Error::from)?)?;
        self.is_created = true;
        database.close().map_err(wrong("closing a new database"))
    }

    /// Recovery and closing change nothing.
    fn reopen(&self, random: &mut Random) -> std::result::Result<(), Violation> {
        let database = Database::open(&self.path).map_err(wrong("opening"))?;
        let tx = database.begin_read().map_err(Error::from)?;
        let marks: Marks = marks_of(&tx)?;
        if marks != self.model.marks() {
            let text = format!("after recovery the marks are {marks:?}, before {:?}", self.model.marks());
            return Err(Violation::Wrong(text));
        }
        if random.chance(200) {
            self.model.compare(&tx)?;
        }
        drop(tx);
        database.check_integrity().map_err(wrong("checking after recovery"))?;
        database.close().map_err(wrong("closing"))
    }
}

fn wrong<E: Display>(what: &str) -> impl FnOnce(E) -> Violation {
    move |error| Violation::Wrong(format!("{what}: {error}"))
}

/// Reads what the child tells, to the end, and passes on what its parent waits for.
fn listen(output: ChildStdout, milestones: &Sender<Line>) -> io::Result<String> {
    let (mut output, mut told) = (BufReader::new(output), String::new());
    loop {
        let start = told.len();
        if output.read_line(&mut told)? == 0 {
            return Ok(told);
        }
        if let Some(line @ (Line::Opening | Line::Opened)) = Line::parse(told[start..].trim_end()) {
            // Nobody waits any more where the other end is gone.
            milestones.send(line).unwrap_or_default();
        }
    }
}

/// Runs so many rounds, or with a planted fault until it is found, and tells about it. Says whether all is well.
pub(crate) fn run_all(
    rounds: &mut Rounds<'_>,
    count: u64,
    keep: &mut dyn FnMut(&Path, &str) -> Result<()>,
) -> Result<bool> {
    let (started, mut caught) = (Instant::now(), None);
    for round in 0..count {
        let outcome = rounds.round(round)?;
        match (outcome, rounds.fault) {
            (Ok(()), _) => {}
            (Err(Violation::Lost(text)), Some(_)) => {
                caught = Some(format!("planted fault caught in round {round}: {text}"));
                break;
            }
            (Err(violation), Some(_)) => {
                println!("round {round}: {}", violation.text());
                rounds.give_file_up();
            }
            (Err(violation), None) => {
                let kind = if matches!(violation, Violation::Lost(_)) { "LOST" } else { "WRONG" };
                println!("{kind}: round {round} of seed {}: {}", rounds.seed, violation.text());
                keep(&rounds.path, &rounds.history)?;
                print!("{}", rounds.tally);
                return Ok(false);
            }
        }
    }
    print!("{}", rounds.tally);
    let seconds = started.elapsed().as_secs_f64();
    println!("seed {}, {seconds:.1} s", rounds.seed);
    Ok(match (rounds.fault, caught) {
        (None, _) => {
            println!("0 lost");
            true
        }
        (Some(_), Some(text)) => {
            println!("{text}");
            true
        }
        (Some(_), None) => {
            println!("planted fault not caught");
            false
        }
    })
}
