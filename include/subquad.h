/*
 * subquad 0.1.0: sub-quadratic attention on the CPU.
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
#define SUBQUAD_VERSION_MAJOR 0
#define SUBQUAD_VERSION_MINOR 1
#define SUBQUAD_VERSION_PATCH 0
#define SUBQUAD_VERSION_NUMBER (SUBQUAD_VERSION_MAJOR * 10000 + SUBQUAD_VERSION_MINOR * 100 + SUBQUAD_VERSION_PATCH)
#define SUBQUAD_VERSION_STRING "0.1.0"

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

/* ===========================================================================================================
 * Version and machine
 * =========================================================================================================== */

#define SUBQUAD_ISA_SCALAR 1                 /* Reference code, any architecture. */
#define SUBQUAD_ISA_NEON 2                   /* 128-bit NEON (every aarch64). */
#define SUBQUAD_ISA_AVX2 3                   /* AVX2 and FMA (x86-64-v3). */
#define SUBQUAD_ISA_AVX512 4                 /* AVX-512 F, BW, CD, DQ, VL (x86-64-v4). */

/**
 * Version of the library at run time, as SUBQUAD_VERSION_NUMBER counts: major * 10000 + minor * 100 + patch.
 *
 * Thread-safe. Allocates: no. Since 0.1.0.
 */
SUBQUAD_API uint32_t subquad_version(void);

/**
 * Version of the library at run time, such as "0.1.0".
 *
 * Returns a static string. Thread-safe. Allocates: no. Since 0.1.0.
 */
SUBQUAD_API const char *subquad_version_string(void);

/**
 * The strongest instruction set (SUBQUAD_ISA_...) that this machine has and the library uses.
 *
 * Takes no notice of SUBQUAD_MAX_ISA, which is read when a context is made. Thread-safe. Allocates: on the
 * first call. Since 0.1.0.
 */
SUBQUAD_API uint32_t subquad_cpu_isa(void);

/**
 * Name of an instruction set (SUBQUAD_ISA_...), such as "avx2"; "unknown" for any other number.
 *
 * Returns a static string. Thread-safe. Allocates: no. Since 0.1.0.
 */
SUBQUAD_API const char *subquad_isa_name(uint32_t isa);

/* ===========================================================================================================
 * Status codes and errors
 * =========================================================================================================== */

#define SUBQUAD_OK 0                         /* Success. */
#define SUBQUAD_ERROR_NULL_POINTER (-1)      /* A required pointer is null. */
#define SUBQUAD_ERROR_INVALID_ARGUMENT (-2)  /* A value of a description, option or argument is out of its
                                                range. */
#define SUBQUAD_ERROR_UNKNOWN_MECHANISM (-3) /* No mechanism of that name in the catalogue. */
#define SUBQUAD_ERROR_UNSUPPORTED (-4)       /* Known, but not available: a mechanism, mode, type, size or
                                                instruction set. */
#define SUBQUAD_ERROR_UNKNOWN_PARAMETER (-5) /* The mechanism has no parameter of that name. */
#define SUBQUAD_ERROR_PARAMETER_RANGE (-6)   /* A parameter has the wrong kind or is out of range. */
#define SUBQUAD_ERROR_WRONG_ROLE (-7)        /* The mechanism has no such role, or it is bound on the wrong
                                                side or twice. */
#define SUBQUAD_ERROR_MISSING_ROLE (-8)      /* A required role is not bound. */
#define SUBQUAD_ERROR_WRONG_DTYPE (-9)       /* A tensor has the wrong element type. */
#define SUBQUAD_ERROR_WRONG_SHAPE (-10)      /* A tensor has the wrong rank or extent. */
#define SUBQUAD_ERROR_WRONG_STRIDE (-11)     /* A stride is not allowed, or extents times strides leave the
                                                address space. */
#define SUBQUAD_ERROR_MISALIGNED (-12)       /* A pointer is not aligned to its element type. */
#define SUBQUAD_ERROR_OVERLAP (-13)          /* An output overlaps an input or another output. */
#define SUBQUAD_ERROR_WORKSPACE (-14)        /* The workspace is too small. */
#define SUBQUAD_ERROR_OUT_OF_MEMORY (-15)    /* An allocation failed, or a thread could not be started. */
#define SUBQUAD_ERROR_INTERNAL (-16)         /* A fault of the library itself, or a runner that did not run
                                                every task. */
#define SUBQUAD_ERROR_WRONG_STRUCT (-17)     /* A struct has an unknown size, or a field that must be zero
                                                is not. */

/**
 * Result of a call: 0 for success, negative for a failure. Values are never reused or changed; later
 * versions may add some.
 */
typedef int32_t subquad_status;

/**
 * What went wrong, in words. The last parameter of every function that can fail; it may be NULL.
 *
 * The caller owns it; the call fills it in before it returns: on success with status 0 and an empty text,
 * on failure with the status it also returns and a text that names the argument, the value given and the
 * one expected. It need not be initialised.
 */
typedef struct subquad_error {
    /** The status that the call returned. */
    int32_t status;
    /** UTF-8, NUL-terminated, cut at a whole character if it is too long. */
    char message[252];
} subquad_error;

/**
 * A short name of a status, such as "wrong shape"; "unknown status" for any other number.
 *
 * Returns a static string. Thread-safe. Allocates: no. Since 0.1.0.
 */
SUBQUAD_API const char *subquad_status_string(int32_t status);

/* ===========================================================================================================
 * Threads
 *
 * Results are the same bits for any runner and any number of workers. A context without a runner computes
 * on the calling thread.
 * =========================================================================================================== */

/** A pool of threads that sleep between calls. */
typedef struct subquad_threadpool subquad_threadpool;

/**
 * One task of a call: a runner calls it with the `arg` it was given, the task's number, and the number of
 * the worker that it runs on. It never throws or longjmps.
 */
typedef void (*subquad_task)(void *arg, uint32_t task, uint32_t worker);

/**
 * Who runs the tasks of a call. All zero: the calling thread, one task after the other.
 *
 * The struct is part of subquad_context_options and will not grow.
 */
typedef struct subquad_parallel {
    /** sizeof(subquad_parallel), or 0 if all else is zero. */
    size_t struct_size;
    /** One more than the largest worker number: 1 to 1024. The workspace grows with it. */
    uint32_t max_workers;
    /** Zero. */
    uint32_t reserved;
    /** Handed to `run` as it is. */
    void *user;
    /**
     * Must call `task(arg, i, worker)` exactly once for each i from 0 to n_tasks - 1, in any order and on
     * any threads, with worker < max_workers and never one worker number on two threads at a time, and
     * return when all these calls have returned. May be called from several threads at a time if plans of
     * the context are executed from several threads. Must not throw or longjmp.
     */
    void (*run)(void *user, uint32_t n_tasks, subquad_task task, void *arg);
} subquad_parallel;

/**
 * Makes a pool of `n_threads` workers, 1 to 1024; the thread that executes a plan is one of them.
 *
 * The caller destroys `*out` with subquad_threadpool_destroy. Its threads sleep between calls. Calls from
 * several threads on one pool take turns.
 *
 * Returns NULL_POINTER (`out`), INVALID_ARGUMENT (`n_threads`), OUT_OF_MEMORY (a thread could not be
 * started), INTERNAL. Thread-safe. Allocates: yes. Since 0.1.0.
 *
 * Safety:
 * `out` is NULL or writable; `err` is NULL or writable.
 */
SUBQUAD_API
subquad_status subquad_threadpool_create(uint32_t n_threads,
                                         subquad_threadpool **out,
                                         subquad_error *err);

/**
 * Frees a pool; NULL is fine. Contexts that were made with it keep its threads until they and their plans
 * are destroyed, so the order does not matter.
 *
 * Thread-safe, once per pool. Allocates: no. Since 0.1.0.
 *
 * Safety:
 * `pool` is NULL or came from subquad_threadpool_create and was not destroyed before. A subquad_parallel
 * that names it must not make another context.
 */
SUBQUAD_API void subquad_threadpool_destroy(subquad_threadpool *pool);

/**
 * Fills in the runner of a pool, to be copied into subquad_context_options.
 *
 * `out` need not be initialised. Returns NULL_POINTER (`pool`, `out`), INTERNAL. Thread-safe.
 * Allocates: no. Since 0.1.0.
 *
 * Safety:
 * `pool` is NULL or a live pool; `out` and `err` are NULL or writable.
 */
SUBQUAD_API
subquad_status subquad_threadpool_parallel(subquad_threadpool *pool,
                                           subquad_parallel *out,
                                           subquad_error *err);

/* ===========================================================================================================
 * Contexts
 *
 * A context holds what a caller chooses once: the instruction set and who runs tasks. It is immutable and
 * can be used from any number of threads.
 * =========================================================================================================== */

/** What a caller chose once; made by subquad_context_create. */
typedef struct subquad_context subquad_context;

/** Choices of a context. Filled by subquad_context_options_init, then by the caller. */
typedef struct subquad_context_options {
    /** sizeof(subquad_context_options). */
    size_t struct_size;
    /** Nothing stronger than this instruction set (SUBQUAD_ISA_...); 0: the machine's best. */
    uint32_t max_isa;
    /** Zero. */
    uint32_t reserved;
    /** Who runs tasks; all zero: the calling thread. */
    subquad_parallel parallel;
} subquad_context_options;

/**
 * Sets the defaults: the machine's best instruction set, everything on the calling thread.
 *
 * NULL is ignored. Thread-safe. Allocates: no. Since 0.1.0.
 *
 * Safety:
 * `options` is NULL or writable.
 */
SUBQUAD_API void subquad_context_options_init(subquad_context_options *options);

/**
 * Makes a context.
 *
 * `options` may be NULL for the defaults, and is not needed afterwards; what its `parallel` points to must
 * outlive the context and its plans (a built-in pool need not). Reads the environment variable
 * SUBQUAD_MAX_ISA (scalar, neon, avx2, avx512), which can lower the instruction set further. The caller
 * destroys `*out` with subquad_context_destroy.
 *
 * Returns NULL_POINTER (`out`, a runner without `run`), INVALID_ARGUMENT (unknown instruction set or word
 * in SUBQUAD_MAX_ISA, max_workers), UNSUPPORTED (the machine lacks the instruction set), WRONG_STRUCT,
 * INTERNAL. Thread-safe. Allocates: yes. Since 0.1.0.
 *
 * Safety:
 * `options` is NULL or readable for its struct_size; its runner keeps its promises; `out` and `err` are
 * NULL or writable.
 */
SUBQUAD_API
subquad_status subquad_context_create(const subquad_context_options *options,
                                      subquad_context **out,
                                      subquad_error *err);

/**
 * Frees a context; NULL is fine. Its plans stay usable.
 *
 * Thread-safe, once per context. Allocates: no. Since 0.1.0.
 *
 * Safety:
 * `context` is NULL or came from subquad_context_create and was not destroyed before.
 */
SUBQUAD_API void subquad_context_destroy(subquad_context *context);

/**
 * The instruction set (SUBQUAD_ISA_...) that plans of this context use; 0 for NULL.
 *
 * Thread-safe. Allocates: no. Since 0.1.0.
 *
 * Safety:
 * `context` is NULL or a live context.
 */
SUBQUAD_API uint32_t subquad_context_isa(const subquad_context *context);

/* ===========================================================================================================
 * Describing a problem
 *
 * A description holds everything but the batch and the lengths, which come with each call.
 * =========================================================================================================== */

#define SUBQUAD_MODE_CAUSAL 1                /* Whole sequence; token t reads tokens s <= t. */
#define SUBQUAD_MODE_BIDIRECTIONAL 2         /* Whole sequence; every token reads every token. */
#define SUBQUAD_MODE_CROSS 4                 /* Queries of one sequence read the keys and values of
                                                another. */
#define SUBQUAD_MODE_STEP 8                  /* One new token per sequence, the state carried from call to
                                                call. */
#define SUBQUAD_MODE_DRAW 16                 /* Random draws. */
#define SUBQUAD_MODE_TRANSFORM 32            /* Helpers that are no attention. */

#define SUBQUAD_FLAG_BF16_DOT 1              /* Operands of matrix products may be rounded to bf16,
                                                whatever the tensors' types; sums and the carried state
                                                stay f32. A permission: used where the processor multiplies
                                                pairs of bf16, in prefill without gradients, by exact
                                                attention and by recurrences with a decay per token or head
                                                or none, with or without the delta rule; elsewhere it
                                                changes nothing. The plan's info tells by its kernel. */

#define SUBQUAD_DTYPE_F32 1                  /* IEEE single. */
#define SUBQUAD_DTYPE_BF16 2                 /* The upper half of an IEEE single. */
#define SUBQUAD_DTYPE_F16 3                  /* IEEE half. */
#define SUBQUAD_DTYPE_I32 4                  /* 32-bit integer. */

#define SUBQUAD_PARAM_INT 1                  /* The value is in `i64`: an integer; also a truth value (0,
                                                1), and accepted where a real is asked for. */
#define SUBQUAD_PARAM_REAL 2                 /* The value is in `f64`. */
#define SUBQUAD_PARAM_WORD 3                 /* The value is in `word`: one of the catalogue's list. */
#define SUBQUAD_PARAM_INTS 4                 /* The values are in `i64s[0 .. n]`; accepted where reals are
                                                asked for. */
#define SUBQUAD_PARAM_REALS 5                /* The values are in `f64s[0 .. n]`. */

/** One named parameter. The struct is frozen. */
typedef struct subquad_param {
    /** Name in the catalogue, NUL-terminated. */
    const char *name;
    /** SUBQUAD_PARAM_...: which of the fields below holds the value. The others are ignored. */
    uint32_t kind;
    /** Zero. */
    uint32_t reserved;
    /** SUBQUAD_PARAM_INT. */
    int64_t i64;
    /** SUBQUAD_PARAM_REAL. */
    double f64;
    /** SUBQUAD_PARAM_WORD, NUL-terminated. */
    const char *word;
    /** SUBQUAD_PARAM_INTS. */
    const int64_t *i64s;
    /** SUBQUAD_PARAM_REALS. */
    const double *f64s;
    /** Length of the list. */
    size_t n;
} subquad_param;

/** What to plan. Filled by subquad_desc_init, then by the caller. */
typedef struct subquad_desc {
    /** sizeof(subquad_desc). */
    size_t struct_size;
    /** Name of the mechanism in the catalogue, NUL-terminated. There is no default. */
    const char *mechanism;
    /** Bits of SUBQUAD_MODE_... to prepare. Default: SUBQUAD_MODE_CAUSAL. */
    uint32_t modes;
    /** Bits of SUBQUAD_FLAG_... Default: 0. */
    uint32_t flags;
    /** Heads of q. The larger of any two head counts is a multiple of the smaller. Default: 1. */
    int64_t heads_q;
    /** Heads of k. Default: 1. */
    int64_t heads_k;
    /** Heads of v. Default: 1. */
    int64_t heads_v;
    /** Dimension of queries and keys. Default: 64. */
    int64_t dim_qk;
    /** Dimension of values. Default: 64. */
    int64_t dim_v;
    /**
     * Element type of q, k and v: SUBQUAD_DTYPE_F32, _BF16 or _F16. Every other input (gates, weights, values
     * per head) is F32 or of this type, each as its tensor says. Arithmetic is F32 always. Default: F32.
     */
    uint32_t dtype_qkv;
    /** Element type of out: F32, BF16 or F16, whatever the inputs are; rounded once, to nearest. Default: F32. */
    uint32_t dtype_out;
    /**
     * Element type of the state: F32 or BF16, rounded once at the end of each call; normalisers, shifts,
     * logarithms of sums and counts are F32 (subquad_plan_state_component tells). Mechanisms gate, causal_conv and
     * lasp, gradients and summaries take F32 in all three. Default: F32.
     */
    uint32_t dtype_state;
    /** Zero. */
    uint32_t reserved;
    /** Parameters that are not to have their default; may be NULL if there are none. */
    const subquad_param *params;
    /** Number of parameters. */
    size_t n_params;
} subquad_desc;

/**
 * Sets the defaults: mode causal, one head of dimension 64, f32, no parameters, no mechanism.
 *
 * NULL is ignored. Thread-safe. Allocates: no. Since 0.1.0.
 *
 * Safety:
 * `desc` is NULL or writable.
 */
SUBQUAD_API void subquad_desc_init(subquad_desc *desc);

/* ===========================================================================================================
 * Tensors
 *
 * A call is given its tensors by role. Strides count elements; they may be negative, and those of inputs may
 * be 0 to broadcast. Data need only be aligned to their element type.
 * =========================================================================================================== */

#define SUBQUAD_MAX_RANK 5                   /* Largest rank of a tensor. */
#define SUBQUAD_MAX_TENSORS 32               /* Most tensors that one call takes, inputs and outputs
                                                together. */

/** A tensor that a call reads. The struct is frozen. */
typedef struct subquad_in {
    /** What it is to the call: SUBQUAD_ROLE_.... */
    uint32_t role;
    /** Element type: SUBQUAD_DTYPE_.... */
    uint32_t dtype;
    /** Number of axes, 0 to 5. */
    uint32_t rank;
    /** Zero. */
    uint32_t reserved0;
    /** Address of element [0, 0, ...]; may be NULL if there is no element. */
    const void *data;
    /** Extents; those past `rank` are ignored. */
    int64_t shape[5];
    /** Strides in elements; those past `rank` are ignored. */
    int64_t stride[5];
    /** Zero. */
    uint64_t reserved[2];
} subquad_in;

/** A tensor that a call writes: the same layout as subquad_in. The struct is frozen. */
typedef struct subquad_out {
    /** What it is to the call: SUBQUAD_ROLE_.... */
    uint32_t role;
    /** Element type: SUBQUAD_DTYPE_.... */
    uint32_t dtype;
    /** Number of axes, 0 to 5. */
    uint32_t rank;
    /** Zero. */
    uint32_t reserved0;
    /** Address of element [0, 0, ...]; may be NULL if there is no element. */
    void *data;
    /** Extents; those past `rank` are ignored. */
    int64_t shape[5];
    /** Strides in elements; those past `rank` are ignored. No two elements share memory. */
    int64_t stride[5];
    /** Zero. */
    uint64_t reserved[2];
} subquad_out;

/* ===========================================================================================================
 * Plans
 *
 * A plan is a problem made ready to run: heads, dimensions, parameters and kernels are fixed; batch and
 * lengths come with each call. It is immutable and can be executed from several threads at a time, each
 * with its own workspace, outputs and state.
 * =========================================================================================================== */

/** A problem made ready to run; made by subquad_plan_create. */
typedef struct subquad_plan subquad_plan;

/** What a plan will run. */
typedef struct subquad_plan_info {
    /** sizeof(subquad_plan_info), set by the caller. */
    size_t struct_size;
    /** Instruction set of its kernels (SUBQUAD_ISA_...). */
    uint32_t isa;
    /** Tokens of a chunk. */
    uint32_t chunk;
    /** Value columns of the part of the state that stays in the first-level cache. */
    uint32_t panel;
    /** Number of tensors that make up the state: indices of subquad_plan_state_component. */
    uint32_t n_state;
    /** Bytes of one sequence's state. */
    size_t state_bytes;
    /** Bytes of workspace that suffice for every call of subquad_plan_execute. */
    size_t workspace_bytes;
    /** Name of the mechanism. */
    char mechanism[32];
    /** The engine and the tile that does the bulk of the work, as "engine:tile". */
    char kernel[64];
    /** Modes of the plan in which subquad_plan_backward has gradients: bits of SUBQUAD_MODE_.... */
    uint32_t gradient_modes;
    /** Zero. */
    uint32_t reserved;
} subquad_plan_info;

/**
 * Plans a description for the instruction set and runner of a context.
 *
 * Neither `context` nor `desc` is needed afterwards. The caller destroys `*out` with subquad_plan_destroy.
 * Takes microseconds.
 *
 * Returns NULL_POINTER, INVALID_ARGUMENT (names the field), UNKNOWN_MECHANISM, UNSUPPORTED (mechanism, mode,
 * type or size, and why), UNKNOWN_PARAMETER, PARAMETER_RANGE, WRONG_STRUCT, INTERNAL. Thread-safe.
 * Allocates: yes. Since 0.1.0.
 *
 * Safety:
 * `context` is NULL or a live context; `desc` is NULL or readable for its struct_size, its strings are
 * NUL-terminated and its lists as long as they say; `out` and `err` are NULL or writable.
 */
SUBQUAD_API
subquad_status subquad_plan_create(const subquad_context *context,
                                   const subquad_desc *desc,
                                   subquad_plan **out,
                                   subquad_error *err);

/**
 * Frees a plan; NULL is fine.
 *
 * Thread-safe, once per plan and not while it is executed. Allocates: no. Since 0.1.0.
 *
 * Safety:
 * `plan` is NULL or came from subquad_plan_create and was not destroyed before.
 */
SUBQUAD_API void subquad_plan_destroy(subquad_plan *plan);

/**
 * Says what a plan will run.
 *
 * The caller sets info->struct_size first. Returns NULL_POINTER, WRONG_STRUCT, INTERNAL. Thread-safe.
 * Allocates: no. Since 0.1.0.
 *
 * Safety:
 * `plan` is NULL or a live plan; `info` is NULL or writable for its struct_size; `err` is NULL or writable.
 */
SUBQUAD_API
subquad_status subquad_plan_get_info(const subquad_plan *plan,
                                     subquad_plan_info *info,
                                     subquad_error *err);

/**
 * Bytes of workspace that subquad_plan_execute needs in one mode (SUBQUAD_MODE_...), whatever batch and
 * lengths; mode 0 asks for what suffices in every mode of the plan.
 *
 * Returns NULL_POINTER, INVALID_ARGUMENT (no such mode), UNSUPPORTED (the plan was not made for it),
 * INTERNAL. Thread-safe. Allocates: no. Since 0.1.0.
 *
 * Safety:
 * `plan` is NULL or a live plan; `bytes` and `err` are NULL or writable.
 */
SUBQUAD_API
subquad_status subquad_plan_workspace_size(const subquad_plan *plan,
                                           uint32_t mode,
                                           size_t *bytes,
                                           subquad_error *err);

/**
 * Bytes of one sequence's state in the layout of subquad_plan_state_component; 0 for mechanisms without.
 *
 * Returns NULL_POINTER, INTERNAL. Thread-safe. Allocates: no. Since 0.1.0.
 *
 * Safety:
 * `plan` is NULL or a live plan; `bytes` and `err` are NULL or writable.
 */
SUBQUAD_API
subquad_status subquad_plan_state_size(const subquad_plan *plan,
                                       size_t *bytes,
                                       subquad_error *err);

/**
 * Runs a plan on tensors of any batch and length.
 *
 * `in` and `out` bind tensors to the roles of the mechanism, in any order; subquad_mechanism_role lists them
 * with their shapes. `mode` is one of those of the description. A state is carried in place by giving the
 * same pointer, shape and strides as STATE_IN in `in` and as STATE_OUT in `out`; otherwise no output may
 * share memory with another tensor. `workspace` has at least subquad_plan_workspace_size bytes; 64-byte
 * alignment is best, none is required; its contents mean nothing before and after, and it belongs to this
 * call alone. Lengths of 0 are fine.
 *
 * Snapshots: a call of mode causal also stores the state as it is after some of its tokens, so that an engine that
 * speculates can go back to one of them, or keep prefixes. SNAPSHOT_AT in `in`, i32 [n_sequences, N], says after how
 * many tokens of each sequence (0 to its length, ascending, -1 for none); for each component of the state `out` binds
 * role_out | SUBQUAD_ROLE_SNAPSHOT, of the component's type, [n_sequences, N, shape of the component]. n_sequences is
 * the batch, or the sequences of CU_SEQLENS, whatever STATE_INDEX says; nothing is written for -1 and for skipped
 * sequences. A shift may be left out, as in STATE_OUT. A snapshot is what a call of that many tokens alone would carry
 * out. A sequence is cut where one is taken: at multiples of the plan's chunk that changes no bit, elsewhere it rounds
 * differently.
 *
 * Caches: in modes step and causal, softmax attention (mechanisms with KEY_LEN, but dnas) finds key s of sequence b, 0
 * the oldest, in row s % page of page PAGE_TABLE[b, s / page], i32 [B, n], where `k` and `v` are pools of pages, [P, Hk,
 * page, D] and [P, Hk, page, E]; or in row (KEY_START[b] + s) % S, i32 [B], where they are rings, [B, Hk, S, D] and [B,
 * Hk, S, E]. A sequence has KEY_LEN[b] keys, of which the queries are the last; pages need KEY_LEN, rings are full
 * without. Sequences may share pages. Entries of PAGE_TABLE that no key needs are not looked at. BIAS and G go by s; with
 * pages their S is n * page. The result has the bits that it has with the keys one after the other. Not with CU_SEQLENS.
 *
 * Queries in pieces: srformer with parameter gen_len takes queries of a sequence from number QUERY_START[b] on, i32 [B],
 * in modes step and cross. STATE_OUT and MEMORY_OUT of a call are STATE_IN and MEMORY_IN of the one that follows; so are
 * TOTAL_OUT and Z_OUT, which spare the work on all keys, where they are bound. Nothing of a state is read where QUERY_START
 * is 0. The result has the bits of the call with all queries.
 *
 * After a failure the plan is usable as before; all but INTERNAL leave outputs and state untouched. Values
 * are not checked: NaN stays in the rows that read it.
 *
 * Returns NULL_POINTER (names the argument or the role), INVALID_ARGUMENT (mode, more than
 * SUBQUAD_MAX_TENSORS tensors, values of an index tensor), UNSUPPORTED (the plan was not made for the mode),
 * WRONG_ROLE, MISSING_ROLE, WRONG_DTYPE, WRONG_SHAPE, WRONG_STRIDE, MISALIGNED, OVERLAP, WORKSPACE,
 * WRONG_STRUCT (a reserved field is not zero), INTERNAL. Thread-safe with other workspace, outputs and state.
 * Allocates: no, but for the text of a failure. Since 0.1.0.
 *
 * Safety:
 * `plan` is NULL or a live plan; `in` and `out` are NULL or have that many elements; every element of the
 * tensors they describe is readable or writable and, until the call returns, used by nobody else;
 * `workspace` is NULL or writable for that size, and no tensor lies in it; `err` is NULL or writable.
 */
SUBQUAD_API
subquad_status subquad_plan_execute(const subquad_plan *plan,
                                    uint32_t mode,
                                    const subquad_in *in,
                                    size_t n_in,
                                    const subquad_out *out,
                                    size_t n_out,
                                    void *workspace,
                                    size_t workspace_size,
                                    subquad_error *err);

/* ===========================================================================================================
 * Gradients
 *
 * Backward maps the gradient of the output to those of the inputs. The role of a gradient is the role of its
 * tensor with the bit SUBQUAD_ROLE_GRAD: SUBQUAD_ROLE_Q | SUBQUAD_ROLE_GRAD is "dq". A gradient has the shape of
 * its tensor; subquad_mechanism_role says which tensors have one, subquad_plan_info in which modes.
 * =========================================================================================================== */

/**
 * Bytes of workspace that subquad_plan_backward needs for so many sequences (the batch, or the packed ones of
 * CU_SEQLENS) with so many queries and keys in each; of sequences that differ, the longest counts.
 *
 * Unlike subquad_plan_workspace_size it grows with the length: each worker of the context keeps the state of a
 * head at every 256th token, and with 16-bit q, k and v there is room for gradients of rows that several heads share,
 * as f32. In fam_block the rows of the memory count among the keys, unless parameter F says how many they are.
 *
 * Returns NULL_POINTER, INVALID_ARGUMENT (a negative number), UNSUPPORTED (the plan has no gradient, or so much
 * can't be), INTERNAL. Thread-safe. Allocates: no, but for the text of a failure. Since 0.1.0.
 *
 * Safety:
 * `plan` is NULL or a live plan; `bytes` and `err` are NULL or writable.
 */
SUBQUAD_API
subquad_status subquad_plan_backward_workspace_size(const subquad_plan *plan,
                                                    int64_t sequences,
                                                    int64_t n_q,
                                                    int64_t n_k,
                                                    size_t *bytes,
                                                    subquad_error *err);

/**
 * Computes gradients of the inputs from gradients of the outputs.
 *
 * `in` binds the inputs of subquad_plan_execute as they were, STATE_IN included, and the gradient of OUT; with
 * it, if what was carried out has a gradient, that of STATE_OUT and the other parts of the state (absent: zero).
 * `out` binds the gradients that are wanted, of any inputs that are bound and of STATE_IN. OUT and STATE_OUT
 * themselves are not bound: what is needed of the forward pass is computed anew. Only softmax, focal, fox, bswa and
 * integral take OUT and LSE of subquad_plan_execute in `in`, both or none, and do without that work; hard_retrieval
 * takes INDEX, -1 or a key that the query sees, in place of that of the best key.
 *
 * Gradients are written, not added to. Those of shared heads, and of what all sequences share, are sums over
 * those who share. Those of a state are addressed by STATE_INDEX where states are. A long sequence can be
 * differentiated in pieces, last one first: the gradient of a piece's STATE_IN is that of STATE_OUT for the piece
 * before. Where SHIFT_IN is bound, gradients of states are in the scale of SHIFT_IN and of the SHIFT_OUT of forward, at
 * fixed shifts; else of states in plain scale. No output may share memory with another tensor. `workspace` has at
 * least subquad_plan_backward_workspace_size bytes for the sequences of the call. Results have the same bits for any
 * number of threads, and whatever else is wanted.
 *
 * Element types: inputs have those of subquad_plan_execute. A gradient is f32, or has the type of its tensor: those of Q,
 * K and V desc.dtype_qkv, that of OUT desc.dtype_out, those of states desc.dtype_state, others the type that the tensor
 * has in this call. Types may be mixed. The gradient of BIAS is always f32, and so are those of Z_IN and Z_OUT, and
 * MSG_GRAD. Arithmetic is f32 and each gradient is rounded once, to nearest, ties to even: its bits are those that f32
 * tensors of the same values give, rounded.
 *
 * After a failure the plan is usable as before; all but INTERNAL leave outputs untouched.
 *
 * Returns UNSUPPORTED (the plan was not made for the mode, or the mechanism has no gradient in it: modes STEP,
 * DRAW and TRANSFORM have none), otherwise what subquad_plan_execute returns. Thread-safe with other workspace
 * and outputs. Allocates: no, but for the text of a failure. Since 0.1.0.
 *
 * Safety:
 * As for subquad_plan_execute.
 */
SUBQUAD_API
subquad_status subquad_plan_backward(const subquad_plan *plan,
                                     uint32_t mode,
                                     const subquad_in *in,
                                     size_t n_in,
                                     const subquad_out *out,
                                     size_t n_out,
                                     void *workspace,
                                     size_t workspace_size,
                                     subquad_error *err);

/* ===========================================================================================================
 * Segments of sequences
 *
 * A sequence can be split over threads, processes or hosts: each summarises its segment, states are combined in
 * order (a chain of messages, a gather or a scan), and each runs its segment from the state that comes in. The
 * message-passing form of linear-attention sequence parallelism (LASP, arXiv 2404.02882). examples/mpi does it
 * over MPI.
 * =========================================================================================================== */

/**
 * Bytes of workspace that subquad_plan_summarise, subquad_plan_combine and subquad_plan_correct need, whatever the
 * lengths.
 *
 * Returns NULL_POINTER, UNSUPPORTED (the plan was not made for mode CAUSAL, or the mechanism has no summaries),
 * INTERNAL. Thread-safe. Allocates: no, but for the text of a failure. Since 0.1.0.
 *
 * Safety:
 * `plan` is NULL or a live plan; `bytes` and `err` are NULL or writable.
 */
SUBQUAD_API
subquad_status subquad_plan_segment_workspace_size(const subquad_plan *plan,
                                                   size_t *bytes,
                                                   subquad_error *err);

/**
 * Summary of a segment: its final state from an empty one, and what it does to a state that comes in,
 * `S_out = M S_in + S_local`.
 *
 * `in` binds the inputs of mode CAUSAL but Q, any state, and what a norm of the output reads. `out` binds STATE_OUT
 * (and Z_OUT where the mechanism keeps a normaliser) for the local state, and MSG_TRANSITION where M is wanted:
 * `[B, Hs]` where a token has one decay, `[B, Hs, D]` where each channel has its own, `[B, Hs, D, D]` for the delta
 * rule and its relatives; without a decay there is none. Ragged batches and pooled states as in
 * subquad_plan_execute.
 *
 * Returns UNSUPPORTED (as subquad_plan_segment_workspace_size), otherwise what subquad_plan_execute returns.
 * Thread-safe with other workspace and outputs. Allocates: no, but for the text of a failure. Since 0.1.0.
 *
 * Safety:
 * As for subquad_plan_execute.
 */
SUBQUAD_API
subquad_status subquad_plan_summarise(const subquad_plan *plan,
                                      const subquad_in *in,
                                      size_t n_in,
                                      const subquad_out *out,
                                      size_t n_out,
                                      void *workspace,
                                      size_t workspace_size,
                                      subquad_error *err);

/**
 * The state that leaves a segment: `S_out = M S_in + S_local`.
 *
 * `in` binds STATE_IN, MSG_LOCAL (the STATE_OUT of subquad_plan_summarise) and MSG_TRANSITION (where there is one);
 * `out` binds STATE_OUT. Where the mechanism keeps a normaliser, also Z_IN, MSG_LOCAL_Z and Z_OUT. STATE_OUT may
 * be STATE_IN in place. For gradients, which go from the last segment to the first, bind the gradient of the
 * outgoing state as STATE_IN, that of the incoming state without it (from subquad_plan_backward) as MSG_LOCAL, and
 * a matrix with its last two strides swapped.
 *
 * Returns UNSUPPORTED (as subquad_plan_segment_workspace_size), otherwise what subquad_plan_execute returns.
 * Thread-safe with other workspace and outputs. Allocates: no, but for the text of a failure. Since 0.1.0.
 *
 * Safety:
 * As for subquad_plan_execute.
 */
SUBQUAD_API
subquad_status subquad_plan_combine(const subquad_plan *plan,
                                    const subquad_in *in,
                                    size_t n_in,
                                    const subquad_out *out,
                                    size_t n_out,
                                    void *workspace,
                                    size_t workspace_size,
                                    subquad_error *err);

/**
 * Adds to the outputs of a segment that ran from an empty state what its incoming state gives them, so that OUT is that
 * of subquad_plan_execute with this STATE_IN, within rounding: a segment runs while its incoming state is on its way.
 *
 * `in` binds the inputs of mode CAUSAL but V (and D_SKIP), and STATE_IN; `out` binds OUT, which is read and written.
 * Ragged batches and pooled states as in subquad_plan_execute. Not for outputs that are normalised.
 *
 * Returns UNSUPPORTED (as subquad_plan_segment_workspace_size, and with a normaliser), otherwise what
 * subquad_plan_execute returns. Thread-safe with other workspace and outputs. Allocates: no, but for the text of a
 * failure. Since 0.1.0.
 *
 * Safety:
 * As for subquad_plan_execute.
 */
SUBQUAD_API
subquad_status subquad_plan_correct(const subquad_plan *plan,
                                    const subquad_in *in,
                                    size_t n_in,
                                    const subquad_out *out,
                                    size_t n_out,
                                    void *workspace,
                                    size_t workspace_size,
                                    subquad_error *err);

/* ===========================================================================================================
 * State
 *
 * The state of a sequence is the caller's memory. It is plain numbers: the tensors that
 * subquad_plan_state_component lists, row-major, each at its offset. A pool of n sequences is n such pieces
 * one after the other; bind a component of all of them as a tensor whose first stride is
 * subquad_plan_state_size / 4. Any other strided tensors of the same extents will do as well, so that the
 * transposed states of other engines can be used in place, with strides.
 * =========================================================================================================== */

/** One tensor of a plan's state. */
typedef struct subquad_state_component {
    /** sizeof(subquad_state_component), set by the caller. */
    size_t struct_size;
    /** Role that reads it. */
    uint32_t role_in;
    /** Role that writes it. */
    uint32_t role_out;
    /** Element type (SUBQUAD_DTYPE_...). */
    uint32_t dtype;
    /** Number of axes without the batch, 2 or 3. */
    uint32_t rank;
    /** Extents without the batch, [heads, features, dim_v] or [heads, features]; 1 past `rank`. */
    int64_t shape[3];
    /** Where it begins in the memory of one sequence, row-major from there on. */
    uint64_t offset_bytes;
    /** Value of every element before the first token. */
    float initial;
    /** Zero. */
    uint32_t reserved;
} subquad_state_component;

/**
 * Describes one of the tensors that make up the state; `index` is below n_state of subquad_plan_info.
 *
 * The caller sets out->struct_size first. Returns NULL_POINTER, INVALID_ARGUMENT (`index`), WRONG_STRUCT,
 * INTERNAL. Thread-safe. Allocates: no. Since 0.1.0.
 *
 * Safety:
 * `plan` is NULL or a live plan; `out` is NULL or writable for its struct_size; `err` is NULL or writable.
 */
SUBQUAD_API
subquad_status subquad_plan_state_component(const subquad_plan *plan,
                                            uint32_t index,
                                            subquad_state_component *out,
                                            subquad_error *err);

/**
 * Fills the states of `n_sequences` sequences, one after the other, with what they are before the first
 * token: mostly zero, but a running maximum starts at minus infinity.
 *
 * `size` is that of `state` in bytes, at least n_sequences times subquad_plan_state_size; what lies behind
 * is not touched. `state` is aligned to 4 bytes.
 *
 * Returns NULL_POINTER, INVALID_ARGUMENT (`size`), MISALIGNED, INTERNAL. Thread-safe for different states.
 * Allocates: no. Since 0.1.0.
 *
 * Safety:
 * `plan` is NULL or a live plan; `state` is NULL or writable for `size` bytes; `err` is NULL or writable.
 */
SUBQUAD_API
subquad_status subquad_state_init(const subquad_plan *plan,
                                  void *state,
                                  size_t size,
                                  size_t n_sequences,
                                  subquad_error *err);

/**
 * Converts n_matrices row-major matrices [rows, cols] without gaps to another element type, and transposes them if
 * `transpose` is 1: dst[h][c][r] = src[h][r][c], else dst[h][r][c] = src[h][r][c].
 *
 * For states of other engines: one that is kept [heads, dim_v, dim_qk] becomes ours with rows = dim_v, cols = dim_qk and
 * transpose = 1, ours becomes theirs with the two exchanged. (Binding their memory with strides works too, without
 * a copy; converting once is faster where it is stepped often.) Element types are SUBQUAD_DTYPE_F32, _BF16 and _F16;
 * to 16 bits values are rounded to nearest, ties to even. `src_size` and `dst_size` are the bytes there are, at least
 * n_matrices * rows * cols * bytes of an element; what lies behind is not touched. The two must not overlap.
 *
 * Returns NULL_POINTER, INVALID_ARGUMENT (a negative extent, `src_size`, `dst_size`, an unknown element type,
 * `transpose`), UNSUPPORTED (SUBQUAD_DTYPE_I32), MISALIGNED, OVERLAP, INTERNAL. Thread-safe for different memory.
 * Allocates: no, but for the text of a failure. Since 0.1.0.
 *
 * Safety:
 * `src` is NULL or readable for `src_size` bytes, `dst` is NULL or writable for `dst_size` bytes; `err` is
 * NULL or writable.
 */
SUBQUAD_API
subquad_status subquad_state_convert(const void *src,
                                     uint32_t src_dtype,
                                     size_t src_size,
                                     void *dst,
                                     uint32_t dst_dtype,
                                     size_t dst_size,
                                     int64_t n_matrices,
                                     int64_t rows,
                                     int64_t cols,
                                     uint32_t transpose,
                                     subquad_error *err);

/* ===========================================================================================================
 * In one call
 * =========================================================================================================== */

/**
 * Plans and executes once, on the calling thread with the machine's best instruction set; for tests and
 * notebooks. Where a plan is used more than once, make it with subquad_plan_create.
 *
 * Takes the description of subquad_plan_create, of which `modes` is ignored, and the tensors of
 * subquad_plan_execute.
 *
 * Returns what these two return, and OUT_OF_MEMORY if there is no room for the workspace. Thread-safe with
 * other outputs and state. Allocates: yes. Since 0.1.0.
 *
 * Safety:
 * As subquad_plan_create says of `desc` and subquad_plan_execute of the tensors; `err` is NULL or writable.
 */
SUBQUAD_API
subquad_status subquad_run(const subquad_desc *desc,
                           uint32_t mode,
                           const subquad_in *in,
                           size_t n_in,
                           const subquad_out *out,
                           size_t n_out,
                           subquad_error *err);

/* ===========================================================================================================
 * The catalogue
 *
 * Every mechanism that the library knows by name, whether or not this version computes it, with its
 * parameters and roles; the definitions are in docs/spec. All texts are UTF-8 in static storage.
 * =========================================================================================================== */

#define SUBQUAD_PARAM_WORDS 6                /* A list of words. It is in the catalogue only: no mechanism
                                                of this version takes one. */

#define SUBQUAD_KIND_INPUT 1                 /* Read. */
#define SUBQUAD_KIND_OUTPUT 2                /* Written. */
#define SUBQUAD_KIND_STATE_IN 3              /* Read: what was carried from the call before. */
#define SUBQUAD_KIND_STATE_OUT 4             /* Written: what the next call carries on. */
#define SUBQUAD_KIND_GRAD_OUTPUT 5           /* A gradient that backward writes beside those of the inputs. */

/** One mechanism of the catalogue. */
typedef struct subquad_mechanism_info {
    /** sizeof(subquad_mechanism_info), set by the caller. */
    size_t struct_size;
    /** The name. */
    const char *name;
    /** A title for people. */
    const char *title;
    /** Page of docs/spec that defines it. */
    const char *page;
    /** Section of that page. */
    const char *section;
    /** The mechanism of which it is a special case, in words; or empty. */
    const char *same_as;
    /** Modes that it has: bits of SUBQUAD_MODE_.... */
    uint32_t modes;
    /** 1 if this version computes it, else 0. */
    uint32_t available;
    /** Number of parameters: indices of subquad_mechanism_param. */
    uint32_t n_params;
    /** Number of roles: indices of subquad_mechanism_role. */
    uint32_t n_roles;
    /** 1 if gradients are defined, else 0. (Those that a plan has are in its subquad_plan_info.) */
    uint32_t gradient;
    /** Zero. */
    uint32_t reserved;
} subquad_mechanism_info;

/** One parameter of a mechanism. */
typedef struct subquad_param_info {
    /** sizeof(subquad_param_info), set by the caller. */
    size_t struct_size;
    /** The name. */
    const char *name;
    /** What it takes: SUBQUAD_PARAM_.... */
    uint32_t kind;
    /** 1 if a description must give it, else 0. */
    uint32_t required;
    /** Values it may have, such as "> 0.0", "0 or 1", or its words separated by ", "; empty: any finite value. */
    const char *range;
    /** Value when it is not given, a formula of sizes and parameters included; NULL: none. */
    const char *default_value;
    /** What it means. */
    const char *meaning;
} subquad_param_info;

/** One role of a mechanism. */
typedef struct subquad_role_info {
    /** sizeof(subquad_role_info), set by the caller. */
    size_t struct_size;
    /** The role: SUBQUAD_ROLE_.... */
    uint32_t role;
    /** On which side of a call it stands: SUBQUAD_KIND_.... */
    uint32_t kind;
    /** 1 if every call must bind it, else 0. (Parameters may ask for more; subquad_plan_execute says so.) */
    uint32_t required;
    /** 1 if a gradient is defined, else 0. */
    uint32_t differentiable;
    /** 1 for an output that the caller may give instead, else 0. */
    uint32_t also_input;
    /** Zero. */
    uint32_t reserved;
    /** Element type in the reference files, such as "f32". */
    const char *dtype;
    /** Shape, such as "B,Hk,S,D"; alternatives separated by " or ". */
    const char *shape;
    /** One role of those with the same group is needed; empty: no group. */
    const char *one_of;
    /** A remark, or empty. */
    const char *note;
} subquad_role_info;

/**
 * Number of mechanisms in the catalogue, those that this version does not compute included.
 *
 * Thread-safe. Allocates: on the first call. Since 0.1.0.
 */
SUBQUAD_API size_t subquad_mechanism_count(void);

/**
 * Describes the mechanism with this index, below subquad_mechanism_count.
 *
 * The caller sets out->struct_size first. Returns NULL_POINTER, INVALID_ARGUMENT (`index`), WRONG_STRUCT,
 * INTERNAL. Thread-safe. Allocates: on the first call. Since 0.1.0.
 *
 * Safety:
 * `out` is NULL or writable for its struct_size; `err` is NULL or writable.
 */
SUBQUAD_API
subquad_status subquad_mechanism_get_info(size_t index,
                                          subquad_mechanism_info *out,
                                          subquad_error *err);

/**
 * Describes parameter `i` of the mechanism with this index.
 *
 * The caller sets out->struct_size first. Returns NULL_POINTER, INVALID_ARGUMENT (`index`, `i`),
 * WRONG_STRUCT, INTERNAL. Thread-safe. Allocates: on the first call. Since 0.1.0.
 *
 * Safety:
 * `out` is NULL or writable for its struct_size; `err` is NULL or writable.
 */
SUBQUAD_API
subquad_status subquad_mechanism_param(size_t index,
                                       uint32_t i,
                                       subquad_param_info *out,
                                       subquad_error *err);

/**
 * Describes role `i` of the mechanism with this index.
 *
 * The caller sets out->struct_size first. Returns NULL_POINTER, INVALID_ARGUMENT (`index`, `i`),
 * WRONG_STRUCT, INTERNAL. Thread-safe. Allocates: on the first call. Since 0.1.0.
 *
 * Safety:
 * `out` is NULL or writable for its struct_size; `err` is NULL or writable.
 */
SUBQUAD_API
subquad_status subquad_mechanism_role(size_t index,
                                      uint32_t i,
                                      subquad_role_info *out,
                                      subquad_error *err);

/* ===========================================================================================================
 * Names of roles
 *
 * A role says what a tensor is to a call. The numbers never change. Roles of a family, such as "detail{l}",
 * have numbers but no constant: ask subquad_role_id.
 * =========================================================================================================== */

#define SUBQUAD_ROLE_GRAD 32768              /* Bit that turns a role into that of its gradient, as in
                                                SUBQUAD_ROLE_Q | SUBQUAD_ROLE_GRAD for "dq". */
#define SUBQUAD_ROLE_SNAPSHOT 16384          /* Bit that turns a role that carries a state out into its
                                                snapshots (see subquad_plan_execute), as in
                                                SUBQUAD_ROLE_STATE_OUT | SUBQUAD_ROLE_SNAPSHOT for
                                                "state_snapshots". */

/**
 * Number of the role with this name ("q", "state_in", "dq" for the gradient of q); 0 if there is none.
 *
 * `name` is NUL-terminated; NULL gives 0. Thread-safe. Allocates: no. Since 0.1.0.
 *
 * Safety:
 * `name` is NULL or a NUL-terminated string.
 */
SUBQUAD_API uint32_t subquad_role_id(const char *name);

/**
 * Name of the role with this number; NULL if there is none.
 *
 * Returns a static string. Thread-safe. Allocates: on the first call. Since 0.1.0.
 */
SUBQUAD_API const char *subquad_role_name(uint32_t role);

/* ===========================================================================================================
 * Roles of tensors
 * =========================================================================================================== */

#define SUBQUAD_ROLE_CU_SEQLENS 1            /* offsets of ragged sequences along the token axis,
                                                [n_sequences + 1], i32 */
#define SUBQUAD_ROLE_CU_SEQLENS_K 2          /* the same for the keys of mode cross */
#define SUBQUAD_ROLE_STATE_INDEX 3           /* slot of each sequence in a pool of states, [n_sequences],
                                                i32; -1 skips it */
#define SUBQUAD_ROLE_SNAPSHOT_AT 4           /* numbers of tokens after which snapshots are taken,
                                                [n_sequences, N], i32; -1: none */
#define SUBQUAD_ROLE_PAGE_TABLE 5            /* pages of each sequence's cache, [B, n], i32: k and v are
                                                pools [P, Hk, page, ...] */
#define SUBQUAD_ROLE_KEY_START 6             /* row of each sequence's oldest key in a ring of keys and
                                                values, [B], i32 */
#define SUBQUAD_ROLE_Q 16                    /* queries */
#define SUBQUAD_ROLE_K 17                    /* keys */
#define SUBQUAD_ROLE_V 18                    /* values */
#define SUBQUAD_ROLE_OUT 19                  /* output */
#define SUBQUAD_ROLE_X 20                    /* input of a transform */
#define SUBQUAD_ROLE_Y 21                    /* second input of a transform */
#define SUBQUAD_ROLE_LSE 22                  /* natural log of the normaliser of each query row, sink
                                                included */
#define SUBQUAD_ROLE_G 23
#define SUBQUAD_ROLE_GV 24                   /* log decay per token and value channel */
#define SUBQUAD_ROLE_DECAY 25                /* the decay factor itself, in [0, 1]: `exp(g)`; for
                                                mechanisms that read it so */
#define SUBQUAD_ROLE_BETA 26                 /* write strength of the delta rule */
#define SUBQUAD_ROLE_ERASE 27                /* gate on the erased key */
#define SUBQUAD_ROLE_WRITE 28                /* gate on the written value */
#define SUBQUAD_ROLE_A 29
#define SUBQUAD_ROLE_B 30
#define SUBQUAD_ROLE_BONUS 31                /* weight of the current token (RWKV-6 `u`) */
#define SUBQUAD_ROLE_DT 32                   /* step size, after softplus */
#define SUBQUAD_ROLE_DT_RAW 33               /* before it; read only when `dt` is absent: `dt =
                                                softplus(dt_raw + dt_bias)` */
#define SUBQUAD_ROLE_DT_BIAS 34              /* bias before the softplus */
#define SUBQUAD_ROLE_DECAY_RATE 35           /* `A` of Mamba-2, < 0: `g = decay_rate dt` */
#define SUBQUAD_ROLE_D_SKIP 36               /* weight of `v` added to the output (`D` of Mamba-2) */
#define SUBQUAD_ROLE_A_LOG 37                /* log of the decay rate */
#define SUBQUAD_ROLE_SLOT_WRITE 38           /* write weights of the slots */
#define SUBQUAD_ROLE_SLOT_LOGITS 39          /* logits of the slots' softmax over time */
#define SUBQUAD_ROLE_KV 40                   /* rows that are key and value at once */
#define SUBQUAD_ROLE_BASIS 41                /* orthonormal rows */
#define SUBQUAD_ROLE_STATE_IN 42             /* recurrent state before the first token; absent: empty */
#define SUBQUAD_ROLE_STATE_OUT 43            /* recurrent state after the last token */
#define SUBQUAD_ROLE_Z_IN 44                 /* normaliser state */
#define SUBQUAD_ROLE_Z_OUT 45                /* normaliser state */
#define SUBQUAD_ROLE_SHIFT_IN 46             /* log shift per feature: `state`, `z` are relative to
                                                `e^shift` */
#define SUBQUAD_ROLE_SHIFT_OUT 47            /* the same, after the last token */
#define SUBQUAD_ROLE_STATE_K_IN 48           /* key memory */
#define SUBQUAD_ROLE_STATE_K_OUT 49          /* key memory */
#define SUBQUAD_ROLE_STATE_V_IN 50           /* value memory */
#define SUBQUAD_ROLE_STATE_V_OUT 51          /* value memory */
#define SUBQUAD_ROLE_LSE_IN 52               /* log normaliser per slot */
#define SUBQUAD_ROLE_LSE_OUT 53              /* log normaliser per slot */
#define SUBQUAD_ROLE_GATE 54                 /* multiplies the output (under `rms_gate` after
                                                `gate_activation`) */
#define SUBQUAD_ROLE_QK 55                   /* shared base of queries and keys */
#define SUBQUAD_ROLE_AFFINE_WEIGHT 56        /* scales that make heads of `qk` */
#define SUBQUAD_ROLE_AFFINE_BIAS 57          /* offsets that make heads of `qk` */
#define SUBQUAD_ROLE_BIAS 58
#define SUBQUAD_ROLE_ALIBI_SLOPES 59         /* adds `-slope distance` */
#define SUBQUAD_ROLE_SINK 60                 /* one logit per head in the denominator, no value */
#define SUBQUAD_ROLE_SCALE_BH 61             /* scale per batch entry and head */
#define SUBQUAD_ROLE_RIDGE 62                /* ridge as a tensor, in place of the parameter */
#define SUBQUAD_ROLE_KEY_LEN 63              /* keys from this index on do not exist */
#define SUBQUAD_ROLE_QUERY_LEN 64            /* queries from this index on do not exist */
#define SUBQUAD_ROLE_KEY_PADDING_MASK 65     /* 1 = this key does not exist */
#define SUBQUAD_ROLE_PROBE 66                /* probe vector */
#define SUBQUAD_ROLE_BLEND 67                /* share of the doubly normalised part */
#define SUBQUAD_ROLE_LAM 68                  /* weight of the second map */
#define SUBQUAD_ROLE_INDEX 69                /* index of one key per query; -1 none */
#define SUBQUAD_ROLE_FAM_Q 70                /* queries of the memory rows */
#define SUBQUAD_ROLE_FAM_K 71                /* keys of the memory rows */
#define SUBQUAD_ROLE_FAM_V 72                /* values of the memory rows */
#define SUBQUAD_ROLE_FAM_OUT 73              /* new memory rows */
#define SUBQUAD_ROLE_W_MEM 74                /* map of the recurrent state */
#define SUBQUAD_ROLE_W_CONV1 75              /* first convolution */
#define SUBQUAD_ROLE_B_CONV1 76              /* its bias */
#define SUBQUAD_ROLE_W_CONV2 77              /* second convolution */
#define SUBQUAD_ROLE_B_CONV2 78              /* its bias */
#define SUBQUAD_ROLE_W_CONV 79               /* convolution weights */
#define SUBQUAD_ROLE_B_CONV 80               /* bias of the convolution */
#define SUBQUAD_ROLE_KEEP_Q 81               /* 1 = kept */
#define SUBQUAD_ROLE_KEEP_K 82               /* 1 = kept */
#define SUBQUAD_ROLE_HASH_Q 83               /* bucket */
#define SUBQUAD_ROLE_HASH_K 84               /* bucket */
#define SUBQUAD_ROLE_W_HASH 85               /* hash directions, columns of unit norm */
#define SUBQUAD_ROLE_N_SELECTED 86           /* keys selected per row */
#define SUBQUAD_ROLE_SELECTED 87             /* 1 = selected, read exactly */
#define SUBQUAD_ROLE_SCORE 88                /* score by which items are selected */
#define SUBQUAD_ROLE_PERM 89                 /* permutation of the tokens */
#define SUBQUAD_ROLE_LOW_RANK_K 90           /* compression of the sequence axis of keys */
#define SUBQUAD_ROLE_LOW_RANK_V 91           /* the same for values */
#define SUBQUAD_ROLE_LANDMARK_Q 92           /* landmark queries, given in place of pooled ones */
#define SUBQUAD_ROLE_LANDMARK_K 93           /* landmark keys, given */
#define SUBQUAD_ROLE_W_MIX 94                /* map of concatenated landmarks */
#define SUBQUAD_ROLE_B_MIX 95                /* its bias */
#define SUBQUAD_ROLE_MIX_Q 96                /* head mixing, query side */
#define SUBQUAD_ROLE_MIX_K 97                /* head mixing, key side */
#define SUBQUAD_ROLE_QQ_TEMPERATURE 98       /* temperature */
#define SUBQUAD_ROLE_KK_TEMPERATURE 99       /* temperature */
#define SUBQUAD_ROLE_KV_TEMPERATURE 100      /* temperature */
#define SUBQUAD_ROLE_PACK_Q 101              /* queries of the packing attention */
#define SUBQUAD_ROLE_PACK_K 102              /* its keys */
#define SUBQUAD_ROLE_PACK_V 103              /* its values */
#define SUBQUAD_ROLE_PACK_OUT 104            /* its output */
#define SUBQUAD_ROLE_UNPACK_LOGITS 105       /* logits of the unpacking attention */
#define SUBQUAD_ROLE_W_GATE 106              /* gate map */
#define SUBQUAD_ROLE_B_GATE 107              /* its bias */
#define SUBQUAD_ROLE_W_GATE_K 108            /* second gate map, for keys */
#define SUBQUAD_ROLE_B_GATE_K 109            /* its bias */
#define SUBQUAD_ROLE_WEIGHTS 110             /* attention weights themselves */
#define SUBQUAD_ROLE_W 111                   /* projection matrix, rows `w_m` */
#define SUBQUAD_ROLE_W_DIAG 112              /* diagonal of a projection */
#define SUBQUAD_ROLE_W_Q 113                 /* projection of q, applied as `x w` */
#define SUBQUAD_ROLE_W_K 114                 /* projection of k, applied as `x w` */
#define SUBQUAD_ROLE_W_QK 115                /* one projection of q and k, applied as `x w` */
#define SUBQUAD_ROLE_B_Q 116                 /* bias of `w_q` */
#define SUBQUAD_ROLE_B_K 117                 /* bias of `w_k` */
#define SUBQUAD_ROLE_B_QK 118                /* bias of `w_qk` */
#define SUBQUAD_ROLE_SIGMA 119               /* scale per channel of the projection */
#define SUBQUAD_ROLE_TEMPERATURE 120         /* divisor of the rows */
#define SUBQUAD_ROLE_PHI_Q 121               /* features of q, without any shift unless the page says
                                                otherwise */
#define SUBQUAD_ROLE_PHI_K 122               /* features of k */
#define SUBQUAD_ROLE_NOISE 123               /* standard normal samples */
#define SUBQUAD_ROLE_RADEMACHER 124          /* rows of +/-1 */
#define SUBQUAD_ROLE_DEGREES 125             /* degrees, ascending */
#define SUBQUAD_ROLE_GERF_A 126              /* `A` of the generalised exponential features */
#define SUBQUAD_ROLE_PSI 127
#define SUBQUAD_ROLE_ROT 128                 /* eigenvectors `R` */
#define SUBQUAD_ROLE_W_EFF 129
#define SUBQUAD_ROLE_B_EFF 130               /* `b` */
#define SUBQUAD_ROLE_LOCAL_BIAS 131          /* bias inside a window */
#define SUBQUAD_ROLE_W_F64 132               /* projection matrix before rounding */
#define SUBQUAD_ROLE_RAW 133                 /* raw words */
#define SUBQUAD_ROLE_NORMAL 134              /* normal numbers */
#define SUBQUAD_ROLE_SIGN 135                /* signs */
#define SUBQUAD_ROLE_APPROX 136              /* approximation coefficients */
#define SUBQUAD_ROLE_LEVEL_GAIN 137          /* gain per token (or per sequence) and scale */
#define SUBQUAD_ROLE_LEVEL_GAIN_K 138        /* the same for keys, in cross mode */
#define SUBQUAD_ROLE_LEVEL_WEIGHT 139        /* weight per scale */
#define SUBQUAD_ROLE_Q_FILTERED 140          /* q after the filter stage */
#define SUBQUAD_ROLE_W_NEAR 141              /* weight of the near field */
#define SUBQUAD_ROLE_ROUTE 142               /* head that serves the query */
#define SUBQUAD_ROLE_LABELS 143              /* cluster of each key */
#define SUBQUAD_ROLE_K_RECENT 144            /* recent keys, always exact */
#define SUBQUAD_ROLE_V_RECENT 145            /* recent values */
#define SUBQUAD_ROLE_Q_FAR 146               /* query used with centroids */
#define SUBQUAD_ROLE_K_CENTROID 147          /* mean key */
#define SUBQUAD_ROLE_V_CENTROID 148          /* mean value */
#define SUBQUAD_ROLE_CLUSTER_SIZE 149        /* keys per cluster */
#define SUBQUAD_ROLE_BOUND 150               /* error bound reached, relative like `tolerance` */
#define SUBQUAD_ROLE_CUT 151                 /* prescribed (level, node) pairs */
#define SUBQUAD_ROLE_EXACT_RANGES 152        /* prescribed [begin, end) token ranges, read exactly */
#define SUBQUAD_ROLE_K_CODE 153              /* 8-bit codes of keys */
#define SUBQUAD_ROLE_K_CODE_SCALE 154        /* their scales */
#define SUBQUAD_ROLE_K_CODE_ERR 155          /* residual norms */
#define SUBQUAD_ROLE_Q_MAX 156               /* largest row norm of q */
#define SUBQUAD_ROLE_K_MAX 157               /* largest row norm of k */
#define SUBQUAD_ROLE_SKETCH1 158             /* sketch matrix */
#define SUBQUAD_ROLE_SKETCH2 159             /* sketch matrix */
#define SUBQUAD_ROLE_TRI_X 160               /* packed square of x, layout tri */
#define SUBQUAD_ROLE_WEDGE8_KEY_X 161        /* layout wedge(8), key side */
#define SUBQUAD_ROLE_WEDGE8_QUERY_Y 162      /* layout wedge(8), query side */
#define SUBQUAD_ROLE_WEDGE16_KEY_X 163       /* layout wedge(16), key side */
#define SUBQUAD_ROLE_WEDGE16_QUERY_Y 164     /* layout wedge(16), query side */
#define SUBQUAD_ROLE_DOT2 165
#define SUBQUAD_ROLE_MSG_STATE 166           /* state sent by each rank */
#define SUBQUAD_ROLE_MSG_GRAD 167            /* state gradient sent by each rank, backwards */
#define SUBQUAD_ROLE_MSG_TRANSITION 168      /* transition matrix of each rank */
#define SUBQUAD_ROLE_MSG_LOCAL 169           /* state of each rank from an empty start */
#define SUBQUAD_ROLE_W_ATT 170               /* window weights */
#define SUBQUAD_ROLE_B_ATT 171               /* their bias */
#define SUBQUAD_ROLE_W_FEAT 172              /* depthwise features */
#define SUBQUAD_ROLE_FEAT_SCALE 173          /* folded batch norm */
#define SUBQUAD_ROLE_FEAT_SHIFT 174          /* folded batch norm */
#define SUBQUAD_ROLE_OUT_SCALE 175           /* factor of the output */
#define SUBQUAD_ROLE_OUT_SHIFT 176           /* offset of the output */
#define SUBQUAD_ROLE_OUT_NORM_WEIGHT 177     /* weight of the norm of the output */
#define SUBQUAD_ROLE_OUT_NORM_BIAS 178       /* its bias */
#define SUBQUAD_ROLE_Q_NORM_WEIGHT 179       /* weight of the layer norm of q */
#define SUBQUAD_ROLE_Q_NORM_BIAS 180         /* its bias */
#define SUBQUAD_ROLE_K_NORM_WEIGHT 181       /* weight of the layer norm of k */
#define SUBQUAD_ROLE_K_NORM_BIAS 182         /* its bias */
#define SUBQUAD_ROLE_V_NORM_WEIGHT 183       /* weight of the layer norm of v */
#define SUBQUAD_ROLE_V_NORM_BIAS 184         /* its bias */
#define SUBQUAD_ROLE_QK_NORM_WEIGHT 185      /* weight of the layer norm of q and k alike */
#define SUBQUAD_ROLE_QK_NORM_BIAS 186        /* its bias */
#define SUBQUAD_ROLE_HIDDEN_NORM_WEIGHT 187  /* weight of the layer norm of the intermediate rows */
#define SUBQUAD_ROLE_HIDDEN_NORM_BIAS 188    /* its bias */
#define SUBQUAD_ROLE_LANDMARK_Q_WEIGHT 189
#define SUBQUAD_ROLE_LANDMARK_Q_BIAS 190     /* its bias */
#define SUBQUAD_ROLE_LANDMARK_Q_NORM_WEIGHT 191 /* weight of the layer norm after it */
#define SUBQUAD_ROLE_LANDMARK_Q_NORM_BIAS 192 /* bias of that norm */
#define SUBQUAD_ROLE_LANDMARK_K_WEIGHT 193
#define SUBQUAD_ROLE_LANDMARK_K_BIAS 194     /* its bias */
#define SUBQUAD_ROLE_LANDMARK_K_NORM_WEIGHT 195 /* weight of the layer norm after it */
#define SUBQUAD_ROLE_LANDMARK_K_NORM_BIAS 196 /* bias of that norm */
#define SUBQUAD_ROLE_COUNT_IN 208            /* number of tokens that the incoming state is the mean of */
#define SUBQUAD_ROLE_COUNT_OUT 209           /* the same, after the last token */
#define SUBQUAD_ROLE_MSG_LOCAL_Z 210         /* normaliser of each rank from an empty start */
#define SUBQUAD_ROLE_QUERY_START 211         /* number of the call's first query in its sequence */
#define SUBQUAD_ROLE_MEMORY_IN 212           /* memory as queries read it, before the first query */
#define SUBQUAD_ROLE_MEMORY_OUT 213          /* the same, after the last query */
#define SUBQUAD_ROLE_TOTAL_IN 214            /* product of all keys and values */
#define SUBQUAD_ROLE_TOTAL_OUT 215           /* the same, for calls that follow */

#ifdef __cplusplus
}
#endif

#endif /* SUBQUAD_H */
