// Activations on the grid of a static scale: codes −128 .. 127, four in a word, in the order in which a product with
// 2-, 4- or 8-bit weights meets them.
//
// A word of weights holds 8/bits · 4 codes. Masked and shifted by bits at a time it gives 8/bits = step words of four
// codes, `step` apart in the row; the words of a grid hold the activations that belong to those.

const NONE = 0xffffffffu; // no such scalar

@group(0) @binding(6) var<storage, read> scalars: array<f32>;

// A scalar, or 0.
fn scalar(place: u32) -> f32 {
    if place == NONE {
        return 0.0;
    }
    return scalars[place];
}

// x rounded to the grid, in units of s. Ties to even.
fn grid_code(x: f32, s: f32) -> f32 {
    return clamp(round(x / s), -128.0, 127.0);
}

// x rounded to the grid; a scale of 0 leaves it.
fn on_grid(x: f32, s: f32) -> f32 {
    if s == 0.0 {
        return x;
    }
    return grid_code(x, s) * s;
}

// The column whose code is the first byte of a word of a row; the other bytes' are `step` apart.
fn first_column(word: u32, step: u32) -> u32 {
    return word / step * 4u * step + word % step;
}

// Four values as a word of codes.
fn grid_word(values: vec4<f32>, s: f32) -> u32 {
    return pack4xI8(vec4<i32>(clamp(round(values / s), vec4<f32>(-128.0), vec4<f32>(127.0))));
}
