//! `cargo xtask memory`: whether a database keeps to its budget of memory.
//!
//! A child process loads rows in random order of keys in one transaction and scans them all; then the most memory that
//! it ever had resident, as the kernel counts it, is compared with the budget.

use crate::Result;
use cowslip::{Database, TableDefinition};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

const KEY_BYTES: usize = size_of::<u64>();

const ROWS: TableDefinition<u64, &[u8]> = TableDefinition::new("rows");

/// Options of the task.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Size of the data.
    #[arg(long, default_value_t = 2048)]
    mib: u64,
    /// Number of rows, where it is not what the size holds.
    #[arg(long)]
    rows: Option<u64>,
    /// Length of each value.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u16).range(8..))]
    value_bytes: u16,
    /// What the database may take.
    #[arg(long, default_value_t = 256)]
    budget_mib: u64,
    /// What the process may take beside: its program, its stacks, and what the system's allocator does not give back.
    #[arg(long, default_value_t = 64)]
    slack_mib: u64,
    /// What the process may take in all, where that is not the budget and the slack.
    #[arg(long)]
    limit_mib: Option<u64>,
    /// Loads and scans this file, and prints the most memory that it took.
    #[arg(long, hide = true)]
    child: Option<PathBuf>,
}

/// Runs the task; `false` where the budget is exceeded.
pub(crate) fn run(options: &Options) -> Result<bool> {
    if let Some(path) = &options.child {
        let value_bytes = usize::from(options.value_bytes);
        load_and_scan(path, options.rows_count(), value_bytes, usize::try_from(options.budget_mib << 20)?)?;
        println!("{}", peak_kib(&std::fs::read_to_string("/proc/self/status")?)?);
        return Ok(true);
    }
    let target = crate::workspace_root().join("target");
    std::fs::create_dir_all(&target)?;
    let folder = tempfile::tempdir_in(target)?;
    let mut child = Command::new(std::env::current_exe()?)
        .args(["memory", "--rows", &options.rows_count().to_string()])
        .args(["--value-bytes", &options.value_bytes.to_string(), "--budget-mib", &options.budget_mib.to_string()])
        .arg("--child")
        .arg(folder.path().join("memory.cowslip"))
        .stdout(Stdio::piped())
        .spawn()?;
    let mut text = String::new();
    child.stdout.take().ok_or("the child has no output")?.read_to_string(&mut text)?;
    if !child.wait()?.success() {
        return Err("the child failed".into());
    }
    let kib: u64 = text.trim().parse()?;
    let limit_mib = options.limit_mib.unwrap_or(options.budget_mib + options.slack_mib);
    let file_mib = std::fs::metadata(folder.path().join("memory.cowslip"))?.len() >> 20;
    println!(
        "{} rows of {} bytes in a file of {file_mib} MiB, budget {} MiB: {:.1} MiB resident at most (limit {limit_mib})",
        options.rows_count(),
        KEY_BYTES + usize::from(options.value_bytes),
        options.budget_mib,
        kib as f64 / 1024.0
    );
    Ok(kib <= limit_mib << 10)
}

impl Options {
    fn rows_count(&self) -> u64 {
        self.rows.unwrap_or(self.mib * (1 << 20) / u64::from(self.value_bytes))
    }
}

/// The key of a row. Distinct rows have distinct keys, in no order.
fn key_of(row: u64) -> u64 {
    let mixed = (row ^ (row >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// Loads all rows in one transaction, and checks by a scan that they are what was loaded.
fn load_and_scan(path: &Path, rows: u64, value_bytes: usize, budget_bytes: usize) -> Result<()> {
    let started = Instant::now();
    let database = Database::builder().cache_bytes_max(budget_bytes).create(path)?;
    let mut value = vec![7; value_bytes];
    let mut sum = 0_u64;
    database.update(|tx| {
        let mut table = tx.open_table(ROWS)?;
        for row in 0..rows {
            let key = key_of(row);
            value[..8].copy_from_slice(&key.to_le_bytes());
            table.put(key, &value[..])?;
            sum = sum.wrapping_add(key);
        }
        Ok::<_, cowslip::Error>(())
    })?;
    eprintln!("loaded after {:.1} s", started.elapsed().as_secs_f64());
    let (mut count, mut found) = (0, 0_u64);
    database.view(|tx| {
        for row in tx.open_table(ROWS)?.iter()? {
            let (key, value) = row?;
            let (key, value) = (key.value(), value.value());
            if value.len() == value_bytes && value.starts_with(&key.to_le_bytes()) {
                count += 1;
                found = found.wrapping_add(key);
            }
        }
        Ok::<_, cowslip::Error>(())
    })?;
    eprintln!("scanned after {:.1} s", started.elapsed().as_secs_f64());
    if (count, found) != (rows, sum) {
        return Err(format!("the scan found {count} rows of sum {found}, not {rows} of sum {sum}").into());
    }
    database.close()?;
    Ok(())
}

/// The most memory that was ever resident, from the kernel's account of a process.
fn peak_kib(status: &str) -> Result<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).ok_or("the kernel keeps no account")?;
    Ok(line.trim().trim_end_matches("kB").trim().parse()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_load_is_scanned_whole() {
        let folder = tempfile::tempdir().unwrap();
        load_and_scan(&folder.path().join("small.cowslip"), 3000, 1000, 1 << 20).unwrap();
    }

    #[test]
    fn the_peak_is_read_from_its_line() {
        assert_eq!(peak_kib("VmPeak:\t 9 kB\nVmHWM:\t   1234 kB\nVmRSS:\t 7 kB\n").unwrap(), 1234);
        assert!(peak_kib("VmRSS:\t 7 kB\n").is_err());
    }
}
