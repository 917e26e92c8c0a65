//! `cargo xtask cut`: cuts the power of a file system while a writer runs, and requires that every commit which it
//! reported is there.
//!
//! The file system lies in a file behind a loop device. Shutting it down keeps what it had written to the device and
//! loses everything else, as a power cut does to a device that keeps what it was given; mounting it again replays its
//! journal.

mod disk;
mod shutdown;

use crate::Result;
use crate::kill::{Fault, Ground, Rounds, run_all, temporary_folder};
use crate::random::Random;
use disk::Disk;
use shutdown::Shutdown;
use std::fs::File;
use std::path::{Path, PathBuf};

/// Apart from what the writers draw.
const CUT_SEED: u64 = 0xC07;

/// Options of the task.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// How often the power is cut.
    #[arg(long, default_value_t = 500)]
    rounds: u64,
    /// Decides what is written and when the power is cut.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Where the image of the file system is made; by default in the build folder.
    #[arg(long, value_name = "PATH")]
    folder: Option<PathBuf>,
    /// Ignores all syncs of an open database, which must be found.
    #[arg(long)]
    plant_skipped_sync: bool,
}

/// A mounted file system and what cuts its power.
struct PowerCut {
    disk: Disk,
    shutdown: Shutdown,
    random: Random,
    path: PathBuf,
}

impl Ground for PowerCut {
    fn renew(&mut self) -> Result<PathBuf> {
        self.disk.format()?;
        self.disk.mount(&mut self.random)?;
        Ok(self.path.clone())
    }

    fn strike(&mut self) -> Result<()> {
        // A system may write anything at any time. What it writes of a later commit must not harm the one before.
        if self.random.chance(250)
            && let Ok(file) = File::open(&self.path)
        {
            file.sync_data()?;
        }
        self.shutdown.cut(self.disk.mount_point())
    }

    fn recover(&mut self) -> Result<()> {
        self.disk.unmount()?;
        self.disk.mount(&mut self.random)
    }

    fn fails_writers(&self) -> bool {
        true
    }
}

/// Mounts a file system and cuts its power once; the error says what this machine does not have.
fn prepare(folder: &Path, seed: u64) -> Result<PowerCut> {
    disk::require_root()?;
    let mut ground = PowerCut {
        disk: Disk::new(folder)?,
        shutdown: Shutdown::start()?,
        random: Random::at(seed ^ CUT_SEED, 0),
        path: folder.join("mount/cut.cowslip"),
    };
    ground.renew()?;
    let lost = ground.disk.mount_point().join("lost");
    std::fs::write(&lost, "not synced")?;
    ground.shutdown.cut(ground.disk.mount_point())?;
    ground.recover()?;
    if lost.exists() {
        return Err("a file that was not synced survived the cut".into());
    }
    Ok(ground)
}

/// Runs the task; false where something was lost or wrong, or the planted fault was not found.
pub(crate) fn run(options: &Options) -> Result<bool> {
    let mut temporary = temporary_folder(options.folder.as_deref())?;
    // Unmounting goes by the names that the system lists.
    let folder = temporary.path().canonicalize()?;
    let mut ground = match prepare(&folder, options.seed) {
        Ok(ground) => ground,
        Err(reason) => {
            println!("skipped: {reason}");
            return Ok(true);
        }
    };
    let fault = options.plant_skipped_sync.then_some(Fault::SkippedSync);
    let mut rounds = Rounds::new(options.seed, fault, &mut ground);
    let outcome = run_all(&mut rounds, options.rounds, &mut |path, told| {
        temporary.disable_cleanup(true);
        if path.exists() {
            std::fs::copy(path, folder.join("cut.cowslip"))?;
        }
        std::fs::write(folder.join("told.txt"), told)?;
        println!("kept: {}: the file, what its writers told, and the file system", folder.display());
        Ok(())
    });
    drop(rounds);
    ground.disk.unmount()?;
    outcome
}
