// SPDX-License-Identifier: Apache-2.0
#include "report.hpp"

#include "json.hpp"

#include <cotun/version.hpp>

#include <algorithm>
#include <cstring>
#include <fmt/format.h>
#include <utility>

namespace cotun::command {
namespace {

constexpr std::size_t title_width = 46;

finding found(const feature& f, verdict what, std::string seen) {
    return {std::string(f.group), std::string(f.name), std::string(f.title), what, std::move(seen), {}, {}};
}

std::string_view colour_of(verdict what) noexcept {
    switch (what) {
    case verdict::works: return "\033[32m";
    case verdict::fails: return "\033[1;31m";
    case verdict::lacks: return "\033[33m";
    default: return "\033[2m";
    }
}

void put_finding(std::string& out, const finding& f, bool coloured) {
    const std::string word = fmt::format("{:<9}", name_of(f.what));
    out += coloured ? fmt::format("  {}{}\033[0m", colour_of(f.what), word) : "  " + word;
    out +=
        f.seen.empty() ? fmt::format("  {}\n", f.title) : fmt::format("  {:<{}}  {}\n", f.title, title_width, f.seen);
    if (!f.instead.empty()) out += fmt::format("               instead: {}\n", f.instead);
    if (!f.remedy.empty()) out += fmt::format("               remedy:  {}\n", f.remedy);
}

void put_heading(std::string& out, std::string_view heading, bool coloured) {
    if (!out.empty()) out += '\n';
    out += coloured ? fmt::format("\033[1m{}\033[0m\n", heading) : fmt::format("{}\n", heading);
}

} // namespace

std::string_view name_of(verdict what) noexcept {
    switch (what) {
    case verdict::works: return "works";
    case verdict::fails: return "FAILS";
    case verdict::lacks: return "lacks";
    case verdict::not_tried: return "not tried";
    case verdict::note: break;
    }
    return "note";
}

void report::works(const feature& f, std::string seen) { add(found(f, verdict::works, std::move(seen))); }

void report::missing(const feature& f, std::string seen, std::string remedy) {
    finding result = found(f, f.needed ? verdict::fails : verdict::lacks, std::move(seen));
    result.instead = f.instead;
    result.remedy = remedy.empty() ? std::string(f.remedy) : std::move(remedy);
    add(std::move(result));
}

void report::not_tried(const feature& f, std::string because) {
    add(found(f, verdict::not_tried, "because " + std::move(because)));
}

void report::note(const feature& f, std::string seen, std::string remedy) {
    finding result = found(f, verdict::note, std::move(seen));
    result.remedy = std::move(remedy);
    add(std::move(result));
}

const finding* report::find(const feature& f) const noexcept {
    const auto at = std::ranges::find(findings_, f.name, &finding::name);
    return at == findings_.end() ? nullptr : &*at;
}

bool report::does(const feature& f) const noexcept {
    const finding* const there = find(f);
    return there != nullptr && there->what == verdict::works;
}

const finding* report::first_failure() const noexcept {
    const auto at = std::ranges::find(findings_, verdict::fails, &finding::what);
    return at == findings_.end() ? nullptr : &*at;
}

std::string as_text(const report& all, bool coloured) {
    std::string out;
    std::string_view group;
    for (const finding& f : all.findings()) {
        if (f.group != group) put_heading(out, group = f.group, coloured);
        put_finding(out, f, coloured);
    }
    put_heading(out, all.tunnel_can_run() ? "A tunnel can run." : "No tunnel can run:", coloured);
    for (const finding& f : all.findings()) {
        if (f.what != verdict::fails) continue;
        out += fmt::format("  {}: {}\n", f.title, f.seen);
        if (!f.remedy.empty()) out += fmt::format("    remedy: {}\n", f.remedy);
    }
    return out;
}

std::string as_json(const report& all) {
    json_writer out;
    out.begin_object();
    out.member("version", version);
    out.member("tunnel_can_run", all.tunnel_can_run());
    out.key("checks");
    out.begin_array();
    for (const finding& f : all.findings()) {
        out.begin_object();
        out.member("group", f.group);
        out.member("name", f.name);
        out.member("title", f.title);
        out.member("state", f.what == verdict::fails ? "fails" : name_of(f.what));
        out.member("seen", f.seen);
        out.member("instead", f.instead);
        out.member("remedy", f.remedy);
        out.end_object();
    }
    out.end_array();
    out.end_object();
    return std::move(out).text() + '\n';
}

std::string describe_error(int error) {
    const char* const name = strerrorname_np(error);
    return fmt::format("{} ({})", name != nullptr ? name : "error " + std::to_string(error), std::strerror(error));
}

} // namespace cotun::command
