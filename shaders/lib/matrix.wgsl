// A weight matrix W [rows, K] in the GPU's layout, bound at 2 and 3.
//
// A row is whole units of 16 bytes (one vec4<u32>): 32 4-bit codes, 16 8-bit codes, 8 halves or 4 floats; K is a
// multiple of that. In a word of 4-bit codes the low nibbles of its bytes are values 0..3, the high nibbles 4..7.
// value = scale · code + min, with one (scale, min) for each GROUP values: two f16 in a word, or two f32.

override BITS: u32 = 4u;            // 4 and 8: codes; 16 and 32: floats without scales
override BFLOAT: bool = false;      // 16 bits are bfloat16, else IEEE halves
override GROUP: u32 = 32u;          // values that share a scale
override HALF_SCALES: bool = true;

@group(0) @binding(2) var<storage, read> codes: array<vec4<u32>>; // [rows, K · BITS / 128]
@group(0) @binding(3) var<storage, read> scales: array<u32>;      // [rows, K / GROUP] pairs; unused for floats

// An f16 by integer arithmetic: unpack2x16float may flush subnormals to zero, and small scales are subnormal.
fn half_to_f32(bits: u32) -> f32 {
    let magnitude = bits & 0x7fffu;
    let normal = bitcast<f32>((magnitude << 13u) + 0x38000000u);
    let value = select(normal, f32(magnitude) * 5.9604644775390625e-8, magnitude < 0x400u);
    return select(value, -value, (bits & 0x8000u) != 0u);
}

// (scale, min) of a group.
fn scale_and_min(group: u32) -> vec2<f32> {
    if HALF_SCALES {
        let pair = scales[group];
        return vec2<f32>(half_to_f32(pair & 0xffffu), half_to_f32(pair >> 16u));
    }
    return bitcast<vec2<f32>>(vec2<u32>(scales[2u * group], scales[2u * group + 1u]));
}

// Four stored numbers of a unit, from number 4q on: codes before scale and minimum, or floats.
fn stored_quad(unit: vec4<u32>, q: u32) -> vec4<f32> {
    if BITS == 4u {
        return vec4<f32>(unpack4xU8((unit[q >> 1u] >> ((q & 1u) * 4u)) & 0x0f0f0f0fu));
    }
    if BITS == 8u {
        return vec4<f32>(unpack4xI8(unit[q]));
    }
    if BITS == 16u {
        let words = vec2<u32>(unit[2u * q], unit[2u * q + 1u]);
        if BFLOAT {
            return bitcast<vec4<f32>>(vec4<u32>(
                words.x << 16u, words.x & 0xffff0000u, words.y << 16u, words.y & 0xffff0000u));
        }
        return vec4<f32>(
            half_to_f32(words.x & 0xffffu), half_to_f32(words.x >> 16u),
            half_to_f32(words.y & 0xffffu), half_to_f32(words.y >> 16u));
    }
    return bitcast<vec4<f32>>(unit);
}

// W[row, 4q .. 4q + 4], with K / 4 = quads.
fn weight_quad(row: u32, q: u32, quads: u32) -> vec4<f32> {
    let i = row * quads + q;
    let stored = stored_quad(codes[i / (32u / BITS)], i % (32u / BITS));
    if BITS >= 16u {
        return stored;
    }
    let s = scale_and_min(i * 4u / GROUP);
    return s.x * stored + s.y;
}
