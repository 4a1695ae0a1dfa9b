//! What a peer may answer, and what becomes of the connection.

use super::*;
use proptest::prelude::*;

#[test]
fn a_known_length_ends_the_body_and_keeps_the_connection() {
    let seen = answered("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello");
    assert_eq!((seen.status, seen.body()), (200, "hello"));
    assert!(seen.ended && seen.kept);
    assert_eq!(seen.headers["content-length"], "5");
}

#[test]
fn chunks_end_the_body_and_keep_the_connection() {
    let seen = answered(
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nhel\r\n2;x\r\nlo\r\n0\r\n\r\n",
    );
    assert_eq!(seen.body(), "hello");
    assert!(seen.ended && seen.kept && seen.trailers.is_none());
}

#[test]
fn trailers_are_passed_on() {
    let seen = answered(
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n0\r\ndigest: y\r\nhost: z\r\n\r\n",
    );
    let trailers = seen.trailers.as_ref().expect("trailers came");
    assert_eq!(
        (trailers.len(), &trailers["digest"]),
        (1, &HeaderValue::from_static("y"))
    );
    assert!(seen.ended && seen.kept);
}

#[test]
fn close_delimited_bodies_end_with_the_connection() {
    let seen = answered_and_closed("HTTP/1.1 200 OK\r\n\r\nhello");
    assert_eq!(seen.body(), "hello");
    assert!(seen.ended && !seen.kept);
}

#[test]
fn an_answer_without_a_body_comes_home_before_anyone_reads() {
    for (method, text) in [
        (Method::GET, "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"),
        (Method::GET, "HTTP/1.1 204 No Content\r\n\r\n"),
        (
            Method::GET,
            "HTTP/1.1 304 Not Modified\r\ncontent-length: 9\r\n\r\n",
        ),
        (Method::GET, "HTTP/1.1 304 Not Modified\r\n\r\n"),
        (Method::HEAD, "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n"),
        (
            Method::HEAD,
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
        ),
        (Method::HEAD, "HTTP/1.1 200 OK\r\n\r\n"),
    ] {
        let shelf = Shelf::new();
        let headers = HeaderMap::new();
        let socket = Socket::answering([text.as_bytes()], false);
        let answer = Connection::new(socket, Limits::default()).send(
            request(&method, &headers),
            Empty::new(),
            shelf.clone(),
        );
        let answer = run(answer).unwrap().unwrap();
        assert!(shelf.kept(), "{method} {text}");
        assert!(answer.body().is_end_stream(), "{method} {text}");
        assert_eq!(answer.body().size_hint().exact(), Some(0));
    }
}

#[test]
fn a_204_that_frames_a_body_is_not_trusted_with_another_request() {
    for framing in ["content-length: 5", "transfer-encoding: chunked"] {
        let seen = answered(&format!("HTTP/1.1 204 No Content\r\n{framing}\r\n\r\n"));
        assert!(seen.ended && !seen.kept, "{framing}");
    }
}

#[test]
fn the_last_frame_says_that_it_is_the_last() {
    for text in [
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
    ] {
        let shelf = Shelf::new();
        let headers = HeaderMap::new();
        let socket = Socket::answering([text.as_bytes()], false);
        let answer = Connection::new(socket, Limits::default()).send(
            get(&headers),
            Empty::new(),
            shelf.clone(),
        );
        let mut body = run(answer).unwrap().unwrap().into_body();
        assert!(!body.is_end_stream() && !shelf.kept());
        let frame = run(std::future::poll_fn(|cx| {
            Pin::new(&mut body).poll_frame(cx)
        }));
        assert_eq!(frame.unwrap().unwrap().unwrap().into_data().unwrap(), "hi");
        assert!(body.is_end_stream() && shelf.kept(), "{text}");
    }
}

#[test]
fn size_hints_shrink_with_the_body() {
    let pieces = [
        &b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhe"[..],
        b"llo",
    ];
    let headers = HeaderMap::new();
    let socket = Socket::answering(pieces, false);
    let answer =
        Connection::new(socket, Limits::default()).send(get(&headers), Empty::new(), Shelf::new());
    let mut body = run(answer).unwrap().unwrap().into_body();
    let mut hints = vec![body.size_hint().exact()];
    while run(std::future::poll_fn(|cx| {
        Pin::new(&mut body).poll_frame(cx)
    }))
    .unwrap()
    .is_some()
    {
        hints.push(body.size_hint().exact());
    }
    assert_eq!(hints, [Some(5), Some(3), Some(0)]);
}

#[test]
fn who_says_close_is_not_kept() {
    for (text, kept) in [
        (
            "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nhi",
            false,
        ),
        ("HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nhi", false),
        (
            "HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ncontent-length: 2\r\n\r\nhi",
            true,
        ),
        (
            "HTTP/1.1 200 OK\r\nconnection: keep-alive\r\ncontent-length: 2\r\n\r\nhi",
            true,
        ),
    ] {
        let seen = answered(text);
        assert_eq!(
            (seen.body(), seen.ended, seen.kept),
            ("hi", true, kept),
            "{text}"
        );
    }
}

#[test]
fn leftovers_cost_the_connection_and_never_reach_the_body() {
    for text in [
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhiHTTP/1.1 200 OK\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\nx",
    ] {
        let seen = answered(text);
        assert_eq!(
            (seen.body(), seen.ended, seen.kept),
            ("hi", true, false),
            "{text}"
        );
    }
    let seen = answered("HTTP/1.1 204 No Content\r\n\r\nx");
    assert!(seen.ended && !seen.kept);
}

#[test]
fn interim_answers_are_skipped_and_counted() {
    let seen = answered(
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n\
         HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi",
    );
    assert_eq!((seen.status, seen.interim, seen.body()), (200, 2, "hi"));
    assert!(!seen.headers.contains_key("link") && seen.kept);
}

#[test]
fn an_interim_answer_that_frames_a_body_costs_the_connection() {
    let seen = answered(
        "HTTP/1.1 103 Early Hints\r\ncontent-length: 2\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
    );
    assert!(seen.ended && !seen.kept);
}

#[test]
fn interim_answers_without_end_are_refused() {
    let seen = answered(&"HTTP/1.1 103 Early Hints\r\n\r\n".repeat(40));
    assert!(seen.error().contains("interim"), "{seen:?}");
}

#[test]
fn bodies_cut_short_are_errors() {
    for text in [
        "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhell",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhell",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhell\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhell\r\n0\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhell\r\n0\r\na: b\r\n",
    ] {
        let seen = answered_and_closed(text);
        assert_eq!(seen.body(), "hell");
        assert!(
            seen.error().contains("closed") && !seen.ended && !seen.kept,
            "{seen:?}"
        );
    }
}

#[test]
fn heads_cut_short_are_closed_connections() {
    let text = "HTTP/1.1 200 OK\r\na: b\r\n\r\n";
    for end in 0..text.len() {
        let seen = answered_and_closed(&text[..end]);
        assert!(seen.error().contains("closed"), "{end}: {seen:?}");
    }
}

#[test]
fn a_failure_gives_back_what_was_never_touched() {
    for (text, received) in [("", false), ("HTTP/1.1 2", true)] {
        let headers = HeaderMap::new();
        let pieces = (!text.is_empty()).then_some(text.as_bytes());
        let socket = Socket::answering(pieces, true);
        let answer = Connection::new(socket, Limits::default()).send(
            get(&headers),
            Empty::new(),
            Shelf::new(),
        );
        let failure: Failure<Empty> = run(answer).unwrap().err().unwrap();
        assert!(matches!(failure.error, Error::Closed));
        assert!(failure.body.is_some() && failure.wrote);
        assert_eq!(failure.received, received);
    }
}

#[test]
fn heads_over_the_limits_are_refused() {
    let limits = Limits {
        head: 1000,
        fields: 10,
    };
    let large = format!("HTTP/1.1 200 OK\r\na: {}\r\n\r\n", "b".repeat(1000));
    let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "a: b\r\n".repeat(11));
    let endless = format!("HTTP/1.1 200 OK\r\na: {}", "b".repeat(100_000));
    for (text, word) in [(large, "large"), (many, "many"), (endless, "large")] {
        let seen = exchange(&Method::GET, [text.as_bytes()], false, limits);
        assert!(seen.error().contains(word), "{seen:?}");
        let bytewise = exchange(&Method::GET, text.as_bytes().chunks(1), false, limits);
        assert!(bytewise.error().contains(word), "{bytewise:?}");
    }
}

#[test]
fn a_head_larger_than_the_first_read_is_read_on() {
    let value = "b".repeat(50_000);
    let seen = answered(&format!(
        "HTTP/1.1 200 OK\r\na: {value}\r\ncontent-length: 0\r\n\r\n"
    ));
    assert_eq!(seen.headers["a"].len(), 50_000);
    assert!(seen.kept);
}

#[test]
fn a_connection_at_home_carries_the_next_exchange() {
    let text = &b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi"[..];
    let socket = Socket::answering([text, text, text], false);
    let shelf = Shelf::new();
    let headers = HeaderMap::new();
    let mut connection = Connection::new(socket.clone(), Limits::default());
    for _ in 0..3 {
        let answer = connection.send(get(&headers), Empty::new(), shelf.clone());
        let mut seen = Seen::default();
        read(run(answer).unwrap().unwrap().into_body(), &mut seen);
        assert_eq!(seen.body(), "hi");
        connection = shelf.take();
    }
    assert_eq!(socket.written(), "GET / HTTP/1.1\r\n\r\n".repeat(3));
}

#[test]
fn a_small_exchange_is_one_write() {
    let socket = Socket::answering([&b"HTTP/1.1 204 No Content\r\n\r\n"[..]], false);
    let headers = HeaderMap::new();
    let answer = Connection::new(socket.clone(), Limits::default()).send(
        request(&Method::POST, &headers),
        http_body_util::Full::new(Bytes::from_static(b"hello")),
        Shelf::new(),
    );
    run(answer).unwrap().unwrap();
    assert_eq!(socket.0.borrow().writes, 1);
}

/// What real traffic carries.
struct Nowhere;

impl<IO> Home<IO> for Nowhere {
    fn keep(self, _: Connection<IO>) {}
}

#[test]
fn futures_and_idle_connections_stay_small() {
    assert!(size_of::<Ours>() <= 32 + size_of::<hyper::body::Incoming>());
    assert!(size_of::<OurBody>() <= 80);
    let socket = size_of::<tokio::net::TcpStream>();
    assert!(size_of::<Connection<tokio::net::TcpStream>>() <= socket + 16);
}

type Ours = crate::wire::Answer<tokio::net::TcpStream, hyper::body::Incoming, Nowhere>;
type OurBody = AnswerBody<tokio::net::TcpStream, hyper::body::Incoming, Nowhere>;

/// Answers that stress every part of the codec, whole and broken.
const CORPUS: &[&str] = &[
    "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello",
    "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello!",
    "HTTP/1.1 200 OK\r\nA: b\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\nA;e=f\r\n0123456789\r\n0\r\nt: u\r\n\r\n",
    "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nxy",
    "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nfffffffffffffffff\r\n",
    "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
    "HTTP/1.0 200 OK\r\n\r\nuntil the end",
    "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n",
    "HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\n\r\n",
    "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello",
    "HTTP/1.1 200 OK\r\na : b\r\n\r\n",
    "HTTP/1.1 200 OK\na: b\n\n",
    // Broken where nothing was worth a look before the peer closed.
    "HTTP/1.1 200 OK\r\na: b\0",
    "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\nt: u\0",
];

#[test]
fn every_split_in_two_gives_the_same_exchange() {
    for text in CORPUS {
        let whole = answered_and_closed(text);
        for at in 1..text.len() {
            let (one, two) = text.as_bytes().split_at(at);
            let split = exchange(&Method::GET, [one, two], true, Limits::default());
            assert_eq!(split, whole_or_kept(&whole, split.kept), "{at} of {text}");
        }
    }
}

/// Leftovers that arrive later are found by `is_reusable`, not by the exchange.
fn whole_or_kept(whole: &Seen, kept: bool) -> Seen {
    Seen {
        status: whole.status,
        headers: whole.headers.clone(),
        interim: whole.interim,
        body: whole.body.clone(),
        trailers: whole.trailers.clone(),
        ended: whole.ended,
        error: whole.error.clone(),
        kept,
    }
}

#[test]
fn byte_by_byte_gives_the_same_exchange() {
    for text in CORPUS {
        let whole = answered_and_closed(text);
        let split = exchange(
            &Method::GET,
            text.as_bytes().chunks(1),
            true,
            Limits::default(),
        );
        assert_eq!(split, whole_or_kept(&whole, split.kept), "{text}");
    }
}

proptest! {
    /// Bytes of any kind end an exchange, one way or the other, and never with more than was sent.
    #[test]
    fn arbitrary_bytes_do_no_harm(
        bytes in prop::collection::vec(any::<u8>(), 0..600),
        start in 0usize..CORPUS.len(),
        keep in 0usize..120,
        size in 1usize..50,
        head in any::<bool>(),
    ) {
        let start = &CORPUS[start].as_bytes()[..keep.min(CORPUS[start].len())];
        let text = [start, &bytes[..]].concat();
        let method = if head { Method::HEAD } else { Method::GET };
        let limits = Limits { head: 200, fields: 5 };
        let seen = exchange(&method, text.chunks(size), true, limits);
        prop_assert!(seen.ended || seen.error.is_some());
        prop_assert!(seen.error() != "waits");
        prop_assert!(seen.body.len() <= text.len());
    }

    /// A corpus answer with one byte changed never panics and never depends on how it is cut.
    #[test]
    fn mutated_answers_do_not_depend_on_their_cut(
        which in 0usize..CORPUS.len(),
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
        size in 1usize..30,
    ) {
        let mut text = CORPUS[which].as_bytes().to_vec();
        let at = at.index(text.len());
        text[at] = byte;
        let whole = exchange(&Method::GET, [&text[..]], true, Limits::default());
        let split = exchange(&Method::GET, text.chunks(size), true, Limits::default());
        prop_assert_eq!(&split, &whole_or_kept(&whole, split.kept));
    }

    /// What a peer frames comes out as it went in, however it is cut into chunks and reads.
    #[test]
    fn framed_bodies_read_back(
        parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..300), 0..8),
        size in 1usize..700,
        chunked in any::<bool>(),
    ) {
        let body = parts.concat();
        let mut text = Vec::new();
        if chunked {
            text.extend_from_slice(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n");
            for part in &parts {
                text.extend_from_slice(format!("{:X}\r\n", part.len()).as_bytes());
                text.extend_from_slice(part);
                text.extend_from_slice(b"\r\n");
            }
            text.extend_from_slice(b"0\r\n\r\n");
        } else {
            text.extend_from_slice(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len()).as_bytes());
            text.extend_from_slice(&body);
        }
        let seen = exchange(&Method::GET, text.chunks(size), false, Limits::default());
        prop_assert_eq!(seen.error, None);
        prop_assert_eq!(seen.body, body);
        prop_assert!(seen.ended && seen.kept);
    }
}
