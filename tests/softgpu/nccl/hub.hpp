// Where the ranks' messages meet: a thread of rank 0's process.
#pragma once

#include "socket.hpp"

namespace nccl_double {

// Serves ranks that connect to the listener, and rank 0 at this end of a pair, until rank 0 closes the other one.
void start_hub(Socket listener, Socket rank_0, int num_ranks);

}  // namespace nccl_double
