// Connections between the processes.
#pragma once

#include <cstddef>
#include <string>
#include <utility>

namespace nccl_double {

class Socket {
 public:
    Socket() = default;
    explicit Socket(int file) : file_(file) {}
    Socket(Socket&& other) noexcept : file_(std::exchange(other.file_, -1)) {}
    Socket& operator=(Socket&& other) noexcept {
        std::swap(file_, other.file_);
        return *this;
    }
    ~Socket();

    int file() const { return file_; }
    bool is_open() const { return file_ >= 0; }

 private:
    int file_ = -1;
};

// Addresses are HOST:PORT of IPv4; throws a Refusal of one that is not.
void check_address(const std::string& address);

Socket listen_at(const std::string& address);

// Tries until somebody listens there.
Socket connect_to(const std::string& address);

// One that does not block; nothing where nobody is waiting any more.
Socket accept_from(const Socket& listener);

// Two ends within this process, of which the first does not block.
std::pair<Socket, Socket> socket_pair();

// Both wait as long as it takes; false where the other end is gone.
bool send_all(const Socket& socket, const void* bytes, size_t num_bytes);
bool receive_all(const Socket& socket, void* bytes, size_t num_bytes);

bool is_readable(const Socket& socket);

}  // namespace nccl_double
