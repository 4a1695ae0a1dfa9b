//! `weft version`: what this binary is.

use std::{env::consts, process::ExitCode};

use clap::Args;

use super::print;

/// Prints the version, and what it was built for.
#[derive(Debug, Args)]
pub(super) struct Print {}

impl Print {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        print(&format!(
            "weft {} ({} {}), routing file weft/v1\n",
            env!("CARGO_PKG_VERSION"),
            consts::OS,
            consts::ARCH
        ))
    }
}
