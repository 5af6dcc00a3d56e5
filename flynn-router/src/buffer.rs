//! Memory that connections read into, recycled within a thread.

use std::{
    cell::RefCell,
    future::Future as _,
    io,
    pin::pin,
    task::{Context, Poll, ready},
};

use bytes::BufMut as _;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _},
    net::TcpStream,
};

/// Bytes that were read and not yet used.
///
/// An empty buffer has no memory of its own, so an idle connection costs none.
#[derive(Debug, Default)]
pub(crate) struct Buffer {
    data: Vec<u8>,
    start: usize,
}

impl Buffer {
    /// What a connection begins with: most heads and small bodies.
    pub(crate) const SMALL: usize = 16 * 1024;
    /// What the copy of a large body uses.
    pub(crate) const LARGE: usize = 64 * 1024;

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.data[self.start..]
    }

    pub(crate) fn len(&self) -> usize {
        self.data.len() - self.start
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(crate) fn consume(&mut self, n: usize) {
        self.start += n;
        debug_assert!(self.start <= self.data.len());
        if self.start == self.data.len() {
            self.data.clear();
            self.start = 0;
        }
    }

    /// Gives the memory back if nothing is in it.
    pub(crate) fn release(&mut self) {
        if self.is_empty() {
            self.start = 0;
            recycle(std::mem::take(&mut self.data));
        }
    }

    /// Reads once, into memory that grows to at most `max` bytes; 0 is the end of the stream. There must be less than
    /// `max` in it.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost: what was read is in the buffer.
    pub(crate) async fn fill(
        &mut self,
        io: &mut (impl AsyncRead + Unpin),
        max: usize,
    ) -> io::Result<usize> {
        self.make_room(Self::SMALL, max);
        self.read(io).await
    }

    /// As [`fill`](Self::fill) for the copy of a body: at most [`LARGE`](Self::LARGE), and at once if the last read was
    /// `n` bytes and filled what there was.
    pub(crate) async fn fill_after(
        &mut self,
        io: &mut (impl AsyncRead + Unpin),
        n: usize,
    ) -> io::Result<usize> {
        let wanted = if n >= Self::SMALL / 2 {
            Self::LARGE
        } else {
            Self::SMALL
        };
        self.make_room(wanted, Self::LARGE);
        self.read(io).await
    }

    /// As [`fill`](Self::fill), as a poll; holds no memory while it is pending.
    pub(crate) fn poll_fill(
        &mut self,
        context: &mut Context<'_>,
        stream: &mut TcpStream,
    ) -> Poll<io::Result<usize>> {
        ready!(stream.poll_read_ready(context))?;
        self.make_room(Self::SMALL, Self::SMALL);
        // A read that takes less than it could also tells the runtime that nothing more is there: that saves asking.
        let filled = pin!(self.read(stream)).poll(context);
        if filled.is_pending() {
            self.release();
        }
        filled
    }

    async fn read(&mut self, io: &mut (impl AsyncRead + Unpin)) -> io::Result<usize> {
        let room = self.data.capacity() - self.data.len();
        debug_assert!(room > 0, "a full buffer is not read into");
        io.read_buf(&mut (&mut self.data).limit(room)).await
    }

    fn make_room(&mut self, wanted: usize, max: usize) {
        if self.is_empty() {
            self.start = 0;
            self.data.clear();
            if self.data.capacity() < wanted {
                recycle(std::mem::replace(&mut self.data, fresh(wanted)));
            }
        } else if self.data.len() == self.data.capacity() {
            if self.start > 0 {
                self.data.drain(..self.start);
                self.start = 0;
            } else {
                let doubled = (self.data.len() * 2).min(max.max(self.data.len() + 1));
                self.data.reserve_exact(doubled - self.data.len());
            }
        }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        recycle(std::mem::take(&mut self.data));
    }
}

/// How many buffers of each size a thread keeps: at most 5 MiB.
const KEPT: usize = 64;

thread_local! {
    static SMALL: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
    static LARGE: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

fn fresh(size: usize) -> Vec<u8> {
    let shelf = if size == Buffer::SMALL {
        &SMALL
    } else {
        &LARGE
    };
    let kept = shelf.with_borrow_mut(Vec::pop);
    kept.unwrap_or_else(|| Vec::with_capacity(size))
}

fn recycle(mut data: Vec<u8>) {
    let shelf = match data.capacity() {
        Buffer::SMALL => &SMALL,
        Buffer::LARGE => &LARGE,
        _ => return,
    };
    data.clear();
    // A thread that is ending has no shelf any more.
    let _ = shelf.try_with(|shelf| {
        let mut shelf = shelf.borrow_mut();
        if shelf.len() < KEPT {
            shelf.push(data);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_was_read_is_used_in_pieces_and_the_memory_goes_back() {
        let mut buffer = Buffer::default();
        let mut input = &b"hello world"[..];
        assert_eq!(buffer.fill(&mut input, Buffer::SMALL).await.unwrap(), 11);
        buffer.consume(6);
        assert_eq!(buffer.bytes(), b"world");
        buffer.release();
        assert_eq!(buffer.bytes(), b"world", "what is in use is not released");
        buffer.consume(5);
        buffer.release();
        assert_eq!(buffer.data.capacity(), 0);
        assert_eq!(fresh(Buffer::SMALL).capacity(), Buffer::SMALL);
    }

    #[tokio::test]
    async fn a_buffer_grows_up_to_its_limit_and_moves_what_is_left_to_the_front() {
        let input = vec![7; 100 * 1024];
        let mut input = &input[..];
        let mut buffer = Buffer::default();
        while buffer.len() < 40 * 1024 {
            assert!(buffer.fill(&mut input, 40 * 1024).await.unwrap() > 0);
        }
        assert_eq!(buffer.len(), 40 * 1024);
        buffer.consume(40 * 1024 - 1);
        buffer.fill(&mut input, 40 * 1024).await.unwrap();
        assert_eq!(buffer.start, 0);
        assert_eq!(buffer.len(), 40 * 1024);
    }
}
