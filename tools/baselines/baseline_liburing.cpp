// SPDX-License-Identifier: Apache-2.0

// The best loop known to us for this work when it is written by hand against liburing: one multishot read a device
// into a ring of provided buffers, each packet written from the buffer it arrived in, and one kernel entry a pass that
// submits all writes of the pass and waits for more. Needs Linux 6.7 (READ_MULTISHOT); liburing 2.3 is enough.
//
// A buffer is in one place at a time: in its group's ring, in a completion of the read, or in a write. There are
// fewer buffers than completion queue entries, so the completion queue cannot overflow.

#include "devices.hpp"

#include <array>
#include <memory>

#include <liburing.h>
#include <poll.h>
#include <sys/mman.h>

namespace {

constexpr auto op_read_multishot = std::uint8_t{49}; // IORING_OP_READ_MULTISHOT, absent from headers before 6.7

constexpr unsigned buffers = 128; // for each direction; also the most packets it moves in one pass
constexpr unsigned submission_entries = 2 * buffers;
constexpr unsigned completion_entries = 4 * buffers;

enum class kind : std::uint64_t { read, write, stop };

constexpr std::uint64_t tag(kind what, unsigned direction, unsigned buffer = 0) {
    return static_cast<std::uint64_t>(what) << 32 | std::uint64_t{direction} << 16 | buffer;
}

/// Packets read from device `index` and written to the other one. `index` is also its buffer group, and the number
/// of its descriptor among the ring's registered files.
struct direction {
    unsigned index = 0;
    bool armed = false;
    unsigned available = 0; // buffers that the kernel can see
    unsigned returned = 0;  // buffers put back in this pass, which it cannot see yet
    io_uring_buf_ring* ring = nullptr;
    char* storage = nullptr;
};

[[noreturn]] void fail(int result, const std::string& what) {
    errno = -result;
    baseline::fail(what);
}

class forwarder {
public:
    explicit forwarder(const baseline::options& options);
    ~forwarder() { ::io_uring_queue_exit(&ring_); }
    forwarder(const forwarder&) = delete;
    forwarder& operator=(const forwarder&) = delete;

    baseline::counters run();

private:
    void set_up_buffers(direction& way);
    io_uring_sqe& next_entry();
    void arm(direction& way);
    void arm_stop();
    void handle(const io_uring_cqe& event);
    void handle_read(direction& way, const io_uring_cqe& event);
    void handle_write(direction& way, const io_uring_cqe& event);
    void queue_write(direction& way, unsigned buffer, unsigned length);
    void give_back(direction& way, unsigned buffer);
    void end_pass(direction& way);

    baseline::descriptor stop_;
    std::array<baseline::descriptor, 2> devices_;
    std::array<direction, 2> ways_;
    std::size_t stride_;
    io_uring ring_{};
    baseline::counters total_;
    bool stopping_ = false;
};

forwarder::forwarder(const baseline::options& options)
    : stop_(baseline::open_stop_signal()),
      devices_{baseline::open_device(options.a, options), baseline::open_device(options.b, options)},
      stride_((baseline::largest_packet(options) + 63) / 64 * 64) {
    io_uring_params parameters{};
    parameters.flags =
        IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_SUBMIT_ALL | IORING_SETUP_CQSIZE;
    parameters.cq_entries = completion_entries;
    if (const int result = ::io_uring_queue_init_params(submission_entries, &ring_, &parameters); result < 0)
        fail(result, "set up an io_uring");
    ::io_uring_register_ring_fd(&ring_);
    const std::array<int, 3> files{devices_[0].get(), devices_[1].get(), stop_.get()};
    if (const int result = ::io_uring_register_files(&ring_, files.data(), static_cast<unsigned>(files.size()));
        result < 0)
        fail(result, "register the descriptors");
    for (unsigned i = 0; i < ways_.size(); ++i) {
        ways_[i].index = i;
        set_up_buffers(ways_[i]);
    }
}

/// One mapping holds the ring of the group, which must begin a page, and after it the packets.
void forwarder::set_up_buffers(direction& way) {
    const std::size_t ring_bytes = std::max<std::size_t>(buffers * sizeof(io_uring_buf), 4096);
    void* memory = ::mmap(nullptr, ring_bytes + buffers * stride_, PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (memory == MAP_FAILED) baseline::fail("allocate packet buffers");
    way.ring = static_cast<io_uring_buf_ring*>(memory);
    way.storage = static_cast<char*>(memory) + ring_bytes;

    io_uring_buf_reg group{};
    group.ring_addr = reinterpret_cast<std::uintptr_t>(memory);
    group.ring_entries = buffers;
    group.bgid = static_cast<std::uint16_t>(way.index);
    if (const int result = ::io_uring_register_buf_ring(&ring_, &group, 0); result < 0)
        fail(result, "register a ring of buffers");
    ::io_uring_buf_ring_init(way.ring);
    for (unsigned buffer = 0; buffer < buffers; ++buffer) give_back(way, buffer);
    end_pass(way);
}

io_uring_sqe& forwarder::next_entry() {
    for (;;) {
        if (io_uring_sqe* entry = ::io_uring_get_sqe(&ring_)) return *entry;
        if (const int result = ::io_uring_submit(&ring_); result < 0) fail(result, "submit to the io_uring");
    }
}

void forwarder::arm(direction& way) {
    io_uring_sqe& entry = next_entry();
    ::io_uring_prep_rw(op_read_multishot, &entry, static_cast<int>(way.index), nullptr, 0, ~std::uint64_t{0});
    entry.flags = IOSQE_FIXED_FILE | IOSQE_BUFFER_SELECT;
    entry.buf_group = static_cast<std::uint16_t>(way.index);
    entry.user_data = tag(kind::read, way.index);
    way.armed = true;
}

void forwarder::arm_stop() {
    io_uring_sqe& entry = next_entry();
    ::io_uring_prep_poll_add(&entry, 2, POLLIN);
    entry.flags = IOSQE_FIXED_FILE;
    entry.user_data = tag(kind::stop, 0);
}

void forwarder::give_back(direction& way, unsigned buffer) {
    ::io_uring_buf_ring_add(way.ring, way.storage + buffer * stride_, static_cast<unsigned>(stride_),
                            static_cast<std::uint16_t>(buffer), ::io_uring_buf_ring_mask(buffers),
                            static_cast<int>(way.returned++));
}

void forwarder::queue_write(direction& way, unsigned buffer, unsigned length) {
    io_uring_sqe& entry = next_entry();
    ::io_uring_prep_rw(IORING_OP_WRITE, &entry, static_cast<int>(way.index ^ 1), way.storage + buffer * stride_, length,
                       ~std::uint64_t{0});
    entry.flags = IOSQE_FIXED_FILE;
    entry.user_data = tag(kind::write, way.index, buffer);
}

/// The completion that ends the multishot may carry a packet, so the packet comes first. Want of buffers is no error.
void forwarder::handle_read(direction& way, const io_uring_cqe& event) {
    if ((event.flags & IORING_CQE_F_BUFFER) != 0) {
        --way.available;
        const unsigned buffer = event.flags >> IORING_CQE_BUFFER_SHIFT;
        if (event.res > 0)
            queue_write(way, buffer, static_cast<unsigned>(event.res));
        else
            give_back(way, buffer);
    }
    if ((event.flags & IORING_CQE_F_MORE) == 0) way.armed = false;
    if (event.res < 0 && event.res != -ENOBUFS && event.res != -EAGAIN && event.res != -EINTR)
        fail(event.res, "read from a device");
}

void forwarder::handle_write(direction& way, const io_uring_cqe& event) {
    give_back(way, static_cast<unsigned>(event.user_data & 0xffff));
    if (event.res >= 0)
        ++total_.forwarded;
    else if (baseline::is_transient(-event.res))
        ++total_.refused;
    else
        fail(event.res, "write to a device");
}

void forwarder::handle(const io_uring_cqe& event) {
    direction& way = ways_[(event.user_data >> 16) & 1];
    switch (static_cast<kind>(event.user_data >> 32)) {
    case kind::read: return handle_read(way, event);
    case kind::write: return handle_write(way, event);
    case kind::stop: stopping_ = true;
    }
}

/// Shows the kernel the buffers of this pass, and arms a read that has ended. Looking here, after each pass, covers
/// both cases of want: buffers that come back later, and buffers that came back before the read's end was seen.
void forwarder::end_pass(direction& way) {
    if (way.returned != 0) {
        ::io_uring_buf_ring_advance(way.ring, static_cast<int>(way.returned));
        way.available += std::exchange(way.returned, 0u);
    }
    if (!way.armed && way.available != 0) arm(way);
}

baseline::counters forwarder::run() {
    arm_stop();
    while (!stopping_) {
        const int result = ::io_uring_submit_and_wait(&ring_, 1);
        if (result < 0 && result != -EINTR && result != -EAGAIN && result != -EBUSY)
            fail(result, "wait for the io_uring");
        unsigned head = 0;
        unsigned seen = 0;
        const io_uring_cqe* event = nullptr;
        io_uring_for_each_cqe(&ring_, head, event) {
            handle(*event);
            ++seen;
        }
        ::io_uring_cq_advance(&ring_, seen);
        for (auto& way : ways_) end_pass(way);
    }
    return total_;
}

} // namespace

int main(int argc, char** argv) {
    return baseline::run_baseline(argc, argv, [](const baseline::options& options) {
        const auto loop = std::make_unique<forwarder>(options);
        return loop->run();
    });
}
