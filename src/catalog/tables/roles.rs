//! A constant for each role of the catalogue.
//!
//! Generated from `docs/spec/catalog.json` by `SUBQUAD_BLESS=1 cargo test --test catalog`: do not edit.

use crate::catalog::Role;

impl Role {
    /// queries
    pub const Q: Role = Role(16);
    /// keys
    pub const K: Role = Role(17);
    /// values
    pub const V: Role = Role(18);
    /// output
    pub const OUT: Role = Role(19);
    /// input of a transform
    pub const X: Role = Role(20);
    /// second input of a transform
    pub const Y: Role = Role(21);
    /// natural log of the normaliser of each query row, sink included
    pub const LSE: Role = Role(22);
    /// log decay, ≤ 0, −∞ allowed: one number a head, or per token, or per token and key channel
    pub const G: Role = Role(23);
    /// log decay per token and value channel
    pub const GV: Role = Role(24);
    /// the decay factor itself, in \[0, 1]: `exp(g)`; for mechanisms that read it so
    pub const DECAY: Role = Role(25);
    /// write strength of the delta rule
    pub const BETA: Role = Role(26);
    /// gate on the erased key
    pub const ERASE: Role = Role(27);
    /// gate on the written value
    pub const WRITE: Role = Role(28);
    /// rank-1 transition of RWKV-7, read vector (−κ̂)
    pub const A: Role = Role(29);
    /// the same, write vector (κ̂ ⊙ rate)
    pub const B: Role = Role(30);
    /// weight of the current token (RWKV-6 `u`)
    pub const BONUS: Role = Role(31);
    /// step size, after softplus
    pub const DT: Role = Role(32);
    /// before it; read only when `dt` is absent: `dt = softplus(dt_raw + dt_bias)`
    pub const DT_RAW: Role = Role(33);
    /// bias before the softplus
    pub const DT_BIAS: Role = Role(34);
    /// `A` of Mamba-2, \< 0: `g = decay_rate · dt`
    pub const DECAY_RATE: Role = Role(35);
    /// weight of `v` added to the output (`D` of Mamba-2)
    pub const D_SKIP: Role = Role(36);
    /// log of the decay rate
    pub const A_LOG: Role = Role(37);
    /// write weights of the slots
    pub const SLOT_WRITE: Role = Role(38);
    /// logits of the slots' softmax over time
    pub const SLOT_LOGITS: Role = Role(39);
    /// rows that are key and value at once
    pub const KV: Role = Role(40);
    /// orthonormal rows
    pub const BASIS: Role = Role(41);
    /// recurrent state before the first token; absent: empty
    pub const STATE_IN: Role = Role(42);
    /// recurrent state after the last token
    pub const STATE_OUT: Role = Role(43);
    /// normaliser state
    pub const Z_IN: Role = Role(44);
    /// normaliser state
    pub const Z_OUT: Role = Role(45);
    /// log shift per feature: `state`, `z` are relative to `e^shift`; when it is not bound they are in
    /// plain scale
    pub const SHIFT_IN: Role = Role(46);
    /// the same, after the last token
    pub const SHIFT_OUT: Role = Role(47);
    /// key memory
    pub const STATE_K_IN: Role = Role(48);
    /// key memory
    pub const STATE_K_OUT: Role = Role(49);
    /// value memory
    pub const STATE_V_IN: Role = Role(50);
    /// value memory
    pub const STATE_V_OUT: Role = Role(51);
    /// log normaliser per slot
    pub const LSE_IN: Role = Role(52);
    /// log normaliser per slot
    pub const LSE_OUT: Role = Role(53);
    /// multiplies the output (under `rms_gate` after `gate_activation`)
    pub const GATE: Role = Role(54);
    /// shared base of queries and keys
    pub const QK: Role = Role(55);
    /// scales that make heads of `qk`
    pub const AFFINE_WEIGHT: Role = Role(56);
    /// offsets that make heads of `qk`
    pub const AFFINE_BIAS: Role = Role(57);
    /// added to the scores; −∞ masks, a visible +∞ makes rows of a softmax NaN
    pub const BIAS: Role = Role(58);
    /// adds `−slope · distance`
    pub const ALIBI_SLOPES: Role = Role(59);
    /// one logit per head in the denominator, no value
    pub const SINK: Role = Role(60);
    /// scale per batch entry and head
    pub const SCALE_BH: Role = Role(61);
    /// ridge as a tensor, in place of the parameter
    pub const RIDGE: Role = Role(62);
    /// keys from this index on do not exist
    pub const KEY_LEN: Role = Role(63);
    /// queries from this index on do not exist
    pub const QUERY_LEN: Role = Role(64);
    /// 1 = this key does not exist
    pub const KEY_PADDING_MASK: Role = Role(65);
    /// probe vector
    pub const PROBE: Role = Role(66);
    /// share of the doubly normalised part
    pub const BLEND: Role = Role(67);
    /// weight of the second map
    pub const LAM: Role = Role(68);
    /// index of one key per query; −1 none
    pub const INDEX: Role = Role(69);
    /// queries of the memory rows
    pub const FAM_Q: Role = Role(70);
    /// keys of the memory rows
    pub const FAM_K: Role = Role(71);
    /// values of the memory rows
    pub const FAM_V: Role = Role(72);
    /// new memory rows
    pub const FAM_OUT: Role = Role(73);
    /// map of the recurrent state
    pub const W_MEM: Role = Role(74);
    /// first convolution
    pub const W_CONV1: Role = Role(75);
    /// its bias
    pub const B_CONV1: Role = Role(76);
    /// second convolution
    pub const W_CONV2: Role = Role(77);
    /// its bias
    pub const B_CONV2: Role = Role(78);
    /// convolution weights
    pub const W_CONV: Role = Role(79);
    /// bias of the convolution
    pub const B_CONV: Role = Role(80);
    /// 1 = kept
    pub const KEEP_Q: Role = Role(81);
    /// 1 = kept
    pub const KEEP_K: Role = Role(82);
    /// bucket
    pub const HASH_Q: Role = Role(83);
    /// bucket
    pub const HASH_K: Role = Role(84);
    /// hash directions, columns of unit norm
    pub const W_HASH: Role = Role(85);
    /// keys selected per row
    pub const N_SELECTED: Role = Role(86);
    /// 1 = selected, read exactly
    pub const SELECTED: Role = Role(87);
    /// score by which items are selected
    pub const SCORE: Role = Role(88);
    /// permutation of the tokens
    pub const PERM: Role = Role(89);
    /// compression of the sequence axis of keys
    pub const LOW_RANK_K: Role = Role(90);
    /// the same for values
    pub const LOW_RANK_V: Role = Role(91);
    /// landmark queries, given in place of pooled ones
    pub const LANDMARK_Q: Role = Role(92);
    /// landmark keys, given
    pub const LANDMARK_K: Role = Role(93);
    /// map of concatenated landmarks
    pub const W_MIX: Role = Role(94);
    /// its bias
    pub const B_MIX: Role = Role(95);
    /// head mixing, query side
    pub const MIX_Q: Role = Role(96);
    /// head mixing, key side
    pub const MIX_K: Role = Role(97);
    /// temperature
    pub const QQ_TEMPERATURE: Role = Role(98);
    /// temperature
    pub const KK_TEMPERATURE: Role = Role(99);
    /// temperature
    pub const KV_TEMPERATURE: Role = Role(100);
    /// queries of the packing attention
    pub const PACK_Q: Role = Role(101);
    /// its keys
    pub const PACK_K: Role = Role(102);
    /// its values
    pub const PACK_V: Role = Role(103);
    /// its output
    pub const PACK_OUT: Role = Role(104);
    /// logits of the unpacking attention
    pub const UNPACK_LOGITS: Role = Role(105);
    /// gate map
    pub const W_GATE: Role = Role(106);
    /// its bias
    pub const B_GATE: Role = Role(107);
    /// second gate map, for keys
    pub const W_GATE_K: Role = Role(108);
    /// its bias
    pub const B_GATE_K: Role = Role(109);
    /// attention weights themselves
    pub const WEIGHTS: Role = Role(110);
    /// projection matrix, rows `w_m`
    pub const W: Role = Role(111);
    /// diagonal of a projection
    pub const W_DIAG: Role = Role(112);
    /// projection of q, applied as `x w`
    pub const W_Q: Role = Role(113);
    /// projection of k, applied as `x w`
    pub const W_K: Role = Role(114);
    /// one projection of q and k, applied as `x w`
    pub const W_QK: Role = Role(115);
    /// bias of `w_q`
    pub const B_Q: Role = Role(116);
    /// bias of `w_k`
    pub const B_K: Role = Role(117);
    /// bias of `w_qk`
    pub const B_QK: Role = Role(118);
    /// scale per channel of the projection
    pub const SIGMA: Role = Role(119);
    /// divisor of the rows
    pub const TEMPERATURE: Role = Role(120);
    /// features of q, without any shift unless the page says otherwise
    pub const PHI_Q: Role = Role(121);
    /// features of k
    pub const PHI_K: Role = Role(122);
    /// standard normal samples
    pub const NOISE: Role = Role(123);
    /// rows of ±1
    pub const RADEMACHER: Role = Role(124);
    /// degrees, ascending
    pub const DEGREES: Role = Role(125);
    /// `A` of the generalised exponential features
    pub const GERF_A: Role = Role(126);
    /// `ψ`, per channel
    pub const PSI: Role = Role(127);
    /// eigenvectors `R`
    pub const ROT: Role = Role(128);
    /// `w̃`
    pub const W_EFF: Role = Role(129);
    /// `b`
    pub const B_EFF: Role = Role(130);
    /// bias inside a window
    pub const LOCAL_BIAS: Role = Role(131);
    /// projection matrix before rounding
    pub const W_F64: Role = Role(132);
    /// raw words
    pub const RAW: Role = Role(133);
    /// normal numbers
    pub const NORMAL: Role = Role(134);
    /// signs
    pub const SIGN: Role = Role(135);
    /// approximation coefficients
    pub const APPROX: Role = Role(136);
    /// gain per token (or per sequence) and scale
    pub const LEVEL_GAIN: Role = Role(137);
    /// the same for keys, in cross mode
    pub const LEVEL_GAIN_K: Role = Role(138);
    /// weight per scale
    pub const LEVEL_WEIGHT: Role = Role(139);
    /// q after the filter stage
    pub const Q_FILTERED: Role = Role(140);
    /// weight of the near field
    pub const W_NEAR: Role = Role(141);
    /// head that serves the query
    pub const ROUTE: Role = Role(142);
    /// cluster of each key
    pub const LABELS: Role = Role(143);
    /// recent keys, always exact
    pub const K_RECENT: Role = Role(144);
    /// recent values
    pub const V_RECENT: Role = Role(145);
    /// query used with centroids
    pub const Q_FAR: Role = Role(146);
    /// mean key
    pub const K_CENTROID: Role = Role(147);
    /// mean value
    pub const V_CENTROID: Role = Role(148);
    /// keys per cluster
    pub const CLUSTER_SIZE: Role = Role(149);
    /// error bound reached, relative like `tolerance`
    pub const BOUND: Role = Role(150);
    /// prescribed (level, node) pairs
    pub const CUT: Role = Role(151);
    /// prescribed \[begin, end) token ranges, read exactly
    pub const EXACT_RANGES: Role = Role(152);
    /// 8-bit codes of keys
    pub const K_CODE: Role = Role(153);
    /// their scales
    pub const K_CODE_SCALE: Role = Role(154);
    /// residual norms
    pub const K_CODE_ERR: Role = Role(155);
    /// largest row norm of q
    pub const Q_MAX: Role = Role(156);
    /// largest row norm of k
    pub const K_MAX: Role = Role(157);
    /// sketch matrix
    pub const SKETCH1: Role = Role(158);
    /// sketch matrix
    pub const SKETCH2: Role = Role(159);
    /// packed square of x, layout tri
    pub const TRI_X: Role = Role(160);
    /// layout wedge(8), key side
    pub const WEDGE8_KEY_X: Role = Role(161);
    /// layout wedge(8), query side
    pub const WEDGE8_QUERY_Y: Role = Role(162);
    /// layout wedge(16), key side
    pub const WEDGE16_KEY_X: Role = Role(163);
    /// layout wedge(16), query side
    pub const WEDGE16_QUERY_Y: Role = Role(164);
    /// `(x·y)²`
    pub const DOT2: Role = Role(165);
    /// state sent by each rank
    pub const MSG_STATE: Role = Role(166);
    /// state gradient sent by each rank, backwards
    pub const MSG_GRAD: Role = Role(167);
    /// transition matrix of each rank
    pub const MSG_TRANSITION: Role = Role(168);
    /// state of each rank from an empty start
    pub const MSG_LOCAL: Role = Role(169);
    /// window weights
    pub const W_ATT: Role = Role(170);
    /// their bias
    pub const B_ATT: Role = Role(171);
    /// depthwise features
    pub const W_FEAT: Role = Role(172);
    /// folded batch norm
    pub const FEAT_SCALE: Role = Role(173);
    /// folded batch norm
    pub const FEAT_SHIFT: Role = Role(174);
    /// factor of the output
    pub const OUT_SCALE: Role = Role(175);
    /// offset of the output
    pub const OUT_SHIFT: Role = Role(176);
    /// weight of the norm of the output
    pub const OUT_NORM_WEIGHT: Role = Role(177);
    /// its bias
    pub const OUT_NORM_BIAS: Role = Role(178);
    /// weight of the layer norm of q
    pub const Q_NORM_WEIGHT: Role = Role(179);
    /// its bias
    pub const Q_NORM_BIAS: Role = Role(180);
    /// weight of the layer norm of k
    pub const K_NORM_WEIGHT: Role = Role(181);
    /// its bias
    pub const K_NORM_BIAS: Role = Role(182);
    /// weight of the layer norm of v
    pub const V_NORM_WEIGHT: Role = Role(183);
    /// its bias
    pub const V_NORM_BIAS: Role = Role(184);
    /// weight of the layer norm of q and k alike
    pub const QK_NORM_WEIGHT: Role = Role(185);
    /// its bias
    pub const QK_NORM_BIAS: Role = Role(186);
    /// weight of the layer norm of the intermediate rows
    pub const HIDDEN_NORM_WEIGHT: Role = Role(187);
    /// its bias
    pub const HIDDEN_NORM_BIAS: Role = Role(188);
    /// landmark map of q, `y = x Wᵀ + b`
    pub const LANDMARK_Q_WEIGHT: Role = Role(189);
    /// its bias
    pub const LANDMARK_Q_BIAS: Role = Role(190);
    /// weight of the layer norm after it
    pub const LANDMARK_Q_NORM_WEIGHT: Role = Role(191);
    /// bias of that norm
    pub const LANDMARK_Q_NORM_BIAS: Role = Role(192);
    /// landmark map of k, `y = x Wᵀ + b`
    pub const LANDMARK_K_WEIGHT: Role = Role(193);
    /// its bias
    pub const LANDMARK_K_BIAS: Role = Role(194);
    /// weight of the layer norm after it
    pub const LANDMARK_K_NORM_WEIGHT: Role = Role(195);
    /// bias of that norm
    pub const LANDMARK_K_NORM_BIAS: Role = Role(196);
    /// detail coefficients of level l = 1…L, 1 the finest
    pub(in crate::catalog) const DETAIL_L: Role = Role(197);
    /// learned pooling of keys, level l
    pub(in crate::catalog) const W_K_L: Role = Role(198);
    /// the same for values
    pub(in crate::catalog) const W_V_L: Role = Role(199);
    /// bias of `w_k{l}`
    pub(in crate::catalog) const B_K_L: Role = Role(200);
    /// bias of `w_v{l}`
    pub(in crate::catalog) const B_V_L: Role = Role(201);
    /// weight of far field l
    pub(in crate::catalog) const W_FAR_L: Role = Role(202);
    /// tokens of a node, level l = 0… (0 the leaves)
    pub(in crate::catalog) const NODE_SIZE_L: Role = Role(203);
    /// mean key
    pub(in crate::catalog) const NODE_K_L: Role = Role(204);
    /// mean value
    pub(in crate::catalog) const NODE_V_L: Role = Role(205);
    /// radius
    pub(in crate::catalog) const NODE_RADIUS_L: Role = Role(206);
    /// variance bound λ
    pub(in crate::catalog) const NODE_VARIANCE_L: Role = Role(207);
    /// number of tokens that the incoming state is the mean of
    pub const COUNT_IN: Role = Role(208);
    /// the same, after the last token
    pub const COUNT_OUT: Role = Role(209);
    /// normaliser of each rank from an empty start
    pub const MSG_LOCAL_Z: Role = Role(210);
    /// number of the call's first query in its sequence
    pub const QUERY_START: Role = Role(211);
    /// memory as queries read it, before the first query
    pub const MEMORY_IN: Role = Role(212);
    /// the same, after the last query
    pub const MEMORY_OUT: Role = Role(213);
    /// product of all keys and values
    pub const TOTAL_IN: Role = Role(214);
    /// the same, for calls that follow
    pub const TOTAL_OUT: Role = Role(215);
}
