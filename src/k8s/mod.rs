//! What a pod needs around its sidecar: its traffic taken over without the application knowing.

pub mod redirect;
