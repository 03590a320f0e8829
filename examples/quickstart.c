/* A gated delta net layer of Qwen3-Next on stored activations of the model: a prompt at once, then the tokens
 * that follow, all at once and one by one, each way from the state that the prompt left.
 *
 *     cc -std=c99 -Iinclude examples/quickstart.c -Ltarget/release -lsubquad -lm && ./a.out
 *
 * The files hold what the model's own code computes, so every number here is checked; the program says how far
 * off they are and exits with 1 if any is beyond the files' tolerance. */
#include "safetensors.h"
#include "subquad.h"

#define TOLERANCE 2e-6 /* of the files, for values below 1 */

static subquad_error err;

static void check(subquad_status status) {
    if (status == SUBQUAD_OK) return;
    fprintf(stderr, "%s: %s\n", subquad_status_string(status), err.message);
    exit(1);
}

/* A layer and the state of one sequence. */
typedef struct layer {
    subquad_plan *plan;
    void *workspace;
    size_t workspace_size;
    float *state;
    size_t state_size;
} layer;

static void make_layer(layer *l, const safetensors *file) {
    const safetensor k = safetensors_get(file, "k"), v = safetensors_get(file, "v");
    subquad_context *context;
    subquad_param unit = {0};
    subquad_desc desc;
    unit.name = "l2norm_qk"; /* queries and keys are stored before they are made unit vectors */
    unit.kind = SUBQUAD_PARAM_INT;
    unit.i64 = 1;
    subquad_desc_init(&desc);
    desc.mechanism = "gated_delta_rule";
    desc.modes = SUBQUAD_MODE_CAUSAL | SUBQUAD_MODE_STEP;
    desc.heads_q = desc.heads_k = k.shape[1]; /* tensors are [batch, heads, tokens, dimension] */
    desc.heads_v = v.shape[1];
    desc.dim_qk = k.shape[3];
    desc.dim_v = v.shape[3];
    desc.params = &unit;
    desc.n_params = 1;
    check(subquad_context_create(NULL, &context, &err));
    check(subquad_plan_create(context, &desc, &l->plan, &err));
    subquad_context_destroy(context); /* the plan keeps what it needs */
    check(subquad_plan_workspace_size(l->plan, 0, &l->workspace_size, &err));
    check(subquad_plan_state_size(l->plan, &l->state_size, &err));
    l->workspace = malloc(l->workspace_size);
    l->state = (float *)malloc(l->state_size);
    if (l->workspace == NULL || l->state == NULL) exit(1);
    check(subquad_state_init(l->plan, l->state, l->state_size, 1, &err));
}

static subquad_in read_from(uint32_t role, const safetensor *tensor) {
    subquad_in in = {0};
    in.role = role;
    in.dtype = SUBQUAD_DTYPE_F32;
    in.rank = tensor->rank;
    in.data = tensor->data;
    memcpy(in.shape, tensor->shape, sizeof in.shape);
    memcpy(in.stride, tensor->stride, sizeof in.stride);
    return in;
}

static subquad_out write_to(uint32_t role, const safetensor *tensor) {
    const subquad_in in = read_from(role, tensor);
    subquad_out out; /* the same struct, but for a pointer that can be written through */
    memcpy(&out, &in, sizeof out);
    return out;
}

/* n tokens of a tensor from `first` on: the strides stay those of the whole. */
static safetensor tokens(safetensor tensor, int64_t first, int64_t n) {
    tensor.data += first * tensor.stride[2];
    tensor.shape[2] = n;
    return tensor;
}

/* Runs n tokens of a file; the state is carried in place. */
static void run(layer *l, uint32_t mode, const safetensors *file, float *result, int64_t first, int64_t n) {
    static const char *const names[5] = {"q", "k", "v", "g", "beta"};
    safetensor state = safetensors_get(file, "state_out"), whole = safetensors_get(file, "out"), part;
    subquad_in in[6];
    subquad_out out[2];
    int i;
    for (i = 0; i < 5; i++) {
        part = tokens(safetensors_get(file, names[i]), first, n);
        in[i] = read_from(subquad_role_id(names[i]), &part);
    }
    state.data = l->state; /* the file's tensors lend their shapes */
    whole.data = result;
    part = tokens(whole, first, n);
    in[5] = read_from(SUBQUAD_ROLE_STATE_IN, &state);
    out[0] = write_to(SUBQUAD_ROLE_OUT, &part);
    out[1] = write_to(SUBQUAD_ROLE_STATE_OUT, &state);
    check(subquad_plan_execute(l->plan, mode, in, 6, out, 2, l->workspace, l->workspace_size, &err));
}

static int within(const char *what, const float *is, const float *should, size_t n) {
    double largest = 0;
    size_t i;
    for (i = 0; i < n; i++) {
        double difference = (double)is[i] - should[i];
        if (difference < 0) difference = -difference;
        if (!(difference <= largest)) largest = difference; /* NaN is the largest of all */
    }
    printf("%-44s largest difference %.1e\n", what, largest);
    return largest <= TOLERANCE;
}

static safetensors open_file(const char *prefix, const char *which) {
    char path[1024];
    snprintf(path, sizeof path, "%s_%s.safetensors", prefix, which);
    return safetensors_open(path);
}

int main(int argc, char **argv) {
    const char *prefix = argc > 1 ? argv[1] : "tests/golden/hf/qwen3_next_gdn_a";
    safetensors prompt = open_file(prefix, "prefill"), next = open_file(prefix, "continue");
    safetensor prompt_out = safetensors_get(&prompt, "out"), next_out = safetensors_get(&next, "out");
    safetensor state = safetensors_get(&next, "state_out");
    float *result = (float *)malloc(prompt_out.len * sizeof(float));
    float *at_once = (float *)malloc(next_out.len * sizeof(float));
    float *one_by_one = (float *)malloc(next_out.len * sizeof(float));
    const int64_t n_prompt = prompt_out.shape[2], n_next = next_out.shape[2];
    float *after_prompt;
    int64_t token;
    int good;
    layer l;
    make_layer(&l, &prompt);
    printf("%ld tokens at once, then %ld more:\n", (long)n_prompt, (long)n_next);
    run(&l, SUBQUAD_MODE_CAUSAL, &prompt, result, 0, n_prompt);
    good = within("prompt against the model", result, prompt_out.data, prompt_out.len);

    after_prompt = (float *)malloc(l.state_size);
    memcpy(after_prompt, l.state, l.state_size); /* a state is plain memory */
    run(&l, SUBQUAD_MODE_CAUSAL, &next, at_once, 0, n_next);
    good &= within("next tokens at once against the model", at_once, next_out.data, next_out.len);

    memcpy(l.state, after_prompt, l.state_size);
    for (token = 0; token < n_next; token++) run(&l, SUBQUAD_MODE_STEP, &next, one_by_one, token, 1);
    good &= within("next tokens one by one against the model", one_by_one, next_out.data, next_out.len);
    good &= within("state after them against the model", l.state, state.data, state.len);
    good &= within("one by one against at once", one_by_one, at_once, next_out.len);
    printf("%s\n", good ? "all agree" : "BEYOND TOLERANCE");

    subquad_plan_destroy(l.plan);
    free(l.workspace), free(l.state), free(after_prompt), free(result), free(at_once), free(one_by_one);
    free(prompt.header), free(next.header);
    return good ? 0 : 1;
}
