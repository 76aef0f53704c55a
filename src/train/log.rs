//! What a run says and leaves behind: progress on stderr, `log.txt`, `metrics.jsonl`, TensorBoard events, the report.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::predictions;
use super::progress::Progress;
use super::source::Source;
use super::summary::{self, REPORT, Standing};
use crate::error::Result;
use crate::run::metrics::{Epoch, Eval, Event, MetricsLog, Run, Step};
use crate::run::run_dir::{Env, RunDir};
use crate::run::tensorboard::EventFile;
use crate::show::tell;
use crate::step::evaluate::Evaluation;

/// The logs of a run in its folder.
pub(super) struct RunLog {
    dir: RunDir,
    env: Env,
    metrics: MetricsLog,
    events: EventFile,
    progress: Progress,
    total_steps: u64,
    page: Option<PageTimes>,
}

/// When the page was last written, and how long that took.
struct PageTimes {
    written: Instant,
    took: Duration,
}

/// A page that changes within an epoch is written this often, and takes no more than this part of the run's time.
const PAGE_INTERVAL: Duration = Duration::from_secs(10);
const MAX_PAGE_SHARE: u32 = 50;

/// Sums since the last line of the log. Steps whose results are not read yet are not in `loss`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Interval {
    pub(super) start: Instant,
    pub(super) steps: u64,
    pub(super) loss: f64,
    pub(super) data_wait: Duration,
    pub(super) copy_time: Duration,
    /// As far as the device tells.
    pub(super) busy_time: Option<Duration>,
}

impl Interval {
    pub(super) fn begin() -> Interval {
        let (data_wait, copy_time) = (Duration::ZERO, Duration::ZERO);
        Interval { start: Instant::now(), steps: 0, loss: 0.0, data_wait, copy_time, busy_time: None }
    }

    /// Milliseconds a step.
    pub(super) fn ms_of(&self, time: Duration) -> f64 {
        1e3 * time.as_secs_f64() / self.steps as f64
    }
}

impl RunLog {
    /// Opens the logs in `dir` for a process that begins with `run`, in a run of `total_steps` updates.
    ///
    /// # Errors
    /// [`crate::Error::Io`] if a file cannot be written, or another process logs to the folder.
    pub(super) fn open(dir: RunDir, run: &Run, total_steps: u64) -> Result<RunLog> {
        // The log's lock comes first: a process that does not get it must leave the folder as it is.
        let mut metrics = MetricsLog::open(&dir.metrics())?;
        let env = Env::of_this_process(&*run.device);
        dir.write_env(&env)?;
        metrics.append(run)?;
        let events = EventFile::create(dir.path(), run.step)?;
        let progress = Progress::new(run.step, total_steps);
        Ok(RunLog { dir, env, metrics, events, progress, total_steps, page: None })
    }

    /// The run's folder.
    pub(super) fn dir(&self) -> &RunDir {
        &self.dir
    }

    /// An update is done.
    pub(super) fn step(&self, step: u64) {
        self.progress.step(step);
    }

    /// An interval of updates is done.
    pub(super) fn interval(&mut self, line: &Step) -> Result<()> {
        self.metrics.append(line)?;
        let scalars =
            [("train/loss", line.loss), ("train/lr", line.lr), ("train/images_per_second", line.img_s)];
        self.events.scalars(line.step, &scalars)?;
        self.progress.interval(line, self.total_steps);
        Ok(())
    }

    /// An epoch, one of `epochs`, is done and evaluated.
    pub(super) fn epoch(&mut self, row: &Epoch, eval: &Eval, epochs: u64) -> Result<()> {
        self.metrics.append(eval)?;
        self.metrics.append(row)?;
        let scalars = [
            ("val/loss", row.eval_loss),
            ("val/top1_error", row.eval_err1),
            ("val/top5_error", row.eval_err5),
            ("train/top1_error", row.train_err1),
        ];
        self.events.scalars(row.step, &scalars)?;
        self.progress.epoch(row, epochs);
        self.note(&summary::epoch_line(row, epochs));
        Ok(())
    }

    /// A line of `log.txt`, which is for people: no run ends for want of it.
    fn note(&self, line: &str) {
        if let Err(error) = self.dir.log(line) {
            tell(format_args!("{error}: {line}"));
        }
    }

    /// Something happened after `step` updates that is not a measurement.
    pub(super) fn event(&mut self, step: u64, event: &str, message: &str) -> Result<()> {
        self.note(message);
        self.metrics.append(&Event { step, event: event.into(), message: message.into() })
    }

    /// Keeps what `evaluation`, after `step` updates, said of each image, for the report.
    pub(super) fn predictions(&mut self, step: u64, source: &Source, evaluation: &Evaluation) {
        let written = predictions::write(&self.dir, &source.val, &evaluation.predictions);
        self.expect_page(step, written);
    }

    /// Path of the run's page.
    pub(super) fn page_path(&self) -> PathBuf {
        self.dir.file(REPORT)
    }

    /// Whether the page is old enough to be written within an epoch. One that could not be written waits for the next epoch.
    pub(super) fn page_is_due(&self) -> bool {
        let interval = |page: &PageTimes| PAGE_INTERVAL.max(MAX_PAGE_SHARE * page.took);
        self.page.as_ref().is_some_and(|page| page.written.elapsed() >= interval(page))
    }

    /// Writes `report.html` of a run of `step` updates.
    pub(super) fn page(&mut self, step: u64, source: &Source, standing: &Standing) {
        let start = Instant::now();
        let written = summary::write_report(&self.dir, &self.env, source, standing);
        self.page = written.is_ok().then(|| PageTimes { written: Instant::now(), took: start.elapsed() });
        self.expect_page(step, written);
    }

    /// Writes the pages of a run of `step` updates.
    pub(super) fn pages(&mut self, step: u64, source: &Source, standing: &Standing) {
        self.page(step, source, standing);
        // It comes last: where it says what the state says, the report does, too.
        let written = summary::write_csv(&self.dir, standing.history);
        self.expect_page(step, written);
    }

    /// A page that cannot be written is an event: the run is worth more, and its next page may succeed.
    fn expect_page(&mut self, step: u64, written: Result<()>) {
        let Err(error) = written else { return };
        let message = format!("a page of the run is left out: {error}");
        tell(&message);
        // On a full disk this fails as well, and the next checkpoint says so.
        let _ = self.event(step, "page left out", &message);
    }

    /// The run is over.
    pub(super) fn finish(self) -> RunDir {
        self.progress.finish();
        self.dir
    }
}
