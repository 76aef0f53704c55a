// What a process of a case has: a GPU with a stream, and a communicator.
#include "selftest.hpp"

namespace selftest {

Process& self() {
    static Process process;
    return process;
}

void open_gpu() {
    void* context = nullptr;
    check_equal("cuInit", call("cuInit", 0u), 0);
    check_equal("cuDevicePrimaryCtxRetain", call("cuDevicePrimaryCtxRetain", &context, 0), 0);
    call("cuCtxSetCurrent", context);
    check_equal("cuStreamCreate", call("cuStreamCreate", &self().stream, 1u), 0);
}

int join_as(int rank, int num_ranks) {
    UniqueId id;
    check_equal("ncclGetUniqueId", call("ncclGetUniqueId", &id), 0);
    return call("ncclCommInitRank", &self().communicator, num_ranks, id, rank);
}

void join() {
    open_gpu();
    check_equal("ncclCommInitRank", join_as(self().rank, self().num_ranks), 0);
}

void leave() {
    check_equal("ncclCommDestroy", call("ncclCommDestroy", self().communicator), 0);
    close_gpu();
}

void close_gpu() {
    check_equal("cuStreamDestroy", call("cuStreamDestroy_v2", self().stream), 0);
    check_equal("cuDevicePrimaryCtxRelease", call("cuDevicePrimaryCtxRelease_v2", 0), 0);
}

Buffer::Buffer(size_t num_bytes) : num_bytes_(num_bytes) {
    check_equal("cuMemAlloc", call("cuMemAlloc_v2", &address_, num_bytes), 0);
}

Buffer::~Buffer() {
    call("cuStreamSynchronize", self().stream);
    call("cuMemFree_v2", address_);
}

void Buffer::write(const void* from) { call("cuMemcpyHtoDAsync_v2", address_, from, num_bytes_, self().stream); }

void Buffer::read(void* to) const { call("cuMemcpyDtoHAsync_v2", to, address_, num_bytes_, self().stream); }

int send(const void* from, size_t count, int type, int peer) {
    return call("ncclSend", from, count, type, peer, self().communicator, self().stream);
}

int receive(void* to, size_t count, int type, int peer) {
    return call("ncclRecv", to, count, type, peer, self().communicator, self().stream);
}

int all_gather(const void* from, void* to, size_t count, int type) {
    return call("ncclAllGather", from, to, count, type, self().communicator, self().stream);
}

int all_reduce(const void* from, void* to, size_t count, int type, int reduction) {
    return call("ncclAllReduce", from, to, count, type, reduction, self().communicator, self().stream);
}

int broadcast(const void* from, void* to, size_t count, int type, int root) {
    return call("ncclBroadcast", from, to, count, type, root, self().communicator, self().stream);
}

int async_error() {
    int code = -1;
    check_equal("ncclCommGetAsyncError", call("ncclCommGetAsyncError", self().communicator, &code), 0);
    return code;
}

std::string last_error() {
    return reinterpret_cast<const char* (*)(void*)>(find_symbol("ncclGetLastError"))(self().communicator);
}

}  // namespace selftest
