// SPDX-License-Identifier: Apache-2.0
#include "netdev_features.hpp"

#include <cotun/io/unique_fd.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <linux/ethtool.h>
#include <linux/if.h>
#include <linux/sockios.h>
#include <string_view>
#include <sys/ioctl.h>
#include <sys/socket.h>

namespace cotun::command {
namespace {

// One request of SIOCETHTOOL: a header, which the kernel fills, and `tail` bytes behind it.
class ethtool_request {
public:
    ethtool_request(std::size_t header, std::size_t tail) : storage_((header + tail + 7) / 8) {}
    template <class Header>
    Header& as() noexcept {
        return *reinterpret_cast<Header*>(storage_.data());
    }
    const char* after(std::size_t header) const noexcept {
        return reinterpret_cast<const char*>(storage_.data()) + header;
    }
    bool ask(int socket, const std::string& link) noexcept {
        ifreq request{};
        std::memcpy(request.ifr_name, link.data(), std::min(link.size(), std::size_t{IFNAMSIZ - 1}));
        request.ifr_data = reinterpret_cast<char*>(storage_.data());
        return ::ioctl(socket, SIOCETHTOOL, &request) == 0;
    }

private:
    std::vector<std::uint64_t> storage_;
};

std::uint32_t count_of_features(int socket, const std::string& link) {
    ethtool_request ask(sizeof(ethtool_sset_info), sizeof(std::uint32_t));
    auto& header = ask.as<ethtool_sset_info>();
    header.cmd = ETHTOOL_GSSET_INFO;
    header.sset_mask = std::uint64_t{1} << ETH_SS_FEATURES;
    std::uint32_t count = 0;
    if (ask.ask(socket, link) && header.sset_mask != 0) std::memcpy(&count, ask.after(sizeof header), sizeof count);
    return count;
}

bool is_offload(std::string_view name) noexcept {
    return name.starts_with("tx-checksum") || name.find("segmentation") != std::string_view::npos || name == "rx-gro" ||
           name == "tx-scatter-gather";
}

} // namespace

std::vector<std::string> active_offloads(const std::string& link) {
    const unique_fd socket(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    const std::uint32_t count = count_of_features(socket.get(), link);
    ethtool_request names(sizeof(ethtool_gstrings), std::size_t{count} * ETH_GSTRING_LEN);
    auto& strings = names.as<ethtool_gstrings>();
    strings.cmd = ETHTOOL_GSTRINGS;
    strings.string_set = ETH_SS_FEATURES;
    strings.len = count;
    const std::uint32_t blocks = (count + 31) / 32;
    ethtool_request states(sizeof(ethtool_gfeatures), blocks * sizeof(ethtool_get_features_block));
    auto& features = states.as<ethtool_gfeatures>();
    features.cmd = ETHTOOL_GFEATURES;
    features.size = blocks;
    if (count == 0 || !names.ask(socket.get(), link) || !states.ask(socket.get(), link)) return {};
    std::vector<std::string> active;
    for (std::uint32_t i = 0; i < std::min(count, strings.len); ++i) {
        ethtool_get_features_block block{};
        std::memcpy(&block, states.after(sizeof features) + i / 32 * sizeof block, sizeof block);
        const char* const begin = names.after(sizeof strings) + std::size_t{i} * ETH_GSTRING_LEN;
        const std::string name(begin, ::strnlen(begin, ETH_GSTRING_LEN));
        if ((block.active >> (i % 32) & 1U) != 0 && is_offload(name)) active.push_back(name);
    }
    return active;
}

} // namespace cotun::command
