//! Health checks against real sockets and programs.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use flynn_discovery::health::{
    self, ExecCheck, HealthCheck, HealthEvent, HttpCheck, MonitorConfig, TcpCheck, Unhealthy,
};
use futures::StreamExt;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

const PLENTY: Duration = Duration::from_secs(30);

async fn verdict(check: &dyn HealthCheck) -> String {
    match health::within(PLENTY, check).await {
        Ok(()) => "healthy".to_owned(),
        Err(unhealthy) => unhealthy.to_string(),
    }
}

/// Answers every connection with these parts, each flushed on its own; returns the address.
async fn server(parts: &'static [&'static str]) -> (String, tokio::task::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    let task = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0; 1024];
            let _ = stream.read(&mut request).await;
            for part in parts {
                let _ = stream.write_all(part.as_bytes()).await;
                let _ = stream.flush().await;
            }
        }
    });
    (addr, task)
}

#[tokio::test]
async fn a_listening_port_is_healthy_and_a_closed_one_is_not() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    let check = TcpCheck::new(&addr);
    assert_eq!(verdict(&check).await, "healthy");
    drop(listener);
    assert!(
        verdict(&check)
            .await
            .starts_with(&format!("could not connect to {addr}"))
    );
}

#[tokio::test]
async fn an_http_answer_is_judged_by_status_and_body() {
    let (addr, ok) = server(&[
        "HTTP/1.1 200 OK\r\nContent-",
        "Length: 9\r\n\r\nall ",
        "is ok",
    ])
    .await;
    let check = HttpCheck::parse(&format!("http://{addr}/health")).unwrap();
    assert_eq!(verdict(&check).await, "healthy");
    assert_eq!(verdict(&check.clone().with_body("is ok")).await, "healthy");
    assert_eq!(
        verdict(&check.clone().with_body("fine")).await,
        format!("GET http://{addr}/health: \"fine\" is not in the first 9 bytes of the body")
    );
    assert_eq!(
        verdict(&check.with_status(204)).await,
        format!("GET http://{addr}/health: status 200 instead of 204")
    );
    let (addr, silent) = server(&[]).await;
    let check = HttpCheck::new(&addr, "/").unwrap();
    assert_eq!(
        verdict(&check).await,
        format!("GET http://{addr}/: the connection was closed without an answer")
    );
    ok.abort();
    silent.abort();
}

#[tokio::test]
async fn a_program_is_judged_by_its_exit_and_quoted_by_its_last_line() {
    let sh = |script: &str| ExecCheck::new("sh").with_args(["-c", script]);
    assert_eq!(verdict(&sh("exit 0")).await, "healthy");
    assert_eq!(
        verdict(&sh("echo first >&2; echo no disk >&2; exit 3")).await,
        "sh ended with exit status: 3: no disk"
    );
    // More than a pipe holds, and a grandchild that keeps it open.
    assert_eq!(
        verdict(&sh("head -c 300000 /dev/zero >&2; sleep 5 & exit 0")).await,
        "healthy"
    );
    assert!(
        verdict(&ExecCheck::new("/no/such/program"))
            .await
            .starts_with("could not run /no/such/program:")
    );
}

#[tokio::test(start_paused = true)]
async fn a_check_that_hangs_is_unhealthy() {
    #[derive(Debug)]
    struct Hangs;
    #[async_trait]
    impl HealthCheck for Hangs {
        async fn check(&self) -> Result<(), Unhealthy> {
            std::future::pending().await
        }
    }
    let after = health::within(Duration::from_secs(2), &Hangs).await;
    assert_eq!(after.unwrap_err().why, "no answer within 2s");
}

#[tokio::test(start_paused = true)]
async fn changes_of_health_are_told_once_each() {
    #[derive(Debug, Default)]
    struct Switch(AtomicBool);
    #[async_trait]
    impl HealthCheck for Switch {
        async fn check(&self) -> Result<(), Unhealthy> {
            match self.0.load(Ordering::SeqCst) {
                true => Ok(()),
                false => Err(Unhealthy::new("off")),
            }
        }
    }
    let switch = Arc::new(Switch::default());
    let check: Arc<dyn HealthCheck> = Arc::<Switch>::clone(&switch);
    let mut events = health::watch(check, MonitorConfig::default());
    let quiet = tokio::time::timeout(Duration::from_secs(60), events.next()).await;
    assert!(
        quiet.is_err(),
        "an instance that never was up does not go down"
    );
    for _ in 0..2 {
        switch.0.store(true, Ordering::SeqCst);
        assert_eq!(events.next().await.unwrap(), HealthEvent::Up);
        switch.0.store(false, Ordering::SeqCst);
        let why = "off".to_owned();
        assert_eq!(events.next().await.unwrap(), HealthEvent::Down { why });
    }
}
