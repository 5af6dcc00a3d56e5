//! Where a job's output goes: into its log, and to those who are attached.

use std::{
    io::{self, Read, Write},
    net::Shutdown,
    os::unix::net::UnixStream,
    sync::{Arc, Condvar, Mutex, MutexGuard},
    time::Duration,
};

use bytes::{Bytes, BytesMut};

use crate::{
    attach::{Channel, Frame},
    log::{Cursor, LogLine, LogStream, LogTarget, writer::LogWriter},
    wall::{wall_micros, wall_ms},
};

/// A job's two output streams.
#[derive(Debug)]
pub(super) struct Output {
    waits_for_readers: bool,
    inner: Mutex<Inner>,
    /// Told when a stream has ended.
    ended: Condvar,
}

#[derive(Debug)]
struct Inner {
    log: Option<LogWriter>,
    splitters: [crate::log::LineSplitter; 2],
    /// Bytes of records that could not be written since the last that could, and why.
    lost: Option<(u64, String)>,
    readers: Vec<Reader>,
    next_reader: u64,
    open_streams: usize,
    exit: Option<u32>,
}

#[derive(Debug, Clone)]
struct Reader {
    id: u64,
    queue: Arc<Queue>,
    stream: Arc<UnixStream>,
}

impl Output {
    pub(super) fn open(log: Option<&LogTarget>, waits_for_readers: bool) -> io::Result<Self> {
        Ok(Self {
            waits_for_readers,
            inner: Mutex::new(Inner {
                log: log.map(LogWriter::open).transpose()?,
                splitters: Default::default(),
                lost: None,
                readers: Vec::new(),
                next_reader: 0,
                open_streams: 0,
                exit: None,
            }),
            ended: Condvar::new(),
        })
    }

    /// Says that a stream will be pumped, before the job starts.
    pub(super) fn expect_stream(&self) {
        self.lock().open_streams += 1;
    }

    /// Reads a stream to its end.
    pub(super) fn pump(&self, channel: Channel, mut pipe: impl Read) {
        let mut buffer = vec![0; CHUNK];
        loop {
            match pipe.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => self.deliver(channel, &buffer[..count]),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        self.deliver(channel, &[]);
        self.lock().open_streams -= 1;
        self.ended.notify_all();
    }

    /// Takes bytes of a stream; empty ones end it.
    fn deliver(&self, channel: Channel, bytes: &[u8]) {
        let (index, stream) = match channel {
            Channel::Stderr => (1, LogStream::Stderr),
            Channel::Stdin | Channel::Stdout | Channel::Host => (0, LogStream::Stdout),
        };
        let readers = {
            let mut inner = self.lock();
            if inner.log.is_some() {
                let mut records = Vec::new();
                let splitter = &mut inner.splitters[index];
                if bytes.is_empty() {
                    splitter.finish(wall_micros(), stream, false, &mut records);
                } else {
                    splitter.feed(wall_micros(), stream, bytes, &mut records);
                }
                inner.log(&records);
            }
            inner.readers.clone()
        };
        // Outside of the lock: whoever is slow holds up this stream only.
        let frame = Frame::Data(channel, Bytes::copy_from_slice(bytes));
        for reader in readers {
            if !self.send(&reader, &frame) {
                self.lock().readers.retain(|r| r.id != reader.id);
            }
        }
    }

    /// Returns whether the reader is still there.
    fn send(&self, reader: &Reader, frame: &Frame) -> bool {
        let is_there = reader.queue.push(frame, self.waits_for_readers);
        if !is_there {
            let _ = reader.stream.shutdown(Shutdown::Both);
        }
        is_there
    }

    /// Adds a reader. All output up to the returned point is in the log or in the queue, and none is in both. Without a
    /// log there is one reader at a time, or `None`: output that two share, neither has whole.
    pub(super) fn attach(
        &self,
        stream: Arc<UnixStream>,
    ) -> io::Result<Option<(Option<Cursor>, Arc<Queue>)>> {
        let mut inner = self.lock();
        inner.readers.retain(|reader| !reader.queue.lock().is_gone);
        if inner.log.is_none() && !inner.readers.is_empty() {
            return Ok(None);
        }
        let log_end = inner.log.as_mut().map(LogWriter::end).transpose()?;
        let queue = Arc::new(Queue::default());
        for (splitter, channel) in inner
            .splitters
            .iter()
            .zip([Channel::Stdout, Channel::Stderr])
        {
            if !splitter.partial().is_empty() {
                let begun = Bytes::copy_from_slice(splitter.partial());
                queue.push(&Frame::Data(channel, begun), false);
            }
        }
        if let Some(code) = inner.exit {
            queue.push(&Frame::Exit(code), false);
            queue.close();
        } else {
            let id = inner.next_reader;
            inner.next_reader += 1;
            inner.readers.push(Reader {
                id,
                queue: Arc::clone(&queue),
                stream,
            });
        }
        Ok(Some((log_end, queue)))
    }

    /// Waits until both streams have ended. Someone who is no descendant may hold them open: not for ever.
    pub(super) fn wait_until_read(&self) {
        let inner = self.lock();
        let patience = if self.waits_for_readers && !inner.readers.is_empty() {
            READERS_PATIENCE
        } else {
            PIPES_PATIENCE
        };
        let _ = self
            .ended
            .wait_timeout_while(inner, patience, |inner| inner.open_streams > 0);
    }

    /// Tells everyone who is attached how the job ended, and lets go of them.
    pub(super) fn finish(&self, code: u32) {
        let readers = {
            let mut inner = self.lock();
            inner.exit = Some(code);
            std::mem::take(&mut inner.readers)
        };
        for reader in readers {
            self.send(&reader, &Frame::Exit(code));
            reader.queue.close();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no panic while the lock is held")
    }
}

impl Inner {
    /// Writes records; what cannot be written is counted, and said once writing works again.
    fn log(&mut self, records: &[u8]) {
        let Some(log) = &mut self.log else { return };
        if records.is_empty() {
            return;
        }
        let lines = records.iter().filter(|b| **b == b'\n').count() as u64;
        let written = match &self.lost {
            None => log.append(records),
            Some((lost, why)) => {
                let notice = LogLine::host(wall_ms(), format!("{lost} lines were lost: {why}"));
                let mut all = Vec::new();
                crate::log::encode_line(&notice, &mut all);
                all.extend_from_slice(records);
                log.append(&all)
            }
        };
        self.lost = match (written, self.lost.take()) {
            (Ok(()), _) => None,
            (Err(e), before) => Some((before.map_or(0, |(n, _)| n) + lines, e.to_string())),
        };
    }
}

/// Frames on their way to one reader, as bytes: it is their size that counts, not their number.
#[derive(Debug, Default)]
pub(super) struct Queue {
    state: Mutex<Queued>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Queued {
    bytes: BytesMut,
    /// Nothing more will come.
    is_closed: bool,
    /// Nobody reads any more.
    is_gone: bool,
}

impl Queue {
    /// Adds a frame; waits for room if `waits`. Returns whether it was added.
    fn push(&self, frame: &Frame, waits: bool) -> bool {
        let mut state = self.lock();
        if waits {
            state = self
                .changed
                .wait_while(state, |q| q.bytes.len() >= QUEUE_BYTES && !q.is_gone)
                .expect("no panic while the lock is held");
        }
        if state.is_gone || state.bytes.len() >= QUEUE_BYTES {
            return false;
        }
        frame.encode(&mut state.bytes);
        self.changed.notify_all();
        true
    }

    fn close(&self) {
        self.lock().is_closed = true;
        self.changed.notify_all();
    }

    /// All there is, once there is something; `None` at the end.
    fn take(&self) -> Option<BytesMut> {
        let state = self.lock();
        let mut state = self
            .changed
            .wait_while(state, |q| q.bytes.is_empty() && !q.is_closed)
            .expect("no panic while the lock is held");
        let bytes = state.bytes.split();
        self.changed.notify_all();
        (!bytes.is_empty()).then_some(bytes)
    }

    fn lock(&self) -> MutexGuard<'_, Queued> {
        self.state.lock().expect("no panic while the lock is held")
    }

    /// Ends it from the reader's side.
    pub(super) fn leave(&self) {
        {
            let mut state = self.lock();
            state.is_gone = true;
            state.is_closed = true;
        }
        self.changed.notify_all();
    }

    /// Writes what comes to the reader, until its end or the reader's.
    pub(super) fn write_to(&self, mut reader: &UnixStream) {
        while let Some(bytes) = self.take() {
            if reader.write_all(&bytes).is_err() {
                break;
            }
        }
        self.leave();
        let _ = reader.shutdown(Shutdown::Both);
    }
}

/// How much is read from a stream at once.
const CHUNK: usize = 16 * 1024;

/// How much waits for one reader.
const QUEUE_BYTES: usize = 4 << 20;

/// How long streams may stay open after the last process of the job has gone.
const PIPES_PATIENCE: Duration = Duration::from_secs(2);

/// How long a slow reader may take to read what the job left.
const READERS_PATIENCE: Duration = Duration::from_secs(60);
