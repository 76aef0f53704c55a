//! What the assembler says about each kernel (`-Xptxas -v`), and what of it fails a build.

/// Resources of one kernel on one architecture.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Usage {
    /// Name of the symbol.
    pub kernel: String,
    /// Registers of a thread.
    pub registers: u32,
    /// Spill stores and loads of a thread together.
    pub spill_bytes: u32,
    /// Static shared memory of a block.
    pub shared_bytes: u32,
}

/// Warnings that mean the tensor cores wait for each instruction: `wgmma` was serialised.
const FATAL_WARNINGS: [&str; 2] = ["C7510", "C7511"];

/// Reads what the assembler printed.
pub fn parse(log: &str) -> Vec<Usage> {
    let mut usages: Vec<Usage> = Vec::new();
    let mut kernel = String::new();
    let mut spill_bytes = 0;
    for line in log.lines() {
        if let Some(rest) = line.split_once("Compiling entry function '").map(|(_, rest)| rest) {
            kernel = rest.split('\'').next().unwrap_or_default().to_string();
            spill_bytes = 0;
        } else if line.contains("bytes spill stores") && !kernel.is_empty() {
            // The kernel's own line stands before those of functions it calls, whose spills count too.
            spill_bytes += number_before(line, " bytes spill stores").unwrap_or(0)
                + number_before(line, " bytes spill loads").unwrap_or(0);
        } else if let Some(registers) = number_before(line, " registers")
            && !kernel.is_empty()
        {
            let shared_bytes = number_before(line, " bytes smem").unwrap_or(0);
            usages.push(Usage { kernel: std::mem::take(&mut kernel), registers, spill_bytes, shared_bytes });
        }
    }
    usages
}

/// Lines that fail a build whatever a file declares.
pub fn fatal_warnings(log: &str) -> Vec<&str> {
    log.lines().filter(|line| FATAL_WARNINGS.iter().any(|code| line.contains(code))).collect()
}

/// Other warnings, worth showing.
pub fn warnings(log: &str) -> Vec<&str> {
    let is_warning = |line: &&str| line.contains("warning") && !line.starts_with("ptxas info");
    log.lines().filter(is_warning).collect()
}

fn number_before(line: &str, words: &str) -> Option<u32> {
    let end = line.find(words)?;
    let start = line[..end].rfind(|c: char| !c.is_ascii_digit()).map_or(0, |before| before + 1);
    line[start..end].parse().ok()
}
