/* Gradients: a problem small enough for a pencil, one against differences of the forward pass, and wrong calls. */
#include "support.h"
#include <stdlib.h>

#define GRAD(role) ((role) | SUBQUAD_ROLE_GRAD)

static subquad_error err;
static subquad_context *context = NULL;

static subquad_plan *make(const char *mechanism, uint32_t modes, int64_t heads, int64_t d, int64_t e,
                          const subquad_param *params, size_t n_params) {
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
    CHECK_OK(subquad_plan_create(context, &desc, &plan, &err));
    return plan;
}

static void backward(const subquad_plan *plan, int64_t n, const subquad_in *in, size_t n_in, const subquad_out *out,
                     size_t n_out) {
    size_t size = 0;
    void *workspace;
    CHECK_OK(subquad_plan_backward_workspace_size(plan, 1, n, n, &size, &err));
    workspace = malloc(size);
    CHECK_OK(subquad_plan_backward(plan, SUBQUAD_MODE_CAUSAL, in, n_in, out, n_out, workspace, size, &err));
    free(workspace);
}

/* o_1 = (q_1.k_1) v_1, o_2 = (q_2.k_1) v_1 + (q_2.k_2) v_2, and the gradient of o_1[0] + o_2[1]; then with that of
 * the last state's first element as well. */
static void by_hand(void) {
    static const float q[4] = {1, 1, 1, 2}, k[4] = {1, 0, 0, 1}, v[4] = {1, 2, 3, 4}, dout[4] = {1, 0, 0, 1};
    static const float state[4] = {0, 0, 0, 0}, dstate_out[4] = {1, 0, 0, 0};
    static const double dq_is[4] = {1, 0, 2, 4}, dk_is[4] = {3, 5, 4, 8}, dv_is[4] = {1, 1, 0, 2};
    static const double dstate_is[4] = {1, 1, 1, 2};
    static const double dk_more[4] = {4, 5, 7, 8}, dv_more[4] = {2, 1, 0, 2}, dstate_more[4] = {2, 1, 1, 2};
    float dq[4], dk[4], dv[4], dstate[4];
    subquad_param params[3];
    subquad_plan_info info;
    subquad_plan *plan;
    subquad_in in[6];
    subquad_out out[4];
    params[0] = word_param("feature_map", "identity");
    params[1] = word_param("normalize", "none");
    params[2] = real_param("scale", 1.0);
    plan = make("linear", SUBQUAD_MODE_CAUSAL | SUBQUAD_MODE_STEP, 1, 2, 2, params, 3);
    info.struct_size = sizeof info;
    CHECK_OK(subquad_plan_get_info(plan, &info, &err));
    CHECK(info.gradient_modes == SUBQUAD_MODE_CAUSAL);
    in[0] = input(SUBQUAD_ROLE_Q, q, 4, 1, 1, 2, 2);
    in[1] = input(SUBQUAD_ROLE_K, k, 4, 1, 1, 2, 2);
    in[2] = input(SUBQUAD_ROLE_V, v, 4, 1, 1, 2, 2);
    in[3] = input(GRAD(SUBQUAD_ROLE_OUT), dout, 4, 1, 1, 2, 2);
    in[4] = input(SUBQUAD_ROLE_STATE_IN, state, 4, 1, 1, 2, 2);
    in[5] = input(GRAD(SUBQUAD_ROLE_STATE_OUT), dstate_out, 4, 1, 1, 2, 2);
    out[0] = output(GRAD(SUBQUAD_ROLE_K), dk, 4, 1, 1, 2, 2);
    out[1] = output(GRAD(SUBQUAD_ROLE_V), dv, 4, 1, 1, 2, 2);
    out[2] = output(GRAD(SUBQUAD_ROLE_STATE_IN), dstate, 4, 1, 1, 2, 2);
    out[3] = output(GRAD(SUBQUAD_ROLE_Q), dq, 4, 1, 1, 2, 2);
    backward(plan, 2, in, 5, out, 4);
    CHECK_CLOSE(dq, dq_is);
    CHECK_CLOSE(dk, dk_is);
    CHECK_CLOSE(dv, dv_is);
    CHECK_CLOSE(dstate, dstate_is);
    backward(plan, 2, in, 6, out, 3);
    CHECK_CLOSE(dk, dk_more);
    CHECK_CLOSE(dv, dv_more);
    CHECK_CLOSE(dstate, dstate_more);
    subquad_plan_destroy(plan);
}

enum { H = 2, T = 20, D = 4, E = 3, N_IN = 6 };
static float q[H * T * D], k[H * T * D], v[H * T * E], g[H * T], beta[H * T], state[H * D * E];
static float dout[H * T * E], dstate_out[H * D * E];
static float dq[H * T * D], dk[H * T * D], dv[H * T * E], dg[H * T], dbeta[H * T], dstate[H * D * E];
static subquad_in in[N_IN + 2];
static subquad_out out[N_IN];

static void fill(float *x, size_t n, double scale, double offset, double step) {
    size_t i;
    for (i = 0; i < n; i++) x[i] = (float)(offset + scale * sin(step * (double)(i + 1)));
}

/* Sum of the outputs, each times its gradient. */
static double loss(const subquad_plan *plan, void *workspace, size_t size) {
    float o[H * T * E], s[H * D * E];
    subquad_out to[2];
    double sum = 0;
    size_t i;
    to[0] = output(SUBQUAD_ROLE_OUT, o, 4, 1, H, T, E);
    to[1] = output(SUBQUAD_ROLE_STATE_OUT, s, 4, 1, H, D, E);
    CHECK_OK(subquad_plan_execute(plan, SUBQUAD_MODE_CAUSAL, in, N_IN, to, 2, workspace, size, &err));
    for (i = 0; i < H * T * E; i++) sum += (double)o[i] * dout[i];
    for (i = 0; i < H * D * E; i++) sum += (double)s[i] * dstate_out[i];
    return sum;
}

static void check_differences(const subquad_plan *plan, float *x, const float *dx, size_t n, void *workspace,
                              size_t size) {
    const float step = 0.01f;
    size_t i;
    int close = 1;
    for (i = 0; i < n; i++) {
        const float x0 = x[i];
        double slope;
        x[i] = x0 + step;
        slope = loss(plan, workspace, size);
        x[i] = x0 - step;
        slope = (slope - loss(plan, workspace, size)) / (2.0 * step);
        x[i] = x0;
        close = close && fabs(slope - dx[i]) < 2e-3 * (1 + fabs(slope));
    }
    CHECK(close);
}

static void bind(void) {
    in[0] = input(SUBQUAD_ROLE_Q, q, 4, 1, H, T, D);
    in[1] = input(SUBQUAD_ROLE_K, k, 4, 1, H, T, D);
    in[2] = input(SUBQUAD_ROLE_V, v, 4, 1, H, T, E);
    in[3] = input(SUBQUAD_ROLE_G, g, 3, 1, H, T, 0);
    in[4] = input(SUBQUAD_ROLE_BETA, beta, 3, 1, H, T, 0);
    in[5] = input(SUBQUAD_ROLE_STATE_IN, state, 4, 1, H, D, E);
    in[6] = input(GRAD(SUBQUAD_ROLE_OUT), dout, 4, 1, H, T, E);
    in[7] = input(GRAD(SUBQUAD_ROLE_STATE_OUT), dstate_out, 4, 1, H, D, E);
    out[0] = output(GRAD(SUBQUAD_ROLE_Q), dq, 4, 1, H, T, D);
    out[1] = output(GRAD(SUBQUAD_ROLE_K), dk, 4, 1, H, T, D);
    out[2] = output(GRAD(SUBQUAD_ROLE_V), dv, 4, 1, H, T, E);
    out[3] = output(GRAD(SUBQUAD_ROLE_G), dg, 3, 1, H, T, 0);
    out[4] = output(GRAD(SUBQUAD_ROLE_BETA), dbeta, 3, 1, H, T, 0);
    out[5] = output(GRAD(SUBQUAD_ROLE_STATE_IN), dstate, 4, 1, H, D, E);
}

static void differences(const subquad_plan *plan) {
    void *workspace;
    size_t size = 0;
    CHECK_OK(subquad_plan_workspace_size(plan, SUBQUAD_MODE_CAUSAL, &size, &err));
    workspace = malloc(size);
    backward(plan, T, in, N_IN + 2, out, N_IN);
    check_differences(plan, q, dq, H * T * D, workspace, size);
    check_differences(plan, k, dk, H * T * D, workspace, size);
    check_differences(plan, v, dv, H * T * E, workspace, size);
    check_differences(plan, g, dg, H * T, workspace, size);
    check_differences(plan, beta, dbeta, H * T, workspace, size);
    check_differences(plan, state, dstate, H * D * E, workspace, size);
    free(workspace);
}

/* Nothing is written, and the plan works as before. */
static void wrong_calls(const subquad_plan *plan) {
    float before[H * T * D];
    size_t size = 0, longer = 0, bytes = 12345;
    void *workspace;
    uint32_t mode = SUBQUAD_MODE_CAUSAL;
    CHECK_OK(subquad_plan_backward_workspace_size(plan, 1, T, T, &size, &err));
    CHECK_OK(subquad_plan_backward_workspace_size(plan, 1, 100 * T, 100 * T, &longer, &err));
    CHECK(longer > size);
    workspace = malloc(size);
    memcpy(before, dq, sizeof dq);
#define BACKWARD(n_in, n_out, bytes) subquad_plan_backward(plan, mode, in, n_in, out, n_out, workspace, bytes, &err)
#define REFUSED(call, status, text)                     \
    do {                                                \
        CHECK_FAILS(call, status, text);                \
        CHECK(memcmp(before, dq, sizeof before) == 0);  \
        bind();                                         \
    } while (0)
    REFUSED(BACKWARD(6, 6, size), SUBQUAD_ERROR_MISSING_ROLE, "dout is missing");
    in[0].role = SUBQUAD_ROLE_OUT;
    REFUSED(BACKWARD(8, 6, size), SUBQUAD_ERROR_WRONG_ROLE, "role out");
    in[6].role = GRAD(SUBQUAD_ROLE_Q);
    REFUSED(BACKWARD(8, 6, size), SUBQUAD_ERROR_WRONG_ROLE, "role dq: it is an output");
    out[0].role = SUBQUAD_ROLE_Q;
    REFUSED(BACKWARD(8, 6, size), SUBQUAD_ERROR_WRONG_ROLE, "role q: it is an input");
    out[0].role = GRAD(9999);
    REFUSED(BACKWARD(8, 6, size), SUBQUAD_ERROR_WRONG_ROLE, "out[0].role is");
    out[0].shape[2] = T - 1;
    REFUSED(BACKWARD(8, 6, size), SUBQUAD_ERROR_WRONG_SHAPE, "dq.shape[2] is 19");
    out[0].data = k;
    REFUSED(BACKWARD(8, 6, size), SUBQUAD_ERROR_OVERLAP, "output dq overlaps k");
    out[0].data = NULL;
    REFUSED(BACKWARD(8, 6, size), SUBQUAD_ERROR_NULL_POINTER, "dq.data is null");
    REFUSED(BACKWARD(8, 6, size - 1), SUBQUAD_ERROR_WORKSPACE, "workspace has");
    REFUSED(BACKWARD(32, 6, size), SUBQUAD_ERROR_INVALID_ARGUMENT, "38 tensors");
    mode = SUBQUAD_MODE_STEP;
    REFUSED(BACKWARD(8, 6, size), SUBQUAD_ERROR_UNSUPPORTED, "mode step");
    mode = 3;
    REFUSED(BACKWARD(8, 6, size), SUBQUAD_ERROR_INVALID_ARGUMENT, "mode is 3");
    mode = SUBQUAD_MODE_CAUSAL;
    CHECK_FAILS(subquad_plan_backward(NULL, mode, in, 8, out, 6, workspace, size, &err), SUBQUAD_ERROR_NULL_POINTER,
                "plan is null");
    CHECK_FAILS(subquad_plan_backward(plan, mode, in, 8, out, 6, NULL, size, &err), SUBQUAD_ERROR_NULL_POINTER,
                "workspace is null");
    CHECK_FAILS(subquad_plan_backward(plan, mode, NULL, 8, out, 6, workspace, size, &err), SUBQUAD_ERROR_NULL_POINTER,
                "in is null");
    CHECK_FAILS(subquad_plan_backward_workspace_size(plan, -1, T, T, &bytes, &err), SUBQUAD_ERROR_INVALID_ARGUMENT,
                "sequences is -1");
    CHECK_FAILS(subquad_plan_backward_workspace_size(plan, 1, T, -2, &bytes, &err), SUBQUAD_ERROR_INVALID_ARGUMENT,
                "n_k is -2");
    CHECK_FAILS(subquad_plan_backward_workspace_size(plan, INT64_MAX, INT64_MAX, INT64_MAX, &bytes, &err),
                SUBQUAD_ERROR_UNSUPPORTED, "workspace");
    CHECK_FAILS(subquad_plan_backward_workspace_size(plan, 1, T, T, NULL, &err), SUBQUAD_ERROR_NULL_POINTER,
                "bytes is null");
    CHECK_FAILS(subquad_plan_backward_workspace_size(NULL, 1, T, T, &bytes, &err), SUBQUAD_ERROR_NULL_POINTER,
                "plan is null");
    CHECK(bytes == 12345);
    CHECK_OK(BACKWARD(8, 6, size));
    CHECK(memcmp(before, dq, sizeof before) == 0);
    free(workspace);
}

int main(void) {
    subquad_plan *plan, *steps;
    size_t bytes = 0;
    fill(q, H * T * D, 0.5, 0, 1.7);
    fill(k, H * T * D, 0.5, 0, 2.9);
    fill(v, H * T * E, 1, 0, 0.7);
    fill(g, H * T, 0.2, -0.25, 1.3);
    fill(beta, H * T, 0.4, 0.5, 2.1);
    fill(state, H * D * E, 1, 0, 1.1);
    fill(dout, H * T * E, 1, 0, 0.9);
    fill(dstate_out, H * D * E, 1, 0, 2.3);
    CHECK_OK(subquad_context_create(NULL, &context, &err));
    by_hand();
    plan = make("gated_delta_rule", SUBQUAD_MODE_CAUSAL | SUBQUAD_MODE_STEP, H, D, E, NULL, 0);
    bind();
    differences(plan);
    wrong_calls(plan);
    steps = make("gla", SUBQUAD_MODE_STEP, H, D, E, NULL, 0);
    CHECK_FAILS(subquad_plan_backward_workspace_size(steps, 1, 1, 1, &bytes, &err), SUBQUAD_ERROR_UNSUPPORTED,
                "backward of gla in mode step");
    subquad_plan_destroy(steps);
    subquad_plan_destroy(plan);
    subquad_context_destroy(context);
    return check_report("gradients");
}
