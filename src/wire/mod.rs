//! HTTP/1.1 towards upstreams: a client codec on `httparse` that runs inside the caller's own future.
