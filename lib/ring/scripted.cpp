// SPDX-License-Identifier: Apache-2.0
#include "ring/scripted.hpp"

#include "ring/kernel.hpp"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <stdexcept>
#include <system_error>
#include <utility>

namespace cotun::ring {

scripted::request* scripted::find(kind what, int descriptor) {
    const auto r = std::find_if(in_flight.begin(), in_flight.end(),
                                [&](const request& x) { return x.what == what && x.descriptor == descriptor; });
    return r == in_flight.end() ? nullptr : &*r;
}

scripted::request* scripted::find(token name) {
    const auto r = std::find_if(in_flight.begin(), in_flight.end(), [&](const request& x) { return x.name == name; });
    return r == in_flight.end() ? nullptr : &*r;
}

void scripted::erase(token name) {
    std::erase_if(in_flight, [name](const request& r) { return r.name == name; });
}

void scripted::complete(token name, std::int32_t result, bool more) {
    if (find(name) == nullptr) throw std::logic_error("scripted: completion of a request that is not in flight");
    if (!more) erase(name);
    completed_.push_back({name, result, 0, false, more});
}

bool scripted::deliver(int descriptor, std::span<const std::byte> bytes, bool last, std::span<const std::byte> sender,
                       std::span<const std::byte> control) {
    request* r = find(kind::read_multishot, descriptor);
    bool datagram = r == nullptr;
    if (datagram) r = find(kind::receive_multishot, descriptor);
    const bool stream = r == nullptr;
    if (stream) r = find(kind::receive, descriptor);
    if (r == nullptr) return false;
    datagram = datagram && !stream;
    last = last || !r->multishot;
    std::deque<group_buffer>& group = groups_.at(r->group);
    if (group.empty()) {
        complete(r->name, -ENOBUFS);
        return false;
    }
    const group_buffer buffer = group.front();
    group.pop_front();
    std::size_t filled = 0;
    std::size_t cut = bytes.size();
    if (datagram) {
        kernel::recvmsg_out head{};
        const std::size_t front = sizeof head + r->name_size + r->control_size;
        cut = std::min(bytes.size(), buffer.size - front);
        head.name_size = static_cast<std::uint32_t>(sender.size());
        head.payload_size = static_cast<std::uint32_t>(bytes.size());
        head.flags = cut < bytes.size() ? static_cast<std::uint32_t>(MSG_TRUNC) : 0;
        const std::size_t told = std::min(control.size(), r->control_size);
        head.control_size = static_cast<std::uint32_t>(told);
        if (told < control.size()) head.flags |= MSG_CTRUNC;
        if (told > 0) std::memcpy(buffer.data + sizeof head + r->name_size, control.data(), told);
        std::memcpy(buffer.data, &head, sizeof head);
        if (!sender.empty())
            std::memcpy(buffer.data + sizeof head, sender.data(), std::min(sender.size(), r->name_size));
        filled = front;
    } else {
        cut = std::min<std::size_t>(bytes.size(), buffer.size);
    }
    if (cut > 0) std::memcpy(buffer.data + filled, bytes.data(), cut);
    completed_.push_back({r->name, static_cast<std::int32_t>(filled + cut), buffer.id, true, !last});
    if (last) erase(r->name);
    return true;
}

bool scripted::end(int descriptor, int error) {
    for (const kind what : {kind::read_multishot, kind::receive_multishot, kind::receive, kind::poll})
        if (request* r = find(what, descriptor)) {
            complete(r->name, -error);
            return true;
        }
    return false;
}

std::uint16_t scripted::add_group(unsigned entries) {
    if (refuse_groups != 0) throw std::system_error(refuse_groups, std::system_category(), "scripted: no group");
    const std::uint16_t id = next_group_++;
    groups_[id];
    group_sizes_[id] = entries;
    return id;
}

void scripted::provide(std::uint16_t group, std::span<const group_buffer> buffers) noexcept {
    std::deque<group_buffer>& g = groups_.at(group);
    g.insert(g.end(), buffers.begin(), buffers.end());
    if (g.size() > group_sizes_.at(group)) std::terminate(); // overflow of the ring of buffers
}

void scripted::remove_group(std::uint16_t group) noexcept {
    for (const request& r : in_flight)
        if ((r.what == kind::read_multishot || r.what == kind::receive_multishot || r.what == kind::receive) &&
            r.group == group)
            std::terminate(); // the kernel would still write into its buffers
    groups_.erase(group);
}

void scripted::read_multishot(token name, file f, std::uint16_t group) noexcept {
    queue({.name = name, .what = kind::read_multishot, .descriptor = f.descriptor, .group = group, .multishot = true});
}

void scripted::receive_multishot(token name, file f, const msghdr& shape, std::uint16_t group) noexcept {
    queue({.name = name,
           .what = kind::receive_multishot,
           .descriptor = f.descriptor,
           .group = group,
           .multishot = true,
           .name_size = shape.msg_namelen,
           .control_size = shape.msg_controllen});
}

void scripted::receive(token name, file f, std::uint16_t group, bool multishot) noexcept {
    queue({.name = name, .what = kind::receive, .descriptor = f.descriptor, .group = group, .multishot = multishot});
}

void scripted::accept(token name, file f, bool multishot) noexcept {
    queue({.name = name, .what = kind::accept, .descriptor = f.descriptor, .multishot = multishot});
}

void scripted::connect(token name, file f, const sockaddr* address, socklen_t size) noexcept {
    const auto* from = reinterpret_cast<const std::byte*>(address);
    queue({.name = name, .what = kind::connect, .descriptor = f.descriptor, .address = {from, from + size}});
}

void scripted::poll(token name, file f, short events, bool multishot) noexcept {
    queue({.name = name, .what = kind::poll, .descriptor = f.descriptor, .multishot = multishot, .events = events});
}

void scripted::write(token name, file f, std::span<const std::byte> bytes) noexcept {
    queue({.name = name, .what = kind::write, .descriptor = f.descriptor, .bytes = bytes});
}

void scripted::write_gathered(token name, file f, std::span<const iovec> pieces) noexcept {
    queue({.name = name, .what = kind::write, .descriptor = f.descriptor, .pieces = {pieces.begin(), pieces.end()}});
}

void scripted::send(token name, file f, std::span<const std::byte> bytes) noexcept {
    queue({.name = name, .what = kind::send, .descriptor = f.descriptor, .bytes = bytes});
}

void scripted::send_message(token name, file f, const msghdr& message) noexcept {
    const auto* from = static_cast<const std::byte*>(message.msg_name);
    const auto* told = static_cast<const std::byte*>(message.msg_control);
    queue({.name = name,
           .what = kind::send_message,
           .descriptor = f.descriptor,
           .bytes = {static_cast<const std::byte*>(message.msg_iov->iov_base), message.msg_iov->iov_len},
           .address = {from, from + message.msg_namelen},
           .control = {told, told + message.msg_controllen},
           .pieces = {message.msg_iov, message.msg_iov + message.msg_iovlen}});
}

void scripted::try_send(token name, file f, std::span<const std::byte> bytes) noexcept {
    send(name, f, bytes);
    queued_.back().tries = true;
}

void scripted::try_send_message(token name, file f, const msghdr& message) noexcept {
    send_message(name, f, message);
    queued_.back().tries = true;
}

void scripted::cancel(token name) noexcept { cancels_.push_back(name); }

ssize_t scripted::read_now(file f, std::span<std::byte> into) noexcept {
    std::deque<immediate>& answers = immediates[f.descriptor];
    if (answers.empty()) return -EAGAIN;
    const immediate a = std::move(answers.front());
    answers.pop_front();
    if (a.error != 0) return -a.error;
    const std::size_t cut = std::min(a.bytes.size(), into.size());
    if (cut > 0) std::memcpy(into.data(), a.bytes.data(), cut);
    return static_cast<ssize_t>(cut);
}

ssize_t scripted::write_now(file f, std::span<const iovec> pieces) noexcept {
    std::deque<int>& answers = writes_at_once[f.descriptor];
    if (!answers.empty()) {
        const int answer = answers.front();
        answers.pop_front();
        if (answer != 0) return answer;
    }
    std::vector<std::byte>& written = written_at_once[f.descriptor].emplace_back();
    for (const iovec& piece : pieces) {
        const auto* bytes = static_cast<const std::byte*>(piece.iov_base);
        written.insert(written.end(), bytes, bytes + piece.iov_len);
    }
    return static_cast<ssize_t>(written.size());
}

int scripted::send_now(file f, std::span<mmsghdr> messages) noexcept {
    int most = static_cast<int>(messages.size());
    std::deque<int>& answers = sends_at_once[f.descriptor];
    if (answer_send) {
        most = std::min(most, answer_send(f.descriptor, messages));
    } else if (!answers.empty()) {
        most = std::min(most, answers.front());
        answers.pop_front();
    } else if (no_room.contains(f.descriptor)) {
        most = -EAGAIN;
    }
    if (most < 0) return most;
    for (mmsghdr& m : messages.first(static_cast<std::size_t>(most))) {
        const auto bytes_of = [](const void* from, std::size_t size) {
            const auto* bytes = static_cast<const std::byte*>(from);
            return std::vector<std::byte>(bytes, bytes + size);
        };
        sent_message& sent = sent_at_once[f.descriptor].emplace_back();
        for (const iovec& piece : std::span(m.msg_hdr.msg_iov, m.msg_hdr.msg_iovlen)) {
            const std::vector<std::byte> bytes = bytes_of(piece.iov_base, piece.iov_len);
            sent.bytes.insert(sent.bytes.end(), bytes.begin(), bytes.end());
        }
        sent.address = bytes_of(m.msg_hdr.msg_name, m.msg_hdr.msg_namelen);
        sent.control = bytes_of(m.msg_hdr.msg_control, m.msg_hdr.msg_controllen);
        m.msg_len = static_cast<unsigned>(sent.bytes.size());
    }
    return most;
}

ssize_t scripted::receive_now(file f, msghdr& message) noexcept {
    std::deque<immediate>& answers = immediates[f.descriptor];
    if (!answers.empty()) {
        const std::vector<std::byte>& sender = answers.front().sender;
        message.msg_namelen = static_cast<socklen_t>(sender.size());
        if (!sender.empty()) std::memcpy(message.msg_name, sender.data(), sender.size());
        message.msg_flags = answers.front().bytes.size() > message.msg_iov->iov_len ? MSG_TRUNC : 0;
        const std::vector<std::byte>& control = answers.front().control;
        if (control.size() > message.msg_controllen) message.msg_flags |= MSG_CTRUNC;
        message.msg_controllen = std::min(control.size(), message.msg_controllen);
        if (message.msg_controllen > 0) std::memcpy(message.msg_control, control.data(), message.msg_controllen);
    }
    return read_now(f, {static_cast<std::byte*>(message.msg_iov->iov_base), message.msg_iov->iov_len});
}

ssize_t scripted::unsent_bytes(file f) noexcept {
    const auto bytes = unsent.find(f.descriptor);
    return bytes == unsent.end() ? 0 : bytes->second;
}

int scripted::take_error(file f) noexcept {
    const auto error = pending_error.find(f.descriptor);
    return error == pending_error.end() ? 0 : std::exchange(error->second, 0);
}

std::size_t scripted::total(const request& r) {
    if (r.pieces.empty()) return r.bytes.size();
    std::size_t all = 0;
    for (const iovec& piece : r.pieces) all += piece.iov_len;
    return all;
}

bool scripted::send_wake(const std::shared_ptr<waker>& target) noexcept {
    if (!supports(feature::message_ring)) return false;
    to_wake_.push_back(target);
    ++statistics_.messages;
    return true;
}

void scripted::submit() {
    for (const std::shared_ptr<waker>& target : to_wake_) target->wake();
    to_wake_.clear();
    if (in_flight.size() + queued_.size() > requests_)
        throw std::logic_error("scripted: more requests than capacity()");
    for (; !queued_.empty(); queued_.pop_front()) {
        const token name = queued_.front().name;
        const kind what = queued_.front().what;
        in_flight.push_back(std::move(queued_.front()));
        ++statistics_.submissions;
        const request& r = in_flight.back();
        const bool reads = what == kind::read_multishot || what == kind::receive_multishot || what == kind::receive;
        const bool writes = what == kind::write || what == kind::send || what == kind::send_message;
        if (reads && groups_.at(r.group).empty()) complete(name, -ENOBUFS);
        if (writes && writes_complete) complete(name, static_cast<std::int32_t>(total(r)));
    }
    for (; !cancels_.empty(); cancels_.pop_front()) {
        cancelled.push_back(cancels_.front());
        if (cancels_answered && find(cancels_.front()) != nullptr) complete(cancels_.front(), -ECANCELED);
    }
}

std::size_t scripted::enter(bool wait, std::optional<clock::time_point> deadline, std::span<completion> out) {
    ++statistics_.enters;
    submit();
    if (submitted) submitted(*this);
    const bool due = deadline && *deadline <= now_;
    if (wait && completed_.empty() && !woken_->set.load() && !due) {
        if (idle) idle(*this);
        if (completed_.empty() && !woken_->set.load()) {
            if (!deadline) throw std::logic_error("scripted: the reactor would wait for ever");
            now_ = std::max(now_, *deadline);
        }
    }
    if (woken_->set.exchange(false)) ++statistics_.wakes;
    const std::size_t count = std::min(out.size(), completed_.size());
    std::copy_n(completed_.begin(), count, out.begin());
    completed_.erase(completed_.begin(), completed_.begin() + static_cast<std::ptrdiff_t>(count));
    statistics_.completions += count;
    return count;
}

} // namespace cotun::ring
