//! What the one who pushed sees while a push goes on.

use std::fmt;

use bytes::Bytes;
use tokio::sync::mpsc;

/// Writes to the terminal of the one who pushed. Clones write to the same one.
///
/// Nobody may be there any more; then what is written is lost, and the work is stopped by other means.
#[derive(Clone, Debug)]
pub struct Console {
    output: mpsc::Sender<Bytes>,
}

impl Console {
    /// A console and what is written to it.
    #[must_use]
    pub fn new() -> (Self, mpsc::Receiver<Bytes>) {
        let (output, written) = mpsc::channel(BACKLOG);
        (Self { output }, written)
    }

    /// Writes one line.
    pub async fn line(&self, text: impl fmt::Display + Send) {
        self.write(format!("{text}\n")).await;
    }

    /// Writes bytes as they are. Waits when the terminal is slow.
    pub async fn write(&self, bytes: impl Into<Bytes> + Send) {
        let _ = self.output.send(bytes.into()).await;
    }
}

/// How many writes may be under way to a slow terminal.
const BACKLOG: usize = 256;
