//! Times every operation of a training and an inference step at the shapes of the network's own layers, on the device's
//! clock: microseconds, TFLOP/s, GB/s, and the share of the roofline.
//!
//!     cargo bench --bench kernels -- --help
//!
//! The steps are those of the plan: each distinct one (operation, settings, shapes) is a row, with how often it occurs.
//! Operands are random; between two runs of a step the device's caches are filled with other memory. The roofline is
//! the longer of `Op::cost`'s flops and bytes at the peaks, which are what this GPU was measured to reach.

mod common;

use std::collections::HashMap;
use std::time::Duration;

use clap::{Parser, value_parser};
use common::{CLASSES, Flags, RUNS, Row, end, median_and_spread};
use half::bf16;
use residuum::device::{Device, Slot};
use residuum::exec::{Session, Start};
use residuum::graph::{Graph, Init};
use residuum::ops::Clear;
use residuum::plan::{Step, plan};
use residuum::rng::{Stream, Use};
use residuum::step::{evaluation_graph, training_graph};
use residuum::tensor::{DType, Layout};
use residuum::train::precision::Precision;

const GPU_ROWS: &[Row] = &[
    Row::new("resnet18", 128, 128, true),
    Row::new("resnet50", 128, 128, true),
    Row::new("resnet50", 224, 64, true),
    Row::new("resnet18", 128, 128, false),
    Row::new("resnet50", 128, 128, false),
];

const CPU_ROWS: &[Row] = &[Row::new("resnet18", 64, 16, true), Row::new("resnet50", 64, 8, true)];

/// The step of the network, and what clears the caches.
const NETWORK: usize = 0;
const FLUSH: usize = 1;
/// Larger than any cache, in f32.
const FLUSH_ELEMS: usize = 64 << 20;

/// Every operation of a step at the shapes of the network's own layers
#[derive(Debug, Parser)]
struct Options {
    #[command(flatten)]
    flags: Flags,
    /// Only operations whose name contains this
    #[arg(long, value_name = "TEXT", default_value = "")]
    ops: String,
    /// Runs of each operation that count [default: 20; 1 with --quick]
    #[arg(long, value_name = "N", value_parser = value_parser!(u32).range(1..))]
    runs: Option<u32>,
    /// What the device was measured to reach, for the roofline
    #[arg(long, value_name = "X", requires = "peak_gb_s")]
    peak_tflops: Option<f64>,
    /// The same of its memory
    #[arg(long, value_name = "Y", requires = "peak_tflops")]
    peak_gb_s: Option<f64>,
}

fn main() {
    let options = Options::parse();
    let (device, precision) = options.flags.open();
    for row in options.flags.rows(device, CPU_ROWS, GPU_ROWS) {
        measure(&Bench { options: &options, device, precision, row: *row });
    }
}

/// A row on a device.
struct Bench<'a> {
    options: &'a Options,
    device: Device,
    precision: Precision,
    row: Row,
}

/// Steps of a plan that do the same work.
struct Kind {
    /// The first of them.
    step: usize,
    count: usize,
}

fn measure(bench: &Bench) {
    let mut session = open(bench);
    let mut total_us = 0.0;
    for kind in kinds(&session.plan(NETWORK).steps) {
        if session.plan(NETWORK).steps[kind.step].op.name().contains(&bench.options.ops) {
            total_us += kind.count as f64 * measure_kind(bench, &mut session, &kind);
        }
    }
    if !bench.options.flags.json {
        println!("{}: {:.3} ms by these kernels one by one\n", bench.row.title(), total_us / 1e3);
    }
}

fn open(bench: &Bench) -> Session {
    let mut flush = Graph::new(DType::F32);
    let elems = if bench.options.flags.is_quick(bench.device) { 1 } else { FLUSH_ELEMS };
    let filler = flush.state("flush", [elems], Layout::Flat, Init::Constant(0.0));
    flush.apply("clear", Clear::new(1), &[filler]).expect("a state can be cleared");
    let config = bench.row.config(bench.precision, bench.device.kind());
    let graph = if bench.row.train { training_graph(&config) } else { evaluation_graph(&config, "") };
    let program = plan(&[&graph.expect("the rows fit their models"), &flush], bench.device.kind())
        .expect("both verify");
    Session::open(program, bench.device, Start::Seed(1)).unwrap_or_else(|error| end(&error))
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
fn measure_kind(bench: &Bench, session: &mut Session, kind: &Kind) -> f64 {
    let (options, row) = (bench.options, &bench.row);
    let runs = options.runs.unwrap_or(if options.flags.is_quick(bench.device) { 1 } else { 20 }) as usize;
    let step = session.plan(NETWORK).steps[kind.step].clone();
    fill_operands(session, kind.step);
    let mut times = vec![Duration::ZERO; 1 + runs];
    session.time_step(NETWORK, kind.step, FLUSH, &mut times).expect(RUNS);
    // The first run also loads code.
    let mut times_us: Vec<f64> = times[1..].iter().map(|time| time.as_secs_f64() * 1e6).collect();
    times_us.sort_by(f64::total_cmp);
    let (us, spread) = median_and_spread(&times_us);
    let (flops, bytes) = (step.cost.flops as f64, step.cost.bytes as f64);
    let (tflop_s, gb_s) = (flops / us / 1e6, bytes / us / 1e3);
    let peaks = options.peak_tflops.zip(options.peak_gb_s);
    let roofline = peaks.map(|(tflops, gb_s)| (flops / tflops / 1e6).max(bytes / gb_s / 1e3) / us);
    let (op, name, shapes) = (step.op.name(), &step.name, shapes(&step, 3));
    if options.flags.json {
        let Row { model, size, batch, .. } = row;
        let roofline = roofline.map_or("null".into(), |share| format!("{share:.4}"));
        println!(
            "{{\"bench\":\"kernels\",\"model\":\"{model}\",\"size\":{size},\"batch\":{batch},\"mode\":\"{}\",\
             \"precision\":\"{}\",\"device\":\"{}\",\"op\":\"{op}\",\"node\":\"{name}\",\"shapes\":\"{shapes}\",\
             \"count\":{},\"us\":{us:.2},\"spread\":{spread:.4},\"gflop\":{:.4},\"mbytes\":{:.3},\
             \"tflop_s\":{tflop_s:.3},\"gb_s\":{gb_s:.1},\"roofline\":{roofline}}}",
            row.mode(),
            bench.precision,
            bench.device,
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
