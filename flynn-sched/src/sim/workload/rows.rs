//! Reads tables line by line; a broken line does not end it.

use std::{
    collections::BTreeMap,
    io::{BufRead, Read},
    str::FromStr,
};

use crate::{Error, Result};

/// What was read of one or several files.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rows {
    /// Lines that made sense.
    pub read: u64,
    /// Lines that did not.
    pub broken: u64,
    /// The first of these, at most [`Rows::MAX_REPORTED`].
    pub reports: Vec<BrokenRow>,
}

/// A line that made no sense.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrokenRow {
    /// The file it is in.
    pub file: String,
    /// Its number, from 1.
    pub line: u64,
    /// What is wrong with it.
    pub why: String,
}

impl std::fmt::Display for BrokenRow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}, line {}: {}", self.file, self.line, self.why)
    }
}

/// The fields of a line.
pub(super) struct Fields<'l> {
    fields: Vec<&'l str>,
}

impl Rows {
    /// How many broken lines are told one by one.
    pub const MAX_REPORTED: usize = 100;
    /// How many bytes a line may have.
    pub const MAX_LINE: u64 = 64 << 10;

    /// Reads a file; `row` says what is wrong with a line, if anything is. Empty lines do not count.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] when the file cannot be read on, or when nothing in it makes sense.
    pub(super) fn read(
        &mut self,
        file: &str,
        input: &mut dyn BufRead,
        mut row: impl FnMut(&Fields<'_>) -> Result<(), String>,
    ) -> Result<()> {
        let invalid = |why: String| Error::Invalid {
            what: format!("trace {file}"),
            why,
        };
        let (mut number, mut good) = (0_u64, 0_u64);
        let mut first = None;
        let mut line = Vec::new();
        loop {
            line.clear();
            let limit = Self::MAX_LINE + 1;
            let count = (&mut *input).take(limit).read_until(b'\n', &mut line);
            let count = count
                .map_err(|error| invalid(format!("cannot be read after line {number}: {error}")))?;
            if count == 0 {
                break;
            }
            number += 1;
            let result = if line.len() as u64 > Self::MAX_LINE {
                skip_line(input, &line).map_err(|error| {
                    invalid(format!("cannot be read in line {number}: {error}"))
                })?;
                Err(format!("is longer than {} bytes", Self::MAX_LINE))
            } else {
                match std::str::from_utf8(&line).map(str::trim) {
                    Ok("") => continue,
                    Ok(text) => row(&Fields {
                        fields: text.split(',').map(unquoted).collect(),
                    }),
                    Err(_) => Err("is not text (UTF-8)".to_owned()),
                }
            };
            match result {
                Ok(()) => good += 1,
                Err(why) => {
                    first.get_or_insert_with(|| (number, why.clone()));
                    self.report(file, number, why);
                }
            }
        }
        self.read += good;
        match first {
            _ if good > 0 => Ok(()),
            Some((line, why)) => Err(invalid(format!(
                "has no line that makes sense; line {line}: {why}"
            ))),
            None => Err(invalid("is empty".to_owned())),
        }
    }

    fn report(&mut self, file: &str, line: u64, why: String) {
        self.broken += 1;
        if self.reports.len() < Self::MAX_REPORTED {
            self.reports.push(BrokenRow {
                file: file.to_owned(),
                line,
                why,
            });
        }
    }
}

impl<'l> Fields<'l> {
    /// The text of a column, counted from 0; it may be empty.
    pub(super) fn text(&self, column: usize, name: &str) -> Result<&'l str, String> {
        let count = self.fields.len();
        self.fields.get(column).copied().ok_or_else(|| {
            format!(
                "has {count} columns, column {} ({name}) is missing",
                column + 1
            )
        })
    }

    /// The number in a column.
    pub(super) fn number<T: FromStr>(&self, column: usize, name: &str) -> Result<T, String> {
        let text = self.text(column, name)?;
        text.parse().map_err(|_| match text {
            "" => format!("column {} ({name}) is empty", column + 1),
            _ => format!(
                "column {} ({name}) is not a number in range: {text:?}",
                column + 1
            ),
        })
    }

    /// The number in a column, which lies within these bounds.
    pub(super) fn amount(&self, column: usize, name: &str, most: f64) -> Result<f64, String> {
        let value: f64 = self.number(column, name)?;
        if (0.0..=most).contains(&value) {
            Ok(value)
        } else {
            Err(format!(
                "column {} ({name}) is not between 0 and {most}: {value}",
                column + 1
            ))
        }
    }
}

/// Reads on to the end of a line whose beginning is too long already.
fn skip_line(input: &mut dyn BufRead, beginning: &[u8]) -> std::io::Result<()> {
    if beginning.ends_with(b"\n") {
        return Ok(());
    }
    loop {
        let buffer = input.fill_buf()?;
        if buffer.is_empty() {
            return Ok(());
        }
        let end = buffer.iter().position(|byte| *byte == b'\n');
        let count = end.map_or(buffer.len(), |end| end + 1);
        input.consume(count);
        if end.is_some() {
            return Ok(());
        }
    }
}

fn unquoted(field: &str) -> &str {
    let field = field.trim();
    field
        .strip_prefix('"')
        .and_then(|field| field.strip_suffix('"'))
        .unwrap_or(field)
}

/// Gives every name a number, in the order in which they come.
#[derive(Debug, Clone, Default)]
pub(super) struct Kinds(BTreeMap<String, u8>);

impl Kinds {
    /// The number of a name; the 256th and later share the last.
    pub(super) fn number(&mut self, name: &str) -> u8 {
        if let Some(number) = self.0.get(name) {
            return *number;
        }
        let Ok(number) = u8::try_from(self.0.len()) else {
            return u8::MAX;
        };
        self.0.insert(name.to_owned(), number);
        number
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &[u8]) -> (Rows, Result<()>, Vec<u64>) {
        let mut rows = Rows::default();
        let mut seen = Vec::new();
        let result = rows.read("t.csv", &mut &*text, |fields| {
            seen.push(fields.number(1, "size")?);
            Ok(())
        });
        (rows, result, seen)
    }

    #[test]
    fn broken_lines_are_named_and_the_rest_is_read() {
        let (rows, result, seen) = read(b"a,1\nb,x\n\nc\nd,\n\"e\",\"5\"\n\xff,1\nf,6");
        assert!(result.is_ok());
        assert_eq!((seen, rows.read, rows.broken), (vec![1, 5, 6], 3, 4));
        let told: Vec<String> = rows.reports.iter().map(ToString::to_string).collect();
        assert_eq!(
            told,
            [
                "t.csv, line 2: column 2 (size) is not a number in range: \"x\"",
                "t.csv, line 4: has 1 columns, column 2 (size) is missing",
                "t.csv, line 5: column 2 (size) is empty",
                "t.csv, line 7: is not text (UTF-8)",
            ]
        );
    }

    #[test]
    fn a_line_without_end_is_one_broken_line() {
        let mut text = b"a,1\n".to_vec();
        text.extend(std::iter::repeat_n(b'x', 300_000));
        text.extend_from_slice(b"\nb,2\n");
        let (rows, result, seen) = read(&text);
        assert!(result.is_ok());
        assert_eq!(
            (seen, rows.broken, rows.reports[0].line),
            (vec![1, 2], 1, 2)
        );
    }

    #[test]
    fn broken_lines_are_counted_beyond_those_that_are_told() {
        let mut text = b"a,1\n".to_vec();
        for _ in 0..500 {
            text.extend_from_slice(b"nothing\n");
        }
        let (rows, _, _) = read(&text);
        assert_eq!((rows.broken, rows.reports.len()), (500, Rows::MAX_REPORTED));
    }

    #[test]
    fn a_file_in_which_nothing_makes_sense_is_an_error() {
        for (text, says) in [
            (&b""[..], "trace t.csv: is empty"),
            (
                b"x\ny\n",
                "trace t.csv: has no line that makes sense; line 1: has 1 columns",
            ),
        ] {
            let error = read(text).1.unwrap_err().to_string();
            assert!(error.starts_with(says), "{error}");
        }
    }
}
