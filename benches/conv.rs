//! Times every convolution of a training step of ResNet-18 and ResNet-50, and sums them up.
//!
//! `cargo bench --bench conv [-- FILTER]`; FILTER selects tables by their titles. Each time is the least of several.

use std::time::Instant;

use half::bf16;
use residuum::device::cpu::conv::{
    Conv2dDims, Finish, conv2d_dgrad, conv2d_fprop, conv2d_wgrad, dgrad_workspace_elems,
    fprop_workspace_elems, mixed, wgrad_workspace_elems,
};
use residuum::models::{Model, Options};
use residuum::ops::Conv2dFprop;
use residuum::step::{StepConfig, training_graph};

/// Seconds each pass is repeated for.
const BUDGET_S: f64 = 0.15;

fn main() {
    let filter = std::env::args().skip(1).find(|arg| !arg.starts_with('-')).unwrap_or_default();
    for (name, batch) in [("resnet18", 16), ("resnet34", 16), ("resnet50", 8)] {
        for size in [64, 128] {
            for (precision, time_passes) in [("f32", time_f32 as TimePasses), ("bf16", time_bf16)] {
                let title = format!("{name} {size}px batch {batch} {precision}");
                if title.contains(&filter) {
                    println!("{title}");
                    print_table(&layers(name, batch, size), time_passes);
                }
            }
        }
    }
}

/// Seconds of fprop, dgrad and wgrad.
type TimePasses = fn(&Conv2dDims) -> [f64; 3];

/// The convolutions of a network with how often each occurs; the stem first.
fn layers(name: &str, batch: usize, size: usize) -> Vec<(Conv2dDims, usize)> {
    let model = Model::new(name, Options::new(100)).expect("a known model");
    let graph = training_graph(&StepConfig::new(model, batch, size)).expect("the images fit");
    let mut layers: Vec<(Conv2dDims, usize)> = Vec::new();
    for node in graph.nodes() {
        let Some(Conv2dFprop { window }) = node.op_as() else { continue };
        let [x, w] = [0, 1].map(|operand| graph.shape(node.inputs[operand]).nhwc());
        let d = window.dims(x, w);
        match layers.iter_mut().find(|(other, _)| *other == d) {
            Some((_, count)) => *count += 1,
            None => layers.push((d, 1)),
        }
    }
    layers
}

fn print_table(layers: &[(Conv2dDims, usize)], time_passes: TimePasses) {
    println!(
        "{:>5}  {:<28} {:>9} {:>7} {:>9} {:>7} {:>9} {:>7}",
        "count", "layer", "fprop_us", "GFLOP/s", "dgrad_us", "GFLOP/s", "wgrad_us", "GFLOP/s"
    );
    let (mut total_s, mut total_flops) = ([0.0; 3], 0.0);
    for (i, (d, count)) in layers.iter().enumerate() {
        let mut times_s = time_passes(d);
        if i == 0 {
            times_s[1] = 0.0; // The image needs no gradient.
        }
        let name = format!("{}x{} c{} k{} {}x{}/{}", d.h, d.w, d.c, d.k, d.r, d.s, d.stride_h);
        print!("{count:>5}  {name:<28}");
        for (total, time_s) in total_s.iter_mut().zip(times_s) {
            *total += time_s * *count as f64;
            if time_s > 0.0 {
                total_flops += d.flops() as f64 * *count as f64;
                print!(" {:>9.1} {:>7.1}", time_s * 1e6, d.flops() as f64 / time_s / 1e9);
            } else {
                print!(" {:>9} {:>7}", "-", "-");
            }
        }
        println!();
    }
    let sum_s: f64 = total_s.iter().sum();
    let [fprop, dgrad, wgrad] = total_s.map(|s| s * 1e3);
    println!(
        "total {:.2} ms at {:.0} GFLOP/s: fprop {fprop:.2} ms, dgrad {dgrad:.2} ms, wgrad {wgrad:.2} ms\n",
        sum_s * 1e3,
        total_flops / sum_s / 1e9
    );
}

fn time_f32(d: &Conv2dDims) -> [f64; 3] {
    let operand = |len: usize, step: usize| &*aligned(len, |i| number(i, step));
    let (x, w, dy) = (operand(d.x_elems(), 3), operand(d.w_elems(), 5), operand(d.y_elems(), 7));
    let result = |len: usize| aligned(len, |_| 0.0);
    let (y, dx, dw) = (result(d.y_elems()), result(d.x_elems()), result(d.w_elems()));
    let elems = [fprop_workspace_elems(d), dgrad_workspace_elems(d), wgrad_workspace_elems(d)];
    let workspace = result(elems.into_iter().max().unwrap_or(0));
    [
        least_time_s(|| conv2d_fprop(d, x, w, Finish::None, y, workspace)),
        least_time_s(|| conv2d_dgrad(d, dy, w, false, dx, workspace)),
        least_time_s(|| conv2d_wgrad(d, x, dy, dw, workspace)),
    ]
}

fn time_bf16(d: &Conv2dDims) -> [f64; 3] {
    let operand = |len: usize, step: usize| &*aligned(len, |i| bf16::from_f32(number(i, step)));
    let (x, w, dy) = (operand(d.x_elems(), 3), operand(d.w_elems(), 5), operand(d.y_elems(), 7));
    let result = |len: usize| aligned(len, |_| bf16::ZERO);
    let (y, dx, dw) = (result(d.y_elems()), result(d.x_elems()), aligned(d.w_elems(), |_| 0.0));
    let passes = [mixed::fprop_workspace_bytes, mixed::dgrad_workspace_bytes, mixed::wgrad_workspace_bytes];
    let bytes = passes.map(|bytes| bytes(d)).into_iter().max().unwrap_or(0);
    let workspace = aligned(bytes / size_of::<f32>(), |_| 0.0);
    [
        least_time_s(|| mixed::fprop(d, x, w, None, y, workspace)),
        least_time_s(|| mixed::dgrad(d, dy, w, false, dx, workspace)),
        least_time_s(|| mixed::wgrad(d, x, dy, dw, workspace)),
    ]
}

fn number(i: usize, step: usize) -> f32 {
    (i * step % 17) as f32 * 0.1 - 0.8
}

/// Values that start on a cache line, as those in the arena do; leaked, since the process is short.
fn aligned<T>(len: usize, value: impl Fn(usize) -> T) -> &'static mut [T] {
    const LINE_BYTES: usize = 64;
    let values = Vec::leak((0..len + LINE_BYTES / size_of::<T>()).map(value).collect());
    let skipped = values.as_ptr().align_offset(LINE_BYTES);
    &mut values[skipped..skipped + len]
}

fn least_time_s(mut pass: impl FnMut()) -> f64 {
    let (begin, mut least_s) = (Instant::now(), f64::INFINITY);
    while begin.elapsed().as_secs_f64() < BUDGET_S {
        let start = Instant::now();
        pass();
        least_s = least_s.min(start.elapsed().as_secs_f64());
    }
    least_s
}
