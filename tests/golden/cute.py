"""Where CuTe says that the operands and sums of Hopper's products lie: cute.json.

    python3 -m venv venv && venv/bin/pip install --no-deps nvidia-cutlass==4.2.0.0 nvidia-cuda-cccl==13.3.5.0.6 \
        nvidia-cuda-runtime==13.5.37 nvidia-cuda-crt==13.5.37
    venv/bin/python tests/golden/cute.py

CuTe is compiled for the host from the headers in these wheels; nothing of it runs on a GPU.
"""

import importlib.util
import json
import pathlib
import subprocess
import tempfile

PROGRAM = r"""
#include <cstdio>
#include <cute/tensor.hpp>
#include <cute/atom/mma_traits_sm90_gmma.hpp>
using namespace cute;
using bf16 = cutlass::bfloat16_t;

// CuTe itself says on stdout that the host has no shared memory, and takes its address to be 0.
static FILE* out;

// Bytes from the start to each 16 bytes, the 8 elements of which must lie together. `kAlong` is the direction that they run in.
template <int kAlong, class Layout>
void offsets(const char* name, Layout layout) {
    constexpr int kRows = 128, kDepth = 64;
    fprintf(out, "\"%s\": [", name);
    for (int line = 0; line < (kAlong == 0 ? kDepth : kRows); line++) {
        for (int chunk = 0; chunk < (kAlong == 0 ? kRows : kDepth) / 8; chunk++) {
            const auto at = [&](int i) {
                const int along = chunk * 8 + i;
                return 2 * static_cast<int>(kAlong == 0 ? layout(along, line) : layout(line, along));
            };
            for (int i = 1; i < 8; i++) {
                if (at(i) != at(0) + 2 * i) return (void)fprintf(stderr, "%s: 8 elements lie apart\n", name);
            }
            fprintf(out, "%s%d", line + chunk ? ", " : "", at(0));
        }
    }
    fprintf(out, "],\n");
}

template <GMMA::Major kMajor, class Layout>
void descriptor(const char* name, Layout layout) {
    const auto tensor = make_tensor(make_smem_ptr(static_cast<bf16*>(nullptr)), layout);
    const auto operand = local_tile(tensor, make_shape(Int<128>{}, Int<16>{}), make_coord(0, 0));
    fprintf(out, "\"%s\": %llu,\n", name, static_cast<unsigned long long>(GMMA::make_gmma_desc<kMajor>(operand).desc_));
}

// Row and column of each register of each thread.
template <int N>
void sums(const char* name, bool is_last) {
    const GMMA::CLayout_64xN<N> layout;
    fprintf(out, "\"%s\": [", name);
    for (int thread = 0; thread < 128; thread++) {
        for (int value = 0; value < N / 2; value++) {
            const int at = layout(thread, value);
            fprintf(out, "%s[%d, %d]", thread + value ? ", " : "", at % 64, at / 64);
        }
    }
    fprintf(out, "]%s\n", is_last ? "" : ",");
}

int main(int, char** arguments) {
    out = fopen(arguments[1], "w");
    // Of MN-major operands the positions of k come first: panels of 64 rows or columns, one behind the other.
    const auto k_major = tile_to_shape(GMMA::Layout_K_SW128_Atom<bf16>{}, make_shape(Int<128>{}, Int<64>{}));
    const auto mn_major =
        tile_to_shape(GMMA::Layout_MN_SW128_Atom<bf16>{}, make_shape(Int<128>{}, Int<64>{}), Step<_2, _1>{});
    fprintf(out, "{\n");
    // As they are, layouts swizzle addresses; these swizzle offsets.
    offsets<1>("k_major", as_position_independent_swizzle_layout(k_major));
    offsets<0>("mn_major", as_position_independent_swizzle_layout(mn_major));
    descriptor<GMMA::Major::K>("k_major_operand", k_major);
    descriptor<GMMA::Major::MN>("mn_major_operand", mn_major);
    sums<64>("sums_64x64", false);
    sums<128>("sums_64x128", true);
    fprintf(out, "}\n");
}
"""

package = pathlib.Path(importlib.util.find_spec("cutlass_library").origin).parent
toolkit = package.parent / "nvidia" / "cu13" / "include"
with tempfile.TemporaryDirectory() as folder:
    source, program = pathlib.Path(folder, "cute.cpp"), pathlib.Path(folder, "cute")
    source.write_text(PROGRAM)
    includes = [f"-I{package / 'source' / 'include'}", f"-I{toolkit}", f"-I{toolkit / 'cccl'}"]
    subprocess.run(["c++", "-std=c++17", "-O1", "-w", *includes, source, "-o", program], check=True)
    tables = pathlib.Path(folder, "tables.json")
    subprocess.run([program, tables], check=True, stdout=subprocess.DEVNULL)
    tables = json.loads(tables.read_text())
golden = pathlib.Path(__file__).with_suffix(".json")
lines = [f" {json.dumps(name)}: {json.dumps(table, separators=(',', ':'))}" for name, table in tables.items()]
golden.write_text("{\n" + ",\n".join(lines) + "\n}\n")
