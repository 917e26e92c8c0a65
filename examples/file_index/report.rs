//! The answers in words.

use crate::store::{Counts, Group};
use std::io::{self, Write};

/// Groups of identical files that are printed one by one.
const GROUPS_SHOWN: usize = 10;

/// Everything that a run can tell, read from one snapshot.
#[derive(Debug)]
pub(crate) struct Answers {
    pub(crate) files: u64,
    pub(crate) largest: Vec<(u64, String)>,
    pub(crate) identical: Vec<Group>,
    /// The prefix that was asked for, and what is under it.
    pub(crate) under: Option<(String, Vec<(u64, String)>)>,
}

pub(crate) fn print(out: &mut impl Write, counts: &Counts, answers: &Answers) -> io::Result<()> {
    writeln!(out, "added {}", counts.added)?;
    writeln!(out, "changed {}", counts.changed)?;
    writeln!(out, "removed {}", counts.removed)?;
    writeln!(out, "unchanged {}", counts.unchanged)?;
    if counts.unreadable > 0 {
        writeln!(out, "unreadable {}", counts.unreadable)?;
    }
    writeln!(out, "\nlargest of {} files:", answers.files)?;
    print_sizes(out, &answers.largest)?;
    print_identical(out, &answers.identical)?;
    if let Some((prefix, files)) = &answers.under {
        let total: u64 = files.iter().map(|(size, _)| size).sum();
        writeln!(out, "\nunder {prefix:?}: {} files, {total} bytes", files.len())?;
        print_sizes(out, files)?;
    }
    out.flush()
}

fn print_sizes(out: &mut impl Write, files: &[(u64, String)]) -> io::Result<()> {
    files.iter().try_for_each(|(size, path)| writeln!(out, "{size:>14}  {path}"))
}

fn print_identical(out: &mut impl Write, groups: &[Group]) -> io::Result<()> {
    let wasted: u64 = groups.iter().map(Group::wasted_bytes).sum();
    writeln!(out, "\nidentical files: {} groups, {wasted} bytes wasted", groups.len())?;
    for group in groups.iter().take(GROUPS_SHOWN) {
        writeln!(out, "{:>14}  wasted by {} copies of", group.wasted_bytes(), group.paths.len())?;
        group.paths.iter().try_for_each(|path| writeln!(out, "{:>14}  {path}", ""))?;
    }
    match groups.len().saturating_sub(GROUPS_SHOWN) {
        0 => Ok(()),
        more => writeln!(out, "{:>14}  and {more} more groups", ""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_names_counts_sizes_and_waste() {
        let group = Group { size_bytes: 5, paths: vec!["a".to_owned(), "b".to_owned(), "c".to_owned()] };
        let files = vec![(5, "a".to_owned())];
        let answers =
            Answers { files: 3, largest: files.clone(), identical: vec![group], under: Some(("a".to_owned(), files)) };
        let mut out = Vec::new();
        print(&mut out, &Counts { changed: 1, ..Counts::default() }, &answers).unwrap();
        let out = String::from_utf8(out).unwrap();
        for line in ["added 0", "changed 1", "removed 0", "unchanged 0", "under \"a\": 1 files, 5 bytes"] {
            assert!(out.lines().any(|found| found == line), "{line} is missing in {out}");
        }
        assert!(out.contains("1 groups, 10 bytes wasted") && !out.contains("unreadable"));
    }
}
