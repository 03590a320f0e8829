//! Roles of tensors
//!
//! Generated from the catalogue by `SUBQUAD_BLESS=1 cargo test -p subquad-capi --test roles`: do not edit.

/// offsets of ragged sequences along the token axis, [n_sequences + 1], i32
pub const SUBQUAD_ROLE_CU_SEQLENS: u32 = 1;

/// the same for the keys of mode cross
pub const SUBQUAD_ROLE_CU_SEQLENS_K: u32 = 2;

/// slot of each sequence in a pool of states, [n_sequences], i32; -1 skips it
pub const SUBQUAD_ROLE_STATE_INDEX: u32 = 3;

/// numbers of tokens after which snapshots are taken, [n_sequences, N], i32; -1: none
pub const SUBQUAD_ROLE_SNAPSHOT_AT: u32 = 4;

/// pages of each sequence's cache, [B, n], i32: k and v are pools [P, Hk, page, ...]
pub const SUBQUAD_ROLE_PAGE_TABLE: u32 = 5;

/// row of each sequence's oldest key in a ring of keys and values, [B], i32
pub const SUBQUAD_ROLE_KEY_START: u32 = 6;

/// queries
pub const SUBQUAD_ROLE_Q: u32 = 16;

/// keys
pub const SUBQUAD_ROLE_K: u32 = 17;

/// values
pub const SUBQUAD_ROLE_V: u32 = 18;

/// output
pub const SUBQUAD_ROLE_OUT: u32 = 19;

/// input of a transform
pub const SUBQUAD_ROLE_X: u32 = 20;

/// second input of a transform
pub const SUBQUAD_ROLE_Y: u32 = 21;

/// natural log of the normaliser of each query row, sink included
pub const SUBQUAD_ROLE_LSE: u32 = 22;

/// log decay, ≤ 0, −∞ allowed: one number a head, or per token, or per token and key channel
pub const SUBQUAD_ROLE_G: u32 = 23;

/// log decay per token and value channel
pub const SUBQUAD_ROLE_GV: u32 = 24;

/// the decay factor itself, in [0, 1]: `exp(g)`; for mechanisms that read it so
pub const SUBQUAD_ROLE_DECAY: u32 = 25;

/// write strength of the delta rule
pub const SUBQUAD_ROLE_BETA: u32 = 26;

/// gate on the erased key
pub const SUBQUAD_ROLE_ERASE: u32 = 27;

/// gate on the written value
pub const SUBQUAD_ROLE_WRITE: u32 = 28;

/// rank-1 transition of RWKV-7, read vector (−κ̂)
pub const SUBQUAD_ROLE_A: u32 = 29;

/// the same, write vector (κ̂ ⊙ rate)
pub const SUBQUAD_ROLE_B: u32 = 30;

/// weight of the current token (RWKV-6 `u`)
pub const SUBQUAD_ROLE_BONUS: u32 = 31;

/// step size, after softplus
pub const SUBQUAD_ROLE_DT: u32 = 32;

/// before it; read only when `dt` is absent: `dt = softplus(dt_raw + dt_bias)`
pub const SUBQUAD_ROLE_DT_RAW: u32 = 33;

/// bias before the softplus
pub const SUBQUAD_ROLE_DT_BIAS: u32 = 34;

/// `A` of Mamba-2, < 0: `g = decay_rate · dt`
pub const SUBQUAD_ROLE_DECAY_RATE: u32 = 35;

/// weight of `v` added to the output (`D` of Mamba-2)
pub const SUBQUAD_ROLE_D_SKIP: u32 = 36;

/// log of the decay rate
pub const SUBQUAD_ROLE_A_LOG: u32 = 37;

/// write weights of the slots
pub const SUBQUAD_ROLE_SLOT_WRITE: u32 = 38;

/// logits of the slots' softmax over time
pub const SUBQUAD_ROLE_SLOT_LOGITS: u32 = 39;

/// rows that are key and value at once
pub const SUBQUAD_ROLE_KV: u32 = 40;

/// orthonormal rows
pub const SUBQUAD_ROLE_BASIS: u32 = 41;

/// recurrent state before the first token; absent: empty
pub const SUBQUAD_ROLE_STATE_IN: u32 = 42;

/// recurrent state after the last token
pub const SUBQUAD_ROLE_STATE_OUT: u32 = 43;

/// normaliser state
pub const SUBQUAD_ROLE_Z_IN: u32 = 44;

/// normaliser state
pub const SUBQUAD_ROLE_Z_OUT: u32 = 45;

/// log shift per feature: `state`, `z` are relative to `e^shift`
pub const SUBQUAD_ROLE_SHIFT_IN: u32 = 46;

/// the same, after the last token
pub const SUBQUAD_ROLE_SHIFT_OUT: u32 = 47;

/// key memory
pub const SUBQUAD_ROLE_STATE_K_IN: u32 = 48;

/// key memory
pub const SUBQUAD_ROLE_STATE_K_OUT: u32 = 49;

/// value memory
pub const SUBQUAD_ROLE_STATE_V_IN: u32 = 50;

/// value memory
pub const SUBQUAD_ROLE_STATE_V_OUT: u32 = 51;

/// log normaliser per slot
pub const SUBQUAD_ROLE_LSE_IN: u32 = 52;

/// log normaliser per slot
pub const SUBQUAD_ROLE_LSE_OUT: u32 = 53;

/// multiplies the output (under `rms_gate` after `gate_activation`)
pub const SUBQUAD_ROLE_GATE: u32 = 54;

/// shared base of queries and keys
pub const SUBQUAD_ROLE_QK: u32 = 55;

/// scales that make heads of `qk`
pub const SUBQUAD_ROLE_AFFINE_WEIGHT: u32 = 56;

/// offsets that make heads of `qk`
pub const SUBQUAD_ROLE_AFFINE_BIAS: u32 = 57;

/// added to the scores; −∞ masks, a visible +∞ makes rows of a softmax NaN
pub const SUBQUAD_ROLE_BIAS: u32 = 58;

/// adds `−slope · distance`
pub const SUBQUAD_ROLE_ALIBI_SLOPES: u32 = 59;

/// one logit per head in the denominator, no value
pub const SUBQUAD_ROLE_SINK: u32 = 60;

/// scale per batch entry and head
pub const SUBQUAD_ROLE_SCALE_BH: u32 = 61;

/// ridge as a tensor, in place of the parameter
pub const SUBQUAD_ROLE_RIDGE: u32 = 62;

/// keys from this index on do not exist
pub const SUBQUAD_ROLE_KEY_LEN: u32 = 63;

/// queries from this index on do not exist
pub const SUBQUAD_ROLE_QUERY_LEN: u32 = 64;

/// 1 = this key does not exist
pub const SUBQUAD_ROLE_KEY_PADDING_MASK: u32 = 65;

/// probe vector
pub const SUBQUAD_ROLE_PROBE: u32 = 66;

/// share of the doubly normalised part
pub const SUBQUAD_ROLE_BLEND: u32 = 67;

/// weight of the second map
pub const SUBQUAD_ROLE_LAM: u32 = 68;

/// index of one key per query; −1 none
pub const SUBQUAD_ROLE_INDEX: u32 = 69;

/// queries of the memory rows
pub const SUBQUAD_ROLE_FAM_Q: u32 = 70;

/// keys of the memory rows
pub const SUBQUAD_ROLE_FAM_K: u32 = 71;

/// values of the memory rows
pub const SUBQUAD_ROLE_FAM_V: u32 = 72;

/// new memory rows
pub const SUBQUAD_ROLE_FAM_OUT: u32 = 73;

/// map of the recurrent state
pub const SUBQUAD_ROLE_W_MEM: u32 = 74;

/// first convolution
pub const SUBQUAD_ROLE_W_CONV1: u32 = 75;

/// its bias
pub const SUBQUAD_ROLE_B_CONV1: u32 = 76;

/// second convolution
pub const SUBQUAD_ROLE_W_CONV2: u32 = 77;

/// its bias
pub const SUBQUAD_ROLE_B_CONV2: u32 = 78;

/// convolution weights
pub const SUBQUAD_ROLE_W_CONV: u32 = 79;

/// bias of the convolution
pub const SUBQUAD_ROLE_B_CONV: u32 = 80;

/// 1 = kept
pub const SUBQUAD_ROLE_KEEP_Q: u32 = 81;

/// 1 = kept
pub const SUBQUAD_ROLE_KEEP_K: u32 = 82;

/// bucket
pub const SUBQUAD_ROLE_HASH_Q: u32 = 83;

/// bucket
pub const SUBQUAD_ROLE_HASH_K: u32 = 84;

/// hash directions, columns of unit norm
pub const SUBQUAD_ROLE_W_HASH: u32 = 85;

/// keys selected per row
pub const SUBQUAD_ROLE_N_SELECTED: u32 = 86;

/// 1 = selected, read exactly
pub const SUBQUAD_ROLE_SELECTED: u32 = 87;

/// score by which items are selected
pub const SUBQUAD_ROLE_SCORE: u32 = 88;

/// permutation of the tokens
pub const SUBQUAD_ROLE_PERM: u32 = 89;

/// compression of the sequence axis of keys
pub const SUBQUAD_ROLE_LOW_RANK_K: u32 = 90;

/// the same for values
pub const SUBQUAD_ROLE_LOW_RANK_V: u32 = 91;

/// landmark queries, given in place of pooled ones
pub const SUBQUAD_ROLE_LANDMARK_Q: u32 = 92;

/// landmark keys, given
pub const SUBQUAD_ROLE_LANDMARK_K: u32 = 93;

/// map of concatenated landmarks
pub const SUBQUAD_ROLE_W_MIX: u32 = 94;

/// its bias
pub const SUBQUAD_ROLE_B_MIX: u32 = 95;

/// head mixing, query side
pub const SUBQUAD_ROLE_MIX_Q: u32 = 96;

/// head mixing, key side
pub const SUBQUAD_ROLE_MIX_K: u32 = 97;

/// temperature
pub const SUBQUAD_ROLE_QQ_TEMPERATURE: u32 = 98;

/// temperature
pub const SUBQUAD_ROLE_KK_TEMPERATURE: u32 = 99;

/// temperature
pub const SUBQUAD_ROLE_KV_TEMPERATURE: u32 = 100;

/// queries of the packing attention
pub const SUBQUAD_ROLE_PACK_Q: u32 = 101;

/// its keys
pub const SUBQUAD_ROLE_PACK_K: u32 = 102;

/// its values
pub const SUBQUAD_ROLE_PACK_V: u32 = 103;

/// its output
pub const SUBQUAD_ROLE_PACK_OUT: u32 = 104;

/// logits of the unpacking attention
pub const SUBQUAD_ROLE_UNPACK_LOGITS: u32 = 105;

/// gate map
pub const SUBQUAD_ROLE_W_GATE: u32 = 106;

/// its bias
pub const SUBQUAD_ROLE_B_GATE: u32 = 107;

/// second gate map, for keys
pub const SUBQUAD_ROLE_W_GATE_K: u32 = 108;

/// its bias
pub const SUBQUAD_ROLE_B_GATE_K: u32 = 109;

/// attention weights themselves
pub const SUBQUAD_ROLE_WEIGHTS: u32 = 110;

/// projection matrix, rows `w_m`
pub const SUBQUAD_ROLE_W: u32 = 111;

/// diagonal of a projection
pub const SUBQUAD_ROLE_W_DIAG: u32 = 112;

/// projection of q, applied as `x w`
pub const SUBQUAD_ROLE_W_Q: u32 = 113;

/// projection of k, applied as `x w`
pub const SUBQUAD_ROLE_W_K: u32 = 114;

/// one projection of q and k, applied as `x w`
pub const SUBQUAD_ROLE_W_QK: u32 = 115;

/// bias of `w_q`
pub const SUBQUAD_ROLE_B_Q: u32 = 116;

/// bias of `w_k`
pub const SUBQUAD_ROLE_B_K: u32 = 117;

/// bias of `w_qk`
pub const SUBQUAD_ROLE_B_QK: u32 = 118;

/// scale per channel of the projection
pub const SUBQUAD_ROLE_SIGMA: u32 = 119;

/// divisor of the rows
pub const SUBQUAD_ROLE_TEMPERATURE: u32 = 120;

/// features of q, without any shift unless the page says otherwise
pub const SUBQUAD_ROLE_PHI_Q: u32 = 121;

/// features of k
pub const SUBQUAD_ROLE_PHI_K: u32 = 122;

/// standard normal samples
pub const SUBQUAD_ROLE_NOISE: u32 = 123;

/// rows of ±1
pub const SUBQUAD_ROLE_RADEMACHER: u32 = 124;

/// degrees, ascending
pub const SUBQUAD_ROLE_DEGREES: u32 = 125;

/// `A` of the generalised exponential features
pub const SUBQUAD_ROLE_GERF_A: u32 = 126;

/// `ψ`, per channel
pub const SUBQUAD_ROLE_PSI: u32 = 127;

/// eigenvectors `R`
pub const SUBQUAD_ROLE_ROT: u32 = 128;

/// `w̃`
pub const SUBQUAD_ROLE_W_EFF: u32 = 129;

/// `b`
pub const SUBQUAD_ROLE_B_EFF: u32 = 130;

/// bias inside a window
pub const SUBQUAD_ROLE_LOCAL_BIAS: u32 = 131;

/// projection matrix before rounding
pub const SUBQUAD_ROLE_W_F64: u32 = 132;

/// raw words
pub const SUBQUAD_ROLE_RAW: u32 = 133;

/// normal numbers
pub const SUBQUAD_ROLE_NORMAL: u32 = 134;

/// signs
pub const SUBQUAD_ROLE_SIGN: u32 = 135;

/// approximation coefficients
pub const SUBQUAD_ROLE_APPROX: u32 = 136;

/// gain per token (or per sequence) and scale
pub const SUBQUAD_ROLE_LEVEL_GAIN: u32 = 137;

/// the same for keys, in cross mode
pub const SUBQUAD_ROLE_LEVEL_GAIN_K: u32 = 138;

/// weight per scale
pub const SUBQUAD_ROLE_LEVEL_WEIGHT: u32 = 139;

/// q after the filter stage
pub const SUBQUAD_ROLE_Q_FILTERED: u32 = 140;

/// weight of the near field
pub const SUBQUAD_ROLE_W_NEAR: u32 = 141;

/// head that serves the query
pub const SUBQUAD_ROLE_ROUTE: u32 = 142;

/// cluster of each key
pub const SUBQUAD_ROLE_LABELS: u32 = 143;

/// recent keys, always exact
pub const SUBQUAD_ROLE_K_RECENT: u32 = 144;

/// recent values
pub const SUBQUAD_ROLE_V_RECENT: u32 = 145;

/// query used with centroids
pub const SUBQUAD_ROLE_Q_FAR: u32 = 146;

/// mean key
pub const SUBQUAD_ROLE_K_CENTROID: u32 = 147;

/// mean value
pub const SUBQUAD_ROLE_V_CENTROID: u32 = 148;

/// keys per cluster
pub const SUBQUAD_ROLE_CLUSTER_SIZE: u32 = 149;

/// error bound reached, relative like `tolerance`
pub const SUBQUAD_ROLE_BOUND: u32 = 150;

/// prescribed (level, node) pairs
pub const SUBQUAD_ROLE_CUT: u32 = 151;

/// prescribed [begin, end) token ranges, read exactly
pub const SUBQUAD_ROLE_EXACT_RANGES: u32 = 152;

/// 8-bit codes of keys
pub const SUBQUAD_ROLE_K_CODE: u32 = 153;

/// their scales
pub const SUBQUAD_ROLE_K_CODE_SCALE: u32 = 154;

/// residual norms
pub const SUBQUAD_ROLE_K_CODE_ERR: u32 = 155;

/// largest row norm of q
pub const SUBQUAD_ROLE_Q_MAX: u32 = 156;

/// largest row norm of k
pub const SUBQUAD_ROLE_K_MAX: u32 = 157;

/// sketch matrix
pub const SUBQUAD_ROLE_SKETCH1: u32 = 158;

/// sketch matrix
pub const SUBQUAD_ROLE_SKETCH2: u32 = 159;

/// packed square of x, layout tri
pub const SUBQUAD_ROLE_TRI_X: u32 = 160;

/// layout wedge(8), key side
pub const SUBQUAD_ROLE_WEDGE8_KEY_X: u32 = 161;

/// layout wedge(8), query side
pub const SUBQUAD_ROLE_WEDGE8_QUERY_Y: u32 = 162;

/// layout wedge(16), key side
pub const SUBQUAD_ROLE_WEDGE16_KEY_X: u32 = 163;

/// layout wedge(16), query side
pub const SUBQUAD_ROLE_WEDGE16_QUERY_Y: u32 = 164;

/// `(x·y)²`
pub const SUBQUAD_ROLE_DOT2: u32 = 165;

/// state sent by each rank
pub const SUBQUAD_ROLE_MSG_STATE: u32 = 166;

/// state gradient sent by each rank, backwards
pub const SUBQUAD_ROLE_MSG_GRAD: u32 = 167;

/// transition matrix of each rank
pub const SUBQUAD_ROLE_MSG_TRANSITION: u32 = 168;

/// state of each rank from an empty start
pub const SUBQUAD_ROLE_MSG_LOCAL: u32 = 169;

/// window weights
pub const SUBQUAD_ROLE_W_ATT: u32 = 170;

/// their bias
pub const SUBQUAD_ROLE_B_ATT: u32 = 171;

/// depthwise features
pub const SUBQUAD_ROLE_W_FEAT: u32 = 172;

/// folded batch norm
pub const SUBQUAD_ROLE_FEAT_SCALE: u32 = 173;

/// folded batch norm
pub const SUBQUAD_ROLE_FEAT_SHIFT: u32 = 174;

/// factor of the output
pub const SUBQUAD_ROLE_OUT_SCALE: u32 = 175;

/// offset of the output
pub const SUBQUAD_ROLE_OUT_SHIFT: u32 = 176;

/// weight of the norm of the output
pub const SUBQUAD_ROLE_OUT_NORM_WEIGHT: u32 = 177;

/// its bias
pub const SUBQUAD_ROLE_OUT_NORM_BIAS: u32 = 178;

/// weight of the layer norm of q
pub const SUBQUAD_ROLE_Q_NORM_WEIGHT: u32 = 179;

/// its bias
pub const SUBQUAD_ROLE_Q_NORM_BIAS: u32 = 180;

/// weight of the layer norm of k
pub const SUBQUAD_ROLE_K_NORM_WEIGHT: u32 = 181;

/// its bias
pub const SUBQUAD_ROLE_K_NORM_BIAS: u32 = 182;

/// weight of the layer norm of v
pub const SUBQUAD_ROLE_V_NORM_WEIGHT: u32 = 183;

/// its bias
pub const SUBQUAD_ROLE_V_NORM_BIAS: u32 = 184;

/// weight of the layer norm of q and k alike
pub const SUBQUAD_ROLE_QK_NORM_WEIGHT: u32 = 185;

/// its bias
pub const SUBQUAD_ROLE_QK_NORM_BIAS: u32 = 186;

/// weight of the layer norm of the intermediate rows
pub const SUBQUAD_ROLE_HIDDEN_NORM_WEIGHT: u32 = 187;

/// its bias
pub const SUBQUAD_ROLE_HIDDEN_NORM_BIAS: u32 = 188;

/// landmark map of q, `y = x Wᵀ + b`
pub const SUBQUAD_ROLE_LANDMARK_Q_WEIGHT: u32 = 189;

/// its bias
pub const SUBQUAD_ROLE_LANDMARK_Q_BIAS: u32 = 190;

/// weight of the layer norm after it
pub const SUBQUAD_ROLE_LANDMARK_Q_NORM_WEIGHT: u32 = 191;

/// bias of that norm
pub const SUBQUAD_ROLE_LANDMARK_Q_NORM_BIAS: u32 = 192;

/// landmark map of k, `y = x Wᵀ + b`
pub const SUBQUAD_ROLE_LANDMARK_K_WEIGHT: u32 = 193;

/// its bias
pub const SUBQUAD_ROLE_LANDMARK_K_BIAS: u32 = 194;

/// weight of the layer norm after it
pub const SUBQUAD_ROLE_LANDMARK_K_NORM_WEIGHT: u32 = 195;

/// bias of that norm
pub const SUBQUAD_ROLE_LANDMARK_K_NORM_BIAS: u32 = 196;

/// number of tokens that the incoming state is the mean of
pub const SUBQUAD_ROLE_COUNT_IN: u32 = 208;

/// the same, after the last token
pub const SUBQUAD_ROLE_COUNT_OUT: u32 = 209;

/// normaliser of each rank from an empty start
pub const SUBQUAD_ROLE_MSG_LOCAL_Z: u32 = 210;

/// number of the call's first query in its sequence
pub const SUBQUAD_ROLE_QUERY_START: u32 = 211;

/// memory as queries read it, before the first query
pub const SUBQUAD_ROLE_MEMORY_IN: u32 = 212;

/// the same, after the last query
pub const SUBQUAD_ROLE_MEMORY_OUT: u32 = 213;

/// product of all keys and values
pub const SUBQUAD_ROLE_TOTAL_IN: u32 = 214;

/// the same, for calls that follow
pub const SUBQUAD_ROLE_TOTAL_OUT: u32 = 215;
