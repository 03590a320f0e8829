// The library under C++17: handles in unique_ptr, and a thrown error for a status.
#include "subquad.h"

#include <cstdio>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

void check(subquad_status status, const subquad_error &err) {
    if (status != SUBQUAD_OK) throw std::runtime_error(err.message);
}

using Context = std::unique_ptr<subquad_context, decltype(&subquad_context_destroy)>;
using Plan = std::unique_ptr<subquad_plan, decltype(&subquad_plan_destroy)>;

Plan make_plan(const char *mechanism) {
    subquad_error err;
    subquad_context *context = nullptr;
    check(subquad_context_create(nullptr, &context, &err), err);
    Context owner(context, subquad_context_destroy);
    subquad_desc desc;
    subquad_desc_init(&desc);
    desc.mechanism = mechanism;
    subquad_plan *plan = nullptr;
    check(subquad_plan_create(context, &desc, &plan, &err), err);
    return Plan(plan, subquad_plan_destroy);
}

}  // namespace

int main() {
    Plan plan = make_plan("linear");
    std::size_t bytes = 0;
    subquad_error err;
    check(subquad_plan_workspace_size(plan.get(), SUBQUAD_MODE_CAUSAL, &bytes, &err), err);
    std::vector<unsigned char> workspace(bytes);
    std::vector<float> zeros(3 * 64, 0.0f), v(3 * 64, 2.0f), out(3 * 64, -1.0f);
    const auto in = [](uint32_t role, const std::vector<float> &data) {
        return subquad_in{role, SUBQUAD_DTYPE_F32, 4, 0, data.data(), {1, 1, 3, 64, 0}, {192, 192, 64, 1, 0}, {0, 0}};
    };
    const subquad_in ins[] = {in(SUBQUAD_ROLE_Q, zeros), in(SUBQUAD_ROLE_K, zeros), in(SUBQUAD_ROLE_V, v)};
    const subquad_out outs[] = {{SUBQUAD_ROLE_OUT, SUBQUAD_DTYPE_F32, 4, 0, out.data(), {1, 1, 3, 64, 0},
                                 {192, 192, 64, 1, 0}, {0, 0}}};
    check(subquad_plan_execute(plan.get(), SUBQUAD_MODE_CAUSAL, ins, 3, outs, 1, workspace.data(), bytes, &err),
          err);
    for (float value : out) {
        if (!(value > 1.9999f && value < 2.0001f)) return 1;
    }
    try {
        make_plan("no_such_mechanism");
        return 2;
    } catch (const std::runtime_error &error) {
        return std::string(error.what()).find("no_such_mechanism") == std::string::npos ? 3 : 0;
    }
}
