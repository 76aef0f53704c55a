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

/// The logs of a run in its folder: nothing, where another rank keeps them.
pub(super) struct RunLog {
    dir: RunDir,
    files: Option<Files>,
}

/// What the logs are written to.
struct Files {
    env: Env,
    metrics: MetricsLog,
    events: EventFile,
    progress: Progress,
    total_steps: u64,
    missed: Missed,
    page: Option<PageTimes>,
}

/// What could not be written to the logs. The run goes on: all that it is lies in its state, and where that cannot be
/// written, the next checkpoint is the error.
#[derive(Debug, Default)]
struct Missed {
    count: u64,
    /// Why, for the last of them.
    reason: String,
}

impl Missed {
    /// Says so once, when it begins.
    fn expect(&mut self, written: Result<()>) {
        let Err(error) = written else { return };
        self.reason = error.to_string();
        if self.count == 0 {
            tell(format_args!("{}; the run goes on without these lines", self.reason));
        }
        self.count += 1;
    }
}

impl Drop for Missed {
    /// However the run ended.
    fn drop(&mut self) {
        if self.count > 0 {
            tell(format_args!("{} lines of the run's logs are missing: {}", self.count, self.reason));
        }
    }
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
    /// Where there are other ranks.
    pub(super) exchange_time: Option<Duration>,
}

impl Interval {
    pub(super) fn begin() -> Interval {
        Interval {
            start: Instant::now(),
            steps: 0,
            loss: 0.0,
            data_wait: Duration::ZERO,
            copy_time: Duration::ZERO,
            busy_time: None,
            exchange_time: None,
        }
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
        let (missed, page) = (Missed::default(), None);
        let files = Files { env, metrics, events, progress, total_steps, missed, page };
        Ok(RunLog { dir, files: Some(files) })
    }

    /// The logs of a run whose folder `dir` is another rank's.
    pub(super) fn of_another_rank(dir: RunDir) -> RunLog {
        RunLog { dir, files: None }
    }

    /// Whether this process writes to the run's folder.
    pub(super) fn is_written(&self) -> bool {
        self.files.is_some()
    }

    /// The run's folder.
    pub(super) fn dir(&self) -> &RunDir {
        &self.dir
    }

    /// An update is done.
    pub(super) fn step(&self, step: u64) {
        if let Some(files) = &self.files {
            files.progress.step(step);
        }
    }

    /// An interval of updates is done.
    pub(super) fn interval(&mut self, line: &Step) {
        let Some(files) = &mut self.files else { return };
        files.missed.expect(files.metrics.append(line));
        let scalars =
            [("train/loss", line.loss), ("train/lr", line.lr), ("train/images_per_second", line.img_s)];
        files.missed.expect(files.events.scalars(line.step, &scalars));
        files.progress.interval(line, files.total_steps);
    }

    /// An epoch, one of `epochs`, is done and evaluated.
    pub(super) fn epoch(&mut self, row: &Epoch, eval: &Eval, epochs: u64) {
        let Some(files) = &mut self.files else { return };
        files.missed.expect(files.metrics.append(eval));
        files.missed.expect(files.metrics.append(row));
        let scalars = [
            ("val/loss", row.eval_loss),
            ("val/top1_error", row.eval_err1),
            ("val/top5_error", row.eval_err5),
            ("train/top1_error", row.train_err1),
        ];
        files.missed.expect(files.events.scalars(row.step, &scalars));
        files.progress.epoch(row, epochs);
        files.missed.expect(self.dir.log(&summary::epoch_line(row, epochs)));
    }

    /// Something happened after `step` updates that is not a measurement.
    pub(super) fn event(&mut self, step: u64, event: &str, message: &str) {
        let Some(files) = &mut self.files else { return };
        files.missed.expect(self.dir.log(message));
        let event = Event { step, event: event.into(), message: message.into() };
        files.missed.expect(files.metrics.append(&event));
    }

    /// Keeps what `evaluation`, after `step` updates, said of each image, for the report.
    pub(super) fn predictions(&mut self, step: u64, source: &Source, evaluation: &Evaluation) {
        if self.is_written() {
            let written = predictions::write(&self.dir, &source.val, &evaluation.predictions);
            self.expect_page(step, written);
        }
    }

    /// Path of the run's page.
    pub(super) fn page_path(&self) -> PathBuf {
        self.dir.file(REPORT)
    }

    /// Whether the page is old enough to be written within an epoch. One that could not be written waits for the next epoch.
    pub(super) fn page_is_due(&self) -> bool {
        let interval = |page: &PageTimes| PAGE_INTERVAL.max(MAX_PAGE_SHARE * page.took);
        let page = self.files.as_ref().and_then(|files| files.page.as_ref());
        page.is_some_and(|page| page.written.elapsed() >= interval(page))
    }

    /// Writes `report.html` of a run of `step` updates.
    pub(super) fn page(&mut self, step: u64, source: &Source, standing: &Standing) {
        let Some(files) = &mut self.files else { return };
        let start = Instant::now();
        let written = summary::write_report(&self.dir, &files.env, source, standing);
        files.page = written.is_ok().then(|| PageTimes { written: Instant::now(), took: start.elapsed() });
        self.expect_page(step, written);
    }

    /// Writes the pages of a run of `step` updates.
    pub(super) fn pages(&mut self, step: u64, source: &Source, standing: &Standing) {
        self.page(step, source, standing);
        if self.is_written() {
            // It comes last: where it says what the state says, the report does, too.
            let written = summary::write_csv(&self.dir, standing.history);
            self.expect_page(step, written);
        }
    }

    /// A page that cannot be written is an event: the run is worth more, and its next page may succeed.
    fn expect_page(&mut self, step: u64, written: Result<()>) {
        let Err(error) = written else { return };
        let message = format!("a page of the run is left out: {error}");
        tell(&message);
        self.event(step, "page left out", &message);
    }

    /// The run is over.
    pub(super) fn finish(self) -> RunDir {
        if let Some(files) = self.files {
            files.progress.finish();
        }
        self.dir
    }
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    #[test]
    fn a_run_goes_on_without_lines_that_find_no_room() {
        let folder = TempDir::new().unwrap();
        let dir = RunDir::create(folder.path(), "run").unwrap();
        let events = EventFile::create(dir.path(), 0).unwrap();
        let files = Files {
            env: Env::of_this_process("cpu"),
            metrics: MetricsLog::open(std::path::Path::new("/dev/full")).unwrap(),
            events,
            progress: Progress::new(0, 10),
            total_steps: 10,
            missed: Missed::default(),
            page: None,
        };
        let mut log = RunLog { dir, files: Some(files) };
        log.event(3, "something", "happened");
        log.event(4, "something", "happened");
        let missed = &log.files.as_ref().unwrap().missed;
        assert_eq!(missed.count, 2);
        assert!(missed.reason.contains("cannot append to /dev/full: No space left"), "{}", missed.reason);
        let lines = std::fs::read_to_string(log.dir.file("log.txt")).unwrap();
        assert_eq!(lines.matches("happened").count(), 2, "the other logs are written");
    }
}
