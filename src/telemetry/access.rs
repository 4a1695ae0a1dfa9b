//! Writes one JSON line per request, without a request ever waiting for it.
//!
//! A line is encoded by hand into a buffer of the worker's own and handed to one writing thread through a bounded
//! queue. When the queue is full the line is dropped and counted. Strings from strangers are escaped here.

mod line;
mod moment;
mod tcp;

use std::{
    cell::RefCell,
    io::Write,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
};

use prometheus::{
    IntCounter,
    core::{Collector, Desc},
    proto::MetricFamily,
};
use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};

use super::{Registry, settings};

pub use line::{Direction, Line, fails_the_server};
pub use moment::rfc3339;
pub use tcp::TcpLine;

/// Lines that may wait for the writing thread; what comes beyond is dropped and counted.
const QUEUE_LINES: usize = 8_192;
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
        if self.wants(line.is_failure()) {
            self.queue(|buffer| line.encode(buffer));
        }
    }

    fn queue(&self, encode: impl FnOnce(&mut Vec<u8>)) {
        let mut out = self.out.borrow_mut();
        let Out { queue, buffer } = &mut *out;
        buffer.clear();
        encode(buffer);
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

#[cfg(test)]
mod tests;
