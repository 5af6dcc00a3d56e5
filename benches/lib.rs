//! How the benches measure: ours and a peer's in turn, medians, ratios, and what the work cost in CPU time.
//!
//! A figure alone says little on a shared machine, so a claim is a ratio from one run. A bench is a plain `main`:
//!
//! ```ignore
//! let mut report = Report::new("router");
//! report.compare("haproxy 2.6.12", 5, &[Metric::higher("1 KiB, 64 connections", "req/s")], ours, theirs).await?;
//! report.write()?;
//! ```
#![allow(clippy::print_stdout, reason = "a bench talks to its terminal")]
#![allow(
    clippy::missing_errors_doc,
    reason = "an error ends the bench with its message"
)]

#[path = "lib/program.rs"]
mod program;
#[path = "lib/report.rs"]
mod report;

pub use program::{Program, cpu_seconds, free_port, version};
pub use report::{Better, Metric, Report, Row, workspace_root};

/// The middle value, or the mean of the two in the middle; NaN of nothing.
#[must_use]
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match (sorted.len() / 2, sorted.len() % 2) {
        (0, 0) => f64::NAN,
        (half, 0) => f64::midpoint(sorted[half - 1], sorted[half]),
        (half, _) => sorted[half],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_or_the_mean_of_the_middle_two() {
        assert_eq!(median(&[3.0, 1.0, 2.0]).to_bits(), 2.0_f64.to_bits());
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]).to_bits(), 2.5_f64.to_bits());
        assert!(median(&[]).is_nan());
    }
}
