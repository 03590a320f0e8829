/*
 * ggml's operators: gated_delta_net (gated_delta_rule with a gate per token, kda with one per channel),
 * gated_linear_attn (gla; simple_gla too, its gate repeated over the channels: ggml has no operator for it) and
 * rwkv_wkv7 (rwkv7).
 *
 *   ggml_driver [--seconds S] PROBLEM...     one JSON object per problem
 *   ggml_driver --check                      small cases against a token loop in double
 *
 * The operator is a graph of one node. Its result holds the output and the new state one after the other. Tensors
 * get their memory here, and two results take turns, so that a step finds its state in the other result: nothing is
 * copied but what the operator copies. (An engine that keeps its states elsewhere pays one copy more.)
 */
#define _POSIX_C_SOURCE 200809L
#include "ggml-cpu.h"
#include "ggml.h"
#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum mechanism { GATED_DELTA_RULE, KDA, SIMPLE_GLA, GLA, RWKV7, N_MECHANISMS };
static const char *const names[N_MECHANISMS] = {"gated_delta_rule", "kda", "simple_gla", "gla", "rwkv7"};

struct problem {
    const char *text;
    enum mechanism mechanism;
    bool step;
    int64_t b, h, d, t;
    int threads;
};

struct operator_call {
    struct ggml_context *ctx;
    struct ggml_cgraph *graph;
    struct ggml_cplan plan;
    struct ggml_threadpool *pool;
    struct ggml_tensor *q, *k, *v, *g, *beta, *a, *b, *state, *result;
    float *results[2];      /* take turns as `result` */
    float *first_state;
    int64_t output_len;     /* floats of output in front of the state */
    int turn;
};

/* By gated_delta_net: log decays, the tokens of each sequence in a dimension of their own. */
static bool is_delta(enum mechanism mechanism)
{
    return mechanism == GATED_DELTA_RULE || mechanism == KDA;
}

/* The state of a head is [E, D], else [D, E]. */
static bool is_transposed(enum mechanism mechanism)
{
    return is_delta(mechanism) || mechanism == RWKV7;
}

static void fail(const char *what)
{
    fprintf(stderr, "ggml_driver: %s\n", what);
    exit(1);
}

static double seconds_of(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static double now(void)
{
    return seconds_of(CLOCK_MONOTONIC);
}

/* ---- inputs: the same distributions as problem.py ---- */

static uint64_t rng = 0x9E3779B97F4A7C15u;

static double uniform(void) /* (0, 1) */
{
    rng ^= rng << 13;
    rng ^= rng >> 7;
    rng ^= rng << 17;
    return ((double)(rng >> 11) + 0.5) / 9007199254740992.0;
}

static double normal(void)
{
    return sqrt(-2 * log(uniform())) * cos(6.283185307179586 * uniform());
}

static float *allocate(int64_t len)
{
    const size_t bytes = ((size_t)len * sizeof(float) + 63) / 64 * 64;
    float *p = aligned_alloc(64, bytes);
    if (p == NULL) {
        fail("out of memory");
    }
    memset(p, 0, bytes);
    return p;
}

static void give_memory(struct ggml_tensor *t)
{
    t->data = allocate(ggml_nelements(t));
}

static void fill_normal(struct ggml_tensor *t, double factor)
{
    float *p = t->data;
    for (int64_t i = 0; i < ggml_nelements(t); i++) {
        p[i] = (float)(factor * normal());
    }
}

static void unit_rows(struct ggml_tensor *t)
{
    const int64_t d = t->ne[0];
    float *p = t->data;
    for (int64_t row = 0; row < ggml_nelements(t) / d; row++, p += d) {
        double sum = 0;
        for (int64_t i = 0; i < d; i++) {
            sum += (double)p[i] * p[i];
        }
        for (int64_t i = 0; i < d; i++) {
            p[i] = (float)(p[i] / sqrt(sum));
        }
    }
}

/* Log decays -0.1|N(0,1)|; gated_linear_attn and rwkv_wkv7 take the decays themselves. */
static void fill_gate(struct ggml_tensor *t, enum mechanism mechanism, int64_t d)
{
    float *p = t->data;
    for (int64_t i = 0; i < ggml_nelements(t); i++) {
        if (mechanism == SIMPLE_GLA && i % d != 0) {
            p[i] = p[i - 1];
            continue;
        }
        const double g = -0.1 * fabs(normal());
        p[i] = (float)(is_delta(mechanism) ? g : exp(g));
    }
}

/* ---- the operator ---- */

/* RWKV-7 takes out of the state what it reads along a unit vector u: a = -u, b = u times rates in (0, 1). */
static void fill_removal(struct operator_call *c)
{
    c->a = ggml_dup_tensor(c->ctx, c->k);
    c->b = ggml_dup_tensor(c->ctx, c->k);
    give_memory(c->a);
    give_memory(c->b);
    fill_normal(c->a, 1);
    unit_rows(c->a);
    const float *a = c->a->data;
    float *b = c->b->data;
    for (int64_t i = 0; i < ggml_nelements(c->b); i++) {
        b[i] = (float)(-a[i] / (1 + exp(-normal())));
    }
}

static struct ggml_tensor *result_of(const struct operator_call *c, const struct problem *p)
{
    switch (p->mechanism) {
    case GATED_DELTA_RULE:
    case KDA:
        return ggml_gated_delta_net(c->ctx, c->q, c->k, c->v, c->g, c->beta, c->state, 1);
    case RWKV7:
        return ggml_rwkv_wkv7(c->ctx, c->q, c->g, c->k, c->v, c->a, c->b, c->state);
    default:
        return ggml_gated_linear_attn(c->ctx, c->k, c->v, c->q, c->g, c->state, 1 / sqrtf((float)p->d));
    }
}

static struct operator_call create(const struct problem *p)
{
    struct operator_call c = {0};
    const bool delta = is_delta(p->mechanism);
    const struct ggml_init_params params = {64 * ggml_tensor_overhead() + ggml_graph_overhead(), NULL, true};
    c.ctx = ggml_init(params);
    if (c.ctx == NULL) {
        fail("ggml_init failed");
    }
    /* gated_linear_attn and rwkv_wkv7 have the tokens of all sequences in one dimension. */
    const int64_t t = delta ? p->t : p->t * p->b, b = delta ? p->b : 1;
    const int64_t gate = p->mechanism == GATED_DELTA_RULE ? 1 : p->d;
    c.q = ggml_new_tensor_4d(c.ctx, GGML_TYPE_F32, p->d, p->h, t, b);
    c.k = ggml_dup_tensor(c.ctx, c.q);
    c.v = ggml_dup_tensor(c.ctx, c.q);
    c.g = ggml_new_tensor_4d(c.ctx, GGML_TYPE_F32, gate, p->h, t, b);
    give_memory(c.q);
    give_memory(c.k);
    give_memory(c.v);
    give_memory(c.g);
    fill_normal(c.q, 1);
    fill_normal(c.k, 1);
    unit_rows(c.k);
    fill_normal(c.v, 1);
    fill_gate(c.g, p->mechanism, p->d);
    if (p->mechanism == RWKV7) {
        fill_removal(&c);
    }
    if (delta) {
        c.beta = ggml_new_tensor_4d(c.ctx, GGML_TYPE_F32, 1, p->h, t, b);
        give_memory(c.beta);
        float *beta = c.beta->data;
        for (int64_t i = 0; i < ggml_nelements(c.beta); i++) {
            beta[i] = (float)(1 / (1 + exp(-normal())));
        }
        c.state = ggml_new_tensor_4d(c.ctx, GGML_TYPE_F32, p->d, p->d, p->h, p->b);
    } else {
        c.state = ggml_new_tensor_2d(c.ctx, GGML_TYPE_F32, p->d * p->d * p->h, p->b);
    }
    give_memory(c.state);
    fill_normal(c.state, 0.1);
    c.first_state = c.state->data;
    c.result = result_of(&c, p);
    c.output_len = p->d * p->h * p->t * p->b;
    for (int i = 0; i < 2; i++) {
        c.results[i] = allocate(ggml_nelements(c.result));
    }
    c.result->data = c.results[0];
    c.graph = ggml_new_graph(c.ctx);
    ggml_build_forward_expand(c.graph, c.result);
    struct ggml_threadpool_params pool = ggml_threadpool_params_default(p->threads);
    c.pool = ggml_threadpool_new(&pool);
    c.plan = ggml_graph_plan(c.graph, p->threads, c.pool);
    c.plan.work_data = (uint8_t *)allocate((int64_t)(c.plan.work_size / sizeof(float)) + 16);
    return c;
}

static void call(struct operator_call *c, bool carry)
{
    c->result->data = c->results[c->turn];
    if (ggml_graph_compute(c->graph, &c->plan) != GGML_STATUS_SUCCESS) {
        fail("ggml_graph_compute failed");
    }
    if (carry) {
        c->state->data = c->results[c->turn] + c->output_len;
        c->turn ^= 1;
    }
}

static void destroy(struct operator_call *c)
{
    struct ggml_tensor *const owners[] = {c->q, c->k, c->v, c->g, c->beta, c->a, c->b};
    for (size_t i = 0; i < sizeof owners / sizeof owners[0]; i++) {
        free(owners[i] ? owners[i]->data : NULL);
    }
    free(c->first_state);
    free(c->results[0]);
    free(c->results[1]);
    free(c->plan.work_data);
    ggml_threadpool_free(c->pool);
    ggml_free(c->ctx);
}

/* ---- check ---- */

/* One head of one sequence, `t` tokens after `state` [D, E], which is updated; y gets [t, E]. */
static void token_loop(const struct problem *p, const struct operator_call *c, int64_t b, int64_t h, double *state,
                       double *y)
{
    const int64_t d = p->d;
    const bool delta = is_delta(p->mechanism), removes = p->mechanism == RWKV7;
    const double scale = removes ? 1 : 1 / sqrt((double)d);
    for (int64_t t = 0; t < p->t; t++, y += d) {
        const int64_t row = (b * p->t + t) * p->h + h;
        const float *q = (const float *)c->q->data + row * d, *k = (const float *)c->k->data + row * d;
        const float *v = (const float *)c->v->data + row * d;
        const float *g = (const float *)c->g->data + row * c->g->ne[0];
        const float *from = removes ? (const float *)c->a->data + row * d : NULL;
        const float *to = removes ? (const float *)c->b->data + row * d : NULL;
        const double beta = delta ? ((const float *)c->beta->data)[row] : 1;
        for (int64_t e = 0; e < d; e++) {
            double read = 0, out = 0;
            for (int64_t i = 0; i < d; i++) {
                const double gate = g[p->mechanism == GATED_DELTA_RULE ? 0 : i];
                double *s = state + i * d + e;
                read += removes ? *s * from[i] : 0; /* before the decay, the delta rule after it */
                *s *= delta ? exp(gate) : gate;
                read += delta ? *s * k[i] : 0;
            }
            for (int64_t i = 0; i < d; i++) {
                double *s = state + i * d + e;
                *s += removes ? k[i] * v[e] + to[i] * read : k[i] * beta * (v[e] - read);
                out += *s * q[i];
            }
            y[e] = scale * out;
        }
    }
}

static void check_one(enum mechanism mechanism, bool step)
{
    const struct problem p = {names[mechanism], mechanism, step, step ? 1 : 2, 2, 64, step ? 1 : 40, 1};
    const int64_t d = p.d, calls = step ? 3 : 1;
    const bool transposed = is_transposed(mechanism);
    struct operator_call c = create(&p);
    double *states = malloc((size_t)(p.b * p.h * d * d) * sizeof(double));
    double *y = malloc((size_t)(p.t * d) * sizeof(double));
    double worst = 0, largest = 0;
    if (states == NULL || y == NULL) {
        fail("out of memory");
    }
    for (int64_t s = 0; s < p.b * p.h; s++) {
        for (int64_t i = 0; i < d * d; i++) {
            const int64_t from = transposed ? i % d * d + i / d : i;
            states[s * d * d + i] = c.first_state[s * d * d + from];
        }
    }
    for (int64_t n = 0; n < calls; n++) {
        const float *got = c.results[c.turn];
        call(&c, step);
        for (int64_t s = 0; s < p.b * p.h; s++) {
            const int64_t b = s / p.h, h = s % p.h;
            token_loop(&p, &c, b, h, states + s * d * d, y);
            for (int64_t i = 0; i < p.t * d; i++) {
                const double want = y[i];
                worst = fmax(worst, fabs(got[((b * p.t + i / d) * p.h + h) * d + i % d] - want));
                largest = fmax(largest, fabs(want));
            }
            for (int64_t i = 0; i < d * d; i++) {
                const int64_t from = transposed ? i % d * d + i / d : i;
                worst = fmax(worst, fabs(got[c.output_len + s * d * d + from] - states[s * d * d + i]));
            }
        }
    }
    printf("ggml %s %s: relative error %.1e, allowed 2e-05\n", names[mechanism], step ? "three steps" : "causal",
           worst / largest);
    if (!(worst <= 2e-5 * largest)) {
        fail("wrong result");
    }
    free(states);
    free(y);
    destroy(&c);
}

/* ---- problems and measurement ---- */

/* The value of `key` in a problem string, or `otherwise`. */
static void field(const char *text, const char *key, const char *otherwise, char value[static 32])
{
    const size_t len = strlen(key);
    snprintf(value, 32, "%s", otherwise);
    for (const char *at = text; at != NULL; at = strchr(at, ','), at = at ? at + 1 : NULL) {
        if (strncmp(at, key, len) == 0 && at[len] == '=') {
            snprintf(value, 32, "%.*s", (int)strcspn(at + len + 1, ","), at + len + 1);
        }
    }
}

static int64_t number(const char *text, const char *key, const char *otherwise)
{
    char value[32];
    field(text, key, otherwise, value);
    return strtoll(value, NULL, 10);
}

/* NULL, or why ggml cannot do it. */
static const char *parse(const char *text, struct problem *p)
{
    char value[32];
    memset(p, 0, sizeof *p);
    p->text = text;
    field(text, "mechanism", "", value);
    while (p->mechanism < N_MECHANISMS && strcmp(value, names[p->mechanism]) != 0) {
        p->mechanism++;
    }
    if (p->mechanism == N_MECHANISMS) {
        return "no operator for the mechanism";
    }
    field(text, "mode", "causal", value);
    p->step = strcmp(value, "step") == 0;
    if (!p->step && strcmp(value, "causal") != 0) {
        return "only mode=causal and mode=step";
    }
    if (number(text, "grad", "0") != 0) {
        return "only the forward pass";
    }
    p->b = number(text, "B", "1");
    p->h = number(text, "H", "0");
    p->d = number(text, "D", "0");
    p->t = number(text, "T", p->step ? "1" : "2048");
    p->threads = (int)number(text, "threads", "1");
    field(text, "D", "0", value);
    if (number(text, "E", value) != p->d) {
        return "only square heads (E = D)";
    }
    field(text, "H", "0", value);
    const bool grouped = number(text, "Hk", value) != p->h;
    field(text, "dtype", "f32", value);
    if (strcmp(value, "f32") != 0 || grouped) {
        return "only dtype=f32 and Hk=H";
    }
    if (p->mechanism == RWKV7 && p->d % 64 != 0) {
        return "rwkv_wkv7 works on 64 channels at a time: only D a multiple of 64";
    }
    if (p->b < 1 || p->h < 1 || p->d < 1 || p->t < 1 || p->threads < 1 || (p->step && p->t != 1)) {
        return "sizes must be at least 1, and T=1 in a step";
    }
    return NULL;
}

static int compare(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void bench(const struct problem *p, double seconds)
{
    enum { MOST = 100000 };
    static double samples[MOST];
    struct operator_call c = create(p);
    double start = now(), once;
    call(&c, p->step);
    once = now() - start;
    for (const double warm = now() + fmin(0.1 * seconds, 0.2); now() < warm;) {
        start = now();
        call(&c, p->step);
        once = fmin(once, now() - start);
    }
    /* A sample takes 0.2 ms at least. */
    const int calls = once < 2e-4 ? (int)lround(2e-4 / fmax(once, 1e-7)) : 1;
    const double begin = now(), cpu = seconds_of(CLOCK_THREAD_CPUTIME_ID);
    int n = 0;
    while (n < 5 || (n < MOST && now() < begin + seconds)) {
        start = now();
        for (int i = 0; i < calls; i++) {
            call(&c, p->step);
        }
        samples[n++] = (now() - start) / calls;
    }
    const double share = (seconds_of(CLOCK_THREAD_CPUTIME_ID) - cpu) / (now() - begin);
    char share_text[32] = "null"; /* several threads wait for one another, which says nothing of the machine */
    if (p->threads == 1) {
        snprintf(share_text, sizeof share_text, "%.4f", share);
    }
    qsort(samples, (size_t)n, sizeof samples[0], compare);
    const double median = samples[n / 2], tokens = (double)(p->b * p->t);
    printf("{\"peer\": \"ggml\", \"version\": \"ggml %s\", \"op\": \"%s\", \"problem\": \"%s\", \"threads\": %d, "
           "\"ns_per_token_head\": %.2f, \"tokens_per_s\": %.1f, \"reps\": %d, \"spread\": %.4f, "
           "\"cpu_share\": %s}\n",
           ggml_version(), ggml_op_name(c.result->op), p->text, p->threads,
           1e9 * median / (tokens * (double)p->h), tokens / median, n,
           (samples[n * 3 / 4] - samples[n / 4]) / median, share_text);
    fflush(stdout);
    destroy(&c);
}

int main(int argc, char **argv)
{
    double seconds = 1;
    for (int i = 1; i < argc; i++) {
        struct problem p;
        if (strcmp(argv[i], "--check") == 0) {
            for (int m = 0; m < N_MECHANISMS; m++) {
                check_one((enum mechanism)m, false);
                check_one((enum mechanism)m, true);
            }
        } else if (strcmp(argv[i], "--seconds") == 0 && i + 1 < argc) {
            seconds = atof(argv[++i]);
        } else {
            const char *reason = parse(argv[i], &p);
            if (reason == NULL) {
                bench(&p, seconds);
            } else {
                printf("{\"peer\": \"ggml\", \"problem\": \"%s\", \"unsupported\": \"%s\"}\n", argv[i], reason);
            }
        }
    }
    return 0;
}
