/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* One object, so that all programs share one set of maps; the loader picks the programs that a node needs. */
#include "xdp.c"
#include "tc.c"
#include "sock.c"

char LICENSE[] SEC("license") = "Dual BSD/GPL";
