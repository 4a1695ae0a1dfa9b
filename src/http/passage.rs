//! What both directions do to every request and answer on its way through.

use std::{
    future::{pending, poll_fn},
    rc::Rc,
    task::Poll,
    time::Instant,
};

use http::{HeaderName, HeaderValue, Method, Response, Version, header, request::Parts};

use super::{
    body::{Body, grpc_status},
    cut::Cut,
    exchange::Exchange,
    headers::{self, Facts},
    respond::{self, Reader},
    target::{Form, Target},
    upgrade,
};
use crate::fault::{Fault, Reason};

/// Takes a request's head over from its caller: the guard's verdict, then hygiene; from here on it has an id.
///
/// CONNECT is left to the caller of this, and so is which upgrades a route permits; unknown expectations are refused
/// here.
pub fn receive(exchange: &mut Exchange) -> Result<Facts, Fault> {
    let Exchange {
        head, connection, ..
    } = exchange;
    if let Some(watch) = connection.watch()
        && let Some(violation) = watch.violation(head.version, &head.headers)
    {
        return Err(violation.into());
    }
    let facts = headers::clean_request(&mut head.headers, head.version)?;
    if facts.is_grpc {
        exchange.grpc = true;
    }
    if !facts.has_request_id {
        head.headers.insert(REQUEST_ID, request_id());
    }
    if connection.is_http2() {
        join_cookies(head);
    }
    if facts.offers_upgrade || head.method == Method::CONNECT {
        upgrade::read(exchange, &facts)?;
    }
    if facts.expect_other {
        return Err(Fault::new(
            Reason::ExpectationFailed,
            "the request expects something else than 100-continue",
        ));
    }
    Ok(facts)
}

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Awaits an answer's head: until `at`, and until a gRPC call is cut at the end of our leaving.
pub async fn in_time(
    at: Option<Instant>,
    cut: Option<&Rc<Cut>>,
    call: impl Future<Output = Result<Response<Body>, Fault>>,
) -> Result<Response<Body>, Fault> {
    let over = async {
        match at {
            Some(at) => tokio::time::sleep_until(at.into()).await,
            None => pending().await,
        }
    };
    let cut = poll_fn(|cx| cut.map_or(Poll::Pending, |cut| cut.poll(cx)));
    tokio::select! {
        biased;
        answered = call => answered,
        () = over => Err(Fault::new(
            Reason::RequestTimeout,
            "the call took longer than it may",
        )),
        fault = cut => Err(fault),
    }
}

/// Takes an answer's head over from its callee: hygiene, and what the record of the exchange has to know of it.
pub fn answered(exchange: &mut Exchange, response: &mut Response<Body>) -> Result<(), Fault> {
    let version = response.version();
    let facts = headers::clean_response(response.headers_mut(), version)?;
    exchange.headed(&facts, response.headers());
    if facts.offers_upgrade {
        upgrade::required(response, &exchange.connection);
    }
    *response.version_mut() = Version::HTTP_11;
    Ok(())
}

/// The path to write in place of the one that came: where it was not in its plain form, or absolute.
pub fn rewritten(target: &Target<'_>) -> Option<String> {
    let absolute = || (target.form == Form::Absolute).then(|| origin_form(target));
    target.rewritten().or_else(absolute)
}

/// Path and query, without scheme and authority.
fn origin_form(target: &Target<'_>) -> String {
    match target.query {
        Some(query) => format!("{}?{query}", target.path),
        None => target.path.clone().into_owned(),
    }
}

/// A `Host` to forward.
pub fn host(text: &str) -> Result<HeaderValue, Fault> {
    HeaderValue::from_str(text)
        .map_err(|_| Fault::new(Reason::BadRequest, "the request's host cannot be read"))
}

/// Writes into the head what is forwarded in place of what came.
pub fn readdress(
    head: &mut Parts,
    path: Option<String>,
    host: Option<HeaderValue>,
) -> Result<(), Fault> {
    if let Some(path) = path {
        head.uri = path
            .parse()
            .map_err(|_| Fault::new(Reason::BadRequest, "the request's path cannot be read"))?;
    }
    if let Some(host) = host {
        head.headers.insert(header::HOST, host);
    }
    Ok(())
}

/// The last step: what goes back to the caller, and the record that goes with it.
pub fn finish(
    answered: Result<Response<Body>, Fault>,
    mut exchange: Box<Exchange>,
) -> Response<Body> {
    let mut closes = false;
    let upgrade = exchange.upgrade.take();
    if let Some(upgrade) = &upgrade {
        let failure = answered.as_ref().err().map(Fault::reason);
        exchange
            .connection
            .meter()
            .upgrade(upgrade.outcome(failure));
    }
    let mut response = match answered {
        Ok(response) => response,
        Err(fault) => {
            let ours = exchange.connection.peer().ip().to_canonical().is_loopback();
            let response = respond::answer(
                &fault,
                Reader {
                    grpc: exchange.grpc,
                    ours,
                },
            );
            // Who lies about one request is not asked for the next.
            closes = fault.reason() == Reason::BadRequest;
            let headers = &mut exchange.head.headers;
            // Refused before `receive` was through with it.
            headers.entry(REQUEST_ID).or_insert_with(request_id);
            exchange.failed(fault);
            response
        }
    };
    closes |= exchange.connection.is_leaving();
    let stays = upgrade
        .as_ref()
        .is_some_and(|upgrade| upgrade.is_switched());
    if closes && !stays && !exchange.connection.is_http2() {
        // Beside what a 426 says there.
        response
            .headers_mut()
            .append(header::CONNECTION, HeaderValue::from_static("close"));
    }
    let grpc = if exchange.grpc {
        grpc_status(response.headers())
    } else {
        None
    };
    exchange.answered(response.status().as_u16(), grpc);
    match upgrade {
        None => response.body_mut().carry(exchange),
        Some(upgrade) => upgrade.leave(&mut response, exchange),
    }
    response
}

/// HTTP/2 may send a cookie in pieces; HTTP/1.1 knows one field (RFC 9113 §8.2.3).
fn join_cookies(head: &mut Parts) {
    if head.headers.get_all(header::COOKIE).iter().nth(1).is_none() {
        return;
    }
    let pieces: Vec<&[u8]> = head
        .headers
        .get_all(header::COOKIE)
        .iter()
        .map(HeaderValue::as_bytes)
        .collect();
    if let Ok(joined) = HeaderValue::from_bytes(&pieces.join(&b"; "[..])) {
        head.headers.insert(header::COOKIE, joined);
    }
}

/// 32 hexadecimal digits at random: unique enough to find a request again, and no secret.
fn request_id() -> HeaderValue {
    let mut text = [0u8; 32];
    let bits = fastrand::u128(..).to_le_bytes();
    // Without a table, so that many are made at once.
    let digit = |nibble: u8| nibble + if nibble < 10 { b'0' } else { b'a' - 10 };
    for (two, byte) in text.as_chunks_mut::<2>().0.iter_mut().zip(bits) {
        *two = [digit(byte >> 4), digit(byte & 15)];
    }
    HeaderValue::from_bytes(&text).unwrap_or_else(|_| HeaderValue::from_static("0"))
}
