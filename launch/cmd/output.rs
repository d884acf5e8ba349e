//! Standard output: results a line at a time, tables that stand in columns, and a reader that went away.

use std::{
    io::{ErrorKind, Write},
    process::ExitCode,
};

use anyhow::{Context, Result};

/// Prints one line, or several.
pub(super) fn line(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}")?;
    out.flush().context("printing")
}

/// Prints bytes as they are.
pub(super) fn bytes(data: &[u8]) -> Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(data)?;
    out.flush().context("printing")
}

/// `llmasos topic echo ... | head` is an ordinary way to end.
pub(super) fn piped(outcome: Result<ExitCode>) -> Result<ExitCode> {
    let ended = |error: &anyhow::Error| {
        error
            .downcast_ref::<std::io::Error>()
            .is_some_and(|io| io.kind() == ErrorKind::BrokenPipe)
    };
    match outcome {
        Err(error) if ended(&error) => Ok(ExitCode::SUCCESS),
        other => other,
    }
}

/// How a column stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Column {
    /// Words.
    Left,
    /// Numbers.
    Right,
}

/// Rows with a heading, two spaces between the columns; nothing after the last word of a line.
pub(super) fn table<const N: usize>(
    heading: [(&str, Column); N],
    rows: &[[String; N]],
) -> Vec<String> {
    let width = |at: usize| {
        let cells = rows.iter().map(|row| row[at].chars().count());
        cells
            .chain([heading[at].0.chars().count()])
            .max()
            .unwrap_or(0)
    };
    let widths: [usize; N] = std::array::from_fn(width);
    let joined = |cells: [&str; N]| {
        let cells = cells.iter().zip(widths).zip(heading);
        let aligned = cells.map(|((cell, width), (_, column))| match column {
            Column::Left => format!("{cell:<width$}"),
            Column::Right => format!("{cell:>width$}"),
        });
        let aligned: Vec<String> = aligned.collect();
        aligned.join("  ").trim_end().to_owned()
    };
    let first = joined(heading.map(|(name, _)| name));
    let rest = rows
        .iter()
        .map(|row| joined(std::array::from_fn(|at| row[at].as_str())));
    std::iter::once(first).chain(rest).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_stand_under_each_other() {
        let rows = [
            ["/a".to_owned(), "10.0".to_owned(), String::new()],
            ["/grün".to_owned(), "9".to_owned(), "x".to_owned()],
        ];
        let heading = [
            ("topic", Column::Left),
            ("rate", Column::Right),
            ("note", Column::Left),
        ];
        assert_eq!(
            table(heading, &rows),
            ["topic  rate  note", "/a     10.0", "/grün     9  x"]
        );
        assert_eq!(table(heading, &[]), ["topic  rate  note"]);
    }

    #[test]
    fn a_reader_that_went_away_is_no_failure() {
        let gone = std::io::Error::from(ErrorKind::BrokenPipe);
        assert!(piped(Err(gone.into())).is_ok());
        let full = std::io::Error::from(ErrorKind::StorageFull);
        assert!(piped(Err(full.into())).is_err());
    }
}
