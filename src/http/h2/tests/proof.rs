//! "Provably unprocessed" is said on proof alone.

use tokio::{io::AsyncReadExt, join};

use super::{peer::*, *};

#[tokio::test(flavor = "local")]
async fn streams_above_the_last_id_are_unprocessed_and_those_below_are_not() {
    let (listener, to) = listen().await;
    let peer = async {
        let mut peer = Peer::accept(&listener, &[]).await;
        peer.request().await;
        peer.request().await;
        peer.go_away(1).await;
        // Closes with stream 1 unanswered.
    };
    let client = async {
        let connection = connect(to).await;
        let first = connection.send(post("/1"), NoBody::new());
        let second = connection.send(post("/2"), NoBody::new());
        join!(first, second)
    };
    let ((), (first, second)) = join!(peer, client);
    assert!(!failure(first).unprocessed);
    let gone = Kind::GoAway(h2::Reason::NO_ERROR);
    assert_eq!(failure(second), Failure::before(gone));
}

#[tokio::test(flavor = "local")]
async fn a_two_step_goaway_keeps_its_running_streams() {
    let (listener, to) = listen().await;
    let peer = async {
        let mut peer = Peer::accept(&listener, &[]).await;
        peer.request().await;
        peer.go_away(0x7fff_ffff).await;
        peer.go_away(1).await;
        peer.answer(1).await;
        peer
    };
    let client = async {
        let connection = connect(to).await;
        let answer = connection.send(get("/"), NoBody::new()).await;
        (connection, answer)
    };
    let (_peer, (connection, answer)) = join!(peer, client);
    assert_eq!(answer.unwrap().status(), 200);
    assert!(!connection.is_usable());
}

#[tokio::test(flavor = "local")]
async fn after_a_goaway_head_and_body_come_back_untouched() {
    let (listener, to) = listen().await;
    let peer = async {
        let mut peer = Peer::accept(&listener, &[]).await;
        peer.request().await;
        peer.go_away(1).await;
        peer
    };
    struct Left(tokio::sync::Notify);
    impl Observer for Left {
        fn leaving(&self) {
            self.0.notify_one();
        }
    }
    let left = Rc::new(Left(tokio::sync::Notify::new()));
    let client = async {
        let connection = connect_with(to, &Options::default(), left.clone()).await;
        let _running = connection.send(get("/"), NoBody::new());
        left.0.notified().await;
        connection.send(post("/late"), Full::from("kept")).await
    };
    let (_peer, late) = join!(peer, client);
    let Err(Rejected::Upstream {
        failure,
        head: Some(head),
        body: Some(body),
    }) = late
    else {
        panic!("not given back");
    };
    assert!(failure.unprocessed);
    assert_eq!(head.uri().path(), "/late");
    assert_eq!(body.collect().await.unwrap().to_bytes(), "kept");
}

#[tokio::test(flavor = "local")]
async fn a_refused_stream_is_unprocessed_and_its_unread_body_comes_back() {
    let (listener, to) = listen().await;
    let peer = async {
        let mut peer = Peer::accept(&listener, &[]).await;
        let stream = peer.request().await;
        peer.reset(stream, REFUSED_STREAM).await;
        peer
    };
    let (_feed, body) = fed();
    let client = async { connect(to).await.send(post("/"), body).await };
    let (_peer, result) = join!(peer, client);
    let Err(Rejected::Upstream { failure, body, .. }) = result else {
        panic!("answered");
    };
    assert_eq!(failure, Failure::before(Kind::Refused));
    assert!(body.is_some());
}

#[tokio::test(flavor = "local")]
async fn a_body_that_began_does_not_come_back() {
    let (listener, to) = listen().await;
    let peer = async {
        let mut peer = Peer::accept(&listener, &[]).await;
        peer.next(DATA).await.unwrap();
        peer.reset(1, REFUSED_STREAM).await;
        peer
    };
    let (feed, body) = fed();
    feed.send(data("begun")).await.unwrap();
    let client = async { connect(to).await.send(post("/"), body).await };
    let (_peer, result) = join!(peer, client);
    let Err(Rejected::Upstream { failure, body, .. }) = result else {
        panic!("answered");
    };
    assert_eq!(failure, Failure::before(Kind::Refused));
    assert!(body.is_none());
}

#[tokio::test(flavor = "local")]
async fn another_reset_may_have_been_processed() {
    let (listener, to) = listen().await;
    let peer = async {
        let mut peer = Peer::accept(&listener, &[]).await;
        let stream = peer.request().await;
        peer.reset(stream, INTERNAL_ERROR).await;
        peer
    };
    let client = async { connect(to).await.send(post("/"), NoBody::new()).await };
    let (_peer, result) = join!(peer, client);
    let expected = Kind::Reset(h2::Reason::INTERNAL_ERROR);
    assert_eq!(failure(result), Failure::perhaps(expected));
}

#[tokio::test(flavor = "local")]
async fn a_connection_that_closes_may_have_processed_what_it_read() {
    let (listener, to) = listen().await;
    let peer = async {
        let mut peer = Peer::accept(&listener, &[]).await;
        peer.request().await;
    };
    let client = async { connect(to).await.send(post("/"), NoBody::new()).await };
    let ((), result) = join!(peer, client);
    assert!(!failure(result).unprocessed);
}

/// The pipe takes the first request's frame header and then no more: the second never left.
#[tokio::test(flavor = "local")]
async fn a_stream_that_never_left_is_unprocessed() {
    let (connection, mut far) = narrow(256, &frame(SETTINGS, 0, 0, &[])).await;
    let (first, second) = {
        let mut large = post("/1");
        let value = HeaderValue::from_str(&"~".repeat(4096)).unwrap();
        large.headers_mut().insert("x-large", value);
        let first = connection.send(large, NoBody::new());
        let second = connection.send(post("/2"), NoBody::new());
        // Read a little, so that the first head begins to leave, then close.
        let closing = async {
            far.read_exact(&mut [0; 400]).await.unwrap();
            drop(far);
        };
        let (first, second, ()) = join!(first, second, closing);
        (failure(first), failure(second))
    };
    assert!(!first.unprocessed, "{first:?}");
    assert!(second.unprocessed, "{second:?}");
}

#[tokio::test(flavor = "local")]
async fn a_failing_stream_after_its_head_is_never_unprocessed() {
    let (listener, to) = listen().await;
    let peer = async {
        let mut peer = Peer::accept(&listener, &[]).await;
        let stream = peer.request().await;
        peer.send(HEADERS, END_HEADERS, stream, OK).await;
        peer.reset(stream, REFUSED_STREAM).await;
        peer
    };
    let client = async {
        let answer = connect(to).await.send(get("/"), NoBody::new()).await;
        whole(answer.unwrap().into_body()).await
    };
    let (_peer, result) = join!(peer, client);
    let expected = Kind::Reset(h2::Reason::REFUSED_STREAM);
    assert_eq!(result.unwrap_err(), Failure::perhaps(expected));
}
