//! Checks across rooms.

use super::{Config, diagnostic::Problem, origin::Origins};

/// Adds what is wrong with a configuration as a whole.
pub fn check(_config: &Config, _origins: &Origins, _problems: &mut Vec<Problem>) {}
