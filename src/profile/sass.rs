//! The machine code of a kernel (SASS), as nvdisasm lists it: how much there is of it, and what its loops are made of.

use std::collections::{BTreeSet, HashMap};
use std::ops::Range;

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::flow::Flow;

/// Bytes of an instruction, since Volta.
const INSTRUCTION_BYTES: usize = 16;

/// The machine code of a kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelCode {
    /// Instructions that can be reached; routines that it calls (the rare cases of a division or a root) are left out.
    pub instructions: u32,
    /// Instructions of the longest way from the first to an end on which none comes twice.
    pub longest_way: u32,
    /// Its loops, by address.
    pub loops: Vec<Loop>,
    /// Of its loads from global memory, how many are under way together: the mean over all loads, rounded.
    pub loads_in_flight: Option<u32>,
    /// Roundings of one number to bf16, which run at an eighth of the rate of those of two.
    pub single_roundings: u32,
}

/// A loop: all that leads back to an instruction through which every way into it goes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Loop {
    /// Address of that instruction in bytes, from the start of the kernel.
    pub address: u32,
    /// Whether there is no other loop in it.
    pub is_innermost: bool,
    /// Instructions in it, those of loops in it and of all its branches included.
    pub instructions: u32,
    /// Instructions of the longest way from the kernel's first to an end that goes through the loop, once.
    pub way: u32,
    /// Of them products on the tensor cores.
    pub tensor: u32,
    /// What these multiply, in products of a warp of 16x8x16.
    pub products: u32,
    /// Loads, stores and copies to and from global memory. Accesses whose memory the compiler does not know count, too: in
    /// our kernels they are global.
    pub global: u32,
    /// Loads and stores of shared memory.
    pub shared: u32,
    /// Barriers.
    pub barriers: u32,
    /// Products of f32 with a sum.
    pub multiply_adds: u32,
}

impl Loop {
    /// Instructions of no kind that is counted: addresses, conversions, comparisons and branches.
    pub fn others(&self) -> u32 {
        self.instructions - self.tensor - self.global - self.shared - self.barriers - self.multiply_adds
    }

    fn count(&mut self, instruction: &Instruction) {
        self.instructions += 1;
        match instruction.operation() {
            "LDG" | "STG" | "LDGSTS" | "LD" | "ST" | "ATOM" | "ATOMG" | "RED" => self.global += 1,
            "LDS" | "STS" | "LDSM" | "STSM" | "ATOMS" => self.shared += 1,
            "BAR" | "SYNCS" => self.barriers += 1,
            "FFMA" => self.multiply_adds += 1,
            // HMMA and HGMMA of bf16, IMMA of integers, and those to come.
            operation if operation.ends_with("MMA") => {
                self.tensor += 1;
                self.products += instruction.products();
            }
            _ => {}
        }
    }
}

impl KernelCode {
    /// The kernels of an image, by symbol, from what `nvdisasm -json` writes of it.
    ///
    /// # Errors
    /// Says what is unknown, if it is not that, or if a kernel jumps to an address that is in a register.
    pub fn of_listing(json: &[u8]) -> Result<HashMap<String, KernelCode>, String> {
        let (IgnoredAny, functions): (_, Vec<Function>) =
            serde_json::from_slice(json).map_err(|error| format!("its output is no listing: {error}"))?;
        // Others are routines that the compiler adds.
        let kernels = functions.iter().filter(|function| !function.function_name.starts_with('$'));
        let code = |function: &Function| {
            let name = &function.function_name;
            let code = function.code().map_err(|reason| format!("{name}: {reason}"))?;
            Ok((name.clone(), code))
        };
        kernels.map(code).collect()
    }

    /// The loop in which a warp spends its time: of the innermost that with most products on the tensor cores, among equals
    /// (all those of a kernel without such products) most accesses to global memory, among equals most instructions.
    pub fn main_loop(&self) -> Option<&Loop> {
        let innermost = self.loops.iter().filter(|found| found.is_innermost);
        innermost.max_by_key(|found| (found.products, found.global, found.instructions))
    }

    /// Instructions that a warp executes which executes `tensor_products` on the tensor cores and `global_requests` to
    /// global memory: all outside of the main loop once, and those of the main loop as often as its products, or without
    /// any its accesses, go into the number executed.
    ///
    /// So it is assumed that such products or accesses outside of the main loop are few, that all other loops are short, and
    /// that of the sides of a branch the longest is run. Of a main loop with neither it is not known how often it runs: it counts
    /// once.
    pub fn warp_instructions(&self, tensor_products: u64, global_requests: u64) -> u64 {
        let Some(main) = self.main_loop() else { return self.longest_way.into() };
        let (way, in_loop) = (u64::from(main.way), u64::from(main.instructions));
        let (executed, per_trip) =
            if main.tensor > 0 { (tensor_products, main.products) } else { (global_requests, main.global) };
        way.saturating_sub(in_loop) + (executed * in_loop).checked_div(per_trip.into()).unwrap_or(in_loop)
    }
}

/// A function in the listing.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Function {
    function_name: String,
    /// Address in its section, to which jumps refer.
    start: usize,
    sass_instructions: Vec<Instruction>,
}

#[derive(Deserialize)]
struct Instruction {
    /// On which condition it is run, as in `@!P0`.
    predicate: Option<String>,
    /// As in `LDG.E.128`.
    opcode: String,
    #[serde(default)]
    operands: String,
}

impl Instruction {
    /// The opcode without its modifiers.
    fn operation(&self) -> &str {
        self.opcode.split_once('.').map_or(&self.opcode, |(operation, _)| operation)
    }

    /// Products of 16x8x16 that a warp does by it, if it multiplies: its share of `HGMMA.64xNx16` is 16 rows.
    fn products(&self) -> u32 {
        let columns = self.opcode.strip_prefix("HGMMA.64x").and_then(|rest| rest.split('x').next());
        columns.and_then(|columns| columns.parse::<u32>().ok()).map_or(1, |columns| columns / 8)
    }

    /// The registers among its operands, of a group the first.
    fn registers(&self) -> impl Iterator<Item = u32> {
        let names = self.operands.split(|c: char| !c.is_ascii_alphanumeric());
        names.filter_map(|name| name.strip_prefix('R')?.parse().ok())
    }

    /// The registers that it loads from global memory.
    fn loaded(&self) -> Option<Range<u32>> {
        if !matches!(self.operation(), "LDG" | "LD") {
            return None;
        }
        let to = self.registers().next()?;
        let size = |modifier: &str| match modifier {
            "64" => Some(2),
            "128" => Some(4),
            _ => None,
        };
        Some(to..to + self.opcode.split('.').find_map(size).unwrap_or(1))
    }
}

impl Function {
    fn code(&self) -> Result<KernelCode, String> {
        let next: Vec<Vec<usize>> =
            (0..self.sass_instructions.len()).map(|index| self.next(index)).collect::<Result<_, _>>()?;
        let flow = Flow::of(&next);
        let bodies = flow.loops(&next);
        let count = |(&head, body): (&usize, &BTreeSet<usize>)| {
            let address = (head * INSTRUCTION_BYTES) as u32;
            let is_innermost = body.iter().all(|at| *at == head || !bodies.contains_key(at));
            let mut found = Loop { address, is_innermost, way: flow.way_through(head), ..Loop::default() };
            body.iter().for_each(|&at| found.count(&self.sass_instructions[at]));
            found
        };
        let reached =
            || self.sass_instructions.iter().zip(&flow.reached).filter(|&(_, &is_reached)| is_reached);
        let instructions = reached().count() as u32;
        let rounds_one = |instruction: &Instruction| instruction.opcode.starts_with("F2F.BF16");
        let single_roundings = reached().filter(|(instruction, _)| rounds_one(instruction)).count() as u32;
        let loads_in_flight = self.loads_in_flight(&flow);
        let longest_way = if next.is_empty() { 0 } else { flow.way_through(0) };
        Ok(KernelCode {
            instructions,
            longest_way,
            loops: bodies.iter().map(count).collect(),
            loads_in_flight,
            single_roundings,
        })
    }

    /// Loads under way together, as [`KernelCode::loads_in_flight`] says, in the order in which the instructions stand:
    /// whoever reads a register that is being loaded waits for all loads before.
    fn loads_in_flight(&self, flow: &Flow) -> Option<u32> {
        let (mut loads, mut company) = (0, 0);
        let mut under_way: Vec<Range<u32>> = Vec::new();
        let mut land = |under_way: &mut Vec<Range<u32>>| {
            loads += under_way.len();
            company += under_way.len().pow(2);
            under_way.clear();
        };
        for (instruction, _) in
            self.sass_instructions.iter().zip(&flow.reached).filter(|(_, reached)| **reached)
        {
            let loaded = instruction.loaded();
            let reads = instruction.registers().skip(usize::from(loaded.is_some()));
            let waits = reads.into_iter().any(|read| under_way.iter().any(|loaded| loaded.contains(&read)));
            if waits || matches!(instruction.operation(), "EXIT" | "RET") && instruction.predicate.is_none() {
                land(&mut under_way);
            }
            under_way.extend(loaded);
        }
        land(&mut under_way);
        (loads > 0).then(|| (company as f64 / loads as f64).round() as u32)
    }

    /// What may be run after the instruction.
    fn next(&self, index: usize) -> Result<Vec<usize>, String> {
        let instruction = &self.sass_instructions[index];
        let mut is_conditional = instruction.predicate.is_some();
        let mut next = Vec::new();
        match instruction.operation() {
            "BRA" => {
                // Further conditions stand before the address.
                let (condition, address) = match instruction.operands.rsplit_once(',') {
                    Some((condition, address)) => (Some(condition), address),
                    None => (None, &*instruction.operands),
                };
                is_conditional |= condition.is_some();
                next.push(self.index_of(address.trim())?);
            }
            "EXIT" | "RET" => {}
            "BRX" | "BRXU" | "JMP" | "JMX" | "JMXU" => {
                return Err(format!("{} is a jump that is not followed", instruction.opcode));
            }
            _ => is_conditional = true,
        }
        if is_conditional && index + 1 < self.sass_instructions.len() {
            next.push(index + 1);
        }
        Ok(next)
    }

    /// The instruction at an address of its section.
    fn index_of(&self, address: &str) -> Result<usize, String> {
        let digits = address.strip_prefix("0x").unwrap_or_default();
        let bytes = usize::from_str_radix(digits, 16).ok();
        let index =
            bytes.and_then(|bytes| bytes.checked_sub(self.start)).map(|bytes| bytes / INSTRUCTION_BYTES);
        index
            .filter(|index| *index < self.sass_instructions.len())
            .ok_or("a jump leads out of it".to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The code of a kernel with these instructions, one a line, as `nvdisasm -c` prints them without addresses.
    fn code(text: &str) -> Result<KernelCode, String> {
        let instruction = |line: &str| {
            let (predicate, rest) = match line.strip_prefix('@').and_then(|line| line.split_once(' ')) {
                Some((predicate, rest)) => (format!(r#""predicate": "@{predicate}", "#), rest.trim()),
                None => (String::new(), line),
            };
            let (opcode, operands) = rest.split_once(' ').unwrap_or((rest, ""));
            format!(r#"{{{predicate}"opcode": "{opcode}", "operands": "{operands}"}}"#)
        };
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        let instructions: Vec<String> = lines.map(instruction).collect();
        let json = format!(
            r#"[{{"SM": {{}}}}, [{{"function-name": "k", "start": 0, "sass-instructions": [{}]}}]]"#,
            instructions.join(", ")
        );
        KernelCode::of_listing(json.as_bytes()).map(|mut all| all.remove("k").unwrap())
    }

    /// Addresses and lengths of the loops.
    fn loops(text: &str) -> Vec<(u32, u32)> {
        code(text).unwrap().loops.iter().map(|found| (found.address, found.instructions)).collect()
    }

    #[test]
    fn a_listing_has_kernels_and_routines_of_the_compiler() {
        // Shortened from what nvdisasm 13.2 writes.
        let json = r#"[{"SM": {"version": {"major": 9, "minor": 0}}, "Producer": "nvdisasm V13.2.86"},
            [{"function-name": "fill_f32", "start": 0, "length": 112, "other-attributes": [], "sass-instructions": [
                {"opcode": "LDC", "operands": "R1,c[0x0][0x28]"},
                {"predicate": "@P0", "opcode": "EXIT", "other-attributes": {"control-flow": "True"}},
                {"opcode": "STG.E.128", "operands": "desc[UR6][R10.64],R4"},
                {"opcode": "CALL.REL.NOINC", "operands": "$__internal_0_$__cuda_sm20_rcp_rn_f32_slowpath",
                    "other-attributes": {"control-flow": "True", "subroutine-call": "True"}},
                {"predicate": "@!P0", "opcode": "BRA", "operands": "0x20",
                    "other-attributes": {"control-flow": "True"}},
                {"opcode": "EXIT", "other-attributes": {"control-flow": "True"}},
                {"opcode": "BRA", "operands": "0x60", "other-attributes": {"control-flow": "True"}}]},
            {"function-name": "$__internal_0_$__cuda_sm20_rcp_rn_f32_slowpath", "start": 112, "length": 16,
                "other-attributes": [], "sass-instructions": [
                {"opcode": "RET.REL.NODEC", "operands": "R2 `(fill_f32)"}]}]]"#;
        let kernels = KernelCode::of_listing(json.as_bytes()).unwrap();
        assert_eq!(kernels.keys().collect::<Vec<_>>(), ["fill_f32"]);
        let store =
            Loop { address: 0x20, is_innermost: true, instructions: 3, way: 6, global: 1, ..Loop::default() };
        assert_eq!(
            kernels["fill_f32"],
            KernelCode {
                instructions: 6,
                longest_way: 6,
                loops: vec![store],
                loads_in_flight: None,
                single_roundings: 0
            }
        );
    }

    #[test]
    fn a_loop_is_counted_by_kinds() {
        let code = code(
            "S2R R0, SR_TID.X
             LDGSTS.E.BYPASS.128 [R4], desc[UR6][R2.64]
             LDSM.16.M88.4 R4, [R20]
             HMMA.16816.F32.BF16 R8, R4, R6, R8
             HMMA.16816.F32.BF16 R12, R4, R6, R12
             FFMA R1, R2, R3, R1
             BAR.SYNC.DEFER_BLOCKING 0x0
             @P0 BRA 0x10
             STG.E.128 desc[UR6][R2.64], R8
             EXIT
             BRA 0xa0
             NOP",
        );
        let code = code.unwrap();
        let main = Loop {
            address: 0x10,
            is_innermost: true,
            instructions: 7,
            way: 10,
            tensor: 2,
            products: 2,
            global: 1,
            shared: 1,
            barriers: 1,
            multiply_adds: 1,
        };
        assert_eq!(main.others(), 1);
        // The trap behind the exit and what fills up the line are never run.
        assert_eq!(
            code,
            KernelCode {
                instructions: 10,
                longest_way: 10,
                loops: vec![main],
                loads_in_flight: None,
                single_roundings: 0
            }
        );
    }

    #[test]
    fn loads_are_under_way_until_one_of_them_is_read() {
        let in_flight = |text: &str| code(text).unwrap().loads_in_flight;
        assert_eq!(in_flight("STG.E desc[UR6][R2.64], R4\n EXIT"), None);
        let two = "LDG.E.128 R4, desc[UR6][R2.64]\n @P0 LDG.E.64 R8, desc[UR6][R2.64+0x10]\n";
        // R7 is of the first, R9 of the second; R10 is of none.
        for read in [7, 9] {
            let text = format!("{two}FADD R20, R{read}, R21\n LDG.E R11, desc[UR6][R2.64]\n EXIT");
            assert_eq!(in_flight(&text), Some(2), "of 2 * 2 + 1 in 3 loads");
        }
        let text = format!("{two}FADD R20, R10.reuse, R21\n LDG.E R11, desc[UR6][R2.64]\n EXIT");
        assert_eq!(in_flight(&text), Some(3));
        // A load from an address that is being loaded waits for it.
        assert_eq!(in_flight("LDG.E.64 R2, desc[UR6][R8.64]\n LDG.E R4, desc[UR6][R2.64]\n EXIT"), Some(1));
        // Loads on another way are not under way.
        assert_eq!(
            in_flight(&format!("@P0 BRA 0x30\n{two}EXIT\n LDG.E R11, desc[UR6][R2.64]\n EXIT")),
            Some(2)
        );
    }

    #[test]
    fn roundings_of_one_number_are_counted_where_they_can_be_reached() {
        let code = code(
            "F2F.BF16.F32 R2, R3
             F2FP.BF16.F32.PACK_AB R4, R5, R6
             F2F.F64.F32 R8, R7
             EXIT
             F2F.BF16.F32 R2, R3",
        );
        assert_eq!(code.unwrap().single_roundings, 1);
    }

    #[test]
    fn a_condition_may_stand_among_the_operands() {
        assert_eq!(loops("NOP\n NOP\n @!P2 BRA P3, 0x10\n EXIT"), [(0x10, 2)]);
        assert_eq!(code("BRA P3, 0x20\n NOP\n EXIT").unwrap().instructions, 3);
        assert_eq!(code("BRA 0x20\n NOP\n EXIT").unwrap().instructions, 2);
    }

    #[test]
    fn of_the_sides_of_a_branch_the_longest_is_run() {
        let branch = "NOP\n @P0 BRA 0x50\n NOP\n NOP\n BRA 0x60\n NOP\n";
        let code_of = |end: &str| code(&format!("{branch}{end}")).unwrap();
        let straight = code_of("EXIT");
        assert_eq!(
            (straight.instructions, straight.longest_way, straight.warp_instructions(0, 0)),
            (7, 6, 6)
        );
        // A loop of three instructions, one of them an access, behind the branch.
        let looped = code_of("LDG.E R4, desc[UR6][R2.64]\n NOP\n @P1 BRA 0x60\n EXIT");
        assert_eq!((looped.instructions, looped.loops[0].way), (10, 9));
        assert_eq!(looped.warp_instructions(0, 5), 9 + 4 * 3);
    }

    #[test]
    fn loops_nest_and_share_a_head() {
        let nested = code("NOP\n NOP\n NOP\n @P0 BRA 0x20\n @P1 BRA 0x10\n EXIT").unwrap();
        let found = nested.loops.iter().map(|found| (found.address, found.instructions, found.is_innermost));
        assert_eq!(found.collect::<Vec<_>>(), [(0x10, 4, false), (0x20, 2, true)]);
        assert_eq!(loops("NOP\n NOP\n @P0 BRA 0x10\n @P1 BRA 0x10\n EXIT"), [(0x10, 3)]);
    }

    #[test]
    fn a_part_that_stands_elsewhere_belongs_to_its_loop() {
        // The loop at 0x10 goes through the instructions behind the exit; those between are not in it.
        assert_eq!(loops("NOP\n NOP\n @P0 BRA 0x50\n NOP\n EXIT\n NOP\n BRA 0x10"), [(0x10, 4)]);
        // Its head stands at its end.
        assert_eq!(loops("BRA 0x20\n NOP\n NOP\n @P0 BRA 0x10\n EXIT"), [(0x20, 3)]);
    }

    #[test]
    fn a_jump_back_behind_a_case_that_stands_apart_is_no_loop() {
        assert_eq!(loops("@P0 BRA 0x40\n NOP\n NOP\n EXIT\n NOP\n BRA 0x20"), []);
    }

    #[test]
    fn the_main_loop_has_the_most_products_else_the_most_accesses_else_is_the_longest() {
        let main = |text: &str| code(text).unwrap().main_loop().map(|found| found.address);
        let long = "NOP\n NOP\n NOP\n NOP\n @P0 BRA 0x0\n";
        let global = "LDG.E R0, R2\n @P0 BRA 0x50\n";
        let tensor = "HMMA R0, R2, R4, R0\n @P0 BRA 0x70\n";
        assert_eq!(main(&format!("{long}{global}{tensor}EXIT")), Some(0x70));
        assert_eq!(main(&format!("{long}{global}EXIT")), Some(0x50));
        assert_eq!(main(&format!("{long}NOP\n @P0 BRA 0x50\n EXIT")), Some(0x0));
        assert_eq!(main("NOP\n EXIT"), None);
        // Products that are no part of an innermost loop are not its.
        assert_eq!(main("HMMA R0, R2, R4, R0\n NOP\n @P0 BRA 0x10\n @P1 BRA 0x0\n EXIT"), Some(0x10));
    }

    #[test]
    fn a_warp_runs_the_main_loop_as_often_as_its_products_or_accesses_say() {
        let tensor =
            code("NOP\n HMMA R0, R2, R4, R0\n HMMA R0, R2, R4, R0\n LDG R1, R2\n @P0 BRA 0x10\n EXIT");
        assert_eq!(tensor.unwrap().warp_instructions(20, 7), 2 + 10 * 4);
        // A warp's share of a product of 64 x 128 x 16 is 16 of 16 x 8 x 16.
        let product = "HGMMA.64x128x16.F32.BF16 R24, gdesc[UR8], R24\n";
        let groups = code(&format!("NOP\n {product} {product} LDG R1, R2\n @P0 BRA 0x10\n EXIT")).unwrap();
        assert_eq!(groups.main_loop().map(|main| (main.tensor, main.products)), Some((2, 32)));
        assert_eq!(groups.warp_instructions(96, 7), 2 + 3 * 4);
        let global = code("NOP\n LDG R1, R2\n @P0 BRA 0x10\n EXIT").unwrap();
        assert_eq!(global.warp_instructions(0, 3), 2 + 3 * 2);
        assert_eq!(code("NOP\n NOP\n @P0 BRA 0x10\n EXIT").unwrap().warp_instructions(5, 5), 4);
        assert_eq!(code("NOP\n EXIT").unwrap().warp_instructions(5, 5), 2);
    }

    #[test]
    fn what_is_not_understood_is_said() {
        let listing = |json: &str| KernelCode::of_listing(json.as_bytes()).unwrap_err();
        assert!(listing("nvdisasm fatal").starts_with("its output is no listing: "));
        assert!(listing("[{}]").starts_with("its output is no listing: "));
        assert_eq!(code("BRX R2 -0x40\n EXIT").unwrap_err(), "k: BRX is a jump that is not followed");
        assert_eq!(code("BRA 0x40\n EXIT").unwrap_err(), "k: a jump leads out of it");
        assert_eq!(code("BRA R2\n EXIT").unwrap_err(), "k: a jump leads out of it");
        let nothing = r#"[{}, [{"function-name": "k", "start": 0, "sass-instructions": []}]]"#;
        let kernels = KernelCode::of_listing(nothing.as_bytes()).unwrap();
        assert_eq!(
            kernels["k"],
            KernelCode {
                instructions: 0,
                longest_way: 0,
                loops: Vec::new(),
                loads_in_flight: None,
                single_roundings: 0
            }
        );
    }
}
