//! Windows that return every week, in a time zone.

use std::{fmt, str::FromStr};

use jiff::{
    Timestamp,
    tz::{Offset, TimeZone, TimeZoneDatabase},
};
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// Certain days of the week, from one minute of the day to another, in a time zone.
///
/// Written as days, times and zone: `mon-fri 08:00-18:00 Europe/Berlin`, `sat,sun 00:00-24:00 UTC`,
/// `daily 22:00-06:00 +02:00`. A window that ends before it begins goes on into the next day; the days are those it
/// begins on. When clocks are changed, the window follows what clocks show: what they skip is not covered, what they show
/// twice is covered twice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Weekly {
    /// From Monday.
    days: [bool; 7],
    /// Minutes since midnight; `end` is 1 to 1440.
    start: u16,
    end: u16,
    zone: Zone,
}

impl Weekly {
    /// From minute `start` (0 to 1439) to just before minute `end` (1 to 1440) on these days, Monday first.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] when a minute is outside of that, or no day is chosen.
    pub fn new(days: [bool; 7], start: u16, end: u16, zone: Zone) -> Result<Self> {
        let why = match () {
            () if !days.contains(&true) => "choose at least one day",
            () if start > 1439 => "the first minute is 0 to 1439",
            () if !(1..=1440).contains(&end) => "the end is minute 1 to 1440",
            () => {
                return Ok(Self {
                    days,
                    start,
                    end,
                    zone,
                });
            }
        };
        Err(Error::Invalid {
            what: format!("weekly window from minute {start} to {end}"),
            why: why.to_owned(),
        })
    }

    /// Does it hold at this moment (in milliseconds since the Unix epoch)? Never after the year 9999.
    #[must_use]
    pub fn covers(&self, now_ms: u64) -> bool {
        let timestamp = i64::try_from(now_ms).ok().map(Timestamp::from_millisecond);
        let Some(Ok(timestamp)) = timestamp else {
            return false;
        };
        let there = self.zone.zone.to_datetime(timestamp);
        let today = usize::from(there.weekday().to_monday_zero_offset().unsigned_abs()) % 7;
        let hours = u16::from(there.hour().unsigned_abs());
        let minute = hours * 60 + u16::from(there.minute().unsigned_abs());
        if self.start < self.end {
            return self.days[today] && (self.start..self.end).contains(&minute);
        }
        let began_yesterday = self.days[(today + 6) % 7] && minute < self.end;
        began_yesterday || self.days[today] && minute >= self.start
    }
}

impl fmt::Display for Weekly {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.days == [true; 7] {
            f.write_str("daily")?;
        } else {
            let days = NAMES.iter().zip(self.days).filter(|(_, is_on)| *is_on);
            let days: Vec<&str> = days.map(|(name, _)| *name).collect();
            f.write_str(&days.join(","))?;
        }
        let (start, end) = (self.start, self.end);
        write!(
            f,
            " {:02}:{:02}-{:02}:{:02} {}",
            start / 60,
            start % 60,
            end / 60,
            end % 60,
            self.zone
        )
    }
}

impl FromStr for Weekly {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let mut words = text.split_whitespace();
        let (days, times, zone) = match (words.next(), words.next(), words.next(), words.next()) {
            (Some(days), Some(times), Some(zone), None) => (days, times, zone),
            (_, _, _, Some(rest)) => return Err(wrong(text, rest, "nothing after the zone")),
            _ => return Err(wrong(text, "", "days, times and a zone")),
        };
        let mut on = [false; 7];
        for part in days.split(',') {
            let range = match part.split_once('-') {
                _ if part == "daily" => Some((0, 6)),
                Some((first, last)) => day(first).zip(day(last)),
                None => day(part).zip(day(part)),
            };
            let Some((first, last)) = range else {
                return Err(wrong(
                    text,
                    part,
                    "a day such as mon, a range such as mon-fri, or daily",
                ));
            };
            (0..=(last + 7 - first) % 7).for_each(|n| on[(first + n) % 7] = true);
        }
        let minutes = times.split_once('-').map(|(a, b)| (minute(a), minute(b)));
        let Some((Some(start), Some(end))) = minutes.filter(|(start, _)| *start != Some(1440))
        else {
            return Err(wrong(
                text,
                times,
                "times from 00:00 to 24:00, such as 08:00-18:00",
            ));
        };
        let zone = Zone::parse(zone).map_err(|_| {
            wrong(
                text,
                zone,
                "UTC, an offset such as +02:00, or a zone such as Europe/Berlin",
            )
        })?;
        // Until midnight: written as 24:00 or as 00:00.
        Self::new(on, start, if end == 0 { 1440 } else { end }, zone)
    }
}

impl TryFrom<String> for Weekly {
    type Error = Error;
    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Weekly> for String {
    fn from(weekly: Weekly) -> Self {
        weekly.to_string()
    }
}

/// A time zone: `UTC`, a fixed offset such as `+02:00`, or a name of the IANA database such as `Europe/Berlin`. The
/// database is part of this crate: what a name means does not depend on the machine.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Zone {
    name: String,
    zone: TimeZone,
}

impl Zone {
    /// Parses a time zone.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] when it is neither `UTC` nor an offset up to 24 hours nor a name of the database.
    pub fn parse(text: &str) -> Result<Self> {
        let zone = match text.strip_prefix(['+', '-']) {
            Some(_) => offset(text).map(TimeZone::fixed),
            None if text.eq_ignore_ascii_case("utc") => Some(TimeZone::UTC),
            None => TimeZoneDatabase::bundled().get(text).ok(),
        };
        match zone {
            Some(zone) => Ok(Self {
                name: text.to_owned(),
                zone,
            }),
            None => Err(Error::Invalid {
                what: format!("time zone {text:?}"),
                why: "give UTC, an offset such as +02:00, or a name such as Europe/Berlin"
                    .to_owned(),
            }),
        }
    }
}

impl PartialEq for Zone {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for Zone {}

impl fmt::Display for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl TryFrom<String> for Zone {
    type Error = Error;
    fn try_from(text: String) -> Result<Self> {
        Self::parse(&text)
    }
}

impl From<Zone> for String {
    fn from(zone: Zone) -> Self {
        zone.name
    }
}

fn day(name: &str) -> Option<usize> {
    NAMES.iter().position(|day| day.eq_ignore_ascii_case(name))
}

fn minute(text: &str) -> Option<u16> {
    let (hours, minutes) = text.split_once(':')?;
    let two_digits = |text: &str| text.len() == 2 && text.bytes().all(|b| b.is_ascii_digit());
    if !two_digits(hours) || !two_digits(minutes) {
        return None;
    }
    let (hours, minutes): (u16, u16) = (hours.parse().ok()?, minutes.parse().ok()?);
    (minutes < 60 && hours * 60 + minutes <= 1440).then_some(hours * 60 + minutes)
}

fn offset(text: &str) -> Option<Offset> {
    let seconds = i32::from(minute(&text[1..])?) * 60;
    let sign = if text.starts_with('-') { -1 } else { 1 };
    Offset::from_seconds(sign * seconds).ok()
}

/// `part` is a slice of `text`, or empty for its end.
fn wrong(text: &str, part: &str, expected: &str) -> Error {
    let at = match part.is_empty() {
        true => text.len(),
        false => text.find(part).unwrap_or_default(),
    };
    Error::Invalid {
        what: format!("weekly window {text:?}"),
        why: format!(
            "at position {}: expected {expected}; the whole is written as mon-fri 08:00-18:00 Europe/Berlin",
            at + 1
        ),
    }
}

const NAMES: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
