//! The catalogue of metrics: every name with its type and labels, seen at a sidecar that has worked a while.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write,
    process::{Command, Stdio},
};

use crate::harness::{Authority, Call, IdentityFolder, Origin, RawClient, Reply, Weft};

/// Every metric there is: name, type, labels. `docs/metrics.md` explains each, in this order.
pub const CATALOGUE: &[(&str, &str, &str)] = &[
    ("weft_requests_total", "counter", "direction route status"),
    ("weft_request_seconds", "histogram", "direction route"),
    ("weft_request_bytes_total", "counter", "direction route"),
    ("weft_response_bytes_total", "counter", "direction route"),
    ("weft_faults_total", "counter", "direction reason"),
    ("weft_dropped_parts_total", "counter", "part"),
    ("weft_authorization_total", "counter", "action rule"),
    (
        "weft_upgrades_total",
        "counter",
        "direction protocol result",
    ),
    ("weft_connections", "gauge", "direction"),
    ("weft_connections_total", "counter", "direction"),
    ("weft_connections_closed_total", "counter", "direction rule"),
    ("weft_detections_total", "counter", "detected direction"),
    (
        "weft_tcp_connections_total",
        "counter",
        "direction upstream",
    ),
    ("weft_tcp_connections", "gauge", "direction upstream"),
    ("weft_tcp_closed_total", "counter", "direction end upstream"),
    ("weft_tcp_bytes_total", "counter", "direction upstream way"),
    ("weft_accept_errors_total", "counter", ""),
    ("weft_panics_total", "counter", ""),
    ("weft_upstream_tries_total", "counter", "outcome upstream"),
    (
        "weft_upstream_dials_total",
        "counter",
        "result tls upstream",
    ),
    ("weft_retries_total", "counter", "upstream"),
    ("weft_retries_withheld_total", "counter", "upstream why"),
    ("weft_retry_budget_balance", "gauge", "upstream"),
    ("weft_breaker_rejections_total", "counter", "limit upstream"),
    ("weft_endpoints", "gauge", "state upstream"),
    ("weft_endpoint_ejections_total", "counter", "upstream"),
    ("weft_dns_lookups_total", "counter", "result upstream"),
    (
        "weft_dns_last_success_timestamp_seconds",
        "gauge",
        "upstream",
    ),
    ("weft_events_captured_total", "counter", "route"),
    (
        "weft_events_delivered_total",
        "counter",
        "outcome subscription",
    ),
    ("weft_event_delivery_seconds", "histogram", ""),
    ("weft_event_age_seconds", "histogram", ""),
    (
        "weft_dead_letters_added_total",
        "counter",
        "reason subscription",
    ),
    ("weft_dead_letters", "gauge", "subscription"),
    (
        "weft_dead_letter_oldest_age_seconds",
        "gauge",
        "subscription",
    ),
    ("weft_dead_letter_age_seconds_avg", "gauge", "subscription"),
    ("weft_outbox_events", "gauge", ""),
    ("weft_outbox_bytes", "gauge", ""),
    ("weft_outbox_oldest_age_seconds", "gauge", ""),
    ("weft_outbox_fsync_seconds", "histogram", ""),
    ("weft_events_ledger", "gauge", "state"),
    ("weft_identity_expiry_seconds", "gauge", ""),
    ("weft_identity_lifetime_seconds", "gauge", ""),
    ("weft_identity_crl_update_seconds", "gauge", ""),
    ("weft_identity_rotations_total", "counter", "result"),
    ("weft_identity_requests_total", "counter", "identity"),
    ("weft_plaintext_connections_total", "counter", "port result"),
    (
        "weft_tls_handshakes_total",
        "counter",
        "direction reason result",
    ),
    ("weft_config_reload_total", "counter", "result"),
    ("weft_config_last_reload_successful", "gauge", ""),
    ("weft_access_log_dropped_total", "counter", ""),
    ("weft_build_info", "gauge", "version"),
    ("process_start_time_seconds", "gauge", ""),
    ("process_cpu_seconds_total", "counter", ""),
    ("process_open_fds", "gauge", ""),
    ("process_max_fds", "gauge", ""),
    ("process_resident_memory_bytes", "gauge", ""),
];

/// A scrape of a sidecar that has seen something of everything.
fn scrape() -> String {
    let origin = Origin::answering(|seen| match seen.path() {
        "/dead" => Reply::status(422),
        _ => Reply::ok("fine"),
    });
    let authority = Authority::new("cluster.local");
    let identity = IdentityFolder::empty();
    let list = authority.revoke(&[]);
    identity.replace_with_revocations(&authority.leaf("web"), authority.root(), &list);
    let mut weft = Weft::start(&format!(
        r#"
        identity: {}
        inbound: {{ listen: "127.0.0.1:0", app: "{}", authorization: {{ default: allow }} }}
        outbound:
          listen: "127.0.0.1:0"
          unknown: deny
          timers: {{ head: 1s }}
          routes:
            - {{ name: shop, hosts: [shop], backends: [{{ upstream: shop }}] }}
            - {{ name: later, hosts: [later], matches: [{{ method: POST }}], backends: [{{ upstream: shop }}], defer: {{}} }}
        upstreams:
          shop: {{ endpoints: {{ static: ["{}"] }} }}
          named: {{ endpoints: {{ dns: "localhost:{}" }} }}
          bytes: {{ endpoints: {{ static: ["{}"] }}, protocol: tcp, listen: "127.0.0.1:0" }}
          meshed: {{ endpoints: {{ static: ["{}"] }}, tls: mesh }}
        "#,
        identity.yaml_with_revocations(),
        origin.address(),
        origin.address(),
        origin.port(),
        origin.address(),
        origin.address(),
    ));
    for host in ["shop", "named", "later", "nobody", "meshed"] {
        Call::post("/", "body").host(host).send(&weft.outbound());
    }
    Call::post("/dead", "body")
        .host("later")
        .send(&weft.outbound());
    weft.wait_for_metric("weft_events_delivered_total", |count| count >= 2.0);
    weft.assert_metric("weft_dead_letters", 1.0);
    Call::get("/")
        .host("shop")
        .header("connection", "upgrade")
        .header("upgrade", "nobody")
        .send(&weft.outbound());
    let caller = Weft::start(&format!(
        "identity: {}\nupstreams: {{ other: {{ endpoints: {{ static: [\"{}\"] }}, tls: mesh }} }}",
        identity.yaml(),
        weft.inbound()
    ));
    let called = Call::get("/").host("other").send(&caller.outbound());
    assert_eq!(called.status, 200, "{}", called.text());
    let relayed = RawClient::connect(&weft.upstream("bytes"));
    drop(relayed);
    weft.assert_metric("weft_tcp_closed_total", 1.0);
    // A head that never comes is a rule that closes.
    let _silent = RawClient::connect(&weft.outbound());
    weft.wait_for_metric("weft_connections_closed_total", |count| count >= 1.0);
    weft.wait_for_metric("weft_dns_lookups_total{result=\"found\"}", |count| {
        count >= 1.0
    });
    let file = std::fs::read_to_string(weft.config_path()).unwrap();
    weft.reload(&file);
    weft.wait_for_metric("weft_requests_total", |count| count >= 5.0);
    weft.metrics()
}

/// Every family of a scrape: its type and its labels, sorted.
fn families(text: &str) -> BTreeMap<String, (String, String)> {
    let mut types = BTreeMap::new();
    for line in text.lines() {
        if let Some((name, kind)) = line
            .strip_prefix("# TYPE ")
            .and_then(|rest| rest.split_once(' '))
        {
            types.insert(name.to_owned(), kind.to_owned());
        }
    }
    let mut labels: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for line in text
        .lines()
        .filter(|line| !line.starts_with('#') && !line.is_empty())
    {
        let sample = line.split([' ', '{']).next().unwrap();
        let family = ["_bucket", "_sum", "_count"]
            .iter()
            .filter_map(|end| sample.strip_suffix(end))
            .find(|name| types.get(*name).is_some_and(|kind| kind == "histogram"))
            .unwrap_or(sample);
        let of = labels.entry(family.to_owned()).or_default();
        if let Some((_, rest)) = line.split_once('{') {
            let names = rest.split("\",").filter_map(|pair| pair.split_once('='));
            of.extend(
                names
                    .map(|(name, _)| name.to_owned())
                    .filter(|name| name != "le"),
            );
        }
    }
    labels
        .into_iter()
        .map(|(name, labels)| {
            let kind = types.get(&name).cloned().unwrap_or_default();
            (
                name,
                (kind, labels.into_iter().collect::<Vec<_>>().join(" ")),
            )
        })
        .collect()
}

#[test]
fn the_metrics_are_those_of_the_catalogue() {
    let text = scrape();
    let wanted: BTreeMap<_, _> = CATALOGUE
        .iter()
        .map(|(name, kind, labels)| {
            (
                (*name).to_owned(),
                ((*kind).to_owned(), (*labels).to_owned()),
            )
        })
        .collect();
    let found = families(&text);
    let only = |one: &BTreeMap<String, (String, String)>,
                other: &BTreeMap<String, (String, String)>| {
        let differ = one
            .iter()
            .filter(|(name, what)| other.get(*name) != Some(what));
        differ
            .map(|(name, what)| format!("{name} {what:?}"))
            .collect::<Vec<_>>()
    };
    let (new, gone) = (only(&found, &wanted), only(&wanted, &found));
    assert!(
        new.is_empty() && gone.is_empty(),
        "not in the catalogue: {new:#?}\nnot seen: {gone:#?}"
    );
}

/// The sum of a name's samples.
fn sum(text: &str, name: &str) -> f64 {
    let samples = text.lines().filter_map(|line| {
        let (sample, value) = line.rsplit_once(' ')?;
        let named = sample.split('{').next() == Some(name);
        named.then(|| value.parse::<f64>().expect("a number"))
    });
    samples.sum()
}

#[test]
fn times_and_ages_are_those_that_were() {
    let text = scrape();
    for histogram in [
        "weft_request_seconds",
        "weft_event_delivery_seconds",
        "weft_event_age_seconds",
        "weft_outbox_fsync_seconds",
    ] {
        let of = |end: &str| sum(&text, &format!("{histogram}_{end}"));
        assert!(of("count") >= 1.0 && of("sum") > 0.0, "{histogram}: {text}");
        assert!(of("sum") < 60.0, "{histogram}: {}", of("sum"));
    }
    for age in [
        "weft_dead_letter_oldest_age_seconds",
        "weft_dead_letter_age_seconds_avg",
    ] {
        assert!((0.0..60.0).contains(&sum(&text, age)), "{age}: {text}");
    }
    // From an hour ago, for an hour more.
    assert_eq!(sum(&text, "weft_identity_lifetime_seconds").round(), 7200.0);
    let now = std::time::UNIX_EPOCH
        .elapsed()
        .expect("after 1970")
        .as_secs_f64();
    let found = sum(&text, "weft_dns_last_success_timestamp_seconds");
    assert!((now - 60.0..=now).contains(&found), "{found}");
}

#[test]
fn promtool_finds_nothing_to_say() {
    let text = scrape();
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool is missing: apt-get install prometheus (`make test` does)");
    promtool
        .stdin
        .take()
        .unwrap()
        .write_all(text.as_bytes())
        .unwrap();
    let said = promtool.wait_with_output().unwrap();
    let words = String::from_utf8_lossy(&said.stderr);
    assert!(
        said.status.success() && words.trim().is_empty(),
        "{words}\n{text}"
    );
}

#[test]
fn a_caller_makes_no_label() {
    let text = scrape();
    assert!(
        !text.contains("nobody"),
        "a caller's host is a label:\n{text}"
    );
}
