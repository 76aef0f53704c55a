//! Every operation against the numbers that PyTorch computed for it in f64 (`golden/ops.py`), in f32 and in f64.

#[path = "common/runner.rs"]
mod runner;

use std::fs;
use std::path::Path;

use residuum::check::Recording;
use residuum::device::cpu::Real;
use residuum::error::Result;
use residuum::graph::{Graph, Init, Phase, ValueId};
use residuum::ops::{
    self, AdamConfig, AddBias, BatchNormInference, BatchNormTrain, Conv2dFprop, LinearFprop, PoolWindow,
    SgdConfig, Window,
};
use residuum::step::{Optimiser, hyper_parameters};
use residuum::tensor::{DType, Layout, Shape, Tensor};
use runner::Runner;
use safetensors::SafeTensors;
use serde_json::Value as Json;

/// PyTorch's results were rounded to f32, which is off by at most 2^-24 of them.
const TOLERANCE_F64: f64 = 1e-7;
/// A few roundings of f32 more.
const TOLERANCE_F32: f64 = 1e-6;

struct Case<'a> {
    name: &'a str,
    attributes: &'a Json,
    file: &'a SafeTensors<'a>,
}

impl Case<'_> {
    fn bytes(&self, tensor: &str) -> (Shape, Vec<[u8; 4]>) {
        let view = self.file.tensor(&format!("{}/{tensor}", self.name)).unwrap();
        (Shape::new(view.shape()), view.data().as_chunks().0.to_vec())
    }

    fn tensor(&self, tensor: &str) -> Tensor {
        let (shape, bytes) = self.bytes(tensor);
        Tensor::new(shape, bytes.into_iter().map(f32::from_le_bytes).collect())
    }

    fn labels(&self) -> Vec<i32> {
        self.bytes("labels").1.into_iter().map(i32::from_le_bytes).collect()
    }

    fn number(&self, attribute: &str) -> f32 {
        self.attributes[attribute].as_f64().unwrap() as f32
    }

    fn count(&self, attribute: &str) -> usize {
        self.attributes[attribute].as_u64().unwrap() as usize
    }

    /// Compares the value called `value` with `tensor`: errors are measured by the largest element.
    fn compare<T: Real>(&self, runner: &Runner, value: &str, tensor: &str) {
        let tolerance = if T::DTYPE == DType::F64 { TOLERANCE_F64 } else { TOLERANCE_F32 };
        let expected = self.tensor(tensor);
        let scale = expected.data().iter().fold(0.0f64, |most, v| most.max(f64::from(v.abs())));
        let got = runner.read::<T>(value);
        assert_eq!(got.len(), expected.data().len(), "{} {tensor}", self.name);
        for (i, (got, &expected)) in got.iter().zip(expected.data()).enumerate() {
            let error = (got.to_f64() - f64::from(expected)).abs() / scale;
            assert!(
                error <= tolerance,
                "{} {tensor}[{i}] in {}: {} for {expected}, off by {error:.1e} of the largest",
                self.name,
                T::DTYPE,
                got.to_f64()
            );
        }
    }

    /// Records an operation on the differentiable operands called `names`, and compares result and gradients. `extra` are
    /// further tensors: values that the graph kept, or state that the run changed.
    fn differentiable<T: Real>(
        &self,
        names: &[&str],
        build: impl FnOnce(&mut Graph, &[ValueId]) -> Result<ValueId>,
        state: &[&str],
        extra: &[(&str, &str)],
    ) {
        let operands: Vec<(&str, Shape, DType)> =
            names.iter().map(|name| (*name, self.tensor(name).shape(), T::DTYPE)).collect();
        let recording = Recording::new(T::DTYPE, &operands, build).unwrap();
        let mut runner = Runner::new(&recording.graph);
        for name in names.iter().chain(state).chain(&["dy"]) {
            runner.write_real::<T>(name, self.tensor(name).data());
        }
        if self.attributes.get("ignore_label").is_some() {
            runner.write("labels", &self.labels());
        }
        runner.run();
        self.compare::<T>(&runner, &recording.results[0], "y");
        for (name, gradient) in recording.differentiated.iter().zip(&recording.results[1..]) {
            self.compare::<T>(&runner, gradient, &format!("d{name}"));
        }
        extra.iter().for_each(|(value, tensor)| self.compare::<T>(&runner, value, tensor));
    }

    fn batch_norm<T: Real>(&self) {
        let training = self.attributes["training"].as_bool().unwrap();
        let (eps, bn_momentum) = (self.number("eps"), self.number("bn_momentum"));
        let (relu, residual) = (false, false);
        let build = |graph: &mut Graph, x: &[ValueId]| {
            let channels = graph.shape(x[1]);
            let mean = graph.state("running_mean", channels, Layout::Flat, Init::Constant(0.0));
            let var = graph.state("running_var", channels, Layout::Flat, Init::Constant(1.0));
            let operands = [x[0], x[1], x[2], mean, var];
            if !training {
                return graph.apply_one("bn", BatchNormInference { eps, relu, residual }, &operands);
            }
            let op = BatchNormTrain { eps, bn_momentum, relu, residual };
            let outputs = graph.apply("bn", op, &operands)?;
            outputs.iter().for_each(|&id| graph.keep(id));
            Ok(outputs[0])
        };
        let after: &[(&str, &str)] = &[
            ("running_mean", "running_mean_after"),
            ("running_var", "running_var_after"),
            ("bn.save_mean", "save_mean"),
            ("bn.save_rstd", "save_rstd"),
        ];
        let after = if training { after } else { &[] };
        self.differentiable::<T>(&["x", "gamma", "beta"], build, &["running_mean", "running_var"], after);
    }

    fn cross_entropy<T: Real>(&self) {
        let smoothing = self.number("label_smoothing");
        let build = |graph: &mut Graph, x: &[ValueId]| {
            let rows = graph.shape(x[0]).dims()[0];
            let labels = graph.input("labels", [rows], DType::I32);
            Ok(ops::softmax_xent(graph, "loss", x[0], labels, smoothing)?.loss)
        };
        self.differentiable::<T>(&["logits"], build, &[], &[]);
    }

    /// Steps of an optimiser: weights after each step, and the state in `states` after the last.
    fn optimiser<T: Real>(
        &self,
        states: &[&str],
        record: impl FnOnce(&mut Graph, &[ValueId]) -> Result<Vec<ValueId>>,
        optimiser: Optimiser,
    ) {
        let shape = self.tensor("w0").shape();
        let mut graph = Graph::new(T::DTYPE);
        graph.set_phase(Phase::Update);
        let mut operands = vec![graph.input("hyper", [4], T::DTYPE), graph.input("grad_scale", [], T::DTYPE)];
        operands.push(graph.parameter("w", shape, Layout::Flat, Init::Constant(0.0)));
        operands.push(graph.input("grad", shape, T::DTYPE));
        let state = |name: &&str| graph.state(name, shape, Layout::Flat, Init::Constant(0.0));
        operands.extend(states.iter().map(state).collect::<Vec<_>>());
        record(&mut graph, &operands).unwrap();
        let mut runner = Runner::new(&graph);
        runner.write_real::<T>("w", self.tensor("w0").data());
        for step in 1..=self.count("steps") {
            let hyper = hyper_parameters(&optimiser, f64::from(self.number("lr")), step as u64);
            runner.write_real::<T>("hyper", &hyper);
            runner.write_real::<T>("grad_scale", &[1.0]);
            runner.write_real::<T>("grad", self.tensor(&format!("g{step}")).data());
            runner.run();
            self.compare::<T>(&runner, "w", &format!("w{step}"));
        }
        for state in states {
            // PyTorch keeps no velocity where there is no momentum.
            if self.file.names().iter().any(|name| **name == format!("{}/{state}", self.name)) {
                self.compare::<T>(&runner, state, state);
            }
        }
    }

    fn sgd<T: Real>(&self) {
        let config = SgdConfig {
            momentum: self.number("momentum"),
            nesterov: self.attributes["nesterov"].as_bool().unwrap(),
            weight_decay: self.number("weight_decay"),
        };
        let record = |graph: &mut Graph, x: &[ValueId]| graph.apply("sgd", ops::Sgd::new(config, 1), x);
        self.optimiser::<T>(&["momentum"], record, Optimiser::Sgd(config));
    }

    fn adam<T: Real>(&self, decoupled: bool) {
        let beta = |i: usize| self.attributes["betas"][i].as_f64().unwrap();
        let config = AdamConfig {
            beta1: beta(0),
            beta2: beta(1),
            eps: self.number("eps"),
            weight_decay: self.number("weight_decay"),
            decoupled,
        };
        let record = |graph: &mut Graph, x: &[ValueId]| graph.apply("adam", ops::Adam::new(config, 1), x);
        self.optimiser::<T>(&["m", "v"], record, Optimiser::Adam(config));
    }

    fn ema<T: Real>(&self) {
        let shape = self.tensor("ema0").shape();
        let mut graph = Graph::new(T::DTYPE);
        graph.set_phase(Phase::Update);
        let average = graph.state("average", shape, Layout::Flat, Init::Constant(0.0));
        let w = graph.parameter("w", shape, Layout::Flat, Init::Constant(0.0));
        graph.apply("ema", ops::Ema::new(self.number("decay"), 1), &[average, w]).unwrap();
        let mut runner = Runner::new(&graph);
        runner.write_real::<T>("average", self.tensor("ema0").data());
        for step in 1..=self.count("steps") {
            runner.write_real::<T>("w", self.tensor(&format!("w{step}")).data());
            runner.run();
            self.compare::<T>(&runner, "average", &format!("ema{step}"));
        }
    }

    /// The operation gives the factor that the optimiser applies; PyTorch's clipped gradients are compared with it.
    fn clip_grad_norm<T: Real>(&self) {
        let count = self.count("tensors");
        let names: Vec<String> = (0..count).map(|i| format!("g{i}")).collect();
        let mut graph = Graph::new(T::DTYPE);
        let grads: Vec<ValueId> =
            names.iter().map(|name| graph.input(name, self.tensor(name).shape(), T::DTYPE)).collect();
        let op = ops::ClipNorm::new(self.number("max_norm"), count);
        let outputs = graph.apply("clip", op, &grads).unwrap();
        outputs.iter().for_each(|&id| graph.keep(id));
        let mut runner = Runner::new(&graph);
        for name in &names {
            runner.write_real::<T>(name, self.tensor(name).data());
        }
        runner.run();
        self.compare::<T>(&runner, "clip.norm", "total_norm");
        let scale = runner.read::<T>("clip")[0].to_f64();
        for (i, name) in names.iter().enumerate() {
            let clipped = self.tensor(&format!("clipped{i}"));
            for (grad, expected) in self.tensor(name).data().iter().zip(clipped.data()) {
                let error = (scale * f64::from(*grad) - f64::from(*expected)).abs();
                assert!(error <= TOLERANCE_F32, "{} {name}: {grad} * {scale} for {expected}", self.name);
            }
        }
    }

    /// Runs the case in the type `T`.
    fn check<T: Real>(&self) {
        let op = self.attributes["op"].as_str().unwrap();
        match op {
            "conv2d" => {
                let [stride_h, stride_w] = ["stride_h", "stride_w"].map(|name| self.count(name));
                let [pad_h, pad_w] = ["pad_h", "pad_w"].map(|name| self.count(name));
                let op =
                    Conv2dFprop { window: Window { stride_h, stride_w, pad_h, pad_w, allow_tf32: false } };
                self.differentiable::<T>(&["x", "w"], |g, x| g.apply_one("y", op, x), &[], &[]);
            }
            "linear" => {
                self.differentiable::<T>(&["x", "w", "b"], |g, x| g.apply_one("y", LinearFprop, x), &[], &[]);
            }
            "batch_norm" => self.batch_norm::<T>(),
            "relu" => self.differentiable::<T>(&["x"], |g, x| ops::relu(g, "y", x[0]), &[], &[]),
            "add_bias" => {
                self.differentiable::<T>(&["x", "b"], |g, x| g.apply_one("y", AddBias, x), &[], &[]);
            }
            "flatten" => self.differentiable::<T>(&["x"], |g, x| ops::flatten(g, "y", x[0]), &[], &[]),
            "adaptive_avg_pool" => {
                let out = ["out_h", "out_w"].map(|name| self.count(name));
                let build = |g: &mut Graph, x: &[ValueId]| ops::adaptive_avg_pool(g, "y", x[0], out);
                self.differentiable::<T>(&["x"], build, &[], &[]);
            }
            "add" => self.differentiable::<T>(&["a", "b"], |g, x| ops::add(g, "y", x[0], x[1]), &[], &[]),
            "concat" => {
                let names = &["x0", "x1", "x2"][..self.count("inputs")];
                self.differentiable::<T>(names, |g, x| ops::concat(g, "y", x), &[], &[]);
            }
            "max_pool" => {
                let window =
                    PoolWindow::square(self.count("kernel"), self.count("stride"), self.count("pad"));
                self.differentiable::<T>(&["x"], |g, x| ops::max_pool(g, "y", x[0], window), &[], &[]);
            }
            "global_avg_pool" => {
                self.differentiable::<T>(&["x"], |g, x| ops::global_avg_pool(g, "y", x[0]), &[], &[]);
            }
            "mean" => self.differentiable::<T>(&["x"], |g, x| ops::mean(g, "y", x[0]), &[], &[]),
            "sum" => self.differentiable::<T>(&["x"], |g, x| ops::sum(g, "y", x[0]), &[], &[]),
            "softmax_cross_entropy" => self.cross_entropy::<T>(),
            "sgd" => self.sgd::<T>(),
            "adam" => self.adam::<T>(false),
            "adamw" => self.adam::<T>(true),
            "ema" => self.ema::<T>(),
            "clip_grad_norm" => self.clip_grad_norm::<T>(),
            other => panic!("{}: no test for {other}", self.name),
        }
    }
}

#[test]
fn every_operation_agrees_with_pytorch() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let cases: Json = serde_json::from_slice(&fs::read(folder.join("ops.json")).unwrap()).unwrap();
    let bytes = fs::read(folder.join("ops.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    for (name, attributes) in cases.as_object().unwrap() {
        let case = Case { name, attributes, file: &file };
        case.check::<f32>();
        case.check::<f64>();
    }
}
