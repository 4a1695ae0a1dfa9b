//! What leaves for the peer, and what happens when the two directions meet.

use super::*;
use http::header;

const EMPTY_ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";

/// What a POST with this body puts on the wire, whether its connection was kept, and in how many writes.
fn sent(body: Steps, vectored: bool) -> (String, bool, usize) {
    let socket = Socket::answering([EMPTY_ANSWER], false);
    socket.0.borrow_mut().vectored = vectored;
    let shelf = Shelf::new();
    let headers = HeaderMap::new();
    let method = Method::POST;
    let answer = Connection::new(socket.clone(), Limits::default()).send(
        request(&method, &headers),
        body,
        shelf.clone(),
    );
    run(answer).unwrap().unwrap();
    let writes = socket.0.borrow().writes;
    (socket.written(), shelf.kept(), writes)
}

#[test]
fn small_chunks_leave_with_the_head() {
    let body = Steps::new([data("hello"), data(""), data("world")]);
    let (text, kept, writes) = sent(body, false);
    assert_eq!(
        text,
        "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n5\r\nworld\r\n0\r\n\r\n"
    );
    assert!(kept);
    assert_eq!(writes, 1);
}

#[test]
fn large_chunks_leave_uncopied_beside_the_head() {
    let large = "x".repeat(100_000);
    for vectored in [true, false] {
        let body = Steps::new([data(large.clone()), data("y")]);
        let (text, kept, writes) = sent(body, vectored);
        assert_eq!(
            text,
            format!(
                "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n186a0\r\n{large}\r\n1\r\ny\r\n0\r\n\r\n"
            )
        );
        assert!(kept);
        assert_eq!(writes, if vectored { 2 } else { 3 });
    }
}

#[test]
fn a_known_length_is_sent_as_it_is() {
    let body = Steps::new([data("hel"), data("lo"), None]).exact(5);
    let (text, kept, writes) = sent(body, false);
    assert_eq!(text, "POST / HTTP/1.1\r\ncontent-length: 5\r\n\r\nhello");
    assert!(kept, "the last promised byte ends the request");
    assert_eq!(writes, 1);
}

#[test]
fn trailers_follow_the_last_chunk() {
    let mut fields = HeaderMap::new();
    fields.insert("digest", HeaderValue::from_static("z"));
    fields.insert(header::CONTENT_LENGTH, HeaderValue::from_static("3"));
    fields.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("a"));
    let body = Steps::new([data("x"), Some(Ok(Frame::trailers(fields)))]);
    let (text, kept, _) = sent(body, false);
    assert!(
        text.ends_with("\r\n\r\n1\r\nx\r\n0\r\ndigest: z\r\n\r\n"),
        "{text}"
    );
    assert!(kept);
}

#[test]
fn a_body_of_another_length_than_it_said_is_the_requests_fault() {
    for (steps, exact) in [
        (vec![data("hello!")], 5),
        (vec![data("hel"), data("lo!")], 5),
        (vec![data("hell")], 5),
    ] {
        let socket = Socket::answering([], false);
        let shelf = Shelf::new();
        let headers = HeaderMap::new();
        let answer = Connection::new(socket.clone(), Limits::default()).send(
            get(&headers),
            Steps::new(steps).exact(exact),
            shelf.clone(),
        );
        let failure = run(answer).unwrap().err().unwrap();
        assert!(matches!(failure.error, Error::RequestLength));
        assert!(failure.error.is_requests() && failure.body.is_none());
        assert!(!socket.written().contains('!') && !shelf.kept());
    }
}

#[test]
fn a_broken_body_is_the_requests_fault() {
    let headers = HeaderMap::new();
    let socket = Socket::answering([], false);
    let answer = Connection::new(socket, Limits::default()).send(
        get(&headers),
        Steps::new([data("x"), None, Some(Err("gone"))]),
        Shelf::new(),
    );
    let failure = run(answer).unwrap().err().unwrap();
    assert!(matches!(failure.error, Error::RequestBody("gone")));
    assert!(failure.wrote && failure.body.is_none());
}

#[test]
fn a_broken_body_ends_an_answer_under_way() {
    let socket = Socket::answering(
        [&b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n"[..]],
        false,
    );
    let headers = HeaderMap::new();
    let answer = Connection::new(socket, Limits::default()).send(
        get(&headers),
        Steps::new([data("x"), None, None, Some(Err("gone"))]),
        Shelf::new(),
    );
    let mut seen = Seen::default();
    read(run(answer).unwrap().unwrap().into_body(), &mut seen);
    assert!(seen.error().contains("request's body"), "{seen:?}");
}

#[test]
fn a_target_that_would_split_the_request_never_leaves() {
    let socket = Socket::answering([EMPTY_ANSWER], false);
    let headers = HeaderMap::new();
    let head = RequestHead {
        target: "/ HTTP/1.1\r\nx: y",
        ..get(&headers)
    };
    let answer =
        Connection::new(socket.clone(), Limits::default()).send(head, Empty::new(), Shelf::new());
    let failure = run(answer).unwrap().err().unwrap();
    assert!(matches!(failure.error, Error::Target) && !failure.wrote);
    assert_eq!(socket.written(), "");
}

#[test]
fn the_answers_body_drives_the_rest_of_the_request() {
    let socket = Socket::answering(
        [
            &b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n"[..],
            b"h",
            b"i",
        ],
        false,
    );
    let shelf = Shelf::new();
    let headers = HeaderMap::new();
    let answer = Connection::new(socket.clone(), Limits::default()).send(
        get(&headers),
        Steps::new([data("a"), None, data("b"), None, data("c")]),
        shelf.clone(),
    );
    let answer = run(answer).unwrap().unwrap();
    assert!(
        !socket.written().ends_with("0\r\n\r\n"),
        "the answer came early"
    );
    let mut seen = Seen::default();
    read(answer.into_body(), &mut seen);
    assert_eq!(seen.body(), "hi");
    assert!(socket.written().ends_with("1\r\nc\r\n0\r\n\r\n"));
    assert!(shelf.kept());
}

#[test]
fn an_answer_that_ends_before_its_request_costs_the_connection() {
    let socket = Socket::answering([EMPTY_ANSWER], false);
    let shelf = Shelf::new();
    let headers = HeaderMap::new();
    let waits = std::iter::repeat_with(|| None).take(1000);
    let answer = Connection::new(socket, Limits::default()).send(
        get(&headers),
        Steps::new(std::iter::once(data("a")).chain(waits)),
        shelf.clone(),
    );
    assert!(run(answer).unwrap().is_ok());
    assert!(!shelf.kept());
}

#[test]
fn a_request_that_ends_with_its_answer_is_polled_once_more() {
    // Polled three times: data, a wait, and then, with the answer already there, its end.
    let socket = Socket::answering([EMPTY_ANSWER], false);
    socket.0.borrow_mut().paused = true;
    let shelf = Shelf::new();
    let headers = HeaderMap::new();
    let answer = Connection::new(socket, Limits::default()).send(
        get(&headers),
        Steps::new([data("a"), None]),
        shelf.clone(),
    );
    assert!(run(answer).unwrap().is_ok());
    assert!(shelf.kept());
}

#[test]
fn an_answer_is_read_from_a_socket_that_takes_no_more() {
    let socket = Socket::answering(
        [&b"HTTP/1.1 413 Too Large\r\ncontent-length: 2\r\n\r\nno"[..]],
        true,
    );
    socket.0.borrow_mut().takes = Some(100);
    socket.0.borrow_mut().breaks = true;
    let shelf = Shelf::new();
    let headers = HeaderMap::new();
    let answer = Connection::new(socket, Limits::default()).send(
        get(&headers),
        Steps::new([data("x".repeat(100_000))]),
        shelf.clone(),
    );
    let answer = run(answer).unwrap().unwrap();
    assert_eq!(answer.status(), 413);
    let mut seen = Seen::default();
    read(answer.into_body(), &mut seen);
    assert_eq!((seen.body(), seen.ended), ("no", true));
    assert!(!shelf.kept());
}

#[test]
fn a_failed_write_without_an_answer_is_told() {
    let socket = Socket::answering([], true);
    socket.0.borrow_mut().takes = Some(0);
    socket.0.borrow_mut().breaks = true;
    let headers = HeaderMap::new();
    let answer =
        Connection::new(socket, Limits::default()).send(get(&headers), Empty::new(), Shelf::new());
    let failure = run(answer).unwrap().err().unwrap();
    assert!(matches!(&failure.error, Error::Io(e) if e.kind() == io::ErrorKind::BrokenPipe));
    assert!(!failure.wrote && failure.body.is_some());
}

/// A body without end that counts what was taken from it.
struct Endless(Rc<RefCell<usize>>, usize);

impl Body for Endless {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        *self.0.borrow_mut() += self.1;
        Poll::Ready(Some(Ok(Frame::data(vec![b'x'; self.1].into()))))
    }
}

#[test]
fn a_peer_that_takes_nothing_stops_the_request() {
    for (frame, most) in [(1000, 10_000), (64_000, 64_000)] {
        let socket = Socket::answering([], false);
        socket.0.borrow_mut().takes = Some(0);
        let taken = Rc::new(RefCell::new(0));
        let headers = HeaderMap::new();
        let answer = Connection::new(socket, Limits::default()).send(
            get(&headers),
            Endless(taken.clone(), frame),
            Shelf::new(),
        );
        assert!(run(answer).is_none());
        assert!(*taken.borrow() <= most, "{frame}: {}", taken.borrow());
    }
}

#[test]
fn writes_cut_anywhere_send_the_same_bytes() {
    let large = "x".repeat(5000);
    let steps = || Steps::new([data("hello"), data(large.clone()), None, data("z")]);
    let (whole, ..) = sent(steps(), false);
    for size in [1, 2, 3, 7, 64, 4999] {
        let socket = Socket::answering([EMPTY_ANSWER], false);
        socket.0.borrow_mut().takes = Some(0);
        socket.0.borrow_mut().vectored = true;
        let shelf = Shelf::new();
        let headers = HeaderMap::new();
        let method = Method::POST;
        let pieces = std::mem::take(&mut socket.0.borrow_mut().pieces);
        let answer = Connection::new(socket.clone(), Limits::default()).send(
            request(&method, &headers),
            steps(),
            shelf.clone(),
        );
        let mut answer = pin!(answer);
        let mut cx = Context::from_waker(Waker::noop());
        while socket.0.borrow().written.len() < whole.len() {
            socket.0.borrow_mut().takes = Some(size);
            assert!(answer.as_mut().poll(&mut cx).is_pending());
        }
        socket.0.borrow_mut().pieces = pieces;
        assert!(run(answer).unwrap().is_ok());
        assert_eq!(socket.written(), whole);
        assert!(shelf.kept());
    }
}

#[test]
fn what_was_written_is_flushed_before_we_wait() {
    let socket = Socket::answering([], false);
    let headers = HeaderMap::new();
    let answer = Connection::new(socket.clone(), Limits::default()).send(
        get(&headers),
        Steps::new([data("a"), None, data("b")]),
        Shelf::new(),
    );
    assert!(run(answer).is_none());
    assert_eq!(socket.0.borrow().flushes, 2);
}
