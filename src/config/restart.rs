//! What a reload cannot change.

use super::Config;

/// The keys that differ and need a restart, by their paths.
pub fn restart_only_changes(old: &Config, new: &Config) -> Vec<&'static str> {
    let keys = [
        ("version", old.version != new.version),
        ("profile", old.profile != new.profile),
        // Threads, their runtimes and their shares of every pool.
        ("workers", old.workers != new.workers),
        // Who stored events say they are from.
        ("service", old.service != new.service),
        // Who keeps it fresh follows its files; what they are is read once.
        ("identity", old.identity != new.identity),
        ("outbox.path", old.outbox.path != new.outbox.path),
        // Where a refused reload must still be told of.
        ("admin.listen", old.admin.listen != new.admin.listen),
        ("admin.metrics", old.admin.metrics != new.admin.metrics),
    ];
    let changed = keys.into_iter().filter(|(_, changed)| *changed);
    changed.map(|(key, _)| key).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_needs_a_restart_is_named() {
        let old = Config::parse("", "a").unwrap().config;
        let new = "workers: 3\nadmin: { listen: 127.0.0.1:1 }\noutbound: { listen: none }";
        let new = Config::parse(new, "b").unwrap().config;
        assert_eq!(
            restart_only_changes(&old, &new),
            ["workers", "admin.listen"]
        );
    }
}
