// SPDX-License-Identifier: Apache-2.0
//
// What `cotun doctor` has found: a finding for each thing it looked at, in the order in which they are shown, and the
// two ways of showing them, as text and as JSON, with the same facts.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace cotun::command {

/// A thing that is looked at. The table of all is in features.hpp.
struct feature {
    std::string_view group;
    std::string_view name;  // what programs go by: one word, unique
    std::string_view title; // what people read
    bool needed = false;    // without it no tunnel can run
    /// What cotun uses instead where it is lacking. Empty: nothing, or it is needed.
    std::string_view instead{};
    /// What to do about it, unless the finding knows better.
    std::string_view remedy{};
};

enum class verdict {
    works,
    fails, // does not work, and a tunnel needs it
    lacks, // does not work, and a tunnel runs without it
    not_tried,
    note, // a fact that is neither good nor bad
};
std::string_view name_of(verdict) noexcept;

struct finding {
    std::string group, name, title;
    verdict what = verdict::note;
    std::string seen; // what was tried, and what the kernel said; why it was not tried
    std::string instead;
    std::string remedy;
};

class report {
public:
    void works(const feature&, std::string seen = {});
    /// An empty remedy is the feature's own.
    void missing(const feature&, std::string seen, std::string remedy = {});
    void not_tried(const feature&, std::string because);
    void note(const feature&, std::string seen, std::string remedy = {});
    void add(finding f) { findings_.push_back(std::move(f)); }

    const std::vector<finding>& findings() const noexcept { return findings_; }
    /// nullptr: nothing was found for it.
    const finding* find(const feature&) const noexcept;
    bool does(const feature&) const noexcept;
    /// Whether nothing that a tunnel needs fails.
    bool tunnel_can_run() const noexcept { return first_failure() == nullptr; }
    const finding* first_failure() const noexcept;

private:
    std::vector<finding> findings_;
};

/// `coloured`: for a terminal.
std::string as_text(const report&, bool coloured);
std::string as_json(const report&);

/// "EPERM (Operation not permitted)".
std::string describe_error(int error);

} // namespace cotun::command
