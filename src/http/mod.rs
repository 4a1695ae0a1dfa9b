//! HTTP in and out: what hyper leaves to the proxy.
