//! Pure state machines of retry, budget, breaker, outlier, limits and backoff, and what is shared of them.

pub mod settings;
