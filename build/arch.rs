//! The GPU architectures to compile for.

use std::fmt;

/// What `all` stands for: one image per kind of chip in common use, and the assembly texts that drivers compile for every
/// later one: those from 9.0 on may overlap launches.
pub const ALL: &str = "sm_80,sm_86,sm_89,sm_90a,compute_80,compute_90";

/// Kernels use `cp.async` and bf16 matrix instructions, which came with this one.
const LOWEST: u32 = 80;

/// An image to build: machine code for one chip, or assembly text (PTX) for the driver to compile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arch {
    /// As in `90a`.
    pub number: String,
    /// Assembly text rather than machine code.
    pub is_ptx: bool,
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", if self.is_ptx { "compute_" } else { "sm_" }, self.number)
    }
}

impl Arch {
    /// The assembly text that every chip and every driver takes.
    pub fn lowest_text() -> Arch {
        Arch { number: LOWEST.to_string(), is_ptx: true }
    }

    /// The assembly text that an image of `source` for this architecture is, or is assembled from.
    ///
    /// Reading the source takes nvcc ten times as long as assembling. Source becomes the same text, but for its name, for all
    /// architectures between two that it asks for by `__CUDA_ARCH__ >= 900`, so the lowest of them serves. Source that asks
    /// in another way is read for each.
    pub fn text_of(&self, source: &str) -> Arch {
        let text = |number: String| Arch { number, is_ptx: true };
        let asked: Option<Vec<u32>> = source.split("__CUDA_ARCH").skip(1).map(asked_for).collect();
        match asked {
            Some(steps) if !self.is_ptx => {
                let own: u32 = digits(&self.number).parse().expect("a number that has been parsed");
                let reached = steps.into_iter().filter(|&step| step <= own).max();
                text(reached.unwrap_or(LOWEST).to_string())
            }
            _ => text(self.number.clone()),
        }
    }

    /// The value of nvcc's `-gencode`.
    pub fn gencode(&self) -> String {
        format!("arch=compute_{},code={self}", self.number)
    }
}

/// The list for a machine whose GPUs have these compute capabilities, one a line as in `9.0`: their chips and the assembly
/// text that runs on any other, or `all` where none of them can run the kernels. `known` is as in [`parse_list`].
pub fn list_for(capabilities: &str, known: &str) -> String {
    let numbers = capabilities.lines().filter_map(|line| line.trim().replacen('.', "", 1).parse().ok());
    let numbers: Vec<u32> = numbers.filter(|&number| number >= LOWEST).collect();
    if numbers.is_empty() {
        return "all".to_string();
    }
    let name = |number: &u32| {
        let is_same = |name: &&str| name.trim_matches(|c: char| !c.is_ascii_digit()) == number.to_string();
        let listed = ALL.split(',').find(|name| name.starts_with("sm_") && is_same(name));
        listed.map_or_else(|| format!("sm_{number}"), str::to_string)
    };
    // A chip that came after this nvcc runs the text.
    let chips = numbers.iter().map(name).filter(|name| parse(name, known).is_ok());
    chips.chain([Arch::lowest_text().to_string()]).collect::<Vec<_>>().join(",")
}

/// Reads a comma-separated list such as `80,sm_90a,compute_80` or `all,compute_90a`; a bare number means machine code. `known` is what
/// `nvcc --list-gpu-code` prints.
pub fn parse_list(text: &str, known: &str) -> Result<Vec<Arch>, String> {
    let words = text.split(',').map(str::trim).filter(|word| !word.is_empty());
    let mut archs = Vec::new();
    for word in words.flat_map(|word| if word == "all" { ALL } else { word }.split(',')) {
        let arch = parse(word, known).map_err(|reason| format!("RESIDUUM_CUDA_ARCH: `{word}` {reason}"))?;
        if !archs.contains(&arch) {
            archs.push(arch);
        }
    }
    if archs.is_empty() {
        return Err(format!("RESIDUUM_CUDA_ARCH is empty; give none, all, or a list like {ALL}"));
    }
    Ok(archs)
}

/// The 90 of `__ >= 900`.
fn asked_for(after_word: &str) -> Option<u32> {
    let number = after_word.strip_prefix("__ >= ")?;
    let digits = number.find(|c: char| !c.is_ascii_digit()).map_or(number, |end| &number[..end]);
    digits.strip_suffix('0')?.parse().ok()
}

/// The number without the letter of a variant.
fn digits(number: &str) -> &str {
    number.trim_end_matches(['a', 'f'])
}

fn parse(word: &str, known: &str) -> Result<Arch, String> {
    let (number, is_ptx) = match (word.strip_prefix("compute_"), word.strip_prefix("sm_")) {
        (Some(number), _) => (number, true),
        (None, Some(number)) => (number, false),
        (None, None) => (word, false),
    };
    let digits = digits(number);
    let value: u32 = digits.parse().map_err(|_| format!("is not an architecture; give one like {ALL}"))?;
    if value < LOWEST {
        return Err(format!("is too old: the kernels need sm_{LOWEST} (Ampere) or later"));
    }
    let has_variant = match &number[digits.len()..] {
        "" => true,
        "a" => value >= 90,
        "f" => value >= 100,
        _ => false,
    };
    if !has_variant || !known.split_whitespace().any(|name| name.strip_prefix("sm_") == Some(digits)) {
        let names: Vec<&str> = known.split_whitespace().filter(|name| name.starts_with("sm_")).collect();
        return Err(format!("is unknown to this nvcc, which knows {}", names.join(", ")));
    }
    Ok(Arch { number: number.to_string(), is_ptx })
}
