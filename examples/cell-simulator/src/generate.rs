//! `flynn-sim generate`.

use flynn_sched::sim::workload::{azure, google};

use crate::{Done, arguments::GenerateOptions, files::write_file};

pub(crate) fn generate(options: &GenerateOptions) -> Done {
    let workload = options
        .cell
        .shape()?
        .generate(options.time.seed, options.time.length())?;
    let whole = google::Options::default();
    if let Some(path) = &options.google {
        write_file(path, |file| {
            google::write_task_events(&workload, &whole, file)
        })?;
    }
    if let Some(path) = &options.machine_events {
        write_file(path, |file| {
            google::write_machine_events(&workload, &whole, file)
        })?;
    }
    for (path, version) in [
        (&options.azure_v1, azure::Version::V1),
        (&options.azure_v2, azure::Version::V2),
    ] {
        if let Some(path) = path {
            write_file(path, |file| azure::write_vm_table(&workload, version, file))?;
        }
    }
    Ok(())
}
