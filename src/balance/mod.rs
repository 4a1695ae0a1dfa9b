//! Endpoints in, the next one out.
