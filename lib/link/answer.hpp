// SPDX-License-Identifier: Apache-2.0
//
// answer: how the kernel answers one request; answers: those that are awaited, by the numbers of their requests.
//
// An answer is rows (messages of RTM_*, none or many, in one datagram or several), and an end: NLMSG_ERROR, which also
// says that all is well, or NLMSG_DONE. What comes for no answer that is awaited is dropped: it is for a request that
// was given up, or not for us. Any bytes may be taken: those that are no whole messages end in EBADMSG.
#pragma once

#include "link/message.hpp"

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace cotun::link {

// How the kernel answered: 0 or its errno, and its extended error text if it gave one.
struct outcome {
    int error = 0;
    std::string text{};
    bool interrupted = false; // a dump during which the table changed

    // From NLMSG_ERROR and NLMSG_DONE.
    [[nodiscard]] static outcome read(const nlmsghdr& header, byte_view payload);
    // A dump has to be made again: the table changed, or somebody else reads it (EBUSY).
    [[nodiscard]] bool is_to_be_repeated() const noexcept;
};

class answers;

// Virtual, so that it can be told from a place that does not know what the rows are. It leaves `answers` with its
// destructor: what is to come for it is dropped.
class answer {
public:
    answer() noexcept = default;
    answer(const answer&) = delete;
    answer& operator=(const answer&) = delete;
    virtual ~answer();

    // The payload of one row; `type` is RTM_NEW*.
    virtual void row(unsigned type, byte_view payload) = 0;
    // The request is made once more: what was told is void.
    virtual void restart() {}

    [[nodiscard]] const std::optional<outcome>& end() const noexcept { return end_; }

private:
    friend class answers;
    answers* among_ = nullptr;
    answer* next_ = nullptr;
    answer* previous_ = nullptr;
    std::uint32_t sequence_ = 0;
    bool interrupted_ = false;
    std::optional<outcome> end_;
};

class answers {
public:
    answers() noexcept = default;
    answers(const answers&) = delete;
    answers& operator=(const answers&) = delete;
    ~answers();

    // Until it has ended, `a` is told what comes for `sequence`.
    void expect(answer& a, std::uint32_t sequence) noexcept;
    // One datagram of the kernel's, to the socket with this address.
    void take(byte_view datagram, std::uint32_t port);
    // Ends all of them with this errno.
    void end_all(int error);

private:
    friend class answer;
    void leave(answer& a) noexcept;
    void end(answer& a, outcome how);

    answer* first_ = nullptr;
};

// For requests that are only acknowledged.
class acknowledgement final : public answer {
public:
    void row(unsigned, byte_view) override {}
};

// The rows of one type, each made into a T.
template <typename T, typename Parse>
class rows_of final : public answer {
public:
    rows_of(std::vector<T>& rows, unsigned type, Parse parse) // which gives an std::optional<T>
        : rows_(rows), before_(rows.size()), type_(type), parse_(parse) {}
    void row(unsigned type, byte_view payload) override {
        if (type != type_) return;
        if (auto value = parse_(payload)) rows_.push_back(*value);
    }
    void restart() override { rows_.erase(rows_.begin() + static_cast<std::ptrdiff_t>(before_), rows_.end()); }

private:
    std::vector<T>& rows_;
    std::size_t before_;
    unsigned type_;
    Parse parse_;
};

} // namespace cotun::link
