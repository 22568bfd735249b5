// SPDX-License-Identifier: Apache-2.0
#include "ring/uring.hpp"

#include "ring/at_once.hpp"
#include "ring/entry.hpp"
#include "ring/gathering.hpp"
#include "ring/kernel.hpp"
#include "ring/process.hpp"
#include "ring/removal.hpp"
#include "ring/set_up.hpp"
#include "ring/wake.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cassert>
#include <cerrno>
#include <cstring>
#include <liburing.h>
#include <poll.h>
#include <string>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <system_error>
#include <unistd.h>
#include <utility>
#include <vector>

namespace cotun::ring {
namespace {

constexpr token wake_token = ~token{0};                             // the poll of the eventfd
constexpr token ignored_token = ~token{0} - 1;                      // cancels: what matters is the target's completion
constexpr token woken_token = ~token{0} - 2;                        // another driver's message
constexpr token message_token = ~token{0} - 4 - wake_targets::most; // and the target's number: a message of our own
constexpr unsigned own_requests = 4; // two entries each: the poll of the eventfd, messages, one to spare
constexpr unsigned most_messages = 2 * own_requests - 2; // queued at a time
constexpr unsigned file_table = 256;
constexpr std::chrono::hours longest_wait{24};
constexpr unsigned gathered = 4096; // completions: more than come while a wait gathers

[[noreturn]] void fail(int error, const std::string& what) {
    throw std::system_error(error, std::generic_category(), what);
}

// A group: a provided-buffer ring in pages of its own.
struct buffer_group {
    io_uring_buf_ring* ring = nullptr;
    std::size_t bytes = 0;
    unsigned entries = 0;
};

class uring final : public at_once {
public:
    explicit uring(const uring_options& options);
    ~uring() override;

    unsigned capacity() const noexcept override { return owned_.requests; }
    unsigned buffer_capacity() const noexcept override { return owned_.buffers; }
    bool supports(feature f) const noexcept override { return supported_[static_cast<std::size_t>(f)]; }
    void lacks(feature f) noexcept override { supported_[static_cast<std::size_t>(f)] = false; }

    file attach(int descriptor) override;
    void detach(file&) noexcept override;

    std::uint16_t add_group(unsigned entries) override;
    void provide(std::uint16_t group, std::span<const group_buffer>) noexcept override;
    void remove_group(std::uint16_t group) noexcept override;

    void read_multishot(token, file, std::uint16_t group) noexcept override;
    void receive_multishot(token, file, const msghdr&, std::uint16_t group) noexcept override;
    void receive(token, file, std::uint16_t group, bool multishot) noexcept override;
    void accept(token, file, bool multishot) noexcept override;
    void connect(token, file, const sockaddr*, socklen_t) noexcept override;
    void poll(token, file, short events, bool multishot) noexcept override;
    void write(token, file, std::span<const std::byte>) noexcept override;
    void write_gathered(token, file, std::span<const iovec>) noexcept override;
    void send(token, file, std::span<const std::byte>) noexcept override;
    void send_message(token, file, const msghdr&) noexcept override;
    void try_send(token, file, std::span<const std::byte>) noexcept override;
    void try_send_message(token, file, const msghdr&) noexcept override;
    void report_sends() noexcept override { report_sends_ = true; }
    void cancel(token) noexcept override;

    std::size_t enter(bool wait, std::optional<clock::time_point> deadline, std::span<completion>) override;
    void wake() noexcept override { waker_->wake(); }
    std::shared_ptr<waker> share_waker() const noexcept override { return waker_; }
    bool send_wake(const std::shared_ptr<waker>& target) noexcept override;
    driver_statistics statistics() const noexcept override;

private:
    void find_features();
    void enable();
    void register_ring() noexcept;
    void check_thread() noexcept;
    void arm_wake() noexcept;
    io_uring_sqe& prepare(std::uint8_t opcode, file, token) noexcept;
    int enter_kernel(bool wait, std::optional<clock::time_point> deadline);
    void after_enter(int result);
    bool poll_busily(std::optional<clock::time_point> deadline);
    std::size_t reap(std::span<completion>) noexcept;
    bool take(const io_uring_cqe&, completion&) noexcept;
    void message_failed(unsigned target, int error) noexcept;

    const process_mark process_; // in a child of it, nothing is done: the ring's queues are the parent's
    owned_ring owned_;
    io_uring& ring_{owned_.ring};
    bool enabled_ = false;
    // As liburing has it: a flag that says whether the descriptor is an index.
    struct entry_way {
        decltype(io_uring::int_flags) flags;
        int descriptor;
    };
    std::uint64_t owner_ = 0; // the thread that the ring's descriptor is registered with; 0: none
    entry_way registered_{};
    const std::shared_ptr<uring_waker> waker_;
    wake_targets targets_;
    unsigned messages_queued_ = 0;
    std::array<bool, features> supported_{true, true, true, true};
    std::vector<buffer_group> groups_;
    std::vector<int> free_files_;
    unsigned fruitless_enters_ = 0;
    unsigned sends_at_once_ = 0; // queued: completions that will be there when the wait begins
    bool report_sends_ = false;
    gathering gathering_{std::chrono::microseconds(0)};
    std::chrono::microseconds busy_poll_;
    io_uring_sqe unused_{}; // what a child fills
    driver_statistics statistics_;
};

uring::uring(const uring_options& options)
    : owned_(options, own_requests),
      waker_(std::make_shared<uring_waker>(ring_.ring_fd)),
      busy_poll_(options.busy_poll) {
    if (coalesces(ring_)) gathering_ = gathering(options.coalesce);
    find_features();
    if (!options.messages) lacks(feature::message_ring);
    rlimit files{};
    getrlimit(RLIMIT_NOFILE, &files);
    const auto table = static_cast<unsigned>(std::min<rlim_t>(file_table, files.rlim_cur));
    if (options.registered_files && removal_is_immediate() && io_uring_register_files_sparse(&ring_, table) == 0)
        for (unsigned i = table; i-- > 0;) free_files_.push_back(static_cast<int>(i));
}

uring::~uring() {
    check_thread();
    waker_->leave(ring_, waker_.use_count() > 1);
    owned_.close();
    for (buffer_group& g : groups_)
        if (g.ring != nullptr) munmap(g.ring, g.bytes);
}

void uring::find_features() {
    io_uring_probe* probe = io_uring_get_probe_ring(&ring_);
    if (probe == nullptr) return; // then the first arm tells
    if (!io_uring_opcode_supported(probe, kernel::op_read_multishot)) lacks(feature::read_multishot);
    if (!io_uring_opcode_supported(probe, IORING_OP_MSG_RING)) lacks(feature::message_ring);
    io_uring_free_probe(probe);
}

// The ring belongs to the thread that enables it; so this waits for the first enter.
void uring::enable() {
    // Not by liburing's io_uring_enable_rings(): the shared library of 2.3 does not have it.
    if (syscall(__NR_io_uring_register, ring_.ring_fd, IORING_REGISTER_ENABLE_RINGS, nullptr, 0) < 0)
        fail(errno, "reactor: enabling the ring");
    register_ring();
    enabled_ = true;
    arm_wake();
}

void uring::register_ring() noexcept {
    if (io_uring_register_ring_fd(&ring_) != 1) return; // it saves a look-up per enter, and is not needed
    owner_ = this_thread_number();
    registered_ = {ring_.int_flags, ring_.enter_ring_fd};
}

// A ring's descriptor is registered as an index in a table of the thread's own: on any other thread, and in a child, it
// names nothing, or another ring. There the plain descriptor is used. On its own the index is, in the end too: the
// table would keep the ring until the thread has ended.
void uring::check_thread() noexcept {
    if (owner_ == 0) return;
    const bool here = owner_ == this_thread_number() && !process_.forked();
    const entry_way way = here ? registered_ : entry_way{0, ring_.ring_fd};
    ring_.int_flags = way.flags;
    ring_.enter_ring_fd = way.descriptor;
}

file uring::attach(int descriptor) {
    check_thread();
    file f{descriptor, -1};
    if (free_files_.empty() || process_.forked()) return f;
    const int index = free_files_.back();
    if (io_uring_register_files_update(&ring_, static_cast<unsigned>(index), &descriptor, 1) == 1) {
        free_files_.pop_back();
        f.registered = index;
    }
    return f;
}

void uring::detach(file& f) noexcept {
    check_thread();
    if (f.registered >= 0 && !process_.forked()) {
        const int none = -1;
        io_uring_register_files_update(&ring_, static_cast<unsigned>(f.registered), &none, 1);
        free_files_.push_back(f.registered);
    }
    f = file{};
}

std::uint16_t uring::add_group(unsigned entries) {
    assert(std::has_single_bit(entries) && entries <= 32768);
    if (process_.forked()) refuse_forked("a ring of buffers");
    check_thread();
    const auto unused = std::find_if(groups_.begin(), groups_.end(), [](const auto& g) { return g.ring == nullptr; });
    const auto id = static_cast<std::uint16_t>(unused - groups_.begin());
    if (unused == groups_.end()) groups_.emplace_back();

    buffer_group g;
    g.entries = entries;
    g.bytes = entries * sizeof(io_uring_buf);
    void* memory = mmap(nullptr, g.bytes, PROT_READ | PROT_WRITE, MAP_ANONYMOUS | MAP_PRIVATE, -1, 0);
    if (memory == MAP_FAILED) fail(errno, "reactor: memory for a ring of buffers");
    g.ring = static_cast<io_uring_buf_ring*>(memory);
    io_uring_buf_ring_init(g.ring);

    io_uring_buf_reg registration{};
    registration.ring_addr = reinterpret_cast<std::uintptr_t>(memory);
    registration.ring_entries = entries;
    registration.bgid = id;
    const int result = io_uring_register_buf_ring(&ring_, &registration, 0);
    if (result < 0) {
        munmap(memory, g.bytes);
        fail(-result, "reactor: registering a ring of buffers (needs Linux 5.19; ENOMEM: raise `ulimit -l`; EEXIST: "
                      "the reactor runs on another thread)");
    }
    groups_[id] = g;
    return id;
}

void uring::provide(std::uint16_t group, std::span<const group_buffer> buffers) noexcept {
    const buffer_group& g = groups_[group];
    const int mask = io_uring_buf_ring_mask(g.entries);
    int offset = 0;
    for (const group_buffer& b : buffers) io_uring_buf_ring_add(g.ring, b.data, b.size, b.id, mask, offset++);
    io_uring_buf_ring_advance(g.ring, offset);
}

void uring::remove_group(std::uint16_t group) noexcept {
    check_thread();
    buffer_group& g = groups_[group];
    if (!process_.forked()) io_uring_unregister_buf_ring(&ring_, group);
    munmap(g.ring, g.bytes);
    g = buffer_group{};
}

// The caller's count of requests keeps the submission queue from being full.
io_uring_sqe& uring::prepare(std::uint8_t opcode, file f, token request) noexcept {
    if (process_.forked()) return unused_ = {};
    assert(io_uring_sq_space_left(&ring_) > 0);
    io_uring_sqe& entry = ring_.sq.sqes[ring_.sq.sqe_tail++ & ring_.sq.ring_mask];
    std::memset(&entry, 0, sizeof entry);
    entry.opcode = opcode;
    entry.user_data = request;
    if (f.registered >= 0) {
        entry.fd = f.registered;
        entry.flags = IOSQE_FIXED_FILE;
    } else {
        entry.fd = f.descriptor;
    }
    return entry;
}

void uring::read_multishot(token request, file f, std::uint16_t group) noexcept {
    io_uring_sqe& entry = prepare(kernel::op_read_multishot, f, request);
    entry.off = ~std::uint64_t{0}; // the current position, as read(2)
    entry.flags |= IOSQE_BUFFER_SELECT;
    entry.buf_group = group;
}

void uring::receive_multishot(token request, file f, const msghdr& shape, std::uint16_t group) noexcept {
    io_uring_sqe& entry = prepare(IORING_OP_RECVMSG, f, request);
    entry.addr = reinterpret_cast<std::uintptr_t>(&shape);
    entry.len = 1;
    entry.flags |= IOSQE_BUFFER_SELECT;
    entry.buf_group = group;
    entry.ioprio = IORING_RECV_MULTISHOT;
    entry.msg_flags = static_cast<std::uint32_t>(shape.msg_flags);
}

void uring::receive(token request, file f, std::uint16_t group, bool multishot) noexcept {
    io_uring_sqe& entry = prepare(IORING_OP_RECV, f, request);
    entry.flags |= IOSQE_BUFFER_SELECT;
    entry.buf_group = group; // and no length: the buffer's
    entry.ioprio = multishot ? IORING_RECV_MULTISHOT : 0;
}

void uring::accept(token request, file f, bool multishot) noexcept {
    io_uring_sqe& entry = prepare(IORING_OP_ACCEPT, f, request);
    entry.accept_flags = SOCK_CLOEXEC;
    entry.ioprio = multishot ? IORING_ACCEPT_MULTISHOT : 0;
}

void uring::connect(token request, file f, const sockaddr* address, socklen_t size) noexcept {
    io_uring_sqe& entry = prepare(IORING_OP_CONNECT, f, request);
    entry.addr = reinterpret_cast<std::uintptr_t>(address);
    entry.off = size;
}

void uring::poll(token request, file f, short events, bool multishot) noexcept {
    io_uring_sqe& entry = prepare(IORING_OP_POLL_ADD, f, request);
    auto mask = static_cast<std::uint32_t>(static_cast<unsigned short>(events));
    if constexpr (std::endian::native == std::endian::big) mask = mask << 16 | mask >> 16; // as liburing lays it out
    entry.poll32_events = mask;
    entry.len = multishot ? IORING_POLL_ADD_MULTI : 0;
}

void uring::write(token request, file f, std::span<const std::byte> bytes) noexcept {
    io_uring_sqe& entry = prepare(IORING_OP_WRITE, f, request);
    entry.addr = reinterpret_cast<std::uintptr_t>(bytes.data());
    entry.len = static_cast<std::uint32_t>(bytes.size());
    entry.off = ~std::uint64_t{0};
}

void uring::write_gathered(token request, file f, std::span<const iovec> pieces) noexcept {
    io_uring_sqe& entry = prepare(IORING_OP_WRITEV, f, request);
    entry.addr = reinterpret_cast<std::uintptr_t>(pieces.data());
    entry.len = static_cast<std::uint32_t>(pieces.size());
    entry.off = ~std::uint64_t{0};
}

void uring::send(token request, file f, std::span<const std::byte> bytes) noexcept {
    io_uring_sqe& entry = prepare(IORING_OP_SEND, f, request);
    entry.addr = reinterpret_cast<std::uintptr_t>(bytes.data());
    entry.len = static_cast<std::uint32_t>(bytes.size());
}

void uring::send_message(token request, file f, const msghdr& message) noexcept {
    io_uring_sqe& entry = prepare(IORING_OP_SENDMSG, f, request);
    entry.addr = reinterpret_cast<std::uintptr_t>(&message);
    entry.len = 1;
}

// Nothing of these is left when they have been submitted.
void uring::try_send(token request, file f, std::span<const std::byte> bytes) noexcept {
    io_uring_sqe& entry = prepare(IORING_OP_SEND, f, request);
    entry.addr = reinterpret_cast<std::uintptr_t>(bytes.data());
    entry.len = static_cast<std::uint32_t>(bytes.size());
    entry.msg_flags = MSG_DONTWAIT;
    ++sends_at_once_;
}

void uring::try_send_message(token request, file f, const msghdr& message) noexcept {
    io_uring_sqe& entry = prepare(IORING_OP_SENDMSG, f, request);
    entry.addr = reinterpret_cast<std::uintptr_t>(&message);
    entry.len = 1;
    entry.msg_flags = MSG_DONTWAIT;
    ++sends_at_once_;
}

void uring::cancel(token request) noexcept {
    io_uring_sqe& entry = prepare(IORING_OP_ASYNC_CANCEL, file{}, ignored_token);
    entry.addr = request;
    entry.flags = IOSQE_CQE_SKIP_SUCCESS;
}

// A multishot poll tells of each write to the eventfd, whatever its count, which nobody reads. So a wake-up costs no
// request.
void uring::arm_wake() noexcept { poll(wake_token, file{waker_->descriptor(), -1}, POLLIN, true); }

// One that arrives answers nothing here, and is not seen. One that fails tells, and the target is woken otherwise.
bool uring::send_wake(const std::shared_ptr<waker>& target) noexcept {
    if (!supports(feature::message_ring) || messages_queued_ == most_messages) return false;
    const std::optional<unsigned> number = targets_.number_of(target, messages_queued_ == 0);
    if (!number) return false;
    io_uring_sqe& entry = prepare(IORING_OP_MSG_RING, file{targets_[*number].ring(), -1}, message_token + *number);
    entry.flags = IOSQE_CQE_SKIP_SUCCESS;
    entry.off = woken_token; // what the target's completion carries
    ++messages_queued_;
    ++statistics_.messages;
    return true;
}

void uring::message_failed(unsigned target, int error) noexcept {
    if (error == EINVAL || error == EOPNOTSUPP) lacks(feature::message_ring);
    targets_.wake(target);
}

// A wait gathers only where there is nothing else to do: an entry that submits more than sends that are over at once
// finds what has come meanwhile, and does not sleep.
int uring::enter_kernel(bool wait, std::optional<clock::time_point> deadline) {
    ++statistics_.enters;
    // If the kernel does not take all of them this time, the next wait is short.
    const unsigned queued = std::exchange(sends_at_once_, 0U);
    const unsigned sends = std::exchange(report_sends_, false) ? 0 : queued;
    if (!wait) return enter_ring(ring_, {});
    const bool idle = io_uring_sq_ready(&ring_) == sends;
    const clock::time_point now = idle || deadline ? clock::now() : clock::time_point{};
    entry_wait limits{.completions = 1 + sends};
    if (idle) limits.at_least = gathering_.next(now);
    if (limits.at_least.count() > 0) limits.completions = gathered;
    if (deadline) { // a day at a time: the kernel adds its own clock to it, and may not overflow
        const auto left = std::clamp<clock::duration>(*deadline - now, clock::duration::zero(), longest_wait);
        limits.at_most = left;
        limits.at_least = std::min(limits.at_least, std::chrono::floor<std::chrono::microseconds>(left));
    }
    return enter_ring(ring_, limits);
}

// EBUSY, EAGAIN and ENOMEM are the kernel's back-pressure: reap and come again, but do not spin on it.
void uring::after_enter(int result) {
    switch (-result) {
    case EBUSY:
    case EAGAIN:
    case ENOMEM:
        ++statistics_.busy;
        if (io_uring_cq_ready(&ring_) == 0 && ++fruitless_enters_ > 16) usleep(1000);
        return;
    case ETIME:
    case EINTR: break;
    case EEXIST:
        fail(EEXIST, "reactor: used from another thread than the one that it first ran on; one thread a reactor");
    default:
        if (result < 0) fail(-result, "reactor: io_uring_enter");
        statistics_.submissions += static_cast<unsigned>(result);
    }
    if (io_uring_sq_ready(&ring_) == 0) messages_queued_ = 0;
    fruitless_enters_ = 0;
}

std::size_t uring::enter(bool wait, std::optional<clock::time_point> deadline, std::span<completion> out) {
    if (process_.forked()) refuse_forked("use");
    if (!enabled_) enable();
    check_thread();
    bool ready = io_uring_cq_ready(&ring_) != 0;
    if (wait && !ready && busy_poll_.count() > 0) ready = poll_busily(deadline);
    const unsigned flags = __atomic_load_n(ring_.sq.kflags, __ATOMIC_RELAXED);
    const bool work = (flags & (IORING_SQ_TASKRUN | IORING_SQ_CQ_OVERFLOW)) != 0;
    if ((flags & IORING_SQ_CQ_OVERFLOW) != 0) ++statistics_.overflows;
    if (io_uring_sq_ready(&ring_) != 0 || work || (wait && !ready)) after_enter(enter_kernel(wait && !ready, deadline));
    return reap(out);
}

// Whether there is something to reap; if not, the wait has to sleep.
bool uring::poll_busily(std::optional<clock::time_point> deadline) {
    ++statistics_.busy_polls;
    if (io_uring_sq_ready(&ring_) != 0) after_enter(enter_kernel(false, std::nullopt));
    const clock::time_point end = clock::now() + busy_poll_;
    while (io_uring_cq_ready(&ring_) == 0) {
        if (!spin(ring_, deadline ? std::min(*deadline, end) : end)) return false;
        if (io_uring_cq_ready(&ring_) == 0) after_enter(enter_kernel(false, std::nullopt)); // runs deferred work
    }
    ++statistics_.busy_poll_hits;
    return true;
}

std::size_t uring::reap(std::span<completion> out) noexcept {
    std::size_t filled = 0;
    unsigned seen = 0;
    unsigned head = 0;
    io_uring_cqe* entry = nullptr;
    io_uring_for_each_cqe(&ring_, head, entry) {
        if (filled == out.size()) break;
        ++seen;
        if (take(*entry, out[filled])) ++filled;
    }
    io_uring_cq_advance(&ring_, seen);
    statistics_.completions += seen;
    return filled;
}

// False for what is the driver's own.
bool uring::take(const io_uring_cqe& entry, completion& out) noexcept {
    if (entry.user_data == ignored_token) return false;
    if (entry.user_data == wake_token) {
        ++statistics_.wakes;
        if ((entry.flags & IORING_CQE_F_MORE) == 0) arm_wake();
        return false;
    }
    if (entry.user_data == woken_token) {
        ++statistics_.wakes;
        return false;
    }
    if (entry.user_data >= message_token) {
        message_failed(static_cast<unsigned>(entry.user_data - message_token), -entry.res);
        return false;
    }
    out.request = entry.user_data;
    out.result = entry.res;
    out.has_buffer = (entry.flags & IORING_CQE_F_BUFFER) != 0;
    if (out.has_buffer) gathering_.arrived();
    out.buffer = static_cast<std::uint16_t>(entry.flags >> IORING_CQE_BUFFER_SHIFT);
    out.more = (entry.flags & IORING_CQE_F_MORE) != 0;
    return true;
}

driver_statistics uring::statistics() const noexcept { return statistics_; }

} // namespace

std::unique_ptr<driver> make_uring(const uring_options& options) { return std::make_unique<uring>(options); }

} // namespace cotun::ring
