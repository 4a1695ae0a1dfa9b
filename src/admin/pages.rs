//! Which pages there are, and what each does. A page that changes something takes POST alone.

use http::{HeaderValue, Method, Request, StatusCode, header, request::Parts};
use hyper::body::Incoming;

use super::{
    House,
    answer::{self, Answer, json, words},
    serve::Port,
    store::{self, Refused},
};
use crate::telemetry::Registry;

/// Of everything but an edited dead letter.
const SMALL_BODY: usize = 1024;

/// Every page: its method, its path (`ID` stands for an event's id), what it is for.
pub const PAGES: &[(&str, &str, &str)] = &[
    ("GET", "/", "this list"),
    ("GET", "/live", "200 while the process runs"),
    ("GET", "/ready", "200 while new work is welcome, else 503"),
    ("GET", "/metrics", "Prometheus text"),
    ("GET", "/listeners", "the addresses listened on"),
    (
        "GET",
        "/config",
        "the effective configuration, secrets hidden",
    ),
    ("GET", "/upstreams", "every upstream with its endpoints"),
    ("GET", "/outbox", "deferred calls that wait, and the sums"),
    ("GET", "/outbox/ID", "where one deferred call stands"),
    (
        "GET",
        "/deadletters",
        "dead letters: ?reason= status= since= until= key= route= upstream= type= all=",
    ),
    ("GET", "/deadletters/ID", "one dead letter, whole"),
    ("POST", "/deadletters/ID/replay", "delivers it again"),
    (
        "POST",
        "/deadletters/ID/edit",
        "a changed copy takes its place",
    ),
    ("POST", "/deadletters/ID/discard", "gives it up"),
    ("POST", "/reload", "reads the routing file again"),
    ("POST", "/drain", "leaves, as SIGTERM does"),
    (
        "POST",
        "/log",
        "changes how much is logged: the body, or ?level=",
    ),
];

/// The pages that strangers on the metrics port get.
const OPEN: [&str; 3] = ["/live", "/ready", "/metrics"];

pub(super) async fn answer<H: House>(house: &H, port: Port, request: Request<Incoming>) -> Answer {
    let (head, body) = request.into_parts();
    let path = head.uri.path().to_owned();
    if port == Port::Metrics && !OPEN.contains(&&*path) {
        return words(
            StatusCode::NOT_FOUND,
            "this port has /metrics, /live and /ready only; the rest is on admin.listen",
        );
    }
    if let Some(refused) = wrong_method(&head.method, &path) {
        return refused;
    }
    match &*path {
        "/" => index(),
        "/live" => words(StatusCode::OK, "live"),
        "/ready" => match house.ready() {
            Ok(()) => words(StatusCode::OK, "ready"),
            Err(why) => words(StatusCode::SERVICE_UNAVAILABLE, &why),
        },
        "/metrics" => answer::of(StatusCode::OK, Registry::CONTENT_TYPE, house.metrics()),
        "/listeners" => json(&house.listeners()),
        "/config" => json(&house.config()),
        "/upstreams" => json(&house.upstreams().await),
        "/reload" => match house.reload().await {
            Ok(done) => words(StatusCode::OK, &done),
            Err(why) => words(StatusCode::UNPROCESSABLE_ENTITY, &why),
        },
        "/drain" => {
            house.drain();
            words(StatusCode::ACCEPTED, "draining")
        }
        "/log" => log(house, &head, body).await,
        _ if store::is_page(&path) => stored(house, &head, body).await,
        _ => no_page(&path),
    }
}

/// A page about deferred calls.
async fn stored<H: House>(house: &H, head: &Parts, body: Incoming) -> Answer {
    let limit = match head.uri.path().ends_with("/edit") {
        true => store::LARGEST_EDIT,
        false => SMALL_BODY,
    };
    let body = match answer::read(body, limit).await {
        Ok(body) => body,
        Err(refused) => return refused,
    };
    let method = match head.method {
        Method::HEAD => &Method::GET,
        ref other => other,
    };
    let target = head
        .uri
        .path_and_query()
        .map_or("/", |target| target.as_str());
    match store::ask(&house.events(), method, target, &body).await {
        Ok(page) => json(&page),
        Err(refused) => words(status(&refused), &refused.to_string()),
    }
}

fn status(refused: &Refused) -> StatusCode {
    match refused {
        Refused::Unknown(_) => StatusCode::NOT_FOUND,
        Refused::Wrong(_) => StatusCode::BAD_REQUEST,
        Refused::Conflict(_) => StatusCode::CONFLICT,
        Refused::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
    }
}

async fn log<H: House>(house: &H, head: &Parts, body: Incoming) -> Answer {
    let level = match query(head, "level") {
        Some(level) => level,
        None => match answer::read(body, SMALL_BODY).await {
            Ok(bytes) => String::from_utf8_lossy(&bytes).trim().to_owned(),
            Err(refused) => return refused,
        },
    };
    if level.is_empty() {
        return words(
            StatusCode::BAD_REQUEST,
            "say the level in the body or as ?level=: info, or weft::outbound=debug,warn",
        );
    }
    match house.log(&level) {
        Ok(()) => words(StatusCode::OK, &format!("logging at {level}")),
        Err(why) => words(StatusCode::BAD_REQUEST, &why),
    }
}

fn index() -> Answer {
    let lines = PAGES
        .iter()
        .map(|(method, path, what)| format!("{method:<5}{path:<28}{what}\n"));
    words(StatusCode::OK, &lines.collect::<String>())
}

fn no_page(path: &str) -> Answer {
    let words_ = format!("no page {}; GET / lists them", path.escape_debug());
    words(StatusCode::NOT_FOUND, &words_)
}

/// 405 where the path has a page, but not for this method.
fn wrong_method(method: &Method, path: &str) -> Option<Answer> {
    let asked = if method == Method::HEAD {
        "GET"
    } else {
        method.as_str()
    };
    let known: Vec<&'static str> = PAGES
        .iter()
        .filter(|(_, pattern, _)| is_page(pattern, path))
        .map(|(method, ..)| *method)
        .collect();
    if known.is_empty() || known.contains(&asked) {
        return None;
    }
    let verb = known.join(", ");
    let mut answer = words(
        StatusCode::METHOD_NOT_ALLOWED,
        &format!(
            "{path} takes {verb}, not {}",
            method.as_str().escape_debug()
        ),
    );
    if let Ok(value) = HeaderValue::from_str(&verb) {
        answer.headers_mut().insert(header::ALLOW, value);
    }
    Some(answer)
}

/// Whether a path is one of a page's, whose `ID` is any one segment.
fn is_page(pattern: &str, path: &str) -> bool {
    let (mut wanted, mut found) = (pattern.split('/'), path.split('/'));
    loop {
        match (wanted.next(), found.next()) {
            (None, None) => return true,
            (Some("ID"), Some(id)) if !id.is_empty() => {}
            (Some(one), Some(other)) if one == other => {}
            _ => return false,
        }
    }
}

/// The first value of a query parameter, unescaped.
fn query(head: &Parts, name: &str) -> Option<String> {
    let pairs = head.uri.query()?.split('&');
    let value = pairs
        .filter_map(|pair| pair.split_once('='))
        .find(|(key, _)| *key == name)?
        .1;
    Some(unescaped(value))
}

pub(super) fn unescaped(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, more)) = rest.split_first() {
        rest = more;
        match first {
            b'+' => bytes.push(b' '),
            b'%' => {
                let digits = more.get(..2).and_then(|two| std::str::from_utf8(two).ok());
                match digits.and_then(|two| u8::from_str_radix(two, 16).ok()) {
                    Some(byte) => {
                        bytes.push(byte);
                        rest = &more[2..];
                    }
                    None => bytes.push(b'%'),
                }
            }
            other => bytes.push(*other),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changes_something_takes_post_alone() {
        for page in ["/reload", "/drain", "/log"] {
            let refused = wrong_method(&Method::GET, page).unwrap();
            assert_eq!(refused.status(), 405);
            assert_eq!(refused.headers()[header::ALLOW], "POST");
            assert!(wrong_method(&Method::POST, page).is_none());
        }
        assert!(wrong_method(&Method::HEAD, "/live").is_none());
        assert!(wrong_method(&Method::DELETE, "/live").is_some());
    }

    #[test]
    fn an_id_is_one_segment() {
        assert!(is_page("/deadletters/ID/replay", "/deadletters/a-1/replay"));
        assert!(!is_page("/deadletters/ID/replay", "/deadletters//replay"));
        assert!(!is_page("/deadletters/ID", "/deadletters/a/b"));
        assert!(!is_page("/deadletters", "/deadletters/a"));
    }

    #[test]
    fn a_query_is_unescaped() {
        assert_eq!(unescaped("weft%3Dinfo%2Cwarn+x%"), "weft=info,warn x%");
    }
}
