// A weight matrix W [rows, K] in the GPU's layout, bound at 2 and 3.
//
// A row is whole units of 16 bytes (one vec4<u32>): 32 4-bit codes, 16 8-bit codes, 8 halves or 4 floats; K is a
// multiple of that. In a word of 4-bit codes the low nibbles of its bytes are values 0..3, the high nibbles 4..7.
// value = scale · code + min, with one (scale, min) for each GROUP values: two f16 in a word, or two f32.
//
// OWN_SCALES: codes lie in a word lowest bits first, 2, 4 or 8 bits each, unsigned but for those of 8; the last unit of a
// row may be partly filled. value = scale · (code − zero), with one f32 scale for each equal stretch of a row.

override BITS: u32 = 4u;            // 2, 4 and 8: codes; 16 and 32: floats without scales
override BFLOAT: bool = false;      // 16 bits are bfloat16, else IEEE halves
override GROUP: u32 = 32u;          // values that share a scale
override HALF_SCALES: bool = true;
override OWN_SCALES: bool = false;

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

// Four stored numbers of a unit, from number 4q on: codes before scale and minimum (OWN_SCALES: less their zero), or
// floats.
fn stored_quad(unit: vec4<u32>, q: u32) -> vec4<f32> {
    if OWN_SCALES && BITS == 2u {
        let word = vec4<u32>(unit[q >> 2u] >> ((q & 3u) * 8u));
        return vec4<f32>((word >> vec4<u32>(0u, 2u, 4u, 6u)) & vec4<u32>(3u)) - 2.0;
    }
    if OWN_SCALES && BITS == 4u {
        let word = vec4<u32>(unit[q >> 1u] >> ((q & 1u) * 16u));
        return vec4<f32>((word >> vec4<u32>(0u, 4u, 8u, 12u)) & vec4<u32>(15u)) - 8.0;
    }
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

// Units of a row.
fn units_of(quads: u32) -> u32 {
    return (quads * BITS + 31u) / 32u;
}

// W[row, 4q .. 4q + 4], with K / 4 = quads and as many quads in a stretch.
fn weight_quad(row: u32, q: u32, quads: u32, stretch: u32) -> vec4<f32> {
    let unit = 32u / BITS; // its quads
    let stored = stored_quad(codes[row * units_of(quads) + q / unit], q % unit);
    if BITS >= 16u {
        return stored;
    }
    if OWN_SCALES {
        return bitcast<f32>(scales[row * (quads / stretch) + q / stretch]) * stored;
    }
    let s = scale_and_min((row * quads + q) * 4u / GROUP);
    return s.x * stored + s.y;
}
