//! `.slugignore`: what a slug leaves out.

use std::{fs, path::Path};

use crate::{Error, Result};

/// Patterns of paths, as in `.gitignore` without negation.
///
/// `*` and `?` do not match `/`, `**` matches anything; a pattern with a `/` at its beginning or in the middle counts
/// from the root, any other at every level; one that ends in `/` is about directories.
#[derive(Debug, Clone, Default)]
pub struct Ignore {
    patterns: Vec<Pattern>,
}

#[derive(Debug, Clone)]
struct Pattern {
    text: Vec<u8>,
    is_anchored: bool,
    only_directories: bool,
}

impl Ignore {
    /// Reads the `.slugignore` of `dir`, if there is one.
    ///
    /// # Errors
    ///
    /// [`Error::Storage`] when it cannot be read.
    pub fn of(dir: &Path) -> Result<Self> {
        match fs::read_to_string(dir.join(".slugignore")) {
            Ok(text) => Ok(Self::parse(&text)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(Error::storage("read .slugignore")(error)),
        }
    }

    /// Parses patterns, one a line.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let patterns = text
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty() && !line.starts_with(['#', '!']))
            .map(|line| {
                let body = line.trim_end_matches('/');
                Pattern {
                    only_directories: body.len() < line.len(),
                    is_anchored: body.contains('/'),
                    text: body.trim_start_matches('/').as_bytes().to_vec(),
                }
            })
            .filter(|pattern| !pattern.text.is_empty())
            .collect();
        Self { patterns }
    }

    /// Is the file or directory at `path`, from the root, left out?
    #[must_use]
    pub fn matches(&self, path: &Path, is_dir: bool) -> bool {
        let whole = path.as_os_str().as_encoded_bytes();
        let name = path.file_name().map_or(whole, |n| n.as_encoded_bytes());
        self.patterns.iter().any(|pattern| {
            (is_dir || !pattern.only_directories)
                && glob(
                    &pattern.text,
                    if pattern.is_anchored { whole } else { name },
                )
        })
    }
}

fn glob(pattern: &[u8], text: &[u8]) -> bool {
    match pattern {
        [] => text.is_empty(),
        [b'*', b'*', b'/', rest @ ..] => {
            glob(rest, text)
                || (0..text.len()).any(|i| text[i] == b'/' && glob(rest, &text[i + 1..]))
        }
        [b'*', b'*', rest @ ..] => (0..=text.len()).any(|i| glob(rest, &text[i..])),
        [b'*', rest @ ..] => (0..=text.len())
            .take_while(|&i| i == 0 || text[i - 1] != b'/')
            .any(|i| glob(rest, &text[i..])),
        [b'?', rest @ ..] => {
            matches!(text, [c, tail @ ..] if *c != b'/' && glob(rest, tail))
        }
        [p, rest @ ..] => matches!(text, [c, tail @ ..] if c == p && glob(rest, tail)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_in_gitignore() {
        let ignore = Ignore::parse("# no\n*.log\n/docs\ntmp/\na/**/z\nb?d/*.txt\n");
        let is_ignored = |path: &str, is_dir| ignore.matches(Path::new(path), is_dir);
        assert!(is_ignored("x.log", false));
        assert!(is_ignored("deep/down/x.log", false));
        assert!(is_ignored("docs", true));
        assert!(!is_ignored("lib/docs", true));
        assert!(is_ignored("lib/tmp", true));
        assert!(!is_ignored("lib/tmp", false));
        assert!(is_ignored("a/z", true));
        assert!(is_ignored("a/b/c/z", false));
        assert!(is_ignored("bad/x.txt", false));
        assert!(!is_ignored("bad/y/x.txt", false));
        assert!(!is_ignored("README", false));
    }
}
