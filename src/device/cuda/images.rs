//! Which of a build's images a GPU runs, and which driver they need.

/// What `sm_90a` or `compute_80` stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Arch {
    capability: (u32, u32),
    /// For exactly this chip: it uses instructions that no other has.
    is_exact: bool,
    /// Assembly text, which the driver compiles.
    is_ptx: bool,
}

impl Arch {
    fn parse(name: &str) -> Option<Arch> {
        let (number, is_ptx) = match name.strip_prefix("sm_") {
            Some(number) => (number, false),
            None => (name.strip_prefix("compute_")?, true),
        };
        let digits = number.trim_end_matches(['a', 'f']);
        let value: u32 = digits.parse().ok()?;
        Some(Arch { capability: (value / 10, value % 10), is_exact: number.ends_with('a'), is_ptx })
    }

    /// Machine code runs on its own chip and later ones of the same major number, assembly text on all later ones.
    fn runs_on(&self, capability: (u32, u32)) -> bool {
        match (self.is_exact, self.is_ptx) {
            (true, _) => self.capability == capability,
            (false, false) => self.capability.0 == capability.0 && self.capability.1 <= capability.1,
            (false, true) => self.capability <= capability,
        }
    }
}

/// The best of `archs` for a GPU: machine code before assembly text, the closest chip, its own instructions.
pub(super) fn choose<'a>(capability: (u32, u32), archs: &[&'a str]) -> Option<&'a str> {
    archs
        .iter()
        .filter_map(|name| Some((Arch::parse(name)?, *name)))
        .filter(|(arch, _)| arch.runs_on(capability))
        .max_by_key(|(arch, _)| (!arch.is_ptx, arch.capability, arch.is_exact))
        .map(|(_, name)| name)
}

/// Whether images for `arch` have the kernels that multiply by warp groups (`wgmma`), which no other chip runs.
pub fn has_warp_groups(arch: &str) -> bool {
    Arch::parse(arch).is_some_and(|arch| arch.is_exact && arch.capability == (9, 0))
}

/// Whether launches of images for `arch` may overlap under a driver for CUDA `driver`: their kernels wait for what they need
/// (`wait_for_launches_before` in kernels/common.cuh), and the driver keeps it in what it captures.
pub(super) fn may_overlap(driver: (u32, u32), arch: &str) -> bool {
    driver >= (12, 3) && Arch::parse(arch).is_some_and(|arch| arch.capability >= (9, 0))
}

/// Whether a driver for CUDA `driver` loads images for `arch` made by nvcc `toolkit`.
///
/// Machine code needs a driver of the same major number, assembly text one at least as new as nvcc.
pub(super) fn check_driver(driver: (u32, u32), toolkit: &str, arch: &str) -> Result<(), String> {
    let mut numbers = toolkit.split('.').map_while(|part| part.parse::<u32>().ok());
    let toolkit = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    let is_ptx = arch.starts_with("compute_");
    let needed = if is_ptx { toolkit } else { (toolkit.0, 0) };
    if driver >= needed {
        return Ok(());
    }
    let shown = |(major, minor): (u32, u32)| format!("{major}.{minor}");
    Err(format!(
        "the NVIDIA driver goes up to CUDA {}, but this build's kernels ({arch}, by nvcc {}) need CUDA {}: update the \
         driver (525 or later for CUDA 12, 580 for 13), or build with an nvcc of the driver's version",
        shown(driver),
        shown(toolkit),
        shown(needed)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEFAULT: [&str; 6] = ["sm_80", "sm_86", "sm_89", "sm_90a", "compute_80", "compute_90"];

    #[test]
    fn warp_groups_multiply_on_hopper_alone() {
        let with: Vec<&str> = DEFAULT.into_iter().filter(|arch| has_warp_groups(arch)).collect();
        assert_eq!(with, ["sm_90a"]);
        assert!(has_warp_groups("compute_90a") && !has_warp_groups("sm_90") && !has_warp_groups("sm_100a"));
    }

    #[test]
    fn each_gpu_gets_the_closest_image() {
        for (capability, expected) in [
            ((8, 0), Some("sm_80")),
            ((8, 6), Some("sm_86")),
            ((8, 7), Some("sm_86")),
            ((8, 9), Some("sm_89")),
            ((9, 0), Some("sm_90a")),
            ((10, 0), Some("compute_90")),
            ((12, 1), Some("compute_90")),
            ((7, 5), None),
        ] {
            assert_eq!(choose(capability, &DEFAULT), expected, "{capability:?}");
        }
    }

    #[test]
    fn images_for_one_chip_run_on_no_other() {
        assert_eq!(choose((9, 0), &["sm_90", "sm_90a"]), Some("sm_90a"));
        assert_eq!(choose((10, 3), &["sm_100a", "compute_90a"]), None);
        assert_eq!(choose((10, 3), &["sm_100f", "compute_90"]), Some("sm_100f"));
        assert_eq!(choose((8, 9), &["compute_80", "compute_89", "compute_90"]), Some("compute_89"));
    }

    #[test]
    fn launches_overlap_where_kernels_wait_and_captures_keep_it() {
        for (driver, arch, expected) in [
            ((13, 0), "sm_90a", true),
            ((12, 3), "compute_90", true),
            ((12, 2), "sm_90a", false),
            ((13, 0), "sm_89", false),
            ((13, 0), "compute_80", false),
        ] {
            assert_eq!(may_overlap(driver, arch), expected, "{driver:?} {arch}");
        }
    }

    #[test]
    fn machine_code_needs_the_major_version_and_assembly_text_the_whole() {
        assert_eq!(check_driver((13, 0), "13.1.20", "sm_80"), Ok(()));
        assert_eq!(check_driver((14, 0), "13.1.20", "compute_80"), Ok(()));
        let message = check_driver((13, 0), "13.1.20", "compute_80").unwrap_err();
        assert!(message.contains("up to CUDA 13.0") && message.contains("need CUDA 13.1"), "{message}");
        assert!(check_driver((12, 9), "13.0.88", "sm_90a").unwrap_err().contains("580"));
    }
}
