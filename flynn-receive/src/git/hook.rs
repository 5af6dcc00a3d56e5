//! The receiver's end of the hook that git runs before it accepts a push.

use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, mknodat};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::unix::pipe,
};

use super::Update;
use crate::{Error, Result};

/// The two pipes between the hook of one push and the receiver.
#[derive(Debug)]
pub(crate) struct Hook {
    dir: PathBuf,
    request: BufReader<pipe::Receiver>,
    answer: pipe::Sender,
}

/// What the hook says of a push.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Pushed {
    /// The refs that would change.
    pub(crate) updates: Vec<Update>,
    /// Variables that let git find what was pushed and is not accepted yet.
    pub(crate) quarantine: Vec<(String, String)>,
}

impl Hook {
    /// Makes the pipes in `dir`, which must outlive the hook.
    pub(crate) fn new(dir: &Path) -> Result<Self> {
        let failed = || Error::storage("make a pipe");
        for name in ["request", "answer"] {
            let mode = Mode::RUSR | Mode::WUSR;
            mknodat(CWD, dir.join(name), FileType::Fifo, mode, 0)
                .map_err(|e| failed()(e.into()))?;
        }
        // Opened for reading and writing, a pipe neither waits for its other end nor ends with it: the hook may come
        // and go when it likes.
        let mut options = pipe::OpenOptions::new();
        options.read_write(true);
        let request = options
            .open_receiver(dir.join("request"))
            .map_err(failed())?;
        let answer = options.open_sender(dir.join("answer")).map_err(failed())?;
        Ok(Self {
            dir: dir.to_owned(),
            request: BufReader::new(request),
            answer,
        })
    }

    /// Waits for the hook to say what is pushed; for ever, if git never calls it.
    pub(crate) async fn pushed(&mut self) -> Result<Pushed> {
        let mut pushed = Pushed::default();
        let mut line = Vec::new();
        let mut length = 0;
        loop {
            line.clear();
            length += self
                .request
                .read_until(b'\n', &mut line)
                .await
                .map_err(Error::storage("read what is pushed"))?;
            if length > MAX_REQUEST_BYTES {
                let why = "too many refs are pushed at once: push one branch";
                return Err(Error::refused(why));
            }
            let text = String::from_utf8_lossy(&line);
            let text = text.trim_end_matches('\n');
            if text == "end" {
                return Ok(pushed);
            }
            if let Some((name, value)) = text.strip_prefix("env ").and_then(|e| e.split_once('=')) {
                pushed.quarantine.push((name.to_owned(), value.to_owned()));
            } else if let Some(update) = text.strip_prefix("update ").and_then(Update::parse) {
                pushed.updates.push(update);
            }
        }
    }

    /// Shows `bytes` to the one who pushed.
    pub(crate) async fn show(&mut self, bytes: &[u8]) -> Result<()> {
        self.answer
            .write_all(bytes)
            .await
            .map_err(Error::storage("show output to the one who pushed"))
    }

    /// Ends the hook: git accepts the push, or not.
    pub(crate) async fn end(self, is_accepted: bool) -> Result<()> {
        let status = if is_accepted { "0\n" } else { "1\n" };
        tokio::fs::write(self.dir.join("status"), status)
            .await
            .map_err(Error::storage("answer the hook"))
        // Dropped here is the only writer of the pipe, so that the hook reads its end.
    }
}

/// The most that the hook may say: some ten thousand refs.
const MAX_REQUEST_BYTES: usize = 1 << 20;
