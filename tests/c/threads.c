/* The same bits for every runner: the calling thread, a caller's own that runs tasks in reverse and on several
 * worker numbers, the built-in pool,
 * whose handle goes first, and a caller's own around the pool's. */
#include "support.h"
#include <stdlib.h>

enum { B = 2, H = 6, T = 70, D = 32, E = 48, N_QK = B * H * T * D, N_V = B * H * T * E, N_STATE = B * H * D * E };

static subquad_error err;
static float q[N_QK], k[N_QK], v[N_V], g[B * H * T], beta[B * H * T];

struct reversed {
    uint32_t n_calls, n_tasks;
};

static void run_reversed(void *user, uint32_t n_tasks, subquad_task task, void *arg) {
    struct reversed *counts = (struct reversed *)user;
    uint32_t i;
    counts->n_calls += 1;
    counts->n_tasks += n_tasks;
    for (i = n_tasks; i-- > 0;) task(arg, i, i % 5);
}

static subquad_parallel inner;

static void run_wrapped(void *user, uint32_t n_tasks, subquad_task task, void *arg) {
    inner.run(user, n_tasks, task, arg);
}

/* Three calls that carry the state on, with this runner. The pool, if any, is destroyed on the way. */
static void compute(const subquad_parallel *parallel, subquad_threadpool *pool, float *o, float *state) {
    subquad_context_options options;
    subquad_context *context = NULL;
    subquad_plan *plan = NULL;
    subquad_desc desc;
    subquad_param unit = int_param("l2norm_qk", 1);
    size_t size = 0;
    void *workspace;
    int call;
    subquad_in in[6];
    subquad_out out[2];
    subquad_context_options_init(&options);
    if (parallel != NULL) options.parallel = *parallel;
    CHECK_OK(subquad_context_create(&options, &context, &err));
    subquad_threadpool_destroy(pool); /* the context keeps the threads */
    subquad_desc_init(&desc);
    desc.mechanism = "gated_delta_rule";
    desc.heads_q = desc.heads_k = desc.heads_v = H;
    desc.dim_qk = D;
    desc.dim_v = E;
    desc.params = &unit;
    desc.n_params = 1;
    CHECK_OK(subquad_plan_create(context, &desc, &plan, &err));
    subquad_context_destroy(context); /* and the plan keeps the context */
    CHECK_OK(subquad_plan_workspace_size(plan, SUBQUAD_MODE_CAUSAL, &size, &err));
    workspace = malloc(size);
    memset(workspace, 0xff, size); /* NaN: nothing in it is read before it is written */
    memset(state, 0, N_STATE * sizeof *state);
    in[0] = input(SUBQUAD_ROLE_Q, q, 4, B, H, T, D);
    in[1] = input(SUBQUAD_ROLE_K, k, 4, B, H, T, D);
    in[2] = input(SUBQUAD_ROLE_V, v, 4, B, H, T, E);
    in[3] = input(SUBQUAD_ROLE_G, g, 3, B, H, T, 0);
    in[4] = input(SUBQUAD_ROLE_BETA, beta, 3, B, H, T, 0);
    in[5] = input(SUBQUAD_ROLE_STATE_IN, state, 4, B, H, D, E);
    out[0] = output(SUBQUAD_ROLE_OUT, o, 4, B, H, T, E);
    out[1] = output(SUBQUAD_ROLE_STATE_OUT, state, 4, B, H, D, E);
    for (call = 0; call < 3; call++) {
        CHECK_OK(subquad_plan_execute(plan, SUBQUAD_MODE_CAUSAL, in, 6, out, 2, workspace, size, &err));
    }
    free(workspace);
    subquad_plan_destroy(plan);
}

static float serial[N_V], other[N_V], serial_state[N_STATE], other_state[N_STATE];

static void same_bits(void) {
    CHECK(memcmp(serial, other, sizeof serial) == 0);
    CHECK(memcmp(serial_state, other_state, sizeof serial_state) == 0);
    memset(other, 0, sizeof other);
}

int main(void) {
    subquad_parallel parallel;
    subquad_threadpool *pool = NULL;
    struct reversed counts = {0, 0};
    uint32_t n_threads, seed = 12345;
    size_t i;
    for (i = 0; i < N_QK; i++) {
        seed = seed * 1664525u + 1013904223u;
        q[i] = (float)(seed >> 8) / 8388608.0f - 1.0f;
        k[i] = (float)(seed >> 16) / 32768.0f - 1.0f;
    }
    for (i = 0; i < N_V; i++) v[i] = (float)sin(0.37 * (double)i);
    for (i = 0; i < B * H * T; i++) {
        g[i] = -0.01f * (float)(i % 17);
        beta[i] = (float)(i % 11) / 11.0f;
    }
    compute(NULL, NULL, serial, serial_state);
    CHECK(serial[N_V - 1] == serial[N_V - 1]);

    memset(&parallel, 0, sizeof parallel);
    parallel.struct_size = sizeof parallel;
    parallel.max_workers = 5;
    parallel.user = &counts;
    parallel.run = run_reversed;
    compute(&parallel, NULL, other, other_state);
    CHECK(counts.n_calls >= 1 && counts.n_tasks > counts.n_calls);
    same_bits();

    for (n_threads = 1; n_threads <= 3; n_threads += 2) {
        CHECK_OK(subquad_threadpool_create(n_threads, &pool, &err));
        CHECK_OK(subquad_threadpool_parallel(pool, &parallel, &err));
        CHECK(parallel.max_workers == n_threads);
        compute(&parallel, pool, other, other_state);
        same_bits();
    }

    /* A runner that wraps the pool's. */
    CHECK_OK(subquad_threadpool_create(3, &pool, &err));
    CHECK_OK(subquad_threadpool_parallel(pool, &inner, &err));
    parallel = inner;
    parallel.run = run_wrapped;
    compute(&parallel, NULL, other, other_state);
    same_bits();
    subquad_threadpool_destroy(pool);
    return check_report("threads");
}
