//! `weft completions`: what a shell needs to complete our arguments.

use std::process::ExitCode;

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::{Arguments, print};

/// Prints a script that completes weft's arguments: `weft completions bash > /etc/bash_completion.d/weft`.
#[derive(Debug, Args)]
pub(super) struct Print {
    shell: Shell,
}

impl Print {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Arguments::command(), "weft", &mut script);
        print(&String::from_utf8_lossy(&script))
    }
}
