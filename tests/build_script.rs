//! The parts of `build.rs` that read text: architectures, kernel files, what the assembler says.

#[path = "../build/arch.rs"]
mod arch;
#[path = "../build/ptxas.rs"]
mod ptxas;
#[path = "../build/source.rs"]
mod source;

use std::fs;

use source::{AllowedSpill, Entry, KernelFile};

const KNOWN: &str = "sm_75\nsm_80\nsm_86\nsm_89\nsm_90\nsm_100\ncompute_80\n";

fn archs(text: &str) -> Result<Vec<String>, String> {
    arch::parse_list(text, KNOWN).map(|archs| archs.iter().map(|arch| arch.to_string()).collect())
}

#[test]
fn architectures_are_read_with_and_without_prefix() {
    assert_eq!(archs("80, sm_90a,compute_80,sm_80").unwrap(), ["sm_80", "sm_90a", "compute_80"]);
    assert_eq!(archs(arch::DEFAULT).unwrap().len(), 5);
    assert_eq!(arch::parse_list("90a", KNOWN).unwrap()[0].gencode(), "arch=compute_90a,code=sm_90a");
}

#[test]
fn architectures_that_cannot_be_built_are_named() {
    for (text, reason) in [
        ("sm_75", "too old"),
        ("sm_120", "unknown to this nvcc, which knows sm_75, sm_80"),
        ("sm_80a", "unknown"),
        ("ampere", "is no architecture"),
        (" , ", "is empty"),
    ] {
        let message = archs(text).unwrap_err();
        assert!(message.contains(reason) && message.starts_with("RESIDUUM_CUDA_ARCH"), "{text}: {message}");
    }
}

#[test]
fn kernels_are_found_outside_comments() {
    let text = "// KERNEL(a, Args, 32)\n/* KERNEL(b, Args, 32)\nKERNEL(c, Args, 32) */\n\
                #define KERNEL(symbol, Args, threads)\nKERNEL_ARGS(Args, x)\n  KERNEL(d_f32, Args, 256) { a / b; }\n\
                KERNEL(e, Args, 1024)\n{}\n";
    let entry = |name: &str, block_threads| Entry { name: name.into(), block_threads };
    assert_eq!(source::entries(text).unwrap(), [entry("d_f32", 256), entry("e", 1024)]);
}

#[test]
fn a_kernel_written_otherwise_is_an_error_with_its_line() {
    for wrong in [
        "KERNEL(a, Args)",
        "KERNEL(a, Args, THREADS)",
        "KERNEL(a,",
        "KERNEL(1a, Args, 32)",
        "KERNEL(a, A, 2048)",
    ] {
        let message = source::entries(&format!("\n{wrong} {{}}\n")).unwrap_err();
        assert!(message.starts_with("line 2: "), "{wrong}: {message}");
    }
}

#[test]
fn spills_are_declared_with_a_limit_and_a_reason() {
    let text = "// ALLOW_SPILL(conv, 48): the epilogue alone\n";
    assert_eq!(source::allowed_spills(text).unwrap(), [AllowedSpill { kernel: "conv".into(), bytes: 48 }]);
    for wrong in ["// ALLOW_SPILL(conv, 48)", "// ALLOW_SPILL(conv): why", "// ALLOW_SPILL(conv, 48): "] {
        assert!(source::allowed_spills(wrong).unwrap_err().starts_with("line 1: "), "{wrong}");
    }
}

#[test]
fn a_file_depends_on_its_headers_and_names_its_own_kernels_only() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
    write("outer.cuh", "#pragma once\n# include \"inner.cuh\"\n#include \"outer.cuh\"\n");
    write("inner.cuh", "constexpr int kInner = 1;\n");
    write("a.cu", "#include \"outer.cuh\"\n#include <cstdint>\nKERNEL(a, Args, 64) {}\n");
    let read = || KernelFile::read(&folder.path().join("a.cu"), folder.path());
    let file = read().unwrap();
    assert!(file.stem == "a" && file.entries.len() == 1 && file.allowed_spills.is_empty());
    assert!(file.path.ends_with("a.cu"));
    assert!(file.text_with_headers.contains("kInner = 1"));
    write("inner.cuh", "constexpr int kInner = 2;\n");
    assert_ne!(read().unwrap().text_with_headers, file.text_with_headers);
    write("a.cu", "// ALLOW_SPILL(b, 8): none of this file\nKERNEL(a, Args, 64) {}\n");
    assert!(read().unwrap_err().contains("ALLOW_SPILL names `b`"));
}

#[test]
fn what_the_assembler_says_is_read() {
    let log = "ptxas info    : 0 bytes gmem\n\
               ptxas info    : Compiling entry function 'conv' for 'sm_80'\n\
               ptxas info    : Function properties for conv\n    \
               24 bytes stack frame, 20 bytes spill stores, 28 bytes spill loads\n\
               ptxas info    : Used 168 registers, used 1 barriers, 24 bytes cumulative stack size, 16384 bytes smem, 400 bytes cmem[0]\n\
               ptxas info    : Compile time = 3.2 ms\n\
               ptxas info    : Compiling entry function 'fill' for 'sm_80'\n\
               ptxas info    : Function properties for fill\n    \
               0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads\n\
               ptxas info    : Used 8 registers, used 0 barriers, 376 bytes cmem[0]\n";
    let usage = |kernel: &str, registers, spill_bytes, shared_bytes| ptxas::Usage {
        kernel: kernel.into(),
        registers,
        spill_bytes,
        shared_bytes,
    };
    assert_eq!(ptxas::parse(log), [usage("conv", 168, 48, 16384), usage("fill", 8, 0, 0)]);
    assert!(ptxas::fatal_warnings(log).is_empty() && ptxas::warnings(log).is_empty());
}

#[test]
fn serialised_matrix_instructions_are_fatal_and_other_warnings_shown() {
    let log = "ptxas info    : (C7510) Potential Performance Loss: wgmma.mma_async instructions are serialized\n\
               a.cu(3): warning #177-D: variable \"i\" was declared but never referenced\n";
    assert_eq!(ptxas::fatal_warnings(log).len(), 1);
    assert_eq!(ptxas::warnings(log).len(), 1);
}
