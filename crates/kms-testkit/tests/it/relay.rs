//! The relay and the ports of the harness, with sockets on loopback.

use std::{
    collections::BTreeSet,
    io,
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use kms_testkit::servers::{Relay, port};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

/// A server that echoes its input.
async fn echo() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut read, mut write) = stream.split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
            });
        }
    });
    addr
}

async fn ask(stream: &mut TcpStream) -> io::Result<[u8; 4]> {
    stream.write_all(b"ping").await?;
    let mut answer = [0; 4];
    stream.read_exact(&mut answer).await?;
    Ok(answer)
}

#[test]
fn ports_are_given_once() {
    let ports: BTreeSet<u16> = (0..50).map(|_| port::free().unwrap()).collect();
    assert_eq!(ports.len(), 50);
}

#[tokio::test]
async fn bytes_pass_and_connections_are_counted() {
    let relay = Relay::start(echo().await).await.unwrap();
    let mut first = TcpStream::connect(relay.addr()).await.unwrap();
    let mut second = TcpStream::connect(relay.addr()).await.unwrap();
    for _ in 0..3 {
        assert_eq!(ask(&mut first).await.unwrap(), *b"ping");
    }
    assert_eq!(ask(&mut second).await.unwrap(), *b"ping");
    assert_eq!((relay.accepted(), relay.open()), (2, 2));
}

#[tokio::test]
async fn a_cut_resets_open_connections_and_takes_new_ones() {
    let relay = Relay::start(echo().await).await.unwrap();
    let mut old = TcpStream::connect(relay.addr()).await.unwrap();
    ask(&mut old).await.unwrap();
    relay.cut();
    assert!(ask(&mut old).await.is_err());
    let mut new = TcpStream::connect(relay.addr()).await.unwrap();
    ask(&mut new).await.unwrap();
    assert_eq!((relay.accepted(), relay.open()), (2, 1));
}

#[tokio::test]
async fn a_lost_reply_is_lost_once() {
    let relay = Relay::start(echo().await).await.unwrap();
    relay.lose_next_reply();
    let mut first = TcpStream::connect(relay.addr()).await.unwrap();
    assert_eq!(ask(&mut first).await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    let mut second = TcpStream::connect(relay.addr()).await.unwrap();
    ask(&mut second).await.unwrap();
}

#[tokio::test]
async fn a_closed_port_refuses_until_it_is_opened_again() {
    let relay = Relay::start(echo().await).await.unwrap();
    relay.refuse().await;
    let refused = TcpStream::connect(relay.addr()).await.unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    relay.accept_again().await.unwrap();
    ask(&mut TcpStream::connect(relay.addr()).await.unwrap()).await.unwrap();
}

#[tokio::test]
async fn frozen_traffic_goes_on_when_thawed() {
    let relay = Relay::start(echo().await).await.unwrap();
    let mut stream = TcpStream::connect(relay.addr()).await.unwrap();
    ask(&mut stream).await.unwrap();
    relay.freeze(true);
    let asked = tokio::time::timeout(Duration::from_millis(100), ask(&mut stream)).await;
    assert!(asked.is_err());
    relay.freeze(false);
    let mut answer = [0; 4];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(answer, *b"ping");
}
