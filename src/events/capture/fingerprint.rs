//! Whether two calls under one idempotency key are the same call: SHA-256 over what the callee would see.
//!
//! What differs from one send of a call to the next is left out: tracing, credentials, what hops add.

use http::{HeaderMap, HeaderName, Method};
use sha2::{Digest, Sha256};
use smallvec::SmallVec;

const LEFT_OUT: &[&str] = &[
    "authorization",
    "b3",
    "baggage",
    "cookie",
    "date",
    "forwarded",
    "grpc-previous-rpc-attempts",
    "grpc-tags-bin",
    "grpc-trace-bin",
    "traceparent",
    "tracestate",
    "uber-trace-id",
    "user-agent",
    "via",
    "x-amzn-trace-id",
    "x-cloud-trace-context",
    "x-ot-span-context",
    "x-real-ip",
    "x-request-id",
];
const LEFT_OUT_PREFIXES: &[&str] = &["x-b3-", "x-datadog-", "x-forwarded-"];

/// Of a call as it is kept; `kept` says which fields are.
pub fn of(
    method: &Method,
    authority: &str,
    target: &str,
    headers: &HeaderMap,
    kept: impl Fn(&HeaderName) -> bool,
    body: &[u8],
) -> [u8; 32] {
    let mut fields: SmallVec<[(&str, &[u8]); 32]> = headers
        .iter()
        .filter(|(name, _)| kept(name) && counts(name.as_str()))
        .map(|(name, value)| (name.as_str(), value.as_bytes()))
        .collect();
    // Stable: fields of one name keep their order, which means something.
    fields.sort_by_key(|(name, _)| *name);
    let mut hash = Sha256::new();
    let mut add = |bytes: &[u8]| {
        hash.update((bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    };
    add(method.as_str().as_bytes());
    add(authority.as_bytes());
    add(target.as_bytes());
    for (name, value) in &fields {
        add(name.as_bytes());
        add(value);
    }
    add(b"");
    add(body);
    hash.finalize().into()
}

fn counts(name: &str) -> bool {
    LEFT_OUT.binary_search(&name).is_err()
        && !LEFT_OUT_PREFIXES
            .iter()
            .any(|prefix| name.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn print(fields: &[(&'static str, &str)], body: &str) -> [u8; 32] {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, value.parse().unwrap());
        }
        of(
            &Method::POST,
            "a",
            "/b",
            &headers,
            |_| true,
            body.as_bytes(),
        )
    }

    #[test]
    fn tracing_credentials_and_order_make_no_difference() {
        let one = print(&[("x-a", "1"), ("x-b", "2"), ("traceparent", "t1")], "body");
        let two = print(
            &[("x-b", "2"), ("authorization", "s"), ("x-a", "1")],
            "body",
        );
        assert_eq!(one, two);
    }

    #[test]
    fn content_does() {
        let one = print(&[("x-a", "1")], "body");
        assert_ne!(one, print(&[("x-a", "1")], "other"));
        assert_ne!(one, print(&[("x-a", "2")], "body"));
        assert_ne!(one, print(&[("x-a", "1"), ("x-a", "1")], "body"));
    }

    #[test]
    fn the_list_can_be_searched() {
        assert!(LEFT_OUT.is_sorted());
    }
}
