//! Words and numbers that the terminal, the page and the trace share.

use super::{Gpu, Profile, Setting};
use crate::show::{show_count, show_text};

/// What stands where there is no number.
pub const NONE: &str = "\u{2013}";

/// Where each number of a prediction comes from.
pub const SOURCES: [&str; 3] = [
    "Counted: products on the tensor cores, requests to global memory and their 32-byte sectors, phases of shared memory, \
     round trips and barriers, on an emulator that runs some blocks of every launch, scaled to all of them. Registers are the \
     assembler's; instructions of the inner loop, and how many loads of a round trip are under way together, the \
     disassembler's.",
    "Modelled: bytes that L1 and L2 hold, hence those from L2 and DRAM, and every predicted time: the times that its units \
     would take alone, overlapping in part (the cube root of the sum of their cubes), and the gap before the launch, \
     which is an assumption where launches may overlap (compute capability 9.0 and later).",
    "Compulsory bytes are those of a node's operands and results, each once. Flops are those of the mathematics, counted at \
     a node's first launch.",
];

impl Profile {
    /// What was profiled, as in `resnet18, 128 x 128 pixels, 256 images a step, bf16`.
    pub fn subject(&self) -> String {
        let ranks =
            self.exchange.as_ref().map(|exchange| format!(" on each of {} ranks", exchange.num_ranks));
        self.setting.subject() + &ranks.unwrap_or_default()
    }

    /// For what and on what times are told, as in `predicted for h100, measured on cuda:0 (NVIDIA H200)`.
    pub(super) fn times(&self) -> String {
        let predicted = self.gpu.as_ref().map(|gpu| format!("predicted for {}", show_text(&gpu.name)));
        let is_measured = self.launches.iter().any(|launch| launch.measured_seconds.is_some());
        let measured = is_measured.then(|| format!("measured on {}", show_text(&self.setting.device)));
        predicted.into_iter().chain(measured).collect::<Vec<_>>().join(", ")
    }
}

impl Setting {
    pub(super) fn subject(&self) -> String {
        let [model, precision] = [&self.model, &self.precision].map(|name| show_text(name));
        format!("{model}, {0} x {0} pixels, {1} images a step, {precision}", self.img_size, self.batch_size)
    }
}

impl Gpu {
    /// Every constant with its name and unit, but for the GPU's name.
    pub(super) fn facts(&self) -> Vec<(&'static str, String)> {
        vec![
            ("architecture", show_text(&self.arch)),
            ("multiprocessors (SM)", self.num_sms.to_string()),
            ("clock", format!("{} GHz", self.clock_ghz)),
            ("tensor cores", format!("{} flops a clock and SM", self.tensor_flops_per_clock)),
            ("by warp groups", format!("{} flops a clock and SM", self.group_flops_per_clock)),
            ("issue", format!("{} instructions a clock and SM", self.issue_per_clock)),
            ("shared memory", format!("{} bytes a clock and SM", self.shared_bytes_per_clock)),
            ("L2", format!("{} GB/s to all SMs", self.l2_gb_per_s)),
            ("DRAM", format!("{} GB/s", self.dram_gb_per_s)),
            ("size of L2", format!("{} MiB", self.l2_mib)),
            ("round trip to memory", format!("{} clocks", self.latency_clocks)),
            ("gap between launches", format!("{} us", self.launch_gap_us)),
            ("registers", format!("{} an SM", self.registers_per_sm)),
            ("threads", format!("{} an SM", self.threads_per_sm)),
            ("blocks", format!("{} an SM", self.blocks_per_sm)),
            ("shared memory for blocks", format!("{} KiB an SM", self.shared_kib_per_sm)),
        ]
    }

    /// Every constant in one sentence.
    pub(super) fn sentence(&self) -> String {
        let by_groups = match self.has_warp_groups() {
            true => format!(" ({} by warp groups)", self.group_flops_per_clock),
            false => String::new(),
        };
        let speeds = format!(
            "{} multiprocessors (SM) at {} GHz, each {} tensor flops{by_groups}, {} instructions and {} bytes of shared \
             memory a clock",
            self.num_sms,
            self.clock_ghz,
            self.tensor_flops_per_clock,
            self.issue_per_clock,
            self.shared_bytes_per_clock
        );
        let memory = format!(
            "L2 of {} MiB {} GB/s; DRAM {} GB/s; round trip {} clocks; gap between launches {} us",
            self.l2_mib, self.l2_gb_per_s, self.dram_gb_per_s, self.latency_clocks, self.launch_gap_us
        );
        let room = format!(
            "an SM holds {} registers, {} threads, {} blocks and {} KiB of shared memory",
            self.registers_per_sm, self.threads_per_sm, self.blocks_per_sm, self.shared_kib_per_sm
        );
        let [name, arch] = [&self.name, &self.arch].map(|name| show_text(name));
        format!("{name}: {arch}, {speeds}; {memory}; {room}.")
    }

    /// Flops a second of the tensor cores of all multiprocessors. Products in TF32 are none of warp groups', at half the rate.
    pub(super) fn peak_flops(&self, precision: &str) -> f64 {
        let per_clock = match precision {
            "tf32" => self.tensor_flops_per_clock / 2.0,
            _ => self.tensor_flops_per_clock.max(self.group_flops_per_clock),
        };
        per_clock * f64::from(self.num_sms) * self.clock_ghz * 1e9
    }
}

/// Milliseconds: `1.234`
pub fn ms(seconds: f64) -> String {
    format!("{:.3}", 1e3 * seconds)
}

/// Microseconds: `12.3`
pub fn us(seconds: f64) -> String {
    format!("{:.1}", 1e6 * seconds)
}

/// Millions of bytes: `33.55`, `320.0` or `38,251`
pub fn mb(bytes: u64) -> String {
    match bytes as f64 / 1e6 {
        mb if mb < 99.995 => format!("{mb:.2}"),
        mb if mb < 999.95 => format!("{mb:.1}"),
        mb => show_count(mb.round() as usize),
    }
}

/// `5,500` or `296.3 M`
pub fn count(many: u64) -> String {
    if many < 1_000_000 { show_count(many as usize) } else { format!("{:.1} M", many as f64 / 1e6) }
}

/// `12.5 %`
pub fn percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}

/// `a / b` with two decimals, or a dash where there is no ratio.
pub fn ratio(a: f64, b: f64) -> String {
    if b > 0.0 { format!("{:.2}", a / b) } else { NONE.to_string() }
}

/// `value` as `show` writes it, or a dash.
pub fn or_none<T>(value: Option<T>, show: impl FnOnce(T) -> String) -> String {
    value.map_or(NONE.to_string(), show)
}

/// Blocks in each direction, without trailing directions of one: `4096`, `64x36`
pub fn grid(blocks: [u32; 3]) -> String {
    let used = blocks.iter().rposition(|&count| count != 1).map_or(1, |last| last + 1);
    blocks[..used].iter().map(u32::to_string).collect::<Vec<_>>().join("x")
}

/// How much more `new` is than `old`: `+12.50 %`
pub fn grow(old: f64, new: f64) -> String {
    if old > 0.0 { format!("{:+.2} %", 100.0 * (new / old - 1.0)) } else { NONE.to_string() }
}

/// `a, b and 7 more`: at most `most` of `names`.
pub fn list(names: &[&str], most: usize) -> String {
    let shown = names[..names.len().min(most)].join(", ");
    match names.len().saturating_sub(most) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

/// `text` as it begins a line.
pub fn capitalised(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or(String::new(), |first| first.to_uppercase().chain(letters).collect())
}
