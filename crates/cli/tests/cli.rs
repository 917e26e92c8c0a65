//! Describing and verifying files as scripts see it: output, exit codes, and that looking changes nothing.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use cowslip::{Database, TableDefinition};
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use tempfile::TempDir;

const FRUIT: TableDefinition<&str, &str> = TableDefinition::new("fruit");
const MARK: &str = "a value that occurs once in the file";

fn cowslip(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_cowslip")).args(arguments).output().unwrap()
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

fn stdout(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).unwrap()
}

fn fill(path: &Path) -> Database {
    let database = Database::create(path).unwrap();
    let transaction = database.begin_write().unwrap();
    transaction.open_table(FRUIT).unwrap().insert("apple", MARK).unwrap();
    transaction.open_table(TableDefinition::<u64, u64>::new("odd\nname\x1b")).unwrap();
    transaction.commit().unwrap();
    database
}

fn closed_database() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("shop.cowslip");
    fill(&path).close().unwrap();
    (folder, path)
}

/// Info, tables and verify, run on this file.
fn look(path: &Path) -> [Output; 3] {
    ["info", "tables", "verify"].map(|command| cowslip(&[command, path.to_str().unwrap()]))
}

/// Every command that opens a file, run on this one.
fn all_commands(path: &Path) -> Vec<Output> {
    let path = path.to_str().unwrap();
    let others = [
        &["verify", "--quick", path][..],
        &["verify", "--json", path],
        &["get", path, "fruit", "apple"],
        &["scan", path, "fruit"],
        &["put", path, "fruit", "apple", "red"],
        &["del", path, "fruit", "apple"],
    ];
    look(Path::new(path)).into_iter().chain(others.map(cowslip)).collect()
}

/// Requires that every command ends with `expected`, prints nothing but the error, and says `reason` in it.
fn assert_all_fail(path: &Path, expected: i32, reason: &str) {
    for output in all_commands(path) {
        let message = std::str::from_utf8(&output.stderr).unwrap();
        assert_eq!((code(&output), stdout(&output)), (expected, ""), "{message}");
        assert!(message.starts_with("error: ") && message.contains(reason), "{message}");
        assert_eq!(message.lines().count(), 1, "{message}");
    }
}

#[test]
fn a_healthy_file_is_described_and_left_as_it_was() {
    let (_folder, path) = closed_database();
    let before = fs::read(&path).unwrap();
    let [info, tables, verify] = look(&path);
    for output in [&info, &tables, &verify] {
        assert_eq!((code(output), output.stderr.as_slice()), (0, &b""[..]));
    }
    let expected = format!(
        "path: {}\nsize: {} bytes\nopening: clean\ntransaction: 1\ntables: 2\nlog: none\nspace: ",
        path.to_str().unwrap(),
        before.len()
    );
    let rest = stdout(&info).strip_prefix(&expected).unwrap();
    assert!(rest.contains(" units of 4096 bytes allocated, ") && rest.ends_with(" free\n"), "{rest}");
    assert_eq!(rest.lines().count(), 1);
    assert_eq!(stdout(&tables), "fruit\tstr\tstr\t1\nodd\\nname\\u{1b}\tu64\tu64\t0\n");
    assert!(stdout(&verify).starts_with("opening: clean\ntables: 2\nrows: 1\n"), "{}", stdout(&verify));
    assert!(stdout(&verify).ends_with("\nno damage found\n"), "{}", stdout(&verify));
    assert_eq!(fs::read(&path).unwrap(), before);
}

#[test]
fn the_same_is_said_in_json() {
    let (_folder, path) = closed_database();
    let size_bytes = fs::metadata(&path).unwrap().len();
    let path = path.to_str().unwrap();
    let json = |command: &[&str]| stdout(&cowslip(command)).to_owned();
    let info = format!(
        "{{\"path\":\"{path}\",\"size_bytes\":{size_bytes},\"notes\":[],\"transaction\":1,\"tables\":2,\"checkpoint\":1,\
         \"log_records\":0,\"log_changes\":0,\"log_used_bytes\":0,\"log_capacity_bytes\":0,\"unit_bytes\":4096,\
         \"allocated_units\":"
    );
    let found = json(&["info", path, "--json"]);
    assert!(found.starts_with(&info) && found.contains(",\"opening_micros\":"), "{found}");
    assert!(found.ends_with("}\n") && found.lines().count() == 1, "{found}");
    let tables = r#"{"name":"fruit","key_type":"str","value_type":"str","rows":1}
{"name":"odd\u000aname\u001b","key_type":"u64","value_type":"u64","rows":0}
"#;
    assert_eq!(json(&["--json", "tables", path]), tables);
    let full = json(&["verify", path, "--full", "--json"]);
    assert!(full.starts_with(r#"{"mode":"full","notes":[],"tables":2,"rows":1,"nodes":3,"stored_bytes":"#), "{full}");
    assert!(full.ends_with(",\"damage\":null}\n"), "{full}");
    let quick = json(&["verify", path, "--quick", "--json"]);
    assert!(quick.starts_with(r#"{"mode":"quick","notes":[],"tables":2,"rows":1,"allocated_units":"#), "{quick}");
    assert!(quick.ends_with(",\"damage\":null}\n"), "{quick}");
}

#[test]
fn a_quick_look_reads_no_page_of_a_table_but_all_that_describes_them() {
    let (_folder, path) = closed_database();
    let whole = fs::read(&path).unwrap();
    let quick = |bytes: &[u8]| {
        fs::write(&path, bytes).unwrap();
        cowslip(&["verify", "--quick", path.to_str().unwrap()])
    };
    let with_damage_at = |mark: &[u8]| {
        let mut bytes = whole.clone();
        let at = bytes.windows(mark.len()).position(|window| window == mark).unwrap();
        bytes[at] ^= 1;
        bytes
    };
    let healthy = quick(&whole);
    assert_eq!(code(&healthy), 0);
    assert!(stdout(&healthy).starts_with("opening: clean\ntables: 2\nrows: 1\nallocated units: "));
    assert!(stdout(&healthy).ends_with("\nno damage found\n"));
    assert_eq!(code(&quick(&with_damage_at(MARK.as_bytes()))), 0);
    // The name stands in the catalog.
    let catalog = quick(&with_damage_at(b"odd\nname"));
    assert_eq!(code(&catalog), 4);
    assert!(catalog.stderr.starts_with(b"error: corrupted: page "));
}

#[test]
fn a_file_that_was_not_closed_is_shown_with_a_note_and_not_repaired() {
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("copy.cowslip");
    let database = fill(&folder.path().join("shop.cowslip"));
    fs::copy(folder.path().join("shop.cowslip"), &copy).unwrap();
    drop(database);
    let before = fs::read(&copy).unwrap();
    let [info, tables, verify] = look(&copy);
    assert_eq!([code(&info), code(&tables), code(&verify)], [0, 0, 0]);
    assert!(stdout(&info).contains("\nopening: the last session did not close"), "{}", stdout(&info));
    assert_eq!(fs::read(&copy).unwrap(), before);
}

#[test]
fn what_only_the_log_tells_is_described() {
    let folder = tempfile::tempdir().unwrap();
    let (path, copy) = (folder.path().join("shop.cowslip"), folder.path().join("copy.cowslip"));
    let database = fill(&path);
    // The first of them finds no log and makes one.
    for price in ["red", "green", "yellow"] {
        database.update(|tx| Ok::<_, cowslip::Error>(tx.open_table(FRUIT)?.put("apple", price)?)).unwrap();
    }
    fs::copy(&path, &copy).unwrap();
    let log = database.stats().log;
    assert_eq!((log.used_bytes, log.changes), (2 * 4096, 2));
    let [info, ..] = look(&copy);
    let expected = format!(
        "\nlog: {} of {} bytes used\nonly in the log: 2 commits with 2 changes of rows since transaction 2\nspace: ",
        log.used_bytes, log.capacity_bytes
    );
    assert!(stdout(&info).contains(&expected), "{}", stdout(&info));
    let json = cowslip(&["info", copy.to_str().unwrap(), "--json"]);
    let expected = format!(
        "\"transaction\":4,\"tables\":2,\"checkpoint\":2,\"log_records\":2,\"log_changes\":2,\"log_used_bytes\":{},\
         \"log_capacity_bytes\":{},",
        log.used_bytes, log.capacity_bytes
    );
    assert!(stdout(&json).contains(&expected), "{}", stdout(&json));
    database.close().unwrap();
    let [info, ..] = look(&path);
    assert!(stdout(&info).contains("\nlog: none\n"), "{}", stdout(&info));
}

#[test]
fn exit_code_1_is_a_file_that_cannot_be_opened() {
    let folder = tempfile::tempdir().unwrap();
    assert_all_fail(&folder.path().join("missing.cowslip"), 1, "missing.cowslip");
    assert!(!folder.path().join("missing.cowslip").exists());
}

#[test]
fn exit_code_2_is_wrong_usage() {
    for arguments in
        [&[][..], &["info"], &["tables", "a", "b"], &["repair", "a"], &["verify", "a", "--quick", "--full"]]
    {
        let output = cowslip(arguments);
        assert_eq!((code(&output), stdout(&output)), (2, ""), "{arguments:?}");
        assert!(!output.stderr.is_empty());
    }
    assert_eq!(code(&cowslip(&["--help"])), 0);
}

#[test]
fn exit_code_4_is_a_damaged_page_that_verify_reads() {
    let (_folder, path) = closed_database();
    let mut bytes = fs::read(&path).unwrap();
    let at = bytes.windows(MARK.len()).position(|window| window == MARK.as_bytes()).unwrap();
    bytes[at] ^= 1;
    fs::write(&path, &bytes).unwrap();
    let verify = cowslip(&["verify", path.to_str().unwrap()]);
    let get = cowslip(&["get", path.to_str().unwrap(), "fruit", "apple"]);
    assert_eq!((code(&verify), code(&get), stdout(&get)), (4, 4, ""));
    assert!(!stdout(&verify).contains("no damage found"));
    let errors = String::from_utf8_lossy(&verify.stderr);
    assert!(errors.starts_with("error: corrupted: table \"fruit\": page "), "{errors}");
    assert_eq!(fs::read(&path).unwrap(), bytes);
}

#[test]
fn exit_code_4_is_damage_that_a_copy_stands_in_for() {
    let (_folder, path) = closed_database();
    let mut bytes = fs::read(&path).unwrap();
    bytes[0] ^= 1;
    fs::write(&path, &bytes).unwrap();
    let [info, _, verify] = look(&path);
    let errors = String::from_utf8_lossy(&verify.stderr);
    assert_eq!((code(&info), code(&verify)), (0, 4), "{errors}");
    let json = cowslip(&["verify", "--json", path.to_str().unwrap()]);
    assert_eq!(code(&json), 4);
    assert!(stdout(&json).contains("\"damage\":\"block 0 is damaged"), "{}", stdout(&json));
    assert_eq!(code(&cowslip(&["put", path.to_str().unwrap(), "fruit", "kiwi", "green"])), 4);
    assert_eq!(fs::read(&path).unwrap(), bytes);
    assert!(stdout(&info).contains("\nopening: block 0 is damaged"), "{}", stdout(&info));
}

#[test]
fn exit_code_4_is_a_truncated_file() {
    let (_folder, path) = closed_database();
    fs::File::options().write(true).open(&path).unwrap().set_len(6000).unwrap();
    assert_all_fail(&path, 4, "truncated");
}

#[test]
fn exit_code_5_is_a_database_that_is_open_elsewhere() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("shop.cowslip");
    let database = fill(&path);
    assert_all_fail(&path, 5, "open elsewhere");
    drop(database);
    assert!(all_commands(&path).iter().all(|output| code(output) == 0));
}

#[test]
fn exit_code_6_is_a_file_of_something_else() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notes.txt");
    for content in [Vec::new(), b"milk, eggs".to_vec(), vec![7; 50_000]] {
        fs::write(&path, &content).unwrap();
        assert_all_fail(&path, 6, "not a Cowslip database");
        assert_eq!(fs::read(&path).unwrap(), content);
    }
}

#[test]
fn a_closed_pipe_ends_the_output_without_a_word() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("wide.cowslip");
    let database = Database::create(&path).unwrap();
    let transaction = database.begin_write().unwrap();
    // More names than a pipe holds, so the program still writes when the pipe is closed.
    for number in 0..1500 {
        let name = format!("{number:0>200}");
        transaction.open_table(TableDefinition::<u64, u64>::new(&name)).unwrap();
    }
    transaction.commit().unwrap();
    database.close().unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_cowslip"))
        .args(["tables", path.to_str().unwrap()])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdout.take().unwrap().read_exact(&mut [0; 10]).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!((code(&output), output.stderr.as_slice()), (0, &b""[..]));
}
