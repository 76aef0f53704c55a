//! Times every operation of a training and an inference step at the shapes of the network's own layers, on the device's
//! clock: microseconds, TFLOP/s, GB/s, and the share of the roofline.
//!
//!     cargo bench --bench kernels -- [--device D] [--precision P] [--json] [--rows TEXT] [--ops TEXT] [--runs N]
//!                                    [--peak-tflops X --peak-gb-s Y]
//!
//! The steps are those of the plan: each distinct one (operation, settings, shapes) is a row, with how often it occurs.
//! Operands are random; between two runs of a step the device's caches are filled with other memory. The roofline is
//! the longer of `Op::cost`'s flops and bytes at the peaks, which are what this GPU was measured to reach.

mod common;

use std::collections::HashMap;
use std::time::Duration;

use common::{CLASSES, RUNS, Row, median_and_spread, open_device, parse_precision};
use half::bf16;
use residuum::device::{Device, DeviceKind, Slot};
use residuum::exec::{Session, Start};
use residuum::graph::{Graph, Init};
use residuum::ops::Clear;
use residuum::plan::{Step, plan};
use residuum::rng::{Stream, Use};
use residuum::step::{evaluation_graph, training_graph};
use residuum::tensor::{DType, Layout};

const GPU_ROWS: &[Row] = &[
    Row::new("resnet18", 128, 128, true),
    Row::new("resnet50", 128, 128, true),
    Row::new("resnet50", 224, 64, true),
    Row::new("resnet18", 128, 128, false),
    Row::new("resnet50", 128, 128, false),
];

const CPU_ROWS: &[Row] = &[Row::new("resnet18", 64, 16, true), Row::new("resnet50", 64, 8, true)];

/// The emulator shows that the benchmark works; its times say nothing.
const SIMT_ROWS: &[Row] = &[Row::new("resnet18", 16, 2, true), Row::new("resnet18", 16, 2, false)];

/// The step of the network, and what clears the caches.
const NETWORK: usize = 0;
const FLUSH: usize = 1;
/// Larger than any cache, in f32.
const FLUSH_ELEMS: usize = 64 << 20;

struct Options {
    device: Device,
    float: DType,
    json: bool,
    rows: String,
    ops: String,
    runs: usize,
    peaks: Option<Peaks>,
}

/// What the device was measured to reach.
#[derive(Debug, Clone, Copy)]
struct Peaks {
    tflops: f64,
    gb_s: f64,
}

fn main() {
    let options = options();
    let rows = match options.device.kind() {
        DeviceKind::Cpu => CPU_ROWS,
        DeviceKind::Cuda => GPU_ROWS,
        DeviceKind::Simt => SIMT_ROWS,
    };
    for row in rows.iter().filter(|row| row.title().contains(&options.rows)) {
        measure(&options, row);
    }
}

/// `cargo bench` adds `--bench`, which says nothing here.
fn options() -> Options {
    let (mut device, mut float, mut json, mut runs) = (Device::Cpu, None, false, None);
    let (mut rows, mut ops) = (String::new(), String::new());
    let (mut tflops, mut gb_s) = (None, None);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().unwrap_or_else(|| usage(&format!("{argument} needs a value")));
        match argument.as_str() {
            "--json" => json = true,
            "--bench" => {}
            "--rows" => rows = value(),
            "--ops" => ops = value(),
            "--device" => device = open_device(&value()),
            "--precision" => {
                float = Some(parse_precision(&value()).unwrap_or_else(|| usage("--precision is f32 or bf16")))
            }
            "--runs" => runs = Some(value().parse().unwrap_or_else(|_| usage("--runs needs a number"))),
            "--peak-tflops" => tflops = Some(number(&value())),
            "--peak-gb-s" => gb_s = Some(number(&value())),
            other => usage(&format!("unknown flag {other}")),
        }
    }
    let is_cpu = device == Device::Cpu;
    if is_cpu && float == Some(DType::Bf16) {
        usage("the CPU computes in f32");
    }
    Options {
        device,
        float: float.unwrap_or(if is_cpu { DType::F32 } else { DType::Bf16 }),
        json,
        rows,
        ops,
        runs: runs.unwrap_or(if device == Device::Simt { 1 } else { 20 }).max(1),
        peaks: tflops.zip(gb_s).map(|(tflops, gb_s)| Peaks { tflops, gb_s }),
    }
}

fn number(text: &str) -> f64 {
    text.parse().ok().filter(|value| *value > 0.0).unwrap_or_else(|| usage("a peak needs a number"))
}

fn usage(message: &str) -> ! {
    eprintln!(
        "{message}; flags: --device D, --precision f32|bf16, --json, --rows TEXT, --ops TEXT, --runs N, \
         --peak-tflops X --peak-gb-s Y"
    );
    std::process::exit(2)
}

/// Steps of a plan that do the same work.
struct Kind {
    /// The first of them.
    step: usize,
    count: usize,
}

fn measure(options: &Options, row: &Row) {
    let mut session = open(options, row);
    let mut total_us = 0.0;
    for kind in kinds(&session.plan(NETWORK).steps) {
        if session.plan(NETWORK).steps[kind.step].op.name().contains(&options.ops) {
            total_us += kind.count as f64 * measure_kind(options, row, &mut session, &kind);
        }
    }
    if !options.json {
        println!("{}: {:.3} ms by these kernels one by one\n", row.title(), total_us / 1e3);
    }
}

fn open(options: &Options, row: &Row) -> Session {
    let mut flush = Graph::new(DType::F32);
    let elems = if options.device == Device::Simt { 1 } else { FLUSH_ELEMS };
    let filler = flush.state("flush", [elems], Layout::Flat, Init::Constant(0.0));
    flush.apply("clear", Clear::new(1), &[filler]).expect("a state can be cleared");
    let config = row.config(options.float);
    let graph = if row.train { training_graph(&config) } else { evaluation_graph(&config, "") };
    let program = plan(&[&graph.expect("the rows fit their models"), &flush], options.device.kind())
        .expect("both verify");
    Session::open(program, options.device, Start::Seed(1)).unwrap_or_else(|error| {
        eprintln!("{}: {error}", row.title());
        std::process::exit(error.exit_code().into())
    })
}

/// In order of their first step.
fn kinds(steps: &[Step]) -> Vec<Kind> {
    let mut kinds: Vec<Kind> = Vec::new();
    let mut by_signature: HashMap<String, usize> = HashMap::new();
    for (index, step) in steps.iter().enumerate() {
        let signature = format!("{:?} {}", step.op, shapes(step, usize::MAX));
        let at = *by_signature.entry(signature).or_insert(kinds.len());
        match kinds.get_mut(at) {
            Some(kind) => kind.count += 1,
            None => kinds.push(Kind { step: index, count: 1 }),
        }
    }
    kinds
}

/// `bf16 128x32x32x64, bf16 64x3x3x64 -> bf16 128x32x32x64`, with at most so many operands.
fn shapes(step: &Step, most: usize) -> String {
    let list = |slots: &[Slot]| {
        let shown = slots.iter().take(most).map(|slot| format!("{} {}", slot.dtype, slot.shape));
        let more = (slots.len() > most).then(|| format!("and {} more", slots.len() - most));
        shown.chain(more).collect::<Vec<_>>().join(", ")
    };
    format!("{} -> {}", list(&step.inputs), list(&step.outputs))
}

/// Prints a row; the median in microseconds.
fn measure_kind(options: &Options, row: &Row, session: &mut Session, kind: &Kind) -> f64 {
    let step = session.plan(NETWORK).steps[kind.step].clone();
    fill_operands(session, kind.step);
    let mut times = vec![Duration::ZERO; 1 + options.runs];
    session.time_step(NETWORK, kind.step, FLUSH, &mut times).expect(RUNS);
    // The first run also loads code.
    let mut times_us: Vec<f64> = times[1..].iter().map(|time| time.as_secs_f64() * 1e6).collect();
    times_us.sort_by(f64::total_cmp);
    let (us, spread) = median_and_spread(&times_us);
    let (flops, bytes) = (step.cost.flops as f64, step.cost.bytes as f64);
    let (tflop_s, gb_s) = (flops / us / 1e6, bytes / us / 1e3);
    let roofline = options.peaks.map(|p| (flops / p.tflops / 1e6).max(bytes / p.gb_s / 1e3) / us);
    let (op, name, shapes) = (step.op.name(), &step.name, shapes(&step, 3));
    if options.json {
        let Row { model, size, batch, .. } = row;
        let roofline = roofline.map_or("null".into(), |share| format!("{share:.4}"));
        println!(
            "{{\"bench\":\"kernels\",\"model\":\"{model}\",\"size\":{size},\"batch\":{batch},\"mode\":\"{}\",\
             \"precision\":\"{}\",\"device\":\"{}\",\"op\":\"{op}\",\"node\":\"{name}\",\"shapes\":\"{shapes}\",\
             \"count\":{},\"us\":{us:.2},\"spread\":{spread:.4},\"gflop\":{:.4},\"mbytes\":{:.3},\
             \"tflop_s\":{tflop_s:.3},\"gb_s\":{gb_s:.1},\"roofline\":{roofline}}}",
            row.mode(),
            options.float,
            options.device,
            kind.count,
            flops / 1e9,
            bytes / 1e6,
        );
    } else {
        let roofline = roofline.map_or(String::new(), |share| format!("{:5.1} %  ", 100.0 * share));
        println!(
            "{:>3} x {op:<24} {us:10.1} us  {tflop_s:7.2} TFLOP/s  {gb_s:7.1} GB/s  {roofline}{name}: {shapes}",
            kind.count
        );
    }
    us
}

/// Random values for the operands that a step would have computed; weights and statistics stay as they are.
fn fill_operands(session: &mut Session, step: usize) {
    const BLOCK: usize = 1 << 16;
    let mut stream = Stream::new(1, 0, 0, Use::Augment);
    let normals: Vec<f32> = (0..BLOCK).map(|_| stream.normal()).collect();
    let persistent_bytes = session.program().persistent_bytes;
    for (operand, slot) in session.plan(NETWORK).steps[step].inputs.clone().into_iter().enumerate() {
        if slot.offset_bytes < persistent_bytes {
            continue;
        }
        let place = (NETWORK, step, operand);
        let cycle = || normals.iter().copied().cycle().take(slot.shape.num_elems());
        // Integers are labels, or places within a pooling window of at least four pixels.
        let mut below = |most: u32| stream.below(most);
        match slot.dtype {
            DType::F32 => session.write_operand(place, &cycle().collect::<Vec<_>>()),
            DType::Bf16 => session.write_operand(place, &cycle().map(bf16::from_f32).collect::<Vec<_>>()),
            DType::I32 => session
                .write_operand(place, &cycle().map(|_| below(CLASSES as u32) as i32).collect::<Vec<_>>()),
            DType::U8 => session.write_operand(place, &cycle().map(|_| below(4) as u8).collect::<Vec<_>>()),
            other => panic!("no step reads {other}"),
        }
        .expect("the device takes a copy");
    }
}
