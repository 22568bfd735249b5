// SPDX-License-Identifier: Apache-2.0
#include <cotun/net/resolve.hpp>

#include "io/fail.hpp"
#include "io/helper_threads.hpp"
#include "io/reactor_core.hpp"
#include "net/sockaddr.hpp"

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <fmt/format.h>
#include <mutex>
#include <netdb.h>
#include <optional>
#include <span>
#include <string>

namespace cotun {
namespace {

static_assert(static_cast<int>(resolve_errc::unknown_name) == EAI_NONAME);
static_assert(static_cast<int>(resolve_errc::try_again) == EAI_AGAIN);
static_assert(static_cast<int>(resolve_errc::server_failed) == EAI_FAIL);
static_assert(static_cast<int>(resolve_errc::unknown_service) == EAI_SERVICE);
#ifdef EAI_NODATA // beyond POSIX
static_assert(static_cast<int>(resolve_errc::no_address) == EAI_NODATA);
static_assert(static_cast<int>(resolve_errc::no_address_of_family) == EAI_ADDRFAMILY);
#endif

constexpr std::size_t longest_name = 255; // RFC 1035 2.3.4

class category final : public std::error_category {
public:
    const char* name() const noexcept override { return "resolve"; }
    std::string message(int value) const override { return gai_strerror(value); }
    std::error_condition default_error_condition(int value) const noexcept override {
        if (value == EAI_AGAIN) return std::errc::resource_unavailable_try_again;
        if (value == EAI_MEMORY) return std::errc::not_enough_memory;
        return {value, *this};
    }
};

int family_number(ip_family f) noexcept {
    switch (f) {
    case ip_family::v4: return AF_INET;
    case ip_family::v6: return AF_INET6;
    case ip_family::any: break;
    }
    return AF_UNSPEC;
}

const char* remedy(int error) noexcept {
    switch (error) {
    case EAI_NONAME: return "there is no such name; is it spelled right, and in /etc/hosts or the DNS?";
    case EAI_AGAIN: return "no name server answers; is the network up, and /etc/resolv.conf right?";
    case EAI_FAIL: return "the name server failed";
    case EAI_SERVICE: return "there is no such service in /etc/services; give the port as a number";
    case static_cast<int>(resolve_errc::no_address): return "the name has no address";
    case static_cast<int>(resolve_errc::no_address_of_family):
        return "it has no address of the family that was asked for; ask for ip_family::any";
    default: return "getaddrinfo(3) failed";
    }
}

void check(const char* what, std::string_view text) {
    if (text.empty())
        detail::fail(EINVAL, fmt::format("resolve: the {} is empty; where every address is meant, use 0.0.0.0 or ::, "
                                         "and port 0",
                                         what));
    if (text.size() > longest_name)
        detail::fail(EINVAL,
                     fmt::format("resolve: the {} has {} bytes; {} are the most", what, text.size(), longest_name));
    if (text.find('\0') != std::string_view::npos)
        detail::fail(EINVAL, fmt::format("resolve: the {} has a byte 0 in it", what));
}

// None: it is not a number.
std::optional<std::uint16_t> parse_port(std::string_view digits) {
    if (digits.find_first_not_of("0123456789") != std::string_view::npos) return std::nullopt;
    std::uint16_t port = 0;
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), port);
    if (error == std::errc() && end == digits.data() + digits.size()) return port;
    detail::fail(EINVAL, fmt::format("resolve: port {}; it must be 0 to 65535", digits));
}

std::optional<endpoint> parse_address(std::string_view host, std::uint16_t port) {
    if (const std::optional<wire::ip_address> address = wire::ip_address::parse(host))
        return endpoint(address->unmapped(), port);
    if (host.find('%') == std::string_view::npos) return std::nullopt;
    return endpoint::parse(fmt::format("[{}]:{}", host, port)); // a link-local one, with its interface
}

[[noreturn]] void refuse(const std::string& host, const std::string& service, int error, int system_error) {
    if (error == EAI_SYSTEM)
        detail::fail(system_error, fmt::format("resolve(\"{}\", \"{}\"): getaddrinfo(3)", host, service));
    throw std::system_error(error, resolve_category(),
                            fmt::format("resolve(\"{}\", \"{}\"): {}", host, service, remedy(error)));
}

} // namespace

const std::error_category& resolve_category() noexcept {
    static const category the_one;
    return the_one;
}

std::error_code make_error_code(resolve_errc e) noexcept { return {static_cast<int>(e), resolve_category()}; }

// --- the lookup ----------------------------------------------------------------------------------------------------

namespace detail {

/// Shared by the wait, which may go at any time, and the thread, which may end long after.
class lookup final : public helper_work, public std::enable_shared_from_this<lookup> {
public:
    lookup(std::string_view host, std::string_view service, ip_family family)
        : host_(host), service_(service), family_(family) {}

    // --- the reactor's thread -------------------------------------------------------------------------------------

    void begin(resolve_operation& wait, reactor_core& core) {
        wait_ = &wait;
        loop_ = &core; // before there is a thread
        core.helpers().start(shared_from_this());
        begun_ = true;
    }

    /// Nothing is told to anybody any more.
    void abandon(reactor_core& core) noexcept {
        wait_ = nullptr;
        if (!std::exchange(begun_, false) || core.forked()) return; // in a child there is no thread
        {
            const std::lock_guard lock(mutex_);
            loop_ = nullptr;
        }
        core.helpers().drop(*this);
    }

    std::vector<endpoint> result() {
        if (error_ != 0) refuse(host_, service_, error_, system_error_);
        return std::move(found_);
    }

    // --- the helper's ---------------------------------------------------------------------------------------------

    void work() noexcept override {
        addrinfo hints{};
        hints.ai_family = family_number(family_);
        addrinfo* all = nullptr;
        error_ = getaddrinfo(host_.c_str(), service_.c_str(), &hints, &all);
        system_error_ = errno;
        // For each kind of socket there is an entry.
        for (const addrinfo* a = all; a != nullptr; a = a->ai_next) {
            if (a->ai_family != AF_INET && a->ai_family != AF_INET6) continue;
            const endpoint e = from_sockaddr(std::as_bytes(
                std::span(reinterpret_cast<const char*>(a->ai_addr), static_cast<std::size_t>(a->ai_addrlen))));
            if (std::find(found_.begin(), found_.end(), e) == found_.end()) found_.push_back(e);
        }
        if (all != nullptr) freeaddrinfo(all);
        if (error_ == 0 && found_.empty()) error_ = EAI_NONAME;
        const std::lock_guard lock(mutex_); // while it is held, the reactor lives
        if (loop_ != nullptr) loop_->post([self = shared_from_this()] { self->ended(); });
    }

private:
    void ended() noexcept {
        begun_ = false;
        {
            const std::lock_guard lock(mutex_); // the thread is out of post(): the reactor may go
            loop_ = nullptr;
        }
        if (wait_ == nullptr) return;
        resolve_operation& wait = *std::exchange(wait_, nullptr);
        wait.core_->make_ready(wait);
    }

    const std::string host_;
    const std::string service_;
    const ip_family family_;
    // The thread's, until it has posted.
    int error_ = 0;
    int system_error_ = 0;
    std::vector<endpoint> found_;
    // The reactor's.
    resolve_operation* wait_ = nullptr;
    bool begun_ = false;
    std::mutex mutex_;
    scheduler* loop_ = nullptr; // under the mutex once there is a thread
};

} // namespace detail

// --- the wait ------------------------------------------------------------------------------------------------------

resolve_operation::resolve_operation(detail::reactor_core& core, std::shared_ptr<detail::lookup> lookup) noexcept
    : core_(&core), lookup_(std::move(lookup)) {}

resolve_operation::resolve_operation(resolve_operation&& other) noexcept
    : stoppable_wait(std::move(other)),
      core_(other.core_),
      lookup_(std::move(other.lookup_)),
      found_(std::move(other.found_)),
      refusal_(std::move(other.refusal_)) {}

resolve_operation::~resolve_operation() {
    if (lookup_) lookup_->abandon(*core_);
}

bool resolve_operation::suspend(std::coroutine_handle<> who, const detail::await_context& context) {
    core_->refuse_child("resolve()");
    core_->check_thread("resolve()");
    if (!start_waiting(who, *core_, context.stop)) return false;
    lookup_->begin(*this, *core_);
    return true;
}

void resolve_operation::give_up() noexcept { lookup_->abandon(*core_); }

std::vector<endpoint> resolve_operation::await_resume() {
    throw_if_stopped();
    if (refusal_) std::rethrow_exception(refusal_);
    return lookup_ ? lookup_->result() : std::move(found_);
}

resolve_operation resolve(reactor& io, std::string_view host, std::uint16_t port, const resolve_options& options) {
    return resolve(io, host, std::to_string(port), options);
}

resolve_operation resolve(reactor& io, std::string_view host, std::string_view service,
                          const resolve_options& options) {
    try {
        check("host", host);
        check("service", service);
        const std::optional<std::uint16_t> port = parse_port(service);
        const std::optional<endpoint> numeric = port ? parse_address(host, *port) : std::nullopt;
        const bool fits = numeric && (options.family == ip_family::any ||
                                      numeric->address().is_v6() == (options.family == ip_family::v6));
        if (fits) return {io.core(), std::vector<endpoint>{*numeric}};
    } catch (const std::system_error&) {
        return {io.core(), std::current_exception()};
    }
    return {io.core(), std::make_shared<detail::lookup>(host, service, options.family)};
}

} // namespace cotun
