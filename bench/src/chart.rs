//! The goals as a picture: a bar per goal, as long as the target is attained, with every round as a dot.

use std::fmt::Write;

use crate::goals::{GOALS, Verdict};
use crate::report::Report;

/// An SVG of every goal that was measured. The target is one line for all: each bar is the median in parts of its own
/// target, turned around where less is better, so that right of the line is good.
pub(crate) fn svg(report: &Report) -> String {
    let verdicts: Vec<Verdict> = GOALS.iter().filter_map(|goal| goal.judge(report)).collect();
    let height = TOP + verdicts.len() as u32 * ROW + 40;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" \
         viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" font-size=\"13\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n"
    );
    text(&mut out, 16, 26, "start", "16", "Weft against its goals: medians of ratios, pair by pair");
    text(&mut out, 16, 46, "start", "12", &report.machine.to_string());
    for (index, verdict) in verdicts.iter().enumerate() {
        bar(&mut out, TOP + index as u32 * ROW, verdict);
    }
    let (line, bottom) = (x(1.0), height - 30);
    let _ = writeln!(
        out,
        "<line x1=\"{line}\" x2=\"{line}\" y1=\"{}\" y2=\"{bottom}\" stroke=\"#222222\" stroke-dasharray=\"4 3\"/>",
        TOP - 8
    );
    text(&mut out, line, bottom + 16, "middle", "12", "target");
    out + "</svg>\n"
}

fn bar(out: &mut String, top: u32, verdict: &Verdict) {
    let goal = &verdict.goal;
    let attained = goal.attained(verdict.median);
    let color = match attained {
        met if met >= 1.0 => "#2e7d5b",
        _ if goal.is_wish() => "#c9a227",
        _ => "#c2603a",
    };
    let (middle, end) = (top + BAR / 2, x(attained));
    text(out, LEFT - 10, middle + 5, "end", "13", &format!("{} {}: {}", goal.id, goal.what, goal.terms()));
    let _ = writeln!(
        out,
        "<rect x=\"{LEFT}\" y=\"{top}\" width=\"{}\" height=\"{BAR}\" rx=\"2\" fill=\"{color}\"/>",
        end - LEFT
    );
    for value in &verdict.all {
        let at = x(goal.attained(*value));
        let _ = writeln!(out, "<circle cx=\"{at}\" cy=\"{middle}\" r=\"2.5\" fill=\"#ffffff\" stroke=\"#222222\"/>");
    }
    let beyond = if attained > SCALE_MAX { "(off the scale) " } else { "" };
    let label = format!("{beyond}{:.2}, wanted {}", verdict.median, goal.wanted());
    text(out, RIGHT + 14, middle + 5, "start", "12", &label);
}

/// Where a part of the target lies; what goes beyond the scale ends at its edge.
fn x(attained: f64) -> u32 {
    let part = if attained.is_finite() { attained.clamp(0.0, SCALE_MAX) / SCALE_MAX } else { 0.0 };
    LEFT + (part * f64::from(RIGHT - LEFT)).round() as u32
}

fn text(out: &mut String, x: u32, y: u32, anchor: &str, size: &str, words: &str) {
    let words = words.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let _ = writeln!(
        out,
        "<text x=\"{x}\" y=\"{y}\" text-anchor=\"{anchor}\" font-size=\"{size}\" fill=\"#222222\">{words}</text>"
    );
}

const WIDTH: u32 = 1180;
const LEFT: u32 = 430;
const RIGHT: u32 = 880;
const TOP: u32 = 76;
const ROW: u32 = 30;
const BAR: u32 = 18;
/// Twice the target fills the scale.
const SCALE_MAX: f64 = 2.0;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::report;

    #[test]
    fn a_bar_ends_at_the_target_line_when_the_target_is_just_met() {
        let svg = svg(&report("local", "tcp-1", &["weft", "ovs-tso"], &[&[10.0, 10.0]]));
        let width = x(1.0) - LEFT;
        assert!(svg.contains(&format!("width=\"{width}\" height=\"{BAR}\"")), "{svg}");
        assert!(svg.contains("weft / ovs-tso"));
        assert!(svg.contains("wanted &gt;= 1<"), "{svg}");
    }

    #[test]
    fn every_element_is_closed_and_the_scale_has_an_end() {
        let svg = svg(&report("local", "tcp-1", &["weft", "wire", "kernel"], &[&[90.0, 1.0, f64::NAN]]));
        assert_eq!(svg.matches("<text").count(), svg.matches("</text>").count());
        assert_eq!(x(f64::INFINITY), LEFT);
        assert_eq!(x(7.0), RIGHT);
        assert!(svg.ends_with("</svg>\n"));
    }
}
