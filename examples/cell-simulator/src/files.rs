//! Files in and out.

use std::{
    fs::{self, File},
    io::{self, BufRead, BufReader, BufWriter, Write},
    path::{Path, PathBuf},
};

use flate2::read::MultiGzDecoder;
use flynn_sched::sim::{metrics::Outcome, plot, report};

use crate::{Done, Failure};

/// A directory that tables and plots are written into.
pub(crate) struct Directory(PathBuf);

impl Directory {
    /// Makes it, if there is none.
    pub(crate) fn create(path: &Path) -> Result<Self, Failure> {
        fs::create_dir_all(path).map_err(|error| {
            Failure::Failed(format!(
                "cannot make the directory {}: {error}",
                path.display()
            ))
        })?;
        Ok(Self(path.to_owned()))
    }

    pub(crate) fn table(
        &self,
        name: &str,
        write: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>,
    ) -> Done {
        write_file(&self.0.join(name), write)
    }

    pub(crate) fn plot(&self, name: &str, svg: &str) -> Done {
        write_file(&self.0.join(name), |file| file.write_all(svg.as_bytes()))
    }

    /// All tables and plots of one run.
    pub(crate) fn outcome(&self, outcome: &Outcome) -> Done {
        self.table("schedulers.csv", |file| {
            report::write_schedulers([outcome], file)
        })?;
        self.table("workloads.csv", |file| {
            report::write_classes([outcome], file)
        })?;
        self.table("timeline.csv", |file| report::write_timeline(outcome, file))?;
        self.plot("busyness.svg", &plot::busyness(outcome)?)?;
        self.plot("utilisation.svg", &plot::utilisation(outcome)?)?;
        self.plot("waits.svg", &plot::waits(outcome)?)
    }
}

/// Writes a file and tells its name.
pub(crate) fn write_file(
    path: &Path,
    write: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>,
) -> Done {
    let result = File::create(path).and_then(|file| {
        let mut file = BufWriter::new(file);
        write(&mut file)?;
        file.flush()
    });
    result.map_err(|error| Failure::Failed(format!("cannot write {}: {error}", path.display())))?;
    say!("wrote {}", path.display());
    Ok(())
}

/// Opens a file, unpacking it if it ends in `.gz`.
pub(crate) fn open(path: &Path) -> Result<Box<dyn BufRead>, Failure> {
    let file = File::open(path)
        .map_err(|error| Failure::Failed(format!("cannot open {}: {error}", path.display())))?;
    if path.extension().is_some_and(|extension| extension == "gz") {
        return Ok(Box::new(BufReader::new(MultiGzDecoder::new(file))));
    }
    Ok(Box::new(BufReader::new(file)))
}

/// Tells the gist of a run.
pub(crate) fn tell(outcome: &Outcome) {
    let (cpu, memory) = outcome.utilisation();
    say!(
        "{} on cell {}: {cpu:.3} of cpu and {memory:.3} of memory taken",
        outcome.architecture,
        outcome.workload
    );
    for scheduler in &outcome.schedulers {
        say!(
            "  scheduler {}: {} attempts, conflict fraction {:.4}, busyness {:.3} ± {:.3}",
            scheduler.name,
            scheduler.attempts,
            scheduler.conflict_fraction(),
            scheduler.busyness_median(),
            scheduler.busyness_mad()
        );
    }
    for class in &outcome.classes {
        let wait = class.wait();
        say!(
            "  {} jobs: {} submitted, {} scheduled, {} abandoned, {} waiting; {} tasks placed; wait {:.2} s (p50 {:.2}, p90 {:.2}, p99 {:.2})",
            class.class,
            class.submitted,
            class.scheduled,
            class.abandoned,
            class.waiting,
            class.tasks_placed,
            wait.mean,
            wait.p50,
            wait.p90,
            wait.p99
        );
    }
    if outcome.residents_left_out > 0 {
        say!(
            "  {} tasks that were to run at the beginning found no room",
            outcome.residents_left_out
        );
    }
}
