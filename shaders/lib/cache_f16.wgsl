// Keys and values as the caches hold them: two f16 in a word, the first in its low half. lib/cache_f32.wgsl has the same names.

alias CachePair = u32;
alias CacheQuad = vec2<u32>;

const MOST_F16 = 65504.0;

// To either neighbour: how it rounds is not said. A value beyond an f16's saturates. One that is no number stays none, since
// what it spoils has to be seen; it is told by its bits, because compilers may take it that there is none.
fn to_cache(pair: vec2<f32>) -> CachePair {
    let is_nan = (bitcast<vec2<u32>>(pair) & vec2<u32>(0x7fffffffu)) > vec2<u32>(0x7f800000u);
    let nan = select(vec2<u32>(), vec2<u32>(0x7e00u, 0x7e000000u), is_nan);
    return pack2x16float(clamp(pair, vec2<f32>(-MOST_F16), vec2<f32>(MOST_F16))) | nan.x | nan.y;
}

fn from_cache(quad: CacheQuad) -> vec4<f32> {
    return vec4<f32>(unpack2x16float(quad.x), unpack2x16float(quad.y));
}
