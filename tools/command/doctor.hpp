// SPDX-License-Identifier: Apache-2.0
//
// `cotun doctor`: whether a tunnel can run here, what of the kernel cotun will use, and what to do about the rest.
//
// Each part below looks at one thing and puts what it found into the report. None throws for what it finds, and none
// leaves anything behind: devices are made in network namespaces that end with the trial, or, where none can be made,
// in this one, with a name that nobody has.
#pragma once

#include "report.hpp"

#include <optional>
#include <string>

namespace cotun::command {

/// The words after `doctor`. Returns the exit status.
int doctor(int argc, char** argv);

// doctor_privileges.cpp
void examine_privileges(report&, const std::optional<std::string>& binary);

// doctor_system.cpp
void examine_node(report&);
void examine_surroundings(report&);
void examine_ring_policy(report&); // the sysctls and seccomp
void examine_bounds(report&);

// doctor_ring.cpp
void examine_ring(report&);
void examine_requests(report&);

// doctor_tun.cpp: after examine_node(), examine_privileges() and examine_ring(), whose findings it goes by.
void examine_devices(report&);

// doctor_sockets.cpp
void examine_sockets(report&);

} // namespace cotun::command
