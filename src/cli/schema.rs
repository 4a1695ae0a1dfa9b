//! `weft schema`: the JSON Schema of the routing file, for editors.

use std::process::ExitCode;

use clap::Args;

use super::print;
use crate::config::schema;

/// Prints the JSON Schema of the routing file.
#[derive(Debug, Args)]
pub(super) struct Print {}

impl Print {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        print(&format!("{:#}\n", schema()))
    }
}
