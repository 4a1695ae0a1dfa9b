use super::*;

fn read<'a>(request: &'a http::Request<()>) -> Result<Target<'a>, Fault> {
    read_target(
        request.method(),
        request.uri(),
        request.headers(),
        request.version(),
    )
}

fn request(version: Version, method: &str, uri: &str, hosts: &[&str]) -> http::Request<()> {
    let mut request = http::Request::builder()
        .version(version)
        .method(method)
        .uri(uri);
    for host in hosts {
        request = request.header("host", *host);
    }
    request.body(()).unwrap()
}

const H1: Version = Version::HTTP_11;
const H2: Version = Version::HTTP_2;

#[test]
fn targets_are_read() {
    let cases = [
        (
            H1,
            "GET",
            "/a?b",
            &["h"][..],
            "h",
            None,
            "/a",
            Some("b"),
            Form::Origin,
        ),
        (
            H1,
            "GET",
            "/",
            &["Api.Shop:8080"],
            "api.shop",
            Some(8080),
            "/",
            None,
            Form::Origin,
        ),
        (
            H1,
            "GET",
            "/",
            &["api.shop."],
            "api.shop",
            None,
            "/",
            None,
            Form::Origin,
        ),
        (
            H1,
            "GET",
            "/",
            &["api.shop.:80"],
            "api.shop",
            Some(80),
            "/",
            None,
            Form::Origin,
        ),
        (
            H1,
            "GET",
            "/",
            &["my_svc~1-x"],
            "my_svc~1-x",
            None,
            "/",
            None,
            Form::Origin,
        ),
        (
            H1,
            "GET",
            "/",
            &["10.0.0.1:65535"],
            "10.0.0.1",
            Some(65535),
            "/",
            None,
            Form::Origin,
        ),
        (
            H1,
            "GET",
            "/",
            &["[::1]"],
            "::1",
            None,
            "/",
            None,
            Form::Origin,
        ),
        (
            H1,
            "GET",
            "/",
            &["[0:0:0:0:0:0:0:1]:90"],
            "::1",
            Some(90),
            "/",
            None,
            Form::Origin,
        ),
        (
            H1,
            "GET",
            "/",
            &["1a.2b"],
            "1a.2b",
            None,
            "/",
            None,
            Form::Origin,
        ),
        (
            H1,
            "GET",
            "http://O.x:81/p/../q?r",
            &["other"],
            "o.x",
            Some(81),
            "/q",
            Some("r"),
            Form::Absolute,
        ),
        (
            H1,
            "GET",
            "http://o.x",
            &["other"],
            "o.x",
            None,
            "/",
            None,
            Form::Absolute,
        ),
        (
            H1,
            "CONNECT",
            "db:5432",
            &["db:5432"],
            "db",
            Some(5432),
            "",
            None,
            Form::Authority,
        ),
        (
            H1,
            "OPTIONS",
            "*",
            &["h"],
            "h",
            None,
            "*",
            None,
            Form::Asterisk,
        ),
        (
            Version::HTTP_10,
            "GET",
            "/",
            &[],
            "",
            None,
            "/",
            None,
            Form::Origin,
        ),
        (
            H2,
            "GET",
            "http://a.b/c",
            &[],
            "a.b",
            None,
            "/c",
            None,
            Form::Origin,
        ),
        (
            H2,
            "GET",
            "https://a.b:1/c",
            &["A.b:1"],
            "a.b",
            Some(1),
            "/c",
            None,
            Form::Origin,
        ),
        (
            H2,
            "GET",
            "/c",
            &["a.b"],
            "a.b",
            None,
            "/c",
            None,
            Form::Origin,
        ),
        (
            H2,
            "CONNECT",
            "a.b:1",
            &[],
            "a.b",
            Some(1),
            "",
            None,
            Form::Authority,
        ),
    ];
    for (version, method, uri, hosts, host, port, path, query, form) in cases {
        let request = request(version, method, uri, hosts);
        let target =
            read(&request).unwrap_or_else(|fault| panic!("{method} {uri} {hosts:?}: {fault}"));
        let read = (
            &*target.host,
            target.port,
            &*target.path,
            target.query,
            target.form,
        );
        assert_eq!(
            read,
            (host, port, path, query, form),
            "{method} {uri} {hosts:?}"
        );
    }
}

#[test]
fn targets_of_two_minds_are_refused() {
    let cases: &[(Version, &str, &str, &[&str])] = &[
        (H1, "GET", "/", &[]),
        (H1, "GET", "/", &["a", "a"]),
        (H1, "GET", "/", &["a", "b"]),
        (H1, "GET", "http://a/", &[]),
        (H1, "GET", "http://a/", &["a", "b"]),
        (H1, "GET", "http://u@a/", &["a"]),
        (H1, "GET", "http://u:p@a/", &["a"]),
        (H1, "GET", "https://a/", &["a"]),
        (H1, "GET", "ftp://a/", &["a"]),
        (H1, "GET", "a:80", &["a"]),
        (H1, "GET", "*", &["a"]),
        (H1, "CONNECT", "a", &["a"]),
        (H1, "CONNECT", "/", &["a"]),
        (H1, "CONNECT", "http://a/", &["a"]),
        (H1, "GET", "/%zz", &["a"]),
        (H2, "GET", "http://a/", &["b"]),
        (H2, "GET", "http://a/", &["a:80"]),
        (H2, "GET", "http://a:80/", &["a"]),
        (H2, "GET", "http://a/", &["a", "a"]),
        (H2, "GET", "http://u@a/", &[]),
        (H2, "GET", "/", &[]),
        (H2, "GET", "/a?é", &["a"]),
        (H2, "GET", "/é", &["a"]),
    ];
    for (version, method, uri, hosts) in cases {
        let request = request(*version, method, uri, hosts);
        let fault = read(&request).expect_err(uri);
        assert_eq!(
            fault.reason(),
            Reason::BadRequest,
            "{method} {uri} {hosts:?}"
        );
    }
}

#[test]
fn hosts_that_are_none_are_refused() {
    let long = "a".repeat(254);
    for host in [
        "",
        ".",
        "..",
        ".a",
        "a..b",
        "a..",
        ":80",
        "a:",
        "a:0",
        "a:080",
        "a:65536",
        "a:99999",
        "a:123456",
        "a:+1",
        "a:1x",
        "a:80:80",
        "a b",
        "a/b",
        "a\\b",
        "a?b",
        "a#b",
        "a@b",
        "u:p@b",
        "a,b",
        "a;b",
        "a%2e",
        "a%00",
        "a\"",
        "<a>",
        "a!",
        "é",
        "a\tb",
        "[",
        "[]",
        "[::1",
        "::1",
        "[::1]x",
        "[::1]:",
        "[::1]:0",
        "[fe80::1%eth0]",
        "[1.2.3.4]",
        "[v1.x]",
        "127.1",
        "1.2.3.4.5",
        "256.1.1.1",
        "01.2.3.4",
        "2130706433",
        "0x7f000001",
        "1.2.3.0x4",
        "0x",
        "1.2.3.4:",
        &long,
    ] {
        assert!(read_authority(host.as_bytes()).is_err(), "{host:?}");
    }
}

#[test]
fn targets_are_bounded() {
    let reason = |len: usize| {
        let uri = format!("http://a/{}?b", "x".repeat(len - 3));
        let request = request(H2, "GET", &uri, &[]);
        read(&request).err().map(|fault| fault.reason())
    };
    assert_eq!(reason(8192), None);
    assert_eq!(reason(8193), Some(Reason::UriTooLong));
}

#[test]
fn what_is_clean_is_borrowed() {
    let request = request(H1, "GET", "/v1/orders?x=1", &["orders.shop:8080"]);
    let target = read(&request).unwrap();
    assert!(matches!(target.host, Cow::Borrowed(_)));
    assert!(matches!(target.path, Cow::Borrowed(_)));
    assert_eq!(target.rewritten(), None);
}

#[test]
fn what_is_forwarded_is_what_was_matched() {
    let request = request(H1, "GET", "http://[::1]:81/a/../%62?q=%61", &["x"]);
    let target = read(&request).unwrap();
    assert_eq!(target.rewritten().as_deref(), Some("/b?q=%61"));
    assert_eq!(target.authority(), "[::1]:81");
}
