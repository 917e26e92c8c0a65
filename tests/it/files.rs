//! Real files: locks between processes and links, directories and files that cannot be written.

use crate::fixture::{put, rows};
use cowslip::{Builder, Database, DatabaseError};
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

/// Names the file that a child process of this test binary shall hold open.
const CHILD_PATH: &str = "COWSLIP_IT_CHILD_PATH";

/// What the child process runs; in the parent it does nothing.
#[test]
fn child_process_holds_the_file_named_by_its_environment() {
    let Ok(path) = std::env::var(CHILD_PATH) else { return };
    let db = Database::create(path).unwrap();
    put(&db, 0..10, 1, 10).unwrap();
    println!("\nholding");
    std::io::stdout().flush().unwrap();
    // Until the parent lets go of the pipe, or kills.
    drop(std::io::stdin().lock().read_line(&mut String::new()));
    drop(db);
}

/// Starts a child that holds the file open, and waits until it does.
fn hold(path: &Path) -> (Child, BufReader<ChildStdout>) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "files::child_process_holds_the_file_named_by_its_environment", "--nocapture"])
        .env(CHILD_PATH, path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    assert!(out.by_ref().lines().any(|line| line.unwrap() == "holding"), "the child opened the file");
    // The pipe stays open, or the child could not finish its output.
    (child, out)
}

#[test]
fn file_locked_by_another_process_is_refused_with_its_pid_and_free_after_its_death() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("shared.cowslip");
    let (mut child, _out) = hold(&path);
    for error in [
        Database::open(&path).unwrap_err(),
        Database::create(&path).unwrap_err(),
        Builder::new().open_read_only(&path).unwrap_err(),
    ] {
        assert!(error.is_locked(), "{error}");
        if cfg!(target_os = "linux") {
            assert!(error.to_string().contains(&child.id().to_string()), "{error}");
        }
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let db = Database::open(&path).unwrap();
    assert!(!db.open_notes().is_empty(), "the session of the killed process is recovered");
    assert_eq!(rows(&db).unwrap().len(), 10);
}

#[test]
#[cfg(unix)]
fn the_same_file_through_a_link_is_refused_in_one_process() {
    let folder = tempfile::tempdir().unwrap();
    let [path, hard, soft] = ["real", "hard", "soft"].map(|name| folder.path().join(name));
    let db = Database::create(&path).unwrap();
    put(&db, 0..3, 1, 10).unwrap();
    std::fs::hard_link(&path, &hard).unwrap();
    std::os::unix::fs::symlink(&path, &soft).unwrap();
    for alias in [&path, &hard, &soft] {
        assert!(Database::open(alias).unwrap_err().is_locked());
        assert!(Builder::new().open_read_only(alias).unwrap_err().is_locked());
    }
    put(&db, 3..5, 1, 10).unwrap();
    db.close().unwrap();
    for alias in [&hard, &soft, &path] {
        assert_eq!(rows(&Database::open(alias).unwrap()).unwrap().len(), 5);
    }
}

#[test]
fn many_readers_share_a_file_and_keep_writers_out() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    put(&Database::create(&path).unwrap(), 0..3, 1, 10).unwrap();
    let readers: Vec<_> = (0..3).map(|_| Builder::new().open_read_only(&path).unwrap()).collect();
    assert!(Database::open(&path).unwrap_err().is_locked());
    assert!(readers.iter().all(|db| rows(db).unwrap().len() == 3));
    drop(readers);
    Database::open(&path).unwrap();
}

#[test]
#[cfg(unix)]
fn a_file_or_folder_without_write_permission_is_a_typed_error() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    put(&Database::create(&path).unwrap(), 0..3, 1, 10).unwrap();
    let allow = |path: &Path, mode| std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    allow(&path, 0o400);
    allow(folder.path(), 0o500);
    let bypassed = std::fs::File::create(folder.path().join("probe")).is_ok();
    if bypassed {
        println!("skipped: this user may write everywhere, so permissions refuse nothing");
    } else {
        let error = Database::open(&path).unwrap_err();
        assert!(matches!(error, DatabaseError::Open { .. }), "{error}");
        assert!(matches!(Database::create(folder.path().join("new")), Err(DatabaseError::Open { .. })));
    }
    // Reading needs no permission to write.
    assert_eq!(rows(&Builder::new().open_read_only(&path).unwrap()).unwrap().len(), 3);
    allow(folder.path(), 0o700);
}

#[test]
fn a_database_on_a_file_survives_reopening_and_killing_without_close() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    let (mut child, _out) = hold(&path);
    drop(child.stdin.take());
    assert!(child.wait().unwrap().success());
    let db = Database::open(&path).unwrap();
    assert!(db.open_notes().is_empty(), "the child closed it");
    for round in 0..20 {
        put(&db, round..round + 30, round, 500).unwrap();
    }
    let before = rows(&db).unwrap();
    std::fs::copy(&path, folder.path().join("copy")).unwrap();
    db.close().unwrap();
    let copy = Database::open(folder.path().join("copy")).unwrap();
    assert!(!copy.open_notes().is_empty());
    assert_eq!(rows(&copy).unwrap(), before);
    copy.check_integrity().unwrap();
    assert_eq!(rows(&Database::open(&path).unwrap()).unwrap(), before);
}
