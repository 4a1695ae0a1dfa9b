//! Our own logs: people's text on a terminal, JSON lines elsewhere, on stderr.
//!
//! The level is words like `info` or `weft::outbound=debug,warn`, and can change while we run. Lines go through a
//! bounded queue to a thread of their own: a reader of stderr that stands still holds up nothing but itself.

use std::io::{self, IsTerminal};

use tracing_appender::non_blocking::{NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::{
    EnvFilter, Layer, Registry as Spans,
    filter::{LevelFilter, ParseError},
    layer::SubscriberExt,
    reload::{self, Handle},
    util::{SubscriberInitExt, TryInitError},
};

/// Lines that may wait for the writing thread; what comes beyond is dropped.
const QUEUE_LINES: usize = 8_192;

#[derive(Debug, thiserror::Error)]
pub enum LogError {
    #[error("`{words}` is not a log level: write `info`, or `weft::outbound=debug,warn`")]
    Level {
        words: String,
        source: Option<ParseError>,
    },
    #[error("logging was set up before")]
    Twice(#[source] TryInitError),
    #[error("the log is closed")]
    Closed(#[source] reload::Error),
}

/// The logs of the process. Dropping it writes what is queued: keep it until the end.
pub struct Logs {
    filter: Handle<EnvFilter, Spans>,
    _writer: WorkerGuard,
}

impl Logs {
    /// Starts logging to stderr at `level`. Once a process.
    pub fn start(level: &str) -> Result<Self, LogError> {
        let (filter, handle) = reload::Layer::new(filter(level)?);
        let (queue, writer) = NonBlockingBuilder::default()
            .lossy(true)
            .buffered_lines_limit(QUEUE_LINES)
            .thread_name("weft-log")
            .finish(io::stderr());
        tracing_subscriber::registry()
            .with(filter)
            .with(lines(queue, io::stderr().is_terminal()))
            .try_init()
            .map_err(LogError::Twice)?;
        Ok(Logs {
            filter: handle,
            _writer: writer,
        })
    }

    /// A handle that changes the level, for those who outlive the caller.
    pub fn level(&self) -> Level {
        Level(self.filter.clone())
    }
}

/// Changes how much is logged.
#[derive(Clone)]
pub struct Level(Handle<EnvFilter, Spans>);

impl Level {
    /// Logs at `words` from now on; on an error everything stays as it was.
    pub fn set(&self, words: &str) -> Result<(), LogError> {
        self.0.reload(filter(words)?).map_err(LogError::Closed)
    }
}

fn filter(words: &str) -> Result<EnvFilter, LogError> {
    let wrong = |source| LogError::Level {
        words: words.to_owned(),
        source,
    };
    // `EnvFilter` takes a word that it does not know for the name of a crate, and would then log nothing else.
    let alone = |part: &str| !part.contains(['=', '[']) && !part.contains("::");
    let mut parts = words.split(',').map(str::trim);
    if parts.any(|part| alone(part) && part.parse::<LevelFilter>().is_err()) {
        return Err(wrong(None));
    }
    let filter = EnvFilter::builder()
        .parse(words)
        .map_err(|source| wrong(Some(source)))?;
    // It warns of what a peer's frames say: a stranger could fill the log.
    let quiet = "h2=error".parse().ok().filter(|_| !words.contains("h2"));
    Ok(match quiet {
        Some(quiet) => filter.add_directive(quiet),
        None => filter,
    })
}

fn lines<S>(queue: NonBlocking, terminal: bool) -> Box<dyn Layer<S> + Send + Sync>
where
    S: tracing::Subscriber + for<'a> tracing_subscriber::registry::LookupSpan<'a>,
{
    let lines = tracing_subscriber::fmt::layer().with_writer(queue);
    if terminal {
        lines.with_target(false).compact().boxed()
    } else {
        lines
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .with_span_list(false)
            .boxed()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// What a closure's events look like in the log; the closure may change the level.
    fn logged(level: &str, events: impl FnOnce(Level)) -> String {
        let kept = Kept::default();
        let (queue, guard) = NonBlockingBuilder::default().finish(kept.clone());
        let (filter, handle) = reload::Layer::new(filter(level).unwrap());
        let subscriber = tracing_subscriber::registry()
            .with(filter)
            .with(lines(queue, false));
        tracing::subscriber::with_default(subscriber, || events(Level(handle)));
        drop(guard);
        let bytes = kept.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn a_line_is_json_with_its_fields() {
        let text = logged("info", |_| {
            tracing::info!(admin = "127.0.0.1:1", "listening")
        });
        let line: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(line["message"], "listening");
        assert_eq!(line["admin"], "127.0.0.1:1");
        assert_eq!(line["level"], "INFO");
    }

    #[test]
    fn what_a_peers_frames_say_is_logged_only_when_asked_for() {
        let events = |_| tracing::warn!(target: "h2::proto", "a frame that is odd");
        assert_eq!(logged("info", events), "");
        assert!(logged("info,h2=debug", events).contains("odd"));
    }

    #[test]
    fn the_level_changes_while_we_run() {
        let text = logged("warn", |level| {
            tracing::info!("before");
            level.set("info").unwrap();
            tracing::info!("after");
        });
        assert!(!text.contains("before") && text.contains("after"), "{text}");
    }

    #[test]
    fn a_wrong_level_changes_nothing() {
        let text = logged("info", |level| {
            assert!(level.set("weft=loud").is_err());
            assert!(level.set("loud").is_err());
            tracing::info!("still here");
        });
        assert!(text.contains("still here"), "{text}");
    }
}
