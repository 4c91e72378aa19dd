//! The HTTP fake sends on the wire what its responses say.

use std::{io, time::Duration};

use kms_testkit::fake::http::{Gate, HttpServer, Response};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

const GET: &str = "GET /v1/a?b=c HTTP/1.1\r\nHost: x\r\nX-Vault-Token: t\r\n\r\n";

/// Sends a request over a new connection and reads until the server ends it.
async fn exchange(server: &HttpServer) -> (String, io::Result<usize>) {
    let mut stream = TcpStream::connect(server.address()).await.unwrap();
    stream.write_all(GET.as_bytes()).await.unwrap();
    let mut text = Vec::new();
    let end = stream.read_to_end(&mut text).await;
    (String::from_utf8(text).unwrap(), end)
}

/// Reads exactly this text from the stream.
async fn expect(stream: &mut TcpStream, text: &str) {
    let mut read = vec![0; text.len()];
    stream.read_exact(&mut read).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&read), text);
}

#[tokio::test]
async fn requests_are_recorded_and_answers_come_in_turn_over_one_connection() {
    let server = HttpServer::scripted([Response::json(200, "{}"), Response::status(204)]).await.unwrap();
    let mut stream = TcpStream::connect(server.address()).await.unwrap();
    let put = "PUT /v1/a HTTP/1.1\r\nContent-Length: 4\r\n\r\nbody";
    let chunked = "POST /v1/b HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nbod\r\n1\r\ny\r\n0\r\n\r\n";
    stream.write_all(format!("{GET}{put}{chunked}").as_bytes()).await.unwrap();
    expect(
        &mut stream,
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}\
         HTTP/1.1 204 No Content\r\ncontent-length: 0\r\n\r\n\
         HTTP/1.1 204 No Content\r\ncontent-length: 0\r\n\r\n",
    )
    .await;
    let requests = server.wait_for_requests(3).await;
    let lines: Vec<_> = requests.iter().map(|request| request.line()).collect();
    assert_eq!(lines, ["GET /v1/a?b=c", "PUT /v1/a", "POST /v1/b"]);
    assert_eq!(requests[0].header("x-vault-token"), Some("t"));
    assert_eq!((requests[1].text(), requests[2].text()), ("body", "body"));
    assert_eq!(server.connections(), 1);
}

#[tokio::test]
async fn a_connection_is_reset_before_and_within_an_answer() {
    let server = HttpServer::scripted([
        Response::reset(),
        Response::json(200, "0123456789").reset_after(4),
        Response::json(200, "0123456789").close_after(0),
        Response::json(200, "0123456789").chunked().close_after(4),
        Response::close(),
        Response::raw("\x15\x03\x01"),
    ])
    .await
    .unwrap();
    let (text, end) = exchange(&server).await;
    assert_eq!((text.as_str(), end.unwrap_err().kind()), ("", io::ErrorKind::ConnectionReset));
    let (text, end) = exchange(&server).await;
    assert!(text.ends_with("content-length: 10\r\n\r\n0123"), "{text}");
    assert_eq!(end.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    let (text, end) = exchange(&server).await;
    assert!(text.ends_with("content-length: 10\r\n\r\n") && end.is_ok(), "{text}");
    let (text, end) = exchange(&server).await;
    assert!(text.ends_with("chunked\r\n\r\n4\r\n0123\r\n") && end.is_ok(), "{text}");
    let (text, end) = exchange(&server).await;
    assert!(text.is_empty() && end.is_ok(), "{text}");
    let (text, end) = exchange(&server).await;
    assert!(text == "\x15\x03\x01" && end.is_ok(), "{text}");
    assert_eq!(server.connections(), 6);
}

#[tokio::test]
async fn bodies_are_huge_or_slow_or_end_with_the_connection() {
    let slow = Duration::from_millis(1);
    let server = HttpServer::scripted([
        Response::status(200).huge(b' ', 3 << 20).then_close(),
        Response::json(200, "0123456789").slow(3, slow).chunked().then_close(),
        Response::json(200, "0123456789").to_the_end(),
        Response::json(200, "0123").promising(10).then_close(),
    ])
    .await
    .unwrap();
    let (text, _) = exchange(&server).await;
    assert_eq!(text.split_once("\r\n\r\n").unwrap().1.len(), 3 << 20);
    let (text, _) = exchange(&server).await;
    let body = text.split_once("\r\n\r\n").unwrap().1;
    assert_eq!(body, "3\r\n012\r\n3\r\n345\r\n3\r\n678\r\n1\r\n9\r\n0\r\n\r\n");
    let (text, _) = exchange(&server).await;
    assert!(text.ends_with("application/json\r\n\r\n0123456789"), "{text}");
    let (text, _) = exchange(&server).await;
    assert!(text.ends_with("content-length: 10\r\n\r\n0123"), "{text}");
}

#[tokio::test]
async fn an_answer_waits_for_its_gate_and_another_never_comes() {
    let gate = Gate::new();
    let server = HttpServer::scripted([Response::status(204).held(&gate).then_close(), Response::never()])
        .await
        .unwrap();
    let (text, _) = {
        let exchange = exchange(&server);
        let open = async {
            server.wait_for_requests(1).await;
            gate.open();
        };
        let (answer, ()) = tokio::join!(exchange, open);
        answer
    };
    assert!(text.starts_with("HTTP/1.1 204"), "{text}");
    let mut stream = TcpStream::connect(server.address()).await.unwrap();
    stream.write_all(GET.as_bytes()).await.unwrap();
    server.wait_for_requests(2).await;
    assert_eq!(stream.try_read(&mut [0; 8]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    // The end of the server is the end of its connections.
    drop(server);
    assert!(matches!(stream.read(&mut [0; 8]).await, Ok(0) | Err(_)));
}

#[tokio::test]
async fn a_storm_of_429_is_one_line() {
    let storm = (0..3).map(|_| Response::too_many_requests(Some("1")).then_close());
    let server = HttpServer::scripted(storm.chain([Response::json(200, "{}").then_close()])).await.unwrap();
    for status in ["429", "429", "429", "200"] {
        let (text, _) = exchange(&server).await;
        assert!(text.starts_with(&format!("HTTP/1.1 {status} ")), "{text}");
        assert_eq!(text.contains("retry-after: 1\r\n"), status == "429");
    }
}
