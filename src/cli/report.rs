//! `residuum report`: runs side by side on one page.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use clap::Args;

use super::flags::{check_output, write_file};
use crate::error::Result;
use crate::run::comparison::{self, ComparedRun};
use crate::run::metrics;
use crate::run::run_dir::RunDir;
use crate::show::show_path;
use crate::train::summary::{REPORT, settings};

/// Compare runs on one offline page: results, curves, and the settings in which they differ
#[derive(Debug, Args)]
pub(super) struct ReportArgs {
    /// Run folders
    #[arg(value_name = "RUN", required = true)]
    runs: Vec<PathBuf>,
    /// Page to write
    #[arg(long, value_name = "FILE.html", default_value = "comparison.html")]
    output: PathBuf,
}

impl ReportArgs {
    pub(super) fn run(self) -> Result<()> {
        check_output("--output", &self.output)?;
        let folders: Vec<RunDir> = self.runs.iter().map(|path| RunDir::open(path)).collect::<Result<_>>()?;
        let names: HashSet<_> = folders.iter().map(|dir| dir.path().file_name()).collect();
        let by_name = names.len() == folders.len();
        let runs: Vec<ComparedRun> =
            folders.iter().map(|dir| self.compared(dir, by_name)).collect::<Result<_>>()?;
        write_file(&self.output, comparison::page(&runs).to_html().as_bytes())?;
        say!("page: {}", self.output.display());
        Ok(())
    }

    /// What is compared of the run in `dir`, which is called by its folder's name if that tells it from the others.
    fn compared(&self, dir: &RunDir, by_name: bool) -> Result<ComparedRun> {
        let name = dir.path().file_name().filter(|_| by_name).map(Path::new);
        let env = dir.read_env()?;
        Ok(ComparedRun {
            name: show_path(name.unwrap_or(dir.path())),
            link: self.link_to(&dir.file(REPORT)),
            records: metrics::read(&dir.metrics())?,
            settings: settings(&dir.read_config()?, &env),
            env,
        })
    }

    /// The address of `page` as it is read from the page that is written.
    fn link_to(&self, page: &Path) -> String {
        let folder = self.output.parent().filter(|folder| !folder.as_os_str().is_empty());
        let page = match folder {
            None => page.to_path_buf(),
            Some(folder) => page.strip_prefix(folder).map_or_else(
                |_| std::path::absolute(page).unwrap_or_else(|_| page.to_path_buf()),
                Path::to_path_buf,
            ),
        };
        page.display().to_string()
    }
}
