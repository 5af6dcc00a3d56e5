//! What an attached job says: the frames of `flynn-attach/0`, read one by one.

use std::io;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt};

/// One thing that an attached job says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// It wrote this to standard output or standard error.
    Output(Bytes),
    /// It ended with this status.
    Exit(u32),
    /// The attach failed.
    Error(String),
}

/// Reads the next thing that matters; `None` at the end.
pub(super) async fn next(connection: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<Said>> {
    loop {
        let kind = match connection.read_u8().await {
            Ok(kind) => kind,
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(error) => return Err(error),
        };
        match kind {
            ATTACHED | WAITING => {}
            ERROR => {
                let text = text(connection).await?;
                return Ok(Some(Said::Error(
                    String::from_utf8_lossy(&text).into_owned(),
                )));
            }
            DATA => {
                let _stream = connection.read_u8().await?;
                let bytes = text(connection).await?;
                // Nothing is the end of one stream; the exit comes by itself.
                if !bytes.is_empty() {
                    return Ok(Some(Said::Output(bytes)));
                }
            }
            EXIT => return Ok(Some(Said::Exit(connection.read_u32().await?))),
            SIGNAL | RESIZE => {
                connection.read_u32().await?;
            }
            other => {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("attach frame of unknown type {other}"),
                ));
            }
        }
    }
}

async fn text(connection: &mut (impl AsyncRead + Unpin)) -> io::Result<Bytes> {
    let length = connection.read_u32().await?;
    if length > MAX_FRAME_BYTES {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("attach frame of {length} bytes"),
        ));
    }
    let mut bytes = vec![0; length as usize];
    connection.read_exact(&mut bytes).await?;
    Ok(bytes.into())
}

const ATTACHED: u8 = 0;
const WAITING: u8 = 1;
const ERROR: u8 = 2;
const DATA: u8 = 3;
const SIGNAL: u8 = 4;
const EXIT: u8 = 5;
const RESIZE: u8 = 6;

const MAX_FRAME_BYTES: u32 = 16 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn frames_are_read_whatever_surrounds_them() {
        let mut wire: &[u8] = b"\x01\x00\x03\x01\0\0\0\x02hi\x03\x01\0\0\0\0\x06\0\x18\0\x50\x05\0\0\0\x07\x02\0\0\0\x04gone";
        let mut said = Vec::new();
        while let Some(next) = next(&mut wire).await.unwrap() {
            said.push(next);
        }
        let expected = [
            Said::Output(Bytes::from_static(b"hi")),
            Said::Exit(7),
            Said::Error("gone".to_owned()),
        ];
        assert_eq!(said, expected);
        assert!(next(&mut &b"\x09"[..]).await.is_err());
        assert!(next(&mut &b"\x03\x01\xff\xff\xff\xff"[..]).await.is_err());
    }
}
