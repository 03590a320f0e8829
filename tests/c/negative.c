/* Wrong calls: each status that a caller can reach, with its message; outputs and state stay untouched, and
 * the plan works as before. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* setrlimit, under the strict standards */
#endif
#include "support.h"
#include <stdlib.h>
#include <sys/resource.h>

enum { B = 1, H = 2, T = 5, D = 4, N = B * H * T * D, N_STATE = B * H * D * D, N_IN = 6, N_OUT = 2 };

static subquad_error err;
static subquad_context *context = NULL;
static subquad_plan *plan = NULL;
static float q[N + 1], k[N], v[N], g[H * T], beta[H * T], state[N_STATE], o[N], state_out[N_STATE];
static float expected_o[N], expected_state[N_STATE];
static unsigned char *workspace = NULL;
static size_t workspace_size = 0;
/* The arguments of the next call; `reset` makes them right again. */
static subquad_in in[N_IN + 1];
static subquad_out out[N_OUT + 1];

static void reset(void) {
    size_t i;
    in[0] = input(SUBQUAD_ROLE_Q, q, 4, B, H, T, D);
    in[1] = input(SUBQUAD_ROLE_K, k, 4, B, H, T, D);
    in[2] = input(SUBQUAD_ROLE_V, v, 4, B, H, T, D);
    in[3] = input(SUBQUAD_ROLE_G, g, 3, B, H, T, 0);
    in[4] = input(SUBQUAD_ROLE_BETA, beta, 3, B, H, T, 0);
    in[5] = input(SUBQUAD_ROLE_STATE_IN, state, 4, B, H, D, D);
    out[0] = output(SUBQUAD_ROLE_OUT, o, 4, B, H, T, D);
    out[1] = output(SUBQUAD_ROLE_STATE_OUT, state_out, 4, B, H, D, D);
    for (i = 0; i < N; i++) o[i] = -77;
    for (i = 0; i < N_STATE; i++) {
        state_out[i] = -78;
        state[i] = 0.01f * (float)i;
    }
}

static subquad_status execute(uint32_t mode, size_t n_in, size_t n_out, size_t size) {
    return subquad_plan_execute(plan, mode, in, n_in, out, n_out, workspace, size, &err);
}

/* A right call gives the first call's bits. */
static int still_works(void) {
    reset();
    return execute(SUBQUAD_MODE_CAUSAL, N_IN, N_OUT, workspace_size) == SUBQUAD_OK &&
           memcmp(o, expected_o, sizeof o) == 0 && memcmp(state_out, expected_state, sizeof state_out) == 0;
}

static int untouched(void) {
    int i, same = 1;
    for (i = 0; i < N; i++) same = same && o[i] == -77;
    for (i = 0; i < N_STATE; i++) same = same && state_out[i] == -78 && state[i] == 0.01f * (float)i;
    return same;
}

/* After `reset` and a change of the arguments. */
#define REFUSED(call, status, text)                                                                          \
    do {                                                                                                     \
        CHECK_FAILS(call, status, text);                                                                     \
        CHECK(untouched());                                                                                  \
        CHECK(still_works());                                                                                \
        reset();                                                                                             \
    } while (0)
#define CALL execute(SUBQUAD_MODE_CAUSAL, N_IN, N_OUT, workspace_size)

static void wrong_tensors(void) {
    static const int32_t offsets[3] = {0, 4, 3};
    static const float all_states[2] = {0, 0};
    reset();
    in[0].role = 9999;
    REFUSED(CALL, SUBQUAD_ERROR_WRONG_ROLE, "in[0].role is 9999");
    in[0].role = 0;
    REFUSED(CALL, SUBQUAD_ERROR_WRONG_ROLE, "in[0].role is 0");
    in[5].role = SUBQUAD_ROLE_SINK;
    REFUSED(CALL, SUBQUAD_ERROR_WRONG_ROLE, "role sink");
    in[5].role = SUBQUAD_ROLE_OUT;
    REFUSED(CALL, SUBQUAD_ERROR_WRONG_ROLE, "role out: it is an output");
    out[1].role = SUBQUAD_ROLE_V;
    REFUSED(CALL, SUBQUAD_ERROR_WRONG_ROLE, "role v: it is an input");
    in[5].role = SUBQUAD_ROLE_Q;
    REFUSED(CALL, SUBQUAD_ERROR_WRONG_ROLE, "role q: it is bound twice");
    in[4].role = SUBQUAD_ROLE_STATE_IN;
    REFUSED(execute(SUBQUAD_MODE_CAUSAL, 4, N_OUT, workspace_size), SUBQUAD_ERROR_MISSING_ROLE, "beta");
    REFUSED(execute(SUBQUAD_MODE_CAUSAL, N_IN, 0, workspace_size), SUBQUAD_ERROR_MISSING_ROLE, "out");

    in[1].dtype = SUBQUAD_DTYPE_BF16;
    REFUSED(CALL, SUBQUAD_ERROR_WRONG_DTYPE, "k has type bf16, expected f32");
    out[0].dtype = 9;
    REFUSED(CALL, SUBQUAD_ERROR_WRONG_DTYPE, "out[0].dtype is 9");

    in[2].rank = 3;
    REFUSED(CALL, SUBQUAD_ERROR_WRONG_SHAPE, "v has rank 3, expected 4");
    in[2].rank = 6;
    REFUSED(CALL, SUBQUAD_ERROR_WRONG_SHAPE, "in[2].rank is 6, expected at most 5");
    in[2].rank = 0xffffffffu;
    REFUSED(CALL, SUBQUAD_ERROR_WRONG_SHAPE, "in[2].rank is 4294967295");
    in[2].shape[3] = D + 1;
    REFUSED(CALL, SUBQUAD_ERROR_WRONG_SHAPE, "v.shape[3] is 5, desc.dim_v is 4");
    in[1].shape[2] = -1;
    REFUSED(CALL, SUBQUAD_ERROR_WRONG_SHAPE, "k.shape[2] is -1");
    in[1].shape[2] = 0;
    REFUSED(CALL, SUBQUAD_ERROR_WRONG_SHAPE, "v.shape[2] is 5");
    in[3].shape[1] = H + 1;
    REFUSED(CALL, SUBQUAD_ERROR_WRONG_SHAPE, "g.shape[1] is 3");
    in[0].shape[0] = 2;
    REFUSED(CALL, SUBQUAD_ERROR_WRONG_SHAPE, "shape[0]");

    in[0].stride[1] = INT64_MAX / 2;
    REFUSED(CALL, SUBQUAD_ERROR_WRONG_STRIDE, "q.stride");
    in[0].stride[1] = INT64_MIN;
    REFUSED(CALL, SUBQUAD_ERROR_WRONG_STRIDE, "q.stride");
    in[0].stride[1] = (int64_t)1 << 60;
    REFUSED(CALL, SUBQUAD_ERROR_WRONG_STRIDE, "q.stride");
    out[0].stride[2] = 0;
    REFUSED(CALL, SUBQUAD_ERROR_WRONG_STRIDE, "out.stride[2] is 0");
    out[0].stride[2] = D - 1;
    REFUSED(CALL, SUBQUAD_ERROR_WRONG_STRIDE, "out.stride[2] is 3");

    in[0].data = (const char *)q + 2;
    REFUSED(CALL, SUBQUAD_ERROR_MISALIGNED, "q.data is not aligned to 4 bytes");
    in[0].data = NULL;
    REFUSED(CALL, SUBQUAD_ERROR_NULL_POINTER, "q.data is null");
    out[0].data = NULL;
    REFUSED(CALL, SUBQUAD_ERROR_NULL_POINTER, "out.data is null");

    in[2].data = o;
    REFUSED(CALL, SUBQUAD_ERROR_OVERLAP, "output out overlaps v");
    out[1].data = o + N - 1;
    out[1].shape[0] = 1;
    REFUSED(CALL, SUBQUAD_ERROR_OVERLAP, "overlaps");
    in[5].data = state_out;
    in[5].stride[2] = 1;
    in[5].stride[3] = D;
    REFUSED(CALL, SUBQUAD_ERROR_OVERLAP, "output state_out overlaps state_in");

    in[5] = input(SUBQUAD_ROLE_CU_SEQLENS, offsets, 1, 3, 0, 0, 0);
    in[5].dtype = SUBQUAD_DTYPE_I32;
    out[1].shape[0] = 2; /* two sequences; never written */
    REFUSED(execute(SUBQUAD_MODE_CAUSAL, N_IN, 1, workspace_size), SUBQUAD_ERROR_INVALID_ARGUMENT, "cu_seqlens[2] is 3");
    in[5].role = SUBQUAD_ROLE_CU_SEQLENS;
    in[5].data = all_states;
    REFUSED(CALL, SUBQUAD_ERROR_WRONG_DTYPE, "cu_seqlens has type f32, expected i32");

    in[3].reserved0 = 1;
    REFUSED(CALL, SUBQUAD_ERROR_WRONG_STRUCT, "in[3].reserved must be zero");
    out[1].reserved[1] = 1;
    REFUSED(CALL, SUBQUAD_ERROR_WRONG_STRUCT, "out[1].reserved must be zero");
}

static void wrong_arguments(void) {
    subquad_plan *const right = plan;
    unsigned char *const memory = workspace;
    size_t bytes = 12345;
    reset();
    plan = NULL;
    CHECK_FAILS(CALL, SUBQUAD_ERROR_NULL_POINTER, "plan is null");
    plan = right;
    CHECK_FAILS(subquad_plan_execute(plan, SUBQUAD_MODE_CAUSAL, NULL, 6, out, 2, workspace, workspace_size, &err),
                SUBQUAD_ERROR_NULL_POINTER, "in is null");
    CHECK_FAILS(subquad_plan_execute(plan, SUBQUAD_MODE_CAUSAL, in, 6, NULL, 2, workspace, workspace_size, &err),
                SUBQUAD_ERROR_NULL_POINTER, "out is null");
    workspace = NULL; /* as after a failed malloc */
    CHECK_FAILS(CALL, SUBQUAD_ERROR_NULL_POINTER, "workspace is null");
    workspace = memory;
    REFUSED(execute(SUBQUAD_MODE_CAUSAL, N_IN, N_OUT, workspace_size - 1), SUBQUAD_ERROR_WORKSPACE, "workspace has");
    REFUSED(execute(SUBQUAD_MODE_CAUSAL, N_IN, N_OUT, 0), SUBQUAD_ERROR_WORKSPACE, "workspace has 0 bytes");
    REFUSED(execute(0, N_IN, N_OUT, workspace_size), SUBQUAD_ERROR_INVALID_ARGUMENT, "mode is 0");
    REFUSED(execute(3, N_IN, N_OUT, workspace_size), SUBQUAD_ERROR_INVALID_ARGUMENT, "mode is 3");
    REFUSED(execute(SUBQUAD_MODE_STEP, N_IN, N_OUT, workspace_size), SUBQUAD_ERROR_UNSUPPORTED, "mode step");
    REFUSED(subquad_plan_execute(plan, SUBQUAD_MODE_CAUSAL, in, 31, out, 2, workspace, workspace_size, &err),
            SUBQUAD_ERROR_INVALID_ARGUMENT, "33 tensors");
    REFUSED(subquad_plan_execute(plan, SUBQUAD_MODE_CAUSAL, in, SIZE_MAX, out, 2, workspace, workspace_size, &err),
            SUBQUAD_ERROR_INVALID_ARGUMENT, "tensors");
    CHECK(subquad_plan_execute(plan, 3, in, 6, out, 2, workspace, workspace_size, NULL) ==
          SUBQUAD_ERROR_INVALID_ARGUMENT);
    CHECK_FAILS(subquad_plan_workspace_size(plan, SUBQUAD_MODE_STEP, &bytes, &err), SUBQUAD_ERROR_UNSUPPORTED, "step");
    CHECK_FAILS(subquad_plan_workspace_size(plan, 99, &bytes, &err), SUBQUAD_ERROR_INVALID_ARGUMENT, "mode is 99");
    CHECK_FAILS(subquad_plan_workspace_size(plan, 0, NULL, &err), SUBQUAD_ERROR_NULL_POINTER, "bytes is null");
    CHECK(bytes == 12345);
}

/* Descriptions. A fresh one each time, `*out` untouched. */
static subquad_desc desc;
static subquad_param params[2];

static void describe(void) {
    subquad_desc_init(&desc);
    desc.mechanism = "gated_delta_rule";
    desc.heads_q = desc.heads_k = desc.heads_v = H;
    desc.dim_qk = desc.dim_v = D;
    desc.params = params;
}

static void refuse_desc(subquad_status status, const char *text) {
    static int mark;
    subquad_plan *made = (subquad_plan *)(void *)&mark;
    CHECK_FAILS(subquad_plan_create(context, &desc, &made, &err), status, text);
    CHECK(made == (subquad_plan *)(void *)&mark);
    describe();
}

static void wrong_descriptions(void) {
    subquad_plan *made = NULL;
    describe();
    CHECK_FAILS(subquad_plan_create(NULL, &desc, &made, &err), SUBQUAD_ERROR_NULL_POINTER, "context is null");
    CHECK_FAILS(subquad_plan_create(context, NULL, &made, &err), SUBQUAD_ERROR_NULL_POINTER, "desc is null");
    CHECK_FAILS(subquad_plan_create(context, &desc, NULL, &err), SUBQUAD_ERROR_NULL_POINTER, "out is null");
    desc.mechanism = NULL;
    refuse_desc(SUBQUAD_ERROR_NULL_POINTER, "desc.mechanism is null");
    desc.mechanism = "\xff\xfe";
    refuse_desc(SUBQUAD_ERROR_INVALID_ARGUMENT, "desc.mechanism is not UTF-8");
    desc.mechanism = "no_such_thing";
    refuse_desc(SUBQUAD_ERROR_UNKNOWN_MECHANISM, "`no_such_thing`");
    desc.mechanism = "constant_attention";
    refuse_desc(SUBQUAD_ERROR_UNSUPPORTED, "constant_attention");
    desc.modes = SUBQUAD_MODE_BIDIRECTIONAL;
    refuse_desc(SUBQUAD_ERROR_UNSUPPORTED, "bidirectional");
    desc.modes = 0;
    refuse_desc(SUBQUAD_ERROR_INVALID_ARGUMENT, "desc.modes is 0");
    desc.modes = 0x80000000u;
    refuse_desc(SUBQUAD_ERROR_INVALID_ARGUMENT, "desc.modes is 2147483648");
    desc.heads_q = 0;
    refuse_desc(SUBQUAD_ERROR_INVALID_ARGUMENT, "desc.heads_q is 0");
    desc.heads_v = -4;
    refuse_desc(SUBQUAD_ERROR_INVALID_ARGUMENT, "desc.heads_v is -4");
    desc.heads_v = 3;
    refuse_desc(SUBQUAD_ERROR_INVALID_ARGUMENT, "desc.heads_v is 3");
    desc.dim_qk = 0;
    refuse_desc(SUBQUAD_ERROR_INVALID_ARGUMENT, "desc.dim_qk is 0");
    desc.dim_v = INT64_MAX;
    refuse_desc(SUBQUAD_ERROR_INVALID_ARGUMENT, "desc.dim_v is 9223372036854775807");
    desc.dtype_out = 0;
    refuse_desc(SUBQUAD_ERROR_INVALID_ARGUMENT, "desc.dtype_out is 0");
    desc.dtype_qkv = SUBQUAD_DTYPE_I32;
    refuse_desc(SUBQUAD_ERROR_UNSUPPORTED, "i32");
    desc.flags = SUBQUAD_FLAG_BF16_DOT | 2;
    refuse_desc(SUBQUAD_ERROR_INVALID_ARGUMENT, "desc.flags is 3");
    desc.reserved = 1;
    refuse_desc(SUBQUAD_ERROR_WRONG_STRUCT, "desc.reserved must be zero");
    desc.n_params = 1;
    desc.params = NULL;
    refuse_desc(SUBQUAD_ERROR_NULL_POINTER, "desc.params is null");
    desc.n_params = SIZE_MAX;
    refuse_desc(SUBQUAD_ERROR_INVALID_ARGUMENT, "desc.n_params is 18446744073709551615");
}

static void refuse_param(subquad_param param, subquad_status status, const char *text) {
    params[0] = param;
    desc.n_params = 1;
    refuse_desc(status, text);
}

static void wrong_parameters(void) {
    subquad_param param;
    describe();
    refuse_param(real_param("no_such_parameter", 1), SUBQUAD_ERROR_UNKNOWN_PARAMETER, "no_such_parameter");
    refuse_param(real_param("scale", -1), SUBQUAD_ERROR_PARAMETER_RANGE, "parameter scale is -1");
    refuse_param(real_param("scale", HUGE_VAL), SUBQUAD_ERROR_PARAMETER_RANGE, "parameter scale is inf");
    refuse_param(word_param("scale", "large"), SUBQUAD_ERROR_PARAMETER_RANGE, "expected a real number");
    refuse_param(word_param("normalize", "mean"), SUBQUAD_ERROR_PARAMETER_RANGE, "expected one of");
    refuse_param(int_param("l2norm_qk", 2), SUBQUAD_ERROR_PARAMETER_RANGE, "expected 0 or 1");
    refuse_param(word_param(NULL, "x"), SUBQUAD_ERROR_NULL_POINTER, "desc.params[0].name is null");
    refuse_param(word_param("normalize", NULL), SUBQUAD_ERROR_NULL_POINTER, "desc.params[0].word is null");
    param = int_param("scale", 1);
    param.kind = 9;
    refuse_param(param, SUBQUAD_ERROR_INVALID_ARGUMENT, "desc.params[0].kind is 9");
    param.kind = SUBQUAD_PARAM_REALS;
    param.n = 2;
    refuse_param(param, SUBQUAD_ERROR_NULL_POINTER, "desc.params[0].f64s is null");
    param.n = SIZE_MAX;
    refuse_param(param, SUBQUAD_ERROR_INVALID_ARGUMENT, "desc.params[0].n is");
    param = int_param("scale", 1);
    param.reserved = 1;
    refuse_param(param, SUBQUAD_ERROR_WRONG_STRUCT, "desc.params[0].reserved must be zero");
    params[1] = real_param("scale", 2);
    params[0] = real_param("scale", 1);
    desc.n_params = 2;
    refuse_desc(SUBQUAD_ERROR_PARAMETER_RANGE, "twice");
}

/* Structs of an older and a newer caller. */
static void struct_sizes(void) {
    struct {
        subquad_desc desc;
        size_t later[2];
    } newer;
    struct {
        subquad_plan_info info;
        size_t later[2];
    } newer_info;
    subquad_context_options options;
    subquad_plan *made = NULL;
    describe();
    desc.struct_size = offsetof(subquad_desc, params);
    desc.n_params = 5; /* not there for a caller of that version */
    CHECK_OK(subquad_plan_create(context, &desc, &made, &err));
    subquad_plan_destroy(made);
    describe();
    desc.struct_size = offsetof(subquad_desc, dim_qk); /* dimensions are 64 then */
    CHECK_OK(subquad_plan_create(context, &desc, &made, &err));
    memset(&newer_info, 0x55, sizeof newer_info);
    newer_info.info.struct_size = sizeof newer_info;
    CHECK_OK(subquad_plan_get_info(made, &newer_info.info, &err));
    CHECK(newer_info.info.state_bytes == H * 64 * 64 * 4 && newer_info.info.struct_size == sizeof newer_info);
    CHECK(newer_info.later[0] == 0 && newer_info.later[1] == 0);
    memset(&newer_info, 0x55, sizeof newer_info);
    newer_info.info.struct_size = offsetof(subquad_plan_info, workspace_bytes);
    CHECK_OK(subquad_plan_get_info(made, &newer_info.info, &err));
    CHECK(newer_info.info.chunk > 0 && newer_info.info.workspace_bytes == (size_t)-1 / 255 * 0x55);
    newer_info.info.struct_size = 0;
    CHECK_FAILS(subquad_plan_get_info(made, &newer_info.info, &err), SUBQUAD_ERROR_WRONG_STRUCT,
                "info.struct_size is 0, expected sizeof(subquad_plan_info)");
    subquad_plan_destroy(made);

    memset(&newer, 0, sizeof newer);
    describe();
    newer.desc = desc;
    newer.desc.struct_size = sizeof newer;
    CHECK_OK(subquad_plan_create(context, &newer.desc, &made, &err));
    subquad_plan_destroy(made);
    newer.later[1] = 1;
    CHECK_FAILS(subquad_plan_create(context, &newer.desc, &made, &err), SUBQUAD_ERROR_WRONG_STRUCT, "later version");
    desc.struct_size = 0;
    refuse_desc(SUBQUAD_ERROR_WRONG_STRUCT, "desc.struct_size is 0");
    desc.struct_size = sizeof desc - 1;
    refuse_desc(SUBQUAD_ERROR_WRONG_STRUCT, "desc.struct_size");
    desc.struct_size = (size_t)1 << 40;
    refuse_desc(SUBQUAD_ERROR_WRONG_STRUCT, "desc.struct_size");
    subquad_context_options_init(&options);
    options.struct_size = offsetof(subquad_context_options, parallel);
    options.parallel.max_workers = 7; /* not there for a caller of that version */
    {
        subquad_context *other = NULL;
        CHECK_OK(subquad_context_create(&options, &other, &err));
        subquad_context_destroy(other);
    }
}

static void wrong_states(void) {
    float memory[64];
    size_t bytes = 0;
    subquad_state_component part;
    subquad_mechanism_info info;
    memory[0] = 5;
    CHECK_OK(subquad_plan_state_size(plan, &bytes, &err));
    CHECK_FAILS(subquad_state_init(plan, memory, bytes - 1, 1, &err), SUBQUAD_ERROR_INVALID_ARGUMENT, "size is");
    CHECK_FAILS(subquad_state_init(plan, memory, bytes, SIZE_MAX, &err), SUBQUAD_ERROR_INVALID_ARGUMENT, "size is");
    CHECK_FAILS(subquad_state_init(plan, NULL, bytes, 1, &err), SUBQUAD_ERROR_NULL_POINTER, "state is null");
    CHECK_FAILS(subquad_state_init(plan, (char *)memory + 1, bytes, 1, &err), SUBQUAD_ERROR_MISALIGNED, "state");
#define CONVERT(src, src_dtype, src_size, dst, dst_dtype, dst_size, n, rows, transpose)                              \
    subquad_state_convert(src, src_dtype, src_size, dst, dst_dtype, dst_size, n, rows, 2, transpose, &err)
    CHECK_FAILS(CONVERT(memory, 1, 16, memory + 2, 1, 16, 1, 2, 1), SUBQUAD_ERROR_OVERLAP, "dst");
    CHECK_FAILS(CONVERT(memory + 1, 1, 16, memory, 2, 8, 1, 2, 0), SUBQUAD_ERROR_OVERLAP, "dst");
    CHECK_FAILS(CONVERT(memory, 1, 16, memory + 4, 1, 15, 1, 2, 1), SUBQUAD_ERROR_INVALID_ARGUMENT, "dst_size is 15");
    CHECK_FAILS(CONVERT(memory, 1, 16, memory + 4, 2, 7, 1, 2, 1), SUBQUAD_ERROR_INVALID_ARGUMENT, "dst_size is 7");
    CHECK_FAILS(CONVERT(memory, 2, 7, memory + 4, 1, 16, 1, 2, 1), SUBQUAD_ERROR_INVALID_ARGUMENT, "src_size is 7");
    CHECK_FAILS(CONVERT(memory, 1, 16, memory + 4, 1, 16, 1, -2, 1), SUBQUAD_ERROR_INVALID_ARGUMENT, "rows is -2");
    CHECK_FAILS(CONVERT(memory, 1, 16, memory + 4, 1, 16, INT64_MAX, INT64_MAX, 1), SUBQUAD_ERROR_INVALID_ARGUMENT,
                "src_size");
    CHECK_FAILS(CONVERT(memory, 1, 16, memory + 4, 1, 16, 1, 2, 2), SUBQUAD_ERROR_INVALID_ARGUMENT, "transpose is 2");
    CHECK_FAILS(CONVERT(memory, 9, 16, memory + 4, 1, 16, 1, 2, 1), SUBQUAD_ERROR_INVALID_ARGUMENT, "src_dtype is 9");
    CHECK_FAILS(CONVERT(memory, 1, 16, memory + 4, 0, 16, 1, 2, 1), SUBQUAD_ERROR_INVALID_ARGUMENT, "dst_dtype is 0");
    CHECK_FAILS(CONVERT(memory, 4, 16, memory + 4, 1, 16, 1, 2, 1), SUBQUAD_ERROR_UNSUPPORTED, "src of i32");
    CHECK_FAILS(CONVERT(memory, 1, 16, memory + 4, 4, 16, 1, 2, 1), SUBQUAD_ERROR_UNSUPPORTED, "dst of i32");
    CHECK_FAILS(CONVERT((char *)memory + 2, 1, 16, memory + 8, 1, 16, 1, 2, 1), SUBQUAD_ERROR_MISALIGNED, "src");
    CHECK_FAILS(CONVERT(memory, 1, 16, (char *)memory + 33, 2, 16, 1, 2, 1), SUBQUAD_ERROR_MISALIGNED, "dst");
    CHECK_FAILS(CONVERT(NULL, 1, 16, memory, 1, 16, 1, 2, 1), SUBQUAD_ERROR_NULL_POINTER, "src is null");
    CHECK_FAILS(CONVERT(memory, 1, 16, NULL, 1, 16, 1, 2, 1), SUBQUAD_ERROR_NULL_POINTER, "dst is null");
    CHECK(memory[0] == 5);
    part.struct_size = sizeof part;
    CHECK_FAILS(subquad_plan_state_component(plan, 1, &part, &err), SUBQUAD_ERROR_INVALID_ARGUMENT, "index is 1");
    info.struct_size = sizeof info;
    CHECK_FAILS(subquad_mechanism_get_info(subquad_mechanism_count(), &info, &err), SUBQUAD_ERROR_INVALID_ARGUMENT,
                "index is");
    CHECK_FAILS(subquad_mechanism_get_info(0, NULL, &err), SUBQUAD_ERROR_NULL_POINTER, "out is null");
}

static void run_nothing(void *user, uint32_t n_tasks, subquad_task task, void *arg) {
    (void)user;
    (void)n_tasks;
    (void)task;
    (void)arg;
}

static void wrong_contexts(void) {
    subquad_context_options options;
    subquad_context *other = NULL;
    subquad_threadpool *pool = NULL;
    subquad_plan *made = NULL, *const right = plan;
    uint32_t isa, n_missing = 0;
    subquad_context_options_init(&options);
    options.max_isa = 99;
    CHECK_FAILS(subquad_context_create(&options, &other, &err), SUBQUAD_ERROR_INVALID_ARGUMENT, "options.max_isa is 99");
    for (isa = SUBQUAD_ISA_SCALAR; isa <= SUBQUAD_ISA_AVX512; isa++) {
        options.max_isa = isa;
        if (subquad_context_create(&options, &other, &err) == SUBQUAD_OK) {
            CHECK(subquad_context_isa(other) <= isa);
            subquad_context_destroy(other);
        } else {
            n_missing += err.status == SUBQUAD_ERROR_UNSUPPORTED;
        }
    }
    CHECK(n_missing >= 1); /* no machine has NEON and AVX2 */
    subquad_context_options_init(&options);
    options.reserved = 1;
    CHECK_FAILS(subquad_context_create(&options, &other, &err), SUBQUAD_ERROR_WRONG_STRUCT, "options.reserved");
    subquad_context_options_init(&options);
    options.parallel.max_workers = 2;
    CHECK_FAILS(subquad_context_create(&options, &other, &err), SUBQUAD_ERROR_NULL_POINTER, "options.parallel.run is null");
    options.parallel.run = run_nothing;
    CHECK_FAILS(subquad_context_create(&options, &other, &err), SUBQUAD_ERROR_WRONG_STRUCT, "options.parallel.struct_size is 0");
    options.parallel.struct_size = sizeof options.parallel;
    options.parallel.max_workers = 0;
    CHECK_FAILS(subquad_context_create(&options, &other, &err), SUBQUAD_ERROR_INVALID_ARGUMENT, "options.parallel.max_workers is 0");
    CHECK_FAILS(subquad_context_create(NULL, NULL, &err), SUBQUAD_ERROR_NULL_POINTER, "out is null");
    CHECK_FAILS(subquad_threadpool_create(0, &pool, &err), SUBQUAD_ERROR_INVALID_ARGUMENT, "n_threads is 0");
    CHECK_FAILS(subquad_threadpool_create(1, NULL, &err), SUBQUAD_ERROR_NULL_POINTER, "out is null");
    CHECK_FAILS(subquad_threadpool_parallel(NULL, &options.parallel, &err), SUBQUAD_ERROR_NULL_POINTER, "pool is null");

    /* A runner that breaks its promise. */
    options.parallel.max_workers = 1;
    CHECK_OK(subquad_context_create(&options, &other, &err));
    describe();
    CHECK_OK(subquad_plan_create(other, &desc, &made, &err));
    subquad_context_destroy(other);
    reset();
    plan = made;
    CHECK_FAILS(CALL, SUBQUAD_ERROR_INTERNAL, "runner");
    plan = right;
    CHECK(still_works());
    subquad_plan_destroy(made);
}

/* Messages are cut at a whole character. */
static void long_message(void) {
    char name[801];
    subquad_plan *made = NULL;
    int i, n, shift;
    for (shift = 0; shift < 2; shift++) {
        memset(name, 'x', sizeof name);
        for (i = 0; i < 799; i += 2) memcpy(name + shift + i, "\xc3\xa9", i + 1 + shift < 800 ? 2 : 1);
        name[800] = '\0';
        if (shift == 1) name[799] = '\0';
        describe();
        desc.mechanism = name;
        CHECK_FAILS(subquad_plan_create(context, &desc, &made, &err), SUBQUAD_ERROR_UNKNOWN_MECHANISM, "no mechanism");
        n = (int)strlen(err.message);
        CHECK(n >= 250 && n <= 251 && (unsigned char)err.message[n - 1] == 0xa9);
    }
}

/* More workspace than there is memory, in the one call that allocates it. No tokens, so nothing else is big. */
static void out_of_memory(void) {
    struct rlimit limit;
    subquad_in some[5];
    subquad_out none[1];
    const int64_t large = (int64_t)1 << 20;
    CHECK(getrlimit(RLIMIT_AS, &limit) == 0);
    limit.rlim_cur = (rlim_t)1 << 40;
    if (setrlimit(RLIMIT_AS, &limit) != 0) return;
    describe();
    desc.heads_q = desc.heads_k = desc.heads_v = large;
    desc.dim_qk = desc.dim_v = large;
    some[0] = input(SUBQUAD_ROLE_Q, NULL, 4, B, large, 0, large);
    some[1] = input(SUBQUAD_ROLE_K, NULL, 4, B, large, 0, large);
    some[2] = input(SUBQUAD_ROLE_V, NULL, 4, B, large, 0, large);
    some[3] = input(SUBQUAD_ROLE_G, NULL, 3, B, large, 0, 0);
    some[4] = input(SUBQUAD_ROLE_BETA, NULL, 3, B, large, 0, 0);
    none[0] = output(SUBQUAD_ROLE_OUT, NULL, 4, B, large, 0, large);
    CHECK_FAILS(subquad_run(&desc, SUBQUAD_MODE_CAUSAL, some, 5, none, 1, &err), SUBQUAD_ERROR_OUT_OF_MEMORY,
                "could not allocate");
}

int main(void) {
    size_t i;
    memset(&err, 'x', sizeof err);
    for (i = 0; i < N; i++) {
        q[i] = (float)sin((double)i);
        k[i] = (float)cos((double)(i * i));
        v[i] = (float)sin(0.3 * (double)i);
    }
    for (i = 0; i < H * T; i++) {
        g[i] = -0.1f * (float)(i % 4);
        beta[i] = 0.25f * (float)(i % 5);
    }
    CHECK_OK(subquad_context_create(NULL, &context, &err));
    describe();
    CHECK_OK(subquad_plan_create(context, &desc, &plan, &err));
    CHECK_OK(subquad_plan_workspace_size(plan, SUBQUAD_MODE_CAUSAL, &workspace_size, &err));
    workspace = (unsigned char *)malloc(workspace_size);
    reset();
    CHECK_OK(CALL);
    memcpy(expected_o, o, sizeof o);
    memcpy(expected_state, state_out, sizeof state_out);
    CHECK(still_works());

    wrong_tensors();
    wrong_arguments();
    wrong_descriptions();
    wrong_parameters();
    struct_sizes();
    wrong_states();
    wrong_contexts();
    long_message();
    out_of_memory();

    free(workspace);
    subquad_plan_destroy(plan);
    subquad_context_destroy(context);
    return check_report("negative");
}
