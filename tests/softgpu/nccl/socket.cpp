#include "socket.hpp"

#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "codes.hpp"
#include "tell.hpp"

namespace nccl_double {
namespace {

constexpr useconds_t kRetryMicroseconds = 50'000;

sockaddr_in resolve(const std::string& address) {
    const size_t colon = address.rfind(':');
    addrinfo hints = {}, *found = nullptr;
    hints.ai_family = AF_INET;
    hints.ai_socktype = SOCK_STREAM;
    hints.ai_flags = AI_NUMERICSERV;
    if (colon == std::string::npos || colon == 0 || colon + 1 == address.size() ||
        getaddrinfo(address.substr(0, colon).c_str(), address.substr(colon + 1).c_str(), &hints, &found) != 0) {
        throw Refusal{kInvalidArgument, "violation", concat("`", address, "` is not HOST:PORT of IPv4")};
    }
    sockaddr_in resolved;
    memcpy(&resolved, found->ai_addr, sizeof resolved);
    freeaddrinfo(found);
    return resolved;
}

Socket new_socket() {
    Socket socket(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (!socket.is_open()) throw Refusal{kSystemError, "failed", concat("socket: ", strerror(errno))};
    return socket;
}

void send_at_once(const Socket& socket) {
    const int on = 1;
    setsockopt(socket.file(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

// Where nobody listens on a port that the system may also give to whoever connects, a socket can reach itself.
bool reaches_itself(const Socket& socket) {
    sockaddr_in own = {}, other = {};
    socklen_t own_size = sizeof own, other_size = sizeof other;
    return getsockname(socket.file(), reinterpret_cast<sockaddr*>(&own), &own_size) != 0 ||
           getpeername(socket.file(), reinterpret_cast<sockaddr*>(&other), &other_size) != 0 ||
           (own.sin_port == other.sin_port && own.sin_addr.s_addr == other.sin_addr.s_addr);
}

void wait_until(const Socket& socket, short event) {
    pollfd entry = {socket.file(), event, 0};
    poll(&entry, 1, -1);
}

// Repeats `step`, which gives what it has moved, until all has been.
template <class Step>
bool move_all(const Socket& socket, size_t num_bytes, short event, Step step) {
    for (size_t done = 0; done < num_bytes;) {
        const ssize_t moved = step(done);
        if (moved > 0) {
            done += static_cast<size_t>(moved);
        } else if (moved < 0 && errno == EAGAIN) {
            wait_until(socket, event);
        } else if (moved == 0 || errno != EINTR) {
            return false;
        }
    }
    return true;
}

}  // namespace

Socket::~Socket() {
    if (file_ >= 0) close(file_);
}

void check_address(const std::string& address) { resolve(address); }

Socket listen_at(const std::string& address) {
    const sockaddr_in resolved = resolve(address);
    Socket socket = new_socket();
    const int on = 1;
    setsockopt(socket.file(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(socket.file(), reinterpret_cast<const sockaddr*>(&resolved), sizeof resolved) != 0 ||
        listen(socket.file(), SOMAXCONN) != 0 || fcntl(socket.file(), F_SETFL, O_NONBLOCK) != 0) {
        throw Refusal{kSystemError, "failed", concat("cannot listen at ", address, ": ", strerror(errno))};
    }
    return socket;
}

Socket connect_to(const std::string& address) {
    const sockaddr_in resolved = resolve(address);
    while (true) {
        Socket socket = new_socket();
        if (connect(socket.file(), reinterpret_cast<const sockaddr*>(&resolved), sizeof resolved) == 0 &&
            !reaches_itself(socket)) {
            send_at_once(socket);
            return socket;
        }
        socket = Socket();
        usleep(kRetryMicroseconds);
    }
}

Socket accept_from(const Socket& listener) {
    Socket socket(accept4(listener.file(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (socket.is_open()) send_at_once(socket);
    return socket;
}

std::pair<Socket, Socket> socket_pair() {
    int files[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, files) != 0) {
        throw Refusal{kSystemError, "failed", concat("socketpair: ", strerror(errno))};
    }
    std::pair<Socket, Socket> ends(files[0], files[1]);
    fcntl(files[0], F_SETFL, O_NONBLOCK);
    return ends;
}

bool send_all(const Socket& socket, const void* bytes, size_t num_bytes) {
    const auto* from = static_cast<const char*>(bytes);
    return move_all(socket, num_bytes, POLLOUT, [&](size_t done) {
        return send(socket.file(), from + done, num_bytes - done, MSG_NOSIGNAL);
    });
}

bool receive_all(const Socket& socket, void* bytes, size_t num_bytes) {
    auto* to = static_cast<char*>(bytes);
    return move_all(socket, num_bytes, POLLIN,
                    [&](size_t done) { return recv(socket.file(), to + done, num_bytes - done, 0); });
}

bool is_readable(const Socket& socket) {
    pollfd entry = {socket.file(), POLLIN, 0};
    return poll(&entry, 1, 0) > 0;
}

}  // namespace nccl_double
