// SPDX-License-Identifier: Apache-2.0
#include "link/answer.hpp"

#include <cerrno>
#include <utility>

namespace cotun::link {

// The payload of NLMSG_ERROR is struct nlmsgerr, the request (only its header where it was capped), and attributes;
// that of NLMSG_DONE is the error number and attributes.
outcome outcome::read(const nlmsghdr& header, byte_view payload) {
    outcome result;
    const auto error = load<std::int32_t>(payload);
    result.error = error < 0 && error >= -4095 ? -error : error == 0 ? 0 : EBADMSG;
    if (header.nlmsg_type == NLMSG_ERROR && payload.size() < sizeof error) result.error = EBADMSG;
    std::size_t before = sizeof(std::int32_t);
    if (header.nlmsg_type == NLMSG_ERROR) {
        const auto refused = load<nlmsgerr>(payload);
        before = (header.nlmsg_flags & NLM_F_CAPPED) != 0 ? sizeof refused
                                                          : sizeof(std::int32_t) + aligned(refused.msg.nlmsg_len);
    }
    if ((header.nlmsg_flags & NLM_F_ACK_TLVS) != 0)
        for_each_attribute(skip(payload, before), [&](int type, byte_view value) {
            if (type == NLMSGERR_ATTR_MSG) result.text = text_of(value);
        });
    return result;
}

bool outcome::is_to_be_repeated() const noexcept { return error == EBUSY || error == EINTR || interrupted; }

answer::~answer() {
    if (among_ != nullptr) among_->leave(*this);
}

answers::~answers() {
    while (first_ != nullptr) leave(*first_);
}

void answers::expect(answer& a, std::uint32_t sequence) noexcept {
    if (a.among_ != nullptr) a.among_->leave(a);
    a.among_ = this;
    a.sequence_ = sequence;
    a.interrupted_ = false;
    a.end_.reset();
    a.previous_ = nullptr;
    a.next_ = std::exchange(first_, &a);
    if (a.next_ != nullptr) a.next_->previous_ = &a;
}

void answers::leave(answer& a) noexcept {
    if (a.previous_ != nullptr)
        a.previous_->next_ = a.next_;
    else
        first_ = a.next_;
    if (a.next_ != nullptr) a.next_->previous_ = a.previous_;
    a.among_ = nullptr;
    a.next_ = a.previous_ = nullptr;
}

void answers::end(answer& a, outcome how) {
    leave(a);
    how.interrupted = how.interrupted || a.interrupted_;
    a.end_ = std::move(how);
}

void answers::take(byte_view datagram, std::uint32_t port) {
    const bool whole = for_each_message(datagram, [&](const nlmsghdr& header, byte_view payload) {
        if (header.nlmsg_pid != port) return;
        answer* a = first_;
        while (a != nullptr && a->sequence_ != header.nlmsg_seq) a = a->next_;
        if (a == nullptr) return;
        a->interrupted_ = a->interrupted_ || (header.nlmsg_flags & NLM_F_DUMP_INTR) != 0;
        if (header.nlmsg_type == NLMSG_ERROR || header.nlmsg_type == NLMSG_DONE)
            end(*a, outcome::read(header, payload));
        else if (header.nlmsg_type > NLMSG_OVERRUN)
            a->row(header.nlmsg_type, payload);
    });
    if (!whole) end_all(EBADMSG); // whose answer it was, nobody knows
}

void answers::end_all(int error) {
    while (first_ != nullptr)
        end(*first_, {error, error == EBADMSG ? "a message in the answer is longer than the answer" : "", false});
}

} // namespace cotun::link
