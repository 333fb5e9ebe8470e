//! Printing: tables for people, JSON and YAML for programs.
//!
//! Colour is decided once, from the option and the terminal, and carried along; a broken pipe is no error.

use std::io::{self, IsTerminal, Write};

use comfy_table::{Attribute, Cell, ContentArrangement, Table, presets};
use owo_colors::{OwoColorize, Style};
use serde::Serialize;

use crate::args::{Color, Format, Global};

/// How and where to print.
#[derive(Debug, Clone, Copy)]
pub struct Printer {
    format: Format,
    color: bool,
}

/// What a piece of text means to the reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tone {
    /// As wished.
    Good,
    /// Worth a look.
    Warn,
    /// Wrong.
    Bad,
    /// Less important.
    Quiet,
    /// Nothing special.
    Plain,
}

impl Printer {
    /// By the options and the terminal.
    pub fn new(global: &Global) -> Self {
        let auto = io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        let color = match global.color {
            Color::Always => true,
            Color::Never => false,
            Color::Auto => auto,
        };
        Self { format: global.output, color }
    }

    /// Whether a table is wanted.
    pub fn is_table(&self) -> bool {
        self.format == Format::Table
    }

    /// Prints `value`, or for people what `table` makes.
    pub fn print<T: Serialize>(&self, value: &T, table: impl FnOnce(&Self) -> String) -> anyhow::Result<()> {
        let text = match self.format {
            Format::Table => table(self),
            Format::Json => serde_json::to_string_pretty(value)?,
            Format::Yaml => serde_saphyr::to_string(value)?,
        };
        self.line(text.trim_end())
    }

    /// Prints a line for people; silent in the other formats, whose readers want nothing else in between.
    pub fn say(&self, text: &str) -> anyhow::Result<()> {
        if self.is_table() { self.line(text) } else { Ok(()) }
    }

    /// Text in the colour of its meaning.
    pub fn paint(&self, tone: Tone, text: &str) -> String {
        let style = match tone {
            _ if !self.color => return text.to_owned(),
            Tone::Plain => return text.to_owned(),
            Tone::Good => Style::new().green(),
            Tone::Warn => Style::new().yellow(),
            Tone::Bad => Style::new().red().bold(),
            Tone::Quiet => Style::new().dimmed(),
        };
        text.style(style).to_string()
    }

    /// A table; no borders, so that it is read, searched and cut as easily as text.
    pub fn table<R>(&self, head: &[&str], rows: R) -> String
    where
        R: IntoIterator<Item: IntoIterator<Item: Into<Toned>>>,
    {
        let mut table = Table::new();
        table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
        if self.color {
            table.enforce_styling();
        } else {
            table.force_no_tty();
        }
        table.set_header(head.iter().map(|h| Toned(Tone::Quiet, (*h).to_owned()).cell()));
        for row in rows {
            table.add_row(row.into_iter().map(|c| c.into().cell()));
        }
        if table.is_empty() {
            return self.paint(Tone::Quiet, "nothing");
        }
        for column in table.column_iter_mut() {
            column.set_padding((0, 2));
        }
        let lines: Vec<String> = table.lines().map(|l| l.trim_end().to_owned()).collect();
        lines.join("\n")
    }

    /// Prints a line, whatever the format; nobody reading any more is no error.
    pub fn line(&self, text: &str) -> anyhow::Result<()> {
        match writeln!(io::stdout(), "{text}") {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            result => Ok(result?),
        }
    }
}

/// A cell of a table with its meaning.
#[derive(Debug, Clone)]
pub struct Toned(pub Tone, pub String);

impl Toned {
    fn cell(self) -> Cell {
        use comfy_table::Color;
        let cell = Cell::new(self.1);
        match self.0 {
            Tone::Plain => cell,
            Tone::Good => cell.fg(Color::Green),
            Tone::Warn => cell.fg(Color::Yellow),
            Tone::Bad => cell.fg(Color::Red).add_attribute(Attribute::Bold),
            Tone::Quiet => cell.add_attribute(Attribute::Dim),
        }
    }
}

impl From<String> for Toned {
    fn from(text: String) -> Self {
        Self(Tone::Plain, text)
    }
}

impl From<&str> for Toned {
    fn from(text: &str) -> Self {
        Self(Tone::Plain, text.to_owned())
    }
}

/// A time in words that are read at a glance.
pub fn ago(millis: u64) -> String {
    match millis {
        0..1000 => format!("{millis} ms"),
        1000..100_000 => format!("{:.1} s", millis as f64 / 1000.0),
        _ => format!("{} min", millis / 60_000),
    }
}

/// `1 host`, `2 hosts`.
pub fn count(n: usize, noun: &str) -> String {
    if n == 1 { format!("1 {noun}") } else { format!("{n} {noun}s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Printer = Printer { format: Format::Table, color: false };

    #[test]
    fn a_table_has_aligned_columns_and_no_trailing_blanks() {
        let rows = [["a", "b"], ["long-name", "x"]].map(|r| r.map(str::to_owned));
        let text = PLAIN.table(&["NAME", "WHAT"], rows);
        assert_eq!(text, "NAME       WHAT\na          b\nlong-name  x");
    }

    #[test]
    fn colour_does_not_break_the_alignment() {
        let colored = Printer { color: true, ..PLAIN };
        let good = Toned(Tone::Good, "ok".into());
        let text = colored.table(&["A", "B"], [[good, "x".into()], ["long".into(), "y".into()]]);
        assert!(text.contains("\u{1b}["));
        let bare: Vec<String> = strip(&text).lines().map(|l| l.trim_end().to_owned()).collect();
        assert_eq!(bare.join("\n"), "A     B\nok    x\nlong  y");
    }

    #[test]
    fn an_empty_table_says_so() {
        assert_eq!(PLAIN.table(&["A"], Vec::<Vec<String>>::new()), "nothing");
    }

    fn strip(text: &str) -> String {
        let mut out = String::new();
        let mut inside = false;
        for c in text.chars() {
            match c {
                '\u{1b}' => inside = true,
                'm' if inside => inside = false,
                c if !inside => out.push(c),
                _ => {}
            }
        }
        out
    }
}
