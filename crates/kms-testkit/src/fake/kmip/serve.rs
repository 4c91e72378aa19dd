//! Connections, and the tricks on them.

use std::sync::atomic::Ordering;

use anyhow::Result;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use super::{Shared, Trick, codec::Node, engine::operations, locked};

/// The code of Register.
const REGISTER: u32 = 0x03;

/// Receives a request. `None` if the connection has been idle for too long.
async fn receive(stream: &mut TlsStream<TcpStream>, shared: &Shared) -> Result<Option<Vec<u8>>> {
    let idle_since = locked(&shared.engine).clock.millis();
    let idle = |now: u64| {
        let limit = locked(&shared.engine).quirks.idle_close;
        limit.is_some_and(|limit| u128::from(now.saturating_sub(idle_since)) >= limit.as_millis())
    };
    let mut moved = shared.moved.subscribe();
    let mut frame = vec![0; 8];
    tokio::select! {
        read = stream.read_exact(&mut frame) => drop(read?),
        _ = moved.wait_for(|now| idle(*now)) => return Ok(None),
    }
    let length = u32::from_be_bytes(frame[4..8].try_into()?) as usize;
    anyhow::ensure!(length <= 1024 * 1024, "the request is too large");
    frame.resize(8 + length, 0);
    stream.read_exact(&mut frame[8..]).await?;
    Ok(Some(frame))
}

/// Answers the requests of a connection until it ends.
pub(super) async fn serve(tcp: TcpStream, acceptor: &TlsAcceptor, shared: &Shared) -> Result<()> {
    tcp.set_nodelay(true)?;
    let mut stream = acceptor.accept(tcp).await?;
    shared.counts.handshakes.fetch_add(1, Ordering::SeqCst);
    let quirks = locked(&shared.engine).quirks.clone();
    if quirks.dead_backend {
        return close(stream).await;
    }
    if quirks.deaf {
        std::future::pending::<()>().await;
    }
    let mut is_first = true;
    while let Some(frame) = receive(&mut stream, shared).await? {
        if !std::mem::take(&mut is_first) && locked(&shared.engine).quirks.closes_late {
            break;
        }
        let request = Node::read(&frame);
        let operations = request.as_deref().map(operations).unwrap_or_default();
        locked(&shared.log).extend(&operations);
        let trick = locked(&shared.plan).next(&operations);
        if trick.is_some() {
            shared.tricked.notify_one();
        }
        if operations.contains(&REGISTER) {
            let late = locked(&shared.engine).lateness();
            if !late.is_zero() {
                tokio::time::sleep(late).await;
            }
        }
        let answer = || locked(&shared.engine).answer(request.as_deref()).map(|answer| answer.write());
        match trick {
            Some(Trick::Close) => return Ok(()),
            Some(Trick::Silence) => std::future::pending().await,
            Some(Trick::Raw(bytes)) => {
                // The client may close the connection before the end.
                let _ = stream.write_all(&bytes).await;
                continue;
            }
            Some(Trick::Hold(ref released)) => released.notified().await,
            _ => {}
        }
        let Some(answer) = answer() else { return close(stream).await };
        match trick {
            Some(Trick::DoAndClose) => return Ok(()),
            Some(Trick::Cut(bytes)) => {
                stream.write_all(&answer[..bytes.min(answer.len())]).await?;
                stream.flush().await?;
                return close(stream).await;
            }
            Some(Trick::DoAndSilence) => std::future::pending().await,
            Some(Trick::Drip(pause)) => {
                for byte in answer {
                    stream.write_all(&[byte]).await?;
                    stream.flush().await?;
                    tokio::time::sleep(pause).await;
                }
            }
            Some(Trick::AnswerAndClose) => {
                stream.write_all(&answer).await?;
                return close(stream).await;
            }
            _ => stream.write_all(&answer).await?,
        }
        if locked(&shared.engine).quirks.closes_after_each_answer {
            break;
        }
    }
    close(stream).await
}

async fn close(mut stream: TlsStream<TcpStream>) -> Result<()> {
    stream.shutdown().await?;
    Ok(())
}
