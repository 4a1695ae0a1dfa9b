//! Writes one JSON line per request, without a request ever waiting for it.
//!
//! A line is encoded by hand into a buffer of the worker's own and handed to one writing thread through a bounded
//! queue. When the queue is full the line is dropped and counted. Strings from strangers are escaped here.

use std::{
    cell::RefCell,
    io::Write,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use prometheus::{
    IntCounter,
    core::{Collector, Desc},
    proto::MetricFamily,
};
use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};

use super::{Registry, settings};

/// Lines that may wait for the writing thread; what comes beyond is dropped and counted.
const QUEUE_LINES: usize = 8_192;
/// Bytes of one string that are kept: a path may be 8 KiB long, and one line is no place for all of it.
const STRING_BYTES: usize = 2_048;

/// Whose call a line tells of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From a peer to the application beside us.
    Inbound,
    /// From the application beside us to an upstream.
    Outbound,
}

impl Direction {
    pub const fn word(self) -> &'static str {
        match self {
            Direction::Inbound => "inbound",
            Direction::Outbound => "outbound",
        }
    }
}

/// What is told of one request. Absent facts are left out of the line.
#[derive(Debug, Clone)]
pub struct Line<'a> {
    /// When the request began.
    pub ts: SystemTime,
    pub direction: Direction,
    pub method: &'a str,
    pub host: &'a str,
    pub path: &'a str,
    pub route: Option<&'a str>,
    pub upstream: Option<&'a str>,
    pub endpoint: Option<&'a str>,
    /// Absent when the caller got no answer.
    pub status: Option<u16>,
    pub grpc_status: Option<u16>,
    /// Why we answered ourselves, or what broke.
    pub reason: Option<&'a str>,
    pub detail: Option<&'a str>,
    pub request_id: Option<&'a str>,
    pub traceparent: Option<&'a str>,
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub duration: Duration,
    pub attempts: u32,
    pub peer: Option<&'a str>,
    /// `HTTP/1.1`, `HTTP/2`.
    pub protocol: &'a str,
}

impl Line<'_> {
    /// True for what `accessLog: onError` tells.
    pub fn is_failure(&self) -> bool {
        let status = |status| status >= 500;
        self.reason.is_some()
            || self.status.is_none_or(status)
            || self.grpc_status.is_some_and(fails_the_server)
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"ts\":\"");
        timestamp(self.ts, out);
        out.push(b'"');
        text(out, "direction", Some(self.direction.word()));
        text(out, "method", Some(self.method));
        text(out, "host", Some(self.host));
        text(out, "path", Some(self.path));
        text(out, "route", self.route);
        text(out, "upstream", self.upstream);
        text(out, "endpoint", self.endpoint);
        number(out, "status", self.status.map(u64::from));
        number(out, "grpc_status", self.grpc_status.map(u64::from));
        text(out, "reason", self.reason);
        text(out, "detail", self.detail);
        text(out, "request_id", self.request_id);
        text(out, "traceparent", self.traceparent);
        number(out, "bytes_in", Some(self.bytes_in));
        number(out, "bytes_out", Some(self.bytes_out));
        let micros = u64::try_from(self.duration.as_micros()).unwrap_or(u64::MAX);
        number(out, "duration_us", Some(micros));
        number(out, "attempts", Some(self.attempts.into()));
        text(out, "peer", self.peer);
        text(out, "protocol", Some(self.protocol));
        out.extend_from_slice(b"}\n");
    }
}

/// Whether a gRPC status tells of a failing server, as OpenTelemetry's conventions have it: UNKNOWN,
/// DEADLINE_EXCEEDED, UNIMPLEMENTED, INTERNAL, UNAVAILABLE, DATA_LOSS.
pub fn fails_the_server(status: u16) -> bool {
    matches!(status, 2 | 4 | 12..=15)
}

/// The handle of one worker. A clone writes to the same log through a buffer of its own.
pub struct AccessLog {
    wanted: Arc<AtomicU8>,
    out: RefCell<Out>,
}

struct Out {
    queue: NonBlocking,
    buffer: Vec<u8>,
}

impl AccessLog {
    /// Starts the writing thread. Dropping the guard writes what is queued: keep it until the end.
    pub fn start(
        wanted: settings::AccessLog,
        registry: &Registry,
        to: impl Write + Send + 'static,
    ) -> Result<(Self, WorkerGuard), prometheus::Error> {
        let (queue, guard) = NonBlockingBuilder::default()
            .lossy(true)
            .buffered_lines_limit(QUEUE_LINES)
            .thread_name("weft-access-log")
            .finish(to);
        registry.register(Box::new(DroppedLines::new(queue.error_counter())?))?;
        let log = AccessLog {
            wanted: Arc::new(AtomicU8::new(wanted as u8)),
            out: RefCell::new(Out::new(queue)),
        };
        Ok((log, guard))
    }

    /// Says which requests get a line from now on, on every worker.
    pub fn want(&self, wanted: settings::AccessLog) {
        self.wanted.store(wanted as u8, Ordering::Relaxed);
    }

    /// Whether a line of a request is wanted at all; spares gathering its facts where it is not.
    pub fn wants(&self, failed: bool) -> bool {
        let wanted = self.wanted.load(Ordering::Relaxed);
        wanted == settings::AccessLog::All as u8
            || failed && wanted == settings::AccessLog::OnError as u8
    }

    /// Queues the line if it is wanted; drops and counts it when the queue is full. Never waits.
    pub fn write(&self, line: &Line<'_>) {
        if !self.wants(line.is_failure()) {
            return;
        }
        let mut out = self.out.borrow_mut();
        let Out { queue, buffer } = &mut *out;
        buffer.clear();
        line.encode(buffer);
        // A lossy queue takes the line or counts it; it has no error to tell.
        let _ = queue.write(buffer);
    }
}

impl Clone for AccessLog {
    fn clone(&self) -> Self {
        AccessLog {
            wanted: Arc::clone(&self.wanted),
            out: RefCell::new(Out::new(self.out.borrow().queue.clone())),
        }
    }
}

impl Out {
    fn new(queue: NonBlocking) -> Self {
        Out {
            queue,
            buffer: Vec::with_capacity(1_024),
        }
    }
}

/// The queue's own count of lost lines, read when somebody asks.
struct DroppedLines {
    lost: ErrorCounter,
    total: IntCounter,
}

impl DroppedLines {
    fn new(lost: ErrorCounter) -> Result<Self, prometheus::Error> {
        let total = IntCounter::new(
            "weft_access_log_dropped_total",
            "Access-log lines dropped because the writer fell behind",
        )?;
        Ok(DroppedLines { lost, total })
    }
}

impl Collector for DroppedLines {
    fn desc(&self) -> Vec<&Desc> {
        self.total.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let lost = self.lost.dropped_lines() as u64;
        self.total.inc_by(lost.saturating_sub(self.total.get()));
        self.total.collect()
    }
}

/// `,"name":"value"`, if there is a value.
fn text(out: &mut Vec<u8>, name: &str, value: Option<&str>) {
    let Some(value) = value else { return };
    key(out, name);
    out.push(b'"');
    escape(shortened(value), out);
    out.push(b'"');
}

/// `,"name":42`, if there is a value.
fn number(out: &mut Vec<u8>, name: &str, value: Option<u64>) {
    let Some(value) = value else { return };
    key(out, name);
    decimal(value, 1, out);
}

fn key(out: &mut Vec<u8>, name: &str) {
    out.extend_from_slice(b",\"");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":");
}

/// At most `STRING_BYTES` of the text, whole characters.
fn shortened(value: &str) -> &str {
    &value[..value.floor_char_boundary(STRING_BYTES)]
}

/// Escapes what JSON demands, and DEL and the C1 controls too, which some terminals obey.
fn escape(value: &str, out: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let unicode = |out: &mut Vec<u8>, code: u32| {
        out.extend_from_slice(b"\\u00");
        out.push(HEX[(code >> 4 & 15) as usize]);
        out.push(HEX[(code & 15) as usize]);
    };
    let mut plain = 0;
    for (at, sign) in value.char_indices() {
        if !matches!(sign, '"' | '\\' | '\0'..='\x1f' | '\x7f'..='\u{9f}') {
            continue;
        }
        out.extend_from_slice(&value.as_bytes()[plain..at]);
        plain = at + sign.len_utf8();
        match sign {
            '"' => out.extend_from_slice(b"\\\""),
            '\\' => out.extend_from_slice(b"\\\\"),
            '\n' => out.extend_from_slice(b"\\n"),
            '\r' => out.extend_from_slice(b"\\r"),
            '\t' => out.extend_from_slice(b"\\t"),
            other => unicode(out, other.into()),
        }
    }
    out.extend_from_slice(&value.as_bytes()[plain..]);
}

/// The number in decimal, with zeros before it up to `width` digits.
fn decimal(mut value: u64, width: usize, out: &mut Vec<u8>) {
    let mut digits = [b'0'; 20];
    let mut at = digits.len();
    while value > 0 {
        at -= 1;
        digits[at] = b'0' + (value % 10) as u8;
        value /= 10;
    }
    out.extend_from_slice(&digits[at.min(digits.len() - width)..]);
}

/// RFC 3339 in UTC, to the millisecond: `2026-11-21T12:04:21.250Z`.
fn timestamp(when: SystemTime, out: &mut Vec<u8>) {
    let since = when.duration_since(UNIX_EPOCH).unwrap_or_default();
    let seconds = since.as_secs();
    let (year, month, day) = civil(seconds / 86_400);
    let fields = [
        (year, 4, b'-'),
        (month, 2, b'-'),
        (day, 2, b'T'),
        (seconds / 3_600 % 24, 2, b':'),
        (seconds / 60 % 60, 2, b':'),
        (seconds % 60, 2, b'.'),
        (since.subsec_millis().into(), 3, b'Z'),
    ];
    for (value, width, end) in fields {
        decimal(value, width, out);
        out.push(end);
    }
}

/// A moment as `2026-11-21T13:05:00.000Z`.
pub fn rfc3339(when: SystemTime) -> String {
    let mut out = Vec::with_capacity(24);
    timestamp(when, &mut out);
    String::from_utf8_lossy(&out).into_owned()
}

/// Days since 1970-01-01 as year, month, day: Howard Hinnant's `civil_from_days`, for days that are not negative.
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let era = days / 146_097;
    let day_of_era = days % 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 {
        shifted + 3
    } else {
        shifted - 9
    };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use std::{
        io,
        sync::{
            Mutex,
            mpsc::{self, Receiver, Sender},
        },
    };

    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

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
}
