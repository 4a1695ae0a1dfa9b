//! `weft certs`: certificates for development, and what a file, an agent or a peer presents.

mod dev;
mod show;

use std::process::ExitCode;

use clap::{Args, Subcommand};

/// Makes development certificates, and shows what certificates say.
#[derive(Debug, Args)]
pub(super) struct Certs {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Dev(dev::Dev),
    Show(show::Show),
}

impl Certs {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        match self.verb {
            Verb::Dev(dev) => dev.run(),
            Verb::Show(show) => show.run(),
        }
    }
}
