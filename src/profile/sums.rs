//! Sums over the launches of a step: all of them, and by operation, kernel, layer and node.

use std::collections::{BTreeMap, BTreeSet};

use super::{GpuLaunch, Launch, Profile, Totals, Unit, UnitSeconds};

/// What launches of one kind come to.
#[derive(Debug, Clone, PartialEq)]
pub struct Sum {
    /// What they have in common.
    pub name: String,
    /// Number of launches.
    pub launches: usize,
    /// Floating-point operations.
    pub flops: u64,
    /// Bytes of the operands and results of their nodes, each once.
    pub compulsory_bytes: u64,
    /// Bytes from L2 to the multiprocessors.
    pub l2_bytes: u64,
    /// Bytes from and to DRAM, modelled.
    pub dram_bytes: u64,
    /// Phases of shared memory beyond those that the bytes alone need.
    pub bank_conflicts: u64,
    /// Seconds, predicted; 0 where nothing is.
    pub predicted_seconds: f64,
    /// Of the predicted seconds, those of the launches that each unit bounds.
    pub bound_seconds: [(Unit, f64); 6],
    /// Seconds, measured; none if those of one launch are not.
    pub measured_seconds: Option<f64>,
    /// Seconds at the ceilings of the device; none if those of one launch are not known.
    pub ceiling_seconds: Option<f64>,
    /// Share of the seconds of the step, in 0..=1; measured ones if the whole step was measured.
    pub share: f64,
}

impl Sum {
    fn new(name: &str) -> Sum {
        Sum {
            name: name.to_string(),
            launches: 0,
            flops: 0,
            compulsory_bytes: 0,
            l2_bytes: 0,
            dram_bytes: 0,
            bank_conflicts: 0,
            predicted_seconds: 0.0,
            bound_seconds: UnitSeconds::default().all(),
            measured_seconds: Some(0.0),
            ceiling_seconds: Some(0.0),
            share: 0.0,
        }
    }

    // A profile that was read may hold any numbers; sums of them stop at the largest.
    fn add(&mut self, launch: &Launch) {
        let add = |sum: &mut u64, more: u64| *sum = sum.saturating_add(more);
        self.launches += 1;
        add(&mut self.flops, launch.flops);
        add(&mut self.compulsory_bytes, launch.compulsory_bytes);
        self.measured_seconds =
            self.measured_seconds.zip(launch.measured_seconds).map(|(sum, more)| sum + more);
        self.ceiling_seconds = self.ceiling_seconds.zip(launch.ceiling_seconds).map(|(sum, more)| sum + more);
        let Some(gpu) = &launch.gpu else { return };
        add(&mut self.l2_bytes, gpu.counts.l2_bytes);
        add(&mut self.dram_bytes, gpu.dram_bytes);
        add(&mut self.bank_conflicts, gpu.counts.bank_conflicts());
        self.predicted_seconds += gpu.predicted_seconds;
        for (unit, seconds) in &mut self.bound_seconds {
            *seconds += if *unit == gpu.bound { gpu.predicted_seconds } else { 0.0 };
        }
    }

    /// Seconds, measured where they are, else predicted.
    pub fn seconds(&self) -> f64 {
        self.measured_seconds.unwrap_or(self.predicted_seconds)
    }

    /// The share of its ceiling that was reached: seconds at the ceilings of the device over seconds measured. More than 1 where
    /// a cache holds operands; none where either is not known or there is nothing to reach.
    pub fn of_ceiling(&self) -> Option<f64> {
        of_ceiling(self.ceiling_seconds, self.measured_seconds)
    }

    /// The unit that bounds most of the predicted seconds.
    pub fn bound(&self) -> Unit {
        Unit::longest(self.bound_seconds)
    }
}

impl Totals {
    /// The sums over `launches`, which are those of a step of `batch_size` images.
    pub fn of(launches: &[Launch], batch_size: usize) -> Totals {
        let mut sum = Sum::new("");
        launches.iter().for_each(|launch| sum.add(launch));
        let seconds = sum.predicted_seconds;
        Totals {
            launches: sum.launches,
            flops: sum.flops,
            dram_bytes: sum.dram_bytes,
            l2_bytes: sum.l2_bytes,
            bank_conflicts: sum.bank_conflicts,
            predicted_seconds: seconds,
            predicted_images_per_second: if seconds > 0.0 { batch_size as f64 / seconds } else { 0.0 },
            measured_seconds: sum.measured_seconds.filter(|_| !launches.is_empty()),
        }
    }
}

impl Launch {
    /// What the kernel computes, without the variant that its symbol ends in: `conv2d_fprop` for
    /// `conv2d_fprop_tile64x64_bf16`, `max_pool_fwd` for `max_pool_fwd_3x3_f32`. The operation where no kernel runs.
    pub fn kernel_family(&self) -> &str {
        let Some(gpu) = &self.gpu else { return &self.operation };
        // A variant begins with the first part that has a digit; `conv2d` is no variant.
        let mut starts = gpu.kernel.match_indices('_').map(|(at, _)| at);
        let is_variant = |at: usize| {
            gpu.kernel[at + 1..]
                .split('_')
                .next()
                .is_some_and(|part| part.contains(|c: char| c.is_ascii_digit()))
        };
        starts.find(|&at| is_variant(at)).map_or(&gpu.kernel, |at| &gpu.kernel[..at])
    }
}

impl Launch {
    /// As [`Sum::of_ceiling`].
    pub fn of_ceiling(&self) -> Option<f64> {
        of_ceiling(self.ceiling_seconds, self.measured_seconds)
    }
}

fn of_ceiling(ceiling_seconds: Option<f64>, measured_seconds: Option<f64>) -> Option<f64> {
    let (ceiling, measured) = ceiling_seconds.zip(measured_seconds)?;
    (ceiling > 0.0 && measured > 0.0).then(|| ceiling / measured)
}

impl GpuLaunch {
    /// The part of the innermost loop's instructions that are products on the tensor cores, where they were counted.
    pub fn tensor_share(&self) -> Option<f64> {
        let (tensor, all) = self.loop_tensor_instructions.zip(self.loop_instructions)?;
        (all > 0).then(|| f64::from(tensor) / f64::from(all))
    }
}

impl Profile {
    /// The seconds of `launch` that its share of the step is reckoned by: measured ones if the whole step was measured.
    pub fn seconds_of(&self, launch: &Launch) -> f64 {
        let predicted = launch.gpu.as_ref().map_or(0.0, |gpu| gpu.predicted_seconds);
        launch.measured_seconds.filter(|_| self.totals.measured_seconds.is_some()).unwrap_or(predicted)
    }

    /// Seconds of a step: measured if the whole step was, else predicted.
    pub fn seconds(&self) -> f64 {
        self.totals.measured_seconds.unwrap_or(self.totals.predicted_seconds)
    }

    /// Images per second, as measured on the whole step.
    pub fn measured_images_per_second(&self) -> Option<f64> {
        let seconds = self.totals.measured_seconds.filter(|seconds| *seconds > 0.0)?;
        Some(self.setting.batch_size as f64 / seconds)
    }

    /// The launches, the slowest first.
    pub fn by_time(&self) -> Vec<&Launch> {
        let mut launches: Vec<&Launch> = self.launches.iter().collect();
        launches.sort_by(|a, b| self.seconds_of(b).total_cmp(&self.seconds_of(a)));
        launches
    }

    /// Sums by operation, the longest first.
    pub fn by_operation(&self) -> Vec<Sum> {
        self.slowest_first(|launch| &launch.operation)
    }

    /// Sums by what kernels compute ([`Launch::kernel_family`]), the longest first.
    pub fn by_kernel(&self) -> Vec<Sum> {
        self.slowest_first(Launch::kernel_family)
    }

    /// Sums by layer in the order of the step: a node of the forward pass with its gradients and what prepares its operands.
    pub fn by_layer(&self) -> Vec<Sum> {
        let layers = self.layers();
        self.sums(|launch| layers.of(&launch.layer))
    }

    /// Sums by node of the graph in the order of the step.
    pub fn by_node(&self) -> Vec<Sum> {
        self.sums(|launch| &launch.layer)
    }

    /// To which layer each node belongs.
    pub fn layers(&self) -> Layers<'_> {
        let forward = self.launches.iter().filter(|launch| launch.phase == "forward");
        Layers { forward: forward.map(|launch| launch.layer.as_str()).collect() }
    }

    fn slowest_first<'a>(&'a self, key: impl Fn(&'a Launch) -> &'a str) -> Vec<Sum> {
        let mut sums = self.sums(key);
        sums.sort_by(|a, b| b.share.total_cmp(&a.share));
        sums
    }

    /// Sums of the launches with equal keys, in the order in which keys first occur.
    fn sums<'a>(&'a self, key: impl Fn(&'a Launch) -> &'a str) -> Vec<Sum> {
        let mut sums: Vec<Sum> = Vec::new();
        let mut index_of = BTreeMap::new();
        for launch in &self.launches {
            let key = key(launch);
            let index = *index_of.entry(key).or_insert(sums.len());
            if index == sums.len() {
                sums.push(Sum::new(key));
            }
            sums[index].add(launch);
            sums[index].share += self.seconds_of(launch);
        }
        let seconds = self.seconds();
        for sum in &mut sums {
            sum.share = if seconds > 0.0 { sum.share / seconds } else { 0.0 };
        }
        sums
    }
}

/// To which layer each node of a step belongs: the node of the forward pass whose name its own begins with.
#[derive(Debug, Clone)]
pub struct Layers<'a> {
    forward: BTreeSet<&'a str>,
}

impl Layers<'_> {
    /// `layer1.0.conv1` for `layer1.0.conv1.wgrad`, `conv1` for `conv1.weight.blocks`; the node itself where it belongs to
    /// none, as the update of the parameters does.
    pub fn of<'n>(&self, node: &'n str) -> &'n str {
        let ends = node.match_indices('.').map(|(at, _)| at).chain([node.len()]);
        ends.map(|end| &node[..end]).find(|name| self.forward.contains(name)).unwrap_or(node)
    }
}
