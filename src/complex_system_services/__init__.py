"""The twelve services. Each package wires one service; what is worth a test of its own is in the library."""

from complex_system import logs

logs.keep_early()

import complex_system.messaging  # noqa: E402, F401 - FastIoT with our mends, before a service imports it
