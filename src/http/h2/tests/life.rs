//! How a connection begins, shows that it lives, and ends.

use std::time::Duration;

use tokio::{io::AsyncWriteExt, join};

use super::{peer::*, *};

fn quick_pings() -> Options {
    Options {
        ping_every: Duration::from_millis(20),
        ping_patience: Duration::from_millis(20),
        ..Options::default()
    }
}

#[tokio::test(flavor = "local")]
async fn a_peer_that_answers_no_ping_is_given_up() {
    let (listener, to) = listen().await;
    let peer = async {
        let mut peer = Peer::accept(&listener, &[]).await;
        while peer.any().await.is_some() {}
    };
    let client = async {
        let connection = connect_with(to, &quick_pings(), Rc::new(())).await;
        let result = connection.send(post("/"), NoBody::new()).await;
        connection.closed().await;
        assert!(!connection.is_usable());
        failure(result)
    };
    let ((), failure) = join!(peer, client);
    assert_eq!(failure, Failure::perhaps(Kind::Silent));
}

#[tokio::test(flavor = "local")]
async fn a_peer_that_answers_pings_may_take_its_time() {
    let (listener, to) = listen().await;
    let peer = async {
        let mut peer = Peer::accept(&listener, &[]).await;
        let stream = peer.request().await;
        for _ in 0..5 {
            peer.next(PING).await.unwrap();
        }
        peer.answer(stream).await;
        peer
    };
    // Patience is long: a busy machine may be late with an honest answer.
    let options = Options {
        ping_patience: Duration::from_secs(60),
        ..quick_pings()
    };
    let client = async {
        let connection = connect_with(to, &options, Rc::new(())).await;
        connection.send(get("/"), NoBody::new()).await.unwrap()
    };
    let (_peer, answer) = join!(peer, client);
    assert_eq!(answer.status(), 200);
}

#[tokio::test(flavor = "local")]
async fn a_peer_of_another_protocol_fails_the_handshake() {
    let (listener, to) = listen().await;
    let peer = async {
        let (mut io, _) = listener.accept().await.unwrap();
        io.write_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")
            .await
            .unwrap();
        io
    };
    let client = async {
        let io = TcpStream::connect(to).await.unwrap();
        handshake(io, &Options::default(), Rc::new(())).await
    };
    let (_io, result) = join!(peer, client);
    assert!(result.err().unwrap().unprocessed);
}

#[tokio::test(flavor = "local")]
async fn a_graceful_close_lets_the_running_request_finish() {
    let (listener, to) = listen().await;
    let peer = async {
        let mut peer = Peer::accept(&listener, &[]).await;
        let stream = peer.request().await;
        peer.answer(stream).await;
        peer.next(GOAWAY).await.unwrap();
        while peer.any().await.is_some() {}
    };
    let client = async {
        let connection = connect(to).await;
        let running = connection.send(get("/"), NoBody::new());
        connection.close_gracefully();
        assert!(!connection.is_usable());
        let late = connection.send(get("/late"), NoBody::new()).await;
        assert!(failure(late).unprocessed);
        assert_eq!(running.await.unwrap().status(), 200);
        connection.closed().await;
    };
    join!(peer, client);
}

#[tokio::test(flavor = "local")]
async fn a_connection_without_handles_closes_itself() {
    let (listener, to) = listen().await;
    let peer = async {
        let mut peer = Peer::accept(&listener, &[]).await;
        while peer.any().await.is_some() {}
    };
    let client = async { drop(connect(to).await) };
    join!(peer, client);
}

#[tokio::test(flavor = "local")]
async fn a_dropped_request_is_cancelled() {
    let (listener, to) = listen().await;
    let peer = async {
        let mut peer = Peer::accept(&listener, &[]).await;
        peer.next(RST_STREAM).await.unwrap()
    };
    let client = async {
        let connection = connect(to).await;
        let (_feed, body) = fed();
        drop(connection.send(post("/"), body));
        assert_eq!(connection.active(), 0);
        connection
    };
    let (reset, _connection) = join!(peer, client);
    assert_eq!(reset.payload, CANCEL.to_be_bytes());
}

#[tokio::test(flavor = "local")]
async fn a_dropped_answer_is_cancelled_and_its_request_body_with_it() {
    let (listener, to) = listen().await;
    let peer = async {
        let mut peer = Peer::accept(&listener, &[]).await;
        let stream = peer.request().await;
        peer.send(HEADERS, END_HEADERS, stream, OK).await;
        peer.next(RST_STREAM).await.unwrap()
    };
    let client = async {
        let connection = connect(to).await;
        let (feed, body) = fed();
        drop(connection.send(post("/"), body).await.unwrap());
        feed.closed().await;
        assert_eq!(connection.active(), 0);
        connection
    };
    let (reset, _connection) = join!(peer, client);
    assert_eq!(reset.payload, CANCEL.to_be_bytes());
}

#[tokio::test(flavor = "local")]
async fn a_broken_request_body_is_the_callers_fault_and_cancels() {
    let (listener, to) = listen().await;
    let peer = async {
        let mut peer = Peer::accept(&listener, &[]).await;
        peer.next(DATA).await.unwrap();
        peer.next(RST_STREAM).await.unwrap()
    };
    let client = async {
        let connection = connect(to).await;
        let (feed, body) = fed();
        let feeding = async move {
            feed.send(data("half")).await.unwrap();
            feed.send(Err("gone")).await.unwrap();
        };
        let (result, ()) = join!(connection.send(post("/"), body), feeding);
        assert!(matches!(result, Err(Rejected::Body("gone"))));
        connection
    };
    let (reset, _connection) = join!(peer, client);
    assert_eq!(reset.payload, CANCEL.to_be_bytes());
}

#[tokio::test(flavor = "local")]
async fn a_request_body_that_breaks_under_its_answer_is_named() {
    let (listener, to) = listen().await;
    let peer = async {
        let mut peer = Peer::accept(&listener, &[]).await;
        let stream = peer.request().await;
        peer.send(HEADERS, END_HEADERS, stream, OK).await;
        peer.next(RST_STREAM).await.unwrap()
    };
    let client = async {
        let connection = connect(to).await;
        let (feed, body) = fed();
        let answer = connection.send(post("/"), body).await.unwrap();
        feed.send(Err("gone")).await.unwrap();
        whole(answer.into_body()).await.unwrap_err()
    };
    let (_reset, failure) = join!(peer, client);
    assert_eq!(failure, Failure::perhaps(Kind::RequestBody));
}

#[tokio::test(flavor = "local")]
async fn an_early_answer_with_no_error_is_an_answer() {
    let (listener, to) = listen().await;
    let peer = async {
        let mut peer = Peer::accept(&listener, &[]).await;
        peer.next(DATA).await.unwrap();
        peer.send(HEADERS, END_HEADERS, 1, OK).await;
        peer.send(DATA, END_STREAM, 1, b"enough").await;
        peer.reset(1, NO_ERROR).await;
        peer
    };
    let client = async {
        let connection = connect(to).await;
        let (feed, body) = fed();
        feed.send(data("begun")).await.unwrap();
        let answer = connection.send(post("/"), body).await.unwrap();
        feed.closed().await;
        whole(answer.into_body()).await.unwrap().0
    };
    let (_peer, body) = join!(peer, client);
    assert_eq!(body, "enough");
}
