//! A way round by the loopback, on which what the broker sends is mended before lapin reads it. It costs a copy, so only
//! those take it who have met a message that cannot be read, or find some parked.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use futures_util::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

use super::mending::Mender;

const CHUNK: usize = 64 * 1024;
/// For the one connection that is expected.
const TAKEN_WITHIN: Duration = Duration::from_secs(5);

/// Where to connect to in place of `there`: one connection is taken, soon.
///
/// # Errors
/// Where the loopback has no free port.
pub(super) async fn to<S>(there: S) -> io::Result<SocketAddr>
where
    S: AsyncRead + AsyncWrite + Send + 'static,
{
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let near = listener.local_addr()?;
    // Either end that closes closes the other, and with it this.
    tokio::spawn(async move {
        let Ok(Ok((here, _))) = tokio::time::timeout(TAKEN_WITHIN, listener.accept()).await else { return };
        drop(listener);
        drop(here.set_nodelay(true));
        let (asked, told) = here.into_split();
        let (answers, questions) = there.split();
        tokio::select! {
            _ = out(asked, questions) => {}
            _ = back(answers, told) => {}
        }
    });
    Ok(near)
}

async fn out(mut from: OwnedReadHalf, mut to: impl AsyncWrite + Unpin) -> io::Result<()> {
    let mut chunk = vec![0; CHUNK];
    loop {
        let count = from.read(&mut chunk).await?;
        let piece = chunk.get(..count).filter(|piece| !piece.is_empty());
        to.write_all(piece.ok_or(io::ErrorKind::UnexpectedEof)?).await?;
        to.flush().await?;
    }
}

async fn back(mut from: impl AsyncRead + Unpin, mut to: OwnedWriteHalf) -> io::Result<()> {
    let (mut chunk, mut mender) = (vec![0; CHUNK], Mender::default());
    loop {
        let count = from.read(&mut chunk).await?;
        let piece = chunk.get(..count).filter(|piece| !piece.is_empty());
        to.write_all(&mender.pass(piece.ok_or(io::ErrorKind::UnexpectedEof)?)).await?;
    }
}
