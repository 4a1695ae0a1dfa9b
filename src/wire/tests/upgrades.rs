//! Exchanges that end HTTP on their connection.

use super::*;

type Whole = Response<AnswerBody<Socket, Empty, Shelf<Socket>>>;

const SWITCH: &str =
    "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: WebSocket\r\n\r\n";

fn upgrade(offered: &'static str, text: &str) -> Option<Result<Whole, Failure<Empty>>> {
    let socket = Socket::answering([text.as_bytes()], false);
    let offered = HeaderValue::from_static(offered);
    let headers = HeaderMap::new();
    let head = RequestHead {
        upgrade: Some(&offered),
        ..get(&headers)
    };
    let answer =
        Connection::new(socket.clone(), Limits::default()).send(head, Empty::new(), Shelf::new());
    let answer = run(answer);
    assert_eq!(
        socket.written(),
        format!(
            "GET / HTTP/1.1\r\nconnection: upgrade\r\nupgrade: {}\r\n\r\n",
            offered.to_str().unwrap()
        )
    );
    answer
}

#[test]
fn a_switch_hands_over_the_socket_and_what_came_with_it() {
    let answer = upgrade("h2c, websocket", &format!("{SWITCH}first"));
    let answer = answer.unwrap().unwrap();
    assert_eq!(answer.status(), 101);
    assert!(answer.body().is_end_stream());
    let upgraded = answer.into_body().into_upgraded().unwrap();
    assert_eq!(upgraded.leftover, "first");
}

#[test]
fn a_switch_to_what_was_not_offered_is_refused() {
    for text in [
        SWITCH,
        "HTTP/1.1 101 Switching Protocols\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: h2c\r\nupgrade: h2c\r\n\r\n",
        "HTTP/1.0 101 Switching Protocols\r\nupgrade: h2c\r\n\r\n",
    ] {
        let failure = upgrade("h2c", text).unwrap().err().unwrap();
        assert!(matches!(failure.error, Error::UnaskedUpgrade), "{text}");
    }
}

#[test]
fn a_switch_nobody_asked_for_is_refused() {
    assert!(answered(SWITCH).error().contains("not asked for"));
}

#[test]
fn a_switch_before_the_request_is_whole_is_refused() {
    let socket = Socket::answering([SWITCH.as_bytes()], false);
    let offered = HeaderValue::from_static("websocket");
    let headers = HeaderMap::new();
    let head = RequestHead {
        upgrade: Some(&offered),
        ..get(&headers)
    };
    let waits = std::iter::repeat_with(|| None).take(100);
    let answer =
        Connection::new(socket, Limits::default()).send(head, Steps::new(waits), Shelf::new());
    let failure = run(answer).unwrap().err().unwrap();
    assert!(matches!(failure.error, Error::UnaskedUpgrade));
}

#[test]
fn an_upgrade_may_be_declined() {
    let answer = upgrade(
        "websocket",
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nno",
    );
    let mut seen = Seen::default();
    let body = answer.unwrap().unwrap().into_body();
    read(body, &mut seen);
    assert_eq!(seen.body(), "no");
}

fn connect(text: &str) -> (Whole, Shelf<Socket>) {
    let socket = Socket::answering([text.as_bytes()], false);
    let shelf = Shelf::new();
    let headers = HeaderMap::new();
    let head = RequestHead {
        method: &Method::CONNECT,
        target: "a:443",
        headers: &headers,
        upgrade: None,
    };
    let answer =
        Connection::new(socket.clone(), Limits::default()).send(head, Empty::new(), shelf.clone());
    let answer = run(answer).unwrap().unwrap();
    assert_eq!(socket.written(), "CONNECT a:443 HTTP/1.1\r\n\r\n");
    (answer, shelf)
}

#[test]
fn a_granted_connect_is_a_tunnel_whatever_it_frames() {
    let (answer, _) = connect("HTTP/1.0 200 Established\r\ncontent-length: 3\r\n\r\nraw");
    assert_eq!(answer.into_body().into_upgraded().unwrap().leftover, "raw");
}

#[test]
fn a_refused_connect_is_an_answer() {
    let (answer, shelf) = connect("HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\n\r\nno");
    let mut seen = Seen::default();
    read(answer.into_body(), &mut seen);
    assert_eq!(seen.body(), "no");
    assert!(shelf.kept());
}
