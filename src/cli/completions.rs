//! `residuum completions`: what a shell needs to complete commands and flags.

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::{Cli, output};
use crate::error::Result;

/// Print the completions of commands and flags for a shell
#[derive(Debug, Args)]
pub(super) struct CompletionsArgs {
    /// Shell that is to read them
    #[arg(value_name = "SHELL")]
    shell: Shell,
}

impl CompletionsArgs {
    pub(super) fn run(self) -> Result<()> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "residuum", &mut script);
        output::print(String::from_utf8_lossy(&script))
    }
}
