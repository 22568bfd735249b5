// SPDX-License-Identifier: Apache-2.0
//
// link_watch: tells the devices of a reactor what happens to their links. One netlink socket for each network
// namespace, however many devices there are in it; it goes with the last of them.
//
// Events come by netlink, in the order in which they happened. The kernel puts its message into the socket's queue
// before whoever changed the link goes on.
#pragma once

#include <cotun/link/event.hpp>

#include "io/links.hpp"
#include "io/reactor_core.hpp"
#include "link/event_socket.hpp"
#include "link/netlink.hpp"
#include "ring/requests.hpp"

#include <sys/types.h>

#include <optional>
#include <utility>
#include <vector>

namespace cotun::detail {

class link_watch;

/// What identifies a network namespace: the device and inode of its file.
using namespace_key = std::pair<dev_t, ino_t>;

/// Of a descriptor of a namespace; -1: of the calling thread's. Throws std::system_error.
namespace_key key_of_namespace(int netns);

/// Wants to be told of one link.
class link_watcher {
public:
    link_watcher(const link_watcher&) = delete;
    link_watcher& operator=(const link_watcher&) = delete;

    /// May call watch_link() and stop_watching().
    virtual void on_link_event(const link_event& event) noexcept = 0;

protected:
    link_watcher() noexcept = default;
    ~link_watcher() { stop_watching(); }

    /// Where nothing is to be had, because the namespace cannot be entered or netlink is refused: it throws
    /// std::system_error, and what was watched before still is. `netns`: -1, the calling thread's namespace.
    void watch_link(reactor_core& core, int netns, unsigned index);
    void stop_watching() noexcept;
    bool is_watching() const noexcept { return watch_ != nullptr; }
    unsigned watched_index() const noexcept { return index_; }
    /// As it was when it was last heard of; nullptr: nothing is known.
    const link_info* watched_link() const noexcept;
    /// What the kernel says of it. Throws std::system_error; ENOTCONN where it is not watched.
    link_info ask_about_link() const;

private:
    friend class link_watch;
    link_watch* watch_ = nullptr;
    unsigned index_ = 0;
};

/// Those of a reactor.
struct link_watches {
    std::vector<link_watch*> all;
};

class link_watch final : public open_end, ring::request_owner, prepared {
public:
    /// The calling thread is in the namespace, or a thread of its own goes there.
    static link_watch& of(reactor_core& core, int netns);

    void join(link_watcher& w);
    void leave(link_watcher& w) noexcept;

    /// As of the last message that was read; nullptr: there is no such link.
    const link_info* find(unsigned index) const noexcept { return socket_.find(index); }
    /// Asks the kernel. Throws std::system_error.
    link_info ask(unsigned index);

    void close_now() override;

private:
    link_watch(reactor_core& core, namespace_key key, unique_fd netns, cotun::link::event_socket socket);
    ~link_watch();

    void prepare() noexcept override;
    void arm() noexcept;
    void on_completion(std::uint32_t cookie, const ring::completion& done) override;
    void read_all() noexcept;
    void tell(const link_event& event) noexcept;
    void end_if_unused() noexcept;

    reactor_core* core_;
    const namespace_key key_;
    const unique_fd netns_; // none: that of the thread that made it
    cotun::link::event_socket socket_;
    std::optional<cotun::link::netlink_socket> asking_;
    ring::token request_ = 0;
    bool closing_ = false;
    bool* ended_ = nullptr; // who turns the reactor until it has ended
    std::vector<link_watcher*> watchers_;
    bool telling_ = false;
    cotun::link::events events_;
};

} // namespace cotun::detail
