#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# Usage: run.sh PROGRAM [ARGUMENT...]
#
# Runs a fuzz target. GCC 12's and Clang 14's sanitizers fail at random under today's wide address randomisation: it is
# turned off where that is allowed.
if setarch -R true 2>/dev/null; then exec setarch -R "$@"; fi
exec "$@"
