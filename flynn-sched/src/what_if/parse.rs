//! Reads hypotheses the way a person types them.

use std::str::FromStr;

use crate::{Error, HostId, Result};

use super::{Hosts, Hypothesis, NewHost, Shape};

impl Hypothesis {
    /// How many hosts one hypothesis may add.
    pub const MAX_HOSTS: u32 = 10_000;

    /// Reads several, separated by `;` or lines.
    ///
    /// # Errors
    ///
    /// As for one ([`FromStr`]); the position is that within its own text.
    pub fn parse_all(text: &str) -> Result<Vec<Self>> {
        text.split([';', '\n'])
            .map(str::trim)
            .filter(|part| !part.is_empty())
            .map(str::parse)
            .collect()
    }
}

impl FromStr for Hypothesis {
    type Err = Error;

    /// # Errors
    ///
    /// [`Error::Invalid`] names the position and what is accepted there.
    fn from_str(text: &str) -> Result<Self> {
        let mut words = Words { text, at: 0 };
        let verb = words.next();
        let parsed = match verb.map(str::to_ascii_lowercase).as_deref() {
            Some("lose") => Self::Lose(words.hosts()?),
            Some("drain") => Self::Drain(words.hosts()?),
            Some("return") => {
                words.literal(&["host"], "host")?;
                Self::Return(words.host_id()?)
            }
            Some("add") => words.add()?,
            Some("scale") => {
                let group = words.word("a group, such as scale web to 200")?.to_owned();
                words.literal(&["to"], "to and a count, such as scale web to 200")?;
                let count = words.number("a count from 0", u32::MAX)?;
                Self::Scale { group, count }
            }
            Some("remove") => {
                words.literal(&["group"], "group, such as remove group web")?;
                let group = words.word("a group, such as remove group web")?.to_owned();
                Self::Remove { group }
            }
            _ => {
                return Err(words.wrong(verb, "lose, drain, return, add, scale or remove"));
            }
        };
        match words.next() {
            None => Ok(parsed),
            rest => Err(words.wrong(rest, "nothing more; separate hypotheses by ;")),
        }
    }
}

impl TryFrom<String> for Hypothesis {
    type Error = Error;
    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

/// The words of a text that have not been read yet.
struct Words<'t> {
    text: &'t str,
    at: usize,
}

impl<'t> Words<'t> {
    fn next(&mut self) -> Option<&'t str> {
        let rest = &self.text[self.at..];
        let word = rest.split_whitespace().next()?;
        let start = rest.find(word)?;
        self.at += start + word.len();
        Some(word)
    }

    fn word(&mut self, expected: &str) -> Result<&'t str> {
        self.next().ok_or_else(|| self.wrong(None, expected))
    }

    fn literal(&mut self, accepted: &[&str], expected: &str) -> Result<()> {
        let word = self.word(expected)?;
        match accepted
            .iter()
            .any(|known| word.eq_ignore_ascii_case(known))
        {
            true => Ok(()),
            false => Err(self.wrong(Some(word), expected)),
        }
    }

    fn number(&mut self, expected: &str, most: u32) -> Result<u32> {
        let word = self.word(expected)?;
        let number = word.parse().ok().filter(|number| *number <= most);
        number.ok_or_else(|| self.wrong(Some(word), expected))
    }

    fn host_id(&mut self) -> Result<HostId> {
        let word = self.word("a host's id")?;
        HostId::parse(word).map_err(|_| {
            self.wrong(
                Some(word),
                "a host's id: 1 to 63 of a-z and 0-9, without dashes",
            )
        })
    }

    fn hosts(&mut self) -> Result<Hosts> {
        const EXPECTED: &str =
            "zone and its name, rack and its name, host and its id, or a number and hosts";
        let word = self.word(EXPECTED)?;
        match word.to_ascii_lowercase().as_str() {
            "zone" => Ok(Hosts::Zone(self.word("a zone's name")?.to_owned())),
            "rack" => Ok(Hosts::Rack(self.word("a rack's name")?.to_owned())),
            "host" => Ok(Hosts::Host(self.host_id()?)),
            number => {
                let number = number.parse().ok().filter(|n| *n > 0);
                let count = number.ok_or_else(|| self.wrong(Some(word), EXPECTED))?;
                self.literal(&["host", "hosts"], "hosts")?;
                Ok(Hosts::Fullest(count))
            }
        }
    }

    fn add(&mut self) -> Result<Hypothesis> {
        const EXPECTED: &str = "how many hosts, from 1 to 10000, such as add 10 hosts like h1";
        let word = self.word(EXPECTED)?;
        let count = word.parse().ok();
        let count = count.filter(|n| (1..=Hypothesis::MAX_HOSTS).contains(n));
        let count = count.ok_or_else(|| self.wrong(Some(word), EXPECTED))?;
        self.literal(&["host", "hosts"], "hosts")?;
        let before = self.at;
        let word = self.word(SHAPE)?;
        let host = if word.eq_ignore_ascii_case("like") {
            NewHost::Like(self.host_id()?)
        } else {
            self.at = before;
            NewHost::Shape(self.shape()?)
        };
        Ok(Hypothesis::Add { count, host })
    }

    fn shape(&mut self) -> Result<Shape> {
        let mut shape = Shape::default();
        while let Some(word) = self.next() {
            let Some((key, value)) = word.split_once('=') else {
                return Err(self.wrong(Some(word), SHAPE));
            };
            if value.is_empty() {
                return Err(self.wrong(Some(word), "a value behind ="));
            }
            let bytes = || {
                bytes(value).ok_or_else(|| {
                    self.wrong(
                        Some(word),
                        "an amount such as 32GiB, 512MiB or a number of bytes",
                    )
                })
            };
            match key {
                "cpu" => {
                    let millis = value.strip_suffix('m').unwrap_or(value).parse();
                    let expected = "thousandths of a core, such as cpu=8000";
                    shape.capacity.cpu_millis =
                        millis.map_err(|_| self.wrong(Some(word), expected))?;
                }
                "memory" => shape.capacity.memory_bytes = bytes()?,
                "disk" => shape.capacity.disk_bytes = bytes()?,
                "zone" => shape.zone = Some(value.to_owned()),
                "rack" => shape.rack = Some(value.to_owned()),
                _ => match key.split_once('.') {
                    Some(("tag", key)) if !key.is_empty() => {
                        shape.tags.insert(key.to_owned(), value.to_owned());
                    }
                    Some(("named", name)) if !name.is_empty() => {
                        let amount = value.parse().ok();
                        let expected = "a whole number, such as named.gpu=4";
                        let amount = amount.ok_or_else(|| self.wrong(Some(word), expected))?;
                        shape.named.set(name, amount);
                    }
                    _ => return Err(self.wrong(Some(word), SHAPE)),
                },
            }
        }
        let capacity = &shape.capacity;
        if capacity.cpu_millis == 0 && capacity.memory_bytes == 0 {
            return Err(self.wrong(None, "cpu= or memory=: nothing would fit on a host without"));
        }
        Ok(shape)
    }

    /// What was expected instead of the word that was read last; `None`: of the end.
    fn wrong(&self, word: Option<&str>, expected: &str) -> Error {
        let (at, found) = match word {
            Some(word) => (self.at - word.len(), format!("{word:?}")),
            None => (self.text.len(), "the end".to_owned()),
        };
        let column = self.text[..at].chars().count() + 1;
        Error::Invalid {
            what: format!("hypothesis {:?}", self.text),
            why: format!("at position {column} is {found}, expected {expected}"),
        }
    }
}

/// An amount with a binary or decimal unit, or of bytes.
fn bytes(text: &str) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let scale: u64 = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        "t" | "tib" => 1 << 40,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(scale)
}

const SHAPE: &str = "like and a host's id, or any of cpu=8000 memory=32GiB disk=1TiB zone=NAME rack=NAME \
    tag.KEY=VALUE named.NAME=AMOUNT";
