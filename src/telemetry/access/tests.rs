use std::{
    io,
    sync::{
        Mutex,
        mpsc::{self, Receiver, Sender},
    },
    time::{Duration, UNIX_EPOCH},
};

use proptest::prelude::*;
use serde_json::Value;

use super::{
    line::STRING_BYTES,
    moment::{decimal, timestamp},
    *,
};

#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Vec<u8>>>);

impl Write for Kept {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn line() -> Line<'static> {
    Line {
        ts: UNIX_EPOCH + Duration::from_millis(1_795_262_661_250),
        direction: Direction::Outbound,
        method: "GET",
        host: "payments",
        path: "/charge",
        route: Some("charge"),
        upstream: Some("payments"),
        endpoint: None,
        status: Some(200),
        grpc_status: None,
        reason: None,
        detail: None,
        request_id: Some("r-1"),
        traceparent: None,
        bytes_in: 0,
        bytes_out: 12,
        duration: Duration::from_micros(1_500),
        attempts: 1,
        peer: Some("127.0.0.1:5"),
        identity: None,
        protocol: "HTTP/1.1",
    }
}

fn encoded(line: &Line<'_>) -> Value {
    let mut out = Vec::new();
    line.encode(&mut out);
    assert_eq!(out.iter().filter(|byte| **byte == b'\n').count(), 1);
    serde_json::from_slice(&out).unwrap()
}

/// What stands in the log after `lines` were written.
fn logged(wanted: settings::AccessLog, lines: &[Line<'_>]) -> Vec<Value> {
    let kept = Kept::default();
    let registry = Registry::new("1").unwrap();
    let (log, guard) = AccessLog::start(wanted, &registry, kept.clone()).unwrap();
    lines.iter().for_each(|line| log.clone().write(line));
    drop(guard);
    let bytes = kept.0.lock().unwrap();
    serde_json::Deserializer::from_slice(&bytes)
        .into_iter()
        .map(Result::unwrap)
        .collect()
}

#[test]
fn a_line_is_json_with_what_is_known() {
    let expected = serde_json::json!({
        "ts": "2026-11-21T12:04:21.250Z", "direction": "outbound", "method": "GET", "host": "payments",
        "path": "/charge", "route": "charge", "upstream": "payments", "status": 200, "request_id": "r-1",
        "bytes_in": 0, "bytes_out": 12, "duration_us": 1500, "attempts": 1, "peer": "127.0.0.1:5",
        "protocol": "HTTP/1.1"
    });
    assert_eq!(encoded(&line()), expected);
}

#[test]
fn a_long_path_is_cut_between_characters() {
    let path = "/€".repeat(2_000);
    let line = Line {
        path: &path,
        ..line()
    };
    let kept = encoded(&line)["path"].as_str().unwrap().len();
    assert!((STRING_BYTES - 3..=STRING_BYTES).contains(&kept), "{kept}");
}

#[test]
fn only_failures_are_told_on_error() {
    let lines = [
        line(),
        Line {
            status: Some(404),
            ..line()
        },
        Line {
            status: Some(500),
            ..line()
        },
        Line {
            status: None,
            ..line()
        },
        Line {
            reason: Some("no_route"),
            status: Some(404),
            ..line()
        },
        Line {
            grpc_status: Some(14),
            ..line()
        },
        Line {
            grpc_status: Some(5),
            ..line()
        },
    ];
    assert_eq!(logged(settings::AccessLog::OnError, &lines).len(), 4);
    assert_eq!(logged(settings::AccessLog::All, &lines).len(), 7);
    assert_eq!(logged(settings::AccessLog::None, &lines).len(), 0);
}

/// A writer that stands still until it is let go; tells when it is first asked.
struct Stuck(Sender<()>, Receiver<()>);

impl Write for Stuck {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let _ = self.0.send(());
        let _ = self.1.recv();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn lines_beyond_the_queue_are_dropped_and_counted() {
    let (asked, hear) = mpsc::channel();
    let (go, wait) = mpsc::channel();
    let registry = Registry::new("1").unwrap();
    let (log, guard) =
        AccessLog::start(settings::AccessLog::All, &registry, Stuck(asked, wait)).unwrap();
    log.write(&line());
    hear.recv().unwrap();
    // The writer holds one line and takes no other: the queue fills, then seven are too many.
    (0..QUEUE_LINES + 7).for_each(|_| log.write(&line()));
    let text = registry.text().unwrap();
    assert!(
        text.contains("\nweft_access_log_dropped_total 7\n"),
        "{text}"
    );
    drop(go);
    drop(guard);
}

#[test]
fn the_calendar_is_right() {
    let at = |seconds: u64| {
        let mut out = Vec::new();
        timestamp(UNIX_EPOCH + Duration::from_secs(seconds), &mut out);
        String::from_utf8(out).unwrap()
    };
    assert_eq!(at(0), "1970-01-01T00:00:00.000Z");
    assert_eq!(at(951_782_400), "2000-02-29T00:00:00.000Z");
    assert_eq!(at(4_107_542_399), "2100-02-28T23:59:59.000Z");
    assert_eq!(at(4_107_542_400), "2100-03-01T00:00:00.000Z");
}

proptest! {
    #[test]
    fn what_a_stranger_sends_comes_back_from_json(path in "\\PC*|.{0,40}|[\\x00-\\x1f\"\\\\]{0,20}") {
        let encoded = encoded(&Line { path: &path, ..line() });
        prop_assert_eq!(encoded["path"].as_str().unwrap(), path);
    }

    #[test]
    fn numbers_are_decimal(value: u64) {
        let mut out = Vec::new();
        decimal(value, 1, &mut out);
        prop_assert_eq!(out, value.to_string().into_bytes());
    }
}
