//! The parts of `build.rs` that read text: architectures, kernel files, what the assembler says; and, by what they read, the
//! costs in the headers of kernels.

#[path = "../../build/arch.rs"]
mod arch;
mod costs;
#[path = "../../build/declared.rs"]
mod declared;
#[path = "../../build/ptxas.rs"]
mod ptxas;
#[path = "../../build/source.rs"]
mod source;

use std::fs;
use std::path::Path;

use declared::{Declared, Extent, Type};
use source::{AllowedSpill, Entry, KernelFile, SourceText};

const KNOWN: &str = "sm_75\nsm_80\nsm_86\nsm_89\nsm_90\nsm_100\ncompute_80\n";

fn archs(text: &str) -> Result<Vec<String>, String> {
    arch::parse_list(text, KNOWN).map(|archs| archs.iter().map(|arch| arch.to_string()).collect())
}

#[test]
fn architectures_are_read_with_and_without_prefix() {
    assert_eq!(archs("80, sm_90a,compute_80,sm_80").unwrap(), ["sm_80", "sm_90a", "compute_80"]);
    assert_eq!(archs("all").unwrap(), archs(arch::ALL).unwrap());
    assert_eq!(archs("all,compute_90a").unwrap(), archs(&format!("{},compute_90a", arch::ALL)).unwrap());
    assert_eq!(arch::parse_list("90a", KNOWN).unwrap()[0].gencode(), "arch=compute_90a,code=sm_90a");
}

#[test]
fn architectures_share_a_text_where_the_source_asks_for_nothing_between_them() {
    let text =
        |name: &str, source: &str| arch::parse_list(name, KNOWN).unwrap()[0].text_of(source).to_string();
    let steps = "#if __CUDA_ARCH__ >= 900\n#endif\n#if __CUDA_ARCH__ >= 1000\n#endif";
    for (name, source, expected) in [
        ("sm_89", "", "compute_80"),
        ("sm_90a", "", "compute_80"),
        ("sm_89", steps, "compute_80"),
        ("sm_90a", steps, "compute_90"),
        ("sm_100", steps, "compute_100"),
        ("sm_89", "#ifdef __CUDA_ARCH__", "compute_89"),
        ("sm_90a", "#if __CUDA_ARCH__ >= 900 && defined(__CUDA_ARCH_FEAT_SM90_ALL)", "compute_90a"),
        ("compute_89", steps, "compute_89"),
    ] {
        assert_eq!(text(name, source), expected, "{name} of {source:?}");
    }
}

#[test]
fn without_a_list_a_build_is_for_the_gpus_that_are_there() {
    for (capabilities, list) in [
        ("", "all"),
        ("7.5\n", "all"),
        ("[N/A]\n", "all"),
        ("9.0\n9.0\n", "sm_90a,sm_90a,compute_80"),
        ("8.6\n7.5\n", "sm_86,compute_80"),
        ("8.0\n10.0\n", "sm_80,sm_100,compute_80"),
        // Later than this nvcc.
        ("12.1\n", "compute_80"),
    ] {
        assert_eq!(arch::list_for(capabilities, KNOWN), list, "{capabilities:?}");
        assert!(archs(list).unwrap().contains(&"compute_80".to_string()), "{list}");
    }
    assert_eq!(archs("sm_90a,sm_90a,compute_80").unwrap(), ["sm_90a", "compute_80"]);
}

#[test]
fn architectures_that_cannot_be_built_are_named() {
    for (text, reason) in [
        ("sm_75", "too old"),
        ("sm_120", "unknown to this nvcc, which knows sm_75, sm_80"),
        ("sm_80a", "unknown"),
        ("ampere", "is not an architecture"),
        (" , ", "is empty"),
    ] {
        let message = archs(text).unwrap_err();
        assert!(message.contains(reason) && message.starts_with("RESIDUUM_CUDA_ARCH"), "{text}: {message}");
    }
}

#[test]
fn kernels_are_found_outside_comments() {
    let text = "// KERNEL(a, Args, 32)\n/* KERNEL(b, Args, 32)\nKERNEL(c, Args, 32) */\n\
                #define KERNEL(symbol, Args, threads)\n  KERNEL(d_f32, Args, 256) { a / b; }\n\
                KERNEL(e, Args, 1024)\n{}\nKERNEL(f, Args, 128, 4) {}\n";
    let entry = |name: &str, block_threads| Entry { name: name.into(), args: "Args".into(), block_threads };
    assert_eq!(source::entries(text).unwrap(), [entry("d_f32", 256), entry("e", 1024), entry("f", 128)]);
}

#[test]
fn a_kernel_written_otherwise_is_an_error_with_its_line() {
    for wrong in [
        "KERNEL(a, Args)",
        "KERNEL(a, Args, THREADS)",
        "KERNEL(a,",
        "KERNEL(1a, Args, 32)",
        "KERNEL(a, A, 2048)",
        "KERNEL(a, A, 128, FEW)",
        "KERNEL(a, A, 128, 4, 1)",
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
    write("inner.cuh", "constexpr int kInner = 1;\nstruct Args { float x; };\n");
    write("a.cu", "#include \"outer.cuh\"\n#include <cstdint>\nKERNEL(a, Args, 64) {}\n");
    let read = || KernelFile::read(&folder.path().join("a.cu"), folder.path());
    let file = read().unwrap();
    assert!(file.stem == "a" && file.entries.len() == 1 && file.allowed_spills.is_empty());
    assert!(file.path.ends_with("a.cu") && file.declared.layout("Args").is_some());
    assert!(file.text_with_headers.contains("kInner = 1"));
    write("inner.cuh", "constexpr int kInner = 2;\nstruct Args { float x; };\n");
    assert_ne!(read().unwrap().text_with_headers, file.text_with_headers);
    write("a.cu", "// ALLOW_SPILL(b, 8): none of this file\nKERNEL(a, Args, 64) {}\n");
    assert!(read().unwrap_err().contains("ALLOW_SPILL names `b`"));
}

fn declared(text: &str, arguments: &[&str]) -> Result<Declared, String> {
    Declared::read(&[SourceText::new(Path::new("a.cu"), text.to_string())], arguments)
}

const STRUCTS: &str = "// Groups.
FOR_RUST constexpr int kMost = 5;
template <int kArity>
struct Table {
    uint32_t count, reserved;
    uint32_t places[kArity][kMost];  // in units

    // Not data: { ; }
    template <class T = float>
    __device__ T* find(uint32_t i) const {
        if (i > 0) { return nullptr; }
        return reinterpret_cast<T*>(places[0][i]);
    }
};
struct Unrelated { std::pair<int, int> x; };
/* struct Args { float wrong; }; */
// What it is given.
struct Args {
    const float* x;  // [count] f32
    void* y;
    Table<2> table;
    // How far to go.
    float step, scale[2][3];
    int32_t reserved;
};
FOR_RUST struct Sample { int32_t row; };
FOR_RUST constexpr int32_t kPadding = -1;  // no row
";

#[test]
fn structs_are_read_with_their_parts_places_and_comments() {
    let declared = declared(STRUCTS, &["Args"]).unwrap();
    let names: Vec<&str> = declared.structs.iter().map(|found| found.name.as_str()).collect();
    assert_eq!(names, ["Table", "Args", "Sample"]);
    let [table, args, _] = &declared.structs[..] else { panic!("three structs") };
    assert_eq!((table.parameter.as_deref(), table.members.len()), (Some("kArity"), 3));
    assert_eq!(table.members[2].extents, [Extent::Parameter, Extent::Number(5)]);
    assert_eq!(table.members[2].comment, "in units");
    assert_eq!(
        (args.comment.as_str(), args.members[0].comment.as_str()),
        ("What it is given.", "[count] f32")
    );
    assert_eq!((&args.members[0].ty, args.members[0].spelled.as_str()), (&Type::Pointer, "const float* x"));
    assert_eq!(args.members[2].ty, Type::Struct("Table".into(), Some(2)));
    assert_eq!(
        (args.members[4].name.as_str(), args.members[4].spelled.as_str()),
        ("scale", "float scale[2][3]")
    );
    assert!(args.members[3].comment == "How far to go." && args.members[5].comment.is_empty());

    let layout = declared.layout("Args").unwrap();
    let places: Vec<_> = layout.members.iter().map(|place| (place.offset_bytes, place.num_bytes)).collect();
    assert_eq!(places, [(0, 8), (8, 8), (16, 48), (64, 4), (68, 24), (92, 4)]);
    assert_eq!((layout.num_bytes, layout.align, declared.layout("Table<2>").unwrap().num_bytes), (96, 8, 48));
    assert!(layout.members[1].is_pointer && !layout.members[2].is_pointer);
    assert!(layout.assertions().contains("static_assert(offsetof(Args, step) == 64, "));
}

#[test]
fn marked_constants_are_read_with_their_types() {
    let constants = declared(STRUCTS, &[]).unwrap().constants;
    let read: Vec<_> =
        constants.iter().map(|c| (c.name.as_str(), c.value, c.rust, c.comment.as_str())).collect();
    assert_eq!(read, [("kMost", 5, "usize", "Groups."), ("kPadding", -1, "i32", "no row")]);
}

#[test]
fn what_cannot_be_shared_is_an_error_with_its_line_and_the_remedy() {
    for (text, reason) in [
        ("", "a.cu: KERNEL takes `Args`, but neither it nor its headers have a `struct Args {`"),
        ("\nstruct Args { int x; };", "a.cu:2: `int x` cannot be shared with Rust; take int32_t"),
        (
            "struct Args {\n    const void *x, *y;\n};",
            "a.cu:2: `const void *x, *y`: declare each pointer alone",
        ),
        (
            "struct Args { float x[kMost]; };",
            "a.cu:1: `kMost` is neither a number nor a constant marked FOR_RUST",
        ),
        ("struct Args { float x; double y; };", "a.cu:1: `Args` leaves padding before `y`; sort members"),
        ("struct Args { double x; float y; };", "a.cu:1: `Args` ends in padding; add a member `reserved`"),
        ("struct Args { Part part; };", "a.cu:1: `Args` holds `Part`, but neither"),
        (
            "struct Part { void* x; };\nstruct Args { Part part; };",
            "a.cu:2: `Part` holds a pointer; make it a member of `Args`",
        ),
        (
            "template <int N>\nstruct Part { float x[N]; };\nstruct Args { Part part; };",
            "another number of template parameters",
        ),
        (
            "template <int N>\nstruct Part { float x[N]; int32_t i; };\nstruct Args { Part<1> part; };",
            "`Part<1>` is a template, whose",
        ),
        ("struct Args { float x[2000]; };", "`Args` has 8000 bytes; a kernel takes at most 4096"),
        ("struct Args {};", "a.cu:1: `Args` has no members"),
        ("struct Args { float x;", "a.cu:1: the struct has no end"),
    ] {
        let message = declared(text, &["Args"]).unwrap_err();
        assert!(message.contains(reason), "{text}: {message}");
    }
    for (text, reason) in [
        ("FOR_RUST constexpr int kMost = 2 * 3;", "a.cu:1: write FOR_RUST constexpr type kName = number;"),
        ("FOR_RUST constexpr int most = 2;", "write FOR_RUST constexpr"),
        ("FOR_RUST constexpr int kMost = -2;", "write FOR_RUST constexpr"),
        ("FOR_RUST int kMost = 2;", "write FOR_RUST constexpr"),
        ("\nFOR_RUST constexpr int kMost = 2;", "a.cu:2: say in a comment above it what `kMost` is"),
    ] {
        let message = declared(text, &[]).unwrap_err();
        assert!(message.contains(reason), "{text}: {message}");
    }
    assert!(declared("#define FOR_RUST\n", &[]).unwrap().constants.is_empty());
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
