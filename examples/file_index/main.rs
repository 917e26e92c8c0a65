//! Indexes a directory tree and answers questions about it: the largest files, identical files, what is under a prefix.
//!
//! A second run reads only the files whose size or modification time changed and says how many had other content.

mod report;
mod scan;
mod store;

use cowslip::{Database, ReadTransaction};
use report::Answers;
use std::error::Error;
use std::fs;
use std::io::{self, BufWriter};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use store::Counts;

const USAGE: &str = "usage: file_index [DIR] [--db PATH] [--under PREFIX]

  DIR             the tree to index (default: the current directory)
  --db PATH       the database file (default: target/file_index.cowslip)
  --under PREFIX  list every file whose path, relative to DIR, starts with PREFIX";

/// How many of the largest files are named.
const LARGEST_SHOWN: usize = 10;

#[derive(Debug, PartialEq, Eq)]
struct Arguments {
    directory: PathBuf,
    database: PathBuf,
    under: Option<String>,
}

/// Reads the command line; `None` where it asks for the usage text.
fn parse(words: impl IntoIterator<Item = std::ffi::OsString>) -> Result<Option<Arguments>, String> {
    let mut words = words.into_iter();
    let (mut directory, mut database, mut under) = (None, PathBuf::from("target/file_index.cowslip"), None);
    while let Some(word) = words.next() {
        match word.to_str() {
            Some("--help" | "-h") => return Ok(None),
            Some("--db") => database = words.next().ok_or("--db needs a path")?.into(),
            Some("--under") => {
                let prefix = words.next().ok_or("--under needs a prefix")?;
                under = Some(scan::stored_prefix(Path::new(&prefix)));
            }
            Some(option) if option.starts_with('-') => return Err(format!("unknown option {option}")),
            _ if directory.is_some() => return Err("more than one directory".to_owned()),
            _ => directory = Some(PathBuf::from(word)),
        }
    }
    Ok(Some(Arguments { directory: directory.unwrap_or_else(|| PathBuf::from(".")), database, under }))
}

/// Brings the index up to date and asks it everything.
fn index(arguments: &Arguments) -> Result<(Counts, Answers), Box<dyn Error>> {
    if !fs::metadata(&arguments.directory).map_err(|e| format!("{}: {e}", arguments.directory.display()))?.is_dir() {
        return Err(format!("{} is not a directory", arguments.directory.display()).into());
    }
    if let Some(folder) = arguments.database.parent() {
        fs::create_dir_all(folder)?;
    }
    let database = Database::create(&arguments.database)?;
    let found = scan::walk(&arguments.directory, &arguments.database);
    let counts = store::refresh(&database, &found)?;
    let answers = database.view(|tx| answer(tx, arguments.under.as_deref()))?;
    Ok((counts, answers))
}

fn print((counts, answers): &(Counts, Answers)) -> Result<(), Box<dyn Error>> {
    match report::print(&mut BufWriter::new(io::stdout().lock()), counts, answers) {
        // Whoever reads the answers may stop early.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        printed => Ok(printed?),
    }
}

/// Reads every answer from one snapshot.
fn answer(tx: &ReadTransaction, under: Option<&str>) -> Result<Answers, cowslip::Error> {
    Ok(Answers {
        files: store::len(tx)?,
        largest: store::largest(tx, LARGEST_SHOWN)?,
        identical: store::identical(tx)?,
        under: under
            .map(|prefix| Ok::<_, cowslip::Error>((prefix.to_owned(), store::under(tx, prefix)?)))
            .transpose()?,
    })
}

fn main() -> ExitCode {
    match parse(std::env::args_os().skip(1)) {
        Ok(Some(arguments)) => match index(&arguments).and_then(|done| print(&done)) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("error: {error}");
                ExitCode::FAILURE
            }
        },
        Ok(None) => {
            println!("{USAGE}");
            ExitCode::SUCCESS
        }
        Err(reason) => {
            eprintln!("error: {reason}\n{USAGE}");
            ExitCode::from(2)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::time::{Duration, SystemTime};
    use tempfile::TempDir;

    /// A tree of three files, two of them identical, with a database that lies inside it.
    fn sample() -> (TempDir, Arguments) {
        let folder = TempDir::new().unwrap();
        let directory = folder.path().to_owned();
        for (path, content) in [("a/x", "same"), ("a/y", "same"), ("b", "longer"), (".git/c", "no"), ("target/d", "no")]
        {
            fs::create_dir_all(directory.join(path).parent().unwrap()).unwrap();
            fs::write(directory.join(path), content).unwrap();
        }
        let database = directory.join("index.cowslip");
        (folder, Arguments { directory, database, under: Some("a/".to_owned()) })
    }

    fn set_modified(path: &Path, seconds: u64) {
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
    }

    #[test]
    fn a_second_run_changes_only_what_changed() {
        let (_folder, arguments) = sample();
        let counts = |added, changed, removed, unchanged| Counts { added, changed, removed, unchanged, unreadable: 0 };
        assert_eq!(index(&arguments).unwrap().0, counts(3, 0, 0, 0));
        assert_eq!(index(&arguments).unwrap().0, counts(0, 0, 0, 3));
        set_modified(&arguments.directory.join("a/x"), 1);
        assert_eq!(index(&arguments).unwrap().0, counts(0, 0, 0, 3));
        fs::write(arguments.directory.join("b"), "LONGER").unwrap();
        set_modified(&arguments.directory.join("b"), 2);
        assert_eq!(index(&arguments).unwrap().0, counts(0, 1, 0, 2));
        fs::remove_file(arguments.directory.join("a/y")).unwrap();
        fs::write(arguments.directory.join("e"), "").unwrap();
        assert_eq!(index(&arguments).unwrap().0, counts(1, 0, 1, 2));
        assert_eq!(index(&arguments).unwrap().0, counts(0, 0, 0, 3));
    }

    #[test]
    fn the_answers_follow_the_files() {
        let (_folder, arguments) = sample();
        let (_, answers) = index(&arguments).unwrap();
        let paths = |files: &[(u64, String)]| files.iter().map(|(_, path)| path.clone()).collect::<Vec<_>>();
        assert_eq!((answers.files, answers.largest[0].clone()), (3, (6, "b".to_owned())));
        assert_eq!(answers.identical.len(), 1);
        assert_eq!((answers.identical[0].wasted_bytes(), answers.identical[0].paths.len()), (4, 2));
        assert_eq!(paths(&answers.under.unwrap().1), ["a/x", "a/y"]);

        fs::write(arguments.directory.join("a/y"), "different").unwrap();
        let (_, answers) = index(&arguments).unwrap();
        assert_eq!(paths(&answers.largest), ["a/y", "b", "a/x"]);
        assert!(answers.identical.is_empty());
    }

    #[test]
    fn the_command_line_is_read_or_refused() {
        let read = |words: &[&str]| parse(words.iter().map(Into::into));
        let defaults = read(&[]).unwrap().unwrap();
        assert_eq!((defaults.directory, defaults.under), (PathBuf::from("."), None));
        let all = read(&["d", "--db", "x", "--under", "./p/"]).unwrap().unwrap();
        assert_eq!((all.directory, all.database, all.under), ("d".into(), "x".into(), Some("p/".to_owned())));
        assert_eq!(read(&["--help"]), Ok(None));
        for wrong in [&["a", "b"][..], &["--db"], &["--under"], &["--no"]] {
            assert!(read(wrong).is_err(), "{wrong:?}");
        }
    }
}
