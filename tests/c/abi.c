/* Small problems with answers that can be checked by hand. */
#include "support.h"
#include <stdlib.h>

static subquad_error err;
static subquad_context *context = NULL;

static subquad_plan *make_typed(const char *mechanism, uint32_t modes, int64_t heads, int64_t d, int64_t e,
                                const subquad_param *params, size_t n_params, uint32_t dtype_qkv,
                                uint32_t dtype_out, uint32_t dtype_state) {
    subquad_desc desc;
    subquad_plan *plan = NULL;
    subquad_desc_init(&desc);
    desc.mechanism = mechanism;
    desc.modes = modes;
    desc.heads_q = desc.heads_k = desc.heads_v = heads;
    desc.dim_qk = d;
    desc.dim_v = e;
    desc.params = params;
    desc.n_params = n_params;
    desc.dtype_qkv = dtype_qkv;
    desc.dtype_out = dtype_out;
    desc.dtype_state = dtype_state;
    CHECK_OK(subquad_plan_create(context, &desc, &plan, &err));
    return plan;
}

static subquad_plan *make(const char *mechanism, uint32_t modes, int64_t heads, int64_t d, int64_t e,
                          const subquad_param *params, size_t n_params) {
    const uint32_t f32 = SUBQUAD_DTYPE_F32;
    return make_typed(mechanism, modes, heads, d, e, params, n_params, f32, f32, f32);
}

static void run(const subquad_plan *plan, uint32_t mode, const subquad_in *in, size_t n_in, const subquad_out *out,
                size_t n_out) {
    size_t size = 0;
    void *workspace;
    CHECK_OK(subquad_plan_workspace_size(plan, mode, &size, &err));
    workspace = malloc(size);
    CHECK_OK(subquad_plan_execute(plan, mode, in, n_in, out, n_out, workspace, size, &err));
    free(workspace);
}

/* Two tokens, D = E = 2. */
static const float Q[4] = {1, 1, 1, 2};
static const float K[4] = {1, 0, 0, 1};
static const float V[4] = {1, 2, 3, 4};

/* S_t = S_{t-1} + k_t v_t^T, o_t = q_t S_t. The state is the sum of the outer products. */
static void linear_without_normaliser(void) {
    subquad_param params[3];
    subquad_plan *plan;
    subquad_in in[3];
    subquad_out out[2];
    float o[4], state[4];
    static const double causal[4] = {1, 2, 7, 10}, all[4] = {4, 6, 7, 10}, sum[4] = {1, 2, 3, 4};
    static const double crossed[2] = {7, 10};
    params[0] = word_param("feature_map", "identity");
    params[1] = word_param("normalize", "none");
    params[2] = real_param("scale", 1.0);
    plan = make("linear", SUBQUAD_MODE_CAUSAL | SUBQUAD_MODE_BIDIRECTIONAL | SUBQUAD_MODE_CROSS, 1, 2, 2, params, 3);
    in[0] = input(SUBQUAD_ROLE_Q, Q, 4, 1, 1, 2, 2);
    in[1] = input(SUBQUAD_ROLE_K, K, 4, 1, 1, 2, 2);
    in[2] = input(SUBQUAD_ROLE_V, V, 4, 1, 1, 2, 2);
    out[0] = output(SUBQUAD_ROLE_OUT, o, 4, 1, 1, 2, 2);
    out[1] = output(SUBQUAD_ROLE_STATE_OUT, state, 4, 1, 1, 2, 2);
    run(plan, SUBQUAD_MODE_CAUSAL, in, 3, out, 2);
    CHECK_CLOSE(o, causal);
    CHECK_CLOSE(state, sum);
    run(plan, SUBQUAD_MODE_BIDIRECTIONAL, in, 3, out, 1);
    CHECK_CLOSE(o, all);
    /* One query of its own, the second. */
    in[0] = input(SUBQUAD_ROLE_Q, Q + 2, 4, 1, 1, 1, 2);
    out[0] = output(SUBQUAD_ROLE_OUT, o, 4, 1, 1, 1, 2);
    run(plan, SUBQUAD_MODE_CROSS, in, 3, out, 1);
    CHECK_CLOSE(o, crossed);
    subquad_plan_destroy(plan);
}

/* Equal keys weigh all tokens alike: the output is the mean of the values so far. */
static void linear_with_defaults(void) {
    subquad_plan *plan = make("linear", SUBQUAD_MODE_CAUSAL, 1, 2, 2, NULL, 0);
    static const float zero[4] = {0, 0, 0, 0};
    static const double mean[4] = {1, 2, 2, 3}, z_sum[2] = {2, 2};
    float o[4], state[4], z[2];
    subquad_in in[3];
    subquad_out out[3];
    in[0] = input(SUBQUAD_ROLE_Q, zero, 4, 1, 1, 2, 2);
    in[1] = input(SUBQUAD_ROLE_K, zero, 4, 1, 1, 2, 2);
    in[2] = input(SUBQUAD_ROLE_V, V, 4, 1, 1, 2, 2);
    out[0] = output(SUBQUAD_ROLE_OUT, o, 4, 1, 1, 2, 2);
    out[1] = output(SUBQUAD_ROLE_STATE_OUT, state, 4, 1, 1, 2, 2);
    out[2] = output(SUBQUAD_ROLE_Z_OUT, z, 3, 1, 1, 2, 0);
    run(plan, SUBQUAD_MODE_CAUSAL, in, 3, out, 3);
    CHECK_CLOSE(o, mean);
    CHECK_CLOSE(z, z_sum);
    subquad_plan_destroy(plan);
}

/* A decay of one half before each token. */
static void decay(void) {
    subquad_param scale = real_param("scale", 1.0);
    subquad_plan *plan = make("simple_gla", SUBQUAD_MODE_CAUSAL, 1, 2, 2, &scale, 1);
    float g[2], o[4];
    static const double expected[4] = {1, 2, 6.5, 9};
    subquad_in in[4];
    subquad_out out[1];
    g[0] = g[1] = (float)log(0.5);
    in[0] = input(SUBQUAD_ROLE_Q, Q, 4, 1, 1, 2, 2);
    in[1] = input(SUBQUAD_ROLE_K, K, 4, 1, 1, 2, 2);
    in[2] = input(SUBQUAD_ROLE_V, V, 4, 1, 1, 2, 2);
    in[3] = input(SUBQUAD_ROLE_G, g, 3, 1, 1, 2, 0);
    out[0] = output(SUBQUAD_ROLE_OUT, o, 4, 1, 1, 2, 2);
    run(plan, SUBQUAD_MODE_CAUSAL, in, 4, out, 1);
    CHECK_CLOSE(o, expected);
    subquad_plan_destroy(plan);
}

/* With beta = 1 a key that comes again overwrites its value. Also: strides, tensors in any order. */
static void delta_rule(void) {
    subquad_param scale = real_param("scale", 1.0);
    subquad_plan *plan = make("delta_rule", SUBQUAD_MODE_CAUSAL, 1, 2, 2, &scale, 1);
    static const float key[2] = {1, 0}, one = 1;
    static const double expected[4] = {1, 2, 3, 4};
    float reversed[4], o[4];
    subquad_in in[4];
    subquad_out out[1];
    in[3] = input(SUBQUAD_ROLE_Q, Q, 4, 1, 1, 2, 2);
    in[1] = input(SUBQUAD_ROLE_K, key, 4, 1, 1, 2, 2);
    in[1].stride[2] = 0; /* both tokens have this key */
    in[2] = input(SUBQUAD_ROLE_BETA, &one, 3, 1, 1, 2, 0);
    in[2].stride[2] = 0;
    in[0] = input(SUBQUAD_ROLE_V, V, 4, 1, 1, 2, 2);
    in[0].shape[4] = -7; /* past the rank */
    out[0] = output(SUBQUAD_ROLE_OUT, reversed + 2, 4, 1, 1, 2, 2);
    out[0].stride[2] = -2; /* the first token is written last */
    run(plan, SUBQUAD_MODE_CAUSAL, in, 4, out, 1);
    memcpy(o, reversed + 2, 2 * sizeof *o);
    memcpy(o + 2, reversed, 2 * sizeof *o);
    CHECK_CLOSE(o, expected);
    subquad_plan_destroy(plan);
}

/* Prefill of one token and a step in place are as good as a prefill of both; and a pool of states. */
static void state_in_place(void) {
    subquad_plan *plan = make("linear", SUBQUAD_MODE_CAUSAL | SUBQUAD_MODE_STEP, 1, 2, 2, NULL, 0);
    subquad_state_component part[2];
    subquad_plan_info info;
    size_t bytes = 0;
    float o[4], both[4], *state;
    uint32_t i;
    int64_t pool;
    subquad_in in[5];
    subquad_out out[3];
    in[0] = input(SUBQUAD_ROLE_Q, Q, 4, 1, 1, 2, 2);
    in[1] = input(SUBQUAD_ROLE_K, K, 4, 1, 1, 2, 2);
    in[2] = input(SUBQUAD_ROLE_V, V, 4, 1, 1, 2, 2);
    out[0] = output(SUBQUAD_ROLE_OUT, both, 4, 1, 1, 2, 2);
    run(plan, SUBQUAD_MODE_CAUSAL, in, 3, out, 1);

    info.struct_size = sizeof info;
    CHECK_OK(subquad_plan_get_info(plan, &info, &err));
    CHECK(info.n_state == 2 && info.isa == subquad_context_isa(context));
    CHECK(strcmp(info.mechanism, "linear") == 0 && strchr(info.kernel, ':') != NULL);
    CHECK_OK(subquad_plan_state_size(plan, &bytes, &err));
    CHECK(bytes == info.state_bytes && bytes == 128); /* [2, 2] and [2], each rounded up to 64 bytes */
    for (i = 0; i < 2; i++) {
        part[i].struct_size = sizeof *part;
        CHECK_OK(subquad_plan_state_component(plan, i, &part[i], &err));
        CHECK(part[i].dtype == SUBQUAD_DTYPE_F32 && part[i].initial == 0.0f && part[i].offset_bytes == 64 * i);
    }
    CHECK(part[0].role_in == SUBQUAD_ROLE_STATE_IN && part[0].role_out == SUBQUAD_ROLE_STATE_OUT);
    CHECK(part[0].rank == 3 && part[0].shape[0] == 1 && part[0].shape[1] == 2 && part[0].shape[2] == 2);
    CHECK(part[1].role_in == SUBQUAD_ROLE_Z_IN && part[1].rank == 2 && part[1].shape[1] == 2);

    /* Three sequences, of which the middle one is stepped; the others must stay as they are. */
    state = (float *)malloc(3 * bytes + 4);
    memset(state, 0x7f, 3 * bytes + 4);
    CHECK_OK(subquad_state_init(plan, state, 3 * bytes, 3, &err));
    CHECK(state[0] == 0.0f && state[95] == 0.0f && state[96] > 1e38f);
    state[0] = state[64] = 5;
    pool = (int64_t)(bytes / sizeof *state);
    for (i = 0; i < 2; i++) {
        in[0] = input(SUBQUAD_ROLE_Q, Q + 2 * i, 4, 1, 1, 1, 2);
        in[1] = input(SUBQUAD_ROLE_K, K + 2 * i, 4, 1, 1, 1, 2);
        in[2] = input(SUBQUAD_ROLE_V, V + 2 * i, 4, 1, 1, 1, 2);
        in[3] = input(SUBQUAD_ROLE_STATE_IN, state + pool, 4, 1, 1, 2, 2);
        in[4] = input(SUBQUAD_ROLE_Z_IN, state + pool + part[1].offset_bytes / 4, 3, 1, 1, 2, 0);
        out[0] = output(SUBQUAD_ROLE_OUT, o + 2 * i, 4, 1, 1, 1, 2);
        out[1] = output(SUBQUAD_ROLE_STATE_OUT, state + pool, 4, 1, 1, 2, 2);
        out[2] = output(SUBQUAD_ROLE_Z_OUT, state + pool + part[1].offset_bytes / 4, 3, 1, 1, 2, 0);
        run(plan, i == 0 ? SUBQUAD_MODE_CAUSAL : SUBQUAD_MODE_STEP, in, 5, out, 3);
    }
    for (i = 0; i < 4; i++) CHECK(fabs((double)o[i] - (double)both[i]) < 1e-5);
    CHECK(state[0] == 5 && state[1] == 0 && state[64] == 5 && state[65] == 0);
    free(state);
    subquad_plan_destroy(plan);
}

/* A running maximum starts at minus infinity, and subquad_state_init says so. */
static void initial_values(void) {
    subquad_param map = word_param("feature_map", "exp");
    subquad_plan *plan = make("linear", SUBQUAD_MODE_CAUSAL, 1, 2, 2, &map, 1);
    subquad_state_component part;
    float state[64];
    size_t bytes = 0;
    uint32_t i, j, n_infinite = 0;
    CHECK_OK(subquad_plan_state_size(plan, &bytes, &err));
    CHECK(bytes <= sizeof state);
    CHECK_OK(subquad_state_init(plan, state, sizeof state, 1, &err));
    for (i = 0; i < 3; i++) {
        part.struct_size = sizeof part;
        CHECK_OK(subquad_plan_state_component(plan, i, &part, &err));
        for (j = 0; j < part.shape[0] * part.shape[1] * part.shape[2]; j++) {
            CHECK(state[part.offset_bytes / 4 + j] == part.initial);
            n_infinite += part.initial < -1e38f;
        }
    }
    CHECK(n_infinite == 2);
    subquad_plan_destroy(plan);
}

/* [2, 2, 3] to [2, 3, 2] and back, and by way of 16 bits, which hold these values. */
static void transposition(void) {
    static const float here[12] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12};
    static const double there[12] = {1, 4, 2, 5, 3, 6, 7, 10, 8, 11, 9, 12};
    const uint32_t f32 = SUBQUAD_DTYPE_F32, bf16 = SUBQUAD_DTYPE_BF16;
    const size_t size = sizeof here;
    float moved[13], back[12], large[40 * 33], turned[40 * 33];
    uint16_t halves[13];
    int r, c, same = 1;
    moved[12] = 99;
    CHECK_OK(subquad_state_convert(here, f32, size, moved, f32, sizeof moved, 2, 2, 3, 1, &err));
    CHECK_CLOSE(moved, there);
    CHECK(moved[12] == 99);
    CHECK_OK(subquad_state_convert(moved, f32, size, back, f32, size, 2, 3, 2, 1, &err));
    CHECK(memcmp(here, back, size) == 0);
    halves[12] = 99;
    CHECK_OK(subquad_state_convert(here, f32, size, halves, bf16, sizeof halves, 2, 2, 3, 1, &err));
    CHECK(halves[0] == 0x3f80 && halves[1] == 0x4080 && halves[12] == 99);
    memset(back, 0, sizeof back);
    CHECK_OK(subquad_state_convert(halves, bf16, 24, back, f32, size, 2, 3, 2, 1, &err));
    CHECK(memcmp(here, back, size) == 0);
    CHECK_OK(subquad_state_convert(halves, bf16, 24, moved, f32, size, 2, 2, 3, 0, &err));
    CHECK_CLOSE(moved, there);
    for (r = 0; r < 40 * 33; r++) large[r] = (float)r;
    CHECK_OK(subquad_state_convert(large, f32, sizeof large, turned, f32, sizeof turned, 1, 40, 33, 1, &err));
    for (r = 0; r < 40; r++) {
        for (c = 0; c < 33; c++) same = same && turned[c * 40 + r] == large[r * 33 + c];
    }
    CHECK(same);
    CHECK_OK(subquad_state_convert(NULL, f32, 0, NULL, f32, 0, 0, 2, 3, 1, &err));
}

/* Two sequences of one and two tokens in one batch, their states in slots of a pool. */
static void ragged(void) {
    subquad_param params[3];
    subquad_plan *plan;
    static const float q[6] = {1, 1, 1, 1, 1, 2}, k[6] = {1, 1, 1, 0, 0, 1}, v[6] = {8, 9, 1, 2, 3, 4};
    static const int32_t offsets[3] = {0, 1, 3}, slots[2] = {2, 0};
    static const double expected[6] = {16, 18, 1, 2, 7, 10};
    float o[6], pool[12];
    subquad_in in[6];
    subquad_out out[2];
    params[0] = word_param("feature_map", "identity");
    params[1] = word_param("normalize", "none");
    params[2] = real_param("scale", 1.0);
    plan = make("linear", SUBQUAD_MODE_CAUSAL, 1, 2, 2, params, 3);
    memset(pool, 0, sizeof pool);
    pool[4] = 77;
    in[0] = input(SUBQUAD_ROLE_Q, q, 4, 1, 1, 3, 2);
    in[1] = input(SUBQUAD_ROLE_K, k, 4, 1, 1, 3, 2);
    in[2] = input(SUBQUAD_ROLE_V, v, 4, 1, 1, 3, 2);
    in[3] = input(SUBQUAD_ROLE_CU_SEQLENS, offsets, 1, 3, 0, 0, 0);
    in[3].dtype = SUBQUAD_DTYPE_I32;
    in[4] = input(SUBQUAD_ROLE_STATE_INDEX, slots, 1, 2, 0, 0, 0);
    in[4].dtype = SUBQUAD_DTYPE_I32;
    in[5] = input(SUBQUAD_ROLE_STATE_IN, pool, 4, 3, 1, 2, 2);
    out[0] = output(SUBQUAD_ROLE_OUT, o, 4, 1, 1, 3, 2);
    out[1] = output(SUBQUAD_ROLE_STATE_OUT, pool, 4, 3, 1, 2, 2);
    run(plan, SUBQUAD_MODE_CAUSAL, in, 6, out, 2);
    CHECK_CLOSE(o, expected);
    CHECK(pool[0] == 1 && pool[3] == 4 && pool[4] == 77 && pool[8] == 8 && pool[11] == 9);
    subquad_plan_destroy(plan);
}

/* The same in one call, and lengths of zero. */
static void in_one_call(void) {
    subquad_desc desc;
    subquad_in in[3];
    subquad_out out[1];
    subquad_param params[3];
    float o[4];
    static const double expected[4] = {1, 2, 7, 10};
    params[0] = word_param("feature_map", "identity");
    params[1] = word_param("normalize", "none");
    params[2] = int_param("scale", 1);
    subquad_desc_init(&desc);
    desc.mechanism = "linear";
    desc.dim_qk = desc.dim_v = 2;
    desc.params = params;
    desc.n_params = 3;
    in[0] = input(SUBQUAD_ROLE_Q, Q, 4, 1, 1, 2, 2);
    in[1] = input(SUBQUAD_ROLE_K, K, 4, 1, 1, 2, 2);
    in[2] = input(SUBQUAD_ROLE_V, V, 4, 1, 1, 2, 2);
    out[0] = output(SUBQUAD_ROLE_OUT, o, 4, 1, 1, 2, 2);
    CHECK_OK(subquad_run(&desc, SUBQUAD_MODE_CAUSAL, in, 3, out, 1, &err));
    CHECK_CLOSE(o, expected);
    in[0] = input(SUBQUAD_ROLE_Q, NULL, 4, 1, 1, 0, 2);
    in[1] = input(SUBQUAD_ROLE_K, NULL, 4, 1, 1, 0, 2);
    in[2] = input(SUBQUAD_ROLE_V, NULL, 4, 1, 1, 0, 2);
    out[0] = output(SUBQUAD_ROLE_OUT, NULL, 4, 1, 1, 0, 2);
    CHECK_OK(subquad_run(&desc, SUBQUAD_MODE_CAUSAL, in, 3, out, 1, &err));
    CHECK(subquad_run(&desc, SUBQUAD_MODE_CAUSAL, in, 3, out, 1, NULL) == SUBQUAD_OK);
}

static void names(void) {
    CHECK(subquad_version() == SUBQUAD_VERSION_NUMBER);
    CHECK(strcmp(subquad_version_string(), SUBQUAD_VERSION_STRING) == 0);
    CHECK(subquad_role_id("q") == SUBQUAD_ROLE_Q && subquad_role_id("dq") == (SUBQUAD_ROLE_Q | SUBQUAD_ROLE_GRAD));
    CHECK(strcmp(subquad_role_name(SUBQUAD_ROLE_STATE_IN), "state_in") == 0);
    CHECK(subquad_role_name(0) == NULL && subquad_role_id("no_such_role") == 0 && subquad_role_id(NULL) == 0);
    CHECK(strcmp(subquad_status_string(SUBQUAD_ERROR_OVERLAP), "overlapping output") == 0);
    CHECK(strcmp(subquad_isa_name(SUBQUAD_ISA_AVX2), "avx2") == 0);
    CHECK(subquad_cpu_isa() >= SUBQUAD_ISA_SCALAR);
}

/* bf16 is the upper half of a float; these values have no lower half. */
static void to_bf16(const float *from, uint16_t *to, int n) {
    int i;
    for (i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, from + i, sizeof bits);
        CHECK((bits & 0xffff) == 0);
        to[i] = (uint16_t)(bits >> 16);
    }
}

/* bf16 in and out, or out as f32; the state in bf16, carried from a prefill to a step. */
static void types(void) {
    const uint32_t bf16 = SUBQUAD_DTYPE_BF16;
    uint32_t dtype_out;
    uint16_t q[4], k[4], v[4], half[4], expected[4], state[4];
    const float answer[4] = {1, 2, 7, 10}; /* q_1 (k_1 v_1), q_2 (k_1 v_1 + k_2 v_2) */
    float wide[4];
    to_bf16(Q, q, 4);
    to_bf16(K, k, 4);
    to_bf16(V, v, 4);
    to_bf16(answer, expected, 4);
    for (dtype_out = SUBQUAD_DTYPE_F32; dtype_out <= SUBQUAD_DTYPE_BF16; dtype_out++) {
        subquad_param params[3];
        subquad_plan *plan;
        subquad_in in[4];
        subquad_out out[2];
        subquad_state_component part;
        int64_t t;
        params[0] = word_param("normalize", "none");
        params[1] = real_param("scale", 1.0);
        params[2] = word_param("feature_map", "identity");
        plan = make_typed("linear", SUBQUAD_MODE_CAUSAL | SUBQUAD_MODE_STEP, 1, 2, 2, params, 3, bf16, dtype_out,
                          bf16);
        part.struct_size = sizeof part;
        CHECK_OK(subquad_plan_state_component(plan, 0, &part, &err));
        CHECK(part.dtype == bf16);
        memset(wide, 0x7f, sizeof wide);
        memset(half, 0x7f, sizeof half);
        memset(state, 0x7f, sizeof state);
        for (t = 0; t < 2; t++) {
            void *to = dtype_out == bf16 ? (void *)(half + 2 * t) : (void *)(wide + 2 * t);
            in[0] = input(SUBQUAD_ROLE_Q, q + 2 * t, 4, 1, 1, 1, 2);
            in[1] = input(SUBQUAD_ROLE_K, k + 2 * t, 4, 1, 1, 1, 2);
            in[2] = input(SUBQUAD_ROLE_V, v + 2 * t, 4, 1, 1, 1, 2);
            in[3] = input(SUBQUAD_ROLE_STATE_IN, state, 4, 1, 1, 2, 2);
            in[0].dtype = in[1].dtype = in[2].dtype = in[3].dtype = bf16;
            out[0] = output(SUBQUAD_ROLE_OUT, to, 4, 1, 1, 1, 2);
            out[0].dtype = dtype_out;
            out[1] = output(SUBQUAD_ROLE_STATE_OUT, state, 4, 1, 1, 2, 2);
            out[1].dtype = bf16;
            run(plan, t == 0 ? SUBQUAD_MODE_CAUSAL : SUBQUAD_MODE_STEP, in, t == 0 ? 3 : 4, out, 2);
        }
        CHECK(memcmp(dtype_out == bf16 ? (void *)half : (void *)wide,
                     dtype_out == bf16 ? (const void *)expected : (const void *)answer,
                     dtype_out == bf16 ? sizeof half : sizeof wide) == 0);
        CHECK(memcmp(state, v, sizeof state) == 0); /* k_1 = (1, 0), k_2 = (0, 1): the rows are the values */
        subquad_plan_destroy(plan);
    }
}

/* The state after the first of two tokens is its outer product, and stays so. */
static void snapshots(void) {
    subquad_param params[3];
    subquad_plan *plan;
    subquad_in in[4];
    subquad_out out[2];
    const int32_t at[3] = {0, 1, -1};
    const uint32_t role = SUBQUAD_ROLE_STATE_OUT | SUBQUAD_ROLE_SNAPSHOT;
    float o[4], states[12];
    size_t i;
    static const double taken[12] = {0, 0, 0, 0, 1, 2, 0, 0, -1, -1, -1, -1};
    CHECK(subquad_role_id("state_snapshots") == role && strcmp(subquad_role_name(role), "state_snapshots") == 0);
    params[0] = word_param("feature_map", "identity");
    params[1] = word_param("normalize", "none");
    params[2] = real_param("scale", 1.0);
    plan = make("linear", SUBQUAD_MODE_CAUSAL, 1, 2, 2, params, 3);
    in[0] = input(SUBQUAD_ROLE_Q, Q, 4, 1, 1, 2, 2);
    in[1] = input(SUBQUAD_ROLE_K, K, 4, 1, 1, 2, 2);
    in[2] = input(SUBQUAD_ROLE_V, V, 4, 1, 1, 2, 2);
    in[3] = input(SUBQUAD_ROLE_SNAPSHOT_AT, at, 2, 1, 3, 0, 0);
    in[3].dtype = SUBQUAD_DTYPE_I32;
    for (i = 0; i < 12; i++) {
        states[i] = -1;
    }
    out[0] = output(SUBQUAD_ROLE_OUT, o, 4, 1, 1, 2, 2);
    /* [n_sequences, N, heads, D, E], the last axis of which `output` does not set. */
    out[1] = output(role, states, 4, 1, 3, 1, 2);
    out[1].rank = 5;
    out[1].shape[4] = 2;
    out[1].stride[0] = 12;
    out[1].stride[1] = out[1].stride[2] = 4;
    out[1].stride[3] = 2;
    out[1].stride[4] = 1;
    run(plan, SUBQUAD_MODE_CAUSAL, in, 4, out, 2);
    CHECK_CLOSE(states, taken);
    subquad_plan_destroy(plan);
}

/* Keys that are all alike: a step gives the mean of the values that it sees. */
static void caches(void) {
    static const float q[1] = {1}, zero[6] = {0, 0, 0, 0, 0, 0};
    static const float pool[6] = {6, 7, -1, -1, 1, 2}, ring[3] = {2, 3, 1};
    static const int32_t table[3] = {2, 0, -1}, lengths[2] = {3, 4}, start[1] = {2};
    static const double means[2] = {3, 4}, mean[1] = {2.5};
    subquad_param window = int_param("window_left", 1);
    subquad_plan *plan = make("softmax", SUBQUAD_MODE_STEP, 1, 1, 1, NULL, 0);
    subquad_in in[5];
    subquad_out out[1];
    float o[2];
    size_t i;
    CHECK(subquad_role_id("page_table") == SUBQUAD_ROLE_PAGE_TABLE);
    CHECK(subquad_role_id("key_start") == SUBQUAD_ROLE_KEY_START);
    /* Pages of 2 rows: the keys are those of page 2, then of page 0. */
    in[0] = input(SUBQUAD_ROLE_Q, q, 4, 1, 1, 1, 1);
    in[1] = input(SUBQUAD_ROLE_K, zero, 4, 3, 1, 2, 1);
    in[2] = input(SUBQUAD_ROLE_V, pool, 4, 3, 1, 2, 1);
    in[3] = input(SUBQUAD_ROLE_PAGE_TABLE, table, 2, 1, 3, 0, 0);
    in[3].dtype = SUBQUAD_DTYPE_I32;
    for (i = 0; i < 2; i++) {
        in[4] = input(SUBQUAD_ROLE_KEY_LEN, lengths + i, 1, 1, 0, 0, 0);
        in[4].dtype = SUBQUAD_DTYPE_I32;
        out[0] = output(SUBQUAD_ROLE_OUT, o + i, 4, 1, 1, 1, 1);
        run(plan, SUBQUAD_MODE_STEP, in, 5, out, 1);
    }
    CHECK_CLOSE(o, means);
    subquad_plan_destroy(plan);
    /* A ring whose oldest key is the last row, and a window of the last two keys. */
    plan = make("softmax", SUBQUAD_MODE_STEP, 1, 1, 1, &window, 1);
    in[1] = input(SUBQUAD_ROLE_K, zero, 4, 1, 1, 3, 1);
    in[2] = input(SUBQUAD_ROLE_V, ring, 4, 1, 1, 3, 1);
    in[3] = input(SUBQUAD_ROLE_KEY_START, start, 1, 1, 0, 0, 0);
    in[3].dtype = SUBQUAD_DTYPE_I32;
    out[0] = output(SUBQUAD_ROLE_OUT, o, 4, 1, 1, 1, 1);
    run(plan, SUBQUAD_MODE_STEP, in, 4, out, 1);
    CHECK_CLOSE(o, mean);
    subquad_plan_destroy(plan);
}

/* o_t = q_t (S_in + ...): what S_in gives is added to outputs of the segment run from nothing. */
static void correction(void) {
    static const float state[4] = {1, 0, 0, 10};
    static const double expected[4] = {2, 12, 8, 30};
    subquad_param params[3];
    subquad_plan *plan;
    subquad_in in[4];
    subquad_out out[1];
    float o[4];
    size_t size = 0;
    void *workspace;
    params[0] = word_param("feature_map", "identity");
    params[1] = word_param("normalize", "none");
    params[2] = real_param("scale", 1.0);
    plan = make("linear", SUBQUAD_MODE_CAUSAL, 1, 2, 2, params, 3);
    in[0] = input(SUBQUAD_ROLE_Q, Q, 4, 1, 1, 2, 2);
    in[1] = input(SUBQUAD_ROLE_K, K, 4, 1, 1, 2, 2);
    in[2] = input(SUBQUAD_ROLE_V, V, 4, 1, 1, 2, 2);
    out[0] = output(SUBQUAD_ROLE_OUT, o, 4, 1, 1, 2, 2);
    run(plan, SUBQUAD_MODE_CAUSAL, in, 3, out, 1);
    in[2] = input(SUBQUAD_ROLE_STATE_IN, state, 4, 1, 1, 2, 2);
    CHECK_OK(subquad_plan_segment_workspace_size(plan, &size, &err));
    workspace = malloc(size);
    CHECK_OK(subquad_plan_correct(plan, in, 3, out, 1, workspace, size, &err));
    CHECK_CLOSE(o, expected);
    CHECK_FAILS(subquad_plan_correct(plan, in, 2, out, 1, workspace, size, &err), SUBQUAD_ERROR_MISSING_ROLE,
                "state_in");
    in[3] = input(SUBQUAD_ROLE_V, V, 4, 1, 1, 2, 2);
    CHECK_FAILS(subquad_plan_correct(plan, in, 4, out, 1, workspace, size, &err), SUBQUAD_ERROR_WRONG_ROLE, "v");
    CHECK_FAILS(subquad_plan_correct(NULL, in, 3, out, 1, workspace, size, &err), SUBQUAD_ERROR_NULL_POINTER, "plan");
    CHECK_CLOSE(o, expected);
    free(workspace);
    subquad_plan_destroy(plan);
}

int main(void) {
    CHECK_OK(subquad_context_create(NULL, &context, &err));
    names();
    linear_without_normaliser();
    linear_with_defaults();
    decay();
    delta_rule();
    state_in_place();
    types();
    initial_values();
    transposition();
    ragged();
    snapshots();
    caches();
    correction();
    in_one_call();
    subquad_context_destroy(context);
    subquad_context_destroy(NULL);
    subquad_plan_destroy(NULL);
    subquad_threadpool_destroy(NULL);
    return check_report("abi");
}
