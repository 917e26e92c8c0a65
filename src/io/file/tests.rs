//! Tests of file storage on the file systems of the machine that runs them.
//!
//! Invariant: no test needs more than a temporary directory; those for direct writes hold on any file system.
//! Layer 1 (io).

use super::*;
use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

const LOCK_PATH_VARIABLE: &str = "COWSLIP_TEST_LOCK_PATH";

fn create(path: &Path, direct: bool) -> FileStorage {
    FileStorage::open(path, CreateMode::CreateOrOpen, Access::ReadWrite, direct).unwrap().0
}

fn read(storage: &FileStorage, offset: u64, len: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; len];
    storage.read_at(offset, &mut [IoSliceMut::new(&mut bytes)])?;
    Ok(bytes)
}

fn pattern(len: usize, seed: u8) -> Vec<u8> {
    (0_u8..=250).cycle().skip(usize::from(seed)).take(len).collect()
}

fn directory() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

#[test]
fn creation_is_told_apart_from_opening() {
    let dir = directory();
    let path = dir.path().join("a");
    let open = |create, access| FileStorage::open(&path, create, access, false);
    let kind = |result: io::Result<(FileStorage, bool)>| result.unwrap_err().kind();
    assert_eq!(kind(open(CreateMode::OpenExisting, Access::ReadWrite)), ErrorKind::NotFound);
    assert_eq!(kind(open(CreateMode::CreateOrOpen, Access::ReadOnly)), ErrorKind::InvalidInput);
    assert!(!path.exists());
    assert!(open(CreateMode::CreateOrOpen, Access::ReadWrite).unwrap().1);
    assert!(!open(CreateMode::CreateOrOpen, Access::ReadWrite).unwrap().1);
    assert_eq!(kind(open(CreateMode::CreateNew, Access::ReadWrite)), ErrorKind::AlreadyExists);
    assert!(!open(CreateMode::OpenExisting, Access::ReadOnly).unwrap().1);
}

#[test]
fn vectored_writes_of_any_shape_read_back() {
    let dir = directory();
    for direct in [false, true] {
        let storage = create(&dir.path().join(format!("{direct}")), direct);
        let total = 3 * 1024 * 1024 + 4096;
        let bytes = pattern(total, 3);
        for cuts in [vec![], vec![1], vec![4096], vec![1, 4097, 1_048_577, 2_000_000], vec![2_097_152, 2_097_153]] {
            for mode in [WriteMode::Plain, WriteMode::Forced] {
                let mut slices = vec![IoSlice::new(&[])];
                let mut start = 0;
                for cut in cuts.iter().copied().chain([total]) {
                    slices.push(IoSlice::new(&bytes[start..cut]));
                    start = cut;
                }
                storage.write_at(8192, &slices, mode).unwrap();
                assert!(read(&storage, 8192, total).unwrap() == bytes);
                storage.set_len(0).unwrap();
            }
        }
        assert!(direct || !storage.is_direct());
    }
}

#[test]
fn thousands_of_slices_exceed_no_limit_of_the_system() {
    let dir = directory();
    for direct in [false, true] {
        let storage = create(&dir.path().join(format!("{direct}")), direct);
        let bytes = pattern(4096 * 4, 1);
        let slices: Vec<IoSlice<'_>> = bytes.chunks(4).map(IoSlice::new).collect();
        storage.write_at(4096, &slices, WriteMode::Plain).unwrap();
        let mut back = vec![0; bytes.len()];
        let mut parts: Vec<IoSliceMut<'_>> = back.chunks_mut(3).map(IoSliceMut::new).collect();
        storage.read_at(4096, &mut parts).unwrap();
        assert!(back == bytes);
        assert_eq!(read(&storage, 0, 4096).unwrap(), [0; 4096]);
    }
}

#[test]
fn direct_storage_refuses_unaligned_writes_and_stays_usable() {
    let dir = directory();
    let storage = create(&dir.path().join("a"), true);
    let bytes = pattern(4096, 0);
    for (offset, len) in [(1, 4096), (0, 4095), (512, 512)] {
        let error = storage.write_at(offset, &[IoSlice::new(&bytes[..len])], WriteMode::Plain).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
    }
    assert!(storage.is_empty().unwrap());
    storage.write_at(0, &[IoSlice::new(&bytes)], WriteMode::Plain).unwrap();
    assert_eq!(read(&storage, 0, 4096).unwrap(), bytes);
}

#[test]
fn read_past_the_end_is_unexpected_eof() {
    let dir = directory();
    let storage = create(&dir.path().join("a"), false);
    storage.write_at(0, &[IoSlice::new(&[7; 100])], WriteMode::Plain).unwrap();
    assert_eq!(read(&storage, 0, 100).unwrap(), [7; 100]);
    for (offset, len) in [(0, 101), (100, 1), (99, 2), (5000, 1)] {
        assert_eq!(read(&storage, offset, len).unwrap_err().kind(), ErrorKind::UnexpectedEof);
    }
    assert_eq!(read(&storage, 100, 0).unwrap(), []);
}

#[test]
fn sync_and_dropped_cache_keep_what_was_written() {
    let dir = directory();
    for direct in [false, true] {
        let storage = create(&dir.path().join(format!("{direct}")), direct);
        let bytes = pattern(8192, 9);
        storage.write_at(0, &[IoSlice::new(&bytes)], WriteMode::Plain).unwrap();
        storage.sync(SyncKind::Data).unwrap();
        storage.sync(SyncKind::Full).unwrap();
        storage.drop_cache().unwrap();
        assert_eq!(read(&storage, 0, 8192).unwrap(), bytes);
    }
}

#[test]
fn preallocate_extends_with_zeros_and_never_shortens() {
    let dir = directory();
    let storage = create(&dir.path().join("a"), true);
    storage.write_at(0, &[IoSlice::new(&[9; 4096])], WriteMode::Plain).unwrap();
    storage.preallocate(1 << 20).unwrap();
    assert_eq!(storage.len().unwrap(), 1 << 20);
    assert_eq!(read(&storage, 0, 4096).unwrap(), [9; 4096]);
    assert!(read(&storage, 4096, (1 << 20) - 4096).unwrap().iter().all(|byte| *byte == 0));
    storage.preallocate(4096).unwrap();
    assert_eq!(storage.len().unwrap(), 1 << 20);
}

#[test]
fn read_only_storage_changes_nothing() {
    let dir = directory();
    let path = dir.path().join("a");
    create(&path, false).write_at(0, &[IoSlice::new(b"kept")], WriteMode::Plain).unwrap();
    let open = || FileStorage::open(&path, CreateMode::OpenExisting, Access::ReadOnly, true).unwrap().0;
    let (one, two) = (open(), open());
    let denied = |result: io::Result<()>| assert_eq!(result.unwrap_err().kind(), ErrorKind::PermissionDenied);
    denied(one.write_at(0, &[IoSlice::new(b"lost")], WriteMode::Plain));
    denied(one.set_len(0));
    denied(one.preallocate(1 << 20));
    one.lock(LockMode::Shared).unwrap();
    two.lock(LockMode::Shared).unwrap();
    assert_eq!(read(&two, 0, 4).unwrap(), b"kept");
}

#[test]
fn file_is_refused_while_this_process_has_it_open() {
    let dir = directory();
    let path = dir.path().join("a");
    let alias = dir.path().join("alias");
    let storage = create(&path, true);
    fs::hard_link(&path, &alias).unwrap();
    for access in [Access::ReadWrite, Access::ReadOnly] {
        for name in [&path, &alias] {
            let error = FileStorage::open(name, CreateMode::OpenExisting, access, false).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::WouldBlock);
        }
    }
    drop(storage);
    create(&alias, false);
}

#[test]
fn directory_is_refused() {
    let dir = directory();
    for access in [Access::ReadWrite, Access::ReadOnly] {
        let error = FileStorage::open(dir.path(), CreateMode::OpenExisting, access, false).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
    }
}

#[cfg(unix)]
mod unix {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn new_file_belongs_to_its_owner_only() {
        let dir = directory();
        let path = dir.path().join("a");
        let _storage = create(&path, true);
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o177, 0);
    }

    #[test]
    fn pipe_and_device_are_refused_without_waiting() {
        let dir = directory();
        let pipe = dir.path().join("pipe");
        assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        for path in [&pipe, Path::new("/dev/null")] {
            for access in [Access::ReadWrite, Access::ReadOnly] {
                let error = FileStorage::open(path, CreateMode::OpenExisting, access, false).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::InvalidInput);
            }
        }
    }

    #[test]
    fn symbolic_link_is_an_alias() {
        let dir = directory();
        let path = dir.path().join("a");
        let alias = dir.path().join("alias");
        symlink(&path, &alias).unwrap();
        let dangling = FileStorage::open(&alias, CreateMode::CreateOrOpen, Access::ReadWrite, false).unwrap_err();
        assert_eq!(dangling.kind(), ErrorKind::AlreadyExists);
        let _storage = create(&path, false);
        let error = FileStorage::open(&alias, CreateMode::OpenExisting, Access::ReadWrite, false).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::WouldBlock);
    }
}

#[cfg(target_os = "linux")]
#[test]
fn preallocation_that_fails_keeps_the_length() {
    let dir = directory();
    let storage = create(&dir.path().join("a"), false);
    storage.set_len(4096).unwrap();
    let error = storage.preallocate(1 << 62).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::FileTooLarge);
    assert_eq!(storage.len().unwrap(), 4096);
}

/// The memory file system refuses at once what exceeds its size, so this fills nothing.
#[cfg(target_os = "linux")]
#[test]
fn full_device_is_storage_full_and_keeps_the_length() {
    let Ok(limits) = rustix::fs::statvfs("/dev/shm") else { return };
    let size = limits.f_blocks * limits.f_frsize;
    let Ok(dir) = tempfile::tempdir_in("/dev/shm") else { return };
    if size == 0 || size > 1 << 40 {
        return;
    }
    let storage = create(&dir.path().join("a"), true);
    storage.set_len(4096).unwrap();
    let error = storage.preallocate(1 << 41).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::StorageFull);
    assert_eq!(storage.len().unwrap(), 4096);
    storage.write_at(4096, &[IoSlice::new(&[5; 4096])], WriteMode::Forced).unwrap();
    assert_eq!(read(&storage, 4096, 4096).unwrap(), [5; 4096]);
}

/// Not a test of its own: the other process of the next one.
#[test]
fn child_process_holds_the_lock() {
    let Some(path) = std::env::var_os(LOCK_PATH_VARIABLE) else { return };
    let storage = create(Path::new(&path), true);
    storage.lock(LockMode::Exclusive).unwrap();
    println!("\nlocked");
    io::stdin().lines().for_each(drop);
}

#[test]
fn lock_of_another_process_is_would_block_and_names_it() {
    let dir = directory();
    let path = dir.path().join("a");
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "io::file::tests::child_process_holds_the_lock", "--nocapture"])
        .env(LOCK_PATH_VARIABLE, &path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap() == "locked"));
    let storage = create(&path, true);
    for mode in [LockMode::Exclusive, LockMode::Shared] {
        let error = storage.lock(mode).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::WouldBlock);
        if cfg!(target_os = "linux") {
            assert!(error.to_string().contains(&child.id().to_string()), "{error}");
        }
    }
    drop(child.stdin.take());
    lines.for_each(drop);
    assert!(child.wait().unwrap().success());
    storage.lock(LockMode::Exclusive).unwrap();
    storage.unlock().unwrap();
}
