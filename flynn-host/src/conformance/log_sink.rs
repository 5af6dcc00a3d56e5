//! The contract of [`LogSink`](crate::log::LogSink).

use std::time::Duration;

use flynn_sched::JobId;
use futures::{StreamExt, stream::BoxStream};
use tokio::time::timeout;

use super::LogSinkFixture;
use crate::{
    Result,
    log::{Cursor, LogLine, LogStream, TailOptions},
};

impl LogSinkFixture {
    async fn write(&self, texts: impl IntoIterator<Item = String>) {
        let lines = texts.into_iter().map(|text| line(LogStream::Stdout, &text));
        self.logs.append(&id(), lines.collect()).await.unwrap();
    }

    async fn read(&self, options: TailOptions) -> Vec<String> {
        let tail = self.logs.tail(&id(), options).await.unwrap();
        tail.lines.iter().map(LogLine::text).collect()
    }
}

fn id() -> JobId {
    JobId::parse("job-1").unwrap()
}

fn line(stream: LogStream, text: &str) -> LogLine {
    LogLine {
        at_micros: 1_700_000_000_123_456,
        stream,
        message: text.as_bytes().to_vec(),
        is_whole: true,
    }
}

fn numbered(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|i| format!("{i:0100}")).collect()
}

async fn next(lines: &mut BoxStream<'static, Result<LogLine>>) -> LogLine {
    let line = timeout(Duration::from_secs(20), lines.next()).await;
    line.expect("a line comes").expect("it goes on").unwrap()
}

/// Lines are read as they were written: their time, stream and bytes, whatever those are.
pub async fn lines_are_read_as_they_were_written(f: LogSinkFixture) {
    let written = vec![
        line(LogStream::Stdout, ""),
        line(LogStream::Stderr, "  spaces \t and ünïcode "),
        LogLine {
            message: vec![0, 159, 146, 150, b'\r'],
            is_whole: false,
            ..line(LogStream::Host, "")
        },
    ];
    f.logs.append(&id(), written.clone()).await.unwrap();
    let tail = f.logs.tail(&id(), TailOptions::default()).await.unwrap();
    assert_eq!(tail.lines, written);
}

/// The newest lines are read, oldest first.
pub async fn the_newest_lines_are_read_oldest_first(f: LogSinkFixture) {
    let lines = numbered(0..1000);
    f.write(lines.clone()).await;
    for count in [0, 1, 10, 999, 1000, 2000] {
        let read = f.read(TailOptions::default().with_lines(count)).await;
        let expected = &lines[1000_usize.saturating_sub(count)..];
        assert!(read == expected, "{count}: {} lines", read.len());
    }
}

/// Lines are read by stream, and only those count.
pub async fn lines_are_read_by_stream(f: LogSinkFixture) {
    for i in 0..10 {
        let lines = vec![
            line(LogStream::Stdout, &format!("out {i}")),
            line(LogStream::Stderr, &format!("err {i}")),
        ];
        f.logs.append(&id(), lines).await.unwrap();
    }
    let options = TailOptions::default()
        .with_streams([LogStream::Stderr])
        .with_lines(2);
    assert_eq!(f.read(options).await, ["err 8", "err 9"]);
}

/// A log is read up to a point.
pub async fn a_log_is_read_up_to_a_point(f: LogSinkFixture) {
    f.write(numbered(0..5)).await;
    let end = f
        .logs
        .tail(&id(), TailOptions::default())
        .await
        .unwrap()
        .end;
    f.write(numbered(5..10)).await;
    let read = f.read(TailOptions::default().with_until(end)).await;
    assert_eq!(read, numbered(0..5));
}

/// A long line is split, and can be put together again.
pub async fn a_long_line_is_split(f: LogSinkFixture) {
    let long = "x".repeat(25_000);
    f.write([long.clone()]).await;
    let tail = f.logs.tail(&id(), TailOptions::default()).await.unwrap();
    let lengths: Vec<usize> = tail.lines.iter().map(|l| l.message.len()).collect();
    assert_eq!(lengths, [10_000, 10_000, 5_000]);
    let whole: Vec<bool> = tail.lines.iter().map(|l| l.is_whole).collect();
    assert_eq!(whole, [false, false, true]);
}

/// A log is bounded, and keeps the newest.
pub async fn a_log_is_bounded_and_keeps_the_newest(f: LogSinkFixture) {
    for start in (0..100_000).step_by(1000) {
        f.write(numbered(start..start + 1000)).await;
    }
    let read = f.read(TailOptions::default()).await;
    assert!((1000..100_000).contains(&read.len()), "{}", read.len());
    assert!(read == numbered(100_000 - read.len()..100_000));
}

/// A follower sees every line once, those before it came and those after.
pub async fn a_follower_sees_every_line_once(f: LogSinkFixture) {
    f.write(numbered(0..100)).await;
    let mut lines = f.logs.follow(&id(), Cursor::default());
    let mut seen = Vec::new();
    for round in 1..=8 {
        f.write(numbered(round * 100..round * 100 + 100)).await;
        while seen.len() < round * 100 {
            seen.push(next(&mut lines).await.text());
        }
    }
    while seen.len() < 900 {
        seen.push(next(&mut lines).await.text());
    }
    assert!(seen == numbered(0..900));
}

/// A follower that starts at the end sees only what comes.
pub async fn a_follower_that_starts_at_the_end_sees_only_what_comes(f: LogSinkFixture) {
    f.write(numbered(0..10)).await;
    let options = TailOptions::default().with_lines(3);
    let tail = f.logs.tail(&id(), options).await.unwrap();
    assert_eq!(tail.lines.len(), 3);
    let mut lines = f.logs.follow(&id(), tail.end);
    f.write(numbered(10..12)).await;
    assert_eq!(next(&mut lines).await.text(), numbered(10..11)[0]);
    assert_eq!(next(&mut lines).await.text(), numbered(11..12)[0]);
}

/// A follower that is too slow is told so, and goes on with what is there.
pub async fn a_follower_that_is_too_slow_is_told_so(f: LogSinkFixture) {
    f.write(numbered(0..10)).await;
    let mut lines = f.logs.follow(&id(), Cursor::default());
    for _ in 0..10 {
        next(&mut lines).await;
    }
    for start in (0..100_000).step_by(1000) {
        f.write(numbered(start..start + 1000)).await;
    }
    let mut was_told = false;
    loop {
        let line = next(&mut lines).await;
        was_told |= line.stream == LogStream::Host;
        if line.text() == numbered(99_999..100_000)[0] {
            break;
        }
    }
    assert!(was_told);
}

/// An unknown log is empty.
pub async fn an_unknown_log_is_empty(f: LogSinkFixture) {
    assert!(f.read(TailOptions::default()).await.is_empty());
    assert!(f.logs.jobs().await.unwrap().is_empty());
    // It may still begin: a follower waits for it.
    let mut lines = f.logs.follow(&id(), Cursor::default());
    f.write(["first".to_owned()]).await;
    assert_eq!(next(&mut lines).await.text(), "first");
}

/// A removed log is gone, and others are not.
pub async fn a_removed_log_is_gone_and_others_are_not(f: LogSinkFixture) {
    let other = JobId::parse("job-2").unwrap();
    f.write(["mine".to_owned()]).await;
    let theirs = vec![line(LogStream::Stdout, "theirs")];
    f.logs.append(&other, theirs).await.unwrap();
    assert_eq!(f.logs.jobs().await.unwrap().len(), 2);
    f.logs.remove(&id()).await.unwrap();
    f.logs.remove(&id()).await.unwrap();
    assert!(f.read(TailOptions::default()).await.is_empty());
    assert_eq!(f.logs.jobs().await.unwrap(), [other]);
}
