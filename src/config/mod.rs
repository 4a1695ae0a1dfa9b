//! YAML in, a checked `Config` or every diagnostic at once out.
//!
//! `build` makes a tree of the text, `expand` fills in the environment, `read` makes values of the tree, `load` does so
//! until every error is known, `lint` checks what spans two rooms. `Origins` remembers where each value came from; `effective` prints
//! it.

mod build;
mod cause;
mod diagnostic;
mod effective;
mod expand;
mod lint;
mod load;
mod nearest;
mod origin;
mod read;
mod restart;
mod schema;
mod settings;
#[cfg(test)]
mod tests;
mod tree;

pub use diagnostic::{Diagnostic, Diagnostics, Level};
pub use effective::{effective, values};
pub use load::Loaded;
pub use origin::{Origin, Origins};
pub use restart::restart_only_changes;
pub use schema::schema;
pub use settings::{Config, Profile, Service, Shutdown, Unsafe, Version, Workers};
pub use tree::{Place, Step, Steps, path};
