// One kernel file, named by KERNEL_FILE, as a translation unit of the host. The plain and the checked compilation of a
// file live in one program; the namespace keeps their inline functions apart.
#include "host.h"

#ifdef RESIDUUM_SIMT_CHECKED
namespace simt_checked {
#else
namespace simt_plain {
#endif
#include KERNEL_FILE

// What build.rs says about the argument structs: Rust fills them in by that.
#ifdef KERNEL_LAYOUT
KERNEL_LAYOUT
#endif
}
