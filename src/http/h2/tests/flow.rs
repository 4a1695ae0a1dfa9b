//! Bodies flow both ways, at once, and no faster than they are read.

use std::process::{Child, Command, Stdio};

use tokio::join;

use super::{peer::*, *};

const MIB: usize = 1024 * 1024;

/// Reads what comes and sends it back, trailers too.
async fn echo(request: Request<h2::RecvStream>, mut respond: Respond) {
    let mut body = request.into_body();
    let Ok(mut out) = respond.send_response(Response::new(()), false) else {
        return;
    };
    while let Some(Ok(bytes)) = body.data().await {
        let _ = body.flow_control().release_capacity(bytes.len());
        let _ = out.send_data(bytes, false);
    }
    match body.trailers().await {
        Ok(Some(trailers)) => drop(out.send_trailers(trailers)),
        _ => drop(out.send_data(Bytes::new(), true)),
    }
}

#[tokio::test(flavor = "local")]
async fn a_two_way_stream_takes_turns_and_passes_trailers() {
    let to = server(echo).await;
    let connection = connect(to).await;
    let (feed, body) = fed();
    let answer = connection.send(post("/echo"), body).await.unwrap();
    let mut body = answer.into_body();
    for turn in ["one", "two", "three"] {
        feed.send(data(turn)).await.unwrap();
        let frame = body.frame().await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), turn);
    }
    feed.send(trailers("grpc-status", "0")).await.unwrap();
    let frame = body.frame().await.unwrap().unwrap();
    assert_eq!(frame.into_trailers().unwrap()["grpc-status"], "0");
    assert!(body.frame().await.is_none());
    assert_eq!(connection.active(), 0);
}

#[tokio::test(flavor = "local")]
async fn a_mebibyte_each_way_arrives_whole() {
    let to = server(echo).await;
    let connection = connect(to).await;
    let sent: Bytes = (0..MIB).map(|n| (n / 251) as u8).collect();
    let answer = connection
        .send(post("/echo"), Full::from(sent.clone()))
        .await;
    let (body, _) = whole(answer.unwrap().into_body()).await.unwrap();
    assert!(body == sent);
}

/// Lets every task run until none has work left.
async fn settle() {
    for _ in 0..2000 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "local")]
async fn an_unread_answer_stops_its_sender_at_one_window() {
    let accepted = Rc::new(Cell::new(0));
    let counter = accepted.clone();
    let to = server(move |_, mut respond| {
        let counter = counter.clone();
        async move {
            let mut out = respond.send_response(Response::new(()), false).unwrap();
            let mut left = MIB;
            while left > 0 {
                out.reserve_capacity(left);
                let room = std::future::poll_fn(|cx| out.poll_capacity(cx)).await;
                let part = room.unwrap().unwrap().min(left);
                left -= part;
                counter.set(counter.get() + part);
                out.send_data(Bytes::from(vec![7; part]), left == 0)
                    .unwrap();
            }
        }
    })
    .await;
    let connection = connect(to).await;
    let answer = connection.send(get("/"), NoBody::new()).await.unwrap();
    settle().await;
    let window = Options::default().stream_window as usize;
    assert_eq!(accepted.get(), window);

    let (body, _) = whole(answer.into_body()).await.unwrap();
    assert_eq!(body.len(), MIB);
}

#[tokio::test(flavor = "local")]
async fn a_peer_that_reads_nothing_stops_the_body_at_one_window() {
    let to = server(|request, mut respond| async move {
        // Neither read nor released until the client asks for it by its second request.
        if request.uri().path() == "/wait" {
            let _body = request.into_body();
            std::future::pending::<()>().await;
        }
        respond.send_response(Response::new(()), true).unwrap();
    })
    .await;
    let connection = connect(to).await;
    let (feed, body) = fed();
    let taken = body.taken.clone();
    tokio::task::spawn_local(async move {
        for _ in 0..64 {
            let _ = feed.send(data(vec![7; 16 * 1024])).await;
        }
    });
    let stuck = tokio::task::spawn_local(connection.send(post("/wait"), body));
    settle().await;
    // The peer's window of 65,535 bytes, and the frame that waits for more.
    assert!(taken.get() >= 64 * 1024, "{}", taken.get());
    assert!(taken.get() <= 5 * 16 * 1024, "{}", taken.get());

    // What is stuck holds up no other exchange.
    let other = connection.send(get("/"), NoBody::new()).await.unwrap();
    assert_eq!(other.status(), 200);
    stuck.abort();
}

/// Windows of a gibibyte, a pipe of a kibibyte.
#[tokio::test(flavor = "local")]
async fn a_socket_that_takes_nothing_stops_the_body_at_the_send_buffer() {
    let gibibyte = 1u32 << 30;
    let wide = [
        frame(SETTINGS, 0, 0, &pairs(&[(INITIAL_WINDOW_SIZE, gibibyte)])),
        frame(WINDOW_UPDATE, 0, 0, &gibibyte.to_be_bytes()),
    ];
    let (connection, _far) = narrow(1024, &wide.concat()).await;
    let (feed, body) = fed();
    let taken = body.taken.clone();
    let feeding = tokio::task::spawn_local(async move {
        for _ in 0..64 {
            let _ = feed.send(data(vec![7; 16 * 1024])).await;
        }
    });
    let stuck = tokio::task::spawn_local(connection.send(post("/"), body));
    settle().await;
    // The send buffer, what the socket's codec holds, and the frame that waits for more.
    let bound = Options::default().max_send_buffer + 3 * 16 * 1024;
    assert!(taken.get() <= bound, "{}", taken.get());
    assert!(taken.get() >= Options::default().max_send_buffer);
    stuck.abort();
    feeding.abort();
}

#[tokio::test(flavor = "local")]
async fn an_answer_that_nobody_reads_holds_up_no_request_body() {
    let (read, mut all_read) = mpsc::channel(1);
    let to = server(move |request, mut respond| {
        let read = read.clone();
        async move {
            let mut out = respond.send_response(Response::new(()), false).unwrap();
            out.send_data(Bytes::from(vec![7; MIB]), true).unwrap();
            let (mut body, mut bytes) = (request.into_body(), 0);
            while let Some(Ok(part)) = body.data().await {
                let _ = body.flow_control().release_capacity(part.len());
                bytes += part.len();
            }
            read.send(bytes).await.unwrap();
        }
    })
    .await;
    let connection = connect(to).await;
    let (feed, body) = fed();
    let answer = connection.send(post("/"), body).await.unwrap();
    for _ in 0..64 {
        feed.send(data(vec![7; 16 * 1024])).await.unwrap();
    }
    drop(feed);
    assert_eq!(all_read.recv().await, Some(MIB));
    let (body, _) = whole(answer.into_body()).await.unwrap();
    assert_eq!(body.len(), MIB);
}

#[tokio::test(flavor = "local")]
async fn a_stuck_request_body_holds_up_no_answer() {
    let to = server(|request, mut respond| async move {
        let mut out = respond.send_response(Response::new(()), false).unwrap();
        out.send_data(Bytes::from_static(b"answered"), true)
            .unwrap();
        let _unread = request.into_body();
        std::future::pending::<()>().await;
    })
    .await;
    let connection = connect(to).await;
    let sent = Full::from(vec![7; MIB]);
    let answer = connection.send(post("/"), sent).await.unwrap();
    let (body, _) = whole(answer.into_body()).await.unwrap();
    assert_eq!(body, "answered");
}

#[tokio::test(flavor = "local")]
async fn an_empty_body_ends_with_its_head() {
    let (listener, to) = listen().await;
    let peer = async {
        let mut peer = Peer::accept(&listener, &[]).await;
        let head = peer.next(HEADERS).await.unwrap();
        peer.answer(head.stream).await;
        (peer, head)
    };
    let client = async { connect(to).await.send(get("/"), NoBody::new()).await };
    let ((_peer, head), _answer) = join!(peer, client);
    assert_eq!(head.flags & END_STREAM, END_STREAM);
}

#[tokio::test(flavor = "local")]
async fn a_body_whose_end_is_known_ends_with_its_last_frame() {
    let (listener, to) = listen().await;
    let peer = async {
        let mut peer = Peer::accept(&listener, &[]).await;
        let last = peer.next(DATA).await.unwrap();
        peer.answer(last.stream).await;
        (peer, last)
    };
    let client = async { connect(to).await.send(post("/"), Full::from("whole")).await };
    let ((_peer, last), _answer) = join!(peer, client);
    assert_eq!((&last.payload[..], last.flags), (&b"whole"[..], END_STREAM));
}

struct Nghttpd(Child);

impl Drop for Nghttpd {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "local")]
async fn nghttpd_serves_us() {
    let files = tempfile::tempdir().unwrap();
    let file: Vec<u8> = (0..MIB).map(|n| (n / 253) as u8).collect();
    std::fs::write(files.path().join("file"), &file).unwrap();
    let port = listen().await.1.port();
    let _server = Nghttpd(
        Command::new("nghttpd")
            .args(["--no-tls", "-d"])
            .arg(files.path())
            .arg(port.to_string())
            .stdout(Stdio::null())
            .spawn()
            .expect("nghttpd is installed (package nghttp2-server)"),
    );
    let io = loop {
        if let Ok(io) = TcpStream::connect(("127.0.0.1", port)).await {
            break io;
        }
        tokio::task::yield_now().await;
    };
    let connection = handshake(io, &Options::default(), Rc::new(()))
        .await
        .unwrap();
    assert_eq!(connection.max_streams(), 100);
    let one = connection.send(get("/file"), NoBody::new());
    let other = connection.send(get("/absent"), NoBody::new());
    let posted = connection.send(post("/file"), Full::from(file.clone()));
    let (one, other, posted) = join!(one, other, posted);
    assert_eq!(other.unwrap().status(), 404);
    assert_eq!(posted.unwrap().status(), 200);
    let (body, _) = whole(one.unwrap().into_body()).await.unwrap();
    assert!(body == file);
}
