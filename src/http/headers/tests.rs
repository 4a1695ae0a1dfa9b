use super::*;

type Lines<'a> = &'a [(&'a str, &'a str)];

fn map(lines: Lines) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in lines {
        headers.append(
            HeaderName::from_bytes(name.as_bytes()).unwrap(),
            value.parse().unwrap(),
        );
    }
    headers
}

fn names(headers: &HeaderMap) -> Vec<&str> {
    let mut names: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
    names.sort_unstable();
    names
}

#[test]
fn the_list_of_what_is_safe_is_sorted() {
    assert!(SAFE.is_sorted());
}

#[test]
fn what_is_between_two_hops_is_taken_out() {
    let cases: &[(&str, Lines, &[&str])] = &[
        (
            "nothing to do",
            &[("host", "a"), ("accept", "*/*")],
            &["accept", "host"],
        ),
        (
            "keep-alive",
            &[("connection", "keep-alive"), ("a", "1")],
            &["a"],
        ),
        ("close", &[("connection", "Close"), ("a", "1")], &["a"]),
        (
            "named",
            &[
                ("connection", "a, B ,close"),
                ("a", "1"),
                ("b", "2"),
                ("c", "3"),
            ],
            &["c"],
        ),
        (
            "named twice over",
            &[
                ("connection", "a"),
                ("connection", "b"),
                ("a", "1"),
                ("b", "2"),
            ],
            &[],
        ),
        (
            "all values of a name",
            &[("connection", "a"), ("a", "1"), ("a", "2")],
            &[],
        ),
        (
            "empty options",
            &[("connection", ", ,keep-alive,"), ("c", "3")],
            &["c"],
        ),
        (
            "not what others rely on",
            &[
                (
                    "connection",
                    "host, authorization, cookie, x-forwarded-for, forwarded, content-length, x-request-id, traceparent, grpc-timeout, content-type, cache-control",
                ),
                ("host", "a"),
                ("authorization", "x"),
                ("cookie", "x"),
                ("x-forwarded-for", "x"),
                ("forwarded", "x"),
                ("content-length", "1"),
                ("x-request-id", "x"),
                ("traceparent", "x"),
                ("grpc-timeout", "1S"),
                ("content-type", "text/plain"),
                ("cache-control", "x"),
            ],
            &[
                "authorization",
                "cache-control",
                "content-length",
                "content-type",
                "cookie",
                "forwarded",
                "grpc-timeout",
                "host",
                "traceparent",
                "x-forwarded-for",
                "x-request-id",
            ],
        ),
        (
            "keep-alive's own",
            &[("keep-alive", "timeout=5"), ("c", "3")],
            &["c"],
        ),
        (
            "proxies'",
            &[
                ("proxy-connection", "x"),
                ("proxy-authorization", "x"),
                ("proxy-authenticate", "x"),
                ("proxy-authentication-info", "x"),
            ],
            &[],
        ),
        (
            "framing",
            &[("transfer-encoding", "chunked"), ("content-length", "5")],
            &[],
        ),
        (
            "upgrade",
            &[
                ("connection", "Upgrade"),
                ("upgrade", "websocket"),
                ("http2-settings", "x"),
                ("c", "3"),
            ],
            &["c", "upgrade"],
        ),
        (
            "h2c",
            &[("connection", "Upgrade"), ("upgrade", "h2c"), ("c", "3")],
            &["c"],
        ),
        ("te", &[("te", "gzip"), ("c", "3")], &["c"]),
        (
            "te trailers",
            &[("te", "gzip, trailers"), ("connection", "te")],
            &["te"],
        ),
        (
            "identity",
            &[
                ("x-forwarded-client-cert", "By=me"),
                ("X-Forwarded-Client-Cert", "By=me"),
                ("x_forwarded-client_cert", "By=me"),
                ("x-forwarded-client.cert", "another name"),
                ("x-forwarded-for", "1.2.3.4"),
            ],
            &["x-forwarded-client.cert", "x-forwarded-for"],
        ),
        (
            "ours",
            &[
                ("x-weft-event-id", "1"),
                ("x-weft-", "2"),
                ("X-Weft-Reason", "3"),
                ("x-weft-attempt", "2"),
                ("x-wefty", "5"),
            ],
            &["x-weft-attempt", "x-wefty"],
        ),
        (
            "announced trailers stay",
            &[("trailer", "x-sum"), ("connection", "trailer")],
            &["trailer"],
        ),
    ];
    for (name, lines, left) in cases {
        let mut headers = map(lines);
        clean_request(&mut headers, Version::HTTP_11).unwrap();
        assert_eq!(names(&headers), *left, "{name}");
    }
}

#[test]
fn only_trailers_is_left_of_te() {
    let mut headers = map(&[("te", "gzip;q=0.5, Trailers"), ("te", "deflate")]);
    assert!(
        clean_request(&mut headers, Version::HTTP_2)
            .unwrap()
            .te_trailers
    );
    assert_eq!(
        headers.get_all("te").iter().collect::<Vec<_>>(),
        ["trailers"]
    );
}

#[test]
fn answers_keep_what_another_sidecar_says_and_lose_hops() {
    let mut headers = map(&[
        ("connection", "x-secret, set-cookie"),
        ("x-secret", "1"),
        ("set-cookie", "a=b"),
        ("keep-alive", "x"),
        ("te", "trailers"),
        ("upgrade", "websocket"),
        ("x-weft-reason", "no_app"),
    ]);
    let facts = clean_response(&mut headers, Version::HTTP_11).unwrap();
    assert_eq!(names(&headers), ["set-cookie", "upgrade", "x-weft-reason"]);
    assert!(facts.offers_upgrade && !facts.connection_close);
}

#[test]
fn facts_are_what_the_headers_say() {
    let none = Facts::default();
    let cases: &[(&[(&str, &str)], Facts)] = &[
        (&[], none),
        (
            &[("content-length", "12")],
            Facts {
                content_length: Some(12),
                ..none
            },
        ),
        (
            &[("expect", "100-Continue")],
            Facts {
                expect_continue: true,
                ..none
            },
        ),
        (
            &[("expect", "200-maybe")],
            Facts {
                expect_other: true,
                ..none
            },
        ),
        (
            &[("upgrade", "websocket")],
            Facts {
                offers_upgrade: true,
                ..none
            },
        ),
        (
            &[("connection", "keep-alive, Upgrade"), ("upgrade", "h2c")],
            Facts {
                names_upgrade: true,
                ..none
            },
        ),
        (
            &[("transfer-encoding", "chunked")],
            Facts {
                chunked: true,
                ..none
            },
        ),
        (
            &[("connection", "foo, Close")],
            Facts {
                connection_close: true,
                ..none
            },
        ),
        (
            &[("content-type", "application/grpc")],
            Facts {
                is_grpc: true,
                ..none
            },
        ),
        (
            &[("content-type", "application/GRPC+proto")],
            Facts {
                is_grpc: true,
                ..none
            },
        ),
        (&[("content-type", "application/grpc-web")], none),
        (&[("content-type", "application/grp")], none),
        (
            &[("x-request-id", "1"), ("traceparent", "2")],
            Facts {
                has_request_id: true,
                has_traceparent: true,
                ..none
            },
        ),
        (
            &[("trailer", "a")],
            Facts {
                trailers: true,
                ..none
            },
        ),
    ];
    for (lines, facts) in cases {
        assert_eq!(
            clean_request(&mut map(lines), Version::HTTP_11).unwrap(),
            *facts,
            "{lines:?}"
        );
    }
}

#[test]
fn http_10_closes_unless_it_says_otherwise() {
    let close = |lines| {
        clean_request(&mut map(lines), Version::HTTP_10)
            .unwrap()
            .connection_close
    };
    assert!(close(&[]));
    assert!(!close(&[("connection", "keep-alive")]));
    assert!(!close(&[("connection", "a, keep-alive")]));
}

#[test]
fn two_ways_to_read_a_length_are_refused() {
    for lines in [
        &[("content-length", "5"), ("content-length", "5")][..],
        &[("content-length", "5"), ("content-length", "6")],
        &[("content-length", "5, 5")],
        &[("content-length", "+5")],
        &[("content-length", "")],
        &[("content-length", "0x5")],
        &[("content-length", "99999999999999999999")],
        &[("connection", "a b")],
    ] {
        for version in [Version::HTTP_11, Version::HTTP_2] {
            let fault = clean_request(&mut map(lines), version).unwrap_err();
            assert_eq!(fault.reason(), Reason::BadRequest, "{lines:?}");
            assert_eq!(
                clean_response(&mut map(lines), version)
                    .unwrap_err()
                    .reason(),
                Reason::BadAnswer
            );
        }
    }
}

#[test]
fn fields_are_counted_dropped_ones_too() {
    let mut headers = HeaderMap::new();
    for _ in 0..100 {
        headers.append("keep-alive", HeaderValue::from_static("x"));
    }
    assert!(clean_request(&mut headers.clone(), Version::HTTP_2).is_ok());
    headers.append("a", HeaderValue::from_static("x"));
    let reason = |result: Result<Facts, Fault>| result.unwrap_err().reason();
    assert_eq!(
        reason(clean_request(&mut headers.clone(), Version::HTTP_2)),
        Reason::HeadTooLarge
    );
    assert_eq!(
        reason(clean_response(&mut headers, Version::HTTP_2)),
        Reason::AnswerTooLarge
    );
}

#[test]
fn trailers_say_nothing_that_a_head_says() {
    let mut trailers = map(&[
        ("grpc-status", "0"),
        ("x-sum", "1"),
        ("content-length", "5"),
        ("transfer-encoding", "chunked"),
        ("host", "b"),
        ("authorization", "x"),
        ("x-forwarded-client-cert", "By=me"),
        ("x_forwarded_client_cert", "By=me"),
        ("x-weft-attempt", "1"),
    ]);
    assert!(clean_trailers(&mut trailers));
    assert_eq!(names(&trailers), ["grpc-status", "x-sum"]);
    for _ in 0..100 {
        trailers.append("a", HeaderValue::from_static("x"));
    }
    assert!(!clean_trailers(&mut trailers));
}

#[test]
fn connection_names_at_most_100() {
    let many = vec!["a"; 101].join(",");
    let fault = clean_request(&mut map(&[("connection", &many)]), Version::HTTP_11).unwrap_err();
    assert_eq!(fault.reason(), Reason::HeadTooLarge);
}
