//! Places where a test kills the process: `WEFT_CRASH_AT=<name>[:<n>]`, the `n`th time it is passed (default the first).
//!
//! Compiled in only with debug assertions, so that a release binary cannot be told to die. The names are those of the
//! crash table: `append-before-fsync`, `after-fsync`, `after-dead-letter`, and whatever other rooms pass.

/// Dies here, as `kill -9` would, if the environment asks for it.
#[cfg(not(debug_assertions))]
#[inline(always)]
pub fn point(_name: &str) {}

#[cfg(debug_assertions)]
pub use armed::point;

#[cfg(debug_assertions)]
mod armed {
    use std::sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    };

    struct Wish {
        name: String,
        left: AtomicU64,
    }

    static WISH: OnceLock<Option<Wish>> = OnceLock::new();

    fn read() -> Option<Wish> {
        let text = std::env::var("WEFT_CRASH_AT").ok()?;
        let (name, nth) = text.split_once(':').unwrap_or((&text, "1"));
        Some(Wish {
            name: name.to_owned(),
            left: AtomicU64::new(nth.parse().unwrap_or(1)),
        })
    }

    /// Dies here, as `kill -9` would, if the environment asks for it.
    pub fn point(name: &str) {
        let Some(wish) = WISH.get_or_init(read) else {
            return;
        };
        if wish.name == name && wish.left.fetch_sub(1, Ordering::Relaxed) == 1 {
            let this = rustix::process::getpid();
            let _ = rustix::process::kill_process(this, rustix::process::Signal::KILL);
            std::process::abort();
        }
    }
}
