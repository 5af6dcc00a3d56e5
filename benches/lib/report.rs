//! Rounds, medians and ratios, and the files that keep them.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::median;

/// What a bench found.
#[derive(Debug)]
pub struct Report {
    name: &'static str,
    /// What else the machine was doing when the bench began.
    load: String,
    rows: Vec<Row>,
}

/// One line of a report.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Row {
    /// What was done.
    pub case: String,
    /// The unit of `ours` and `peer`.
    pub unit: String,
    /// Our median.
    pub ours: f64,
    /// The peer's median, where there is a peer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<f64>,
    /// The peer with its version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer_name: Option<String>,
    /// More than 1 means ours is better.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ratio: Option<f64>,
    /// What bounds the figure and where the bound comes from, where no peer can run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<String>,
    /// How many rounds the medians are of.
    pub rounds: usize,
    /// Which direction is better.
    pub better: Better,
    /// What else was found, by name.
    #[serde(flatten)]
    pub more: BTreeMap<String, serde_json::Value>,
}

impl Row {
    /// A figure of ours without a peer.
    #[must_use]
    pub fn alone(case: &str, unit: &str, ours: f64, better: Better, rounds: usize) -> Self {
        Self {
            case: case.to_owned(),
            unit: unit.to_owned(),
            ours,
            peer: None,
            peer_name: None,
            ratio: None,
            limit: None,
            rounds,
            better,
            more: BTreeMap::new(),
        }
    }

    /// Says what bounds the figure.
    #[must_use]
    pub fn with_limit(mut self, limit: &str) -> Self {
        self.limit = Some(limit.to_owned());
        self
    }

    /// Adds what else was found.
    #[must_use]
    pub fn with(mut self, name: &str, value: serde_json::Value) -> Self {
        self.more.insert(name.to_owned(), value);
        self
    }
}

/// Which direction is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(clippy::exhaustive_enums, reason = "there is no third direction")]
pub enum Better {
    /// Such as requests per second.
    Higher,
    /// Such as latency.
    Lower,
}

/// One figure that a round gives.
#[derive(Debug, Clone)]
pub struct Metric {
    case: String,
    unit: &'static str,
    better: Better,
}

impl Metric {
    /// A figure of which more is better.
    #[must_use]
    pub fn higher(case: impl Into<String>, unit: &'static str) -> Self {
        Self {
            case: case.into(),
            unit,
            better: Better::Higher,
        }
    }

    /// A figure of which less is better.
    #[must_use]
    pub fn lower(case: impl Into<String>, unit: &'static str) -> Self {
        Self {
            case: case.into(),
            unit,
            better: Better::Lower,
        }
    }
}

impl Report {
    /// A report that [`write`](Self::write) puts into `target/bench/<name>.json`.
    #[must_use]
    pub fn new(name: &'static str) -> Self {
        println!("bench {name}, {} at {}", machine(), commit());
        let load = load();
        Self {
            name,
            load,
            rows: Vec::new(),
        }
    }

    /// Runs ours and the peer's in turn, `rounds` times each, and notes medians and ratios.
    ///
    /// Each call gives one value for each of `metrics`, in their order. An error in either is the end: a side that
    /// fails is not slow, it is wrong.
    pub async fn compare(
        &mut self,
        peer_name: &str,
        rounds: usize,
        metrics: &[Metric],
        mut ours: impl AsyncFnMut() -> Result<Vec<f64>>,
        mut peer: impl AsyncFnMut() -> Result<Vec<f64>>,
    ) -> Result<()> {
        let (mut our_rounds, mut peer_rounds) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            our_rounds.push(ours().await.context("ours")?);
            peer_rounds.push(peer().await.with_context(|| peer_name.to_owned())?);
        }
        for (i, metric) in metrics.iter().enumerate() {
            let ours = column(&our_rounds, i)?;
            let peer = column(&peer_rounds, i)?;
            let ratio = match metric.better {
                Better::Higher => ours / peer,
                Better::Lower => peer / ours,
            };
            println!(
                "{}: {} {}, {peer_name} {}, ratio {ratio:.2}",
                metric.case,
                figure(ours),
                metric.unit,
                figure(peer)
            );
            self.rows.push(Row {
                case: metric.case.clone(),
                unit: metric.unit.to_owned(),
                ours,
                peer: Some(peer),
                peer_name: Some(peer_name.to_owned()),
                ratio: Some(ratio),
                limit: None,
                rounds,
                better: metric.better,
                more: BTreeMap::new(),
            });
        }
        Ok(())
    }

    /// Runs ours alone, where no peer can run; `limit` says what bounds the figures and where that comes from.
    pub async fn alone(
        &mut self,
        limit: &str,
        rounds: usize,
        metrics: &[Metric],
        mut ours: impl AsyncFnMut() -> Result<Vec<f64>>,
    ) -> Result<()> {
        let mut our_rounds = Vec::new();
        for _ in 0..rounds {
            our_rounds.push(ours().await?);
        }
        for (i, metric) in metrics.iter().enumerate() {
            let ours = column(&our_rounds, i)?;
            println!(
                "{}: {} {} ({limit})",
                metric.case,
                figure(ours),
                metric.unit
            );
            self.rows.push(Row {
                case: metric.case.clone(),
                unit: metric.unit.to_owned(),
                ours,
                peer: None,
                peer_name: None,
                ratio: None,
                limit: Some(limit.to_owned()),
                rounds,
                better: metric.better,
                more: BTreeMap::new(),
            });
        }
        Ok(())
    }

    /// Keeps the rows of the last run for cases that are not run this time. Without such a run there are none.
    #[must_use]
    pub fn with_earlier_rows(mut self) -> Self {
        let path = workspace_root().join(format!("target/bench/{}.json", self.name));
        let earlier = fs::read(path).ok();
        self.rows = earlier
            .and_then(|json| serde_json::from_slice(&json).ok())
            .unwrap_or_default();
        self
    }

    /// Notes a row that was computed elsewhere, in the place of one for the same case.
    pub fn push(&mut self, row: Row) {
        match self.rows.iter_mut().find(|other| other.case == row.case) {
            Some(other) => *other = row,
            None => self.rows.push(row),
        }
    }

    /// Writes `target/bench/<name>.json` and this bench's table in `benches/README.md`.
    pub fn write(self) -> Result<()> {
        let root = workspace_root();
        let dir = root.join("target/bench");
        fs::create_dir_all(&dir)?;
        let path = dir.join(format!("{}.json", self.name));
        fs::write(&path, serde_json::to_vec_pretty(&self.rows)?)?;
        println!("wrote {}", path.display());
        let readme = root.join("benches/README.md");
        let text = fs::read_to_string(&readme).unwrap_or_else(|_| INTRODUCTION.to_owned());
        fs::write(&readme, with_section(&text, self.name, &self.table()))?;
        Ok(())
    }

    fn table(&self) -> String {
        let mut table = format!(
            "{}, commit {}, load {} before.\n\n",
            machine(),
            commit(),
            self.load
        );
        table.push_str(
            "| case | unit | ours | peer | | ratio | rounds |\n|---|---|--:|--:|---|--:|--:|\n",
        );
        for row in &self.rows {
            let value = |v: Option<f64>| v.map(figure).unwrap_or_default();
            let against = row.peer_name.as_ref().or(row.limit.as_ref());
            let ratio = row.ratio.map(|r| format!("{r:.2}")).unwrap_or_default();
            // Writing to a string cannot fail.
            let _ = writeln!(
                table,
                "| {} | {} | {} | {} | {} | {ratio} | {} |",
                row.case,
                row.unit,
                value(Some(row.ours)),
                value(row.peer),
                against.map_or("", String::as_str),
                row.rounds,
            );
        }
        table
    }
}

/// The value with three digits that say something, and all digits before the point.
fn figure(value: f64) -> String {
    let mut decimals = 2_usize;
    let mut magnitude = value.abs();
    while decimals > 0 && magnitude >= 10.0 {
        magnitude /= 10.0;
        decimals -= 1;
    }
    while decimals < 9 && magnitude > 0.0 && magnitude < 1.0 {
        magnitude *= 10.0;
        decimals += 1;
    }
    if value == 0.0 {
        decimals = 0;
    }
    format!("{value:.decimals$}")
}

/// `text` with the section `name` replaced by `body`, or added at the end.
fn with_section(text: &str, name: &str, body: &str) -> String {
    let heading = format!("## {name}\n");
    let section = format!("{heading}\n{body}");
    let Some(start) = text.find(&heading) else {
        return format!("{}\n\n{section}", text.trim_end());
    };
    let rest = &text[start + heading.len()..];
    let after = rest.find("\n## ").map_or("", |i| &rest[i..]);
    format!("{}{section}{after}", &text[..start])
}

fn column(rounds: &[Vec<f64>], i: usize) -> Result<f64> {
    let values: Vec<f64> = rounds.iter().filter_map(|r| r.get(i).copied()).collect();
    ensure!(
        values.len() == rounds.len() && values.iter().all(|v| v.is_finite()),
        "a round gave no value for metric {i}"
    );
    Ok(median(&values))
}

/// The directory of the workspace.
#[must_use]
pub fn workspace_root() -> PathBuf {
    let benches = Path::new(env!("CARGO_MANIFEST_DIR"));
    benches.parent().unwrap_or(benches).to_owned()
}

fn machine() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info
        .lines()
        .find_map(|l| l.strip_prefix("model name")?.split_once(": "))
        .map_or("unknown CPU", |(_, model)| model);
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("{model}, {cores} cores, Linux {}", kernel.trim())
}

/// How many programs wanted to run, on average over the last minute.
fn load() -> String {
    let averages = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    averages.split(' ').next().unwrap_or_default().to_owned()
}

fn commit() -> String {
    let git = |args: &[&str]| {
        let output = Command::new("git")
            .args(args)
            .current_dir(workspace_root())
            .output()
            .ok()?;
        Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let hash = git(&["rev-parse", "--short", "HEAD"]).filter(|h| !h.is_empty());
    let changes = git(&["status", "--porcelain", "--untracked-files=no"]).unwrap_or_default();
    let is_changed = changes.lines().any(|l| !l.ends_with("benches/README.md"));
    match hash {
        Some(hash) if is_changed => format!("{hash} with changes"),
        Some(hash) => hash,
        None => "unknown".to_owned(),
    }
}

const INTRODUCTION: &str = "\
# Benches

Each claim is a ratio from one run: ours and a real peer's in turn (A B A B …), medians, both free of errors, the same
work, durability, threads and cores. A ratio over 1 means ours is better. Run one with
`cargo bench -p flynn-benches --bench router`; it writes `target/bench/<name>.json` and its table below.
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_is_replaced_in_place_or_added() {
        let text = with_section("# T\n", "a", "1\n");
        let text = with_section(&text, "b", "2\n");
        assert_eq!(text, "# T\n\n## a\n\n1\n\n## b\n\n2\n");
        assert_eq!(
            with_section(&text, "a", "3\n"),
            "# T\n\n## a\n\n3\n\n## b\n\n2\n"
        );
    }

    #[test]
    fn a_figure_shows_three_digits_however_small_it_is() {
        for (value, text) in [
            (0.0, "0"),
            (0.00553, "0.00553"),
            (0.0834, "0.0834"),
            (0.999, "0.999"),
            (1.9, "1.90"),
            (-53.26, "-53.3"),
            (24_071.4, "24071"),
        ] {
            assert_eq!(figure(value), text);
        }
    }

    #[tokio::test]
    async fn medians_and_ratios_are_of_the_rounds() {
        let mut report = Report {
            name: "t",
            load: String::new(),
            rows: Vec::new(),
        };
        let mut values = [1.0, 9.0, 2.0].into_iter();
        let metrics = [Metric::higher("c", "req/s")];
        let ours = async || Ok(vec![values.next().unwrap()]);
        report
            .compare("peer", 3, &metrics, ours, async || Ok(vec![4.0]))
            .await
            .unwrap();
        assert_eq!(report.rows[0].ratio, Some(0.5));
        let none = async || Ok(vec![]);
        assert!(
            report
                .compare("peer", 1, &metrics, none, async || Ok(vec![4.0]))
                .await
                .is_err()
        );
    }
}
