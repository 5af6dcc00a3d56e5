//! What commands print: aligned tables for people, JSON for programs.

use anyhow::Result;
use comfy_table::{Table, presets};
use serde::Serialize;

/// How to print.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// Tables and sentences.
    Text,
    /// One JSON document.
    Json,
}

impl Format {
    /// Prints a value as JSON, or as what `text` makes of it.
    pub(crate) fn print<T: Serialize>(
        self,
        value: &T,
        text: impl FnOnce(&T) -> String,
    ) -> Result<()> {
        let text = match self {
            Self::Json => serde_json::to_string_pretty(value)?,
            Self::Text => text(value),
        };
        if !text.is_empty() {
            line(&text);
        }
        Ok(())
    }
}

/// An aligned table without lines.
pub(crate) fn table<const N: usize>(
    header: [&str; N],
    rows: impl IntoIterator<Item = [String; N]>,
) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(header);
    for row in rows {
        table.add_row(row);
    }
    // Cells are padded on both sides; a table at the left margin reads better without trailing blanks.
    table
        .to_string()
        .lines()
        .map(|line| line.strip_prefix(' ').unwrap_or(line).trim_end())
        .collect::<Vec<_>>()
        .join("\n")
}

/// One line on standard output. A reader that has gone away ends the program quietly, as it does for other tools.
pub(crate) fn line(text: &str) {
    use std::io::Write as _;
    let mut out = std::io::stdout().lock();
    if writeln!(out, "{text}").is_err() {
        #[expect(clippy::exit, reason = "nobody reads our output any more")]
        std::process::exit(0);
    }
}

/// One line on standard error: progress, and what is not the result.
#[expect(clippy::print_stderr, reason = "this is where programs talk to people")]
pub(crate) fn note(text: &str) {
    eprintln!("{text}");
}
