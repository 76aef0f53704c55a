//! `residuum man`: the manual pages.

use std::fs;
use std::path::PathBuf;

use clap::{Args, CommandFactory};
use clap_mangen::Man;

use super::{Cli, output};
use crate::error::{Error, Result};

/// Print the manual page, or write those of all commands
#[derive(Debug, Args)]
pub(super) struct ManArgs {
    /// Folder to write residuum.1, residuum-train.1 and the others into, as in ~/.local/share/man/man1
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
}

impl ManArgs {
    pub(super) fn run(self) -> Result<()> {
        let command = Cli::command();
        match self.output {
            Some(dir) => {
                fs::create_dir_all(&dir).map_err(Error::io("create", &dir))?;
                clap_mangen::generate_to(command, &dir).map_err(Error::io("write manual pages to", &dir))
            }
            None => {
                let mut page = Vec::new();
                Man::new(command).render(&mut page).expect("memory takes a page");
                output::print(String::from_utf8_lossy(&page))
            }
        }
    }
}
