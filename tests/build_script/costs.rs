//! What operations say they cost, `Op::cost`, is what the headers of the kernels they launch say, `// Cost`.
//!
//! A header names members of the argument struct: `2*n flop per element of x; DRAM floor = bytes(x) + 4 bytes per element
//! of y`. Here every operation launches into a recorder, which finds in the arguments which operand or result each
//! pointer means. What no header names (scalars, vectors of channels, labels) counts once, and again if it is changed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use residuum::device::{DeviceKind, Kernel, LaunchArgs, Launcher, Slot};
use residuum::graph::{Cost, Graph, Node, ValueType};
use residuum::tensor::DType;

use crate::declared::{Declared, Type};
use crate::source::KernelFile;

const ARENA: u64 = 1 << 40;

/// A launch: the kernel's file and the bytes of its arguments.
#[derive(Default)]
struct Recorder(Vec<(&'static Kernel, Vec<u8>)>);

impl Launcher for Recorder {
    fn has_warp_groups(&self) -> bool {
        false
    }

    fn launch(
        &mut self,
        kernel: &'static Kernel,
        _: [u32; 3],
        _: [u32; 3],
        _: u32,
        arguments: &[u8],
    ) -> residuum::Result<()> {
        self.0.push((kernel, arguments.to_vec()));
        Ok(())
    }
}

/// The members of an argument struct, those of its parts included.
struct Arguments<'a> {
    slots: &'a [Slot],
    numbers: BTreeMap<String, u64>,
    /// By pointer, and for a table of tensors by its name, the operands and results it leads to.
    reached: BTreeMap<String, Vec<usize>>,
    /// Elements of each group of a table of tensors.
    table_elems: u64,
}

impl<'a> Arguments<'a> {
    fn read(declared: &Declared, args: &str, bytes: &[u8], slots: &'a [Slot]) -> Arguments<'a> {
        let mut read =
            Arguments { slots, numbers: BTreeMap::new(), reached: BTreeMap::new(), table_elems: 0 };
        read.add(declared, args, bytes);
        read
    }

    fn add(&mut self, declared: &Declared, name: &str, bytes: &[u8]) {
        let base = name.split('<').next().unwrap();
        let parsed = declared.structs.iter().find(|parsed| parsed.name == base).unwrap();
        let layout = declared.layout(name).unwrap();
        for (member, place) in parsed.members.iter().zip(&layout.members) {
            let bytes = &bytes[place.offset_bytes..][..place.num_bytes];
            match &member.ty {
                Type::Struct(part, Some(arity)) => {
                    let words: Vec<u32> = bytemuck::pod_collect_to_vec(bytes);
                    self.add_table(&member.name, &words, *arity);
                    assert_eq!(part, "TensorTable");
                }
                Type::Struct(part, None) => self.add(declared, part, bytes),
                Type::Pointer => {
                    let address = u64::from_le_bytes(bytes.try_into().unwrap());
                    self.reached.insert(member.name.clone(), self.at(address).into_iter().collect());
                }
                Type::Number { rust: "u32" | "i32", .. } if bytes.len() == 4 => {
                    let value = u32::from_le_bytes(bytes.try_into().unwrap());
                    self.numbers.insert(member.name.clone(), value.into());
                }
                Type::Number { rust: "u64", .. } => {
                    self.numbers.insert(member.name.clone(), u64::from_le_bytes(bytes.try_into().unwrap()));
                }
                Type::Number { .. } => {}
            }
        }
    }

    fn add_table(&mut self, name: &str, words: &[u32], arity: usize) {
        use residuum::device::kernels::multi_tensor::{MAX_TENSORS, PLACE_BYTES};
        let columns = &words[2..];
        for tensor in 0..words[0] as usize {
            self.table_elems += u64::from(columns[MAX_TENSORS + tensor]);
            for member in 0..arity {
                let place = columns[(2 + member) * MAX_TENSORS + tensor] as usize * PLACE_BYTES;
                // None for an operand without elements.
                let slot = self.at(ARENA + place as u64);
                self.reached.entry(name.to_string()).or_default().extend(slot);
            }
        }
    }

    /// The operand or result at `address`; none for null and for the workspace.
    fn at(&self, address: u64) -> Option<usize> {
        self.slots
            .iter()
            .position(|slot| ARENA + slot.offset_bytes as u64 == address && slot.shape.num_elems() > 0)
    }

    fn bytes(&self, member: &str) -> u64 {
        self.reached.get(member).into_iter().flatten().map(|&slot| self.slots[slot].num_bytes() as u64).sum()
    }

    fn elems(&self, member: &str) -> u64 {
        if self.table_elems > 0 {
            assert_eq!(member, "tensors");
            return self.table_elems;
        }
        let slots = self.reached.get(member).into_iter().flatten();
        slots.map(|&slot| self.slots[slot].shape.num_elems() as u64).sum()
    }

    /// `3*4` or `2*n`, as numbers and members; none if this struct has no such member.
    fn product(&self, text: &str) -> Option<u64> {
        let factor = |word: &str| word.parse().ok().or_else(|| self.numbers.get(word).copied());
        text.split('*').map(|word| factor(word.trim())).product()
    }
}

/// The sentence behind `// Cost` in a header, up to its end.
fn cost_line(text: &str) -> String {
    let mut lines = text.lines().skip_while(|line| !line.starts_with("// Cost "));
    let first = lines.next().expect("every header has a cost")["// Cost".len()..].trim();
    let rest = lines.map_while(|line| line.strip_prefix("//           ").map(str::trim));
    let whole = [first].into_iter().chain(rest).collect::<Vec<_>>().join(" ");
    whole.split(". ").next().unwrap().to_string()
}

/// What `line` says of one launch, none where it is not of the form above; the operands and results it names are added
/// to `named`.
fn cost_of_launch(line: &str, args: &Arguments<'_>, named: &mut BTreeSet<usize>) -> Option<Cost> {
    let (flops, floor) = line.split_once("; DRAM floor = ")?;
    let mut cost = Cost::default();
    for term in flops.split(", ").filter(|term| *term != "no flop") {
        let (factor, member) = term.split_once(" flop per element of ")?;
        let elems = args.elems(member);
        // Of the kernels of a file, those have the work that have the member.
        cost.flops += if elems == 0 { 0 } else { args.product(factor)? * elems };
    }
    let mut name = |member: &str| named.extend(args.reached.get(member).into_iter().flatten());
    let of = |text: &str| Some(text.strip_prefix("bytes(")?.strip_suffix(')')?.to_string());
    for term in floor.split(" + ") {
        if let Some(member) = of(term) {
            cost.bytes += args.bytes(&member);
            name(&member);
        } else if let Some(pair) = term.strip_prefix("2 * min(") {
            let (a, b) = pair.strip_suffix(')')?.split_once(", ")?;
            let [a, b] = [of(a)?, of(b)?];
            cost.bytes += 2 * args.bytes(&a).min(args.bytes(&b));
            [a, b].iter().for_each(|member| name(member));
        } else {
            let (bytes, member) = term.split_once(" per element of ")?;
            let (factor, rest) = bytes.split_once(" byte")?;
            cost.bytes += args.product(factor)? * args.elems(member);
            name(rest.trim_start_matches('s').strip_prefix(" of ").unwrap_or(member));
        }
    }
    Some(cost)
}

/// What the headers of the kernels that `node` launches say. Nothing where CUDA cores need a pass of its own for what tensor
/// cores take along: such an operation costs what it costs on tensor cores.
fn cost_by_headers(graph: &Graph, node: &Node, files: &BTreeMap<String, KernelFile>) -> Option<Cost> {
    let types = |ids: &[_]| ids.iter().map(|&id| graph.value(id).ty).collect::<Vec<ValueType>>();
    let (inputs, outputs) = (types(&node.inputs), types(&node.outputs));
    let mut end_bytes = 0;
    let mut slot = |shape, dtype: DType| {
        let slot = Slot { offset_bytes: end_bytes, shape, dtype };
        end_bytes = (end_bytes + slot.num_bytes() + 1).next_multiple_of(64);
        slot
    };
    let slots: Vec<Slot> = inputs.iter().chain(&outputs).map(|ty| slot(ty.shape, ty.dtype)).collect();
    let workspace_bytes = node.op.workspace_bytes(DeviceKind::Cuda, &inputs, &outputs);
    let args = LaunchArgs {
        arena_address: ARENA,
        inputs: &slots[..inputs.len()],
        outputs: &slots[inputs.len()..],
        workspace: slot([workspace_bytes].into(), DType::U8),
    };
    let mut recorder = Recorder::default();
    node.op.launch(&args, &mut recorder).unwrap();
    let launches = |part: &str| recorder.0.iter().any(|(kernel, _)| kernel.name.contains(part));
    if launches("conv2d") && launches("batch_norm_partials") | launches("batch_norm_bwd_partials") {
        return None;
    }

    let (mut cost, mut named) = (Cost::default(), BTreeSet::new());
    for (kernel, bytes) in &recorder.0 {
        let file = &files[kernel.file];
        let entry = file.entries.iter().find(|entry| entry.name == kernel.name).unwrap();
        let read = Arguments::read(&file.declared, &entry.args, bytes, &slots);
        let line = cost_line(&file.text_with_headers);
        let of_launch = cost_of_launch(&line, &read, &mut named).unwrap_or_else(|| {
            panic!("{}: Cost `{line}`: write `2*n flop per element of x; DRAM floor = bytes(x)`", kernel.file)
        });
        cost = Cost { flops: cost.flops + of_launch.flops, bytes: cost.bytes + of_launch.bytes };
    }
    for (position, slot) in slots.iter().enumerate().filter(|(position, _)| !named.contains(position)) {
        let times = 1 + u64::from(node.op.mutates().contains(&position));
        cost.bytes += times * slot.num_bytes() as u64;
    }
    Some(cost)
}

fn kernel_files() -> BTreeMap<String, KernelFile> {
    let folder = Path::new("kernels");
    let paths = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    paths
        .filter(|path| path.extension().is_some_and(|ending| ending == "cu"))
        .map(|path| KernelFile::read(&path, folder).unwrap())
        .map(|file| (file.stem.clone(), file))
        .collect()
}

#[test]
fn operations_cost_what_the_headers_of_their_kernels_say() {
    let files = kernel_files();
    let mut checked = BTreeSet::new();
    for seed in 0..3 {
        for trial in residuum::check::random(seed) {
            for float in [DType::F32, DType::Bf16].into_iter().filter(|&float| trial.is_for(float)) {
                let graph = trial.graph(float).unwrap();
                for node in graph.nodes() {
                    let types = |ids: &[_]| ids.iter().map(|&id| graph.value(id).ty).collect::<Vec<_>>();
                    let cost = node.op.cost(&types(&node.inputs), &types(&node.outputs));
                    let Some(by_headers) = cost_by_headers(&graph, node, &files) else { continue };
                    assert_eq!(cost, by_headers, "{:?} in {}", node.op, trial.name);
                    checked.insert(node.op.name());
                }
            }
        }
    }
    assert!(checked.len() > 30, "only {checked:?}");
}
