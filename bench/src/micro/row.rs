//! A line of the table: what an operation takes, or any other figure.

use serde::Serialize;

use super::timer::Timed;

/// One line.
#[derive(Debug, Clone, Serialize)]
#[serde(untagged)]
pub(crate) enum Row {
    /// What an operation takes.
    Timed(Timed),
    /// Anything else.
    Figure(Figure),
}

/// A number with its unit.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Figure {
    /// What is measured.
    name: String,
    value: f64,
    unit: &'static str,
}

impl Figure {
    pub(crate) fn new(name: impl Into<String>, value: f64, unit: &'static str) -> Self {
        Self { name: name.into(), value, unit }
    }
}

impl Row {
    /// Whether it was wanted.
    pub(crate) fn is_measured(&self) -> bool {
        match self {
            Self::Timed(timed) => timed.is_measured(),
            Self::Figure(_) => true,
        }
    }

    /// For people.
    pub(crate) fn line(&self) -> String {
        match self {
            Self::Timed(Timed { name, ns, ns_min, mops, instructions, .. }) => {
                let counted = instructions.map_or(String::new(), |count| format!(" {count:>9.1} instructions"));
                format!("{name:<56} {ns:>12.1} ns {mops:>10.3} M/s   (best {ns_min:.1} ns){counted}")
            }
            Self::Figure(Figure { name, value, unit }) => format!("{name:<56} {value:>12.2} {unit}"),
        }
    }
}

impl From<Timed> for Row {
    fn from(timed: Timed) -> Self {
        Self::Timed(timed)
    }
}

impl From<Figure> for Row {
    fn from(figure: Figure) -> Self {
        Self::Figure(figure)
    }
}
