//! Cron expressions in a time zone.

use croner::{
    Cron as Expression,
    parser::{CronParser, Seconds, Year},
};
use jiff::{
    Timestamp,
    tz::{TimeZone, TimeZoneDatabase},
};

use crate::{Error, Result};

/// The times that a cron expression means in a time zone.
///
/// What happens where clocks are changed is what Vixie cron does:
///
/// * An expression that names its hours and minutes (`30 2 * * *`) is meant to run once a day. On the night on which
///   02:30 does not exist it runs at the first moment after the gap (03:00), and on the night on which 02:30 exists twice
///   it runs at the first of them.
/// * An expression with a `*` or a step among its hours or minutes (`*/15 * * * *`) is meant to run at intervals. What
///   falls into the gap is left out, and what exists twice runs twice.
///
/// The time zones are those that were compiled in with this crate, not the system's.
#[derive(Debug, Clone)]
pub struct Timetable {
    expression: Expression,
    zone: TimeZone,
}

impl Timetable {
    /// Parses an expression (see [`Cron::expression`](crate::Cron::expression)) and looks up a time zone.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] says what is wrong with it and at which position (in characters, from 1), that the time zone is
    /// not known, or that the expression means no time at all, such as the 31st of February.
    pub fn parse(expression: &str, zone: &str) -> Result<Self> {
        let parsed = parser()
            .parse(expression)
            .map_err(|error| locate(expression, &error.to_string()))?;
        let zone = TimeZoneDatabase::bundled()
            .get(zone)
            .map_err(|_| Error::Invalid {
                what: format!("time zone {zone:?}"),
                why: "is not known: use an IANA name such as UTC or Europe/Zurich".to_owned(),
            })?;
        let timetable = Self {
            expression: parsed,
            zone,
        };
        match timetable.next_after(SOME_TIME_MS) {
            Some(_) => Ok(timetable),
            None => Err(Error::Invalid {
                what: format!("cron expression {expression:?}"),
                why: "means a time that never comes".to_owned(),
            }),
        }
    }

    /// The first time after `ms`. All times are in milliseconds since the Unix epoch.
    #[must_use]
    pub fn next_after(&self, ms: u64) -> Option<u64> {
        let after = at(ms)?.to_zoned(self.zone.clone());
        let next = self.expression.iter_after(after).next()?;
        u64::try_from(next.timestamp().as_millisecond()).ok()
    }

    /// The latest times that are later than `after_ms` and not later than `until_ms`, at most `limit`, the oldest first.
    #[must_use]
    pub fn latest(&self, after_ms: u64, until_ms: u64, limit: usize) -> Vec<u64> {
        if until_ms <= after_ms || limit == 0 {
            return Vec::new();
        }
        // The first whole second behind `until_ms`: times are whole seconds, and the search excludes where it begins.
        let Some(end) = at((until_ms / 1000 + 1).saturating_mul(1000)) else {
            return Vec::new();
        };
        let times = self.expression.iter_before(end.to_zoned(self.zone.clone()));
        let mut times: Vec<u64> = times
            .map_while(|time| u64::try_from(time.timestamp().as_millisecond()).ok())
            .take_while(|time| *time > after_ms)
            .take(limit)
            .collect();
        times.reverse();
        times
    }
}

fn parser() -> CronParser {
    CronParser::builder()
        .seconds(Seconds::Optional)
        .year(Year::Disallowed)
        .build()
}

fn at(ms: u64) -> Option<Timestamp> {
    Timestamp::from_millisecond(i64::try_from(ms).ok()?).ok()
}

/// Finds out which part of an expression is wrong: each is tried alone.
fn locate(expression: &str, why: &str) -> Error {
    let fields: Vec<(usize, &str)> = fields(expression);
    let invalid = |why: String| Error::Invalid {
        what: format!("cron expression {expression:?}"),
        why,
    };
    if !(5..=6).contains(&fields.len()) {
        let fields = fields.len();
        return invalid(format!(
            "has {fields} fields: use 5 (minute, hour, day of month, month, day of week), 6 with seconds before them, or \
             a name such as @daily"
        ));
    }
    let is_wrong = |part: &str, at: usize| {
        let mut alone = vec!["*"; fields.len()];
        alone[at] = part;
        parser().parse(&alone.join(" ")).is_err()
    };
    for (n, (start, field)) in fields.iter().enumerate() {
        if !is_wrong(field, n) {
            continue;
        }
        let mut part_start = *start;
        let mut found = (*start, *field);
        for part in field.split(',') {
            if is_wrong(part, n) {
                found = (part_start, part);
                break;
            }
            part_start += part.len() + 1;
        }
        let (offset, part) = found;
        let position = expression[..offset].chars().count() + 1;
        let name = NAMES[n + NAMES.len() - fields.len()];
        return invalid(format!(
            "position {position}: {part:?} is no {name}: {}",
            why.trim_end_matches('.')
        ));
    }
    invalid(why.to_owned())
}

/// The fields of an expression and where they begin, in bytes.
fn fields(expression: &str) -> Vec<(usize, &str)> {
    let offset = |field: &str| field.as_ptr() as usize - expression.as_ptr() as usize;
    expression
        .split_whitespace()
        .map(|field| (offset(field), field))
        .collect()
}

const NAMES: [&str; 6] = [
    "second (0 to 59)",
    "minute (0 to 59)",
    "hour (0 to 23)",
    "day of the month (1 to 31)",
    "month (1 to 12, JAN to DEC)",
    "day of the week (0 to 7, SUN to SAT)",
];

/// The year 2000: whatever comes at all comes after it.
const SOME_TIME_MS: u64 = 946_684_800_000;
