//! Shutting a file system down as a power cut does: by `EXT4_IOC_SHUTDOWN`, called by Python, because there is no safe
//! call of it in Rust.
//!
//! Invariant: nothing is shut down but an ext4 file system that a loop device carries and that is mounted at the very
//! folder given.

use crate::Result;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// `_IOR('X', 125, __u32)`.
const SHUTDOWN: u32 = (2 << 30) | (4 << 16) | ((b'X' as u32) << 8) | 125;

/// Nothing of the journal is written any more.
const NO_LOG_FLUSH: u32 = 2;

const NOT_LISTED: &str = "is not the mount point of an ext4 file system on a loop device";

/// Reads one folder a line and answers each by one line.
const SCRIPT: &str = "
import fcntl, os, struct, sys
request, flags = int(sys.argv[1]), int(sys.argv[2])
print('ready', flush=True)
for line in sys.stdin:
    folder = line.rstrip('\\n')
    try:
        if os.stat(folder).st_dev == os.stat(os.path.dirname(folder)).st_dev:
            raise OSError('nothing is mounted there')
        handle = os.open(folder, os.O_RDONLY)
        try:
            fcntl.ioctl(handle, request, struct.pack('I', flags))
        finally:
            os.close(handle)
        print('done', flush=True)
    except OSError as error:
        print(f'refused: {error}', flush=True)
";

/// The Python process, which runs as long as this does: starting one takes longer than most rounds.
#[derive(Debug)]
pub(super) struct Shutdown {
    python: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

/// Whether the list of mounts has an ext4 file system on a loop device at that folder, on top of whatever is there.
fn is_loop_mount(mounts: &str, mount_point: &str) -> bool {
    let at = |line: &&str| line.split(' ').nth(1) == Some(mount_point);
    mounts.lines().rfind(at).is_some_and(|line| {
        let mut fields = line.split(' ');
        let (device, kind) = (fields.next(), fields.nth(1));
        device.is_some_and(|device| device.starts_with("/dev/loop")) && kind == Some("ext4")
    })
}

impl Shutdown {
    pub(super) fn start() -> Result<Self> {
        let mut python = Command::new("python3")
            .args(["-c", SCRIPT, &SHUTDOWN.to_string(), &NO_LOG_FLUSH.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("python3: {error}"))?;
        let input = python.stdin.take();
        let output = BufReader::new(python.stdout.take().ok_or("python3 has no output")?);
        let mut shutdown = Self { python, input, output };
        match shutdown.answer()?.as_str() {
            "ready" => Ok(shutdown),
            other => Err(format!("python3 said {other:?}").into()),
        }
    }

    fn answer(&mut self) -> Result<String> {
        let mut answer = String::new();
        self.output.read_line(&mut answer)?;
        Ok(answer.trim_end().to_owned())
    }

    /// Cuts the power of the file system that is mounted there.
    pub(super) fn cut(&mut self, mount_point: &Path) -> Result<()> {
        let name =
            mount_point.to_str().filter(|name| !name.contains(['\n', ' '])).ok_or("a path with odd characters")?;
        if !is_loop_mount(&std::fs::read_to_string("/proc/self/mounts")?, name) {
            return Err(format!("{name} {NOT_LISTED}").into());
        }
        let input = self.input.as_mut().ok_or("python3 has no input")?;
        writeln!(input, "{name}")?;
        input.flush()?;
        match self.answer()?.as_str() {
            "done" => Ok(()),
            other => Err(format!("shutting the file system down: {other:?}").into()),
        }
    }
}

impl Drop for Shutdown {
    fn drop(&mut self) {
        // It ends with its input.
        self.input = None;
        if let Err(error) = self.python.wait() {
            eprintln!("python3 was not seen to end: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_ext4_file_system_on_a_loop_device_at_that_folder_is_shut_down() {
        let mounts = "/dev/sda1 / ext4 rw 0 0\n/dev/loop3 /data/cut ext4 rw 0 0\n/dev/loop4 /data/other xfs rw 0 0\n";
        assert!(is_loop_mount(mounts, "/data/cut"));
        for folder in ["/", "/data", "/data/cut/deeper", "/data/other", ""] {
            assert!(!is_loop_mount(mounts, folder), "{folder:?}");
        }
        let covered = format!("{mounts}tmpfs /data/cut tmpfs rw 0 0\n");
        assert!(!is_loop_mount(&covered, "/data/cut"));
    }

    #[test]
    fn the_request_is_that_of_the_kernel() {
        assert_eq!(SHUTDOWN, 0x8004_587D);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_folder_where_nothing_is_mounted_is_refused_before_anybody_is_asked() {
        let folder = tempfile::tempdir().unwrap();
        // Without Python there is nothing to refuse.
        if let Ok(mut shutdown) = Shutdown::start() {
            let refused = shutdown.cut(&folder.path().join("mount")).unwrap_err().to_string();
            assert!(refused.ends_with(NOT_LISTED), "{refused}");
        }
    }
}
