//! `weft run`: the sidecar.

use std::process::ExitCode;

use clap::Args;

use super::File;
use crate::app;

/// Runs the sidecar until SIGTERM.
#[derive(Debug, Args)]
pub(super) struct Run {
    #[command(flatten)]
    file: File,
    /// What is logged: error, warn, info, debug or trace, or a list of `target=level`.
    #[arg(long, env = "WEFT_LOG", default_value = "info")]
    log_level: String,
}

impl Run {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        app::run(&self.file.config, &self.log_level)?;
        Ok(ExitCode::SUCCESS)
    }
}
