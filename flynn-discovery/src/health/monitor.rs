//! When to believe a check: a pure core.

use std::time::Duration;

/// How often to check, and how many results it takes to change one's mind.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct MonitorConfig {
    /// The time between checks until the first success: an instance that has just started is found soon.
    pub start_interval: Duration,
    /// The time between checks after that.
    pub interval: Duration,
    /// How many results in a row change the state; at least one.
    pub threshold: u32,
    /// How long one check may take.
    pub timeout: Duration,
}

impl Default for MonitorConfig {
    fn default() -> Self {
        Self {
            start_interval: Duration::from_millis(100),
            interval: Duration::from_secs(2),
            threshold: 2,
            timeout: Duration::from_secs(2),
        }
    }
}

impl MonitorConfig {
    /// With another [`start_interval`](Self::start_interval).
    #[must_use]
    pub fn with_start_interval(self, start_interval: Duration) -> Self {
        Self {
            start_interval,
            ..self
        }
    }

    /// With another [`interval`](Self::interval).
    #[must_use]
    pub fn with_interval(self, interval: Duration) -> Self {
        Self { interval, ..self }
    }

    /// With another [`threshold`](Self::threshold).
    #[must_use]
    pub fn with_threshold(self, threshold: u32) -> Self {
        Self { threshold, ..self }
    }

    /// With another [`timeout`](Self::timeout).
    #[must_use]
    pub fn with_timeout(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }
}

/// What is believed of an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Health {
    /// It has never answered yet.
    Starting,
    /// It is fit to serve.
    Up,
    /// It was, and is not any more.
    Down,
}

/// Turns results of checks into a belief that does not flap.
///
/// ```text
///              first success                threshold failures in a row
///  Starting ───────────────────▶ Up ─────────────────────────────────────▶ Down
///   ↺ failures                    ◀──────────────────────────────────────
///                                          threshold successes in a row
/// ```
#[derive(Debug, Clone)]
pub struct Monitor {
    config: MonitorConfig,
    health: Health,
    /// Results in a row that contradict `health`.
    contrary: u32,
}

impl Monitor {
    /// A monitor that believes nothing yet.
    #[must_use]
    pub fn new(config: MonitorConfig) -> Self {
        Self {
            config,
            health: Health::Starting,
            contrary: 0,
        }
    }

    /// Takes the result of one check; did it change the belief?
    pub fn record(&mut self, is_healthy: bool) -> bool {
        let (needed, other) = match (self.health, is_healthy) {
            (Health::Starting, true) => (1, Health::Up),
            (Health::Up, false) => (self.config.threshold, Health::Down),
            (Health::Down, true) => (self.config.threshold, Health::Up),
            (Health::Starting | Health::Down, false) | (Health::Up, true) => {
                self.contrary = 0;
                return false;
            }
        };
        self.contrary += 1;
        if self.contrary < needed {
            return false;
        }
        self.contrary = 0;
        self.health = other;
        true
    }

    /// What is believed.
    #[must_use]
    pub fn health(&self) -> Health {
        self.health
    }

    /// How long to wait before the next check.
    #[must_use]
    pub fn interval(&self) -> Duration {
        match self.health {
            Health::Starting => self.config.start_interval,
            Health::Up | Health::Down => self.config.interval,
        }
    }

    /// How it was configured.
    #[must_use]
    pub fn config(&self) -> &MonitorConfig {
        &self.config
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The belief after each result: `.` starting, `+` up, `-` down. Results: `s` success, `f` failure.
    fn believed(threshold: u32, results: &str) -> String {
        let mut monitor = Monitor::new(MonitorConfig::default().with_threshold(threshold));
        let believe = |result| {
            let before = monitor.health();
            let flipped = monitor.record(result == 's');
            assert_eq!(flipped, before != monitor.health());
            match monitor.health() {
                Health::Starting => '.',
                Health::Up => '+',
                Health::Down => '-',
            }
        };
        results.chars().map(believe).collect()
    }

    #[test]
    fn the_first_success_counts_at_once_and_later_changes_need_a_row() {
        assert_eq!(believed(2, "fffs"), "...+");
        assert_eq!(believed(2, "sfsffsfss"), "++++----+");
        assert_eq!(believed(3, "sffsfffssfsss"), "++++++------+");
        assert_eq!(believed(1, "sfsf"), "+-+-");
        assert_eq!(believed(0, "sfsf"), "+-+-", "zero is as good as one");
    }

    #[test]
    fn checks_are_frequent_only_until_the_first_success() {
        let mut monitor = Monitor::new(MonitorConfig::default());
        assert_eq!(monitor.interval(), Duration::from_millis(100));
        monitor.record(false);
        assert_eq!(monitor.interval(), Duration::from_millis(100));
        monitor.record(true);
        assert_eq!(monitor.interval(), Duration::from_secs(2));
        monitor.record(false);
        monitor.record(false);
        assert_eq!(
            (monitor.health(), monitor.interval()),
            (Health::Down, Duration::from_secs(2))
        );
    }

    proptest! {
        /// Steady results win, whatever came before.
        #[test]
        fn it_converges(results in prop::collection::vec(any::<bool>(), 0..50), last: bool, threshold in 1..5_u32) {
            let mut monitor = Monitor::new(MonitorConfig::default().with_threshold(threshold));
            for result in results { monitor.record(result); }
            for _ in 0..threshold { monitor.record(last); }
            prop_assert_eq!(monitor.health() == Health::Up, last);
        }
    }
}
