// SPDX-License-Identifier: Apache-2.0
//
// reader_places: connections that will read packets. Each takes the place of a reader of its class of buffers from the
// time that it is given out on, so that it can be opened then, whatever else is opened meanwhile.
#pragma once

#include "io/admission.hpp"
#include "io/packet_pool.hpp"

#include <string>

namespace cotun::detail {

class reactor_core;

class reader_places final : public admission {
public:
    reader_places(reactor_core& core, size_class c) noexcept : core_(&core), class_(c) {}

    bool admit() noexcept override;
    void dismiss() noexcept override;
    void await_admission(acceptor& a) noexcept override;
    std::string refusal() const override;

    /// The place is about to be that of a reader which is opened now.
    void use() noexcept { --admitted_; }
    /// It was not opened: the place is the connection's again.
    void unuse() noexcept { ++admitted_; }
    unsigned admitted() const noexcept { return admitted_; }

private:
    reactor_core* core_;
    size_class class_;
    unsigned admitted_ = 0; // and not used yet
};

} // namespace cotun::detail
