//! An ext4 file system in a file, mounted through a loop device.
//!
//! Invariant: it is unmounted before its folder is removed, whatever ended the run.

use crate::Result;
use crate::random::Random;
use std::ffi::OsStr;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Sparse, so it takes what is written.
const IMAGE_BYTES: u64 = 1 << 30;

/// How the file system may order what it writes. The second one lets the length of a file get ahead of its bytes.
const MOUNT_OPTIONS: &[&str] = &["loop", "loop,data=writeback", "loop,nodelalloc,commit=1"];

/// A file system is busy for a moment after its last user died.
const UNMOUNT_ATTEMPTS_MAX: u32 = 200;
const UNMOUNT_PAUSE: Duration = Duration::from_millis(10);

#[derive(Debug)]
pub(super) struct Disk {
    image: PathBuf,
    mount_point: PathBuf,
    is_mounted: bool,
}

/// Fails unless this process may mount.
pub(super) fn require_root() -> Result<()> {
    #[cfg(target_os = "linux")]
    if rustix::process::geteuid().is_root() {
        return Ok(());
    }
    Err("mounting a file system needs Linux and root".into())
}

/// Runs a program; what it complained about is in the error.
fn run(program: &str, arguments: &[&OsStr]) -> Result<()> {
    let output = Command::new(program).args(arguments).output().map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let complaint = String::from_utf8_lossy(&output.stderr);
    Err(format!("{program}: {}: {}", output.status, complaint.trim_end()).into())
}

impl Disk {
    pub(super) fn new(folder: &Path) -> Result<Self> {
        let mount_point = folder.join("mount");
        std::fs::create_dir(&mount_point)?;
        Ok(Self { image: folder.join("image"), mount_point, is_mounted: false })
    }

    pub(super) fn mount_point(&self) -> &Path {
        &self.mount_point
    }

    /// Makes the file system anew.
    pub(super) fn format(&mut self) -> Result<()> {
        self.unmount()?;
        // Nothing of the one before is left to be found.
        File::create(&self.image)?.set_len(IMAGE_BYTES)?;
        run("mkfs.ext4", &["-q".as_ref(), "-F".as_ref(), self.image.as_os_str()])
    }

    pub(super) fn mount(&mut self, random: &mut Random) -> Result<()> {
        let options = random.pick(MOUNT_OPTIONS);
        let arguments = [
            "-t".as_ref(),
            "ext4".as_ref(),
            "-o".as_ref(),
            OsStr::new(options),
            self.image.as_os_str(),
            self.mount_point.as_os_str(),
        ];
        run("mount", &arguments)?;
        self.is_mounted = true;
        Ok(())
    }

    pub(super) fn unmount(&mut self) -> Result<()> {
        let mut attempts = 0;
        while self.is_mounted {
            attempts += 1;
            match run("umount", &[self.mount_point.as_os_str()]) {
                Ok(()) => self.is_mounted = false,
                Err(error) if attempts == UNMOUNT_ATTEMPTS_MAX => return Err(error),
                Err(_) => std::thread::sleep(UNMOUNT_PAUSE),
            }
        }
        Ok(())
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if let Err(error) = self.unmount() {
            eprintln!("{} stays mounted: {error}", self.mount_point.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_program_lacks_or_complains_about_is_told() {
        let missing = run("no-such-program", &[]).unwrap_err().to_string();
        assert!(missing.starts_with("no-such-program: "), "{missing}");
        #[cfg(unix)]
        {
            run("true", &[]).unwrap();
            let refused = run("sh", &["-c".as_ref(), "echo no room >&2; exit 4".as_ref()]).unwrap_err().to_string();
            assert!(refused.contains("no room") && refused.contains('4'), "{refused}");
        }
    }

    #[test]
    fn a_disk_that_was_never_mounted_is_not_unmounted() {
        let folder = tempfile::tempdir().unwrap();
        let mut disk = Disk::new(folder.path()).unwrap();
        disk.unmount().unwrap();
        assert!(disk.mount_point().is_dir());
    }
}
