//! Images per second of training steps and of inference, for `benches/peers/compare.sh` and for eyes.
//!
//!     cargo bench --bench step -- [--device D] [--precision P] [--json] [--rows TEXT] [--seconds S] [--copy] [--profile]
//!
//! Data and weights are random. On the CPU a row is the median over single steps after a warm-up. On a GPU (f32 or, the
//! default there, bf16) steps run in groups without a stop and a row is the median over groups; images and labels stay
//! in its memory, or with `--copy` are copied to it before every step. `--profile` also prints where the time of each
//! row goes, by operation, on the device's clock.

mod common;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use common::{CLASSES, RUNS, Row, median_and_spread, open_device, parse_precision};
use residuum::batch::Batch;
use residuum::device::{Device, DeviceKind};
use residuum::exec::{Session, Start};
use residuum::plan::plan;
use residuum::rng::{Stream, Use};
use residuum::step::feed::Feed;
use residuum::step::{StepConfig, Training, evaluation_graph};
use residuum::tensor::DType;

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
    Row::new("resnet34", 128, 128, true),
    Row::new("resnet50", 128, 128, true),
    Row::new("resnet50", 224, 64, true),
    Row::new("resnet18", 128, 128, false),
    Row::new("resnet34", 128, 128, false),
    Row::new("resnet50", 128, 128, false),
    Row::new("resnet50", 224, 64, false),
];

/// The emulator shows that the benchmark works; its times say nothing.
const SIMT_ROWS: &[Row] = &[Row::new("resnet18", 16, 2, true), Row::new("resnet18", 16, 2, false)];

struct Options {
    device: Device,
    float: DType,
    copy: bool,
    json: bool,
    profile: bool,
    rows: String,
    seconds: f64,
}

fn main() {
    let options = options();
    let rows = match options.device.kind() {
        DeviceKind::Cpu => CPU_ROWS,
        DeviceKind::Cuda => GPU_ROWS,
        DeviceKind::Simt => SIMT_ROWS,
    };
    for row in rows.iter().filter(|row| row.title().contains(&options.rows)) {
        let mut bench = Bench::new(&options, *row);
        let times = rayon::scope(|_| bench.measure(options.seconds));
        report(&options, &mut bench, times);
        if options.profile {
            rayon::scope(|_| bench.profile());
        }
    }
}

/// `cargo bench` adds `--bench`, which says nothing here.
fn options() -> Options {
    let mut options = Options {
        device: Device::Cpu,
        float: DType::F32,
        copy: false,
        json: false,
        profile: false,
        rows: String::new(),
        seconds: 4.0,
    };
    let mut float = None;
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().unwrap_or_else(|| usage(&format!("{argument} needs a value")));
        match argument.as_str() {
            "--json" => options.json = true,
            "--profile" => options.profile = true,
            "--copy" => options.copy = true,
            "--bench" => {}
            "--rows" => options.rows = value(),
            "--device" => options.device = open_device(&value()),
            "--precision" => {
                float = Some(parse_precision(&value()).unwrap_or_else(|| usage("--precision is f32 or bf16")))
            }
            "--seconds" => {
                options.seconds = value().parse().unwrap_or_else(|_| usage("--seconds needs a number"))
            }
            other => usage(&format!("unknown flag {other}")),
        }
    }
    let is_cpu = options.device == Device::Cpu;
    if is_cpu && float == Some(DType::Bf16) {
        usage("the CPU computes in f32");
    }
    options.float = float.unwrap_or(if is_cpu { DType::F32 } else { DType::Bf16 });
    options.copy |= is_cpu;
    options
}

fn usage(message: &str) -> ! {
    eprintln!(
        "{message}; flags: --device D, --precision f32|bf16, --copy, --json, --rows TEXT, --seconds S, --profile"
    );
    std::process::exit(2)
}

/// What a row runs.
enum Work {
    Training(Box<Training>),
    Inference { session: Box<Session>, feed: Box<Feed> },
}

/// A row with its random batch, which is copied before every step, unless it stays on the device.
struct Bench {
    row: Row,
    work: Work,
    batch: Batch,
    copies: bool,
}

impl Bench {
    fn new(options: &Options, row: Row) -> Bench {
        let config =
            StepConfig { keep_inputs: !options.copy || options.profile, ..row.config(options.float) };
        let mut stream = Stream::new(1, 0, 0, Use::Augment);
        let images = (0..row.batch * row.size * row.size * 3).map(|_| stream.normal()).collect();
        let labels = (0..row.batch).map(|_| stream.below(CLASSES as u32) as i32).collect();
        let work = Bench::open(options.device, &row, config).unwrap_or_else(|error| {
            eprintln!("{}: {error}", row.title());
            std::process::exit(error.exit_code().into())
        });
        let mut bench = Bench { row, work, batch: Batch::new(images, labels), copies: true };
        bench.run_step();
        bench.copies = options.copy;
        bench
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
        if self.session().device() == DeviceKind::Cuda { 10 } else { 1 }
    }

    fn measure(&mut self, seconds: f64) -> Vec<f64> {
        let (is_emulated, group) = (self.session().device() == DeviceKind::Simt, self.group());
        let (warm_up, least) = if is_emulated { (0, 1) } else { (WARM_UP, LEAST) };
        let mut times = Vec::new();
        let begin = Instant::now();
        while times.len() < warm_up + least || begin.elapsed().as_secs_f64() < seconds {
            let start = Instant::now();
            (0..group).for_each(|_| self.run_step());
            // Waits for the device.
            self.session().take_notes(|_| ()).expect(RUNS);
            times.push(start.elapsed().as_secs_f64() / group as f64);
        }
        times.split_off(warm_up)
    }

    /// Time by operation over a few steps, slowest first.
    fn profile(&mut self) {
        let steps = if self.session().device() == DeviceKind::Simt { 1 } else { 5 };
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

fn report(options: &Options, bench: &mut Bench, mut times: Vec<f64>) {
    times.sort_by(f64::total_cmp);
    let (median, spread) = median_and_spread(&times);
    let Row { model, size, batch, .. } = bench.row;
    let (mode, float, speed) = (bench.row.mode(), options.float, batch as f64 / median);
    if options.json {
        println!(
            "{{\"peer\":\"residuum\",\"version\":\"{}\",\"model\":\"{model}\",\"size\":{size},\"batch\":{batch},\
             \"mode\":\"{mode}\",\"images_per_second\":{speed:.2},\"spread\":{spread:.4},\"steps\":{},\
             \"device\":\"{}\",\"precision\":\"{float}\",\"input\":\"{}\",\"memory_mib\":{}}}",
            env!("CARGO_PKG_VERSION"),
            times.len() * bench.group(),
            options.device,
            if options.copy { "copied" } else { "resident" },
            bench.session().arena_bytes() >> 20
        );
    } else {
        println!(
            "{model} {size}px batch {batch} {mode} {float}: {speed:.1} images/s, {:.2} ms a step (best {:.2}), \
             spread {:.1} %",
            1e3 * median,
            1e3 * times[0],
            100.0 * spread
        );
    }
}
