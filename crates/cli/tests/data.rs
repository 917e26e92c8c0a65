//! Reading and changing rows as scripts see it: arguments, output and exit codes.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use cowslip::{Database, TableDefinition};
use std::fs;
use std::io::Read;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use tempfile::TempDir;

/// A database file and the tool that works on it.
struct Shop {
    _folder: TempDir,
    path: PathBuf,
}

impl Shop {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("shop.cowslip");
        Database::create(&path).unwrap().close().unwrap();
        Self { _folder: folder, path }
    }

    /// Five tables with a few rows, made by the tool itself.
    fn filled() -> Self {
        let shop = Self::new();
        for (table, types, key, value) in [
            ("fruit", "str, u64", "apple", "3"),
            ("fruit", "str, u64", "apricot", "5"),
            ("fruit", "str, u64", "kiwi", "0"),
            ("degrees", "i32, bool", "-5", "true"),
            ("degrees", "i32, bool", "7", "false"),
            ("events", "(str, u64), (i8, bytes)", r#"["door", 1]"#, r#"[-1, "hex:00ff"]"#),
            ("events", "(str, u64), (i8, bytes)", r#"("door", 20)"#, r#"(1, b"open")"#),
            ("events", "(str, u64), (i8, bytes)", r#"["doorbell", 1]"#, r#"[0, hex:]"#),
            ("blobs", "bytes, [u8; 2]", "hex:0001", "hex:0a0b"),
            ("blobs", "bytes, [u8; 2]", "hex:01", "hex:0c0d"),
            ("notes", "(), str", "null", "a\nb\x1b \"q\""),
        ] {
            let output = shop.run("put", &[table, key, value, "--types", types]);
            assert_eq!((code(&output), stdout(&output)), (0, ""), "{}", String::from_utf8_lossy(&output.stderr));
        }
        shop
    }

    fn run(&self, command: &str, arguments: &[&str]) -> Output {
        let mut tool = Command::new(env!("CARGO_BIN_EXE_cowslip"));
        tool.arg(command).arg(&self.path).args(arguments).output().unwrap()
    }

    /// What a command that must succeed prints.
    fn show(&self, command: &str, arguments: &[&str]) -> String {
        let output = self.run(command, arguments);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!((code(&output), &*errors), (0, ""), "{command} {arguments:?}");
        stdout(&output).to_owned()
    }

    /// Requires that a command fails with this code, this message and no output, and changes nothing.
    fn refuse(&self, command: &str, arguments: &[&str], expected: i32, reason: &str) {
        let before = self.show("scan", &["fruit"]) + &self.show("tables", &[]);
        let output = self.run(command, arguments);
        let message = String::from_utf8_lossy(&output.stderr);
        assert_eq!((code(&output), stdout(&output)), (expected, ""), "{command} {arguments:?}: {message}");
        assert!(message.starts_with("error: ") && message.contains(reason), "{message}");
        assert_eq!(self.show("scan", &["fruit"]) + &self.show("tables", &[]), before);
    }
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

fn stdout(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).unwrap()
}

#[test]
fn get_prints_the_value_by_its_stored_type() {
    let shop = Shop::filled();
    for (table, key, value) in [
        ("fruit", "apple", "3"),
        ("degrees", "-5", "true"),
        ("events", r#"["door", 1]"#, r#"(-1, b"\x00\xff")"#),
        ("blobs", "0x0001", r#"b"\n\x0b""#),
        ("notes", "()", r#""a\nb\u{1b} \"q\"""#),
    ] {
        assert_eq!(shop.show("get", &[table, key]), format!("{value}\n"));
    }
    assert_eq!(shop.show("get", &["fruit", "apple", "--json"]), "{\"key\":\"apple\",\"value\":3}\n");
    let event = "{\"key\":[\"door\",1],\"value\":[-1,\"hex:00ff\"]}\n";
    assert_eq!(shop.show("get", &["events", r#"["door", 1]"#, "--json"]), event);
    assert_eq!(
        shop.show("get", &["notes", "null", "--json"]),
        "{\"key\":null,\"value\":\"a\\u000ab\\u001b \\\"q\\\"\"}\n"
    );
}

#[test]
fn what_json_prints_can_be_given_back() {
    let shop = Shop::filled();
    assert_eq!(shop.show("put", &["blobs", "hex:ff", "\"hex:0102\""]), "");
    assert_eq!(shop.show("get", &["blobs", "\"hex:ff\"", "--json"]), "{\"key\":\"hex:ff\",\"value\":\"hex:0102\"}\n");
    assert_eq!(shop.show("put", &["notes", "()", r#""a\u000ab \u{1F600}""#]), "");
    assert_eq!(shop.show("get", &["notes", "()"]), "\"a\\nb \u{1F600}\"\n");
}

#[test]
fn composite_types_are_given_and_shown() {
    let shop = Shop::new();
    let types = "(Vec<str>, Desc<u8>), Option<[f64; 2]>";
    assert_eq!(shop.show("put", &["t", r#"[["a"], 1]"#, "[1.5, -inf]", "--types", types]), "");
    assert_eq!(shop.show("put", &["t", r#"[["a"], 2]"#, "null"]), "");
    assert_eq!(shop.show("tables", &[]), "t\t(Vec<str>, Desc<u8>)\tOption<[f64; 2]>\t2\n");
    let rows = "([\"a\"], Desc(2))\tNone\n([\"a\"], Desc(1))\tSome([1.5, -inf])\n";
    assert_eq!(shop.show("scan", &["t", "--prefix", r#"[["a"]]"#]), rows);
    let json = "{\"key\":[[\"a\"],2],\"value\":null}\n{\"key\":[[\"a\"],1],\"value\":[1.5,\"-inf\"]}\n";
    assert_eq!(shop.show("scan", &["t", "--json"]), json);
}

#[test]
fn tables_lists_names_types_and_rows() {
    let expected = "blobs\tbytes\t[u8; 2]\t2\ndegrees\ti32\tbool\t2\nevents\t(str, u64)\t(i8, bytes)\t3\n\
                    fruit\tstr\tu64\t3\nnotes\t()\tstr\t1\n";
    assert_eq!(Shop::filled().show("tables", &[]), expected);
}

#[test]
fn scan_selects_by_prefix_range_limit_and_direction() {
    let shop = Shop::filled();
    let fruit = |arguments: &[&str]| shop.show("scan", &[&["fruit"], arguments].concat());
    let all = ["\"apple\"\t3\n", "\"apricot\"\t5\n", "\"kiwi\"\t0\n"];
    assert_eq!(fruit(&[]), all.concat());
    assert_eq!(fruit(&["--rev"]), [all[2], all[1], all[0]].concat());
    assert_eq!(fruit(&["--limit", "2"]), all[..2].concat());
    assert_eq!(fruit(&["--rev", "--limit", "1"]), all[2]);
    assert_eq!(fruit(&["--limit", "0"]), "");
    assert_eq!(fruit(&["--prefix", "ap"]), all[..2].concat());
    assert_eq!(fruit(&["--prefix", "ap", "--rev"]), [all[1], all[0]].concat());
    assert_eq!(fruit(&["--from", "apricot"]), all[1..].concat());
    assert_eq!(fruit(&["--to", "apricot"]), all[0]);
    assert_eq!(fruit(&["--from", "apricot", "--to", "kiwi"]), all[1]);
    assert_eq!(fruit(&["--from", "kiwi", "--to", "apple"]), "");
    assert_eq!(shop.show("scan", &["degrees", "--from", "-5", "--to", "-4"]), "-5\ttrue\n");
    let door = "(\"door\", 1)\t(-1, b\"\\x00\\xff\")\n(\"door\", 20)\t(1, b\"open\")\n";
    assert_eq!(shop.show("scan", &["events", "--prefix", r#"["door"]"#]), door);
    assert_eq!(shop.show("scan", &["blobs", "--prefix", "hex:00"]), "b\"\\x00\\x01\"\tb\"\\n\\x0b\"\n");
    let json = "{\"key\":\"apple\",\"value\":3}\n{\"key\":\"apricot\",\"value\":5}\n";
    assert_eq!(fruit(&["--limit", "2", "--json"]), json);
}

#[test]
fn put_replaces_and_del_removes() {
    let shop = Shop::filled();
    assert_eq!(shop.show("put", &["fruit", "apple", "4"]), "");
    assert_eq!(shop.show("get", &["fruit", "apple"]), "4\n");
    assert_eq!(shop.show("put", &["fruit", "apple", "5", "--json"]), "{\"key\":\"apple\",\"replaced\":true}\n");
    assert_eq!(shop.show("put", &["fruit", "pear", "5", "--json"]), "{\"key\":\"pear\",\"replaced\":false}\n");
    assert_eq!(shop.show("del", &["fruit", "pear", "--json"]), "{\"key\":\"pear\",\"removed\":true}\n");
    assert_eq!(shop.show("del", &["fruit", "apple"]), "");
    shop.refuse("get", &["fruit", "apple"], 3, "table \"fruit\" has no key apple");
    assert_eq!(shop.show("put", &["fruit", "--", "-dash", "1"]), "");
    assert_eq!(shop.show("get", &["fruit", "--", "-dash"]), "1\n");
    assert!(shop.show("verify", &[]).ends_with("no damage found\n"));
}

#[test]
fn rows_of_the_tool_are_rows_of_the_library() {
    let shop = Shop::filled();
    let database = Database::open(&shop.path).unwrap();
    let snapshot = database.begin_read().unwrap();
    let events = snapshot.open_table(TableDefinition::<(&str, u64), (i8, &[u8])>::new("events")).unwrap();
    assert_eq!(events.get(("door", 20)).unwrap().unwrap().value(), (1, &b"open"[..]));
    let degrees = snapshot.open_table(TableDefinition::<i32, bool>::new("degrees")).unwrap();
    let keys: Vec<i32> = degrees.iter().unwrap().map(|row| row.unwrap().0.value()).collect();
    assert_eq!(keys, [-5, 7]);
}

#[test]
fn exit_code_2_is_wrong_usage_and_opens_nothing() {
    let shop = Shop::filled();
    for (command, arguments) in [
        ("get", &["fruit"][..]),
        ("put", &["fruit", "apple"]),
        ("put", &["new", "a", "1", "--types", "str"]),
        ("put", &["new", "a", "1", "--types", "str, string"]),
        ("scan", &["fruit", "--limit", "x"]),
        ("scan", &["fruit", "--prefix", "a", "--from", "a"]),
        ("get", &["fruit", "-dash"]),
    ] {
        let output = shop.run(command, arguments);
        assert_eq!((code(&output), stdout(&output)), (2, ""), "{command} {arguments:?}");
        assert!(!output.stderr.is_empty());
    }
}

#[test]
fn exit_code_3_is_a_table_or_key_that_is_not_there() {
    let shop = Shop::filled();
    shop.refuse("get", &["fruit", "pear"], 3, "has no key pear");
    shop.refuse("del", &["fruit", "pear"], 3, "has no key pear");
    shop.refuse("get", &["vegetables", "pear"], 3, "table \"vegetables\" does not exist");
    shop.refuse("del", &["vegetables", "pear"], 3, "table \"vegetables\" does not exist");
    shop.refuse("scan", &["vegetables"], 3, "table \"vegetables\" does not exist");
    shop.refuse("put", &["vegetables", "leek", "1"], 3, "--types KEY,VALUE creates it");
    assert_eq!(shop.show("scan", &["fruit", "--prefix", "pear"]), "");
}

#[test]
fn exit_code_6_is_text_of_another_type() {
    let shop = Shop::filled();
    shop.refuse("put", &["fruit", "pear", "many"], 6, "invalid value: expected u64, found many");
    shop.refuse("put", &["fruit", "pear", "-1"], 6, "invalid value: expected u64, found -1");
    shop.refuse("get", &["degrees", "warm"], 6, "invalid key: expected i32, found warm");
    shop.refuse("del", &["degrees", "2147483648"], 6, "invalid key: expected i32");
    shop.refuse("get", &["blobs", "0001"], 6, "expected bytes as hex:00ff");
    shop.refuse("scan", &["degrees", "--from", "x"], 6, "invalid key: expected i32");
    shop.refuse("scan", &["degrees", "--prefix", "1"], 6, "invalid prefix: ");
    shop.refuse("put", &["fruit", "pear", "1", "--types", "str, u32"], 6, "stores <str, u64>");
    shop.refuse("put", &["new", "pear", "many", "--types", "str, u32"], 6, "expected u32");
}

#[test]
fn a_closed_pipe_ends_a_scan_without_a_word() {
    let shop = Shop::new();
    let database = Database::open(&shop.path).unwrap();
    let transaction = database.begin_write().unwrap();
    let mut numbers = transaction.open_table(TableDefinition::<u64, &str>::new("numbers")).unwrap();
    for number in 0..20_000 {
        numbers.insert(number, "more rows than a pipe holds").unwrap();
    }
    drop(numbers);
    transaction.commit().unwrap();
    database.close().unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_cowslip"))
        .arg("scan")
        .arg(&shop.path)
        .arg("numbers")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdout.take().unwrap().read_exact(&mut [0; 10]).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!((code(&output), output.stderr.as_slice()), (0, &b""[..]));
}

#[test]
fn only_put_and_del_recover_a_file_that_was_not_closed() {
    let shop = Shop::filled();
    let crashed = shop.path.with_extension("crashed");
    let database = Database::open(&shop.path).unwrap();
    database
        .update(|transaction| {
            transaction.open_table(TableDefinition::<&str, u64>::new("fruit"))?.insert("fig", 1)?;
            Ok::<_, cowslip::Error>(())
        })
        .unwrap();
    fs::copy(&shop.path, &crashed).unwrap();
    drop(database);
    let shop = Shop { _folder: shop._folder, path: crashed };
    let before = fs::read(&shop.path).unwrap();
    for (command, arguments) in [("get", &["fruit", "fig"][..]), ("scan", &["fruit"]), ("tables", &[])] {
        let output = shop.run(command, arguments);
        assert_eq!(code(&output), 0);
        assert_eq!(output.stderr, b"note: the last session did not close; recovered its last commit\n");
    }
    assert_eq!(fs::read(&shop.path).unwrap(), before);
    assert_eq!(code(&shop.run("del", &["fruit", "fig"])), 0);
    assert!(shop.show("info", &[]).contains("\nopening: clean\n"));
}

/// A limit on the size of files stands for a device that is full.
#[cfg(target_os = "linux")]
#[test]
fn exit_code_7_is_a_file_that_cannot_grow() {
    let shop = Shop::filled();
    let value = "x".repeat(100_000);
    let kib = fs::metadata(&shop.path).unwrap().len() / 1024;
    let script = format!("trap '' XFSZ; ulimit -f {}; exec \"$@\"", kib * 2 + 8);
    let output = Command::new("sh")
        .args(["-c", &script, "sh", env!("CARGO_BIN_EXE_cowslip"), "put"])
        .arg(&shop.path)
        .args(["notes", "()", &value])
        .output()
        .unwrap();
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!((code(&output), stdout(&output)), (7, ""), "{message}");
    assert!(message.contains("out of space"), "{message}");
    assert_eq!(shop.show("get", &["fruit", "apple"]), "3\n");
}
