//! What a peer may do to us, and we to it.

use tokio::join;

use super::{peer::*, *};

#[tokio::test(flavor = "local")]
async fn the_eleventh_stream_of_ten_comes_back_at_once() {
    let (listener, to) = listen().await;
    let client = async {
        let connection = connect(to).await;
        assert_eq!(connection.max_streams(), 10);
        let mut running: Vec<_> = (0..10)
            .map(|_| connection.send(get("/"), NoBody::new()))
            .collect();
        assert_eq!(connection.active(), 10);
        assert!(!connection.is_usable());
        let eleventh = connection.send(get("/11"), NoBody::new()).await;
        assert_eq!(failure(eleventh), Failure::before(Kind::Full));

        running.remove(0).await.unwrap();
        assert!(connection.is_usable());
        connection.send(get("/11"), NoBody::new()).await.unwrap();
    };
    let peer = async {
        let mut peer = Peer::accept(&listener, &[(MAX_CONCURRENT_STREAMS, 10)]).await;
        for _ in 0..10 {
            peer.request().await;
        }
        peer.answer(1).await;
        let stream = peer.request().await;
        peer.answer(stream).await;
        peer
    };
    join!(client, peer);
}

struct Count(Cell<usize>);

impl Observer for Count {
    fn informational(&self) {
        self.0.set(self.0.get() + 1);
    }
}

#[tokio::test(flavor = "local")]
async fn informational_answers_are_dropped_and_counted() {
    let (listener, to) = listen().await;
    let peer = async {
        let mut peer = Peer::accept(&listener, &[]).await;
        let stream = peer.request().await;
        peer.send(HEADERS, END_HEADERS, stream, &status("100"))
            .await;
        peer.send(HEADERS, END_HEADERS, stream, &status("103"))
            .await;
        peer.answer(stream).await;
        peer
    };
    let count = Rc::new(Count(Cell::new(0)));
    let client = async {
        let connection = connect_with(to, &Options::default(), count.clone()).await;
        connection.send(get("/"), NoBody::new()).await.unwrap()
    };
    let (_peer, answer) = join!(peer, client);
    assert_eq!((answer.status().as_u16(), count.0.get()), (200, 2));
}

/// What the client makes of one answer's head.
async fn answered_with(flags: u8, block: Vec<u8>) -> Failure {
    let (listener, to) = listen().await;
    let peer = async {
        let mut peer = Peer::accept(&listener, &[]).await;
        let stream = peer.request().await;
        peer.send(HEADERS, END_HEADERS | flags, stream, &block)
            .await;
        // The connection lives on.
        let stream = peer.request().await;
        peer.answer(stream).await;
        peer
    };
    let client = async {
        let connection = connect(to).await;
        let failure = failure(connection.send(get("/"), NoBody::new()).await);
        connection.send(get("/2"), NoBody::new()).await.unwrap();
        failure
    };
    join!(peer, client).1
}

#[tokio::test(flavor = "local")]
async fn an_unasked_101_is_a_fault() {
    let failure = answered_with(0, status("101")).await;
    assert_eq!(failure, Failure::perhaps(Kind::UnaskedUpgrade));
}

#[tokio::test(flavor = "local")]
async fn a_hundred_and_one_fields_are_a_fault() {
    let mut block = OK.to_vec();
    (0..101).for_each(|_| block.extend(field("a", "")));
    let failure = answered_with(END_STREAM, block).await;
    assert_eq!(failure, Failure::perhaps(Kind::TooManyFields));
}

#[tokio::test(flavor = "local")]
async fn a_length_that_lies_is_malformed() {
    let mut block = OK.to_vec();
    block.extend(field("content-length", "5"));
    let failure = answered_with(END_STREAM, block).await;
    assert_eq!(failure, Failure::perhaps(Kind::Malformed));
}

#[tokio::test(flavor = "local")]
async fn a_head_over_64_kib_is_too_large() {
    let to = server(|_, mut respond| async move {
        let mut head = Response::new(());
        for n in 0..70 {
            let value = HeaderValue::from_str(&"v".repeat(1000)).unwrap();
            let name = http::HeaderName::try_from(format!("x-{n}")).unwrap();
            head.headers_mut().insert(name, value);
        }
        let _ = respond.send_response(head, true);
    })
    .await;
    let result = connect(to).await.send(get("/"), NoBody::new()).await;
    assert_eq!(failure(result), Failure::perhaps(Kind::HeadTooLarge));
}

#[tokio::test(flavor = "local")]
async fn too_many_trailers_are_a_fault() {
    let (listener, to) = listen().await;
    let peer = async {
        let mut peer = Peer::accept(&listener, &[]).await;
        let stream = peer.request().await;
        peer.send(HEADERS, END_HEADERS, stream, OK).await;
        let block: Vec<u8> = (0..101).flat_map(|_| field("a", "")).collect();
        peer.send(HEADERS, END_HEADERS | END_STREAM, stream, &block)
            .await;
        peer
    };
    let client = async {
        let answer = connect(to).await.send(get("/"), NoBody::new()).await;
        whole(answer.unwrap().into_body()).await
    };
    let (_peer, result) = join!(peer, client);
    assert_eq!(result.unwrap_err().kind, Kind::TooManyFields);
}

/// Callers that leave are no fault of the peer, whose late answers must not end the connection for the others.
#[tokio::test(flavor = "local")]
async fn many_cancelled_requests_leave_the_connection_alive() {
    const CANCELLED: u32 = 400;
    let (listener, to) = listen().await;
    let peer = async {
        let mut peer = Peer::accept(&listener, &[]).await;
        for n in 0..CANCELLED {
            let reset = peer.next(RST_STREAM).await.unwrap();
            assert_eq!(
                (reset.stream, &reset.payload[..]),
                (2 * n + 1, &CANCEL.to_be_bytes()[..])
            );
        }
        for n in 0..CANCELLED {
            peer.answer(2 * n + 1).await;
        }
        let stream = peer.request().await;
        peer.answer(stream).await;
        peer
    };
    let client = async {
        let connection = connect(to).await;
        for _ in 0..CANCELLED {
            drop(connection.send(get("/"), NoBody::new()));
            tokio::task::yield_now().await;
        }
        connection.send(get("/last"), NoBody::new()).await.unwrap();
    };
    join!(peer, client);
}

#[tokio::test(flavor = "local")]
async fn a_head_without_authority_comes_back() {
    let (listener, to) = listen().await;
    let client = async {
        let head = Request::get("/relative").body(()).unwrap();
        connect(to).await.send(head, NoBody::new()).await
    };
    let (_peer, result) = join!(Peer::accept(&listener, &[]), client);
    assert_eq!(failure(result).kind, Kind::BadHead);
}
