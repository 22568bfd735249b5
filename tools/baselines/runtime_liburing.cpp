// SPDX-License-Identifier: Apache-2.0

// The echo rows of tools/bench's `runtime` by hand against liburing, as the floor that a library over io_uring cannot
// get below: one multishot accept, a multishot receive a connection into a ring of provided buffers, each answer sent
// from the buffer that the request came in, and one kernel entry a pass. Nothing else is looked after: no limits, no
// short sends. Needs Linux 6.0.

#include "runtime.hpp"

#include <arpa/inet.h>
#include <array>
#include <liburing.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/mman.h>

namespace {

constexpr unsigned buffers = 1024;
constexpr unsigned size = 2048;
constexpr std::size_t name_bytes = sizeof(sockaddr_in6);

enum class kind : std::uint64_t { accept, receive, send };

constexpr std::uint64_t tag(kind what, int fd, unsigned buffer = 0) {
    return static_cast<std::uint64_t>(what) << 56 | std::uint64_t{buffer} << 32 | static_cast<std::uint32_t>(fd);
}

[[noreturn]] void fail(int error, const char* what) { throw std::system_error(error, std::generic_category(), what); }

class server {
public:
    explicit server(bool udp) : udp_(udp) {
        io_uring_params parameters{};
        parameters.flags =
            IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_SUBMIT_ALL | IORING_SETUP_CQSIZE;
        parameters.cq_entries = 4 * buffers;
        if (const int result = ::io_uring_queue_init_params(buffers, &ring_, &parameters); result < 0)
            fail(-result, "set up an io_uring");
        ::io_uring_register_ring_fd(&ring_);
        set_up_buffers();
        listen();
    }

    void run() {
        for (;;) {
            const int result = ::io_uring_submit_and_wait(&ring_, 1);
            if (result < 0 && result != -EINTR) fail(-result, "wait for the io_uring");
            unsigned head = 0;
            unsigned seen = 0;
            const io_uring_cqe* event = nullptr;
            io_uring_for_each_cqe(&ring_, head, event) {
                handle(*event);
                ++seen;
            }
            ::io_uring_cq_advance(&ring_, seen);
        }
    }

private:
    void set_up_buffers() {
        const std::size_t ring_bytes = buffers * sizeof(io_uring_buf);
        void* memory = ::mmap(nullptr, ring_bytes + buffers * size, PROT_READ | PROT_WRITE,
                              MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
        if (memory == MAP_FAILED) fail(errno, "allocate buffers");
        group_ = static_cast<io_uring_buf_ring*>(memory);
        storage_ = static_cast<char*>(memory) + ring_bytes;
        io_uring_buf_reg group{};
        group.ring_addr = reinterpret_cast<std::uintptr_t>(memory);
        group.ring_entries = buffers;
        if (const int result = ::io_uring_register_buf_ring(&ring_, &group, 0); result < 0)
            fail(-result, "register a ring of buffers");
        ::io_uring_buf_ring_init(group_);
        for (unsigned buffer = 0; buffer < buffers; ++buffer) give_back(buffer);
        shape_.msg_namelen = name_bytes;
    }

    void listen() {
        const int fd = ::socket(AF_INET, (udp_ ? SOCK_DGRAM : SOCK_STREAM) | SOCK_CLOEXEC, 0);
        sockaddr_in address{};
        address.sin_family = AF_INET;
        address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        if (::bind(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) < 0) fail(errno, "bind");
        if (!udp_ && ::listen(fd, 128) < 0) fail(errno, "listen");
        socklen_t length = sizeof address;
        ::getsockname(fd, reinterpret_cast<sockaddr*>(&address), &length);
        runtime::announce(ntohs(address.sin_port));
        if (udp_)
            receive(fd);
        else
            accept(fd);
    }

    io_uring_sqe& next_entry() {
        for (;;) {
            if (io_uring_sqe* entry = ::io_uring_get_sqe(&ring_)) return *entry;
            ::io_uring_submit(&ring_);
        }
    }

    void accept(int fd) {
        io_uring_sqe& entry = next_entry();
        ::io_uring_prep_multishot_accept(&entry, fd, nullptr, nullptr, 0);
        entry.user_data = tag(kind::accept, fd);
    }

    void receive(int fd) {
        io_uring_sqe& entry = next_entry();
        if (udp_)
            ::io_uring_prep_recvmsg_multishot(&entry, fd, &shape_, 0);
        else
            ::io_uring_prep_recv_multishot(&entry, fd, nullptr, 0, 0);
        entry.flags = IOSQE_BUFFER_SELECT;
        entry.user_data = tag(kind::receive, fd);
    }

    char* place(unsigned buffer) const { return storage_ + std::size_t{buffer} * size; }

    void give_back(unsigned buffer) {
        ::io_uring_buf_ring_add(group_, place(buffer), size, static_cast<std::uint16_t>(buffer),
                                ::io_uring_buf_ring_mask(buffers), 0);
        ::io_uring_buf_ring_advance(group_, 1);
    }

    void answer(int fd, unsigned buffer, unsigned length) {
        io_uring_sqe& entry = next_entry();
        if (udp_) {
            auto* head = reinterpret_cast<io_uring_recvmsg_out*>(place(buffer));
            message& m = messages_[buffer];
            m.payload = {place(buffer) + sizeof *head + name_bytes, head->payloadlen};
            m.header = msghdr{};
            m.header.msg_name = head + 1;
            m.header.msg_namelen = head->namelen;
            m.header.msg_iov = &m.payload;
            m.header.msg_iovlen = 1;
            ::io_uring_prep_sendmsg(&entry, fd, &m.header, 0);
        } else {
            ::io_uring_prep_send(&entry, fd, place(buffer), length, MSG_NOSIGNAL);
        }
        entry.user_data = tag(kind::send, fd, buffer);
    }

    void handle(const io_uring_cqe& event) {
        const auto fd = static_cast<int>(event.user_data & 0xffff'ffff);
        switch (static_cast<kind>(event.user_data >> 56)) {
        case kind::accept:
            if (event.res < 0) fail(-event.res, "accept");
            welcome(event.res);
            break;
        case kind::receive:
            if (event.res > 0 && (event.flags & IORING_CQE_F_BUFFER) != 0)
                answer(fd, event.flags >> IORING_CQE_BUFFER_SHIFT, static_cast<unsigned>(event.res));
            if ((event.flags & IORING_CQE_F_MORE) != 0) break;
            if (event.res > 0 || event.res == -ENOBUFS)
                receive(fd);
            else
                ::close(fd);
            break;
        case kind::send: give_back(static_cast<unsigned>(event.user_data >> 32) & 0xffff); break;
        }
    }

    void welcome(int fd) {
        const int one = 1;
        ::setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        receive(fd);
    }

    struct message {
        msghdr header{};
        iovec payload{};
    };

    bool udp_;
    io_uring ring_{};
    io_uring_buf_ring* group_ = nullptr;
    char* storage_ = nullptr;
    msghdr shape_{};
    std::array<message, buffers> messages_;
};

void row_tcp(runtime::meter&) { server(false).run(); }
void row_udp(runtime::meter&) { server(true).run(); }

} // namespace

int main(int argc, char** argv) { return runtime::run_row(argc, argv, {{"tcp", row_tcp}, {"udp", row_udp}}); }
