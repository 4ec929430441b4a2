/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef TRIPLANE_STATIC_ASSERT_H
#define TRIPLANE_STATIC_ASSERT_H

#ifdef __cplusplus
#define TP_STATIC_ASSERT static_assert
#else
#define TP_STATIC_ASSERT _Static_assert
#endif

#endif
