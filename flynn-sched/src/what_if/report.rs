//! An outcome as a person reads it.

use std::{collections::BTreeMap, fmt};

use crate::GroupId;

use super::{Fate, Outcome, Room};

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let asked: Vec<String> = self.hypotheses.iter().map(ToString::to_string).collect();
        match asked.is_empty() {
            true => writeln!(f, "if nothing changes:")?,
            false => writeln!(f, "if {}:", asked.join("; "))?,
        }
        self.jobs(f)?;
        self.unplaced(f)?;
        self.utilisation(f)?;
        let seconds = self.took_ms.div_ceil(1000);
        match self.is_at_rest {
            true => writeln!(
                f,
                "done after {seconds} s, if every job started and stopped at once"
            ),
            false => writeln!(
                f,
                "after {seconds} s the schedulers had still not come to rest"
            ),
        }
    }
}

impl Outcome {
    fn jobs(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // How often each thing happens in each group.
        let mut counts: BTreeMap<(&GroupId, u8, String), u64> = BTreeMap::new();
        let mut totals = [0_u64; 4];
        for change in &self.jobs {
            let (kind, text) = match &change.fate {
                Fate::Moved { from, to, .. } => (0, format!("from {from} to {to}")),
                Fate::Started { on } => (1, format!("on {on}")),
                Fate::Stopped { on, .. } => (2, format!("on {on}")),
                Fate::Displaced { from, .. } => (3, format!("from {from}")),
            };
            totals[usize::from(kind)] += 1;
            *counts.entry((&change.group, kind, text)).or_default() += 1;
        }
        let [moved, started, stopped, displaced] = totals;
        writeln!(
            f,
            "jobs: {moved} moved, {started} started, {stopped} stopped, {displaced} displaced"
        )?;
        let width = counts.keys().map(|(group, ..)| group.as_str().len());
        let width = width.max().unwrap_or_default();
        for ((group, kind, text), count) in counts.iter().take(LINES) {
            let verb = ["moved", "started", "stopped", "displaced"][usize::from(*kind)];
            writeln!(f, "  {group:<width$}  {count:>5} {verb} {text}")?;
        }
        rest(f, counts.len())
    }

    fn unplaced(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.unplaced.is_empty() {
            return Ok(());
        }
        writeln!(f, "without a place:")?;
        let width = self.unplaced.iter().map(|lack| lack.group.as_str().len());
        let width = width.max().unwrap_or_default();
        for lack in self.unplaced.iter().take(LINES) {
            let (group, missing) = (&lack.group, lack.missing);
            writeln!(
                f,
                "  {group:<width$}  {missing:>5} ({} before): {}",
                lack.missing_before, lack.why
            )?;
        }
        rest(f, self.unplaced.len())?;
        match &self.hosts_needed {
            None => Ok(()),
            Some(needed) => match needed.count {
                Some(1) => writeln!(f, "1 more host like {} would place all of it", needed.like),
                Some(n) => writeln!(
                    f,
                    "{n} more hosts like {} would place all of it",
                    needed.like
                ),
                None => writeln!(
                    f,
                    "no number of hosts like {} would place all of it (tried up to {})",
                    needed.like, needed.tried
                ),
            },
        }
    }

    fn utilisation(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let none = Room::default();
        let mut rows = vec![vec!["zone".to_owned(), "hosts".to_owned()]];
        let names = self.resources();
        rows[0].extend(names.iter().cloned());
        let zones: Vec<_> = self
            .zones_before
            .keys()
            .chain(self.zones_after.keys())
            .collect();
        let zones: std::collections::BTreeSet<_> = zones.into_iter().collect();
        let of_zones = zones.iter().take(LINES).map(|zone| {
            let name = zone.as_deref().unwrap_or("(none)").to_owned();
            let before = self.zones_before.get(*zone).unwrap_or(&none);
            (name, before, self.zones_after.get(*zone).unwrap_or(&none))
        });
        let of_all = [("all".to_owned(), &self.before, &self.after)];
        for (name, before, after) in of_zones.chain(of_all) {
            let mut row = vec![
                name,
                arrow(before.hosts.to_string(), after.hosts.to_string()),
            ];
            let (before, after) = (before.shares(), after.shares());
            for name in &names {
                row.push(arrow(percent(&before, name), percent(&after, name)));
            }
            rows.push(row);
        }
        writeln!(f, "promised on the hosts that take jobs:")?;
        table(f, &rows)?;
        match &self.tightest {
            Some((name, share)) => {
                writeln!(
                    f,
                    "the tightest is {name}: {:.0} % is promised",
                    share * 100.0
                )
            }
            None => Ok(()),
        }
    }

    /// The resources that any zone has: the plain ones first.
    fn resources(&self) -> Vec<String> {
        let mut names: Vec<String> = Vec::new();
        for room in [&self.before, &self.after] {
            for (name, _) in room.shares() {
                if !names.contains(&name) {
                    names.push(name);
                }
            }
        }
        names
    }
}

fn arrow(before: String, after: String) -> String {
    match before == after {
        true => before,
        false => format!("{before} -> {after}"),
    }
}

fn percent(shares: &[(String, f64)], name: &str) -> String {
    match shares.iter().find(|(known, _)| known == name) {
        Some((_, share)) => format!("{:.0} %", share * 100.0),
        None => "-".to_owned(),
    }
}

fn table(f: &mut fmt::Formatter<'_>, rows: &[Vec<String>]) -> fmt::Result {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    for row in rows {
        let cells = row
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:<width$}"));
        let line = cells.collect::<Vec<_>>().join("  ");
        writeln!(f, "  {}", line.trim_end())?;
    }
    Ok(())
}

fn rest(f: &mut fmt::Formatter<'_>, all: usize) -> fmt::Result {
    match all.checked_sub(LINES) {
        None | Some(0) => Ok(()),
        Some(more) => writeln!(f, "  ... and {more} more"),
    }
}

/// How many lines of one kind are shown.
const LINES: usize = 50;
