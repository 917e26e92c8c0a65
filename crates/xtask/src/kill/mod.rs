//! `cargo xtask kill`: kills a writer at random moments and requires that every commit which it reported is there.
//!
//! The child tells over a pipe what it does. Everything that a transaction does follows from its number, so the parent
//! knows from that alone what must be in the file.

mod account;
mod child;
mod model;
mod plan;
mod round;

use crate::Result;
pub(crate) use child::Fault;
pub(crate) use round::{Ground, Rounds, run_all};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// Options of the task.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// How often the writer is killed.
    #[arg(long, default_value_t = 2000)]
    rounds: u64,
    /// Decides what is written and when it is killed.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Where the file is made; by default in the build folder.
    #[arg(long, value_name = "PATH")]
    folder: Option<PathBuf>,
    /// Acknowledges commits before they are made, which must be found.
    #[arg(long)]
    plant_early_ack: bool,
    /// Writes to this file until it is killed.
    #[arg(long, hide = true)]
    child: Option<PathBuf>,
    #[arg(long, hide = true, default_value_t = 0)]
    round: u64,
    #[arg(long, hide = true)]
    fault: Option<Fault>,
}

/// A folder on a file system that nothing happens to.
struct Folder {
    folder: PathBuf,
    files: u64,
}

impl Ground for Folder {
    fn renew(&mut self) -> Result<PathBuf> {
        let name = |number: u64| self.folder.join(format!("kill-{number}.cowslip"));
        if self.files > 0 {
            std::fs::remove_file(name(self.files))?;
        }
        self.files += 1;
        Ok(name(self.files))
    }

    fn strike(&mut self) -> Result<()> {
        Ok(())
    }

    fn recover(&mut self) -> Result<()> {
        Ok(())
    }

    fn fails_writers(&self) -> bool {
        false
    }
}

/// A new folder for temporary files, in the one given or in the build folder.
pub(crate) fn temporary_folder(parent: Option<&Path>) -> Result<TempDir> {
    let parent = parent.map_or_else(|| crate::workspace_root().join("target"), Path::to_owned);
    std::fs::create_dir_all(&parent)?;
    Ok(tempfile::tempdir_in(parent)?)
}

/// Runs the task; false where something was lost or wrong, or a planted fault was not found.
pub(crate) fn run(options: &Options) -> Result<bool> {
    if let Some(path) = &options.child {
        return child::run(path, options.seed, options.round, options.fault);
    }
    let mut temporary = temporary_folder(options.folder.as_deref())?;
    let folder = temporary.path().to_owned();
    let mut ground = Folder { folder: folder.clone(), files: 0 };
    let fault = options.plant_early_ack.then_some(Fault::EarlyAck);
    let mut rounds = Rounds::new(options.seed, fault, &mut ground);
    run_all(&mut rounds, options.rounds, &mut |path, told| {
        temporary.disable_cleanup(true);
        std::fs::write(folder.join("told.txt"), told)?;
        println!("kept: {}, and beside it what its writers told", path.display());
        Ok(())
    })
}
