//! The table for people and the lines for programs.

use crate::Result;
use crate::engine::EngineKind;
use crate::statistics::Quartiles;
use crate::workload::{SINGLES, Scale, Workload};
use std::io::Write;

/// Width of the first column: no row has a longer name.
const ROW_WIDTH: usize = 31;

/// Name of the yardstick of the single durable writes.
const BARE: &str = "bare direct overwrite";

/// Figures of one engine, one for each round.
#[derive(Debug, Clone)]
pub(crate) struct Samples {
    pub(crate) engine: EngineKind,
    pub(crate) figures: Vec<f64>,
}

impl Samples {
    fn quartiles(&self) -> Result<Quartiles> {
        Quartiles::of(&self.figures).ok_or_else(|| "no round was measured".into())
    }
}

/// What a bare file does while the stores write single rows, and what they do.
#[derive(Debug, Clone)]
pub(crate) struct Yardstick {
    /// Overwrites of a block, a second, one for each round; or why there are none.
    pub(crate) rates: std::result::Result<Vec<f64>, String>,
    /// Figures of the stores in the same rounds.
    pub(crate) singles: Vec<Samples>,
}

/// Prints the head of the table: one column for each engine, and one for each peer's ratio when Cowslip is among them.
pub(crate) fn print_head(engines: &[EngineKind], out: &mut dyn Write) -> Result<()> {
    write!(out, "| {:<ROW_WIDTH$} | {:<9} |", "row", "unit")?;
    engines.iter().try_for_each(|engine| write!(out, " {:>11} |", engine.name()))?;
    peers(engines).try_for_each(|peer| write!(out, " {:>18} |", format!("against {}", peer.name())))?;
    write!(out, "\n|:{}|:{}|", "-".repeat(ROW_WIDTH + 1), "-".repeat(10))?;
    engines.iter().try_for_each(|_| write!(out, "{}:|", "-".repeat(12)))?;
    peers(engines).try_for_each(|_| write!(out, "{}:|", "-".repeat(19)))?;
    Ok(writeln!(out)?)
}

/// Prints one row: the medians, then the ratios with their quartiles. Above 1, Cowslip is better.
pub(crate) fn print_row(workload: &Workload, samples: &[Samples], out: &mut dyn Write) -> Result<()> {
    write!(out, "| {:<ROW_WIDTH$} | {:<9} |", workload.name, workload.unit())?;
    for sample in samples {
        let median = sample.quartiles()?.median;
        let digits = usize::from(median < 1000.0) + usize::from(median < 10.0);
        write!(out, " {median:>11.digits$} |")?;
    }
    let engines: Vec<EngineKind> = samples.iter().map(|sample| sample.engine).collect();
    for peer in peers(&engines) {
        let of = |engine| samples.iter().find(|sample| sample.engine == engine);
        if let (Some(subject), Some(peer)) = (of(EngineKind::ALL[0]), of(peer)) {
            let ratio = Quartiles::of(&ratios(workload, subject, peer)).ok_or("no round was measured")?;
            let text = format!("{:.2} ({:.2}-{:.2})", ratio.median, ratio.lower, ratio.upper);
            write!(out, " {text:>18} |")?;
        }
    }
    Ok(writeln!(out)?)
}

/// Writes one JSON object a line for each engine of a row.
pub(crate) fn write_json(workload: &Workload, scale: Scale, samples: &[Samples], out: &mut dyn Write) -> Result<()> {
    for sample in samples {
        let Quartiles { min, median, max, .. } = sample.quartiles()?;
        let better = if workload.more_is_better() { "higher" } else { "lower" };
        // The names and versions hold no character that JSON escapes.
        writeln!(
            out,
            "{{\"row\":\"{}\",\"engine\":\"{}\",\"version\":\"{}\",\"unit\":\"{}\",\"median\":{median},\"min\":{min},\
             \"max\":{max},\"better\":\"{better}\",\"scale\":\"{}\"}}",
            workload.name,
            sample.engine.name(),
            sample.engine.version(),
            workload.unit(),
            scale.name(),
        )?;
    }
    Ok(out.flush()?)
}

/// Prints what the bare file did and how much of it each store's single durable writes reach, round by round.
pub(crate) fn print_yardstick(yardstick: &Yardstick, out: &mut dyn Write) -> Result<()> {
    let rates = match &yardstick.rates {
        Ok(rates) => rates,
        Err(reason) => return Ok(writeln!(out, "\n{BARE}: not measured, direct writes are refused: {reason}")?),
    };
    let rate = Quartiles::of(rates).ok_or("no round was measured")?;
    let Quartiles { lower, median, upper, .. } = rate;
    write!(out, "\n{BARE}: {median:.0} commits/s ({lower:.0}-{upper:.0}). {SINGLES} against it:")?;
    let mut separator = " ";
    for sample in &yardstick.singles {
        let shares: Vec<f64> = sample.figures.iter().zip(rates).map(|(figure, rate)| figure / rate).collect();
        let share = Quartiles::of(&shares).ok_or("no round was measured")?;
        let (name, Quartiles { lower, median, upper, .. }) = (sample.engine.name(), share);
        write!(out, "{separator}{name} {median:.2} ({lower:.2}-{upper:.2})")?;
        separator = ", ";
    }
    Ok(writeln!(out)?)
}

/// Writes the figures of the bare file as a JSON object of the same form, in which it stands for an engine.
pub(crate) fn write_yardstick_json(yardstick: &Yardstick, scale: Scale, out: &mut dyn Write) -> Result<()> {
    if let Ok(rates) = &yardstick.rates {
        let Quartiles { min, median, max, .. } = Quartiles::of(rates).ok_or("no round was measured")?;
        writeln!(
            out,
            "{{\"row\":\"{BARE}\",\"engine\":\"bare file\",\"version\":\"\",\"unit\":\"commits/s\",\"median\":{median},\
             \"min\":{min},\"max\":{max},\"better\":\"higher\",\"scale\":\"{}\"}}",
            scale.name(),
        )?;
    }
    Ok(out.flush()?)
}

/// How many times better the subject is, round by round.
fn ratios(workload: &Workload, subject: &Samples, peer: &Samples) -> Vec<f64> {
    let rounds = subject.figures.iter().zip(&peer.figures);
    rounds.map(|(subject, peer)| if workload.more_is_better() { subject / peer } else { peer / subject }).collect()
}

/// The engines that Cowslip is compared with; none if it is not among them.
fn peers(engines: &[EngineKind]) -> impl Iterator<Item = EngineKind> {
    let subject = EngineKind::ALL[0];
    let compared = engines.contains(&subject);
    engines.iter().copied().filter(move |engine| compared && *engine != subject)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(engine: EngineKind, figures: &[f64]) -> Samples {
        Samples { engine, figures: figures.to_vec() }
    }

    fn text(print: impl Fn(&mut dyn Write) -> Result<()>) -> String {
        let mut out = Vec::new();
        print(&mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn ratios_are_taken_within_a_round_and_above_one_is_good_for_cowslip() {
        let subject = samples(EngineKind::Cowslip, &[10.0, 40.0, 90.0]);
        let peer = samples(EngineKind::Redb, &[10.0, 20.0, 30.0]);
        let rate = Workload::of_name("random reads").unwrap();
        assert_eq!(ratios(&rate, &subject, &peer), [1.0, 2.0, 3.0]);
        assert_eq!(ratios(&Workload::of_name("size after load").unwrap(), &peer, &subject), [1.0, 2.0, 3.0]);
        let row = text(|out| print_row(&rate, &[subject.clone(), peer.clone()], out));
        assert!(row.ends_with(" 2.00 (1.50-2.50) |\n"), "{row}");
    }

    #[test]
    fn head_and_rows_have_the_same_columns() {
        for engines in [&EngineKind::ALL[..], &EngineKind::ALL[1..], &EngineKind::ALL[..1]] {
            let head = text(|out| print_head(engines, out));
            let figures: Vec<Samples> = engines.iter().map(|engine| samples(*engine, &[12.5])).collect();
            let rows: String =
                Workload::ALL.iter().map(|workload| text(|out| print_row(workload, &figures, out))).collect();
            let ends: Vec<Vec<usize>> = head
                .lines()
                .chain(rows.lines())
                .map(|line| line.match_indices('|').map(|(at, _)| at).collect())
                .collect();
            assert!(ends.iter().all(|line| *line == ends[0]), "{head}{rows}");
        }
    }

    #[test]
    fn shares_of_the_bare_file_are_taken_within_a_round_and_a_refusal_is_said() {
        let singles =
            vec![samples(EngineKind::Cowslip, &[5.0, 40.0, 90.0]), samples(EngineKind::Lmdb, &[1.0, 2.0, 3.0])];
        let mut yardstick = Yardstick { rates: Ok(vec![10.0, 50.0, 100.0]), singles };
        let note = text(|out| print_yardstick(&yardstick, out));
        let start = "\nbare direct overwrite: 50 commits/s (30-75). single durable writes against it: ";
        let shares = "cowslip 0.80 (0.65-0.85), lmdb 0.04 (0.04-0.07)\n";
        assert_eq!(note, format!("{start}{shares}"));
        let line = text(|out| write_yardstick_json(&yardstick, Scale::Small, out));
        assert!(line.contains("\"median\":50,\"min\":10,\"max\":100,") && line.ends_with("}\n"), "{line}");
        yardstick.rates = Err("invalid".to_owned());
        let note = text(|out| print_yardstick(&yardstick, out));
        assert_eq!(note, "\nbare direct overwrite: not measured, direct writes are refused: invalid\n");
        assert_eq!(text(|out| write_yardstick_json(&yardstick, Scale::Small, out)), "");
    }

    #[test]
    fn a_json_line_has_the_documented_fields() {
        let found = [samples(EngineKind::Redb, &[3.0, 1.5, 2.0])];
        let line = text(|out| write_json(&Workload::of_name("batches").unwrap(), Scale::Small, &found, out));
        let version = EngineKind::Redb.version();
        assert_eq!(
            line,
            format!(
                "{{\"row\":\"batches\",\"engine\":\"redb\",\"version\":\"{version}\",\"unit\":\"rows/s\",\
                 \"median\":2,\"min\":1.5,\"max\":3,\"better\":\"higher\",\"scale\":\"small\"}}\n"
            )
        );
        let line = text(|out| write_json(&Workload::of_name("size after load").unwrap(), Scale::Full, &found, out));
        assert!(line.contains("\"better\":\"lower\",\"scale\":\"full\"}"), "{line}");
    }
}
