//! The durable log: bytes and offsets, no HTTP, no broker.
