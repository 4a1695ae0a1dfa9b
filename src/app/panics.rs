//! A panic is a bug of ours: it is counted and logged, and costs the one connection or task it happened in.
//!
//! tokio catches it at the task's edge, so whatever the task held is dropped and the thread goes on.

use std::panic::{self, PanicHookInfo};

use prometheus::IntCounter;

/// Counts and logs panics from now on, instead of printing them. For the whole process.
pub fn watch(counter: IntCounter) {
    panic::set_hook(Box::new(move |info| caught(info, &counter)));
}

fn caught(info: &PanicHookInfo<'_>, counter: &IntCounter) {
    counter.inc();
    let place = info
        .location()
        .map_or_else(String::new, ToString::to_string);
    let thread = std::thread::current();
    tracing::error!(
        place,
        thread = thread.name().unwrap_or("unnamed"),
        what = info.payload_as_str().unwrap_or("no words"),
        "a bug of weft's own: it cost one connection or task; please report it"
    );
}

#[cfg(test)]
mod tests {
    use tokio::runtime::{Builder, LocalOptions};

    use super::*;

    #[test]
    fn a_panic_costs_one_task_and_is_counted() {
        let counter = IntCounter::new("a", "A").unwrap();
        let before = panic::take_hook();
        watch(counter.clone());
        let runtime = Builder::new_current_thread()
            .build_local(LocalOptions::default())
            .unwrap();
        // As a worker runs its connections.
        let (broken, whole) = runtime.block_on(async {
            let broken = tokio::task::spawn_local(async { panic!("a bug") });
            let whole = tokio::task::spawn_local(async { 7 });
            (broken.await.map(|()| 0), whole.await)
        });
        panic::set_hook(before);
        assert!(broken.unwrap_err().is_panic());
        assert_eq!(whole.unwrap(), 7);
        // Tests that run beside this one may panic as well.
        assert!(counter.get() >= 1);
    }
}
