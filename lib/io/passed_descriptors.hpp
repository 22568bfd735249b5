// SPDX-License-Identifier: Apache-2.0
//
// Descriptors of open files as control messages carry them over Unix sockets (SCM_RIGHTS, unix(7)), and those that came
// over a stream, in the order of its bytes.
#pragma once

#include <cotun/io/unique_fd.hpp>

#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <span>
#include <sys/socket.h>
#include <vector>

namespace cotun::detail {

/// The most that a message carries: the kernel's bound (SCM_MAX_FD).
inline constexpr std::size_t most_passed = 253;

/// Refuses what cannot be sent: more than most_passed, and empty ones. `who`: what errors begin with.
void check_passed(const std::vector<unique_fd>& all, const char* who);

/// Descriptors that are to be sent, and as the kernel reads them. They are closed with it.
class descriptors_to_send {
public:
    descriptors_to_send() noexcept = default;
    explicit descriptors_to_send(std::vector<unique_fd> all);

    bool empty() const noexcept { return size_ == 0; }
    std::byte* control() const noexcept { return control_.get(); }
    std::size_t control_size() const noexcept { return size_; }
    /// Closes them.
    void clear() noexcept;

private:
    std::vector<unique_fd> all_;
    std::unique_ptr<std::byte[]> control_;
    std::size_t size_ = 0;
};

/// Takes the descriptors out of control messages: all, or none and std::bad_alloc; they are closed then. Messages that
/// bring none need no memory.
std::vector<unique_fd> descriptors_in(std::span<const std::byte> control);
void close_descriptors(std::span<const std::byte> control) noexcept;

/// What came over a stream beside its bytes. Descriptors stand where the bytes begin that the kernel gave with them;
/// they can be taken once the first of those has been read.
class arrived_descriptors {
public:
    /// Descriptors that nobody has taken, at most: beyond it, those that come are closed.
    static constexpr std::size_t most_kept = 4 * most_passed;

    /// `most`: that one message may bring.
    explicit arrived_descriptors(unsigned most) noexcept : most_(most) {}

    /// Not CMSG_SPACE: in its padding the kernel would put one more.
    std::size_t control_room() const noexcept { return CMSG_LEN(most_ * sizeof(int)); }

    /// So many bytes have come, with this beside them.
    void came(std::size_t bytes, std::span<const std::byte> control, bool cut_off) noexcept;
    /// Bytes were read, or put back in front of the others.
    void read(std::size_t bytes) noexcept { read_ += bytes; }
    void unread(std::size_t bytes) noexcept { read_ -= bytes; }
    /// What a read has had so far is its own, now that the next one begins.
    void mark() noexcept { marked_ = read_; }
    /// The bytes from here on that have the same descriptors as the first of them.
    std::size_t together() const noexcept;

    /// Whether some were lost that came with what has been read, or with the byte behind it.
    bool has_lost() const noexcept;
    /// Whether some were lost before `place`, of which it has been told then.
    bool tell_loss(std::uint64_t place) noexcept;
    /// Where the reads stand that have ended; `reading`: one has begun and waits.
    std::uint64_t place(bool reading) const noexcept { return reading ? marked_ : read_; }
    /// Those that came before `place`.
    std::vector<unique_fd> take(std::uint64_t place);

    /// All that came with what is not read yet are closed.
    void drop_unread() noexcept;

    std::uint64_t received() const noexcept { return received_; }
    std::uint64_t lost() const noexcept { return lost_; }

private:
    struct batch {
        std::uint64_t place; // in the stream, of its first byte
        std::vector<unique_fd> all;
        bool lost = false; // some of them were
    };

    unsigned most_;
    std::uint64_t came_ = 0; // bytes
    std::uint64_t read_ = 0;
    std::uint64_t marked_ = 0;
    std::uint64_t received_ = 0; // descriptors
    std::uint64_t lost_ = 0;     // times
    std::size_t kept_ = 0;
    std::deque<batch> batches_;
};

} // namespace cotun::detail
