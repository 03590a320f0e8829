/*
 * subquad @VERSION@: sub-quadratic attention on the CPU.
 *
 * Describe a problem, plan it once, execute the plan on tensors:
 *
 *     subquad_context_create -> subquad_plan_create -> subquad_plan_execute, again and again
 *
 * Every function that can fail returns a status, and leaves its out-parameters untouched unless that is
 * SUBQUAD_OK; its last parameter takes the details and may be NULL. No call ends the process, prints, or
 * changes its settings. Two exceptions: running out of memory for the library's own small objects (contexts,
 * plans, texts) aborts, as in any Rust program, and a fault of the library itself (INTERNAL) leaves a line on
 * stderr. subquad_plan_execute allocates nothing.
 *
 * "Safety" says what a caller must see to, since the library cannot check it. Names of statuses are written
 * without their prefix SUBQUAD_ERROR_.
 *
 * Generated from the crate subquad-capi by SUBQUAD_BLESS=1 cargo test -p subquad-capi --test header:
 * do not edit.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 */
#ifndef SUBQUAD_H
#define SUBQUAD_H

#include <stddef.h>
#include <stdint.h>

/* Version of this header; subquad_version() is that of the library. */
#define SUBQUAD_VERSION_MAJOR @MAJOR@
#define SUBQUAD_VERSION_MINOR @MINOR@
#define SUBQUAD_VERSION_PATCH @PATCH@
#define SUBQUAD_VERSION_NUMBER (SUBQUAD_VERSION_MAJOR * 10000 + SUBQUAD_VERSION_MINOR * 100 + SUBQUAD_VERSION_PATCH)
#define SUBQUAD_VERSION_STRING "@VERSION@"

/* On Windows, define SUBQUAD_STATIC where the static library is linked. */
#ifndef SUBQUAD_API
#if defined(_WIN32) && !defined(SUBQUAD_STATIC)
#define SUBQUAD_API __declspec(dllimport)
#elif defined(__GNUC__)
#define SUBQUAD_API __attribute__((visibility("default")))
#else
#define SUBQUAD_API
#endif
#endif

/* Stands before what a later version will remove. Define SUBQUAD_DISABLE_DEPRECATE_WARNINGS for silence. */
#if defined(SUBQUAD_DISABLE_DEPRECATE_WARNINGS)
#define SUBQUAD_DEPRECATED(msg)
#elif defined(__cplusplus) && __cplusplus >= 201402L
#define SUBQUAD_DEPRECATED(msg) [[deprecated(msg)]]
#elif defined(__GNUC__)
#define SUBQUAD_DEPRECATED(msg) __attribute__((deprecated(msg)))
#elif defined(_MSC_VER)
#define SUBQUAD_DEPRECATED(msg) __declspec(deprecated(msg))
#else
#define SUBQUAD_DEPRECATED(msg)
#endif

#ifdef __cplusplus
extern "C" {
#endif
