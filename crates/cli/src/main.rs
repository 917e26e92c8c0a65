//! Command-line tool for Cowslip files: looks into them, and changes single rows.
//!
//! Data goes to standard output, errors and notes to standard error, and the exit code says what kind of error it was.
//! Only `put` and `del` open a file for writing; nothing else repairs or changes it.

mod data;
mod escape;
mod failure;
mod look;
mod output;

use clap::{Args, Parser, Subcommand};
use cowslip::{DecodeError, TypeDescriptor};
use escape::escape;
use failure::Failure;
use output::Printer;
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;

/// Looks into Cowslip database files and changes single rows.
#[derive(Debug, Parser)]
#[command(name = "cowslip", version, after_help = AFTER_HELP)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
    /// Print JSON, one object a line.
    #[arg(long, global = true)]
    json: bool,
}

const AFTER_HELP: &str = "\
Keys and values are plain text for strings, integers and bool, a JSON array for tuples,
and hex:00ff for bytes. Text that begins with a minus sign goes behind --, unless it is a number.

Exit codes: 0 success, 1 failure, 2 usage, 3 no such table or key, 4 corruption found, 5 locked,
            6 not a database, another format or another type, 7 no space";

#[derive(Debug, Subcommand)]
enum Command {
    /// Print path, size, what opening noticed, the last transaction and the number of tables.
    Info {
        /// The database file.
        file: PathBuf,
    },
    /// Print name, key type, value type and number of rows of all tables, one a line.
    Tables {
        /// The database file.
        file: PathBuf,
    },
    /// Print the value of a key.
    Get {
        #[command(flatten)]
        place: Place,
        /// The key.
        #[arg(allow_negative_numbers = true)]
        key: String,
    },
    /// Set the value of a key, whether it was there or not.
    Put {
        #[command(flatten)]
        place: Place,
        /// The key.
        #[arg(allow_negative_numbers = true)]
        key: String,
        /// The value.
        #[arg(allow_negative_numbers = true)]
        value: String,
        /// Types of the table, which is created where it is missing: "str, u64" or "(str, [u8; 16]), bytes".
        #[arg(long, value_name = "KEY,VALUE")]
        types: Option<Types>,
    },
    /// Remove a key.
    Del {
        #[command(flatten)]
        place: Place,
        /// The key.
        #[arg(allow_negative_numbers = true)]
        key: String,
    },
    /// Print keys and values in key order, one row a line.
    Scan {
        #[command(flatten)]
        place: Place,
        #[command(flatten)]
        selection: Selection,
    },
    /// Verify the file. In full: every page and row, and that all space is accounted for.
    Verify {
        /// The database file.
        file: PathBuf,
        /// Verify only slots, region table, bitmaps and catalog.
        #[arg(long, conflicts_with = "full")]
        quick: bool,
        /// Verify everything, which is the default.
        #[arg(long)]
        full: bool,
    },
}

/// Where rows are.
#[derive(Debug, Args)]
struct Place {
    /// The database file.
    file: PathBuf,
    /// Name of the table.
    table: String,
}

/// Which rows are wanted, and in which order.
#[derive(Debug, Args)]
struct Selection {
    /// Only keys that start so; for tuples an array of the first parts.
    #[arg(long, value_name = "P", conflicts_with_all = ["from", "to"])]
    prefix: Option<String>,
    /// Only this key and those above it.
    #[arg(long, value_name = "KEY", allow_negative_numbers = true)]
    from: Option<String>,
    /// Only keys below this one.
    #[arg(long, value_name = "KEY", allow_negative_numbers = true)]
    to: Option<String>,
    /// At most so many rows.
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// From the highest key down.
    #[arg(long)]
    rev: bool,
}

/// Types of a table as `--types` gives them.
#[derive(Debug, Clone)]
struct Types {
    key: TypeDescriptor,
    value: TypeDescriptor,
}

impl FromStr for Types {
    type Err = DecodeError;

    fn from_str(text: &str) -> Result<Self, DecodeError> {
        let found: TypeDescriptor = format!("({text},)").parse()?;
        match &found {
            TypeDescriptor::Tuple(parts) => match parts.as_slice() {
                [key, value] => Ok(Self { key: key.clone(), value: value.clone() }),
                parts => Err(DecodeError::new(format!("expected two types, found {}", parts.len()))),
            },
            _ => Err(DecodeError::new("expected two types, found none")),
        }
    }
}

fn run(arguments: &Arguments, out: &mut Printer<impl Write>) -> Result<(), Failure> {
    let done = match &arguments.command {
        Command::Info { file } => look::info(file, out),
        Command::Tables { file } => look::tables(file, out),
        Command::Get { place, key } => data::get(place, key, out),
        Command::Put { place, key, value, types } => data::put(place, key, value, types.as_ref(), out),
        Command::Del { place, key } => data::del(place, key, out),
        Command::Scan { place, selection } => data::scan(place, selection, out),
        Command::Verify { file, quick: true, .. } => look::verify_quick(file, out),
        Command::Verify { file, .. } => look::verify_full(file, out),
    };
    // What was found before an error is data too.
    let flushed = out.flush();
    done?;
    Ok(flushed?)
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let mut out = Printer::new(BufWriter::new(io::stdout().lock()), arguments.json);
    match run(&arguments, &mut out) {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever closed the pipe has read enough.
        Err(failure) if failure.is_closed_pipe() => ExitCode::SUCCESS,
        Err(failure) => {
            // The exit code still tells what happened where standard error is closed.
            writeln!(io::stderr(), "error: {}", escape(&failure.to_string())).ok();
            ExitCode::from(failure.exit_code())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn types_are_exactly_two() {
        let types: Types = "(str, [u8; 16]), ()".parse().unwrap();
        assert_eq!((types.key.to_string().as_str(), types.value), ("(str, [u8; 16])", TypeDescriptor::Unit));
        for wrong in ["", "str", "str, u64, u8", "str, string", "str, u64), (u8, u8", "str u64", "str,,u64"] {
            assert!(wrong.parse::<Types>().is_err(), "{wrong}");
        }
    }
}
