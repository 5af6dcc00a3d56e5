//! Two connections joined, byte for byte.

use std::io;

use tokio::{
    io::{AsyncWriteExt as _, copy_bidirectional_with_sizes},
    net::TcpStream,
};

use crate::buffer::Buffer;

/// Carries bytes both ways until both sides have ended; one side may end before the other. First goes what was read
/// ahead of each.
pub(super) async fn join(
    client: &mut TcpStream,
    backend: &mut TcpStream,
    from_client: &mut Buffer,
    from_backend: &mut Buffer,
) -> io::Result<()> {
    backend.write_all(from_client.bytes()).await?;
    client.write_all(from_backend.bytes()).await?;
    for buffer in [from_client, from_backend] {
        buffer.consume(buffer.len());
        buffer.release();
    }
    copy_bidirectional_with_sizes(client, backend, Buffer::LARGE, Buffer::LARGE).await?;
    Ok(())
}
