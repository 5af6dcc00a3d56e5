//! Where a job's output goes: into its log, and to those who are attached.

use std::{
    io::{self, Read, Write},
    net::Shutdown,
    os::unix::net::UnixStream,
    sync::{
        Arc, Condvar, Mutex, MutexGuard,
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
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
    queue: SyncSender<Frame>,
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
            if !self.send(&reader, frame.clone()) {
                self.lock().readers.retain(|r| r.id != reader.id);
            }
        }
    }

    fn send(&self, reader: &Reader, frame: Frame) -> bool {
        if self.waits_for_readers {
            return reader.queue.send(frame).is_ok();
        }
        match reader.queue.try_send(frame) {
            Ok(()) => true,
            Err(TrySendError::Disconnected(_)) => false,
            Err(TrySendError::Full(_)) => {
                let _ = reader.stream.shutdown(Shutdown::Both);
                false
            }
        }
    }

    /// Adds a reader. All output up to the returned point is in the log or in the queue, and none is in both.
    pub(super) fn attach(
        &self,
        stream: Arc<UnixStream>,
    ) -> io::Result<(Option<Cursor>, Receiver<Frame>)> {
        let mut inner = self.lock();
        let log_end = inner.log.as_mut().map(LogWriter::end).transpose()?;
        let (queue, frames) = sync_channel(QUEUE);
        for (splitter, channel) in inner
            .splitters
            .iter()
            .zip([Channel::Stdout, Channel::Stderr])
        {
            if !splitter.partial().is_empty() {
                let begun = Bytes::copy_from_slice(splitter.partial());
                let _ = queue.try_send(Frame::Data(channel, begun));
            }
        }
        if let Some(code) = inner.exit {
            let _ = queue.try_send(Frame::Exit(code));
        } else {
            let id = inner.next_reader;
            inner.next_reader += 1;
            inner.readers.push(Reader { id, queue, stream });
        }
        Ok((log_end, frames))
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
            self.send(&reader, Frame::Exit(code));
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

/// Writes frames to one reader until there are no more, or it is gone.
pub(super) fn write_frames(frames: &Receiver<Frame>, mut to: &UnixStream) {
    let mut buffer = BytesMut::new();
    while let Ok(frame) = frames.recv() {
        buffer.clear();
        frame.encode(&mut buffer);
        if to.write_all(&buffer).is_err() {
            return;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
}

/// How much is read from a stream at once.
const CHUNK: usize = 16 * 1024;

/// How many frames wait for one reader.
const QUEUE: usize = 512;

/// How long streams may stay open after the last process of the job has gone.
const PIPES_PATIENCE: Duration = Duration::from_secs(2);

/// How long a slow reader may take to read what the job left.
const READERS_PATIENCE: Duration = Duration::from_secs(60);
