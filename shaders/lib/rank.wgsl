// Logits as whole numbers in the same order, so that no comparison meets a NaN: shaders may assume that there is none.

const NO_TOKEN = 0xffffffffu;   // instead of an id: a logit is NaN or infinite
const DAMAGED = 0xff800000u;    // from this rank on: +∞ and NaN
const IMPOSSIBLE = 0x007fffffu; // up to this rank: −∞, and 0 for what is no logit

// The rank of a logit's bits. Both zeros are equal.
fn rank_of(bits: u32) -> u32 {
    let magnitude = bits & 0x7fffffffu;
    if magnitude > 0x7f800000u {
        return 0xffffffffu;
    }
    if magnitude == 0u {
        return 0x80000000u;
    }
    return select(bits | 0x80000000u, ~bits, bits >> 31u == 1u);
}

fn logit_of(rank: u32) -> f32 {
    return bitcast<f32>(select(~rank, rank & 0x7fffffffu, rank >> 31u == 1u));
}
