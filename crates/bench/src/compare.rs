//! The comparison: which rows run on which stores, and how large.

use crate::Result;
use crate::engine::EngineKind;
use crate::folders::Folders;
use crate::measure::Bench;
use crate::output;
use crate::workload::{Amounts, Scale, Workload};
use clap::Args;
use std::fs::File;
use std::io::Write;
use std::path::PathBuf;

/// Options of the comparison.
#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    /// How large everything is.
    #[arg(long, value_enum, default_value_t = Scale::Small)]
    pub(crate) scale: Scale,
    /// Rows of the main data set instead of those of the scale; the amounts of all work follow.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(100..))]
    pub(crate) rows_count: Option<u32>,
    /// Rows of the table to measure, for example random-reads,batches; all unless given.
    #[arg(long, value_name = "ROWS", value_delimiter = ',', value_parser = Workload::of_name)]
    pub(crate) rows: Vec<Workload>,
    /// Stores to measure, of cowslip, redb, lmdb and fjall; all unless given.
    #[arg(long, value_name = "ENGINES", value_delimiter = ',', value_parser = EngineKind::of_name)]
    pub(crate) engines: Vec<EngineKind>,
    /// Rounds of work that is repeated on the same database.
    #[arg(long, value_name = "R", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) rounds: Option<u32>,
    /// Rounds of work that needs a fresh database each time: loads and removals.
    #[arg(long, value_name = "R", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) rounds_fresh: Option<u32>,
    /// Seed of the rows and of the order.
    #[arg(long, value_name = "SEED", default_value_t = 1)]
    pub(crate) seed: u64,
    /// Cache of each store that has one of its own.
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u32).range(1..=65536))]
    pub(crate) cache_mib: Option<u32>,
    /// Keep the loaded databases in this folder, and use those that an earlier run left there.
    #[arg(long, value_name = "FOLDER")]
    pub(crate) keep: Option<PathBuf>,
    /// Folder for temporary databases; the system's temporary folder unless given.
    #[arg(long, value_name = "FOLDER", conflicts_with = "keep")]
    pub(crate) folder: Option<PathBuf>,
    /// Also write the figures to this file, one JSON object a line.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
}

impl Options {
    fn amounts(&self) -> Result<Amounts> {
        let mut amounts = Amounts::new(self.scale, self.rows_count.map(usize::try_from).transpose()?);
        if let Some(rounds) = self.rounds {
            amounts.rounds = usize::try_from(rounds)?;
        }
        if let Some(rounds) = self.rounds_fresh {
            amounts.rounds_fresh = usize::try_from(rounds)?;
        }
        if let Some(mib) = self.cache_mib {
            amounts.cache_bytes = usize::try_from(mib)? << 20;
        }
        Ok(amounts)
    }

    /// The chosen ones in the order of all, each once.
    fn chosen<T: Copy + PartialEq, const N: usize>(chosen: &[T], all: [T; N]) -> Vec<T> {
        all.into_iter().filter(|item| chosen.is_empty() || chosen.contains(item)).collect()
    }
}

/// Runs the rows one after the other and prints each as soon as it is measured; `log` gets the progress.
pub(crate) fn run(options: &Options, out: &mut dyn Write, log: &mut dyn Write) -> Result<()> {
    let amounts = options.amounts()?;
    let engines = Options::chosen(&options.engines, EngineKind::ALL);
    let mut json = options.json.as_ref().map(File::create).transpose()?;
    let folders = match &options.keep {
        Some(root) => Folders::kept(root)?,
        None => Folders::temporary(options.folder.as_deref())?,
    };
    writeln!(
        out,
        "{} rows ({} with URL keys), {} rounds ({} of loads and removals), cache {} MiB, seed {}",
        amounts.rows,
        amounts.url_rows,
        amounts.rounds,
        amounts.rounds_fresh,
        amounts.cache_bytes >> 20,
        options.seed
    )?;
    let versions: Vec<String> =
        engines.iter().map(|engine| format!("{} {}", engine.name(), engine.version())).collect();
    writeln!(out, "{}\n", versions.join(", "))?;
    output::print_head(&engines, out)?;
    let mut bench = Bench::new(amounts, engines, folders, options.seed, log);
    for workload in Options::chosen(&options.rows, Workload::ALL) {
        let samples = bench.measure(&workload).map_err(|error| format!("{}: {error}", workload.name))?;
        output::print_row(&workload, &samples, out)?;
        out.flush()?;
        if let Some(file) = &mut json {
            output::write_json(&workload, options.scale, &samples, file)?;
        }
    }
    if let Some(yardstick) = bench.yardstick() {
        output::print_yardstick(yardstick, out)?;
        if let Some(file) = &mut json {
            output::write_yardstick_json(yardstick, options.scale, file)?;
        }
    }
    bench.close()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::io;
    use std::path::Path;

    fn options(parent: &Path) -> Options {
        Options {
            scale: Scale::Small,
            rows_count: Some(500),
            rows: Vec::new(),
            engines: Vec::new(),
            rounds: Some(2),
            rounds_fresh: Some(2),
            seed: 3,
            cache_mib: Some(16),
            keep: None,
            folder: Some(parent.to_owned()),
            json: None,
        }
    }

    fn printed(options: &Options) -> String {
        let mut out = Vec::new();
        run(options, &mut out, &mut io::sink()).unwrap();
        String::from_utf8(out).unwrap()
    }

    /// First cells of the rows of a table.
    fn names(table: &str) -> Vec<&str> {
        table
            .lines()
            .skip(5)
            .take_while(|line| !line.is_empty())
            .map(|line| line.split('|').nth(1).unwrap().trim())
            .collect()
    }

    #[test]
    fn every_row_runs_on_every_engine_and_no_file_is_left() {
        let parent = tempfile::tempdir().unwrap();
        let json = tempfile::NamedTempFile::new().unwrap();
        let options = Options { json: Some(json.path().to_owned()), ..options(parent.path()) };
        let table = printed(&options);
        assert_eq!(names(&table), Workload::ALL.map(|workload| workload.name), "{table}");
        assert_eq!(parent.path().read_dir().unwrap().count(), 0);
        let lines = fs::read_to_string(json.path()).unwrap();
        // The yardstick has a line of its own where the file system can serve it, and is said to be refused elsewhere.
        let bare = lines.matches("\"row\":\"bare direct overwrite\"").count();
        let note = table.lines().find(|line| line.starts_with("bare direct overwrite: ")).unwrap();
        assert_eq!(
            (note.contains("refused"), note.contains(" against it: cowslip ")),
            (bare == 0, bare == 1),
            "{note}"
        );
        assert_eq!(lines.lines().count(), Workload::ALL.len() * EngineKind::ALL.len() + bare);
        for engine in EngineKind::ALL {
            let field = format!("\"engine\":\"{}\"", engine.name());
            assert_eq!(lines.matches(&field).count(), Workload::ALL.len());
        }
    }

    #[test]
    fn kept_databases_serve_a_second_run_and_are_as_they_were_loaded() {
        let parent = tempfile::tempdir().unwrap();
        let rows = ["removals", "random-reads"].map(|name| Workload::of_name(name).unwrap()).to_vec();
        let engines = vec![EngineKind::Lmdb, EngineKind::Cowslip];
        let keep = Some(parent.path().to_owned());
        let options = Options { rows, engines, keep, folder: None, ..options(parent.path()) };
        let loaded = parent.path().join("random-500-3");
        let table = printed(&options);
        assert_eq!(names(&table), ["random reads", "removals"], "{table}");
        assert!(loaded.join("cowslip").exists() && loaded.join("lmdb").exists() && !loaded.join("redb").exists());
        let modified = |engine: &str| loaded.join(engine).metadata().unwrap().modified().unwrap();
        let before = (modified("cowslip"), modified("lmdb"));
        printed(&options);
        assert_eq!((modified("cowslip"), modified("lmdb")), before);
        assert!(!parent.path().join("work").exists());
    }

    #[test]
    fn a_kept_database_with_other_rows_is_refused() {
        let parent = tempfile::tempdir().unwrap();
        let rows = vec![Workload::of_name("range reads").unwrap()];
        let keep = Some(parent.path().to_owned());
        let mut options = Options { rows, keep, folder: None, ..options(parent.path()) };
        printed(&options);
        fs::rename(parent.path().join("random-500-3"), parent.path().join("random-500-4")).unwrap();
        options.seed = 4;
        let error = run(&options, &mut io::sink(), &mut io::sink()).unwrap_err().to_string();
        assert!(error.starts_with("range reads: "), "{error}");
    }
}
