// SPDX-License-Identifier: Apache-2.0
//
// network_namespace: a handle on a network namespace: one that is there, or a new one.
//
//     cotun::network_namespace lab = cotun::network_namespace::create("lab");   // as `ip netns add lab`
//     lab.run_in([] { ... });                                                  // what is opened there belongs there
//     cotun::device dev = cotun::open_tun(io, {.name = "tun0", .netns = "lab"});
//     cotun::network_namespace::remove("lab");                                 // as `ip netns delete lab`
//
// netns_reference: how options and calls name one: by its name, its path, a handle, a descriptor, or a process.
//
// Lifetime: a namespace lives while somebody holds it: its name (a mount in /run/netns), a process or thread in it, a
// handle, or a socket or device that was opened there. So a handle keeps one alive whose name was deleted. A reference
// holds nothing: the handle or descriptor that it was made of must live until it is used.
// Thread: any; a handle by one at a time. All calls are synchronous, and none but run_in() waits for anything but the
// kernel.
// Errors: std::system_error with the remedy. A name that is gone: ENOENT; a file that is there and no namespace (any
// more): EINVAL.
// Kernel: network_namespaces(7), setns(2); needs CAP_SYS_ADMIN, in the user namespace that owns the namespace to enter
// it, and in the caller's to make one.
#pragma once

#include <cotun/io/option_values.hpp>
#include <cotun/io/unique_fd.hpp>

#include <sys/types.h>

#include <concepts>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

namespace cotun {

class network_namespace;

/// A value without a destructor, for option structs.
class netns_reference {
public:
    /// The calling thread's.
    constexpr netns_reference() noexcept = default;
    /// A name as in `ip netns`, or, with a '/' in it, a path. Empty: the calling thread's.
    template <class Text>
    requires std::convertible_to<const Text&, std::string_view>
    constexpr netns_reference(const Text& text) : text_(text) {} // NOLINT: implicit by design
    netns_reference(const network_namespace& there) noexcept;    // NOLINT: implicit by design
    static netns_reference of_descriptor(int descriptor) noexcept;
    /// That of a process.
    static netns_reference of_process(pid_t process) noexcept;

    /// Whether it is the calling thread's.
    constexpr bool is_here() const noexcept { return text_.empty() && descriptor_ < 0 && process_ <= 0; }
    constexpr std::string_view text() const noexcept { return text_; }
    /// -1: none.
    constexpr int descriptor() const noexcept { return descriptor_; }
    constexpr pid_t process() const noexcept { return process_; }
    /// For errors: "network namespace 'lab'".
    std::string describe() const;

private:
    option_text text_{};
    int descriptor_ = -1;
    pid_t process_ = 0;
};
static_assert(std::is_trivially_destructible_v<netns_reference>);

class network_namespace {
public:
    /// The calling thread's.
    static network_namespace current();
    static network_namespace open(const netns_reference& which);
    /// A new one with a name (1 to 255 bytes, no '/'), which ip(8) sees and which outlives the program. EEXIST where
    /// the name is taken. Its loopback is down, as everywhere.
    static network_namespace create(std::string_view name);
    /// A new one without a name: it goes when nobody holds it any more.
    static network_namespace create_anonymous();
    /// Takes the name away; the namespace goes when nobody holds it any more. ENOENT where there is none.
    static void remove(std::string_view name);
    /// The names of those that have one, sorted.
    static std::vector<std::string> names();

    /// Calls `function` on a thread of its own in the namespace, waits for it, and returns its value or throws its
    /// exception. The caller stays where it is. Sockets and devices that it opens are the namespace's for good.
    template <std::invocable Function>
    auto run_in(Function&& function) const {
        using result = std::invoke_result_t<Function>;
        if constexpr (std::is_void_v<result>) {
            call_in([](void* f) { (*static_cast<std::remove_reference_t<Function>*>(f))(); }, address(function));
        } else {
            std::optional<result> value;
            auto both = [&] { value.emplace(function()); };
            call_in([](void* f) { (*static_cast<decltype(both)*>(f))(); }, &both);
            return std::move(*value);
        }
    }

    /// What tells two namespaces apart, as `stat` shows of /proc/PID/ns/net.
    std::uint64_t inode() const;
    friend bool operator==(const network_namespace& a, const network_namespace& b) { return a.inode() == b.inode(); }
    /// For setns(2); it stays the handle's.
    int native_handle() const noexcept { return descriptor_.get(); }

private:
    explicit network_namespace(unique_fd descriptor) noexcept : descriptor_(std::move(descriptor)) {}
    template <class Function>
    static void* address(Function& function) noexcept {
        return const_cast<void*>(static_cast<const volatile void*>(&function));
    }
    void call_in(void (*call)(void*), void* argument) const;

    unique_fd descriptor_;
};

} // namespace cotun
