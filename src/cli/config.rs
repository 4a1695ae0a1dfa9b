//! `weft config`: the routing file as it counts.

use std::process::ExitCode;

use clap::Args;

use super::{File, print};
use crate::config::effective;

/// Prints the routing file; with --effective, every default in it, each value marked with its origin.
#[derive(Debug, Args)]
pub(super) struct Print {
    #[command(flatten)]
    file: File,
    /// The values that count, credentials hidden.
    #[arg(long)]
    effective: bool,
}

impl Print {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let loaded = self.file.load()?;
        if self.effective {
            print(&effective(&loaded))
        } else {
            print(&loaded.text)
        }
    }
}
