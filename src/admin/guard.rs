//! Keeps web pages away from the admin ports, as a tower layer.
//!
//! A browser on this machine reaches loopback for any page it shows. It marks a cross-site call with `Origin`, and a
//! page that had its own name point at 127.0.0.1 (DNS rebinding) with that name in `Host`. Both are refused, so no
//! page can drain or read a laptop's sidecar. Programs send neither.

use std::{
    net::IpAddr,
    pin::Pin,
    task::{Context, Poll},
};

use http::{HeaderMap, Request, StatusCode, Uri, header};
use tower::Service;

use super::{
    answer::{self, Answer},
    serve::Port,
};

#[derive(Clone)]
pub(super) struct Guard<S> {
    pub port: Port,
    pub inner: S,
}

impl<S, B> Service<Request<B>> for Guard<S>
where
    S: Service<Request<B>, Response = Answer>,
    S::Future: 'static,
    S::Error: 'static,
{
    type Response = Answer;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Answer, S::Error>>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        match refusal(self.port, request.uri(), request.headers()) {
            Some(why) => Box::pin(std::future::ready(Ok(answer::words(
                StatusCode::FORBIDDEN,
                &why,
            )))),
            None => Box::pin(self.inner.call(request)),
        }
    }
}

/// Why a request must not be answered, if so.
fn refusal(port: Port, uri: &Uri, headers: &HeaderMap) -> Option<String> {
    if headers.contains_key(header::ORIGIN) {
        return Some(
            "no web page may ask here: the request has an Origin header; use curl or `weft`".into(),
        );
    }
    // Scrapers and the kubelet ask by the pod's address.
    if port == Port::Metrics {
        return None;
    }
    let mut hosts = headers.get_all(header::HOST).iter();
    let host = match (hosts.next(), hosts.next()) {
        (Some(one), None) => one.to_str().unwrap_or_default(),
        (None, _) => {
            return Some("the request names no Host; 127.0.0.1 or localhost will do".into());
        }
        (Some(_), Some(_)) => return Some("the request has more than one Host".into()),
    };
    // An absolute-form target stands above Host (RFC 9112, 3.2.2): both must be ours.
    let named = uri.authority().map_or(host, |authority| authority.as_str());
    [host, named]
        .into_iter()
        .find(|name| !is_loopback(name))
        .map(|name| {
            format!(
                "Host is `{}`, not this machine's loopback: ask by 127.0.0.1, [::1] or localhost",
                name.escape_debug()
            )
        })
}

/// `localhost`, `127.0.0.1` or `[::1]`, with or without a port.
fn is_loopback(authority: &str) -> bool {
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => host,
        _ => authority,
    };
    let bare = host
        .strip_prefix('[')
        .and_then(|inner| inner.strip_suffix(']'));
    let address = match bare {
        Some(inner) => inner.parse().map(IpAddr::V6).ok(),
        None => host.parse().map(IpAddr::V4).ok(),
    };
    host.eq_ignore_ascii_case("localhost") || address.is_some_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_names_are_hosts() {
        for host in [
            "localhost",
            "LocalHost:15000",
            "127.0.0.1",
            "127.0.0.1:1",
            "[::1]",
            "[::1]:9",
        ] {
            assert!(is_loopback(host), "{host}");
        }
        for host in [
            "",
            "evil.example",
            "evil.example:15000",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "127.0.0.1:evil",
            "10.0.0.1",
            "::1",
            "[::2]",
            "localhost:99999",
            "user@localhost",
            ":80",
        ] {
            assert!(!is_loopback(host), "{host}");
        }
    }

    #[test]
    fn an_absolute_target_does_not_hide_a_host() {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, "evil.example".parse().unwrap());
        let uri = Uri::from_static("http://localhost/drain");
        assert!(refusal(Port::Admin, &uri, &headers).is_some());
        headers.insert(header::HOST, "localhost".parse().unwrap());
        assert!(refusal(Port::Admin, &uri, &headers).is_none());
        let uri = Uri::from_static("http://evil.example/drain");
        assert!(refusal(Port::Admin, &uri, &headers).is_some());
    }

    #[test]
    fn the_kubelet_asks_by_address_and_a_page_by_origin() {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, "10.0.0.7:15020".parse().unwrap());
        let uri = Uri::from_static("/ready");
        assert!(refusal(Port::Metrics, &uri, &headers).is_none());
        headers.insert(header::ORIGIN, "null".parse().unwrap());
        assert!(refusal(Port::Metrics, &uri, &headers).is_some());
    }
}
