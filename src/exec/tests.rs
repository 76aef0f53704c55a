use super::*;
use crate::device::{Record, RecordList};
use crate::graph::Graph;
use crate::ops::fill;
use crate::plan::plan;

/// Memory without kernels; readback is handed over as late as can be.
struct LateDevice {
    memory: Vec<u8>,
    pending: Vec<u8>,
}

impl KernelDevice for LateDevice {
    fn kind(&self) -> DeviceKind {
        DeviceKind::Cuda
    }

    fn allocate(&mut self, num_bytes: usize) -> Result<u64> {
        self.memory = vec![0; num_bytes];
        Ok(64)
    }

    fn upload(&mut self, offset_bytes: usize, bytes: &[u8]) -> Result<()> {
        self.memory[offset_bytes..][..bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    fn download(&self, offset_bytes: usize, bytes: &mut [u8]) -> Result<()> {
        bytes.copy_from_slice(&self.memory[offset_bytes..][..bytes.len()]);
        Ok(())
    }

    fn enqueue_readback(&mut self, offset_bytes: usize, num_bytes: usize, _: &mut Vec<u8>) -> Result<()> {
        self.pending.extend_from_slice(&self.memory[offset_bytes..][..num_bytes]);
        Ok(())
    }

    fn finish_readback(&mut self, readback: &mut Vec<u8>) -> Result<()> {
        readback.append(&mut self.pending);
        Ok(())
    }

    fn run(&mut self, _: (usize, usize, usize), _: Record<'_>) -> Result<()> {
        Ok(())
    }

    fn take_busy_time(&mut self) -> Result<Duration> {
        Ok(Duration::ZERO)
    }

    /// List `i` takes i + 1 microseconds.
    fn run_timed(&mut self, _: RecordList<'_>, times: &mut [Duration]) -> Result<()> {
        times.iter_mut().zip(1..).for_each(|(time, us)| *time += Duration::from_micros(us));
        Ok(())
    }
}

#[test]
fn times_of_a_kernel_device_are_its_own_and_those_of_the_step_alone() {
    let mut graph = Graph::new(DType::F32);
    for value in [0.5, 2.0] {
        fill(&mut graph, &format!("filled.{value}"), [2], value).unwrap();
    }
    let program = plan(&[&graph, &graph], DeviceKind::Cuda).unwrap();
    let late = LateDevice { memory: Vec::new(), pending: Vec::new() };
    let mut session = Session::on(program, Box::new(late), Start::Zeros).unwrap();
    let us = Duration::from_micros;
    let mut times = [us(100), us(0)];
    session.run_timed(0, &mut times).unwrap();
    assert_eq!(times, [us(101), us(2)]);
    let mut times = [us(0); 3];
    session.time_step(0, 1, 1, &mut times).unwrap();
    assert_eq!(times, [us(2), us(4), us(6)], "every second list is the step");
}

#[test]
fn readback_holds_what_was_there_when_it_was_enqueued_and_is_taken_once() {
    let mut graph = Graph::new(DType::F32);
    let (loss, hits) = (graph.input("loss", [], DType::F32), graph.input("hits", [3], DType::I32));
    let filled = fill(&mut graph, "filled", [2], 0.5).unwrap();
    [loss, hits, filled].into_iter().for_each(|id| graph.keep(id));
    let late = LateDevice { memory: Vec::new(), pending: Vec::new() };
    let program = plan(&[&graph], DeviceKind::Cuda).unwrap();
    let on_cpu = Session::new(plan(&[&graph], DeviceKind::Cpu).unwrap()).unwrap();
    for mut session in [on_cpu, Session::on(program, Box::new(late), Start::Zeros).unwrap()] {
        let [loss, hits] = ["loss", "hits"].map(|name| session.plan(0).slot(name).unwrap());
        for step in 0..3 {
            session.write(&loss, &[step as f32 + 0.25]).unwrap();
            session.write(&hits, &[step, 2 * step, 7]).unwrap();
            session.enqueue_readback(&loss).unwrap();
            session.enqueue_readback(&hits).unwrap();
        }
        let readback = session.take_readback(bytemuck::pod_collect_to_vec::<u8, [i32; 4]>).unwrap();
        let expected = [0, 1, 2].map(|step| [(step as f32 + 0.25).to_bits() as i32, step, 2 * step, 7]);
        assert_eq!(readback, expected, "{:?}", session.device());
        assert_eq!(session.take_readback(<[u8]>::len).unwrap(), 0);
        // What one has enqueued stays while another takes its own.
        session.enqueue_readback(&loss).unwrap();
        let before = session.readback_bytes();
        session.enqueue_readback(&hits).unwrap();
        let later = session.take_readback_after(before, bytemuck::pod_collect_to_vec::<u8, i32>).unwrap();
        assert_eq!((before, later), (4, vec![2, 4, 7]));
        assert_eq!(session.take_readback(<[u8]>::to_vec).unwrap(), 2.25_f32.to_ne_bytes());
    }
}
