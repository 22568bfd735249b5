// SPDX-License-Identifier: Apache-2.0
//
// What the examples share that is not about packets: their arguments, their end by signal, and their errors.
#pragma once

#include <cotun/cotun.hpp>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace example {

/// `--name value` pairs, and flags without a value. Ends the program with the usage text on anything else.
class arguments {
public:
    arguments(int argc, char** argv, const char* usage, const std::vector<std::string_view>& flags = {})
        : usage_(usage) {
        for (int i = 1; i < argc; ++i) {
            const std::string_view name = argv[i];
            if (name == "--help") exit_with(0, stdout, "");
            if (!name.starts_with("--") || usage_.find(name) == std::string_view::npos)
                exit_with(2, stderr, "unknown argument: " + std::string(name));
            bool flag = false;
            for (const std::string_view f : flags) flag = flag || f == name;
            if (!flag && i + 1 == argc) exit_with(2, stderr, std::string(name) + " needs a value");
            values_[std::string(name)] = flag ? "yes" : argv[++i];
        }
    }

    bool has(const std::string& name) const { return values_.contains(name); }
    std::string get(const std::string& name, const std::string& otherwise) const {
        const auto found = values_.find(name);
        return found == values_.end() ? otherwise : found->second;
    }
    /// A value that must be there and not be empty.
    std::string need(const std::string& name) const {
        const auto found = values_.find(name);
        if (found == values_.end() || found->second.empty()) exit_with(2, stderr, name + " is needed");
        return found->second;
    }
    /// 0 if it is not there.
    unsigned number(const std::string& name) const {
        const std::string text = get(name, "0");
        if (text.empty() || text.size() > 9 || text.find_first_not_of("0123456789") != std::string::npos)
            exit_with(2, stderr, name + " takes a number, not \"" + text + "\"");
        return static_cast<unsigned>(std::stoul(text));
    }
    /// "10.9.0.1/24,fd00::1/64"
    std::vector<cotun::wire::ip_prefix> prefixes(const std::string& name) const {
        std::vector<cotun::wire::ip_prefix> all;
        const std::string text = need(name);
        for (std::size_t begin = 0; begin <= text.size();) {
            const std::size_t end = std::min(text.find(',', begin), text.size());
            all.push_back(cotun::wire::ip_prefix::from_string(text.substr(begin, end - begin)));
            begin = end + 1;
        }
        return all;
    }

private:
    [[noreturn]] void exit_with(int status, std::FILE* to, const std::string& why) const {
        if (!why.empty()) std::fprintf(to, "%s\n", why.c_str());
        std::fprintf(to, "%s", std::string(usage_).c_str());
        std::exit(status);
    }

    std::string_view usage_;
    std::map<std::string, std::string> values_;
};

inline cotun::task<> stop_on(cotun::reactor& io, cotun::signal_operation quit) {
    co_await std::move(quit);
    io.stop();
}

/// SIGINT and SIGTERM end the reactor's run(). To be called before there are other threads.
inline void stop_on_signals(cotun::reactor& io) { io.spawn(stop_on(io, io.signal(SIGINT, SIGTERM))); }

/// Runs the program; what it throws is printed, and its status 1.
inline int run(void (*program)(int, char**), int argc, char** argv) {
    try {
        program(argc, argv);
        return 0;
    } catch (const std::exception& failure) {
        std::fprintf(stderr, "%s\n", failure.what());
        return 1;
    }
}

} // namespace example
