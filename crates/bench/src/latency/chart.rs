//! The picture of a run: latency over time on a logarithmic axis, with lines at the percentiles.

use super::Commit;
use crate::statistics::Percentiles;
use std::fmt::{self, Write};

const WIDTH: f64 = 1000.0;
const HEIGHT: f64 = 560.0;
const LEFT: f64 = 80.0;
const RIGHT: f64 = 850.0;
const TOP: f64 = 60.0;
const BOTTOM: f64 = 490.0;
/// Least distance of two labels.
const LABEL_STEP: f64 = 15.0;
/// Most labels of the time axis.
const TICKS_MAX: f64 = 10.0;
/// Commits are never drawn as faster than this; the axis has no zero.
const SECONDS_MIN: f64 = 1e-7;

/// What is drawn.
#[derive(Debug)]
pub(super) struct Chart<'run> {
    pub(super) title: String,
    pub(super) commits: &'run [Commit],
    /// Of the latencies.
    pub(super) percentiles: Percentiles,
    /// When slots were written, in seconds from the first commit on.
    pub(super) flips: &'run [f64],
}

/// Where times and latencies are on the picture.
struct Axes {
    seconds_max: f64,
    /// Logarithms of the ends of the latency axis, both whole.
    decades: (f64, f64),
}

impl Axes {
    fn of(commits: &[Commit]) -> Self {
        let seconds_max = commits.last().map_or(1.0, |commit| commit.due + commit.latency).max(SECONDS_MIN);
        let (mut least, mut most) = (f64::INFINITY, SECONDS_MIN);
        for commit in commits {
            (least, most) = (least.min(commit.latency), most.max(commit.latency));
        }
        let low = least.min(most).max(SECONDS_MIN).log10().floor();
        Self { seconds_max, decades: (low, most.log10().ceil().max(low + 1.0)) }
    }

    fn x(&self, seconds: f64) -> f64 {
        LEFT + (RIGHT - LEFT) * (seconds / self.seconds_max).min(1.0)
    }

    fn y(&self, latency: f64) -> f64 {
        let (low, high) = self.decades;
        let share = (latency.max(SECONDS_MIN).log10() - low) / (high - low);
        BOTTOM - (BOTTOM - TOP) * share.clamp(0.0, 1.0)
    }

    /// Distance of the labels of the time axis: 1, 2 or 5 times a power of ten.
    fn tick(&self) -> f64 {
        let power = 10_f64.powf((self.seconds_max / TICKS_MAX).log10().floor());
        [1.0, 2.0, 5.0]
            .map(|step| step * power)
            .into_iter()
            .find(|step| self.seconds_max / step <= TICKS_MAX)
            .unwrap_or(10.0 * power)
    }
    /// Lines and labels of both axes.
    fn draw(&self, svg: &mut String) -> fmt::Result {
        let mut decade = self.decades.0;
        while decade <= self.decades.1 {
            let latency = 10_f64.powf(decade);
            let (x, y, milliseconds) = (LEFT - 8.0, self.y(latency), latency * 1e3);
            let label = plain(milliseconds);
            writeln!(
                svg,
                "<path d=\"M{LEFT} {y:.1}H{RIGHT}\" stroke=\"#ddd\"/>\n\
                 <text x=\"{x}\" y=\"{:.1}\" text-anchor=\"end\">{label} ms</text>",
                y + 4.0
            )?;
            decade += 1.0;
        }
        let (tick, mut count) = (self.tick(), 0.0);
        while tick * count <= self.seconds_max {
            let (x, y, seconds) = (self.x(tick * count), BOTTOM + 20.0, plain(tick * count));
            writeln!(svg, "<text x=\"{x:.1}\" y=\"{y}\" text-anchor=\"middle\">{seconds}</text>")?;
            count += 1.0;
        }
        let (x, y) = (LEFT, HEIGHT - 18.0);
        writeln!(svg, "<path d=\"M{LEFT} {TOP}V{BOTTOM}H{RIGHT}\" stroke=\"#444\" fill=\"none\"/>")?;
        writeln!(
            svg,
            "<text x=\"{x}\" y=\"{y}\">seconds since the first commit; latency from when a commit was due</text>"
        )
    }
}

impl Chart<'_> {
    /// The picture as an SVG document.
    pub(super) fn svg(&self) -> Result<String, fmt::Error> {
        let axes = Axes::of(self.commits);
        let mut svg = String::new();
        writeln!(
            svg,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" \
             font-size=\"12\">\n<rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"white\"/>\n\
             <text x=\"{LEFT}\" y=\"28\" font-size=\"14\">{}</text>",
            escaped(&self.title)
        )?;
        axes.draw(&mut svg)?;
        self.draw_flips(&axes, &mut svg)?;
        self.draw_commits(&axes, &mut svg)?;
        self.draw_percentiles(&axes, &mut svg)?;
        svg.push_str("</svg>\n");
        Ok(svg)
    }

    fn draw_flips(&self, axes: &Axes, svg: &mut String) -> fmt::Result {
        for flip in self.flips {
            let x = axes.x(*flip);
            writeln!(svg, "<path d=\"M{x:.1} {BOTTOM}V{TOP}\" stroke=\"#d9a400\" stroke-opacity=\"0.6\"/>")?;
        }
        let (x, y) = (RIGHT, HEIGHT - 18.0);
        writeln!(
            svg,
            "<text x=\"{x}\" y=\"{y}\" text-anchor=\"end\" fill=\"#8a6800\">vertical lines: slots written, {}</text>",
            self.flips.len()
        )
    }

    /// Points are lines without length, whose round ends show.
    fn draw_commits(&self, axes: &Axes, svg: &mut String) -> fmt::Result {
        svg.push_str(
            "<path stroke=\"#1f6fb2\" stroke-width=\"2\" stroke-linecap=\"round\" stroke-opacity=\"0.5\" d=\"",
        );
        for commit in self.commits {
            write!(svg, "M{:.1} {:.1}h0", axes.x(commit.due), axes.y(commit.latency))?;
        }
        svg.push_str("\"/>\n");
        Ok(())
    }

    fn draw_percentiles(&self, axes: &Axes, svg: &mut String) -> fmt::Result {
        let mut above = BOTTOM + LABEL_STEP;
        for (name, seconds) in self.percentiles.named() {
            let y = axes.y(seconds);
            // From the lowest up, each label moves away from the one below it as far as it has to.
            above = y.min(above - LABEL_STEP);
            let (x, milliseconds, middle) = (RIGHT + 8.0, seconds * 1e3, above + 4.0);
            writeln!(
                svg,
                "<path d=\"M{LEFT} {y:.1}H{RIGHT}\" stroke=\"#b22222\" stroke-dasharray=\"6 4\"/>\n\
                 <text x=\"{x}\" y=\"{middle:.1}\" fill=\"#b22222\">{name} {milliseconds:.3} ms</text>"
            )?;
        }
        Ok(())
    }
}

/// A number of an axis without needless zeros.
fn plain(number: f64) -> String {
    let text = format!("{number:.6}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Text as it may stand between tags.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn commits(latencies: &[f64]) -> Vec<Commit> {
        let commit =
            |(index, latency): (usize, &f64)| Commit { due: index as f64, latency: *latency, service: *latency };
        latencies.iter().enumerate().map(commit).collect()
    }

    fn drawn(latencies: &[f64], flips: &[f64], title: &str) -> String {
        let percentiles = Percentiles::of(latencies).unwrap();
        Chart { title: title.to_owned(), commits: &commits(latencies), percentiles, flips }.svg().unwrap()
    }

    /// Names of the elements of a document, in order; panics where tags, quotes or nesting are wrong.
    fn elements(document: &str) -> Vec<&str> {
        let (mut open, mut found, mut rest) = (Vec::new(), Vec::new(), document);
        while let Some((text, tail)) = rest.split_once('<') {
            assert!(!text.contains('>') && (text.trim().is_empty() || !open.is_empty()), "text {text:?}");
            let entity = |part: &str| ["amp;", "lt;", "gt;"].iter().any(|name| part.starts_with(name));
            assert!(text.split('&').skip(1).all(entity), "text {text:?}");
            let (tag, after) = tail.split_once('>').unwrap();
            rest = after;
            if let Some(name) = tag.strip_prefix('/') {
                assert_eq!(open.pop(), Some(name));
                continue;
            }
            let plain = tag.strip_suffix('/').unwrap_or(tag);
            let (name, mut attributes) = plain.split_once(' ').unwrap();
            found.push(name);
            while !attributes.trim().is_empty() {
                let (attribute, value) = attributes.split_once("=\"").unwrap();
                assert!(attribute.trim().chars().all(|c| c.is_ascii_alphabetic() || c == '-'), "{attribute:?}");
                let (value, others) = value.split_once('"').unwrap();
                assert!(!value.contains(['<', '&']) && !value.contains("NaN") && !value.contains("inf"), "{value:?}");
                attributes = others;
            }
            if plain.len() == tag.len() {
                open.push(name);
            }
        }
        assert!(open.is_empty() && rest.trim().is_empty(), "{open:?} {rest:?}");
        found
    }

    #[test]
    fn the_document_is_well_formed_whatever_was_measured() {
        for latencies in [&[0.001][..], &[0.0, 0.0], &[1e-9, 100.0], &[0.0003, 0.0004, 0.2, 1.0]] {
            let svg = drawn(latencies, &[0.5, 1e9], "a < b & c > d");
            let elements = elements(&svg);
            assert_eq!(elements.iter().filter(|name| **name == "svg").count(), 1, "{svg}");
            assert_eq!(svg.matches("h0").count(), latencies.len(), "{svg}");
            assert!(svg.contains("a &lt; b &amp; c &gt; d"), "{svg}");
            assert!(svg.contains("slots written, 2<"), "{svg}");
        }
    }

    #[test]
    fn the_latency_axis_is_logarithmic_and_ends_at_whole_decades() {
        let axes = Axes::of(&commits(&[0.0002, 0.003, 0.05]));
        assert_eq!(axes.decades, (-4.0, -1.0));
        assert_eq!((axes.y(1e-4), axes.y(1e-1)), (BOTTOM, TOP));
        let third = (BOTTOM - TOP) / 3.0;
        assert!((axes.y(1e-3) - (BOTTOM - third)).abs() < 1e-6 && (axes.y(1e-2) - (TOP + third)).abs() < 1e-6);
        assert_eq!((axes.x(0.0), axes.x(axes.seconds_max)), (LEFT, RIGHT));
        for (seconds_max, tick) in [(5.8, 1.0), (10.0, 1.0), (11.0, 2.0), (49.0, 5.0), (0.07, 0.01)] {
            let found = Axes { seconds_max, decades: (0.0, 1.0) }.tick();
            assert!((found - tick).abs() < 1e-9, "{seconds_max}: {found}");
        }
    }

    #[test]
    fn numbers_of_the_axes_have_no_needless_zeros() {
        let found = [1e-4, 0.1, 1.0, 10.0, 2.5, 0.0].map(plain);
        assert_eq!(found, ["0.0001", "0.1", "1", "10", "2.5", "0"]);
    }

    #[test]
    fn labels_of_percentiles_that_are_the_same_do_not_overlap() {
        let svg = drawn(&[0.001; 10], &[], "");
        let lines = svg.lines().filter(|line| line.contains("fill=\"#b22222\""));
        let at = |line: &str| line.split("y=\"").nth(1).unwrap().split('"').next().unwrap().parse::<f64>().unwrap();
        let heights: Vec<f64> = lines.map(at).collect();
        assert_eq!(heights.len(), 5);
        assert!(heights.windows(2).all(|pair| pair[0] - pair[1] >= LABEL_STEP - 0.2), "{heights:?}");
        for name in ["median", "p90", "p99", "p99.9", "maximum"] {
            assert!(svg.contains(&format!(">{name} 1.000 ms<")), "{svg}");
        }
    }
}
