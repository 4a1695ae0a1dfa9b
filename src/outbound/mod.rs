//! From the application beside us to its upstreams.
