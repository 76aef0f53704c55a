// What has happened in this process: counted, and written as one line of JSON at exit where NCCL_DOUBLE_REPORT
// asks for it.
#pragma once

#include <cstdint>
#include <string>

namespace nccl_double {

// Gives how many calls of the function there have been with this one.
uint64_t count_call(const std::string& function);

void count_bytes_sent(uint64_t num_bytes);

// A process has the rank of the communicator that it asked for last; -1 before there is one.
void set_rank(int rank, int num_ranks);
int rank_of_process();

void count_joined();
void count_destroyed();

}  // namespace nccl_double
