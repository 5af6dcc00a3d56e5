//! The contracts on what this crate ships.

mod process {
    use std::sync::Arc;

    use async_trait::async_trait;
    use flynn_host::{
        conformance::{RuntimeFixture, RuntimeHarness, Skip},
        log::FileLogs,
        runtime::ContainerRuntime,
    };

    use crate::fixture::runtime;

    struct Process;

    #[async_trait]
    impl RuntimeHarness for Process {
        async fn fresh(&self) -> Result<RuntimeFixture, Skip> {
            let dir = tempfile::tempdir().unwrap();
            let root = dir.path().join("root");
            std::fs::create_dir(&root).unwrap();
            let path = dir.path().to_owned();
            let open = move || -> Arc<dyn ContainerRuntime> { Arc::new(runtime(&path)) };
            Ok(RuntimeFixture {
                runtime: open(),
                reopen: Box::new(open),
                root,
                logs: Arc::new(FileLogs::new(dir.path().join("logs"))),
                keep: Box::new(dir),
            })
        }
    }

    flynn_host::runtime_conformance!(Process);
}

mod file_logs {
    use std::sync::Arc;

    use async_trait::async_trait;
    use flynn_host::{
        conformance::{LogSinkFixture, LogSinkHarness, Skip},
        log::FileLogs,
    };

    struct Files;

    #[async_trait]
    impl LogSinkHarness for Files {
        async fn fresh(&self) -> Result<LogSinkFixture, Skip> {
            let dir = tempfile::tempdir().unwrap();
            // Small files, so that the cases cross many of them.
            let logs = FileLogs::new(dir.path().join("logs")).with_limits(20, 30_000);
            Ok(LogSinkFixture {
                logs: Arc::new(logs),
                keep: Box::new(dir),
            })
        }
    }

    flynn_host::log_sink_conformance!(Files);
}

mod memory_logs {
    use std::sync::Arc;

    use async_trait::async_trait;
    use flynn_host::{
        conformance::{LogSinkFixture, LogSinkHarness, Skip},
        log::MemoryLogs,
    };

    struct Memory;

    #[async_trait]
    impl LogSinkHarness for Memory {
        async fn fresh(&self) -> Result<LogSinkFixture, Skip> {
            Ok(LogSinkFixture {
                logs: Arc::new(MemoryLogs::new(2000)),
                keep: Box::new(()),
            })
        }
    }

    flynn_host::log_sink_conformance!(Memory);
}
