//! The table for people and the lines for programs.

use crate::Result;
use crate::engine::EngineKind;
use crate::statistics::Quartiles;
use crate::workload::{Scale, Workload};
use std::io::Write;

/// Width of the first column: no row has a longer name.
const ROW_WIDTH: usize = 29;

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
