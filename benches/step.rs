//! Images per second of training steps and of inference, for `benches/peers/compare.py` and for eyes.
//!
//!     cargo bench --bench step -- --help
//!
//! Data and weights are random. On the CPU a row is the median over single steps after a warm-up. On a GPU (f32 or, the
//! default there, bf16) steps run in groups without a stop and a row is the median over groups; images and labels stay
//! in its memory, or with `--copy` are copied to it before every step. `--profile` also prints where the time of each
//! row goes, by operation, on the device's clock.

mod common;
#[path = "common/process.rs"]
mod process;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use clap::Parser;
use common::{CLASSES, Flags, RUNS, Row, end, median_and_spread};
use residuum::Error;
use residuum::batch::Batch;
use residuum::device::{Device, DeviceKind};
use residuum::exec::{Session, Start};
use residuum::fuse::Fusion;
use residuum::plan::plan;
use residuum::rng::{Stream, Use};
use residuum::step::feed::Feed;
use residuum::step::{StepConfig, Training, evaluation_graph};
use residuum::train::precision::Precision;

/// Learning rate of the steps.
const LR: f64 = 1e-3;
/// Groups of steps before those that count, and the least number that count.
const WARM_UP: usize = 2;
const LEAST: usize = 3;

const CPU_ROWS: &[Row] = &[
    Row::new("resnet18", 64, 16, true),
    Row::new("resnet18", 128, 16, true),
    Row::new("resnet34", 64, 16, true),
    Row::new("resnet34", 128, 16, true),
    Row::new("resnet50", 64, 8, true),
    Row::new("resnet50", 128, 8, true),
    Row::new("resnet18", 64, 16, false),
    Row::new("resnet50", 64, 16, false),
];

const GPU_ROWS: &[Row] = &[
    Row::new("resnet18", 128, 128, true),
    Row::new("resnet18", 128, 256, true),
    Row::new("resnet18", 128, 512, true),
    Row::new("resnet34", 128, 128, true),
    Row::new("resnet34", 128, 256, true),
    Row::new("resnet34", 128, 512, true),
    Row::new("resnet50", 128, 128, true),
    Row::new("resnet50", 128, 256, true),
    Row::new("resnet50", 128, 512, true),
    Row::new("resnet50", 224, 64, true),
    Row::new("resnet50", 224, 256, true),
    Row::new("resnet18", 128, 128, false),
    Row::new("resnet34", 128, 128, false),
    Row::new("resnet50", 128, 128, false),
    Row::new("resnet50", 224, 64, false),
];

/// Images per second of training steps and of inference
#[derive(Debug, Parser)]
struct Options {
    #[command(flatten)]
    flags: Flags,
    /// Copy images and labels to the device before every step, as on the CPU
    #[arg(long)]
    copy: bool,
    /// Also print where the time goes, by operation
    #[arg(long)]
    profile: bool,
    #[arg(long, value_name = "NAMES", help = Fusion::help(), value_parser = Fusion::without_named)]
    no_fuse: Option<Fusion>,
    /// Only the rows of this batch
    #[arg(long, value_name = "N")]
    batch: Option<usize>,
    /// Seconds a row takes at least
    #[arg(long, value_name = "S", default_value_t = 4.0)]
    seconds: f64,
}

fn main() {
    let mut options = Options::parse();
    let (device, precision) = options.flags.open();
    options.copy |= device == Device::Cpu;
    let is_asked_for = |row: &&Row| options.batch.is_none_or(|batch| batch == row.batch);
    let rows: Vec<_> = options.flags.rows(device, CPU_ROWS, GPU_ROWS).filter(is_asked_for).collect();
    if rows.is_empty() {
        end(&Error::Usage(
            "no row is both of --rows and of --batch; leave one of them out to see the rows".into(),
        ));
    }
    for row in rows {
        let mut bench = match Bench::new(&options, device, *row, precision) {
            Ok(bench) => bench,
            // The next may be smaller.
            Err(error @ Error::DoesNotFit { .. }) => {
                eprintln!("{} of {}: {error}", row.title(), row.batch);
                continue;
            }
            Err(error) => end(&error),
        };
        let measured = rayon::scope(|_| bench.measure(options.seconds));
        report(&options, device, &mut bench, measured);
        if options.profile {
            rayon::scope(|_| bench.profile());
        }
    }
}

/// What a row runs.
enum Work {
    Training(Box<Training>),
    Inference { session: Box<Session>, feed: Box<Feed> },
}

/// A row with its random batch, which is copied before every step, unless it stays on the device.
struct Bench {
    row: Row,
    precision: Precision,
    work: Work,
    batch: Batch,
    copies: bool,
    is_quick: bool,
}

impl Bench {
    fn new(options: &Options, device: Device, row: Row, precision: Precision) -> residuum::Result<Bench> {
        let config = StepConfig {
            keep_inputs: !options.copy || options.profile,
            fuse: options.no_fuse.unwrap_or(Fusion::ALL),
            ..row.config(precision, device.kind())
        };
        let is_quick = options.flags.is_quick(device);
        let mut stream = Stream::new(1, 0, 0, Use::Augment);
        let images = (0..row.batch * row.size * row.size * 3).map(|_| stream.normal()).collect();
        let labels = (0..row.batch).map(|_| stream.below(CLASSES as u32) as i32).collect();
        let work = Bench::open(device, &row, config)?;
        let mut bench =
            Bench { row, precision, work, batch: Batch::new(images, labels), copies: true, is_quick };
        bench.run_step();
        bench.copies = options.copy;
        Ok(bench)
    }

    fn open(device: Device, row: &Row, config: StepConfig) -> residuum::Result<Work> {
        if row.train {
            return Ok(Work::Training(Box::new(Training::new(config, device)?)));
        }
        let program = plan(&[&evaluation_graph(&config, "")?], device.kind())?;
        let feed = Box::new(Feed::new(&program.plans[0]));
        let session = Box::new(Session::open(program, device, Start::Seed(config.seed))?);
        Ok(Work::Inference { session, feed })
    }

    fn session(&mut self) -> &mut Session {
        match &mut self.work {
            Work::Training(training) => training.session_mut(),
            Work::Inference { session, .. } => session,
        }
    }

    /// Runs a whole step; on a GPU it is then under way.
    fn run_step(&mut self) {
        let done = match &mut self.work {
            Work::Training(training) if self.copies => training.step(&self.batch, LR),
            Work::Training(training) => training.repeat(LR),
            Work::Inference { session, feed } => {
                let written = if self.copies { feed.write(session, &self.batch, None) } else { Ok(()) };
                written.and_then(|()| session.run_micro_batch(0))
            }
        };
        done.expect(RUNS);
    }

    /// Steps between two looks at the clock: a GPU is waited for at each look.
    fn group(&mut self) -> usize {
        if self.session().device() == DeviceKind::Cuda && !self.is_quick { 10 } else { 1 }
    }

    fn measure(&mut self, seconds: f64) -> Measured {
        let (seconds, group) = (if self.is_quick { 0.0 } else { seconds }, self.group());
        let (warm_up, least) = if self.is_quick { (0, 1) } else { (WARM_UP, LEAST) };
        let mut times = Vec::new();
        let mut cpu_time = Duration::ZERO;
        let begin = Instant::now();
        while times.len() < warm_up + least || begin.elapsed().as_secs_f64() < seconds {
            if times.len() == warm_up {
                cpu_time = process::cpu_time().unwrap_or_default();
            }
            let start = Instant::now();
            (0..group).for_each(|_| self.run_step());
            // Waits for the device.
            self.session().take_readback(|_| ()).expect(RUNS);
            times.push(start.elapsed().as_secs_f64() / group as f64);
        }
        let cpu_time = process::cpu_time().map(|now| now - cpu_time);
        Measured { step_times: times.split_off(warm_up), cpu_time }
    }

    /// Time by operation over a few steps, slowest first.
    fn profile(&mut self) {
        let steps = if self.is_quick { 1 } else { 5 };
        let mut times = vec![Duration::ZERO; self.session().plan(0).steps.len()];
        for _ in 0..steps {
            self.session().run_timed(0, &mut times).expect(RUNS);
        }
        let mut by_op: BTreeMap<&str, (Duration, u64, u64)> = BTreeMap::new();
        for (step, time) in self.session().plan(0).steps.iter().zip(&times) {
            let entry = by_op.entry(step.op.name()).or_default();
            *entry = (entry.0 + *time / steps, entry.1 + step.cost.flops, entry.2 + step.cost.bytes);
        }
        let mut rows: Vec<_> = by_op.into_iter().collect();
        rows.sort_by_key(|(_, (time, ..))| std::cmp::Reverse(*time));
        for (op, (time, flops, bytes)) in rows {
            let seconds = time.as_secs_f64();
            println!(
                "  {op:<22} {:8.2} ms  {:7.1} GFLOP/s  {:6.1} GB/s",
                1e3 * seconds,
                flops as f64 / seconds / 1e9,
                bytes as f64 / seconds / 1e9
            );
        }
    }
}

/// What was measured of a row.
struct Measured {
    /// In seconds, of one step.
    step_times: Vec<f64>,
    /// Processor time of all of them, where the system tells it.
    cpu_time: Option<Duration>,
}

fn report(options: &Options, device: Device, bench: &mut Bench, measured: Measured) {
    let Measured { step_times: mut times, cpu_time } = measured;
    times.sort_by(f64::total_cmp);
    let (median, spread) = median_and_spread(&times);
    let Row { model, size, batch, .. } = bench.row;
    let (mode, precision, speed) = (bench.row.mode(), bench.precision, batch as f64 / median);
    if options.flags.json {
        let steps = times.len() * bench.group();
        let cpu_ms = cpu_time.map(|time| 1e3 * time.as_secs_f64() / (steps * batch) as f64);
        let null = || "null".to_string();
        println!(
            "{{\"peer\":\"residuum\",\"version\":\"{}\",\"model\":\"{model}\",\"size\":{size},\"batch\":{batch},\
             \"mode\":\"{mode}\",\"images_per_second\":{speed:.2},\"spread\":{spread:.4},\"steps\":{},\
             \"device\":\"{}\",\"precision\":\"{precision}\",\"input\":\"{}\",\"memory_mib\":{},\"cpu_ms\":{},\"peak_mib\":{}}}",
            env!("CARGO_PKG_VERSION"),
            steps,
            device,
            if options.copy { "copied" } else { "resident" },
            bench.session().arena_bytes() >> 20,
            cpu_ms.map_or_else(null, |ms| format!("{ms:.3}")),
            process::peak_memory_mib().map_or_else(null, |mib| mib.to_string())
        );
    } else {
        println!(
            "{model} {size}px batch {batch} {mode} {precision}: {speed:.1} images/s, {:.2} ms a step (best {:.2}), \
             spread {:.1} %",
            1e3 * median,
            1e3 * times[0],
            100.0 * spread
        );
    }
}
