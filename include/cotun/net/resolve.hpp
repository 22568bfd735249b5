// SPDX-License-Identifier: Apache-2.0
//
// resolve: the addresses of a name, as the system finds them (/etc/hosts, DNS and what else nsswitch.conf(5) names).
//
//     std::vector<cotun::endpoint> found = co_await cotun::resolve(io, "vpn.example.net", 51820);
//     std::vector<cotun::endpoint> web = co_await cotun::resolve(io, "example.net", "https");
//
// It yields at least one, in the order in which they are to be tried (RFC 6724), none twice. A numeric address with a
// numeric port is answered at once: "192.0.2.7", "2001:db8::1", "fe80::1%eth0".
//
// getaddrinfo(3) knows no way to be asynchronous or to be cancelled; so it is called on a helper thread, of which there
// are at most reactor_options::helper_threads; further names wait in line. A wait that is stopped or destroyed ends at
// once, and what the thread still finds is dropped. Nobody waits for a thread that hangs because no name server answers
// (usually for 10 to 30 seconds, resolv.conf(5)): neither the reactor's destructor nor the end of the program.
//
// Thread: the reactor's. Names are looked up in its network namespace.
// Errors: std::system_error, in resolve_category() for what getaddrinfo(3) answers, with the values of resolve_errc;
// std::errc::invalid_argument for a host or service that is empty, longer than 255 bytes, or has a byte 0 in it, and
// for a port above 65535.
#pragma once

#include <cotun/coro/stop.hpp>
#include <cotun/io/reactor.hpp>
#include <cotun/net/endpoint.hpp>

#include <coroutine>
#include <cstdint>
#include <exception>
#include <memory>
#include <string_view>
#include <system_error>
#include <type_traits>
#include <utility>
#include <vector>

namespace cotun {

/// What getaddrinfo(3) answers (EAI_*).
enum class resolve_errc : int {
    unknown_name = -2,        // EAI_NONAME: no such name
    try_again = -3,           // EAI_AGAIN: no name server answered; a later attempt may succeed
    server_failed = -4,       // EAI_FAIL: a name server answered with a failure
    no_address = -5,          // EAI_NODATA: the name is there, and has no address
    unknown_service = -8,     // EAI_SERVICE: no such service
    no_address_of_family = -9 // EAI_ADDRFAMILY: the name has no address of the family that was asked for
};

/// Messages are gai_strerror(3)'s.
const std::error_category& resolve_category() noexcept;
std::error_code make_error_code(resolve_errc e) noexcept;

enum class ip_family : std::uint8_t { any, v4, v6 };

struct resolve_options {
    /// Only addresses of this family.
    ip_family family = ip_family::any;
};
static_assert(std::is_trivially_destructible_v<resolve_options>); // see io/option_values.hpp

namespace detail {
class lookup;
}

/// Yields a std::vector<endpoint>.
class [[nodiscard]] resolve_operation final : detail::stoppable_wait {
public:
    resolve_operation(detail::reactor_core& core, std::shared_ptr<detail::lookup> lookup) noexcept;
    /// Of an address that is numeric.
    resolve_operation(detail::reactor_core& core, std::vector<endpoint> found) noexcept
        : core_(&core), found_(std::move(found)) {}
    /// Of what cannot be looked up.
    resolve_operation(detail::reactor_core& core, std::exception_ptr refusal) noexcept
        : core_(&core), refusal_(std::move(refusal)) {}
    /// Only before it is awaited.
    resolve_operation(resolve_operation&& other) noexcept;
    ~resolve_operation();

    bool await_ready() const noexcept { return lookup_ == nullptr; }
    template <class Promise>
    bool await_suspend(std::coroutine_handle<Promise> who) {
        return suspend(who, detail::context_of(who));
    }
    bool suspend(std::coroutine_handle<> who, const detail::await_context& context);
    std::vector<endpoint> await_resume();

private:
    friend class detail::lookup;
    void give_up() noexcept override;

    detail::reactor_core* core_;
    std::shared_ptr<detail::lookup> lookup_;
    std::vector<endpoint> found_;
    std::exception_ptr refusal_;
};

/// The lookup begins when it is awaited, which also throws what is wrong with the host or the service.
resolve_operation resolve(reactor& io, std::string_view host, std::uint16_t port, const resolve_options& options = {});
/// `service`: a name of /etc/services, or a port.
resolve_operation resolve(reactor& io, std::string_view host, std::string_view service,
                          const resolve_options& options = {});

} // namespace cotun

template <>
struct std::is_error_code_enum<cotun::resolve_errc> : std::true_type {};
