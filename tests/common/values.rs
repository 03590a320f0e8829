//! Values of roles, by their names.

use super::golden::Array;
use super::problem::Problem;
use super::support::Rng;
use subquad::Role;
use subquad::catalog::RoleKind;

impl Problem {
    /// Random inputs: what must be bound, optional roles now and then, the state if `state`.
    pub fn fill(mut self, rng: &mut Rng, state: bool) -> Problem {
        let alternatives = self.mechanism.role(Role::X).map_or(1, |spec| spec.shapes.len());
        if alternatives > 1 {
            self.alternative = rng.below(alternatives);
        }
        let roles: Vec<Role> = self.roles(RoleKind::Input).collect();
        for role in roles {
            let spec = self.role_spec(role);
            let must = spec.required
                || matches!(role, Role::GATE | Role::A_LOG | Role::W | Role::W_Q | Role::W_K | Role::W_QK)
                // What comes with another role.
                || role == Role::B_GATE_K && self.inputs.contains_key(&Role::W_GATE_K);
            if role == Role::B_GATE_K && !must {
                continue;
            }
            // One role of a group is enough: in turn the first, the last, or all.
            let group = || self.mechanism.roles.iter().filter(|other| other.one_of == spec.one_of);
            let wanted = if spec.one_of.is_empty() {
                must || rng.one_in(2)
            } else {
                let last = group().next_back().unwrap().role == role;
                let bound = group().any(|other| self.inputs.contains_key(&other.role));
                (last && !bound) || rng.one_in(2)
            };
            if wanted {
                let values = self.values(rng, role);
                self.inputs.insert(role, values);
            }
        }
        if state {
            self.fill_state(rng);
        }
        self
    }

    pub fn fill_state(&mut self, rng: &mut Rng) {
        let roles: Vec<Role> = self.roles(RoleKind::StateIn).collect();
        for role in roles {
            let values = self.values(rng, role);
            self.inputs.insert(role, values);
        }
    }

    /// Ordinary values of a role: decays at most 1, gains within (0, 1), keys about as long as 1.
    pub fn values(&self, rng: &mut Rng, role: Role) -> Array {
        let shape = self.shape(role);
        let width = (self.d as f32).sqrt();
        let delta = [Role::BETA, Role::ERASE].iter().any(|&role| self.mechanism.role(role).is_some())
            && !self.flag("l2norm_qk");
        let mut one = || -> f32 {
            let x = rng.signed();
            match role {
                Role::K if delta => x / width,
                Role::Q | Role::K => 1.5 * x,
                Role::G | Role::GV if rng.one_in(5) => 0.0,
                Role::G | Role::GV => -x.abs().powi(3) * 3.0,
                Role::BETA | Role::ERASE | Role::WRITE => 0.5 + 0.5 * x,
                // Their product moves the state by less than a tenth.
                Role::A | Role::B => 0.5 * x / width,
                Role::BONUS => 1.5 * x,
                Role::DT => 0.75 + 0.75 * x,
                Role::DT_RAW => 2.0 * x,
                Role::DECAY_RATE => -1.05 + x,
                Role::OUT_NORM_WEIGHT => 1.0 + 0.5 * x,
                Role::GATE => 3.0 * x,
                Role::Z_IN => 2.0 + x,
                Role::DECAY => 0.5 + 0.5 * x,
                Role::W | Role::W_GATE | Role::W_GATE_K | Role::W_Q | Role::W_K | Role::W_QK => {
                    2.0 * x / width
                }
                Role::W_DIAG => 1.5 * x,
                Role::TEMPERATURE => 1.0 + 0.5 * x,
                Role::SIGMA => 1.0 + 0.3 * x,
                Role::B_Q | Role::B_K | Role::B_QK | Role::B_GATE | Role::B_GATE_K => 0.5 * x,
                Role::SHIFT_IN | Role::LSE_IN => 1.5 + x,
                Role::ALIBI_SLOPES => 0.3 + 0.3 * x,
                Role::BIAS | Role::SINK => 2.0 * x,
                Role::SCALE_BH => (1.5 + x) / width,
                Role::PROBE => x / width,
                Role::LAM => 0.4 + 0.3 * x,
                Role::SLOT_WRITE => 0.5 + 0.5 * x,
                Role::SLOT_LOGITS => 4.0 * x,
                Role::KV => 1.5 * x,
                Role::BASIS => x / width,
                Role::COUNT_IN => (5.0 + 4.0 * x).round(),
                Role::X => 3.0 * x,
                Role::V
                | Role::W_CONV
                | Role::B_CONV
                | Role::A_LOG
                | Role::STATE_IN
                | Role::STATE_K_IN
                | Role::STATE_V_IN
                | Role::D_SKIP
                | Role::DT_BIAS => x,
                other => panic!("no values for role {other}"),
            }
        };
        let n = shape.iter().product::<i64>();
        Array { data: (0..n).map(|_| one()).collect(), shape }
    }
}
