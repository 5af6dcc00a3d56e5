//! Flynn's attach protocol: frames of a job's standard streams over one connection.
//!
//! ```text
//! server to client, first:  0                       attached
//!                           1                       waiting; a 0 or 2 follows later
//!                           2 <len:4> <text>        refused
//! then, both directions:    3 <stream:1> <len:4> <bytes>     data; an empty one ends the stream
//!                           4 <signal:4>                     signal, to the job
//!                           5 <status:4>                     exit, from the job; the last frame
//!                           6 <height:2> <width:2>           the terminal's new size
//!                           2 <len:4> <text>                 error
//! ```
//!
//! All numbers are big-endian.

use std::{fmt, io};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio_util::codec::{Decoder, Encoder, FramedRead, FramedWrite};

use crate::{Error, Result};

/// The protocol's name in `Upgrade` headers.
pub const PROTOCOL: &str = "flynn-attach/0";

/// The most bytes in one data frame that are accepted.
pub const MAX_DATA: usize = 1 << 20;

/// What an attach request wants, as the bits of its `flags`.
pub mod flags {
    /// The job's standard output.
    pub const STDOUT: u8 = 1;
    /// The job's standard error.
    pub const STDERR: u8 = 2;
    /// Feed the job's standard input.
    pub const STDIN: u8 = 4;
    /// Replay what was logged.
    pub const LOGS: u8 = 8;
    /// Follow what comes.
    pub const STREAM: u8 = 16;
    /// What the host says about the job.
    pub const INITLOG: u8 = 32;
}

/// One of a job's streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Channel {
    /// To the job.
    Stdin,
    /// From the job.
    Stdout,
    /// From the job.
    Stderr,
    /// What the host says about the job.
    Host,
}

/// The unit of the protocol.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Frame {
    /// Bytes of a stream; empty ones end it.
    Data(Channel, Bytes),
    /// A signal for the job.
    Signal(u32),
    /// The job has ended with this status. The last frame.
    Exit(u32),
    /// The terminal has a new size.
    Resize {
        /// Rows.
        height: u16,
        /// Columns.
        width: u16,
    },
    /// Something failed on the other side.
    Error(String),
}

/// The answer to an attach request, before any frame.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Greeting {
    /// Frames follow.
    Attached,
    /// The job is not there yet; another greeting follows.
    Waiting,
    /// There will be no frames, for this reason.
    Refused(String),
}

impl Channel {
    fn byte(self) -> u8 {
        match self {
            Self::Stdin => 0,
            Self::Stdout => 1,
            Self::Stderr => 2,
            Self::Host => 3,
        }
    }

    fn parse(byte: u8) -> Result<Self> {
        Ok(match byte {
            0 => Self::Stdin,
            1 => Self::Stdout,
            2 => Self::Stderr,
            3 => Self::Host,
            other => return Err(broken(format!("stream {other} in a data frame"))),
        })
    }
}

impl Frame {
    /// Appends the frame's bytes.
    pub fn encode(&self, to: &mut BytesMut) {
        match self {
            Self::Data(channel, bytes) => {
                to.reserve(6 + bytes.len());
                to.put_u8(3);
                to.put_u8(channel.byte());
                put_bytes(to, bytes);
            }
            Self::Signal(signal) => {
                to.put_u8(4);
                to.put_u32(*signal);
            }
            Self::Exit(status) => {
                to.put_u8(5);
                to.put_u32(*status);
            }
            Self::Resize { height, width } => {
                to.put_u8(6);
                to.put_u16(*height);
                to.put_u16(*width);
            }
            Self::Error(text) => {
                to.put_u8(2);
                put_bytes(to, text.as_bytes());
            }
        }
    }

    /// Takes one frame from the front, or `None` if it is not complete yet.
    ///
    /// # Errors
    ///
    /// [`Error::Protocol`] names what no frame can be; the connection is of no more use then.
    pub fn decode(from: &mut BytesMut) -> Result<Option<Self>> {
        let Some(&kind) = from.first() else {
            return Ok(None);
        };
        let body = &from[1..];
        match kind {
            2 => Ok(take_bytes(from, 1)?
                .map(|text| Self::Error(String::from_utf8_lossy(&text).into_owned()))),
            3 => {
                let Some(&channel) = body.first() else {
                    return Ok(None);
                };
                let channel = Channel::parse(channel)?;
                Ok(take_bytes(from, 2)?.map(|bytes| Self::Data(channel, bytes)))
            }
            4..=6 if body.len() < 4 => Ok(None),
            4..=6 => {
                from.advance(1);
                Ok(Some(match kind {
                    4 => Self::Signal(from.get_u32()),
                    5 => Self::Exit(from.get_u32()),
                    _ => Self::Resize {
                        height: from.get_u16(),
                        width: from.get_u16(),
                    },
                }))
            }
            other => Err(broken(format!("frame of type {other}"))),
        }
    }
}

impl Greeting {
    /// Appends the greeting's bytes.
    pub fn encode(&self, to: &mut BytesMut) {
        match self {
            Self::Attached => to.put_u8(0),
            Self::Waiting => to.put_u8(1),
            Self::Refused(text) => {
                to.put_u8(2);
                put_bytes(to, text.as_bytes());
            }
        }
    }

    /// Reads one greeting and not a byte more.
    ///
    /// # Errors
    ///
    /// [`Error::Protocol`] when something else comes, or nothing.
    pub async fn read(from: &mut (impl AsyncRead + Unpin + Send)) -> Result<Self> {
        let failed = |e: io::Error| broken(format!("no greeting: {e}"));
        match from.read_u8().await.map_err(failed)? {
            0 => Ok(Self::Attached),
            1 => Ok(Self::Waiting),
            2 => {
                let len = from.read_u32().await.map_err(failed)? as usize;
                if len > MAX_DATA {
                    return Err(too_long(len));
                }
                let mut text = vec![0; len];
                from.read_exact(&mut text).await.map_err(failed)?;
                Ok(Self::Refused(String::from_utf8_lossy(&text).into_owned()))
            }
            other => Err(broken(format!("greeting of type {other}"))),
        }
    }
}

/// [`Frame`]s for `tokio_util`'s framed readers and writers.
#[derive(Debug, Clone, Copy, Default)]
struct FrameCodec;

/// An [`Error`] that framed readers and writers can make of their own.
#[derive(Debug)]
struct CodecError(Error);

impl Encoder<Frame> for FrameCodec {
    type Error = CodecError;

    fn encode(&mut self, frame: Frame, to: &mut BytesMut) -> Result<(), CodecError> {
        frame.encode(to);
        Ok(())
    }
}

impl Decoder for FrameCodec {
    type Item = Frame;
    type Error = CodecError;

    fn decode(&mut self, from: &mut BytesMut) -> Result<Option<Frame>, CodecError> {
        Frame::decode(from).map_err(CodecError)
    }
}

impl From<io::Error> for CodecError {
    fn from(error: io::Error) -> Self {
        Self(broken(format!("the connection failed: {error}")))
    }
}

type Reader = Box<dyn AsyncRead + Send + Unpin>;
type Writer = Box<dyn AsyncWrite + Send + Unpin>;

/// A connection to a job's streams, in frames.
pub struct Attached {
    sender: AttachedSender,
    receiver: AttachedReceiver,
}

/// The half of an [`Attached`] that speaks to the job.
pub struct AttachedSender(FramedWrite<Writer, FrameCodec>);

/// The half of an [`Attached`] that hears the job.
pub struct AttachedReceiver(FramedRead<Reader, FrameCodec>);

impl Attached {
    /// Speaks frames over a connection that has been greeted.
    pub fn new(
        reader: impl AsyncRead + Send + Unpin + 'static,
        writer: impl AsyncWrite + Send + Unpin + 'static,
    ) -> Self {
        Self {
            sender: AttachedSender(FramedWrite::new(Box::new(writer), FrameCodec)),
            receiver: AttachedReceiver(FramedRead::new(Box::new(reader), FrameCodec)),
        }
    }

    /// Sends one frame.
    ///
    /// # Errors
    ///
    /// [`Error::Protocol`] when the connection is gone.
    pub async fn send(&mut self, frame: Frame) -> Result<()> {
        self.sender.send(frame).await
    }

    /// The next frame, or `None` at the end of the connection.
    ///
    /// # Errors
    ///
    /// [`Error::Protocol`] when the connection broke or does not speak frames.
    ///
    /// # Cancel safety
    ///
    /// A dropped call loses nothing.
    pub async fn recv(&mut self) -> Result<Option<Frame>> {
        self.receiver.recv().await
    }

    /// Both directions, to be used at the same time.
    #[must_use]
    pub fn split(self) -> (AttachedSender, AttachedReceiver) {
        (self.sender, self.receiver)
    }
}

impl AttachedSender {
    /// Sends one frame.
    ///
    /// # Errors
    ///
    /// [`Error::Protocol`] when the connection is gone.
    pub async fn send(&mut self, frame: Frame) -> Result<()> {
        self.0.send(frame).await.map_err(|e| e.0)
    }

    /// Closes the connection, once all that was sent is on its way. The end of a job's input is an empty
    /// [`Frame::Data`], not this.
    ///
    /// # Errors
    ///
    /// [`Error::Protocol`] when the connection is gone.
    pub async fn close(&mut self) -> Result<()> {
        SinkExt::<Frame>::close(&mut self.0).await.map_err(|e| e.0)
    }
}

impl AttachedReceiver {
    /// The next frame, or `None` at the end of the connection.
    ///
    /// # Errors
    ///
    /// [`Error::Protocol`] when the connection broke or does not speak frames.
    ///
    /// # Cancel safety
    ///
    /// A dropped call loses nothing.
    pub async fn recv(&mut self) -> Result<Option<Frame>> {
        self.0.next().await.transpose().map_err(|e| e.0)
    }
}

macro_rules! opaque_debug {
    ($($name:ident),*) => {$(
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($name)).finish_non_exhaustive()
            }
        }
    )*};
}
opaque_debug!(Attached, AttachedSender, AttachedReceiver);

fn put_bytes(to: &mut BytesMut, bytes: &[u8]) {
    let len = u32::try_from(bytes.len()).expect("frames are far below 4 GiB");
    to.put_u32(len);
    to.put_slice(bytes);
}

/// Takes `<len:4> <bytes>` that begin at `skip`, with everything before, if they are complete.
fn take_bytes(from: &mut BytesMut, skip: usize) -> Result<Option<Bytes>> {
    let Some(mut len) = from.get(skip..skip + 4) else {
        return Ok(None);
    };
    let len = len.get_u32() as usize;
    if len > MAX_DATA {
        return Err(too_long(len));
    }
    if from.len() < skip + 4 + len {
        return Ok(None);
    }
    from.advance(skip + 4);
    Ok(Some(from.split_to(len).freeze()))
}

fn too_long(len: usize) -> Error {
    broken(format!(
        "a frame of {len} bytes; at most {MAX_DATA} are accepted"
    ))
}

fn broken(why: String) -> Error {
    Error::Protocol { why }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_frame() -> impl Strategy<Value = Frame> {
        let channel = prop_oneof![
            Just(Channel::Stdin),
            Just(Channel::Stdout),
            Just(Channel::Stderr),
            Just(Channel::Host)
        ];
        prop_oneof![
            (channel, prop::collection::vec(any::<u8>(), 0..300))
                .prop_map(|(c, b)| Frame::Data(c, b.into())),
            any::<u32>().prop_map(Frame::Signal),
            any::<u32>().prop_map(Frame::Exit),
            (any::<u16>(), any::<u16>())
                .prop_map(|(height, width)| Frame::Resize { height, width }),
            "[a-z ]{0,40}".prop_map(Frame::Error),
        ]
    }

    proptest! {
        #[test]
        fn frames_come_out_as_they_went_in_however_they_are_cut(
            frames in prop::collection::vec(any_frame(), 0..12),
            cut in 1usize..50,
        ) {
            let mut wire = BytesMut::new();
            for frame in &frames {
                frame.encode(&mut wire);
            }
            let mut buffer = BytesMut::new();
            let mut decoded = Vec::new();
            for chunk in wire.chunks(cut) {
                buffer.extend_from_slice(chunk);
                while let Some(frame) = Frame::decode(&mut buffer).unwrap() {
                    decoded.push(frame);
                }
            }
            prop_assert_eq!(decoded, frames);
            prop_assert!(buffer.is_empty());
        }

        #[test]
        fn any_bytes_are_frames_or_an_error_never_a_panic(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            let mut buffer = BytesMut::from(&bytes[..]);
            while let Ok(Some(_)) = Frame::decode(&mut buffer) {}
        }
    }

    #[test]
    fn the_bytes_are_those_of_the_original() {
        let mut wire = BytesMut::new();
        Frame::Data(Channel::Stdout, Bytes::from_static(b"hi")).encode(&mut wire);
        Frame::Exit(3).encode(&mut wire);
        assert_eq!(&wire[..], [3, 1, 0, 0, 0, 2, b'h', b'i', 5, 0, 0, 0, 3]);
    }

    #[test]
    fn a_frame_that_claims_gigabytes_is_refused_before_they_are_awaited() {
        let mut wire = BytesMut::from(&[3, 1, 0xff, 0, 0, 0][..]);
        assert!(Frame::decode(&mut wire).is_err());
    }

    #[tokio::test]
    async fn greetings_come_out_as_they_went_in() {
        for greeting in [
            Greeting::Attached,
            Greeting::Waiting,
            Greeting::Refused("host: job not running".to_owned()),
        ] {
            let mut wire = BytesMut::new();
            greeting.encode(&mut wire);
            assert_eq!(Greeting::read(&mut &wire[..]).await.unwrap(), greeting);
        }
    }
}
