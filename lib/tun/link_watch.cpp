// SPDX-License-Identifier: Apache-2.0
#include "tun/link_watch.hpp"

#include "io/fail.hpp"
#include "link/netns_scope.hpp"

#include <algorithm>
#include <cassert>
#include <cerrno>
#include <memory>
#include <optional>
#include <poll.h>
#include <sys/stat.h>
#include <system_error>

namespace cotun::detail {

namespace_key key_of_namespace(int netns) {
    struct stat s {};
    if ((netns < 0 ? ::stat("/proc/thread-self/ns/net", &s) : ::fstat(netns, &s)) != 0)
        fail(errno, "cotun: looking at a network namespace (/proc/thread-self/ns/net)");
    return {s.st_dev, s.st_ino};
}

// --- those who watch -----------------------------------------------------------------------------------------------

void link_watcher::watch_link(reactor_core& core, int netns, unsigned index) {
    link_watch& there = link_watch::of(core, netns);
    stop_watching();
    index_ = index;
    there.join(*this);
    watch_ = &there;
}

void link_watcher::stop_watching() noexcept {
    if (watch_ != nullptr) std::exchange(watch_, nullptr)->leave(*this);
}

const link_info* link_watcher::watched_link() const noexcept {
    return watch_ != nullptr ? watch_->find(index_) : nullptr;
}

link_info link_watcher::ask_about_link() const {
    if (watch_ == nullptr) fail(ENOTCONN, "cotun: the link is in a network namespace that this process cannot enter");
    return watch_->ask(index_);
}

// --- the watch -----------------------------------------------------------------------------------------------------

link_watch& link_watch::of(reactor_core& core, int netns) {
    const namespace_key key = key_of_namespace(netns);
    for (link_watch* w : core.extension<link_watches>().all)
        if (w->key_ == key) return *w;
    constexpr cotun::link::event_socket_options options{};
    if (key == key_of_namespace(-1)) return *new link_watch(core, key, unique_fd(), cotun::link::event_socket(options));
    std::optional<cotun::link::event_socket> opened;
    cotun::link::run_in_namespace(netns, "a network namespace", "watching a link", [&] { opened.emplace(options); });
    return *new link_watch(core, key, unique_fd::duplicate_of(netns), std::move(*opened));
}

link_watch::link_watch(reactor_core& core, namespace_key key, unique_fd netns, cotun::link::event_socket socket)
    : core_(&core), key_(key), netns_(std::move(netns)), socket_(std::move(socket)) {
    core.extension<link_watches>().all.push_back(this);
    core.add_open(*this);
    arm();
}

link_watch::~link_watch() {
    assert(request_ == 0 && watchers_.empty());
    core_->forget(*this);
    if (ended_ != nullptr) *ended_ = true;
}

// Each device has two requests that are reserved, and its watch is one of its first device's.
void link_watch::arm() noexcept {
    request_ = core_->begin(*this, 0, true);
    if (request_ == 0) return; // cannot be; events would be missed, packets not
    core_->driver().poll(request_, {socket_.descriptor(), -1}, POLLIN, true);
}

// What was told before is not for the new one.
void link_watch::join(link_watcher& w) {
    read_all();
    watchers_.push_back(&w);
    core_->prepare_later(*this);
}

// Before the new one's first read: an MTU that was raised meanwhile must be known by then.
void link_watch::prepare() noexcept {
    if (closing_) return;
    read_all();
    end_if_unused(); // the last may have moved on
}

void link_watch::leave(link_watcher& w) noexcept {
    if (telling_)
        std::replace(watchers_.begin(), watchers_.end(), &w, static_cast<link_watcher*>(nullptr));
    else
        std::erase(watchers_, &w);
    end_if_unused();
}

void link_watch::on_completion(std::uint32_t, const ring::completion& done) {
    if (!done.more) request_ = 0;
    if (!closing_) read_all();
    if (!closing_ && request_ == 0 && done.result >= 0) arm();
    end_if_unused();
}

void link_watch::read_all() noexcept {
    for (bool more = true; more;) {
        events_.clear();
        try {
            more = socket_.read(events_);
        } catch (const std::exception&) { // memory is short, say: the next message tells of the loss (ENOBUFS)
            more = false;
        }
        for (std::size_t i = 0; i < events_.size(); ++i) tell(events_[i]);
    }
}

// A watcher may leave, or move to another watch, when it is told; none joins this one.
void link_watch::tell(const link_event& event) noexcept {
    telling_ = true;
    const std::size_t count = watchers_.size();
    for (std::size_t i = 0; i < std::min(count, watchers_.size()); ++i) {
        link_watcher* const w = watchers_[i];
        if (w != nullptr && (w->index_ == event.index || event.index == 0)) w->on_link_event(event);
    }
    telling_ = false;
    std::erase(watchers_, static_cast<link_watcher*>(nullptr));
}

// Ends, when nobody watches any more, with the last completion.
void link_watch::end_if_unused() noexcept {
    if (telling_ || (!watchers_.empty() && !closing_)) return;
    if (!std::exchange(closing_, true)) {
        std::erase(core_->extension<link_watches>().all, this);
        if (request_ != 0) core_->driver().cancel(request_);
    }
    if (request_ == 0) delete this;
}

link_info link_watch::ask(unsigned index) {
    if (!asking_) {
        const auto open = [this] { asking_.emplace(); };
        if (key_ == key_of_namespace(-1))
            open();
        else
            cotun::link::run_in_namespace(netns_.get(), "a network namespace", "asking about a link", open);
    }
    return asking_->get_link(index);
}

void link_watch::close_now() {
    bool ended = false;
    ended_ = &ended;
    reactor_core& core = *core_;
    const std::vector<link_watcher*> all = watchers_;
    for (link_watcher* w : all) w->stop_watching(); // the last may be the end of this
    if (!ended && !closing_) end_if_unused();
    while (!ended) core.turn_or_end();
}

} // namespace cotun::detail
