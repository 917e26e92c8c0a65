//! Command-line tool for Cowslip files: looks into them and never writes.
//!
//! Data goes to standard output, errors to standard error, and the exit code says what kind of error it was.

mod commands;
mod escape;
mod failure;

use clap::{Parser, Subcommand};
use escape::escape;
use failure::Failure;
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;
use std::process::ExitCode;

/// Looks into Cowslip database files. Every command opens the file read-only.
#[derive(Debug, Parser)]
#[command(name = "cowslip", version, after_help = EXIT_CODES)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

const EXIT_CODES: &str = "Exit codes: 0 success, 1 failure, 2 usage, 4 corruption found, 5 locked, \
                          6 not a database or another format";

#[derive(Debug, Subcommand)]
enum Command {
    /// Print path, size, what opening noticed, the last transaction and the number of tables.
    Info {
        /// The database file.
        file: PathBuf,
    },
    /// Print the names of all tables, one a line.
    Tables {
        /// The database file.
        file: PathBuf,
    },
    /// Read and verify every page and row, and that all space is accounted for.
    Verify {
        /// The database file.
        file: PathBuf,
    },
}

fn run(command: &Command, out: &mut impl Write) -> Result<(), Failure> {
    let done = match command {
        Command::Info { file } => commands::info(file, out),
        Command::Tables { file } => commands::tables(file, out),
        Command::Verify { file } => commands::verify(file, out),
    };
    // What was found before an error is data too.
    let flushed = out.flush();
    done?;
    Ok(flushed?)
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let mut out = BufWriter::new(io::stdout().lock());
    match run(&arguments.command, &mut out) {
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
