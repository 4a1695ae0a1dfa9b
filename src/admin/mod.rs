//! The operator's HTTP API, and what Prometheus scrapes.
